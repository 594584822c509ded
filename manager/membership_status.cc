// What Membership knows, for people and for metrics.
#include <algorithm>

#include "manager/membership.h"

namespace simm::manager {

bool Membership::AllApplied(Instant now) const {
  return std::all_of(
      state_.map.servers.begin(), state_.map.servers.end(), [&](const ServerRecord& server) {
        return IsSilent(now, server) || heard_.at(server.id).map == state_.map.version;
      });
}

std::map<ServerState, uint32_t> Membership::CountStates(Instant now) const {
  std::map<ServerState, uint32_t> counts{{ServerState::kAlive, 0},
                                         {ServerState::kSuspect, 0},
                                         {ServerState::kDead, 0},
                                         {ServerState::kDraining, 0}};
  for (const ServerRecord& server : state_.map.servers) ++counts[StateAt(now, server)];
  return counts;
}

std::vector<rpc::NodeStatus> Membership::Nodes(Instant now) const {
  ServerId top = kNoServer;  // ids are small numbers: counted once a second, without hashing
  for (const ServerRecord& server : state_.map.servers) top = std::max(top, server.id);
  std::vector<uint32_t> shards(top + 1), coming(top + 1), leaving(top + 1);
  for (const ShardOwner& owner : state_.map.owners) {
    ++shards[owner.server];
    if (owner.source == kNoServer) continue;
    ++coming[owner.server];
    ++leaving[owner.source];
  }
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
    node.migration = heard.migration;
    node.shards_coming = coming[server.id];
    node.shards_leaving = leaving[server.id];
  }
  return nodes;
}

bool Membership::IsDrained(const std::string& name) const {
  const auto& servers = state_.map.servers;
  const auto found = std::find_if(servers.begin(), servers.end(),
                                  [&](const ServerRecord& server) { return server.name == name; });
  const auto& draining = state_.draining;
  if (found == servers.end()) return false;
  if (!std::binary_search(draining.begin(), draining.end(), found->id)) return false;
  return std::none_of(
      state_.map.owners.begin(), state_.map.owners.end(),
      [&](const ShardOwner& row) { return row.server == found->id || row.source == found->id; });
}

}  // namespace simm::manager
