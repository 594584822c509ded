#include "common/base/ids.h"

#include <array>
#include <charconv>
#include <cstdio>

#include "common/base/random.h"

namespace simm {

Id128 NewId128() {
  Id128 id{OsEntropy(), OsEntropy()};
  if (id.IsZero()) id.low = 1;
  return id;
}

std::string ToString(const Id128& id) {
  std::array<char, 33> text{};
  std::snprintf(text.data(), text.size(), "%016llx%016llx",
                static_cast<unsigned long long>(id.high), static_cast<unsigned long long>(id.low));
  return text.data();
}

Result<Id128> ParseId128(std::string_view text) {
  Id128 id;
  if (text.size() == 32) {
    const char* begin = text.data();
    const auto high = std::from_chars(begin, begin + 16, id.high, 16);
    const auto low = std::from_chars(begin + 16, begin + 32, id.low, 16);
    if (high.ec == std::errc() && high.ptr == begin + 16 && low.ec == std::errc() &&
        low.ptr == begin + 32) {
      return id;
    }
  }
  return Status(Code::kInvalidArgument,
                "'" + std::string(text) + "' is not an id of 32 hexadecimal digits");
}

}  // namespace simm
