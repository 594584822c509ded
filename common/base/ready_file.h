#pragma once

#include <map>
#include <string>

#include "common/base/status.h"

namespace simm {

// Tells whoever started this program where it serves: one JSON object of name -> address in `path`,
// which appears complete or not at all. An empty path does nothing. kUnavailable names the path.
Status WriteReadyFile(const std::string& path, const std::map<std::string, std::string>& addresses);

}  // namespace simm
