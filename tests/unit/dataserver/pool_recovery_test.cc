// What a start makes of the files of the server before it: what stays, what goes, and why. The
// server before is a pool that was closed, or its files changed as a kill or a fault would leave
// them.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "dataserver/lease_records.h"
#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"
#include "tests/support/pool_folder.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;
using protocol::Slot;
using protocol::SlotState;
using protocol::SlotWord;
using testing::HasSubstr;

constexpr uint64_t kBytes = 1000;

// The index file while no server has it.
class IndexFile {
 public:
  IndexFile(const PoolFolder& folder, const protocol::PoolGeometry& geometry)
      : geometry_(geometry), fd_(open(folder.index().c_str(), O_RDWR)) {
    memory_ = static_cast<std::byte*>(
        mmap(nullptr, geometry.index_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd_, 0));
  }
  ~IndexFile() {
    munmap(memory_, geometry_.index_bytes);
    close(fd_);
  }
  protocol::Superblock& superblock() { return *reinterpret_cast<protocol::Superblock*>(memory_); }
  Slot& At(uint32_t id) {
    std::byte* at =
        id < geometry_.slots()
            ? memory_ + geometry_.buckets_offset +
                  id / protocol::kSlotsPerBucket * protocol::kBucketBytes +
                  sizeof(protocol::BucketHeader) +
                  id % protocol::kSlotsPerBucket * protocol::kSlotBytes
            : memory_ + geometry_.overflow_offset + (id - geometry_.slots()) * protocol::kSlotBytes;
    return *reinterpret_cast<Slot*>(at);
  }
  uint32_t& Overflow(uint64_t bucket) {
    return reinterpret_cast<protocol::BucketHeader*>(memory_ + geometry_.buckets_offset +
                                                     bucket * protocol::kBucketBytes)
        ->overflow;
  }
  // The number of the live slot of this hash.
  uint32_t SlotOf(const Hash128& hash) {
    for (uint32_t id = 0; id < geometry_.slots() + geometry_.overflow_slots; ++id) {
      const Slot& slot = At(id);
      if (SlotWord{slot.word}.state() == SlotState::kLive && slot.fingerprint() == hash) return id;
    }
    ADD_FAILURE() << "no such slot";
    return 0;
  }
  MutableByteSpan leases() {
    return {memory_ + geometry_.leases_offset,
            geometry_.lease_records * protocol::kLeaseRecordBytes};
  }

 private:
  const protocol::PoolGeometry geometry_;
  const int fd_;
  std::byte* memory_;
};

class PoolRecoveryTest : public testing::Test {
 protected:
  PoolRecoveryTest() {
    options_ = {.memory_bytes = 4 << 20,
                .mean_value_bytes = 4096,
                .path = folder_.pool(),
                .wait_for_lock = {},
                .prefault = false,
                .boot_clock = &boot_clock_};
    geometry_ = protocol::ComputeGeometry(options_.memory_bytes, options_.mean_value_bytes);
    Open();
  }

  void Open() {
    pool_.reset();
    auto pool = Pool::Create(options_, clock_);
    ASSERT_TRUE(pool.ok()) << pool.status().ToString();
    pool_ = std::move(*pool);
    const Status audit = pool_->Audit();
    EXPECT_TRUE(audit.ok()) << audit.ToString();
  }
  // Closes the pool, lets `change` have the index file, and opens it again.
  template <typename Change>
  void Reopen(const Change& change) {
    pool_.reset();
    {
      IndexFile file(folder_, geometry_);
      change(file);
    }
    Open();
  }
  void Reopen() {
    Reopen([](IndexFile&) {});
  }
  void PutKeys(int from, int to) {
    for (int i = from; i < to; ++i)
      ASSERT_EQ(Put(*pool_, "key" + std::to_string(i), kBytes + i), Code::kOk);
  }
  void ExpectKeys(int from, int to) {
    for (int i = from; i < to; ++i)
      EXPECT_EQ(Get(*pool_, "key" + std::to_string(i)), Code::kOk) << i;
  }
  uint64_t Dropped(DropCause cause) const {
    return pool_->recovery().dropped[static_cast<size_t>(cause)];
  }
  uint64_t DroppedInAll() const {
    uint64_t sum = 0;
    for (const uint64_t n : pool_->recovery().dropped) sum += n;
    return sum;
  }

  const PoolFolder folder_;
  FakeClock clock_;
  FakeClock boot_clock_;
  PoolOptions options_;
  protocol::PoolGeometry geometry_;
  std::unique_ptr<Pool> pool_;
};

