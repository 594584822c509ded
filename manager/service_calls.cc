// The calls of ManagerService: what data servers and operators ask.
#include <algorithm>
#include <optional>

#include "common/base/log.h"
#include "manager/service.h"

namespace simm::manager {

using rpc::EventKind;

namespace {

// How soon a server that has no answer yet registers again.
constexpr uint32_t kLearningRetryMs = 300;

uint32_t Milliseconds(Duration d) {
  return static_cast<uint32_t>(d / std::chrono::milliseconds(1));
}

rpc::Event EventOf(EventKind kind, const std::string& server, const std::string& text) {
  rpc::Event event;
  event.kind = kind;
  event.server = server;
  event.text = text;
  return event;
}

std::optional<EventKind> EventOf(Registration outcome) {
  switch (outcome) {
    case Registration::kSame:
      return std::nullopt;
    case Registration::kJoined:
      return EventKind::kJoined;
    case Registration::kReturned:
      return EventKind::kReturned;
    case Registration::kTookOver:
      return EventKind::kTookOver;
    case Registration::kReplaced:
      return EventKind::kReplaced;
  }
  return std::nullopt;
}

}  // namespace

Status ManagerService::Deciding() const {
  if (membership_ != nullptr) return Status::Ok();
  const std::string failed = store_error_.ok() ? "" : "; " + store_error_.message();
  return Status(Code::kUnavailable, adoption_.Describe(clock_.Now()) + failed);
}

Result<rpc::RegisterReply> ManagerService::AskForMap(const rpc::RegisterRequest& request,
                                                     bool send_map, const std::string& why) const {
  // An older server knows no answer without an id.
  if ((request.capabilities & kCapabilityReportMap) == 0) return Status(Code::kUnavailable, why);
  rpc::RegisterReply reply;
  reply.send_map = send_map;
  reply.retry_ms = kLearningRetryMs;
  return reply;
}

Result<rpc::RegisterReply> ManagerService::Register(const rpc::RegisterRequest& request) {
  {
    MutexLock lock(mutex_);
    if (membership_ == nullptr) {
      if (request.name.size() > limits::kMaxServerNameBytes) {
        return Status(Code::kInvalidArgument, "the server's name is too long");
      }
      const bool send_map = adoption_.Offer(request.name, request.held);
      return AskForMap(request, send_map, Deciding().message());
    }
    const bool can_send = (request.capabilities & kCapabilityReportMap) != 0;
    if (membership_->IsBehind(request.held) && can_send) {
      return AskForMap(request, /*send_map=*/true, "");
    }
  }
  using Registered = std::pair<ServerId, Registration>;
  std::optional<Result<Registered>> result;
  Change change;
  change.apply = [&](Instant now, Membership::Draft& draft) {
    MutexLock lock(mutex_);
    result = membership_->Register(now, request, draft);
    std::optional<EventKind> kind;
    if (result->ok()) kind = EventOf((*result)->second);
    if (kind.has_value()) {
      change.event = EventOf(*kind, request.name, "at " + request.control_address);
    }
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
  reply.map = membership_->state().map.version;
  return reply;
}

Status ManagerService::ReportMap(std::shared_ptr<const RouteTable> table) {
  {
    MutexLock lock(mutex_);
    if (membership_ == nullptr) {
      const Status status = adoption_.Report(*table);
      if (status.ok()) {
        SIMM_LOG_INFO("a data server reports the map {}", ToString(table->version()));
      } else {
        SIMM_LOG_WARN("a reported map is refused: {}", status.message());
      }
      return status;
    }
  }
  std::optional<Status> result;
  Change change;
  change.apply = [&](Instant, Membership::Draft& draft) {
    MutexLock lock(mutex_);
    result = membership_->Adopt(*table, draft);
    if (result->ok()) {
      change.event = EventOf(EventKind::kMapAdopted, "",
                             "the state was older than " + ToString(table->version()));
    }
  };
  SIMM_RETURN_IF_ERROR(Submit(change));
  if (!result->ok()) return *result;
  MutexLock lock(mutex_);
  SIMM_LOG_WARN("the state here was older than the servers' map {}; going on from that with {}",
                ToString(table->version()), ToString(membership_->state().map.version));
  return Status::Ok();
}

Result<rpc::HeartbeatReply> ManagerService::Heartbeat(const rpc::HeartbeatRequest& request) {
  heartbeats_.Add();
  const Instant now = clock_.Now();
  MutexLock lock(mutex_);
  if (membership_ == nullptr) {
    // Registering is how a server says which map it holds.
    rpc::HeartbeatReply reply;
    reply.register_again = true;
    return reply;
  }
  rpc::HeartbeatReply reply = membership_->Heartbeat(now, request);
  PublishToClientsIfDue(now);
  return reply;
}

Result<rpc::ClusterStatus> ManagerService::GetStatus() {
  const Instant now = clock_.Now();
  rpc::ClusterStatus status;
  status.manager_version = options_.version;
  status.uptime_ms = static_cast<uint64_t>((now - started_) / std::chrono::milliseconds(1));
  status.watchers = board_.Watchers();
  status.unix_ms = options_.unix_ms();
  MutexLock lock(mutex_);
  SIMM_RETURN_IF_ERROR(Deciding());
  status.map = membership_->state().map.version;
  status.nodes = membership_->Nodes(now);
  for (const auto& [id, name] : membership_->state().map.namespaces) {
    status.namespaces.push_back(name);
  }
  status.frozen = frozen_;
  status.replicas = membership_->state().map.replicas;
  status.shards_moving = membership_->shards_moving();
  status.shards_under_replicated = membership_->shards_under_replicated();
  if (!store_error_.ok()) status.problem = store_error_.message();
  if (options_.add_rates) options_.add_rates(status);
  return status;
}

Result<NamespaceId> ManagerService::CreateNamespace(const std::string& name) {
  std::optional<Result<NamespaceId>> result;
  Change change;
  change.apply = [&](Instant, Membership::Draft& draft) {
    MutexLock lock(mutex_);
    result = membership_->CreateNamespace(name, draft);
  };
  SIMM_RETURN_IF_ERROR(Submit(change));
  return *result;
}

Status ManagerService::RemoveNode(const std::string& name) {
  Status result;
  Change change;
  change.apply = [&](Instant now, Membership::Draft& draft) {
    MutexLock lock(mutex_);
    result = membership_->RemoveNode(now, name, draft);
    if (result.ok()) change.event = EventOf(EventKind::kRemoved, name, "by an operator");
  };
  SIMM_RETURN_IF_ERROR(Submit(change));
  if (result.ok()) SIMM_LOG_INFO("server '{}' is removed", name);
  return result;
}

Result<rpc::DrainReply> ManagerService::DrainNode(const std::string& name, bool undrain) {
  Status result;
  Change change;
  change.apply = [&](Instant, Membership::Draft& draft) {
    MutexLock lock(mutex_);
    const size_t before = draft.next.draining.size();
    result = undrain ? membership_->Undrain(name, draft) : membership_->Drain(name, draft);
    if (draft.next.draining.size() != before) {
      change.event =
          EventOf(undrain ? EventKind::kUndrained : EventKind::kDraining, name, "by an operator");
    }
  };
  SIMM_RETURN_IF_ERROR(Submit(change));
  if (!result.ok()) return result;
  SIMM_LOG_INFO("server '{}' is {}", name, undrain ? "not drained any more" : "being drained");
  MutexLock lock(mutex_);
  rpc::DrainReply reply;
  reply.map = membership_->state().map.version;
  for (const ServerRecord& server : membership_->state().map.servers) {
    if (server.name == name) reply.migrates = server.Can(kCapabilityMigration);
  }
  return reply;
}

Result<std::vector<rpc::Event>> ManagerService::ListEvents(uint64_t after, uint32_t newest) {
  MutexLock lock(mutex_);
  return events_.List(after, newest);
}

Status ManagerService::Ready() const {
  MutexLock lock(mutex_);
  SIMM_RETURN_IF_ERROR(Deciding());
  return store_error_;
}

std::string ManagerService::Note() const {
  MutexLock lock(mutex_);
  return frozen_.empty() ? "" : "the map is frozen: " + frozen_;
}

void ManagerService::Collect(metrics::Sink& sink) const {
  const Instant now = clock_.Now();
  sink.Gauge("simm_manager_watchers", "Open map watches", {},
             static_cast<double>(board_.Watchers()));
  MutexLock lock(mutex_);
  sink.Gauge("simm_manager_learning",
             "1 while the manager has no state and waits for the servers' maps", {},
             membership_ == nullptr ? 1 : 0);
  sink.Gauge("simm_manager_map_frozen",
             "1 while so many servers are silent that none is declared dead", {},
             frozen_.empty() ? 0 : 1);
  if (membership_ == nullptr) return;
  const MapVersion& version = membership_->state().map.version;
  sink.Gauge("simm_manager_epoch", "Epoch of the key map", {}, static_cast<double>(version.epoch));
  sink.Gauge("simm_manager_term", "Term of the key map", {}, static_cast<double>(version.term));
  sink.Gauge("simm_manager_shards_moving", "Shards that their owners are still pulling", {},
             membership_->shards_moving());
  sink.Gauge("simm_manager_replicas", "Owners that each shard should have", {},
             membership_->state().map.replicas);
  sink.Gauge("simm_manager_shards_under_replicated",
             "Shards whose entries lie on fewer servers than they should have owners", {},
             membership_->shards_under_replicated());
  sink.Gauge("simm_manager_draining_servers", "Data servers that are being drained or are empty",
             {}, static_cast<double>(membership_->state().draining.size()));
  for (const auto& [state, count] : membership_->CountStates(now)) {
    sink.Gauge("simm_manager_servers", "Data servers by state",
               {{"state", std::string(ServerStateName(state))}}, count);
  }
  for (const rpc::NodeStatus& node : membership_->Nodes(now)) {
    sink.Gauge("simm_manager_shards", "Shards of the key map that a server owns",
               {{"server", node.record.name}}, node.shards);
  }
}

}  // namespace simm::manager
