#include "common/protocol/pool_layout.h"

#include <algorithm>
#include <array>

namespace simm::protocol {

namespace {
constexpr double kTargetLoad = 0.35;
constexpr uint64_t kPageBytes = 4096;
}  // namespace

PoolGeometry ComputeGeometry(uint64_t memory_bytes, uint64_t mean_value_bytes) {
  PoolGeometry g;
  // Entries when full: each takes its mean value and about 128 B of extent head.
  const double entries =
      static_cast<double>(memory_bytes) / static_cast<double>(mean_value_bytes + 128);
  g.bucket_count = std::max<uint64_t>(
      4, static_cast<uint64_t>(entries / kTargetLoad / static_cast<double>(kSlotsPerBucket)) + 1);
  // About 3 keys in 10^5 overflow at load 0.35; 1/256 of the slots leaves two orders of room.
  g.overflow_slots = std::max<uint64_t>(64, g.slots() / 256);
  g.lease_records = std::max<uint64_t>(64, std::min<uint64_t>(65536, g.slots() / 64));
  g.buckets_offset = kSuperblockBytes;
  g.overflow_offset = g.buckets_offset + g.bucket_count * kBucketBytes;
  g.leases_offset = g.overflow_offset + g.overflow_slots * kSlotBytes;
  g.index_bytes = RoundUp(g.leases_offset + g.lease_records * kLeaseRecordBytes, kPageBytes);
  g.data_bytes =
      memory_bytes > g.index_bytes ? (memory_bytes - g.index_bytes) / kPageBytes * kPageBytes : 0;
  return g;
}

uint64_t LayoutFingerprint() {
  const std::array<uint64_t, 8> facts = {
      kLayoutVersion,      sizeof(Slot),    sizeof(Bucket),     sizeof(ExtentHeader),
      sizeof(LeaseRecord), kSlotsPerBucket, sizeof(Superblock), kGenerationCounterBits};
  return Xxh3_64({reinterpret_cast<const std::byte*>(facts.data()), sizeof facts});
}

}  // namespace simm::protocol
