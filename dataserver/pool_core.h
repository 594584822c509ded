#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "dataserver/extent_head.h"
#include "dataserver/index.h"
#include "dataserver/lru_policy.h"
#include "dataserver/pool.h"
#include "dataserver/pool_files.h"
#include "dataserver/space.h"

namespace simm::dataserver {

// Above it the evictor evicts by count.
inline constexpr double kMaxIndexLoad = 0.7;

// What is behind a Pool, and the steps that its methods share. Included by pool.cc only.
class Pool::Core {
 public:
  Core(std::unique_ptr<PoolFiles> files_in, const protocol::PoolGeometry& geometry_in,
       const Clock& clock_in)
      : files(std::move(files_in)),
        geometry(geometry_in),
        clock(clock_in),
        index(files->index(), geometry),
        space(geometry.data_bytes, policy) {}

  uint64_t NextGeneration() SIMM_REQUIRES(mutex) {
    return protocol::MakeGeneration(static_cast<uint16_t>(files->incarnation()), ++generations);
  }
  std::byte* At(uint64_t offset) const { return files->data().data() + offset; }

  SlotId Find(const Hash128& hash, NamespaceId ns, std::string_view key) const
      SIMM_REQUIRES(mutex) {
    return index.Find(hash, [&](const protocol::Slot& slot) {
      if (slot.namespace_id != ns || slot.key_bytes != key.size()) return false;
      if (!HeaderAgrees(ReadHeader(At(slot.offset)), slot)) return false;
      return KeyIs(At(slot.offset), key);
    });
  }
  // Takes the entry out of index and policy; its bytes go to limbo, or stay for who holds them.
  void Unpublish(SlotId id, Instant now) SIMM_REQUIRES(mutex) {
    live_value_bytes -= index.Load(id).value_bytes;
    const uint32_t extent = index.ExtentOf(id);
    index.Unpublish(id, NextGeneration());
    space.Unpublish(extent, now);
  }
  void Evict(uint32_t extent, EvictionCause cause, Instant now) SIMM_REQUIRES(mutex) {
    ++counters.evictions[static_cast<size_t>(cause)];
    counters.evicted_bytes += space.allocator().BytesOf(extent);
    const auto unused =
        std::chrono::duration_cast<std::chrono::milliseconds>(now - space.policy().LastUse(extent));
    counters.last_evicted_age_ms = static_cast<uint64_t>(std::max<int64_t>(0, unused.count()));
    Unpublish(space.record(extent).slot, now);
  }
  void EvictColdestOf(uint64_t bucket, Instant now) SIMM_REQUIRES(mutex) {
    uint32_t coldest = kNoExtent;
    index.ForEachSlot(bucket, [&](SlotId id) SIMM_NO_THREAD_SAFETY {
      if (!index.IsLive(id)) return true;
      const uint32_t extent = index.ExtentOf(id);
      if (coldest == kNoExtent || policy.Heat(extent) < policy.Heat(coldest)) coldest = extent;
      return true;
    });
    if (coldest != kNoExtent) Evict(coldest, EvictionCause::kOverflow, now);
  }
  SlotId SlotFor(const Hash128& hash, Instant now) SIMM_REQUIRES(mutex) {
    if (const SlotId id = index.FindFree(hash); id != kNoSlot) return id;
    EvictColdestOf(index.BucketOf(hash), now);
    return index.FindFree(hash);
  }
  void Publish(const Grant& grant, SlotId id, const protocol::Slot& slot, Instant now)
      SIMM_REQUIRES(mutex) {
    index.Publish(id, slot, grant.extent);
    space.Publish(grant.extent, id, now);
    live_value_bytes += slot.value_bytes;
  }

  bool IndexIsFull() const SIMM_REQUIRES(mutex) {
    return static_cast<double>(index.entries()) >
           kMaxIndexLoad * static_cast<double>(geometry.slots());
  }
  bool HasWork() const SIMM_REQUIRES(mutex) {
    return !settled && (space.WantsEviction() || IndexIsFull());
  }
  // Something changed that may have made work for the evictor, or room for it to work in.
  void NoteChange() SIMM_REQUIRES(mutex) {
    settled = false;
    if (HasWork()) work.NotifyOne();
  }

  const std::unique_ptr<PoolFiles> files;
  const protocol::PoolGeometry geometry;
  const Clock& clock;

  mutable Mutex mutex;
  CondVar work;
  LruPolicy policy SIMM_GUARDED_BY(mutex);
  Index index SIMM_GUARDED_BY(mutex);
  Space space SIMM_GUARDED_BY(mutex);
  PoolCounters counters SIMM_GUARDED_BY(mutex);
  uint64_t generations SIMM_GUARDED_BY(mutex) = 0;
  uint64_t live_value_bytes SIMM_GUARDED_BY(mutex) = 0;
  bool settled SIMM_GUARDED_BY(mutex) =
      false;  // EvictSome found nothing more to do since the last change
  std::vector<uint32_t> victims SIMM_GUARDED_BY(mutex);  // scratch
};

}  // namespace simm::dataserver
