#include "common/routing/host_port.h"

#include <charconv>

namespace simm {
namespace {

constexpr size_t kMaxHostBytes = 253;  // RFC 1035 2.3.4, less the trailing dot

Status Malformed(std::string_view text) {
  constexpr size_t kShown = 80;
  return Status(Code::kInvalidArgument, "'" + std::string(text.substr(0, kShown)) +
                                            "' is not an address of the form host:port or [v6]:port");
}

bool IsHostCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '-' || c == '_';
}
bool IsV6Character(char c) {
  return IsHostCharacter(c) || c == ':' || c == '%';
}

}  // namespace

Result<HostPort> ParseHostPort(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return Malformed(text);
  std::string_view host = text.substr(0, colon);
  const std::string_view port_text = text.substr(colon + 1);
  HostPort address;
  const auto parsed =
      std::from_chars(port_text.data(), port_text.data() + port_text.size(), address.port);
  if (parsed.ec != std::errc() || parsed.ptr != port_text.data() + port_text.size()) {
    return Malformed(text);
  }
  bool (*allowed)(char) = IsHostCharacter;
  if (host.front() == '[') {
    if (host.size() < 3 || host.back() != ']') return Malformed(text);
    host = host.substr(1, host.size() - 2);
    allowed = IsV6Character;
  }
  if (host.size() > kMaxHostBytes) return Malformed(text);
  for (const char c : host) {
    if (!allowed(c)) return Malformed(text);
  }
  address.host = std::string(host);
  return address;
}

std::string ToString(const HostPort& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  return (v6 ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
}

}  // namespace simm
