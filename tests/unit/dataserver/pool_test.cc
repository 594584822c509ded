#include "dataserver/pool.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/base/limits.h"
#include "dataserver/space.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;

class PoolTest : public ::testing::Test {
 protected:
  PoolTest() { Make(1 << 20, 4096); }
  ~PoolTest() override {
    const Status status = pool_->Audit();
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  void Make(uint64_t memory, uint64_t mean) {
    auto pool = Pool::Create(
        {.memory_bytes = memory, .mean_value_bytes = mean, .path = {}, .prefault = false}, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status().ToString();
    pool_ = std::move(*pool);
  }
  Grant Allocate(std::string_view key, uint64_t bytes) {
    Result<Grant> grant = pool_->Allocate(HashOf(key), 0, key, bytes);
    SIMM_CHECK(grant.ok(), grant.status().ToString());
    FillValue(grant->value, key, 0);
    return *grant;
  }
  Code Commit(const Grant& grant, std::string_view key, PutMode mode = PutMode::kIfAbsent) {
    return pool_->Commit(grant, HashOf(key), 0, key, mode, Xxh3_64(grant.value), {});
  }
  PinnedValue Acquire(std::string_view key) {
    PinnedValue pinned;
    SIMM_CHECK(pool_->Acquire(HashOf(key), 0, key, &pinned) == Code::kOk, key);
    return pinned;
  }
  // Everything of the pool in live values of `bytes`: key0, key1, ...
  int FillUp(uint64_t bytes) {
    int i = 0;
    for (; pool_->Counters().inline_evictions == 0; ++i) {
      SIMM_CHECK(Put(*pool_, "key" + std::to_string(i), bytes) == Code::kOk, "fill");
    }
    return i;
  }

  FakeClock clock_;
  std::unique_ptr<Pool> pool_;
};

TEST_F(PoolTest, PutGetRemove) {
  EXPECT_EQ(Get(*pool_, "a"), Code::kMiss);
  EXPECT_EQ(Put(*pool_, "a", 1000), Code::kOk);
  EXPECT_EQ(Get(*pool_, "a"), Code::kOk);
  EXPECT_EQ(Get(*pool_, "b"), Code::kMiss);
  uint64_t bytes = 0;
  EXPECT_EQ(pool_->Lookup(HashOf("a"), 0, "a", &bytes), Code::kOk);
  EXPECT_EQ(bytes, 1000u);
  EXPECT_EQ(pool_->Lookup(HashOf("b"), 0, "b", &bytes), Code::kMiss);
  EXPECT_EQ(pool_->Remove(HashOf("a"), 0, "a"), Code::kOk);
  EXPECT_EQ(pool_->Remove(HashOf("a"), 0, "a"), Code::kMiss);
  EXPECT_EQ(Get(*pool_, "a"), Code::kMiss);
}

TEST_F(PoolTest, AMatchNeedsNamespaceAndKeyNotOnlyTheFingerprint) {
  const Hash128 same{1, 2};
  const std::string a = "first";
  const std::string b = "other";
  for (const auto& [key, ns] : {std::pair{a, 0}, std::pair{b, 0}, std::pair{a, 1}}) {
    auto grant = pool_->Allocate(same, static_cast<NamespaceId>(ns), key, 100);
    ASSERT_TRUE(grant.ok());
    FillValue(grant->value, key, static_cast<uint64_t>(ns));
    EXPECT_EQ(pool_->Commit(*grant, same, static_cast<NamespaceId>(ns), key, PutMode::kIfAbsent,
                            Xxh3_64(grant->value), {}),
              Code::kOk);
  }
  EXPECT_EQ(pool_->Usage().entries, 3u);
  PinnedValue pinned;
  ASSERT_EQ(pool_->Acquire(same, 1, a, &pinned), Code::kOk);
  EXPECT_TRUE(IsValue(pinned.value, a, 1));
  pool_->Release(pinned);
  EXPECT_EQ(pool_->Acquire(same, 2, a, &pinned), Code::kMiss);
  EXPECT_EQ(pool_->Acquire(same, 0, "firsT", &pinned), Code::kMiss);
  EXPECT_EQ(pool_->Acquire(same, 0, "first2", &pinned), Code::kMiss);
}

TEST_F(PoolTest, HeadLiesBeforeTheValueAndCarriesTheHints) {
  const std::string key(66, 'k');
  const Grant grant = Allocate(key, 200);
  EXPECT_EQ(pool_->Commit(grant, HashOf(key), 0, key, PutMode::kIfAbsent, Xxh3_64(grant.value),
                          {.parent = {5, 6}, .depth = 7, .ttl_ms = 8000}),
            Code::kOk);
  const PinnedValue pinned = Acquire(key);
  EXPECT_EQ(pinned.head.size(), 64u + 128u);
  EXPECT_EQ(pinned.head.data() + pinned.head.size(), pinned.value.data());
  protocol::ExtentHeader header;
  std::memcpy(&header, pinned.head.data(), sizeof header);
  EXPECT_EQ(header.generation, pinned.generation);
  EXPECT_EQ(header.value_bytes, 200u);
  EXPECT_EQ(header.key_bytes, 66);
  EXPECT_EQ(header.parent_high, 5u);
  EXPECT_EQ(header.parent_low, 6u);
  EXPECT_EQ(header.depth, 7u);
  EXPECT_EQ(AsText(pinned.head.subspan(64, 66)), key);
  EXPECT_EQ(AsText(pinned.head.subspan(64 + 66)), std::string(62, '\0'));
  pool_->Release(pinned);
}

TEST_F(PoolTest, SizesFromNothingToEverything) {
  EXPECT_EQ(Put(*pool_, "empty", 0), Code::kOk);
  EXPECT_EQ(Get(*pool_, "empty"), Code::kOk);
  for (const size_t key_bytes : {1u, 64u, 65u, 256u}) {
    const std::string key(key_bytes, 'x');
    const uint64_t most = pool_->MaxValueBytes(key_bytes);
    EXPECT_EQ(most, pool_->geometry().data_bytes - protocol::ExtentHeadBytes(key_bytes));
    EXPECT_EQ(Put(*pool_, key, most + 1), Code::kTooLarge);
    EXPECT_EQ(Put(*pool_, key, most), Code::kOk);
    EXPECT_EQ(Get(*pool_, key), Code::kOk);
    EXPECT_EQ(pool_->Usage().entries, 1u);
    while (pool_->EvictSome()) {
    }
    EXPECT_EQ(Get(*pool_, key), Code::kOk) << "the evictor gave up the only value";
  }
  EXPECT_EQ(Put(*pool_, "small", 10), Code::kOk);
}

TEST_F(PoolTest, TheLimitOnValuesHoldsInALargePool) {
  Make(3ULL << 30, 1 << 30);
  EXPECT_EQ(pool_->MaxValueBytes(10), limits::kMaxValueBytes);
  EXPECT_EQ(pool_->Allocate(HashOf("k"), 0, "k", limits::kMaxValueBytes + 1).code(),
            Code::kTooLarge);
  auto grant = pool_->Allocate(HashOf("k"), 0, "k", limits::kMaxValueBytes);
  ASSERT_TRUE(grant.ok());
  pool_->Abandon(*grant);
}

TEST_F(PoolTest, OfTwoConcurrentPutsTheSecondGetsExists) {
  const Grant a = Allocate("k", 100);
  const Grant b = Allocate("k", 100);
  EXPECT_NE(a.generation, b.generation);
  EXPECT_EQ(Commit(b, "k"), Code::kOk);
  EXPECT_EQ(Commit(a, "k"), Code::kExists);
  EXPECT_EQ(pool_->Usage().granted_bytes, 0u);
  EXPECT_EQ(pool_->Usage().entries, 1u);
  EXPECT_EQ(Get(*pool_, "k"), Code::kOk);
}

TEST_F(PoolTest, AGrantWorksOnce) {
  const Grant grant = Allocate("k", 100);
  EXPECT_EQ(Commit(grant, "k"), Code::kOk);
  EXPECT_EQ(Commit(grant, "k"), Code::kLeaseGone);
  const Grant other = Allocate("l", 100);
  Grant forged = other;
  ++forged.generation;
  EXPECT_EQ(Commit(forged, "l"), Code::kLeaseGone);
  forged.extent = 1 << 30;
  EXPECT_EQ(Commit(forged, "l"), Code::kLeaseGone);
  pool_->Abandon(other);
  EXPECT_EQ(Commit(other, "l"), Code::kLeaseGone);
  EXPECT_DEATH(pool_->Abandon(other), "abandoned a grant that is gone");
  // Of other lengths than what was granted.
  const Grant third = Allocate("m", 100);
  EXPECT_EQ(Commit(third, std::string(200, 'm')), Code::kInvalidArgument);
  EXPECT_EQ(pool_->Usage().granted_bytes, 0u);
}

TEST_F(PoolTest, ReplaceKeepsTheSlotAndChangesTheGeneration) {
  ASSERT_EQ(Put(*pool_, "k", 100, 1), Code::kOk);
  const PinnedValue before = Acquire("k");
  pool_->Release(before);
  EXPECT_EQ(Put(*pool_, "k", 300, 2, PutMode::kReplace), Code::kOk);
  const PinnedValue after = Acquire("k");
  EXPECT_NE(before.generation, after.generation);
  EXPECT_EQ(after.value.size(), 300u);
  EXPECT_TRUE(IsValue(after.value, "k", 2));
  pool_->Release(after);
  EXPECT_EQ(pool_->Usage().entries, 1u);
  EXPECT_EQ(pool_->Usage().live_value_bytes, 300u);
  EXPECT_EQ(pool_->Usage().limbo_bytes, protocol::ExtentBytes(1, 100));
  EXPECT_EQ(Put(*pool_, "new", 50, 0, PutMode::kReplace), Code::kOk);
}

TEST_F(PoolTest, ReplacedAndRemovedValuesStayForWhoHoldsThem) {
  ASSERT_EQ(Put(*pool_, "k", 5000, 1), Code::kOk);
  const PinnedValue first = Acquire("k");
  const PinnedValue again = Acquire("k");
  ASSERT_EQ(Put(*pool_, "k", 5000, 2, PutMode::kReplace), Code::kOk);
  const PinnedValue second = Acquire("k");
  ASSERT_EQ(pool_->Remove(HashOf("k"), 0, "k"), Code::kOk);
  EXPECT_EQ(Get(*pool_, "k"), Code::kMiss);
  EXPECT_EQ(pool_->Usage().pinned_bytes, 2 * protocol::ExtentBytes(1, 5000));
  for (int i = 0; i < 2000; ++i) ASSERT_EQ(Put(*pool_, "n" + std::to_string(i), 5000), Code::kOk);
  EXPECT_TRUE(IsValue(first.value, "k", 1));
  EXPECT_TRUE(IsValue(second.value, "k", 2));
  pool_->Release(first);
  EXPECT_TRUE(IsValue(again.value, "k", 1));
  EXPECT_EQ(pool_->Usage().pinned_bytes, 2 * protocol::ExtentBytes(1, 5000));
  pool_->Release(again);
  pool_->Release(second);
  EXPECT_EQ(pool_->Usage().pinned_bytes, 0u);
  EXPECT_DEATH(pool_->Release(second), "released a value that is not held");
}

TEST_F(PoolTest, PinnedValuesAreNotChosenAndFullOfPinsIsBusy) {
  const int count = FillUp(50'000);
  std::vector<PinnedValue> held;
  for (int i = 0; i < count; ++i) {
    PinnedValue pinned;
    const std::string key = "key" + std::to_string(i);
    if (pool_->Acquire(HashOf(key), 0, key, &pinned) == Code::kOk) held.push_back(pinned);
  }
  EXPECT_EQ(pool_->Allocate(HashOf("x"), 0, "x", 50'000).code(), Code::kBusy);
  EXPECT_EQ(pool_->Allocate(HashOf("x"), 0, "x", 60'000).code(), Code::kBusy);
  EXPECT_EQ(pool_->Counters().busy, 2u);
  const size_t middle = held.size() / 2;
  pool_->Release(held[middle]);
  EXPECT_EQ(Put(*pool_, "x", 50'000), Code::kOk);
  held.erase(held.begin() + static_cast<ptrdiff_t>(middle));
  // Two that are neighbours give room for one of twice the size, wherever they are in the order of
  // use.
  std::sort(held.begin(), held.end(), [](const PinnedValue& a, const PinnedValue& b) {
    return a.head.data() < b.head.data();
  });
  EXPECT_EQ(pool_->Allocate(HashOf("y"), 0, "y", 100'000).code(), Code::kBusy);
  pool_->Release(held[0]);
  pool_->Release(held[1]);
  EXPECT_EQ(Put(*pool_, "y", 100'000), Code::kOk);
  for (size_t i = 2; i < held.size(); ++i) pool_->Release(held[i]);
}

TEST_F(PoolTest, LimboEndsByTimeByShareAndByNeed) {
  Make(64 << 20, 16 << 10);
  const uint64_t limbo_most = pool_->geometry().data_bytes / kLimboShare;
  ASSERT_EQ(Put(*pool_, "k", 10'000), Code::kOk);
  pool_->Remove(HashOf("k"), 0, "k");
  EXPECT_EQ(pool_->Usage().limbo_bytes, protocol::ExtentBytes(1, 10'000));
  pool_->EvictSome();
  EXPECT_GT(pool_->Usage().limbo_bytes, 0u);
  clock_.Advance(kLimboTime);
  pool_->WaitForEvictionWork(1h);  // comes back for the sake of limbo
  pool_->EvictSome();
  EXPECT_EQ(pool_->Usage().limbo_bytes, 0u);

  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(Put(*pool_, "k", 10'000), Code::kOk);
    pool_->Remove(HashOf("k"), 0, "k");
    EXPECT_LE(pool_->Usage().limbo_bytes, limbo_most);
  }
  EXPECT_GT(pool_->Usage().limbo_bytes, limbo_most - 11'000);
  EXPECT_EQ(Put(*pool_, "everything", pool_->MaxValueBytes(10)), Code::kOk);
  EXPECT_EQ(pool_->Counters().inline_evictions, 0u);
  EXPECT_EQ(pool_->Usage().limbo_bytes, 0u);
}

TEST_F(PoolTest, OverflowAreaThenEvictionFromTheBucket) {
  Make(1 << 20, 1 << 20);
  ASSERT_EQ(pool_->geometry().bucket_count, 4u);
  for (int i = 0; i < 600; ++i) {
    ASSERT_EQ(Put(*pool_, "key" + std::to_string(i), 64), Code::kOk);
    ASSERT_EQ(Get(*pool_, "key" + std::to_string(i)), Code::kOk);
    if (i % 20 == 0) {
      ASSERT_TRUE(pool_->Audit().ok()) << pool_->Audit().ToString();
    }
  }
  EXPECT_EQ(pool_->Usage().overflow_entries, pool_->geometry().overflow_slots);
  EXPECT_EQ(pool_->Usage().entries, 60 + pool_->geometry().overflow_slots);
  EXPECT_EQ(pool_->Counters().evictions[static_cast<size_t>(EvictionCause::kOverflow)],
            600 - pool_->Usage().entries);
  // The evictor brings the index back to its load, coldest first.
  while (pool_->EvictSome()) {
  }
  EXPECT_EQ(pool_->Usage().entries, 42u);
  EXPECT_GT(pool_->Counters().evictions[static_cast<size_t>(EvictionCause::kIndex)], 0u);
  EXPECT_EQ(Get(*pool_, "key599"), Code::kOk);
}

TEST_F(PoolTest, TouchSlotCountsOnlyForTheGenerationThatIsThere) {
  ASSERT_EQ(Put(*pool_, "k", 100), Code::kOk);
  const PinnedValue pinned = Acquire("k");
  pool_->Release(pinned);
  const uint64_t bucket = BucketOf(HashOf("k"), pool_->geometry().bucket_count);
  const auto slot = static_cast<uint32_t>(bucket * protocol::kSlotsPerBucket);
  pool_->TouchSlot(slot, pinned.generation);
  EXPECT_EQ(pool_->Counters().touches, 1u);
  pool_->TouchSlot(slot, pinned.generation + 1);
  pool_->TouchSlot(slot + 1, pinned.generation);
  pool_->TouchSlot(UINT32_MAX, pinned.generation);
  EXPECT_EQ(pool_->Counters().touches, 1u);
  pool_->Touch(HashOf("k"), 0, "k");
  pool_->Touch(HashOf("no"), 0, "no");
  EXPECT_EQ(pool_->Counters().touches, 2u);
  pool_->Remove(HashOf("k"), 0, "k");
  pool_->TouchSlot(slot, pinned.generation);
  EXPECT_EQ(pool_->Counters().touches, 2u);
}

TEST_F(PoolTest, ScrubRemovesDamageAndNothingElse) {
  ASSERT_EQ(Put(*pool_, "good", 1000), Code::kOk);
  ASSERT_EQ(Put(*pool_, "bad", 1000), Code::kOk);
  const PinnedValue pinned = Acquire("bad");
  const_cast<std::byte&>(pinned.value[500]) ^= std::byte{1};
  EXPECT_FALSE(pool_->Scrub(HashOf("good"), 0, "good"));
  EXPECT_FALSE(pool_->Scrub(HashOf("none"), 0, "none"));
  EXPECT_TRUE(pool_->Scrub(HashOf("bad"), 0, "bad"));
  EXPECT_EQ(Get(*pool_, "bad"), Code::kMiss);
  EXPECT_EQ(Get(*pool_, "good"), Code::kOk);
  EXPECT_GT(pool_->Usage().pinned_bytes, 0u);
  pool_->Release(pinned);
  EXPECT_EQ(pool_->Usage().pinned_bytes, 0u);
}

TEST_F(PoolTest, DropShardsGoesOverAllInBoundedSteps) {
  Make(8 << 20, 1024);
  std::map<std::string, uint32_t> shards;
  for (int i = 0; i < 1000; ++i) {
    const std::string key = "key" + std::to_string(i);
    shards[key] = ShardOf(HashOf(key));
    ASSERT_EQ(Put(*pool_, key, 100), Code::kOk);
  }
  int steps = 0;
  for (uint64_t cursor = 0; cursor != UINT64_MAX; ++steps) {
    cursor = pool_->DropShards([](uint32_t shard) { return shard % 2 == 0; }, cursor);
  }
  EXPECT_GT(steps, 5);
  uint64_t dropped = 0;
  for (const auto& [key, shard] : shards) {
    EXPECT_EQ(Get(*pool_, key), shard % 2 == 0 ? Code::kOk : Code::kMiss);
    dropped += shard % 2;
  }
  EXPECT_EQ(pool_->Counters().dropped, dropped);
}

TEST_F(PoolTest, DropNamespaceLeavesTheOthersAndWhatIsHeldByReaders) {
  Make(8 << 20, 1024);
  const auto key = [](int i) { return "key" + std::to_string(i); };
  for (int i = 0; i < 900; ++i) {
    const std::string k = key(i);
    const auto grant = pool_->Allocate(HashOf(k), i % 3, k, 100);
    ASSERT_TRUE(grant.ok());
    ASSERT_EQ(pool_->Commit(*grant, HashOf(k), i % 3, k, PutMode::kIfAbsent, 0, {}), Code::kOk);
  }
  PinnedValue pinned;
  ASSERT_EQ(pool_->Acquire(HashOf(key(1)), 1, key(1), &pinned), Code::kOk);
  uint64_t dropped = 0;
  int steps = 0;
  for (uint64_t cursor = 0; cursor != UINT64_MAX; ++steps)
    cursor = pool_->DropNamespace(1, cursor, &dropped);
  EXPECT_GT(steps, 5) << "all under one hold of the lock";
  EXPECT_EQ(dropped, 300u);
  uint64_t bytes = 0;
  for (int i = 0; i < 900; ++i) {
    EXPECT_EQ(pool_->Lookup(HashOf(key(i)), i % 3, key(i), &bytes),
              i % 3 == 1 ? Code::kMiss : Code::kOk);
  }
  EXPECT_GT(pool_->Usage().pinned_bytes, 0u);
  pool_->Release(pinned);
  EXPECT_EQ(pool_->Usage().pinned_bytes, 0u);
  EXPECT_TRUE(pool_->Audit().ok());
  for (uint64_t cursor = 0; cursor != UINT64_MAX;)
    cursor = pool_->DropNamespace(1, cursor, &dropped);
  EXPECT_EQ(dropped, 300u) << "nothing was left";
}

TEST_F(PoolTest, ScanVisitsEachKeyOnceInPieces) {
  Make(8 << 20, 1024);
  std::set<std::string> left;
  for (int i = 0; i < 500; ++i) {
    const std::string key = "key" + std::to_string(i);
    left.insert(key);
    ASSERT_EQ(Put(*pool_, key, 100 + static_cast<uint64_t>(i), 0, PutMode::kIfAbsent, 3),
              Code::kOk);
  }
  uint64_t cursor = 0;
  while (cursor != UINT64_MAX) {
    size_t visited = 0;
    cursor = pool_->Scan(cursor, 7, [&](NamespaceId ns, std::string_view key, uint64_t bytes) {
      ++visited;
      EXPECT_EQ(ns, 3);
      EXPECT_EQ(bytes, 100 + std::stoull(std::string(key.substr(3))));
      EXPECT_EQ(left.erase(std::string(key)), 1u);
    });
    ASSERT_LE(visited, 7u);
  }
  EXPECT_TRUE(left.empty());
}

TEST_F(PoolTest, AuditSeesDamageToHeadAndSlot) {
  ASSERT_EQ(Put(*pool_, "k", 100), Code::kOk);
  ASSERT_TRUE(pool_->Audit().ok());
  pool_->data_memory()[8] ^= std::byte{1};
  EXPECT_EQ(pool_->Audit().code(), Code::kInternal);
  EXPECT_EQ(Get(*pool_, "k"), Code::kMiss);  // and never another's bytes
  pool_->data_memory()[8] ^= std::byte{1};
  EXPECT_EQ(Get(*pool_, "k"), Code::kOk);
}

TEST_F(PoolTest, GenerationsAreNeverReused) {
  std::set<uint64_t> seen;
  for (int i = 0; i < 300; ++i) {
    const Grant grant = Allocate("k", 100);
    EXPECT_TRUE(seen.insert(grant.generation).second);
    EXPECT_EQ(Commit(grant, "k", PutMode::kReplace), Code::kOk);
    if (i % 3 == 0) {
      pool_->Remove(HashOf("k"), 0, "k");
      const uint64_t bucket = BucketOf(HashOf("k"), pool_->geometry().bucket_count);
      uint64_t word;
      std::memcpy(&word,
                  pool_->index_memory().data() + pool_->geometry().buckets_offset +
                      bucket * protocol::kBucketBytes + sizeof(protocol::BucketHeader),
                  sizeof word);
      EXPECT_EQ(protocol::SlotWord{word}.state(), protocol::SlotState::kFree);
      EXPECT_TRUE(seen.insert(protocol::SlotWord{word}.generation()).second);
    }
  }
}

TEST(EvictionCauses, HaveNames) {
  std::set<std::string_view> names;
  for (size_t i = 0; i < kEvictionCauses; ++i)
    names.insert(EvictionCauseName(static_cast<EvictionCause>(i)));
  EXPECT_EQ(names.size(), kEvictionCauses);
  EXPECT_EQ(names.count("unknown"), 0u);
}

}  // namespace
}  // namespace simm::dataserver
