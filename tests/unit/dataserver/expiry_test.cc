// Entries whose time is over: the queue, and what the pool does with it.

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "common/base/random.h"
#include "dataserver/expiry_queue.h"
#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"
#include "tests/support/pool_folder.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;

TEST(ExpiryQueueTest, AgreesWithAMap) {
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    Random random(seed);
    ExpiryQueue queue;
    std::map<uint32_t, uint64_t> model;
    for (int step = 0; step < 2000; ++step) {
      const auto extent = static_cast<uint32_t>(random.Below(300));
      if (model.contains(extent) || random.OneIn(4)) {
        queue.Remove(extent);
        model.erase(extent);
      } else {
        model[extent] = random.Below(1000);
        queue.Add(extent, model[extent]);
      }
      ASSERT_EQ(queue.size(), model.size());
      uint64_t first = UINT64_MAX;
      for (const auto& [other, at] : model) first = std::min(first, at);
      const uint32_t due = queue.Due(first);
      if (model.empty()) {
        ASSERT_EQ(queue.Due(UINT64_MAX), kNoExtent);
      } else {
        ASSERT_EQ(model.at(due), first);
        ASSERT_TRUE(first == 0 || queue.Due(first - 1) == kNoExtent);
      }
      if (step % 50 == 0) {
        ASSERT_TRUE(queue.Check().ok()) << queue.Check().ToString();
      }
    }
  }
}

class ExpiryTest : public testing::Test {
 protected:
  ExpiryTest() { Open(); }
  void Open() {
    pool_.reset();
    auto pool = Pool::Create({.memory_bytes = 4 << 20,
                              .path = folder_.pool(),
                              .wait_for_lock = {},
                              .prefault = false,
                              .boot_clock = &boot_clock_},
                             clock_);
    ASSERT_TRUE(pool.ok()) << pool.status().ToString();
    pool_ = std::move(*pool);
  }
  Code PutTtl(const std::string& key, std::chrono::milliseconds ttl,
              PutMode mode = PutMode::kIfAbsent) {
    auto grant = pool_->Allocate(HashOf(key), 0, key, 1000);
    if (!grant.ok()) return grant.code();
    FillValue(grant->value, key, 0);
    return pool_->Commit(*grant, HashOf(key), 0, key, mode, Xxh3_64(grant->value),
                         {.parent = {}, .depth = 0, .ttl_ms = static_cast<uint32_t>(ttl.count())});
  }
  void Sweep() {
    while (pool_->ExpireSome()) {
    }
    EXPECT_TRUE(pool_->Audit().ok()) << pool_->Audit().ToString();
  }

  const PoolFolder folder_;
  FakeClock clock_;
  FakeClock boot_clock_{123'456'700'000'000};
  std::unique_ptr<Pool> pool_;
};

TEST_F(ExpiryTest, ItIsThereUntilItsTimeIsOver) {
  ASSERT_EQ(PutTtl("short", 1ms), Code::kOk);
  ASSERT_EQ(PutTtl("long", 5000ms), Code::kOk);
  ASSERT_EQ(PutTtl("ever", 0ms), Code::kOk);
  Sweep();
  EXPECT_EQ(Get(*pool_, "short"), Code::kOk);
  boot_clock_.Advance(1ms);
  Sweep();
  EXPECT_EQ(Get(*pool_, "short"), Code::kMiss);
  boot_clock_.Advance(4998ms);
  Sweep();
  EXPECT_EQ(Get(*pool_, "long"), Code::kOk);
  boot_clock_.Advance(1ms);
  Sweep();
  EXPECT_EQ(Get(*pool_, "long"), Code::kMiss);
  boot_clock_.Advance(24h * 365);
  Sweep();
  EXPECT_EQ(Get(*pool_, "ever"), Code::kOk);
  EXPECT_EQ(pool_->Counters().expired, 2u);
  for (const uint64_t evicted : pool_->Counters().evictions) EXPECT_EQ(evicted, 0u);
}

TEST_F(ExpiryTest, WhatIsReplacedOrRemovedLeavesNoTimeBehind) {
  ASSERT_EQ(PutTtl("a", 10ms), Code::kOk);
  ASSERT_EQ(PutTtl("a", 0ms, PutMode::kReplace), Code::kOk);
  ASSERT_EQ(PutTtl("b", 10ms), Code::kOk);
  ASSERT_EQ(pool_->Remove(HashOf("b"), 0, "b"), Code::kOk);
  ASSERT_EQ(PutTtl("b", 0ms), Code::kOk);
  ASSERT_EQ(PutTtl("c", 0ms), Code::kOk);
  EXPECT_EQ(PutTtl("c", 10ms), Code::kExists) << "it keeps its own time: none";
  ASSERT_EQ(PutTtl("d", 10ms), Code::kOk);
  ASSERT_EQ(PutTtl("d", 50ms, PutMode::kReplace), Code::kOk);
  boot_clock_.Advance(20ms);
  Sweep();
  for (const char* key : {"a", "b", "c", "d"}) EXPECT_EQ(Get(*pool_, key), Code::kOk) << key;
  boot_clock_.Advance(50ms);
  Sweep();
  EXPECT_EQ(Get(*pool_, "d"), Code::kMiss);
  EXPECT_EQ(pool_->Counters().expired, 1u);
}

TEST_F(ExpiryTest, AStepIsBoundedAndAReaderKeepsWhatItHolds) {
  for (int i = 0; i < 300; ++i) ASSERT_EQ(PutTtl("k" + std::to_string(i), 10ms), Code::kOk);
  PinnedValue pinned;
  ASSERT_EQ(pool_->Acquire(HashOf("k7"), 0, "k7", &pinned), Code::kOk);
  boot_clock_.Advance(1s);
  EXPECT_TRUE(pool_->ExpireSome());
  EXPECT_GT(pool_->Usage().entries, 100u);
  Sweep();
  EXPECT_EQ(pool_->Usage().entries, 0u);
  EXPECT_TRUE(IsValue(pinned.value, "k7", 0));
  pool_->Release(pinned);
  EXPECT_TRUE(pool_->Audit().ok());
}

TEST_F(ExpiryTest, TimesOutliveTheProcess) {
  ASSERT_EQ(PutTtl("short", 2000ms), Code::kOk);
  ASSERT_EQ(PutTtl("long", 60'000ms), Code::kOk);
  ASSERT_EQ(PutTtl("over", 500ms), Code::kOk);
  boot_clock_.Advance(1500ms);
  Open();
  EXPECT_EQ(pool_->recovery().dropped[static_cast<size_t>(DropCause::kExpired)], 1u);
  EXPECT_EQ(pool_->recovery().entries, 2u);
  Sweep();
  EXPECT_EQ(Get(*pool_, "short"), Code::kOk);
  boot_clock_.Advance(1500ms);  // the file counts in seconds: rounded up
  Sweep();
  EXPECT_EQ(Get(*pool_, "short"), Code::kMiss);
  EXPECT_EQ(Get(*pool_, "long"), Code::kOk);
  boot_clock_.Advance(60s);
  Sweep();
  EXPECT_EQ(Get(*pool_, "long"), Code::kMiss);
}

}  // namespace
}  // namespace simm::dataserver
