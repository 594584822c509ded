#pragma once

#include <span>
#include <vector>

#include "common/routing/route_table.h"
#include "manager/durable_state.h"

namespace simm::manager {

// The rows of the next map: who owns each shard, and from whom each owner still has to pull
// (DESIGN 3, migration and replication). Pure.
//
// A shard that moves gets its old owner as its source, if that one is there, both can migrate, and
// its memory is the same. While a shard is being pulled it moves nowhere else, except back to its
// source or away from an owner that is gone: one owner has one source, and two pulls at once would
// need two.
//
// Where the old owner is gone, another owner of the row that has everything is the source (a lost
// replica is made anew), else the source that the old one had not pulled from yet. If all other
// owners are still pulling themselves the place stays empty until one of them is done. An owner
// that is there with another pool is filled likewise.
//
//  * `before`: rows of the last map; `servers_before`, `servers`: its servers and the next ones
//  * `owners`: whom the placement wants as owners next; the rows may be longer or shorter than
//    those before
//  * `pulled`: ascending indices into `before`: whose source has been pulled from, they need it no
//    more
std::vector<ShardOwner> NextRows(std::span<const ShardOwner> before,
                                 std::span<const ServerRecord> servers_before,
                                 std::span<const ServerRecord> servers,
                                 std::span<const ServerId> owners,
                                 std::span<const uint32_t> pulled);

// Gives `next`, whose servers and replicas are those of the next map, its homes and rows: places
// the shards of `from` anew among the servers that are alive and not draining, then NextRows. With
// nobody but draining servers left those hold the shards.
void PlaceShards(const DurableState& from, std::span<const uint32_t> pulled, DurableState& next);

// How many rows of the map `owners`, of `replicas` places, are ..
struct RowCounts {
  uint32_t moving = 0;            // .. still being pulled by an owner
  uint32_t under_replicated = 0;  // .. whole on fewer than `replicas` servers, sources included
};
RowCounts CountRows(std::span<const ShardOwner> owners, uint32_t replicas);

}  // namespace simm::manager
