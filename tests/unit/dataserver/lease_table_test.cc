#include "dataserver/lease_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "common/base/limits.h"
#include "dataserver/lane_table.h"
#include "dataserver/pin_table.h"
#include "tests/support/wrapped_connection.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;
using protocol::LeaseRange;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;
using Held = LeaseTable::Held;

constexpr uint64_t kPool = 100ULL << 30;
constexpr uint64_t kShare = kPool / 100;
constexpr uint64_t kMiB = 1 << 20;

class LeaseTableTest : public testing::Test {
 protected:
  // Admits and fills; the id of the lease, its extents are in extents_.
  uint64_t Lease(const LeaseTable::LaneRef& lane, uint64_t bytes, uint32_t count) {
    const auto admission = table_.Admit(lane, bytes, count);
    if (admission.code != Code::kOk) return 0;
    extents_.clear();
    for (uint32_t i = 0; i < admission.count; ++i) {
      extents_.push_back({++generation_, offset_, bytes, static_cast<uint32_t>(generation_)});
      offset_ = (offset_ + bytes) % (kPool / 2);
    }
    return table_.Fill(lane, bytes, admission.count, extents_, now_);
  }
  Held Take(uint64_t lane, uint64_t lease, const LeasedExtent& extent) {
    return table_.Take(lane, lease, extent.generation, extent.offset, now_, &taken_);
  }
  static LeaseRange RangeOf(const LeasedExtent& e, uint32_t count = 1) {
    return {e.offset, e.generation, e.bytes, count};
  }

