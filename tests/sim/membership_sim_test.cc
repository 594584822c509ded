// A whole life of the manager under one seed: servers join, die, return, restart with and without
// their pool, lose heartbeats, fall silent together, are drained; shards are pulled or not; the
// manager crashes around its saves, is paused, its disk fails, its state is lost.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <optional>

#include "common/base/hash.h"
#include "common/base/random.h"
#include "manager/adoption.h"
#include "manager/membership.h"
#include "tests/sim/map_oracle.h"
#include "tests/support/fake_clock.h"
#include "tests/support/seed_report.h"

namespace simm::manager {
namespace {

using namespace std::chrono_literals;

constexpr Duration kStep = 500ms;

struct SimServer {
  std::string name;
  Id128 pool;
  uint64_t incarnation = 1;
  Id128 boot;
  uint64_t weight = 1;
  std::string zone;
  bool running = true;
  bool cut_off = false;
  bool migrates = true;
  std::shared_ptr<const RouteTable> held;  // the newest map that it has taken
  ServerId id = kNoServer;                 // none: has to register
  Instant last_heard{INT64_MIN / 2};
};

uint64_t DigestOf(const DurableState& state) {
  Xxh3Stream digest;
  const auto add = [&](const auto& value) {
    digest.Update(ByteSpan(reinterpret_cast<const std::byte*>(&value), sizeof value));
  };
  add(state.map.replicas);
  digest.Update(std::as_bytes(std::span(state.map.owners)));
  digest.Update(std::as_bytes(std::span(state.homes)));
  for (const ServerRecord& server : state.map.servers) {
    digest.Update(AsBytes(server.name));
    digest.Update(AsBytes(server.data_address));
    add(server.id);
    add(server.boot_id);
    add(server.weight);
    add(server.state);
    add(server.capabilities);
  }
  for (const ServerId id : state.draining) add(id);
  for (const auto& [id, name] : state.map.namespaces) {
    add(id);
    digest.Update(AsBytes(name));
  }
  return digest.Digest();
}

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed), saved_(NewCluster({1, 2})) {
    // One owner a shard in most lives.
    if (random_.OneIn(4)) options_.replicas = static_cast<uint32_t>(2 + random_.Below(2));
    zones_ = 1 + random_.Below(3);
    older_servers_ = random_.OneIn(2);
    StartManager();
    const uint64_t count = 1 + random_.Below(6);
    for (uint64_t i = 0; i < count; ++i) AddServer();
  }

  void Run() {
    for (int step = 0; step < 30 && !failed(); ++step) {
      Disturb();
      Step();
    }
    Heal();
    for (int step = 0; step < 90 && !failed(); ++step) Step();
    if (!failed()) ExpectHealed();
  }

 private:
  static bool failed() { return testing::Test::HasFailure(); }

  void AddServer() {
    SimServer server;
    server.name = "s" + std::to_string(servers_.size());
    server.pool = {10, random_()};
    server.boot = {20, random_()};
    server.weight = (1ULL << 30) << random_.Below(3);
    server.migrates = !older_servers_ || !random_.OneIn(4);
    const uint64_t zone = random_.Below(zones_);
    if (zone > 0) server.zone = "z" + std::to_string(zone);
    servers_.push_back(server);
  }
  void StartManager() {
    manager_started_ = clock_.Now();
    if (!saved_.has_value()) {
      adoption_.emplace(MembershipOptions{}.dead, clock_.Now());
      return;
    }
    adoption_.reset();
    if (options_.replicas != 0 && random_.OneIn(4)) {  // another --replicas
      options_.replicas = static_cast<uint32_t>(1 + random_.Below(3));
    }
    members_.emplace(options_, *saved_, clock_.Now());
    heard_from_ = clock_.Now();
    if (members_->state().map.version == last_) {
      // A restart publishes the last epoch again.
      EXPECT_EQ(DigestOf(members_->state()), last_digest_) << "one epoch, two contents";
    }
    table_ = nullptr;
    Published();
  }
  bool up() const { return members_.has_value() || adoption_.has_value(); }
  SimServer& Any() { return servers_[random_.Below(servers_.size())]; }

