// The pool while shards move: what a destination takes in from a source, beside what its clients
// put and remove in the meantime, and what a source tells of its entries.

#include <algorithm>
#include <utility>

#include "dataserver/extent_head.h"
#include "dataserver/pool_core.h"

namespace simm::dataserver {

using protocol::ExtentHeader;
using protocol::Slot;
using protocol::SlotState;
using protocol::SlotWord;

namespace {
// Slots under one hold of the lock: one cache miss each, and one more for those that are listed:
// about 150 us.
constexpr uint64_t kSlotsPerStep = 1024;
}  // namespace

Slot Pool::Core::WriteEntry(uint64_t generation, uint64_t offset, const Hash128& hash,
                            NamespaceId ns, std::string_view key, uint64_t value_bytes,
                            uint64_t checksum, bool beside_source, const PutHints& hints) {
  ExtentHeader header;
  header.generation = generation;
  header.value_bytes = static_cast<uint32_t>(value_bytes);
  header.key_bytes = static_cast<uint16_t>(key.size());
  header.namespace_id = ns;
  header.parent_high = hints.parent.high;
  header.parent_low = hints.parent.low;
  header.depth = hints.depth;
  WriteHead(At(offset), header, key);

  Slot slot;
  slot.word = SlotWord::Make(generation, SlotState::kLive).bits;
  slot.fingerprint_high = hash.high;
  slot.fingerprint_low = hash.low;
  slot.offset = offset;
  slot.value_bytes = header.value_bytes;
  slot.key_bytes = header.key_bytes;
  slot.namespace_id = ns;
  slot.flags = beside_source ? protocol::kSlotBesideSource : 0;
  slot.checksum = checksum;
  return slot;
}

Code Pool::Core::Insert(uint32_t extent, const Slot& entry, SlotId existing, uint32_t ttl_ms,
                        Instant now, std::optional<Instant> used) {
  Slot slot = entry;
  const uint64_t expiry_ms = ttl_ms == 0 ? 0 : BootMillis() + ttl_ms;
  slot.expiry_s = static_cast<uint32_t>((expiry_ms + 999) / 1000);
  uint32_t old = kNoExtent;
  SlotId id = existing;
  if (existing != kNoSlot) {
    old = index.ExtentOf(existing);
    UncountLive(index.Load(existing));
    expiry.Remove(old);
  } else {
    id = index.FindTombstone(slot.fingerprint(), slot.namespace_id);
    if (id == kNoSlot) id = SlotFor(slot.fingerprint(), now);
    if (id == kNoSlot) {
      ++counters.busy;
      return Code::kBusy;
    }
  }
  index.Publish(id, slot, extent);
  if (used) {
    space.PublishAged(extent, id, *used);
  } else {
    space.Publish(extent, id, now);
  }
  CountLive(slot);
  if (old != kNoExtent) space.Unpublish(old, now);
  if (expiry_ms != 0) expiry.Add(extent, expiry_ms);
  NoteChange();
  return Code::kOk;
}

// ---- the destination

void Pool::SetPulling(std::span<const uint32_t> shards) {
  const Instant now = core_->clock.Now();
  MutexLock lock(core_->mutex);
  std::vector<Core::Pulling>& pulling = core_->pulling;
  if (shards.empty() && pulling.empty()) return;
  pulling.resize(limits::kShards);
  uint64_t generation = 0;
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    const bool had = pulling[shard].since != 0 && pulling[shard].ended == kForever;
    const bool has = !shards.empty() && shards.front() == shard;
    if (has) shards = shards.subspan(1);
    if (has && !had) {
      if (generation == 0) generation = core_->NextGeneration();
      pulling[shard] = {generation, kForever};
    } else if (had && !has) {
      pulling[shard].ended = now;
      core_->next_forgotten = std::min(core_->next_forgotten, now + kTombstoneGrace);
    }
  }
  core_->ForgetSources(now);
}

Instant Pool::NextTombstoneEnd() const {
  MutexLock lock(core_->mutex);
  return core_->next_forgotten;
}

Code Pool::WantsPulled(const EntryFacts& entry) {
  MutexLock lock(core_->mutex);
  const uint64_t since = core_->PullingSince(entry.hash);
  if (since == 0) return Code::kWrongOwner;
  const SlotId id = core_->Find(entry.hash, entry.ns, entry.key);
  if (id == kNoSlot) {
    const bool removed = core_->FindTombstone(entry.hash, entry.ns) != kNoSlot;
    return removed ? Code::kRemoved : Code::kOk;
  }
  const Slot slot = core_->index.Load(id);
  const bool same = slot.value_bytes == entry.value_bytes && slot.checksum == entry.checksum;
  return same || core_->IsNewer(slot, since) ? Code::kExists : Code::kOk;
}

