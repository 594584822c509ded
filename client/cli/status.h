#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "client/cli/session.h"

namespace simm::cli {

// The cluster at a glance, for people; `top` begins with it.
std::string StatusText(const Session& session, const rpc::ClusterStatus& status);
nlohmann::json ToJson(const rpc::Rates& rates);

}  // namespace simm::cli
