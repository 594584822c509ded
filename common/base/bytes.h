#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "common/base/status.h"

namespace simm {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "wire and pool layouts are little-endian");

using ByteSpan = std::span<const std::byte>;
using MutableByteSpan = std::span<std::byte>;

inline ByteSpan AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}
inline std::string_view AsText(ByteSpan bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline constexpr uint64_t RoundUp(uint64_t value, uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Bounded writer of little-endian fields into a caller's buffer. Overrun is remembered, not done:
// check ok() once at the end. Thread-compatible.
class ByteWriter {
 public:
  explicit ByteWriter(MutableByteSpan out) : out_(out) {}

  template <typename T>
  requires std::is_integral_v<T>
  void Put(T value) { Put(ByteSpan(reinterpret_cast<const std::byte*>(&value), sizeof value)); }
  void Put(ByteSpan bytes) {
    if (bytes.size() > out_.size() - used_) {
      ok_ = false;
      return;
    }
    if (!bytes.empty()) std::memcpy(out_.data() + used_, bytes.data(), bytes.size());
    used_ += bytes.size();
  }
  bool ok() const { return ok_; }
  size_t used() const { return used_; }

 private:
  MutableByteSpan out_;
  size_t used_ = 0;
  bool ok_ = true;
};

// Bounded reader, the counterpart of ByteWriter. After an overrun every read gives zero and ok() is
// false. `Take` gives a view into the input.
class ByteReader {
 public:
  explicit ByteReader(ByteSpan in) : in_(in) {}

  template <typename T>
  requires std::is_integral_v<T> T Get() {
    T value = 0;
    if (const ByteSpan bytes = Take(sizeof value); bytes.size() == sizeof value) {
      std::memcpy(&value, bytes.data(), sizeof value);
    }
    return value;
  }
  ByteSpan Take(size_t size) {
    if (size > in_.size() - read_) {
      ok_ = false;
      read_ = in_.size();
      return {};
    }
    const ByteSpan bytes = in_.subspan(read_, size);
    read_ += size;
    return bytes;
  }
  bool ok() const { return ok_; }
  size_t remaining() const { return in_.size() - read_; }

 private:
  ByteSpan in_;
  size_t read_ = 0;
  bool ok_ = true;
};

// "64MiB", "1.5GiB", "4096", "16 KiB" -> bytes. K/M/G/T with or without i and B are powers of 1024.
// kInvalidArgument names the text and what is allowed.
Result<uint64_t> ParseSize(std::string_view text);
// 67108864 -> "64.0 MiB".
std::string FormatSize(uint64_t bytes);

// Lower-case hexadecimal of the bytes; for keys in logs.
std::string ToHex(ByteSpan bytes);
// The key as it is when it is printable ASCII, else hex: in messages for people.
std::string PrintableKey(std::string_view key);

}  // namespace simm
