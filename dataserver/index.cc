#include "dataserver/index.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>

#include "common/routing/key_hash.h"

namespace simm::dataserver {

namespace {

constexpr size_t kSlotWords = protocol::kSlotBytes / sizeof(uint64_t);
using SlotWords = std::array<uint64_t, kSlotWords>;

// Orders the unpublishing of a slot before all that later happens to the extent behind it, on every
// machine.
void FullFence() {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored \
    "-Wtsan"  // TSan does not model fences; nothing here relies on that it does
#endif
  std::atomic_thread_fence(std::memory_order_seq_cst);
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
}

}  // namespace

Index::Index(MutableByteSpan memory, const protocol::PoolGeometry& geometry)
    : memory_(memory.data()),
      buckets_(memory.data() + geometry.buckets_offset),
      overflow_area_(memory.data() + geometry.overflow_offset),
      bucket_count_(geometry.bucket_count),
      bucket_slots_(static_cast<uint32_t>(geometry.slots())),
      all_slots_(static_cast<uint32_t>(geometry.slots() + geometry.overflow_slots)),
      extents_(all_slots_) {
  free_overflow_.reserve(geometry.overflow_slots);
  for (SlotId id = all_slots_; id > bucket_slots_; --id) free_overflow_.push_back(id - 1);
}

uint64_t* Index::Words(SlotId id) const {
  std::byte* at = id < bucket_slots_
                      ? buckets_ + id / protocol::kSlotsPerBucket * protocol::kBucketBytes +
                            sizeof(protocol::BucketHeader) +
                            id % protocol::kSlotsPerBucket * protocol::kSlotBytes
                      : overflow_area_ + size_t{id - bucket_slots_} * protocol::kSlotBytes;
  return reinterpret_cast<uint64_t*>(at);
}

uint64_t Index::Word(SlotId id, size_t word) const {
  return std::atomic_ref<uint64_t>(Words(id)[word]).load(std::memory_order_relaxed);
}

protocol::Slot Index::Load(SlotId id) const {
  SlotWords words;
  for (size_t i = 0; i < kSlotWords; ++i) words[i] = Word(id, i);
  return std::bit_cast<protocol::Slot>(words);
}

uint64_t Index::OffsetOf(SlotId id) const {
  return static_cast<uint64_t>(reinterpret_cast<std::byte*>(Words(id)) - memory_);
}

uint64_t Index::BucketOf(const Hash128& hash) const { return simm::BucketOf(hash, bucket_count_); }

SlotId Index::FindFree(const Hash128& hash) const {
  const SlotId first = static_cast<SlotId>(BucketOf(hash) * protocol::kSlotsPerBucket);
  for (SlotId id = first; id < first + protocol::kSlotsPerBucket; ++id) {
    if (protocol::SlotWord{Word(id, 0)}.state() == protocol::SlotState::kFree) return id;
  }
  return free_overflow_.empty() ? kNoSlot : free_overflow_.back();
}

SlotId Index::FindTombstone(const Hash128& hash, uint16_t namespace_id) const {
  SlotId found = kNoSlot;
  if (tombstones_ == 0) return found;
  ForEachSlot(BucketOf(hash), [&](SlotId id) {
    if (!IsTombstone(id)) return true;
    const protocol::Slot slot = Load(id);
    if (slot.fingerprint() != hash || slot.namespace_id != namespace_id) return true;
    found = id;
    return false;
  });
  return found;
}

void Index::Write(SlotId id, const protocol::Slot& entry, protocol::SlotState state) {
  protocol::Slot slot = entry;
  const uint64_t generation = protocol::SlotWord{slot.word}.generation();
  slot.word = protocol::SlotWord::Make(generation, state).bits;
  slot.crc = slot.ComputeCrc();
  const auto words = std::bit_cast<SlotWords>(slot);
  uint64_t* const out = Words(id);
  std::atomic_ref<uint64_t>(out[0]).store(
      protocol::SlotWord::Make(generation, protocol::SlotState::kBusy).bits,
      std::memory_order_relaxed);
  // Release: whoever sees a new field sees BUSY, or later, before it.
  for (size_t i = 1; i < kSlotWords; ++i) {
    std::atomic_ref<uint64_t>(out[i]).store(words[i], std::memory_order_release);
  }
  std::atomic_ref<uint64_t>(out[0]).store(words[0], std::memory_order_release);
}

void Index::Enlist(SlotId id, const Hash128& fingerprint) {
  if (!IsOverflow(id)) return;
  SIMM_CHECK(!free_overflow_.empty() && free_overflow_.back() == id, "overflow slot is not free");
  free_overflow_.pop_back();
  ++overflow_entries_;
  const uint64_t bucket = BucketOf(fingerprint);
  auto& list = overflow_[bucket];
  list.push_back(id);
  SetOverflowCount(bucket, static_cast<uint32_t>(list.size()));
}

void Index::Publish(SlotId id, const protocol::Slot& entry, uint32_t extent) {
  const protocol::SlotState before = protocol::SlotWord{Word(id, 0)}.state();
  Write(id, entry, protocol::SlotState::kLive);
  extents_[id] = extent;
  if (before == protocol::SlotState::kLive) {
    FullFence();  // the replaced extent is reused after this
    return;
  }
  ++entries_;
  if (before == protocol::SlotState::kTombstone) {
    --tombstones_;
    return;
  }
  Enlist(id, entry.fingerprint());
}

void Index::Bury(SlotId id, const protocol::Slot& entry) {
  const bool was_live = IsLive(id);
  SIMM_CHECK(!IsTombstone(id), "buried twice");
  Write(id, entry, protocol::SlotState::kTombstone);
  ++tombstones_;
  if (!was_live) return Enlist(id, entry.fingerprint());
  FullFence();
  --entries_;
}

void Index::Unpublish(SlotId id, uint64_t new_generation) {
  const bool was_live = IsLive(id);
  SIMM_CHECK(was_live || IsTombstone(id), "unpublished a slot that is not live");
  const Hash128 fingerprint{Word(id, 1), Word(id, 2)};
  std::atomic_ref<uint64_t>(Words(id)[0])
      .store(protocol::SlotWord::Make(new_generation, protocol::SlotState::kFree).bits,
             std::memory_order_seq_cst);
  FullFence();
  --(was_live ? entries_ : tombstones_);
  if (!IsOverflow(id)) return;
  --overflow_entries_;
  free_overflow_.push_back(id);
  const uint64_t bucket = BucketOf(fingerprint);
  const auto list = overflow_.find(bucket);
  list->second.erase(std::find(list->second.begin(), list->second.end(), id));
  SetOverflowCount(bucket, static_cast<uint32_t>(list->second.size()));
  if (list->second.empty()) overflow_.erase(list);
}

void Index::Adopt(SlotId id, uint32_t extent) {
  SIMM_CHECK(IsLive(id), "adopted a slot that is not live");
  extents_[id] = extent;
  ++entries_;
}

void Index::Clear(SlotId id, uint64_t new_generation) {
  std::atomic_ref<uint64_t>(Words(id)[0])
      .store(protocol::SlotWord::Make(new_generation, protocol::SlotState::kFree).bits,
             std::memory_order_seq_cst);
  FullFence();
}

void Index::FinishAdoption() {
  free_overflow_.clear();
  for (SlotId id = all_slots_; id-- > bucket_slots_;) {
    if (!IsLive(id)) {
      free_overflow_.push_back(id);
      continue;
    }
    ++overflow_entries_;
    overflow_[BucketOf({Word(id, 1), Word(id, 2)})].push_back(id);
  }
  for (uint64_t bucket = 0; bucket < bucket_count_; ++bucket) {
    const auto list = overflow_.find(bucket);
    const auto count = static_cast<uint32_t>(list == overflow_.end() ? 0 : list->second.size());
    if (OverflowCount(bucket) != count) SetOverflowCount(bucket, count);
  }
}

uint32_t* Index::OverflowField(uint64_t bucket) const {
  return reinterpret_cast<uint32_t*>(buckets_ + bucket * protocol::kBucketBytes +
                                     offsetof(protocol::BucketHeader, overflow));
}

void Index::SetOverflowCount(uint64_t bucket, uint32_t count) {
  std::atomic_ref<uint32_t>(*OverflowField(bucket)).store(count, std::memory_order_release);
}

uint32_t Index::OverflowCount(uint64_t bucket) const {
  return std::atomic_ref<uint32_t>(*OverflowField(bucket)).load(std::memory_order_acquire);
}

Status Index::Check() const {
  uint64_t live = 0;
  uint64_t tombstones = 0;
  uint64_t overflow_live = 0;
  for (SlotId id = 0; id < all_slots_; ++id) {
    const protocol::Slot slot = Load(id);
    const auto state = protocol::SlotWord{slot.word}.state();
    if (state == protocol::SlotState::kFree) continue;
    if (state == protocol::SlotState::kBusy)
      return Status(Code::kInternal, "slot neither FREE, LIVE nor a TOMBSTONE");
    if (slot.crc != slot.ComputeCrc())
      return Status(Code::kInternal, "CRC of a live slot is wrong");
    ++(state == protocol::SlotState::kLive ? live : tombstones);
    const uint64_t bucket = BucketOf(slot.fingerprint());
    if (!IsOverflow(id)) {
      if (bucket != id / protocol::kSlotsPerBucket) {
        return Status(Code::kInternal, "live slot in a bucket that is not its own");
      }
      continue;
    }
    ++overflow_live;
    const auto list = overflow_.find(bucket);
    if (list == overflow_.end() || std::count(list->second.begin(), list->second.end(), id) != 1) {
      return Status(Code::kInternal, "live overflow slot is not listed under its bucket");
    }
  }
  if (tombstones != tombstones_)
    return Status(Code::kInternal, "tombstones disagree with their count");
  if (live != entries_) return Status(Code::kInternal, "entries disagree with the live slots");
  if (overflow_live != overflow_entries_ ||
      overflow_live + free_overflow_.size() != all_slots_ - bucket_slots_) {
    return Status(Code::kInternal, "overflow slots do not add up");
  }
  for (uint64_t bucket = 0; bucket < bucket_count_; ++bucket) {
    const auto list = overflow_.find(bucket);
    if (OverflowCount(bucket) != (list == overflow_.end() ? 0 : list->second.size())) {
      return Status(Code::kInternal, "overflow count of a bucket is wrong");
    }
  }
  return Status::Ok();
}

}  // namespace simm::dataserver
