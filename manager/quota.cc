#include "manager/quota.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "common/base/check.h"

namespace simm::manager {
namespace {

using Wide = unsigned __int128;  // weights go up to 2^56, servers to 2^12, shares to 2^18

// What is still to be shared out, and among whom.
struct Open {
  uint64_t total = 0;
  Wide weight = 0;
  std::vector<bool> member;         // not in a group yet
  std::vector<uint64_t> zone_room;  // replicas that the zone can still take
  std::vector<Wide> zone_weight;    // of its open members
  std::vector<uint32_t> by_weight;  // indices, heaviest first
  size_t heaviest = 0;              // position of the first open one in by_weight
};

Open Begin(const Shares& shares, uint32_t rows, uint32_t replicas, uint32_t zone_cap) {
  const size_t n = shares.ids.size();
  Open open;
  open.total = uint64_t{rows} * replicas;
  open.member.assign(n, true);
  uint32_t zones = 0;
  for (const uint32_t zone : shares.zones) zones = std::max(zones, zone + 1);
  open.zone_room.assign(zones, uint64_t{rows} * zone_cap);
  open.zone_weight.assign(zones, 0);
  for (size_t i = 0; i < n; ++i) {
    open.weight += shares.weights[i];
    open.zone_weight[shares.zones[i]] += shares.weights[i];
  }
  open.by_weight.resize(n);
  std::iota(open.by_weight.begin(), open.by_weight.end(), 0U);
  std::stable_sort(open.by_weight.begin(), open.by_weight.end(),
                   [&](uint32_t a, uint32_t b) { return shares.weights[a] > shares.weights[b]; });
  return open;
}

void Take(const Shares& shares, Open& open, uint32_t i) {
  open.member[i] = false;
  open.weight -= shares.weights[i];
  open.zone_weight[shares.zones[i]] -= shares.weights[i];
}

ShareGroup TakeZone(const Shares& shares, Open& open, uint32_t zone) {
  ShareGroup group;
  group.total = open.zone_room[zone];
  for (uint32_t i = 0; i < shares.ids.size(); ++i) {
    if (!open.member[i] || shares.zones[i] != zone) continue;
    group.members.push_back(i);
    Take(shares, open, i);
  }
  return group;
}

// The next limit that is reached when the share per weight grows: the heaviest server's or a
// zone's. Empty members: none is, before all that is left is shared out.
ShareGroup NextLimit(const Shares& shares, uint32_t rows, Open& open) {
  while (!open.member[open.by_weight[open.heaviest]]) ++open.heaviest;
  const uint32_t heaviest = open.by_weight[open.heaviest];
  // The share per weight at which the limit is reached, as the fraction `room` / `weight`.
  Wide room = open.total;
  Wide weight = open.weight;
  bool is_server = false;
  int64_t zone = -1;
  const auto reached_before = [&](Wide other_room, Wide other_weight, bool or_equal) {
    return other_room * weight < room * other_weight ||
           (or_equal && other_room * weight == room * other_weight);
  };
  if (reached_before(rows, shares.weights[heaviest], /*or_equal=*/true)) {
    is_server = true;
    room = rows;
    weight = shares.weights[heaviest];
  }
  for (uint32_t z = 0; z < open.zone_room.size(); ++z) {
    if (open.zone_weight[z] == 0) continue;
    if (!reached_before(open.zone_room[z], open.zone_weight[z], !is_server && zone < 0)) continue;
    zone = z;
    room = open.zone_room[z];
    weight = open.zone_weight[z];
  }
  if (zone >= 0) return TakeZone(shares, open, static_cast<uint32_t>(zone));
  if (!is_server) return {};
  Take(shares, open, heaviest);
  open.zone_room[shares.zones[heaviest]] -= rows;
  return {{heaviest}, rows};
}

struct Quota {
  std::vector<uint32_t> floor;
  std::vector<bool> fractional;        // the fair share is no whole number
  std::vector<uint32_t> by_remainder;  // members, largest remainder first
};

Quota QuotaOf(const Shares& shares, const ShareGroup& group) {
  const size_t n = shares.ids.size();
  Wide weight = 0;
  for (const uint32_t i : group.members) weight += shares.weights[i];
  Quota quota{std::vector<uint32_t>(n), std::vector<bool>(n), group.members};
  std::vector<Wide> remainder(n);
  for (const uint32_t i : group.members) {
    const Wide product = Wide{shares.weights[i]} * group.total;
    quota.floor[i] = static_cast<uint32_t>(product / weight);
    remainder[i] = product % weight;
    quota.fractional[i] = remainder[i] != 0;
  }
  std::sort(quota.by_remainder.begin(), quota.by_remainder.end(), [&](uint32_t a, uint32_t b) {
    if (remainder[a] != remainder[b]) return remainder[a] > remainder[b];
    return shares.ids[a] < shares.ids[b];
  });
  return quota;
}

// Lowers targets by one, from the smallest remainder up, where `may` says so, until `excess` is 0.
template <typename May>
void Lower(Shares& shares, const std::vector<uint32_t>& by_remainder, int64_t& excess, May may) {
  for (size_t k = by_remainder.size(); excess > 0 && k-- > 0;) {
    const uint32_t i = by_remainder[k];
    if (shares.target[i] == shares.least[i] || !may(i)) continue;
    --shares.target[i];
    --excess;
  }
}

// Returns by how much the targets sum to more than the group's total: where members must not go
// below their `least`.
int64_t SetTargetsOf(Shares& shares, const ShareGroup& group) {
  const Quota quota = QuotaOf(shares, group);
  int64_t excess = -static_cast<int64_t>(group.total);
  for (const uint32_t i : group.members) {
    const uint32_t ceil = quota.floor[i] + (quota.fractional[i] ? 1 : 0);
    shares.target[i] = std::max(std::clamp(shares.held[i], quota.floor[i], ceil), shares.least[i]);
    excess += shares.target[i];
  }
  for (const uint32_t i : quota.by_remainder) {
    if (excess >= 0) break;
    if (quota.fractional[i] && shares.target[i] == quota.floor[i]) {
      ++shares.target[i];
      ++excess;
    }
  }
  Lower(shares, quota.by_remainder, excess, [&](uint32_t i) {
    return shares.target[i] == quota.floor[i] && shares.held[i] + 1 == shares.target[i];
  });
  Lower(shares, quota.by_remainder, excess,
        [&](uint32_t i) { return shares.target[i] > quota.floor[i]; });
  for (int64_t before = excess + 1; excess > 0 && excess < before;) {
    before = excess;
    Lower(shares, quota.by_remainder, excess, [](uint32_t) { return true; });
  }
  return excess;
}

}  // namespace

std::vector<ShareGroup> FairGroups(const Shares& shares, uint32_t rows, uint32_t replicas,
                                   uint32_t zone_cap) {
  Open open = Begin(shares, rows, replicas, zone_cap);
  std::vector<ShareGroup> groups;
  while (open.weight > 0) {
    ShareGroup group = NextLimit(shares, rows, open);
    if (group.members.empty()) {
      for (uint32_t i = 0; i < shares.ids.size(); ++i) {
        if (open.member[i]) group.members.push_back(i);
      }
      group.total = open.total;
      open.weight = 0;
    }
    open.total -= group.total;
    groups.push_back(std::move(group));
  }
  SIMM_CHECK(open.total == 0, "there are more replicas than the servers may take");
  return groups;
}

void SetTargets(Shares& shares, uint32_t rows, uint32_t replicas, uint32_t zone_cap) {
  shares.target.assign(shares.ids.size(), 0);
  int64_t excess = 0;
  for (const ShareGroup& group : FairGroups(shares, rows, replicas, zone_cap)) {
    excess += SetTargetsOf(shares, group);
  }
  // What one group has too much, because its members must keep it, others have less: a few, from
  // rounding.
  std::vector<uint32_t> all(shares.ids.size());
  std::iota(all.begin(), all.end(), 0U);
  for (int64_t before = excess + 1; excess > 0 && excess < before;) {
    before = excess;
    Lower(shares, all, excess, [](uint32_t) { return true; });
  }
  SIMM_CHECK(excess == 0, "the quotas do not sum to the number of replicas");
}

}  // namespace simm::manager
