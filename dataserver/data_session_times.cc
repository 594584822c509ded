// How long the requests of a data connection take.

#include "common/base/log.h"
#include "dataserver/data_session.h"

namespace simm::dataserver {

// What the client's line about a slow call names, session and request, is named here too.
void DataSession::Observe(DataOp op, size_t keys) {
  const Duration took = context_.clock.Now() - received_;
  context_.metrics.ObserveRequest(op, took);
  if (context_.slow_op <= Duration::zero() || took < context_.slow_op) return;
  SIMM_LOG_WARN(
      "slow {}: {:.1f} ms for {} keys over {}, from its last byte in to its last byte "
      "out; {}, session {:016x}, request {}",
      DataOpName(op), ToSeconds(took) * 1e3, keys, DataRoadName(road_), connection_->PeerName(),
      session_, request_id_);
}

}  // namespace simm::dataserver
