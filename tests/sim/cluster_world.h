#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "client/exchange.h"
#include "client/lane.h"
#include "common/rpc/map_follower.h"
#include "common/rpc/map_source.h"
#include "common/rpc/map_stream.h"
#include "dataserver/data_session.h"
#include "dataserver/one_sided_state.h"
#include "manager/adoption.h"
#include "manager/membership.h"
#include "manager/servers_first.h"
#include "tests/sim/client_world.h"
#include "tests/sim/cluster_pulls.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_folder.h"

// A whole cluster in one process under one seed and on virtual time: the manager's state machine
// over a store that may fail, data servers with their pools in files and their data sessions,
// clients with the library's lanes and exchanges, and the map on its way between them.
namespace simm::sim {

// Known-wrong variants of the code, to see that the simulation catches them.
struct Mistakes {
  bool publish_before_save = false;  // the manager shows an epoch that is not durable
  bool take_older_maps = false;      // watchers take whatever comes
  bool forget_late_lanes = false;    // memory is the caller's again while it is written to
  bool commit_unwritten = false;     // puts commit values that they have not written
  bool sessions_never_end = false;   // servers keep what the dead have held
  bool drop_sources_early = false;   // a source lets go of its shards before E+2
  bool pull_overwrites = false;      // what is pulled wins over what was put since
  bool ask_only_owner = false;       // clients leave the source out
  bool claim_pulled = false;         // servers say "pulled" and have not
};

struct ClusterCounts {
  uint64_t calls = 0, acknowledged = 0, hits = 0, misses = 0, failed = 0, exact = 0, late = 0,
           broken = 0, epochs = 0, adoptions = 0, warm = 0, cold = 0, kills = 0, frozen = 0,
           settled_turns = 0, turns = 0, pulled = 0, from_sources = 0, from_replicas = 0,
           deaths = 0, deaf = 0, drains = 0, losses = 0;
  void Add(const ClusterCounts& o);
};

class World;

// A watch of the map as MapWatcher has it: one source at a time, updates late, streams that break.
class MapFeed {
 public:
  MapFeed(World& world, rpc::WatcherKind kind, int self, uint64_t seed)
      : world_(world), kind_(kind), self_(self), random_(seed) {}
  // True: a newer table has come.
  bool Poll();
  void Reset();  // the process begins anew
  const Table& held() const { return held_; }

 private:
  struct Message {
    Instant due;
    Table from, to;
  };
  void Open();
  bool Take(const Message& message);

  World& world_;
  const rpc::WatcherKind kind_;
  const int self_;  // place in the network
  Random random_;
  rpc::MapFollower follower_;
  rpc::WatchBackoff backoff_;
  Table held_;
  int source_ = -1;
  uint64_t source_life_ = 0;
  Instant retry_at_{};
  Instant leave_at_ = kForever;  // a data server, for a manager
  Table sent_;
  std::optional<Message> under_way_;
};

// One data server: its process comes and goes, the files of its pool stay.
class Node {
 public:
  Node(World& world, int number);
  ~Node();

  void Start();
  void Kill();  // at once: its files are as they are at this moment
  void Wipe();  // of a dead one: the host has forgotten its memory
  bool up() const { return pool_ != nullptr; }
  void Step();
  void EndSessions();  // all that clients may have left behind has timed out
  // A handshake over gRPC. None: it is not reachable.
  std::optional<uint64_t> Shake(int client, const Id128& boot);
  client::PoolAccess Access() const;
  void ExpectNothingHeld();
  void CheckBooks();

  const std::string name;
  const int place;  // in the network
  int zone() const { return place % 3; }
  uint64_t life = 0;
  bool paused = false;
  Instant wakes_at{};
  bool migrates = true;  // false: an older version
  MapFeed feed;
  Id128 boot;
  std::atomic<ServerId> self{kNoServer};
  dataserver::Pool& pool() { return *pool_; }
  rpc::RegisterRequest Request() const;
  void OnRegistered(ServerId id);
  void TalkSoon();  // with the manager

 private:
  void Talk();  // with the manager
  void Tick();
  void OnTable();
  void Housekeep();

  World& world_;
  PoolFolder folder_;
  std::unique_ptr<dataserver::Pool> pool_;
  dataserver::DataMetrics metrics_;
  std::unique_ptr<dataserver::SessionTable> sessions_;
  std::unique_ptr<dataserver::OneSidedState> state_;
  std::unique_ptr<transport::LocalRegion> index_region_, data_region_;
  MapHolder map_;
  std::unique_ptr<dataserver::DataContext> context_;
  std::unique_ptr<Puller> puller_;  // none: it cannot migrate
  ServerId registered_as_ = kNoServer;
  std::unique_ptr<transport::Acceptor> acceptor_, tcp_acceptor_;
  std::vector<std::unique_ptr<dataserver::DataSession>> connections_;
  std::map<uint64_t, int> clients_;  // place of each session's
  Instant last_tick_, talk_at_, answered_;
};

// The manager's process and what survives it.
class SimManager {
 public:
  explicit SimManager(World& world);
  bool up() const { return members_ || adoption_; }
  void Start();
  void Kill();
  void LoseState() { saved_.reset(); }
  void Step();
  // As the calls of ManagerService; the answer may be lost by whoever carries it.
  void Register(Node& node);
  bool Heartbeat(const rpc::HeartbeatRequest& request);  // false: register again
  void Drain(const std::string& name, bool undrain);
  Table Current(rpc::WatcherKind kind) const;
  const manager::Membership* members() const { return members_.get(); }
  const MapVersion& newest() const { return newest_; }

