#include "manager/placement.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <unordered_map>
#include <utility>

#include "common/base/check.h"
#include "common/base/limits.h"
#include "manager/quota.h"
#include "manager/row_board.h"

namespace simm::manager {
namespace {

constexpr uint32_t kShards = limits::kShards;

// Id -> index by open addressing: every placement asks a few hundred thousand times.
class IndexOf {
 public:
  explicit IndexOf(std::span<const PlacementServer> servers)
      : slots_(std::bit_ceil(4 * servers.size() + 4), {kNoServer, kNobody}) {
    for (uint32_t i = 0; i < servers.size(); ++i) {
      Slot& slot = slots_[Find(servers[i].id)];
      SIMM_CHECK(servers[i].id != kNoServer && slot.index == kNobody,
                 "a server twice, or without id");
      slot = {servers[i].id, i};
    }
  }
  // kNobody: not one of them.
  uint32_t operator[](ServerId id) const { return slots_[Find(id)].index; }

 private:
  struct Slot {
    ServerId id;
    uint32_t index;
  };

  size_t Find(ServerId id) const {
    size_t place = (id * 0x9e3779b1U) & (slots_.size() - 1);
    while (slots_[place].id != id && slots_[place].id != kNoServer) {
      place = (place + 1) & (slots_.size() - 1);
    }
    return place;
  }

  std::vector<Slot> slots_;
};

// The rows of `ids` as indices, `replicas` places each; kNobody for who is not in `index`. Of
// longer rows some places are left out, not always the same ones: places may go by zones.
std::vector<uint32_t> ToIndices(const std::vector<ServerId>& ids, const IndexOf& index,
                                uint32_t replicas) {
  std::vector<uint32_t> rows(size_t{kShards} * replicas, kNobody);
  const size_t width = ids.size() / kShards;
  for (size_t shard = 0; shard < kShards; ++shard) {
    for (size_t k = 0; k < std::min<size_t>(width, replicas); ++k) {
      const size_t turn = static_cast<uint32_t>(shard * 0x9e3779b1U) >> 16;
      const size_t from = width <= replicas ? k : (turn + k) % width;
      rows[shard * replicas + k] = index[ids[shard * width + from]];
    }
  }
  return rows;
}

std::vector<ServerId> ToIds(const std::vector<uint32_t>& rows,
                            std::span<const PlacementServer> servers) {
  std::vector<ServerId> ids(rows.size(), kNoServer);
  for (size_t place = 0; place < rows.size(); ++place) {
    if (rows[place] != kNobody) ids[place] = servers[rows[place]].id;
  }
  return ids;
}

Shares SharesOf(std::span<const PlacementServer> servers) {
  Shares shares;
  std::unordered_map<uint32_t, uint32_t> zones;
  for (const PlacementServer& server : servers) {
    SIMM_CHECK(server.weight > 0, "a server without weight");
    shares.ids.push_back(server.id);
    shares.weights.push_back(server.weight);
    const auto next = static_cast<uint32_t>(zones.size());
    shares.zones.push_back(zones.emplace(server.zone, next).first->second);
  }
  shares.held.assign(servers.size(), 0);
  shares.least.assign(servers.size(), 0);
  return shares;
}

std::vector<ServerId> PlaceHomes(const Placement& current, std::span<const PlacementServer> servers,
                                 uint32_t replicas) {
  const IndexOf index(servers);
  // The interim owner of a removed server's shard becomes its home: nothing moves.
  const std::vector<uint32_t> interim = ToIndices(current.owners, index, replicas);
  RowBoard board(SharesOf(servers), ToIndices(current.homes, index, replicas), replicas);
  return ToIds(board.Settle(interim), servers);
}

// Without an alive server the owners stay, as far as they are known still.
std::vector<ServerId> OwnersOfTheDead(const Placement& current, const std::vector<ServerId>& homes,
                                      std::span<const PlacementServer> servers, uint32_t replicas) {
  const IndexOf known(servers);
  if (current.owners.empty()) return homes;
  std::vector<uint32_t> rows = ToIndices(current.owners, known, replicas);
  const std::vector<uint32_t> home = ToIndices(homes, known, replicas);
  for (size_t place = 0; place < rows.size(); ++place) {
    const auto row = rows.begin() + static_cast<ptrdiff_t>(place / replicas * replicas);
    const bool taken = std::find(row, row + replicas, home[place]) != row + replicas;
    if (rows[place] == kNobody && !taken) rows[place] = home[place];
  }
  return ToIds(rows, servers);
}

std::vector<ServerId> PlaceOwners(const Placement& current, const std::vector<ServerId>& homes,
                                  std::span<const PlacementServer> servers, uint32_t replicas) {
  std::vector<PlacementServer> alive;
  std::copy_if(servers.begin(), servers.end(), std::back_inserter(alive),
               [](const PlacementServer& server) { return server.alive; });
  if (alive.empty()) return OwnersOfTheDead(current, homes, servers, replicas);
  const IndexOf index(alive);
  std::vector<uint32_t> rows = ToIndices(homes, index, replicas);
  const std::vector<uint32_t> now = ToIndices(current.owners, index, replicas);
  std::vector<bool> pinned(rows.size());
  Shares shares = SharesOf(alive);
  for (size_t place = 0; place < rows.size(); ++place) {
    if (rows[place] == kNobody) continue;
    pinned[place] = true;
    ++shares.least[rows[place]];
  }
  // Who owns the shard already stands in for a dead home, if it can: first in its own place.
  for (size_t first = 0; first < rows.size(); first += replicas) {
    const auto row = rows.begin() + static_cast<ptrdiff_t>(first);
    for (size_t k = 0; k < replicas; ++k) {
      if (row[k] != kNobody || now[first + k] == kNobody) continue;
      if (std::find(row, row + replicas, now[first + k]) == row + replicas) row[k] = now[first + k];
    }
    for (size_t k = 0; k < replicas; ++k) {
      const auto free = std::find(row, row + replicas, kNobody);
      if (now[first + k] == kNobody || free == row + replicas) continue;
      if (std::find(row, row + replicas, now[first + k]) == row + replicas) *free = now[first + k];
    }
  }
  RowBoard board(std::move(shares), std::move(rows), replicas, std::move(pinned));
  return ToIds(board.Settle({}), alive);
}

}  // namespace

Placement Place(const Placement& current, std::span<const PlacementServer> servers,
                uint32_t replicas) {
  SIMM_CHECK(current.homes.size() % kShards == 0 && current.owners.size() % kShards == 0 &&
                 current.homes.empty() == current.owners.empty(),
             "a placement of the wrong size");
  SIMM_CHECK(replicas >= 1 && replicas <= limits::kMaxReplicas, "a wrong number of replicas");
  Placement next;
  if (servers.empty()) {
    next.homes.assign(size_t{kShards} * replicas, kNoServer);
    next.owners = next.homes;
    return next;
  }
  next.homes = PlaceHomes(current, servers, replicas);
  next.owners = PlaceOwners(current, next.homes, servers, replicas);
  return next;
}

}  // namespace simm::manager
