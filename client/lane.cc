#include "client/lane.h"

#include <poll.h>

#include <algorithm>
#include <utility>

#include "common/base/limits.h"
#include "common/protocol/messages.h"

namespace simm::client {
namespace {

// A ping's bytes have left; nobody waits for that.
class IgnoreCompletion final : public transport::Completion {
 public:
  void OnComplete(const Status&) override {}
};
IgnoreCompletion ignore_completion;

}  // namespace

void TouchBuffer::Add(const protocol::SlotTouch& touch, Instant now) {
  protocol::SlotTouch& recent = recent_[touch.slot % recent_.size()];
  if (recent.slot == touch.slot && recent.generation == touch.generation) return;
  recent = touch;
  if (pending_.empty()) oldest_ = now;
  if (pending_.size() == kMostPending) pending_.pop_front();
  pending_.push_back(touch);
}

bool TouchBuffer::Due(Instant now) const {
  if (empty() || now - last_sent_ < kMinInterval) return false;
  return pending_.size() >= protocol::kMaxSlotTouches || now - oldest_ >= kMaxAge;
}

ByteSpan TouchBuffer::Take(Instant now, protocol::MessageBuffer& out) {
  const size_t n = std::min(pending_.size(), protocol::kMaxSlotTouches);
  protocol::TouchSlots message;
  message.touches.assign(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(n));
  pending_.erase(pending_.begin(), pending_.begin() + static_cast<ptrdiff_t>(n));
  recent_.fill({});
  oldest_ = last_sent_ = now;
  return protocol::Encode(message, out);
}

Lane::Lane(std::unique_ptr<transport::Connection> connection, uint64_t session,
           std::shared_ptr<const PoolAccess> pool)
    : connection_(std::move(connection)), session_(session), pool_(std::move(pool)) {
  connection_->Start(this);
}

Lane::~Lane() {
  user_ = nullptr;
  connection_->Close();
}

void Lane::Attach(LaneUser* user) {
  user_ = user;
  discarding_ = false;
}

void Lane::Detach() {
  connection_->DiscardPayload();
  user_ = nullptr;
  discarding_ = true;
  fresh_ = false;
  last_used_ = MonotonicClock::Get().Now();
}

Status Lane::PrepareScratch() {
  scratch_ = std::make_unique<protocol::ReadScratch[]>(kWaveKeys);
  if (pool_->registrar == nullptr) return Status::Ok();
  auto region = pool_->registrar->Register(
      {reinterpret_cast<std::byte*>(scratch_.get()), kWaveKeys * sizeof(protocol::ReadScratch)},
      transport::kLocalOnly);
  if (!region.ok()) return region.status();
  scratch_region_ = std::move(*region);
  return Status::Ok();
}

bool Lane::KeepaliveDue(Instant now) {
  const uint64_t sent = connection_->counters().messages_out;
  if (sent != messages_seen_ || last_message_.nanos == 0) {
    messages_seen_ = sent;
    last_message_ = now;
  }
  return now - last_message_ >= limits::kKeepalive;
}

void Lane::Send(ByteSpan body) {
  transport::WorkItem item;
  item.message.request_id = NextRequestId();
  item.message.body = body;
  item.completion = &ignore_completion;
  (void)connection_->Post({&item, 1});  // a closed lane has told its user
}

void Lane::Return(uint64_t lease, const std::vector<protocol::LeaseRange>& ranges) {
  if (ranges.empty() || connection_->closed()) return;
  protocol::MessageBuffer buffer;
  Send(protocol::Encode(protocol::ReturnRequest{lease, ranges}, buffer));
}

void Lane::SendTouches(Instant now) {
  if (!touches_.Due(now) || connection_->closed()) return;
  protocol::MessageBuffer buffer;
  Send(touches_.Take(now, buffer));
}

bool Lane::Drain(Duration timeout, uint64_t max_bytes) {
  const Instant end = MonotonicClock::Get().Now() + timeout;
  const uint64_t start = connection_->counters().bytes_in;
  awaited_pong_ = NextRequestId();
  protocol::MessageBuffer buffer;
  transport::WorkItem ping;
  ping.message.request_id = awaited_pong_;
  ping.message.body = protocol::EncodePing({awaited_pong_}, buffer);
  ping.completion = &ignore_completion;
  if (!connection_->Post({&ping, 1}).ok()) return false;
  while (awaited_pong_ != 0) {
    if (!connection_->Progress()) return false;
    if (awaited_pong_ == 0) break;
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(end - MonotonicClock::Get().Now());
    if (left.count() <= 0 || connection_->counters().bytes_in - start > max_bytes) return false;
    pollfd p{connection_->PollFd(), connection_->PollEvents(), 0};
    poll(&p, 1, static_cast<int>(left.count()));
  }
  return true;
}

transport::PayloadTarget Lane::OnMessage(uint64_t request_id, ByteSpan body,
                                         uint64_t payload_bytes) {
  const auto type = protocol::TypeOf(body);
  // A server short of memory asks for idle leases back. A lane keeps none: those of a call under
  // way end with its commits.
  const bool recall = type.ok() && *type == protocol::MessageType::kRecall;
  // An echo that comes late, after whoever waited for it has gone.
  const bool pong = type.ok() && *type == protocol::MessageType::kPong;
  if (user_ == nullptr || recall || pong) {
    discarding_ = true;
    if (!recall) OnUnclaimed(request_id, body);
    return {};
  }
  discarding_ = false;
  auto target = user_->OnReplyBegin(request_id, body, payload_bytes);
  if (!target.ok()) {
    connection_->Close();
    return {};
  }
  return *target;
}

// An answer to a call that has run out of time.
void Lane::OnUnclaimed(uint64_t request_id, ByteSpan body) {
  protocol::Ping pong;
  if (request_id == awaited_pong_ && protocol::Decode(body, &pong).ok()) awaited_pong_ = 0;
  protocol::LeaseReply lease;
  if (pool_ != nullptr && protocol::Decode(body, &lease).ok()) Return(lease.lease, lease.ranges);
}

void Lane::OnPayload(ByteSpan landed) {
  if (user_ != nullptr && !discarding_) user_->OnReplyPayload(landed);
}

void Lane::OnMessageEnd(uint64_t request_id, std::optional<uint64_t>) {
  if (user_ == nullptr || discarding_) return;
  if (!user_->OnReplyEnd(request_id).ok()) connection_->Close();
}

void Lane::OnClosed(const Status& why) {
  awaited_pong_ = 0;
  if (LaneUser* const user = user_) {
    user_ = nullptr;
    user->OnLaneClosed(why);
  }
}

}  // namespace simm::client
