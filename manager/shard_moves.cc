#include "manager/shard_moves.h"

#include <algorithm>
#include <array>
#include <map>
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
      const bool same = pool != pools.end() && pool->second == server.pool_id;
      ability.serves = ability.pulls && same;
      new_pools_ |= pool != pools.end() && !same;
    }
  }
  Ability operator[](ServerId id) const {
    const auto found = of_.find(id);
    return found == of_.end() ? Ability{} : found->second;
  }
  // Some server of the last map has lost its memory since.
  bool new_pools() const { return new_pools_; }

 private:
  std::unordered_map<ServerId, Ability> of_;
  bool new_pools_ = false;
};

// One row on its way from `before` to `wanted`.
class RowMove {
 public:
  // `sources`: of the owners before, kNoServer where the source has been pulled from.
  RowMove(std::span<const ShardOwner> before, std::span<const ServerId> sources,
          std::span<const ServerId> wanted, uint32_t shard, const Abilities& can)
      : before_(before), wanted_(wanted), shard_(shard), can_(can) {
    for (size_t i = 0; i < before.size(); ++i) {
      if (sources[i] != kNoServer && can[sources[i]].serves) pending_[i] = sources[i];
    }
    Pair();
  }

  void Run(std::span<ShardOwner> next) const {
    std::array<bool, limits::kMaxReplicas> filled{};
    for (size_t k = 0; k < wanted_.size(); ++k) filled[k] = MoveOrKeep(k, next[k]);
    for (size_t k = 0; k < wanted_.size(); ++k) {
      if (!filled[k]) next[k] = Fill(k, next);
    }
  }

 private:
  static constexpr size_t kNone = limits::kMaxReplicas;

  size_t PlaceBefore(ServerId server) const {
    for (size_t i = 0; i < before_.size(); ++i) {
      if (server != kNoServer && before_[i].server == server) return i;
    }
    return kNone;
  }
  bool Leaves(size_t i) const {
    const ServerId server = before_[i].server;
    return server != kNoServer &&
           std::find(wanted_.begin(), wanted_.end(), server) == wanted_.end();
  }
  bool Comes(size_t k) const { return wanted_[k] != kNoServer && PlaceBefore(wanted_[k]) == kNone; }
  // Who comes takes the place of one who leaves: of the same place, else of any.
  void Pair() {
    leaver_.fill(kNone);
    std::array<bool, limits::kMaxReplicas> taken{};
    const auto pair = [&](size_t k, size_t i) {
      if (!Comes(k) || leaver_[k] != kNone || taken[i] || !Leaves(i)) return;
      leaver_[k] = i;
      taken[i] = true;
    };
    for (size_t k = 0; k < std::min(wanted_.size(), before_.size()); ++k) pair(k, k);
    for (size_t k = 0; k < wanted_.size(); ++k) {
      for (size_t i = 0; i < before_.size(); ++i) pair(k, i);
    }
  }

  // Place `k` if its owner stays or follows one who is there; else false, and `next` is empty.
  bool MoveOrKeep(size_t k, ShardOwner& next) const {
    next = {};
    const ServerId server = wanted_[k];
    if (server == kNoServer) return true;
    if (const size_t i = PlaceBefore(server); i != kNone) {
      const Ability can = can_[server];
      if (can.pulls && !can.serves && pending_[i] == kNoServer) return false;  // another pool
      next = {server, can.pulls ? pending_[i] : kNoServer};
      return true;
    }
    const size_t i = leaver_[k];
    if (i == kNone || !can_[before_[i].server].serves) return false;
    if (pending_[i] != kNoServer && pending_[i] != server) {
      next = {before_[i].server, pending_[i]};  // first things first
    } else {
      next = {server, can_[server].pulls ? before_[i].server : kNoServer};
    }
    return true;
  }

  // An owner that has everything and may be the source of `server`.
  ServerId WholeOwner(ServerId server) const {
    for (const bool stays : {true, false}) {  // a source that leaves would have to wait
      for (size_t n = 0; n < before_.size(); ++n) {
        const size_t i = (n + shard_) % before_.size();  // not all from the same one
        const ServerId owner = before_[i].server;
        if (owner == server || pending_[i] != kNoServer || Leaves(i) == stays) continue;
        if (can_[owner].serves) return owner;
      }
    }
    return kNoServer;
  }
  // Place `k`, whose owner has nobody to follow.
  ShardOwner Fill(size_t k, std::span<const ShardOwner> next) const {
    const ServerId server = wanted_[k];
    if (!can_[server].pulls) return {server, kNoServer};
    if (const ServerId whole = WholeOwner(server); whole != kNoServer) return {server, whole};
    if (const size_t i = leaver_[k]; i != kNone && pending_[i] != kNoServer) {
      return {server, pending_[i] == server ? kNoServer : pending_[i]};
    }
    for (const ShardOwner& other : next) {
      if (other.source != kNoServer && PlaceBefore(other.server) != kNone) return {};
    }
    for (size_t i = 0; i < before_.size(); ++i) {
      if (pending_[i] != kNoServer && pending_[i] != server) return {server, pending_[i]};
    }
    return {server, kNoServer};
  }

