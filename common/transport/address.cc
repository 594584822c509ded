#include "common/transport/address.h"

#include <netdb.h>
#include <netinet/in.h>

#include <array>
#include <charconv>
#include <cstring>

namespace simm::transport {

Result<HostPort> ParseHostPort(std::string_view text) {
  const auto bad = [&](const char* why) {
    return Status(Code::kInvalidArgument, "'" + std::string(text) + "' is not an address: " + why +
                                              "; write host:port, such as 127.0.0.1:30001 or [::1]:30001");
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return bad("the port is missing");
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return bad("an IPv6 host needs brackets");
  }
  if (host.empty()) return bad("the host is missing");
  HostPort result{std::string(host), 0};
  const auto parsed = std::from_chars(port.data(), port.data() + port.size(), result.port);
  if (port.empty() || parsed.ec != std::errc() || parsed.ptr != port.data() + port.size()) {
    return bad("the port is not a number from 0 to 65535");
  }
  return result;
}

std::string JoinHostPort(std::string_view host, uint16_t port) {
  std::string text(host);
  if (text.find(':') != std::string::npos) text = "[" + text + "]";
  return text + ":" + std::to_string(port);
}

Result<SocketAddress> Resolve(const HostPort& host_port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int rc = getaddrinfo(host_port.host.c_str(), std::to_string(host_port.port).c_str(), &hints, &found);
  if (rc != 0 || found == nullptr) {
    return Status(Code::kUnavailable, "cannot resolve host '" + host_port.host + "': " + gai_strerror(rc));
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
  return JoinHostPort(host.data(), static_cast<uint16_t>(std::atoi(port.data())));
}

}  // namespace simm::transport
