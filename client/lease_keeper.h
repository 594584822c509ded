#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/status.h"
#include "common/protocol/messages.h"

namespace simm::client {

// An extent that a server has granted to a lane and that nothing has been written to yet.
struct GrantedExtent {
  uint64_t lease = 0;
  uint64_t offset = 0;
  uint64_t generation = 0;
  uint64_t bytes = 0;
};

// What one lane keeps at hand so that a put needs no LEASE of its own (DESIGN 6.1): granted extents
// of the sizes in use, and the LEASEs under way for more. Pure bookkeeping: the lane sends what
// comes out. One-thread.
//
// Extents are asked for behind the COMMITs of a wave, never instead of one that a put waits for. A
// size that is used for the first time takes none ahead. Used again within limits::kLeaseIdle, its
// goal doubles from wave to wave up to what the last wave used, or up to limits::kAheadBytes of
// small values; all sizes together stay within limits::kIdleLeaseBytes. A server that refuses is
// asked again after limits::kAheadPause.
class LeaseKeeper {
 public:
  static constexpr size_t kSizes = 8;  // that extents are taken ahead for; others lease per batch
  using Returns = std::vector<protocol::ReturnRequest>;

  std::optional<GrantedExtent> Take(uint64_t bytes);
  // False: there is no place for this size; the caller returns the extent.
  bool Keep(const GrantedExtent& extent, Instant now);
  size_t Idle(uint64_t bytes) const;
  // A LEASE for this size is under way.
  bool Awaiting(uint64_t bytes) const;
  uint64_t idle_bytes() const { return idle_bytes_; }
  bool empty() const { return idle_bytes_ == 0 && asked_.empty(); }

  // A wave has used `used` extents of this size and the next one of the same call wants `next`:
  // what to ask for now, count 0: nothing.
  protocol::LeaseRequest Refill(uint64_t bytes, uint32_t used, uint32_t next, Instant now);
  void Asked(uint64_t request_id, const protocol::LeaseRequest& request);
  bool Awaits(uint64_t request_id) const;
  // The answer to a LEASE of Asked. kProtocolError: not what was asked for.
  Status OnReply(uint64_t request_id, const protocol::LeaseReply& reply, Instant now);

  // Takes out what is to be given back: of one lease; of sizes not used for limits::kLeaseIdle;
  // everything.
  Returns TakeLease(uint64_t lease);
  Returns TakeUnused(Instant now);
  Returns TakeAll();

 private:
  struct Size {
    uint64_t bytes = 0;
    std::vector<GrantedExtent> idle = {};
    uint32_t awaited = 0;
    uint32_t goal = 0;
    Instant used = {};
    Instant refused = {};
  };
  struct Ask {
    uint64_t request_id = 0;
    uint64_t bytes = 0;
    uint32_t count = 0;
  };
  const Size* Find(uint64_t bytes) const;
  Size* Find(uint64_t bytes);
  Size* FindOrAdd(uint64_t bytes);
  template <typename Wanted>
  Returns TakeIf(Wanted wanted);

  std::vector<Size> sizes_;
  std::vector<Ask> asked_;
  uint64_t idle_bytes_ = 0;
};

}  // namespace simm::client
