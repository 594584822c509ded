#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>

#include "common/base/mutex.h"

namespace simm::bench {

// Shows one line on stderr, renewed each half second, while it lives; nothing when stderr is no
// terminal. `line` runs on a thread of its own.
class Progress {
 public:
  explicit Progress(std::function<std::string()> line);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

 private:
  void Run();

  std::function<std::string()> line_;
  Mutex mutex_;
  CondVar changed_;
  bool done_ SIMM_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

// True once the user has interrupted the run (SIGINT or SIGTERM): loops end, children are cleaned
// up.
bool Interrupted();
void CatchInterrupts();

}  // namespace simm::bench
