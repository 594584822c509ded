#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

#include "common/base/bytes.h"
#include "common/base/hash.h"
#include "common/base/ids.h"

// The layout of a data server's pool in memory (DESIGN 4): what one-sided readers see and what
// survives a restart. Little-endian. Any change here changes kLayoutVersion, hence the fingerprint.
namespace simm::protocol {

inline constexpr uint32_t kLayoutVersion = 2;
inline constexpr size_t kSlotBytes = 64;
inline constexpr size_t kSlotsPerBucket = 15;
inline constexpr size_t kBucketBytes = 1024;
inline constexpr size_t kSuperblockBytes = 4096;
inline constexpr size_t kExtentAlign = 64;
inline constexpr size_t kLeaseRecordBytes = 64;

enum class SlotState : uint8_t { kFree = 0, kBusy = 1, kLive = 2, kTombstone = 3 };

// incarnation 16 | counter 46 | state 2. The upper 62 bits are the generation; never reused.
struct SlotWord {
  uint64_t bits = 0;
  static SlotWord Make(uint64_t generation, SlotState state) {
    return {(generation << 2) | static_cast<uint64_t>(state)};
  }
  uint64_t generation() const { return bits >> 2; }
  SlotState state() const { return static_cast<SlotState>(bits & 3); }
};
// Slot::flags: a client has replaced or removed the key here while the shard's source had an older
// value; when the entry goes, a TOMBSTONE stays, or that value would count again. Of no meaning to
// readers.
inline constexpr uint32_t kSlotBesideSource = 1;
inline constexpr uint64_t kGenerationCounterBits = 46;
inline uint64_t MakeGeneration(uint16_t incarnation, uint64_t counter) {
  return (uint64_t{incarnation} << kGenerationCounterBits) |
         (counter & ((1ULL << kGenerationCounterBits) - 1));
}

// One entry of the index. In shared memory `word` is accessed with std::atomic_ref only.
struct alignas(kSlotBytes) Slot {
  uint64_t word = 0;
  uint64_t fingerprint_high = 0;
  uint64_t fingerprint_low = 0;
  uint64_t offset = 0;  // of the extent in the data file; a multiple of kExtentAlign
  uint32_t value_bytes = 0;
  uint16_t key_bytes = 0;
  uint16_t namespace_id = 0;
  uint32_t flags = 0;
  uint32_t expiry_s = 0;  // boot-time clock; 0: never
  uint64_t checksum = 0;  // XXH3-64 of the value
  uint32_t reserved = 0;
  uint32_t crc = 0;  // CRC-32C of the 60 bytes before

