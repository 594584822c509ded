#pragma once

#include <infiniband/verbs.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace simm::transport {

struct DeviceOptions {
  std::vector<std::string> names;  // which may be used; none: all
  uint8_t port = 0;                // 0: the first one that is up
  int gid_index = -1;              // -1: RoCE v2, IPv4-mapped before IPv6 before link-local
  int numa_node = -1;              // devices near it come first; -1: that of the calling thread
};

// One opened RDMA device with the port and address that its lanes use, and its protection domain.
// Immutable, thread-safe. Whatever was made with it must be gone before it is.
class Device {
 public:
  struct Port {
    uint8_t number = 0;
    bool roce = false;  // else InfiniBand
    uint16_t lid = 0;
    ibv_mtu mtu = IBV_MTU_256;
    uint8_t gid_index = 0;
    std::array<uint8_t, 16> gid{};
  };

  // The first device, near ones first, that has a port to use. kUnavailable: there is none; the
  // message says for each device why, and the mend.
  static Result<std::shared_ptr<Device>> Open(const DeviceOptions& options);
  ~Device();

  ibv_context* context() const { return context_; }
  ibv_pd* protection_domain() const { return protection_domain_; }
  const ibv_device_attr& limits() const { return limits_; }
  const Port& port() const { return port_; }
  const std::string& name() const { return name_; }
  int numa_node() const { return numa_node_; }  // -1: unknown

 private:
  Device() = default;
  Status OpenOne(ibv_device* device, const DeviceOptions& options);
  Status PickPort(const DeviceOptions& options);
  Status PickGid(int wanted, int table_length);

  std::string name_;
  int numa_node_ = -1;
  ibv_context* context_ = nullptr;
  ibv_pd* protection_domain_ = nullptr;
  ibv_device_attr limits_{};
  Port port_;
};

// kUnavailable: "WHAT: reason"; where locked memory is what lacks, it says how much there is and
// how to raise it. `error` is an errno of libibverbs.
Status VerbsError(const std::string& what, int error);

// "::ffff:192.168.77.1" in the form that people know: "192.168.77.1".
std::string GidText(const std::array<uint8_t, 16>& gid);

}  // namespace simm::transport
