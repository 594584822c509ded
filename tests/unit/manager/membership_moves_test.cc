// Shards on their way: sources on join, return and drain, and when they go.
#include <map>

#include "tests/unit/manager/membership_fixture.h"

namespace simm::manager {
namespace {

class MembershipMovesTest : public MembershipTest {
 protected:
  ServerId JoinMigrating(const std::string& name, uint64_t boot = 1) {
    Outcome outcome = Register(Migrating(name, boot));
    EXPECT_TRUE(outcome.ok()) << outcome.status().ToString();
    return outcome->first;
  }
  static rpc::RegisterRequest Migrating(const std::string& name, uint64_t boot = 1,
                                        uint64_t pool = 0, uint64_t incarnation = 1) {
    rpc::RegisterRequest request = Request(name, boot, pool, incarnation);
    request.capabilities = kCapabilityMigration;
    return request;
  }
  // How many rows there are of each (owner, source).
  std::map<std::pair<ServerId, ServerId>, uint32_t> Rows() const {
    std::map<std::pair<ServerId, ServerId>, uint32_t> rows;
    for (const ShardOwner& owner : owners()) ++rows[{owner.server, owner.source}];
    return rows;
  }
  std::vector<uint32_t> ShardsWith(ServerId owner, ServerId source) const {
    std::vector<uint32_t> shards;
    for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
      if (owners()[shard] == ShardOwner{owner, source}) shards.push_back(shard);
    }
    return shards;
  }
  // All that is to be pulled is pulled and settled.
  void SettleAll(const std::vector<ServerId>& alive) {
    for (int round = 0; round < 20 && members_.shards_moving() != 0; ++round) {
      for (const ServerId id : alive) {
        std::vector<uint32_t> pulled;
        for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
          if (owners()[shard].server == id && owners()[shard].source != kNoServer) {
            pulled.push_back(shard);
          }
        }
        Beat(id, 1, pulled);
      }
      Pass(1s, alive);
    }
    EXPECT_EQ(members_.shards_moving(), 0U);
  }
};

constexpr uint32_t kHalf = limits::kShards / 2;

TEST_F(MembershipMovesTest, AJoinerPullsFromTheOldOwnerUntilItHasSaidSo) {
  const ServerId a = JoinMigrating("a");
  EXPECT_EQ(members_.shards_moving(), 0U) << "the first has nobody to pull from";
  const ServerId b = JoinMigrating("b");
  EXPECT_EQ((Rows()[{b, a}]), kHalf);
  EXPECT_EQ((Rows()[{a, kNoServer}]), kHalf);
  EXPECT_EQ(NodeOf(a).shards_leaving, kHalf);
  EXPECT_EQ(NodeOf(b).shards_coming, kHalf);
  const uint64_t moved = epoch();
  const auto shards = ShardsWith(b, a);
  Beat(b, 1, {shards[0], shards[1]});
  Pass(1s, {a, b});
  EXPECT_EQ(epoch(), moved + 1);
  EXPECT_EQ(owners()[shards[0]], (ShardOwner{b, kNoServer}));
  EXPECT_EQ(owners()[shards[2]], (ShardOwner{b, a}));
  Pass(5s, {a, b});
  EXPECT_EQ(epoch(), moved + 1) << "nothing new, no epoch";
  SettleAll({a, b});
  EXPECT_EQ((Rows()[{b, kNoServer}]), kHalf);
}

TEST_F(MembershipMovesTest, WhatIsPulledSettlesAtMostOnceAHeartbeat) {
  const ServerId a = JoinMigrating("a");
  const ServerId b = JoinMigrating("b");
  Pass(2s, {a, b});
  const auto shards = ShardsWith(b, a);
  const uint64_t before = epoch();
  for (size_t i = 0; i < 40; ++i) {  // 10 a second
    Beat(b, 1, {shards[i]});
    clock_.Advance(100ms);
    Beat(a);
    members_.Tick(clock_.Now());
    Apply([&](Membership::Draft& draft) {
      members_.SettleMoves(clock_.Now(), draft);
      return true;
    });
  }
  EXPECT_LE(epoch(), before + 5);
  EXPECT_GE(epoch(), before + 3);
}

