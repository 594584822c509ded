#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "common/rpc/cluster_health.h"
#include "common/rpc/control_types.h"

namespace simm::rpc {

// What simmctl --json and the manager's status page say in the same words. Sizes in bytes, rates
// per second.
nlohmann::json ToJson(const Rates& rates);
nlohmann::json ToJson(const ServerStats& stats);  // without the transports
nlohmann::json ToJson(const std::vector<Finding>& findings);

}  // namespace simm::rpc
