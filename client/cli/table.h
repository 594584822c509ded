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
// "3 d 4 h", "12 s", "250 ms": the two largest units.
std::string FormatDuration(uint64_t ms);

}  // namespace simm::cli
