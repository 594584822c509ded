// Several owners a shard: repair after a loss, return, drain, other numbers of replicas.
#include <map>
#include <set>

#include "manager/adoption.h"
#include "manager/store/state_codec.h"
#include "tests/unit/manager/membership_fixture.h"

namespace simm::manager {
namespace {

class MembershipReplicasTest : public MembershipTest {
 protected:
  MembershipReplicasTest() : MembershipTest({.replicas = 2}) {
    Apply([](Membership::Draft&) { return true; });
  }
  uint32_t replicas() const { return members_.state().map.replicas; }
  std::span<const ShardOwner> Row(uint32_t shard) const {
    return {owners().data() + size_t{shard} * replicas(), replicas()};
  }
  ServerId JoinIn(const std::string& zone, const std::string& name) {
    Outcome outcome = Register(RequestIn(zone, name, 1));
    EXPECT_TRUE(outcome.ok()) << outcome.status().ToString();
    return outcome->first;
  }
  static rpc::RegisterRequest RequestIn(const std::string& zone, const std::string& name,
                                        uint64_t boot, uint64_t pool = 0,
                                        uint64_t incarnation = 1) {
    rpc::RegisterRequest request = Request(name, boot, pool, incarnation);
    request.zone = zone;
    request.capabilities = kCapabilityMigration;
    return request;
  }
  // How many rows there are of each (owner, source), in whatever place.
  std::map<std::pair<ServerId, ServerId>, uint32_t> Places() const {
    std::map<std::pair<ServerId, ServerId>, uint32_t> places;
    for (const ShardOwner& owner : owners()) ++places[{owner.server, owner.source}];
    return places;
  }
  void SettleAll(const std::vector<ServerId>& alive, uint64_t boot = 1) {
    for (int round = 0; round < 20 && members_.shards_moving() != 0; ++round) {
      for (const ServerId id : alive) {
        std::vector<uint32_t> pulled;
        for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
          for (const ShardOwner& owner : Row(shard)) {
            if (owner.server == id && owner.source != kNoServer) pulled.push_back(shard);
          }
        }
        Beat(id, boot, pulled);
      }
      Pass(1s, alive);
    }
    EXPECT_EQ(members_.shards_moving(), 0U);
  }
  // Two zones of two, all settled; boots are 1.
  void Four() {
    a_ = JoinIn("x", "a");
    b_ = JoinIn("x", "b");
    c_ = JoinIn("y", "c");
    d_ = JoinIn("y", "d");
    SettleAll({a_, b_, c_, d_});
    EXPECT_EQ(members_.shards_under_replicated(), 0U);
  }
  void ExpectAcrossZones() const {
    std::map<ServerId, std::string> zones;
    for (const ServerRecord& server : members_.state().map.servers) {
      zones[server.id] = server.zone;
    }
    for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
      const auto row = Row(shard);
      ASSERT_NE(zones.at(row[0].server), zones.at(row[1].server)) << "shard " << shard;
    }
  }

  ServerId a_ = 0, b_ = 0, c_ = 0, d_ = 0;
};

TEST_F(MembershipReplicasTest, TheSecondServerIsMadeFromTheFirst) {
  EXPECT_EQ(replicas(), 2U);
  const ServerId a = JoinIn("", "a");
  EXPECT_EQ((Places()[{a, kNoServer}]), limits::kShards);
  EXPECT_EQ(members_.shards_under_replicated(), limits::kShards);
  const ServerId b = JoinIn("", "b");
  EXPECT_EQ((Places()[{a, kNoServer}]), limits::kShards);
  EXPECT_EQ((Places()[{b, a}]), limits::kShards);
  EXPECT_EQ(members_.shards_under_replicated(), limits::kShards) << "not before it is pulled";
  SettleAll({a, b});
  EXPECT_EQ((Places()[{b, kNoServer}]), limits::kShards);
  EXPECT_EQ(members_.shards_under_replicated(), 0U);
}

TEST_F(MembershipReplicasTest, RowsSpanTheZonesAndLoadsAreEqual) {
  Four();
  ExpectAcrossZones();
  for (const ServerId id : {a_, b_, c_, d_}) EXPECT_NEAR(ShardsOf(id), limits::kShards / 2, 1);
}

