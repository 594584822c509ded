#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

namespace simm {

struct HostPort {
  std::string host;  // a name, an IPv4 address, or an IPv6 address without its brackets
  uint16_t port = 0;
};

// "host:port" or "[v6 address]:port". kInvalidArgument names the text, what is wrong with it and
// what is allowed. Port 0 is parsed: a listener may ask for it ("any free port").
Result<HostPort> ParseHostPort(std::string_view text);
// As ParseHostPort, but port 0 is refused: the address of somebody to call.
Result<HostPort> ParsePeer(std::string_view text);
// "a:1,b:2" -> {"a:1", "b:2"}: at least one peer, blanks around commas allowed.
Result<std::vector<std::string>> ParsePeerList(std::string_view text);
// The inverse: brackets around an IPv6 address.
std::string ToString(const HostPort& address);

}  // namespace simm