bool Pool::HasRoomFor(const EntryFacts& entry, uint64_t on_the_way) {
  Core& core = *core_;
  const Instant used = core.clock.Now() - entry.age;
  const uint64_t bytes = protocol::ExtentBytes(entry.key.size(), entry.value_bytes);
  MutexLock lock(core.mutex);
  const uint64_t open =
      core.space.BytesIn(ExtentState::kFree) + core.space.BytesIn(ExtentState::kLimbo);
  if (open >= core.space.reserve_bytes() + bytes + on_the_way && !core.IndexIsFull()) return true;
  uint32_t coldest = kNoExtent;
  if (core.policy.Coldest({&coldest, 1}) == 0) return false;
  return core.policy.LastUse(coldest) < used;
}

Code Pool::CommitPulled(const Grant& grant, const EntryFacts& entry, const PutHints& hints) {
  Core& core = *core_;
  const Instant now = core.clock.Now();
  MutexLock lock(core.mutex);
  SIMM_CHECK(core.space.Is(grant.extent, ExtentState::kGranted, grant.generation),
             "committed a grant that is gone");
  const uint64_t since = core.PullingSince(entry.hash);
  const SlotId existing = core.Find(entry.hash, entry.ns, entry.key);
  Code code = Code::kOk;
  if (since == 0) {
    code = Code::kWrongOwner;
  } else if (existing != kNoSlot) {
    code = core.IsNewer(core.index.Load(existing), since) ? Code::kExists : Code::kOk;
  } else if (core.FindTombstone(entry.hash, entry.ns) != kNoSlot) {
    code = Code::kRemoved;
  }
  if (code == Code::kOk) {
    const uint64_t offset = core.space.allocator().OffsetOf(grant.extent);
    const Slot slot =
        core.WriteEntry(grant.generation, offset, entry.hash, entry.ns, entry.key,
                        entry.value_bytes, entry.checksum, /*beside_source=*/false, hints);
    code = core.Insert(grant.extent, slot, existing, entry.ttl_ms, now, now - entry.age);
  }
  if (code != Code::kOk) {
    core.space.Abandon(grant.extent);
    core.NoteChange();
  }
  return code;
}

// ---- the source

uint64_t Pool::ListSlots(const std::function<bool(uint32_t shard)>& wanted, uint64_t newer_than,
                         uint64_t cursor, std::vector<ListedSlot>* out) const {
  const Core& core = *core_;
  MutexLock lock(core.mutex);
  const uint64_t all = core.index.all_slots();
  const uint64_t end = std::min(all, cursor + kSlotsPerStep);
  for (; cursor < end; ++cursor) {
    const SlotId id = static_cast<SlotId>(cursor);
    if (!core.index.IsLive(id)) continue;
    const Slot slot = core.index.Load(id);
    if (SlotWord{slot.word}.generation() <= newer_than || !wanted(ShardOf(slot.fingerprint())))
      continue;
    const uint32_t extent = core.index.ExtentOf(id);
    out->push_back({core.policy.Rank(extent), id, static_cast<float>(core.policy.Heat(extent))});
  }
  return cursor >= all ? UINT64_MAX : cursor;
}

bool Pool::Describe(uint32_t slot_id, EntryFacts* out) const {
  const Core& core = *core_;
  const Instant now = core.clock.Now();
  const uint64_t boot_ms = core.BootMillis();
  MutexLock lock(core.mutex);
  if (slot_id >= core.index.all_slots() || !core.index.IsLive(slot_id)) return false;
  const Slot slot = core.index.Load(slot_id);
  const uint64_t expiry_ms = uint64_t{slot.expiry_s} * 1000;
  if (expiry_ms != 0 && expiry_ms <= boot_ms) return false;
  out->hash = slot.fingerprint();
  out->ns = slot.namespace_id;
  out->key = ReadKey(core.At(slot.offset), slot.key_bytes);
  out->value_bytes = slot.value_bytes;
  out->checksum = slot.checksum;
  out->ttl_ms = static_cast<uint32_t>(
      expiry_ms == 0 ? 0 : std::min<uint64_t>(expiry_ms - boot_ms, UINT32_MAX));
  out->age = now - core.policy.LastUse(core.index.ExtentOf(slot_id));
  return true;
}

uint64_t Pool::NewestGeneration() const {
  MutexLock lock(core_->mutex);
  return protocol::MakeGeneration(static_cast<uint16_t>(core_->files->incarnation()),
                                  core_->generations);
}

ShardLoad Pool::LoadOf(std::span<const uint32_t> shards) const {
  ShardLoad sum;
  MutexLock lock(core_->mutex);
  for (const uint32_t shard : shards) {
    sum.entries += core_->shard_loads[shard].entries;
    sum.value_bytes += core_->shard_loads[shard].value_bytes;
  }
  return sum;
}

}  // namespace simm::dataserver
