#include "client/pool_access.h"

#include "common/base/limits.h"

namespace simm::client {

std::optional<protocol::CachedLocation> LocationCache::Find(const Id128& boot,
                                                            const Hash128& hash) const {
  const size_t place = Place(hash);
  MutexLock lock(stripes_[place % kStripes]);
  const Entry& entry = entries_[place];
  if (entry.boot != boot || entry.location.slot.fingerprint() != hash) return std::nullopt;
  return entry.location;
}

void LocationCache::Put(const Id128& boot, const Hash128& hash,
                        const protocol::CachedLocation& location) {
  const size_t place = Place(hash);
  MutexLock lock(stripes_[place % kStripes]);
  entries_[place] = {boot, location};
}

uint32_t PoolAccess::SlotAt(uint64_t offset) const {
  if (offset >= overflow_offset) {
    return static_cast<uint32_t>(view.bucket_count * protocol::kSlotsPerBucket +
                                 (offset - overflow_offset) / protocol::kSlotBytes);
  }
  const uint64_t at = offset - view.buckets_offset;
  return static_cast<uint32_t>(at / protocol::kBucketBytes * protocol::kSlotsPerBucket +
                               at % protocol::kBucketBytes / protocol::kSlotBytes - 1);
}

void LostLanes::Add(uint64_t tag) {
  MutexLock lock(mutex_);
  if (tags_.size() == limits::kMaxLostLanes) tags_.pop_front();
  tags_.push_back(tag);
  count_.store(tags_.size(), std::memory_order_relaxed);
}

std::vector<uint64_t> LostLanes::Take() {
  MutexLock lock(mutex_);
  std::vector<uint64_t> tags(tags_.begin(), tags_.end());
  tags_.clear();
  count_.store(0, std::memory_order_relaxed);
  return tags;
}

}  // namespace simm::client
