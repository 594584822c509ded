#include "tests/sim/map_oracle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace simm::manager {
void MapOracle::Follow(const MapContents& map) {
  map_ = map;
  zone_of_.assign(map.servers.empty() ? 1 : map.servers.back().id + 1, 0);
  for (const ServerRecord& server : map.servers) {
    zone_of_[server.id] = std::hash<std::string>()(server.zone);
  }
  if (map.replicas > 1) CheckRows();
}

std::span<const ShardOwner> MapOracle::Row(uint32_t shard) const {
  return {map_.owners.data() + size_t{shard} * map_.replicas, map_.replicas};
}

void MapOracle::CheckRows() const {
  std::set<std::string> zones;
  size_t takers = 0;
  for (const ServerState wanted : {ServerState::kAlive, ServerState::kDraining}) {
    if (takers > 0) break;
    for (const ServerRecord& server : map_.servers) {
      if (server.state != wanted) continue;
      zones.insert(server.zone);
      ++takers;
    }
  }
  if (takers == 0) return;
  const size_t in_row = std::min<size_t>(map_.replicas, takers);
  const size_t cap = (in_row + zones.size() - 1) / zones.size();
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    size_t owners = 0;
    size_t most_in_zone = 0;
    bool moving = false;
    for (const ShardOwner& owner : Row(shard)) {
      moving |= owner.source != kNoServer;
      if (owner.server == kNoServer) continue;
      ++owners;
      size_t in_zone = 0;
      for (const ShardOwner& other : Row(shard)) {
        in_zone += other.server != kNoServer && zone_of_[other.server] == zone_of_[owner.server];
      }
      most_in_zone = std::max(most_in_zone, in_zone);
    }
    ASSERT_GT(owners, 0U) << "shard " << shard << " has no owner while a server is alive";
    if (moving) continue;
    ASSERT_EQ(owners, in_row) << "shard " << shard;
    ASSERT_LE(most_in_zone, cap) << "shard " << shard << " lies in one zone";
  }
}

}  // namespace simm::manager
