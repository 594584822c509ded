#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace simm {

struct HostPort {
  std::string host;  // a name, an IPv4 address, or an IPv6 address without its brackets
  uint16_t port = 0;
};

// "host:port" or "[v6 address]:port". kInvalidArgument names the text and what is allowed. Port 0 is
// parsed: a listener may ask for it ("any free port"); whoever means a peer refuses it.
Result<HostPort> ParseHostPort(std::string_view text);
// The inverse: brackets around an IPv6 address.
std::string ToString(const HostPort& address);

}  // namespace simm
