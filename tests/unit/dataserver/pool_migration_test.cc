// The pool while shards move: what wins at a destination, what a removal leaves behind, and how
// old what is pulled lands.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "dataserver/pool.h"
#include "tests/support/migration_pool.h"
#include "tests/support/pool_folder.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kBytes = kMovedBytes;

TEST_F(PoolMigrationTest, WhatIsHereWinsOverWhatTheSourceHas) {
  EXPECT_EQ(pool_->WantsPulled(Facts("a")), Code::kWrongOwner);
  EXPECT_EQ(Pull(Facts("a")), Code::kWrongOwner);
  pool_->SetPulling(AllShards());
  EXPECT_EQ(pool_->WantsPulled(Facts("a")), Code::kOk);
  EXPECT_EQ(Pull(Facts("a")), Code::kOk);
  EXPECT_EQ(Get(*pool_, "a"), Code::kOk);
  EXPECT_EQ(pool_->WantsPulled(Facts("a")), Code::kExists);
  ASSERT_EQ(Put(*pool_, "b", kBytes, 2), Code::kOk);
  EXPECT_EQ(pool_->WantsPulled(Facts("b", 1)), Code::kExists) << "put since the shard came";
  EXPECT_EQ(Pull(Facts("b", 1), 1), Code::kExists);
  EXPECT_EQ(Get(*pool_, "b", 2), Code::kOk);
  EXPECT_EQ(pool_->Usage().granted_bytes, 0u);
}

TEST_F(PoolMigrationTest, WhatIsOlderThanThePullGivesWay) {
  ASSERT_EQ(Put(*pool_, "same", kBytes, 1), Code::kOk);
  ASSERT_EQ(Put(*pool_, "other", kBytes, 1), Code::kOk);
  pool_->SetPulling(AllShards());
  EXPECT_EQ(pool_->WantsPulled(Facts("same", 1)), Code::kExists) << "the very bytes are here";
  EXPECT_EQ(pool_->WantsPulled(Facts("other", 2)), Code::kOk);
  EXPECT_EQ(Pull(Facts("other", 2), 2), Code::kOk);
  EXPECT_EQ(Get(*pool_, "other", 2), Code::kOk);
  EXPECT_EQ(pool_->WantsPulled(Facts("other", 3)), Code::kExists);
  pool_->SetPulling(AllShards());
  EXPECT_EQ(pool_->WantsPulled(Facts("other", 3)), Code::kExists) << "the next map is no new pull";
  EXPECT_EQ(pool_->Usage().entries, 2u);
}

TEST_F(PoolMigrationTest, APutIntoWhatWasGrantedBeforeTheShardCameIsNewer) {
  const auto grant = pool_->Allocate(HashOf("a"), 0, "a", kBytes);
  ASSERT_TRUE(grant.ok());
  const auto commit = [&](const Grant& to) {
    FillValue(to.value, "a", 2);
    return pool_->Commit(to, HashOf("a"), 0, "a", PutMode::kReplace, Xxh3_64(to.value), {});
  };
  pool_->SetPulling(AllShards());
  ASSERT_EQ(commit(*grant), Code::kOk);
  EXPECT_EQ(pool_->WantsPulled(Facts("a", 1)), Code::kExists);
  EXPECT_EQ(Pull(Facts("a", 1), 1), Code::kExists);
  EXPECT_EQ(Get(*pool_, "a", 2), Code::kOk);
  // Of another source it is older.
  pool_->SetPulling({});
  pool_->SetPulling(AllShards());
  EXPECT_EQ(pool_->WantsPulled(Facts("a", 3)), Code::kOk);
  EXPECT_EQ(Pull(Facts("a", 3), 3), Code::kOk);
  EXPECT_EQ(Get(*pool_, "a", 3), Code::kOk);
}

