#pragma once

#include "common/base/clock.h"
#include "dataserver/data_metrics.h"
#include "dataserver/lane_table.h"
#include "dataserver/lease_table.h"
#include "dataserver/pin_table.h"
#include "dataserver/pool.h"
#include "dataserver/session_table.h"

namespace simm::dataserver {

// What all connections of a data server share for one-sided peers: lanes, leases, pins.
// Thread-safe. Destroyed after the last session; releases what is pinned then.
class OneSidedState {
 public:
  // Borrowed; outlive it. What the server before this one had granted stays so: to a process that
  // has the memory mapped until its end is proven (where it cannot be seen, until the process
  // disowns it); to others until nothing that was asked over a network can come any more.
  OneSidedState(Pool& pool, DataMetrics& metrics);
  ~OneSidedState();

  // Several times a second, by one thread: ends pins, frees what belonged to processes that have
  // ended, and chooses the leases to recall.
  void Tick(Instant now);

  // After sessions have ended: their pins end.
  void EndPins(const SessionTable& sessions);

  LaneTable lanes;
  LeaseTable leases;
  PinTable pins;

 private:
  Pool& pool_;
  DataMetrics& metrics_;
  uint64_t busy_seen_ = 0;
};

}  // namespace simm::dataserver
