#include "common/base/host_port.h"

#include <algorithm>
#include <charconv>

namespace simm {
namespace {

constexpr size_t kMaxHostBytes = 253;  // RFC 1035 2.3.4, less the trailing dot
constexpr size_t kShownBytes = 80;

Status Malformed(std::string_view text, const char* why) {
  return Status(Code::kInvalidArgument, "'" + std::string(text.substr(0, kShownBytes)) + "' " +
                                            why +
                                            "; write HOST:PORT, such as 10.0.0.1:30001 or "
                                            "[::1]:30001, with a port from 1 to 65535");
}

bool IsHostCharacter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '-' || c == '_';
}
bool IsV6Character(char c) { return IsHostCharacter(c) || c == ':' || c == '%'; }

std::string_view Trim(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

}  // namespace

Result<HostPort> ParseHostPort(std::string_view text) {
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return Malformed(text, "has no port");
  std::string_view host = text.substr(0, colon);
  const std::string_view port_text = text.substr(colon + 1);
  HostPort address;
  const auto parsed =
      std::from_chars(port_text.data(), port_text.data() + port_text.size(), address.port);
  if (parsed.ec != std::errc() || parsed.ptr != port_text.data() + port_text.size()) {
    return Malformed(text, "has a wrong port");
  }
  bool (*allowed)(char) = IsHostCharacter;
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
    allowed = IsV6Character;
  } else if (host.find_first_of(":[]") != std::string_view::npos) {
    return Malformed(text, "has an IPv6 host without brackets");
  }
  if (host.empty()) return Malformed(text, "has no host");
  if (host.size() > kMaxHostBytes || !std::all_of(host.begin(), host.end(), allowed)) {
    return Malformed(text, "is not one address");
  }
  address.host = std::string(host);
  return address;
}

Result<HostPort> ParsePeer(std::string_view text) {
  auto address = ParseHostPort(text);
  if (address.ok() && address->port == 0) return Malformed(text, "has port 0");
  return address;
}

Result<std::vector<std::string>> ParsePeerList(std::string_view text) {
  std::vector<std::string> list;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    const std::string_view one = Trim(text.substr(begin, end - begin));
    if (const auto parsed = ParsePeer(one); !parsed.ok()) return parsed.status();
    list.emplace_back(one);
    begin = end + 1;
  }
  return list;
}

std::string ToString(const HostPort& address) {
  const bool v6 = address.host.find(':') != std::string::npos;
  return (v6 ? "[" + address.host + "]" : address.host) + ":" + std::to_string(address.port);
}

}  // namespace simm
