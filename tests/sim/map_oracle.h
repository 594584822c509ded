#pragma once

#include <span>
#include <vector>

#include "common/routing/route_table.h"

namespace simm::manager {

// What must hold for the rows of every map with replicas, whatever happens, judged by the map
// alone. Fails the running test. Thread-compatible.
class MapOracle {
 public:
  // `map` is published. Somebody owns each shard while a server is there; rows of which nothing is
  // on its way have all the owners that they can have, in different zones as far as there are
  // enough. That owners differ and are no source of their own RouteTable checks.
  void Follow(const MapContents& map);

 private:
  void CheckRows() const;
  std::span<const ShardOwner> Row(uint32_t shard) const;

  MapContents map_;
  std::vector<size_t> zone_of_;  // by id
};

}  // namespace simm::manager
