#include "manager/shard_moves.h"

#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "manager/placement.h"

namespace simm::manager {
namespace {

struct Ability {
  bool here = false;    // in the next map, and not dead
  bool pulls = false;   // can be a destination
  bool serves = false;  // can be a source: its memory is that of the last map
};

// Answers by id; a row's servers are mostly those of the row before.
class Abilities {
 public:
  Abilities(std::span<const ServerRecord> before, std::span<const ServerRecord> servers) {
    std::unordered_map<ServerId, Id128> pools;
    for (const ServerRecord& server : before) pools.emplace(server.id, server.pool_id);
    for (const ServerRecord& server : servers) {
      Ability& ability = of_[server.id];
      ability.here = server.state != ServerState::kDead;
      ability.pulls = ability.here && server.Can(kCapabilityMigration);
      const auto pool = pools.find(server.id);
      ability.serves = ability.pulls && pool != pools.end() && pool->second == server.pool_id;
    }
  }
  Ability operator[](ServerId id) const {
    const auto found = of_.find(id);
    return found == of_.end() ? Ability{} : found->second;
  }

 private:
  std::unordered_map<ServerId, Ability> of_;
};

ShardOwner NextRow(const ShardOwner& before, ServerId owner, bool pulled, const Abilities& can) {
  const bool pending = before.source != kNoServer && !pulled && can[before.source].serves;
  const ServerId source = pending ? before.source : kNoServer;
  if (owner == before.server) return {owner, can[owner].pulls ? source : kNoServer};
  if (can[before.server].serves) {
    if (pending && owner != source) return {before.server, source};
    return {owner, can[owner].pulls ? before.server : kNoServer};
  }
  return {owner, can[owner].pulls && source != owner ? source : kNoServer};
}

}  // namespace

std::vector<ShardOwner> NextRows(std::span<const ShardOwner> before,
                                 std::span<const ServerRecord> servers_before,
                                 std::span<const ServerRecord> servers,
                                 std::span<const ServerId> owners,
                                 std::span<const uint32_t> pulled) {
  SIMM_CHECK(before.size() == limits::kShards && owners.size() == limits::kShards,
             "rows of the wrong number");
  const Abilities can(servers_before, servers);
  std::vector<ShardOwner> rows(limits::kShards);
  auto next_pulled = pulled.begin();
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    while (next_pulled != pulled.end() && *next_pulled < shard) ++next_pulled;
    const bool is_pulled = next_pulled != pulled.end() && *next_pulled == shard;
    // Nearly all rows: nothing moves and nothing is being pulled.
    if (owners[shard] == before[shard].server && before[shard].source == kNoServer) {
      rows[shard] = before[shard];
    } else {
      rows[shard] = NextRow(before[shard], owners[shard], is_pulled, can);
    }
  }
  return rows;
}

void PlaceShards(const DurableState& from, std::span<const uint32_t> pulled, DurableState& next) {
  std::unordered_set<ServerId> takers;
  for (const ServerState wanted : {ServerState::kAlive, ServerState::kDraining}) {
    if (!takers.empty()) break;
    for (const ServerRecord& server : next.map.servers) {
      if (server.state == wanted) takers.insert(server.id);
    }
  }
  std::vector<PlacementServer> servers;
  for (const ServerRecord& server : next.map.servers) {
    servers.push_back({server.id, server.weight, takers.contains(server.id)});
  }
  Placement current{from.homes, {}};
  current.owners.reserve(limits::kShards);
  for (const ShardOwner& owner : from.map.owners) {
    // Of an owner that is gone before it had pulled, the source has what there is.
    const bool to_source = owner.source != kNoServer && !takers.contains(owner.server) &&
                           takers.contains(owner.source);
    current.owners.push_back(to_source ? owner.source : owner.server);
  }
  Placement placed = Place(current, servers);
  next.map.owners =
      NextRows(from.map.owners, from.map.servers, next.map.servers, placed.owners, pulled);
  next.homes = std::move(placed.homes);
}

}  // namespace simm::manager