TEST_F(PoolRecoveryTest, EntriesAreThereAgainAndNewOnesFit) {
  PutKeys(0, 200);
  for (int i = 0; i < 200; i += 10)
    ASSERT_EQ(pool_->Remove(HashOf("key" + std::to_string(i)), 0, "key" + std::to_string(i)),
              Code::kOk);
  const PoolUsage before = pool_->Usage();
  const Id128 id = pool_->pool_id();
  Reopen();
  EXPECT_TRUE(pool_->recovery().warm);
  EXPECT_EQ(pool_->pool_id(), id);
  EXPECT_EQ(pool_->incarnation(), 2u);
  EXPECT_EQ(pool_->recovery().entries, 180u);
  EXPECT_EQ(pool_->recovery().value_bytes, before.live_value_bytes);
  EXPECT_EQ(DroppedInAll(), 0u);
  const PoolUsage after = pool_->Usage();
  EXPECT_EQ(after.live_bytes, before.live_bytes);
  EXPECT_EQ(after.free_bytes, before.free_bytes + before.limbo_bytes) << "nobody is in limbo";
  EXPECT_EQ(after.entries, 180u);
  for (int i = 0; i < 200; ++i) {
    EXPECT_EQ(Get(*pool_, "key" + std::to_string(i)), i % 10 == 0 ? Code::kMiss : Code::kOk) << i;
  }
  PutKeys(200, 400);
  ExpectKeys(200, 400);
  Reopen();
  EXPECT_EQ(pool_->recovery().entries, 380u);
  EXPECT_TRUE(pool_->Audit().ok());
}

TEST_F(PoolRecoveryTest, AReadersSlotStaysAsItWasAndGenerationsNeverComeAgain) {
  PutKeys(0, 50);
  std::map<uint32_t, std::vector<std::byte>> slots;
  std::map<uint64_t, int> generations;
  for (int i = 0; i < 50; ++i) {
    PinnedValue pinned;
    Slot slot;
    uint64_t offset = 0;
    const std::string key = "key" + std::to_string(i);
    ASSERT_EQ(pool_->Locate(HashOf(key), 0, key, &pinned, &slot, &offset), Code::kOk);
    pool_->Release(pinned);
    ++generations[pinned.generation];
    const auto* at = pool_->index_memory().data() + offset;
    slots[static_cast<uint32_t>(offset)] = std::vector<std::byte>(at, at + sizeof(Slot));
  }
  Reopen();
  for (const auto& [offset, bytes] : slots)
    EXPECT_EQ(std::memcmp(pool_->index_memory().data() + offset, bytes.data(), bytes.size()), 0);
  PutKeys(50, 100);
  for (int i = 50; i < 100; ++i) {
    PinnedValue pinned;
    const std::string key = "key" + std::to_string(i);
    ASSERT_EQ(pool_->Acquire(HashOf(key), 0, key, &pinned), Code::kOk);
    pool_->Release(pinned);
    EXPECT_EQ(++generations[pinned.generation], 1) << i;
  }
}

// What a kill within Publish leaves: BUSY, or the fields of one value under the word of another.
TEST_F(PoolRecoveryTest, UnfinishedAndDamagedSlotsAreFreed) {
  PutKeys(0, 20);
  Reopen([&](IndexFile& file) {
    Slot& busy = file.At(file.SlotOf(HashOf("key0")));
    busy.word = SlotWord::Make(SlotWord{busy.word}.generation(), SlotState::kBusy).bits;
    Slot& tombstone = file.At(file.SlotOf(HashOf("key1")));
    tombstone.word =
        SlotWord::Make(SlotWord{tombstone.word}.generation(), SlotState::kTombstone).bits;
    file.At(file.SlotOf(HashOf("key2"))).offset ^= 64;
    file.At(file.SlotOf(HashOf("key3"))).crc ^= 1;
  });
  EXPECT_EQ(Dropped(DropCause::kUnfinished), 1u) << "a tombstone was no entry";
  EXPECT_EQ(Dropped(DropCause::kDamaged), 2u);
  EXPECT_EQ(pool_->recovery().entries, 16u);
  ExpectKeys(4, 20);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Get(*pool_, "key" + std::to_string(i)), Code::kMiss);
  PutKeys(0, 4);
  Reopen();
  EXPECT_EQ(pool_->recovery().entries, 20u);
  EXPECT_EQ(DroppedInAll(), 0u) << "a dropped slot is FREE in the file too";
}

