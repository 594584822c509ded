// What a start makes of the files that the server before it has left: which slots stay entries, and
// from these everything that only the process knew. The values are not read.

#include <absl/container/flat_hash_map.h>

#include <algorithm>
#include <utility>

#include "common/base/limits.h"
#include "common/base/log.h"
#include "dataserver/lease_records.h"
#include "dataserver/pool_core.h"

namespace simm::dataserver {

using protocol::LeaseRecord;
using protocol::Slot;
using protocol::SlotState;
using protocol::SlotWord;

std::string_view DropCauseName(DropCause cause) {
  switch (cause) {
    case DropCause::kUnfinished:
      return "unfinished";
    case DropCause::kDamaged:
      return "damaged";
    case DropCause::kMisplaced:
      return "misplaced";
    case DropCause::kDuplicate:
      return "duplicate";
    case DropCause::kOverlap:
      return "overlap";
    case DropCause::kGranted:
      return "granted";
    case DropCause::kExpired:
      return "expired";
  }
  return "unknown";
}

// One start's pass over the index. Under the pool's lock.
class Pool::Core::Recoverer {
 public:
  explicit Recoverer(Core& core)
      : core_(core), last_incarnation_(static_cast<uint16_t>(core.files->incarnation() - 1)) {}

  // The caller has the lock, under a name that the analysis does not know for the same.
  void Run() SIMM_NO_THREAD_SAFETY {
    ReadSlots();
    DropDuplicatesInOverflow();
    ReadRecords();
    Sort();
    DropOverlaps();
    Restore();
  }

 private:
  // A live slot, or a lease record (slot kNoSlot) of this number.
  struct Found {
    uint64_t offset;
    uint64_t bytes;
    uint64_t generation;
    SlotId slot;
    uint32_t number;
    uint64_t end() const { return offset + bytes; }
    bool granted() const { return slot == kNoSlot; }
  };

  void Drop(SlotId id, DropCause cause) SIMM_REQUIRES(core_.mutex) {
    ++core_.recovery.dropped[static_cast<size_t>(cause)];
    core_.index.Clear(id, core_.NextGeneration());
  }

  bool FromThePast(uint64_t generation) const {
    return generation != 0 && generation >> protocol::kGenerationCounterBits <= last_incarnation_;
  }
  bool Fits(uint64_t offset, uint64_t bytes) const {
    const uint64_t data = core_.geometry.data_bytes;
    return bytes > 0 && offset % protocol::kExtentAlign == 0 &&
           bytes % protocol::kExtentAlign == 0 && offset <= data && bytes <= data - offset;
  }
  bool MayBe(SlotId id, const Slot& slot) const SIMM_REQUIRES(core_.mutex) {
    const uint64_t bucket = core_.index.BucketOf(slot.fingerprint());
    return FromThePast(SlotWord{slot.word}.generation()) && slot.key_bytes > 0 &&
           slot.key_bytes <= limits::kMaxKeyBytes &&
           (core_.index.IsOverflow(id) || bucket == id / protocol::kSlotsPerBucket) &&
           Fits(slot.offset, protocol::ExtentBytes(slot.key_bytes, slot.value_bytes));
  }

  void ReadSlots() SIMM_REQUIRES(core_.mutex) {
    const uint32_t now_s = core_.BootSeconds();
    size_t bucket_begin = 0;  // of the bucket being read, in found_
    for (SlotId id = 0; id < core_.index.all_slots(); ++id) {
      if (id % protocol::kSlotsPerBucket == 0 && !core_.index.IsOverflow(id))
        bucket_begin = found_.size();
      const Slot slot = core_.index.Load(id);
      const SlotState state = SlotWord{slot.word}.state();
      if (state == SlotState::kFree) continue;
      if (state == SlotState::kTombstone) {
        // Of a pull that this start begins anew, or that is over.
        core_.index.Clear(id, core_.NextGeneration());
      } else if (state != SlotState::kLive) {
        Drop(id, DropCause::kUnfinished);
      } else if (slot.crc != slot.ComputeCrc()) {
        Drop(id, DropCause::kDamaged);
      } else if (!MayBe(id, slot)) {
        Drop(id, DropCause::kMisplaced);
      } else if (slot.expiry_s != 0 && slot.expiry_s <= now_s) {
        Drop(id, DropCause::kExpired);
      } else if (core_.index.IsOverflow(id)) {
        overflow_.push_back(id);
      } else if (!IsOlderDuplicate(bucket_begin, slot)) {
        Keep(id, slot);
      } else {
        Drop(id, DropCause::kDuplicate);
      }
    }
  }

