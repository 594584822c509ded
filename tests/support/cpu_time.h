#pragma once

#include <sys/types.h>

#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>

namespace simm {

// Processor time that a process has used so far, in seconds.
inline double CpuSeconds(pid_t pid) {
  clockid_t clock;
  if (clock_getcpuclockid(pid, &clock) != 0) return 0;
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// What `measure(true)` costs beyond `measure(false)`, both in seconds, of up to three attempts the
// least; ends with the first below `bar`. Whatever else the machine does only adds to either:
// interrupts and caches of others are charged to whom they hit.
inline double LeastExtraCpu(double bar, const std::function<double(bool)>& measure) {
  double least = 1e9;
  for (int attempt = 0; attempt < 3 && least >= bar; ++attempt) {
    const double busy = measure(true);
    const double idle = measure(false);
    std::printf("bench: server CPU in 10 s: %.3f s while read, %.3f s idle\n", busy, idle);
    least = std::min(least, busy - idle);
  }
  return least;
}

}  // namespace simm
