#pragma once

#include <array>
#include <cstddef>
#include <deque>

#include "common/base/clock.h"
#include "common/protocol/messages.h"

namespace simm::client {

// What one-sided reads over a lane have come to that the server has not seen: uses of values, and
// counts.
//
// Uses are deduplicated; the oldest are dropped when too many wait. They travel with a LEASE, or
// alone when a message's worth of them has gathered or the oldest has waited long enough, at most
// 25 messages a second. Counts travel with them; where there are none (readers that only miss), at
// most once a second. They are not dropped: what a lane has counted goes with its close at the
// latest, unless its connection breaks. One-thread.
class ReadNews {
 public:
  static constexpr size_t kMostPending = 4 * protocol::kMaxSlotTouches;
  static constexpr auto kMinInterval = std::chrono::milliseconds(40);
  static constexpr auto kMaxAge = std::chrono::milliseconds(200);

  // `counts`: the server takes them; else they are forgotten.
  explicit ReadNews(bool counts) : counts_(counts) {}

  void Touch(const protocol::SlotTouch& touch, Instant now);
  // To be added to: what is there goes with the next message.
  protocol::ReadTotals& totals() { return totals_; }
  bool HasTouches() const { return !pending_.empty(); }
  bool HasTotals() const { return counts_ && totals_ != protocol::ReadTotals{}; }
  // Whether there is something to be sent now. The age of counts begins when this first sees them.
  bool Due(Instant now);
  // Encodes the counts and the oldest uses that are pending, one message's worth; there must be
  // something.
  ByteSpan Take(Instant now, protocol::MessageBuffer& out);

 private:
  const bool counts_;
  std::deque<protocol::SlotTouch> pending_;
  std::array<protocol::SlotTouch, 512> recent_{};
  Instant oldest_;
  Instant last_sent_;
  protocol::ReadTotals totals_;
  Instant counting_since_;
};

}  // namespace simm::client
