#pragma once

#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/rpc/control_types.h"

namespace simm::manager {

// One look at the cluster: what was going on, what lay there.
struct HistorySample {
  uint64_t number = 0;  // counts up from 1
  uint64_t unix_ms = 0;
  rpc::Rates rates{};
  uint64_t data_bytes = 0;
  uint64_t live_bytes = 0;
  uint64_t entries = 0;
  uint32_t servers_alive = 0;  // those that are being drained included
};

// How much went on in the cluster: the last limits::kMaxHistorySamples looks, one a second.
//
// Rates are made from the counters that heartbeats carry and the time between two heartbeats of
// the same server, not the time between two looks: looks and heartbeats have the same period, and a
// look may see none or two of them. A server's rates stay until its next heartbeat, and are zero
// while it is silent. Time is passed in. Thread-safe.
class ClusterHistory {
 public:
  // `status` as the manager answers it at `now`; its own rates are not read.
  void Add(Instant now, uint64_t unix_ms, const rpc::ClusterStatus& status);
  // Samples with a number above `after`, ascending.
  std::vector<HistorySample> List(uint64_t after) const;
  // Fills in the rates of the last look: of the cluster and of each server.
  void FillRates(rpc::ClusterStatus& status) const;

 private:
  struct Seen {
    Id128 boot_id;
    Instant heard;
    rpc::ServerStats stats;
    rpc::Rates rates;
    uint64_t look = 0;
  };
  void Look(Instant now, const rpc::NodeStatus& node, Seen& seen) const SIMM_REQUIRES(mutex_);

  mutable Mutex mutex_;
  std::deque<HistorySample> samples_ SIMM_GUARDED_BY(mutex_);
  std::unordered_map<ServerId, Seen> seen_ SIMM_GUARDED_BY(mutex_);
  uint64_t last_ SIMM_GUARDED_BY(mutex_) = 0;
};

}  // namespace simm::manager
