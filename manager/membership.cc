#include "manager/membership.h"

#include <algorithm>
#include <cstdio>

#include "common/base/check.h"
#include "common/base/host_port.h"
#include "manager/placement.h"

namespace simm::manager {
namespace {

constexpr size_t kMaxTextBytes = 128;  // of zone and version

Status Invalid(const std::string& what) { return Status(Code::kInvalidArgument, what); }

bool IsPrintable(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
}

Status CheckText(const std::string& text, const std::string& what, size_t least, size_t most) {
  if (text.size() >= least && text.size() <= most && IsPrintable(text)) return Status::Ok();
  return Invalid(what + " must be " + std::to_string(least) + " to " + std::to_string(most) +
                 " printable ASCII characters");
}

Status CheckPeerAddress(const std::string& text, const std::string& what) {
  Result<HostPort> parsed = ParseHostPort(text);
  if (!parsed.ok()) return Invalid(what + ": " + parsed.status().message());
  if (parsed->port == 0) return Invalid(what + ": port 0 cannot be reached");
  return Status::Ok();
}

std::string Seconds(Duration d) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s", ToSeconds(d));
  return text;
}

ServerRecord* FindName(DurableState& state, const std::string& name) {
  for (ServerRecord& server : state.map.servers) {
    if (server.name == name) return &server;
  }
  return nullptr;
}

// Its registration is answered by this very draft.
bool Called(const Membership::Draft& draft, ServerId id) {
  return std::any_of(draft.heard.begin(), draft.heard.end(),
                     [id](const Membership::Caller& caller) { return caller.id == id; });
}

ServerRecord RecordOf(ServerId id, const rpc::RegisterRequest& request) {
  ServerRecord record;
  record.id = id;
  record.name = request.name;
  record.pool_id = request.pool_id;
  record.incarnation = request.incarnation;
  record.boot_id = request.boot_id;
  record.control_address = request.control_address;
  record.data_address = request.data_address;
  record.zone = request.zone;
  record.weight = request.weight;
  record.state = ServerState::kAlive;
  return record;
}

}  // namespace

std::string_view RegistrationName(Registration outcome) {
  switch (outcome) {
    case Registration::kSame:
      return "same";
    case Registration::kJoined:
      return "joined";
    case Registration::kReturned:
      return "returned";
    case Registration::kTookOver:
      return "took_over";
    case Registration::kReplaced:
      return "replaced";
  }
  return "unknown";
}

Membership::Membership(MembershipOptions options, DurableState state, Instant now)
    : options_(options),
      state_(std::move(state)),
      last_tick_(now),
      nobody_dies_before_(now + options.dead) {
  for (const ServerRecord& server : state_.map.servers) {
    const bool dead = server.state == ServerState::kDead;
    heard_[server.id].last = dead ? now - options_.dead : now;
  }
}

Membership::Draft Membership::Begin() const {
  Draft draft;
  draft.base = &state_;
  draft.next.map.version = state_.map.version;
  draft.next.map.replicas = state_.map.replicas;
  draft.next.map.servers = state_.map.servers;
  draft.next.map.namespaces = state_.map.namespaces;
  draft.next.next_server = state_.next_server;
  return draft;
}

Status Membership::CheckRequest(const rpc::RegisterRequest& request) const {
  const Id128& cluster = state_.map.version.cluster;
  if (!request.expected_cluster.IsZero() && request.expected_cluster != cluster) {
    return Status(Code::kWrongCluster, "this manager serves cluster " + ToString(cluster) +
                                           ", the server belongs to cluster " +
                                           ToString(request.expected_cluster));
  }
  SIMM_RETURN_IF_ERROR(
      CheckText(request.name, "the server's name", 1, limits::kMaxServerNameBytes));
  SIMM_RETURN_IF_ERROR(CheckText(request.zone, "the zone", 0, kMaxTextBytes));
  SIMM_RETURN_IF_ERROR(CheckText(request.version, "the version", 0, kMaxTextBytes));
  SIMM_RETURN_IF_ERROR(CheckPeerAddress(request.control_address, "the control address"));
  SIMM_RETURN_IF_ERROR(CheckPeerAddress(request.data_address, "the data address"));
  if (request.weight == 0 || request.weight > limits::kMaxServerWeight) {
    return Invalid("the weight (bytes of the pool) must be 1 to 2^56");
  }
  if (request.pool_id.IsZero()) return Invalid("the pool id is missing");
  if (request.boot_id.IsZero()) return Invalid("the boot id is missing");
  return Status::Ok();
}

Duration Membership::Silence(Instant now, ServerId id) const {
  const auto found = heard_.find(id);
  // Not heard of yet: it is in the draft of this very moment.
  return found == heard_.end() ? Duration::zero() : now - found->second.last;
}

