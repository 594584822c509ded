#include "dataserver/data_metrics.h"

#include <algorithm>

namespace simm::dataserver {

std::string_view DataOpName(DataOp op) {
  constexpr std::array<std::string_view, kDataOps> kNames = {"get",    "exists", "put",
                                                             "remove", "touch",  "scrub"};
  return kNames[static_cast<size_t>(op)];
}

namespace {

constexpr std::array<std::string_view, kDataRoads> kRoadNames = {"tcp", "shm", "verbs", "other"};

uint64_t Value(const std::atomic<uint64_t>& counter) {
  return counter.load(std::memory_order_relaxed);
}

}  // namespace

std::string_view DataRoadName(DataRoad road) { return kRoadNames[static_cast<size_t>(road)]; }

DataRoad DataRoadOf(std::string_view transport) {
  const auto at = std::find(kRoadNames.begin(), kRoadNames.end() - 1, transport);
  return static_cast<DataRoad>(at - kRoadNames.begin());
}

uint64_t DataMetrics::Keys(DataOp op, Code code) const {
  uint64_t sum = 0;
  for (const auto& of_road : keys_) sum += Value(of_road[Index(op)][Index(code)]);
  return sum;
}

uint64_t DataMetrics::Connections() const {
  uint64_t sum = 0;
  for (const auto& of_road : connections_) sum += Value(of_road);
  return sum;
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
