#include "manager/shard_moves.h"

#include <gtest/gtest.h>

#include "common/base/limits.h"

namespace simm::manager {
namespace {

// Servers 1 to 4; 4 is of an older version. One row is looked at.
class ShardMovesTest : public testing::Test {
 protected:
  ShardMovesTest() {
    for (ServerId id = 1; id <= 4; ++id) {
      ServerRecord& server = before_.emplace_back();
      server.id = id;
      server.pool_id = {1, id};
      server.capabilities = id == 4 ? 0 : kCapabilityMigration;
    }
    after_ = before_;
  }
  ShardOwner Next(ShardOwner before, ServerId owner, bool pulled = false) const {
    const std::vector<ShardOwner> rows(limits::kShards, before);
    const std::vector<ServerId> owners(limits::kShards, owner);
    std::vector<uint32_t> shards;
    if (pulled) shards = {3};
    const auto next = NextRows(rows, before_, after_, owners, shards);
    return next[3];
  }
  ServerRecord& After(ServerId id) { return after_[id - 1]; }

  std::vector<ServerRecord> before_;
  std::vector<ServerRecord> after_;
};

using Row = ShardOwner;

TEST_F(ShardMovesTest, TheOldOwnerIsTheSource) {
  EXPECT_EQ(Next({1, 0}, 2), (Row{2, 1}));
  EXPECT_EQ(Next({1, 0}, 1), (Row{1, 0}));
  EXPECT_EQ(Next({0, 0}, 1), (Row{1, 0}));
  EXPECT_EQ(Next({4, 0}, 1), (Row{1, 0}));
  EXPECT_EQ(Next({1, 0}, 4), (Row{4, 0}));
  After(1).state = ServerState::kDraining;
  EXPECT_EQ(Next({1, 0}, 2), (Row{2, 1}));
  After(1).state = ServerState::kDead;
  EXPECT_EQ(Next({1, 0}, 2), (Row{2, 0}));
}

TEST_F(ShardMovesTest, AMoveIsFinishedFirst) {
  EXPECT_EQ(Next({2, 1}, 2), (Row{2, 1}));
  EXPECT_EQ(Next({2, 1}, 3), (Row{2, 1}));
  EXPECT_EQ(Next({2, 1}, 2, true), (Row{2, 0}));
  EXPECT_EQ(Next({2, 1}, 3, true), (Row{3, 2}));
  EXPECT_EQ(Next({2, 1}, 1), (Row{1, 2})) << "back to the source, at once";
}

TEST_F(ShardMovesTest, WhatIsGoneIsNoSource) {
  After(1).state = ServerState::kDead;
  EXPECT_EQ(Next({2, 1}, 2), (Row{2, 0}));
  EXPECT_EQ(Next({2, 1}, 3), (Row{3, 2}));
  After(1).state = ServerState::kAlive;
  After(1).pool_id = {9, 9};
  EXPECT_EQ(Next({2, 1}, 2), (Row{2, 0})) << "another pool";
  EXPECT_EQ(Next({1, 0}, 2), (Row{2, 0}));
}

TEST_F(ShardMovesTest, AnOwnerThatIsGoneLeavesItsSource) {
  After(2).state = ServerState::kDead;
  EXPECT_EQ(Next({2, 1}, 3), (Row{3, 1}));
  EXPECT_EQ(Next({2, 1}, 1), (Row{1, 0}));
  EXPECT_EQ(Next({2, 1}, 4), (Row{4, 0}));
  After(2).state = ServerState::kAlive;
  After(2).pool_id = {9, 9};
  EXPECT_EQ(Next({2, 1}, 2), (Row{2, 1})) << "it has to pull anew";
  EXPECT_EQ(Next({2, 1}, 3), (Row{3, 1}));
}

}  // namespace
}  // namespace simm::manager
