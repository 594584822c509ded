#pragma once

#include <chrono>
#include <cstdint>

namespace simm {

// A point on the monotonic clock, in nanoseconds since an arbitrary origin of this process.
struct Instant {
  int64_t nanos = 0;
  friend auto operator<=>(const Instant&, const Instant&) = default;
};

using Duration = std::chrono::nanoseconds;

inline Instant operator+(Instant t, Duration d) { return {t.nanos + d.count()}; }
inline Instant operator-(Instant t, Duration d) { return {t.nanos - d.count()}; }
inline Duration operator-(Instant a, Instant b) { return Duration(a.nanos - b.nanos); }
inline constexpr Instant kForever{INT64_MAX};

inline double ToSeconds(Duration d) { return static_cast<double>(d.count()) * 1e-9; }

// The source of time; passed in everywhere, so that tests and simulations own it. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual Instant Now() const = 0;
};

// CLOCK_MONOTONIC. Never moves with the wall clock.
class MonotonicClock final : public Clock {
 public:
  Instant Now() const override {
    return {
        std::chrono::duration_cast<Duration>(std::chrono::steady_clock::now().time_since_epoch())
            .count()};
  }
  // One for the process; stateless.
  static MonotonicClock& Get();
};

// CLOCK_BOOTTIME: since the boot of the host, sleep included; the same for all its processes.
class BootClock final : public Clock {
 public:
  Instant Now() const override;
  static BootClock& Get();
};

}  // namespace simm