TEST_F(PoolRecoveryTest, ASlotThatCannotBeIsFreed) {
  PutKeys(0, 20);
  const auto change = [&](IndexFile& file, int key, auto edit) {
    Slot& slot = file.At(file.SlotOf(HashOf("key" + std::to_string(key))));
    edit(slot);
    slot.crc = slot.ComputeCrc();
  };
  Reopen([&](IndexFile& file) {
    change(file, 0, [&](Slot& s) { s.offset = geometry_.data_bytes - 64; });
    change(file, 1, [](Slot& s) { s.offset = UINT64_MAX - 63; });
    change(file, 2, [](Slot& s) { s.offset += 1; });
    change(file, 3, [](Slot& s) { s.fingerprint_low ^= 1ULL << 63; });
    change(file, 4, [](Slot& s) { s.key_bytes = 0; });
    change(file, 5, [](Slot& s) { s.key_bytes = 257; });
    change(file, 6, [](Slot& s) {
      s.word = SlotWord::Make(protocol::MakeGeneration(9, 1), SlotState::kLive).bits;
    });
    change(file, 7, [](Slot& s) { s.word = SlotWord::Make(0, SlotState::kLive).bits; });
    change(file, 8, [](Slot& s) { s.value_bytes = UINT32_MAX; });
  });
  EXPECT_EQ(Dropped(DropCause::kMisplaced), 9u);
  EXPECT_EQ(pool_->recovery().entries, 11u);
  ExpectKeys(9, 20);
}

TEST_F(PoolRecoveryTest, OfTwoThatClaimTheSameBytesTheNewerStays) {
  PutKeys(0, 20);
  Reopen([&](IndexFile& file) {
    // The older says that its value lies where the newer's is, and the other way round.
    Slot& older = file.At(file.SlotOf(HashOf("key3")));
    older.offset = file.At(file.SlotOf(HashOf("key7"))).offset;
    older.crc = older.ComputeCrc();
    Slot& newer = file.At(file.SlotOf(HashOf("key12")));
    newer.offset = file.At(file.SlotOf(HashOf("key10"))).offset + 64;
    newer.crc = newer.ComputeCrc();
  });
  EXPECT_EQ(Dropped(DropCause::kOverlap), 3u) << "key12 lies over key10 and key11";
  EXPECT_EQ(Get(*pool_, "key3"), Code::kMiss);
  EXPECT_EQ(Get(*pool_, "key7"), Code::kOk);
  EXPECT_EQ(Get(*pool_, "key10"), Code::kMiss);
  EXPECT_EQ(Get(*pool_, "key12"), Code::kMiss) << "its head is not there";
}

TEST_F(PoolRecoveryTest, OfTwoSlotsOfAKeyTheNewerStays) {
  PutKeys(0, 20);
  Reopen([&](IndexFile& file) {
    const uint32_t id = file.SlotOf(HashOf("key5"));
    const uint32_t first = id / protocol::kSlotsPerBucket * protocol::kSlotsPerBucket;
    uint32_t free = first;
    while (SlotWord{file.At(free).word}.state() != SlotState::kFree) ++free;
    ASSERT_LT(free, first + protocol::kSlotsPerBucket);
    Slot& copy = file.At(free) = file.At(id);
    copy.word = SlotWord::Make(protocol::MakeGeneration(1, 1), SlotState::kLive).bits;
    copy.offset = 2 << 20;
    copy.crc = copy.ComputeCrc();
    // And one in the overflow area.
    Slot& over = file.At(static_cast<uint32_t>(geometry_.slots()) + 3) =
        file.At(file.SlotOf(HashOf("key6")));
    over.offset = (2 << 20) + 8192;
    over.crc = over.ComputeCrc();
  });
  EXPECT_EQ(Dropped(DropCause::kDuplicate), 2u);
  EXPECT_EQ(pool_->recovery().entries, 20u);
  ExpectKeys(0, 20);
}

