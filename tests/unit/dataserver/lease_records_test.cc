// The lease records in the index file, what is leased ahead, and lanes disowned by word.

#include "dataserver/lease_records.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <set>

#include "common/base/limits.h"
#include "dataserver/lease_table.h"
#include "dataserver/one_sided_state.h"
#include "tests/support/fake_clock.h"
#include "tests/support/wrapped_connection.h"

namespace simm::dataserver {
namespace {

using testing::IsEmpty;
using testing::SizeIs;
using Held = LeaseTable::Held;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kPool = 1ULL << 30;

class KnownProcess final : public transport::PeerProcess {
 public:
  bool Ended() const override { return ended; }
  std::string Name() const override { return "pid 4711"; }
  Identity identity() const override { return {4711, 123456}; }
  bool ended = false;
};

class LeaseRecordsTest : public testing::Test {
 protected:
  uint64_t Lease(const LeaseTable::LaneRef& lane, uint32_t count, uint32_t ahead = 0) {
    const auto admission = table_.Admit(lane, kMiB, count, ahead);
    extents_.clear();
    for (uint32_t i = 0; i < admission.count; ++i) {
      ++generation_;
      extents_.push_back({generation_, generation_ * kMiB, kMiB, 0});
    }
    return table_.Fill(lane, kMiB, admission.count, extents_, now_);
  }
  std::set<uint64_t> Recorded() const {
    std::set<uint64_t> generations;
    for (const auto& record : LeaseRecords::Read(area_)) generations.insert(record.generation);
    return generations;
  }

