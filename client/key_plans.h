#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <vector>

#include "client/exchange.h"
#include "client/plan.h"
#include "client/stats.h"
#include "common/routing/route_table.h"

namespace simm::client {

// How a server stands, for the choice between owners that have the same to offer.
struct Standing {
  bool away = false;  // its breaker is open
  bool far = false;   // known not to share its memory with this process
};

// One server's part in what has to be asked about a key: what the exchange with it works on.
struct Target : CallItem {
  ServerId server = kNoServer;
  size_t of = 0;  // place of the item
  Ask ask = Ask::kReal;
  bool was_there = false;  // a probe had found it
  uint32_t repeats = 0;    // how often it wanted to be asked again
};

// One item of the call, or one server's part of it, to be asked in this round.
struct Errand {
  enum Way : uint8_t {
    kPlain = 0,
    kByMessage = 1,
    kTellRemoved = 2,
    kProbe = 4,
    kExtra = 8,
    kPlanned = 16,  // the item is a Target
  };
  ServerId server = kNoServer;
  uint8_t way = kPlain;
  CallItem* item = nullptr;
};

// The keys of a call whose rows name more than one server: whom each is asked at, round by round,
// and its result from what they say. Nothing is allocated for a call that has no such key.
// One-thread; borrows the items.
class KeyPlans {
 public:
  KeyPlans(const CallShape& shape, std::span<CallItem> items, StatsCounters& stats)
      : shape_(shape), items_(items), stats_(stats) {}

  // This item is for Plan: its row names several servers, or it has been planned before.
  bool Wants(const CallItem& item, std::span<const ShardOwner> row) const;
  // Adds what this item's servers are to be asked in this round. `standing_of(server)` says how one
  // stands. The item is done if nobody is to be asked.
  template <typename StandingOf>
  void Plan(CallItem& item, std::span<const ShardOwner> row, const StandingOf& standing_of,
            std::vector<Errand>* errands) {
    KeyPlan& plan = PlanOf(item);
    plan.TakeRow(row);
    if (reads() && plan.count > 1) {
      for (size_t i = 0; i < plan.count; ++i)
        plan.standings[i] = standing_of(plan.owners[i].server);
    }
    PlanRound(item, plan, errands);
  }

  bool empty() const { return active_.empty(); }
  // After a round: items whose result is clear are done.
  void Settle();
  // The call ends: what writers have reached by now decides.
  void Conclude();
  // Whether the result of this target's key is clear, or can be had from others, without it.
  bool CanSpare(const Target& target) const;
  // Items that go on have somebody to ask who did not ask for patience.
  bool MovesOn() const { return moves_on_; }

 private:
  struct KeyPlan {
    bool begun = false;
    std::array<ShardOwner, limits::kMaxReplicas> owners;  // present ones, those to be preferred
                                                          // first
    std::array<Standing, limits::kMaxReplicas> standings;
    size_t count = 0;
    std::array<Target*, kMaxRowServers> targets{};
    size_t target_count = 0;
    uint32_t restarts = 0;

    void TakeRow(std::span<const ShardOwner> row);
    void Prefer(uint64_t hash);
    bool Names(ServerId server) const;
    std::span<const ShardOwner> present() const { return {owners.data(), count}; }
    Target* Find(ServerId server) const;
  };

  bool reads() const { return IsRead(shape_.type); }
  bool each_real() const {
    return shape_.type == protocol::MessageType::kExists ||
           shape_.type == protocol::MessageType::kTouch;
  }
  KeyPlan& PlanOf(const CallItem& item);
  void PlanRound(CallItem& item, KeyPlan& plan, std::vector<Errand>* errands);
  void PlanRead(CallItem& item, KeyPlan& plan, std::vector<Errand>* errands);
  void PlanWrite(CallItem& item, KeyPlan& plan, std::vector<Errand>* errands);
  Target& TargetOf(const CallItem& item, KeyPlan& plan, ServerId server);
  ReadStep StepOf(const KeyPlan& plan, const CallItem* spared) const;
  Answer AnswerOf(const KeyPlan& plan, const Target& target) const;
  bool SettleRead(CallItem& item, KeyPlan& plan);
  static void Delay(CallItem& item, const Target& target);
  bool SettleWrite(CallItem& item, KeyPlan& plan, bool at_end);
  void Take(CallItem& item, const KeyPlan& plan, const ReadStep& step);

  const CallShape& shape_;
  const std::span<CallItem> items_;
  StatsCounters& stats_;
  std::vector<KeyPlan> plans_;                 // one for each item, from the first planned one on
  std::vector<size_t> active_;                 // planned items that are not done
  std::optional<std::deque<Target>> targets_;  // exchanges point in here
  bool moves_on_ = false;
};

}  // namespace simm::client
