// Mass silence, and a state that is older than what the servers hold.
#include "tests/unit/manager/membership_fixture.h"

namespace simm::manager {
namespace {

class MembershipSilenceTest : public MembershipTest {
 protected:
  // `count` servers, past the first dead-time of the manager.
  void Start(int count) {
    for (int i = 0; i < count; ++i) ids_.push_back(Join("s" + std::to_string(i)));
    Pass(11s, ids_);
  }
  std::vector<ServerId> From(size_t first) const {
    return {ids_.begin() + static_cast<ptrdiff_t>(first), ids_.end()};
  }

  std::vector<ServerId> ids_;
};

TEST_F(MembershipSilenceTest, MoreThanAThirdSilentFreezesTheMapUntilTheyAreBack) {
  Start(5);
  const uint64_t before = epoch();
  EXPECT_TRUE(Pass(60s, From(2)).empty()) << "2 of 5";
  EXPECT_EQ(epoch(), before);
  EXPECT_NE(members_.frozen().find("2 of 5"), std::string::npos) << members_.frozen();
  EXPECT_NE(members_.frozen().find("simmctl node remove"), std::string::npos);
  EXPECT_TRUE(Pass(5s, ids_).empty());
  EXPECT_EQ(members_.frozen(), "");
  EXPECT_EQ(epoch(), before) << "nobody was moved";
}

// With the first that is back the rest is no mass any more: it is no death for that.
TEST_F(MembershipSilenceTest, ThoseWhoComeBackOneAfterTheOtherAreNotBuriedInBetween) {
  Start(3);
  const uint64_t before = epoch();
  EXPECT_TRUE(Pass(60s, From(2)).empty());
  ASSERT_NE(members_.frozen(), "");
  EXPECT_TRUE(Pass(9s, From(1)).empty()) << "the second is back, the first not yet";
  EXPECT_EQ(members_.frozen(), "");
  EXPECT_TRUE(Pass(30s, ids_).empty());
  EXPECT_EQ(epoch(), before) << "nobody was moved";
  // Who does not come back is dead one dead-time after the thaw.
  EXPECT_TRUE(Pass(60s, From(2)).empty());
  EXPECT_TRUE(Pass(9s, From(1)).empty());
  EXPECT_EQ(Pass(2s, From(1)), std::vector<std::string>{"s0"});
}

TEST_F(MembershipSilenceTest, AThirdIsNotMoreThanAThird) {
  Start(6);
  EXPECT_EQ(Pass(11s, From(2)).size(), 2U);
  EXPECT_EQ(members_.frozen(), "");
}

TEST_F(MembershipSilenceTest, OneServerAloneIsNeverAMass) {
  Start(2);
  EXPECT_EQ(Pass(11s, From(1)).size(), 1U);
}

TEST_F(MembershipSilenceTest, OneAfterTheOtherWithinADeadTimeCountsToo) {
  Start(4);
  EXPECT_TRUE(Pass(4s, From(1)).empty());
  EXPECT_TRUE(Pass(5500ms, From(2)).empty()) << "the first has 9.5 s, the second 5.5 s";
  EXPECT_TRUE(Pass(10s, From(2)).empty());
  EXPECT_NE(members_.frozen().find("2 of 4"), std::string::npos) << members_.frozen();
}

TEST_F(MembershipSilenceTest, ASecondThatFallsSilentJustAfterTheFirstIsBuried) {
  Start(5);
  // At 10 s the second is silent for 2 s only, which is no silence yet: the first is buried. The
  // second and the third then are two more of the same dead-time.
  EXPECT_TRUE(Pass(8s, From(1)).empty());
  EXPECT_EQ(Pass(3s, From(3)).size(), 1U);
  EXPECT_TRUE(Pass(60s, From(3)).empty());
  EXPECT_NE(members_.frozen().find("3 of 5"), std::string::npos) << members_.frozen();
  EXPECT_TRUE(Pass(60s, From(2)).empty()) << "time alone does not thaw";
  EXPECT_NE(members_.frozen().find("2 of 5"), std::string::npos) << members_.frozen();
}

TEST_F(MembershipSilenceTest, DeathsFarApartAreDeaths) {
  Start(5);
  EXPECT_EQ(Pass(21s, From(1)).size(), 1U);
  EXPECT_EQ(Pass(21s, From(2)).size(), 1U);
  EXPECT_EQ(Pass(21s, From(3)).size(), 1U);
}

TEST_F(MembershipSilenceTest, RemovingOneThawsWhenTheRestIsNoMassAnyMore) {
  Start(6);
  EXPECT_TRUE(Pass(11s, From(3)).empty());
  EXPECT_NE(members_.frozen(), "");
  EXPECT_TRUE(Remove("s0").ok());
  EXPECT_TRUE(Pass(1s, From(3)).empty()) << "2 of 5 still";
  EXPECT_TRUE(Remove("s1").ok());
  EXPECT_TRUE(Pass(9s, From(3)).empty());
  EXPECT_EQ(members_.frozen(), "");
  EXPECT_EQ(Pass(2s, From(3)), std::vector<std::string>{"s2"}) << "one of 4 is a death";
  for (const ShardOwner& owner : owners()) ASSERT_GE(owner.server, ids_[3]);
}

TEST_F(MembershipSilenceTest, WhoSpeaksAndHearsNothingDiesAsTheSilentDo) {
  Start(4);
  std::vector<std::string> dead;
  for (uint64_t second = 1; second <= 11; ++second) {
    const auto buried = Pass(1s, From(1));
    dead.insert(dead.end(), buried.begin(), buried.end());
    rpc::HeartbeatRequest beat;
    beat.id = ids_[0];
    beat.boot_id = {2, 1};
    beat.map = version();
    beat.unanswered_ms = 1000 * second;
    EXPECT_EQ(members_.Heartbeat(clock_.Now(), beat).register_again, !dead.empty());
    EXPECT_EQ(dead.empty(), second < 11) << "after " << second << " s";
  }
  EXPECT_EQ(dead, std::vector<std::string>{"s0"});
}

TEST_F(MembershipSilenceTest, OneAnswerBringsTheDeafBack) {
  Start(4);
  rpc::HeartbeatRequest beat;
  beat.id = ids_[0];
  beat.boot_id = {2, 1};
  beat.map = version();
  for (int round = 0; round < 4; ++round) {
    EXPECT_TRUE(Pass(7s, From(1)).empty());
    beat.unanswered_ms = UINT64_MAX;  // for ever, and no earlier than it was heard before
    EXPECT_FALSE(members_.Heartbeat(clock_.Now(), beat).register_again);
    beat.unanswered_ms = 1;
    EXPECT_FALSE(members_.Heartbeat(clock_.Now(), beat).register_again);
  }
}

TEST_F(MembershipSilenceTest, AFrozenMapLetsServersJoinAndReturn) {
  Start(3);
  EXPECT_TRUE(Pass(11s, From(2)).empty());
  ASSERT_NE(members_.frozen(), "");
  const ServerId joined = Join("new");
  EXPECT_EQ(ShardsOf(joined), limits::kShards / 4);
  // A restart of one that is silent takes its place over; it keeps its shards.
  const uint32_t before = ShardsOf(ids_[0]);
  ASSERT_TRUE(Register(Request("s0", 9, 0, 2)).ok());
  EXPECT_EQ(ShardsOf(ids_[0]), before);
}

TEST_F(MembershipSilenceTest, ANewerMapOfTheServersIsAdopted) {
  Start(3);
  const DurableState backup = members_.state();
  ASSERT_TRUE(Register(Request("late", 1)).ok());
  ASSERT_TRUE(Apply([&](auto& draft) { return members_.CreateNamespace("n", draft).ok(); }));
  const auto newest = *RouteTable::Create(members_.state().map);
  Membership old({}, backup, clock_.Now());
  EXPECT_TRUE(old.IsBehind(newest->version()));
  EXPECT_FALSE(members_.IsBehind(newest->version()));
  EXPECT_FALSE(old.IsBehind({{8, 8}, 9, 9})) << "another cluster's is not newer";
  rpc::HeartbeatRequest beat;
  beat.id = ids_[0];
  beat.boot_id = {2, 1};
  beat.map = newest->version();
  EXPECT_TRUE(old.Heartbeat(clock_.Now(), beat).register_again);

  Membership::Draft draft = old.Begin();
  ASSERT_TRUE(old.Adopt(*newest, draft).ok());
  Membership::Seal(draft);
  old.Commit(clock_.Now(), std::move(draft));
  EXPECT_EQ(old.state().map.version.term, newest->version().term + 1);
  EXPECT_GT(old.state().map.version.epoch, newest->version().epoch);
  EXPECT_EQ(old.state().map.servers.size(), 4U);
  EXPECT_EQ(old.state().map.namespaces.size(), 2U);
  EXPECT_EQ(old.state().map.owners, newest->contents().owners);
  beat.map = old.state().map.version;
  EXPECT_FALSE(old.Heartbeat(clock_.Now(), beat).register_again);
  clock_.Advance(9s);
  Membership::Draft later = old.Begin();
  EXPECT_TRUE(old.BuryTheDead(clock_.Now(), later).empty()) << "one dead-time of grace";
  EXPECT_EQ(old.Adopt(*newest, later).code(), Code::kFailedPrecondition);
}

TEST_F(MembershipSilenceTest, ALivingDrainingServerCannotBeTakenOver) {
  Start(2);
  ASSERT_TRUE(Drain("s0").ok());
  EXPECT_EQ(Register(Request("s0", 5, 55)).code(), Code::kFailedPrecondition);
  EXPECT_EQ(StateOf(ids_[0]), ServerState::kDraining);
  EXPECT_EQ(Remove("s0").code(), Code::kFailedPrecondition);
  Pass(3s, From(1));
  EXPECT_EQ(StateOf(ids_[0]), ServerState::kSuspect);
  EXPECT_TRUE(Register(Request("s0", 5, 55)).ok());
  EXPECT_EQ(StateOf(ids_[0]), ServerState::kDraining) << "the order to drain stays";
}

}  // namespace
}  // namespace simm::manager
