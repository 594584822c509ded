#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "common/base/mutex.h"

namespace simm::client {

// A few threads for background work that may block for a second (handshakes, drains). Threads are
// started as they are needed, up to `max_threads`. Thread-safe.
class TaskPool {
 public:
  explicit TaskPool(size_t max_threads) : max_threads_(max_threads) {}
  ~TaskPool() { Stop(); }

  void Run(std::function<void()> task);
  // Drops what has not begun, waits for the rest. Idempotent; must not be called from a task.
  void Stop();

 private:
  void Work();

  const size_t max_threads_;
  Mutex mutex_;
  CondVar wake_;
  bool stopping_ SIMM_GUARDED_BY(mutex_) = false;
  size_t idle_ SIMM_GUARDED_BY(mutex_) = 0;
  std::deque<std::function<void()>> tasks_ SIMM_GUARDED_BY(mutex_);
  std::vector<std::thread> threads_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace simm::client