  LeaseTable table_{kPool, 1000};
  Instant now_{1'000'000'000};
  std::vector<LeasedExtent> extents_;
  uint64_t generation_ = 0;
  uint64_t offset_ = 0;
  LeasedExtent taken_;
};

TEST_F(LeaseTableTest, AnExtentIsTakenOnceByItsOwnLane) {
  const uint64_t lease = Lease({1, nullptr}, kMiB, 3);
  ASSERT_THAT(extents_, SizeIs(3));
  EXPECT_EQ(table_.totals().bytes, 3 * kMiB);
  EXPECT_EQ(Take(2, lease, extents_[0]), Held::kNone) << "another lane";
  EXPECT_EQ(Take(1, lease + 1, extents_[0]), Held::kNone) << "another lease";
  LeasedExtent moved = extents_[0];
  moved.offset += 64;
  EXPECT_EQ(Take(1, lease, moved), Held::kMismatch);
  EXPECT_EQ(Take(1, lease, extents_[0]), Held::kHeld);
  EXPECT_EQ(taken_.extent, extents_[0].extent);
  EXPECT_EQ(Take(1, lease, extents_[0]), Held::kNone) << "taken";
  EXPECT_EQ(table_.totals().bytes, 2 * kMiB);
}

TEST_F(LeaseTableTest, WhatCouldNotBeGrantedIsGivenBack) {
  const auto admission = table_.Admit({1, nullptr}, kMiB, 5);
  ASSERT_EQ(admission.count, 5u);
  EXPECT_EQ(table_.totals().bytes, 5 * kMiB) << "reserved";
  EXPECT_EQ(table_.Fill({1, nullptr}, kMiB, 5, {}, now_), 0u);
  EXPECT_EQ(table_.totals().bytes, 0u);
  EXPECT_EQ(table_.totals().extents, 0u);
}

TEST_F(LeaseTableTest, BeyondOnePercentALaneHoldsWhatABatchNeeds) {
  ASSERT_NE(Lease({1, nullptr}, kShare, 1), 0u);
  // 64 MiB a lane, however much it asks for.
  ASSERT_NE(Lease({2, nullptr}, 10 * kMiB, 100), 0u);
  EXPECT_THAT(extents_, SizeIs(6));
  EXPECT_EQ(table_.Admit({2, nullptr}, 10 * kMiB, 1).code, Code::kBusy);
  // One extent that is larger.
  ASSERT_NE(Lease({3, nullptr}, 500 * kMiB, 4), 0u);
  EXPECT_THAT(extents_, SizeIs(1));
  EXPECT_EQ(table_.Admit({3, nullptr}, 500 * kMiB, 1).code, Code::kBusy);
}

TEST_F(LeaseTableTest, AllTogetherHoldAnEighthOfThePool) {
  uint64_t lane = 0;
  while (Lease({++lane, nullptr}, 64 * kMiB, 1) != 0) ASSERT_LT(lane, 1000u);
  EXPECT_LE(table_.totals().bytes, kPool / limits::kBatchShare);
  EXPECT_GT(table_.totals().bytes, kPool / limits::kBatchShare - 64 * kMiB);
}

TEST_F(LeaseTableTest, TheOnlyLeaseMayBeAnyExtentThatFitsThePool) {
  EXPECT_EQ(table_.Admit({1, nullptr}, kPool / 2, 3).count, 1u);
  EXPECT_EQ(table_.Admit({2, nullptr}, 64, 1).code, Code::kBusy);
}

TEST_F(LeaseTableTest, NumbersAreBounded) {
  EXPECT_EQ(table_.Admit({1, nullptr}, 64, 5000).count, 1000u) << "extents of the table";
  EXPECT_EQ(table_.Admit({2, nullptr}, 64, 1).code, Code::kBusy);
  LeaseTable many(kPool, 100'000);
  EXPECT_EQ(many.Admit({1, nullptr}, 64, 5000).count, limits::kMaxLeaseExtents);
  for (uint64_t i = 0; i < limits::kMaxLeasesPerLane; ++i) {
    const LeasedExtent extent = {i + 1, i * 64, 64, 0};
    ASSERT_EQ(many.Admit({2, nullptr}, 64, 1).code, Code::kOk);
    many.Fill({2, nullptr}, 64, 1, {&extent, 1}, now_);
  }
  EXPECT_EQ(many.Admit({2, nullptr}, 64, 1).code, Code::kBusy) << "leases of a lane";
}

TEST_F(LeaseTableTest, ReturnsFreeWhatIsStillThere) {
  const uint64_t lease = Lease({1, nullptr}, kMiB, 4);
  const auto all = extents_;
  ASSERT_EQ(Take(1, lease, all[1]), Held::kHeld);
  const LeaseRange range = RangeOf(all[0], 4);
  auto taken = table_.TakeRanges(1, lease, {&range, 1}, now_);
  ASSERT_TRUE(taken.ok());
  EXPECT_THAT(*taken, SizeIs(3));
  EXPECT_EQ(table_.totals().bytes, 0u);
  EXPECT_EQ(table_.totals().leases, 0u);
  taken = table_.TakeRanges(1, lease, {&range, 1}, now_);
  ASSERT_TRUE(taken.ok()) << "again: nothing left";
  EXPECT_THAT(*taken, IsEmpty());
}

TEST_F(LeaseTableTest, GarbageInAReturnTakesNothing) {
  const uint64_t lease = Lease({1, nullptr}, kMiB, 4);
  const LeaseRange good = RangeOf(extents_[0], 4);
  const auto refused = [&](uint64_t lane, uint64_t id, LeaseRange range) {
    const LeaseRange ranges[] = {RangeOf(extents_[0]), range};
    return table_.TakeRanges(lane, id, ranges, now_).code() == Code::kProtocolError;
  };
  LeaseRange bad = good;
  bad.offset += 64;
  EXPECT_TRUE(refused(1, lease, bad)) << "other offset";
  bad = good;
  bad.extent_bytes *= 2;
  EXPECT_TRUE(refused(1, lease, bad)) << "other size";
  bad = good;
  bad.count = UINT32_MAX;
  EXPECT_TRUE(refused(1, lease, bad)) << "beyond the pool";
  bad = good;
  bad.offset = UINT64_MAX - 63;
  EXPECT_TRUE(refused(1, lease, bad)) << "offset beyond the pool";
  bad = good;
  bad.first_generation = UINT64_MAX;
  EXPECT_TRUE(refused(1, lease, bad)) << "generations that wrap";
  EXPECT_TRUE(refused(2, lease, good)) << "lease of another lane";
  EXPECT_TRUE(refused(1, lease + 1, good)) << "lease that never was";
  EXPECT_TRUE(refused(1, 0, good)) << "no lease";
  EXPECT_EQ(table_.totals().bytes, 4 * kMiB);
}

TEST_F(LeaseTableTest, TheEndOfALaneTakesWhatItHeldAndNothingElse) {
  Lease({1, nullptr}, kMiB, 2);
  const auto first = extents_;
  Lease({1, nullptr}, 64, 1);
  const uint64_t other = Lease({2, nullptr}, kMiB, 1);
  EXPECT_THAT(table_.EndLane({1, nullptr}), SizeIs(3));
  EXPECT_THAT(table_.EndLane({1, nullptr}), IsEmpty());
  EXPECT_EQ(table_.totals().bytes, kMiB);
  EXPECT_EQ(Take(2, other, extents_[0]), Held::kHeld);
}

TEST_F(LeaseTableTest, TimeAloneFreesNothing) {
  const uint64_t lease = Lease({1, nullptr}, kMiB, 1);
  now_ = now_ + 24h;
  table_.StartRecalls(now_, true);
  EXPECT_THAT(table_.TakeEnded(), IsEmpty());
  EXPECT_EQ(Take(1, lease, extents_[0]), Held::kHeld);
}

TEST_F(LeaseTableTest, AProcessThatCannotBeCutOffKeepsItsExtentsUntilItEnds) {
  const auto process = std::make_shared<FakeProcess>("pid 7");
  Lease({1, process}, kMiB, 3);
  EXPECT_THAT(table_.EndLane({1, process}), IsEmpty());
  EXPECT_EQ(table_.totals().bytes, 3 * kMiB);
  EXPECT_EQ(table_.totals().orphan_bytes, 3 * kMiB);
  EXPECT_THAT(table_.TakeEnded(), IsEmpty());
  process->ended = true;
  EXPECT_THAT(table_.TakeEnded(), SizeIs(3));
  EXPECT_EQ(table_.totals().bytes, 0u);
  EXPECT_EQ(table_.totals().orphan_bytes, 0u);
}

TEST_F(LeaseTableTest, AProcessHoldsOnePercentOverAllItsLanesDeadOnesIncluded) {
  const auto one = std::make_shared<FakeProcess>("pid 7");
  const auto same = std::make_shared<FakeProcess>("pid 7");
  const auto other = std::make_shared<FakeProcess>("pid 8");
  ASSERT_NE(Lease({1, one}, kShare / 2, 1), 0u);
  table_.EndLane({1, one});
  ASSERT_NE(Lease({2, same}, kShare / 2, 5), 0u);
  EXPECT_THAT(extents_, SizeIs(1));
  EXPECT_EQ(table_.Admit({3, same}, kMiB * 100, 1).code, Code::kFailedPrecondition);
  EXPECT_EQ(table_.Admit({4, other}, kMiB, 1).code, Code::kOk);
}

TEST_F(LeaseTableTest, UnderPressureTheOldestAreRecalledAndMustAnswerInTwoSeconds) {
  const uint64_t lease = Lease({1, nullptr}, kMiB, 2);
  table_.StartRecalls(now_ + 900ms, true);
  EXPECT_THAT(table_.TakeRecalls(1, now_ + 900ms), IsEmpty()) << "in use a moment ago";
  now_ = now_ + 1s;
  table_.StartRecalls(now_, false);
  EXPECT_THAT(table_.TakeRecalls(1, now_), IsEmpty()) << "no pressure";
  table_.StartRecalls(now_, true);
  EXPECT_THAT(table_.TakeRecalls(2, now_), IsEmpty());
  EXPECT_THAT(table_.TakeRecalls(1, now_), ElementsAre(lease));
  EXPECT_THAT(table_.TakeRecalls(1, now_), IsEmpty()) << "once";
  EXPECT_FALSE(table_.Overdue(1, now_ + 1999ms));
  EXPECT_TRUE(table_.Overdue(1, now_ + 2s));
  now_ = now_ + 1s;
  ASSERT_EQ(Take(1, lease, extents_[0]), Held::kHeld);
  EXPECT_FALSE(table_.Overdue(1, now_ + 1h)) << "a commit is an answer";
}

TEST_F(LeaseTableTest, TooMuchLeasedIsRecalledFromTheLastToComeFirst) {
  const uint64_t early = Lease({1, nullptr}, kShare, 1);
  now_ = now_ + 1s;
  const uint64_t beyond = Lease({2, nullptr}, kMiB, 1);
  table_.StartRecalls(now_ + 3s, false);
  EXPECT_THAT(table_.TakeRecalls(2, now_ + 3s), IsEmpty()) << "not idle for 5 s yet";
  now_ = now_ + 5s;
  table_.StartRecalls(now_, false);
  EXPECT_THAT(table_.TakeRecalls(2, now_), ElementsAre(beyond));
  EXPECT_THAT(table_.TakeRecalls(1, now_), IsEmpty()) << "enough is asked back";
  (void)early;
}

TEST(LaneTableTest, ALaneIsClosedByItsDriverOnRequestOfAnotherOfTheSession) {
  LaneTable lanes(100);
  int woken = 0, told = 0;
  const auto target = lanes.Open(1, [&] { ++woken; });
  const auto waiter = lanes.Open(1, [&] { ++told; });
  const auto stranger = lanes.Open(2, {});
  EXPECT_EQ(target->id, 100u);
  EXPECT_EQ(lanes.RequestClose(target->id, *stranger), LaneTable::State::kForeign);
  EXPECT_EQ(lanes.RequestClose(waiter->id, *waiter), LaneTable::State::kForeign) << "itself";
  EXPECT_EQ(woken, 0);
  EXPECT_FALSE(target->must_close);
  EXPECT_EQ(lanes.RequestClose(target->id, *waiter), LaneTable::State::kOpen);
  EXPECT_TRUE(target->must_close);
  EXPECT_EQ(woken, 1);
  EXPECT_EQ(told, 0);
  lanes.Close(target->id);
  EXPECT_EQ(told, 1);
  EXPECT_EQ(lanes.RequestClose(target->id, *waiter), LaneTable::State::kGone);
  EXPECT_FALSE(lanes.IsOpen(target->id));
}

TEST(LaneTableTest, AWaiterThatHasGoneIsNotWoken) {
  LaneTable lanes(1);
  const auto target = lanes.Open(1, {});
  int told = 0;
  const auto waiter = lanes.Open(1, [&] { ++told; });
  lanes.RequestClose(target->id, *waiter);
  lanes.Close(waiter->id);
  lanes.Close(target->id);
  EXPECT_EQ(told, 0);
  EXPECT_EQ(lanes.size(), 0u);
}

PinnedValue Value(uint64_t generation, uint64_t bytes) {
  PinnedValue pinned;
  pinned.generation = generation;
  pinned.head = {static_cast<const std::byte*>(nullptr), 64};
  pinned.value = {static_cast<const std::byte*>(nullptr), bytes - 64};
  return pinned;
}

TEST(PinTableTest, EndsInTimeAndIsHeldOncePerSession) {
  PinTable pins(10'000'000);
  const Instant start{1000};
  EXPECT_EQ(pins.Add(1, Value(5, 640), start + 2s), PinTable::Added::kHeld);
  EXPECT_EQ(pins.Add(2, Value(5, 640), start + 2s), PinTable::Added::kHeld);
  EXPECT_EQ(pins.Add(1, Value(6, 640), start + 2s), PinTable::Added::kHeld);
  EXPECT_EQ(pins.Add(1, Value(5, 640), start + 3s), PinTable::Added::kExtended);
  EXPECT_EQ(pins.bytes(), 3 * 640u);
  EXPECT_THAT(pins.TakeEnded(start + 1s), IsEmpty());
  EXPECT_THAT(pins.TakeEnded(start + 2s), SizeIs(2));
  EXPECT_THAT(pins.TakeEnded(start + 3s), SizeIs(1));
  EXPECT_EQ(pins.bytes(), 0u);
  EXPECT_EQ(pins.size(), 0u);
}

TEST(PinTableTest, HoldsNoMoreThanItsShare) {
  PinTable pins(1000);
  EXPECT_EQ(pins.Add(1, Value(1, 640), {1}), PinTable::Added::kHeld);
  EXPECT_EQ(pins.Add(1, Value(2, 640), {1}), PinTable::Added::kRefused);
  EXPECT_EQ(pins.Add(1, Value(1, 640), {2}), PinTable::Added::kExtended);
  EXPECT_EQ(pins.Add(1, Value(3, 320), {3}), PinTable::Added::kHeld);
  EXPECT_THAT(pins.TakeAll(), SizeIs(2));
}

TEST(PinTableTest, HoldsNoMoreThanItsNumber) {
  PinTable pins(UINT64_MAX);
  for (size_t i = 0; i < limits::kMaxPins; ++i) {
    ASSERT_EQ(pins.Add(1, Value(i, 64), {1}), PinTable::Added::kHeld);
  }
  EXPECT_EQ(pins.Add(1, Value(limits::kMaxPins, 64), {1}), PinTable::Added::kRefused);
}

}  // namespace
}  // namespace simm::dataserver
