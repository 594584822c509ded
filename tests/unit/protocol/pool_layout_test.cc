#include "common/protocol/pool_layout.h"

#include <gtest/gtest.h>

namespace simm::protocol {
namespace {

TEST(PoolLayout, TheIndexTakesAboutOnePartInEightyAtTheDefaultMean) {
  const PoolGeometry g = ComputeGeometry(10ULL << 30, 16 << 10);
  EXPECT_LE(g.index_bytes + g.data_bytes, 10ULL << 30);
  EXPECT_GT(g.index_bytes + g.data_bytes, (10ULL << 30) - 2 * 4096);
  const double share = static_cast<double>(g.index_bytes) / static_cast<double>(10ULL << 30);
  EXPECT_NEAR(share, 0.012, 0.001);
  const double entries = static_cast<double>(g.data_bytes) / ((16 << 10) + 128);
  EXPECT_LE(entries / static_cast<double>(g.slots()), 0.35);
}

TEST(PoolLayout, AreasDoNotOverlapAndAreAligned) {
  for (const uint64_t memory : {1ULL << 20, 77ULL << 20, 5ULL << 30}) {
    for (const uint64_t mean : {64ULL, 4096ULL, 1ULL << 20, 1ULL << 30}) {
      const PoolGeometry g = ComputeGeometry(memory, mean);
      EXPECT_EQ(g.buckets_offset, kSuperblockBytes);
      EXPECT_EQ(g.overflow_offset, g.buckets_offset + g.bucket_count * kBucketBytes);
      EXPECT_EQ(g.leases_offset, g.overflow_offset + g.overflow_slots * kSlotBytes);
      EXPECT_LE(g.leases_offset + g.lease_records * kLeaseRecordBytes, g.index_bytes);
      EXPECT_EQ(g.index_bytes % 4096, 0u);
      EXPECT_EQ(g.data_bytes % 4096, 0u);
    }
  }
}

TEST(PoolLayout, SlotWordPacksGenerationAndState) {
  const uint64_t generation = MakeGeneration(0xabcd, 0x123456789);
  const SlotWord word = SlotWord::Make(generation, SlotState::kLive);
  EXPECT_EQ(word.generation(), generation);
  EXPECT_EQ(word.state(), SlotState::kLive);
  EXPECT_EQ(generation >> kGenerationCounterBits, 0xabcdu);
  EXPECT_NE(MakeGeneration(1, 5), MakeGeneration(2, 5));
}

TEST(PoolLayout, TheSlotChecksumCoversEveryFieldBeforeIt) {
  Slot slot;
  slot.crc = slot.ComputeCrc();
  auto* bytes = reinterpret_cast<std::byte*>(&slot);
  for (size_t i = 0; i < offsetof(Slot, crc); ++i) {
    bytes[i] ^= std::byte{1};
    EXPECT_NE(slot.crc, slot.ComputeCrc()) << i;
    bytes[i] ^= std::byte{1};
  }
}

TEST(PoolLayout, ExtentSizes) {
  EXPECT_EQ(ExtentHeadBytes(1), 128u);
  EXPECT_EQ(ExtentHeadBytes(64), 128u);
  EXPECT_EQ(ExtentHeadBytes(65), 192u);
  EXPECT_EQ(ExtentHeadBytes(256), 320u);
  EXPECT_EQ(ExtentBytes(64, 0), 128u);
  EXPECT_EQ(ExtentBytes(64, 1), 192u);
}

}  // namespace
}  // namespace simm::protocol
