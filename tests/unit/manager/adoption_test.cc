#include "manager/adoption.h"

#include <gtest/gtest.h>

#include "tests/support/fake_clock.h"

namespace simm::manager {
namespace {

using namespace std::chrono_literals;

constexpr Id128 kCluster{7, 7};
constexpr Id128 kFresh{9, 9};

// A map of servers 1 and 2, of which 2 is dead and 1 has all shards.
std::shared_ptr<const RouteTable> Map(uint64_t term, uint64_t epoch, Id128 cluster = kCluster,
                                      uint64_t weight = 1 << 20) {
  MapContents contents;
  contents.version = {cluster, term, epoch};
  for (ServerId id = 1; id <= 2; ++id) {
    ServerRecord& server = contents.servers.emplace_back();
    server.id = id;
    server.name = "s" + std::to_string(id);
    server.pool_id = {1, id};
    server.boot_id = {2, id};
    server.control_address = server.data_address = "h:1";
    server.weight = weight;
  }
  contents.servers[1].state = ServerState::kDead;
  contents.namespaces = {{NamespaceId{0}, "default"}, {NamespaceId{1}, "tenant"}};
  contents.owners.assign(limits::kShards, {1, kNoServer});
  return *RouteTable::Create(std::move(contents));
}

class AdoptionTest : public testing::Test {
 protected:
  // Time passes until there is a decision, at most `limit`; how long it took.
  std::optional<DurableState> Wait(Duration limit) {
    for (Duration passed{}; passed < limit; passed += 500ms) {
      if (auto state = adoption_.Decide(clock_.Now(), kFresh)) return state;
      clock_.Advance(500ms);
    }
    return adoption_.Decide(clock_.Now(), kFresh);
  }
  Duration waited() const { return clock_.Now() - start_; }

  FakeClock clock_;
  const Instant start_ = clock_.Now();
  Adoption adoption_{10s, clock_.Now()};
};

TEST_F(AdoptionTest, WithoutAMapANewClusterBeginsAfterOneDeadTime) {
  EXPECT_FALSE(adoption_.Offer("new-server", {}));
  const auto state = Wait(1h);
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(waited(), 10s);
  EXPECT_EQ(state->map.version, (MapVersion{kFresh, 1, 1}));
}

TEST_F(AdoptionTest, APausedManagerWaitsAnew) {
  ASSERT_FALSE(Wait(5s).has_value());
  clock_.Advance(1h);  // SIGSTOP: the servers had no chance to say what they hold
  ASSERT_FALSE(adoption_.Decide(clock_.Now(), kFresh).has_value());
  EXPECT_TRUE(adoption_.Offer("s1", {kCluster, 3, 40}));
  ASSERT_TRUE(adoption_.Report(*Map(3, 40)).ok());
  const auto state = Wait(1h);
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(state->map.version.cluster, kCluster);
}

TEST_F(AdoptionTest, GoesOnFromTheNewestMapAtTheNextTerm) {
  EXPECT_TRUE(adoption_.Offer("s1", {kCluster, 3, 40}));
  EXPECT_TRUE(adoption_.Report(*Map(3, 40)).ok());
  EXPECT_FALSE(adoption_.Offer("s1", {kCluster, 3, 40})) << "it is here already";
  EXPECT_FALSE(adoption_.Offer("s2", {kCluster, 2, 99})) << "a lower term is older";
  EXPECT_TRUE(adoption_.Offer("s3", {kCluster, 3, 41}));
  EXPECT_TRUE(adoption_.Report(*Map(3, 41)).ok());
  EXPECT_TRUE(adoption_.Report(*Map(3, 39)).ok());
  EXPECT_FALSE(adoption_.Decide(clock_.Now(), kFresh).has_value());
  const auto state = Wait(1h);
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(waited(), 10s);
  EXPECT_EQ(state->map.version, (MapVersion{kCluster, 4, 42}));
  EXPECT_EQ(state->map.owners, Map(3, 41)->contents().owners);
  EXPECT_EQ(state->map.namespaces.size(), 2U);
  EXPECT_GT(state->next_server, 2U) << "an id is never used again";
  EXPECT_TRUE(CheckState(*state).ok());
}

TEST_F(AdoptionTest, ANewerMapThatIsOnlyOfferedIsWaitedForOnce) {
  adoption_.Offer("s1", {kCluster, 3, 40});
  ASSERT_TRUE(adoption_.Report(*Map(3, 40)).ok());
  adoption_.Offer("s2", {kCluster, 3, 50});
  const auto state = Wait(1h);
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(waited(), 20s);
  EXPECT_EQ(state->map.version.epoch, 41U);
}

TEST_F(AdoptionTest, NoNewClusterBeginsWhileSomebodyHoldsAMap) {
  adoption_.Offer("s1", {kCluster, 3, 40});
  EXPECT_FALSE(Wait(1min).has_value());
  ASSERT_TRUE(adoption_.Report(*Map(3, 40)).ok());
  EXPECT_TRUE(Wait(0s).has_value());
}

TEST_F(AdoptionTest, TheClusterOfMostServersWins) {
  adoption_.Offer("stray", {{1, 1}, 99, 99});
  ASSERT_TRUE(adoption_.Report(*Map(99, 99, {1, 1})).ok());
  for (const char* name : {"s1", "s2"}) adoption_.Offer(name, {kCluster, 3, 40});
  ASSERT_TRUE(adoption_.Report(*Map(3, 40)).ok());
  const auto state = Wait(1h);
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(state->map.version.cluster, kCluster);
}

TEST_F(AdoptionTest, AMapThatNoManagerMadeIsRefusedAndForgotten) {
  adoption_.Offer("s1", {kCluster, 3, 40});
  EXPECT_FALSE(adoption_.Report(*Map(3, 40, kCluster, /*weight=*/0)).ok());
  const auto state = Wait(1h);
  ASSERT_TRUE(state.has_value());
  EXPECT_EQ(state->map.version.cluster, kFresh);
}

}  // namespace
}  // namespace simm::manager
