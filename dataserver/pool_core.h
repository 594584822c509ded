#pragma once

#include <absl/container/flat_hash_map.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "common/base/limits.h"
#include "common/base/mutex.h"
#include "common/routing/key_hash.h"
#include "dataserver/expiry_queue.h"
#include "dataserver/extent_head.h"
#include "dataserver/index.h"
#include "dataserver/lru_policy.h"
#include "dataserver/pool.h"
#include "dataserver/pool_files.h"
#include "dataserver/space.h"

namespace simm::dataserver {

// Above it the evictor evicts by count.
inline constexpr double kMaxIndexLoad = 0.7;

// Entries that one hold of the lock evicts to make room for a put: at about 1 us each, half a
// millisecond. Choosing them costs as much as several evictions, hence the second bound.
inline constexpr size_t kVictimsPerHold = 512;
inline constexpr size_t kPlansPerHold = 8;
// Holds that are added to those a clearing needs when nobody takes its room; then the put is busy.
inline constexpr size_t kSpareHolds = 16;

// Tombstones at most: this part of the slots.
inline constexpr uint64_t kTombstoneShare = 8;
// How long removals are remembered after a shard's source was dropped: clients may hold the map
// before that one for a moment, and the source its entries.
inline constexpr Duration kTombstoneGrace = std::chrono::seconds(5);

// What is behind a Pool, and the steps that its methods share. Included by pool*.cc only.
class Pool::Core {
  class Recoverer;

 public:
  Core(std::unique_ptr<PoolFiles> files_in, const protocol::PoolGeometry& geometry_in,
       const Clock& clock_in, const Clock& boot_clock_in)
      : files(std::move(files_in)),
        geometry(geometry_in),
        clock(clock_in),
        boot_clock(boot_clock_in),
        index(files->index(), geometry),
        space(geometry.data_bytes, policy) {}

  // Once, before the pool is anybody's: takes over what the files hold. pool_recovery.cc.
  void Recover();
  MutableByteSpan LeaseArea() const {
    return files->index().subspan(geometry.leases_offset,
                                  geometry.lease_records * protocol::kLeaseRecordBytes);
  }
  // Makes a slot that is live in the files an entry, with its extent restored.
  void Readmit(SlotId id, uint32_t extent, Instant now) SIMM_REQUIRES(mutex) {
    const protocol::Slot slot = index.Load(id);
    index.Adopt(id, extent);
    space.Readmit(extent, id, now);
    CountLive(slot);
    if (slot.expiry_s != 0) expiry.Add(extent, uint64_t{slot.expiry_s} * 1000);
  }

  // Since the host's boot, as expiry counts.
  uint64_t BootMillis() const { return static_cast<uint64_t>(boot_clock.Now().nanos / 1'000'000); }
  uint32_t BootSeconds() const { return static_cast<uint32_t>(BootMillis() / 1000); }

  uint64_t NextGeneration() SIMM_REQUIRES(mutex) {
    return protocol::MakeGeneration(static_cast<uint16_t>(files->incarnation()), ++generations);
  }
  std::byte* At(uint64_t offset) const { return files->data().data() + offset; }

  // What one hold of the lock may still do, and where a clearing goes on in the next.
  struct Hold {
    size_t victims = kVictimsPerHold;
    size_t plans = kPlansPerHold;
  };
  enum class Step : uint8_t { kGranted, kMore, kNone };
  // Towards one extent, within the hold: kMore: drop the lock and come again with a new Hold and
  // the same `clearing`. kNone: nothing that may be evicted helps.
  Step GrantStep(uint64_t bytes, uint64_t generation, Instant now, Hold* hold,
                 Space::Clearing* clearing, uint32_t* extent) SIMM_REQUIRES(mutex) {
    *extent = space.Grant(bytes, generation);
    if (*extent != kNoExtent) return Step::kGranted;
    if (hold->victims == 0 || hold->plans == 0) return Step::kMore;
    --hold->plans;
    const bool goes_on = clearing->next != kNoExtent;
    if (!space.Plan(bytes, hold->victims, clearing, &victims)) return Step::kNone;
    const EvictionCause cause = goes_on || !clearing->complete || victims.size() > 1
                                    ? EvictionCause::kContiguity
                                    : EvictionCause::kMemory;
    const Instant before = clock.Now();
    for (const uint32_t victim : victims) Evict(victim, cause, now);
    if (!victims.empty())
      counters.eviction_stats.inline_steps.Observe(kEvictionTimeBounds, clock.Now() - before);
    counters.inline_evictions += victims.size();
    hold->victims -= victims.size();
    NoteHold(*hold);
    if (!clearing->complete) return Step::kMore;
    *clearing = {};
    *extent = space.Grant(bytes, generation);
    SIMM_CHECK(*extent != kNoExtent, "evicted what was planned and still no room");
    return Step::kGranted;
  }
  void NoteHold(const Hold& hold) SIMM_REQUIRES(mutex) {
    counters.most_victims_per_hold =
        std::max<uint64_t>(counters.most_victims_per_hold, kVictimsPerHold - hold.victims);
  }
  // Holds after which making room for `bytes` is given up: even if all of it is the smallest
  // entries.
  static size_t MostHolds(uint64_t bytes) {
    return bytes / (kVictimsPerHold * protocol::ExtentHeadBytes(1)) + kSpareHolds;
  }