  void Disturb() {
    if (random_.OneIn(12) && servers_.size() < 9) AddServer();
    if (random_.OneIn(10)) Any().running = false;
    if (random_.OneIn(6)) Restart(Any());
    if (random_.OneIn(12)) Any().cut_off = true;
    if (random_.OneIn(8)) Any().cut_off = false;
    if (random_.OneIn(40)) {  // a switch fails
      for (SimServer& server : servers_) server.cut_off = random_.OneIn(2);
    }
    if (random_.OneIn(25)) {  // killed; what was saved stays
      members_.reset();
      adoption_.reset();
    }
    if (!up() && random_.OneIn(6)) saved_.reset();
    if (!up() && random_.OneIn(3)) StartManager();
    if (random_.OneIn(30)) Pause(Duration(random_.Below(30) * 1s));
    disk_fails_ = random_.OneIn(10);
  }
  // The manager's process does not run, but time does: as a start, for what it may conclude.
  void Pause(Duration time) {
    clock_.Advance(time);
    if (time > MembershipOptions{}.suspect) manager_started_ = clock_.Now();
  }
  void Restart(SimServer& server) {
    server.running = true;
    server.boot = {20, random_()};
    server.id = kNoServer;
    server.held = nullptr;
    if (random_.OneIn(3)) {
      server.pool = {10, random_()};  // an anonymous pool
      server.incarnation = 1;
    } else {
      ++server.incarnation;
    }
  }
  void Heal() {
    disk_fails_ = false;
    calm_ = true;
    if (!up()) StartManager();
    for (SimServer& server : servers_) {
      server.cut_off = false;
      if (!server.running) Restart(server);
    }
  }

  void Step() {
    clock_.Advance(kStep);
    if (adoption_.has_value()) Learn();
    if (!members_.has_value()) return;
    // Who was sent away by a cluster that is no more is started anew by people.
    for (SimServer& server : servers_) {
      if (calm_ && !server.running) Restart(server);
    }
    members_->Tick(clock_.Now());
    Membership::Draft draft = members_->Begin();
    std::vector<std::pair<SimServer*, ServerId>> registered;
    for (SimServer& server : servers_) {
      if (!server.running || server.cut_off || random_.OneIn(20)) continue;
      if (server.id != kNoServer) Beat(server);
      if (server.id == kNoServer) Register(server, draft, registered);
    }
    if (random_.OneIn(40)) (void)members_->CreateNamespace("n" + std::to_string(random_()), draft);
    if (!calm_ && random_.OneIn(60)) (void)members_->RemoveNode(clock_.Now(), Any().name, draft);
    if (!calm_ && random_.OneIn(20)) (void)members_->Drain(Any().name, draft);
    if (calm_ || random_.OneIn(20)) (void)members_->Undrain(Any().name, draft);
    const bool mass = ManyAreSilent(draft, registered);
    const std::vector<std::string> dead = members_->BuryTheDead(clock_.Now(), draft);
    members_->SettleMoves(clock_.Now(), draft);
    if (!dead.empty()) {
      EXPECT_FALSE(mass) << "more than a third is silent, and " << dead[0] << " is declared dead";
      EXPECT_GE(clock_.Now() - manager_started_, members_->options().dead)
          << dead[0] << " is declared dead right after a start or pause of the manager";
    }
    for (const std::string& name : dead) {
      for (const SimServer& server : servers_) {
        if (server.name != name) continue;
        EXPECT_GE(clock_.Now() - server.last_heard, members_->options().dead)
            << name << " was heard and is declared dead";
      }
    }
    Finish(std::move(draft), registered);
  }

  void Beat(SimServer& server) {
    rpc::HeartbeatRequest request;
    request.id = server.id;
    request.boot_id = server.boot;
    if (server.held != nullptr) request.map = server.held->version();
    const bool pulls = server.held != nullptr && members_->shards_moving() > 0;
    if (pulls && (calm_ || random_.OneIn(3))) Pull(server, request);
    if (members_->Heartbeat(clock_.Now(), request).register_again) {
      server.id = kNoServer;
    } else {
      server.last_heard = clock_.Now();
    }
  }
  void Register(SimServer& server, Membership::Draft& draft,
                std::vector<std::pair<SimServer*, ServerId>>& registered) {
    rpc::RegisterRequest request;
    request.name = server.name;
    request.pool_id = server.pool;
    request.incarnation = server.incarnation;
    request.boot_id = server.boot;
    request.control_address = server.name + ":1";
    request.data_address = server.name + ":2";
    request.weight = server.weight;
    request.zone = server.zone;
    request.capabilities = server.migrates ? kCapabilityMigration : 0;
    if (server.held != nullptr) request.expected_cluster = server.held->version().cluster;
    const auto outcome = members_->Register(clock_.Now(), request, draft);
    if (outcome.ok()) registered.emplace_back(&server, outcome->first);
  }