  const std::span<const ShardOwner> before_;
  const std::span<const ServerId> wanted_;
  const uint32_t shard_;
  const Abilities& can_;
  std::array<ServerId, limits::kMaxReplicas> pending_{};  // sources that are needed and there
  std::array<size_t, limits::kMaxReplicas> leaver_{};     // by place of `wanted`
};

// Nearly all rows: nothing moves and nothing is being pulled.
bool IsSettled(std::span<const ShardOwner> before, std::span<const ServerId> wanted) {
  return std::equal(before.begin(), before.end(), wanted.begin(), wanted.end(),
                    [](const ShardOwner& row, ServerId server) {
                      return row.server == server && row.source == kNoServer;
                    });
}

// Failure domains as numbers; servers that name none share one.
uint32_t ZoneOf(const std::string& name, std::map<std::string, uint32_t>& zones) {
  return zones.emplace(name, static_cast<uint32_t>(zones.size())).first->second;
}

}  // namespace

std::vector<ShardOwner> NextRows(std::span<const ShardOwner> before,
                                 std::span<const ServerRecord> servers_before,
                                 std::span<const ServerRecord> servers,
                                 std::span<const ServerId> owners,
                                 std::span<const uint32_t> pulled) {
  const size_t width_before = before.size() / limits::kShards;
  const size_t width = owners.size() / limits::kShards;
  SIMM_CHECK(before.size() == limits::kShards * width_before &&
                 owners.size() == limits::kShards * width && std::min(width_before, width) >= 1 &&
                 std::max(width_before, width) <= limits::kMaxReplicas,
             "rows of the wrong number");
  const Abilities can(servers_before, servers);
  std::vector<ShardOwner> rows(owners.size());
  auto next_pulled = pulled.begin();
  std::array<ServerId, limits::kMaxReplicas> sources{};
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    const auto row = before.subspan(shard * width_before, width_before);
    const auto wanted = owners.subspan(shard * width, width);
    const auto next = std::span(rows).subspan(shard * width, width);
    for (size_t i = 0; i < width_before; ++i) {
      const size_t index = shard * width_before + i;
      while (next_pulled != pulled.end() && *next_pulled < index) ++next_pulled;
      const bool is_pulled = next_pulled != pulled.end() && *next_pulled == index;
      sources[i] = is_pulled ? kNoServer : row[i].source;
    }
    if (IsSettled(row, wanted) && !can.new_pools()) {
      std::copy(row.begin(), row.end(), next.begin());
    } else {
      RowMove(row, sources, wanted, shard, can).Run(next);
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
  std::map<std::string, uint32_t> zones;
  for (const ServerRecord& server : next.map.servers) {
    servers.push_back(
        {server.id, server.weight, takers.contains(server.id), ZoneOf(server.zone, zones)});
  }
  Placement current{from.homes, {}};
  current.owners.reserve(from.map.owners.size());
  for (const ShardOwner& owner : from.map.owners) {
    // Of an owner that is gone before it had pulled, the source has what there is.
    const bool to_source = owner.source != kNoServer && !takers.contains(owner.server) &&
                           takers.contains(owner.source);
    current.owners.push_back(to_source ? owner.source : owner.server);
  }
  Placement placed = Place(current, servers, next.map.replicas);
  next.map.owners =
      NextRows(from.map.owners, from.map.servers, next.map.servers, placed.owners, pulled);
  next.homes = std::move(placed.homes);
}

RowCounts CountRows(std::span<const ShardOwner> owners, uint32_t replicas) {
  RowCounts counts;
  for (size_t first = 0; first < owners.size(); first += replicas) {
    const auto row = owners.subspan(first, replicas);
    bool moves = false;
    std::array<ServerId, limits::kMaxReplicas> whole{};
    size_t copies = 0;
    for (const ShardOwner& owner : row) {
      moves |= owner.source != kNoServer;
      const ServerId server = owner.source != kNoServer ? owner.source : owner.server;
      const auto end = whole.begin() + static_cast<ptrdiff_t>(copies);
      if (server == kNoServer || std::find(whole.begin(), end, server) != end) continue;
      whole[copies++] = server;
    }
    counts.moving += moves;
    counts.under_replicated += copies < replicas;
  }
  return counts;
}

}  // namespace simm::manager
