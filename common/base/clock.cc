#include "common/base/clock.h"

#include <ctime>

namespace simm {

Instant BootClock::Now() const {
  timespec now{};
  clock_gettime(CLOCK_BOOTTIME, &now);
  return {int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec};
}

BootClock& BootClock::Get() {
  static BootClock clock;
  return clock;
}

MonotonicClock& MonotonicClock::Get() {
  static MonotonicClock clock;
  return clock;
}

}  // namespace simm
