#pragma once

#include <sys/socket.h>

#include <string>

#include "common/base/host_port.h"
#include "common/base/status.h"

namespace simm::transport {

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
};
// Looks the host up (getaddrinfo; may block on DNS). kUnavailable names the host.
Result<SocketAddress> Resolve(const HostPort& host_port);
std::string ToString(const SocketAddress& address);

}  // namespace simm::transport
