#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace simm {

// A random 128-bit identity: of a cluster, of a pool, of a process's boot. Zero means "none".
struct Id128 {
  uint64_t high = 0;
  uint64_t low = 0;
  friend auto operator<=>(const Id128&, const Id128&) = default;
  bool IsZero() const { return high == 0 && low == 0; }
};

// From the operating system's entropy; never zero.
Id128 NewId128();
// 32 lower-case hexadecimal digits, and back.
std::string ToString(const Id128& id);
Result<Id128> ParseId128(std::string_view text);

}  // namespace simm
