#include "bench/progress.h"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <utility>

namespace simm::bench {
namespace {

std::atomic<bool> interrupted{false};
static_assert(std::atomic<bool>::is_always_lock_free, "set from a signal handler");

void OnSignal(int) { interrupted.store(true, std::memory_order_relaxed); }

}  // namespace

Progress::Progress(std::function<std::string()> line) : line_(std::move(line)) {
  if (isatty(STDERR_FILENO) == 1) thread_ = std::thread([this] { Run(); });
}

Progress::~Progress() {
  if (!thread_.joinable()) return;
  {
    MutexLock lock(mutex_);
    done_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
  std::fputs("\r\033[K", stderr);
}

void Progress::Run() {
  MutexLock lock(mutex_);
  while (!done_) {
    std::fprintf(stderr, "\r\033[K%s", line_().c_str());
    changed_.WaitFor(mutex_, std::chrono::milliseconds(500));
  }
}

bool Interrupted() { return interrupted.load(std::memory_order_relaxed); }

void CatchInterrupts() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESETHAND;  // the second one ends the program at once
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace simm::bench
