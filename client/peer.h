#pragma once

#include <array>
#include <condition_variable>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "client/key_plans.h"
#include "client/lane.h"
#include "client/stats.h"
#include "client/task_pool.h"
#include "common/base/mutex.h"
#include "common/base/random.h"
#include "common/routing/route_table.h"
#include "common/rpc/control_types.h"
#include "common/transport/transport.h"

namespace simm::client {

// A caller that waits for a lane; its event descriptor becomes readable when `lane` or `failed` has
// been set. Fields belong to the peer's lock while it is queued.
struct LaneWaiter {
  int event_fd = -1;
  std::unique_ptr<Lane> lane;
  bool failed = false;
  bool queued = false;
  bool mute = false;  // the server answers no messages now; the lane is good for reads
};

// Lanes of one kind to one server.
struct LaneCount {
  std::string transport;
  size_t idle = 0, busy = 0, opening = 0;
};

// One data server as this process sees it: session, lanes, circuit breaker. Thread-safe.
//
// A server that does not answer (paused, overloaded) can still be read one-sidedly: the breaker
// below is that of messages; reads go on over the one-sided lanes that are open, until these break.
//
// Breaker: closed at first. A failed connect, handshake or exchange opens it: waiting callers and
// later ones are told "unavailable" at once, idle lanes are closed, and a heal is tried with
// growing, jittered pauses until a handshake, a connect and a ping succeed; then it closes.
class Peer final : public std::enable_shared_from_this<Peer> {
 public:
  struct Environment {                             // borrowed from the engine
    transport::Transport& messages;                // tcp: works with every server
    std::vector<transport::Transport*> one_sided;  // to be preferred, best first
    std::shared_ptr<LocationCache> locations;      // for one-sided reads
    BouncePool* bounce = nullptr;   // where one of `one_sided` needs registered memory
    std::string one_sided_missing;  // why a transport that was asked for is not in `one_sided`
    TaskPool& connects;             // for callers that wait; never held up by what `tasks` does
    TaskPool& tasks;                // heals, keepalives, drains
    StatsCounters& stats;
    std::string client_name;
    uint32_t max_lanes = 16;
    std::shared_ptr<LostLanes> lost;  // to earlier starts of the server; may be missing
  };
  Peer(const Environment& environment, ServerRecord record, const Id128& cluster);
  ~Peer();

  const ServerRecord& record() const { return record_; }
  const std::shared_ptr<LostLanes>& lost_lanes() const { return lost_lanes_; }
  // It is this start of the server, at these addresses, that the record names.
  bool Is(const ServerRecord& record) const;

  // What a caller wants of a lane. kReads: one-sided reads will do, where there are any.
  enum class Need : uint8_t { kReads, kAnything, kPayload };
  enum class Acquired : uint8_t { kLane, kWait, kUnavailable };
  // A lane in waiter->lane, or a promise to signal waiter->event_fd, or the breaker's no. The best
  // kind of lane that there is to this server; kPayload: one whose messages carry payload.
  Acquired Acquire(LaneWaiter* waiter, Need need);
  // What has become of a wait: still kWait, or as Acquire.
  Acquired Poll(LaneWaiter* waiter);
  // Withdraws a waiter; a lane that it was given meanwhile goes back.
  void Cancel(LaneWaiter* waiter);
  // Gives a lane back. Closed ones are dropped.
  void Release(std::unique_ptr<Lane> lane);
  // Gives back a lane that has answers under way for nobody: drained in the background, or closed.
  void ReleaseLate(std::unique_ptr<Lane> lane);
  // Gives back a lane over which nothing has come for long; it may be closed. An echo shows, in the
  // background, whether the server is there; if not, the breaker opens.
  void ReleaseSilent(std::unique_ptr<Lane> lane);

  void ReportSuccess();
  // Opens the breaker.
  void ReportFailure(const Status& why);
  // A deadline passed; `silent`: not a byte came for at least 100 ms. Opens the breaker if so, or
  // at the third in a row.
  void ReportTimeout(bool silent);
  // The server does not know this session (any more): shake hands again.
  void DropSession(uint64_t session);

  // Starts what is due: a heal, a keepalive. Called several times a second.
  void Maintain(Instant now);
  // For the cap on lanes over all servers: how many one-sided ones there are, when the longest
  // unused of them was used last, and its end (false: none is idle).
  size_t OneSidedLanes() const;
  std::optional<Instant> LongestUnused() const;
  bool CloseLongestUnused();
  // No further background work is begun; idle lanes close.
  void Retire();

