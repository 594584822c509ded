#pragma once

#include <atomic>

#include "common/base/clock.h"

namespace simm {

// A clock that moves only when told to. Thread-safe.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(int64_t start_nanos = 1'000'000'000) : nanos_(start_nanos) {}
  Instant Now() const override { return {nanos_.load(std::memory_order_relaxed)}; }
  void Advance(Duration by) { nanos_.fetch_add(by.count(), std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> nanos_;
};

}  // namespace simm
