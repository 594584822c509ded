#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/rpc/control_types.h"

// What a ClusterStatus means for people: the status page and simmctl say the same by it.
namespace simm::rpc {

// Sums over the servers of a cluster; those that are dead count by their state alone.
struct ClusterTotals {
  ServerStats stats{};  // without transports
  size_t alive = 0;
  size_t suspect = 0;
  size_t dead = 0;
  size_t draining = 0;
  uint32_t shards_moving = 0;
  uint64_t entries_given_up = 0;  // by migration
  uint64_t bytes_given_up = 0;
};
ClusterTotals SumOf(const ClusterStatus& status);

enum class Health : uint8_t {
  kHealthy,
  kDegraded,  // it serves; somebody should act
  kEmpty,     // no data server has ever joined
  kDown,      // no data server is alive: every get is a miss
};
std::string_view HealthName(Health health);  // "healthy", ...

// One thing that an operator should know, and what to do about it.
struct Finding {
  bool problem = true;  // false: for information
  std::string what;
  std::string mend;
};
struct ClusterHealth {
  Health word = Health::kHealthy;
  std::vector<Finding> findings;  // problems first
};
ClusterHealth AssessHealth(const ClusterStatus& status);

}  // namespace simm::rpc
