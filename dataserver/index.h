#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/hash.h"
#include "common/protocol/pool_layout.h"

namespace simm::dataserver {

// Number of a slot: bucket * 15 + place in the bucket, then the overflow area's slots.
using SlotId = uint32_t;
inline constexpr SlotId kNoSlot = UINT32_MAX;

// The buckets and overflow slots in the index memory, which others read at any time without asking,
// and what only this process knows about them: the extent behind each slot, and which overflow
// slots belong to a bucket. Every word of a slot is accessed atomically. Thread-compatible towards
// its owner; one-sided readers see a slot that is LIVE with a good CRC, or know that they must look
// again.
class Index {
 public:
  // `memory` (the whole index file, zero beyond the superblock) is borrowed.
  Index(MutableByteSpan memory, const protocol::PoolGeometry& geometry);

  // The live slot with this fingerprint that `is_key(slot)` accepts; kNoSlot. The caller compares
  // the key itself, in the extent.
  template <typename IsKey>
  SlotId Find(const Hash128& hash, IsKey&& is_key) const {
    const uint64_t bucket = BucketOf(hash);
    SlotId found = kNoSlot;
    ForEachSlot(bucket, [&](SlotId id) {
      const protocol::SlotWord word{Word(id, 0)};
      if (word.state() != protocol::SlotState::kLive || Word(id, 1) != hash.high ||
          Word(id, 2) != hash.low || !is_key(Load(id))) {
        return true;
      }
      found = id;
      return false;
    });
    return found;
  }
  // The tombstone of a key; kNoSlot.
  SlotId FindTombstone(const Hash128& hash, uint16_t namespace_id) const;
  // A slot where an entry of this hash may be published: in its bucket, else in the overflow area.
  SlotId FindFree(const Hash128& hash) const;
  // Calls visit(SlotId) for each slot of a bucket, its overflow slots included, until it returns
  // false.
  template <typename Visit>
  void ForEachSlot(uint64_t bucket, Visit&& visit) const {
    const SlotId first = static_cast<SlotId>(bucket * protocol::kSlotsPerBucket);
    for (SlotId id = first; id < first + protocol::kSlotsPerBucket; ++id) {
      if (!visit(id)) return;
    }
    if (const auto list = overflow_.find(bucket); list != overflow_.end()) {
      for (const SlotId id : list->second) {
        if (!visit(id)) return;
      }
    }
  }

  // Writes the entry into a slot of its bucket, or of FindFree, and makes it LIVE with slot.word's
  // generation: BUSY, fields, LIVE. `entry` is complete but for the state and the CRC. The slot may
  // be LIVE or a TOMBSTONE with the same fingerprint, which is replaced.
  void Publish(SlotId id, const protocol::Slot& entry, uint32_t extent);
  // The same with TOMBSTONE in the place of LIVE, for a key that must count as removed whatever
  // others say: `entry` has its generation, fingerprint, namespace and key length, no bytes. When
  // it returns, no reader can take the entry that was there for live any more.
  void Bury(SlotId id, const protocol::Slot& entry);
  // FREE with a new generation, of a LIVE slot or a TOMBSTONE; when it returns, no reader can take
  // the entry for live any more.
  void Unpublish(SlotId id, uint64_t new_generation);

  // For a successor, before anything else: the slot stays as it is, LIVE, and its entry is ours; or
  // it becomes FREE, whatever it was, under a generation of this server. Then, once, what is known
  // of overflow is worked out anew, in the headers of all buckets too.
  void Adopt(SlotId id, uint32_t extent);
  void Clear(SlotId id, uint64_t new_generation);
  void FinishAdoption();

  protocol::Slot Load(SlotId id) const;
  bool IsLive(SlotId id) const {
    return protocol::SlotWord{Word(id, 0)}.state() == protocol::SlotState::kLive;
  }
  bool IsTombstone(SlotId id) const {
    return protocol::SlotWord{Word(id, 0)}.state() == protocol::SlotState::kTombstone;
  }
  uint32_t ExtentOf(SlotId id) const { return extents_[id]; }
  // Of the slot in the index file.
  uint64_t OffsetOf(SlotId id) const;
  uint64_t BucketOf(const Hash128& hash) const;
  bool IsOverflow(SlotId id) const { return id >= bucket_slots_; }
  // Slots in buckets, and all of them.
  uint32_t bucket_slots() const { return bucket_slots_; }
  uint32_t all_slots() const { return all_slots_; }
  uint64_t entries() const { return entries_; }
  uint64_t tombstones() const { return tombstones_; }
  uint64_t overflow_entries() const { return overflow_entries_; }
  // What readers see in the header of a bucket.
  uint32_t OverflowCount(uint64_t bucket) const;

  // Walks everything; kInternal names the first broken invariant of the index itself.
  Status Check() const;

 private:
  // BUSY, fields, then `state`.
  void Write(SlotId id, const protocol::Slot& entry, protocol::SlotState state);
  // Of a slot that was FREE: it is its bucket's, if it lies in the overflow area.
  void Enlist(SlotId id, const Hash128& fingerprint);
  uint64_t* Words(SlotId id) const;
  uint64_t Word(SlotId id, size_t word) const;
  void SetOverflowCount(uint64_t bucket, uint32_t count);
  uint32_t* OverflowField(uint64_t bucket) const;

  std::byte* const memory_;
  std::byte* const buckets_;
  std::byte* const overflow_area_;
  const uint64_t bucket_count_;
  const uint32_t bucket_slots_;
  const uint32_t all_slots_;
  uint64_t entries_ = 0;
  uint64_t tombstones_ = 0;
  uint64_t overflow_entries_ = 0;                                // tombstones included
  std::vector<uint32_t> extents_;                                // by slot
  absl::flat_hash_map<uint64_t, std::vector<SlotId>> overflow_;  // by bucket
  std::vector<SlotId> free_overflow_;
};

}  // namespace simm::dataserver
