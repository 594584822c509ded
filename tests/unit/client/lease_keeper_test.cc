#include "client/lease_keeper.h"

#include <gtest/gtest.h>

namespace simm::client {
namespace {

using namespace std::chrono_literals;

constexpr uint64_t kMiB = 1 << 20;

class LeaseKeeperTest : public testing::Test {
 protected:
  // A wave of `used`; what is asked for is granted, the number of it is returned.
  uint32_t Wave(uint64_t bytes, uint32_t used, uint32_t next = 0, bool grant = true) {
    for (uint32_t i = 0; i < used; ++i) (void)keeper_.Take(bytes);
    last_ = keeper_.Refill(bytes, used, next, now_);
    if (last_.count == 0) return 0;
    keeper_.Asked(++id_, last_);
    EXPECT_TRUE(keeper_.Awaits(id_));
    EXPECT_TRUE(keeper_.Awaiting(bytes));
    protocol::LeaseReply reply = {.code = Code::kOk, .lease = ++lease_, .lane = 1, .ranges = {}};
    if (grant) {
      reply.ranges.push_back({offset_, generation_, bytes, last_.count});
      offset_ += bytes * last_.count;
      generation_ += last_.count;
    }
    EXPECT_TRUE(keeper_.OnReply(id_, reply, now_).ok());
    EXPECT_FALSE(keeper_.Awaiting(bytes));
    return last_.count;
  }
  static uint64_t Extents(const LeaseKeeper::Returns& returns) {
    uint64_t n = 0;
    for (const auto& request : returns) n += request.ranges.size();
    return n;
  }

