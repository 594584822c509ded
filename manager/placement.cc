#include "manager/placement.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <numeric>

#include "common/base/check.h"
#include "common/base/limits.h"

namespace simm::manager {
namespace {

constexpr uint32_t kNobody = UINT32_MAX;  // index of no server
constexpr uint32_t kShards = limits::kShards;

// The preference of a shard for a server (highest random weight; Thaler, Ravishankar 1998), by the
// finalizer of MurmurHash3. Weights come in through the quotas. Part of no wire or disk format: it
// may change between versions and then moves nothing by itself.
uint64_t Score(uint32_t shard, ServerId server) {
  uint64_t x = (uint64_t{server} << 32 | shard) * 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdULL;
  x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53ULL;
  return x ^ (x >> 33);
}

// The servers that share in one distribution, and how far each has come. Indices, not ids.
struct Shares {
  std::vector<ServerId> ids;
  std::vector<uint64_t> weights;
  std::vector<uint32_t> held;    // now
  std::vector<uint32_t> least;   // never below this many
  std::vector<uint32_t> target;  // sums to kShards
};

struct Quota {
  std::vector<uint32_t> floor;
  std::vector<bool> fractional;        // the fair share is no whole number
  std::vector<uint32_t> by_remainder;  // indices, largest remainder first
};

Quota QuotaOf(const Shares& shares) {
  const size_t n = shares.ids.size();
  unsigned __int128 total = 0;
  for (const uint64_t weight : shares.weights) total += weight;
  Quota quota{std::vector<uint32_t>(n), std::vector<bool>(n), std::vector<uint32_t>(n)};
  std::vector<unsigned __int128> remainder(n);
  for (size_t i = 0; i < n; ++i) {
    const unsigned __int128 product = static_cast<unsigned __int128>(shares.weights[i]) * kShards;
    quota.floor[i] = static_cast<uint32_t>(product / total);
    remainder[i] = product % total;
    quota.fractional[i] = remainder[i] != 0;
  }
  std::iota(quota.by_remainder.begin(), quota.by_remainder.end(), 0U);
  std::sort(quota.by_remainder.begin(), quota.by_remainder.end(), [&](uint32_t a, uint32_t b) {
    if (remainder[a] != remainder[b]) return remainder[a] > remainder[b];
    return shares.ids[a] < shares.ids[b];
  });
  return quota;
}

// Targets of floor or ceil that sum to kShards exactly, with as few moves as can be: who holds more
// than its floor keeps the extra shard if it may. When rounding alone would make a server give up a
// shard, another one stays a shard below its floor instead.
void SetTargets(Shares& shares) {
  const size_t n = shares.ids.size();
  const Quota quota = QuotaOf(shares);
  shares.target.resize(n);
  int64_t excess = -int64_t{kShards};
  for (size_t i = 0; i < n; ++i) {
    const uint32_t ceil = quota.floor[i] + (quota.fractional[i] ? 1 : 0);
    shares.target[i] = std::max(std::clamp(shares.held[i], quota.floor[i], ceil), shares.least[i]);
    excess += shares.target[i];
  }
  for (size_t k = 0; excess < 0 && k < n; ++k) {
    const uint32_t i = quota.by_remainder[k];
    if (quota.fractional[i] && shares.target[i] == quota.floor[i]) {
      ++shares.target[i];
      ++excess;
    }
  }
  const auto lower = [&](auto may) {
    for (size_t k = n; excess > 0 && k-- > 0;) {
      const uint32_t i = quota.by_remainder[k];
      if (may(i)) {
        --shares.target[i];
        --excess;
      }
    }
  };
  lower([&](uint32_t i) {
    return shares.target[i] == quota.floor[i] && shares.held[i] + 1 == shares.target[i];
  });
  lower([&](uint32_t i) {
    return shares.target[i] > quota.floor[i] && shares.target[i] > shares.least[i];
  });
  while (excess > 0) {
    lower([&](uint32_t i) { return shares.target[i] > shares.least[i]; });
  }
  SIMM_CHECK(excess == 0, "the quotas do not sum to the number of shards");
}

// Who of those below their target the shard prefers; kNobody if all are served.
class Receivers {
 public:
  explicit Receivers(const Shares& shares) : shares_(shares) {
    for (uint32_t i = 0; i < shares.ids.size(); ++i) {
      if (shares.held[i] < shares.target[i]) open_.push_back(i);
    }
  }
  bool empty() const { return open_.empty(); }
  // Position in the list of open receivers.
  size_t Best(uint32_t shard, uint64_t* score) const {
    size_t best = 0;
    *score = 0;
    for (size_t k = 0; k < open_.size(); ++k) {
      const uint64_t candidate = Score(shard, shares_.ids[open_[k]]);
      if (candidate >= *score) {
        *score = candidate;
        best = k;
      }
    }
    return best;
  }
  uint32_t At(size_t position) const { return open_[position]; }
  void Close(size_t position) { open_.erase(open_.begin() + static_cast<ptrdiff_t>(position)); }