TEST_F(MembershipMovesTest, WithoutTheCapabilityAMovedShardBeginsEmpty) {
  const ServerId a = Join("a");
  const ServerId b = JoinMigrating("b");
  EXPECT_EQ((Rows()[{b, kNoServer}]), kHalf) << "an old source";
  Join("c");
  EXPECT_EQ(members_.shards_moving(), 0U) << "an old destination";
  EXPECT_TRUE(Drain("a").ok());
  EXPECT_EQ(ShardsOf(a), 0U);
  EXPECT_EQ(members_.shards_moving(), 0U);
  EXPECT_TRUE(members_.IsDrained("a"));
}

TEST_F(MembershipMovesTest, AReportByAnOlderMapIsOfAnotherSource) {
  const ServerId a = JoinMigrating("a");
  const ServerId b = JoinMigrating("b");
  const auto shard = ShardsWith(b, a)[0];
  const MapVersion then = version();
  rpc::HeartbeatRequest late;
  late.id = b;
  late.boot_id = {2, 1};
  late.map = then;
  late.pulled_shards = {shard};
  // b is drained and comes back: its rows have a as owner, then b again, with a as the source.
  ASSERT_TRUE(Drain("b").ok());
  EXPECT_EQ(owners()[shard], (ShardOwner{a, b}));
  ASSERT_TRUE(Undrain("b").ok());
  EXPECT_EQ(owners()[shard], (ShardOwner{b, a}));
  members_.Heartbeat(clock_.Now(), late);
  Pass(2s, {a, b});
  EXPECT_EQ(owners()[shard].source, a) << "that was said of the first pull";
  late.map = version();
  late.pulled_shards = {shard, 70'000};
  members_.Heartbeat(clock_.Now(), late);
  late.id = a;  // not the owner
  late.pulled_shards = {ShardsWith(b, a)[1]};
  members_.Heartbeat(clock_.Now(), late);
  Pass(2s, {a, b});
  EXPECT_EQ(owners()[shard].source, kNoServer);
  EXPECT_EQ((Rows()[{b, a}]), kHalf - 1);
}

TEST_F(MembershipMovesTest, ADrainEmptiesAServerAndUndrainGivesTheVeryShardsBack) {
  const ServerId a = JoinMigrating("a"), b = JoinMigrating("b"), c = JoinMigrating("c");
  SettleAll({a, b, c});
  const auto before = owners();
  ASSERT_TRUE(Drain("a").ok());
  const uint64_t drained = epoch();
  EXPECT_TRUE(Drain("a").ok());
  EXPECT_EQ(epoch(), drained) << "again: nothing";
  EXPECT_EQ(StateOf(a), ServerState::kDraining);
  EXPECT_EQ(ShardsOf(a), 0U);
  EXPECT_FALSE(members_.IsDrained("a"));
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    const ServerId source = before[shard].server == a ? a : kNoServer;
    ASSERT_EQ(owners()[shard].source, source) << shard;
  }
  SettleAll({a, b, c});
  EXPECT_TRUE(members_.IsDrained("a"));
  ASSERT_TRUE(Undrain("a").ok());
  EXPECT_EQ(StateOf(a), ServerState::kAlive);
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    ASSERT_EQ(owners()[shard].server, before[shard].server) << shard;
  }
  EXPECT_NE(NodeOf(a).shards_coming, 0U);
}

TEST_F(MembershipMovesTest, TheOrderToDrainOutlivesDeathsAndRestartsOfBoth) {
  const ServerId a = JoinMigrating("a"), b = JoinMigrating("b"), c = JoinMigrating("c");
  const ServerId d = JoinMigrating("d");
  Pass(11s, {a, b, c, d});
  ASSERT_TRUE(Drain("a").ok());
  EXPECT_EQ(Pass(11s, {b, c, d}), std::vector<std::string>{"a"});
  EXPECT_EQ(NodeOf(a).shards_leaving, 0U) << "nothing can be pulled from the dead";
  Membership next({}, members_.state(), clock_.Now());
  Membership::Draft draft = next.Begin();
  ASSERT_TRUE(next.Register(clock_.Now(), Migrating("a", 9, 0, 2), draft).ok());
  Membership::Seal(draft);
  next.Commit(clock_.Now(), std::move(draft));
  for (const auto& node : next.Nodes(clock_.Now())) {
    if (node.record.id != a) continue;
    EXPECT_EQ(node.record.state, ServerState::kDraining);
    EXPECT_EQ(node.shards, 0U);
  }
}

