#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "common/base/clock.h"
#include "common/base/status.h"

namespace simm::dataserver {

// Says which entries are worth least. Entries are named by the handles of their extents. Pure: no
// thread, time is passed in. Thread-compatible; called under the pool's lock, so each call is O(1)
// or O(answer).
class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // The handle became an entry, was used, is no entry any more. OnTouch and OnRemove only for
  // entries.
  virtual void OnInsert(uint32_t extent, Instant now) = 0;
  // The same for an entry that was used last at `used`, elsewhere: near those used then.
  virtual void OnInsertAged(uint32_t extent, Instant used) = 0;
  virtual void OnTouch(uint32_t extent, Instant now) = 0;
  virtual void OnRemove(uint32_t extent) = 0;

  // Fills `out` with the coldest entries, coldest first; returns how many there were.
  virtual size_t Coldest(std::span<uint32_t> out) const = 0;
  // What losing this entry costs, from 0 (the coldest there is) to 1 (as good as just used).
  virtual double Heat(uint32_t extent) const = 0;
  virtual Instant LastUse(uint32_t extent) const = 0;
  // Orders entries by worth: more is hotter.
  virtual uint64_t Rank(uint32_t extent) const = 0;
  virtual size_t size() const = 0;

  // Walks everything; kInternal names the first broken invariant.
  virtual Status Check() const = 0;
};

}  // namespace simm::dataserver
