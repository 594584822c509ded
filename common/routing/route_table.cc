#include "common/routing/route_table.h"

#include <algorithm>
#include <unordered_set>

#include "common/base/check.h"

namespace simm {
namespace {

Status Contradiction(const MapVersion& version, const std::string& what) {
  return Status(Code::kInvalidArgument, "the map of " + ToString(version) + " is refused: " + what);
}

bool IsKnownState(ServerState state) {
  return state >= ServerState::kAlive && state <= ServerState::kDraining;
}

}  // namespace

std::string ToString(const MapVersion& version) {
  const std::string cluster = ToString(version.cluster);
  return "cluster " + cluster.substr(0, 8) + " term " + std::to_string(version.term) + " epoch " +
         std::to_string(version.epoch);
}

std::string_view ServerStateName(ServerState state) {
  switch (state) {
    case ServerState::kAlive:
      return "alive";
    case ServerState::kSuspect:
      return "suspect";
    case ServerState::kDead:
      return "dead";
    case ServerState::kDraining:
      return "draining";
  }
  return "unknown";
}

bool MayReplace(const MapVersion& held, const MapVersion& offered) {
  return held.SameCluster(offered) && !offered.OlderThan(held);
}

RouteTable::RouteTable(MapContents contents) : contents_(std::move(contents)) {
  for (size_t i = 0; i < contents_.servers.size(); ++i) by_id_.emplace(contents_.servers[i].id, i);
  for (const auto& [id, name] : contents_.namespaces) by_namespace_.emplace(name, id);
  for (const ShardOwner& owner : contents_.owners) {
    if (owner.server != kNoServer) ++shards_of_[owner.server];
  }
}

Status RouteTable::Check() const {
  const MapVersion& version = contents_.version;
  if (version.cluster.IsZero()) return Contradiction(version, "it names no cluster");
  if (contents_.replicas == 0 || contents_.replicas > limits::kMaxReplicas) {
    return Contradiction(version, std::to_string(contents_.replicas) + " owners a shard");
  }
  if (contents_.servers.size() > limits::kMaxServers) {
    return Contradiction(version, "more than " + std::to_string(limits::kMaxServers) + " servers");
  }
  if (contents_.owners.size() != size_t{limits::kShards} * contents_.replicas) {
    return Contradiction(version, std::to_string(contents_.owners.size()) + " entries of owners");
  }
  if (by_id_.size() != contents_.servers.size()) return Contradiction(version, "a server id twice");
  for (const ServerRecord& server : contents_.servers) {
    if (server.id == kNoServer) return Contradiction(version, "a server with the id 0");
    if (!IsKnownState(server.state)) return Contradiction(version, "a server in no known state");
  }
  std::unordered_set<NamespaceId> ids;
  for (const auto& [id, name] : contents_.namespaces) {
    if (!ids.insert(id).second) return Contradiction(version, "a namespace id twice");
    if (name.empty() || name.size() > limits::kMaxNamespaceNameBytes) {
      return Contradiction(version,
                           "a namespace name of " + std::to_string(name.size()) + " bytes");
    }
  }
  if (by_namespace_.size() != ids.size()) return Contradiction(version, "a namespace name twice");
  return CheckRows();
}

Status RouteTable::CheckRows() const {
  const MapVersion& version = contents_.version;
  // Runs of one server are common: the last answer saves most of the look-ups.
  ServerId known = kNoServer;
  for (const ShardOwner& owner : contents_.owners) {
    for (const ServerId id : {owner.server, owner.source}) {
      if (id == kNoServer || id == known) continue;
      if (!by_id_.contains(id)) {
        return Contradiction(version,
                             "server " + std::to_string(id) + " owns shards, has no record");
      }
      known = id;
    }
    if (owner.source != kNoServer && owner.source == owner.server) {
      return Contradiction(version,
                           "server " + std::to_string(owner.source) + " is its own source");
    }
  }
  if (contents_.replicas == 1) return Status::Ok();
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    const auto row = Owners(shard);
    for (size_t i = 0; i < row.size(); ++i) {
      if (row[i].server == kNoServer && row[i].source != kNoServer) {
        return Contradiction(version, "an empty place has a source");
      }
      for (size_t k = 0; k < i; ++k) {
        if (row[i].server == kNoServer || row[i].server != row[k].server) continue;
        return Contradiction(version, "server " + std::to_string(row[i].server) +
                                          " is twice an owner of shard " + std::to_string(shard));
      }
    }
  }
  return Status::Ok();
}

