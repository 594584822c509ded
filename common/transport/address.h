#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace simm::transport {

// "host:port", "1.2.3.4:5", "[::1]:5" taken apart. kInvalidArgument says what is wrong and shows the form.
struct HostPort {
  std::string host;
  uint16_t port = 0;
};
Result<HostPort> ParseHostPort(std::string_view text);
std::string JoinHostPort(std::string_view host, uint16_t port);  // brackets where the host is IPv6

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
};
// Looks the host up (getaddrinfo; may block on DNS). kUnavailable names the host.
Result<SocketAddress> Resolve(const HostPort& host_port);
std::string ToString(const SocketAddress& address);

}  // namespace simm::transport
