#include "dataserver/pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>
#include <vector>

#include "common/base/limits.h"
#include "dataserver/extent_head.h"
#include "dataserver/pool_core.h"

namespace simm::dataserver {

using protocol::ExtentHeader;
using protocol::Slot;
using protocol::SlotState;
using protocol::SlotWord;

namespace {

// Work under one hold of the lock: at about 1 us an eviction, 100 us.
constexpr size_t kEvictionsPerStep = 96;
constexpr uint32_t kSlotsPerStep = 1024;
constexpr uint64_t kLeastMemoryBytes = 1 << 20;
constexpr uint64_t kLeastMeanValueBytes = 64;
constexpr uint64_t kLeastDataBytes = 64 << 10;

}  // namespace

std::string_view EvictionCauseName(EvictionCause cause) {
  switch (cause) {
    case EvictionCause::kMemory:
      return "memory";
    case EvictionCause::kContiguity:
      return "contiguity";
    case EvictionCause::kIndex:
      return "index";
    case EvictionCause::kOverflow:
      return "overflow";
  }
  return "unknown";
}

namespace {

Status CheckSizes(const PoolOptions& options) {
  const uint64_t memory = options.memory_bytes;
  uint64_t mean = options.mean_value_bytes;
  if (memory < kLeastMemoryBytes) {
    return Status(Code::kInvalidArgument, "memory of " + FormatSize(memory) +
                                              " is too small for a pool: at least " +
                                              FormatSize(kLeastMemoryBytes));
  }
  const auto works = [&](uint64_t mean_bytes) {
    const protocol::PoolGeometry g = protocol::ComputeGeometry(memory, mean_bytes);
    return g.data_bytes >= kLeastDataBytes && g.slots() + g.overflow_slots < kNoSlot;
  };
  if (mean >= kLeastMeanValueBytes && works(mean)) return Status::Ok();
  mean = std::max(mean, kLeastMeanValueBytes);
  while (!works(mean)) mean *= 2;
  return Status(Code::kInvalidArgument, "mean value of " + FormatSize(options.mean_value_bytes) +
                                            " needs an index that does not fit into " +
                                            FormatSize(memory) + " of memory: " + FormatSize(mean) +
                                            " would");
}

}  // namespace

Result<std::unique_ptr<Pool>> Pool::Create(const PoolOptions& options, const Clock& clock) {
  SIMM_RETURN_IF_ERROR(CheckSizes(options));
  const protocol::PoolGeometry geometry =
      protocol::ComputeGeometry(options.memory_bytes, options.mean_value_bytes);
  Result<std::unique_ptr<PoolFiles>> files = PoolFiles::Create(options, geometry, clock);
  if (!files.ok()) return files.status();
  const Clock& boot_clock = options.boot_clock != nullptr ? *options.boot_clock : BootClock::Get();
  auto core = std::make_unique<Core>(std::move(files).value(), geometry, clock, boot_clock);
  core->Recover();
  return std::unique_ptr<Pool>(new Pool(std::move(core)));
}

Pool::Pool(std::unique_ptr<Core> core) : core_(std::move(core)) {}
Pool::~Pool() = default;

const Id128& Pool::pool_id() const { return core_->files->pool_id(); }
uint64_t Pool::incarnation() const { return core_->files->incarnation(); }
const protocol::PoolGeometry& Pool::geometry() const { return core_->geometry; }
ByteSpan Pool::index_memory() const { return core_->files->index(); }
MutableByteSpan Pool::data_memory() const { return core_->files->data(); }
MutableByteSpan Pool::lease_memory() const { return core_->LeaseArea(); }
int Pool::index_fd() const { return core_->files->index_fd(); }
int Pool::data_fd() const { return core_->files->data_fd(); }

uint64_t Pool::MaxValueBytes(size_t key_bytes) const {
  const uint64_t head = protocol::ExtentHeadBytes(key_bytes);
  const uint64_t data = core_->geometry.data_bytes;
  return data > head ? std::min(data - head, limits::kMaxValueBytes) : 0;
}

Result<Grant> Pool::Allocate(const Hash128&, NamespaceId ns, std::string_view key,
                             uint64_t value_bytes) {
  Core& core = *core_;
  if (value_bytes > MaxValueBytes(key.size())) {
    return Status(Code::kTooLarge, "value of " + FormatSize(value_bytes) + " is beyond the " +
                                       FormatSize(MaxValueBytes(key.size())) +
                                       " that this pool can hold");
  }
  const uint64_t bytes = protocol::ExtentBytes(key.size(), value_bytes);
  const Instant now = core.clock.Now();
  Grant grant;
  uint64_t offset = 0;
  Space::Clearing clearing;
  auto step = Core::Step::kMore;
  for (size_t holds = Core::MostHolds(bytes); holds > 0 && step == Core::Step::kMore; --holds) {
    Core::Hold hold;
    MutexLock lock(core.mutex);
    if (grant.generation == 0) grant.generation = core.NextGeneration();
    step = core.GrantStep(bytes, grant.generation, now, &hold, &clearing, &grant.extent);
    core.NoteChange();
    if (step == Core::Step::kGranted) offset = core.space.allocator().OffsetOf(grant.extent);
  }
  if (step != Core::Step::kGranted) {
    MutexLock lock(core.mutex);
    ++core.counters.busy;
    return Status(Code::kBusy, "no room for " + FormatSize(bytes) + ": granted or being read");
  }
  // Outside the lock: the extent is the writer's, and its page may have to be brought in.
  ExtentHeader header;
  header.generation = grant.generation;
  header.value_bytes = static_cast<uint32_t>(value_bytes);
  header.key_bytes = static_cast<uint16_t>(key.size());
  header.namespace_id = ns;
  WriteHead(core.At(offset), header, key);
  grant.value = {core.At(offset) + protocol::ExtentHeadBytes(key.size()), value_bytes};
  return grant;
}

Code Pool::Commit(const Grant& grant, const Hash128& hash, NamespaceId ns, std::string_view key,
                  PutMode mode, uint64_t checksum, const PutHints& hints) {
  Core& core = *core_;
  const Instant now = core.clock.Now();
  MutexLock lock(core.mutex);
  if (!core.space.Is(grant.extent, ExtentState::kGranted, grant.generation))
    return Code::kLeaseGone;
  const uint64_t offset = core.space.allocator().OffsetOf(grant.extent);
  const uint64_t value_bytes = grant.value.size();
  const auto give_up = [&](Code code) SIMM_NO_THREAD_SAFETY {
    core.space.Abandon(grant.extent);
    core.NoteChange();
    return code;
  };
  if (protocol::ExtentBytes(key.size(), value_bytes) !=
      core.space.allocator().BytesOf(grant.extent)) {
    return give_up(Code::kInvalidArgument);
  }
  const SlotId existing = core.Find(hash, ns, key);
  if (existing != kNoSlot && mode == PutMode::kIfAbsent) {
    core.space.Touch(core.index.ExtentOf(existing), now);  // somebody wants it
    return give_up(Code::kExists);
  }

  // Where nothing is replaced, equal keys have equal values, and the source's is as good.
  const bool newer = core.Remembers(hash) &&
                     (mode == PutMode::kReplace || core.FindTombstone(hash, ns) != kNoSlot);
  const Slot slot =
      core.WriteEntry(grant.generation, offset, hash, ns, key, value_bytes, checksum, newer, hints);
  const Code code = core.Insert(grant.extent, slot, existing, hints.ttl_ms, now, std::nullopt);
  if (code != Code::kOk) return give_up(code);
  core.NotePut(grant, hash);
  return code;
}

void Pool::Release(const PinnedValue& pinned) {
  MutexLock lock(core_->mutex);
  SIMM_CHECK(core_->space.Is(pinned.extent, ExtentState::kLive, pinned.generation) ||
                 core_->space.Is(pinned.extent, ExtentState::kPinned, pinned.generation),
             "released a value that is not held");
  core_->space.Unpin(pinned.extent);
  core_->NoteChange();
}

Code Pool::Lookup(const Hash128& hash, NamespaceId ns, std::string_view key,
                  uint64_t* value_bytes) {
  MutexLock lock(core_->mutex);
  const SlotId id = core_->Find(hash, ns, key);
  if (id == kNoSlot) return core_->Absent(hash, ns);
  *value_bytes = core_->index.Load(id).value_bytes;
  return Code::kOk;
}

void Pool::Touch(const Hash128& hash, NamespaceId ns, std::string_view key) {
  const Instant now = core_->clock.Now();
  MutexLock lock(core_->mutex);
  const SlotId id = core_->Find(hash, ns, key);
  if (id == kNoSlot) return;
  core_->space.Touch(core_->index.ExtentOf(id), now);
  ++core_->counters.touches;
}

void Pool::TouchSlot(uint32_t slot, uint64_t generation) {
  const Instant now = core_->clock.Now();
  MutexLock lock(core_->mutex);
  if (slot >= core_->index.all_slots() || !core_->index.IsLive(slot)) return;
  const uint32_t extent = core_->index.ExtentOf(slot);
  if (!core_->space.Is(extent, ExtentState::kLive, generation)) return;
  core_->space.Touch(extent, now);
  ++core_->counters.touches;
}

Code Pool::Remove(const Hash128& hash, NamespaceId ns, std::string_view key) {
  const Instant now = core_->clock.Now();
  MutexLock lock(core_->mutex);
  const SlotId id = core_->Find(hash, ns, key);
  const bool pulling = core_->PullingSince(hash) != 0;
  if (id == kNoSlot && (!pulling || core_->FindTombstone(hash, ns) != kNoSlot)) return Code::kMiss;
  if (pulling && !core_->MayBury()) return Code::kBusy;
  if (id != kNoSlot) {
    core_->Unpublish(id, now, Core::Bury::kAlways);
  } else {
    const SlotId old = core_->index.FindTombstone(hash, ns);  // of an earlier pull
    if (old != kNoSlot) core_->index.Unpublish(old, core_->NextGeneration());
    const SlotId free = core_->SlotFor(hash, now);
    if (free == kNoSlot) return Code::kBusy;
    core_->index.Bury(free, core_->TombstoneOf(hash, ns, key.size()));
  }
  core_->NoteChange();
  return Code::kOk;
}

bool Pool::Scrub(const Hash128& hash, NamespaceId ns, std::string_view key) {
  PinnedValue pinned;
  if (Acquire(hash, ns, key, &pinned) != Code::kOk) return false;
  const bool intact = Xxh3_64(pinned.value) == pinned.checksum;
  bool removed = false;
  if (!intact) {
    const Instant now = core_->clock.Now();
    MutexLock lock(core_->mutex);
    if (core_->space.Is(pinned.extent, ExtentState::kLive, pinned.generation)) {
      core_->Unpublish(core_->space.record(pinned.extent).slot, now, Core::Bury::kIfNewer);
      removed = true;
    }
  }
  Release(pinned);
  return removed;
}

bool Pool::EvictSome() {
  Core& core = *core_;
  const Instant now = core.clock.Now();
  MutexLock lock(core.mutex);
  const uint64_t evicted_before = core.counters.evicted_bytes;
  core.space.ExpireLimbo(now);
  size_t left = kEvictionsPerStep;
  EvictionCause cause = EvictionCause::kMemory;
  while (left > 0 && core.space.PlanAhead(left, &core.victims, &cause)) {
    for (const uint32_t victim : core.victims) core.Evict(victim, cause, now);
    if (cause == EvictionCause::kContiguity) core.space.EndLimbo();
    // A choice costs as much as several evictions.
    left -= std::min(left, core.victims.size() + (cause == EvictionCause::kContiguity ? 32 : 4));
  }
  for (uint32_t coldest = 0; left > 0 && core.IndexIsFull(); --left) {
    if (core.policy.Coldest({&coldest, 1}) == 0) break;
    core.Evict(coldest, EvictionCause::kIndex, now);
  }
  if (core.counters.evicted_bytes != evicted_before) {
    core.counters.eviction_stats.evictor_steps.Observe(kEvictionTimeBounds, core.clock.Now() - now);
  }
  core.settled = left > 0;
  return !core.settled;
}

bool Pool::ExpireSome() {
  Core& core = *core_;
  const Instant now = core.clock.Now();
  const uint64_t boot_ms = core.BootMillis();
  MutexLock lock(core.mutex);
  uint32_t due = core.expiry.Due(boot_ms);
  for (size_t left = kEvictionsPerStep; left > 0 && due != kNoExtent; --left) {
    core.Unpublish(core.space.record(due).slot, now, Core::Bury::kIfNewer);
    ++core.counters.expired;
    due = core.expiry.Due(boot_ms);
  }
  return due != kNoExtent;
}

void Pool::WaitForEvictionWork(Duration timeout) {
  Core& core = *core_;
  const auto until = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(core.mutex);
  while (!core.HasWork()) {
    const Duration left = until - std::chrono::steady_clock::now();
    const Instant limbo_end = core.space.NextLimboEnd();
    const Duration limbo_left = limbo_end == kForever ? left : limbo_end - core.clock.Now();
    if (left <= Duration(0) || limbo_left <= Duration(0)) return;
    core.work.WaitFor(core.mutex, std::min(left, limbo_left));
  }
}

template <typename Drop>
uint64_t Pool::DropSome(uint64_t cursor, uint64_t* dropped, const Drop& drop) {
  Core& core = *core_;
  const Instant now = core.clock.Now();
  MutexLock lock(core.mutex);
  if (cursor == 0) core.ForgetSources(now);
  const uint64_t all = core.index.all_slots();
  const uint64_t end = std::min(all, cursor + kSlotsPerStep);
  for (; cursor < end; ++cursor) {
    const SlotId id = static_cast<SlotId>(cursor);
    if (core.index.IsTombstone(id)) {
      if (!core.Remembers(core.index.Load(id).fingerprint()))
        core.index.Unpublish(id, core.NextGeneration());
      continue;
    }
    if (!core.index.IsLive(id) || !drop(core.index.Load(id))) continue;
    core.Unpublish(id, now, Core::Bury::kNever);
    ++core.counters.dropped;
    ++*dropped;
  }
  core.NoteChange();
  return cursor >= all ? UINT64_MAX : cursor;
}

uint64_t Pool::DropShards(const std::function<bool(uint32_t shard)>& owned, uint64_t cursor) {
  uint64_t dropped = 0;
  return DropSome(cursor, &dropped,
                  [&](const protocol::Slot& slot) { return !owned(ShardOf(slot.fingerprint())); });
}

uint64_t Pool::BindTo(const Id128& cluster) {
  const uint64_t word = std::max<uint64_t>(
      1, Xxh3_64({reinterpret_cast<const std::byte*>(&cluster), sizeof cluster}));
  auto* const block = reinterpret_cast<protocol::Superblock*>(core_->files->index().data());
  const std::atomic_ref<uint64_t> bound(block->cluster_word);
  uint64_t dropped = 0;
  if (bound.load() != 0 && bound.load() != word) {
    for (uint64_t cursor = 0; cursor != UINT64_MAX;)
      cursor = DropSome(cursor, &dropped, [](const protocol::Slot&) { return true; });
  }
  bound.store(word);
  return dropped;
}

uint64_t Pool::DropNamespace(NamespaceId ns, uint64_t cursor, uint64_t* dropped) {
  return DropSome(cursor, dropped,
                  [&](const protocol::Slot& slot) { return slot.namespace_id == ns; });
}

PoolUsage Pool::Usage() const {
  const Core& core = *core_;
  MutexLock lock(core.mutex);
  PoolUsage usage;
  usage.data_bytes = core.geometry.data_bytes;
  usage.free_bytes = core.space.BytesIn(ExtentState::kFree);
  usage.granted_bytes = core.space.BytesIn(ExtentState::kGranted);
  usage.live_bytes = core.space.BytesIn(ExtentState::kLive);
  usage.limbo_bytes = core.space.BytesIn(ExtentState::kLimbo);
  usage.pinned_bytes = core.space.BytesIn(ExtentState::kPinned);
  usage.held_bytes = core.space.held_bytes();
  usage.live_value_bytes = core.live_value_bytes;
  usage.entries = core.index.entries();
  usage.slots = core.geometry.slots();
  usage.tombstones = core.index.tombstones();
  usage.overflow_entries = core.index.overflow_entries();
  return usage;
}

PoolCounters Pool::Counters() const {
  MutexLock lock(core_->mutex);
  return core_->counters;
}

Status Pool::Audit() const {
  const Core& core = *core_;
  MutexLock lock(core.mutex);
  SIMM_RETURN_IF_ERROR(core.space.Check());
  SIMM_RETURN_IF_ERROR(core.index.Check());
  SIMM_RETURN_IF_ERROR(core.expiry.Check());
  uint64_t expiring = 0;
  const Allocator& allocator = core.space.allocator();
  uint64_t live = 0;
  uint64_t value_bytes = 0;
  for (uint32_t at = allocator.First(); at != kNoExtent; at = allocator.After(at)) {
    if (allocator.StateOf(at) != ExtentState::kLive) continue;
    const Space::Record& record = core.space.record(at);
    if (record.slot >= core.index.all_slots() || !core.index.IsLive(record.slot) ||
        core.index.ExtentOf(record.slot) != at) {
      return Status(Code::kInternal, "the slot of a live extent does not point at it");
    }
    const Slot slot = core.index.Load(record.slot);
    if (slot.offset != allocator.OffsetOf(at) ||
        SlotWord{slot.word}.generation() != record.generation ||
        protocol::ExtentBytes(slot.key_bytes, slot.value_bytes) != allocator.BytesOf(at)) {
      return Status(Code::kInternal, "a live slot disagrees with its extent");
    }
    // What an earlier start has published is verified when it is read.
    const bool ours = record.generation >> protocol::kGenerationCounterBits ==
                      static_cast<uint16_t>(core.files->incarnation());
    if (ours && !HeaderAgrees(ReadHeader(core.At(slot.offset)), slot)) {
      return Status(Code::kInternal, "the header in a live extent disagrees with its slot");
    }
    ++live;
    value_bytes += slot.value_bytes;
    expiring += slot.expiry_s != 0 ? 1 : 0;
  }
  if (expiring != core.expiry.size())
    return Status(Code::kInternal, "the expiry queue holds other than what expires");
  if (live != core.index.entries())
    return Status(Code::kInternal, "live slots without a live extent");
  uint64_t of_shards = 0;
  for (const ShardLoad& load : core.shard_loads) of_shards += load.value_bytes;
  if (value_bytes != core.live_value_bytes || value_bytes != of_shards)
    return Status(Code::kInternal, "live value bytes disagree");
  uint64_t sum = 0;
  for (size_t i = 0; i < kExtentStates; ++i) sum += core.space.BytesIn(static_cast<ExtentState>(i));
  if (sum != core.geometry.data_bytes) return Status(Code::kInternal, "the states do not sum up");
  return Status::Ok();
}

uint64_t Pool::Scan(uint64_t cursor, size_t limit,
                    const std::function<void(NamespaceId, std::string_view key,
                                             uint64_t value_bytes)>& visit) const {
  struct Found {
    NamespaceId ns;
    std::string key;
    uint64_t value_bytes;
  };
  const Core& core = *core_;
  const uint64_t all = core.geometry.slots() + core.geometry.overflow_slots;
  std::vector<Found> found;
  while (cursor < all && limit > 0) {
    {
      MutexLock lock(core.mutex);
      const uint64_t end = std::min(all, cursor + kSlotsPerStep);
      for (; cursor < end && found.size() < limit; ++cursor) {
        const SlotId id = static_cast<SlotId>(cursor);
        if (!core.index.IsLive(id)) continue;
        const Slot slot = core.index.Load(id);
        found.push_back(
            {slot.namespace_id, ReadKey(core.At(slot.offset), slot.key_bytes), slot.value_bytes});
      }
    }
    for (const Found& entry : found) visit(entry.ns, entry.key, entry.value_bytes);
    limit -= found.size();
    found.clear();
  }
  return cursor >= all ? UINT64_MAX : cursor;
}

}  // namespace simm::dataserver
