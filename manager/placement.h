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
  uint32_t zone = 0;  // failure domain; only whether two are equal matters
};

// Two answers for each of the kShards shards, `replicas` places each, row-major. `homes`: whose the
// shard is by right, dead or alive. `owners`: who holds it now. An alive home owns its shard, in
// the same place; the owners differ only where a home is dead, so a server that returns finds every
// shard that it left. kNoServer: an empty place, where there are fewer servers than replicas.
struct Placement {
  std::vector<ServerId> homes;
  std::vector<ServerId> owners;
  friend bool operator==(const Placement&, const Placement&) = default;
};

// Weighted rendezvous preference under a per-server quota: floor or ceil of the weight's share of
// the replicas (quota.h). Moves only shards of servers that are gone and of servers above their
// quota; each freed shard goes to the server below its quota with the highest score of (shard,
// server). Pure: the same arguments give the same answer on every machine.
//
//  * homes are shared out among all known servers, so a death or return does not touch them;
//  * an alive home owns its shards; those of dead homes are shared out among the alive servers;
//  * without an alive server the owners stay as they are; without any, all are kNoServer;
//  * the servers of a row differ, and so do their zones while there are as many zones as replicas;
//    with fewer zones a row spreads over all of them. Where the last shards could only go to a
//    server that is full, one more shard moves instead, or that server takes one too many.
//
// `current` is empty at the beginning of a cluster, else of kShards rows, all of one length, which
// may be another than `replicas`. Ids in `servers` are unique and not kNoServer.
Placement Place(const Placement& current, std::span<const PlacementServer> servers,
                uint32_t replicas = 1);

}  // namespace simm::manager
