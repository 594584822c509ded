#pragma once

#include <sys/types.h>

#include <cstdint>

#include "common/base/ids.h"

namespace simm {

// What tells a process from every other one of this host since its boot: numbers are used again.
struct ProcessName {
  uint32_t pid = 0;            // in its own pid namespace; 0: not known
  uint64_t start_time = 0;     // as /proc says it, in clock ticks since the boot; 0: not known
  uint64_t pid_namespace = 0;  // number of the namespace; 0: not known
  Id128 host_boot;             // of the kernel; zero: not known
};

ProcessName ThisProcess();
// Field 22 of its stat line; 0 when it cannot be read.
uint64_t StartTimeOf(pid_t pid);
// Random, new at each boot of the kernel; zero when it cannot be read.
Id128 HostBootId();

// A process of this pid namespace, held by a pidfd so that its end can be proven whatever becomes
// of its number. Thread-safe but for moves.
class WatchedProcess {
 public:
  // Of no process: never ended.
  WatchedProcess() = default;
  // The process that had this number when it had started at this time; one that is not there any
  // more has ended.
  WatchedProcess(uint32_t pid, uint64_t start_time);
  // Takes over a pidfd.
  explicit WatchedProcess(int pidfd) : pidfd_(pidfd) {}
  ~WatchedProcess();
  WatchedProcess(WatchedProcess&& other) noexcept;
  WatchedProcess& operator=(WatchedProcess&& other) noexcept;

  // Its last thread has exited; memory and files were let go of before that.
  bool Ended() const;

 private:
  int pidfd_ = -1;
  bool ended_ = false;
  // Where the kernel has no pidfd.
  uint32_t pid_ = 0;
  uint64_t start_time_ = 0;
};

}  // namespace simm
