#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace simm::python {

// The keys of a batch: a copy, so that they stay while the GIL is given up. Accepts a sequence of
// str (its UTF-8) and bytes. With the GIL; throws nanobind::python_error.
class Keys {
 public:
  explicit Keys(PyObject* sequence);
  std::span<const std::string_view> views() const { return views_; }
  size_t size() const { return views_.size(); }

 private:
  std::string bytes_;
  std::vector<std::string_view> views_;
};

// Exactly `count` numbers from a sequence of ints, none negative. `name` is for the message. With
// the GIL; throws nanobind::python_error.
std::vector<uint64_t> Numbers(PyObject* sequence, size_t count, const char* name);

}  // namespace simm::python
