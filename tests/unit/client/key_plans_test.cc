#include "client/key_plans.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

namespace simm::client {
namespace {

using protocol::MessageType;

// One key of a call: its rounds as Call drives them, what the servers say as the test wants it.
class KeyPlansTest : public testing::Test {
 protected:
  void Begin(MessageType type, uint64_t hash = 0) {
    shape_.type = type;
    items_.assign(1, {});
    items_[0].hash.low = hash;
    items_[0].size = 100;
    plans_ = std::make_unique<KeyPlans>(shape_, items_, stats_);
  }
  // Who is asked in this round: "1", "2p" for a probe, "1t" if it is to tell what was removed, in
  // the order of the plan.
  std::string Round(const std::vector<ShardOwner>& row) {
    errands_.clear();
    EXPECT_TRUE(plans_->Wants(items_[0], row));
    plans_->Plan(
        items_[0], row, [this](ServerId id) { return standings_[id]; }, &errands_);
    std::string text;
    for (const Errand& errand : errands_) {
      if (!text.empty()) text += ' ';
      text += std::to_string(errand.server);
      if ((errand.way & Errand::kProbe) != 0) text += 'p';
      if ((errand.way & Errand::kTellRemoved) != 0) text += 't';
    }
    return text;
  }
  // What each of those asked says; a server that is not named here wants to be asked again.
  void Answer(const std::map<ServerId, Code>& codes) {
    for (const Errand& errand : errands_) {
      const auto it = codes.find(errand.server);
      if (it == codes.end()) continue;
      errand.item->result.code = it->second;
      errand.item->result.value_bytes = errand.item->size;
      errand.item->done = it->second != Code::kBusy;
      if (it->second == Code::kBusy) errand.item->result.retry_after_ms = 7;
    }
    plans_->Settle();
  }
  bool done() const { return items_[0].done; }
  Code code() const { return items_[0].result.code; }

