#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "client/cli/doctor.h"
#include "common/base/host_facts.h"
#include "common/base/host_port.h"

namespace simm::cli {
namespace {

using Level = Diagnosis::Level;

constexpr uint32_t kLargestRdmaPacket = 4096;
constexpr uint32_t kLargestPacket = 65535;  // of IP: less than loopback's MTU

Status Failure(const std::string& what) { return Status(Code::kUnavailable, what); }

bool SameHost(const sockaddr* a, const sockaddr_storage& b) {
  if (a == nullptr || a->sa_family != b.ss_family) return false;
  if (a->sa_family == AF_INET) {
    return reinterpret_cast<const sockaddr_in*>(a)->sin_addr.s_addr ==
           reinterpret_cast<const sockaddr_in&>(b).sin_addr.s_addr;
  }
  if (a->sa_family != AF_INET6) return false;
  return std::memcmp(&reinterpret_cast<const sockaddr_in6*>(a)->sin6_addr,
                     &reinterpret_cast<const sockaddr_in6&>(b).sin6_addr, sizeof(in6_addr)) == 0;
}

// The interface that has the address from which `fd` sends; empty: none has.
std::string InterfaceOf(int fd) {
  sockaddr_storage own{};
  socklen_t length = sizeof own;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) != 0) return "";
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return "";
  std::string name;
  for (const ifaddrs* entry = all; entry != nullptr && name.empty(); entry = entry->ifa_next) {
    if (SameHost(entry->ifa_addr, own)) name = entry->ifa_name;
  }
  freeifaddrs(all);
  return name;
}

uint32_t MtuOf(int fd, const std::string& interface) {
  ifreq request{};
  std::strncpy(request.ifr_name, interface.c_str(), IFNAMSIZ - 1);
  return ioctl(fd, SIOCGIFMTU, &request) == 0 ? static_cast<uint32_t>(request.ifr_mtu) : 0;
}

uint32_t PathMtuOf(int fd) {
  sockaddr_storage own{};
  socklen_t length = sizeof own;
  if (getsockname(fd, reinterpret_cast<sockaddr*>(&own), &length) != 0) return 0;
  int mtu = 0;
  length = sizeof mtu;
  const int error = own.ss_family == AF_INET6
                        ? getsockopt(fd, IPPROTO_IPV6, IPV6_MTU, &mtu, &length)
                        : getsockopt(fd, IPPROTO_IP, IP_MTU, &mtu, &length);
  return error == 0 ? static_cast<uint32_t>(mtu) : 0;
}

}  // namespace

Result<int> ConnectTcp(const std::string& address, int timeout_ms) {
  const auto parsed = ParseHostPort(address);
  if (!parsed.ok()) return parsed.status();
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error =
      getaddrinfo(parsed->host.c_str(), std::to_string(parsed->port).c_str(), &hints, &found);
  if (error != 0) return Failure(gai_strerror(error));
  std::string why;
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (connect(fd, found->ai_addr, found->ai_addrlen) != 0) {
    why = std::strerror(errno);
    pollfd waiting{fd, POLLOUT, 0};
    if (errno == EINPROGRESS && poll(&waiting, 1, timeout_ms) == 1) {
      int outcome = 0;
      socklen_t length = sizeof outcome;
      getsockopt(fd, SOL_SOCKET, SO_ERROR, &outcome, &length);
      why = outcome == 0 ? "" : std::strerror(outcome);
    } else if (errno == EINPROGRESS) {
      why = "no answer within " + std::to_string(timeout_ms) + " ms";
    }
  }
  freeaddrinfo(found);
  if (why.empty()) return fd;
  close(fd);
  return Failure(why);
}

Result<NetworkPath> MeasurePath(const std::string& address, int timeout_ms) {
  const auto fd = ConnectTcp(address, timeout_ms);
  if (!fd.ok()) return fd.status();
  NetworkPath path;
  path.interface = InterfaceOf(*fd);
  path.interface_mtu = std::min(MtuOf(*fd, path.interface), kLargestPacket);
  path.path_mtu = PathMtuOf(*fd);
  close(*fd);
  return path;
}

void CheckPath(const std::string& about, const std::string& address, const NetworkPath& path,
               Diagnosis& diagnosis) {
  if (path.path_mtu == 0 || path.interface_mtu == 0) return;  // nobody can say
  const std::string mtu = std::to_string(path.path_mtu);
  if (path.path_mtu >= path.interface_mtu) {
    return diagnosis.Good(about, "path MTU " + mtu + " by " + path.interface);
  }
  diagnosis.Add(Level::kWarning, about,
                "packets to " + address + " are of " + mtu + " B at most, though " +
                    path.interface + " here takes " + std::to_string(path.interface_mtu) + " B",
                "a tunnel, a switch port or a route on the way has a smaller MTU: give all of them "
                "the same, or lower it here, so that no packet is lost on the way");
}

void CheckRdmaPackets(const std::string& about, const HostFacts& host, Diagnosis& diagnosis) {
  for (const RdmaPort& port : host.rdma_ports) {
    const uint32_t bytes = RocePacketBytes(port.interface_mtu);
    if (port.interface_mtu == 0 || bytes == kLargestRdmaPacket) continue;
    diagnosis.Add(Level::kWarning, about,
                  "RDMA port " + port.device + "/" + std::to_string(port.port) + " sends " +
                      std::to_string(bytes) + " B a packet: " + port.interface + " has an MTU of " +
                      std::to_string(port.interface_mtu),
                  "an MTU of 4200 or more on this interface, its peers and the switches between "
                  "them: 4096 B a packet");
  }
}

void ReportFailedTrip(const Patient& patient, const std::string& transport, const RoundTrip& large,
                      const RoundTrip& small, Diagnosis& diagnosis) {
  const std::string& about = patient.node.record.name;
  const std::string& address = patient.node.record.data_address;
  if (large.timed_out && small.why.empty()) {
    return diagnosis.Add(
        Level::kBad, about,
        large.why + " over " + transport +
            ", though a small value came back: full packets are "
            "lost on the way, and nobody says so (an MTU black hole)",
        "try `ping -M do -s 1472 HOST` from here and from there; give all interfaces, switch ports "
        "and tunnels the same MTU, or set net.ipv4.tcp_mtu_probing=1 on both hosts");
  }
  diagnosis.Add(Level::kBad, about, large.why + " over " + transport,
                "is the process running, and is its data port " + address + " open from here?");
}

}  // namespace simm::cli
