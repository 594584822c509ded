#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "common/base/clock.h"
#include "common/routing/route_table.h"
#include "manager/durable_state.h"

namespace simm::manager {

// What a manager without a state does before it decides anything: it listens for one dead-time to
// the data servers, which still hold the map, and goes on from the newest one (DESIGN 3). Pure:
// time is passed in. Thread-compatible.
class Adoption {
 public:
  // `wait` zero: a new cluster begins at once, whatever servers hold.
  Adoption(Duration wait, Instant now) : wait_(wait), until_(now + wait), looked_(now) {}

  // A server registers that holds the map `held`, or none (no cluster in it). True: it should
  // report that map, which is newer than those reported so far.
  bool Offer(const std::string& server, const MapVersion& held);
  // A map is reported. Fails as AdoptedFrom; such a map counts as not offered.
  Status Report(const RouteTable& table);
  // Call it every heartbeat or so: a call that comes much too late means that this process was
  // paused and could not hear; the wait begins anew. None while it is too early. The servers may
  // hold maps of several clusters, by mistake: the cluster of most servers wins, then the newest
  // map. A cluster `fresh` begins only if nobody holds a map: where the newest map is offered but
  // does not come, an older one has to do after another `wait`, and without any the waiting goes
  // on.
  std::optional<DurableState> Decide(Instant now, const Id128& fresh);
  // What it is waiting for, for people.
  std::string Describe(Instant now) const;

 private:
  // Of the clusters whose maps are remembered; more is a mistake beyond repair.
  static constexpr size_t kMaxClusters = 8;

  // The newest version offered of the cluster that wins; none: nobody holds a map. `reported`: only
  // clusters of which a map is here.
  std::optional<MapVersion> Chosen(bool reported) const;

  const Duration wait_;
  Instant until_;
  Instant looked_;
  std::map<std::string, MapVersion> offers_;  // by server
  std::map<Id128, DurableState> reports_;     // by cluster, the newest
};

}  // namespace simm::manager