TEST_F(PoolRecoveryTest, OverflowIsRightAgain) {
  // One bucket too small for its keys: those of one bucket, found by search.
  std::vector<std::string> keys;
  const uint64_t bucket = BucketOf(HashOf("seed"), geometry_.bucket_count);
  for (int i = 0; keys.size() < 18; ++i) {
    std::string key = "o" + std::to_string(i);
    if (BucketOf(HashOf(key), geometry_.bucket_count) == bucket) keys.push_back(key);
  }
  for (const std::string& key : keys) ASSERT_EQ(Put(*pool_, key, kBytes), Code::kOk);
  ASSERT_EQ(pool_->Usage().overflow_entries, 3u);
  // Killed between the slot and the count in the header; and a count that means nothing.
  Reopen([&](IndexFile& file) {
    EXPECT_EQ(file.Overflow(bucket), 3u);
    file.Overflow(bucket) = 2;
    file.Overflow(bucket + 1) = 77;
  });
  EXPECT_EQ(pool_->Usage().overflow_entries, 3u);
  for (const std::string& key : keys) EXPECT_EQ(Get(*pool_, key), Code::kOk) << key;
  for (const std::string& key : keys) EXPECT_EQ(pool_->Remove(HashOf(key), 0, key), Code::kOk);
  EXPECT_TRUE(pool_->Audit().ok());
  Reopen([&](IndexFile& file) {
    EXPECT_EQ(file.Overflow(bucket), 0u);
    EXPECT_EQ(file.Overflow(bucket + 1), 0u);
  });
}

// The values are not read: a bad one is found when it is.
TEST_F(PoolRecoveryTest, ADamagedValueIsAMissWhenItIsRead) {
  PutKeys(0, 5);
  uint64_t offset = 0;
  Reopen([&](IndexFile& file) { offset = file.At(file.SlotOf(HashOf("key2"))).offset; });
  pool_.reset();
  const int fd = open(folder_.data().c_str(), O_RDWR);
  const char bad = 0x55;
  ASSERT_EQ(pwrite(fd, &bad, 1, static_cast<off_t>(offset + 200)), 1);
  ASSERT_EQ(pwrite(fd, "garbage", 7, 0), 7) << "key0's head";
  close(fd);
  auto pool = Pool::Create(options_, clock_);
  ASSERT_TRUE(pool.ok());
  EXPECT_EQ((*pool)->recovery().entries, 5u);
  EXPECT_EQ(Get(**pool, "key2"), Code::kCorrupt) << "its reader's checksum says so";
  EXPECT_TRUE((*pool)->Scrub(HashOf("key2"), 0, "key2"));
  EXPECT_EQ(Get(**pool, "key2"), Code::kMiss);
  EXPECT_EQ(Get(**pool, "key0"), Code::kMiss);
  EXPECT_EQ(Get(**pool, "key1"), Code::kOk);
}

TEST_F(PoolRecoveryTest, TheOldestPutsAreEvictedFirst) {
  PutKeys(0, 100);
  Reopen();
  PutKeys(100, 150);
  Reopen();
  for (int i = 150; i < 2000 && pool_->Counters().inline_evictions < 60; ++i)
    ASSERT_EQ(Put(*pool_, "key" + std::to_string(i), 4096), Code::kOk);
  int gone = 0;
  for (int i = 0; i < 100; ++i) gone += Get(*pool_, "key" + std::to_string(i)) == Code::kMiss;
  EXPECT_GE(gone, 50);
  ExpectKeys(100, 150);
}

// ---- grants

TEST_F(PoolRecoveryTest, WhatWasGrantedStaysSoAndAVictimOfItGoes) {
  PutKeys(0, 10);
  const auto granted = *pool_->GrantBlank(4096, 3);
  LeaseRecords records(pool_->lease_memory());
  for (const LeasedExtent& extent : granted) {
    protocol::LeaseRecord record;
    record.generation = extent.generation;
    record.offset = extent.offset;
    record.bytes = extent.bytes;
    records.Write(record);
  }
  protocol::LeaseRecord over;  // names bytes of a live value: cannot be, but must do no harm
  over.generation = granted[2].generation + 1;
  over.bytes = 4096;
  records.Write(over);
  protocol::LeaseRecord outside = over;
  outside.offset = geometry_.data_bytes;
  records.Write(outside);
  Reopen();
  EXPECT_EQ(pool_->recovery().granted, 4u);
  EXPECT_EQ(pool_->recovery().bad_records, 1u);
  EXPECT_GE(Dropped(DropCause::kGranted), 1u);
  EXPECT_EQ(pool_->Usage().granted_bytes, 4 * 4096u);
  EXPECT_EQ(LeaseRecords::Read(pool_->lease_memory()).size(), 4u);
  std::vector<LeasedExtent> adopted;
  for (const AdoptedGrant& grant : pool_->TakeAdopted()) adopted.push_back(grant.extent);
  ASSERT_EQ(adopted.size(), 4u);
  pool_->AbandonBlank(adopted);
  EXPECT_EQ(pool_->Usage().granted_bytes, 0u);
  EXPECT_TRUE(pool_->Audit().ok());
}

