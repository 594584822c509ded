#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace simm {

struct NetworkInterface {
  std::string name;
  uint32_t mtu = 0;
  bool up = false;
};
struct RdmaPort {
  std::string device;
  uint32_t port = 0;
  std::string state;  // "ACTIVE", "DOWN", ...; as the kernel names it
  // Of RoCE, whose packets travel in Ethernet frames: the interface below, and its MTU in bytes.
  // Empty and 0 on InfiniBand, or where the kernel does not say.
  std::string interface {};
  uint32_t interface_mtu = 0;
};
// Bytes that one RDMA packet carries at most over an interface of this MTU, as the kernel has it:
// 4096 from 4192 on, else the next lower power of two; 0: none fits.
uint32_t RocePacketBytes(uint32_t interface_mtu);

// What the host and the limits of this process allow, as far as it matters here; for people who
// look for what is wrong. Read from /proc and /sys; what cannot be read stays zero or empty.
struct HostFacts {
  std::string host_name;
  uint32_t processors = 0;
  uint64_t memory_bytes = 0;
  uint64_t available_bytes = 0;
  uint64_t memlock_bytes = 0;  // UINT64_MAX: no limit
  uint64_t open_files = 0;     // likewise
  uint64_t huge_page_bytes = 0;
  uint64_t huge_pages = 0;
  uint64_t huge_pages_free = 0;
  std::vector<NetworkInterface> interfaces;  // without loopback
  std::vector<RdmaPort> rdma_ports;
};
HostFacts ReadHostFacts();

}  // namespace simm
