#include "tests/support/seed_report.h"

#include <gtest/gtest.h>

#include "common/base/check.h"

namespace simm {
namespace {

TEST(SeedReportDeathTest, AnAbortNamesTheSeed) {
  EXPECT_DEATH(
      {
        SeedReport report("some_test");
        report.Running(1);
        report.Running(4711);
        SIMM_CHECK(false, "a broken invariant");
      },
      "replay with: SIMM_SIM_SEED=4711 build/tests/some_test");
}

}  // namespace
}  // namespace simm
