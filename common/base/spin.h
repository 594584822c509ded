#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "common/base/clock.h"

namespace simm {

// Before a thread sleeps it may look again for a short while: waking up costs more than that, in
// virtual machines several times more. Whether that pays shows by itself: after looking in vain the
// next 1, 2, 4 ... 64 waits sleep at once. So an idle or crowded machine loses next to nothing.
// One-thread.
class SpinBeforeSleep {
 public:
  static constexpr auto kSpin = std::chrono::microseconds(50);

  // Calls `look` until it returns true or the time is up; false: sleep now.
  template <typename Look>
  bool Try(Look&& look) {
    if (skip_ > 0) {
      --skip_;
      return false;
    }
    Clock& clock = MonotonicClock::Get();
    const Instant end = clock.Now() + kSpin;
    do {
      if (look()) {
        penalty_ = 0;
        return true;
      }
    } while (clock.Now() < end);
    penalty_ = std::clamp<uint32_t>(penalty_ * 2, 1, 64);
    skip_ = penalty_;
    return false;
  }

 private:
  uint32_t penalty_ = 0;
  uint32_t skip_ = 0;
};

}  // namespace simm
