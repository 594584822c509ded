// What a data connection shows of itself: how long its requests take, and what it is doing.

#include <string>

#include "common/base/limits.h"
#include "common/base/log.h"
#include "dataserver/data_session.h"

namespace simm::dataserver {

// What the client's line about a slow call names, session and request, is named here too.
void DataSession::Observe(DataOp op, size_t keys) {
  const Duration took = context_.clock.Now() - received_;
  context_.metrics.ObserveRequest(op, took);
  if (context_.slow_op <= Duration::zero() || took < context_.slow_op) return;
  const std::string many = keys == 0 ? "" : " for " + std::to_string(keys) + " keys";
  SIMM_LOG_WARN(
      "slow {}: {:.1f} ms{} over {}, from its last byte in to its last byte "
      "out; {}, session {:016x}, request {}",
      DataOpName(op), ToSeconds(took) * 1e3, many, DataRoadName(road_), connection_->PeerName(),
      session_, request_id_);
}

void DataSession::ShowState(Instant now, bool moved) {
  const bool within_message = type_.has_value() || streaming_;
  const bool asked = last_asked_ && now - *last_asked_ < limits::kActiveConnection;
  ConnectionState state =
      within_message || asked ? ConnectionState::kActive : ConnectionState::kIdle;
  if (within_message && !moved) state = ConnectionState::kStalled;
  if (state == state_) return;
  context_.metrics.CountConnection(road_, state_, -1);
  context_.metrics.CountConnection(road_, state, 1);
  state_ = state;
}

}  // namespace simm::dataserver
