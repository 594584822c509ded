#pragma once

#include <cstdint>
#include <vector>

#include "common/base/ids.h"
#include "common/routing/route_table.h"

namespace simm::manager {

// What survives the manager: everything that the next manager needs to go on at the next epoch.
struct DurableState {
  MapContents map;
  std::vector<ServerId> homes;  // of placement.h; kShards entries
  ServerId next_server = 1;
};

// The state of a cluster that begins: no server, the namespace "default", term 1, epoch 1.
DurableState NewCluster(const Id128& cluster);

}  // namespace simm::manager
