#include "dataserver/pull_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

#include "common/base/limits.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;

constexpr ServerId kSelf = 1;
constexpr Instant kStart{1'000'000'000};

std::shared_ptr<const RouteTable> Table(uint64_t epoch,
                                        const std::function<ShardOwner(uint32_t)>& row) {
  MapContents contents;
  contents.version = {{1, 2}, 1, epoch};
  for (ServerId id = 1; id <= 4; ++id) {
    ServerRecord record;
    record.id = id;
    record.name = "s" + std::to_string(id);
    record.control_address = record.data_address = "127.0.0.1:1";
    record.weight = 1;
    contents.servers.push_back(record);
  }
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) contents.owners.push_back(row(shard));
  return *RouteTable::Create(std::move(contents));
}

// Shards 0 to 9 come from server 2, 10 to 14 from 3, 20 to 22 go from here to 4.
ShardOwner Moving(uint32_t shard) {
  if (shard < 10) return {kSelf, 2};
  if (shard < 15) return {kSelf, 3};
  if (shard >= 20 && shard < 23) return {4, kSelf};
  return {kSelf, kNoServer};
}

TEST(PullPlan, OneJobASourceAndWhatIsDoneIsReported) {
  PullPlan plan;
  EXPECT_FALSE(plan.Next(kStart));
  EXPECT_EQ(plan.NextDue(), kForever);
  const auto table = Table(5, Moving);
  plan.OnTable(table, kSelf);
  EXPECT_EQ(plan.shards_left(), 15u);
  EXPECT_EQ(plan.pulling().size(), 15u);
  EXPECT_EQ(plan.leaving(), (std::vector<uint32_t>{20, 21, 22}));
  const auto first = plan.Next(kStart);
  const auto second = plan.Next(kStart);
  ASSERT_TRUE(first && second);
  EXPECT_NE(first->source.id, second->source.id);
  EXPECT_EQ(first->shard_count + second->shard_count, 15u);
  EXPECT_FALSE(plan.Next(kStart)) << "both are under way";
  EXPECT_TRUE(plan.Pulled(*table).empty());
  const PullJob& of_two = first->source.id == 2 ? *first : *second;
  plan.Done(of_two);
  EXPECT_EQ(plan.Pulled(*table).size(), 10u);
  EXPECT_EQ(plan.shards_left(), 5u);
  EXPECT_EQ(plan.pulling().size(), 15u) << "until the rows have no source";
  EXPECT_FALSE(plan.Next(kStart));
  // E+2.
  const auto next = Table(6, [](uint32_t shard) {
    return shard < 10 ? ShardOwner{kSelf, kNoServer} : Moving(shard);
  });
  plan.OnTable(next, kSelf);
  EXPECT_TRUE(plan.Pulled(*next).empty());
  EXPECT_EQ(plan.pulling().size(), 5u);
}

TEST(PullPlan, AFailingSourceIsTriedLessOftenAndDoesNotHoldUpOthers) {
  PullPlan plan;
  plan.OnTable(Table(5, Moving), kSelf);
  Instant now = kStart;
  Duration last_pause{};
  for (int i = 0; i < 10; ++i) {
    std::optional<PullJob> job;
    while ((job = plan.Next(now)) && job->source.id != 2) plan.Done(*job);
    ASSERT_TRUE(job);
    plan.Failed(*job, now);
    const Duration pause = plan.NextDue() - now;
    EXPECT_GE(pause, last_pause);
    EXPECT_LE(pause, limits::kPullRetryMax);
    last_pause = pause;
    EXPECT_FALSE(plan.Next(now + pause - 1ns) && plan.shards_left() == 10);
    now = now + pause;
  }
  EXPECT_EQ(last_pause, Duration(limits::kPullRetryMax));
  EXPECT_EQ(plan.shards_left(), 10u) << "the other source is done";
  auto job = plan.Next(now);
  ASSERT_TRUE(job);
  plan.NotReady(*job, now);
  EXPECT_EQ(plan.NextDue() - now, Duration(limits::kPullRetryMin)) << "not ready is no failure";
}

TEST(PullPlan, WhatChangesUnderAJobIsNotReported) {
  PullPlan plan;
  plan.OnTable(Table(5, Moving), kSelf);
  auto job = plan.Next(kStart);
  auto other = plan.Next(kStart);
  if (job->source.id != 2) std::swap(job, other);
  // Shard 3 has another source by now, 4 has none, 30 comes from 2 as well.
  const auto next = Table(6, [](uint32_t shard) {
    if (shard == 3) return ShardOwner{kSelf, 4};
    if (shard == 4) return ShardOwner{kSelf, kNoServer};
    if (shard == 30) return ShardOwner{kSelf, 2};
    return Moving(shard);
  });
  plan.OnTable(next, kSelf);
  plan.Done(*job);
  const auto pulled = plan.Pulled(*next);
  EXPECT_EQ(pulled.size(), 8u);
  EXPECT_EQ(std::count(pulled.begin(), pulled.end(), 3u), 0);
  EXPECT_EQ(std::count(pulled.begin(), pulled.end(), 30u), 0);
  plan.Done(*other);
  std::vector<ServerId> asked;
  while (const auto again = plan.Next(kStart)) {
    asked.push_back(again->source.id);
    EXPECT_EQ(again->shard_count, 1u);
    plan.Done(*again);
  }
  std::sort(asked.begin(), asked.end());
  EXPECT_EQ(asked, (std::vector<ServerId>{2, 4}));
  EXPECT_EQ(plan.shards_left(), 0u);
}

TEST(PullPlan, AnotherIdBeginsAnewAndAJobOfTheOldOneSaysNothing) {
  PullPlan plan;
  plan.OnTable(Table(5, Moving), kSelf);
  const auto job = plan.Next(kStart);
  plan.OnTable(Table(6, Moving), kNoServer);
  EXPECT_EQ(plan.shards_left(), 0u);
  plan.Done(*job);
  plan.Failed(*job, kStart);
  const auto table = Table(7, Moving);
  plan.OnTable(table, kSelf);
  EXPECT_EQ(plan.shards_left(), 15u);
  EXPECT_TRUE(plan.Pulled(*table).empty());
}

TEST(Throttle, LetsBytesPassAtItsRate) {
  Throttle throttle(1000);
  Instant now = kStart;
  Duration waited{};
  for (int i = 0; i < 50; ++i) {
    const Duration wait = throttle.Take(100, now);
    now = now + wait;
    waited += wait;
  }
  EXPECT_EQ(waited, 4800ms) << "50 times 100 ms, but for what may pass at once";
  now = now + 60s;
  EXPECT_EQ(throttle.Take(100, now), 0ns);
  EXPECT_EQ(throttle.Take(100'000, now), 0ns) << "rest is no credit beyond 100 ms";
  EXPECT_EQ(throttle.Take(1, now), 100s);
  Throttle open(0);
  EXPECT_EQ(open.Take(UINT64_MAX, now), 0ns);
}

TEST(RestAfter, IsThreeTimesTheWorkAndBounded) {
  EXPECT_EQ(RestAfter(0ns), 0ns);
  EXPECT_EQ(RestAfter(2ms), 6ms);
  EXPECT_EQ(RestAfter(10s), 50ms) << "a source that was paused";
  EXPECT_EQ(RestAfter(-1ms), 0ns);
}

}  // namespace
}  // namespace simm::dataserver
