// The pool while shards move: what wins at a destination, what a removal leaves behind, how old
// what is pulled lands, and what a source tells of its entries.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "dataserver/entry_lister.h"
#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"
#include "tests/support/pool_folder.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kBytes = 1000;

std::vector<uint32_t> AllShards() {
  std::vector<uint32_t> shards(limits::kShards);
  std::iota(shards.begin(), shards.end(), 0);
  return shards;
}

EntryFacts Facts(const std::string& key, uint64_t version = 0, Duration age = 1s,
                 uint64_t bytes = kBytes) {
  std::vector<std::byte> value(bytes);
  FillValue(value, key, version);
  return {.hash = HashOf(key),
          .ns = 0,
          .key = key,
          .value_bytes = bytes,
          .checksum = Xxh3_64(value),
          .age = age};
}

class PoolMigrationTest : public ::testing::Test {
 protected:
  PoolMigrationTest() { Make(1 << 20, {}); }
  ~PoolMigrationTest() override {
    const Status status = pool_->Audit();
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  void Make(uint64_t memory, const std::string& path) {
    pool_.reset();
    pool_ = std::move(*Pool::Create({.memory_bytes = memory,
                                     .mean_value_bytes = 4096,
                                     .path = path,
                                     .prefault = false,
                                     .boot_clock = &clock_},
                                    clock_));
  }
  Code Pull(const EntryFacts& facts, uint64_t version = 0) {
    const auto grant = pool_->Allocate(facts.hash, facts.ns, facts.key, facts.value_bytes);
    if (!grant.ok()) return grant.code();
    FillValue(grant->value, facts.key, version);
    return pool_->CommitPulled(*grant, facts, {});
  }
  Code Remove(const std::string& key) { return pool_->Remove(HashOf(key), 0, key); }
  void Sweep() {
    for (uint64_t cursor = 0; cursor != UINT64_MAX;)
      cursor = pool_->DropShards([](uint32_t) { return true; }, cursor);
  }

  FakeClock clock_{1'000'000'000'000};
  std::unique_ptr<Pool> pool_;
};

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

TEST_F(PoolMigrationTest, ARemovalStaysUntilTheShardHasNoSource) {
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
  pool_->SetPulling({});
  Sweep();
  EXPECT_EQ(pool_->Usage().tombstones, 0u);
  EXPECT_EQ(Get(*pool_, "there"), Code::kMiss);
  EXPECT_EQ(Remove("there"), Code::kMiss);
  EXPECT_EQ(Remove("here"), Code::kOk);
  EXPECT_EQ(pool_->Usage().tombstones, 0u);
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

// ---- listings

constexpr ServerId kSource = 1;
constexpr ServerId kDestination = 2;

// Every other shard goes from the source to the destination.
std::shared_ptr<const RouteTable> MovingTable(uint64_t epoch) {
  MapContents contents;
  contents.version = {{1, 2}, 1, epoch};
  for (const ServerId id : {kSource, kDestination}) {
    ServerRecord record;
    record.id = id;
    record.name = "s" + std::to_string(id);
    record.control_address = record.data_address = "127.0.0.1:1";
    record.weight = 1;
    contents.servers.push_back(record);
  }
  contents.namespaces = {{0, "default"}};
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    contents.owners.push_back(shard % 2 == 0 ? ShardOwner{kDestination, kSource}
                                             : ShardOwner{kSource, kNoServer});
  }
  return *RouteTable::Create(std::move(contents));
}

class ListerTest : public PoolMigrationTest {
 protected:
  // The reply's keys are those of body_.
  protocol::ListReply Ask(EntryLister& lister, uint64_t cursor, uint64_t epoch = 5) {
    protocol::MessageBuffer request;
    protocol::MessageBuffer buffer;
    const auto answer = lister.Answer(
        protocol::Encode(protocol::ListRequest{kDestination, cursor, {1, epoch}}, request),
        table_.get(), kSource, buffer);
    EXPECT_TRUE(answer.ok()) << answer.status().ToString();
    body_.assign(answer->begin(), answer->end());
    protocol::ListReply reply;
    EXPECT_TRUE(protocol::Decode(body_, &reply).ok());
    return reply;
  }
  std::vector<std::string> All(EntryLister& lister) {
    std::vector<std::string> keys;
    protocol::ListReply reply;
    int answers = 0;
    do {
      reply = Ask(lister, reply.cursor);
      EXPECT_EQ(reply.code, Code::kOk);
      for (const auto& entry : reply.entries) keys.emplace_back(entry.key);
      if (++answers == 1 && between_) between_();
    } while (!reply.done && answers < 10'000);
    EXPECT_TRUE(reply.done);
    return keys;
  }

  std::shared_ptr<const RouteTable> table_ = MovingTable(5);
  std::atomic<uint64_t> open_{0};
  std::vector<std::byte> body_;
  std::function<void()> between_;
};

TEST_F(ListerTest, HottestFirstAndOnlyWhatMoves) {
  Make(4 << 20, {});
  std::vector<std::string> moving;
  for (int i = 0; i < 500; ++i) {
    const std::string key = "key-" + std::to_string(i) + std::string(i % 200, '.');
    ASSERT_EQ(Put(*pool_, key, 100), Code::kOk);
    clock_.Advance(1ms);
    if (ShardOf(HashOf(key)) % 2 == 0) moving.push_back(key);
  }
  // One of the oldest is used again.
  pool_->Touch(HashOf(moving[3]), 0, moving[3]);
  std::rotate(moving.begin() + 3, moving.begin() + 4, moving.end());
  std::reverse(moving.begin(), moving.end());
  EntryLister lister(*pool_, open_);
  EXPECT_EQ(All(lister), moving);
  EXPECT_EQ(open_.load(), 0u);
  EXPECT_EQ(All(lister), moving) << "from the beginning again";
}

TEST_F(ListerTest, WhatIsPutInTheMeantimeIsToldOfAtTheEnd) {
  std::string late;
  for (int i = 0; late.empty(); ++i) {
    const std::string key = "late" + std::to_string(i);
    if (ShardOf(HashOf(key)) % 2 == 0) late = key;
  }
  std::vector<std::string> moving;
  for (int i = 0; i < 20; ++i) {
    const std::string key = "key-" + std::to_string(i);
    ASSERT_EQ(Put(*pool_, key, 100), Code::kOk);
    if (ShardOf(HashOf(key)) % 2 == 0) moving.push_back(key);
  }
  between_ = [&] {
    EXPECT_EQ(Put(*pool_, late, 100), Code::kOk);
    EXPECT_EQ(Remove(moving[0]), Code::kOk);
  };
  EntryLister lister(*pool_, open_);
  const auto keys = All(lister);
  EXPECT_EQ(std::count(keys.begin(), keys.end(), late), 1);
  EXPECT_EQ(std::count(keys.begin(), keys.end(), moving[0]), 0);
  EXPECT_EQ(keys.size(), moving.size());
}

TEST_F(ListerTest, OnlyByTheSameMapAndFromWhereItStands) {
  EntryLister lister(*pool_, open_);
  EXPECT_EQ(Ask(lister, 0, 6).code, Code::kWrongOwner) << "the source is behind";
  EXPECT_EQ(Ask(lister, 0, 4).code, Code::kWrongOwner);
  EXPECT_EQ(Ask(lister, 0, 4).map.epoch, 5u);
  EXPECT_EQ(Ask(lister, 1).code, Code::kMiss) << "nothing was begun";
  const auto first = Ask(lister, 0);
  EXPECT_EQ(first.code, Code::kOk);
  EXPECT_EQ(open_.load(), 1u);
  table_ = MovingTable(6);
  EXPECT_EQ(Ask(lister, first.cursor).code, Code::kOk)
      << "it goes on by the rows that it began with";
  EXPECT_EQ(Ask(lister, first.cursor).code, Code::kMiss);
  table_ = nullptr;
  EXPECT_EQ(Ask(lister, 0).code, Code::kWrongOwner);
}

TEST_F(ListerTest, ListingsAreBounded) {
  std::vector<std::unique_ptr<EntryLister>> listers;
  for (size_t i = 0; i < limits::kMaxListings; ++i) {
    listers.push_back(std::make_unique<EntryLister>(*pool_, open_));
    ASSERT_EQ(Ask(*listers.back(), 0).code, Code::kOk);
  }
  EntryLister one_more(*pool_, open_);
  EXPECT_EQ(Ask(one_more, 0).code, Code::kBusy);
  listers.pop_back();
  EXPECT_EQ(Ask(one_more, 0).code, Code::kOk);
}

}  // namespace
}  // namespace simm::dataserver
