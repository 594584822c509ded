#pragma once

#include <optional>

#include "common/base/clock.h"
#include "common/protocol/messages.h"

namespace simm::dataserver {

// How much of what a lane reports of its reads is believed: what one lane can read, by
// limits::kLaneKeysPerSecond and kLaneBytesPerSecond, in the time since it began, at most
// limits::kReportedAtOnce of it at a time. What is said beyond that is cut off, so that nobody can
// drive a counter to its end; within it a client is believed, as it is where it commits a value.
// Pure: time is passed in. One-thread.
class ReadAllowance {
 public:
  // The totals as they are to be counted: never more than was said, never more keys, retries or
  // bytes than the lane can have read, never more bytes than its hits can hold, each value at most
  // `largest_value`. `*cut`: it was less than was said.
  protocol::ReadTotals Cut(const protocol::ReadTotals& said, uint64_t largest_value, Instant now,
                           bool* cut);

 private:
  // For the lane's reads before the first time that it is heard.
  Duration unspent_keys_ = std::chrono::seconds(2);
  Duration unspent_bytes_ = std::chrono::seconds(2);
  std::optional<Instant> last_;
};

}  // namespace simm::dataserver
