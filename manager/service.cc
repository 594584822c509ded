#include "manager/service.h"

#include <algorithm>
#include <optional>

#include "common/base/log.h"

namespace simm::manager {

using rpc::WatcherKind;

namespace {

// How often the committer looks at silences: a quarter of a heartbeat is late by at most that much.
Duration TickOf(const MembershipOptions& options) {
  return std::max<Duration>(options.heartbeat / 4, std::chrono::milliseconds(5));
}

uint32_t Milliseconds(Duration d) {
  return static_cast<uint32_t>(d / std::chrono::milliseconds(1));
}

}  // namespace

Result<std::unique_ptr<ManagerService>> ManagerService::Start(Options options, Store& store,
                                                              Clock& clock, rpc::MapBoard& board,
                                                              metrics::Registry& registry) {
  Result<std::optional<DurableState>> loaded = store.Load();
  if (!loaded.ok()) return loaded.status();
  DurableState state;
  if (loaded->has_value()) {
    state = **std::move(loaded);
    SIMM_LOG_INFO("going on with {}: {} servers", ToString(state.map.version),
                  state.map.servers.size());
  } else {
    state = NewCluster(NewId128());
    SIMM_RETURN_IF_ERROR(store.Save(state));
    SIMM_LOG_INFO("the store is empty: a new cluster begins, {}",
                  ToString(state.map.version.cluster));
  }
  Result<std::shared_ptr<const RouteTable>> table = RouteTable::Create(state.map);
  if (!table.ok()) return table.status();
  board.Publish(*table);
  std::unique_ptr<ManagerService> service(
      new ManagerService(std::move(options), store, clock, board, registry, std::move(state)));
  MutexLock lock(service->join_mutex_);
  service->committer_ = std::thread([&self = *service] { self.Commit(); });
  return service;
}

ManagerService::ManagerService(Options options, Store& store, Clock& clock, rpc::MapBoard& board,
                               metrics::Registry& registry, DurableState state)
    : options_(std::move(options)),
      store_(store),
      clock_(clock),
      board_(board),
      registry_(registry),
      started_(clock.Now()),
      heartbeats_(registry.Counter("simm_manager_heartbeats_total", "Heartbeats received")),
      store_failures_(registry.Counter("simm_manager_store_failures_total",
                                       "Saves of the manager's state that failed")),
      membership_(options_.membership, std::move(state), started_) {
  collector_ = registry_.AddCollector([this](metrics::Sink& sink) { Collect(sink); });
}

ManagerService::~ManagerService() {
  Stop();
  registry_.RemoveCollector(collector_);
}

void ManagerService::Stop() {
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    wake_.NotifyAll();
  }
  MutexLock lock(join_mutex_);
  if (committer_.joinable()) committer_.join();
}

Status ManagerService::Submit(Change& change) {
  MutexLock lock(mutex_);
  if (stopping_) return Status(Code::kUnavailable, "the manager is shutting down");
  waiting_.push_back(&change);
  wake_.NotifyOne();
  while (!change.done) done_.Wait(mutex_);
  return change.outcome;
}

Result<rpc::RegisterReply> ManagerService::Register(const rpc::RegisterRequest& request) {
  using Registered = std::pair<ServerId, Registration>;
  std::optional<Result<Registered>> result;
  Change change;
  change.apply = [&](Instant now, Membership::Draft& draft) {
    MutexLock lock(mutex_);
    result = membership_.Register(now, request, draft);
  };
  Status status = Submit(change);
  if (status.ok() && !result->ok()) status = result->status();
  const std::string_view outcome =
      status.ok() ? RegistrationName((*result)->second)
                  : (status.code() == Code::kUnavailable ? "failed" : "refused");
  registry_
      .Counter("simm_manager_registrations_total", "Registrations of data servers by outcome",
               {{"outcome", std::string(outcome)}})
      .Add();
  if (!status.ok()) {
    SIMM_LOG_WARN("registration of '{}' at {} is refused: {}", request.name.substr(0, 128),
                  request.control_address.substr(0, 128), status.message());
    return status;
  }
  SIMM_LOG_INFO("server '{}' at {} {}: id {}", request.name, request.control_address, outcome,
                (*result)->first);
  rpc::RegisterReply reply;
  reply.id = (*result)->first;
  reply.heartbeat_ms = Milliseconds(options_.membership.heartbeat);
  reply.dead_ms = Milliseconds(options_.membership.dead);
  MutexLock lock(mutex_);
  reply.map = membership_.state().map.version;
  return reply;
}

Result<rpc::HeartbeatReply> ManagerService::Heartbeat(const rpc::HeartbeatRequest& request) {
  heartbeats_.Add();
  const Instant now = clock_.Now();
  MutexLock lock(mutex_);
  rpc::HeartbeatReply reply = membership_.Heartbeat(now, request);
  PublishToClientsIfDue(now);
  return reply;
}

Result<rpc::ClusterStatus> ManagerService::GetStatus() {
  const Instant now = clock_.Now();
  rpc::ClusterStatus status;
  status.manager_version = options_.version;
  status.uptime_ms = static_cast<uint64_t>((now - started_) / std::chrono::milliseconds(1));
  status.watchers = board_.Watchers();
  MutexLock lock(mutex_);
  status.map = membership_.state().map.version;
  status.nodes = membership_.Nodes(now);
  for (const auto& [id, name] : membership_.state().map.namespaces) {
    status.namespaces.push_back(name);
  }
  return status;
}

Result<NamespaceId> ManagerService::CreateNamespace(const std::string& name) {
  std::optional<Result<NamespaceId>> result;
  Change change;
  change.apply = [&](Instant, Membership::Draft& draft) {
    MutexLock lock(mutex_);
    result = membership_.CreateNamespace(name, draft);
  };
  SIMM_RETURN_IF_ERROR(Submit(change));
  return *result;
}

