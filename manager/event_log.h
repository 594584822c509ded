#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "common/rpc/control_types.h"

namespace simm::manager {

// What happened to the cluster since this manager's start: the newest limits::kMaxEvents events.
// Wall time is passed in and only shown. Thread-compatible.
class EventLog {
 public:
  // Epochs that follow each other without another event in between share one entry, which moves up
  // to the newest number: a migration of an hour must not push out the death that caused it.
  void Add(uint64_t unix_ms, rpc::EventKind kind, const MapVersion& map, std::string server,
           std::string text);
  // The newest `newest` (0: all) of those with a number above `after`, ascending.
  std::vector<rpc::Event> List(uint64_t after, uint32_t newest) const;

 private:
  std::deque<rpc::Event> events_;
  uint64_t last_ = 0;
  uint64_t first_epoch_ = 0;  // of the entry at the end, when that is of epochs
};

}  // namespace simm::manager
