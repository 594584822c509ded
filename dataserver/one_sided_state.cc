#include "dataserver/one_sided_state.h"

#include "common/base/limits.h"

namespace simm::dataserver {
namespace {

// Lane ids of two starts of a server differ: a client may ask for a lane of the last one.
constexpr int kLaneCounterBits = 40;

}  // namespace

OneSidedState::OneSidedState(Pool& pool, DataMetrics& metrics)
    : lanes((pool.incarnation() << kLaneCounterBits) + 1),
      leases(pool.geometry().data_bytes, pool.geometry().lease_records, pool.lease_memory()),
      pins(pool.geometry().data_bytes / limits::kPinShare),
      pool_(pool),
      metrics_(metrics) {}

OneSidedState::~OneSidedState() {
  for (const PinnedValue& pinned : pins.TakeAll()) pool_.Release(pinned);
}

void OneSidedState::EndPins(const SessionTable& sessions) {
  const auto ended = [&](uint64_t session) { return !sessions.IsOpen(session); };
  for (const PinnedValue& pinned : pins.TakeOf(ended)) pool_.Release(pinned);
}

void OneSidedState::Tick(Instant now) {
  for (const PinnedValue& pinned : pins.TakeEnded(now)) pool_.Release(pinned);
  const auto ended = leases.TakeEnded();
  pool_.AbandonBlank(ended);
  metrics_.abandoned_extents.fetch_add(ended.size(), std::memory_order_relaxed);
  const uint64_t busy = pool_.Counters().busy;
  const bool pressure = busy != busy_seen_ || pool_.IsShort();
  busy_seen_ = busy;
  leases.StartRecalls(now, pressure);
}

}  // namespace simm::dataserver
