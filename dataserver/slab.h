#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace simm::dataserver {

// A growing table in chunks: growth never copies what is there, so no put pays for doubling a table
// of millions, and half of it never lies idle. Elements keep their address. Thread-compatible.
template <typename T>
class Slab {
 public:
  T& operator[](uint32_t index) { return chunks_[index / kChunk][index % kChunk]; }
  const T& operator[](uint32_t index) const { return chunks_[index / kChunk][index % kChunk]; }
  // Makes indexes [0, size) valid; new elements are value-initialized.
  void Reach(uint32_t size) {
    while (chunks_.size() * kChunk < size) chunks_.push_back(std::make_unique<T[]>(kChunk));
  }

 private:
  static constexpr size_t kChunk = 4096;
  std::vector<std::unique_ptr<T[]>> chunks_;
};

}  // namespace simm::dataserver
