#include "client/one_sided_put.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "common/base/limits.h"

namespace simm::client {
namespace {

Status Refusal(const char* what) {
  return Status(Code::kProtocolError, std::string("data server answered with ") + what);
}

}  // namespace

OneSidedPut::OneSidedPut(const CallShape& shape, std::vector<CallItem*> items, StatsCounters& stats)
    : Exchange(shape, std::move(items), stats) {
  // The deepest keys of a chain first, so that its root is used last. Not so for replacements: of
  // two of one key the later must win.
  waiting_ = items_;
  if (shape_.replace) std::reverse(waiting_.begin(), waiting_.end());
}

Status OneSidedPut::Begin(Lane& lane) {
  lane_ = &lane;
  return StartWave();
}

Status OneSidedPut::StartWave() {
  wave_.clear();
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
  step_ = Step::kLeasing;
  return wave_.empty() ? Status::Ok() : PostLeases();
}

// One LEASE for each size of the wave.
Status OneSidedPut::PostLeases() {
  std::vector<protocol::MessageBuffer> buffers;
  buffers.reserve(wave_.size() + TouchBuffer::kMostPending / protocol::kMaxSlotTouches);
  std::vector<transport::WorkItem> work;
  // What was read is used before what is written evicts it.
  while (!lane_->touches().empty()) {
    transport::WorkItem& item = work.emplace_back();
    item.message.request_id = lane_->NextRequestId();
    item.message.body = lane_->touches().Take(MonotonicClock::Get().Now(), buffers.emplace_back());
  }
  for (size_t i = 0; i < wave_.size(); ++i) {
    if (wave_[i].request != 0) continue;
    protocol::LeaseRequest message{.extent_bytes = wave_[i].extent_bytes, .count = 0};
    const uint64_t id = lane_->NextRequestId();
    for (Value& value : wave_) {
      if (value.request != 0 || value.extent_bytes != message.extent_bytes) continue;
      value.request = id;
      ++message.count;
    }
    transport::WorkItem& item = work.emplace_back();
    item.message.request_id = id;
    item.message.body = protocol::Encode(message, buffers.emplace_back());
    ++asking_;
  }
  work.back().completion = this;
  writing_ = true;
  Add(stats_.requests, work.size());
  Add(stats_.round_trips);
  const Status posted = lane_->connection().Post(work);
  if (!posted.ok()) writing_ = false;
  return posted;
}

void OneSidedPut::OnComplete(const Status& status) {
  writing_ = false;
  if (!status.ok()) OnLaneClosed(status);
}

bool OneSidedPut::Advance() {
  if (lane_ == nullptr || finished() || writing_ || asking_ > 0) return false;
  Status posted;
  const bool any =
      std::any_of(wave_.begin(), wave_.end(), [](const Value& v) { return v.granted; });
  if (step_ == Step::kLeasing && any) {
    step_ = Step::kCommitting;
    posted = PostCommits();
  } else if (!waiting_.empty()) {
    posted = StartWave();
  } else {
    step_ = Step::kDone;
  }
  if (!posted.ok()) OnLaneClosed(posted);
  return true;
}

void OneSidedPut::WriteHead(const Value& value, std::byte* head) const {
  const CallItem& item = *value.item;
  protocol::ExtentHeader header;
  header.generation = value.generation;
  header.value_bytes = static_cast<uint32_t>(item.size);
  header.key_bytes = static_cast<uint16_t>(item.key.size());
  header.namespace_id = shape_.namespace_id;
  const size_t bytes = protocol::ExtentHeadBytes(item.key.size());
  std::memset(head + sizeof header, 0, bytes - sizeof header);
  std::memcpy(head, &header, sizeof header);
  std::memcpy(head + sizeof header, item.key.data(), item.key.size());
}

ByteSpan OneSidedPut::Commit(const Value& value, protocol::MessageBuffer& buffer) const {
  protocol::CommitRequest message;
  message.mode = shape_.replace ? 1 : 0;
  message.namespace_id = shape_.namespace_id;
  message.value_bytes = static_cast<uint32_t>(value.item->size);
  message.lease = value.lease;
  message.generation = value.generation;
  message.offset = value.offset;
  message.checksum = value.checksum;
  message.map = shape_.map;
  message.key = value.item->key;
  return protocol::Encode(message, buffer);
}

Status OneSidedPut::PostCommits() {
  std::vector<transport::WorkItem> work;
  std::vector<protocol::MessageBuffer> buffers;
  buffers.reserve(wave_.size());
  segments_.clear();
  segments_.reserve(wave_.size());  // items point in here
  const PoolAccess& pool = *lane_->pool();
  for (size_t i = 0; i < wave_.size(); ++i) {
    Value& value = wave_[i];
    if (!value.granted) continue;
    const CallItem& source = *value.item;
    value.checksum = Xxh3_64({source.value, source.size});
    std::byte* const head = lane_->scratch()[i].head;
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
    item.remote = &pool.data;
    item.remote_offset = value.offset;
  }
  // Behind all the values: the server is woken once and finds every COMMIT.
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
  work.back().completion = this;
  writing_ = true;
  Add(stats_.round_trips);
  const Status posted = lane_->connection().Post(work);
  if (!posted.ok()) writing_ = false;
  return posted;
}

// Extents that nobody will commit any more. Of those with a COMMIT under way the server decides.
void OneSidedPut::GiveUp() {
  if (lane_ == nullptr || closed_) return;
  for (const Value& value : wave_) {
    if (!value.granted || value.committing) continue;
    lane_->Return(value.lease, {{.offset = value.offset,
                                 .first_generation = value.generation,
                                 .extent_bytes = value.extent_bytes,
                                 .count = 1}});
  }
}

// ---- answers

Result<transport::PayloadTarget> OneSidedPut::OnReplyBegin(uint64_t request_id, ByteSpan body,
                                                           uint64_t payload_bytes) {
  if (payload_bytes != 0) return Refusal("payload where none belongs");
  heard_ = true;
  const Status taken =
      step_ == Step::kLeasing ? TakeLease(request_id, body) : TakeCommit(request_id, body);
  if (!taken.ok()) return taken;
  --asking_;
  return transport::PayloadTarget{};
}

// To be tried in the next wave if the server gave some of what was asked for, else later, by
// message if it cannot lend memory, or never.
void OneSidedPut::NotGranted(Value& value, const protocol::LeaseReply& reply, bool others) {
  CallItem& item = *value.item;
  if (others) return waiting_.push_back(&item);
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
  bool some = false;
  for (const protocol::LeaseRange& range : reply.ranges) {
    for (uint32_t i = 0; i < range.count; ++i) {
      if (!next() || range.extent_bytes != value->extent_bytes)
        return Refusal("a lease of another size or number");
      value->lease = reply.lease;
      value->offset = range.offset + i * range.extent_bytes;
      value->generation = range.first_generation + i;
      value->granted = some = true;
      value->request = 0;
    }
  }
  // From the back, so that the first of them is the next to be tried.
  for (auto rest = wave_.rbegin(); rest != wave_.rend(); ++rest) {
    if (rest->request != request) continue;
    NotGranted(*rest, reply, some);
    rest->request = 0;
  }
  return Status::Ok();
}

Status OneSidedPut::TakeCommit(uint64_t request, ByteSpan body) {
  protocol::PutReply reply;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &reply));
  const auto value = std::find_if(wave_.begin(), wave_.end(),
                                  [&](const Value& v) { return v.request == request; });
  if (value == wave_.end() || request == 0) return Refusal("a commit that nobody asked for");
  value->request = 0;
  TakePutCode(*value->item, reply);
  return Status::Ok();
}

}  // namespace simm::client
