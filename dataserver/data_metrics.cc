#include "dataserver/data_metrics.h"

#include <algorithm>

namespace simm::dataserver {

std::string_view DataOpName(DataOp op) {
  constexpr std::array<std::string_view, kDataOps> kNames = {"get",    "exists", "put",
                                                             "remove", "touch",  "scrub"};
  return kNames[static_cast<size_t>(op)];
}

void DataMetrics::ObserveRequest(DataOp op, Duration took) {
  Latency& latency = latency_[static_cast<size_t>(op)];
  const double seconds = ToSeconds(took);
  const auto bound = std::lower_bound(kLatencyBounds.begin(), kLatencyBounds.end(), seconds);
  latency.buckets[static_cast<size_t>(bound - kLatencyBounds.begin())].fetch_add(
      1, std::memory_order_relaxed);
  latency.nanos.fetch_add(static_cast<uint64_t>(took.count()), std::memory_order_relaxed);
}

}  // namespace simm::dataserver
