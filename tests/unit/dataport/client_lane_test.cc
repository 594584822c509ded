// A client's lane and the extents that it holds, against a DataSession: what it keeps, and what it
// gives back when nobody waits for it any more.

#include <gtest/gtest.h>

#include "client/lane.h"
#include "client/one_sided_put.h"
#include "tests/support/one_sided_fixture.h"

namespace simm {
namespace {

class ClientLaneTest : public OneSidedTest {
 protected:
  ClientLaneTest() {
    auto pool = std::make_shared<client::PoolAccess>();
    pool->data = wire_->data;
    pool->lost = lost_;
    auto near = wire_->transport.Connect("server", {session_, pool_->incarnation()}, 1s);
    lane_ = std::make_unique<client::Lane>(std::move(*near), session_, pool);
    server_ = std::make_unique<DataSession>(*context_, wire_->acceptor->Accept());
    item_.key = "k";
    item_.hash = HashOfKey("k");
    item_.value = value_.data();
    item_.size = value_.size();
    shape_.type = protocol::MessageType::kPut;
  }
  void Settle() {
    for (int i = 0; i < 4000; ++i) {
      lane_->connection().Progress();
      if (server_ && !server_->Progress()) server_.reset();
    }
  }
  // A put that has got its extent when its call runs out of time.
  void PutThatGivesUpWithItsExtent() {
    client::OneSidedPut put(shape_, {&item_}, stats_);
    lane_->Attach(&put);
    ASSERT_TRUE(put.Begin(*lane_).ok());
    Settle();
    ASSERT_EQ(Granted(), BytesFor("k"));
    put.GiveUp();
    lane_->Detach();
  }
  void Recall() {
    clock_.Advance(2 * limits::kLeaseIdle);
    sessions_->Touch(session_);
    state_->leases.StartRecalls(clock_.Now(), true);
    server_->Tick(clock_.Now());
    ASSERT_EQ(metrics_.recalls.load(), 1u);
  }

  const std::shared_ptr<client::LostLanes> lost_ = std::make_shared<client::LostLanes>();
  client::StatsCounters stats_;
  std::vector<std::byte> value_ = std::vector<std::byte>(kValue);
  client::CallItem item_;
  client::CallShape shape_;
  std::unique_ptr<DataSession> server_;
  std::unique_ptr<client::Lane> lane_;
};

TEST_F(ClientLaneTest, AnExtentThatWasNotWrittenIsKeptAtHandForFiveSeconds) {
  PutThatGivesUpWithItsExtent();
  Settle();
  EXPECT_EQ(Granted(), BytesFor("k"));
  EXPECT_EQ(lane_->leases().Idle(BytesFor("k")), 1u);
  lane_->Tend(MonotonicClock::Get().Now() + limits::kLeaseIdle - 1s);
  Settle();
  EXPECT_EQ(Granted(), BytesFor("k"));
  lane_->Tend(MonotonicClock::Get().Now() + limits::kLeaseIdle);
  Settle();
  EXPECT_EQ(Granted(), 0u) << "unused for long";
}

TEST_F(ClientLaneTest, ARecallOfAnIdleLaneIsAnswered) {
  PutThatGivesUpWithItsExtent();
  Recall();
  Settle();
  EXPECT_EQ(Granted(), 0u);
  EXPECT_TRUE(server_) << "the lane lives on";
  EXPECT_EQ(lane_->leases().Idle(BytesFor("k")), 0u);
}

TEST_F(ClientLaneTest, ARecallInTheMiddleOfACallIsAnsweredToo) {
  PutThatGivesUpWithItsExtent();
  item_.size = 100;  // of another size: a LEASE of its own
  client::OneSidedPut other(shape_, {&item_}, stats_);
  lane_->Attach(&other);
  Recall();
  ASSERT_TRUE(other.Begin(*lane_).ok());
  Settle();
  EXPECT_FALSE(other.failed());
  EXPECT_EQ(Granted(), protocol::ExtentBytes(1, 100)) << "what the call has got stays its own";
  lane_->Detach();
}

TEST_F(ClientLaneTest, TheAnswerToALeaseWhoseCallHasGoneIsReturned) {
  {
    client::OneSidedPut put(shape_, {&item_}, stats_);
    lane_->Attach(&put);
    ASSERT_TRUE(put.Begin(*lane_).ok());
    while (put.unsent()) lane_->connection().Progress();
    put.GiveUp();
    lane_->Detach();
  }
  Settle();
  EXPECT_EQ(metrics_.leased_extents.load(), 1u);
  EXPECT_EQ(Granted(), 0u);
  EXPECT_EQ(metrics_.returned_extents.load(), 1u);
}

// Of a session that is not this lane's, nobody can be asked.
TEST_F(ClientLaneTest, APutInDoubtThatCannotBeAskedAboutStartsAnewUnlessItReplaces) {
  for (const bool replace : {false, true}) {
    client::CallItem item = item_;
    item.doubt = {.session = session_ + 1, .lane = 3, .generation = 5};
    shape_.replace = replace;
    const auto exchange = client::MakeExchange(shape_, {&item}, stats_, *lane_);
    EXPECT_EQ(item.done, replace) << "its old COMMIT might come after a later replacement";
    EXPECT_EQ(exchange->items().size(), replace ? 0u : 1u);
    EXPECT_FALSE(exchange->in_doubt());
    if (replace) {
      EXPECT_EQ(item.result.code, Code::kUnavailable);
    }
    lane_->Attach(exchange.get());
    EXPECT_TRUE(exchange->Begin(*lane_).ok());
    EXPECT_EQ(exchange->finished(), replace);
    Settle();
    exchange->GiveUp();
    lane_->Detach();
  }
  EXPECT_EQ(stats_.resolves.load(), 0u);
}

TEST_F(ClientLaneTest, ALaneThatClosesSaysThatItHoldsNothingAndIsDisownedBesides) {
  PutThatGivesUpWithItsExtent();
  lane_->Close();
  lane_.reset();
  EXPECT_FALSE(lost_->empty()) << "the word may not have been read";
  EXPECT_EQ(lost_->Take().size(), 1u);
  while (server_->Progress()) {
  }
  server_.reset();
  EXPECT_EQ(Granted(), 0u);
}

}  // namespace
}  // namespace simm
