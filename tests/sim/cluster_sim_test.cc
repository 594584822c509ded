// Whole clusters under one seed (DESIGN 3 to 6 and 10): servers are killed at any moment, paused,
// restarted warm and cold, drained, added; shards are pulled, with one to three owners each; the
// manager is killed around its saves, paused, loses its state, its disk fails; the network is cut
// one way or both; maps come late; clients crash and run out of time. In the end all is well, and
// one fault must cost no more than it may. Which line checks which invariant: tests/README.md.
//
// SIMM_SIM_SEED=N replays one seed; SIMM_SIM_SEEDS=N sets how many are tried.

#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "common/base/log.h"
#include "common/transport/chaos/chaos_transport.h"
#include "common/transport/sim/sim_transport.h"
#include "tests/sim/cluster_client.h"
#include "tests/sim/cluster_world.h"
#include "tests/support/seed_report.h"

namespace simm::sim {
namespace {

uint64_t EnvOr(const char* name, uint64_t fallback) {
  const char* const text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : fallback;
}

// Every other seed on the chaos transport.
ClusterCounts RunSeed(uint64_t seed, Mistakes mistakes = {}) {
  transport::SimNetwork pulls(seed + 2);
  transport::SimTransport tcp(pulls);
  if (seed % 2 == 0) {
    transport::ChaosNetwork network(seed + 1);
    transport::ChaosTransport transport(network);
    return World(seed, transport, tcp, mistakes).Run();
  }
  transport::SimNetwork network(seed + 1);
  transport::SimTransport transport(network);
  return World(seed, transport, tcp, mistakes).Run();
}

TEST(ClusterSim, HoldsItsInvariants) {
  InitLog("cluster_sim_test", "error", false);
  const bool one = std::getenv("SIMM_SIM_SEED") != nullptr;
  const uint64_t first = EnvOr("SIMM_SIM_SEED", 1);
  const uint64_t count = one ? 1 : EnvOr("SIMM_SIM_SEEDS", 600);
  SeedReport report("cluster_sim_test");
  ClusterCounts total;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    report.Running(seed);
    total.Add(RunSeed(seed));
    ASSERT_FALSE(HasFailure()) << SeedReport::Replay(seed);
  }
  const auto n = [](uint64_t number) { return static_cast<unsigned long long>(number); };
  std::printf(
      "%llu seeds: %llu calls, %llu acknowledged, %llu hits (%llu judged exactly), %llu misses, "
      "%llu failed writes, %llu deadlines, %llu lanes broken; %llu epochs, %llu adoptions, %llu "
      "kills, %llu warm and %llu cold starts, %llu rounds frozen; settled in %llu %% of the time; "
      "%llu entries pulled, %llu hits at sources, %llu at replicas; %llu deaths, %llu of them "
      "deaf, %llu "
      "drains, %llu zones lost\n",
      n(count), n(total.calls), n(total.acknowledged), n(total.hits), n(total.exact),
      n(total.misses), n(total.failed), n(total.late), n(total.broken), n(total.epochs),
      n(total.adoptions), n(total.kills), n(total.warm), n(total.cold), n(total.frozen),
      n(100 * total.settled_turns / std::max<uint64_t>(1, total.turns)), n(total.pulled),
      n(total.from_sources), n(total.from_replicas), n(total.deaths), n(total.deaf),
      n(total.drains), n(total.losses));
}

// A mistake must show as what it is within so many seeds.
void ExpectCaught(const char* name, Mistakes mistakes, const std::string& as, uint64_t seeds) {
  InitLog("cluster_sim_test", "error", false);
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    testing::TestPartResultArray results;
    {
      testing::ScopedFakeTestPartResultReporter reporter(
          testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
      (void)RunSeed(seed, mistakes);
    }
    for (int i = 0; i < results.size(); ++i) {
      const std::string message = results.GetTestPartResult(i).message();
      if (message.find(as) == std::string::npos) continue;
      std::printf("%s: caught by seed %llu\n", name, static_cast<unsigned long long>(seed));
      return;
    }
  }
  ADD_FAILURE() << name << " is not caught within " << seeds << " seeds";
}

TEST(ClusterSim, CatchesAnEpochThatIsPublishedBeforeItIsSaved) {
  ExpectCaught("published before saved", {.publish_before_save = true}, "one epoch, two contents",
               40);
}

TEST(ClusterSim, CatchesWatchersThatTakeOlderMaps) {
  ExpectCaught("older maps taken", {.take_older_maps = true}, "maps only grow newer", 40);
}

TEST(ClusterSim, CatchesMemoryThatIsGivenBackTooEarly) {
  ExpectCaught("late lanes forgotten", {.forget_late_lanes = true},
               "written to after its call had ended", 40);
}

TEST(ClusterSim, CatchesPutsThatCommitWhatTheyHaveNotWritten) {
  ExpectCaught("unwritten values committed", {.commit_unwritten = true}, "bytes of no put", 40);
}

TEST(ClusterSim, CatchesServersThatKeepWhatTheDeadHaveHeld) {
  ExpectCaught("sessions never end", {.sessions_never_end = true}, "sessions_->size()", 40);
}

TEST(ClusterSim, CatchesSourcesThatLetGoTooEarly) {
  ExpectCaught("sources dropped early", {.drop_sources_early = true}, "is lost by a drain", 40);
}

TEST(ClusterSim, CatchesPullsThatOverwriteWhatIsNewer) {
  ExpectCaught("newer values overwritten", {.pull_overwrites = true}, "is not what was put last",
               40);
}

TEST(ClusterSim, CatchesClientsThatAskOnlyTheOwner) {
  ExpectCaught("only owners asked", {.ask_only_owner = true}, "is lost by a drain", 40);
}

TEST(ClusterSim, CatchesRepairsThatNeverHappen) {
  ExpectCaught("pulls only claimed", {.claim_pulled = true}, "is lost with its zone", 80);
}

}  // namespace
}  // namespace simm::sim
