// The client's own one-sided exchanges (DESIGN 5 and 6) against real DataSessions and a real Pool:
// several processes put, replace and read over a few lanes each, with leases at hand, recalls,
// deadlines, lanes that break, sessions that end and processes that die, checksums off. Under one
// seed, on the simulated network and on the chaos one (late and repeated writes, reads in any
// order, lost completions). A third of the seeds let the server think, as over shared memory, that
// it cannot cut a process off: whatever a lane that broke has held must be given back by word.
//
// SIMM_SIM_SEED=N replays one seed; SIMM_SIM_SEEDS=N sets how many are tried.

#include <gtest/gtest.h>

#include <cstdlib>

#include "common/transport/chaos/chaos_transport.h"
#include "common/transport/sim/sim_transport.h"
#include "tests/sim/client_world.h"

namespace simm::sim {
namespace {

using namespace std::chrono_literals;

constexpr int kClients = 3;
constexpr int kTurns = 2500;

uint64_t EnvOr(const char* name, uint64_t fallback) {
  const char* const text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : fallback;
}

class Simulation {
 public:
  Simulation(uint64_t seed, transport::Transport& transport)
      : random_(seed),
        calm_(seed % 4 == 0),
        process_(seed % 3 == 0 ? std::make_shared<FakeProcess>("pid 7") : nullptr),
        server_(transport, seed % 2 == 0,
                [this](auto connection) { return Wrap(std::move(connection)); }) {
    for (int i = 0; i < kClients; ++i) {
      clients_.push_back(
          std::make_unique<SimClient>(i, transport, server_, history_, counts_, seed * 16 + i));
    }
  }

  ClientCounts Run() {
    for (int i = 0; i < kTurns && !testing::Test::HasFailure(); ++i) Turn();
    End();
    clients_.clear();
    return counts_;
  }
  const dataserver::DataMetrics& metrics() const { return server_.metrics; }

 private:
  std::unique_ptr<transport::Connection> Wrap(std::unique_ptr<transport::Connection> connection) {
    if (!process_) return connection;
    const transport::Capabilities capabilities = connection->capabilities();
    return std::make_unique<WrappedConnection>(std::move(connection), capabilities, process_);
  }

  void Move() {
    for (int i = 0; i < 6; ++i) server_.Step(random_);
  }

  void Turn() {
    Move();
    clients_[random_.Below(clients_.size())]->Step();
    if (!calm_ && random_.OneIn(25)) Disturb();
    if (random_.OneIn(200)) server_.CheckBooks();
    server_.clock.Advance(random_.OneIn(100) ? Duration(random_.Below(4) * 1s)
                                             : Duration(random_.Below(2'000'000)));
  }

  // Others put and evict; keys vanish.
  void Disturb() {
    if (random_.OneIn(4)) {
      const std::string key = "key-" + std::to_string(random_.Below(5));
      server_.pool->Remove(HashOfKey(key), 0, key);
      return;
    }
    const std::string filler = "filler-" + std::to_string(++fillers_);
    (void)dataserver::Put(*server_.pool, filler, 5'000 + random_.Below(60'000));
  }

  // Nothing stays behind, although the process that cannot be cut off lives on.
  void End() {
    for (auto& client : clients_) client->CloseLanes();
    server_.Rest(limits::kDataTick);
    for (int i = 0; i < 4000; ++i) {
      bool all = true;
      for (auto& client : clients_) all &= client->Disown();
      if (all) break;
      Move();
      if (i % 50 == 49) {
        server_.Rest(limits::kDataTick);
        for (auto& client : clients_) client->CloseLanes();
      }
    }
    for (auto& client : clients_) {
      EXPECT_EQ(client->wrong_touches(), 0u) << "memory was written to after its call had ended";
      client->CloseLanes();
    }
    server_.Rest(limits::kSessionTimeout + 2s);
    const auto usage = server_.pool->Usage();
    EXPECT_EQ(usage.granted_bytes, 0u);
    EXPECT_EQ(usage.pinned_bytes, 0u);
    EXPECT_EQ(usage.limbo_bytes, 0u);
    EXPECT_EQ(server_.state->lanes.size(), 0u);
    server_.CheckBooks();
  }

  Random random_;
  const bool calm_;
  const std::shared_ptr<FakeProcess> process_;
  History history_;
  ClientCounts counts_;
  Server server_;
  std::vector<std::unique_ptr<SimClient>> clients_;
  uint64_t fillers_ = 0;
};

template <typename Network, typename Transport, typename... Options>
void RunSeeds(const char* which, uint64_t count, Options... options) {
  const uint64_t only = EnvOr("SIMM_SIM_SEED", 0);
  const uint64_t seeds = only != 0 ? 1 : EnvOr("SIMM_SIM_SEEDS", count);
  ClientCounts total;
  uint64_t recalls = 0, returned = 0;
  for (uint64_t i = 0; i < seeds; ++i) {
    const uint64_t seed = only != 0 ? only : i + 1;
    Network network(seed + 1, options...);
    Transport transport(network);
    Simulation simulation(seed, transport);
    total.Add(simulation.Run());
    recalls += simulation.metrics().recalls.load();
    returned += simulation.metrics().returned_extents.load();
    ASSERT_FALSE(testing::Test::HasFailure())
        << "replay with: SIMM_SIM_SEED=" << seed << " build/tests/client_sim_test --gtest_filter=*"
        << which;
  }
  std::printf(
      "%s, %llu seeds: %d calls, %d puts, %d exists, %d unknown, %d hits, %d misses, %d lanes "
      "broken, %d deadlines, %d crashes, %llu lease hits, %llu resolves, %llu disowned, %llu "
      "recalls, %llu extents returned\n",
      which, static_cast<unsigned long long>(seeds), total.calls, total.ok, total.exists,
      total.unknown, total.hits, total.misses, total.broken, total.late, total.crashes,
      static_cast<unsigned long long>(total.lease_hits),
      static_cast<unsigned long long>(total.resolves),
      static_cast<unsigned long long>(total.disowned), static_cast<unsigned long long>(recalls),
      static_cast<unsigned long long>(returned));
  if (seeds < 100) return;
  EXPECT_GT(total.ok, 1000);
  EXPECT_GT(total.hits, 1000);
  EXPECT_GT(total.broken, 50);
  EXPECT_GT(total.lease_hits, 200u);
  EXPECT_GT(total.resolves, 20u);
  EXPECT_GT(total.disowned, 20u);
  EXPECT_GT(returned, 100u);
}

TEST(ClientSim, RightBytesOrAMissOnTheSimulatedNetwork) {
  RunSeeds<transport::SimNetwork, transport::SimTransport>("SimulatedNetwork", 300);
}

TEST(ClientSim, RightBytesOrAMissOnTheChaosNetwork) {
  RunSeeds<transport::ChaosNetwork, transport::ChaosTransport>("ChaosNetwork", 200);
}

TEST(ClientSim, RightBytesOrAMissWhereCompletionsAreLost) {
  RunSeeds<transport::ChaosNetwork, transport::ChaosTransport>(
      "CompletionsAreLost", 200, transport::ChaosOptions{.lost_completion = 0.01});
}

}  // namespace
}  // namespace simm::sim