ServerState Membership::StateAt(Instant now, const ServerRecord& record) const {
  if (record.state != ServerState::kAlive) return record.state;
  return Silence(now, record.id) >= options_.suspect ? ServerState::kSuspect : ServerState::kAlive;
}

Status Membership::MayTakeOver(Instant now, const ServerRecord& held,
                               const rpc::RegisterRequest& request) const {
  const bool successor = held.pool_id == request.pool_id && request.incarnation > held.incarnation;
  if (successor || StateAt(now, held) != ServerState::kAlive) return Status::Ok();
  return Status(Code::kFailedPrecondition,
                "the name '" + held.name + "' is held by the server at " + held.control_address +
                    " (boot " + ToString(held.boot_id) + "), heard of " +
                    Seconds(Silence(now, held.id)) + " ago. It passes on once that one has been " +
                    "silent for " + Seconds(options_.suspect) +
                    "; two servers that run at the same time need different names (--name)");
}

// A map full of servers that never came back must not keep new ones out for ever.
Status Membership::MakeRoom(DurableState& next) const {
  std::vector<ServerRecord>& servers = next.map.servers;
  if (servers.size() < limits::kMaxServers) return Status::Ok();
  auto oldest = servers.end();
  for (auto it = servers.begin(); it != servers.end(); ++it) {
    if (it->state != ServerState::kDead) continue;
    if (oldest == servers.end() || heard_.at(it->id).last < heard_.at(oldest->id).last) oldest = it;
  }
  if (oldest == servers.end()) {
    return Status(Code::kFailedPrecondition,
                  "the cluster is full: " + std::to_string(limits::kMaxServers) +
                      " servers, and none of them is dead");
  }
  servers.erase(oldest);
  return Status::Ok();
}

Result<std::pair<ServerId, Registration>> Membership::Register(Instant now,
                                                               const rpc::RegisterRequest& request,
                                                               Draft& draft) const {
  SIMM_RETURN_IF_ERROR(CheckRequest(request));
  ServerRecord* held = FindName(draft.next, request.name);
  if (held == nullptr) {
    SIMM_RETURN_IF_ERROR(MakeRoom(draft.next));
    const ServerId id = draft.next.next_server++;
    draft.next.map.servers.push_back(RecordOf(id, request));  // ids grow: the list stays sorted
    draft.heard.push_back({id, request.version, true});
    draft.changed = true;
    return std::pair(id, Registration::kJoined);
  }
  const ServerRecord before = *held;
  const bool same_boot = before.boot_id == request.boot_id;
  if (!same_boot) SIMM_RETURN_IF_ERROR(MayTakeOver(now, before, request));
  *held = RecordOf(before.id, request);
  draft.heard.push_back({before.id, request.version, !same_boot});
  Registration outcome = Registration::kSame;
  if (before.pool_id != request.pool_id) {
    // The id, and with it the shards, go to the new pool: a server whose pool does not outlive it
    // must be able to restart without moving anything.
    outcome = Registration::kReplaced;
  } else if (!same_boot) {
    outcome = Registration::kTookOver;
  } else if (*held != before) {
    outcome = Registration::kReturned;
  }
  if (*held != before) draft.changed = true;
  return std::pair(before.id, outcome);
}

Result<NamespaceId> Membership::CreateNamespace(const std::string& name, Draft& draft) const {
  SIMM_RETURN_IF_ERROR(CheckText(name, "a namespace's name", 1, limits::kMaxNamespaceNameBytes));
  auto& namespaces = draft.next.map.namespaces;
  for (const auto& [id, known] : namespaces) {
    if (known == name) return id;
  }
  if (namespaces.size() >= limits::kMaxNamespaces) {
    return Status(Code::kFailedPrecondition, "there are " + std::to_string(limits::kMaxNamespaces) +
                                                 " namespaces already, the most there can be");
  }
  // Namespaces are never removed: their ids are 0, 1, 2, ...
  const auto id = static_cast<NamespaceId>(namespaces.size());
  namespaces.emplace_back(id, name);
  draft.changed = true;
  return id;
}

Status Membership::RemoveNode(Instant now, const std::string& name, Draft& draft) const {
  const ServerRecord* held = FindName(draft.next, name);
  if (held == nullptr) return Status(Code::kMiss, "no server is named '" + name + "'");
  if (StateAt(now, *held) == ServerState::kAlive || Called(draft, held->id)) {
    return Status(Code::kFailedPrecondition, "the server '" + name + "' is alive, heard of " +
                                                 Seconds(Silence(now, held->id)) +
                                                 " ago; stop it first, it can be removed after " +
                                                 Seconds(options_.suspect));
  }
  const ServerId id = held->id;
  std::erase_if(draft.next.map.servers, [id](const ServerRecord& s) { return s.id == id; });
  draft.changed = true;
  return Status::Ok();
}

