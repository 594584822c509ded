#pragma once

#include <memory>
#include <span>
#include <vector>

#include "client/engine.h"
#include "client/exchange.h"
#include "common/base/clock.h"

namespace simm::client {

// One batch operation from start to end: splits the keys by owner, runs one exchange per server
// side by side, repeats what has to be repeated (stale map, busy, an idle connection that had
// died), and ends by the deadline. All waiting is a poll over the lanes in use by the calling
// thread. One-thread; borrows the items until Run returns.
class Call {
 public:
  Call(Engine& engine, CallShape shape, std::span<CallItem> items, Instant deadline);
  ~Call();
  // Every item has its result when it returns, and nothing touches the items' memory any more.
  void Run();

 private:
  // One server's share of a round.
  struct Part {
    std::shared_ptr<Peer> peer;
    bool by_message = false;
    std::vector<CallItem*> items;
    std::unique_ptr<Exchange> exchange;  // once there is a lane
    std::unique_ptr<Lane> lane;
    LaneWaiter waiter;
    bool over = false;
    int attempts = 0;
    Instant began;
    uint64_t moved_bytes = 0;  // in and out, as last looked at
    Instant last_moved;
    transport::ConnectionCounters at_begin;
  };

  bool RunRound();  // false: nothing is left to do
  void BuildParts(const RouteTable& table);
  void AddPart(std::shared_ptr<Peer> peer, std::vector<CallItem*> items, bool by_message);
  void Drive();
  Peer::Need NeedOf(const Part& part) const;
  void TryStart(Part& part);
  void BeginExchange(Part& part);
  void Look(Part& part);
  void OnExchangeFailed(Part& part);
  void EndPart(Part& part);
  void CountWork(const Part& part);
  void SettleUndone(Part& part, bool answered);
  void GiveUpLate(Part& part);
  void ScrubCorrupt(const Part& part);
  void WaitForReadiness();
  void PauseBeforeNextRound();
  void Conclude();
  Instant Now() const { return MonotonicClock::Get().Now(); }

  Engine& engine_;
  CallShape shape_;
  const std::span<CallItem> items_;
  const Instant deadline_;
  std::vector<std::unique_ptr<Part>> parts_;
  bool wrong_owner_seen_ = false;
  protocol::MapStamp newest_seen_;
  uint32_t rounds_ = 0;
};

}  // namespace simm::client
