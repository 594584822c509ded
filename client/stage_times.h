#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "common/base/clock.h"

namespace simm::client {

// What an exchange spends its time on. Resolve: finding the value, or memory for it (buckets,
// LEASEs, RESOLVEs). Post: handing work over, the hashing of a put and copies by this processor
// included. Wire: waiting for bytes and answers. Validate: looking whether what came is right.
enum class Stage : uint8_t { kResolve, kPost, kWire, kValidate };
inline constexpr size_t kStages = 4;
using StageTimes = std::array<Duration, kStages>;

// Adds up the time between the turns of one exchange; one look at the clock a turn, none where it
// is off. One-thread.
class StageClock {
 public:
  explicit StageClock(bool on) : on_(on) {}
  void Enter(Stage stage) {
    if (on_) Turn(stage);
  }
  // The stage under way counts up to now.
  StageTimes Read() const {
    StageTimes times = times_;
    if (running_) times[static_cast<size_t>(stage_)] += MonotonicClock::Get().Now() - since_;
    return times;
  }

 private:
  void Turn(Stage stage) {
    const Instant now = MonotonicClock::Get().Now();
    if (running_) times_[static_cast<size_t>(stage_)] += now - since_;
    running_ = true;
    stage_ = stage;
    since_ = now;
  }

  const bool on_;
  bool running_ = false;
  Stage stage_ = Stage::kPost;
  Instant since_;
  StageTimes times_{};
};

}  // namespace simm::client
