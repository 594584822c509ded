#include "tests/unit/manager/membership_fixture.h"

namespace simm::manager {
namespace {

TEST_F(MembershipTest, ServersThatJoinGetTheirShare) {
  const ServerId a = Join("a");
  EXPECT_EQ(ShardsOf(a), limits::kShards);
  const ServerId b = Join("b");
  EXPECT_EQ(ShardsOf(a), limits::kShards / 2);
  EXPECT_EQ(ShardsOf(b), limits::kShards / 2);
  EXPECT_EQ(epoch(), 3U);
  EXPECT_TRUE(RouteTable::Create(members_.state().map).ok());
}

TEST_F(MembershipTest, ManyRegistrationsShareOneEpoch) {
  Membership::Draft draft = members_.Begin();
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(members_.Register(clock_.Now(), Request("s" + std::to_string(i), 1), draft).ok());
  }
  // The same name twice in one draft is judged as if the first had been heard just now.
  EXPECT_EQ(members_.Register(clock_.Now(), Request("s3", 2, 99), draft).code(),
            Code::kFailedPrecondition);
  Membership::Seal(draft);
  members_.Commit(clock_.Now(), std::move(draft));
  EXPECT_EQ(epoch(), 2U);
  EXPECT_EQ(members_.Nodes(clock_.Now()).size(), 20U);
}

TEST_F(MembershipTest, ADraftThatIsDroppedNeverWas) {
  Join("a");
  const auto before = owners();
  Membership::Draft draft = members_.Begin();
  ASSERT_TRUE(members_.Register(clock_.Now(), Request("b", 1), draft).ok());
  Membership::Seal(draft);
  EXPECT_EQ(epoch(), 2U);
  EXPECT_EQ(owners(), before);
  Join("b");
  EXPECT_EQ(epoch(), 3U);
}

TEST_F(MembershipTest, TheSameBootAgainChangesNothing) {
  const ServerId a = Join("a");
  Outcome again = Register(Request("a", 1));
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->first, a);
  EXPECT_EQ(again->second, Registration::kSame);
  EXPECT_EQ(epoch(), 2U);
  rpc::RegisterRequest moved = Request("a", 1);
  moved.data_address = "elsewhere:1";
  EXPECT_EQ(Register(moved)->second, Registration::kReturned);
  EXPECT_EQ(epoch(), 3U);
}

TEST_F(MembershipTest, AHigherIncarnationOfThePoolTakesOverAtOnce) {
  const ServerId a = Join("a");
  Join("b");
  const auto before = owners();
  Outcome next = Register(Request("a", 9, 0, 2));
  ASSERT_TRUE(next.ok()) << next.status().ToString();
  EXPECT_EQ(next->first, a);
  EXPECT_EQ(next->second, Registration::kTookOver);
  EXPECT_EQ(owners(), before);
  EXPECT_EQ(epoch(), 4U);
  EXPECT_FALSE(Beat(a, 1)) << "the old boot must be told to register again";
  EXPECT_TRUE(Beat(a, 9));
  // and then it is refused, for its successor lives
  EXPECT_EQ(Register(Request("a", 1)).code(), Code::kFailedPrecondition);
}

TEST_F(MembershipTest, ASecondServerOfANameWaitsForTheFirstToFallSilent) {
  const ServerId a = Join("a");
  const auto before = owners();
  clock_.Advance(2900ms);
  Outcome other = Register(Request("a", 5, 55));
  EXPECT_EQ(other.code(), Code::kFailedPrecondition);
  EXPECT_NE(other.status().message().find("host-a:30001"), std::string::npos);
  EXPECT_NE(other.status().message().find("2.9 s"), std::string::npos) << other.status().message();
  EXPECT_NE(other.status().message().find("--name"), std::string::npos);
  clock_.Advance(100ms);
  other = Register(Request("a", 5, 55));
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(other->first, a) << "an anonymous pool's restart must move nothing";
  EXPECT_EQ(other->second, Registration::kReplaced);
  EXPECT_EQ(owners(), before);
}