  LeaseKeeper keeper_;
  Instant now_{1'000'000'000};
  protocol::LeaseRequest last_;
  uint64_t id_ = 0, lease_ = 0, offset_ = 0, generation_ = 100;
};

TEST_F(LeaseKeeperTest, TheFirstUseOfASizeTakesNothingAheadTheSecondWhatItUsed) {
  EXPECT_EQ(Wave(2 * kMiB, 4), 0u);
  EXPECT_EQ(Wave(2 * kMiB, 4), 4u);
  EXPECT_EQ(last_.ahead, 4u) << "nobody waits for them";
  EXPECT_EQ(keeper_.idle_bytes(), 8 * kMiB);
  const auto extent = keeper_.Take(2 * kMiB);
  ASSERT_TRUE(extent.has_value());
  EXPECT_EQ(extent->lease, lease_);
  EXPECT_EQ(extent->generation - 100, extent->offset / (2 * kMiB)) << "they agree";
  EXPECT_FALSE(keeper_.Take(kMiB).has_value()) << "another size";
}

TEST_F(LeaseKeeperTest, WhatTheNextWaveOfACallNeedsIsNotAhead) {
  EXPECT_EQ(Wave(2 * kMiB, 8, 5), 5u);
  EXPECT_EQ(last_.ahead, 0u);
  EXPECT_EQ(Wave(2 * kMiB, 5, 0), 5u) << "and then for the next call";
  EXPECT_EQ(last_.ahead, 5u);
}

TEST_F(LeaseKeeperTest, SmallValuesGrowToAMebibyteAndAreRefilledByHalves) {
  uint32_t asked = 0, asks = 0;
  for (int i = 0; i < 1000; ++i) {
    const uint32_t n = Wave(4096, 1);
    asked += n;
    asks += n > 0 ? 1 : 0;
    ASSERT_LE(keeper_.idle_bytes(), limits::kAheadBytes);
  }
  EXPECT_GE(asked, 990u);
  EXPECT_LE(asks, 40u) << "not one LEASE for each put";
}

TEST_F(LeaseKeeperTest, AllSizesTogetherStayWithinTheirBound) {
  for (int round = 0; round < 5; ++round) {
    for (uint64_t size = 1; size <= 6; ++size) Wave(size * kMiB, 5);
  }
  EXPECT_LE(keeper_.idle_bytes(), limits::kIdleLeaseBytes);
  EXPECT_GT(keeper_.idle_bytes(), limits::kIdleLeaseBytes / 2);
}

TEST_F(LeaseKeeperTest, AServerThatRefusesIsLeftInPeaceForASecond) {
  Wave(kMiB, 2);
  EXPECT_GT(Wave(kMiB, 2, 0, false), 0u);
  EXPECT_EQ(keeper_.idle_bytes(), 0u);
  EXPECT_EQ(Wave(kMiB, 2), 0u);
  EXPECT_EQ(Wave(kMiB, 2, 3), 3u) << "what is needed is asked for all the same";
  EXPECT_EQ(last_.ahead, 0u);
  keeper_.TakeAll();
  now_ = now_ + limits::kAheadPause;
  EXPECT_GT(Wave(kMiB, 2), 0u);
}

TEST_F(LeaseKeeperTest, WhatLiesUnusedGoesBackAndTheHabitIsForgotten) {
  Wave(kMiB, 3);
  Wave(kMiB, 3);
  Wave(2 * kMiB, 3);
  Wave(2 * kMiB, 3);
  now_ = now_ + limits::kLeaseIdle - 1ms;
  EXPECT_TRUE(keeper_.TakeUnused(now_).empty());
  Wave(kMiB, 1);
  now_ = now_ + 1ms;
  EXPECT_EQ(Extents(keeper_.TakeUnused(now_)), 3u) << "of the one size alone";
  EXPECT_EQ(keeper_.Idle(2 * kMiB), 0u);
  now_ = now_ + limits::kLeaseIdle;
  EXPECT_GT(Extents(keeper_.TakeUnused(now_)), 0u);
  EXPECT_TRUE(keeper_.empty());
  EXPECT_EQ(Wave(kMiB, 3), 0u) << "as at the first time";
}

TEST_F(LeaseKeeperTest, ARecallTakesWhatIsLeftOfThatLease) {
  Wave(kMiB, 3);
  Wave(kMiB, 3);
  const uint64_t first = lease_;
  (void)keeper_.Take(kMiB);
  EXPECT_TRUE(keeper_.TakeLease(first + 1).empty());
  const auto returns = keeper_.TakeLease(first);
  ASSERT_EQ(returns.size(), 1u);
  EXPECT_EQ(returns[0].lease, first);
  EXPECT_EQ(returns[0].ranges.size(), 2u);
  EXPECT_EQ(keeper_.idle_bytes(), 0u);
}

TEST_F(LeaseKeeperTest, ReturnsFitIntoMessages) {
  for (int i = 0; i < 300; ++i)
    keeper_.Keep({.lease = 9, .offset = i * kMiB, .generation = i + 1ull, .bytes = kMiB}, now_);
  const auto returns = keeper_.TakeAll();
  EXPECT_EQ(returns.size(), 3u);
  EXPECT_EQ(Extents(returns), 300u);
  protocol::MessageBuffer buffer;
  for (const auto& request : returns) {
    protocol::ReturnRequest decoded;
    EXPECT_TRUE(protocol::Decode(protocol::Encode(request, buffer), &decoded).ok());
  }
}

TEST_F(LeaseKeeperTest, AnAnswerOfAnotherSizeOrNumberIsRefused) {
  const auto answer = [&](uint64_t bytes, uint32_t count) {
    protocol::LeaseRequest request;
    request.extent_bytes = kMiB;
    request.count = 2;
    keeper_.Asked(++id_, request);
    return keeper_
        .OnReply(id_, {.code = Code::kOk, .lease = 1, .lane = 1, .ranges = {{0, 1, bytes, count}}},
                 now_)
        .code();
  };
  EXPECT_EQ(answer(2 * kMiB, 2), Code::kProtocolError);
  EXPECT_EQ(answer(kMiB, 3), Code::kProtocolError);
  EXPECT_EQ(answer(kMiB, 2), Code::kOk);
  EXPECT_EQ(keeper_.OnReply(id_ + 7, {}, now_).code(), Code::kProtocolError);
}

}  // namespace
}  // namespace simm::client
