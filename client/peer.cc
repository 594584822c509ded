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
      lost_lanes_(env_.lost ? env_.lost : std::make_shared<LostLanes>()),
      prefer_one_sided_(!env_.one_sided.empty()),
      heal_backoff_(limits::kHealBackoffMin),
      way_backoff_(limits::kWayRetryMin),
      random_(OsEntropy()) {}

Peer::~Peer() = default;

bool Peer::Is(const ServerRecord& record) const {
  return record.id == record_.id && record.boot_id == record_.boot_id &&
         record.control_address == record_.control_address &&
         record.data_address == record_.data_address;
}

// ---- lanes

// An idle lane that is still open: notices a server that has gone meanwhile.
std::unique_ptr<Lane> Peer::TakeOpenLocked(Road& road, std::vector<std::unique_ptr<Lane>>* dead) {
  while (!road.idle.empty()) {
    std::unique_ptr<Lane> lane = std::move(road.idle.back());
    road.idle.pop_back();
    if (lane->connection().ProgressAwake()) return lane;
    --road.lanes;
    dead->push_back(std::move(lane));
  }
  return nullptr;
}

Peer::Acquired Peer::Acquire(LaneWaiter* waiter, Need need) {
  std::vector<std::unique_ptr<Lane>> dead;  // closed outside the lock
  MutexLock lock(mutex_);
  if (retired_) return Acquired::kUnavailable;
  waiter->mute = breaker_open_;
  if (breaker_open_) {
    if (need == Need::kReads) waiter->lane = TakeOpenLocked(roads_[kOneSided], &dead);
    return waiter->lane ? Acquired::kLane : Acquired::kUnavailable;
  }
  Road& road = roads_[prefer_one_sided_ && need != Need::kPayload ? kOneSided : kMessages];
  waiter->lane = TakeOpenLocked(road, &dead);
  if (waiter->lane) return Acquired::kLane;
  waiter->failed = false;
  waiter->queued = true;
  road.waiters.push_back(waiter);
  StartOpeningLocked();
  return Acquired::kWait;
}

// Queue pairs are dear to the devices of both sides.
size_t Peer::MaxLanesLocked(RoadKind kind) const {
  const bool rdma = kind == kOneSided && session_ && !session_->ways.empty() &&
                    session_->ways.front().pool->registrar != nullptr;
  return rdma ? std::min<size_t>(env_.max_lanes, limits::kRdmaLanesPerServer) : env_.max_lanes;
}

// As many lanes on their way as callers wait, within the cap. Without a session one: it shakes
// hands, and until then nobody knows what the others would be.
void Peer::StartOpeningLocked() {
  for (const RoadKind kind : {kOneSided, kMessages}) {
    Road& road = roads_[kind];
    while (!retired_ && (session_ || roads_[kOneSided].opening + roads_[kMessages].opening == 0) &&
           road.opening < road.waiters.size() && road.lanes < MaxLanesLocked(kind)) {
      ++road.opening;
      ++road.lanes;
      env_.connects.Run([self = shared_from_this(), kind] { self->OpenLane(kind); });
    }
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
      for (Road& road : roads_) std::erase(road.waiters, waiter);
      waiter->queued = false;
    }
    lane = std::move(waiter->lane);
  }
  if (lane) Release(std::move(lane));
}

void Peer::GiveLocked(std::unique_ptr<Lane> lane) {
  Road& road = roads_[KindOf(*lane)];
  if (!road.waiters.empty()) {
    LaneWaiter* const waiter = road.waiters.front();
    road.waiters.pop_front();
    waiter->queued = false;
    waiter->lane = std::move(lane);
    Signal(waiter->event_fd);
    return;
  }
  road.idle.push_back(std::move(lane));
}

void Peer::Release(std::unique_ptr<Lane> lane) {
  MutexLock lock(mutex_);
  const bool closed = lane->connection().closed();
  if (!closed && session_ && session_->reply.session == lane->session()) session_used_ = Now();
  const bool readable = KindOf(*lane) == kOneSided;
  if (!closed && readable && failed_ways_.empty()) way_backoff_ = limits::kWayRetryMin;
  if (closed || retired_ || (breaker_open_ && !readable)) {
    --roads_[KindOf(*lane)].lanes;
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
    if (!(*holder)->Drain(limits::kConnectTimeout, limits::kDrainBytes)) (*holder)->Close();
    self->Release(std::move(*holder));
  });
}

