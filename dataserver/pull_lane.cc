#include "dataserver/pull_lane.h"

#include <poll.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "common/base/limits.h"

namespace simm::dataserver {
namespace {
constexpr int kWaitMs = 50;  // between two looks at `stopping`
}  // namespace

PullLane::PullLane(Pool& pool, std::unique_ptr<transport::Connection> connection,
                   std::function<bool()> stopping)
    : pool_(pool), connection_(std::move(connection)), stopping_(std::move(stopping)) {
  connection_->Start(this);
}

PullLane::~PullLane() { connection_->Close(); }

Status PullLane::Ask(ByteSpan body) {
  if (connection_->closed()) return failure_;
  answered_ = false;
  transport::WorkItem item;
  item.message.request_id = ++request_id_;
  item.message.body = body;
  item.completion = this;
  SIMM_RETURN_IF_ERROR(connection_->Post({&item, 1}));
  sending_ = true;
  uint64_t last_bytes = 0;
  Instant last_moved = MonotonicClock::Get().Now();
  while (connection_->Progress() && (!answered_ || sending_)) {
    const Instant now = MonotonicClock::Get().Now();
    const auto& counters = connection_->counters();
    const uint64_t bytes = counters.bytes_in + counters.bytes_out;
    if (bytes != last_bytes) last_moved = now;
    last_bytes = bytes;
    if (now - last_moved > limits::kPullStalled) {
      connection_->Close();
      return Status(Code::kDeadlineExceeded, connection_->PeerName() + " does not answer");
    }
    if (stopping_()) {
      connection_->Close();
      return Status(Code::kUnavailable, "stopping");
    }
    // A simulated connection has none: it moves in Progress.
    if (connection_->PollFd() < 0) continue;
    pollfd poll_for = {connection_->PollFd(), connection_->PollEvents(), 0};
    poll(&poll_for, 1, kWaitMs);
  }
  return answered_ && !connection_->closed() ? Status::Ok() : failure_;
}

void PullLane::Refuse(const char* what) {
  failure_ = Status(Code::kProtocolError, connection_->PeerName() + " answered with " + what);
  connection_->Close();
}

void PullLane::OnComplete(const Status&) { sending_ = false; }

void PullLane::OnClosed(const Status& why) {
  if (failure_.ok()) failure_ = Status(Code::kUnavailable, why.message());
  if (landing_) pool_.Abandon(*std::exchange(landing_, std::nullopt));
}

Status PullLane::List(const protocol::ListRequest& request, protocol::ListReply* reply) {
  protocol::MessageBuffer buffer;
  SIMM_RETURN_IF_ERROR(Ask(protocol::Encode(request, buffer)));
  return protocol::Decode(body_, reply);
}

Status PullLane::Ping() {
  protocol::MessageBuffer buffer;
  return Ask(protocol::EncodePing({request_id_}, buffer));
}

Status PullLane::Fetch(std::span<const EntryFacts> entries, const protocol::MapStamp& map,
                       std::vector<Fetched>* out) {
  out->clear();
  protocol::KeysRequest request;
  request.type = protocol::MessageType::kGet;
  request.flags = protocol::kForPull;
  request.namespace_id = entries[0].ns;
  request.map = map;
  for (const EntryFacts& entry : entries)
    request.keys.push_back({entry.key, static_cast<uint32_t>(entry.value_bytes)});
  entries_ = entries;
  out_ = out;
  protocol::MessageBuffer buffer;
  const Status asked = Ask(protocol::Encode(request, buffer));
  out_ = nullptr;
  if (asked.ok()) return asked;
  for (Fetched& fetched : *out) {
    if (fetched.grant) pool_.Abandon(*fetched.grant);
  }
  out->clear();
  return asked;
}

transport::PayloadTarget PullLane::OnMessage(uint64_t request_id, ByteSpan body,
                                             uint64_t payload_bytes) {
  if (request_id != request_id_ || answered_) {
    Refuse("what was not asked for");
    return {};
  }
  if (out_ == nullptr) {
    body_.assign(body.begin(), body.end());
    if (payload_bytes != 0) Refuse("payload where none belongs");
    return {};
  }
  if (!protocol::Decode(body, &record_).ok() || record_.index != out_->size() ||
      record_.run > entries_.size() - out_->size()) {
    Refuse("a record out of order");
    return {};
  }
  return BeginRecord(payload_bytes);
}

transport::PayloadTarget PullLane::BeginRecord(uint64_t payload_bytes) {
  if (record_.code != Code::kOk) {
    out_->resize(out_->size() + record_.run,
                 Fetched{.code = record_.code, .hints = {}, .grant = {}});
    if (payload_bytes != 0) Refuse("payload without a value");
    return {};
  }
  const EntryFacts& entry = entries_[out_->size()];
  head_bytes_ = protocol::ExtentHeadBytes(entry.key.size());
  if (record_.key_bytes != entry.key.size() || record_.value_bytes != entry.value_bytes ||
      payload_bytes != head_bytes_ + entry.value_bytes) {
    Refuse("a value of a length that was not asked for");
    return {};
  }
  Fetched& fetched = out_->emplace_back();
  const auto grant = pool_.Allocate(entry.hash, entry.ns, entry.key, entry.value_bytes);
  if (!grant.ok()) {
    fetched.code = grant.code();
    return {};
  }
  landing_ = *grant;
  landed_ = 0;
  checksum_.Reset();
  transport::PayloadTarget target;
  target.segments[0] = {head_.data(), head_bytes_, nullptr};
  target.segments[1] = {grant->value.data(), grant->value.size(), nullptr};
  target.count = 2;
  return target;
}

void PullLane::OnPayload(ByteSpan landed) {
  if (landed_ >= head_bytes_) checksum_.Update(landed);
  landed_ += landed.size();
}

void PullLane::EndValue() {
  const Grant grant = *std::exchange(landing_, std::nullopt);
  const EntryFacts& entry = entries_[out_->size() - 1];
  Fetched& fetched = out_->back();
  protocol::ExtentHeader header;
  std::memcpy(&header, head_.data(), sizeof header);
  const bool right =
      header.generation == record_.generation && header.namespace_id == entry.ns &&
      header.key_bytes == entry.key.size() && header.value_bytes == entry.value_bytes &&
      std::memcmp(head_.data() + sizeof header, entry.key.data(), entry.key.size()) == 0 &&
      checksum_.Digest() == record_.checksum;
  if (!right) {
    fetched.code = Code::kCorrupt;
    pool_.Abandon(grant);
    return;
  }
  fetched.code = Code::kOk;
  fetched.checksum = record_.checksum;
  fetched.hints.parent = {header.parent_high, header.parent_low};
  fetched.hints.depth = header.depth;
  fetched.grant = grant;
}

void PullLane::OnMessageEnd(uint64_t, std::optional<uint64_t>) {
  if (out_ == nullptr) {
    answered_ = true;
    return;
  }
  if (landing_) EndValue();
  answered_ = out_->size() == entries_.size();
}

}  // namespace simm::dataserver
