#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "common/base/bytes.h"

namespace simm {

struct Hash128 {
  uint64_t high = 0;
  uint64_t low = 0;
  friend auto operator<=>(const Hash128&, const Hash128&) = default;
};

// XXH3 of the xxHash library: 64 and 128 bits.
uint64_t Xxh3_64(ByteSpan bytes);
Hash128 Xxh3_128(ByteSpan bytes, uint64_t seed);

// XXH3-64 of bytes that arrive in pieces; Digest equals Xxh3_64 of their concatenation.
// Thread-compatible.
class Xxh3Stream {
 public:
  Xxh3Stream();
  ~Xxh3Stream();
  Xxh3Stream(Xxh3Stream&&) noexcept;
  Xxh3Stream& operator=(Xxh3Stream&&) noexcept;
  void Reset();
  void Update(ByteSpan bytes);
  uint64_t Digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// CRC-32C (Castagnoli, RFC 3720 B.4); the instruction of the processor where it has one.
uint32_t Crc32c(ByteSpan bytes, uint32_t crc = 0);

}  // namespace simm