void Peer::ReleaseSilent(std::unique_ptr<Lane> lane) {
  Add(env_.stats.late_answers);
  auto holder = std::make_shared<std::unique_ptr<Lane>>(std::move(lane));
  env_.tasks.Run([self = shared_from_this(), holder] {
    Lane& silent = **holder;
    const bool closed = silent.connection().closed();
    const bool there = !closed && silent.Drain(limits::kConnectTimeout, limits::kDrainBytes);
    if (!there) silent.Close();
    self->Release(std::move(*holder));
    if (there) return;
    self->ReportTimeout(!closed);
  });
}

Result<Peer::Bond> Peer::Session(bool healing) {
  // One handshake at a time: whoever waits here finds the session that the first one has brought.
  MutexLock handshaking(handshake_mutex_);
  {
    MutexLock lock(mutex_);
    // Whoever waited behind a handshake that failed must not wait for one of his own.
    if (retired_ || (breaker_open_ && !healing)) return Status(Code::kUnavailable, "it is away");
    if (session_ && Now() - session_used_ < kSessionReuse) {
      session_used_ = Now();
      return *session_;
    }
  }
  rpc::HandshakeRequest request;
  request.expected_cluster = cluster_;
  request.expected_server = record_.id;
  request.client_name = env_.client_name;
  for (const auto* transport : env_.one_sided) request.transports.emplace_back(transport->name());
  request.transports.emplace_back(env_.messages.name());
  auto reply = rpc::Handshake(record_.control_address, request, limits::kConnectTimeout);
  if (!reply.ok()) return reply.status();
  Bond bond;
  bond.reply = std::move(*reply);
  std::string reason;
  FindWays(&bond, &reason);
  MutexLock lock(mutex_);
  ShunFailedWaysLocked(&bond);
  session_ = bond;
  session_used_ = Now();
  transport_reason_ = std::move(reason);
  prefer_one_sided_ = !bond.ways.empty();
  return bond;
}

Result<std::unique_ptr<Lane>> Peer::ConnectOver(transport::Transport& transport,
                                                const std::string& endpoint, const Bond& bond,
                                                std::shared_ptr<const PoolAccess> pool) {
  auto connection = transport.Connect(endpoint, {bond.reply.session, bond.reply.incarnation},
                                      limits::kConnectTimeout);
  if (!connection.ok()) return connection.status();
  auto lane = std::make_unique<Lane>(std::move(*connection), bond.reply.session, std::move(pool));
  if (lane->pool() != nullptr) SIMM_RETURN_IF_ERROR(lane->PrepareScratch());
  Add(env_.stats.connections_opened);
  return lane;
}

Result<std::unique_ptr<Lane>> Peer::Connect(RoadKind kind, bool healing) {
  const auto bond = Session(healing);
  if (!bond.ok()) return bond.status();
  if (kind == kOneSided) {
    for (const Way& way : bond->ways) {
      auto lane = ConnectOver(*way.transport, way.endpoint, *bond, way.pool);
      if (lane.ok()) return lane;
      GiveUpWay(way.pool, lane.status());
    }
  }
  return ConnectOver(env_.messages, bond->reply.endpoint, *bond, nullptr);
}

void Peer::OpenLane(RoadKind kind) {
  auto lane = Connect(kind);
  MutexLock lock(mutex_);
  --roads_[kind].opening;
  --roads_[kind].lanes;
  if (!lane.ok()) {
    OpenBreakerLocked(lane.status());
    return;
  }
  if (breaker_open_ || retired_) return;
  const RoadKind got = KindOf(**lane);
  if (got != kind) {
    // Whoever waits for a one-sided lane gets what there is.
    auto& waiting = roads_[kind].waiters;
    roads_[got].waiters.insert(roads_[got].waiters.end(), waiting.begin(), waiting.end());
    waiting.clear();
  }
  ++roads_[got].lanes;
  GiveLocked(std::move(*lane));
  StartOpeningLocked();
}

