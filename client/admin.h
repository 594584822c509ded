#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "common/base/status.h"
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

 private:
  std::vector<std::string> managers_;
};

}  // namespace simm
