#pragma once

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"

namespace simm::bench {

// A program that was started and ends with its owner: SIGTERM, then SIGKILL, on destruction;
// SIGKILL by the kernel when the thread that started it ends (so start from the main thread).
// Thread-compatible.
class ChildProcess {
 public:
  // argv[0] is the path. stdout and stderr are appended to `log_path`. kUnavailable: cannot be
  // started.
  static Result<std::unique_ptr<ChildProcess>> Start(const std::vector<std::string>& argv,
                                                     const std::string& log_path);
  ~ChildProcess();
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }
  // Empty while it runs; otherwise the exit code, or 128 + the signal that ended it.
  std::optional<int> Ended();
  // SIGSTOP: returns when every thread stands still, after 5 s at the latest.
  void Signal(int signal);
  // SIGTERM, and SIGKILL when it has not ended after `grace`. Waits for the end.
  void Stop(std::chrono::milliseconds grace = std::chrono::seconds(5));
  // SIGKILL and wait.
  void Kill();

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  bool WaitUntil(std::chrono::steady_clock::time_point end);

  pid_t pid_;
  std::optional<int> exit_code_;
};

}  // namespace simm::bench
