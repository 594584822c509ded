#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace simm::cli {

// Rows of text in columns, for people. Numbers are set right-aligned. Thread-compatible.
class Table {
 public:
  explicit Table(std::vector<std::string> head) : rows_{std::move(head)} {}
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// 1234567 -> "1,234,567".
std::string WithCommas(uint64_t number);
// "37 %", or "-" of nothing.
std::string Percent(uint64_t part, uint64_t whole);
// The same of rates; "-" where nothing goes on.
std::string PercentOfRates(double part, double whole);
// "3 d 4 h", "12 s", "250 ms": the two largest units.
std::string FormatDuration(uint64_t ms);
// "1,234/s", "0.4/s" and "3.1 MiB/s".
std::string FormatRate(double per_second);
std::string FormatByteRate(double bytes_per_second);
// "[#######-------------]": how much of it is full. Not less than one cell of anything.
std::string Bar(uint64_t part, uint64_t whole, size_t cells);

}  // namespace simm::cli
