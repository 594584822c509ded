// A day of a large cluster on virtual time: 1000 data servers and 10,000 clients around one
// manager. Bars are on bytes, messages, epochs and virtual time, which no machine changes; the
// processor time of the manager's code is reported. Prints the table of manager/README.md.
//
// SIMM_SIM_SEED=N takes another seed; SIMM_SCALE=SERVERS,CLIENTS another size.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "tests/sim/scale_world.h"

namespace simm::sim {
namespace {

using namespace std::chrono_literals;

double Ms(Duration time) { return static_cast<double>(time.count()) * 1e-6; }

void Print(const char* what, const ScaleFigures& f) {
  std::printf(
      "| %s | %llu | %llu / %llu / %llu | %.2f | %.0f / %.0f | %llu / %llu | %.0f / %.0f / %.0f "
      "|\n",
      what, static_cast<unsigned long long>(f.epochs), static_cast<unsigned long long>(f.diffs),
      static_cast<unsigned long long>(f.snapshots), static_cast<unsigned long long>(f.up_to_dates),
      static_cast<double>(f.manager_bytes) * 1e-6, Ms(f.servers_late), Ms(f.clients_late),
      static_cast<unsigned long long>(f.largest_diff),
      static_cast<unsigned long long>(f.most_attempts_at_manager), f.round_cpu * 1e3,
      f.stream_cpu * 1e3, f.heartbeat_cpu * 1e3);
  std::fflush(stdout);
}

struct Day {
  ScaleWorld& world;
  const size_t servers, clients;

  // After `calm` all must be as before.
  ScaleFigures Run(const char* what, Duration time) {
    const ScaleFigures figures = world.Run(time);
    Print(what, figures);
    world.ExpectAllHaveTheNewest();
    return figures;
  }

