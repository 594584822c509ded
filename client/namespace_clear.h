#pragma once

#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/status.h"
#include "common/routing/route_table.h"

namespace simm::client {

// Asks every data server of the map, several at a time, to drop the entries of a namespace; how
// many that were. Blocks until all have answered or `timeout` is over. kUnavailable,
// kDeadlineExceeded: not every server has done it; the message says which and how far the others
// got.
Result<uint64_t> ClearOnAllServers(const RouteTable& table, NamespaceId namespace_id,
                                   Duration timeout);

}  // namespace simm::client