  SlotId Find(const Hash128& hash, NamespaceId ns, std::string_view key) const
      SIMM_REQUIRES(mutex) {
    return index.Find(hash, [&](const protocol::Slot& slot) {
      if (slot.namespace_id != ns || slot.key_bytes != key.size()) return false;
      if (!HeaderAgrees(ReadHeader(At(slot.offset)), slot)) return false;
      return KeyIs(At(slot.offset), key);
    });
  }
  // Holds the entry of a live slot for a reader; its slot as it is.
  protocol::Slot PinLive(SlotId id, PinnedValue* out) SIMM_REQUIRES(mutex) {
    const protocol::Slot slot = index.Load(id);
    const uint64_t head = protocol::ExtentHeadBytes(slot.key_bytes);
    out->extent = index.ExtentOf(id);
    out->generation = protocol::SlotWord{slot.word}.generation();
    out->checksum = slot.checksum;
    out->head = {At(slot.offset), head};
    out->value = {At(slot.offset) + head, slot.value_bytes};
    space.Pin(out->extent);
    return slot;
  }
  // Whether a TOMBSTONE is left where an entry was, while its shard has a source: never, if the
  // entry is newer than what the source has, always.
  enum class Bury : uint8_t { kNever, kIfNewer, kAlways };
  // Takes the entry out of index and policy; its bytes go to limbo, or stay for who holds them.
  void Unpublish(SlotId id, Instant now, Bury bury) SIMM_REQUIRES(mutex) {
    const protocol::Slot slot = index.Load(id);
    UncountLive(slot);
    const uint32_t extent = index.ExtentOf(id);
    expiry.Remove(extent);
    const bool newer = (slot.flags & protocol::kSlotBesideSource) != 0;
    if ((bury == Bury::kAlways || (bury == Bury::kIfNewer && newer)) &&
        Remembers(slot.fingerprint()) && MayBury()) {
      index.Bury(id, TombstoneOf(slot.fingerprint(), slot.namespace_id, slot.key_bytes));
    } else {
      index.Unpublish(id, NextGeneration());
    }
    space.Unpublish(extent, now);
  }
  // 0: the shard has no source. Else the generation that divides what was here before it got one
  // from what has been published since.
  uint64_t PullingSince(const Hash128& hash) const SIMM_REQUIRES(mutex) {
    if (pulling.empty()) return 0;
    const Pulling& shard = pulling[ShardOf(hash)];
    return shard.ended == kForever ? shard.since : 0;
  }
  // The shard has a source, or had one less than kTombstoneGrace ago: somebody may still read there
  // what is removed here.
  bool Remembers(const Hash128& hash) const SIMM_REQUIRES(mutex) {
    return !pulling.empty() && pulling[ShardOf(hash)].since != 0;
  }
  // Of the key, and not from before its shard got the source that it has: that one has newer ones.
  SlotId FindTombstone(const Hash128& hash, NamespaceId ns) const SIMM_REQUIRES(mutex) {
    const SlotId id = index.FindTombstone(hash, ns);
    if (id == kNoSlot || pulling.empty()) return id;
    const uint64_t generation = protocol::SlotWord{index.Load(id).word}.generation();
    return generation >= pulling[ShardOf(hash)].since ? id : kNoSlot;
  }
  // Ends what is remembered of sources that are gone for long.
  void ForgetSources(Instant now) SIMM_REQUIRES(mutex) {
    if (now < next_forgotten) return;
    next_forgotten = kForever;
    bool any = false;
    for (Pulling& shard : pulling) {
      if (shard.ended != kForever && now >= shard.ended + kTombstoneGrace) shard = {};
      if (shard.ended != kForever)
        next_forgotten = std::min(next_forgotten, shard.ended + kTombstoneGrace);
      any = any || shard.since != 0;
    }
    if (!any) pulling = {};
  }
  // The entry was published since the shard got the source whose PullingSince this is. Generations
  // are given with the room for a value: that of an entry which was put into a lease from before
  // the source does not show it.
  bool IsNewer(const protocol::Slot& slot, uint64_t since) const SIMM_REQUIRES(mutex) {
    const uint64_t generation = protocol::SlotWord{slot.word}.generation();
    const auto late = late_puts.find(generation);
    return generation >= since || (late != late_puts.end() && late->second == since);
  }
  // A client has put it.
  void NotePut(const Grant& grant, const Hash128& hash) SIMM_REQUIRES(mutex) {
    const uint64_t since = PullingSince(hash);
    if (grant.generation < since) late_puts[grant.generation] = since;
  }
  bool MayBury() const SIMM_REQUIRES(mutex) {
    return index.tombstones() < geometry.slots() / kTombstoneShare;
  }
  protocol::Slot TombstoneOf(const Hash128& hash, NamespaceId ns, size_t key_bytes)
      SIMM_REQUIRES(mutex) {
    protocol::Slot slot;
    slot.word = protocol::SlotWord::Make(NextGeneration(), protocol::SlotState::kTombstone).bits;
    slot.fingerprint_high = hash.high;
    slot.fingerprint_low = hash.low;
    slot.key_bytes = static_cast<uint16_t>(key_bytes);
    slot.namespace_id = ns;
    return slot;
  }
  // kMiss, or kRemoved for a key whose tombstone is here.
  Code Absent(const Hash128& hash, NamespaceId ns) const SIMM_REQUIRES(mutex) {
    return FindTombstone(hash, ns) == kNoSlot ? Code::kMiss : Code::kRemoved;
  }
  void CountLive(const protocol::Slot& slot) SIMM_REQUIRES(mutex) {
    live_value_bytes += slot.value_bytes;
    ShardLoad& load = shard_loads[ShardOf(slot.fingerprint())];
    ++load.entries;
    load.value_bytes += slot.value_bytes;
  }
  void UncountLive(const protocol::Slot& slot) SIMM_REQUIRES(mutex) {
    late_puts.erase(protocol::SlotWord{slot.word}.generation());
    live_value_bytes -= slot.value_bytes;
    ShardLoad& load = shard_loads[ShardOf(slot.fingerprint())];
    --load.entries;
    load.value_bytes -= slot.value_bytes;
  }
  void Evict(uint32_t extent, EvictionCause cause, Instant now) SIMM_REQUIRES(mutex) {
    counters.eviction_stats.ages.Observe(
        kEvictionAgeBounds,
        std::max(Duration::zero(), Duration(now - space.policy().LastUse(extent))));
    ++counters.evictions[static_cast<size_t>(cause)];
    counters.evicted_bytes += space.allocator().BytesOf(extent);
    const auto unused =
        std::chrono::duration_cast<std::chrono::milliseconds>(now - space.policy().LastUse(extent));
    counters.last_evicted_age_ms = static_cast<uint64_t>(std::max<int64_t>(0, unused.count()));
    Unpublish(space.record(extent).slot, now, Bury::kIfNewer);
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
    if (const SlotId id = index.FindFree(hash); id != kNoSlot) return id;
    // Tombstones all over.
    SlotId buried = kNoSlot;
    index.ForEachSlot(index.BucketOf(hash), [&](SlotId id) SIMM_NO_THREAD_SAFETY {
      if (index.IsTombstone(id)) buried = id;
      return buried == kNoSlot;
    });
    if (buried != kNoSlot) index.Unpublish(buried, NextGeneration());
    return index.FindFree(hash);
  }
  // Writes head and slot of an entry whose value lies in the extent at `offset`.
  protocol::Slot WriteEntry(uint64_t generation, uint64_t offset, const Hash128& hash,
                            NamespaceId ns, std::string_view key, uint64_t value_bytes,
                            uint64_t checksum, bool beside_source, const PutHints& hints)
      SIMM_REQUIRES(mutex);
  // Publishes it in the place of `existing`, of its tombstone, or in a slot of its own (kBusy: none
  // can be had), as used now or, `used`, then.
  Code Insert(uint32_t extent, const protocol::Slot& entry, SlotId existing, uint32_t ttl_ms,
              Instant now, std::optional<Instant> used) SIMM_REQUIRES(mutex);

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
  const Clock& boot_clock;
  PoolRecovery recovery;  // written by Recover only

