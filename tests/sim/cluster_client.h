#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "client/key_plans.h"
#include "tests/sim/cluster_world.h"

namespace simm::sim {

inline constexpr uint64_t kOwnKeys = 4;  // of a client, written by it alone

// One client process of a simulated cluster: the library's lanes and exchanges, driven as Call and
// Peer drive them, round by round with the newest map that it holds. Keys "own-N-.." are replaced
// and removed by client N alone, one call at a time; "key-.." are put if absent by all. One-thread.
class ClusterClient {
 public:
  ClusterClient(World& world, int number, int place, uint64_t seed);
  ~ClusterClient();

  void Step();
  void Crash();
  // Ends what is under way; lanes close in good order.
  void CloseLanes();
  bool Disown();     // false: some lane that broke still has to be disowned
  void CountWork();  // adds to the world's counts
  uint64_t wrong_touches() const { return wrong_touches_; }
  // On a calm cluster: a replacement, a read and a removal of each own key are exact.
  void ExpectExact(const std::function<void()>& turn);
  // Until there is an answer; `turn` moves the world on. Get: it must be that version.
  Code Replace(const std::string& key, uint64_t* version, const std::function<void()>& turn) {
    return Do(Kind::kReplace, key, version, turn);
  }
  Code Get(const std::string& key, uint64_t version, const std::function<void()>& turn) {
    return Do(Kind::kGet, key, &version, turn);
  }
  // One call.
  Code TryReplace(const std::string& key, Instant deadline, const std::function<void()>& turn);

  const int place;
  MapFeed feed;

 private:
  enum class Kind : uint8_t { kPut, kReplace, kGet, kExists, kRemove };
  struct Peer {
    int node = 0;
    Id128 boot;
    uint64_t session = 0;
    std::shared_ptr<const client::PoolAccess> pool;
    std::shared_ptr<client::LostLanes> lost;
    std::vector<std::unique_ptr<client::Lane>> idle;
    Instant shunned_until{};  // its breaker
  };
  struct Part {
    ServerId server = kNoServer;
    std::vector<client::CallItem*> items;
    std::unique_ptr<client::Exchange> exchange;
    std::unique_ptr<client::Lane> lane;  // goes first: it may still complete work of the exchange
    uint8_t way = client::Errand::kPlain;
    int attempts = 0;
    bool over = false;
    Instant began{};
  };
  struct Running {
    Kind kind;
    client::CallShape shape;
    std::vector<std::string> keys;
    std::vector<std::vector<std::byte>> memory;
    std::vector<uint64_t> versions;
    std::vector<client::CallItem> items;
    std::optional<client::KeyPlans> plans;  // of items, for shape
    std::vector<std::unique_ptr<Part>> parts;
    std::vector<std::set<uint64_t>> superseded;  // as each get began
    std::set<ServerId> unheard;                  // no answer was to be had there
    Instant began, deadline, next_round;
    uint64_t era = 0;
    bool settled = false;  // as it began
    bool own() const { return kind == Kind::kReplace || kind == Kind::kRemove; }
  };
  struct Buried {
    std::vector<std::byte> memory;
    int age = 0;
  };

  std::unique_ptr<Running> Make(Kind kind, std::vector<std::string> keys);
  void Begin();
  void BeginRound(Running& call);
  std::vector<client::Errand> Errands(Running& call, const RouteTable& table);
  void EndRound(Running& call);
  void SpareSilent(Running& call);
  Peer* PeerFor(ServerId server);
  std::unique_ptr<client::Lane> TakeLane(Peer& peer);
  void Start(Running& call, Part& part);
  void OnFailed(Running& call, Part& part);
  void EndPart(Running& call, Part& part, bool answered);
  bool Drive(Running& call);
  void DrivePart(Running& call, Part& part);
  void GiveUp(Running& call);
  void Release(ServerId server, std::unique_ptr<client::Lane> lane);
  void MoveLate();
  void Conclude(Running& call);
  void JudgeWrite(Running& call, size_t i);
  void JudgeRead(Running& call, size_t i);
  Code Do(Kind kind, const std::string& key, uint64_t* version, const std::function<void()>& turn);
  void Bury(std::vector<std::byte> memory);

  World& world_;
  const int number_;
  Random random_;
  client::StatsCounters stats_;
  std::shared_ptr<client::LocationCache> locations_;
  std::map<ServerId, Peer> peers_;
  std::deque<std::unique_ptr<Running>> calls_;
  struct Late {
    ServerId server;
    std::unique_ptr<client::Lane> lane;
    int age;
  };
  std::deque<Late> late_;
  std::deque<Buried> buried_;
  // Of the mistake: calls whose transport is not done with memory that is the caller's again.
  std::vector<std::unique_ptr<Running>> forgotten_;
  std::set<std::string> busy_own_;
  uint64_t wrong_touches_ = 0;
};

}  // namespace simm::sim
