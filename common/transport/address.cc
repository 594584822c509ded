#include "common/transport/address.h"

#include <netdb.h>
#include <netinet/in.h>

#include <array>
#include <cstdlib>
#include <cstring>

namespace simm::transport {

Result<SocketAddress> Resolve(const HostPort& host_port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int rc =
      getaddrinfo(host_port.host.c_str(), std::to_string(host_port.port).c_str(), &hints, &found);
  if (rc != 0 || found == nullptr) {
    return Status(Code::kUnavailable,
                  "cannot resolve host '" + host_port.host + "': " + gai_strerror(rc));
  }
  SocketAddress address;
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  address.length = found->ai_addrlen;
  freeaddrinfo(found);
  return address;
}

std::string ToString(const SocketAddress& address) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  if (getnameinfo(reinterpret_cast<const sockaddr*>(&address.storage), address.length, host.data(),
                  host.size(), port.data(), port.size(), NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
    return "?";
  }
  return simm::ToString(HostPort{host.data(), static_cast<uint16_t>(std::atoi(port.data()))});
}

}  // namespace simm::transport
