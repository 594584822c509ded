// The pool under many threads, with readers that look at index and extents as one-sided readers do:
// without asking. Runs under ThreadSanitizer too.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "dataserver/pool.h"
#include "tests/support/pool_driver.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;
using SlotWords = std::array<uint64_t, protocol::kSlotBytes / 8>;

constexpr int kKeys = 600;

std::string Key(uint64_t n) { return "key-" + std::to_string(n); }

template <size_t N>
std::array<uint64_t, N> LoadWords(const std::byte* at) {
  std::array<uint64_t, N> words;
  auto* in = reinterpret_cast<uint64_t*>(const_cast<std::byte*>(at));
  for (size_t i = 0; i < N; ++i) {
    words[i] = std::atomic_ref<uint64_t>(in[i]).load(std::memory_order_acquire);
  }
  return words;
}

// The bytes behind a slot that has changed meanwhile may be another value in the making: the race
// is by design, and the second look at the slot tells.
__attribute__((no_sanitize("thread"), noinline)) protocol::ExtentHeader LoadHeader(
    const std::byte* at) {
  std::array<uint64_t, sizeof(protocol::ExtentHeader) / 8> words{};
  for (size_t i = 0; i < words.size(); ++i) {
    words[i] = reinterpret_cast<const volatile uint64_t*>(at)[i];
  }
  return std::bit_cast<protocol::ExtentHeader>(words);
}

class PoolThreadsTest : public ::testing::Test {
 protected:
  PoolThreadsTest() {
    auto pool = Pool::Create(
        {.memory_bytes = 4 << 20, .mean_value_bytes = 4096, .path = {}, .prefault = true},
        MonotonicClock::Get());
    SIMM_CHECK(pool.ok(), pool.status().ToString());
    pool_ = std::move(*pool);
  }

  void Writer(uint64_t seed) {
    Random random(seed);
    while (!stop_.load()) {
      const std::string key = Key(random.Below(kKeys));
      // A version that the reader can tell from the length.
      const uint64_t bytes = random.OneIn(20) ? random.Below(200'000) : random.Below(20'000);
      const auto mode = random.OneIn(3) ? PutMode::kReplace : PutMode::kIfAbsent;
      const Code code = Put(*pool_, key, bytes, bytes, mode);
      if (code != Code::kOk && code != Code::kExists && code != Code::kBusy) ++wrong_;
      ++puts_;
    }
  }
  void Reader(uint64_t seed) {
    Random random(seed);
    while (!stop_.load()) {
      const std::string key = Key(random.Below(kKeys));
      PinnedValue pinned;
      if (pool_->Acquire(HashOf(key), 0, key, &pinned) != Code::kOk) continue;
      if (random.OneIn(4)) std::this_thread::yield();
      if (!IsValue(pinned.value, key, pinned.value.size())) ++wrong_;
      if (Xxh3_64(pinned.value) != pinned.checksum) ++wrong_;
      pool_->Touch(HashOf(key), 0, key);
      pool_->Release(pinned);
      ++gets_;
    }
  }
  void Remover(uint64_t seed) {
    Random random(seed);
    while (!stop_.load()) {
      const std::string key = Key(random.Below(kKeys));
      (void)pool_->Remove(HashOf(key), 0, key);
      if (pool_->Scrub(HashOf(Key(0)), 0, Key(0))) ++wrong_;
      const uint64_t third = random.Below(3);
      (void)pool_->DropShards([&](uint32_t shard) { return shard % 97 != third; }, 0);
      (void)pool_->Scan(random.Below(1000), 10, [](NamespaceId, std::string_view, uint64_t) {});
      const PoolUsage usage = pool_->Usage();
      if (usage.free_bytes + usage.granted_bytes + usage.live_bytes + usage.limbo_bytes +
              usage.pinned_bytes !=
          usage.data_bytes) {
        ++wrong_;
      }
      std::this_thread::sleep_for(100us);
    }
  }
  void Evictor() {
    while (!stop_.load()) {
      pool_->WaitForEvictionWork(1ms);
      pool_->EvictSome();
    }
  }
  // A slot that is LIVE with a good CRC names an extent whose header, if the slot has not changed
  // meanwhile, is that entry's.
  void OneSidedReader(uint64_t seed) {
    Random random(seed);
    const protocol::PoolGeometry& geometry = pool_->geometry();
    while (!stop_.load()) {
      const std::byte* at = pool_->index_memory().data() + geometry.buckets_offset +
                            random.Below(geometry.bucket_count) * protocol::kBucketBytes +
                            sizeof(protocol::BucketHeader) +
                            random.Below(protocol::kSlotsPerBucket) * protocol::kSlotBytes;
      const SlotWords first = LoadWords<8>(at);
      const auto slot = std::bit_cast<protocol::Slot>(first);
      if (protocol::SlotWord{slot.word}.state() != protocol::SlotState::kLive) continue;
      if (slot.crc != slot.ComputeCrc()) continue;
      if (slot.offset + protocol::ExtentBytes(slot.key_bytes, slot.value_bytes) >
          geometry.data_bytes) {
        ++wrong_;
        continue;
      }
      const protocol::ExtentHeader header = LoadHeader(pool_->data_memory().data() + slot.offset);
      if (LoadWords<8>(at) != first) continue;
      if (header.generation != protocol::SlotWord{slot.word}.generation() ||
          header.value_bytes != slot.value_bytes || header.key_bytes != slot.key_bytes) {
        ++wrong_;
      }
      pool_->TouchSlot(static_cast<uint32_t>(random.Below(geometry.slots())), header.generation);
      ++validated_;
    }
  }

  std::unique_ptr<Pool> pool_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> wrong_{0};
  std::atomic<uint64_t> puts_{0};
  std::atomic<uint64_t> gets_{0};
  std::atomic<uint64_t> validated_{0};
};

TEST_F(PoolThreadsTest, EverybodyAtOnce) {
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 3; ++i) threads.emplace_back([this, i] { Writer(i); });
  for (uint64_t i = 0; i < 2; ++i) threads.emplace_back([this, i] { Reader(100 + i); });
  threads.emplace_back([this] { Remover(200); });
  threads.emplace_back([this] { Evictor(); });
  threads.emplace_back([this] { OneSidedReader(300); });
  for (int i = 0; i < 10; ++i) {
    std::this_thread::sleep_for(200ms);
    const Status status = pool_->Audit();
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  stop_.store(true);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong_.load(), 0u);
  EXPECT_GT(puts_.load(), 100u);
  EXPECT_GT(gets_.load(), 100u);
  EXPECT_GT(validated_.load(), 100u);
  EXPECT_EQ(pool_->Usage().granted_bytes, 0u);
  EXPECT_EQ(pool_->Usage().pinned_bytes, 0u);
  EXPECT_TRUE(pool_->Audit().ok()) << pool_->Audit().ToString();
}

}  // namespace
}  // namespace simm::dataserver