TEST_F(MembershipMovesTest, TheLastServerCannotBeDrained) {
  JoinMigrating("a");
  const Status refused = Drain("a");
  EXPECT_EQ(refused.code(), Code::kFailedPrecondition);
  EXPECT_NE(refused.message().find("start one first"), std::string::npos) << refused.message();
  EXPECT_EQ(Drain("nobody").code(), Code::kMiss);
  EXPECT_EQ(Undrain("nobody").code(), Code::kMiss);
  const ServerId b = JoinMigrating("b");
  ASSERT_TRUE(Drain("a").ok());
  EXPECT_EQ(Drain("b").code(), Code::kFailedPrecondition) << "a is draining itself";
  // When the only other one dies, the draining one holds what is put.
  Pass(11s, {1, b});
  Pass(11s, {1});
  EXPECT_EQ(StateOf(b), ServerState::kDead);
  EXPECT_EQ(ShardsOf(1), limits::kShards);
}

TEST_F(MembershipMovesTest, AReturningServerPullsFromTheInterimOwner) {
  const ServerId a = JoinMigrating("a"), b = JoinMigrating("b"), c = JoinMigrating("c");
  SettleAll({a, b, c});
  const auto before = owners();
  Pass(11s, {a, b, c});
  ASSERT_EQ(Pass(11s, {a, b}).size(), 1U);
  EXPECT_EQ(members_.shards_moving(), 0U);
  const auto interim = owners();
  ASSERT_TRUE(Register(Migrating("c", 9, 0, 2)).ok());
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    ASSERT_EQ(owners()[shard].server, before[shard].server);
    const bool moved = before[shard].server == c;
    ASSERT_EQ(owners()[shard].source, moved ? interim[shard].server : kNoServer);
  }
}

TEST_F(MembershipMovesTest, WhenAnOwnerDiesBeforeItHasPulledTheSourceTakesOverAgain) {
  const ServerId a = JoinMigrating("a"), b = JoinMigrating("b"), c = JoinMigrating("c");
  SettleAll({a, b, c});
  Pass(11s, {a, b, c});
  const ServerId d = JoinMigrating("d");
  const auto rows = owners();
  Pass(11s, {a, b, c, d});
  ASSERT_EQ(Pass(11s, {a, b, c}).size(), 1U);
  uint32_t kept = 0, coming = 0;
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    if (rows[shard].server != d) continue;
    ++coming;
    kept += owners()[shard].server == rows[shard].source;
  }
  EXPECT_GT(coming, 10'000U);
  EXPECT_GT(kept, coming * 9 / 10) << "only what quotas demand goes elsewhere";
}

TEST_F(MembershipMovesTest, ASourceWithANewPoolHasNothingToGive) {
  const ServerId a = JoinMigrating("a");
  const ServerId b = JoinMigrating("b");
  ASSERT_EQ((Rows()[{b, a}]), kHalf);
  clock_.Advance(4s);
  ASSERT_TRUE(Register(Migrating("a", 5, 55)).ok());
  EXPECT_EQ((Rows()[{b, kNoServer}]), kHalf);
}

TEST_F(MembershipMovesTest, ADestinationThatRestartsBeforeItsWordIsSettledPullsAgain) {
  const ServerId a = JoinMigrating("a");
  const ServerId b = JoinMigrating("b");
  Pass(2s, {a, b});
  const auto shard = ShardsWith(b, a)[0];
  Apply([&](auto& draft) { return members_.CreateNamespace("x", draft).ok(); });
  Beat(b, 1, {shard});
  ASSERT_TRUE(Register(Migrating("b", 9, 0, 2)).ok());
  // The draft of that registration already held the word of the old process; what it had said by
  // then was true, and a warm restart keeps it.
  const ServerId source_then = owners()[shard].source;
  Beat(a);
  const auto second = ShardsWith(b, a)[0];
  Beat(b, 9, {second});
  ASSERT_TRUE(Register(Migrating("b", 10, 77, 1)).code() == Code::kFailedPrecondition);
  EXPECT_TRUE(source_then == a || source_then == kNoServer);
}

TEST_F(MembershipMovesTest, AShardOnItsWayMovesNowhereElse) {
  const ServerId a = JoinMigrating("a");
  const ServerId b = JoinMigrating("b");
  const auto coming = ShardsWith(b, a);
  const ServerId c = JoinMigrating("c");
  for (const uint32_t shard : coming) ASSERT_EQ(owners()[shard], (ShardOwner{b, a}));
  EXPECT_GT(NodeOf(c).shards_coming, 0U);
  SettleAll({a, b, c});
  for (const ServerId id : {a, b, c}) EXPECT_NEAR(ShardsOf(id), limits::kShards / 3, 1);
}

}  // namespace
}  // namespace simm::manager
