#include "dataserver/one_sided_session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/base/limits.h"

namespace simm::dataserver {

using protocol::MessageBuffer;
using protocol::MessageType;

namespace {

constexpr uint32_t kBusyRetryMs = 5;

// Neighbours back to back with ascending generations become one range. Returns how many of the
// extents the ranges hold.
size_t MergeRanges(std::span<const LeasedExtent> extents,
                   std::vector<protocol::LeaseRange>* ranges) {
  for (size_t i = 0; i < extents.size(); ++i) {
    const LeasedExtent& next = extents[i];
    if (!ranges->empty()) {
      protocol::LeaseRange& last = ranges->back();
      if (next.offset == last.offset + last.count * last.extent_bytes &&
          next.generation == last.first_generation + last.count) {
        ++last.count;
        continue;
      }
    }
    if (ranges->size() == protocol::kMaxLeaseRanges) return i;
    ranges->push_back({next.offset, next.generation, next.bytes, 1});
  }
  return extents.size();
}

uint32_t RetryMs(Code code) { return code == Code::kBusy ? kBusyRetryMs : 0; }

void Count(std::atomic<uint64_t>& counter, uint64_t n = 1) {
  counter.fetch_add(n, std::memory_order_relaxed);
}

}  // namespace

OneSidedSession::OneSidedSession(OneSidedState& state, Pool& pool, DataMetrics& metrics,
                                 ShardCheck& shards, Options options)
    : state_(state),
      pool_(pool),
      metrics_(metrics),
      shards_(shards),
      options_(std::move(options)) {}

OneSidedSession::~OneSidedSession() { End(); }

void OneSidedSession::Begin(uint64_t session) {
  session_ = session;
  if (options_.is_lane) lane_ = state_.lanes.Open(session, options_.wake);
}

bool OneSidedSession::Takes(MessageType type) {
  switch (type) {
    case MessageType::kLease:
    case MessageType::kCommit:
    case MessageType::kReturn:
    case MessageType::kResolve:
    case MessageType::kLookup:
    case MessageType::kTouchSlots:
    case MessageType::kPin:
    case MessageType::kReadReport:
      return true;
    default:
      return false;
  }
}

Result<ByteSpan> OneSidedSession::Answer(MessageType type, ByteSpan body, Instant now,
                                         MessageBuffer& buffer) {
  switch (type) {
    case MessageType::kLookup:
      return Lookup(body, now, buffer);
    case MessageType::kPin:
      return Pin(body, now, buffer);
    case MessageType::kTouchSlots:
      SIMM_RETURN_IF_ERROR(TouchSlots(body));
      return ByteSpan();
    default:
      break;
  }
  if (!lane_) {
    return Status(Code::kProtocolError,
                  "this is served to peers that read and write by themselves");
  }
  switch (type) {
    case MessageType::kLease:
      return Lease(body, now, buffer);
    case MessageType::kCommit:
      return Commit(body, now, buffer);
    case MessageType::kReturn:
      SIMM_RETURN_IF_ERROR(Return(body, now));
      return ByteSpan();
    case MessageType::kReadReport:
      SIMM_RETURN_IF_ERROR(TakeReport(body, now));
      return ByteSpan();
    default:
      return StartResolve(body, buffer);
  }
}

// ---- leases

uint64_t OneSidedSession::GrantLease(const protocol::LeaseRequest& request, uint32_t admitted,
                                     Instant now, protocol::LeaseReply* reply) {
  std::vector<LeasedExtent> granted;
  if (auto result = pool_.GrantBlank(request.extent_bytes, admitted); result.ok()) {
    granted = std::move(*result);
  } else {
    reply->code = result.code();
  }
  const size_t told = MergeRanges(granted, &reply->ranges);
  pool_.AbandonBlank(std::span(granted).subspan(told));
  granted.resize(told);
  Count(metrics_.leased_extents, told);
  return state_.leases.Fill(Ref(), request.extent_bytes, admitted, granted, now);
}

Result<ByteSpan> OneSidedSession::Lease(ByteSpan body, Instant now, MessageBuffer& buffer) {
  protocol::LeaseRequest request;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &request));
  lane_tag_ = request.lane_tag;
  protocol::LeaseReply reply = {.code = Code::kOk, .lane = lane_->id, .ranges = {}};
  if (request.extent_bytes % protocol::kExtentAlign != 0) {
    reply.code = Code::kInvalidArgument;
  } else if (request.extent_bytes > pool_.geometry().data_bytes) {
    reply.code = Code::kTooLarge;
  } else {
    // What is wanted ahead must not make a pool that is short of room any shorter.
    const uint32_t ahead = request.ahead > 0 && !pool_.IsShort() ? request.ahead : 0;
    const uint32_t count = request.count - request.ahead + ahead;
    LeaseTable::Admission admission;
    if (count > 0) admission = state_.leases.Admit(Ref(), request.extent_bytes, count, ahead);
    reply.code = admission.code;
    if (reply.code == Code::kOk) reply.lease = GrantLease(request, admission.count, now, &reply);
  }
  if (reply.code != Code::kOk && request.ahead < request.count) Count(metrics_.leases_refused);
  reply.retry_after_ms = RetryMs(reply.code);
  return protocol::Encode(reply, buffer);
}

