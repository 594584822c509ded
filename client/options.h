#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace simm {

// Whether a get checks the value's XXH3-64 against the checksum that the put stored.
enum class Verify : uint8_t {
  kAlways,   // default
  kSampled,  // one value in 16
  kOff,      // trusts the network and every writer; said in the log at Connect
};

struct ClientOptions {
  // "host:port" of managers, data servers or both, in any order: all of them hand out the key map.
  // An IPv6 host is written in brackets. At least one.
  std::vector<std::string> addresses;
  // Keys of different namespaces never meet. 1 to 128 B of printable ASCII. Made when it does not
  // exist.
  std::string name_space = "default";
  // "auto": the best that client and data server share: shm, verbs, tcp. "shm": memory shared with
  // data servers on this host. "verbs": RDMA. Servers that cannot be reached so are reached over
  // tcp. "tcp": nothing else.
  std::string transport = "auto";
  // RDMA devices that may be used; none: all. The first that works is taken, those near
  // `numa_node` first.
  std::vector<std::string> rdma_devices;
  uint8_t rdma_port = 0;    // 0: the first that is up
  int rdma_gid_index = -1;  // -1: RoCE v2, IPv4 before IPv6
  int numa_node = -1;       // -1: that of the thread that connects
  Verify verify = Verify::kAlways;
  // How long Connect waits for a manager that is not there yet, and for the first data server.
  std::chrono::milliseconds connect_timeout{10'000};
  // Connections of this process to one data server; callers beyond that wait within their deadline.
  uint32_t max_lanes_per_server = 16;
  // Queue pairs of this process, of all servers together, that stay open unused: beyond it those
  // longest unused close. At least 1.
  uint32_t max_rdma_lanes = 2048;
};

}  // namespace simm
