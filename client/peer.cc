#include "client/peer.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/rpc/dataserver_stub.h"

namespace simm::client {
namespace {

constexpr auto kSessionReuse =
    std::chrono::seconds(5);  // older unused ones may have ended at the server
constexpr uint32_t kTimeoutsThatOpen = 3;

Instant Now() { return MonotonicClock::Get().Now(); }

void Signal(int event_fd) {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(event_fd, &one, sizeof one);
}

}  // namespace

Peer::Peer(const Environment& environment, ServerRecord record, const Id128& cluster)
    : env_(environment),
      record_(std::move(record)),
      cluster_(cluster),
      heal_backoff_(limits::kHealBackoffMin),
      random_(OsEntropy()) {}

Peer::~Peer() = default;

bool Peer::Is(const ServerRecord& record) const {
  return record.id == record_.id && record.boot_id == record_.boot_id &&
         record.control_address == record_.control_address &&
         record.data_address == record_.data_address;
}

// ---- lanes

Peer::Acquired Peer::Acquire(LaneWaiter* waiter) {
  std::vector<std::unique_ptr<Lane>> dead;  // closed outside the lock
  MutexLock lock(mutex_);
  if (breaker_open_ || retired_) return Acquired::kUnavailable;
  while (!idle_.empty()) {
    std::unique_ptr<Lane> lane = std::move(idle_.back());
    idle_.pop_back();
    if (lane->connection().Progress()) {  // notices a server that has gone meanwhile
      waiter->lane = std::move(lane);
      return Acquired::kLane;
    }
    --lanes_;
    dead.push_back(std::move(lane));
  }
  waiter->failed = false;
  waiter->queued = true;
  waiters_.push_back(waiter);
  StartOpeningLocked();
  return Acquired::kWait;
}

// As many lanes on their way as callers wait, within the cap.
void Peer::StartOpeningLocked() {
  while (!retired_ && opening_ < waiters_.size() && lanes_ < env_.max_lanes) {
    ++opening_;
    ++lanes_;
    env_.connects.Run([self = shared_from_this()] { self->OpenLane(); });
  }
}

Peer::Acquired Peer::Poll(LaneWaiter* waiter) {
  MutexLock lock(mutex_);
  if (waiter->lane) return Acquired::kLane;
  return waiter->failed ? Acquired::kUnavailable : Acquired::kWait;
}

void Peer::Cancel(LaneWaiter* waiter) {
  std::unique_ptr<Lane> lane;
  {
    MutexLock lock(mutex_);
    if (waiter->queued) {
      std::erase(waiters_, waiter);
      waiter->queued = false;
    }
    lane = std::move(waiter->lane);
  }
  if (lane) Release(std::move(lane));
}

void Peer::GiveLocked(std::unique_ptr<Lane> lane) {
  if (!waiters_.empty()) {
    LaneWaiter* const waiter = waiters_.front();
    waiters_.pop_front();
    waiter->queued = false;
    waiter->lane = std::move(lane);
    Signal(waiter->event_fd);
    return;
  }
  idle_.push_back(std::move(lane));
}

void Peer::Release(std::unique_ptr<Lane> lane) {
  MutexLock lock(mutex_);
  const bool closed = lane->connection().closed();
  if (!closed && session_ && session_->session == lane->session()) session_used_ = Now();
  if (closed || breaker_open_ || retired_) {
    --lanes_;
    StartOpeningLocked();
    return;  // the lane closes as it goes
  }
  GiveLocked(std::move(lane));
}

void Peer::ReleaseLate(std::unique_ptr<Lane> lane) {
  Add(env_.stats.late_answers);
  // std::function wants copyable captures.
  auto holder = std::make_shared<std::unique_ptr<Lane>>(std::move(lane));
  env_.tasks.Run([self = shared_from_this(), holder] {
    if (!(*holder)->Drain(limits::kConnectTimeout, limits::kDrainBytes))
      (*holder)->connection().Close();
    self->Release(std::move(*holder));
  });
}

Result<rpc::HandshakeReply> Peer::Session() {
  // One handshake at a time: whoever waits here finds the session that the first one has brought.
  MutexLock handshaking(handshake_mutex_);
  {
    MutexLock lock(mutex_);
    if (session_ && Now() - session_used_ < kSessionReuse) {
      session_used_ = Now();
      return *session_;
    }
  }
  rpc::HandshakeRequest request;
  request.expected_cluster = cluster_;
  request.expected_server = record_.id;
  request.client_name = env_.client_name;
  request.transports = {std::string(env_.transport.name())};
  auto reply = rpc::Handshake(record_.control_address, request, limits::kConnectTimeout);
  if (!reply.ok()) return reply;
  MutexLock lock(mutex_);
  session_ = *reply;
  session_used_ = Now();
  transport_reason_ = "the only transport that both sides speak";
  return reply;
}

Result<std::unique_ptr<Lane>> Peer::Connect() {
  const auto session = Session();
  if (!session.ok()) return session.status();
  auto connection = env_.transport.Connect(
      session->endpoint, {session->session, session->incarnation}, limits::kConnectTimeout);
  if (!connection.ok()) return connection.status();
  Add(env_.stats.connections_opened);
  return std::make_unique<Lane>(std::move(*connection), session->session);
}

void Peer::OpenLane() {
  auto lane = Connect();
  MutexLock lock(mutex_);
  --opening_;
  if (!lane.ok()) {
    --lanes_;
    OpenBreakerLocked(lane.status());
    return;
  }
  if (breaker_open_ || retired_) {
    --lanes_;
    return;
  }
  GiveLocked(std::move(*lane));
}

void Peer::DropSession(uint64_t session) {
  MutexLock lock(mutex_);
  if (session_ && session_->session == session) session_.reset();
}

// ---- breaker

void Peer::FailWaitersLocked() {
  for (LaneWaiter* const waiter : waiters_) {
    waiter->queued = false;
    waiter->failed = true;
    Signal(waiter->event_fd);
  }
  waiters_.clear();
}

void Peer::OpenBreakerLocked(const Status& why) {
  FailWaitersLocked();
  lanes_ -= idle_.size();
  idle_.clear();
  session_.reset();
  if (breaker_open_ || retired_) return;
  breaker_open_ = true;
  Add(env_.stats.breaker_opens);
  heal_backoff_ = limits::kHealBackoffMin;
  next_heal_ =
      Now() +
      Duration(static_cast<int64_t>(random_.Unit() * static_cast<double>(heal_backoff_.count())));
  SIMM_LOG_WARN("data server {} ({}) is away: {}; its keys are misses until it is back",
                record_.name, record_.data_address, why.ToString());
}

void Peer::ReportSuccess() {
  MutexLock lock(mutex_);
  timeouts_in_a_row_ = 0;
}

void Peer::ReportFailure(const Status& why) {
  MutexLock lock(mutex_);
  OpenBreakerLocked(why);
}

void Peer::ReportTimeout(bool silent) {
  MutexLock lock(mutex_);
  if (silent || ++timeouts_in_a_row_ >= kTimeoutsThatOpen) {
    OpenBreakerLocked(Status(Code::kDeadlineExceeded, "no answer within the deadline"));
    timeouts_in_a_row_ = 0;
  }
}

void Peer::Heal() {
  // A handshake alone would not show that the data port moves.
  auto lane = Connect();
  const bool healed = lane.ok() && (*lane)->Drain(limits::kConnectTimeout, limits::kDrainBytes);
  MutexLock lock(mutex_);
  healing_ = false;
  if (!healed) {
    session_.reset();
    heal_backoff_ = std::min<Duration>(heal_backoff_ * 2, limits::kHealBackoffMax);
    next_heal_ =
        Now() +
        Duration(static_cast<int64_t>(random_.Unit() * static_cast<double>(heal_backoff_.count())));
    return;
  }
  if (retired_) return;
  breaker_open_ = false;
  timeouts_in_a_row_ = 0;
  ++lanes_;
  SIMM_LOG_INFO("data server {} ({}) is back", record_.name, record_.data_address);
  GiveLocked(std::move(*lane));
}

void Peer::Keepalive() {
  std::unique_ptr<Lane> lane;
  bool opened = false;
  {
    MutexLock lock(mutex_);
    if (!idle_.empty()) {
      lane = std::move(idle_.back());
      idle_.pop_back();
    }
  }
  Status problem;
  if (!lane) {
    auto fresh = Connect();
    if (fresh.ok()) {
      lane = std::move(*fresh);
      opened = true;
    } else {
      problem = fresh.status();
    }
  }
  bool alive = lane && lane->Drain(limits::kConnectTimeout, limits::kDrainBytes);
  if (!alive && lane && !opened && lane->connection().closed()) {
    // An idle lane that the server has closed says nothing about the server itself, but its session
    // may have ended.
    DropSession(lane->session());
    auto fresh = Connect();
    if (fresh.ok()) {
      lane = std::move(*fresh);
      alive = lane->Drain(limits::kConnectTimeout, limits::kDrainBytes);
    }
  }
  MutexLock lock(mutex_);
  keeping_alive_ = false;
  if (opened) ++lanes_;
  if (!alive) {
    if (lane) --lanes_;
    OpenBreakerLocked(problem.ok() ? Status(Code::kUnavailable, "no answer to a keepalive")
                                   : problem);
    return;
  }
  if (session_ && session_->session == lane->session()) session_used_ = Now();
  if (breaker_open_ || retired_) {
    --lanes_;
    return;
  }
  GiveLocked(std::move(lane));
}

void Peer::Maintain(Instant now) {
  MutexLock lock(mutex_);
  if (retired_) return;
  if (breaker_open_) {
    if (healing_ || now < next_heal_) return;
    healing_ = true;
    env_.tasks.Run([self = shared_from_this()] { self->Heal(); });
    return;
  }
  const bool busy = lanes_ > idle_.size();
  if (session_ && !busy && !keeping_alive_ && now - session_used_ >= limits::kKeepalive) {
    keeping_alive_ = true;
    env_.tasks.Run([self = shared_from_this()] { self->Keepalive(); });
  }
}

void Peer::Retire() {
  MutexLock lock(mutex_);
  retired_ = true;
  FailWaitersLocked();
  lanes_ -= idle_.size();
  idle_.clear();
}

ServerHealth Peer::Health() const {
  MutexLock lock(mutex_);
  ServerHealth health;
  health.name = record_.name;
  health.address = record_.data_address;
  health.transport = session_ ? session_->transport : "";
  health.transport_reason = transport_reason_;
  health.breaker = breaker_open_ ? "open" : "closed";
  health.connections = static_cast<uint32_t>(lanes_);
  return health;
}

}  // namespace simm::client
