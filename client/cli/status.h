#pragma once

#include <string>

#include "client/cli/session.h"

namespace simm::cli {

// The cluster at a glance, for people; `top` begins with it.
std::string StatusText(const Session& session, const rpc::ClusterStatus& status);

}  // namespace simm::cli
