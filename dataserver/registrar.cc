#include "dataserver/registrar.h"

#include <utility>

#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/random.h"

namespace simm::dataserver {
namespace {
constexpr auto kCallTimeout = std::chrono::seconds(2);
constexpr auto kRetryMin = std::chrono::milliseconds(50);
constexpr auto kRetryMax = std::chrono::milliseconds(1000);
}  // namespace

Registrar::Registrar(std::unique_ptr<rpc::ManagerStub> manager, Options options)
    : manager_(std::move(manager)),
      options_(std::move(options)),
      heartbeat_(limits::kHeartbeat),
      problem_(Code::kUnavailable, "not registered with a manager yet"),
      thread_([this] { Run(); }) {}

Registrar::~Registrar() { Stop(); }

void Registrar::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void Registrar::HeartbeatSoon() {
  MutexLock lock(mutex_);
  soon_ = true;
  wake_.NotifyAll();
}

Status Registrar::Ready() const {
  MutexLock lock(mutex_);
  return problem_;
}

bool Registrar::Sleep(Duration time) {
  const Instant end = MonotonicClock::Get().Now() + time;
  MutexLock lock(mutex_);
  while (!stopping_ && !soon_) {
    const Duration left = end - MonotonicClock::Get().Now();
    if (left <= Duration::zero()) break;
    wake_.WaitFor(mutex_, left);
  }
  soon_ = false;
  return !stopping_;
}

void Registrar::SetProblem(const Status& problem) {
  static LogLimiter limiter(std::chrono::seconds(10));
  bool changed;
  {
    MutexLock lock(mutex_);
    changed = problem_.code() != problem.code() || problem_.message() != problem.message();
    problem_ = problem;
  }
  if (problem.ok()) return;
  if (changed || limiter.Allow(MonotonicClock::Get().Now()) >= 0) {
    SIMM_LOG_WARN("not in the cluster: {}; trying again, the data path goes on",
                  problem.ToString());
  }
}

bool Registrar::TryRegister() {
  rpc::RegisterRequest request = options_.request;
  request.capabilities |= kCapabilityReportMap | kCapabilityMigration;
  const auto held = options_.map->Get();
  if (held != nullptr) {
    request.expected_cluster = held->version().cluster;
    request.held = held->version();
  }
  const auto reply = manager_->Register(request, kCallTimeout);
  if (!reply.ok()) {
    Status problem = reply.status();
    if (problem.code() == Code::kWrongCluster) {
      problem =
          Status(Code::kWrongCluster,
                 problem.message() +
                     "; this server holds data of its old cluster: start the manager with its old "
                     "--state, or restart this server to join the new cluster with an empty cache");
    }
    SetProblem(problem);
    return false;
  }
  if (reply->id == kNoServer) {
    ReportMap(*reply, held.get());
    return false;
  }
  answered_ = MonotonicClock::Get().Now();
  options_.on_registered(reply->id);
  options_.self->store(reply->id, std::memory_order_release);
  if (reply->heartbeat_ms > 0) heartbeat_ = std::chrono::milliseconds(reply->heartbeat_ms);
  SIMM_LOG_INFO("registered as server {} ({}), map {}", reply->id, request.name,
                ToString(reply->map));
  SetProblem(Status::Ok());
  return true;
}

// The manager is learning the newest map: helps it, and waits as long as it asks for.
void Registrar::ReportMap(const rpc::RegisterReply& reply, const RouteTable* held) {
  SetProblem(Status(Code::kUnavailable,
                    "the manager is learning the newest key map from the data servers"));
  if (reply.send_map && held != nullptr) {
    const Status reported = manager_->ReportMap(*held, kCallTimeout);
    if (reported.ok()) {
      SIMM_LOG_INFO("reported the map {} to the manager", ToString(held->version()));
    } else {
      SetProblem(reported);
    }
  }
  (void)Sleep(std::min<Duration>(std::chrono::milliseconds(reply.retry_ms), kRetryMax));
}

// False: register anew.
bool Registrar::SendHeartbeat() {
  rpc::HeartbeatRequest request;
  request.id = options_.self->load(std::memory_order_acquire);
  request.boot_id = options_.request.boot_id;
  if (const auto table = options_.map->Get()) {
    request.map = table->version();
    request.pulled_shards = options_.pulled(*table);
  }
  request.migration = options_.migration();
  request.stats = options_.stats();
  const Instant sent = MonotonicClock::Get().Now();
  request.unanswered_ms = static_cast<uint64_t>(
      std::max<int64_t>(1, (sent - answered_) / std::chrono::milliseconds(1)));
  const auto reply = manager_->Heartbeat(request, kCallTimeout);
  if (options_.on_heartbeat) options_.on_heartbeat(MonotonicClock::Get().Now() - sent, reply.ok());
  if (!reply.ok()) {
    SetProblem(reply.status());
    return true;  // silence is the manager's to judge; the same identity goes on when it is back
  }
  answered_ = MonotonicClock::Get().Now();
  SetProblem(Status::Ok());
  return !reply->register_again;
}

void Registrar::Run() {
  Random random(OsEntropy());
  bool registered = false;
  Duration pause = kRetryMin;
  while (true) {
    if (!registered) {
      registered = TryRegister();
      if (!registered) {
        pause = std::min<Duration>(pause * 2, kRetryMax);
        if (!Sleep(
                Duration(static_cast<int64_t>(random.Unit() * static_cast<double>(pause.count()))) +
                kRetryMin))
          return;
        continue;
      }
      pause = kRetryMin;
    }
    if (!Sleep(heartbeat_)) return;
    registered = SendHeartbeat();
  }
}

}  // namespace simm::dataserver
