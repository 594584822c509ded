#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/status.h"
#include "common/routing/route_table.h"
#include "common/rpc/control_types.h"
#include "manager/durable_state.h"
#include "manager/shard_moves.h"

namespace simm::manager {

struct MembershipOptions {
  Duration heartbeat = limits::kHeartbeat;
  Duration suspect = limits::kSuspectAfter;
  Duration dead = limits::kDeadAfter;
  // Owners that each shard should have. Another number than the state's is brought about by the
  // first draft: new replicas are pulled from old ones. 0: as the state says.
  uint32_t replicas = 0;
};

enum class Registration : uint8_t {
  kSame,      // the boot that is known, nothing new
  kJoined,    // a name that was not known
  kReturned,  // from the dead, or changed in address, zone or weight
  kTookOver,  // another boot of that name and pool
  kReplaced,  // another pool under that name
};
std::string_view RegistrationName(Registration outcome);  // "same", "joined", ...

// Who is alive and who holds what: the state machine of DESIGN 3, without clock, disk or socket.
//
// A change goes through three hands: Begin() gives a draft; Register, CreateNamespace, RemoveNode
// and BuryTheDead write into it; Seal() places the shards and gives it the next epoch. The caller
// makes the sealed draft durable and then calls Commit(), or drops it, and nothing has happened.
// One draft at a time; heartbeats may come in between. Thread-compatible.
class Membership {
 public:
  struct Caller {
    ServerId id = kNoServer;
    std::string version;  // of the program
    bool new_boot = false;
  };
  struct Draft {
    const DurableState* base = nullptr;  // what it builds upon: valid until the next Commit
    DurableState next;                   // without shards until it is sealed
    std::vector<Caller> heard;           // whose registration the draft answers
    std::vector<uint32_t> pulled;        // ascending, into base's owners: who needs no source more
    std::string frozen;                  // why nobody is declared dead; empty: not frozen
    bool adopted = false;                // `next` is another map, not one that follows `base`
    bool changed = false;
  };

  // `state` is that of NewCluster or of the store. Whoever it says is alive is heard of at `now`,
  // and nobody is declared dead for one dead-time.
  Membership(MembershipOptions options, DurableState state, Instant now);

  Draft Begin() const;
  // kInvalidArgument, kWrongCluster, or kFailedPrecondition when a living server has that name.
  Result<std::pair<ServerId, Registration>> Register(Instant now,
                                                     const rpc::RegisterRequest& request,
                                                     Draft& draft) const;
  Result<NamespaceId> CreateNamespace(const std::string& name, Draft& draft) const;
  // Takes a server out of the map for good that is silent or dead. kMiss: no such name;
  // kFailedPrecondition: it is alive.
  Status RemoveNode(Instant now, const std::string& name, Draft& draft) const;
  // Gives the server's shards to others until Undrain gives them back; dead or alive, the order
  // stays. kMiss: no such name. kFailedPrecondition: nobody else is there to take them.
  Status Drain(const std::string& name, Draft& draft) const;
  Status Undrain(const std::string& name, Draft& draft) const;
  // Goes on from a map that is newer than this state, which must have been put back from an old
  // copy. kFailedPrecondition: it is not newer, or the draft has begun with other changes.
  Status Adopt(const RouteTable& table, Draft& draft) const;
  // True when a server holds a newer map of this cluster.
  bool IsBehind(const MapVersion& held) const;
  // Marks those dead that were silent for the dead-time; returns their names. Nobody is, and
  // draft.frozen says why, when at least two servers and more than a third fell silent within one
  // dead-time: that is rather a network than so many deaths. When that ends, who is still silent
  // has one dead-time more.
  std::vector<std::string> BuryTheDead(Instant now, Draft& draft) const;
  // Drops the sources of shards that their owners have pulled, at most once a heartbeat.
  void SettleMoves(Instant now, Draft& draft) const;
  // Completes `next`: under the next epoch if something changed, else the state as it is. Takes
  // milliseconds; needs no lock against heartbeats.
  static void Seal(Draft& draft);
  // The draft is sealed and durable. Also for one that did not change: its registrations were
  // heard.
  void Commit(Instant now, Draft draft);

  // Counts as heard one heartbeat after the last answer that its sender had, if that was earlier
  // than now: who can speak and hears nothing serves nobody, and dies as the silent do.
  rpc::HeartbeatReply Heartbeat(Instant now, const rpc::HeartbeatRequest& request);
  // Call it every heartbeat or so. A call that comes much too late means that this process was
  // paused or starved and could not hear: nobody is declared dead for one dead-time.
  void Tick(Instant now);

  // True when every server that is not silent has applied the newest map.
  bool AllApplied(Instant now) const;
  // Counts by state, suspects included.
  std::map<ServerState, uint32_t> CountStates(Instant now) const;
  // Why nobody is declared dead; empty: the map is not frozen. As of the last Commit.
  const std::string& frozen() const { return frozen_; }
  // Rows of the map that name a source.
  uint32_t shards_moving() const { return rows_.moving; }
  // Rows whose entries are on fewer servers than the map has replicas.
  uint32_t shards_under_replicated() const { return rows_.under_replicated; }
  // True for a server that is being drained and owns no shard and is no source any more.
  bool IsDrained(const std::string& name) const;
  std::vector<rpc::NodeStatus> Nodes(Instant now) const;
  const DurableState& state() const { return state_; }
  const MembershipOptions& options() const { return options_; }

 private:
  struct Heard {
    Instant last;
    MapVersion map;
    rpc::ServerStats stats;
    rpc::MigrationProgress migration;
    std::string version;
  };

  Status CheckRequest(const rpc::RegisterRequest& request) const;
  Status MayTakeOver(Instant now, const ServerRecord& held,
                     const rpc::RegisterRequest& request) const;
  Status MakeRoom(DurableState& next) const;
  Duration Silence(Instant now, ServerId id) const;
  ServerState StateAt(Instant now, const ServerRecord& record) const;
  bool IsSilent(Instant now, const ServerRecord& record) const;
  std::string FreezeReason(Instant now, const Draft& draft) const;
  void TakePulled(const rpc::HeartbeatRequest& request);
  Duration DeafFor(const rpc::HeartbeatRequest& request) const;
  // What a new map means for the shards that are on their way.
  void FollowRows(const MapContents& before);

  const MembershipOptions options_;
  DurableState state_;
  std::unordered_map<ServerId, Heard> heard_;
  Instant last_tick_;
  Instant nobody_dies_before_;
  Instant last_settled_;
  std::string frozen_;
  Instant frozen_since_;  // while it is frozen
  // Of each owner with a source, as the rows of the map lie: the epoch that named it, at the
  // earliest that of this start. A server that says "pulled" by an older map speaks of another
  // source.
  std::vector<uint64_t> source_since_;
  std::set<uint32_t> pulled_;  // indices of owners who have said so and still have a source
  RowCounts rows_;
};

}  // namespace simm::manager
