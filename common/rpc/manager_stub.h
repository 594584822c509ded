#pragma once

#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/rpc/control_types.h"

namespace simm::rpc {

// A narrow client of the manager. Tries its addresses in turn, beginning with the one that answered
// last; a call ends within its timeout, whatever the addresses do. An address that cannot be
// reached (kUnavailable, or no answer in its share of the time) passes the call on to the next one;
// every other answer is the call's. An address that names the leader passes it on to that one. All
// calls are idempotent. Thread-safe; calls block.
class ManagerStub {
 public:
  // kInvalidArgument: no address, or one that is not host:port.
  static Result<std::unique_ptr<ManagerStub>> Create(const std::vector<std::string>& addresses);
  ~ManagerStub();
  ManagerStub(const ManagerStub&) = delete;
  ManagerStub& operator=(const ManagerStub&) = delete;

  Result<RegisterReply> Register(const RegisterRequest& request, Duration timeout);
  Result<HeartbeatReply> Heartbeat(const HeartbeatRequest& request, Duration timeout);
  Result<ClusterStatus> GetStatus(Duration timeout);
  Result<NamespaceId> CreateNamespace(const std::string& name, Duration timeout);
  Status RemoveNode(const std::string& name, Duration timeout);
  // Sends the map held, when the reply to Register asked for it.
  Status ReportMap(const RouteTable& table, Duration timeout);
  Result<DrainReply> DrainNode(const std::string& name, bool undrain, Duration timeout);
  // As ManagerHandler::ListEvents.
  Result<std::vector<Event>> ListEvents(uint64_t after, uint32_t newest, Duration timeout);

 private:
  struct Impl;
  explicit ManagerStub(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace simm::rpc
