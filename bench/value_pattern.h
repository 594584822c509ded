#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "common/base/bytes.h"

// Values that say whose they are: bytes that are a function of a seed (of a key and its version),
// fast to make (one mixing step per 64 B) and to check in place.
namespace simm::bench {

// The finalizer of SplitMix64: neighbouring inputs give unrelated outputs.
inline uint64_t Mix(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

inline uint64_t ValueSeed(uint64_t key, uint64_t version) {
  return Mix(Mix(key + 0x9e3779b97f4a7c15ULL) + version);
}

// Word `word` of block `block`: the block's base, turned and marked, so that a shift by any
// multiple of 8 B inside or between blocks shows.
inline uint64_t PatternBase(uint64_t seed, uint64_t block) {
  return Mix(seed + block * 0x9e3779b97f4a7c15ULL);
}
inline uint64_t PatternWord(uint64_t base, unsigned word) {
  return std::rotl(base, static_cast<int>(8 * word)) ^ (0x0101010101010101ULL * word);
}

inline constexpr size_t kPatternBlock = 64;

inline void FillPattern(uint64_t seed, MutableByteSpan out) {
  const size_t blocks = out.size() / kPatternBlock;
  for (size_t block = 0; block < blocks; ++block) {
    const uint64_t base = PatternBase(seed, block);
    uint64_t words[8];
    for (unsigned word = 0; word < 8; ++word) words[word] = PatternWord(base, word);
    std::memcpy(out.data() + block * kPatternBlock, words, kPatternBlock);
  }
  const size_t rest = out.size() % kPatternBlock;
  if (rest == 0) return;
  uint64_t words[8];
  const uint64_t base = PatternBase(seed, blocks);
  for (unsigned word = 0; word < 8; ++word) words[word] = PatternWord(base, word);
  std::memcpy(out.data() + blocks * kPatternBlock, words, rest);
}

// True when `in` is exactly what FillPattern(seed) makes of that size.
inline bool MatchesPattern(uint64_t seed, ByteSpan in) {
  const size_t blocks = in.size() / kPatternBlock;
  for (size_t block = 0; block < blocks; ++block) {
    const uint64_t base = PatternBase(seed, block);
    uint64_t words[8];
    std::memcpy(words, in.data() + block * kPatternBlock, kPatternBlock);
    uint64_t difference = 0;
    for (unsigned word = 0; word < 8; ++word) difference |= words[word] ^ PatternWord(base, word);
    if (difference != 0) return false;
  }
  if (in.size() % kPatternBlock == 0) return true;
  uint64_t words[8];
  const uint64_t base = PatternBase(seed, blocks);
  for (unsigned word = 0; word < 8; ++word) words[word] = PatternWord(base, word);
  return std::memcmp(words, in.data() + blocks * kPatternBlock, in.size() % kPatternBlock) == 0;
}

}  // namespace simm::bench