std::vector<std::string> Membership::BuryTheDead(Instant now, Draft& draft) const {
  std::vector<std::string> names;
  if (now < nobody_dies_before_) return names;
  for (ServerRecord& server : draft.next.map.servers) {
    if (server.state != ServerState::kAlive) continue;
    if (Called(draft, server.id) || Silence(now, server.id) < options_.dead) continue;
    server.state = ServerState::kDead;
    names.push_back(server.name);
    draft.changed = true;
  }
  return names;
}

void Membership::Seal(Draft& draft) {
  const DurableState& base = *draft.base;
  if (!draft.changed) {
    draft.next = base;
    return;
  }
  DurableState& next = draft.next;
  Placement current{base.homes, {}};
  current.owners.reserve(limits::kShards);
  for (const ShardOwner& owner : base.map.owners) current.owners.push_back(owner.server);
  std::vector<PlacementServer> servers;
  for (const ServerRecord& server : next.map.servers) {
    servers.push_back({server.id, server.weight, server.state == ServerState::kAlive});
  }
  Placement placed = Place(current, servers);
  next.map.owners.resize(limits::kShards);
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    next.map.owners[shard] = {placed.owners[shard], kNoServer};
  }
  next.homes = std::move(placed.homes);
  ++next.map.version.epoch;
}

void Membership::Commit(Instant now, Draft draft) {
  if (draft.changed) {
    SIMM_CHECK(draft.next.map.version.epoch == state_.map.version.epoch + 1,
               "a draft of another epoch is committed");
    state_ = std::move(draft.next);
    const auto known = [this](ServerId id) {
      return std::any_of(state_.map.servers.begin(), state_.map.servers.end(),
                         [id](const ServerRecord& server) { return server.id == id; });
    };
    if (heard_.size() > state_.map.servers.size()) {
      std::erase_if(heard_, [&](const auto& entry) { return !known(entry.first); });
    }
  }
  for (const Caller& caller : draft.heard) {
    Heard& heard = heard_[caller.id];
    if (caller.new_boot) heard = Heard{};
    heard.last = now;
    heard.version = caller.version;
  }
}

rpc::HeartbeatReply Membership::Heartbeat(Instant now, const rpc::HeartbeatRequest& request) {
  rpc::HeartbeatReply reply;
  reply.map = state_.map.version;
  const auto& servers = state_.map.servers;
  const auto found =
      std::lower_bound(servers.begin(), servers.end(), request.id,
                       [](const ServerRecord& server, ServerId id) { return server.id < id; });
  const bool foreign = !request.map.cluster.IsZero() && !request.map.SameCluster(reply.map);
  if (found == servers.end() || found->id != request.id || found->boot_id != request.boot_id ||
      found->state == ServerState::kDead || foreign) {
    reply.register_again = true;
    return reply;
  }
  Heard& heard = heard_[request.id];
  heard.last = now;
  heard.map = request.map;
  heard.stats = request.stats;
  return reply;
}

void Membership::Tick(Instant now) {
  if (now - last_tick_ > options_.suspect) nobody_dies_before_ = now + options_.dead;
  last_tick_ = now;
}

bool Membership::AllApplied(Instant now) const {
  return std::all_of(state_.map.servers.begin(), state_.map.servers.end(),
                     [&](const ServerRecord& server) {
                       return StateAt(now, server) != ServerState::kAlive ||
                              heard_.at(server.id).map == state_.map.version;
                     });
}

std::map<ServerState, uint32_t> Membership::CountStates(Instant now) const {
  std::map<ServerState, uint32_t> counts{
      {ServerState::kAlive, 0}, {ServerState::kSuspect, 0}, {ServerState::kDead, 0}};
  for (const ServerRecord& server : state_.map.servers) ++counts[StateAt(now, server)];
  return counts;
}

std::vector<rpc::NodeStatus> Membership::Nodes(Instant now) const {
  std::unordered_map<ServerId, uint32_t> shards;
  for (const ShardOwner& owner : state_.map.owners) ++shards[owner.server];
  std::vector<rpc::NodeStatus> nodes;
  for (const ServerRecord& server : state_.map.servers) {
    const Heard& heard = heard_.at(server.id);
    rpc::NodeStatus& node = nodes.emplace_back();
    node.record = server;
    node.record.state = StateAt(now, server);
    node.shards = shards[server.id];
    node.silent_ms = static_cast<uint64_t>((now - heard.last) / std::chrono::milliseconds(1));
    node.map = heard.map;
    node.stats = heard.stats;
    node.version = heard.version;
  }
  return nodes;
}

}  // namespace simm::manager
