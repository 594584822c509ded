#pragma once

#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/rpc/control_types.h"

namespace simm::rpc {

// What the program at this control address ("host:port") says of itself. Ends within `timeout`:
// kUnavailable (nobody there), kDeadlineExceeded, kInvalidArgument (not an address),
// kFailedPrecondition (an older program, which does not know the question). Thread-safe.
Result<NodeDescription> DescribeNode(const std::string& address, Duration timeout);

}  // namespace simm::rpc
