#include "client/lane.h"

#include <poll.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "common/base/limits.h"
#include "common/base/random.h"
#include "common/protocol/messages.h"

namespace simm::client {
namespace {

// A ping's bytes have left; nobody waits for that.
class IgnoreCompletion final : public transport::Completion {
 public:
  void OnComplete(const Status&) override {}
};
IgnoreCompletion ignore_completion;

constexpr int kGoodbyeSteps = 4;

// Begins at random: a server may not be able to tell two processes of other containers apart.
uint64_t NextTag() {
  static std::atomic<uint64_t> last{OsEntropy() | 1};
  uint64_t tag = 0;
  while (tag == 0) tag = ++last;
  return tag;
}

}  // namespace

Lane::Lane(std::unique_ptr<transport::Connection> connection, uint64_t session,
           std::shared_ptr<const PoolAccess> pool)
    : connection_(std::move(connection)),
      session_(session),
      pool_(std::move(pool)),
      news_(pool_ != nullptr && pool_->takes_reports),
      tag_(NextTag()) {
  connection_->Start(this);
}

Lane::~Lane() {
  user_ = nullptr;
  Close();
  // Even behind a goodbye: the server may have closed the lane before it came to it.
  if (pool_ == nullptr || pool_->lost == nullptr) return;
  if (leasing_) pool_->lost->Add(tag_);
  for (const uint64_t tag : disowning_) pool_->lost->Add(tag);
}

void Lane::Close() {
  protocol::MessageBuffer buffer;
  if (news_.HasTotals()) SayGoodbye(news_.Take(MonotonicClock::Get().Now(), buffer));
  if (leasing_ || !disowning_.empty()) {
    SayGoodbye(protocol::Encode(protocol::ReturnRequest{}, buffer));
  }
  connection_->Close();
}

// In order behind all that was asked and written, a LEASE that is not answered yet included.
void Lane::SayGoodbye(ByteSpan body) {
  if (connection_->closed()) return;
  transport::WorkItem item;
  item.message.request_id = NextRequestId();
  item.message.body = body;
  item.completion = &goodbye_;
  ++goodbye_.under_way;
  if (!connection_->Post({&item, 1}).ok()) {
    --goodbye_.under_way;
    return;
  }
  // Never waits: leases that this says nothing of are made up for by the next lane.
  for (int i = 0; i < kGoodbyeSteps && goodbye_.under_way > 0; ++i) {
    if (!connection_->Progress()) return;
  }
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

void Lane::Return(const LeaseKeeper::Returns& returns) {
  if (connection_->closed()) return;
  protocol::MessageBuffer buffer;
  for (const protocol::ReturnRequest& request : returns) Send(protocol::Encode(request, buffer));
}

bool Lane::ReturnIdle() {
  const LeaseKeeper::Returns returns = leases_.TakeAll();
  Return(returns);
  return !returns.empty();
}

void Lane::KeepOrReturn(const GrantedExtent& extent, Instant now) {
  if (leases_.Keep(extent, now)) return;
  Return(
      {{.lease = extent.lease, .ranges = {{extent.offset, extent.generation, extent.bytes, 1}}}});
}

void Lane::DisownLost() {
  if (pool_ == nullptr || pool_->lost == nullptr || pool_->lost->empty()) return;
  LeaseKeeper::Returns returns;
  for (const uint64_t tag : pool_->lost->Take()) {
    returns.push_back({.ranges = {}, .lane_tag = tag});
    disowning_.push_back(tag);
  }
  Return(returns);
  protocol::MessageBuffer buffer;
  Send(protocol::EncodePing({.nonce = 0}, buffer));
  disown_echo_ = last_request_id_;
}

void Lane::TendIfDue(Instant now, bool mute) {
  if (pool_ == nullptr || now - tended_ < limits::kLaneTending) return;
  const bool news = !mute && news_.Due(now);
  if (!news && leases_.empty() && (pool_->lost == nullptr || pool_->lost->empty())) return;
  if (news) SendNews(now);
  Tend(now);
}

void Lane::Tend(Instant now) {
  tended_ = now;
  if (!connection_->Progress()) return;
  DisownLost();
  Return(leases_.TakeUnused(now));
  connection_->Progress();
}

void Lane::SendNews(Instant now) {
  if (!news_.Due(now) || connection_->closed()) return;
  if (connection_->MessageCredit() < kSpareCredit) return;
  protocol::MessageBuffer buffer;
  Send(news_.Take(now, buffer));
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
  // Answers come in order: what was said before has been heard.
  if (request_id >= disown_echo_) disowning_.clear();
  if (TakeOwn(request_id, body)) {
    discarding_ = true;
    return {};
  }
  const auto type = protocol::TypeOf(body);
  // An echo that comes late, after whoever waited for it has gone.
  const bool pong = type.ok() && *type == protocol::MessageType::kPong;
  if (user_ == nullptr || pong) {
    discarding_ = true;
    OnUnclaimed(request_id, body);
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

// What is the lane's affair, whoever uses it: answers to LEASEs that nobody waits for, and recalls.
// A server short of memory asks for a lease back: what lies idle of it is returned; what a call has
// taken out of it ends with its COMMITs.
bool Lane::TakeOwn(uint64_t request_id, ByteSpan body) {
  if (pool_ == nullptr) return false;
  if (leases_.Awaits(request_id)) {
    protocol::LeaseReply reply;
    Status taken = protocol::Decode(body, &reply);
    if (taken.ok()) taken = leases_.OnReply(request_id, reply, MonotonicClock::Get().Now());
    if (!taken.ok()) {
      connection_->Close();
      return true;
    }
    id_ = reply.lane;
    return true;
  }
  protocol::Recall recall;
  if (!protocol::Decode(body, &recall).ok()) return false;
  Return(leases_.TakeLease(recall.lease));
  return true;
}

// An answer to a call that has run out of time.
void Lane::OnUnclaimed(uint64_t request_id, ByteSpan body) {
  protocol::Ping pong;
  if (request_id == awaited_pong_ && protocol::Decode(body, &pong).ok()) awaited_pong_ = 0;
  protocol::LeaseReply lease;
  if (pool_ == nullptr || !protocol::Decode(body, &lease).ok()) return;
  id_ = lease.lane;
  if (!lease.ranges.empty()) Return({{.lease = lease.lease, .ranges = lease.ranges}});
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