// ---- cold starts

TEST_F(PoolRecoveryTest, ADamagedSuperblockIsAColdStartWithItsReason) {
  PutKeys(0, 10);
  Reopen([](IndexFile& file) { file.superblock().bucket_count ^= 1; });
  EXPECT_FALSE(pool_->recovery().warm);
  EXPECT_THAT(pool_->recovery().cold_because, HasSubstr("superblock"));
  EXPECT_EQ(pool_->Usage().entries, 0u);
  PutKeys(0, 10);
  Reopen([](IndexFile& file) { file.superblock().incarnation_word ^= 2; });
  EXPECT_THAT(pool_->recovery().cold_because, HasSubstr("superblock"));
  Reopen([](IndexFile& file) { ++file.superblock().layout_fingerprint; });
  EXPECT_THAT(pool_->recovery().cold_because, HasSubstr("another version"));
  Reopen([](IndexFile& file) {
    ++file.superblock().host_boot_low;
    file.superblock().crc = file.superblock().ComputeCrc();
  });
  EXPECT_THAT(pool_->recovery().cold_because, HasSubstr("before the host was last started"));
  Reopen([&](IndexFile&) { ASSERT_EQ(truncate(folder_.data().c_str(), 4096), 0); });
  EXPECT_THAT(pool_->recovery().cold_because, HasSubstr("another size"));
  Reopen([&](IndexFile&) { unlink(folder_.data().c_str()); });
  EXPECT_THAT(pool_->recovery().cold_because, HasSubstr("cannot open"));
}

TEST_F(PoolRecoveryTest, AfterTheLastIncarnationGenerationsBeginAnewInNewFiles) {
  PutKeys(0, 10);
  Reopen([](IndexFile& file) {
    file.superblock().incarnation_word = file.superblock().IncarnationWord(65534);
  });
  EXPECT_TRUE(pool_->recovery().warm);
  EXPECT_EQ(pool_->recovery().entries, 10u);
  Reopen();
  EXPECT_FALSE(pool_->recovery().warm);
  EXPECT_THAT(pool_->recovery().cold_because, HasSubstr("generations"));
  EXPECT_EQ(pool_->incarnation(), 65536u) << "the manager sees it rise";
  PutKeys(0, 10);
  Reopen();
  EXPECT_EQ(pool_->incarnation(), 65537u);
  EXPECT_EQ(pool_->recovery().entries, 10u);
}

// Killed within a cold start: whatever is there then, no index meets data that is not its own.
TEST_F(PoolRecoveryTest, AColdStartThatDidNotGetThroughIsDoneAgain) {
  PutKeys(0, 10);
  const Id128 id = pool_->pool_id();
  const auto rename_to = [&](const std::string& from, const std::string& to) {
    ASSERT_EQ(rename(from.c_str(), to.c_str()), 0);
  };
  pool_.reset();
  rename_to(folder_.index(), folder_.index() + ".old");
  Open();
  EXPECT_THAT(pool_->recovery().cold_because, HasSubstr("did not get through"));
  EXPECT_EQ(pool_->pool_id(), id);
  EXPECT_EQ(pool_->incarnation(), 2u);
  PutKeys(0, 10);
  pool_.reset();
  rename_to(folder_.index(), folder_.index() + ".old");
  unlink(folder_.data().c_str());
  Open();
  EXPECT_EQ(pool_->Usage().entries, 0u);
  EXPECT_EQ(pool_->incarnation(), 3u);
  Reopen();
  EXPECT_TRUE(pool_->recovery().warm);
}

TEST_F(PoolRecoveryTest, TooMuchMemoryIsRefusedBeforeAnythingIsLost) {
  PutKeys(0, 10);
  pool_.reset();
  PoolOptions large = options_;
  large.memory_bytes = 1ULL << 46;
  large.mean_value_bytes = 64 << 20;
  const auto refused = Pool::Create(large, clock_);
  ASSERT_EQ(refused.code(), Code::kUnavailable);
  EXPECT_THAT(refused.status().message(), HasSubstr("--memory"));
  Open();
  EXPECT_EQ(pool_->recovery().entries, 10u);
}

}  // namespace
}  // namespace simm::dataserver