 private:
  const Shares& shares_;
  std::vector<uint32_t> open_;  // in the order of ids
};

// Takes from each server above its target the shards that the receivers prefer most, of those that
// `may_leave`. The freed entries of `row` become kNobody.
template <typename MayLeave>
void FreeExcess(Shares& shares, std::vector<uint32_t>& row, MayLeave may_leave) {
  const Receivers receivers(shares);
  std::vector<std::vector<std::pair<uint64_t, uint32_t>>> offers(shares.ids.size());
  for (uint32_t shard = 0; shard < kShards; ++shard) {
    const uint32_t i = row[shard];
    if (i == kNobody || shares.held[i] <= shares.target[i] || !may_leave(shard)) continue;
    uint64_t score = 0;
    receivers.Best(shard, &score);
    offers[i].emplace_back(score, shard);
  }
  for (size_t i = 0; i < offers.size(); ++i) {
    if (shares.held[i] <= shares.target[i]) continue;
    const uint32_t excess = shares.held[i] - shares.target[i];
    SIMM_CHECK(excess <= offers[i].size(), "a server must give up more shards than it may");
    std::nth_element(offers[i].begin(), offers[i].begin() + excess - 1, offers[i].end(),
                     std::greater<>());
    for (uint32_t k = 0; k < excess; ++k) row[offers[i][k].second] = kNobody;
    shares.held[i] = shares.target[i];
  }
}

// Gives each freed shard to the `hint` of that shard if it is below its target, else to the
// preferred one of those that are.
template <typename Hint>
void AssignFreed(Shares& shares, std::vector<uint32_t>& row, Hint hint) {
  for (uint32_t shard = 0; shard < kShards; ++shard) {
    const uint32_t wanted = row[shard] == kNobody ? hint(shard) : kNobody;
    if (wanted == kNobody || shares.held[wanted] >= shares.target[wanted]) continue;
    row[shard] = wanted;
    ++shares.held[wanted];
  }
  Receivers receivers(shares);
  for (uint32_t shard = 0; shard < kShards; ++shard) {
    if (row[shard] != kNobody) continue;
    SIMM_CHECK(!receivers.empty(), "a freed shard finds no server below its quota");
    uint64_t score = 0;
    const size_t position = receivers.Best(shard, &score);
    const uint32_t i = receivers.At(position);
    row[shard] = i;
    if (++shares.held[i] == shares.target[i]) receivers.Close(position);
  }
}

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

// The entries of `ids` as indices; kNobody for who is not in `index`.
std::vector<uint32_t> ToIndices(const std::vector<ServerId>& ids, const IndexOf& index) {
  std::vector<uint32_t> row(kShards, kNobody);
  for (uint32_t shard = 0; shard < kShards && shard < ids.size(); ++shard) {
    row[shard] = index[ids[shard]];
  }
  return row;
}

Shares SharesOf(std::span<const PlacementServer> servers, const std::vector<uint32_t>& row) {
  Shares shares;
  for (const PlacementServer& server : servers) {
    SIMM_CHECK(server.weight > 0, "a server without weight");
    shares.ids.push_back(server.id);
    shares.weights.push_back(server.weight);
  }
  shares.held.assign(servers.size(), 0);
  shares.least.assign(servers.size(), 0);
  for (const uint32_t i : row) {
    if (i != kNobody) ++shares.held[i];
  }
  return shares;
}

std::vector<ServerId> ToIds(const std::vector<uint32_t>& row, const Shares& shares) {
  std::vector<ServerId> ids(kShards);
  for (uint32_t shard = 0; shard < kShards; ++shard) ids[shard] = shares.ids[row[shard]];
  return ids;
}

std::vector<ServerId> PlaceHomes(const Placement& current,
                                 std::span<const PlacementServer> servers) {
  const IndexOf index(servers);
  std::vector<uint32_t> row = ToIndices(current.homes, index);
  Shares shares = SharesOf(servers, row);
  SetTargets(shares);
  FreeExcess(shares, row, [](uint32_t) { return true; });
  // The interim owner of a removed server's shard becomes its home: nothing moves.
  const std::vector<uint32_t> interim = ToIndices(current.owners, index);
  AssignFreed(shares, row, [&](uint32_t shard) { return interim[shard]; });
  return ToIds(row, shares);
}

std::vector<ServerId> PlaceOwners(const Placement& current, const std::vector<ServerId>& homes,
                                  std::span<const PlacementServer> servers) {
  std::vector<PlacementServer> alive;
  std::copy_if(servers.begin(), servers.end(), std::back_inserter(alive),
               [](const PlacementServer& server) { return server.alive; });
  if (alive.empty()) {
    std::vector<ServerId> owners = current.owners.empty() ? homes : current.owners;
    const IndexOf known(servers);
    for (uint32_t shard = 0; shard < kShards; ++shard) {
      if (known[owners[shard]] == kNobody) owners[shard] = homes[shard];
    }
    return owners;
  }
  const IndexOf index(alive);
  const std::vector<uint32_t> home = ToIndices(homes, index);
  std::vector<uint32_t> row = ToIndices(current.owners, index);
  std::vector<uint32_t> at_home(alive.size(), 0);
  for (uint32_t shard = 0; shard < kShards; ++shard) {
    if (home[shard] == kNobody) continue;
    row[shard] = home[shard];
    ++at_home[home[shard]];
  }
  Shares shares = SharesOf(alive, row);
  shares.least = std::move(at_home);
  SetTargets(shares);
  FreeExcess(shares, row, [&](uint32_t shard) { return home[shard] == kNobody; });
  AssignFreed(shares, row, [](uint32_t) { return kNobody; });
  return ToIds(row, shares);
}

}  // namespace

Placement Place(const Placement& current, std::span<const PlacementServer> servers) {
  SIMM_CHECK(current.homes.size() == current.owners.size() &&
                 (current.homes.empty() || current.homes.size() == kShards),
             "a placement of the wrong size");
  Placement next;
  if (servers.empty()) {
    next.homes.assign(kShards, kNoServer);
    next.owners.assign(kShards, kNoServer);
    return next;
  }
  next.homes = PlaceHomes(current, servers);
  next.owners = PlaceOwners(current, next.homes, servers);
  return next;
}

}  // namespace simm::manager