TEST_F(PoolMigrationTest, ARemovalStaysUntilTheShardHasHadNoSourceForAWhile) {
  pool_->SetPulling(AllShards());
  ASSERT_EQ(Put(*pool_, "here", kBytes), Code::kOk);
  EXPECT_EQ(Remove("here"), Code::kOk);
  EXPECT_EQ(Remove("there"), Code::kOk) << "the source may have it";
  for (const char* key : {"here", "there"}) {
    EXPECT_EQ(Remove(key), Code::kMiss);
    EXPECT_EQ(Get(*pool_, key), Code::kRemoved);
    uint64_t bytes = 0;
    EXPECT_EQ(pool_->Lookup(HashOf(key), 0, key, &bytes), Code::kRemoved);
    EXPECT_EQ(pool_->WantsPulled(Facts(key)), Code::kRemoved);
    EXPECT_EQ(Pull(Facts(key)), Code::kRemoved);
  }
  EXPECT_EQ(pool_->Usage().tombstones, 2u);
  EXPECT_EQ(pool_->Usage().entries, 0u);
  EXPECT_TRUE(pool_->Audit().ok());
  Sweep();
  EXPECT_EQ(pool_->Usage().tombstones, 2u) << "the shard still has its source";
  // A put takes the tombstone's place.
  EXPECT_EQ(Put(*pool_, "here", kBytes, 5), Code::kOk);
  EXPECT_EQ(Get(*pool_, "here", 5), Code::kOk);
  EXPECT_EQ(pool_->Usage().tombstones, 1u);
  EXPECT_EQ(pool_->NextTombstoneEnd(), kForever);
  pool_->SetPulling({});
  EXPECT_EQ(pool_->WantsPulled(Facts("new")), Code::kWrongOwner);
  // Clients may hold the map with the source for a moment yet.
  Sweep();
  EXPECT_EQ(Get(*pool_, "there"), Code::kRemoved);
  EXPECT_EQ(Remove("here"), Code::kOk);
  EXPECT_EQ(Get(*pool_, "here"), Code::kRemoved);
  EXPECT_EQ(Remove("nowhere"), Code::kMiss) << "all that the source had is here";
  EXPECT_EQ(pool_->Usage().tombstones, 2u);
  EXPECT_EQ(Put(*pool_, "here", kBytes, 6), Code::kOk);
  clock_.Advance(4999ms);
  Sweep();
  EXPECT_EQ(pool_->Usage().tombstones, 1u);
  clock_.Advance(1ms);
  EXPECT_EQ(pool_->NextTombstoneEnd(), clock_.Now());
  Sweep();
  EXPECT_EQ(pool_->NextTombstoneEnd(), kForever);
  EXPECT_EQ(pool_->Usage().tombstones, 0u);
  EXPECT_EQ(Get(*pool_, "there"), Code::kMiss);
  EXPECT_EQ(Remove("there"), Code::kMiss);
  EXPECT_EQ(Remove("here"), Code::kOk);
  EXPECT_EQ(pool_->Usage().tombstones, 0u);
}

// The shard was elsewhere in between: what happened here before that is old.
TEST_F(PoolMigrationTest, AShardThatGetsASourceAnewBeginsAnew) {
  pool_->SetPulling(AllShards());
  ASSERT_EQ(Put(*pool_, "put", kBytes, 1), Code::kOk);
  ASSERT_EQ(Remove("removed"), Code::kOk);
  ASSERT_EQ(Remove("again"), Code::kOk);
  pool_->SetPulling({});
  clock_.Advance(1s);
  pool_->SetPulling(AllShards());
  EXPECT_EQ(Pull(Facts("put", 2), 2), Code::kOk);
  EXPECT_EQ(Get(*pool_, "put", 2), Code::kOk);
  EXPECT_EQ(pool_->WantsPulled(Facts("removed", 2)), Code::kOk);
  EXPECT_EQ(Pull(Facts("removed", 2), 2), Code::kOk);
  EXPECT_EQ(Get(*pool_, "removed", 2), Code::kOk);
  EXPECT_EQ(Get(*pool_, "again"), Code::kMiss) << "the source is to be asked";
  EXPECT_EQ(Remove("again"), Code::kOk);
  EXPECT_EQ(pool_->WantsPulled(Facts("again", 2)), Code::kRemoved);
  EXPECT_EQ(pool_->Usage().tombstones, 1u);
  EXPECT_TRUE(pool_->Audit().ok());
  clock_.Advance(60s);
  Sweep();
  EXPECT_EQ(pool_->Usage().tombstones, 1u) << "of the second pull, which goes on";
}

// Else the source's value would be read again after the newer one.
TEST_F(PoolMigrationTest, WhatWasReplacedHereLeavesATombstoneWhenItIsEvicted) {
  pool_->SetPulling(AllShards());
  ASSERT_EQ(Put(*pool_, "put", kBytes, 2, PutMode::kReplace), Code::kOk);
  ASSERT_EQ(Remove("again"), Code::kOk);
  ASSERT_EQ(Put(*pool_, "again", kBytes, 2), Code::kOk);
  ASSERT_EQ(Put(*pool_, "absent", kBytes), Code::kOk);
  ASSERT_EQ(Pull(Facts("pulled", 0, 0s)), Code::kOk);
  const auto any_left = [&] {
    return Get(*pool_, "put", 2) == Code::kOk || Get(*pool_, "again", 2) == Code::kOk ||
           Get(*pool_, "absent") == Code::kOk || Get(*pool_, "pulled") == Code::kOk;
  };
  for (int i = 0; any_left(); ++i) {
    ASSERT_LT(i, 5000);
    ASSERT_EQ(Put(*pool_, "filler" + std::to_string(i), 4096), Code::kOk);
    clock_.Advance(1ms);
  }
  EXPECT_EQ(Get(*pool_, "put"), Code::kRemoved);
  EXPECT_EQ(Get(*pool_, "again"), Code::kRemoved);
  EXPECT_EQ(Get(*pool_, "absent"), Code::kMiss) << "the source's copy is as good";
  EXPECT_EQ(Get(*pool_, "pulled"), Code::kMiss);
  EXPECT_EQ(pool_->Usage().tombstones, 2u);
}

