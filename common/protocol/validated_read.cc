#include "common/protocol/validated_read.h"

#include <cstring>

#include "common/routing/key_hash.h"

namespace simm::protocol {
namespace {

constexpr uint32_t kMaxFailures = 2;  // then the server is asked

bool Equal(const Slot& a, const Slot& b) { return std::memcmp(&a, &b, sizeof(Slot)) == 0; }

bool InFlux(const Slot& slot) {
  const SlotState state = SlotWord{slot.word}.state();
  const bool whole = state == SlotState::kLive || state == SlotState::kTombstone;
  return state == SlotState::kBusy || (whole && slot.crc != slot.ComputeCrc());
}

// A whole TOMBSTONE of this key: told by fingerprint and namespace, as in IsPlausible.
bool IsTombstone(const Slot& slot, const Hash128& hash, uint16_t namespace_id) {
  return SlotWord{slot.word}.state() == SlotState::kTombstone && slot.fingerprint() == hash &&
         slot.namespace_id == namespace_id && slot.crc == slot.ComputeCrc();
}

}  // namespace

bool IsPlausible(const Slot& slot, const PoolView& pool, const Hash128& hash, uint16_t namespace_id,
                 size_t key_bytes) {
  if (SlotWord{slot.word}.state() != SlotState::kLive || slot.crc != slot.ComputeCrc())
    return false;
  if (slot.fingerprint() != hash || slot.namespace_id != namespace_id) return false;
  if (slot.key_bytes != key_bytes || slot.value_bytes > limits::kMaxValueBytes) return false;
  const uint64_t bytes = ExtentBytes(slot.key_bytes, slot.value_bytes);
  return slot.offset % kExtentAlign == 0 && bytes <= pool.data_bytes &&
         slot.offset <= pool.data_bytes - bytes;
}

BucketLook LookIntoBucket(const Bucket& bucket, const PoolView& pool, const Hash128& hash,
                          uint16_t namespace_id, size_t key_bytes) {
  BucketLook look;
  for (size_t i = 0; i < kSlotsPerBucket; ++i) {
    const Slot& slot = bucket.slots[i];
    look.in_flux |= InFlux(slot);
    look.removed |= IsTombstone(slot, hash, namespace_id);
    if (IsPlausible(slot, pool, hash, namespace_id, key_bytes)) {
      look.slot = i;
      return look;
    }
  }
  return look;
}

ValidatedRead::Next ValidatedRead::Start(const std::optional<CachedLocation>& cached) {
  if (!cached || !Plausible(cached->slot)) return ReadBucket();
  slot_offset_ = cached->slot_offset;
  const uint64_t length = cached->slot.value_bytes;
  const bool fits =
      request_.allow_shorter ? length <= request_.buffer.size() : length == request_.buffer.size();
  if (!fits) {
    // Not trusted for an answer: the slot itself decides.
    state_ = State::kCachedSlot;
    offset_ = slot_offset_;
    return Next::kReadSlot;
  }
  return UseSlot(cached->slot, slot_offset_);
}

ValidatedRead::Next ValidatedRead::ReadBucket() {
  state_ = State::kBucket;
  offset_ = pool_.buckets_offset + BucketOf(request_.hash, pool_.bucket_count) * kBucketBytes;
  return Next::kReadBucket;
}

ValidatedRead::Next ValidatedRead::Done(Code code) {
  state_ = State::kDone;
  result_ = code;
  return Next::kDone;
}

ValidatedRead::Next ValidatedRead::Retry() {
  if (pinned_) return Done(Code::kMiss);  // a pinned location whose slot has changed
  if (++retries_ < kMaxFailures) return ReadBucket();
  state_ = State::kAsk;
  return Next::kAskServer;
}

bool ValidatedRead::Plausible(const Slot& slot) const {
  return IsPlausible(slot, pool_, request_.hash, request_.namespace_id, request_.key.size());
}

ValidatedRead::Next ValidatedRead::OnBucket() {
  const BucketLook look = LookIntoBucket(scratch_.bucket, pool_, request_.hash,
                                         request_.namespace_id, request_.key.size());
  if (look.slot) {
    return UseSlot(scratch_.bucket.slots[*look.slot],
                   offset_ + sizeof(BucketHeader) + *look.slot * kSlotBytes);
  }
  // A slot in flux may be this key's: not a miss.
  if (look.in_flux) return Retry();
  if (look.removed) return Done(Code::kRemoved);
  if (scratch_.bucket.header.overflow != 0) {
    state_ = State::kAsk;
    return Next::kAskServer;
  }
  return Done(Code::kMiss);
}

ValidatedRead::Next ValidatedRead::UseSlot(const Slot& slot, uint64_t slot_offset) {
  seen_ = slot;
  slot_offset_ = slot_offset;
  const uint64_t length = slot.value_bytes;
  if (request_.allow_shorter ? length > request_.buffer.size() : length != request_.buffer.size()) {
    return Done(Code::kLengthMismatch);
  }
  state_ = State::kExtent;
  offset_ = slot.offset;
  return Next::kReadExtent;
}

bool ValidatedRead::HeaderAgrees() const {
  ExtentHeader header;
  std::memcpy(&header, scratch_.head, sizeof header);
  return header.generation == SlotWord{seen_.word}.generation() &&
         header.namespace_id == request_.namespace_id && header.key_bytes == request_.key.size() &&
         header.value_bytes == seen_.value_bytes &&
         std::memcmp(scratch_.head + sizeof header, request_.key.data(), request_.key.size()) == 0;
}

ValidatedRead::Next ValidatedRead::OnSlotAgain() {
  if (!Equal(scratch_.slot, seen_)) return Retry();
  if (!HeaderAgrees()) return Retry();
  if (request_.verify && Xxh3_64(request_.buffer.first(seen_.value_bytes)) != seen_.checksum) {
    // The slot stood still around the read: these are the stored bytes, and they are damaged.
    return Done(Code::kCorrupt);
  }
  return Done(Code::kOk);
}

ValidatedRead::Next ValidatedRead::OnRead() {
  switch (state_) {
    case State::kBucket:
      return OnBucket();
    case State::kCachedSlot:
      if (!Plausible(scratch_.slot)) return ReadBucket();
      return UseSlot(scratch_.slot, slot_offset_);
    case State::kExtent:
      state_ = State::kSlot;
      offset_ = slot_offset_;
      return Next::kReadSlot;
    case State::kSlot:
      return OnSlotAgain();
    case State::kAsk:
    case State::kDone:
      break;
  }
  SIMM_CHECK(false, "OnRead without a read under way");
}

ValidatedRead::Next ValidatedRead::OnLocation(const Location& location) {
  SIMM_CHECK(state_ == State::kAsk, "OnLocation without a question");
  if (location.code != Code::kOk || !Plausible(location.slot) ||
      location.slot_offset % kSlotBytes != 0 ||
      location.slot_offset > pool_.index_bytes - kSlotBytes) {
    return Done(location.code == Code::kRemoved ? Code::kRemoved : Code::kMiss);
  }
  pinned_ = true;
  return UseSlot(location.slot, location.slot_offset);
}

}  // namespace simm::protocol