  CallShape shape_;
  std::vector<CallItem> items_;
  StatsCounters stats_;
  std::unique_ptr<KeyPlans> plans_;
  std::map<ServerId, Standing> standings_;
  std::vector<Errand> errands_;
};

const std::vector<ShardOwner> kMoving = {{1, 2}};
const std::vector<ShardOwner> kThree = {{1, kNoServer}, {2, kNoServer}, {3, kNoServer}};

TEST_F(KeyPlansTest, ARowOfOneOwnerNeedsNoPlan) {
  Begin(MessageType::kGet);
  const std::vector<ShardOwner> row = {{1, kNoServer}};
  EXPECT_FALSE(plans_->Wants(items_[0], row));
  EXPECT_TRUE(plans_->empty());
  Begin(MessageType::kPut);
  EXPECT_FALSE(plans_->Wants(items_[0], kMoving)) << "writes go to the owner alone";
}

TEST_F(KeyPlansTest, TheValueIsFetchedFromTheSource) {
  Begin(MessageType::kGet);
  EXPECT_EQ(Round(kMoving), "1t 2p");
  Answer({{1, Code::kMiss}, {2, Code::kOk}});
  EXPECT_FALSE(done());
  EXPECT_TRUE(plans_->MovesOn());
  EXPECT_EQ(Round(kMoving), "2");
  Answer({{2, Code::kOk}});
  EXPECT_EQ(code(), Code::kOk);
  EXPECT_EQ(items_[0].result.value_bytes, 100u);
  EXPECT_EQ(stats_.source_hits, 1u);
}

TEST_F(KeyPlansTest, WhatTheOwnerHasRemovedStaysRemoved) {
  for (const auto type : {MessageType::kGet, MessageType::kExists, MessageType::kPin}) {
    Begin(type);
    Round(kMoving);
    Answer({{1, Code::kRemoved}, {2, Code::kOk}});
    EXPECT_TRUE(done());
    EXPECT_EQ(code(), Code::kMiss);
  }
  EXPECT_EQ(stats_.source_hits, 0u);
}

// Between the two rounds the owner pulled it and the source dropped it: no miss.
TEST_F(KeyPlansTest, WhatMovedOnMeanwhileIsLookedForOnceMore) {
  Begin(MessageType::kGet);
  Round(kMoving);
  Answer({{1, Code::kMiss}, {2, Code::kOk}});
  Round(kMoving);
  Answer({{2, Code::kMiss}});
  EXPECT_FALSE(done());
  const std::vector<ShardOwner> settled = {{1, kNoServer}};
  EXPECT_EQ(Round(settled), "1");
  Answer({{1, Code::kOk}});
  EXPECT_EQ(code(), Code::kOk);

  Begin(MessageType::kGet);  // evicted there: once more, not for ever
  Round(kMoving);
  Answer({{1, Code::kMiss}, {2, Code::kOk}});
  Round(kMoving);
  Answer({{2, Code::kMiss}});
  Round(kMoving);
  Answer({{1, Code::kMiss}, {2, Code::kMiss}});
  EXPECT_TRUE(done());
  EXPECT_EQ(code(), Code::kMiss);
}

TEST_F(KeyPlansTest, ASourceThatKnowsNothingOfItIsNotAskedForEver) {
  Begin(MessageType::kGet);
  Round(kMoving);
  Answer({{1, Code::kMiss}});
  int rounds = 0;
  for (; !done() && rounds < 10; ++rounds) {
    EXPECT_EQ(Round(kMoving), "2");
    EXPECT_FALSE(plans_->MovesOn()) << "it waits before it asks the same server again";
    Answer({});
  }
  EXPECT_EQ(code(), Code::kMiss);
  EXPECT_EQ(rounds, 3);
}

TEST_F(KeyPlansTest, OwnersShareTheLoadAndWhoIsAwayComesLast) {
  std::map<std::string, int> first;
  for (uint64_t i = 0; i < 300; ++i) {
    Begin(MessageType::kGet, i << 32);
    ++first[Round(kThree)];
  }
  EXPECT_EQ(first, (std::map<std::string, int>{{"1", 100}, {"2", 100}, {"3", 100}}));
  standings_[1].away = true;
  standings_[2].far = true;
  for (uint64_t i = 0; i < 3; ++i) {
    Begin(MessageType::kGet, i << 32);
    EXPECT_EQ(Round(kThree), "3");
    Answer({{3, Code::kMiss}});
    EXPECT_EQ(Round(kThree), "2 1p");
  }
}

TEST_F(KeyPlansTest, WritesGoToAllOwnersAndOnlyWhoWasBusyIsAskedAgain) {
  Begin(MessageType::kPut);
  EXPECT_EQ(Round(kThree), "1 2 3");
  Answer({{1, Code::kOk}, {2, Code::kBusy}, {3, Code::kUnavailable}});
  EXPECT_FALSE(done()) << "it ends when each has answered";
  EXPECT_EQ(items_[0].result.retry_after_ms, 7u);
  EXPECT_EQ(Round(kThree), "2");
  Answer({{2, Code::kOk}});
  EXPECT_EQ(code(), Code::kOk);
  EXPECT_EQ(stats_.partial_puts, 1u);
}

TEST_F(KeyPlansTest, AWriteFollowsTheMap) {
  Begin(MessageType::kPut);
  Round({{1, kNoServer}, {2, kNoServer}});
  Answer({{1, Code::kOk}});  // 2 has another map
  EXPECT_EQ(Round({{3, kNoServer}, {1, kNoServer}}), "3");
  Answer({{3, Code::kExists}});
  EXPECT_EQ(code(), Code::kExists) << "the first owner of the row decides";
}

TEST_F(KeyPlansTest, AtTheDeadlineWhatWasReachedCounts) {
  Begin(MessageType::kPut);
  Round(kThree);
  Answer({{1, Code::kOk}, {3, Code::kOk}});
  EXPECT_FALSE(done());
  plans_->Conclude();
  EXPECT_EQ(code(), Code::kOk);

  shape_.replace = true;
  Begin(MessageType::kPut);
  Round(kThree);
  Answer({{1, Code::kOk}, {3, Code::kOk}});
  plans_->Conclude();
  EXPECT_EQ(code(), Code::kDeadlineExceeded) << "a replacement needs all";
}

TEST_F(KeyPlansTest, ASilentServerIsSparedOnlyForWhatOthersCanSay) {
  const auto spare = [&](size_t errand) {
    return plans_->CanSpare(static_cast<const Target&>(*errands_[errand].item));
  };
  Begin(MessageType::kGet);
  Round(kMoving);
  EXPECT_FALSE(spare(1)) << "the owner has said nothing yet";
  errands_[0].item->result.code = Code::kOk;
  errands_[0].item->done = true;
  EXPECT_TRUE(spare(1)) << "the owner has it";
  errands_[0].item->result.code = Code::kMiss;
  EXPECT_FALSE(spare(1)) << "only the source can know";
  errands_[0].item->result.code = Code::kRemoved;
  EXPECT_TRUE(spare(1));
  Begin(MessageType::kGet);
  Round(kThree);
  EXPECT_TRUE(spare(0)) << "two more can be asked";
  Begin(MessageType::kPut);
  Round(kThree);
  EXPECT_FALSE(spare(0)) << "a write waits for each";
}

}  // namespace
}  // namespace simm::client
