// The side of the pool that faces those who reach its memory without asking: blank grants for
// remote writers, and values held for readers.

#include <algorithm>
#include <utility>
#include <vector>

#include "common/base/limits.h"
#include "dataserver/extent_head.h"
#include "dataserver/pool_core.h"

namespace simm::dataserver {

using protocol::Slot;
using protocol::SlotWord;

namespace {

// Frees under one hold of the lock: each merges with its neighbours, about 0.3 us.
constexpr size_t kFreesPerHold = 256;

}  // namespace

Result<std::vector<LeasedExtent>> Pool::GrantBlank(uint64_t bytes, uint32_t count) {
  Core& core = *core_;
  if (bytes == 0 || bytes % protocol::kExtentAlign != 0 || count == 0) {
    return Status(Code::kInvalidArgument, "extents have a multiple of 64 bytes");
  }
  if (bytes > core.geometry.data_bytes ||
      bytes > protocol::ExtentBytes(limits::kMaxKeyBytes, limits::kMaxValueBytes)) {
    return Status(Code::kTooLarge, "no extent of " + FormatSize(bytes) + " fits into this pool");
  }
  const Instant now = core.clock.Now();
  std::vector<LeasedExtent> leased;
  leased.reserve(count);
  Space::Clearing clearing;
  auto step = Core::Step::kMore;
  // Each hold grants kPlansPerHold extents at least, or clears for one.
  uint64_t first = 0;
  for (size_t holds = Core::MostHolds(bytes * count) + count / kPlansPerHold;
       holds > 0 && step == Core::Step::kMore; --holds) {
    Core::Hold hold;
    MutexLock lock(core.mutex);
    if (first == 0) {
      // In one piece, whatever evictions take in between: neighbours then make up one range.
      first = core.NextGeneration();
      core.generations += count - 1;
    }
    do {
      LeasedExtent next;
      next.bytes = bytes;
      next.generation = first + leased.size();
      step = core.GrantStep(bytes, next.generation, now, &hold, &clearing, &next.extent);
      if (step != Core::Step::kGranted) break;
      next.offset = core.space.allocator().OffsetOf(next.extent);
      leased.push_back(next);
    } while (leased.size() < count);
    core.NoteChange();
  }
  if (leased.empty()) {
    MutexLock lock(core.mutex);
    ++core.counters.busy;
    return Status(Code::kBusy, "no room for " + FormatSize(bytes) + ": granted or being read");
  }
  return leased;
}

Code Pool::CommitWritten(const LeasedExtent& leased, const WrittenValue& written, bool verify) {
  Code code = Code::kOk;
  const uint64_t head_bytes = protocol::ExtentHeadBytes(written.key.size());
  const MutableByteSpan value = {core_->At(leased.offset) + head_bytes, written.value_bytes};
  if (protocol::ExtentBytes(written.key.size(), written.value_bytes) != leased.bytes) {
    code = Code::kInvalidArgument;
  } else {
    // The writer may still be able to write: each word of the head is read once and compared with
    // what the COMMIT says, which alone counts from here on. Commit writes the head anew from it.
    Slot said;
    said.word = SlotWord::Make(leased.generation, protocol::SlotState::kLive).bits;
    said.namespace_id = written.ns;
    said.key_bytes = static_cast<uint16_t>(written.key.size());
    said.value_bytes = static_cast<uint32_t>(written.value_bytes);
    const std::byte* const at = core_->At(leased.offset);
    if (!HeaderAgrees(ReadHeader(at), said) || !KeyIs(at, written.key)) code = Code::kCorrupt;
  }
  if (code == Code::kOk && verify && Xxh3_64(value) != written.checksum) code = Code::kCorrupt;
  if (code != Code::kOk) {
    AbandonBlank({&leased, 1});
    return code;
  }
  return Commit(Grant{leased.generation, leased.extent, value}, written.hash, written.ns,
                written.key, written.mode, written.checksum, written.hints);
}

void Pool::AbandonBlank(std::span<const LeasedExtent> leased) {
  while (!leased.empty()) {
    const auto now = leased.first(std::min(leased.size(), kFreesPerHold));
    leased = leased.subspan(now.size());
    MutexLock lock(core_->mutex);
    for (const LeasedExtent& one : now) {
      SIMM_CHECK(core_->space.Is(one.extent, ExtentState::kGranted, one.generation),
                 "abandoned a grant that is gone");
      core_->space.Abandon(one.extent);
    }
    core_->NoteChange();
  }
}

void Pool::Abandon(const Grant& grant) {
  const LeasedExtent leased = {grant.generation, 0, 0, grant.extent};
  AbandonBlank({&leased, 1});
}

bool Pool::IsLive(const Hash128& hash, NamespaceId ns, std::string_view key, uint64_t generation) {
  MutexLock lock(core_->mutex);
  const SlotId id = core_->Find(hash, ns, key);
  return id != kNoSlot && SlotWord{core_->index.Load(id).word}.generation() == generation;
}

bool Pool::IsShort() const {
  MutexLock lock(core_->mutex);
  return core_->settled && core_->space.WantsEviction();
}

Code Pool::Acquire(const Hash128& hash, NamespaceId ns, std::string_view key, PinnedValue* out) {
  MutexLock lock(core_->mutex);
  const SlotId id = core_->Find(hash, ns, key);
  if (id == kNoSlot) return core_->Absent(hash, ns);
  core_->PinLive(id, out);
  return Code::kOk;
}

Code Pool::Locate(const Hash128& hash, NamespaceId ns, std::string_view key, PinnedValue* out,
                  protocol::Slot* slot, uint64_t* slot_offset) {
  const Instant now = core_->clock.Now();
  MutexLock lock(core_->mutex);
  const SlotId id = core_->Find(hash, ns, key);
  if (id == kNoSlot) return core_->Absent(hash, ns);
  *slot = core_->PinLive(id, out);
  *slot_offset = core_->index.OffsetOf(id);
  core_->space.Touch(out->extent, now);
  ++core_->counters.touches;
  return Code::kOk;
}

}  // namespace simm::dataserver
