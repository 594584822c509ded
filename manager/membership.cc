#include "manager/membership.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "common/base/check.h"
#include "common/base/host_port.h"

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

const ServerRecord* FindId(const DurableState& state, ServerId id) {
  const auto& servers = state.map.servers;
  const auto found =
      std::lower_bound(servers.begin(), servers.end(), id,
                       [](const ServerRecord& server, ServerId key) { return server.id < key; });
  return found == servers.end() || found->id != id ? nullptr : &*found;
}

bool IsDraining(const DurableState& state, ServerId id) {
  return std::binary_search(state.draining.begin(), state.draining.end(), id);
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
  record.capabilities = request.capabilities;
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
      nobody_dies_before_(now + options.dead),
      last_settled_(now) {
  for (const ServerRecord& server : state_.map.servers) {
    const bool dead = server.state == ServerState::kDead;
    heard_[server.id].last = dead ? now - 2 * options_.dead : now;
  }
  FollowRows({});
}

Membership::Draft Membership::Begin() const {
  Draft draft;
  draft.base = &state_;
  draft.next.map.version = state_.map.version;
  draft.next.map.replicas = options_.replicas != 0 ? options_.replicas : state_.map.replicas;
  draft.changed = draft.next.map.replicas != state_.map.replicas;
  draft.next.map.servers = state_.map.servers;
  draft.next.map.namespaces = state_.map.namespaces;
  draft.next.next_server = state_.next_server;
  draft.next.draining = state_.draining;
  draft.pulled.assign(pulled_.begin(), pulled_.end());
  draft.frozen = frozen_;
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

bool Membership::IsSilent(Instant now, const ServerRecord& record) const {
  return record.state == ServerState::kDead || Silence(now, record.id) >= options_.suspect;
}

ServerState Membership::StateAt(Instant now, const ServerRecord& record) const {
  if (record.state == ServerState::kDead) return record.state;
  return IsSilent(now, record) ? ServerState::kSuspect : record.state;
}

Status Membership::MayTakeOver(Instant now, const ServerRecord& held,
                               const rpc::RegisterRequest& request) const {
  const bool successor = held.pool_id == request.pool_id && request.incarnation > held.incarnation;
  if (successor || IsSilent(now, held)) return Status::Ok();
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
  const auto last_word = [this](ServerId id) {
    const auto found = heard_.find(id);  // not there: of a map that this draft adopts
    return found == heard_.end() ? Instant{} : found->second.last;
  };
  auto oldest = servers.end();
  for (auto it = servers.begin(); it != servers.end(); ++it) {
    if (it->state != ServerState::kDead) continue;
    if (oldest == servers.end() || last_word(it->id) < last_word(oldest->id)) oldest = it;
  }
  if (oldest == servers.end()) {
    return Status(Code::kFailedPrecondition,
                  "the cluster is full: " + std::to_string(limits::kMaxServers) +
                      " servers, and none of them is dead");
  }
  std::erase(next.draining, oldest->id);
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
  if (IsDraining(draft.next, before.id)) held->state = ServerState::kDraining;
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
  const ServerId id = held->id;
  if (!IsSilent(now, *held) || Called(draft, id)) {
    return Status(Code::kFailedPrecondition,
                  "the server '" + name + "' is alive, heard of " + Seconds(Silence(now, id)) +
                      " ago; stop it first, it can be removed after " + Seconds(options_.suspect));
  }
  std::erase_if(draft.next.map.servers, [id](const ServerRecord& s) { return s.id == id; });
  std::erase(draft.next.draining, id);
  draft.changed = true;
  return Status::Ok();
}

Status Membership::Drain(const std::string& name, Draft& draft) const {
  ServerRecord* held = FindName(draft.next, name);
  if (held == nullptr) return Status(Code::kMiss, "no server is named '" + name + "'");
  std::vector<ServerId>& draining = draft.next.draining;
  const auto place = std::lower_bound(draining.begin(), draining.end(), held->id);
  if (place != draining.end() && *place == held->id) return Status::Ok();
  const auto& servers = draft.next.map.servers;
  const bool others = std::any_of(servers.begin(), servers.end(), [&](const ServerRecord& other) {
    return other.id != held->id && other.state == ServerState::kAlive;
  });
  if (!others) {
    return Status(
        Code::kFailedPrecondition,
        "no other server is alive that could take the shards of '" + name + "'; start one first");
  }
  draining.insert(place, held->id);
  if (held->state == ServerState::kAlive) held->state = ServerState::kDraining;
  draft.changed = true;
  return Status::Ok();
}

Status Membership::Undrain(const std::string& name, Draft& draft) const {
  ServerRecord* held = FindName(draft.next, name);
  if (held == nullptr) return Status(Code::kMiss, "no server is named '" + name + "'");
  if (std::erase(draft.next.draining, held->id) == 0) return Status::Ok();
  if (held->state == ServerState::kDraining) held->state = ServerState::kAlive;
  draft.changed = true;
  return Status::Ok();
}

bool Membership::IsBehind(const MapVersion& held) const {
  return held.SameCluster(state_.map.version) && state_.map.version.OlderThan(held);
}

Status Membership::Adopt(const RouteTable& table, Draft& draft) const {
  if (!IsBehind(table.version())) {
    return Status(Code::kFailedPrecondition,
                  "the map reported is not newer than " + ToString(state_.map.version));
  }
  if (draft.changed || !draft.heard.empty()) {
    return Status(Code::kBusy, "other changes were first; report the map again");
  }
  Result<DurableState> state = AdoptedFrom(table);
  if (!state.ok()) return state.status();
  draft.next = *std::move(state);
  draft.pulled.clear();
  draft.adopted = draft.changed = true;
  return Status::Ok();
}

std::string Membership::FreezeReason(Instant now, const Draft& draft) const {
  // Once frozen, time alone thaws nothing: the dead of then count until they are back or removed.
  const Instant when = frozen_.empty() ? now : frozen_since_;
  uint64_t servers = 0;
  uint64_t silent = 0;
  for (const ServerRecord& server : draft.next.map.servers) {
    const bool dead = server.state == ServerState::kDead;
    // Whoever is due now fell silent one dead-time ago, so the others of that time did so within
    // two; who is buried and fell silent before that has nothing to do with it.
    if (dead && Silence(when, server.id) >= 2 * options_.dead) continue;
    ++servers;
    silent += !Called(draft, server.id) && IsSilent(now, server);
  }
  if (silent < 2 || 3 * silent <= servers) return {};
  return std::to_string(silent) + " of " + std::to_string(servers) +
         " data servers fell silent together, so none of them is declared dead: look at the "
         "network. It ends when they are back, or with: simmctl node remove NAME";
}

std::vector<std::string> Membership::BuryTheDead(Instant now, Draft& draft) const {
  draft.frozen.clear();
  std::vector<ServerRecord*> due;
  if (now >= nobody_dies_before_) {
    for (ServerRecord& server : draft.next.map.servers) {
      if (server.state == ServerState::kDead || Called(draft, server.id)) continue;
      if (Silence(now, server.id) >= options_.dead) due.push_back(&server);
    }
  }
  std::vector<std::string> names;
  if (due.empty()) return names;
  draft.frozen = FreezeReason(now, draft);
  // A thaw, too, buries nobody: those who come back do not all do so in the same moment.
  if (!draft.frozen.empty() || !frozen_.empty()) return names;
  for (ServerRecord* server : due) {
    server->state = ServerState::kDead;
    names.push_back(server->name);
    draft.changed = true;
  }
  return names;
}

void Membership::SettleMoves(Instant now, Draft& draft) const {
  if (!draft.pulled.empty() && now - last_settled_ >= options_.heartbeat) draft.changed = true;
}

void Membership::Seal(Draft& draft) {
  const DurableState& base = *draft.base;
  if (!draft.changed) {
    draft.next = base;
    return;
  }
  // An adopted state brings its rows along; others build upon those of `base`.
  const DurableState from = draft.adopted ? draft.next : base;
  PlaceShards(from, draft.pulled, draft.next);
  if (!draft.adopted) ++draft.next.map.version.epoch;
}

void Membership::FollowRows(const MapContents& before) {
  const MapContents& map = state_.map;
  std::vector<uint64_t> since(map.owners.size(), map.version.epoch);
  std::set<uint32_t> pulled;
  for (uint32_t index = 0; index < map.owners.size() && !before.owners.empty(); ++index) {
    // The same owner with the same source, in whatever place of the row.
    const size_t first = size_t{index / map.replicas} * before.replicas;
    for (size_t old = first; old < first + before.replicas; ++old) {
      if (map.owners[index] != before.owners[old]) continue;
      since[index] = source_since_[old];
      if (!pulled_.empty() && pulled_.contains(static_cast<uint32_t>(old))) pulled.insert(index);
    }
  }
  source_since_ = std::move(since);
  pulled_ = std::move(pulled);
  rows_ = CountRows(map.owners, map.replicas);
}

void Membership::Commit(Instant now, Draft draft) {
  if (frozen_.empty()) frozen_since_ = now;
  if (!frozen_.empty() && draft.frozen.empty()) nobody_dies_before_ = now + options_.dead;
  frozen_ = std::move(draft.frozen);
  if (draft.changed) {
    SIMM_CHECK(state_.map.version.OlderThan(draft.next.map.version),
               "a draft of another epoch is committed");
    const DurableState before = std::exchange(state_, std::move(draft.next));
    if (!draft.pulled.empty()) last_settled_ = now;
    FollowRows(draft.adopted ? MapContents{} : before.map);
    std::erase_if(heard_,
                  [this](const auto& entry) { return FindId(state_, entry.first) == nullptr; });
    if (draft.adopted) {
      nobody_dies_before_ = now + options_.dead;
      heard_.clear();
      for (const ServerRecord& server : state_.map.servers) heard_[server.id].last = now;
    }
  }
  for (const Caller& caller : draft.heard) {
    Heard& heard = heard_[caller.id];
    if (caller.new_boot) {
      heard = Heard{};
      // What the old process has pulled may be gone with it.
      std::erase_if(pulled_, [&](uint32_t s) { return state_.map.owners[s].server == caller.id; });
    }
    heard.last = now;
    heard.version = caller.version;
  }
}

void Membership::TakePulled(const rpc::HeartbeatRequest& request) {
  const MapVersion& newest = state_.map.version;
  if (request.map.term != newest.term || request.map.epoch > newest.epoch) return;
  const uint32_t replicas = state_.map.replicas;
  for (const uint32_t shard : request.pulled_shards) {
    if (shard >= limits::kShards) continue;
    for (uint32_t index = shard * replicas; index < (shard + 1) * replicas; ++index) {
      const ShardOwner& row = state_.map.owners[index];
      if (row.server != request.id || row.source == kNoServer) continue;
      if (request.map.epoch >= source_since_[index]) pulled_.insert(index);
    }
  }
}

Duration Membership::DeafFor(const rpc::HeartbeatRequest& request) const {
  const auto longest = std::chrono::milliseconds(std::chrono::hours(1));
  const auto unanswered = std::chrono::milliseconds(
      std::min(request.unanswered_ms, static_cast<uint64_t>(longest.count())));
  return std::max(Duration::zero(), unanswered - options_.heartbeat);
}

rpc::HeartbeatReply Membership::Heartbeat(Instant now, const rpc::HeartbeatRequest& request) {
  rpc::HeartbeatReply reply;
  reply.map = state_.map.version;
  const ServerRecord* found = FindId(state_, request.id);
  const bool foreign = !request.map.cluster.IsZero() && !request.map.SameCluster(reply.map);
  if (found == nullptr || found->boot_id != request.boot_id || found->state == ServerState::kDead ||
      foreign || IsBehind(request.map)) {
    reply.register_again = true;
    return reply;
  }
  Heard& heard = heard_[request.id];
  heard.last = std::max(heard.last, now - DeafFor(request));
  heard.map = request.map;
  heard.stats = request.stats;
  heard.migration = request.migration;
  TakePulled(request);
  return reply;
}

void Membership::Tick(Instant now) {
  if (now - last_tick_ > options_.suspect) nobody_dies_before_ = now + options_.dead;
  last_tick_ = now;
}

}  // namespace simm::manager