  Hash128 fingerprint() const { return {fingerprint_high, fingerprint_low}; }
  uint32_t ComputeCrc() const {
    return Crc32c({reinterpret_cast<const std::byte*>(this), offsetof(Slot, crc)});
  }
};
static_assert(sizeof(Slot) == kSlotBytes);

struct alignas(kSlotBytes) BucketHeader {
  uint32_t overflow = 0;  // how many entries of this bucket live in the overflow area
  uint32_t reserved0 = 0;
  uint64_t reserved[7] = {};
};
struct Bucket {
  BucketHeader header;
  Slot slots[kSlotsPerBucket];
};
static_assert(sizeof(Bucket) == kBucketBytes);

// In front of each value. Followed by the key, zero-padded to a multiple of 64, then the value.
struct alignas(kExtentAlign) ExtentHeader {
  uint64_t generation = 0;
  uint32_t value_bytes = 0;
  uint16_t key_bytes = 0;
  uint16_t namespace_id = 0;
  uint64_t parent_high =
      0;  // hints of COMMIT: fingerprint of the parent block and depth in its chain
  uint64_t parent_low = 0;
  uint32_t depth = 0;
  uint32_t reserved0 = 0;
  uint64_t reserved[3] = {};
};
static_assert(sizeof(ExtentHeader) == kExtentAlign);

inline constexpr uint64_t ExtentHeadBytes(size_t key_bytes) {
  return sizeof(ExtentHeader) + RoundUp(key_bytes, kExtentAlign);
}
inline constexpr uint64_t ExtentBytes(size_t key_bytes, uint64_t value_bytes) {
  return RoundUp(ExtentHeadBytes(key_bytes) + value_bytes, kExtentAlign);
}

// One granted extent, so that a restart and a dead process's grants can be accounted for (DESIGN
// 7).
struct alignas(kLeaseRecordBytes) LeaseRecord {
  uint64_t generation = 0;  // 0: unused
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t session = 0;
  uint64_t lane_tag = 0;  // the client's name of the lane
  uint32_t owner_pid = 0;
  uint32_t flags = 0;
  uint64_t owner_start_time = 0;
  uint32_t owner_namespace = 0;  // of pids, in which owner_pid counts
  uint32_t crc = 0;
};
static_assert(sizeof(LeaseRecord) == kLeaseRecordBytes);
// The owner has the memory mapped: it writes until it says that it has stopped, or ends.
inline constexpr uint32_t kLeaseOfMapping = 1;

inline constexpr uint64_t kPoolMagic = 0x314c4f4f504d4d53ULL;  // "SMMPOOL1"

// First page of the index file; the areas follow in this order.
struct Superblock {
  uint64_t magic = kPoolMagic;
  uint64_t layout_fingerprint = 0;
  uint64_t pool_id_high = 0;
  uint64_t pool_id_low = 0;
  uint64_t host_boot_high = 0;  // of the host when the files were made: memory does not outlive it
  uint64_t host_boot_low = 0;
  uint64_t data_bytes = 0;
  uint64_t bucket_count = 0;
  uint64_t buckets_offset = 0;
  uint64_t overflow_slots = 0;
  uint64_t overflow_offset = 0;
  uint64_t lease_records = 0;
  uint64_t leases_offset = 0;
  uint64_t index_bytes = 0;
  uint32_t reserved0 = 0;
  uint32_t crc = 0;  // of all before
  // CRC-32C << 32 | incarnation: raised by one store, so that a kill leaves the old or the new one.
  uint64_t incarnation_word = 0;
  uint64_t cluster_word = 0;  // hash of the id of the cluster whose entries these are; 0: none yet

  uint32_t ComputeCrc() const {
    return Crc32c({reinterpret_cast<const std::byte*>(this), offsetof(Superblock, crc)});
  }
  uint64_t IncarnationWord(uint32_t incarnation) const {
    const uint64_t facts[] = {pool_id_high, pool_id_low, incarnation};
    return uint64_t{Crc32c({reinterpret_cast<const std::byte*>(facts), sizeof facts})} << 32 |
           incarnation;
  }
  // 0: damaged.
  uint32_t incarnation() const {
    const auto said = static_cast<uint32_t>(incarnation_word);
    return IncarnationWord(said) == incarnation_word ? said : 0;
  }
};
static_assert(sizeof(Superblock) <= kSuperblockBytes);

// Sizes of a pool of `memory_bytes` (index and data together) whose values are `mean_value_bytes`
// on average.
struct PoolGeometry {
  uint64_t bucket_count = 0;
  uint64_t overflow_slots = 0;
  uint64_t lease_records = 0;
  uint64_t index_bytes = 0;  // page-rounded
  uint64_t data_bytes = 0;   // page-rounded down
  uint64_t buckets_offset = 0;
  uint64_t overflow_offset = 0;
  uint64_t leases_offset = 0;
  uint64_t slots() const { return bucket_count * kSlotsPerBucket; }
};
// Load <= 0.35 when full of mean values. memory_bytes >= 1 MiB, mean_value_bytes >= 64.
PoolGeometry ComputeGeometry(uint64_t memory_bytes, uint64_t mean_value_bytes);
// Of the layout version and all struct sizes above: equal means readable by this program.
uint64_t LayoutFingerprint();

}  // namespace simm::protocol
