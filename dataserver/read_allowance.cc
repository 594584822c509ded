#include "dataserver/read_allowance.h"

#include <algorithm>
#include <array>

#include "common/base/limits.h"

namespace simm::dataserver {
namespace {

// What `time` allows at this rate; neither product comes near 2^63 within kReportedAtOnce.
uint64_t Allowed(Duration time, uint64_t per_second) {
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(time).count();
  return static_cast<uint64_t>(std::max<int64_t>(us, 0)) * (per_second >> 4) / (1'000'000 >> 4);
}

Duration Worth(uint64_t n, uint64_t per_second) {
  const double seconds = static_cast<double>(n) / static_cast<double>(per_second);
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

protocol::ReadTotals ReadAllowance::Cut(const protocol::ReadTotals& said, uint64_t largest_value,
                                        Instant now, bool* cut) {
  if (last_) {
    const Duration passed = std::max<Duration>(now - *last_, Duration::zero());
    unspent_keys_ = std::min<Duration>(unspent_keys_ + passed, limits::kReportedAtOnce);
    unspent_bytes_ = std::min<Duration>(unspent_bytes_ + passed, limits::kReportedAtOnce);
  }
  last_ = now;
  protocol::ReadTotals believed = said;
  const uint64_t keys = Allowed(unspent_keys_, limits::kLaneKeysPerSecond);
  uint64_t left = keys;
  for (uint64_t* const count :
       {&believed.get_hits, &believed.get_misses, &believed.get_length_mismatches,
        &believed.exists_hits, &believed.exists_misses, &believed.validation_retries}) {
    *count = std::min(*count, left);
    left -= *count;
  }
  // A value that was damaged is one of the misses.
  believed.validation_failures = std::min(believed.validation_failures, believed.get_misses);
  uint64_t bytes = Allowed(unspent_bytes_, limits::kLaneBytesPerSecond);
  if (believed.get_hits <= bytes / std::max<uint64_t>(largest_value, 1))
    bytes = believed.get_hits * largest_value;
  believed.get_bytes = std::min(believed.get_bytes, bytes);
  unspent_keys_ -= Worth(keys - left, limits::kLaneKeysPerSecond);
  unspent_bytes_ -= Worth(believed.get_bytes, limits::kLaneBytesPerSecond);
  *cut = believed != said;
  return believed;
}

}  // namespace simm::dataserver
