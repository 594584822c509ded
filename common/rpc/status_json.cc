#include "common/rpc/status_json.h"

#include <nlohmann/json.hpp>

namespace simm::rpc {

nlohmann::json ToJson(const Rates& rates) {
  return {{"hits", rates.hits},
          {"misses", rates.misses},
          {"puts", rates.puts},
          {"evictions", rates.evictions},
          {"bytes_read", rates.bytes_read},
          {"bytes_written", rates.bytes_written}};
}

nlohmann::json ToJson(const ServerStats& stats) {
  return {{"data_bytes", stats.data_bytes},
          {"free_bytes", stats.free_bytes},
          {"granted_bytes", stats.granted_bytes},
          {"live_bytes", stats.live_bytes},
          {"limbo_bytes", stats.limbo_bytes},
          {"pinned_bytes", stats.pinned_bytes},
          {"live_value_bytes", stats.live_value_bytes},
          {"entries", stats.entries},
          {"hits", stats.hits},
          {"misses", stats.misses},
          {"puts", stats.puts},
          {"evictions", stats.evictions},
          {"bytes_read", stats.bytes_read},
          {"bytes_written", stats.bytes_written},
          {"connections", stats.connections}};
}

nlohmann::json ToJson(const std::vector<Finding>& findings) {
  nlohmann::json list = nlohmann::json::array();
  for (const Finding& finding : findings) {
    list.push_back({{"problem", finding.problem}, {"what", finding.what}, {"mend", finding.mend}});
  }
  return list;
}

}  // namespace simm::rpc
