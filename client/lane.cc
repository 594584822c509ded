#include "client/lane.h"

#include <poll.h>

#include <algorithm>

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

Lane::Lane(std::unique_ptr<transport::Connection> connection, uint64_t session)
    : connection_(std::move(connection)), session_(session) {
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
  if (user_ == nullptr) {
    protocol::Ping pong;
    if (request_id == awaited_pong_ && protocol::Decode(body, &pong).ok()) awaited_pong_ = 0;
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
