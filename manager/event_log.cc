#include "manager/event_log.h"

#include <algorithm>
#include <utility>

#include "common/base/limits.h"

namespace simm::manager {

using rpc::EventKind;

void EventLog::Add(uint64_t unix_ms, EventKind kind, const MapVersion& map, std::string server,
                   std::string text) {
  const bool more_epochs = kind == EventKind::kEpoch && !events_.empty() &&
                           events_.back().kind == EventKind::kEpoch &&
                           events_.back().map.term == map.term;
  if (more_epochs) {
    events_.pop_back();
    text = "epochs " + std::to_string(first_epoch_) + " to " + std::to_string(map.epoch);
  } else {
    first_epoch_ = map.epoch;
  }
  events_.push_back({++last_, unix_ms, kind, std::move(server), map, std::move(text)});
  if (events_.size() > limits::kMaxEvents) events_.pop_front();
}

std::vector<rpc::Event> EventLog::List(uint64_t after, uint32_t newest) const {
  auto first = std::partition_point(events_.begin(), events_.end(),
                                    [after](const rpc::Event& e) { return e.number <= after; });
  const auto count = static_cast<uint64_t>(events_.end() - first);
  if (newest != 0 && count > newest) first += static_cast<int64_t>(count - newest);
  return {first, events_.end()};
}

}  // namespace simm::manager
