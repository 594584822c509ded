#pragma once

#include <memory>
#include <span>
#include <vector>

#include "client/async_driver.h"
#include "client/call_trace.h"
#include "client/engine.h"
#include "client/exchange.h"
#include "client/key_plans.h"
#include "common/base/clock.h"

namespace simm::client {

// One batch operation from start to end: splits the keys by owner, runs one exchange per server
// side by side, repeats what has to be repeated (stale map, busy, an idle connection that had
// died), and ends by the deadline. A state machine that never waits, moved on in steps; Run is the
// driver that waits in the calling thread, an AsyncDriver drives many. One-thread; borrows the
// items until it has ended.
class Call {
 public:
  Call(Engine& engine, CallShape shape, std::span<CallItem> items, Instant deadline);
  ~Call();
  // Every item has its result when it returns, and nothing touches the items' memory any more.
  void Run();

  // For other drivers, in this order (see AsyncTask). With `short_steps` a step returns between
  // the parts of a long transfer, so that a thread which drives several calls looks at all of them.
  void Begin(int event_fd, bool short_steps);
  // True: as after Run.
  bool Step();
  void AddWaits(StepWaits* waits);
  void Cancel();

  const CallTrace& trace() const { return trace_; }

 private:
  // One server's share of a round.
  struct Part {
    std::shared_ptr<Peer> peer;
    uint8_t way = Errand::kPlain;
    std::vector<CallItem*> items;
    std::unique_ptr<Exchange> exchange;  // once there is a lane
    std::unique_ptr<Lane> lane;
    LaneWaiter waiter;
    bool over = false;
    bool more = false;     // has more to do at once
    bool mute = false;     // the server answers no messages now
    bool refused = false;  // its lane took no work at all: it had died while idle
    int attempts = 0;
    Instant waits_since;  // for a lane
    Instant began;
    uint64_t moved_bytes = 0;  // in and out, as last looked at
    Instant last_moved;
    transport::ConnectionCounters at_begin;
  };

  enum class Phase : uint8_t { kBetweenRounds, kRunning, kEnded };

  bool AllDone() const;
  void BeginRound();
  bool StepRound();  // true: the round is over
  bool StepLate();
  void BuildParts(const RouteTable& table);
  Peer::Need NeedOf(const Part& part) const;
  void TryStart(Part& part);
  void BeginExchange(Part& part);
  void Look(Part& part);
  void OnExchangeFailed(Part& part);
  void EndPart(Part& part);
  void CountWork(const Part& part);
  void SettleUndone(Part& part, bool answered);
  bool WritesOn(const Part& part) const;
  bool IsSilent(const Part& part, Instant now, Duration limit) const;
  Duration Patience(const Part& part) const;
  Instant SilentAt(const Part& part) const;
  bool SpareSilent();
  void GiveUpSilent(Part& part);
  void GiveUpLate(Part& part);
  void Trace(const Part& part);
  void ScrubCorrupt(const Part& part);
  void PlanNextRound();
  bool MapHasCome() const;
  bool TimeForNextRound() const;
  bool OnDevices() const;
  bool LookAtDevices();
  void WaitHere();
  void Conclude();
  Instant Now() const { return MonotonicClock::Get().Now(); }

  Engine& engine_;
  CallShape shape_;
  const std::span<CallItem> items_;
  Instant deadline_;
  const Instant began_;
  Instant round_began_;
  int event_fd_ = -1;
  bool short_steps_ = false;
  bool cancelled_ = false;
  Phase phase_ = Phase::kBetweenRounds;
  Instant next_round_;          // when the pause is over
  bool waits_for_map_ = false;  // the pause ends earlier when the map newest_seen_ is there
  bool late_ = false;           // the deadline has passed while a round was running
  Instant finish_by_;           // what must not be cut off may go on until then
  Instant late_since_;
  std::vector<std::unique_ptr<Part>> parts_;
  bool wrong_owner_seen_ = false;
  protocol::MapStamp newest_seen_;
  uint32_t rounds_ = 0;
  CallTrace trace_;
  Instant pauses_since_;
  KeyPlans plans_;
};

}  // namespace simm::client