  void Keep(SlotId id, const Slot& slot) {
    found_.push_back({slot.offset, protocol::ExtentBytes(slot.key_bytes, slot.value_bytes),
                      SlotWord{slot.word}.generation(), id, 0});
  }

  // Whether a newer slot of the same bucket, from `begin` on, has the key; older ones are dropped.
  bool IsOlderDuplicate(size_t begin, const Slot& slot) SIMM_REQUIRES(core_.mutex) {
    for (size_t i = begin; i < found_.size(); ++i) {
      const Slot other = core_.index.Load(found_[i].slot);
      if (other.fingerprint() != slot.fingerprint() || other.namespace_id != slot.namespace_id)
        continue;
      if (found_[i].generation > SlotWord{slot.word}.generation()) return true;
      Drop(found_[i].slot, DropCause::kDuplicate);
      found_.erase(found_.begin() + static_cast<ptrdiff_t>(i));
      return false;
    }
    return false;
  }

  // Overflow slots are few: compared with the slots of their bucket, then with each other.
  void DropDuplicatesInOverflow() SIMM_REQUIRES(core_.mutex) {
    absl::flat_hash_map<uint64_t, std::vector<Found>> of_bucket;
    for (const SlotId id : overflow_) {
      const Slot slot = core_.index.Load(id);
      const uint64_t bucket = core_.index.BucketOf(slot.fingerprint());
      const auto first = static_cast<SlotId>(bucket * protocol::kSlotsPerBucket);
      // What has no key in common with it is not looked at again.
      const auto begin = std::lower_bound(found_.begin(), found_.end(), first,
                                          [](const Found& f, SlotId s) { return f.slot < s; });
      if (IsInBucket(begin, first, slot)) {
        Drop(id, DropCause::kDuplicate);
        continue;
      }
      auto& list = of_bucket[bucket];
      if (IsAmong(list, slot)) {
        Drop(id, DropCause::kDuplicate);
        continue;
      }
      list.push_back({slot.offset, protocol::ExtentBytes(slot.key_bytes, slot.value_bytes),
                      SlotWord{slot.word}.generation(), id, 0});
    }
    for (const auto& [bucket, list] : of_bucket)
      found_.insert(found_.end(), list.begin(), list.end());
  }
  bool IsAmong(const std::vector<Found>& list, const Slot& slot) const SIMM_REQUIRES(core_.mutex) {
    for (const Found& other : list) {
      const Slot known = core_.index.Load(other.slot);
      if (known.fingerprint() == slot.fingerprint() && known.namespace_id == slot.namespace_id)
        return true;
    }
    return false;
  }
  bool IsInBucket(std::vector<Found>::const_iterator at, SlotId first, const Slot& slot) const
      SIMM_REQUIRES(core_.mutex) {
    for (; at != found_.end() && at->slot < first + protocol::kSlotsPerBucket; ++at) {
      const Slot other = core_.index.Load(at->slot);
      if (other.fingerprint() == slot.fingerprint() && other.namespace_id == slot.namespace_id)
        return true;
    }
    return false;
  }

