#include "common/rpc/control_types.h"

namespace simm::rpc {

std::string_view EventKindName(EventKind kind) {
  switch (kind) {
    case EventKind::kManagerStarted:
      return "manager_started";
    case EventKind::kMapAdopted:
      return "map_adopted";
    case EventKind::kJoined:
      return "joined";
    case EventKind::kReturned:
      return "returned";
    case EventKind::kTookOver:
      return "took_over";
    case EventKind::kReplaced:
      return "replaced";
    case EventKind::kDied:
      return "died";
    case EventKind::kRemoved:
      return "removed";
    case EventKind::kEpoch:
      return "epoch";
    case EventKind::kFrozen:
      return "frozen";
    case EventKind::kThawed:
      return "thawed";
    case EventKind::kDraining:
      return "draining";
    case EventKind::kDrained:
      return "drained";
    case EventKind::kUndrained:
      return "undrained";
    case EventKind::kStoreFailed:
      return "store_failed";
    case EventKind::kStoreWorks:
      return "store_works";
  }
  return "unknown";
}

}  // namespace simm::rpc