TEST_F(MembershipTest, SuspicionIsNoEpoch) {
  const ServerId a = Join("a");
  const ServerId b = Join("b");
  const uint64_t before = epoch();
  EXPECT_TRUE(Pass(4s, {b}).empty());
  EXPECT_EQ(StateOf(a), ServerState::kSuspect);
  EXPECT_EQ(StateOf(b), ServerState::kAlive);
  EXPECT_TRUE(Beat(a));
  EXPECT_EQ(StateOf(a), ServerState::kAlive);
  EXPECT_EQ(epoch(), before);
}

TEST_F(MembershipTest, TheDeadLoseTheirShardsAndGetThemBack) {
  const ServerId a = Join("a");
  const ServerId b = Join("b");
  const ServerId c = Join("c");
  const auto before = owners();
  Pass(11s, {a, b, c});  // the first dead-time of this manager is over
  EXPECT_EQ(Pass(9s, {b, c}), std::vector<std::string>{});
  EXPECT_EQ(Pass(1s, {b, c}), std::vector<std::string>{"a"});
  EXPECT_EQ(ShardsOf(a), 0U);
  EXPECT_EQ(ShardsOf(b) + ShardsOf(c), limits::kShards);
  EXPECT_EQ(StateOf(a), ServerState::kDead);
  EXPECT_FALSE(Beat(a)) << "a server that is dead in the map must register";
  Pass(3600s, {b, c});
  EXPECT_EQ(Register(Request("a", 1))->second, Registration::kReturned);
  EXPECT_EQ(owners(), before);
  EXPECT_TRUE(Beat(a));
}

TEST_F(MembershipTest, NobodyDiesWithinOneDeadTimeOfAStart) {
  const ServerId a = Join("a");
  Join("b");
  Pass(11s, {a});
  const DurableState saved = members_.state();
  clock_.Advance(1h);
  Membership next({}, saved, clock_.Now());
  for (int i = 0; i < 19; ++i) {
    clock_.Advance(500ms);
    next.Tick(clock_.Now());
    Membership::Draft draft = next.Begin();
    EXPECT_TRUE(next.BuryTheDead(clock_.Now(), draft).empty());
  }
  clock_.Advance(500ms);
  next.Tick(clock_.Now());
  Membership::Draft draft = next.Begin();
  EXPECT_EQ(next.BuryTheDead(clock_.Now(), draft).size(), 1U) << "'b' was dead before";
}

TEST_F(MembershipTest, APausedManagerBlamesNobodyElse) {
  const ServerId a = Join("a");
  Pass(30s, {a});
  clock_.Advance(1min);  // SIGSTOP, or the host was suspended
  EXPECT_TRUE(Pass(9s, {}).empty());
  EXPECT_TRUE(Beat(a));
  EXPECT_TRUE(Pass(5s, {a}).empty());
}

TEST_F(MembershipTest, RefusesWhatMakesNoSense) {
  const auto code_with = [this](auto change) {
    rpc::RegisterRequest request = Request("x", 1);
    change(request);
    return Register(request).code();
  };
  using R = rpc::RegisterRequest;
  EXPECT_EQ(code_with([](R& r) { r.name = ""; }), Code::kInvalidArgument);
  EXPECT_EQ(code_with([](R& r) { r.name = std::string(129, 'x'); }), Code::kInvalidArgument);
  EXPECT_EQ(code_with([](R& r) { r.name = "a\nb"; }), Code::kInvalidArgument);
  EXPECT_EQ(code_with([](R& r) { r.name = "\xff"; }), Code::kInvalidArgument);
  EXPECT_EQ(code_with([](R& r) { r.zone = std::string(129, 'z'); }), Code::kInvalidArgument);
  EXPECT_EQ(code_with([](R& r) { r.weight = 0; }), Code::kInvalidArgument);
  EXPECT_EQ(code_with([](R& r) { r.weight = UINT64_MAX; }), Code::kInvalidArgument);
  EXPECT_EQ(code_with([](R& r) { r.pool_id = {}; }), Code::kInvalidArgument);
  EXPECT_EQ(code_with([](R& r) { r.boot_id = {}; }), Code::kInvalidArgument);
  EXPECT_EQ(code_with([](R& r) { r.control_address = "nonsense"; }), Code::kInvalidArgument);
  EXPECT_EQ(code_with([](R& r) { r.data_address = "host:0"; }), Code::kInvalidArgument);
  EXPECT_EQ(code_with([](R& r) { r.expected_cluster = {1, 1}; }), Code::kWrongCluster);
  EXPECT_EQ(code_with([](R& r) { r.expected_cluster = {7, 7}; }), Code::kOk);
  EXPECT_EQ(epoch(), 2U);
}