Status ManagerService::RemoveNode(const std::string& name) {
  Status result;
  Change change;
  change.apply = [&](Instant now, Membership::Draft& draft) {
    MutexLock lock(mutex_);
    result = membership_.RemoveNode(now, name, draft);
  };
  SIMM_RETURN_IF_ERROR(Submit(change));
  if (result.ok()) SIMM_LOG_INFO("server '{}' is removed", name);
  return result;
}

Status ManagerService::ReportMap(std::shared_ptr<const RouteTable>) {
  return Status(Code::kFailedPrecondition, "this manager has asked nobody for a map");
}

Result<rpc::DrainReply> ManagerService::DrainNode(const std::string&, bool) {
  return Status(Code::kFailedPrecondition, "this manager cannot drain servers yet");
}

Result<std::vector<rpc::Event>> ManagerService::ListEvents(uint64_t, uint32_t) {
  return std::vector<rpc::Event>();
}

Status ManagerService::Ready() const {
  MutexLock lock(mutex_);
  return store_error_;
}

void ManagerService::Commit() {
  const Duration tick = TickOf(options_.membership);
  Instant next_tick = clock_.Now() + tick;
  while (true) {
    std::vector<Change*> changes;
    {
      MutexLock lock(mutex_);
      while (waiting_.empty() && !stopping_) {
        const Instant now = clock_.Now();
        PublishToClientsIfDue(now);
        const Duration left = std::min(next_tick, clients_at_) - now;
        if (left <= Duration::zero()) break;
        wake_.WaitFor(mutex_, left);
      }
      if (stopping_ && waiting_.empty()) return;
      changes.assign(waiting_.begin(), waiting_.end());
      waiting_.clear();
    }
    Round(changes);
    if (clock_.Now() >= next_tick) next_tick = clock_.Now() + tick;
  }
}

void ManagerService::Round(const std::vector<Change*>& changes) {
  const Instant now = clock_.Now();
  Membership::Draft draft;
  bool retry_store = false;
  {
    MutexLock lock(mutex_);
    membership_.Tick(now);
    draft = membership_.Begin();
    retry_store = !store_error_.ok();
  }
  for (Change* change : changes) change->apply(now, draft);
  std::vector<std::string> dead;
  {
    MutexLock lock(mutex_);
    dead = membership_.BuryTheDead(now, draft);
  }
  Status saved;
  std::shared_ptr<const RouteTable> table;
  // Only this thread writes the durable state: placing needs no lock, and heartbeats go on.
  if (draft.changed || retry_store) Membership::Seal(draft);
  if (draft.changed) {
    Result<std::shared_ptr<const RouteTable>> built = RouteTable::Create(draft.next.map);
    saved = built.ok() ? Save(draft.next) : built.status();
    if (saved.ok()) table = *std::move(built);
  } else if (retry_store) {
    saved = Save(draft.next);
  }
  const Status for_callers = draft.changed ? saved : Status::Ok();
  MutexLock lock(mutex_);
  store_error_ = draft.changed || retry_store ? saved : store_error_;
  if (for_callers.ok()) {
    membership_.Commit(clock_.Now(), std::move(draft));
    if (table != nullptr) {
      for (const std::string& name : dead)
        SIMM_LOG_WARN("server '{}' is dead: its shards move", name);
      SIMM_LOG_INFO("published {}", ToString(table->version()));
      PublishToServers(std::move(table), clock_.Now());
    }
  }
  for (Change* change : changes) {
    change->outcome = for_callers;
    change->done = true;
  }
  done_.NotifyAll();
}

Status ManagerService::Save(const DurableState& state) {
  const Instant start = clock_.Now();
  const Status status = store_.Save(state);
  if (!status.ok()) {
    store_failures_.Add();
    static LogLimiter limiter{std::chrono::seconds(5)};
    if (limiter.Allow(start) >= 0) {
      SIMM_LOG_ERROR("{}. The map stays at the last saved epoch; trying again", status.message());
    }
  }
  return status;
}

void ManagerService::PublishToServers(std::shared_ptr<const RouteTable> table, Instant now) {
  board_.Publish(WatcherKind::kServer, table);
  // A newer table does not put off the clients any further.
  if (for_clients_ == nullptr) clients_at_ = now + limits::kServersFirst;
  for_clients_ = std::move(table);
  PublishToClientsIfDue(now);
}

void ManagerService::PublishToClientsIfDue(Instant now) {
  if (for_clients_ == nullptr) return;
  if (now < clients_at_ && !membership_.AllApplied(now)) return;
  board_.Publish(WatcherKind::kClient, std::move(for_clients_));
  for_clients_ = nullptr;
  clients_at_ = kForever;
}

void ManagerService::Collect(metrics::Sink& sink) const {
  const Instant now = clock_.Now();
  sink.Gauge("simm_manager_watchers", "Open map watches", {},
             static_cast<double>(board_.Watchers()));
  MutexLock lock(mutex_);
  const MapVersion& version = membership_.state().map.version;
  sink.Gauge("simm_manager_epoch", "Epoch of the key map", {}, static_cast<double>(version.epoch));
  sink.Gauge("simm_manager_term", "Term of the key map", {}, static_cast<double>(version.term));
  for (const auto& [state, count] : membership_.CountStates(now)) {
    sink.Gauge("simm_manager_servers", "Data servers by state",
               {{"state", std::string(ServerStateName(state))}}, count);
  }
  for (const rpc::NodeStatus& node : membership_.Nodes(now)) {
    sink.Gauge("simm_manager_shards", "Shards of the key map that a server owns",
               {{"server", node.record.name}}, node.shards);
  }
}

}  // namespace simm::manager
