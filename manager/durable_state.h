#pragma once

#include <cstdint>
#include <vector>

#include "common/base/ids.h"
#include "common/base/status.h"
#include "common/routing/route_table.h"

namespace simm::manager {

// What survives the manager: everything that the next manager needs to go on at the next epoch.
struct DurableState {
  MapContents map;
  std::vector<ServerId> homes;  // of placement.h; as many as the map has owners
  ServerId next_server = 1;
  // Ascending: whom an operator drains, dead or alive, until undrain or removal.
  std::vector<ServerId> draining;
};

// The state of a cluster that begins: no server, the namespace "default", term 1, epoch 1.
DurableState NewCluster(const Id128& cluster);

// The state that goes on from a map whose manager has lost its state: at the next term and epoch.
// Homes are not in a map: each shard's owner becomes its home, so a server that is dead in it comes
// back to its share, but not to the very shards that it had. kCorrupt: no manager of this version
// has made that map.
Result<DurableState> AdoptedFrom(const RouteTable& table);

// kCorrupt when the state contradicts itself: what membership builds upon, beyond what a RouteTable
// checks.
Status CheckState(const DurableState& state);

}  // namespace simm::manager
