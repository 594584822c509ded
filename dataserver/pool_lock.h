#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "common/base/clock.h"
#include "common/base/process.h"
#include "common/base/status.h"

namespace simm::dataserver {

// For how long what the last owner has granted over a network stays granted, from the lock on, when
// its end cannot be seen.
inline constexpr auto kQuarantine = std::chrono::seconds(10);
// How long a successor waits for the last owner to end once it has the lock.
inline constexpr auto kPredecessorExit = std::chrono::seconds(10);

// The exclusive lock on a pool's name, held for life, and who had it before. The kernel lets go of
// it when the owner's files close, which is before its devices are closed and before its end is
// announced: the lock alone proves nothing about what the owner has asked of others. The lock
// file, PATH.lock, names its owner by pid, start time, pid namespace and boot of the host; it is
// never removed. Thread-compatible; PredecessorEnded may be called from any thread.
class PoolLock {
 public:
  PoolLock() = default;
  ~PoolLock();
  PoolLock(PoolLock&& other) noexcept;
  PoolLock& operator=(PoolLock&& other) noexcept;

  // Waits for the lock as long as `wait` (called about every 20 ms; empty: not at all) says so,
  // then, for some seconds, for the end of who had it. kUnavailable: it is another's, or the file
  // cannot be had; with the mend.
  Status Take(const std::string& path, const std::function<bool()>& wait, const Clock& clock);

  // The last owner's process is proven dead or, where that cannot be seen (another pid namespace),
  // kQuarantine has passed since the lock was taken.
  bool PredecessorEnded(Instant now) const;

 private:
  void ReadPredecessor();
  void WriteOwner() const;

  enum class Last : uint8_t { kUnseen, kWatched, kEnded };

  int fd_ = -1;
  Instant taken_;
  Last last_ = Last::kUnseen;
  WatchedProcess predecessor_;  // while kWatched
};

}  // namespace simm::dataserver
