#pragma once

#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace simm {

// Names the seed under test when the process dies of it: a broken invariant aborts, and an abort
// skips every message that a test would have printed. One per process, on its main thread.
class SeedReport {
 public:
  explicit SeedReport(const char* test) {
    std::snprintf(test_, sizeof test_, "%s", test);
    for (const int signal : {SIGABRT, SIGSEGV, SIGBUS}) {
      struct sigaction action {};
      action.sa_handler = &Handle;
      action.sa_flags = static_cast<int>(SA_RESETHAND);
      sigaction(signal, &action, nullptr);
    }
  }
  ~SeedReport() {
    for (const int signal : {SIGABRT, SIGSEGV, SIGBUS}) std::signal(signal, SIG_DFL);
  }
  void Running(uint64_t seed) {
    length_ = std::snprintf(line_, sizeof line_, "\n%s\n", Replay(seed).c_str());
  }
  static std::string Replay(uint64_t seed) {
    return "replay with: SIMM_SIM_SEED=" + std::to_string(seed) + " build/tests/" + test_;
  }

 private:
  static void Handle(int signal) {
    [[maybe_unused]] const ssize_t n = write(STDERR_FILENO, line_, static_cast<size_t>(length_));
    raise(signal);
  }
  static inline char test_[64];
  static inline char line_[160];
  static inline int length_ = 0;
};

}  // namespace simm
