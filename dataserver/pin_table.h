#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <unordered_map>
#include <vector>

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "dataserver/pool.h"

namespace simm::dataserver {

// Values held for readers for a time (LOOKUP, PIN): which, for whom, until when. Pure bookkeeping:
// whoever takes a pin out releases it at the pool. Thread-safe.
//
// Invariant: what is held is at most the share and limits::kMaxPins; a session holds a value once.
class PinTable {
 public:
  enum class Added : uint8_t { kHeld, kExtended, kRefused };
  // `share_bytes`: of all that may be held.
  explicit PinTable(uint64_t share_bytes) : share_bytes_(share_bytes) {}

  // Holds `pinned` for the session until `until`; calls come in about the order of their `until`.
  // kExtended: it was held already; kRefused: the share or the number is used up. After both the
  // caller releases `pinned` itself.
  Added Add(uint64_t session, const PinnedValue& pinned, Instant until);
  // Takes out what has ended by `now`.
  std::vector<PinnedValue> TakeEnded(Instant now);
  // Takes out what is held for sessions that have ended.
  std::vector<PinnedValue> TakeOf(const std::function<bool(uint64_t session)>& ended);
  std::vector<PinnedValue> TakeAll();
  uint64_t bytes() const;
  size_t size() const;

 private:
  struct Pin {
    uint64_t session;
    PinnedValue pinned;
    Instant until;
    uint64_t bytes;
  };
  struct Key {
    uint64_t session;
    uint64_t generation;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    size_t operator()(const Key& key) const {
      return (key.session ^ key.generation) * 0x9e3779b97f4a7c15ULL;
    }
  };
  const uint64_t share_bytes_;
  mutable Mutex mutex_;
  std::list<Pin> pins_ SIMM_GUARDED_BY(mutex_);  // by end
  std::unordered_map<Key, std::list<Pin>::iterator, KeyHash> by_key_ SIMM_GUARDED_BY(mutex_);
  uint64_t bytes_ SIMM_GUARDED_BY(mutex_) = 0;
};

}  // namespace simm::dataserver
