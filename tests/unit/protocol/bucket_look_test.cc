#include <gtest/gtest.h>

#include "common/protocol/validated_read.h"

// What a bucket says about a key that was removed while its shard still has a source.
namespace simm::protocol {
namespace {

constexpr PoolView kPool = {
    .bucket_count = 1, .buckets_offset = 0, .index_bytes = 4096, .data_bytes = 1 << 20};
constexpr Hash128 kHash = {7, 9};
constexpr uint16_t kNamespace = 3;

Slot SlotOf(const Hash128& hash, SlotState state) {
  Slot slot;
  slot.word = SlotWord::Make(MakeGeneration(1, 5), state).bits;
  slot.fingerprint_high = hash.high;
  slot.fingerprint_low = hash.low;
  slot.key_bytes = 4;
  slot.namespace_id = kNamespace;
  slot.crc = slot.ComputeCrc();
  return slot;
}

BucketLook Look(const Bucket& bucket) {
  return LookIntoBucket(bucket, kPool, kHash, kNamespace, 4);
}

TEST(BucketLook, ATombstoneIsTold) {
  Bucket bucket;
  EXPECT_FALSE(Look(bucket).removed);
  bucket.slots[3] = SlotOf(kHash, SlotState::kTombstone);
  EXPECT_TRUE(Look(bucket).removed);
  EXPECT_FALSE(Look(bucket).slot);
  bucket.slots[8] = SlotOf(kHash, SlotState::kLive);
  EXPECT_EQ(Look(bucket).slot, 8u) << "a live slot counts, whatever else is there";
}

TEST(BucketLook, AnotherKeysTombstoneIsNone) {
  Bucket bucket;
  bucket.slots[0] = SlotOf({7, 8}, SlotState::kTombstone);
  bucket.slots[1] = SlotOf(kHash, SlotState::kTombstone);
  bucket.slots[1].namespace_id = kNamespace + 1;
  bucket.slots[1].crc = bucket.slots[1].ComputeCrc();
  EXPECT_FALSE(Look(bucket).removed);
  EXPECT_FALSE(Look(bucket).in_flux);
}

TEST(BucketLook, ATornTombstoneIsInFlux) {
  Bucket bucket;
  bucket.slots[0] = SlotOf(kHash, SlotState::kTombstone);
  bucket.slots[0].checksum ^= 1;
  EXPECT_FALSE(Look(bucket).removed);
  EXPECT_TRUE(Look(bucket).in_flux);
}

TEST(BucketLook, AReadEndsWithRemoved) {
  ReadScratch scratch;
  ValidatedRead read(
      kPool, {.hash = kHash, .namespace_id = kNamespace, .key = "keys", .buffer = {}}, scratch);
  ASSERT_EQ(read.Start(std::nullopt), ValidatedRead::Next::kReadBucket);
  scratch.bucket.slots[2] = SlotOf(kHash, SlotState::kTombstone);
  EXPECT_EQ(read.OnRead(), ValidatedRead::Next::kDone);
  EXPECT_EQ(read.result(), Code::kRemoved);
}

}  // namespace
}  // namespace simm::protocol