  void ColdStart() {
    const ScaleFigures f = Run("cold start", 20s);
    EXPECT_EQ(world.states()[ServerState::kAlive], servers);
    // All register within a second: an epoch for each round of the committer, not for each server.
    EXPECT_LE(f.epochs, 50u);
    EXPECT_LE(f.largest_snapshot, 64 * servers + 500'000);
    EXPECT_LE(f.calm_after, 15s) << "pulls of three seconds follow each other";
  }

  void Join() {
    world.AddServer();
    const ScaleFigures f = Run("one joins", 20s);
    // The joiner, then its shards without their sources as they are pulled.
    EXPECT_GE(f.epochs, 2u);
    EXPECT_LE(f.epochs, 4u);
    EXPECT_LE(f.largest_diff, 5'000u);
    EXPECT_EQ(f.snapshots, 1u) << "only the joiner's own";
    EXPECT_EQ(f.diffs, f.epochs * (servers + 1 + clients));
    EXPECT_LE(f.servers_late, 100ms);
    EXPECT_LE(f.clients_late, limits::kServersFirst + 100ms);
    EXPECT_EQ(world.shards_moving(), 0u);
  }

  void Death() {
    world.KillServer(3);
    const ScaleFigures f = Run("one dies", 20s);
    EXPECT_EQ(world.states()[ServerState::kDead], 1u);
    EXPECT_EQ(f.epochs, 1u);
    EXPECT_EQ(f.snapshots, 0u);
    EXPECT_LE(f.largest_diff, 5'000u);
    // Dead-time, a tick, the round, and the last to hear of it.
    EXPECT_LE(f.calm_after, limits::kDeadAfter + 1s);
    EXPECT_GE(f.calm_after, limits::kDeadAfter - 1s);
    world.StartServer(3);
    const ScaleFigures back = Run("it returns", 20s);
    EXPECT_LE(back.largest_diff, 5'000u);
    EXPECT_LE(back.epochs, 4u);
    EXPECT_EQ(world.states()[ServerState::kAlive], servers + 1);
  }

  // The storm: every stream breaks at once; all come back, by way of data servers, spread in time.
  void ManagerRestart() {
    const MapVersion before = world.version();
    world.KillManager();
    const ScaleFigures away = world.Run(5s);
    Print("manager down for 5 s", away);
    EXPECT_EQ(away.snapshots + away.diffs, 0u) << "whoever asks holds the map";
    world.StartManager(/*lost_state=*/false);
    const ScaleFigures f = Run("manager back", 20s);
    EXPECT_EQ(world.version(), before) << "a restart changes nothing";
    EXPECT_EQ(f.snapshots + f.diffs, 0u);
    EXPECT_EQ(world.watching_manager(), servers + 1 + clients);
    EXPECT_LE(f.manager_bytes, 100 * (servers + 1 + clients));
    // Clients look for a manager again over ten seconds, data servers within a second.
    EXPECT_LE(f.most_streams_opened, (clients + servers) / 10 + servers / 2);
  }

  // The worst of storms: it is back before anybody has turned to a data server.
  void ManagerBackAtOnce() {
    const MapVersion before = world.version();
    world.KillManager();
    (void)world.Run(1ms);
    world.StartManager(/*lost_state=*/false);
    const ScaleFigures f = Run("manager back within 1 ms", 20s);
    EXPECT_EQ(world.version(), before);
    EXPECT_EQ(f.snapshots + f.diffs, 0u);
    EXPECT_LE(f.up_to_dates, (servers + 1 + clients) * 11 / 10) << "some were refused before that";
    EXPECT_EQ(world.watching_manager(), servers + 1 + clients);
  }

  void ManagerLosesItsState() {
    const MapVersion before = world.version();
    world.KillManager();
    (void)world.Run(2s);
    world.StartManager(/*lost_state=*/true);
    const ScaleFigures f = Run("manager back without its state", 40s);
    EXPECT_EQ(world.version().cluster, before.cluster);
    EXPECT_EQ(world.version().term, before.term + 1);
    EXPECT_EQ(world.states()[ServerState::kAlive], servers + 1);
    // Another term: everybody gets one snapshot, here at 10 Gb/s.
    EXPECT_LE(f.snapshots, (servers + 1 + clients) * 11 / 10);
  }

  // A tenth of the servers falls silent, then is heard again.
  void LossOfAZone() {
    SetZones(0, 1, true);
    const ScaleFigures f = Run("a zone of a tenth is lost", 20s);
    EXPECT_EQ(world.frozen(), "");
    EXPECT_EQ(world.states()[ServerState::kDead], (servers + 10) / 10);
    EXPECT_LE(f.epochs, 6u);
    EXPECT_EQ(f.snapshots, 0u);
    SetZones(0, 1, false);
    const ScaleFigures back = Run("it is back", 30s);
    EXPECT_EQ(world.states()[ServerState::kAlive], servers + 1);
    EXPECT_LE(back.epochs, 60u);
  }

  // Four tenths: rather a network than so many deaths.
  void LossOfMoreThanAThird() {
    const MapVersion before = world.version();
    SetZones(0, 4, true);
    const ScaleFigures f = Run("four tenths are lost", 20s);
    EXPECT_NE(world.frozen(), "");
    EXPECT_EQ(world.states()[ServerState::kDead], 0u);
    EXPECT_EQ(f.epochs, 0u);
    EXPECT_EQ(f.diffs, 0u);
    SetZones(0, 4, false);
    (void)Run("they are back", 20s);
    EXPECT_EQ(world.frozen(), "");
    EXPECT_EQ(world.version(), before);
  }

  // Ten at a time, each away for two seconds: nobody is declared dead, no shard moves.
  void RollingRestart() {
    ScaleFigures all;
    for (size_t first = 0; first < world.servers(); first += Batch()) {
      const size_t end = std::min(first + Batch(), world.servers());
      for (size_t i = first; i < end; ++i) world.KillServer(i);
      Sum(all, world.Run(2s));
      for (size_t i = first; i < end; ++i) world.StartServer(i);
      Sum(all, world.Run(1s));
    }
    Sum(all, world.Run(15s));
    Print("rolling restart of all servers", all);
    world.ExpectAllHaveTheNewest();
    EXPECT_EQ(world.states()[ServerState::kAlive], servers + 1);
    EXPECT_LE(all.largest_diff, 5'000u) << "records of the restarted, no shard moved";
    EXPECT_LE(all.snapshots, servers + 1) << "of those that begin without a map";
    EXPECT_EQ(world.shards_moving(), 0u);
  }

  size_t Batch() const { return std::max<size_t>(1, servers / 50); }
  void SetZones(size_t first, size_t end, bool cut) {
    for (size_t i = 0; i < world.servers(); ++i) {
      if (world.zone_of(i) >= first && world.zone_of(i) < end) world.CutOff(i, cut);
    }
  }
  static void Sum(ScaleFigures& all, const ScaleFigures& f) {
    all.epochs += f.epochs, all.diffs += f.diffs, all.snapshots += f.snapshots;
    all.up_to_dates += f.up_to_dates, all.bytes += f.bytes, all.manager_bytes += f.manager_bytes;
    all.round_cpu += f.round_cpu, all.stream_cpu += f.stream_cpu;
    all.heartbeat_cpu += f.heartbeat_cpu;
    all.largest_diff = std::max(all.largest_diff, f.largest_diff);
    all.servers_late = std::max(all.servers_late, f.servers_late);
    all.clients_late = std::max(all.clients_late, f.clients_late);
    all.most_attempts_at_manager =
        std::max(all.most_attempts_at_manager, f.most_attempts_at_manager);
  }
};

TEST(ScaleSim, ADayOfALargeCluster) {
  size_t servers = 1000, clients = 10'000;
  if (const char* size = std::getenv("SIMM_SCALE"))
    std::sscanf(size, "%zu,%zu", &servers, &clients);
  const char* seed = std::getenv("SIMM_SIM_SEED");
  ScaleWorld world(seed != nullptr ? std::strtoull(seed, nullptr, 10) : 1, servers, clients, 10);
  std::printf(
      "| what | epochs | diffs / snapshots / up to date | MB from the manager | ms until "
      "the last server / client has an epoch | largest diff, B / most attempts in 100 ms | "
      "manager CPU, ms: rounds / streams / heartbeats |\n|---|---|---|---|---|---|---|\n");

  Day day{world, servers, clients};
  day.ColdStart();
  day.Join();
  day.Death();
  day.ManagerRestart();
  day.ManagerBackAtOnce();
  day.ManagerLosesItsState();
  day.LossOfAZone();
  day.LossOfMoreThanAThird();
  day.RollingRestart();
}

}  // namespace
}  // namespace simm::sim
