#include "manager/event_log.h"

#include <gtest/gtest.h>

#include "common/base/limits.h"

namespace simm::manager {
namespace {

using rpc::EventKind;

TEST(EventLog, KeepsTheNewestInOrder) {
  EventLog log;
  for (uint64_t i = 1; i <= limits::kMaxEvents + 10; ++i) {
    log.Add(1000 + i, EventKind::kJoined, {{1, 1}, 1, i}, "s" + std::to_string(i), "text");
  }
  const auto all = log.List(0, 0);
  ASSERT_EQ(all.size(), limits::kMaxEvents);
  EXPECT_EQ(all.front().number, 11U);
  EXPECT_EQ(all.back().number, limits::kMaxEvents + 10);
  EXPECT_EQ(all.back().unix_ms, 1000 + limits::kMaxEvents + 10);
  EXPECT_EQ(log.List(all.back().number - 3, 0).size(), 3U);
  EXPECT_EQ(log.List(all.back().number - 3, 2).front().number, all.back().number - 1);
  EXPECT_TRUE(log.List(all.back().number, 0).empty());
  EXPECT_TRUE(log.List(UINT64_MAX, 5).empty());
}

TEST(EventLog, EpochsInARowShareOneEntry) {
  EventLog log;
  log.Add(1, EventKind::kDied, {{1, 1}, 1, 5}, "a", "");
  for (uint64_t epoch = 6; epoch <= 9; ++epoch) {
    log.Add(epoch, EventKind::kEpoch, {{1, 1}, 1, epoch}, "", "epoch " + std::to_string(epoch));
  }
  auto events = log.List(0, 0);
  ASSERT_EQ(events.size(), 2U);
  EXPECT_EQ(events[1].text, "epochs 6 to 9");
  EXPECT_EQ(events[1].number, 5U) << "who asks for what came after number 4 must see it";
  EXPECT_EQ(events[1].unix_ms, 9U);
  log.Add(10, EventKind::kReturned, {{1, 1}, 1, 9}, "a", "");
  log.Add(11, EventKind::kEpoch, {{1, 1}, 1, 10}, "", "epoch 10");
  events = log.List(0, 0);
  ASSERT_EQ(events.size(), 4U);
  EXPECT_EQ(events[3].text, "epoch 10");
}

}  // namespace
}  // namespace simm::manager
