#pragma once

#include <optional>

#include "common/base/status.h"
#include "manager/durable_state.h"

namespace simm::manager {

// Where the manager's state outlives it. One thread at a time.
class Store {
 public:
  virtual ~Store() = default;
  // The state saved last; none in an empty store. kFailedPrecondition when there is one that cannot
  // be used; the message says what to do.
  virtual Result<std::optional<DurableState>> Load() = 0;
  // After OK the state is what Load gives, whatever happens to this machine's power. After an error
  // it is either the old or the new one; the caller goes on with the old and saves again.
  virtual Status Save(const DurableState& state) = 0;
};

}  // namespace simm::manager