TEST_F(MembershipReplicasTest, AfterADeathTheSurvivorIsTheSource) {
  Four();
  const auto before = owners();
  Pass(11s, {a_, b_, c_, d_});
  ASSERT_EQ(Pass(11s, {a_, b_, c_}).size(), 1U);
  ExpectAcrossZones();
  uint32_t made_anew = 0;
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    for (uint32_t k = 0; k < 2; ++k) {
      const ShardOwner& was = before[shard * 2 + k];
      if (was.server != d_) {
        ASSERT_EQ(Row(shard)[k], was) << "the survivor stays as it is";
        continue;
      }
      ++made_anew;
      ASSERT_EQ(Row(shard)[k].server, c_) << "the other of that zone";
      ASSERT_EQ(Row(shard)[k].source, before[shard * 2 + 1 - k].server);
    }
  }
  EXPECT_EQ(members_.shards_under_replicated(), made_anew);
  EXPECT_EQ(members_.shards_moving(), made_anew);
  SettleAll({a_, b_, c_});
  EXPECT_EQ(members_.shards_under_replicated(), 0U);
}

TEST_F(MembershipReplicasTest, AReturningServerGetsItsShardsFromTheInterimOwner) {
  Four();
  const auto before = owners();
  Pass(11s, {a_, b_, c_, d_});
  ASSERT_EQ(Pass(11s, {a_, b_, c_}).size(), 1U);
  SettleAll({a_, b_, c_});
  ASSERT_TRUE(Register(RequestIn("y", "d", 9, 0, 2)).ok());
  for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
    for (uint32_t k = 0; k < 2; ++k) {
      const ShardOwner& was = before[shard * 2 + k];
      const ShardOwner expected{was.server, was.server == d_ ? c_ : kNoServer};
      ASSERT_EQ(Row(shard)[k], expected) << "shard " << shard;
    }
  }
  EXPECT_EQ(members_.shards_under_replicated(), 0U) << "the interim owners have everything";
}

TEST_F(MembershipReplicasTest, AServerWithANewPoolIsFilledFromTheOther) {
  Four();
  const uint32_t shards = ShardsOf(a_);
  clock_.Advance(4s);
  for (const ServerId id : {b_, c_, d_}) Beat(id);
  ASSERT_EQ(Register(RequestIn("x", "a", 5, 55))->second, Registration::kReplaced);
  const auto places = Places();
  uint32_t filled = 0;
  for (const ServerId source : {c_, d_}) {
    const auto found = places.find({a_, source});
    if (found != places.end()) filled += found->second;
  }
  EXPECT_EQ(filled, shards);
  EXPECT_EQ(members_.shards_under_replicated(), shards);
}

TEST_F(MembershipReplicasTest, ADrainedServerGivesItsPlacesAway) {
  Four();
  const auto before = owners();
  ASSERT_TRUE(Drain("b").ok());
  for (uint32_t index = 0; index < owners().size(); ++index) {
    if (before[index].server == b_) {
      ASSERT_EQ(owners()[index], (ShardOwner{a_, b_}));
    } else {
      ASSERT_EQ(owners()[index], before[index]);
    }
  }
  EXPECT_EQ(members_.shards_under_replicated(), 0U);
  EXPECT_FALSE(members_.IsDrained("b"));
  SettleAll({a_, b_, c_, d_});
  EXPECT_TRUE(members_.IsDrained("b"));
  ASSERT_TRUE(Undrain("b").ok());
  for (uint32_t index = 0; index < owners().size(); ++index) {
    ASSERT_EQ(owners()[index].server, before[index].server);
  }
}

TEST_F(MembershipReplicasTest, AReplicaWaitsUntilAnotherIsWhole) {
  // Of the rows of a and b, b has pulled none when a dies: who comes waits for b.
  const ServerId a = JoinIn("", "a");
  const ServerId b = JoinIn("", "b");
  ASSERT_TRUE(Drain("a").ok());
  // b alone is left; a is its source.
  EXPECT_EQ((Places()[{b, a}]), limits::kShards);
  EXPECT_EQ((Places()[{kNoServer, kNoServer}]), limits::kShards);
  const ServerId c = JoinIn("", "c");
  EXPECT_EQ((Places()[{b, a}]), limits::kShards);
  EXPECT_EQ(ShardsOf(c), 0U) << "b has nothing yet, a is on its way out";
  EXPECT_EQ(members_.shards_under_replicated(), limits::kShards);
  SettleAll({a, b, c});
  EXPECT_EQ((Places()[{b, kNoServer}]), limits::kShards);
  EXPECT_EQ((Places()[{c, kNoServer}]), limits::kShards);
  EXPECT_EQ(members_.shards_under_replicated(), 0U);
  EXPECT_TRUE(members_.IsDrained("a"));
}

