#include "manager/cluster_history.h"

#include <gtest/gtest.h>

#include "common/base/limits.h"

namespace simm::manager {
namespace {

using namespace std::chrono_literals;

constexpr Instant kStart{1'000'000'000'000};

// One server: boot, counters, and how long ago it was heard.
rpc::NodeStatus Node(uint64_t boot, uint64_t hits, uint64_t silent_ms = 0, ServerId id = 1) {
  rpc::NodeStatus node;
  node.record.id = id;
  node.record.boot_id = {1, boot};
  node.silent_ms = silent_ms;
  node.stats.data_bytes = 1000;
  node.stats.live_bytes = 400;
  node.stats.hits = hits;
  node.stats.bytes_read = hits * 10;
  return node;
}

class ClusterHistoryTest : public testing::Test {
 protected:
  // What the look at `at` after the start makes of the cluster.
  HistorySample Look(Duration at, std::vector<rpc::NodeStatus> nodes) {
    rpc::ClusterStatus status;
    status.nodes = std::move(nodes);
    history_.Add(kStart + at, static_cast<uint64_t>(at / 1ms), status);
    return history_.List(0).back();
  }
  ClusterHistory history_;
};

TEST_F(ClusterHistoryTest, RatesAreOfTheTimeBetweenHeartbeats) {
  EXPECT_EQ(Look(0s, {Node(1, 100)}).rates.hits, 0);  // a counter alone says nothing
  // Looks fall between heartbeats: one sees none, the next two of them.
  EXPECT_DOUBLE_EQ(Look(1s, {Node(1, 100, 1000)}).rates.hits, 0);
  EXPECT_DOUBLE_EQ(Look(2s, {Node(1, 300, 0)}).rates.hits, 100);
  EXPECT_DOUBLE_EQ(Look(3s, {Node(1, 300, 1000)}).rates.hits, 100);
  const HistorySample last = Look(4s, {Node(1, 500, 0)});
  EXPECT_DOUBLE_EQ(last.rates.hits, 100);
  EXPECT_DOUBLE_EQ(last.rates.bytes_read, 1000);
  EXPECT_EQ(last.live_bytes, 400u);
  EXPECT_EQ(last.servers_alive, 1u);
  EXPECT_EQ(last.unix_ms, 4000u);
}

TEST_F(ClusterHistoryTest, TwoHeartbeatsInShortSuccessionAreOne) {
  Look(0s, {Node(1, 0)});
  EXPECT_DOUBLE_EQ(Look(10ms, {Node(1, 50)}).rates.hits, 0);
  EXPECT_DOUBLE_EQ(Look(1s, {Node(1, 200)}).rates.hits, 200);
}

TEST_F(ClusterHistoryTest, ARestartOfAServerIsNoFlood) {
  Look(0s, {Node(1, 1'000'000)});
  Look(1s, {Node(1, 1'000'100)});
  EXPECT_EQ(Look(2s, {Node(2, 70)}).rates.hits, 0);  // another boot counts from zero
  EXPECT_DOUBLE_EQ(Look(3s, {Node(2, 100)}).rates.hits, 30);
  EXPECT_EQ(Look(4s, {Node(2, 90)}).rates.hits, 0);  // never below zero, whatever a server says
}

TEST_F(ClusterHistoryTest, ARestartOfTheManagerIsNoFloodEither) {
  // Registered, without a heartbeat yet; then one with the counters of a week.
  rpc::NodeStatus silent = Node(1, 0);
  silent.stats = {};
  Look(0s, {silent});
  EXPECT_EQ(Look(1s, {Node(1, 1'000'000)}).rates.hits, 0);
  EXPECT_DOUBLE_EQ(Look(2s, {Node(1, 1'000'005)}).rates.hits, 5);
}

TEST_F(ClusterHistoryTest, TheSilentAndTheGoneDoNothing) {
  Look(0s, {Node(1, 0), Node(2, 0, 0, 2)});
  EXPECT_DOUBLE_EQ(Look(1s, {Node(1, 10), Node(2, 10, 0, 2)}).rates.hits, 20);
  rpc::NodeStatus suspect = Node(1, 10, 3000);
  suspect.record.state = ServerState::kSuspect;
  const HistorySample sample = Look(4s, {suspect, Node(2, 40, 0, 2)});
  EXPECT_DOUBLE_EQ(sample.rates.hits, 10);
  EXPECT_EQ(sample.servers_alive, 1u);
  EXPECT_DOUBLE_EQ(Look(5s, {Node(2, 50, 0, 2)}).rates.hits, 10);  // 1 was removed
  EXPECT_EQ(Look(6s, {Node(1, 5'000)}).rates.hits, 0);             // and is new when it returns
}

TEST_F(ClusterHistoryTest, KeepsTheNewestAndListsWhatIsNew) {
  for (size_t i = 0; i < limits::kMaxHistorySamples + 5; ++i) Look(i * 1s, {});
  const auto all = history_.List(0);
  ASSERT_EQ(all.size(), limits::kMaxHistorySamples);
  EXPECT_EQ(all.front().number, 6u);
  const auto few = history_.List(all.back().number - 2);
  ASSERT_EQ(few.size(), 2u);
  EXPECT_EQ(few.back().number, all.back().number);
  EXPECT_TRUE(history_.List(all.back().number).empty());
}

TEST_F(ClusterHistoryTest, FillsInTheRatesOfEachServer) {
  Look(0s, {Node(1, 0), Node(2, 0, 0, 2)});
  Look(1s, {Node(1, 10), Node(2, 30, 0, 2)});
  rpc::ClusterStatus status;
  status.nodes = {Node(2, 30, 0, 2), Node(1, 0, 0, 99)};
  history_.FillRates(status);
  EXPECT_DOUBLE_EQ(status.rates.hits, 40);
  EXPECT_DOUBLE_EQ(status.nodes[0].rates.hits, 30);
  EXPECT_DOUBLE_EQ(status.nodes[1].rates.hits, 0);
}

}  // namespace
}  // namespace simm::manager