  uint64_t life = 0;
  bool disk_fails = false;
  Instant wakes_at{};  // paused until then

 private:
  struct Wish {
    Node* node = nullptr;
    uint64_t life = 0;  // whose it is, even if that one has ended since
    rpc::RegisterRequest request;
  };

  void Learn();
  void Begin(manager::DurableState state);
  void Round();
  void Publish(manager::Membership::Draft draft);

  World& world_;
  std::optional<manager::DurableState> saved_;
  std::unique_ptr<manager::Membership> members_;
  std::unique_ptr<manager::Adoption> adoption_;
  std::unique_ptr<rpc::MapBoard> board_;
  std::unique_ptr<manager::ServersFirst> publication_;
  std::vector<Wish> registering_;
  std::vector<std::pair<std::string, bool>> orders_;
  MapVersion newest_;
  Instant next_tick_;
};

class ClusterClient;

// Time, the network, all processes and what is known about all of them. One-thread.
class World {
 public:
  // `tcp` carries the pulls between servers, `transport` what clients do.
  World(uint64_t seed, transport::Transport& transport, transport::Transport& tcp,
        Mistakes mistakes);
  ~World();

  ClusterCounts Run();

  static constexpr int kManager = 0;
  Instant Now() const { return clock.Now(); }
  // A message from one place of the network to the other arrives.
  bool Reaches(int from, int to) const { return !cuts.contains({from, to}); }
  bool Speak(int a, int b) const { return Reaches(a, b) && Reaches(b, a); }
  Node* NodeAt(int place);
  // Of a server as the map names it; nullptr: another boot runs there, or none.
  Node* Find(const ServerRecord& record);
  // Each holder shows what it takes: one epoch, one content.
  void SawMap(const RouteTable& table);
  // What a watcher that holds `from` makes of the bytes that lead to `to`.
  Result<Table> Decode(rpc::MapFollower& follower, const Table& from, const Table& to);
  void BeginAnew();  // another cluster has begun: people restart what belongs to the old one
  // All that live hold the newest map: grows by one whenever that begins anew.
  bool settled() const { return settled_; }
  uint64_t era() const { return era_; }

  FakeClock clock;
  Random random;
  transport::Transport& transport;
  transport::Transport& tcp;
  const Mistakes mistakes;
  History history;
  ClusterCounts counts;
  const manager::MembershipOptions membership;
  const bool older_servers;  // some cannot migrate
  SimManager manager;
  std::vector<std::unique_ptr<Node>> nodes;
  std::vector<std::unique_ptr<ClusterClient>> clients;
  std::set<std::pair<int, int>> cuts;
  bool calm = false;
  uint64_t pull_pace = 1;  // pulls move in one of so many steps
  Duration last_advance{};
  uint64_t last_version = 0;
  // Versions that have been acknowledged, and those of them that lie behind a later one of the same
  // era.
  std::map<std::string, std::set<uint64_t>> acknowledged, superseded;

 private:
  void Turn();
  void Disturb();
  void DisturbNode();
  void DisturbManager();
  void Heal();
  void LookWhetherSettled();
  void ExpectServed();
  void WaitUntilWhole();  // all are there, hold the newest map, and no shard is on its way
  // cluster_checks.cc: one thing that happens to a cluster that is well otherwise.
  void ExpectOneFault();
  void ExpectNewOwnerInTime();
  void Deafen(const Node& node);  // nothing arrives there any more
  void ExpectDrainLosesNothing();
  void ExpectLossOfAZoneIsRepaired();
  bool ExpectHits(const std::map<std::string, uint64_t>& versions, const char* after);
  std::map<std::string, uint64_t> PutSome(const std::string& prefix);
  bool IsWhole(const std::string& key, int without_zone) const;
  Node* OwnerOf(const std::string& key, size_t place) const;
  void Rest(Duration time);
  void End();
  void AddNode();

  std::map<std::tuple<Id128, uint64_t, uint64_t>, uint64_t> digests_;
  const RouteTable* last_seen_ = nullptr;
  std::map<std::pair<const RouteTable*, const RouteTable*>, std::pair<Table, Table>> decoded_;
  std::vector<Table> keep_;  // whose addresses decoded_ names
  rpc::UpdateCache cache_{true};
  bool settled_ = false;
  uint64_t era_ = 0;
  Duration longest_step_ = std::chrono::seconds(1);  // now and then
  uint64_t long_steps_ = 40;                         // one in so many
};

}  // namespace simm::sim
