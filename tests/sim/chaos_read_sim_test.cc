// The one-sided get and put against a real pool on the chaos transport, which does everything that
// the standards allow, checksums off: the protocol alone must keep wrong bytes out. And each
// variant that the model check calls wrong must be caught by the same check, or the check proves
// nothing; where the model says that a variant is right under some conditions, so must this.
//
// SIMM_SIM_SEED=N replays one seed; SIMM_SIM_SEEDS=N sets how many are tried.

#include <cstdlib>

#include "tests/sim/chaos_read_driver.h"

namespace simm {
namespace {

using transport::ChaosOptions;

uint64_t EnvOr(const char* name, uint64_t fallback) {
  const char* const text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : fallback;
}

ChaosOptions Everything(uint64_t seed) {
  Random random(seed);
  ChaosOptions options;
  options.overtake = random.OneIn(4) ? random.Unit() : 0.9;
  options.replay = random.OneIn(4) ? 0.3 : 0.05;
  options.lost_completion = random.OneIn(4) ? 0.01 : 0;
  return options;
}

TEST(ChaosReadSim, RightBytesOrAMissUnderEverySeed) {
  const uint64_t only = EnvOr("SIMM_SIM_SEED", 0);
  const uint64_t seeds = only != 0 ? 1 : EnvOr("SIMM_SIM_SEEDS", 2000);
  ChaosRead::Outcome total;
  for (uint64_t i = 0; i < seeds; ++i) {
    const uint64_t seed = only != 0 ? only : i + 1;
    const auto outcome = ChaosRead(seed, Variant::kRight, Everything(seed)).Run();
    ASSERT_EQ(outcome.wrong, 0) << "replay with: SIMM_SIM_SEED=" << seed
                                << " build/tests/chaos_read_sim_test";
    ASSERT_FALSE(testing::Test::HasFailure())
        << "replay with: SIMM_SIM_SEED=" << seed << " build/tests/chaos_read_sim_test";
    total.Add(outcome);
  }
  std::printf(
      "%llu seeds: %d hits, %d misses, %d retries, %d questions, %d pushed, %d writers killed, "
      "%d lanes broken\n",
      static_cast<unsigned long long>(seeds), total.hits, total.misses, total.retries, total.asked,
      total.pushed, total.killed, total.broken);
  if (seeds >= 1000) {
    EXPECT_GT(total.hits, 1000) << "the simulation hardly reads anything";
    EXPECT_GT(total.retries, 100) << "the simulation hardly ever disturbs a read";
    EXPECT_GT(total.pushed, 100);
    EXPECT_GT(total.killed, 100);
    EXPECT_GT(total.broken, 10);
  }
}

// How many seeds it takes to see wrong bytes; 0: not within `seeds`.
uint64_t SeedsUntilWrong(Variant variant, const ChaosOptions& options, uint64_t seeds,
                         bool verify = false) {
  for (uint64_t seed = 1; seed <= seeds; ++seed) {
    if (ChaosRead(seed, variant, options, verify).Run().wrong > 0) {
      std::printf("caught by seed %llu\n", static_cast<unsigned long long>(seed));
      return seed;
    }
  }
  return 0;
}

constexpr uint64_t kEnough = 2000;
constexpr char kBlind[] = "known to be wrong and not seen: this test cannot see wrong bytes";

TEST(ChaosReadSim, WithoutASecondLookIsCaught) {
  EXPECT_GT(SeedsUntilWrong(Variant::kNoSecondLook, {}, kEnough), 0u) << kBlind;
}

TEST(ChaosReadSim, ASecondLookPostedBehindTheValueIsCaught) {
  EXPECT_GT(SeedsUntilWrong(Variant::kSecondLookBehind, {}, kEnough), 0u) << kBlind;
}

// The responder works in order, but the value's response is lost and read again: out-of-order
// placement, selective repeat.
TEST(ChaosReadSim, ASecondLookPostedBehindTheValueIsCaughtInOrderWithReplay) {
  const ChaosOptions options = {.overtake = 0, .replay = 0.2, .hold = 0};
  EXPECT_GT(SeedsUntilWrong(Variant::kSecondLookBehind, options, kEnough), 0u) << kBlind;
}

// As Soft-RoCE does it without losses: there the mistake does not show. That it does not show here
// either says that what shows above is what overtaking and replaying do.
TEST(ChaosReadSim, ASecondLookPostedBehindTheValueIsRightInStrictOrder) {
  const ChaosOptions options = {.overtake = 0, .replay = 0, .hold = 0};
  EXPECT_EQ(SeedsUntilWrong(Variant::kSecondLookBehind, options, 300), 0u);
}

TEST(ChaosReadSim, TheChecksumAloneKeepsWrongBytesOut) {
  EXPECT_EQ(SeedsUntilWrong(Variant::kSecondLookBehind, {}, 300, true), 0u);
}

TEST(ChaosReadSim, AGenerationThatComesAgainIsCaught) {
  EXPECT_GT(SeedsUntilWrong(Variant::kGenerationReused, {}, kEnough), 0u) << kBlind;
}

TEST(ChaosReadSim, AnOwnerThatWritesBeforeItUnpublishesIsCaught) {
  EXPECT_GT(SeedsUntilWrong(Variant::kOwnerWritesFirst, {}, kEnough), 0u) << kBlind;
}

TEST(ChaosReadSim, ADeadWritersExtentReusedBeforeItsLaneIsClosedIsCaught) {
  EXPECT_GT(SeedsUntilWrong(Variant::kNoBarrier, {}, kEnough), 0u) << kBlind;
}

}  // namespace
}  // namespace simm
