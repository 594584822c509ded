#include "dataserver/index.h"

#include <gtest/gtest.h>

#include <cstring>
#include <new>
#include <vector>

namespace simm::dataserver {
namespace {

using protocol::Slot;
using protocol::SlotState;
using protocol::SlotWord;

class IndexTest : public ::testing::Test {
 protected:
  IndexTest()
      : geometry_(protocol::ComputeGeometry(1 << 20, 1 << 20)),
        memory_(geometry_.index_bytes / 64),
        index_({Bytes(), geometry_.index_bytes}, geometry_) {}

  // Distinct fingerprints of bucket 0 for small n: the low half decides.
  static Hash128 InFirstBucket(uint64_t n) { return {n << 48, n}; }
  Slot MakeSlot(const Hash128& hash, uint64_t generation) {
    Slot slot;
    slot.word = SlotWord::Make(generation, SlotState::kLive).bits;
    slot.fingerprint_high = hash.high;
    slot.fingerprint_low = hash.low;
    slot.value_bytes = 7;
    return slot;
  }
  SlotId Insert(const Hash128& hash, uint64_t generation, uint32_t extent) {
    const SlotId id = index_.FindFree(hash);
    if (id != kNoSlot) index_.Publish(id, MakeSlot(hash, generation), extent);
    return id;
  }
  SlotId Find(const Hash128& hash) {
    return index_.Find(hash, [](const Slot&) { return true; });
  }

  std::byte* Bytes() { return reinterpret_cast<std::byte*>(memory_.data()); }

  struct alignas(64) Line {
    std::byte bytes[64] = {};
  };
  const protocol::PoolGeometry geometry_;
  std::vector<Line> memory_;
  Index index_;
};

TEST_F(IndexTest, WhatAReaderSeesInMemory) {
  const Hash128 hash = InFirstBucket(5);
  const SlotId id = Insert(hash, 77, 3);
  EXPECT_EQ(id, 0u);
  Slot seen;
  std::memcpy(&seen, Bytes() + geometry_.buckets_offset + sizeof(protocol::BucketHeader),
              sizeof seen);
  EXPECT_EQ(SlotWord{seen.word}.state(), SlotState::kLive);
  EXPECT_EQ(SlotWord{seen.word}.generation(), 77u);
  EXPECT_EQ(seen.fingerprint(), hash);
  EXPECT_EQ(seen.crc, seen.ComputeCrc());
  EXPECT_EQ(index_.ExtentOf(id), 3u);

  index_.Unpublish(id, 78);
  std::memcpy(&seen, Bytes() + geometry_.buckets_offset + sizeof(protocol::BucketHeader),
              sizeof seen);
  EXPECT_EQ(SlotWord{seen.word}.state(), SlotState::kFree);
  EXPECT_EQ(SlotWord{seen.word}.generation(), 78u);
  EXPECT_NE(seen.crc, seen.ComputeCrc());
}

TEST_F(IndexTest, FindAsksTheCallerAboutTheKey) {
  const Hash128 hash = InFirstBucket(5);
  const SlotId first = Insert(hash, 1, 1);
  const SlotId second = Insert(hash, 2, 2);  // equal fingerprints of different keys
  EXPECT_EQ(index_.Find(hash, [](const Slot& s) { return SlotWord{s.word}.generation() == 2; }),
            second);
  EXPECT_EQ(index_.Find(hash, [](const Slot&) { return false; }), kNoSlot);
  EXPECT_EQ(Find(hash), first);
  EXPECT_EQ(Find(InFirstBucket(6)), kNoSlot);
}

TEST_F(IndexTest, ReplaceInPlaceIsNoNewEntry) {
  const Hash128 hash = InFirstBucket(5);
  const SlotId id = Insert(hash, 1, 1);
  index_.Publish(id, MakeSlot(hash, 9), 4);
  EXPECT_EQ(index_.entries(), 1u);
  EXPECT_EQ(index_.ExtentOf(id), 4u);
  EXPECT_EQ(SlotWord{index_.Load(id).word}.generation(), 9u);
  EXPECT_TRUE(index_.Check().ok());
}

TEST_F(IndexTest, OverflowIsCountedInTheBucketAndBounded) {
  const size_t room = protocol::kSlotsPerBucket + geometry_.overflow_slots;
  std::vector<SlotId> ids;
  for (uint64_t n = 0; n < room; ++n) {
    ids.push_back(Insert(InFirstBucket(n), n + 1, static_cast<uint32_t>(n)));
    ASSERT_NE(ids.back(), kNoSlot);
    EXPECT_EQ(index_.IsOverflow(ids.back()), n >= protocol::kSlotsPerBucket);
  }
  EXPECT_EQ(Insert(InFirstBucket(room), 999, 0), kNoSlot);
  EXPECT_EQ(index_.OverflowCount(0), geometry_.overflow_slots);
  EXPECT_EQ(index_.OverflowCount(1), 0u);
  for (uint64_t n = 0; n < room; ++n) EXPECT_EQ(Find(InFirstBucket(n)), ids[n]);
  EXPECT_TRUE(index_.Check().ok()) << index_.Check().ToString();

  // Entries stay where they are when room comes up in the bucket: addresses are stable.
  index_.Unpublish(ids[3], 1000);
  EXPECT_EQ(Find(InFirstBucket(20)), ids[20]);
  EXPECT_EQ(Insert(InFirstBucket(room), 1001, 0), ids[3]);
  for (uint64_t n = protocol::kSlotsPerBucket; n < room; ++n) index_.Unpublish(ids[n], 2000 + n);
  EXPECT_EQ(index_.OverflowCount(0), 0u);
  EXPECT_EQ(index_.overflow_entries(), 0u);
  EXPECT_TRUE(index_.Check().ok()) << index_.Check().ToString();
}

TEST_F(IndexTest, CheckSeesABrokenSlot) {
  const SlotId id = Insert(InFirstBucket(1), 1, 1);
  ASSERT_TRUE(index_.Check().ok());
  Bytes()[geometry_.buckets_offset + 64 + id + 30] ^= std::byte{1};
  EXPECT_EQ(index_.Check().code(), Code::kInternal);
}

}  // namespace
}  // namespace simm::dataserver
