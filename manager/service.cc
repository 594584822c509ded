#include "manager/service.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "common/base/log.h"

namespace simm::manager {

using rpc::EventKind;

namespace {

// How often the committer looks at silences: a quarter of a heartbeat is late by at most that much.
Duration TickOf(const MembershipOptions& options) {
  return std::max<Duration>(options.heartbeat / 4, std::chrono::milliseconds(5));
}

uint64_t SystemUnixMs() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return static_cast<uint64_t>(now / std::chrono::milliseconds(1));
}

}  // namespace

Result<std::unique_ptr<ManagerService>> ManagerService::Start(Options options, Store& store,
                                                              Clock& clock, rpc::MapBoard& board,
                                                              metrics::Registry& registry) {
  Result<std::optional<DurableState>> loaded = store.Load();
  if (!loaded.ok()) return loaded.status();
  if (!options.unix_ms) options.unix_ms = SystemUnixMs;
  const bool new_cluster = options.new_cluster;
  std::unique_ptr<ManagerService> service(
      new ManagerService(std::move(options), store, clock, board, registry));
  if (loaded->has_value()) {
    SIMM_LOG_INFO("going on with {}: {} servers{}", ToString((*loaded)->map.version),
                  (*loaded)->map.servers.size(),
                  new_cluster ? "; there is a state, so --new-cluster changes nothing" : "");
    SIMM_RETURN_IF_ERROR(service->Begin(**std::move(loaded), EventKind::kManagerStarted));
  } else if (new_cluster) {
    DurableState state = NewCluster(NewId128());
    SIMM_RETURN_IF_ERROR(store.Save(state));
    SIMM_LOG_INFO("the store is empty: a new cluster begins, {}",
                  ToString(state.map.version.cluster));
    SIMM_RETURN_IF_ERROR(service->Begin(std::move(state), EventKind::kManagerStarted));
  } else {
    MutexLock lock(service->mutex_);
    SIMM_LOG_WARN("the store is empty: {}", service->adoption_.Describe(clock.Now()));
  }
  MutexLock lock(service->join_mutex_);
  service->committer_ = std::thread([&self = *service] { self.Commit(); });
  return service;
}

