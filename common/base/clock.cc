#include "common/base/clock.h"

namespace simm {

MonotonicClock& MonotonicClock::Get() {
  static MonotonicClock clock;
  return clock;
}

}  // namespace simm