TEST_F(MembershipTest, AHeartbeatOfAStrangerMustRegister) {
  const ServerId a = Join("a");
  EXPECT_FALSE(Beat(a + 1));
  EXPECT_FALSE(Beat(kNoServer));
  rpc::HeartbeatRequest foreign;
  foreign.id = a;
  foreign.boot_id = {2, 1};
  foreign.map = {{8, 8}, 1, 1};
  EXPECT_TRUE(members_.Heartbeat(clock_.Now(), foreign).register_again);
}

TEST_F(MembershipTest, AllAppliedWaitsForTheLivingOnly) {
  const ServerId a = Join("a");
  const ServerId b = Join("b");
  EXPECT_FALSE(members_.AllApplied(clock_.Now()));
  Beat(a);
  EXPECT_FALSE(members_.AllApplied(clock_.Now()));
  Beat(b);
  EXPECT_TRUE(members_.AllApplied(clock_.Now()));
  Join("c");
  EXPECT_FALSE(members_.AllApplied(clock_.Now()));
  clock_.Advance(3s);
  Beat(a);
  EXPECT_TRUE(members_.AllApplied(clock_.Now())) << "b and c are silent";
}

TEST_F(MembershipTest, NamespacesKeepTheirIds) {
  const auto create = [this](const std::string& name) {
    Membership::Draft draft = members_.Begin();
    Result<NamespaceId> id = members_.CreateNamespace(name, draft);
    if (id.ok()) {
      Membership::Seal(draft);
      members_.Commit(clock_.Now(), std::move(draft));
    }
    return id;
  };
  EXPECT_EQ(*create("default"), 0);
  EXPECT_EQ(epoch(), 1U);
  EXPECT_EQ(*create("tenant"), 1);
  EXPECT_EQ(*create("other"), 2);
  EXPECT_EQ(*create("tenant"), 1);
  EXPECT_EQ(epoch(), 3U);
  EXPECT_EQ(create("").code(), Code::kInvalidArgument);
  EXPECT_EQ(create(std::string(129, 'n')).code(), Code::kInvalidArgument);
}

TEST_F(MembershipTest, OnlyTheSilentCanBeRemoved) {
  const ServerId a = Join("a");
  const ServerId b = Join("b");
  EXPECT_EQ(Remove("b").code(), Code::kFailedPrecondition);
  EXPECT_EQ(Remove("nobody").code(), Code::kMiss);
  Pass(4s, {a});
  EXPECT_TRUE(Remove("b").ok());
  EXPECT_EQ(ShardsOf(a), limits::kShards);
  EXPECT_FALSE(Beat(b));
  EXPECT_NE(Join("b"), b) << "an id is never used again";
}

TEST_F(MembershipTest, AFullMapForgetsTheLongestDead) {
  Membership::Draft draft = members_.Begin();
  for (size_t i = 0; i < limits::kMaxServers; ++i) {
    ASSERT_TRUE(members_.Register(clock_.Now(), Request("s" + std::to_string(i), 1), draft).ok());
  }
  Membership::Seal(draft);
  members_.Commit(clock_.Now(), std::move(draft));
  EXPECT_EQ(Register(Request("one-more", 1)).code(), Code::kFailedPrecondition);
  std::vector<ServerId> living;
  for (ServerId id = 2; id <= limits::kMaxServers; ++id) living.push_back(id);
  for (int second = 0; second < 11; ++second) {
    clock_.Advance(1s);
    for (const ServerId id : living) Beat(id);
    members_.Tick(clock_.Now());
  }
  EXPECT_EQ(Pass(500ms, living).size(), 1U);
  EXPECT_TRUE(Register(Request("one-more", 1)).ok());
  EXPECT_EQ(members_.Nodes(clock_.Now()).size(), limits::kMaxServers);
}

}  // namespace
}  // namespace simm::manager
