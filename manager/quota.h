#pragma once

#include <cstdint>
#include <vector>

#include "common/routing/route_table.h"

namespace simm::manager {

// The servers that share in one distribution of replicas, and how far each has come. Indices, not
// ids; all vectors have one entry a server.
struct Shares {
  std::vector<ServerId> ids;
  std::vector<uint64_t> weights;  // > 0
  std::vector<uint32_t> zones;    // 0, 1, 2, ..: failure domains
  std::vector<uint32_t> held;     // now
  std::vector<uint32_t> least;    // never below this many
  std::vector<uint32_t> target;   // what SetTargets gives
};

// A part of the servers among whom `total` replicas are shared out by weight. The groups of a
// distribution are disjoint and hold every server.
struct ShareGroup {
  std::vector<uint32_t> members;
  uint64_t total = 0;
};

// The fair shares of `rows` * `replicas` replicas, where a server takes at most one of each row and
// a zone at most `zone_cap`: by weight, and what a server or zone cannot take the others take by
// weight. Each limit that is reached makes a group of its own: whoever reaches it at the smallest
// share per weight first. Exact (no floating point).
std::vector<ShareGroup> FairGroups(const Shares& shares, uint32_t rows, uint32_t replicas,
                                   uint32_t zone_cap);

// Sets targets of floor or ceil of the fair share that sum to `rows` * `replicas` exactly, with as
// few moves as can be: who holds more than its floor keeps the extra replica if it may. When
// rounding alone would make a server give one up, another one stays one below its floor instead.
void SetTargets(Shares& shares, uint32_t rows, uint32_t replicas, uint32_t zone_cap);

}  // namespace simm::manager