  void ReadRecords() SIMM_REQUIRES(core_.mutex) {
    const MutableByteSpan area = core_.LeaseArea();
    uint64_t seen = 0;
    records_ = LeaseRecords::Sift(area, [&](const LeaseRecord& record) {
      ++seen;
      return FromThePast(record.generation) && Fits(record.offset, record.bytes);
    });
    core_.recovery.bad_records = seen - records_.size();
    for (uint32_t i = 0; i < records_.size(); ++i) {
      const LeaseRecord& record = records_[i].record;
      found_.push_back({record.offset, record.bytes, record.generation, kNoSlot, i});
    }
  }

  void Sort() {
    std::sort(found_.begin(), found_.end(),
              [](const Found& a, const Found& b) { return a.offset < b.offset; });
  }

  // Cannot come about by a kill: what was overwritten had been unpublished before. Of two that
  // claim the same bytes, what somebody may still write to wins over what is live, else the newer.
  void DropOverlaps() SIMM_REQUIRES(core_.mutex) {
    size_t kept = 0;
    for (const Found& next : found_) {
      if (kept == 0 || found_[kept - 1].end() <= next.offset) {
        found_[kept++] = next;
        continue;
      }
      Found& last = found_[kept - 1];
      const bool next_wins =
          next.granted() != last.granted() ? next.granted() : next.generation > last.generation;
      const Found loser = next_wins ? std::exchange(last, next) : next;
      if (loser.granted()) {
        LeaseRecords::Discard(core_.LeaseArea(), records_[loser.number].number);
        ++core_.recovery.bad_records;
      } else {
        Drop(loser.slot,
             (next_wins ? next : last).granted() ? DropCause::kGranted : DropCause::kOverlap);
      }
    }
    found_.resize(kept);
  }

  // The order of use is that of the generations, which is that of the puts: uses since then are not
  // known.
  void Restore() SIMM_REQUIRES(core_.mutex) {
    std::vector<Allocator::Range> ranges;
    std::vector<uint64_t> generations;
    ranges.reserve(found_.size());
    generations.reserve(found_.size());
    for (const Found& f : found_) {
      ranges.push_back({f.offset, f.bytes});
      generations.push_back(f.generation);
    }
    const std::vector<uint32_t> handles = core_.space.Restore(ranges, generations);
    std::vector<uint32_t> by_age(found_.size());
    for (uint32_t i = 0; i < by_age.size(); ++i) by_age[i] = i;
    std::sort(by_age.begin(), by_age.end(),
              [&](uint32_t a, uint32_t b) { return generations[a] < generations[b]; });
    const Instant now = core_.clock.Now();
    for (const uint32_t i : by_age) {
      const Found& f = found_[i];
      if (f.granted()) {
        const LeasedExtent extent = {f.generation, f.offset, f.bytes, handles[i]};
        core_.adopted.push_back({extent, records_[f.number].record, records_[f.number].number});
        continue;
      }
      core_.Readmit(f.slot, handles[i], now);
    }
    core_.index.FinishAdoption();
    core_.recovery.granted = core_.adopted.size();
  }

  Core& core_;
  const uint64_t last_incarnation_;
  std::vector<Found> found_;
  std::vector<SlotId> overflow_;
  std::vector<LeaseRecords::Numbered> records_;
};

void Pool::Core::Recover() {
  const Instant start = MonotonicClock::Get().Now();
  MutexLock lock(mutex);
  recovery.cold_because = files->cold_because();
  recovery.warm = files->warm();
  if (!recovery.warm) return;
  Recoverer(*this).Run();
  recovery.entries = index.entries();
  recovery.value_bytes = live_value_bytes;
  recovery.took = MonotonicClock::Get().Now() - start;
}

const PoolRecovery& Pool::recovery() const { return core_->recovery; }

std::vector<AdoptedGrant> Pool::TakeAdopted() {
  MutexLock lock(core_->mutex);
  return std::exchange(core_->adopted, {});
}

bool Pool::PredecessorEnded() const { return core_->files->PredecessorEnded(core_->clock.Now()); }

uint64_t Pool::PopulateSome(uint64_t from) { return core_->files->PopulateSome(from); }

}  // namespace simm::dataserver
