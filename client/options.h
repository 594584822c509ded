#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
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
  // Where this process shows its metrics to Prometheus (/metrics): HOST:PORT, port 0 for any that
  // is free, or HOST:FIRST-LAST for the first that is free. "off": nowhere. Empty: what the
  // environment variable SIMM_METRICS_LISTEN says, else off. An address that cannot be had fails
  // Connect; one that the environment has named is only warned of. Clients of a process share their
  // numbers.
  std::string metrics_listen;
  // Calls that take longer are logged, with what they spent their time on; 0: none. Not given: what
  // SIMM_SLOW_OP_MS says, else 1 s.
  std::optional<std::chrono::milliseconds> slow_op;
};

}  // namespace simm
