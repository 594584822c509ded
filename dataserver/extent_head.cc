#include "dataserver/extent_head.h"

#include <array>
#include <atomic>
#include <bit>
#include <cstring>

#include "common/base/limits.h"

namespace simm::dataserver {

using protocol::ExtentHeader;
using protocol::Slot;
using protocol::SlotWord;

namespace {

constexpr size_t kMaxHeadWords = protocol::ExtentHeadBytes(limits::kMaxKeyBytes) / sizeof(uint64_t);
constexpr size_t kHeaderWords = sizeof(ExtentHeader) / sizeof(uint64_t);

void StoreWords(std::byte* at, const uint64_t* words, size_t count) {
  auto* const out = reinterpret_cast<uint64_t*>(at);
  for (size_t i = 0; i < count; ++i) {
    std::atomic_ref<uint64_t>(out[i]).store(words[i], std::memory_order_relaxed);
  }
}
void LoadWords(const std::byte* at, uint64_t* words, size_t count) {
  auto* const in = reinterpret_cast<uint64_t*>(const_cast<std::byte*>(at));
  for (size_t i = 0; i < count; ++i) {
    words[i] = std::atomic_ref<uint64_t>(in[i]).load(std::memory_order_relaxed);
  }
}

using HeadWords = std::array<uint64_t, kMaxHeadWords>;

}  // namespace

void WriteHead(std::byte* at, const ExtentHeader& header, std::string_view key) {
  HeadWords words{};
  std::memcpy(words.data(), &header, sizeof header);
  std::memcpy(words.data() + kHeaderWords, key.data(), key.size());
  StoreWords(at, words.data(), protocol::ExtentHeadBytes(key.size()) / sizeof(uint64_t));
}

ExtentHeader ReadHeader(const std::byte* at) {
  std::array<uint64_t, kHeaderWords> words;
  LoadWords(at, words.data(), words.size());
  return std::bit_cast<ExtentHeader>(words);
}

std::string ReadKey(const std::byte* at, size_t key_bytes) {
  HeadWords words;
  LoadWords(at + sizeof(ExtentHeader), words.data(), RoundUp(key_bytes, 8) / 8);
  return std::string(reinterpret_cast<const char*>(words.data()), key_bytes);
}

bool KeyIs(const std::byte* at, std::string_view key) {
  HeadWords words;
  LoadWords(at + sizeof(ExtentHeader), words.data(), RoundUp(key.size(), 8) / 8);
  return std::memcmp(words.data(), key.data(), key.size()) == 0;
}

bool HeaderAgrees(const ExtentHeader& header, const Slot& slot) {
  return header.generation == SlotWord{slot.word}.generation() &&
         header.namespace_id == slot.namespace_id && header.key_bytes == slot.key_bytes &&
         header.value_bytes == slot.value_bytes;
}

}  // namespace simm::dataserver
