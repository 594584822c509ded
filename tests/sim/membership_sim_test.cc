// A whole life of the manager under one seed: servers join, die, return, restart with and without
// their pool, lose heartbeats; the manager crashes around its saves, is paused, and its disk fails.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>
#include <optional>

#include "common/base/hash.h"
#include "common/base/random.h"
#include "manager/membership.h"
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
  bool running = true;
  bool cut_off = false;
  ServerId id = kNoServer;  // none: has to register
  Instant last_heard{INT64_MIN / 2};
};

uint64_t DigestOf(const DurableState& state) {
  Xxh3Stream digest;
  const auto add = [&](const auto& value) {
    digest.Update(ByteSpan(reinterpret_cast<const std::byte*>(&value), sizeof value));
  };
  digest.Update(std::as_bytes(std::span(state.map.owners)));
  digest.Update(std::as_bytes(std::span(state.homes)));
  for (const ServerRecord& server : state.map.servers) {
    digest.Update(AsBytes(server.name));
    digest.Update(AsBytes(server.data_address));
    add(server.id);
    add(server.boot_id);
    add(server.weight);
    add(server.state);
  }
  for (const auto& [id, name] : state.map.namespaces) {
    add(id);
    digest.Update(AsBytes(name));
  }
  return digest.Digest();
}

class Simulation {
 public:
  explicit Simulation(uint64_t seed) : random_(seed), saved_(NewCluster({1, 2})) {
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
    for (int step = 0; step < 24 && !failed(); ++step) Step();
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
    servers_.push_back(server);
  }
  void StartManager() {
    members_.emplace(MembershipOptions{}, saved_, clock_.Now());
    manager_started_ = clock_.Now();
    Published();
  }
  SimServer& Any() { return servers_[random_.Below(servers_.size())]; }

  void Disturb() {
    if (random_.OneIn(12) && servers_.size() < 9) AddServer();
    if (random_.OneIn(10)) Any().running = false;
    if (random_.OneIn(6)) Restart(Any());
    if (random_.OneIn(12)) Any().cut_off = true;
    if (random_.OneIn(8)) Any().cut_off = false;
    if (random_.OneIn(25)) members_.reset();  // killed; what was saved stays
    if (!members_.has_value() && random_.OneIn(3)) StartManager();
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
    if (!members_.has_value()) StartManager();
    for (SimServer& server : servers_) {
      server.cut_off = false;
      if (!server.running) Restart(server);
    }
  }

  void Step() {
    clock_.Advance(kStep);
    if (!members_.has_value()) return;
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
    const std::vector<std::string> dead = members_->BuryTheDead(clock_.Now(), draft);
    if (!dead.empty()) {
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
    request.map = members_->state().map.version;
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
    const auto outcome = members_->Register(clock_.Now(), request, draft);
    if (outcome.ok()) registered.emplace_back(&server, outcome->first);
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
    EXPECT_GE(version.epoch, last_epoch_) << "epochs only grow";
    if (version.epoch == last_epoch_) {
      // A restart publishes the last epoch again.
      EXPECT_EQ(DigestOf(state), last_digest_) << "one epoch, two contents: " << ToString(version);
      return;
    }
    last_epoch_ = version.epoch;
    last_digest_ = DigestOf(state);
    EXPECT_EQ(saved_.map.version, version) << "published before it was durable";
    const auto table = RouteTable::Create(state.map);
    ASSERT_TRUE(table.ok()) << table.status().ToString();
    double total = 0;
    for (const ServerRecord& server : state.map.servers) {
      if (server.state == ServerState::kAlive) total += static_cast<double>(server.weight);
    }
    if (total == 0) return;
    uint32_t owned = 0;
    for (const ServerRecord& server : state.map.servers) {
      const uint32_t load = table.value()->ShardsOf(server.id);
      owned += load;
      const bool alive = server.state == ServerState::kAlive;
      const double fair = alive ? limits::kShards * static_cast<double>(server.weight) / total : -1;
      EXPECT_LE(load, std::max(1.05 * fair, fair + 1)) << server.name << (alive ? "" : ", dead");
    }
    EXPECT_EQ(owned, limits::kShards) << "shards without an owner while a server is alive";
  }

  void ExpectHealed() {
    const DurableState& state = members_->state();
    for (const rpc::NodeStatus& node : members_->Nodes(clock_.Now())) {
      EXPECT_EQ(node.record.state, ServerState::kAlive) << node.record.name << " has no way back";
      EXPECT_GT(node.shards, 0U);
    }
    EXPECT_EQ(state.map.servers.size(), servers_.size());
    for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
      ASSERT_EQ(state.map.owners[shard].server, state.homes[shard]) << "shard " << shard;
    }
  }

  Random random_;
  FakeClock clock_;
  DurableState saved_;
  std::optional<Membership> members_;  // none: the manager is down
  Instant manager_started_;
  std::vector<SimServer> servers_;
  bool disk_fails_ = false;
  bool calm_ = false;
  uint64_t last_epoch_ = 0;
  uint64_t last_digest_ = 0;
};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(MembershipSim, HoldsItsInvariants) {
  const bool one = std::getenv("SIMM_SIM_SEED") != nullptr;
  const uint64_t first = FromEnvironment("SIMM_SIM_SEED", 1);
  const uint64_t count = one ? 1 : FromEnvironment("SIMM_SIM_SEEDS", 600);
  SeedReport report("membership_sim_test");
  for (uint64_t seed = first; seed < first + count; ++seed) {
    report.Running(seed);
    Simulation(seed).Run();
    ASSERT_FALSE(HasFailure()) << SeedReport::Replay(seed);
  }
}

}  // namespace
}  // namespace simm::manager
