#include "common/rpc/map_codec.h"

#include <gtest/gtest.h>

#include "common/base/random.h"
#include "manager/placement.h"
#include "tests/unit/rpc/sample_map.h"

namespace simm::rpc {
namespace {

// The map of a cluster of `count` servers as the manager places it, and of one more.
std::pair<Table, Table> BeforeAndAfterJoin(uint32_t count) {
  std::vector<manager::PlacementServer> servers;
  for (ServerId id = 1; id <= count; ++id) servers.push_back({id, 1ULL << 30, true});
  const manager::Placement before = manager::Place({}, servers);
  servers.push_back({count + 1, 1ULL << 30, true});
  const manager::Placement after = manager::Place(before, servers);
  return {SampleMap(1, count, before.owners), SampleMap(2, count + 1, after.owners)};
}

TEST(MapCodec, ASnapshotSurvivesTheWire) {
  for (const uint32_t count : {0U, 1U, 2U, 3U, 200U}) {
    const Table table = SampleMap(9, count);
    Result<MapUpdate> update = DecodeUpdate(EncodeSnapshot(*table, true));
    ASSERT_TRUE(update.ok()) << update.status().ToString();
    ASSERT_NE(update->snapshot, nullptr);
    EXPECT_TRUE(update->from_manager);
    ExpectSame(*update->snapshot, *table);
  }
}

TEST(MapCodec, ReplicasAndSourcesSurviveTheWire) {
  MapContents contents = SampleMap(9, 5)->contents();
  contents.replicas = 3;
  contents.owners.clear();
  for (uint32_t i = 0; i < limits::kShards; ++i) {
    contents.owners.insert(contents.owners.end(), {{2, kNoServer}, {5, kNoServer}, {}});
  }
  contents.owners[300] = {1, 4};
  const Table table = *RouteTable::Create(contents);
  ExpectSame(*DecodeUpdate(EncodeSnapshot(*table, false))->snapshot, *table);
  contents.owners[302] = {3, 5};
  contents.version.epoch = 10;
  const Table next = *RouteTable::Create(contents);
  Result<MapUpdate> update = DecodeUpdate(EncodeDiff(next->DiffFrom(*table), false));
  ASSERT_TRUE(update.ok());
  ExpectSame(**table->Apply(*update->diff), *next);
}

TEST(MapCodec, ADiffSurvivesTheWireAndIsSmall) {
  const auto [before, after] = BeforeAndAfterJoin(1000);
  const std::string bytes = EncodeDiff(after->DiffFrom(*before), true);
  std::printf("a join at 1000 servers: diff of %zu B, snapshot of %zu B; snapshot at 3: %zu B\n",
              bytes.size(), EncodeSnapshot(*after, true).size(),
              EncodeSnapshot(*SampleMap(1, 3), true).size());
  EXPECT_LT(bytes.size(), 8192U);
  Result<MapUpdate> update = DecodeUpdate(bytes);
  ASSERT_TRUE(update.ok());
  ExpectSame(**before->Apply(*update->diff), *after);
}

TEST(MapCodec, GarbageIsRefusedOrHarmless) {
  Random random(3);
  const std::string snapshot = EncodeSnapshot(*SampleMap(1, 3), true);
  const std::string diff = EncodeDiff(SampleMap(2, 4)->DiffFrom(*SampleMap(1, 3)), true);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes = i % 2 == 0 ? snapshot : diff;
    const size_t reach = std::min<size_t>(bytes.size(), 600);
    for (uint64_t k = random.Below(4); k <= 4; ++k) {
      bytes[random.Below(reach)] = static_cast<char>(random());
    }
    if (random.OneIn(3)) bytes.resize(random.Below(bytes.size()));
    (void)DecodeUpdate(bytes);  // no crash, nothing for the sanitizers
  }
  EXPECT_EQ(DecodeUpdate("").code(), Code::kProtocolError);
  EXPECT_EQ(DecodeUpdate("garbage").code(), Code::kProtocolError);
}

}  // namespace
}  // namespace simm::rpc
