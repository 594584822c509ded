#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

#include "common/base/bytes.h"

// Copies from and to memory that another process changes meanwhile.
//
// Why a validated read is right on it (DESIGN 5), on x86 and on ARM. The reader loads slot, value,
// slot again, each as an item that completed before the next was posted; the owner that takes the
// extent away stores the slot's word, fences, and only then lets anybody store to the extent.
// Suppose the reader's value holds a byte stored after that. ReadFence stands between that load and
// the loads of the second look; with the owner's fence it makes the store to the slot visible to
// the second look, which then differs from the first, since a slot's word never repeats. Words of
// slots, buckets and heads are loaded atomically, in ascending order, so that none is torn within
// its 8 bytes and a slot's first word is loaded before its fields; the CRC decides about the rest.
// Value bytes may be torn: they are judged by the second look, never by themselves.
namespace simm::transport {

// Up to here a piece is read word by word: slots, buckets and heads are.
inline constexpr size_t kWordwiseBytes = 4096;

inline void CopyWords(std::byte* to, const std::byte* from, size_t size) {
  const auto copy_byte = [&] {
    *to++ = static_cast<std::byte>(
        __atomic_load_n(reinterpret_cast<const unsigned char*>(from++), __ATOMIC_RELAXED));
    --size;
  };
  while (size > 0 && reinterpret_cast<uintptr_t>(from) % sizeof(uint64_t) != 0) copy_byte();
  for (; size >= sizeof(uint64_t); size -= sizeof(uint64_t)) {
    const uint64_t word =
        __atomic_load_n(reinterpret_cast<const uint64_t*>(from), __ATOMIC_ACQUIRE);
    std::memcpy(to, &word, sizeof word);
    to += sizeof word;
    from += sizeof word;
  }
  while (size > 0) copy_byte();
}

inline void CopyFromShared(std::byte* to, const std::byte* from, size_t size) {
  if (size <= kWordwiseBytes) {
    CopyWords(to, from, size);
  } else {
    std::memcpy(to, from, size);
  }
}

// From here on a copy into the pool goes past the cache: nobody reads it soon, and the memory need
// not be read before it is overwritten, which is a third of a copy's traffic.
inline constexpr size_t kStreamedBytes = 64 << 10;
inline constexpr size_t kStreamAhead = 4 << 10;

// Copies past the cache; nothing else is ordered behind it before StreamFence. Fetches what lies
// `ahead` bytes further on in `from` at the same time (it need not be there).
inline void StreamToShared(std::byte* to, const std::byte* from, size_t size, size_t ahead) {
#if defined(__x86_64__)
  const size_t head = std::min<size_t>(-reinterpret_cast<uintptr_t>(to) % 64, size);
  std::memcpy(to, from, head);
  to += head, from += head, size -= head;
  for (; size >= 64; size -= 64, to += 64, from += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(from) + ahead, _MM_HINT_T0);
    const auto* const in = reinterpret_cast<const __m128i*>(from);
    auto* const out = reinterpret_cast<__m128i*>(to);
    const __m128i a = _mm_loadu_si128(in), b = _mm_loadu_si128(in + 1);
    const __m128i c = _mm_loadu_si128(in + 2), d = _mm_loadu_si128(in + 3);
    _mm_stream_si128(out, a);
    _mm_stream_si128(out + 1, b);
    _mm_stream_si128(out + 2, c);
    _mm_stream_si128(out + 3, d);
  }
#endif
  std::memcpy(to, from, size);
}

// Orders stores past the cache, which WriteFence does not.
inline void StreamFence() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

inline void CopyToShared(std::byte* to, const std::byte* from, size_t size) {
  if (size < kStreamedBytes) {
    std::memcpy(to, from, size);
    return;
  }
  StreamToShared(to, from, size, kStreamAhead);
  StreamFence();
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
// ThreadSanitizer does not model fences; it sees no race here, since the two processes (and a test
// that is both) map the memory at different addresses.
#pragma GCC diagnostic ignored "-Wtsan"
#endif
// Behind each Read: what was loaded is older than whatever is loaded from now on. The full fence,
// and not only acquire, since memcpy may use string instructions, whose order is promised more
// weakly; it costs about 20 ns.
inline void ReadFence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
// Before a message: what was stored is visible to whoever receives it.
inline void WriteFence() { std::atomic_thread_fence(std::memory_order_release); }
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

}  // namespace simm::transport
