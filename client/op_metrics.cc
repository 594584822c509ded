#include "client/op_metrics.h"

#include <utility>

namespace simm::client {
namespace {

constexpr std::array<std::string_view, kClientOps> kOpNames = {"get",    "put",   "exists",
                                                               "remove", "touch", "pin"};
constexpr std::array<std::string_view, kRoads> kRoadNames = {"none", "tcp", "shm", "verbs"};

}  // namespace

std::string_view ClientOpName(ClientOp op) { return kOpNames[static_cast<size_t>(op)]; }

ClientOp ClientOpOf(protocol::MessageType type) {
  switch (type) {
    case protocol::MessageType::kGet:
      return ClientOp::kGet;
    case protocol::MessageType::kPut:
      return ClientOp::kPut;
    case protocol::MessageType::kExists:
      return ClientOp::kExists;
    case protocol::MessageType::kRemove:
      return ClientOp::kRemove;
    case protocol::MessageType::kPin:
      return ClientOp::kPin;
    default:
      return ClientOp::kTouch;
  }
}

std::string_view RoadName(Road road) { return kRoadNames[static_cast<size_t>(road)]; }

Road RoadOf(std::string_view transport) {
  const auto at = std::find(kRoadNames.begin(), kRoadNames.end(), transport);
  return at == kRoadNames.end() ? Road::kNone : static_cast<Road>(at - kRoadNames.begin());
}

OpMetrics::OpMetrics()
    : calls_{AtomicHistogram(kCallBounds), AtomicHistogram(kCallBounds),
             AtomicHistogram(kCallBounds), AtomicHistogram(kCallBounds),
             AtomicHistogram(kCallBounds), AtomicHistogram(kCallBounds)},
      prefixes_{AtomicHistogram(kPrefixBounds), AtomicHistogram(kPrefixBounds),
                AtomicHistogram(kPrefixBounds), AtomicHistogram(kPrefixBounds),
                AtomicHistogram(kPrefixBounds), AtomicHistogram(kPrefixBounds)} {}

void OpMetrics::AddTo(OpTotals* totals) const {
  for (size_t op = 0; op < kClientOps; ++op) {
    for (size_t road = 0; road < kRoads; ++road) {
      for (size_t code = 0; code <= kMaxCode; ++code)
        totals->keys[op][road][code] += keys_[op][road][code].load(std::memory_order_relaxed);
    }
    calls_[op].AddTo(totals->calls[op].counts.data(), &totals->calls[op].seconds);
    prefixes_[op].AddTo(totals->prefixes[op].counts.data(), &totals->prefixes[op].keys);
  }
}

}  // namespace simm::client
