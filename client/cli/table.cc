#include "client/cli/table.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdio>
#include <utility>

#include "common/base/bytes.h"

namespace simm::cli {
namespace {

// Also "37 %", "1.5 GiB"; no address.
bool IsNumber(const std::string& text) {
  return !text.empty() && std::isdigit(static_cast<unsigned char>(text[0])) &&
         text.find(':') == std::string::npos;
}

}  // namespace

std::string Table::ToString() const {
  std::vector<size_t> widths;
  std::vector<bool> numbers(rows_.front().size(), rows_.size() > 1);
  for (size_t r = 0; r < rows_.size(); ++r) {
    widths.resize(std::max(widths.size(), rows_[r].size()), 0);
    for (size_t c = 0; c < rows_[r].size(); ++c) {
      widths[c] = std::max(widths[c], rows_[r][c].size());
      if (r > 0 && rows_[r][c] != "-" && !IsNumber(rows_[r][c])) numbers[c] = false;
    }
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t c = 0; c < row.size(); ++c) {
      const std::string pad(widths[c] - row[c].size(), ' ');
      if (c > 0) line += "  ";
      line += numbers[c] ? pad + row[c] : row[c] + pad;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text;
}

std::string WithCommas(uint64_t number) {
  const std::string digits = std::to_string(number);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string Percent(uint64_t part, uint64_t whole) {
  if (whole == 0) return "-";
  const double share = 100.0 * static_cast<double>(part) / static_cast<double>(whole);
  return std::to_string(static_cast<uint64_t>(share + 0.5)) + " %";
}

std::string PercentOfRates(double part, double whole) {
  return whole <= 0 ? "-" : Percent(static_cast<uint64_t>(1000 * part / whole), 1000);
}

std::string FormatRate(double per_second) {
  if (per_second > 0 && per_second < 9.95) {
    char text[16];
    std::snprintf(text, sizeof text, "%.1f/s", per_second);
    return text;
  }
  return WithCommas(static_cast<uint64_t>(per_second + 0.5)) + "/s";
}

std::string FormatByteRate(double bytes_per_second) {
  return FormatSize(static_cast<uint64_t>(bytes_per_second + 0.5)) + "/s";
}

std::string Bar(uint64_t part, uint64_t whole, size_t cells) {
  const double share = whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
  auto full = static_cast<size_t>(share * static_cast<double>(cells) + 0.5);
  if (part > 0 && full == 0) full = 1;
  full = std::min(full, cells);
  return "[" + std::string(full, '#') + std::string(cells - full, '-') + "]";
}

std::string FormatDuration(uint64_t ms) {
  if (ms < 1000) return std::to_string(ms) + " ms";
  constexpr std::array<std::pair<uint64_t, const char*>, 4> kUnits = {
      {{86'400, " d"}, {3'600, " h"}, {60, " min"}, {1, " s"}}};
  uint64_t seconds = ms / 1000;
  std::string text;
  for (size_t unit = 0, shown = 0; unit < kUnits.size() && shown < 2; ++unit) {
    const auto& [length, name] = kUnits[unit];
    if (seconds < length && shown == 0 && length > 1) continue;
    if (shown++ > 0) text += " ";
    text += std::to_string(seconds / length) + name;
    seconds %= length;
  }
  return text;
}

}  // namespace simm::cli