  std::vector<protocol::LeaseRecord> memory_ = std::vector<protocol::LeaseRecord>(64);
  MutableByteSpan area_{reinterpret_cast<std::byte*>(memory_.data()), 64 * 64};
  LeaseTable table_{kPool, 64, area_};
  Instant now_{1'000'000'000};
  std::vector<LeasedExtent> extents_;
  uint64_t generation_ = 0;
  LeasedExtent taken_;
};

TEST_F(LeaseRecordsTest, AGrantIsRecordedUntilItsCommitReturnOrEnd) {
  const uint64_t lease = Lease({.lane = 1, .process = nullptr, .session = 77, .tag = 9}, 5);
  EXPECT_EQ(Recorded(), (std::set<uint64_t>{1, 2, 3, 4, 5}));
  const auto records = LeaseRecords::Read(area_);
  EXPECT_EQ(records[0].session, 77u);
  EXPECT_EQ(records[0].lane_tag, 9u);
  EXPECT_EQ(records[0].offset, records[0].generation * kMiB);
  EXPECT_EQ(records[0].bytes, kMiB);
  EXPECT_EQ(records[0].owner_pid, 0u);
  EXPECT_EQ(records[0].flags, 0u) << "it can be cut off";
  ASSERT_EQ(table_.Take(1, lease, 2, 2 * kMiB, now_, &taken_), Held::kHeld);
  EXPECT_EQ(Recorded(), (std::set<uint64_t>{1, 3, 4, 5}));
  const protocol::LeaseRange range = {4 * kMiB, 4, kMiB, 2};
  ASSERT_TRUE(table_.TakeRanges(1, lease, {&range, 1}, now_).ok());
  EXPECT_EQ(Recorded(), (std::set<uint64_t>{1, 3}));
  EXPECT_THAT(table_.EndLane({.lane = 1, .process = nullptr}), SizeIs(2));
  EXPECT_THAT(Recorded(), IsEmpty());
}

TEST_F(LeaseRecordsTest, WhatADeadLaneLeftBehindNamesItsProcessUntilThatHasEnded) {
  const auto process = std::make_shared<KnownProcess>();
  Lease({.lane = 1, .process = process}, 3);
  EXPECT_THAT(table_.EndLane({.lane = 1, .process = process}), IsEmpty());
  const auto records = LeaseRecords::Read(area_);
  ASSERT_THAT(records, SizeIs(3));
  EXPECT_EQ(records[0].owner_pid, 4711u);
  EXPECT_EQ(records[0].owner_start_time, 123456u);
  EXPECT_EQ(records[0].flags, protocol::kLeaseOfMapping);
  EXPECT_NE(records[0].owner_namespace, 0u);
  process->ended = true;
  EXPECT_THAT(table_.TakeEnded(), SizeIs(3));
  EXPECT_THAT(Recorded(), IsEmpty());
}

TEST_F(LeaseRecordsTest, ATornOrDamagedRecordDoesNotCount) {
  Lease({.lane = 1, .process = nullptr}, 3);
  auto* const records = reinterpret_cast<protocol::LeaseRecord*>(area_.data());
  records[1].offset ^= 64;
  EXPECT_EQ(Recorded(), (std::set<uint64_t>{1, 3}));
  // A server killed while it wrote one: the generation comes last.
  records[0].generation = 0;
  EXPECT_EQ(Recorded(), (std::set<uint64_t>{3}));
}

TEST_F(LeaseRecordsTest, RecordsAreUsedAgain) {
  for (int round = 0; round < 50; ++round) {
    const uint64_t lease = Lease({.lane = 1, .process = nullptr}, 10);
    ASSERT_THAT(Recorded(), SizeIs(10));
    ASSERT_NE(lease, 0u);
    table_.EndLane({.lane = 1, .process = nullptr});
  }
}

// As a successor would: from the file, while the server runs and after it has been killed.
TEST_F(LeaseRecordsTest, TheIndexFileHoldsThem) {
  const std::string path = testing::TempDir() + "/simm-lease-records-" + std::to_string(getpid());
  const auto in_file = [&](const protocol::PoolGeometry& g) {
    std::ifstream file(path + ".index", std::ios::binary);
    std::vector<char> bytes(g.index_bytes);
    file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    const ByteSpan all(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size());
    return LeaseRecords::Read(
        all.subspan(g.leases_offset, g.lease_records * protocol::kLeaseRecordBytes));
  };
  FakeClock clock;
  auto pool = std::move(*Pool::Create(
      {.memory_bytes = 4 << 20, .mean_value_bytes = 4096, .path = path, .prefault = false}, clock));
  DataMetrics metrics;
  OneSidedState state(*pool, metrics);
  const LeaseTable::LaneRef lane = {.lane = 5, .process = nullptr, .session = 9};
  ASSERT_EQ(state.leases.Admit(lane, 4096, 3).count, 3u);
  EXPECT_THAT(in_file(pool->geometry()), IsEmpty()) << "nothing is told yet";
  const auto granted = *pool->GrantBlank(4096, 3);
  const uint64_t lease = state.leases.Fill(lane, 4096, 3, granted, clock.Now());
  const auto records = in_file(pool->geometry());
  ASSERT_THAT(records, SizeIs(3));
  EXPECT_EQ(records[0].session, 9u);
  std::set<uint64_t> offsets;
  for (const auto& record : records) offsets.insert(record.offset);
  for (const LeasedExtent& extent : granted) EXPECT_EQ(offsets.count(extent.offset), 1u);
  LeasedExtent taken;
  ASSERT_EQ(
      state.leases.Take(5, lease, granted[1].generation, granted[1].offset, clock.Now(), &taken),
      Held::kHeld);
  EXPECT_THAT(in_file(pool->geometry()), SizeIs(2));
  pool->AbandonBlank({&taken, 1});
  pool->AbandonBlank(state.leases.EndLane(lane));
  EXPECT_THAT(in_file(pool->geometry()), IsEmpty());
  for (const char* end : {".index", ".data", ".lock"}) (void)unlink((path + end).c_str());
}

// ---- a successor

TEST_F(LeaseRecordsTest, ASuccessorKeepsWhatLivingProcessesHoldUntilTheyEndOrDisownIt) {
  const auto process = std::make_shared<FakeProcess>("pid 7");
  Lease({.lane = 1, .process = process, .session = 1, .tag = 11}, 2);
  Lease({.lane = 2, .process = process, .session = 1, .tag = 12}, 3);
  Lease({.lane = 3, .process = nullptr, .session = 1, .tag = 13}, 1);
  std::vector<AdoptedGrant> grants;
  for (const auto& numbered : LeaseRecords::Sift(area_, [](const auto&) { return true; })) {
    const auto& record = numbered.record;
    grants.push_back(
        {{record.generation, record.offset, record.bytes, 0}, record, numbered.number});
  }
  ASSERT_THAT(grants, SizeIs(6));
  LeaseTable successor(kPool, 64, area_);
  const auto network = std::make_shared<FakeProcess>("network");
  successor.Adopt(grants, [&](const protocol::LeaseRecord& record) {
    return record.flags != 0 ? process : network;
  });
  EXPECT_EQ(successor.totals().bytes, 6 * kMiB);
  EXPECT_EQ(successor.totals().orphan_bytes, 6 * kMiB);
  EXPECT_THAT(successor.TakeEnded(), IsEmpty());
  // Records in use are not given to others.
  ASSERT_EQ(successor.Admit({.lane = 9, .process = nullptr}, kMiB, 1).count, 1u);
  const LeasedExtent more = {100, 100 * kMiB, kMiB, 0};
  successor.Fill({.lane = 9, .process = nullptr}, kMiB, 1, {&more, 1}, now_);
  EXPECT_THAT(Recorded(), SizeIs(7));
  EXPECT_THAT(successor.Disown({.lane = 9, .process = process, .session = 2, .tag = 1}, 11),
              SizeIs(2));
  EXPECT_THAT(Recorded(), SizeIs(5));
  network->ended = true;
  EXPECT_THAT(successor.TakeEnded(), SizeIs(1));
  process->ended = true;
  EXPECT_THAT(successor.TakeEnded(), SizeIs(3));
  EXPECT_EQ(successor.totals().orphan_bytes, 0u);
  EXPECT_THAT(Recorded(), SizeIs(1));
}

// ---- leases ahead

TEST(LeaseAheadTest, WhatIsAskedForAheadStaysWithinTheShareOfIdleLeases) {
  LeaseTable table(kPool, 1000);
  const uint64_t share = kPool / limits::kLeaseShare;  // 10.2 MiB
  EXPECT_EQ(table.Admit({1, nullptr}, kMiB, 12, 4).count, 8u + 2u) << "two more fit into it";
  EXPECT_EQ(table.Admit({1, nullptr}, kMiB, 4, 4).code, Code::kBusy);
  EXPECT_LE(table.totals().bytes, share);
  EXPECT_EQ(table.Admit({1, nullptr}, kMiB, 20, 5).count, 15u) << "what is needed goes beyond";
  EXPECT_EQ(table.Admit({1, nullptr}, kMiB, 1, 1).code, Code::kBusy);
}

TEST(LeaseAheadTest, AProcessKeepsHalfItsShareForPutsThatCannotWait) {
  const auto process = std::make_shared<FakeProcess>("pid 7");
  LeaseTable table(kPool, 1000);
  EXPECT_EQ(table.Admit({1, process}, kMiB, 20, 20).count, 5u);
  EXPECT_EQ(table.Admit({2, process}, kMiB, 20, 20).code, Code::kBusy);
  EXPECT_EQ(table.Admit({2, process}, kMiB, 5, 0).count, 5u) << "still over shared memory";
}

TEST(LeaseAheadTest, HalfTheRecordsAreForPutsThatCannotWait) {
  LeaseTable table(kPool, 100);
  EXPECT_EQ(table.Admit({1, nullptr}, 64, 90, 90).count, 50u);
  EXPECT_EQ(table.Admit({1, nullptr}, 64, 90, 0).count, 50u);
}

TEST(LeaseAheadTest, ARefusalOfWhatNobodyWaitsForStartsNoRecalls) {
  LeaseTable table(kPool, 1000);
  Instant now{1'000'000'000};
  ASSERT_EQ(table.Admit({1, nullptr}, kMiB, 10).count, 10u);
  std::vector<LeasedExtent> extents;
  for (uint64_t i = 0; i < 10; ++i) extents.push_back({i + 1, i * kMiB, kMiB, 0});
  table.Fill({1, nullptr}, kMiB, 10, extents, now);
  EXPECT_EQ(table.Admit({2, nullptr}, kMiB, 5, 5).code, Code::kBusy);
  now = now + 2 * limits::kLeaseIdle;
  table.StartRecalls(now, false);
  EXPECT_THAT(table.TakeRecalls(1, now), IsEmpty());
}

// ---- lanes disowned by word

class DisownTest : public LeaseRecordsTest {
 protected:
  const std::shared_ptr<FakeProcess> process_ = std::make_shared<FakeProcess>("pid 7");
  LeaseTable::LaneRef Lane(uint64_t id, uint64_t tag) const { return {id, process_, 1, tag}; }
};

TEST_F(DisownTest, ALaneGivesBackAllThatItHolds) {
  Lease(Lane(1, 11), 3);
  Lease(Lane(2, 12), 2);
  EXPECT_THAT(table_.Disown(Lane(1, 11), 0), SizeIs(3));
  EXPECT_EQ(table_.totals().bytes, 2 * kMiB);
  EXPECT_THAT(Recorded(), SizeIs(2));
  EXPECT_THAT(table_.EndLane(Lane(1, 11)), IsEmpty());
}

TEST_F(DisownTest, TheSameProcessDisownsWhatItsLostLaneHeld) {
  Lease(Lane(1, 11), 3);
  table_.EndLane(Lane(1, 11));
  EXPECT_THAT(table_.Disown({3, std::make_shared<FakeProcess>("pid 8"), 1, 1}, 11), IsEmpty())
      << "another process's word";
  EXPECT_THAT(table_.Disown({3, nullptr, 1, 1}, 11), IsEmpty());
  EXPECT_THAT(table_.Disown(Lane(2, 12), 13), IsEmpty()) << "another lane";
  EXPECT_EQ(table_.totals().orphan_bytes, 3 * kMiB);
  EXPECT_THAT(table_.Disown(Lane(2, 12), 11), SizeIs(3));
  EXPECT_EQ(table_.totals().bytes, 0u);
  EXPECT_EQ(table_.totals().orphan_bytes, 0u);
  EXPECT_THAT(Recorded(), IsEmpty());
}

TEST_F(DisownTest, ALaneThatIsDisownedBeforeItHasEndedIsFreedThenAndNotBefore) {
  Lease(Lane(1, 11), 2);
  EXPECT_THAT(table_.Disown(Lane(2, 12), 11), IsEmpty()) << "its connection is still open here";
  Lease(Lane(1, 11), 1);  // asked before, read only now
  EXPECT_EQ(table_.totals().bytes, 3 * kMiB);
  EXPECT_THAT(table_.EndLane(Lane(1, 11)), SizeIs(3));
  EXPECT_EQ(table_.totals().bytes, 0u);
}

}  // namespace
}  // namespace simm::dataserver