Result<std::shared_ptr<const RouteTable>> RouteTable::Create(MapContents contents) {
  std::shared_ptr<const RouteTable> table(new RouteTable(std::move(contents)));
  SIMM_RETURN_IF_ERROR(table->Check());
  return table;
}

Result<std::shared_ptr<const RouteTable>> RouteTable::Apply(const MapDiff& diff) const {
  if (diff.from != version()) {
    return Status(Code::kFailedPrecondition, "a diff from " + simm::ToString(diff.from) +
                                                 " does not fit " + simm::ToString(version()));
  }
  if (!MayReplace(version(), diff.to)) {
    return Contradiction(diff.to, "its diff leads back from " + simm::ToString(version()));
  }
  MapContents next = contents_;
  next.version = diff.to;
  if (!diff.removed_servers.empty()) {
    const std::unordered_set<ServerId> removed(diff.removed_servers.begin(),
                                               diff.removed_servers.end());
    std::erase_if(next.servers, [&](const ServerRecord& s) { return removed.contains(s.id); });
  }
  std::unordered_map<ServerId, size_t> place;
  for (size_t i = 0; i < next.servers.size(); ++i) place.emplace(next.servers[i].id, i);
  for (const ServerRecord& server : diff.servers) {
    const auto [found, added] = place.emplace(server.id, next.servers.size());
    if (added) {
      next.servers.push_back(server);
    } else {
      next.servers[found->second] = server;
    }
  }
  // Ascending ids: whoever reached a version by diffs holds the very table that a snapshot gives.
  std::sort(next.servers.begin(), next.servers.end(),
            [](const ServerRecord& a, const ServerRecord& b) { return a.id < b.id; });
  next.namespaces.insert(next.namespaces.end(), diff.namespaces.begin(), diff.namespaces.end());
  std::sort(next.namespaces.begin(), next.namespaces.end());
  for (const auto& [shard, owners] : diff.rows) {
    if (shard >= limits::kShards || owners.size() != next.replicas) {
      return Contradiction(diff.to, "a row of shard " + std::to_string(shard) + " with " +
                                        std::to_string(owners.size()) + " owners");
    }
    std::copy(owners.begin(), owners.end(),
              next.owners.begin() + static_cast<ptrdiff_t>(size_t{shard} * next.replicas));
  }
  return Create(std::move(next));
}

MapDiff RouteTable::DiffFrom(const RouteTable& older) const {
  SIMM_CHECK(version().SameCluster(older.version()), "a diff between two clusters");
  SIMM_CHECK(replicas() == older.replicas(), "a diff between two replica counts");
  MapDiff diff;
  diff.from = older.version();
  diff.to = version();
  for (const ServerRecord& server : contents_.servers) {
    const ServerRecord* before = older.FindServer(server.id);
    if (before == nullptr || *before != server) diff.servers.push_back(server);
  }
  for (const ServerRecord& server : older.contents_.servers) {
    if (FindServer(server.id) == nullptr) diff.removed_servers.push_back(server.id);
  }
  for (const auto& [id, name] : contents_.namespaces) {
    if (!older.by_namespace_.contains(name)) diff.namespaces.emplace_back(id, name);
  }
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    const auto now = Owners(shard);
    const auto before = older.Owners(shard);
    if (!std::equal(now.begin(), now.end(), before.begin())) {
      diff.rows.emplace_back(shard, std::vector<ShardOwner>(now.begin(), now.end()));
    }
  }
  return diff;
}

const ServerRecord* RouteTable::FindServer(ServerId id) const {
  const auto found = by_id_.find(id);
  return found == by_id_.end() ? nullptr : &contents_.servers[found->second];
}

std::optional<NamespaceId> RouteTable::FindNamespace(std::string_view name) const {
  const auto found = by_namespace_.find(std::string(name));
  if (found == by_namespace_.end()) return std::nullopt;
  return found->second;
}

uint32_t RouteTable::ShardsOf(ServerId id) const {
  const auto found = shards_of_.find(id);
  return found == shards_of_.end() ? 0 : found->second;
}

}  // namespace simm
