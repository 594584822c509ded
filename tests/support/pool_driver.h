#pragma once

#include <cstring>
#include <string>
#include <string_view>

#include "common/base/random.h"
#include "common/routing/key_hash.h"
#include "dataserver/pool.h"

namespace simm::dataserver {

// The bytes that belong to a version of a key: equal content means the right value.
inline void FillValue(MutableByteSpan out, std::string_view key, uint64_t version) {
  Random random(Xxh3_64(AsBytes(key)) ^ version * 0x9e3779b97f4a7c15ULL);
  size_t at = 0;
  for (; at + 8 <= out.size(); at += 8) {
    const uint64_t word = random();
    std::memcpy(out.data() + at, &word, 8);
  }
  const uint64_t word = random();
  if (at < out.size()) std::memcpy(out.data() + at, &word, out.size() - at);
}
inline bool IsValue(ByteSpan bytes, std::string_view key, uint64_t version) {
  std::string want(bytes.size(), '\0');
  FillValue({reinterpret_cast<std::byte*>(want.data()), want.size()}, key, version);
  return AsText(bytes) == want;
}

inline Hash128 HashOf(std::string_view key, NamespaceId ns = 0) { return HashKey(key, ns + 1); }

// Allocate, fill, commit.
inline Code Put(Pool& pool, std::string_view key, uint64_t bytes, uint64_t version = 0,
                PutMode mode = PutMode::kIfAbsent, NamespaceId ns = 0) {
  Result<Grant> grant = pool.Allocate(HashOf(key, ns), ns, key, bytes);
  if (!grant.ok()) return grant.code();
  FillValue(grant->value, key, version);
  return pool.Commit(*grant, HashOf(key, ns), ns, key, mode, Xxh3_64(grant->value), {});
}
// kOk only if the bytes are those of that version, kCorrupt if they are others.
inline Code Get(Pool& pool, std::string_view key, uint64_t version = 0, NamespaceId ns = 0) {
  PinnedValue pinned;
  if (const Code code = pool.Acquire(HashOf(key, ns), ns, key, &pinned); code != Code::kOk)
    return code;
  const bool right =
      IsValue(pinned.value, key, version) && Xxh3_64(pinned.value) == pinned.checksum;
  pool.Release(pinned);
  return right ? Code::kOk : Code::kCorrupt;
}

}  // namespace simm::dataserver