ManagerService::ManagerService(Options options, Store& store, Clock& clock, rpc::MapBoard& board,
                               metrics::Registry& registry)
    : options_(std::move(options)),
      store_(store),
      clock_(clock),
      board_(board),
      registry_(registry),
      started_(clock.Now()),
      heartbeats_(registry.Counter("simm_manager_heartbeats_total", "Heartbeats received")),
      store_failures_(registry.Counter("simm_manager_store_failures_total",
                                       "Saves of the manager's state that failed")),
      adoption_(options_.membership.dead, started_),
      publication_(board) {
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

Status ManagerService::Begin(DurableState state, EventKind how) {
  Result<std::shared_ptr<const RouteTable>> table = RouteTable::Create(state.map);
  if (!table.ok()) return table.status();
  MutexLock lock(mutex_);
  membership_ = std::make_unique<Membership>(options_.membership, std::move(state), clock_.Now());
  SetLogField("cluster", ToString(membership_->state().map.version.cluster));
  for (const rpc::NodeStatus& node : membership_->Nodes(clock_.Now())) {
    const ServerId id = node.record.id;
    const auto& draining = membership_->state().draining;
    if (std::binary_search(draining.begin(), draining.end(), id)) {
      draining_.insert(node.record.name);
    }
  }
  replicas_ = (*table)->replicas();
  AddEvent(how, "", ToString((*table)->version()));
  board_.Publish(*std::move(table));
  return Status::Ok();
}

void ManagerService::BeginIfLearned() {
  std::optional<DurableState> state;
  {
    MutexLock lock(mutex_);
    state = adoption_.Decide(clock_.Now(), NewId128());
  }
  if (!state.has_value()) return;
  const bool fresh = state->map.servers.empty() && state->map.version.epoch == 1;
  const MapVersion version = state->map.version;
  Status status = Save(*state);
  if (status.ok()) {
    status = Begin(*std::move(state), fresh ? EventKind::kManagerStarted : EventKind::kMapAdopted);
  }
  if (status.ok() && fresh) {
    SIMM_LOG_INFO("no data server holds a map: a new cluster begins, {}", ToString(version));
  } else if (status.ok()) {
    SIMM_LOG_WARN("the state was lost; going on from the map of the data servers with {}",
                  ToString(version));
  }
  MutexLock lock(mutex_);
  SetStoreError(status);
}

Status ManagerService::Submit(Change& change) {
  MutexLock lock(mutex_);
  if (stopping_) return Status(Code::kUnavailable, "the manager is shutting down");
  SIMM_RETURN_IF_ERROR(Deciding());
  waiting_.push_back(&change);
  wake_.NotifyOne();
  while (!change.done) done_.Wait(mutex_);
  return change.outcome;
}

void ManagerService::Commit() {
  const Duration tick = TickOf(options_.membership);
  Instant next_tick = clock_.Now() + tick;
  while (true) {
    std::vector<Change*> changes;
    bool learning = false;
    {
      MutexLock lock(mutex_);
      while (waiting_.empty() && !stopping_) {
        const Instant now = clock_.Now();
        PublishToClientsIfDue(now);
        const Duration left = std::min(next_tick, publication_.clients_at()) - now;
        if (left <= Duration::zero()) break;
        wake_.WaitFor(mutex_, left);
      }
      if (stopping_ && waiting_.empty()) return;
      changes.assign(waiting_.begin(), waiting_.end());
      waiting_.clear();
      learning = membership_ == nullptr;
    }
    if (learning) {
      BeginIfLearned();
    } else {
      Round(changes);
    }
    if (clock_.Now() >= next_tick) next_tick = clock_.Now() + tick;
  }
}

void ManagerService::Round(const std::vector<Change*>& changes) {
  const Instant now = clock_.Now();
  Membership::Draft draft;
  bool retry_store = false;
  {
    MutexLock lock(mutex_);
    membership_->Tick(now);
    draft = membership_->Begin();
    retry_store = !store_error_.ok();
  }
  for (Change* change : changes) change->apply(now, draft);
  std::vector<std::string> dead;
  {
    MutexLock lock(mutex_);
    dead = membership_->BuryTheDead(now, draft);
    membership_->SettleMoves(now, draft);
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
  if (draft.changed || retry_store) SetStoreError(saved);
  if (for_callers.ok()) Publish(std::move(draft), std::move(table), changes, dead);
  for (Change* change : changes) {
    change->outcome = for_callers;
    change->done = true;
  }
  done_.NotifyAll();
}

void ManagerService::Publish(Membership::Draft draft, std::shared_ptr<const RouteTable> table,
                             const std::vector<Change*>& changes,
                             const std::vector<std::string>& dead) {
  membership_->Commit(clock_.Now(), std::move(draft));
  NoteEvents(changes);
  if (membership_->frozen() != frozen_) {
    const bool thawed = membership_->frozen().empty();
    if (thawed || frozen_.empty()) {
      AddEvent(thawed ? EventKind::kThawed : EventKind::kFrozen, "",
               thawed ? "the map is not frozen any more" : membership_->frozen());
      SIMM_LOG_WARN("{}", thawed ? "the map is not frozen any more" : membership_->frozen());
    }
    frozen_ = membership_->frozen();
  }
  if (table == nullptr) return;
  for (const std::string& name : dead) {
    SIMM_LOG_WARN("server '{}' is dead: its shards move", name);
    AddEvent(EventKind::kDied, name,
             fmt::format("silent for {:g} s", ToSeconds(options_.membership.dead)));
  }
  SIMM_LOG_INFO("published {}", ToString(table->version()));
  AddEvent(EventKind::kEpoch, "", "epoch " + std::to_string(table->version().epoch));
  if (table->replicas() != replicas_) {
    SIMM_LOG_WARN("shards have {} owners from now on, not {}: see simmctl status",
                  table->replicas(), replicas_);
    replicas_ = table->replicas();
  }
  publication_.Publish(std::move(table), clock_.Now());
  PublishToClientsIfDue(clock_.Now());
  for (auto it = draining_.begin(); it != draining_.end();) {
    if (membership_->IsDrained(*it)) {
      AddEvent(EventKind::kDrained, *it, "owns no shard and is nobody's source");
      SIMM_LOG_INFO("server '{}' is drained", *it);
      it = draining_.erase(it);
    } else {
      ++it;
    }
  }
}

void ManagerService::NoteEvents(const std::vector<Change*>& changes) {
  for (const Change* change : changes) {
    if (!change->event.has_value()) continue;
    const rpc::Event& event = *change->event;
    AddEvent(event.kind, event.server, event.text);
    if (event.kind == EventKind::kDraining) draining_.insert(event.server);
    if (event.kind == EventKind::kUndrained || event.kind == EventKind::kRemoved) {
      draining_.erase(event.server);
    }
  }
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

void ManagerService::SetStoreError(const Status& status) {
  if (status.ok() != store_error_.ok()) {
    AddEvent(status.ok() ? EventKind::kStoreWorks : EventKind::kStoreFailed, "",
             status.ok() ? "the state can be saved again" : status.message());
  }
  store_error_ = status;
}

void ManagerService::AddEvent(EventKind kind, const std::string& server, std::string text) {
  const MapVersion version =
      membership_ == nullptr ? MapVersion{} : membership_->state().map.version;
  events_.Add(options_.unix_ms(), kind, version, server, std::move(text));
}

void ManagerService::PublishToClientsIfDue(Instant now) {
  if (membership_ == nullptr) return;  // still learning: there is nothing to publish
  const Membership& members = *membership_;
  publication_.PublishIfDue(now, [&members, now] { return members.AllApplied(now); });
}

}  // namespace simm::manager
