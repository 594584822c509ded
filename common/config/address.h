#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

namespace simm::config {

// A host and a port as written in options: "10.0.0.1:30001", "node7:30001", "[::1]:30001".
struct Address {
  std::string host;  // without brackets
  uint16_t port = 0;

  // With brackets again where the host holds a colon.
  std::string ToString() const;
};

// kInvalidArgument names the text and what is allowed. Port 0 is allowed only if `any_port` says
// so.
Result<Address> ParseAddress(std::string_view text, bool any_port);

// "a:1,b:2" -> {"a:1", "b:2"}: at least one, ports from 1 on, blanks around commas allowed.
Result<std::vector<std::string>> ParseAddresses(std::string_view text);

}  // namespace simm::config
