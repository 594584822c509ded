#include "common/rpc/cluster_health.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace simm::rpc {
namespace {

using ::testing::HasSubstr;

ClusterStatus Cluster(std::initializer_list<ServerState> states) {
  ClusterStatus status;
  for (const ServerState state : states) {
    NodeStatus& node = status.nodes.emplace_back();
    node.record.name = "s" + std::to_string(status.nodes.size());
    node.record.state = state;
    node.version = "0.1.0";
    node.shards = 10;
    node.stats.data_bytes = 100;
    node.stats.hits = 3;
  }
  return status;
}

std::string TextOf(const ClusterHealth& health) {
  std::string text;
  for (const Finding& finding : health.findings) {
    text += (finding.problem ? "! " : "- ") + finding.what + " -> " + finding.mend + "\n";
  }
  return text;
}

TEST(ClusterHealthTest, AWordForEachState) {
  using enum ServerState;
  const auto word = [](const ClusterStatus& status) { return AssessHealth(status).word; };
  EXPECT_EQ(word(Cluster({})), Health::kEmpty);
  EXPECT_EQ(word(Cluster({kAlive, kAlive})), Health::kHealthy);
  EXPECT_EQ(word(Cluster({kAlive, kDraining})), Health::kHealthy);
  EXPECT_EQ(word(Cluster({kAlive, kSuspect})), Health::kDegraded);
  EXPECT_EQ(word(Cluster({kAlive, kDead})), Health::kDegraded);
  EXPECT_EQ(word(Cluster({kDead, kSuspect})), Health::kDown);
  EXPECT_EQ(word(Cluster({kDraining})), Health::kHealthy);
  ClusterStatus status = Cluster({kAlive});
  status.frozen = "3 of 6 are silent";
  EXPECT_EQ(word(status), Health::kDegraded);
  status.frozen.clear();
  status.problem = "the disk is full";
  EXPECT_EQ(word(status), Health::kDegraded);
}

TEST(ClusterHealthTest, SaysWhoAndWhatToDo) {
  using enum ServerState;
  EXPECT_TRUE(AssessHealth(Cluster({kAlive})).findings.empty());
  EXPECT_THAT(TextOf(AssessHealth(Cluster({}))), HasSubstr("simm-dataserver --manager"));
  EXPECT_THAT(TextOf(AssessHealth(Cluster({kAlive, kDead}))),
              HasSubstr("! s2 is dead: others hold the shards -> start it again"));
  EXPECT_THAT(TextOf(AssessHealth(Cluster({kAlive, kDead, kDead}))), HasSubstr("s2 and s3 are"));
  EXPECT_THAT(TextOf(AssessHealth(Cluster({kAlive, kDead, kDead, kDead, kDead, kDead}))),
              HasSubstr("s2, s3, s4 and 2 more are dead"));
  EXPECT_THAT(TextOf(AssessHealth(Cluster({kAlive, kSuspect}))), HasSubstr("! s2 is silent"));
  ClusterStatus draining = Cluster({kAlive, kDraining});
  EXPECT_THAT(TextOf(AssessHealth(draining)), HasSubstr("- s2 is being drained, 10 shards to go"));
  draining.nodes[1].shards = 0;
  EXPECT_THAT(TextOf(AssessHealth(draining)), HasSubstr("it can be stopped"));
}

TEST(ClusterHealthTest, NewsAreNoProblems) {
  ClusterStatus status = Cluster({ServerState::kAlive, ServerState::kAlive});
  status.nodes[1].version = "0.2.0";
  status.nodes[1].shards_coming = 7;
  status.nodes[0].migration.entries_given_up = 2;
  status.nodes[0].migration.bytes_given_up = 2048;
  status.shards_under_replicated = 5;
  status.replicas = 2;
  const ClusterHealth health = AssessHealth(status);
  EXPECT_EQ(health.word, Health::kHealthy);
  for (const char* part : {"0.1.0 (1), 0.2.0 (1)", "7 shards are on their way",
                           "2 entries (2.0 KiB) were given up", "5 shards lie on fewer than 2"}) {
    EXPECT_THAT(TextOf(health), HasSubstr(part));
  }
}

TEST(ClusterHealthTest, TheDeadDoNotCountInTheSums) {
  const ClusterTotals totals = SumOf(Cluster(
      {ServerState::kAlive, ServerState::kSuspect, ServerState::kDraining, ServerState::kDead}));
  EXPECT_EQ(totals.alive + totals.suspect + totals.draining + totals.dead, 4u);
  EXPECT_EQ(totals.stats.data_bytes, 300u);
  EXPECT_EQ(totals.stats.hits, 9u);
}

}  // namespace
}  // namespace simm::rpc
