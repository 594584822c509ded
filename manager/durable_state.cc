#include "manager/durable_state.h"

#include <algorithm>

#include "common/base/limits.h"

namespace simm::manager {
namespace {

Status Corrupt(const std::string& what) { return Status(Code::kCorrupt, what); }

}  // namespace

DurableState NewCluster(const Id128& cluster) {
  DurableState state;
  state.map.version = {cluster, 1, 1};
  state.map.replicas = 1;
  state.map.namespaces.emplace_back(NamespaceId{0}, "default");
  state.map.owners.resize(limits::kShards);
  state.homes.assign(limits::kShards, kNoServer);
  return state;
}

Result<DurableState> AdoptedFrom(const RouteTable& table) {
  DurableState state;
  state.map = table.contents();
  ++state.map.version.term;
  ++state.map.version.epoch;
  std::sort(state.map.servers.begin(), state.map.servers.end(),
            [](const ServerRecord& a, const ServerRecord& b) { return a.id < b.id; });
  ServerId last = kNoServer;
  for (const ServerRecord& server : state.map.servers) {
    last = server.id;
    if (server.state == ServerState::kDraining) state.draining.push_back(server.id);
  }
  // Ids above the highest of this map may have been given to servers that were removed since.
  if (last > UINT32_MAX - limits::kMaxServers - 1) return Corrupt("its server ids are used up");
  state.next_server = last + static_cast<ServerId>(limits::kMaxServers) + 1;
  for (const ShardOwner& owner : state.map.owners) state.homes.push_back(owner.server);
  SIMM_RETURN_IF_ERROR(CheckState(state));
  return state;
}

Status CheckState(const DurableState& state) {
  Result<std::shared_ptr<const RouteTable>> table = RouteTable::Create(state.map);
  if (!table.ok()) return Corrupt(table.status().message());
  ServerId last = kNoServer;
  for (const ServerRecord& server : state.map.servers) {
    if (server.id <= last || server.id >= state.next_server || server.weight == 0 ||
        server.weight > limits::kMaxServerWeight) {
      return Corrupt("its list of servers is inconsistent");
    }
    last = server.id;
  }
  if (state.homes.size() != state.map.owners.size()) {
    return Corrupt("it has homes of too few shards");
  }
  for (const ServerId home : state.homes) {
    if (home != kNoServer && table.value()->FindServer(home) == nullptr) {
      return Corrupt("a shard's home has no record");
    }
  }
  last = kNoServer;
  for (const ServerId id : state.draining) {
    if (id <= last || table.value()->FindServer(id) == nullptr) {
      return Corrupt("its list of draining servers is inconsistent");
    }
    last = id;
  }
  return Status::Ok();
}

}  // namespace simm::manager
