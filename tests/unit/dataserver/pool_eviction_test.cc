#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;

class PoolEvictionTest : public ::testing::Test {
 protected:
  void Make(uint64_t memory, uint64_t mean = 16 << 10) {
    auto pool = Pool::Create(
        {.memory_bytes = memory, .mean_value_bytes = mean, .path = {}, .prefault = false}, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status().ToString();
    pool_ = std::move(*pool);
  }
  void Evict() {
    while (pool_->EvictSome()) {
    }
  }
  bool Has(const std::string& key) {
    uint64_t bytes;
    return pool_->Lookup(HashOf(key), 0, key, &bytes) == Code::kOk;
  }
  uint64_t Evictions(EvictionCause cause) {
    return pool_->Counters().evictions[static_cast<size_t>(cause)];
  }
  // Without filling the value: these tests are about which keys stay.
  Code PutUnfilled(const std::string& key, uint64_t bytes) {
    Result<Grant> grant = pool_->Allocate(HashOf(key), 0, key, bytes);
    if (!grant.ok()) return grant.code();
    return pool_->Commit(*grant, HashOf(key), 0, key, PutMode::kIfAbsent, 0, {});
  }

  FakeClock clock_;
  std::unique_ptr<Pool> pool_;
};

TEST_F(PoolEvictionTest, ColdestGoFirstAndTouchedStay) {
  Make(4 << 20);
  int count = 0;
  while (pool_->Counters().inline_evictions == 0) {
    clock_.Advance(1ms);
    ASSERT_EQ(PutUnfilled("k" + std::to_string(count++), 100'000), Code::kOk);
  }
  EXPECT_FALSE(Has("k0"));
  EXPECT_TRUE(Has("k1"));
  EXPECT_EQ(pool_->Counters().last_evicted_age_ms, static_cast<uint64_t>(count - 1));
  pool_->Touch(HashOf("k1"), 0, "k1");
  pool_->Touch(HashOf("k3"), 0, "k3");
  for (int i = 0; i < 3; ++i) ASSERT_EQ(PutUnfilled("n" + std::to_string(i), 100'000), Code::kOk);
  EXPECT_TRUE(Has("k1"));
  EXPECT_FALSE(Has("k2"));
  EXPECT_TRUE(Has("k3"));
  EXPECT_FALSE(Has("k4"));
  EXPECT_FALSE(Has("k5"));
  EXPECT_TRUE(Has("k6"));
  EXPECT_EQ(pool_->Counters().inline_evictions, 4u);
}

uint64_t Sum(const auto& counts) {
  uint64_t sum = 0;
  for (const uint64_t n : counts) sum += n;
  return sum;
}

TEST_F(PoolEvictionTest, AgesAndTimesOfEvictionsAreCounted) {
  Make(4 << 20);
  for (int i = 0; pool_->Counters().inline_evictions == 0; ++i) {
    ASSERT_EQ(PutUnfilled("k" + std::to_string(i), 100'000), Code::kOk);
    clock_.Advance(1s);
  }
  // It was the oldest of some forty, a second each: between 15 s and 60 s.
  const EvictionStats first = pool_->Counters().eviction_stats;
  EXPECT_EQ(Sum(first.ages.counts), 1u);
  EXPECT_EQ(first.ages.counts[4], 1u);
  EXPECT_DOUBLE_EQ(first.ages.seconds,
                   static_cast<double>(pool_->Counters().last_evicted_age_ms) / 1000);
  EXPECT_EQ(Sum(first.inline_steps.counts), 1u);
  EXPECT_EQ(Sum(first.evictor_steps.counts), 0u);
  clock_.Advance(2h);
  Evict();
  const PoolCounters after = pool_->Counters();
  EXPECT_GE(Sum(after.eviction_stats.evictor_steps.counts), 1u);
  EXPECT_EQ(Sum(after.eviction_stats.ages.counts), after.evictions[0] + after.evictions[1]);
  EXPECT_EQ(after.eviction_stats.ages.counts[8], Sum(after.eviction_stats.ages.counts) - 1);
  Evict();  // nothing to do: no step is counted
  EXPECT_EQ(Sum(pool_->Counters().eviction_stats.evictor_steps.counts),
            Sum(after.eviction_stats.evictor_steps.counts));
}

TEST_F(PoolEvictionTest, WhatReadersHoldIsCountedOnceAndUntilTheLastLetsGo) {
  Make(4 << 20);
  ASSERT_EQ(PutUnfilled("k", 100'000), Code::kOk);
  EXPECT_EQ(pool_->Usage().held_bytes, 0u);
  PinnedValue one, two;
  ASSERT_EQ(pool_->Acquire(HashOf("k"), 0, "k", &one), Code::kOk);
  const uint64_t held = pool_->Usage().held_bytes;
  EXPECT_GE(held, 100'000u);
  ASSERT_EQ(pool_->Acquire(HashOf("k"), 0, "k", &two), Code::kOk);
  EXPECT_EQ(pool_->Usage().held_bytes, held);
  ASSERT_EQ(pool_->Remove(HashOf("k"), 0, "k"), Code::kOk);
  pool_->Release(one);
  EXPECT_EQ(pool_->Usage().held_bytes, held) << "unpublished, and held all the same";
  EXPECT_EQ(pool_->Usage().pinned_bytes, held);
  pool_->Release(two);
  EXPECT_EQ(pool_->Usage().held_bytes, 0u);
}

TEST_F(PoolEvictionTest, APutThatFindsItsKeyIsAUse) {
  Make(4 << 20);
  int count = 0;
  while (pool_->Counters().inline_evictions == 0) {
    ASSERT_EQ(PutUnfilled("k" + std::to_string(count++), 100'000), Code::kOk);
  }
  (void)PutUnfilled("k2", 100'000);  // evicts k1 for its grant
  ASSERT_EQ(PutUnfilled("k2", 100'000), Code::kExists);
  for (int i = 0; i < 4; ++i) ASSERT_EQ(PutUnfilled("n" + std::to_string(i), 100'000), Code::kOk);
  EXPECT_TRUE(Has("k2"));
  EXPECT_FALSE(Has("k3"));
}

TEST_F(PoolEvictionTest, TheEvictorKeepsTheReserveSoThatPutsDoNotEvict) {
  Make(64 << 20);
  for (int i = 0; i < 2000; ++i) {
    ASSERT_EQ(PutUnfilled("k" + std::to_string(i), 100'000), Code::kOk);
    Evict();
    const PoolUsage usage = pool_->Usage();
    EXPECT_GE(usage.free_bytes + usage.limbo_bytes, usage.data_bytes / 100);
  }
  EXPECT_EQ(pool_->Counters().inline_evictions, 0u);
  EXPECT_GT(Evictions(EvictionCause::kMemory), 1000u);
  EXPECT_TRUE(pool_->Audit().ok()) << pool_->Audit().ToString();
}

TEST_F(PoolEvictionTest, StepsAreBounded) {
  Make(64 << 20, 1024);
  while (pool_->Counters().inline_evictions == 0) {
    ASSERT_EQ(PutUnfilled("k" + std::to_string(pool_->Usage().entries), 1000), Code::kOk);
  }
  ASSERT_EQ(PutUnfilled("large", 2 << 20),
            Code::kOk);  // needs some 1,700 small ones gone, twice more
  uint64_t last = pool_->Usage().entries;
  int steps = 0;
  for (bool more = true; more; ++steps) {
    more = pool_->EvictSome();
    const uint64_t now = pool_->Usage().entries;
    EXPECT_LE(last - now, 128u);
    last = now;
  }
  EXPECT_GT(steps, 10);
  EXPECT_GE(pool_->Usage().free_bytes, uint64_t{4} << 20);
  EXPECT_TRUE(Has("large"));
  EXPECT_GT(Evictions(EvictionCause::kContiguity), 0u);
  const uint64_t before = pool_->Counters().inline_evictions;
  ASSERT_EQ(PutUnfilled("large2", 2 << 20), Code::kOk);
  ASSERT_EQ(PutUnfilled("large3", 2 << 20), Code::kOk);
  EXPECT_EQ(pool_->Counters().inline_evictions, before);
}

TEST_F(PoolEvictionTest, OneHundredOfOneHundredFreshValuesAreThere) {
  constexpr uint64_t kValue = 4 << 20;
  for (const bool with_evictor : {false, true}) {
    Make(1 << 30, kValue);
    for (int i = 0; i < 600; ++i)
      ASSERT_EQ(PutUnfilled("old" + std::to_string(i), kValue), Code::kOk);
    std::atomic<bool> stop{false};
    std::thread evictor([&] {
      while (with_evictor && !stop.load()) {
        pool_->WaitForEvictionWork(1ms);
        pool_->EvictSome();
      }
    });
    int at_once = 0;
    int later = 0;
    for (int i = 0; i < 100; ++i) {
      ASSERT_EQ(PutUnfilled("fresh" + std::to_string(i), kValue), Code::kOk);
      if (i % 10 == 0) std::this_thread::sleep_for(2ms);
      at_once += Has("fresh" + std::to_string(i));
    }
    std::this_thread::sleep_for(10ms);
    for (int i = 0; i < 100; ++i) later += Has("fresh" + std::to_string(i));
    stop.store(true);
    evictor.join();
    EXPECT_EQ(at_once, 100) << "with evictor: " << with_evictor;
    EXPECT_EQ(later, 100) << "with evictor: " << with_evictor;
    EXPECT_TRUE(pool_->Audit().ok());
  }
}

// A new size comes in among others, old ones abound: no fresh value pays for the room.
TEST_F(PoolEvictionTest, FreshValuesOutliveOldOnesWhenASizeIsNew) {
  Make(256 << 20);
  for (int i = 0; i < 20'000; ++i)
    ASSERT_EQ(PutUnfilled("old" + std::to_string(i), 16'000), Code::kOk);
  int there = 0;
  for (int i = 0; i < 30; ++i) {
    ASSERT_EQ(PutUnfilled("small" + std::to_string(i), 16'000), Code::kOk);
    ASSERT_EQ(PutUnfilled("large" + std::to_string(i), 3 << 20), Code::kOk);
    Evict();
    there += Has("small" + std::to_string(i)) && Has("large" + std::to_string(i));
  }
  EXPECT_EQ(there, 30);
  there = 0;
  for (int i = 0; i < 30; ++i) {
    there += Has("small" + std::to_string(i)) && Has("large" + std::to_string(i));
  }
  EXPECT_EQ(there, 30);
}

TEST_F(PoolEvictionTest, WaitReturnsWhenThereIsWorkAndNotBefore) {
  Make(16 << 20);
  const auto start = std::chrono::steady_clock::now();
  pool_->WaitForEvictionWork(20ms);
  EXPECT_GE(std::chrono::steady_clock::now() - start, 20ms);

  std::atomic<bool> woke{false};
  std::thread waiter([&] {
    pool_->WaitForEvictionWork(60s);
    woke.store(true);
  });
  while (pool_->Counters().inline_evictions == 0) {
    ASSERT_EQ(PutUnfilled("k" + std::to_string(pool_->Usage().entries), 100'000), Code::kOk);
  }
  waiter.join();
  EXPECT_TRUE(woke.load());
  Evict();
  const auto again = std::chrono::steady_clock::now();
  pool_->WaitForEvictionWork(20ms);  // settled: does not spin
  EXPECT_GE(std::chrono::steady_clock::now() - again, 20ms);
}

}  // namespace
}  // namespace simm::dataserver
