#include "common/rpc/map_follower.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "common/rpc/map_source.h"
#include "manager/servers_first.h"
#include "tests/unit/rpc/sample_map.h"

namespace simm::rpc {
namespace {

using namespace std::chrono_literals;

MapUpdate Snapshot(Table table) {
  MapUpdate update;
  update.snapshot = std::move(table);
  return update;
}
MapUpdate Diff(const Table& from, const Table& to) {
  MapUpdate update;
  update.diff = std::make_unique<MapDiff>(to->DiffFrom(*from));
  return update;
}

TEST(WatchBackoff, GrowsToASecondAndIsFullJitter) {
  Random random(1);
  WatchBackoff backoff;
  Duration most = 0ns;
  std::set<Duration> seen;
  for (int i = 0; i < 200; ++i) {
    const Duration pause = backoff.Next(false, random);
    EXPECT_TRUE(i > 0 || pause < WatchBackoff::kMin);
    EXPECT_GE(pause, 0ns);
    EXPECT_LT(pause, WatchBackoff::kMax);
    most = std::max(most, pause);
    seen.insert(pause);
  }
  EXPECT_GT(most, 900ms);
  EXPECT_GT(seen.size(), 190u);
  EXPECT_LT(backoff.Next(true, random), WatchBackoff::kMin);
}

TEST(MapFollower, TakesSnapshotsAndDiffsAndNamesWhatItHolds) {
  const Table first = SampleMap(1, 3), second = SampleMap(2, 3);
  MapFollower follower;
  EXPECT_FALSE(follower.BeginStream().has_value());
  EXPECT_TRUE(*follower.Take(*follower.Read(Snapshot(first), "m"), "m"));
  EXPECT_TRUE(*follower.Take(*follower.Read(Diff(first, second), "m"), "m"));
  EXPECT_EQ(follower.held()->version(), second->version());
  EXPECT_FALSE(*follower.Take(second, "m")) << "no news";
  EXPECT_EQ(*follower.BeginStream(), second->version());
}

TEST(MapFollower, AGapMakesTheNextStreamBeginWithASnapshotOnce) {
  const Table first = SampleMap(1, 3), second = SampleMap(2, 3), third = SampleMap(3, 3);
  MapFollower follower;
  EXPECT_EQ(follower.Read(Diff(first, second), "m").status().code(), Code::kFailedPrecondition);
  ASSERT_TRUE(follower.Take(*follower.Read(Snapshot(first), "m"), "m").ok());
  EXPECT_EQ(follower.Read(Diff(second, third), "m").status().code(), Code::kFailedPrecondition);
  EXPECT_FALSE(follower.BeginStream().has_value());
  EXPECT_EQ(*follower.BeginStream(), first->version());
}

TEST(MapFollower, RefusesOlderMapsAndOtherClusters) {
  MapFollower follower;
  ASSERT_TRUE(follower.Take(SampleMap(5, 3), "m").ok());
  EXPECT_EQ(follower.Take(SampleMap(4, 3), "m").status().code(), Code::kFailedPrecondition);
  MapContents other = SampleMap(9, 3)->contents();
  other.version.cluster = {77, 77};
  EXPECT_EQ(follower.Take(*RouteTable::Create(std::move(other)), "m").status().code(),
            Code::kWrongCluster);
  EXPECT_EQ(follower.held()->version().epoch, 5u);
}

TEST(ServersFirst, HoldsBackClientsUntilAllHaveAppliedOrTheTimeIsOver) {
  MapBoard board(true);
  manager::ServersFirst publication(board);
  const Instant start{1'000'000'000};
  bool applied = false;
  const auto all = [&] { return applied; };
  publication.Publish(SampleMap(1, 3), start);
  publication.PublishIfDue(start, all);
  EXPECT_NE(board.Current(WatcherKind::kServer), nullptr);
  EXPECT_EQ(board.Current(WatcherKind::kClient), nullptr);
  applied = true;
  publication.PublishIfDue(start + 1ms, all);
  EXPECT_EQ(board.Current(WatcherKind::kClient)->version().epoch, 1u);
  EXPECT_EQ(publication.clients_at(), kForever);
  applied = false;
  publication.Publish(SampleMap(2, 3), start + 1s);
  publication.Publish(SampleMap(3, 3), start + 1s + 400ms);  // does not put the clients off
  publication.PublishIfDue(start + 1s + limits::kServersFirst - 1ms, all);
  EXPECT_EQ(board.Current(WatcherKind::kClient)->version().epoch, 1u);
  publication.PublishIfDue(start + 1s + limits::kServersFirst, all);
  EXPECT_EQ(board.Current(WatcherKind::kClient)->version().epoch, 3u);
}

}  // namespace
}  // namespace simm::rpc
