#pragma once

#include <span>
#include <vector>

#include "common/routing/route_table.h"
#include "manager/durable_state.h"

namespace simm::manager {

// The rows of the next map: who owns each shard, and from whom the owner still has to pull
// (DESIGN 3, migration). Pure.
//
// A shard that moves gets its old owner as its source, if that one is there, both can migrate, and
// its memory is the same. Where the old owner is gone, a source that it had not pulled from yet is
// the new owner's. While a shard is being pulled it moves nowhere else, except back to its source
// or away from an owner that is gone: one row has one source, and two pulls at once would need two.
//
//  * `before`: rows of the last map; `servers_before`, `servers`: its servers and the next ones
//  * `owners`: whom the placement wants as owners next
//  * `pulled`: ascending shards whose source has been pulled from: they need it no more
std::vector<ShardOwner> NextRows(std::span<const ShardOwner> before,
                                 std::span<const ServerRecord> servers_before,
                                 std::span<const ServerRecord> servers,
                                 std::span<const ServerId> owners,
                                 std::span<const uint32_t> pulled);

// Gives `next`, whose servers are those of the next map, its homes and rows: places the shards of
// `from` anew among the servers that are alive and not draining, then NextRows. With nobody but
// draining servers left those hold the shards.
void PlaceShards(const DurableState& from, std::span<const uint32_t> pulled, DurableState& next);

}  // namespace simm::manager
