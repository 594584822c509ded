#include "dataserver/lru_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/base/random.h"

namespace simm::dataserver {
namespace {

using ::testing::ElementsAre;

std::vector<uint32_t> Order(const LruPolicy& policy, size_t limit = 1000) {
  std::vector<uint32_t> out(limit);
  out.resize(policy.Coldest(out));
  return out;
}

TEST(LruPolicy, ColdestFirstAndTouchMakesHottest) {
  LruPolicy policy;
  for (uint32_t i = 0; i < 4; ++i) policy.OnInsert(i, Instant{10 + i});
  EXPECT_THAT(Order(policy), ElementsAre(0, 1, 2, 3));
  policy.OnTouch(1, Instant{50});
  policy.OnTouch(0, Instant{60});
  policy.OnTouch(0, Instant{61});
  EXPECT_THAT(Order(policy), ElementsAre(2, 3, 1, 0));
  EXPECT_THAT(Order(policy, 2), ElementsAre(2, 3));
  EXPECT_EQ(policy.LastUse(1), Instant{50});
  EXPECT_TRUE(policy.Check().ok());
}

TEST(LruPolicy, RemovesAtBothEndsAndInTheMiddle) {
  LruPolicy policy;
  for (uint32_t i = 0; i < 5; ++i) policy.OnInsert(i, Instant{});
  policy.OnRemove(0);
  policy.OnRemove(4);
  policy.OnRemove(2);
  EXPECT_THAT(Order(policy), ElementsAre(1, 3));
  policy.OnRemove(1);
  policy.OnRemove(3);
  EXPECT_EQ(policy.size(), 0u);
  EXPECT_THAT(Order(policy), ElementsAre());
  EXPECT_TRUE(policy.Check().ok());
}

TEST(LruPolicy, HeatGoesFromZeroToOne) {
  LruPolicy policy;
  policy.OnInsert(0, Instant{});
  EXPECT_EQ(policy.Heat(0), 0.0);
  for (uint32_t i = 1; i <= 100; ++i) policy.OnInsert(i, Instant{});
  EXPECT_EQ(policy.Heat(0), 0.0);
  EXPECT_DOUBLE_EQ(policy.Heat(50), 0.5);
  EXPECT_EQ(policy.Heat(100), 1.0);
  policy.OnTouch(0, Instant{});
  EXPECT_EQ(policy.Heat(0), 1.0);
  EXPECT_EQ(policy.Heat(1), 0.0);
}

TEST(LruPolicy, AgreesWithAVector) {
  Random random(3);
  LruPolicy policy;
  std::vector<uint32_t> model;
  for (int step = 0; step < 20000; ++step) {
    const uint32_t extent = static_cast<uint32_t>(random.Below(200));
    const auto at = std::find(model.begin(), model.end(), extent);
    if (at == model.end()) {
      policy.OnInsert(extent, Instant{step});
      model.push_back(extent);
    } else if (random.OneIn(3)) {
      policy.OnRemove(extent);
      model.erase(at);
    } else {
      policy.OnTouch(extent, Instant{step});
      model.erase(at);
      model.push_back(extent);
    }
    if (step % 500 == 0) {
      ASSERT_EQ(Order(policy), model);
      ASSERT_TRUE(policy.Check().ok());
    }
  }
}

}  // namespace
}  // namespace simm::dataserver
