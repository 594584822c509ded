#include "manager/shard_moves.h"

#include <gtest/gtest.h>

#include "common/base/limits.h"

namespace simm::manager {
namespace {

using Rows = std::vector<ShardOwner>;

// Servers 1 to 5; 4 is of an older version. One row is looked at.
class ShardMovesTest : public testing::Test {
 protected:
  ShardMovesTest() {
    for (ServerId id = 1; id <= 5; ++id) {
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
  // Of two replicas. `pulled`: places of the row whose source is needed no more.
  Rows Next(Rows before, std::vector<ServerId> wanted, std::vector<uint32_t> pulled = {}) const {
    std::vector<ShardOwner> rows;
    std::vector<ServerId> owners;
    for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
      rows.insert(rows.end(), before.begin(), before.end());
      owners.insert(owners.end(), wanted.begin(), wanted.end());
    }
    for (uint32_t& place : pulled) place += static_cast<uint32_t>(3 * before.size());
    const auto next = NextRows(rows, before_, after_, owners, pulled);
    const auto row = next.begin() + static_cast<ptrdiff_t>(3 * wanted.size());
    return Rows(row, row + static_cast<ptrdiff_t>(wanted.size()));
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

TEST_F(ShardMovesTest, ALostReplicaIsMadeFromTheOther) {
  After(1).state = ServerState::kDead;
  EXPECT_EQ(Next({{1, 0}, {2, 0}}, {3, 2}), (Rows{{3, 2}, {2, 0}}));
  EXPECT_EQ(Next({{2, 0}, {1, 0}}, {2, 3}), (Rows{{2, 0}, {3, 2}}));
  EXPECT_EQ(Next({{1, 0}, {2, 0}}, {4, 2}), (Rows{{4, 0}, {2, 0}})) << "4 cannot pull";
  EXPECT_EQ(Next({{1, 0}, {4, 0}}, {2, 4}), (Rows{{2, 0}, {4, 0}})) << "4 cannot serve";
  EXPECT_EQ(Next({{3, 2}, {2, 0}}, {3, 2}), (Rows{{3, 2}, {2, 0}})) << "and is pulled on";
  EXPECT_EQ(Next({{3, 2}, {2, 0}}, {3, 2}, {0}), (Rows{{3, 0}, {2, 0}}));
}

TEST_F(ShardMovesTest, AMovedReplicaPullsFromItsOldOwner) {
  EXPECT_EQ(Next({{1, 0}, {2, 0}}, {3, 2}), (Rows{{3, 1}, {2, 0}}));
  EXPECT_EQ(Next({{3, 1}, {2, 0}}, {1, 2}), (Rows{{1, 3}, {2, 0}})) << "back";
  EXPECT_EQ(Next({{1, 0}, {2, 0}}, {2, 3}), (Rows{{2, 0}, {3, 1}})) << "places are exchanged";
  EXPECT_EQ(Next({{2, 1}, {3, 0}}, {2, 1}), (Rows{{2, 1}, {1, 3}})) << "a source may be an owner";
}

TEST_F(ShardMovesTest, AReplicaIsNotMadeFromHalfAnOwner) {
  After(3).state = ServerState::kDead;
  // 2 still pulls from 1: nobody that stays has everything.
  EXPECT_EQ(Next({{2, 1}, {3, 0}}, {2, 4}), (Rows{{2, 1}, {4, 0}})) << "4 cannot pull anyway";
  EXPECT_EQ(Next({{2, 1}, {3, 0}}, {2, 1}), (Rows{{2, 1}, {}}));
  EXPECT_EQ(Next({{2, 1}, {}}, {2, 1}), (Rows{{2, 1}, {}}));
  EXPECT_EQ(Next({{2, 1}, {}}, {2, 1}, {0}), (Rows{{2, 0}, {1, 2}})) << "now it has";
  After(2).state = ServerState::kDead;
  EXPECT_EQ(Next({{2, 1}, {3, 0}}, {1, 4}), (Rows{{1, 0}, {4, 0}})) << "the source is there";
}

TEST_F(ShardMovesTest, AnOwnerThatLostItsMemoryOrItsSourceIsFilledFromTheOther) {
  After(1).pool_id = {9, 9};
  EXPECT_EQ(Next({{1, 0}, {2, 0}}, {1, 2}), (Rows{{1, 2}, {2, 0}}));
  EXPECT_EQ(Next({{3, 1}, {2, 0}}, {3, 2}), (Rows{{3, 2}, {2, 0}}));
  EXPECT_EQ(Next({{3, 1}, {2, 0}}, {3, 2}, {0}), (Rows{{3, 0}, {2, 0}})) << "it had all of it";
  EXPECT_EQ(Next({{1, 0}, {3, 1}}, {1, 3}), (Rows{{1, 0}, {3, 0}})) << "nobody has anything";
  EXPECT_EQ(Next({{3, 1}, {2, 5}}, {3, 2}), (Rows{{3, 5}, {2, 5}})) << "an owner stays an owner";
}

TEST_F(ShardMovesTest, OtherNumbersOfReplicas) {
  EXPECT_EQ(Next({{1, 0}}, {1, 2}), (Rows{{1, 0}, {2, 1}}));
  EXPECT_EQ(Next({{1, 2}}, {1, 3}), (Rows{{1, 2}, {}})) << "1 has to pull first";
  EXPECT_EQ(Next({{1, 0}, {2, 0}, {3, 0}}, {2}), (Rows{{2, 0}}));
  EXPECT_EQ(Next({{1, 3}, {2, 0}}, {1}), (Rows{{1, 3}}));
  EXPECT_EQ(Next({{0, 0}, {2, 0}}, {3}), (Rows{{3, 2}}));
  EXPECT_EQ(Next({{0, 0}}, {1, 2}), (Rows{{1, 0}, {2, 0}}));
}

TEST(CountRows, CountsWhereAllOfItIs) {
  std::vector<ShardOwner> rows = {{1, 0}, {2, 0}, {1, 0}, {2, 1}, {1, 3}, {2, 4},
                                  {1, 3}, {2, 3}, {1, 0}, {},     {3, 1}, {2, 0}};
  const RowCounts counts = CountRows(rows, 2);
  EXPECT_EQ(counts.moving, 4U);
  EXPECT_EQ(counts.under_replicated, 3U);
  EXPECT_EQ(CountRows(std::vector<ShardOwner>{{1, 2}, {1, 0}, {}}, 1).under_replicated, 1U);
}

}  // namespace
}  // namespace simm::manager
