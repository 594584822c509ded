#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "common/base/mutex.h"

namespace simm::dataserver {

// The one-sided connections of a data server by id, so that one lane can have another one destroyed
// that a different thread drives. Thread-safe.
//
// A lane opens, is perhaps asked to close, and is closed by the thread that drives it; whoever
// asked is woken then. A lane that is not in the table is gone for good: ids are never used twice.
class LaneTable {
 public:
  // Shared with the session that drives the lane.
  struct Lane {
    const uint64_t id;
    const uint64_t session;
    std::atomic<bool> must_close{false};
  };
  enum class State : uint8_t { kGone, kOpen, kForeign };

  // Ids count up from `first_id`, which differs between two starts of a server.
  explicit LaneTable(uint64_t first_id) : next_id_(first_id) {}

  // `wake` makes the lane's thread call it soon; called under this table's lock from any thread,
  // never after Close. May be empty.
  std::shared_ptr<Lane> Open(uint64_t session, std::function<void()> wake);
  // The lane's connection has been closed and its grants are dealt with. Wakes who waits for it.
  void Close(uint64_t lane);
  // On behalf of `waiter`, an open lane of the same session: asks the thread that drives `lane` to
  // close it; the waiter is woken when that is done. kGone: it is closed already. kForeign: it is
  // another session's, or the waiter itself; nothing is asked.
  State RequestClose(uint64_t lane, const Lane& waiter);
  bool IsOpen(uint64_t lane) const;
  size_t size() const;

 private:
  struct Entry {
    std::shared_ptr<Lane> lane;
    std::function<void()> wake;
    std::vector<uint64_t> waiters;  // each lane waits for one other at most
  };
  mutable Mutex mutex_;
  uint64_t next_id_ SIMM_GUARDED_BY(mutex_);
  std::unordered_map<uint64_t, Entry> lanes_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace simm::dataserver
