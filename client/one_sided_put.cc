#include "client/one_sided_put.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "common/base/limits.h"

namespace simm::client {
namespace {

constexpr size_t kMostTouchMessages = ReadNews::kMostPending / protocol::kMaxSlotTouches;

Status Refusal(const char* what) {
  return Status(Code::kProtocolError, std::string("data server answered with ") + what);
}

}  // namespace

OneSidedPut::HashingTap::HashingTap(Value& value, Xxh3Stream& stream)
    : value_(value),
      stream_(stream),
      head_left_(protocol::ExtentHeadBytes(value.item->key.size())),
      left_(value.item->size) {}

void OneSidedPut::HashingTap::OnBytes(ByteSpan bytes) {
  const size_t of_head = std::min<uint64_t>(head_left_, bytes.size());
  head_left_ -= of_head;
  bytes = bytes.subspan(of_head);
  if (bytes.empty()) return;
  if (left_ == value_.item->size) stream_.Reset();
  stream_.Update(bytes);
  left_ -= bytes.size();
  if (left_ == 0) value_.checksum = stream_.Digest();
}

OneSidedPut::OneSidedPut(const CallShape& shape, std::vector<CallItem*> items, StatsCounters& stats)
    : Exchange(shape, std::move(items), stats) {
  for (CallItem* const item : items_)
    (item->doubt.session != 0 ? doubtful_ : waiting_).push_back(item);
  // The deepest keys of a chain first, so that its root is used last. Not so for replacements: of
  // two of one key the later must win.
  if (shape_.replace) std::reverse(waiting_.begin(), waiting_.end());
}

Status OneSidedPut::Begin(Lane& lane) {
  lane_ = &lane;
  stages_.Enter(Stage::kPost);
  lane.DisownLost();
  return StartNext();
}

// The next step that needs the server, if there is one.
Status OneSidedPut::StartNext() {
  wave_.clear();
  if (!doubtful_.empty()) return PostResolves();
  if (waiting_.empty()) {
    step_ = Step::kDone;
    return Status::Ok();
  }
  FormWave();
  if (wave_.empty()) return StartNext();  // all of it goes by message
  if (MustAwait()) {
    step_ = Step::kAwaiting;
    stages_.Enter(Stage::kResolve);
    return Status::Ok();
  }
  return StartWave();
}

// The server destroys the lane that broke before it answers: a COMMIT that was under way there has
// been taken by then, or never will be.
Status OneSidedPut::PostResolves() {
  std::vector<transport::WorkItem> work;
  std::vector<protocol::MessageBuffer> buffers(std::min(doubtful_.size(), Lane::kWaveKeys));
  step_ = Step::kResolving;
  while (!doubtful_.empty() && wave_.size() < Lane::kWaveKeys) {
    CallItem& item = *doubtful_.back();
    doubtful_.pop_back();
    Value& value = wave_.emplace_back();
    value.item = &item;
    value.request = lane_->NextRequestId();
    protocol::ResolveRequest message;
    message.lane = item.doubt.lane;
    message.generation = item.doubt.generation;
    message.namespace_id = shape_.namespace_id;
    message.map = shape_.map;
    message.key = item.key;
    transport::WorkItem& ask = work.emplace_back();
    ask.message.request_id = value.request;
    ask.message.body = protocol::Encode(message, buffers[work.size() - 1]);
    ++asking_;
  }
  Add(stats_.resolves, work.size());
  Add(stats_.requests, work.size());
  return Post(work);
}

void OneSidedPut::FormWave() {
  uint64_t bytes = 0;
  while (!waiting_.empty() && wave_.size() < Lane::kWaveKeys) {
    CallItem& item = *waiting_.back();
    if (!wave_.empty() && bytes + item.size > limits::kWaveBytes) break;
    waiting_.pop_back();
    const bool bounce = NeedsBounce(*lane_->pool(), item);
    if (bounce && !HasBounce(*lane_->pool(), item.size)) {
      GoByMessage(item);
      continue;
    }
    // A wave holds no more than a bounce buffer does, unless it is one larger value.
    wave_.push_back({.item = &item,
                     .extent_bytes = protocol::ExtentBytes(item.key.size(), item.size),
                     .bounce = bounce ? bounce_->memory().data() + bytes : nullptr});
    bytes += item.size;
  }
}

// Extents are on their way that this wave needs: asking for more would hold twice as many.
bool OneSidedPut::MustAwait() const {
  const LeaseKeeper& leases = lane_->leases();
  return std::any_of(wave_.begin(), wave_.end(), [&](const Value& value) {
    if (!leases.Awaiting(value.extent_bytes)) return false;
    const auto need = std::count_if(wave_.begin(), wave_.end(), [&](const Value& other) {
      return other.extent_bytes == value.extent_bytes;
    });
    return leases.Idle(value.extent_bytes) < static_cast<size_t>(need);
  });
}

Status OneSidedPut::StartWave() {
  bool all = true;
  for (Value& value : wave_) {
    if (const auto extent = lane_->leases().Take(value.extent_bytes)) {
      value.extent = *extent;
      value.granted = true;
      Add(stats_.lease_hits);
    }
    all &= value.granted;
  }
  return all ? PostWrites() : PostLeases();
}

// One LEASE for each size of which the wave lacks extents.
Status OneSidedPut::PostLeases() {
  step_ = Step::kLeasing;
  std::vector<protocol::MessageBuffer> buffers;
  buffers.reserve(wave_.size() + kMostTouchMessages);
  std::vector<transport::WorkItem> work;
  AddTouches(work, buffers);
  for (size_t i = 0; i < wave_.size(); ++i) {
    if (wave_[i].granted || wave_[i].request != 0) continue;
    protocol::LeaseRequest message;
    message.extent_bytes = wave_[i].extent_bytes;
    message.lane_tag = lane_->TagForLease();
    const uint64_t id = lane_->NextRequestId();
    for (Value& value : wave_) {
      if (value.granted || value.request != 0 || value.extent_bytes != message.extent_bytes)
        continue;
      value.request = id;
      ++message.count;
    }
    transport::WorkItem& item = work.emplace_back();
    item.message.request_id = id;
    item.message.body = protocol::Encode(message, buffers.emplace_back());
    ++asking_;
  }
  Add(stats_.requests, work.size());
  return Post(work);
}

// What was read is used before what is written evicts it.
void OneSidedPut::AddTouches(std::vector<transport::WorkItem>& work,
                             std::vector<protocol::MessageBuffer>& buffers) {
  while (lane_->news().HasTouches()) {
    transport::WorkItem& item = work.emplace_back();
    item.message.request_id = lane_->NextRequestId();
    item.message.body = lane_->news().Take(MonotonicClock::Get().Now(), buffers.emplace_back());
  }
}

Status OneSidedPut::Post(std::vector<transport::WorkItem>& work) {
  work.back().completion = this;
  ++writing_;
  if (step_ != Step::kWriting) Add(stats_.round_trips);
  const Status posted = lane_->connection().Post(work);
  if (!posted.ok()) --writing_;
  stages_.Enter(step_ == Step::kWriting || step_ == Step::kCommitting ? Stage::kWire
                                                                      : Stage::kResolve);
  return posted;
}

void OneSidedPut::OnComplete(const Status& status) {
  --writing_;
  if (!status.ok()) OnLaneClosed(status);
}

// Of a COMMIT that was not answered the server decides; the next lane asks it.
void OneSidedPut::OnLaneClosed(const Status& why) {
  if (lane_ != nullptr) {
    for (const Value& value : wave_) {
      if (!value.committing || value.request == 0 || value.item->done) continue;
      value.item->doubt = {
          .session = lane_->session(), .lane = lane_->id(), .generation = value.extent.generation};
    }
  }
  Exchange::OnLaneClosed(why);
}

bool OneSidedPut::Advance() {
  if (lane_ == nullptr || finished() || writing_ > 0 || asking_ > 0) return false;
  Status posted;
  const bool any =
      std::any_of(wave_.begin(), wave_.end(), [](const Value& v) { return v.granted; });
  if (step_ == Step::kAwaiting) {
    if (MustAwait()) return false;
    stages_.Enter(Stage::kPost);
    posted = StartWave();
  } else if (step_ == Step::kLeasing && any) {
    stages_.Enter(Stage::kPost);
    posted = PostWrites();
  } else if (step_ == Step::kWriting) {
    posted = PostCommits({});
  } else {
    posted = StartNext();
  }
  if (!posted.ok()) OnLaneClosed(posted);
  return true;
}

void OneSidedPut::WriteHead(const Value& value, std::byte* head) const {
  const CallItem& item = *value.item;
  protocol::ExtentHeader header;
  header.generation = value.extent.generation;
  header.value_bytes = static_cast<uint32_t>(item.size);
  header.key_bytes = static_cast<uint16_t>(item.key.size());
  header.namespace_id = shape_.namespace_id;
  header.parent_high = item.parent.high;
  header.parent_low = item.parent.low;
  header.depth = item.depth;
  const size_t bytes = protocol::ExtentHeadBytes(item.key.size());
  std::memset(head + sizeof header, 0, bytes - sizeof header);
  std::memcpy(head, &header, sizeof header);
  std::memcpy(head + sizeof header, item.key.data(), item.key.size());
}

ByteSpan OneSidedPut::Commit(const Value& value, protocol::MessageBuffer& buffer) const {
  protocol::CommitRequest message;
  message.mode = shape_.replace ? 1 : 0;
  message.ttl_ms = shape_.ttl_ms;
  message.namespace_id = shape_.namespace_id;
  message.value_bytes = static_cast<uint32_t>(value.item->size);
  message.depth = value.item->depth;
  message.parent = value.item->parent;
  message.lease = value.extent.lease;
  message.generation = value.extent.generation;
  message.offset = value.extent.offset;
  message.checksum = value.checksum;
  message.map = shape_.map;
  message.key = value.item->key;
  return protocol::Encode(message, buffer);
}

void OneSidedPut::AddWrite(Value& value, size_t place, std::vector<transport::WorkItem>& work) {
  const CallItem& source = *value.item;
  const bool taps = hash_while_copying_ && source.size > 0;
  if (!taps) value.checksum = Xxh3_64({source.value, source.size});
  std::byte* const head = lane_->scratch()[place].head;
  WriteHead(value, head);
  auto& local = segments_.emplace_back();
  local[0] = {head, protocol::ExtentHeadBytes(source.key.size()), lane_->scratch_region()};
  local[1] = {const_cast<std::byte*>(source.value), source.size, source.region};
  if (value.bounce != nullptr) {
    std::memcpy(value.bounce, source.value, source.size);
    Add(stats_.payload_bytes_copied, source.size);
    Add(stats_.bounced_values);
    local[1] = {value.bounce, source.size, bounce_->region()};
  }
  transport::WorkItem& item = work.emplace_back();
  item.op = transport::Op::kWrite;
  item.local = {local.data(), source.size > 0 ? size_t{2} : size_t{1}};
  item.remote = &lane_->pool()->data;
  item.remote_offset = value.extent.offset;
  if (!taps) return;
  if (stream_ == nullptr) stream_ = std::make_unique<Xxh3Stream>();
  item.tap = &taps_.emplace_back(value, *stream_);
}

// A LEASE for what the next wave of each size needs, behind the COMMITs: they have made room for it
// in the server's books, and nobody waits for its answer.
void OneSidedPut::AddRefills(std::vector<transport::WorkItem>& work,
                             std::vector<protocol::MessageBuffer>& buffers) {
  LeaseKeeper& leases = lane_->leases();
  const Instant now = MonotonicClock::Get().Now();
  for (size_t i = 0; i < wave_.size(); ++i) {
    const uint64_t bytes = wave_[i].extent_bytes;
    const auto same = [&](const Value& value) {
      return value.granted && value.extent_bytes == bytes;
    };
    const auto here = wave_.begin() + static_cast<ptrdiff_t>(i);
    if (!here->granted || std::any_of(wave_.begin(), here, same)) continue;
    const auto used = static_cast<uint32_t>(std::count_if(wave_.begin(), wave_.end(), same));
    protocol::LeaseRequest request = leases.Refill(bytes, used, WantedNext(bytes), now);
    if (request.count == 0) continue;
    request.lane_tag = lane_->TagForLease();
    transport::WorkItem& item = work.emplace_back();
    item.message.request_id = lane_->NextRequestId();
    item.message.body = protocol::Encode(request, buffers.emplace_back());
    leases.Asked(item.message.request_id, request);
    Add(stats_.requests);
  }
}

// Extents of this size in the wave behind this one.
uint32_t OneSidedPut::WantedNext(uint64_t extent_bytes) const {
  uint64_t bytes = 0;
  size_t keys = 0;
  uint32_t wanted = 0;
  for (auto it = waiting_.rbegin(); it != waiting_.rend() && keys < Lane::kWaveKeys; ++it) {
    if (keys++ > 0 && bytes + (*it)->size > limits::kWaveBytes) break;
    bytes += (*it)->size;
    if (protocol::ExtentBytes((*it)->key.size(), (*it)->size) == extent_bytes) ++wanted;
  }
  return wanted;
}

Status OneSidedPut::PostWrites() {
  std::vector<transport::WorkItem> work;
  taps_.clear();
  segments_.clear();
  segments_.reserve(wave_.size());  // items point in here
  uint64_t bytes = 0;
  for (const Value& value : wave_) bytes += value.granted ? value.item->size : 0;
  // Less stays in the cache between the hash and the copy, and is done under one doorbell.
  hash_while_copying_ =
      bytes > limits::kHashedBeforeCopy && lane_->connection().capabilities().write_taps;
  for (size_t i = 0; i < wave_.size(); ++i) {
    if (wave_[i].granted) AddWrite(wave_[i], i, work);
  }
  if (!hash_while_copying_) return PostCommits(std::move(work));
  // The checksums of the COMMITs come out of the copying.
  step_ = Step::kWriting;
  return Post(work);
}

// Behind all the values: the server is woken once and finds every COMMIT.
Status OneSidedPut::PostCommits(std::vector<transport::WorkItem> work) {
  step_ = Step::kCommitting;
  std::vector<protocol::MessageBuffer> buffers;
  buffers.reserve(2 * wave_.size() + kMostTouchMessages);
  AddTouches(work, buffers);
  for (Value& value : wave_) {
    if (!value.granted) continue;
    value.request = lane_->NextRequestId();
    value.committing = true;
    ++asking_;
    transport::WorkItem& item = work.emplace_back();
    item.message.request_id = value.request;
    item.message.body = Commit(value, buffers.emplace_back());
    Add(stats_.requests);
  }
  AddRefills(work, buffers);
  return Post(work);
}

// Extents that nobody will commit any more. Of those with a COMMIT under way the server decides.
void OneSidedPut::GiveUp() {
  if (lane_ == nullptr || closed_) return;
  const Instant now = MonotonicClock::Get().Now();
  for (Value& value : wave_) {
    if (value.granted && !value.committing) lane_->KeepOrReturn(value.extent, now);
    value.granted = false;
  }
}

// ---- answers

Result<transport::PayloadTarget> OneSidedPut::OnReplyBegin(uint64_t request_id, ByteSpan body,
                                                           uint64_t payload_bytes) {
  if (payload_bytes != 0) return Refusal("payload where none belongs");
  heard_ = true;
  const Status taken =
      step_ == Step::kLeasing ? TakeLease(request_id, body) : TakePut(request_id, body);
  if (!taken.ok()) return taken;
  --asking_;
  return transport::PayloadTarget{};
}

// To be tried in the next wave if that may help, else later, by message if the server cannot lend
// memory, or never.
void OneSidedPut::NotGranted(Value& value, const protocol::LeaseReply& reply, bool again) {
  CallItem& item = *value.item;
  if (again) return waiting_.push_back(&item);
  if (reply.code == Code::kTooLarge) return Finish(item, reply.code, item.size);
  item.by_message = reply.code == Code::kFailedPrecondition;
  item.result.code = Code::kBusy;
  item.result.retry_after_ms = item.by_message ? 0 : reply.retry_after_ms;
}

Status OneSidedPut::TakeLease(uint64_t request, ByteSpan body) {
  protocol::LeaseReply reply;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &reply));
  auto value = wave_.begin();
  const auto next = [&] {
    while (value != wave_.end() && value->request != request) ++value;
    return value != wave_.end();
  };
  if (!next()) return Refusal("a lease that nobody asked for");
  lane_->SetId(reply.lane);
  bool some = false;
  for (const protocol::LeaseRange& range : reply.ranges) {
    for (uint32_t i = 0; i < range.count; ++i) {
      if (!next() || range.extent_bytes != value->extent_bytes)
        return Refusal("a lease of another size or number");
      value->extent = {.lease = reply.lease,
                       .offset = range.offset + i * range.extent_bytes,
                       .generation = range.first_generation + i,
                       .bytes = range.extent_bytes};
      value->granted = some = true;
      value->request = 0;
    }
  }
  // What this lane keeps of other sizes may be what the server lacks.
  const bool again = some || (next() && reply.code != Code::kTooLarge && lane_->ReturnIdle());
  // From the back, so that the first of them is the next to be tried.
  for (auto rest = wave_.rbegin(); rest != wave_.rend(); ++rest) {
    if (rest->request != request) continue;
    NotGranted(*rest, reply, again);
    rest->request = 0;
  }
  return Status::Ok();
}

Status OneSidedPut::TakePut(uint64_t request, ByteSpan body) {
  protocol::PutReply reply;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &reply));
  const auto value = std::find_if(wave_.begin(), wave_.end(),
                                  [&](const Value& v) { return v.request == request; });
  if (value == wave_.end() || request == 0) return Refusal("a commit that nobody asked for");
  value->request = 0;
  CallItem& item = *value->item;
  const bool resolved = step_ == Step::kResolving;
  // Not published, and it never will be: the lane is gone, and its lease with it.
  if (resolved) item.doubt = {};
  if (resolved && reply.code == Code::kLeaseGone) {
    See(reply.map);
    waiting_.push_back(&item);
    return Status::Ok();
  }
  TakePutCode(item, reply);
  return Status::Ok();
}

}  // namespace simm::client
