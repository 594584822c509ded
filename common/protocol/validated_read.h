#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "common/base/bytes.h"
#include "common/base/hash.h"
#include "common/base/status.h"
#include "common/protocol/messages.h"
#include "common/protocol/pool_layout.h"

namespace simm::protocol {

// What a reader needs to know of a server's pool; from the handshake.
struct PoolView {
  uint64_t bucket_count = 0;
  uint64_t buckets_offset = 0;
  uint64_t index_bytes = 0;
  uint64_t data_bytes = 0;
};

// A live, whole slot of this key that lies inside the data file.
bool IsPlausible(const Slot& slot, const PoolView& pool, const Hash128& hash, uint16_t namespace_id,
                 size_t key_bytes);

// What a bucket says about a key: the place of its slot, or that a slot is being written, which may
// be this key's, or that there is a whole TOMBSTONE of it and no slot.
struct BucketLook {
  std::optional<size_t> slot;
  bool in_flux = false;
  bool removed = false;
};
BucketLook LookIntoBucket(const Bucket& bucket, const PoolView& pool, const Hash128& hash,
                          uint16_t namespace_id, size_t key_bytes);

// Where a value was seen last, for the location cache: valid for connections of the same boot id
// only.
struct CachedLocation {
  uint64_t slot_offset = 0;  // in the index
  Slot slot;
};

// Where the reads of one key land, besides the caller's buffer; in registered memory where the
// transport wants it.
struct ReadScratch {
  Bucket bucket;
  Slot slot;
  alignas(kExtentAlign) std::byte head[sizeof(ExtentHeader) + limits::kMaxKeyBytes];
};

// The one-sided get of one key (DESIGN 5) as a pure state machine: it says which read comes next,
// is told when that has completed, and accepts the bytes only if the slot was the same before and
// after. Knows no transport, clock or thread. One-thread; scratch and buffer are borrowed until
// kDone.
//
// The order that makes it right: the slot is read again only after the value's reads have
// completed; the driver must not post kReadSlot before that, and this machine gives it no chance
// to.
class ValidatedRead {
 public:
  struct Request {
    Hash128 hash;
    uint16_t namespace_id = 0;
    std::string_view key;        // borrowed
    MutableByteSpan buffer;      // of the caller
    bool allow_shorter = false;  // else another length than the buffer's is kLengthMismatch
    bool verify = true;          // compare the checksum
  };

  enum class Next : uint8_t {
    kReadBucket,  // 1 KiB at offset() of the index -> scratch.bucket
    kReadExtent,  // head_bytes() at offset() of the data -> scratch.head, then value_bytes() behind
                  // it -> the buffer
    kReadSlot,    // 64 B at offset() of the index -> scratch.slot
    kAskServer,   // send a kLookup for the key, then OnLocation
    kDone,
  };

  ValidatedRead(const PoolView& pool, const Request& request, ReadScratch& scratch)
      : pool_(pool), request_(request), scratch_(scratch) {}

  // Begins, with a cached location or without.
  Next Start(const std::optional<CachedLocation>& cached);
  // The read or the question that Next named has succeeded. (One that failed ends the get: its
  // caller answers miss.)
  Next OnRead();
  Next OnLocation(const Location& location);

  uint64_t offset() const { return offset_; }
  uint64_t head_bytes() const { return ExtentHeadBytes(seen_.key_bytes); }
  uint64_t value_bytes() const { return seen_.value_bytes; }

  // After kDone: kOk, kMiss, kRemoved (a miss; the key has a TOMBSTONE), kLengthMismatch
  // (value_bytes() says the stored length) or kCorrupt (a validated slot whose bytes fail the
  // checksum; to be served as a miss and reported).
  Code result() const { return result_; }
  // After kOk: for the location cache and touches.
  CachedLocation location() const { return {slot_offset_, seen_}; }
  // Attempts that failed validation or met a slot in flux.
  uint32_t retries() const { return retries_; }

 private:
  enum class State : uint8_t { kBucket, kCachedSlot, kExtent, kSlot, kAsk, kDone };

  Next ReadBucket();
  Next Retry();
  Next Done(Code code);
  Next OnBucket();
  Next UseSlot(const Slot& slot, uint64_t slot_offset);
  Next OnSlotAgain();
  bool Plausible(const Slot& slot) const;
  bool HeaderAgrees() const;

  const PoolView pool_;
  const Request request_;
  ReadScratch& scratch_;
  State state_ = State::kBucket;
  uint64_t offset_ = 0;
  uint64_t slot_offset_ = 0;
  Slot seen_;
  Code result_ = Code::kMiss;
  uint32_t retries_ = 0;
  bool pinned_ = false;
};

}  // namespace simm::protocol
