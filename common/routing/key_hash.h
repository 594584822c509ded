#pragma once

#include <cstdint>
#include <string_view>

#include "common/base/bytes.h"
#include "common/base/hash.h"

namespace simm {

// Where a key lives (DESIGN 3): h = XXH3_128(key, seed = XXH3_64(namespace name)); the shard of the
// key map is the top 16 bits of h, the bucket inside a server comes from the low half, and h is the
// fingerprint in the slot.
inline uint64_t NamespaceSeed(std::string_view namespace_name) {
  return Xxh3_64(AsBytes(namespace_name));
}
inline Hash128 HashKey(std::string_view key, uint64_t namespace_seed) {
  return Xxh3_128(AsBytes(key), namespace_seed);
}
inline uint32_t ShardOf(const Hash128& h) { return static_cast<uint32_t>(h.high >> 48); }
// Multiply-shift reduction of the low half onto [0, buckets).
inline uint64_t BucketOf(const Hash128& h, uint64_t buckets) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(h.low) * buckets) >> 64);
}

}  // namespace simm
