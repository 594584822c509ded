#pragma once

#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/rpc/control_types.h"

namespace simm::rpc {

// Calls to one data server's control address ("host:port"). They block, and end within `timeout`:
// kUnavailable (nobody there), kDeadlineExceeded, kInvalidArgument (not an address), or what the
// server said (kWrongCluster, kWrongOwner, kFailedPrecondition). Thread-safe. Connections are kept
// and shared by the process.
Result<HandshakeReply> Handshake(const std::string& address, const HandshakeRequest& request,
                                 Duration timeout);
// The server's answer to a lane's offer, both opaque here. kFailedPrecondition: it does not offer
// that transport.
Result<std::string> OpenLane(const std::string& address, const OpenLaneRequest& request,
                             Duration timeout);
// Drops the entries of a namespace; how many. kDeadlineExceeded: some may be left, ask again.
Result<uint64_t> ClearNamespace(const std::string& address, const ClearNamespaceRequest& request,
                                Duration timeout);
// Some of the keys that lie there.
Result<SampleKeysReply> SampleKeys(const std::string& address, const SampleKeysRequest& request,
                                   Duration timeout);
// Record, map, stats and version of the server; `shards` by its own map, `silent_ms` zero.
Result<NodeStatus> GetServerStatus(const std::string& address, Duration timeout);

}  // namespace simm::rpc