Code OneSidedSession::CommitTaken(const protocol::CommitRequest& m, const Hash128& hash,
                                  Code checked, const LeasedExtent& leased) {
  if (checked != Code::kOk) {
    pool_.AbandonBlank({&leased, 1});
    return checked;
  }
  const WrittenValue written = {
      .hash = hash,
      .ns = m.namespace_id,
      .key = m.key,
      .value_bytes = m.value_bytes,
      .checksum = m.checksum,
      .mode = m.mode == 1 ? PutMode::kReplace : PutMode::kIfAbsent,
      .hints = {m.parent, m.depth, m.ttl_ms},
  };
  const Code code = pool_.CommitWritten(leased, written, options_.verify_puts);
  if (code == Code::kOk) Count(metrics_.value_bytes_in, m.value_bytes);
  return code;
}

Result<ByteSpan> OneSidedSession::Commit(ByteSpan body, Instant now, MessageBuffer& buffer) {
  protocol::CommitRequest m;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &m));
  Hash128 hash;
  const Code checked = shards_.Check(ShardCheck::For::kWrite, m.namespace_id, m.key, &hash);
  LeasedExtent leased;
  protocol::PutReply reply = {.code = checked, .map = shards_.Stamp()};
  switch (state_.leases.Take(lane_->id, m.lease, m.generation, m.offset, now, &leased)) {
    case LeaseTable::Held::kMismatch:
      return Status(Code::kProtocolError, "commit of a leased extent at another offset");
    case LeaseTable::Held::kHeld:
      reply.code = CommitTaken(m, hash, checked, leased);
      break;
    case LeaseTable::Held::kNone:
      if (checked != Code::kOk) break;
      reply.code =
          pool_.IsLive(hash, m.namespace_id, m.key, m.generation) ? Code::kOk : Code::kLeaseGone;
      break;
  }
  reply.retry_after_ms = RetryMs(reply.code);
  if (reply.code == Code::kOk) reply.generation = m.generation;
  metrics_.CountKeys(options_.road, DataOp::kPut, reply.code);
  return protocol::Encode(reply, buffer);
}

Status OneSidedSession::Return(ByteSpan body, Instant now) {
  protocol::ReturnRequest m;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &m));
  if (m.lease == 0) {
    const auto disowned = state_.leases.Disown(Ref(), m.lane_tag);
    pool_.AbandonBlank(disowned);
    Count(metrics_.returned_extents, disowned.size());
    return Status::Ok();
  }
  const auto taken = state_.leases.TakeRanges(lane_->id, m.lease, m.ranges, now);
  if (!taken.ok()) return taken.status();
  pool_.AbandonBlank(*taken);
  Count(metrics_.returned_extents, taken->size());
  return Status::Ok();
}

// ---- resolve

Result<ByteSpan> OneSidedSession::StartResolve(ByteSpan body, MessageBuffer& buffer) {
  Resolve resolve;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &resolve.request));
  Count(metrics_.resolves);
  switch (state_.lanes.RequestClose(resolve.request.lane, *lane_)) {
    case LaneTable::State::kForeign:
      return Status(Code::kProtocolError, "resolve of a lane that is not another of the session's");
    case LaneTable::State::kGone:
      return AnswerResolve(resolve.request, buffer);
    case LaneTable::State::kOpen:
      break;
  }
  resolve.key = resolve.request.key;
  resolve_ = std::move(resolve);
  resolve_->request.key = resolve_->key;
  return ByteSpan();
}

ByteSpan OneSidedSession::Resume(MessageBuffer& buffer) {
  if (!resolve_ || state_.lanes.IsOpen(resolve_->request.lane)) return {};
  const Resolve resolve = std::move(*resolve_);
  resolve_.reset();
  protocol::ResolveRequest request = resolve.request;
  request.key = resolve.key;
  shards_.Load();
  return AnswerResolve(request, buffer);
}