  mutable Mutex mutex;
  CondVar work;
  LruPolicy policy SIMM_GUARDED_BY(mutex);
  Index index SIMM_GUARDED_BY(mutex);
  Space space SIMM_GUARDED_BY(mutex);
  ExpiryQueue expiry SIMM_GUARDED_BY(mutex);
  std::vector<AdoptedGrant> adopted SIMM_GUARDED_BY(mutex);
  PoolCounters counters SIMM_GUARDED_BY(mutex);
  uint64_t generations SIMM_GUARDED_BY(mutex) = 0;
  uint64_t live_value_bytes SIMM_GUARDED_BY(mutex) = 0;
  std::vector<ShardLoad> shard_loads SIMM_GUARDED_BY(mutex) =
      std::vector<ShardLoad>(limits::kShards);
  struct Pulling {
    uint64_t since = 0;        // what PullingSince says; 0: no source
    Instant ended = kForever;  // when the source was dropped
  };
  std::vector<Pulling> pulling SIMM_GUARDED_BY(mutex);  // by shard; empty: none
  Instant next_forgotten SIMM_GUARDED_BY(mutex) = kForever;
  // Live entries whose generation is older than their shard's source, and that source's
  // PullingSince: at most what was granted when it came.
  absl::flat_hash_map<uint64_t, uint64_t> late_puts SIMM_GUARDED_BY(mutex);
  bool settled SIMM_GUARDED_BY(mutex) =
      false;  // EvictSome found nothing more to do since the last change
  std::vector<uint32_t> victims SIMM_GUARDED_BY(mutex);  // scratch
};

}  // namespace simm::dataserver
