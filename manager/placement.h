#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/routing/route_table.h"

namespace simm::manager {

// A server that the manager knows: alive, or dead and not removed.
struct PlacementServer {
  ServerId id = kNoServer;
  uint64_t weight = 0;  // > 0
  bool alive = true;
};

// Two answers for each of the kShards shards. `homes`: whose the shard is by right, dead or alive.
// `owners`: who holds it now. They differ only where the home is dead, so a server that returns
// finds every shard that it left.
struct Placement {
  std::vector<ServerId> homes;
  std::vector<ServerId> owners;
  friend bool operator==(const Placement&, const Placement&) = default;
};

// Weighted rendezvous preference under a per-server quota: floor or ceil of the weight's share of
// the shards. Moves only shards of servers that are gone and of servers above their quota; each
// freed shard goes to the server below its quota with the highest score of (shard, server). Pure:
// the same arguments give the same answer on every machine.
//
//  * homes are shared out among all known servers, so a death or return does not touch them;
//  * an alive home owns its shards; those of dead homes are shared out among the alive servers;
//  * without an alive server the owners stay as they are; without any, all are kNoServer.
//
// `current` is empty at the beginning of a cluster, else of kShards entries. Ids in `servers` are
// unique and not kNoServer.
Placement Place(const Placement& current, std::span<const PlacementServer> servers);

}  // namespace simm::manager
