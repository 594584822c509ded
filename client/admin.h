#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/rpc/cluster_health.h"
#include "common/rpc/control_types.h"

namespace simm {

// Asks the managers about the cluster; for simmctl and the benchmark. Each call tries the addresses
// in turn. kUnavailable names the addresses and what to check. Thread-safe.
class Admin {
 public:
  explicit Admin(std::vector<std::string> managers);

  Result<rpc::ClusterStatus> GetStatus(std::chrono::milliseconds timeout) const;
  // Forgets a server for good: its shards get other owners at once. kMiss: no such name.
  // kFailedPrecondition: it is alive.
  Status RemoveNode(const std::string& name, std::chrono::milliseconds timeout) const;
  // Gives the server's shards to others, or with `undrain` back to it. kMiss: no such name;
  // kFailedPrecondition: no other server is there.
  Result<rpc::DrainReply> DrainNode(const std::string& name, bool undrain,
                                    std::chrono::milliseconds timeout) const;
  // The newest `newest` (0: all that are kept) events with a number above `after`, ascending.
  Result<std::vector<rpc::Event>> ListEvents(uint64_t after, uint32_t newest,
                                             std::chrono::milliseconds timeout) const;

  // What the manager that answers, or the program at a control address, says of itself.
  // kFailedPrecondition: it is older and does not know the question.
  Result<rpc::NodeDescription> Describe(std::chrono::milliseconds timeout) const;
  static Result<rpc::NodeDescription> DescribeAt(const std::string& address,
                                                 std::chrono::milliseconds timeout);
  // Some of the keys of one data server; `node` as GetStatus has named it. kMiss: no such
  // namespace.
  static Result<rpc::SampleKeysReply> SampleKeys(const rpc::NodeStatus& node,
                                                 const rpc::SampleKeysRequest& request,
                                                 std::chrono::milliseconds timeout);

 private:
  std::vector<std::string> managers_;
};

}  // namespace simm
