#include "dataserver/data_metrics.h"

#include <algorithm>

namespace simm::dataserver {

std::string_view DataOpName(DataOp op) {
  constexpr std::array<std::string_view, kDataOps> kNames = {
      "get",   "exists", "put",    "remove",  "touch",  "scrub",
      "lease", "commit", "return", "resolve", "lookup", "pin"};
  return kNames[static_cast<size_t>(op)];
}

namespace {

constexpr std::array<std::string_view, kDataRoads> kRoadNames = {"tcp", "shm", "verbs", "other"};

constexpr std::array<std::string_view, kConnectionStates> kStateNames = {"idle", "active",
                                                                         "stalled"};

uint64_t Value(const std::atomic<uint64_t>& counter) {
  return counter.load(std::memory_order_relaxed);
}

}  // namespace

std::optional<DataOp> DataOpOf(protocol::MessageType type) {
  switch (type) {
    case protocol::MessageType::kGet:
      return DataOp::kGet;
    case protocol::MessageType::kExists:
      return DataOp::kExists;
    case protocol::MessageType::kRemove:
      return DataOp::kRemove;
    case protocol::MessageType::kTouch:
      return DataOp::kTouch;
    case protocol::MessageType::kScrub:
      return DataOp::kScrub;
    case protocol::MessageType::kPut:
      return DataOp::kPut;
    case protocol::MessageType::kLease:
      return DataOp::kLease;
    case protocol::MessageType::kCommit:
      return DataOp::kCommit;
    case protocol::MessageType::kReturn:
      return DataOp::kReturn;
    case protocol::MessageType::kResolve:
      return DataOp::kResolve;
    case protocol::MessageType::kLookup:
      return DataOp::kLookup;
    case protocol::MessageType::kPin:
      return DataOp::kPin;
    default:
      return std::nullopt;
  }
}

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

std::string_view ConnectionStateName(ConnectionState state) {
  return kStateNames[static_cast<size_t>(state)];
}

uint64_t DataMetrics::Connections(DataRoad road) const {
  uint64_t sum = 0;
  for (const auto& of_state : connections_[Index(road)]) sum += Value(of_state);
  return sum;
}

uint64_t DataMetrics::Connections() const {
  uint64_t sum = 0;
  for (size_t road = 0; road < kDataRoads; ++road) sum += Connections(static_cast<DataRoad>(road));
  return sum;
}

uint64_t DataMetrics::BytesOut() const {
  uint64_t sum = 0;
  for (const auto& of_road : bytes_out_) sum += std::min(Value(of_road), UINT64_MAX - sum);
  return sum;
}

void DataMetrics::CountBytesOut(DataRoad road, uint64_t n) {
  std::atomic<uint64_t>& counter = bytes_out_[Index(road)];
  uint64_t now = Value(counter);
  while (!counter.compare_exchange_weak(now, now + std::min(n, UINT64_MAX - now),
                                        std::memory_order_relaxed)) {
  }
}

void DataMetrics::CountReads(DataRoad road, const protocol::ReadTotals& totals) {
  const auto count = [&](DataOp op, Code code, uint64_t n) {
    if (n > 0) CountKeys(road, op, code, n);
  };
  count(DataOp::kGet, Code::kOk, totals.get_hits);
  count(DataOp::kGet, Code::kMiss, totals.get_misses);
  count(DataOp::kGet, Code::kLengthMismatch, totals.get_length_mismatches);
  count(DataOp::kExists, Code::kOk, totals.exists_hits);
  count(DataOp::kExists, Code::kMiss, totals.exists_misses);
  CountBytesOut(road, totals.get_bytes);
  validation_failures.fetch_add(totals.validation_failures, std::memory_order_relaxed);
  validation_retries.fetch_add(totals.validation_retries, std::memory_order_relaxed);
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