void Peer::DropSession(uint64_t session) {
  MutexLock lock(mutex_);
  if (session_ && session_->reply.session == session) session_.reset();
}

// ---- breaker

void Peer::FailWaitersLocked() {
  for (Road& road : roads_) {
    for (LaneWaiter* const waiter : road.waiters) {
      waiter->queued = false;
      waiter->failed = true;
      Signal(waiter->event_fd);
    }
    road.waiters.clear();
  }
}

void Peer::OpenBreakerLocked(const Status& why) {
  FailWaitersLocked();
  // A straggler must not take the session from a heal.
  if (breaker_open_ || retired_) return;
  Road& messages = roads_[kMessages];
  messages.lanes -= messages.idle.size();
  messages.idle.clear();
  prefer_one_sided_ = !env_.one_sided.empty();
  session_.reset();
  breaker_open_ = true;
  Add(env_.stats.breaker_opens);
  heal_backoff_ = limits::kHealBackoffMin;
  next_heal_ =
      Now() +
      Duration(static_cast<int64_t>(random_.Unit() * static_cast<double>(heal_backoff_.count())));
  SIMM_LOG_WARN(
      "data server {} ({}, id {}, boot {}) is away for client {}: {}; its keys are misses until it "
      "is back",
      record_.name, record_.data_address, record_.id, ToString(record_.boot_id), env_.client_name,
      why.ToString());
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
  auto lane = Connect(kOneSided, /*healing=*/true);
  bool healed = lane.ok() && (*lane)->Drain(limits::kConnectTimeout, limits::kDrainBytes);
  while (lane.ok() && !healed && (*lane)->pool() != nullptr) {
    // The server may be well and only this way to it broken.
    GiveUpWay((*lane)->shared_pool(), Status(Code::kUnavailable, "no answer"));
    lane = Connect(kOneSided, /*healing=*/true);
    healed = lane.ok() && (*lane)->Drain(limits::kConnectTimeout, limits::kDrainBytes);
  }
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
  ++roads_[KindOf(**lane)].lanes;
  SIMM_LOG_INFO("data server {} ({}, id {}, boot {}) is back for client {}", record_.name,
                record_.data_address, record_.id, ToString(record_.boot_id), env_.client_name);
  GiveLocked(std::move(*lane));
}

std::unique_ptr<Lane> Peer::TakeIdle() {
  MutexLock lock(mutex_);
  for (Road& road : roads_) {
    if (road.idle.empty()) continue;
    std::unique_ptr<Lane> lane = std::move(road.idle.back());
    road.idle.pop_back();
    return lane;
  }
  return nullptr;
}

void Peer::Keepalive() {
  std::unique_ptr<Lane> lane = TakeIdle();
  bool counted = lane != nullptr;
  Status problem;
  if (!lane) {
    auto fresh = Connect(kOneSided);
    if (fresh.ok()) {
      lane = std::move(*fresh);
    } else {
      problem = fresh.status();
    }
  }
  if (lane) lane->SendNews(Now());
  bool alive = lane && lane->Drain(limits::kConnectTimeout, limits::kDrainBytes);
  if (!alive && counted && lane->connection().closed()) {
    // An idle lane that the server has closed says nothing about the server itself, but its session
    // may have ended.
    DropSession(lane->session());
    auto fresh = Connect(kOneSided);
    if (fresh.ok()) {
      {
        MutexLock lock(mutex_);
        --roads_[KindOf(*lane)].lanes;
      }
      lane = std::move(*fresh);
      counted = false;
      alive = lane->Drain(limits::kConnectTimeout, limits::kDrainBytes);
    }
  }
  MutexLock lock(mutex_);
  keeping_alive_ = false;
  if (lane && !counted) ++roads_[KindOf(*lane)].lanes;
  if (!alive) {
    if (lane && KindOf(*lane) == kOneSided && !lane->connection().closed() && !retired_) {
      roads_[kOneSided].idle.push_back(std::move(lane));  // its memory can still be read
    } else if (lane) {
      --roads_[KindOf(*lane)].lanes;
    }
    OpenBreakerLocked(problem.ok() ? Status(Code::kUnavailable, "no answer to a keepalive")
                                   : problem);
    return;
  }
  if (session_ && session_->reply.session == lane->session()) session_used_ = Now();
  if (breaker_open_ || retired_) {
    --roads_[KindOf(*lane)].lanes;
    return;
  }
  GiveLocked(std::move(lane));
}

