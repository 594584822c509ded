#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/rpc/control_types.h"
#include "common/rpc/map_source.h"

// The server side of the gRPC edge: a role implements a handler in plain structs and hosts it in a
// ControlServer; it never sees generated code. Handlers are called from many threads at once and
// may block for milliseconds.
namespace simm::rpc {

class ManagerHandler {
 public:
  virtual ~ManagerHandler() = default;
  virtual Result<RegisterReply> Register(const RegisterRequest& request) = 0;
  virtual Result<HeartbeatReply> Heartbeat(const HeartbeatRequest& request) = 0;
  virtual Result<ClusterStatus> GetStatus() = 0;
  virtual Result<NamespaceId> CreateNamespace(const std::string& name) = 0;
  virtual Status RemoveNode(const std::string& name) = 0;
  // The map of a server that was asked for it (RegisterReply::send_map).
  virtual Status ReportMap(std::shared_ptr<const RouteTable> table) = 0;
  virtual Result<DrainReply> DrainNode(const std::string& name, bool undrain) = 0;
  // The newest `newest` (0: all) of those with a number above `after`, ascending.
  virtual Result<std::vector<Event>> ListEvents(uint64_t after, uint32_t newest) = 0;
  // Where the manager is that decides, when it is another than this one and known; else empty. A
  // call that ends with kUnavailable carries it to the caller.
  virtual std::string LeaderElsewhere() const = 0;
};

class DataServerHandler {
 public:
  virtual ~DataServerHandler() = default;
  // `peer` is the client's address as gRPC names it, e.g. "ipv4:10.0.0.7:51234".
  virtual Result<HandshakeReply> Handshake(const HandshakeRequest& request,
                                           const std::string& peer) = 0;
  // The answer to the offer.
  virtual Result<std::string> OpenLane(const OpenLaneRequest& request) = 0;
  // Entries dropped. Asks `cancelled` now and then: the caller has gone or its time has run out
  // (kDeadlineExceeded).
  virtual Result<uint64_t> ClearNamespace(const ClearNamespaceRequest& request,
                                          const std::function<bool()>& cancelled) = 0;
  // kMiss: no such namespace. Asks `cancelled` as ClearNamespace does, and ends with what is found.
  virtual Result<SampleKeysReply> SampleKeys(const SampleKeysRequest& request,
                                             const std::function<bool()>& cancelled) = 0;
  virtual Result<NodeStatus> GetStatus() = 0;
};

struct ControlServerOptions {
  std::string listen;  // "host:port"; port 0 takes a free one
  // Borrowed; they outlive the server. A null one is not served.
  ManagerHandler* manager = nullptr;
  DataServerHandler* data_server = nullptr;
  MapSource* maps = nullptr;
  // What this program says of itself; empty: nothing.
  std::function<NodeDescription()> describe = {};
  // Called after each unary call: "Register", its outcome, its time. May be empty.
  std::function<void(std::string_view method, Code code, Duration took)> observer;
  // A connection without a call for that long is closed: its peer may be gone without a word, and
  // only calls are watched by keepalive. The peer's next call connects anew.
  std::chrono::milliseconds idle_limit = std::chrono::seconds(30);
};

// Hosts the control-plane services on one address. Threads: those of gRPC, at most 256.
class ControlServer {
 public:
  // kFailedPrecondition names the address, the reason and the flag --listen when the port is taken
  // or may not be bound; kInvalidArgument when it is not an address.
  static Result<std::unique_ptr<ControlServer>> Start(ControlServerOptions options);
  ~ControlServer();  // Shutdown(0)
  ControlServer(const ControlServer&) = delete;
  ControlServer& operator=(const ControlServer&) = delete;

  uint16_t port() const;
  // Accepts nothing new, lets calls in flight end for `grace`, then cancels them. Streams end at
  // once. When it has returned no handler runs any more. May be called twice.
  void Shutdown(Duration grace);

 private:
  struct Impl;
  explicit ControlServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace simm::rpc