TEST_F(MembershipReplicasTest, APulledWordIsOfOneOwnerOnly) {
  Four();
  Pass(11s, {a_, b_, c_, d_});
  ASSERT_EQ(Pass(11s, {a_, b_, c_}).size(), 1U);
  uint32_t shard = 0;
  while (Row(shard)[0].source == kNoServer && Row(shard)[1].source == kNoServer) ++shard;
  const ServerId source = Row(shard)[Row(shard)[0].source == kNoServer ? 1 : 0].source;
  const uint64_t then = epoch();
  Beat(source, 1, {shard});
  Pass(2s, {a_, b_, c_});
  EXPECT_EQ(epoch(), then) << "the source says nothing about what its destination has pulled";
  Beat(c_, 1, {shard});
  Pass(2s, {a_, b_, c_});
  EXPECT_EQ(epoch(), then + 1);
  for (const ShardOwner& owner : Row(shard)) EXPECT_EQ(owner.source, kNoServer);
}

TEST_F(MembershipReplicasTest, AnotherNumberOfReplicasIsBroughtAboutByPulling) {
  Four();
  const auto two = owners();
  for (const uint32_t wanted : {3U, 1U, 0U, 2U}) {
    SCOPED_TRACE(wanted);
    MembershipOptions options;
    options.replicas = wanted;
    const DurableState state = *DecodeState(EncodeState(members_.state()));
    Membership next(options, state, clock_.Now());
    Membership::Draft draft = next.Begin();
    const uint32_t now = wanted == 0 ? 2 : wanted;
    EXPECT_EQ(draft.changed, now != 2);
    Membership::Seal(draft);
    next.Commit(clock_.Now(), std::move(draft));
    const MapContents& map = next.state().map;
    EXPECT_EQ(map.replicas, now);
    EXPECT_EQ(map.version.epoch, epoch() + (now != 2 ? 1 : 0));
    ASSERT_EQ(map.owners.size(), size_t{limits::kShards} * now);
    EXPECT_TRUE(CheckState(next.state()).ok());
    EXPECT_EQ(map.owners == two, now == 2);
    uint32_t with_source = 0;
    for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
      std::set<ServerId> before{two[shard * 2].server, two[shard * 2 + 1].server};
      for (uint32_t k = 0; k < now; ++k) {
        const ShardOwner& owner = map.owners[shard * now + k];
        ASSERT_NE(owner.server, kNoServer);
        ASSERT_TRUE(owner.source == kNoServer || before.contains(owner.source));
        ASSERT_EQ(owner.source == kNoServer, before.contains(owner.server)) << "shard " << shard;
        with_source += owner.source != kNoServer;
      }
    }
    if (now != 1) {
      EXPECT_EQ(with_source, now == 3 ? limits::kShards : 0U);
    } else {
      EXPECT_LE(with_source, limits::kShards / 50) << "nearly all that is kept is there already";
    }
    EXPECT_EQ(next.shards_under_replicated(), now == 3 ? limits::kShards : 0U);
  }
}

TEST_F(MembershipReplicasTest, AMapWithReplicasIsAdopted) {
  Four();
  const auto table = RouteTable::Create(members_.state().map);
  ASSERT_TRUE(table.ok());
  const auto adopted = AdoptedFrom(**table);
  ASSERT_TRUE(adopted.ok()) << adopted.status().ToString();
  EXPECT_EQ(adopted->map.replicas, 2U);
  EXPECT_EQ(adopted->map.owners, owners());
  Membership next({.replicas = 2}, *adopted, clock_.Now());
  EXPECT_FALSE(next.Begin().changed);
}

}  // namespace
}  // namespace simm::manager