  ServerHealth Health() const;
  bool BreakerOpen() const;
  std::vector<LaneCount> Lanes() const;
  Standing standing() const;

 private:
  // Lanes of one kind.
  struct Road {
    std::vector<std::unique_ptr<Lane>> idle;
    std::deque<LaneWaiter*> waiters;
    size_t lanes = 0;  // open or being opened, busy ones included
    size_t opening = 0;
  };
  enum RoadKind : size_t { kOneSided = 0, kMessages = 1 };
  // A one-sided way to the server.
  struct Way {
    size_t rank = 0;     // the lowest is the best
    std::string reason;  // why it failed
    transport::Transport* transport = nullptr;
    std::string endpoint;
    std::shared_ptr<const PoolAccess> pool;
  };
  // A session with the server, and the ways that both sides speak and that have not failed yet,
  // best first.
  struct Bond {
    rpc::HandshakeReply reply;
    std::vector<Way> ways;
  };

  static RoadKind KindOf(const Lane& lane) {
    return lane.pool() != nullptr ? kOneSided : kMessages;
  }
  void OpenLane(RoadKind kind);
  // A lane of this kind, or of messages when there is no one-sided road.
  Result<std::unique_ptr<Lane>> Connect(RoadKind kind, bool healing = false);
  Result<std::unique_ptr<Lane>> ConnectOver(transport::Transport& transport,
                                            const std::string& endpoint, const Bond& bond,
                                            std::shared_ptr<const PoolAccess> pool);
  Result<Bond> Session(bool healing);
  void FindWays(Bond* bond, std::string* reason) const;
  Way MakeWay(transport::Transport& transport, const rpc::TransportOffer& offer,
              const rpc::HandshakeReply& reply) const;
  void GiveUpWay(const std::shared_ptr<const PoolAccess>& pool, const Status& why);
  void ShunFailedWaysLocked(Bond* bond) SIMM_REQUIRES(mutex_);
  void PutOffWaysLocked(Instant now) SIMM_REQUIRES(mutex_);
  void ProbeWay();
  std::vector<std::unique_ptr<Lane>> TakeClosedIdleLocked() SIMM_REQUIRES(mutex_);
  size_t MaxLanesLocked(RoadKind kind) const SIMM_REQUIRES(mutex_);
  void Heal();
  void Keepalive();
  std::unique_ptr<Lane> TakeIdle();
  void StartOpeningLocked() SIMM_REQUIRES(mutex_);
  void FailWaitersLocked() SIMM_REQUIRES(mutex_);
  void GiveLocked(std::unique_ptr<Lane> lane) SIMM_REQUIRES(mutex_);
  std::unique_ptr<Lane> TakeOpenLocked(Road& road, std::vector<std::unique_ptr<Lane>>* dead)
      SIMM_REQUIRES(mutex_);
  void OpenBreakerLocked(const Status& why) SIMM_REQUIRES(mutex_);

  const Environment env_;
  const ServerRecord record_;
  const Id128 cluster_;
  const std::shared_ptr<LostLanes> lost_lanes_;

  Mutex handshake_mutex_;  // taken before mutex_
  mutable Mutex mutex_;
  std::array<Road, 2> roads_ SIMM_GUARDED_BY(mutex_);
  bool prefer_one_sided_ SIMM_GUARDED_BY(mutex_);
  std::optional<Bond> session_ SIMM_GUARDED_BY(mutex_);
  Instant session_used_ SIMM_GUARDED_BY(mutex_);
  bool breaker_open_ SIMM_GUARDED_BY(mutex_) = false;
  bool healing_ SIMM_GUARDED_BY(mutex_) = false;
  bool keeping_alive_ SIMM_GUARDED_BY(mutex_) = false;
  bool retired_ SIMM_GUARDED_BY(mutex_) = false;
  Instant next_heal_ SIMM_GUARDED_BY(mutex_);
  Duration heal_backoff_ SIMM_GUARDED_BY(mutex_);
  Duration way_backoff_ SIMM_GUARDED_BY(mutex_);
  uint32_t timeouts_in_a_row_ SIMM_GUARDED_BY(mutex_) = 0;
  std::string transport_reason_ SIMM_GUARDED_BY(mutex_);
  std::vector<Way> failed_ways_ SIMM_GUARDED_BY(mutex_);
  bool probing_ SIMM_GUARDED_BY(mutex_) = false;
  Instant next_way_try_ SIMM_GUARDED_BY(mutex_);
  Random random_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace simm::client
