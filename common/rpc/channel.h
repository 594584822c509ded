#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"

// Inside common/rpc only: how this project sets up gRPC. (The one header here that shows gRPC.)
namespace simm::rpc {

// Bounds of the control plane. The largest message is a snapshot: 4096 servers of at most 0.8 KiB,
// 65536 * 3 owners of at most 10 B with their sources, 65536 namespaces of at most 0.14 KiB.
inline constexpr int kMaxUpdateBytes = 16 << 20;
inline constexpr int kMaxRequestBytes = 64 << 10;
inline constexpr int kMaxServerThreads = 256;
inline constexpr size_t kMapPieceBytes = 32 << 10;  // of a map that is reported to a manager

// A channel to "host:port". Not connected yet; connects on the first call, gives an attempt 1 s,
// and tries again 50 to 500 ms after a failure. No proxy from the environment.
std::shared_ptr<grpc::Channel> OpenChannel(const std::string& address,
                                           int max_request_bytes = kMaxRequestBytes);

// Channels of this process by address, kept while somebody uses them or was using them lately.
std::shared_ptr<grpc::Channel> SharedChannel(const std::string& address);
// The next SharedChannel of the address is a new one, which connects at once: the old one pauses
// after a failure, up to 1 s. For callers that pace themselves.
void ForgetChannel(const std::string& address);

// Status <-> grpc::Status. SiMM's code travels in the details; without them (a gRPC-made error) the
// gRPC code decides.
// `leader` travels beside it, where it is not empty.
grpc::Status ToGrpc(const Status& status, const std::string& leader = {});
Status FromGrpc(const grpc::Status& status, const std::string& peer);
// The leader that a manager named in its error; empty: none.
std::string LeaderOf(const grpc::Status& status);

// Sends the log lines of gRPC and protobuf to ours, at debug level. Once per process; cheap
// afterwards.
void RouteLibraryLogs();

void SetDeadline(grpc::ClientContext& context, Duration timeout);

}  // namespace simm::rpc
