#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/transport/transport.h"

// Opens transports that a build, or a machine, may lack. Here and in verbs/ is the only conditional
// compilation of the project.
namespace simm::transport {

// Which RDMA device, port and address to use.
struct RdmaOptions {
  std::vector<std::string> devices;  // names; none: all. Of several the first that works, those
                                     // near the NUMA node first
  uint8_t port = 0;                  // 0: the first one that is up
  int gid_index = -1;                // -1: RoCE v2, IPv4 before IPv6 before link-local
  int numa_node = -1;                // -1: that of the calling thread
  // Clients: carries a lane's offer to the server at `endpoint` and brings back the answer within
  // `timeout`. Servers answer by Transport::Answer instead.
  using Bootstrap = std::function<Result<std::string>(const std::string& endpoint,
                                                      const std::string& offer, Duration timeout)>;
  Bootstrap bootstrap;
};

// kUnavailable: no device that can be used, or built without RDMA; the message says what is missing
// and the mend.
Result<std::unique_ptr<Transport>> OpenVerbs(const RdmaOptions& options);

}  // namespace simm::transport
