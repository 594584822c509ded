#include "client/one_sided_read.h"

#include <algorithm>
#include <cstring>
#include <list>
#include <utility>

#include "common/base/limits.h"
#include "common/routing/key_hash.h"

namespace simm::client {
namespace {

using protocol::MessageType;

constexpr uint32_t kLooks = 2;  // at a bucket in flux, before the server is asked

}  // namespace

OneSidedRead::OneSidedRead(const CallShape& shape, std::vector<CallItem*> items,
                           StatsCounters& stats)
    : Exchange(shape, std::move(items), stats) {}

Status OneSidedRead::Begin(Lane& lane) {
  lane_ = &lane;
  stages_.Enter(Stage::kPost);
  Add(stats_.round_trips);
  StartWave();
  return PostStep();
}

void OneSidedRead::StartWave() {
  wave_.clear();
  wave_.reserve(std::min(items_.size() - next_item_, Lane::kWaveKeys));
  uint64_t bytes = 0;
  const PoolAccess& pool = *lane_->pool();
  while (next_item_ < items_.size() && wave_.size() < Lane::kWaveKeys) {
    CallItem& item = *items_[next_item_];
    const bool get = shape_.type == MessageType::kGet;
    const uint64_t want = get ? item.size : 0;
    if (!wave_.empty() && bytes + want > pool.read_wave_bytes()) break;
    const bool bounce = get && NeedsBounce(pool, item);
    ++next_item_;
    if (bounce && !HasBounce(pool, want)) {
      GoByMessage(item);
      continue;
    }
    // A wave holds no more than a bounce buffer does, unless it is one larger value.
    std::byte* const at = bounce ? bounce_->memory().data() + bytes : nullptr;
    bytes += want;
    const protocol::ValidatedRead::Request request = {.hash = item.hash,
                                                      .namespace_id = shape_.namespace_id,
                                                      .key = item.key,
                                                      .buffer = {item.buffer, item.size},
                                                      .allow_shorter = shape_.allow_shorter,
                                                      .verify = ShouldVerify(item)};
    wave_.emplace_back(item, pool.view, request, lane_->scratch()[wave_.size()]);
    wave_.back().bounce = at;
    wave_.back().next = StartKey(wave_.back());
  }
}

OneSidedRead::Next OneSidedRead::StartKey(Key& key) {
  const PoolAccess& pool = *lane_->pool();
  if (shape_.type == MessageType::kExists) return key.read.Start(std::nullopt);
  return key.read.Start(pool.locations->Find(pool.boot, key.item.hash));
}

// ---- one step

transport::MutableSegment OneSidedRead::ValueSegment(const Key& key) const {
  if (key.bounce != nullptr) return {key.bounce, key.read.value_bytes(), bounce_->region()};
  return {key.item.buffer, key.read.value_bytes(), key.item.region};
}

void OneSidedRead::AddRead(Key& key, std::vector<transport::WorkItem>& work) {
  const PoolAccess& pool = *lane_->pool();
  transport::WorkItem& item = work.emplace_back();
  auto& local = segments_.emplace_back();
  item.op = transport::Op::kRead;
  item.remote_offset = key.read.offset();
  size_t count = 1;
  switch (key.next) {
    case Next::kReadBucket:
      item.remote = &pool.index;
      local[0] = {reinterpret_cast<std::byte*>(&key.scratch.bucket), sizeof key.scratch.bucket,
                  lane_->scratch_region()};
      break;
    case Next::kReadSlot:
      item.remote = &pool.index;
      local[0] = {reinterpret_cast<std::byte*>(&key.scratch.slot), sizeof key.scratch.slot,
                  lane_->scratch_region()};
      break;
    default:
      item.remote = &pool.data;
      local[0] = {key.scratch.head, key.read.head_bytes(), lane_->scratch_region()};
      if (key.read.value_bytes() > 0) local[count++] = ValueSegment(key);
      break;
  }
  item.local = {local.data(), count};
}

ByteSpan OneSidedRead::Question(Key& key, protocol::MessageBuffer& buffer) {
  protocol::KeysRequest message;
  message.type = shape_.type == MessageType::kExists ? MessageType::kExists : MessageType::kLookup;
  message.flags = shape_.tell_removed ? protocol::kTellRemoved : 0;
  message.namespace_id = shape_.namespace_id;
  message.map = shape_.map;
  message.keys = {{key.item.key, 0}};
  return protocol::Encode(message, buffer);
}

// Everything that the keys of this wave want next, under one doorbell.
Status OneSidedRead::PostStep() {
  std::vector<transport::WorkItem> work;
  work.reserve(wave_.size() + 1);
  std::list<protocol::MessageBuffer> buffers;  // of messages, which are rare
  segments_.clear();
  segments_.reserve(wave_.size());  // items point in here
  Stage stage = Stage::kValidate;   // slots that are looked at again
  for (Key& key : wave_) {
    if (key.next == Next::kDone) continue;
    if (key.next == Next::kReadExtent) stage = Stage::kWire;
    if (key.next == Next::kReadBucket && stage != Stage::kWire) stage = Stage::kResolve;
    if (key.next != Next::kAskServer) {
      AddRead(key, work);
      continue;
    }
    stage = Stage::kResolve;
    key.question = lane_->NextRequestId();
    key.answered = false;
    ++asking_;
    Add(stats_.lookups);
    Add(stats_.requests);
    transport::WorkItem& item = work.emplace_back();
    item.message.request_id = key.question;
    item.message.body = Question(key, buffers.emplace_back());
  }
  if (work.empty()) return Status::Ok();
  AddNews(work, buffers);
  work.back().completion = this;
  reading_ = true;
  const Status posted = lane_->connection().Post(work);
  if (!posted.ok()) reading_ = false;
  stages_.Enter(stage);
  return posted;
}

// What is due of touches and counts; or a ping, where the server would hear nothing for too long.
void OneSidedRead::AddNews(std::vector<transport::WorkItem>& work,
                           std::list<protocol::MessageBuffer>& buffers) {
  const Instant now = MonotonicClock::Get().Now();
  const bool due = lane_->news().Due(now);
  if (shape_.server_mute) return;
  const bool alive = lane_->KeepaliveDue(now);
  if (!due && !alive) return;
  if (lane_->connection().MessageCredit() < Lane::kSpareCredit) return;
  transport::WorkItem& item = work.emplace_back();
  item.message.request_id = lane_->NextRequestId();
  protocol::MessageBuffer& buffer = buffers.emplace_back();
  const bool news = due || lane_->news().HasTotals();
  item.message.body = news ? lane_->news().Take(now, buffer)
                           : protocol::EncodePing({item.message.request_id}, buffer);
}

void OneSidedRead::OnComplete(const Status& status) {
  reading_ = false;
  if (!status.ok()) OnLaneClosed(status);
}

bool OneSidedRead::Advance() {
  if (lane_ == nullptr || finished() || reading_ || asking_ > 0) return false;
  stages_.Enter(Stage::kValidate);
  bool more = false;
  for (Key& key : wave_) {
    if (key.next == Next::kDone) continue;
    key.next = TakeStep(key);
    if (key.next == Next::kAskServer && shape_.server_mute) key.next = MissUnasked(key);
    if (key.next == Next::kDone) EndKey(key);
    more |= key.next != Next::kDone;
  }
  while (!more && next_item_ < items_.size()) {
    StartWave();
    for (Key& key : wave_) {
      if (key.next == Next::kDone) EndKey(key);
      more |= key.next != Next::kDone;
    }
  }
  if (!more) {
    Touch();
    done_ = true;
    return true;
  }
  stages_.Enter(Stage::kPost);
  if (Status s = PostStep(); !s.ok()) OnLaneClosed(s);
  return true;
}

OneSidedRead::Next OneSidedRead::TakeStep(Key& key) {
  if (key.question != 0) {  // TakeAnswer has said what comes next
    key.question = 0;
    return key.next;
  }
  if (shape_.type == MessageType::kExists) return LookForKey(key);
  if (key.next == Next::kReadExtent && key.bounce != nullptr && key.read.value_bytes() > 0) {
    std::memcpy(key.item.buffer, key.bounce, key.read.value_bytes());
    Add(stats_.payload_bytes_copied, key.read.value_bytes());
    Add(stats_.bounced_values);
  }
  return key.read.OnRead();
}

OneSidedRead::Next OneSidedRead::MissUnasked(Key& key) {
  if (shape_.type == MessageType::kExists) {
    FinishExists(key, Code::kMiss);
    return Next::kDone;
  }
  protocol::Location nowhere;
  nowhere.code = Code::kMiss;
  return key.read.OnLocation(nowhere);
}

void OneSidedRead::FinishExists(Key& key, Code code) {
  protocol::ReadTotals& totals = lane_->news().totals();
  ++(code == Code::kOk ? totals.exists_hits : totals.exists_misses);
  Finish(key.item, code, 0);
}

// Exists is the bucket's READ: a whole slot with this fingerprint is the key.
OneSidedRead::Next OneSidedRead::LookForKey(Key& key) {
  const PoolAccess& pool = *lane_->pool();
  const protocol::BucketLook look = protocol::LookIntoBucket(
      key.scratch.bucket, pool.view, key.item.hash, shape_.namespace_id, key.item.key.size());
  if (look.slot) {
    const uint64_t offset =
        key.read.offset() + sizeof(protocol::BucketHeader) + *look.slot * protocol::kSlotBytes;
    const protocol::Slot& slot = key.scratch.bucket.slots[*look.slot];
    seen_.push_back({pool.SlotAt(offset), protocol::SlotWord{slot.word}.generation()});
    FinishExists(key, Code::kOk);
    return Next::kDone;
  }
  if (look.in_flux && ++key.looks < kLooks) {
    Add(stats_.validation_retries);
    ++lane_->news().totals().validation_retries;
    return Next::kReadBucket;
  }
  if (look.removed && !look.in_flux) {
    FinishExists(key, Code::kRemoved);
    return Next::kDone;
  }
  if (look.in_flux || key.scratch.bucket.header.overflow != 0) return Next::kAskServer;
  FinishExists(key, Code::kMiss);
  return Next::kDone;
}

void OneSidedRead::EndKey(Key& key) {
  CallItem& item = key.item;
  if (item.done || shape_.type == MessageType::kExists) return;
  Add(stats_.validation_retries, key.read.retries());
  const Code code = key.read.result();
  protocol::ReadTotals& totals = lane_->news().totals();
  totals.validation_retries += key.read.retries();
  if (code == Code::kOk) {
    const PoolAccess& pool = *lane_->pool();
    const protocol::CachedLocation location = key.read.location();
    pool.locations->Put(pool.boot, item.hash, location);
    seen_.push_back(
        {pool.SlotAt(location.slot_offset), protocol::SlotWord{location.slot.word}.generation()});
    Finish(item, Code::kOk, key.read.value_bytes());
    Add(stats_.bytes_read, key.read.value_bytes());
    ++totals.get_hits;
    totals.get_bytes += key.read.value_bytes();
  } else if (code == Code::kCorrupt) {
    Finish(item, Code::kMiss, 0);
    Add(stats_.corrupt);
    corrupt_items_.push_back(&item);
    ++totals.get_misses;
    ++totals.validation_failures;
  } else if (code == Code::kLengthMismatch) {
    Finish(item, code, key.read.value_bytes());
    ++totals.get_length_mismatches;
  } else {
    Finish(item, code, 0);
    ++totals.get_misses;
  }
}

// The deepest of a chain first, so that its root is used last.
void OneSidedRead::Touch() {
  const Instant now = MonotonicClock::Get().Now();
  for (size_t i = seen_.size(); i-- > 0;) lane_->news().Touch(seen_[i], now);
}

// ---- answers

Result<transport::PayloadTarget> OneSidedRead::OnReplyBegin(uint64_t request_id, ByteSpan body,
                                                            uint64_t payload_bytes) {
  heard_ = true;
  for (Key& key : wave_) {
    if (key.question != request_id || key.answered) continue;
    if (payload_bytes != 0) break;
    if (Status s = TakeAnswer(key, body); !s.ok()) return s;
    key.answered = true;
    --asking_;
    return transport::PayloadTarget{};
  }
  return Status(Code::kProtocolError, "data server answered what nobody asked");
}

Status OneSidedRead::TakeAnswer(Key& key, ByteSpan body) {
  if (shape_.type == MessageType::kExists) {
    protocol::KeysReply reply;
    SIMM_RETURN_IF_ERROR(protocol::Decode(body, &reply));
    if (reply.codes.size() != 1)
      return Status(Code::kProtocolError, "data server answered another number of keys");
    See(reply.map);
    if (reply.codes[0] != Code::kWrongOwner) Finish(key.item, reply.codes[0], 0);
    key.next = Next::kDone;
    return Status::Ok();
  }
  protocol::Location location;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &location));
  key.next = Next::kDone;
  if (location.code == Code::kWrongOwner) return Status::Ok();  // undone: for the call to repeat
  key.next = key.read.OnLocation(location);
  if (key.next == Next::kDone) EndKey(key);
  return Status::Ok();
}

Status OneSidedRead::OnReplyEnd(uint64_t) { return Status::Ok(); }

}  // namespace simm::client