TEST_F(PoolMigrationTest, TombstonesAreBounded) {
  pool_->SetPulling(AllShards());
  const uint64_t most = pool_->Usage().slots / 8;
  uint64_t done = 0;
  Code code = Code::kOk;
  for (; code == Code::kOk && done < 100'000; ++done) code = Remove("k" + std::to_string(done));
  EXPECT_EQ(code, Code::kBusy);
  EXPECT_EQ(pool_->Usage().tombstones, most);
  EXPECT_EQ(Put(*pool_, "still", kBytes), Code::kOk) << "puts go on";
}

TEST_F(PoolMigrationTest, ARestartBeginsWithoutTombstonesAndEverythingHereIsOlder) {
  const PoolFolder folder;
  Make(1 << 20, folder.pool());
  pool_->SetPulling(AllShards());
  ASSERT_EQ(Put(*pool_, "kept", kBytes, 1), Code::kOk);
  ASSERT_EQ(Put(*pool_, "gone", kBytes, 1), Code::kOk);
  ASSERT_EQ(Remove("gone"), Code::kOk);
  Make(1 << 20, folder.pool());
  EXPECT_TRUE(pool_->recovery().warm);
  EXPECT_EQ(pool_->recovery().entries, 1u);
  for (const uint64_t dropped : pool_->recovery().dropped) EXPECT_EQ(dropped, 0u);
  EXPECT_EQ(pool_->Usage().tombstones, 0u);
  EXPECT_EQ(Get(*pool_, "kept", 1), Code::kOk);
  EXPECT_EQ(Get(*pool_, "gone"), Code::kMiss);
  pool_->SetPulling(AllShards());
  EXPECT_EQ(pool_->WantsPulled(Facts("kept", 1)), Code::kExists);
  EXPECT_EQ(pool_->WantsPulled(Facts("kept", 2)), Code::kOk);
}

TEST_F(PoolMigrationTest, PulledEntriesAreAsColdAsTheyWere) {
  pool_->SetPulling(AllShards());
  clock_.Advance(100s);
  ASSERT_EQ(Put(*pool_, "old", 100 << 10), Code::kOk);
  clock_.Advance(10s);
  ASSERT_EQ(Put(*pool_, "new", 100 << 10), Code::kOk);
  clock_.Advance(10s);
  // Used 15 s ago: between the two.
  ASSERT_EQ(Pull(Facts("between", 0, 15s, 100 << 10)), Code::kOk);
  ASSERT_EQ(Pull(Facts("coldest", 0, 60s, 100 << 10)), Code::kOk);
  std::vector<std::string> order;
  for (int i = 0; order.size() < 4 && i < 100; ++i) {
    ASSERT_EQ(Put(*pool_, "filler" + std::to_string(i), 100 << 10), Code::kOk);
    for (const char* key : {"old", "new", "between", "coldest"}) {
      if (Get(*pool_, key) != Code::kOk &&
          std::find(order.begin(), order.end(), key) == order.end())
        order.emplace_back(key);
    }
  }
  EXPECT_EQ(order, (std::vector<std::string>{"coldest", "old", "between", "new"}));
}

TEST_F(PoolMigrationTest, AFullPoolTakesOnlyWhatWasUsedLaterThanItsColdest) {
  pool_->SetPulling(AllShards());
  EXPECT_TRUE(pool_->HasRoomFor(Facts("cold", 0, 999s), 0));
  EXPECT_FALSE(pool_->HasRoomFor(Facts("cold", 0, 999s), 1 << 20)) << "others are on their way";
  clock_.Advance(100s);
  for (int i = 0; pool_->Counters().inline_evictions == 0; ++i)
    ASSERT_EQ(Put(*pool_, "f" + std::to_string(i), 16 << 10), Code::kOk);
  while (pool_->EvictSome()) {
  }
  clock_.Advance(100s);
  EXPECT_FALSE(pool_->HasRoomFor(Facts("cold", 0, 101s, 64 << 10), 0));
  EXPECT_TRUE(pool_->HasRoomFor(Facts("hot", 0, 99s, 64 << 10), 0));
}

TEST_F(PoolMigrationTest, TimeToLiveTravels) {
  PutHints hints;
  hints.ttl_ms = 5000;
  auto grant = pool_->Allocate(HashOf("a"), 0, "a", kBytes);
  FillValue(grant->value, "a", 0);
  ASSERT_EQ(
      pool_->Commit(*grant, HashOf("a"), 0, "a", PutMode::kIfAbsent, Xxh3_64(grant->value), hints),
      Code::kOk);
  clock_.Advance(2s);
  EntryFacts facts;
  ASSERT_TRUE(pool_->Describe(0, &facts) || [&] {
    std::vector<ListedSlot> slots;
    for (uint64_t cursor = 0; cursor != UINT64_MAX;)
      cursor = pool_->ListSlots([](uint32_t) { return true; }, 0, cursor, &slots);
    return slots.size() == 1 && pool_->Describe(slots[0].slot, &facts);
  }());
  EXPECT_EQ(facts.key, "a");
  EXPECT_EQ(facts.value_bytes, kBytes);
  EXPECT_EQ(facts.age, 2s);
  EXPECT_NEAR(facts.ttl_ms, 3000, 1000);
  Make(1 << 20, {});
  pool_->SetPulling(AllShards());
  ASSERT_EQ(Pull(facts), Code::kOk);
  clock_.Advance(2s);
  while (pool_->ExpireSome()) {
  }
  EXPECT_EQ(Get(*pool_, "a"), Code::kOk);
  clock_.Advance(3s);
  while (pool_->ExpireSome()) {
  }
  EXPECT_EQ(Get(*pool_, "a"), Code::kMiss);
}

TEST_F(PoolMigrationTest, ShardsKnowWhatLiesInThem) {
  const std::vector<uint32_t> of_a = {ShardOf(HashOf("a"))};
  ASSERT_EQ(Put(*pool_, "a", 100), Code::kOk);
  ASSERT_EQ(Put(*pool_, "b", 50), Code::kOk);
  EXPECT_EQ(pool_->LoadOf(of_a).entries, 1u);
  EXPECT_EQ(pool_->LoadOf(of_a).value_bytes, 100u);
  EXPECT_EQ(pool_->LoadOf(AllShards()).value_bytes, 150u);
  ASSERT_EQ(Put(*pool_, "a", 70, 1, PutMode::kReplace), Code::kOk);
  EXPECT_EQ(pool_->LoadOf(of_a).value_bytes, 70u);
  Remove("a");
  EXPECT_EQ(pool_->LoadOf(of_a).entries, 0u);
}

// Client and pull at once in a pool that is too small: a key that was replaced or removed here
// never has the source's value again.
TEST_F(PoolMigrationTest, NoOrderOfThingsBringsAnOlderValueBack) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    Make(1 << 20, {});
    pool_->SetPulling(AllShards());
    Random random(seed);
    std::vector<uint64_t> newest(60);  // 0: the source's
    std::vector<bool> removed(60);
    uint64_t versions = 0;
    for (int step = 0; step < 2000; ++step) {
      clock_.Advance(1ms);
      const size_t i = random.Below(newest.size());
      const std::string key = "key" + std::to_string(i);
      switch (random.Below(6)) {
        case 0: {
          const uint64_t version = ++versions;
          if (Put(*pool_, key, 40'000, version, PutMode::kReplace) != Code::kOk) break;
          newest[i] = version;
          removed[i] = false;
          break;
        }
        case 1:
          if (Remove(key) == Code::kOk) removed[i] = true;
          break;
        case 2: {
          const uint64_t version = removed[i] ? ++versions : newest[i];
          if (Put(*pool_, key, 40'000, version) != Code::kOk) break;
          newest[i] = version;
          removed[i] = false;
          break;
        }
        case 3:
          pool_->EvictSome();
          break;
        default:
          if (Pull(Facts(key, 0, 0s, 40'000)) == Code::kOk) {
            ASSERT_TRUE(newest[i] == 0 && !removed[i]) << "seed " << seed << " step " << step;
          }
      }
      const Code code = Get(*pool_, key, newest[i]);
      ASSERT_NE(code, Code::kCorrupt) << "seed " << seed << " step " << step;
      ASSERT_FALSE(code == Code::kOk && removed[i]) << "seed " << seed << " step " << step;
    }
    ASSERT_TRUE(pool_->Audit().ok()) << pool_->Audit().ToString();
    EXPECT_GT(pool_->Usage().tombstones, 0u);
  }
}

}  // namespace
}  // namespace simm::dataserver