// Only once the lane is destroyed: until then its COMMIT may still come.
ByteSpan OneSidedSession::AnswerResolve(const protocol::ResolveRequest& m, MessageBuffer& buffer) {
  Hash128 hash;
  protocol::PutReply reply = {
      .code = shards_.Check(ShardCheck::For::kWrite, m.namespace_id, m.key, &hash),
      .map = shards_.Stamp()};
  if (reply.code == Code::kOk) {
    const bool live = pool_.IsLive(hash, m.namespace_id, m.key, m.generation);
    reply.code = live ? Code::kOk : Code::kLeaseGone;
    reply.generation = live ? m.generation : 0;
  }
  return protocol::Encode(reply, buffer);
}

// ---- lookup, pin, touch

// Fills code, slot and place, and for how long the value is held.
Code OneSidedSession::LocateAndPin(const protocol::KeysRequest& m, std::string_view key,
                                   Instant now, protocol::Location* out) {
  const NamespaceId ns = m.namespace_id;
  Hash128 hash;
  PinnedValue pinned;
  out->code = shards_.Check(ShardCheck::For::kRead, ns, key, &hash);
  if (out->code != Code::kOk) return out->code;
  out->code = pool_.Locate(hash, ns, key, &pinned, &out->slot, &out->slot_offset);
  const bool told = (m.flags & protocol::kTellRemoved) != 0;
  if (out->code == Code::kRemoved && !told) out->code = Code::kMiss;
  if (out->code != Code::kOk) return out->code;
  const PinTable::Added added = state_.pins.Add(session_, pinned, now + limits::kPinTime);
  if (added != PinTable::Added::kHeld) pool_.Release(pinned);
  if (added == PinTable::Added::kRefused) {
    Count(metrics_.pins_refused);
    return out->code;
  }
  Count(metrics_.pins);
  out->pinned_ms = static_cast<uint32_t>(
      std::chrono::duration_cast<std::chrono::milliseconds>(limits::kPinTime).count());
  return out->code;
}

Result<ByteSpan> OneSidedSession::Lookup(ByteSpan body, Instant now, MessageBuffer& buffer) {
  protocol::KeysRequest m;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &m));
  Count(metrics_.lookups);
  protocol::Location location;
  LocateAndPin(m, m.keys[0].key, now, &location);
  return protocol::Encode(location, buffer);
}

Result<ByteSpan> OneSidedSession::Pin(ByteSpan body, Instant now, MessageBuffer& buffer) {
  protocol::KeysRequest m;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &m));
  protocol::PinReply reply;
  reply.pinned_ms.resize(m.keys.size());
  // A chain comes root first; touched deepest first, its root ends up most recent.
  for (size_t i = m.keys.size(); i-- > 0;) {
    protocol::Location location;
    const Code code = LocateAndPin(m, m.keys[i].key, now, &location);
    reply.pinned_ms[i] = {code, location.pinned_ms};
  }
  return protocol::Encode(reply, buffer);
}

Status OneSidedSession::TouchSlots(ByteSpan body) {
  protocol::TouchSlots m;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &m));
  Touch(m.touches);
  return Status::Ok();
}

void OneSidedSession::Touch(const std::vector<protocol::SlotTouch>& touches) {
  for (const protocol::SlotTouch& touch : touches) pool_.TouchSlot(touch.slot, touch.generation);
  Count(metrics_.slot_touches, touches.size());
}

// A peer whose reads come here would count them twice.
Status OneSidedSession::TakeReport(ByteSpan body, Instant now) {
  protocol::ReadReport m;
  SIMM_RETURN_IF_ERROR(protocol::Decode(body, &m));
  bool cut = false;
  const uint64_t largest = std::min(limits::kMaxValueBytes, pool_.geometry().data_bytes);
  metrics_.CountReads(options_.road, reads_.Cut(m.totals, largest, now, &cut));
  Count(metrics_.read_reports);
  if (cut) Count(metrics_.read_reports_cut);
  Touch(m.touches);
  return Status::Ok();
}

// ---- the lane

bool OneSidedSession::MustClose() const {
  return lane_ && lane_->must_close.load(std::memory_order_acquire);
}

bool OneSidedSession::Overdue(Instant now) {
  if (!lane_ || !state_.leases.Overdue(lane_->id, now)) return false;
  Count(metrics_.recalls_unanswered);
  return true;
}

std::vector<uint64_t> OneSidedSession::TakeRecalls(Instant now) {
  if (!lane_) return {};
  auto recalls = state_.leases.TakeRecalls(lane_->id, now);
  Count(metrics_.recalls, recalls.size());
  return recalls;
}

void OneSidedSession::End() {
  if (!lane_) return;
  const auto ended = state_.leases.EndLane(Ref());
  pool_.AbandonBlank(ended);
  Count(metrics_.abandoned_extents, ended.size());
  if (options_.process) Count(metrics_.orphaned_lanes);
  state_.lanes.Close(lane_->id);
  lane_.reset();
  resolve_.reset();
}

}  // namespace simm::dataserver
