#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "client/exchange.h"
#include "client/lane.h"
#include "tests/sim/one_sided_world.h"
#include "tests/support/wrapped_connection.h"

namespace simm::sim {

// Registers whatever memory a lane names and has not registered, as the simulated transports want
// it.
class RegisteringConnection final : public WrappedConnection {
 public:
  RegisteringConnection(transport::Transport& transport,
                        std::unique_ptr<transport::Connection> inner)
      : WrappedConnection(std::move(inner), transport.capabilities(), nullptr),
        transport_(transport) {}
  simm::Status Post(std::span<const transport::WorkItem> items) override;

 private:
  const transport::LocalRegion* RegionOf(std::byte* data, size_t size);

  transport::Transport& transport_;
  std::map<std::pair<std::byte*, size_t>, std::unique_ptr<transport::LocalRegion>> regions_;
};

struct ClientCounts {
  int calls = 0, ok = 0, exists = 0, unknown = 0, hits = 0, misses = 0, wrong = 0, broken = 0,
      late = 0, crashes = 0;
  uint64_t lease_hits = 0, resolves = 0, disowned = 0;
  void Add(const ClientCounts& o);
};

// One client process: the library's own Lane, OneSidedPut and OneSidedRead, driven as Call and Peer
// drive them, step by step on a simulated network. One-thread.
//
// Keys of its own ("own-N-...") are only ever replaced, by one call at a time: what was
// acknowledged last is what a reader may see. Shared ones are put if absent.
class SimClient {
 public:
  SimClient(int number, transport::Transport& transport, Server& server, History& history,
            ClientCounts& counts, uint64_t seed);
  ~SimClient();

  // Moves everything that is under way a little; now and then begins or ends something.
  void Step();
  // Dies: connections close, nothing is said.
  void Crash();
  // Gives up what is under way and closes its lanes in good order, as far as the network lets it.
  void CloseLanes();
  // What broken lanes have left behind is disowned over a new lane; false: not yet.
  bool Disown();
  bool idle() const { return calls_.empty() && late_.empty(); }
  uint64_t wrong_touches() const { return wrong_touches_; }

 private:
  struct Running {
    client::CallShape shape;
    std::vector<std::string> keys;
    std::vector<std::vector<std::byte>> memory;
    std::vector<uint64_t> versions;
    std::vector<std::vector<History::Put>> visible;  // as each get began
    std::vector<client::CallItem> items;
    std::vector<client::CallItem*> left;
    std::unique_ptr<client::Lane> lane;
    std::unique_ptr<client::Exchange> exchange;
    int attempts = 0;
    int rounds = 0;
    int patience = 0;  // steps until its deadline
    bool own = false;
  };
  // Memory of a call that has ended: nobody may write to it, and what is read from it is garbage.
  struct Buried {
    std::vector<std::byte> memory;
    int age = 0;
  };

  client::PoolAccess MakePool() const;
  std::unique_ptr<client::Lane> TakeLane();
  void Begin();
  void AddKey(Running& call, bool put);
  void Start(Running& call);
  void OnFailed(Running& call);
  void GiveUp(Running& call);
  bool Drive(Running& call);
  bool EndRound(Running& call);
  void Release(std::unique_ptr<client::Lane> lane);
  void Conclude(Running& call);
  void RememberFor(const std::string& key);
  void JudgePut(Running& call, size_t i);
  void JudgeGet(Running& call, size_t i);
  void ExpectHints(const std::string& key) const;
  void Bury(std::vector<std::byte> memory);
  void MoveLate();

  const int number_;
  transport::Transport& transport_;
  Server& server_;
  History& history_;
  ClientCounts& counts_;
  Random random_;
  client::StatsCounters stats_;
  uint64_t session_ = 0;
  std::shared_ptr<client::LocationCache> locations_;
  std::shared_ptr<client::LostLanes> lost_ = std::make_shared<client::LostLanes>();
  std::shared_ptr<const client::PoolAccess> pool_;
  std::vector<std::unique_ptr<client::Lane>> idle_;
  std::deque<std::unique_ptr<Running>> calls_;
  std::deque<std::pair<std::unique_ptr<client::Lane>, int>> late_;
  std::deque<Buried> buried_;
  std::set<std::string> busy_own_;
  std::map<std::string, std::vector<uint64_t>> settled_;  // of own keys: what may not come again
  static inline uint64_t last_version_ = 0;
  uint64_t wrong_touches_ = 0;
};

}  // namespace simm::sim