void Peer::Maintain(Instant now) {
  std::vector<std::unique_ptr<Lane>> closed;  // destroyed outside the lock
  MutexLock lock(mutex_);
  if (retired_) return;
  // A few system calls for each lane that keeps leases or has news, and rarely.
  for (auto& lane : roads_[kOneSided].idle) lane->TendIfDue(now, breaker_open_);
  if (breaker_open_) {
    // Else nobody would notice that the server is gone, and its memory would stay mapped.
    closed = TakeClosedIdleLocked();
    if (healing_ || now < next_heal_) return;
    healing_ = true;
    env_.tasks.Run([self = shared_from_this()] { self->Heal(); });
    return;
  }
  if (session_ && !failed_ways_.empty() && !probing_ && now >= next_way_try_) {
    probing_ = true;
    env_.tasks.Run([self = shared_from_this()] { self->ProbeWay(); });
  }
  bool busy = false;
  for (const Road& road : roads_) busy |= road.lanes > road.idle.size();
  if (session_ && !busy && !keeping_alive_ && now - session_used_ >= limits::kKeepalive) {
    keeping_alive_ = true;
    env_.tasks.Run([self = shared_from_this()] { self->Keepalive(); });
  }
}

void Peer::Retire() {
  std::vector<std::unique_ptr<Lane>> idle;  // closed outside the lock
  MutexLock lock(mutex_);
  retired_ = true;
  FailWaitersLocked();
  for (Road& road : roads_) {
    road.lanes -= road.idle.size();
    for (auto& lane : road.idle) idle.push_back(std::move(lane));
    road.idle.clear();
  }
}

Standing Peer::standing() const {
  MutexLock lock(mutex_);
  const bool shared =
      session_ && !session_->ways.empty() && session_->ways.front().transport->name() == "shm";
  return {.away = breaker_open_, .far = session_.has_value() && !shared};
}

ServerHealth Peer::Health() const {
  MutexLock lock(mutex_);
  ServerHealth health;
  health.name = record_.name;
  health.address = record_.data_address;
  if (session_) {
    health.transport =
        session_->ways.empty() ? env_.messages.name() : session_->ways.front().transport->name();
  }
  for (const Way& way : failed_ways_) {
    health.transport_reason += (health.transport_reason.empty() ? "" : "; ") +
                               std::string(way.transport->name()) + ": " + way.reason;
  }
  if (failed_ways_.empty()) health.transport_reason = transport_reason_;
  health.breaker = breaker_open_ ? "open" : "closed";
  for (const Road& road : roads_) health.connections += static_cast<uint32_t>(road.lanes);
  return health;
}

bool Peer::BreakerOpen() const {
  MutexLock lock(mutex_);
  return breaker_open_;
}

std::vector<LaneCount> Peer::Lanes() const {
  MutexLock lock(mutex_);
  std::vector<LaneCount> list;
  for (const RoadKind kind : {kOneSided, kMessages}) {
    const Road& road = roads_[kind];
    if (road.lanes == 0) continue;
    LaneCount& count = list.emplace_back();
    count.transport = env_.messages.name();
    if (kind == kOneSided && !road.idle.empty()) {
      count.transport = road.idle.front()->connection().capabilities().transport;
    } else if (kind == kOneSided && session_ && !session_->ways.empty()) {
      count.transport = session_->ways.front().transport->name();
    }
    count.idle = road.idle.size();
    count.opening = road.opening;
    count.busy = road.lanes - std::min(road.lanes, count.idle + count.opening);
  }
  return list;
}

}  // namespace simm::client
