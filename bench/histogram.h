#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace simm::bench {

// Durations in nanoseconds, in buckets of 1/64 of a power of two: percentiles within 1.6 %. 30 KiB;
// thread-compatible: one a thread, merged at the end.
class Histogram {
 public:
  void Record(uint64_t nanos) {
    ++counts_[BucketOf(nanos)];
    ++total_;
  }
  void Merge(const Histogram& other) {
    for (size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
    total_ += other.total_;
  }
  uint64_t count() const { return total_; }
  // What `share` of the values do not exceed, in microseconds, values taken as spread evenly over
  // their bucket; 0 when empty.
  double PercentileUs(double share) const {
    if (total_ == 0) return 0;
    const auto rank = static_cast<uint64_t>(share * static_cast<double>(total_ - 1));
    uint64_t seen = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen <= rank) continue;
      const auto upper = static_cast<double>(UpperBound(i));
      const double lower = i == 0 ? 0 : static_cast<double>(UpperBound(i - 1));
      const double part =
          static_cast<double>(rank + 1 - (seen - counts_[i])) / static_cast<double>(counts_[i]);
      return (lower + (upper - lower) * part) * 1e-3;
    }
    return 0;
  }

 private:
  static constexpr unsigned kSubBits = 6;
  static constexpr size_t kSub = size_t{1} << kSubBits;

  static size_t BucketOf(uint64_t nanos) {
    if (nanos < kSub) return nanos;
    const unsigned shift = static_cast<unsigned>(std::bit_width(nanos)) - 1 - kSubBits;
    return (shift + 1) * kSub + ((nanos >> shift) - kSub);
  }
  static uint64_t UpperBound(size_t bucket) {
    if (bucket < kSub) return bucket;
    const size_t shift = bucket / kSub - 1;
    return ((kSub + bucket % kSub + 1) << shift) - 1;
  }

  std::array<uint64_t, (64 - kSubBits + 1) * kSub> counts_{};
  uint64_t total_ = 0;
};

}  // namespace simm::bench
