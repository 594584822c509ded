#include "manager/elected_manager.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "common/base/log.h"
#include "common/base/random.h"

namespace simm::manager {
namespace {

using namespace std::chrono_literals;

constexpr Duration kCall = 1500ms;  // the longest wait for etcd in one step
constexpr Duration kLook = 200ms;   // how often a follower looks: fail-over is late by at most that
constexpr Duration kLookAtStore = 50ms;  // how often a leader looks whether its store has lost
constexpr Duration kAfterFailure = 2s;   // until a manager that could not begin tries again

}  // namespace

ElectedManager::ElectedManager(Options options, rpc::EtcdStub& etcd, Clock& clock,
                               rpc::MapBoard& board, metrics::Registry& registry)
    : options_(std::move(options)),
      etcd_(etcd),
      clock_(clock),
      board_(board),
      registry_(registry),
      started_(clock.Now()),
      elections_(registry.Counter("simm_manager_elections_total",
                                  "Times that this manager became the leader")),
      problem_(Code::kUnavailable, "etcd has not answered yet") {
  collector_ = registry_.AddCollector([this](metrics::Sink& sink) {
    MutexLock lock(mutex_);
    sink.Gauge("simm_manager_is_leader", "1 on the manager that decides", {},
               leading_ == nullptr ? 0 : 1);
    sink.Gauge("simm_manager_leader_known", "1 while this manager knows who decides", {},
               leader_.empty() ? 0 : 1);
  });
}

void ElectedManager::Begin(std::string address) {
  {
    MutexLock lock(mutex_);
    address_ = std::move(address);
  }
  MutexLock lock(join_mutex_);
  thread_ = std::thread([this] { Run(); });
}

std::string ElectedManager::Address() const {
  MutexLock lock(mutex_);
  return address_;
}

ElectedManager::~ElectedManager() {
  Stop();
  registry_.RemoveCollector(collector_);
}

void ElectedManager::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  MutexLock lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

bool ElectedManager::Stopping() const {
  MutexLock lock(mutex_);
  return stopping_;
}

bool ElectedManager::Sleep(Duration time) {
  const Instant end = clock_.Now() + time;
  MutexLock lock(mutex_);
  while (!stopping_) {
    const Duration left = end - clock_.Now();
    if (left <= Duration::zero()) break;
    wake_.WaitFor(mutex_, left);
  }
  return !stopping_;
}

void ElectedManager::SetProblem(const Status& problem) {
  static LogLimiter limiter{10s};
  bool changed = false;
  {
    MutexLock lock(mutex_);
    changed = problem_.code() != problem.code();
    problem_ = problem;
  }
  if (problem.ok()) return;
  if (limiter.Allow(clock_.Now()) >= 0 || changed) {
    SIMM_LOG_WARN("{}; the map stays as it is, the data path goes on", problem.message());
  }
}

void ElectedManager::Run() {
  Random random(OsEntropy());
  while (!Stopping()) {
    if (Follow()) Campaign();
    bool leads = false;
    {
      MutexLock lock(mutex_);
      leads = leading_ != nullptr;
    }
    if (leads) Lead();
    // Jittered: two candidates must not go on in step.
    if (!Sleep(kLook / 2 + Duration(static_cast<int64_t>(random.Below(
                               static_cast<uint64_t>(Duration(kLook / 2).count())))))) {
      break;
    }
  }
  StepDown(/*revoke=*/true);
}

bool ElectedManager::Follow() {
  const auto leader = etcd_.Get(LeaderKey(), kCall);
  if (!leader.ok()) {
    SetProblem(
        Status(Code::kUnavailable, "no leader can be elected: " + leader.status().message()));
    MutexLock lock(mutex_);
    leader_.clear();
    return false;
  }
  {
    MutexLock lock(mutex_);
    leader_ = leader->has_value() ? (*leader)->value : "";
  }
  const auto state = etcd_.Peek(StateKey(), kCall);
  if (state.ok() && state->has_value()) PublishSaved(**state);
  if (for_clients_ != nullptr && clock_.Now() >= clients_at_) {
    board_.Publish(rpc::WatcherKind::kClient, std::exchange(for_clients_, nullptr));
  }
  if (leader->has_value()) SetProblem(Status::Ok());
  return !leader->has_value();
}

void ElectedManager::PublishSaved(const rpc::EtcdEntry& peeked) {
  if (peeked.mod_revision == seen_revision_) return;
  const auto entry = etcd_.Get(StateKey(), kCall);
  if (!entry.ok() || !entry->has_value()) return;
  Result<DurableState> state = DecodeEtcdState(StateKey(), (*entry)->value);
  if (!state.ok()) {
    SetProblem(state.status());
    return;
  }
  auto table = RouteTable::Create(std::move(state->map));
  if (!table.ok()) return;
  const bool first = seen_revision_ == 0;
  seen_revision_ = (*entry)->mod_revision;
  board_.Publish(rpc::WatcherKind::kServer, *table);
  // Data servers see an epoch before clients do; who has applied it only the leader knows.
  if (for_clients_ == nullptr) clients_at_ = clock_.Now() + limits::kServersFirst;
  for_clients_ = *std::move(table);
  if (first) board_.Publish(rpc::WatcherKind::kClient, std::exchange(for_clients_, nullptr));
}

void ElectedManager::Campaign() {
  const Instant before = clock_.Now();
  const Result<int64_t> lease = etcd_.GrantLease(options_.lease, kCall);
  if (!lease.ok()) {
    SetProblem(lease.status());
    return;
  }
  // Its own outcome does not matter: whose key is there afterwards does.
  (void)etcd_.PutIf({{LeaderKey(), rpc::EtcdCondition::Of::kCreation, 0}}, LeaderKey(), Address(),
                    *lease, kCall);
  const auto leader = etcd_.Get(LeaderKey(), kCall);
  if (!leader.ok() || !leader->has_value() || (*leader)->lease != *lease) {
    (void)etcd_.RevokeLease(*lease, kCall);
    return;
  }
  leads_until_.store((before + options_.lease).nanos);
  auto leading = std::make_shared<Leading>();
  leading->lease = *lease;
  leading->store = std::make_unique<EtcdStore>(
      EtcdStore::Options{StateKey(), LeaderKey(), (*leader)->create_revision,
                         [this] { return Instant{leads_until_.load()}; }},
      etcd_, clock_);
  auto service =
      ManagerService::Start(options_.service, *leading->store, clock_, board_, registry_);
  if (!service.ok()) {
    SetProblem(service.status());
    (void)etcd_.RevokeLease(*lease, kCall);
    (void)Sleep(kAfterFailure);
    return;
  }
  leading->service = *std::move(service);
  elections_.Add();
  SIMM_LOG_INFO("this manager, {}, leads now", Address());
  SetProblem(Status::Ok());
  MutexLock lock(mutex_);
  leader_ = address_;
  leading_ = std::move(leading);
}

void ElectedManager::Lead() {
  std::shared_ptr<Leading> leading;
  {
    MutexLock lock(mutex_);
    leading = leading_;
  }
  const Duration interval = Duration(options_.lease) / 4;
  Instant next = clock_.Now();
  bool gone = false;
  while (!Stopping() && !gone && !leading->store->lost()) {
    const Instant now = clock_.Now();
    const Instant until{leads_until_.load()};
    if (now >= until) break;
    if (now >= next) {
      const Result<bool> kept = etcd_.KeepAlive(leading->lease, std::min(until - now, kCall));
      if (kept.ok() && *kept) leads_until_.store((now + options_.lease).nanos);
      if (!kept.ok()) SetProblem(kept.status());
      if (kept.ok()) SetProblem(Status::Ok());
      gone = kept.ok() && !*kept;
      next = now + (kept.ok() ? interval : kLook);
    }
    if (!Sleep(std::min(interval, Duration(kLookAtStore)))) break;
  }
  // Else the managers would say for a while that nobody leads, and not why.
  if (leading->store->lost())
    SetProblem(Status(Code::kUnavailable, "etcd has not confirmed a save of the leader"));
  StepDown(/*revoke=*/!gone);
}

void ElectedManager::StepDown(bool revoke) {
  std::shared_ptr<Leading> leading;
  {
    MutexLock lock(mutex_);
    leading = std::exchange(leading_, nullptr);
    leader_.clear();
  }
  if (leading == nullptr) return;
  SIMM_LOG_WARN("this manager, {}, leads no more", Address());
  // What was decided already is saved while the lease lasts, or refused by etcd.
  leading->service->Stop();
  leads_until_.store(0);
  if (revoke) (void)etcd_.RevokeLease(leading->lease, kCall);
}

Result<std::shared_ptr<ElectedManager::Leading>> ElectedManager::Leader() const {
  MutexLock lock(mutex_);
  // A manager that was paused wakes up here, too, before its thread knows.
  if (leading_ != nullptr && clock_.Now().nanos < leads_until_.load()) return leading_;
  const std::string who = leader_.empty() || leader_ == address_ ? "none is elected at present"
                                                                 : "the leader is " + leader_;
  return Status(Code::kUnavailable, "this manager does not lead; " + who +
                                        (problem_.ok() ? "" : " (" + problem_.message() + ")"));
}

Result<rpc::RegisterReply> ElectedManager::Register(const rpc::RegisterRequest& request) {
  const auto leading = Leader();
  return leading.ok() ? (*leading)->service->Register(request) : leading.status();
}

Result<rpc::HeartbeatReply> ElectedManager::Heartbeat(const rpc::HeartbeatRequest& request) {
  const auto leading = Leader();
  return leading.ok() ? (*leading)->service->Heartbeat(request) : leading.status();
}

Result<rpc::ClusterStatus> ElectedManager::GetStatus() {
  if (const auto leading = Leader(); leading.ok()) {
    Result<rpc::ClusterStatus> status = (*leading)->service->GetStatus();
    if (status.ok()) status->leader = Address();
    return status;
  } else if (!LeaderElsewhere().empty()) {
    return leading.status();
  }
  const auto table = board_.Current(rpc::WatcherKind::kServer);
  if (table == nullptr) {
    const Status ready = Ready();
    return ready.ok() ? Status(Code::kUnavailable, "no key map here yet") : ready;
  }
  rpc::ClusterStatus status;
  status.map = table->version();
  status.manager_version = options_.service.version;
  status.uptime_ms = static_cast<uint64_t>((clock_.Now() - started_) / 1ms);
  status.watchers = board_.Watchers();
  for (const ServerRecord& server : table->contents().servers) {
    rpc::NodeStatus& node = status.nodes.emplace_back();
    node.record = server;
    node.shards = table->ShardsOf(server.id);
  }
  for (const auto& [id, name] : table->contents().namespaces) status.namespaces.push_back(name);
  const RowCounts rows = CountRows(table->contents().owners, table->replicas());
  status.replicas = table->replicas();
  status.shards_moving = rows.moving;
  status.shards_under_replicated = rows.under_replicated;
  status.problem = "no manager leads: " + Ready().message();
  return status;
}

Result<NamespaceId> ElectedManager::CreateNamespace(const std::string& name) {
  const auto leading = Leader();
  return leading.ok() ? (*leading)->service->CreateNamespace(name) : leading.status();
}

Status ElectedManager::RemoveNode(const std::string& name) {
  const auto leading = Leader();
  return leading.ok() ? (*leading)->service->RemoveNode(name) : leading.status();
}

Status ElectedManager::ReportMap(std::shared_ptr<const RouteTable> table) {
  const auto leading = Leader();
  return leading.ok() ? (*leading)->service->ReportMap(std::move(table)) : leading.status();
}

Result<rpc::DrainReply> ElectedManager::DrainNode(const std::string& name, bool undrain) {
  const auto leading = Leader();
  return leading.ok() ? (*leading)->service->DrainNode(name, undrain) : leading.status();
}

Result<std::vector<rpc::Event>> ElectedManager::ListEvents(uint64_t after, uint32_t newest) {
  const auto leading = Leader();
  return leading.ok() ? (*leading)->service->ListEvents(after, newest) : leading.status();
}

std::string ElectedManager::LeaderElsewhere() const {
  MutexLock lock(mutex_);
  return leader_ == address_ ? "" : leader_;
}

Status ElectedManager::Ready() const {
  if (const auto leading = Leader(); leading.ok()) return (*leading)->service->Ready();
  MutexLock lock(mutex_);
  if (!problem_.ok()) return problem_;
  if (leader_.empty()) return Status(Code::kUnavailable, "no leader is elected yet");
  return Status::Ok();
}

std::string ElectedManager::Note() const {
  if (const auto leading = Leader(); leading.ok()) {
    const std::string note = (*leading)->service->Note();
    return "leads" + (note.empty() ? "" : "; " + note);
  }
  const std::string leader = LeaderElsewhere();
  return leader.empty() ? "" : "follows " + leader;
}

}  // namespace simm::manager
