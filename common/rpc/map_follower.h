#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "common/base/status.h"
#include "common/routing/route_table.h"
#include "common/rpc/map_codec.h"

namespace simm::rpc {

// How long to wait before the next stream is opened: full jitter, so that ten thousand watchers of
// a manager that comes back do not come together. Pure. One-thread.
class WatchBackoff {
 public:
  static constexpr Duration kMin = std::chrono::milliseconds(50);
  static constexpr Duration kMax = std::chrono::seconds(1);

  // After a round over the addresses; `served`: one of them gave an update.
  Duration Next(bool served, Random& random);

 private:
  Duration longest_ = kMin;
};

// Whom to ask in one round: the list, then, with `ask_servers`, a few living data servers of the
// map in hand (may be nullptr) in random order.
std::vector<std::string> WatchCandidates(const std::vector<std::string>& addresses,
                                         const RouteTable* held, bool ask_servers, Random& random);
// How long to stay with a data server before a manager is looked for again: spread, so that ten
// thousand clients do not come back together.
Duration LookForManagerAfter(Random& random);

// What the updates of a watch make of the table in hand: diffs applied, a snapshot asked for after
// a gap, older maps and another cluster's refused. Without stream, clock or thread. One-thread.
class MapFollower {
 public:
  // A stream begins: the version to say that is held; none: a snapshot is wanted.
  std::optional<MapVersion> BeginStream();
  // The table that the stream speaks of after `update`; `from` names it in errors. After an error
  // the stream is of no use; a gap makes the next one begin with a snapshot.
  Result<std::shared_ptr<const RouteTable>> Read(const MapUpdate& update, const std::string& from);
  // Takes what Read gave. True: it is newer than what was held. kFailedPrecondition: it is older;
  // kWrongCluster.
  Result<bool> Take(std::shared_ptr<const RouteTable> table, const std::string& from);

  // The newest table that was taken; nullptr before the first.
  const std::shared_ptr<const RouteTable>& held() const { return held_; }

 private:
  std::shared_ptr<const RouteTable> base_;  // what this stream's diffs build upon
  std::shared_ptr<const RouteTable> held_;
  bool want_snapshot_ = false;
};

}  // namespace simm::rpc