  // Some of the shards of its map, which it does not have to pull any more.
  void Pull(const SimServer& server, rpc::HeartbeatRequest& request) {
    for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
      for (const ShardOwner& row : server.held->Owners(shard)) {
        if (row.server != server.id || row.source == kNoServer) continue;
        if (request.pulled_shards.size() >= limits::kMaxPulledShards) return;
        if (calm_ || random_.OneIn(2)) request.pulled_shards.push_back(shard);
      }
    }
  }

  // The manager has no state: what the servers hold decides.
  void Learn() {
    for (SimServer& server : servers_) {
      if (!server.running || server.cut_off || random_.OneIn(20)) continue;
      const bool asked =
          adoption_->Offer(server.name, server.held ? server.held->version() : MapVersion{});
      if (asked && !random_.OneIn(4)) {
        EXPECT_TRUE(adoption_->Report(*server.held).ok());
      }
    }
    const auto state = adoption_->Decide(clock_.Now(), {1, random_() | 1});
    if (!state.has_value() || disk_fails_) return;
    EXPECT_GE(clock_.Now() - manager_started_, MembershipOptions{}.dead);
    const bool fresh = !state->map.version.SameCluster(last_);
    if (fresh) {
      last_ = {state->map.version.cluster, 0, 0};
      for (SimServer& server : servers_) {
        // Nobody was heard who held a map. Who does must be started anew, by people.
        if (server.held != nullptr) server.running = false;
      }
    }
    saved_ = *state;
    StartManager();
  }

  // More than a third, and at least two, of those that the map calls alive are silent: by what the
  // servers know, not the manager.
  bool ManyAreSilent(const Membership::Draft& draft,
                     const std::vector<std::pair<SimServer*, ServerId>>& registered) const {
    size_t alive = 0;
    size_t silent = 0;
    for (const ServerRecord& record : draft.next.map.servers) {
      if (record.state == ServerState::kDead) continue;
      ++alive;
      const bool now = std::any_of(registered.begin(), registered.end(),
                                   [&](const auto& entry) { return entry.second == record.id; });
      if (now) continue;
      for (const SimServer& server : servers_) {
        if (server.name != record.name) continue;
        const Instant last = std::max(server.last_heard, heard_from_);
        silent += clock_.Now() - last >= members_->options().suspect;
      }
    }
    return silent >= 2 && 3 * silent > alive;
  }

  // Save, commit and publish, with all that can go wrong in between.
  void Finish(Membership::Draft draft,
              const std::vector<std::pair<SimServer*, ServerId>>& registered) {
    if (draft.changed) {
      Membership::Seal(draft);
      if (disk_fails_) return;
      saved_ = draft.next;
      if (!calm_ && random_.OneIn(30)) {  // killed between the save and the publication
        members_.reset();
        return;
      }
    }
    members_->Commit(clock_.Now(), std::move(draft));
    for (const auto& [server, id] : registered) {
      server->id = id;
      server->last_heard = clock_.Now();
    }
    Published();
  }

  // What must hold for every map that anybody may see.
  void Published() {
    const DurableState& state = members_->state();
    const MapVersion& version = state.map.version;
    EXPECT_TRUE(version.SameCluster(last_));
    EXPECT_FALSE(version.OlderThan(last_)) << "maps only grow newer";
    if (version != last_) {
      last_ = version;
      last_digest_ = DigestOf(state);
      CheckMap(state);
      table_ = nullptr;
    }
    if (table_ == nullptr) {
      const auto table = RouteTable::Create(state.map);
      ASSERT_TRUE(table.ok()) << table.status().ToString();
      table_ = *table;
    }
    for (SimServer& server : servers_) {
      if (!server.running || server.cut_off || random_.OneIn(8)) continue;
      if (server.held == nullptr || MayReplace(server.held->version(), version)) {
        server.held = table_;
      }
    }
  }

  void CheckMap(const DurableState& state) {
    EXPECT_EQ(saved_->map.version, state.map.version) << "published before it was durable";
    EXPECT_TRUE(CheckState(state).ok());
    std::map<ServerId, const ServerRecord*> records;
    double total = 0;
    for (const ServerRecord& server : state.map.servers) {
      records[server.id] = &server;
      if (server.state == ServerState::kAlive) total += static_cast<double>(server.weight);
    }
    std::map<ServerId, uint32_t> load, coming;
    for (const ShardOwner& row : state.map.owners) {
      ++load[row.server];
      if (row.source == kNoServer) continue;
      ++coming[row.server];
      ASSERT_NE(row.source, row.server);
      for (const ServerId id : {row.server, row.source}) {
        ASSERT_TRUE(records.at(id)->Can(kCapabilityMigration));
        ASSERT_NE(records.at(id)->state, ServerState::kDead);
      }
    }
    oracle_.Follow(state.map);
    if (total == 0 || state.map.replicas > 1) return;  // their quotas: placement_replicas_test
    EXPECT_EQ(load[kNoServer], 0U) << "shards without an owner while a server is alive";
    for (const ServerRecord& server : state.map.servers) {
      const bool alive = server.state == ServerState::kAlive;
      const double fair = alive ? limits::kShards * static_cast<double>(server.weight) / total : -1;
      // What is still being pulled may move on afterwards.
      EXPECT_LE(load[server.id] - coming[server.id], std::max(1.05 * fair, fair + 1))
          << server.name << ' ' << ServerStateName(server.state);
    }
  }

  void ExpectHealed() {
    const DurableState& state = members_->state();
    for (const rpc::NodeStatus& node : members_->Nodes(clock_.Now())) {
      EXPECT_EQ(node.record.state, ServerState::kAlive) << node.record.name << " has no way back";
      EXPECT_GT(node.shards, 0U);
    }
    EXPECT_EQ(state.map.servers.size(), servers_.size());
    EXPECT_EQ(members_->shards_moving(), 0U) << "moves that never end";
    EXPECT_EQ(members_->frozen(), "");
    for (size_t place = 0; place < state.homes.size(); ++place) {
      ASSERT_EQ(state.map.owners[place].server, state.homes[place]) << "place " << place;
    }
    EXPECT_TRUE(options_.replicas == 0 || state.map.replicas == options_.replicas);
    const bool enough = servers_.size() >= state.map.replicas;
    EXPECT_EQ(members_->shards_under_replicated(), enough ? 0U : limits::kShards);
  }

  Random random_;
  MembershipOptions options_;
  uint64_t zones_ = 1;
  bool older_servers_ = false;  // some cannot migrate
  FakeClock clock_;
  std::optional<DurableState> saved_;  // none: lost
  std::optional<Membership> members_;  // none: the manager is down, or still learning
  std::optional<Adoption> adoption_;   // while it learns
  Instant heard_from_;                 // before which `members_` knows of nobody's silence
  Instant manager_started_;
  std::vector<SimServer> servers_;
  bool disk_fails_ = false;
  bool calm_ = false;
  MapVersion last_{{1, 2}, 0, 0};
  std::shared_ptr<const RouteTable> table_;  // of the map that was published last
  uint64_t last_digest_ = 0;
  MapOracle oracle_;
};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(MembershipSim, HoldsItsInvariants) {
  const bool one = std::getenv("SIMM_SIM_SEED") != nullptr;
  const uint64_t first = FromEnvironment("SIMM_SIM_SEED", 1);
  const uint64_t count = one ? 1 : FromEnvironment("SIMM_SIM_SEEDS", 500);
  SeedReport report("membership_sim_test");
  for (uint64_t seed = first; seed < first + count; ++seed) {
    report.Running(seed);
    Simulation(seed).Run();
    ASSERT_FALSE(HasFailure()) << SeedReport::Replay(seed);
  }
}

}  // namespace
}  // namespace simm::manager
