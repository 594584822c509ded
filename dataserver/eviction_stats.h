#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "common/base/clock.h"

namespace simm::dataserver {

// A histogram of durations with fixed upper bounds in seconds; the last bucket has none. Plain
// numbers: the owner's lock guards them.
template <size_t kBounds>
struct DurationCounts {
  std::array<uint64_t, kBounds + 1> counts{};
  double seconds = 0;

  void Observe(const std::array<double, kBounds>& bounds, Duration time) {
    const double value = ToSeconds(time);
    const auto at = std::lower_bound(bounds.begin(), bounds.end(), value);
    ++counts[static_cast<size_t>(at - bounds.begin())];
    seconds += value;
  }
};

// Upper bounds: of the time since an entry's last use when it was evicted, and of one step that
// evicted something.
inline constexpr std::array<double, 12> kEvictionAgeBounds = {
    0.1, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 7 * 24 * 3600};
inline constexpr std::array<double, 11> kEvictionTimeBounds = {
    1e-6, 5e-6, 20e-6, 50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 5e-3, 20e-3, 100e-3};

struct EvictionStats {
  DurationCounts<kEvictionAgeBounds.size()> ages;
  // Steps of the evictor, its wait for the pool's lock included; and on the put path.
  DurationCounts<kEvictionTimeBounds.size()> evictor_steps;
  DurationCounts<kEvictionTimeBounds.size()> inline_steps;
};

}  // namespace simm::dataserver
