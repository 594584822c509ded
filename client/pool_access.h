#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "client/bounce_pool.h"
#include "common/base/hash.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "common/protocol/validated_read.h"
#include "common/transport/transport.h"

namespace simm::client {

// Where values were seen last, for reads that skip the bucket. Of one size, direct-mapped: an entry
// that is overwritten costs one more read. An entry counts only for the start of the server (boot
// id) that it was seen at. Thread-safe.
class LocationCache {
 public:
  static constexpr size_t kEntries = 1 << 16;  // 7 MiB when full

  LocationCache() : entries_(kEntries) {}
  std::optional<protocol::CachedLocation> Find(const Id128& boot, const Hash128& hash) const;
  void Put(const Id128& boot, const Hash128& hash, const protocol::CachedLocation& location);

 private:
  struct Entry {
    Id128 boot;
    protocol::CachedLocation location;
  };
  static constexpr size_t kStripes = 64;
  static size_t Place(const Hash128& hash) { return hash.low % kEntries; }

  mutable std::array<Mutex, kStripes> stripes_;  // entry i belongs to stripe i % kStripes
  std::vector<Entry> entries_;
};

// Lanes to one server that broke before they had given back what they held. Where the server cannot
// cut this process off (shared memory) it waits for a word that nothing is written there any more;
// the next lane says it. Of bounded number: the oldest are forgotten, and stay granted until this
// process ends. Thread-safe.
class LostLanes {
 public:
  // The connection of the lane of this tag is closed: none of its copies goes on.
  void Add(uint64_t tag);
  std::vector<uint64_t> Take();
  bool empty() const { return count_.load(std::memory_order_relaxed) == 0; }

 private:
  mutable Mutex mutex_;
  std::deque<uint64_t> tags_ SIMM_GUARDED_BY(mutex_);
  std::atomic<size_t> count_{0};
};

// What one-sided readers and writers know of a data server's pool; from its handshake. Immutable
// but for the cache.
struct PoolAccess {
  protocol::PoolView view;
  uint64_t overflow_offset = 0;  // of the overflow slots in the index
  Id128 boot;
  transport::RemoteRegion index;
  transport::RemoteRegion data;
  std::shared_ptr<LocationCache> locations;
  // Set where local memory must be registered: with what, and where memory comes from for values
  // that lie elsewhere.
  transport::Transport* registrar = nullptr;
  BouncePool* bounce = nullptr;
  bool takes_reports = false;  // the server takes ReadReports, not only touches
  // To this server, earlier starts included: a warm one knows what they held. May be missing.
  std::shared_ptr<LostLanes> lost;

  // Values of one step of a batch of gets at most, in bytes. Over shared memory, where a step costs
  // next to nothing, few enough that what was just copied is hashed while it is in the cache.
  uint64_t read_wave_bytes() const {
    return registrar != nullptr ? limits::kWaveBytes : limits::kSharedWaveBytes;
  }

  // The number of the slot at this offset of the index, as touches name it.
  uint32_t SlotAt(uint64_t offset) const;
};

}  // namespace simm::client
