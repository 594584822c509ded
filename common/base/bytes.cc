#include "common/base/bytes.h"

#include <array>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace simm {

Result<uint64_t> ParseSize(std::string_view text) {
  const auto bad = [&] {
    return Status(Code::kInvalidArgument,
                  "'" + std::string(text) +
                      "' is not a size; write a number with an optional unit, "
                      "such as 4096, 64KiB, 512MiB, 1.5GiB");
  };
  const std::string copy(text);
  char* end = nullptr;
  if (copy.empty() || !(std::isdigit(static_cast<unsigned char>(copy[0])) || copy[0] == '.')) {
    return bad();
  }
  const double number = std::strtod(copy.c_str(), &end);
  std::string unit;
  for (; *end != '\0'; ++end) {
    if (*end != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(*end)));
  }
  int power = 0;
  if (!unit.empty() && unit != "b") {
    const size_t i = std::string_view("kmgt").find(unit[0]);
    const std::string rest = unit.substr(1);
    if (i == std::string_view::npos || !(rest.empty() || rest == "b" || rest == "ib")) return bad();
    power = static_cast<int>(i) + 1;
  }
  const double bytes = std::ldexp(number, 10 * power);
  if (!(bytes >= 0) || bytes >= std::ldexp(1.0, 62)) return bad();
  return static_cast<uint64_t>(bytes);
}

std::string FormatSize(uint64_t bytes) {
  constexpr std::array<const char*, 6> kUnits = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  double number = static_cast<double>(bytes);
  size_t unit = 0;
  while (number >= 1024 && unit + 1 < kUnits.size()) {
    number /= 1024;
    ++unit;
  }
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", number, kUnits[unit]);
  return text.data();
}

std::string ToHex(ByteSpan bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  text.reserve(bytes.size() * 2);
  for (const std::byte b : bytes) {
    text += kDigits[std::to_integer<size_t>(b) >> 4];
    text += kDigits[std::to_integer<size_t>(b) & 15];
  }
  return text;
}

std::string PrintableKey(std::string_view key) {
  for (const char c : key) {
    if (c < 0x20 || c > 0x7e) return "0x" + ToHex(AsBytes(key));
  }
  return std::string(key);
}

}  // namespace simm
