#include <gtest/gtest.h>

#include <set>
#include <string>
#include <thread>

#include "dataserver/extent_head.h"
#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"

namespace simm::dataserver {
namespace {

constexpr uint64_t kVictimsPerHold = 512;

class PoolGrantsTest : public ::testing::Test {
 protected:
  PoolGrantsTest() { Make(4 << 20, 512); }
  ~PoolGrantsTest() override {
    const Status status = pool_->Audit();
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  void Make(uint64_t memory, uint64_t mean) {
    pool_ = std::move(*Pool::Create(
        {.memory_bytes = memory, .mean_value_bytes = mean, .path = {}, .prefault = false}, clock_));
  }
  void FillWithSmall(uint64_t bytes) {
    for (int i = 0; pool_->Counters().inline_evictions == 0; ++i) {
      ASSERT_EQ(Put(*pool_, "small-" + std::to_string(i), bytes), Code::kOk);
    }
  }
  // What a remote writer does.
  WrittenValue Write(const LeasedExtent& leased, std::string_view key, uint64_t bytes,
                     uint64_t version = 0) {
    ExtentHeader header;
    header.generation = leased.generation;
    header.value_bytes = static_cast<uint32_t>(bytes);
    header.key_bytes = static_cast<uint16_t>(key.size());
    std::byte* const at = pool_->data_memory().data() + leased.offset;
    WriteHead(at, header, key);
    const MutableByteSpan value = {at + protocol::ExtentHeadBytes(key.size()), bytes};
    FillValue(value, key, version);
    return {.hash = HashOf(key),
            .key = key,
            .value_bytes = bytes,
            .checksum = Xxh3_64(value),
            .hints = {{1, 2}, 3, 0}};
  }
  using ExtentHeader = protocol::ExtentHeader;

  FakeClock clock_;
  std::unique_ptr<Pool> pool_;
};

TEST_F(PoolGrantsTest, AHugeValueEvictsFewEntriesUnderOneHoldOfTheLock) {
  FillWithSmall(200);
  const uint64_t before = pool_->Counters().inline_evictions;
  ASSERT_EQ(Put(*pool_, "huge", 1 << 20), Code::kOk);
  EXPECT_EQ(Get(*pool_, "huge"), Code::kOk);
  const PoolCounters counters = pool_->Counters();
  EXPECT_GT(counters.inline_evictions - before, 3 * kVictimsPerHold) << "the test proves nothing";
  EXPECT_LE(counters.most_victims_per_hold, kVictimsPerHold);
  EXPECT_LT(counters.inline_evictions - before, (2u << 20) / protocol::ExtentBytes(8, 200))
      << "clears what it began with, not one place after another";
}

TEST_F(PoolGrantsTest, ABlankGrantIsBoundedAlike) {
  FillWithSmall(200);
  const uint64_t before = pool_->Counters().inline_evictions;
  const auto leased = pool_->GrantBlank(256 << 10, 4);
  ASSERT_TRUE(leased.ok());
  EXPECT_EQ(leased->size(), 4u);
  EXPECT_GT(pool_->Counters().inline_evictions - before, 3 * kVictimsPerHold);
  EXPECT_LE(pool_->Counters().most_victims_per_hold, kVictimsPerHold);
  pool_->AbandonBlank(*leased);
}

TEST_F(PoolGrantsTest, OthersTakeOfTheRoomMeanwhileAndNothingBreaks) {
  FillWithSmall(200);
  std::atomic<bool> stop{false};
  std::thread other([&] {
    for (int i = 0; !stop; ++i) (void)Put(*pool_, "other-" + std::to_string(i), 200);
  });
  int stored = 0;
  for (int i = 0; i < 20; ++i) {
    const Code code = Put(*pool_, "huge-" + std::to_string(i), 1 << 20);
    EXPECT_TRUE(code == Code::kOk || code == Code::kBusy) << CodeName(code);
    stored += code == Code::kOk;
  }
  stop = true;
  other.join();
  EXPECT_GT(stored, 0);
  EXPECT_LE(pool_->Counters().most_victims_per_hold, kVictimsPerHold);
}

TEST_F(PoolGrantsTest, BlankExtentsAreWholeDistinctAndBackToBackWhereThereIsRoom) {
  const auto leased = pool_->GrantBlank(4096, 100);
  ASSERT_TRUE(leased.ok());
  ASSERT_EQ(leased->size(), 100u);
  for (size_t i = 1; i < leased->size(); ++i) {
    EXPECT_EQ((*leased)[i].offset, (*leased)[i - 1].offset + 4096);
    EXPECT_EQ((*leased)[i].generation, (*leased)[i - 1].generation + 1);
  }
  EXPECT_EQ(pool_->Usage().granted_bytes, 100 * 4096u);
  pool_->AbandonBlank(*leased);
  EXPECT_EQ(pool_->Usage().granted_bytes, 0u);
}

TEST_F(PoolGrantsTest, GrantsEndWhereThePoolDoes) {
  EXPECT_EQ(pool_->GrantBlank(100, 1).code(), Code::kInvalidArgument);
  EXPECT_EQ(pool_->GrantBlank(0, 1).code(), Code::kInvalidArgument);
  EXPECT_EQ(pool_->GrantBlank(1 << 30, 1).code(), Code::kTooLarge);
  const auto all = pool_->GrantBlank(64 << 10, 1000);
  ASSERT_TRUE(all.ok());
  EXPECT_LT(all->size(), 64u) << "fewer than asked";
  EXPECT_EQ(pool_->GrantBlank(64 << 10, 1).code(), Code::kBusy);
  pool_->AbandonBlank(*all);
}

TEST_F(PoolGrantsTest, WhatWasWrittenIsPublishedWithTheHintsOfTheCommit) {
  const std::string key = "k";
  const auto leased = pool_->GrantBlank(protocol::ExtentBytes(1, 1000), 1);
  const LeasedExtent extent = (*leased)[0];
  ASSERT_EQ(pool_->CommitWritten(extent, Write(extent, key, 1000), true), Code::kOk);
  EXPECT_EQ(Get(*pool_, key), Code::kOk);
  EXPECT_TRUE(pool_->IsLive(HashOf(key), 0, key, extent.generation));
  EXPECT_FALSE(pool_->IsLive(HashOf(key), 0, key, extent.generation + 1));
  const ExtentHeader header = ReadHeader(pool_->data_memory().data() + extent.offset);
  EXPECT_EQ(header.parent_low, 2u);
  EXPECT_EQ(header.depth, 3u);
}

TEST_F(PoolGrantsTest, AHeadThatSaysSomethingElseIsNotPublished) {
  const std::string key = "k";
  const auto commit = [&](const auto& damage, bool verify) {
    const LeasedExtent extent = (*pool_->GrantBlank(protocol::ExtentBytes(1, 1000), 1))[0];
    WrittenValue written = Write(extent, key, 1000);
    damage(pool_->data_memory().data() + extent.offset, written);
    const Code code = pool_->CommitWritten(extent, written, verify);
    EXPECT_EQ(pool_->Usage().granted_bytes, 0u);
    EXPECT_EQ(pool_->Usage().entries, 0u);
    return code;
  };
  for (const size_t at : {0, 8, 12, 14, 64}) {  // generation, lengths, namespace, key
    EXPECT_EQ(commit([&](std::byte* head, auto&) { head[at] ^= std::byte{1}; }, false),
              Code::kCorrupt)
        << at;
  }
  EXPECT_EQ(commit([](std::byte*, auto& written) { written.ns = 3; }, false), Code::kCorrupt);
  EXPECT_EQ(commit([](std::byte*, auto& written) { written.value_bytes = 100; }, false),
            Code::kInvalidArgument);
  EXPECT_EQ(commit([](std::byte* head, auto&) { head[500] ^= std::byte{1}; }, true), Code::kCorrupt)
      << "the value, where it is verified";
}

TEST_F(PoolGrantsTest, LocateNamesTheSlotWhereReadersFindIt) {
  ASSERT_EQ(Put(*pool_, "k", 1000), Code::kOk);
  PinnedValue pinned;
  protocol::Slot slot;
  uint64_t offset = 0;
  ASSERT_EQ(pool_->Locate(HashOf("k"), 0, "k", &pinned, &slot, &offset), Code::kOk);
  EXPECT_EQ(std::memcmp(&slot, pool_->index_memory().data() + offset, sizeof slot), 0);
  EXPECT_EQ(slot.fingerprint(), HashOf("k"));
  EXPECT_EQ(slot.crc, slot.ComputeCrc());
  ASSERT_EQ(pool_->Remove(HashOf("k"), 0, "k"), Code::kOk);
  EXPECT_GT(pool_->Usage().pinned_bytes, 0u);
  pool_->Release(pinned);
  EXPECT_EQ(pool_->Locate(HashOf("k"), 0, "k", &pinned, &slot, &offset), Code::kMiss);
}

TEST_F(PoolGrantsTest, OverflowSlotsAreNamedInTheirArea) {
  const auto& g = pool_->geometry();
  // Keys of one bucket until one lies beyond it.
  const uint64_t bucket = BucketOf(HashOf("first"), g.bucket_count);
  bool overflowed = false;
  for (int i = 0; i < 2'000'000 && !overflowed; ++i) {
    const std::string key = "o" + std::to_string(i);
    if (BucketOf(HashOf(key), g.bucket_count) != bucket) continue;
    ASSERT_EQ(Put(*pool_, key, 10), Code::kOk);
    PinnedValue pinned;
    protocol::Slot slot;
    uint64_t offset = 0;
    ASSERT_EQ(pool_->Locate(HashOf(key), 0, key, &pinned, &slot, &offset), Code::kOk);
    pool_->Release(pinned);
    overflowed = offset >= g.overflow_offset;
    EXPECT_LT(offset, g.leases_offset);
    EXPECT_EQ(std::memcmp(&slot, pool_->index_memory().data() + offset, sizeof slot), 0);
  }
  EXPECT_TRUE(overflowed);
}

}  // namespace
}  // namespace simm::dataserver
