#include "common/base/ready_file.h"

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

namespace simm {

Status WriteReadyFile(const std::string& path,
                      const std::map<std::string, std::string>& addresses) {
  if (path.empty()) return Status::Ok();
  const std::string temporary = path + ".tmp";
  {
    std::ofstream file(temporary);
    file << nlohmann::json(addresses).dump() << "\n";
    if (!file.flush())
      return Status(Code::kUnavailable, "cannot write the ready file " + temporary);
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    return Status(Code::kUnavailable, "cannot write the ready file " + path);
  }
  return Status::Ok();
}

}  // namespace simm
