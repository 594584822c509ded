// The manager's life seen from outside: its state lost, many servers silent at once, orders to
// drain.
#include <gtest/gtest.h>
#include <signal.h>

#include <filesystem>

#include "client/admin.h"
#include "tests/support/cluster_fixture.h"

namespace simm {
namespace {

class ManagerTest : public ClusterTest {
 protected:
  Result<rpc::ClusterStatus> TryStatus() const {
    return Admin({cluster_->manager_address()}).GetStatus(2s);
  }
  void LoseState() {
    cluster_->manager()->Kill();
    std::filesystem::rename(cluster_->folder() + "/manager/state",
                            cluster_->folder() + "/moved-aside");
  }
  std::vector<rpc::EventKind> Events() const {
    std::vector<rpc::EventKind> kinds;
    const auto events = Admin({cluster_->manager_address()}).ListEvents(0, 0, 5s);
    EXPECT_TRUE(events.ok()) << events.status().ToString();
    if (!events.ok()) return kinds;
    for (const rpc::Event& event : *events) kinds.push_back(event.kind);
    return kinds;
  }
};

TEST_F(ManagerTest, ALostStateComesBackFromTheServersAndNobodyNotices) {
  StartCluster(3);
  std::vector<std::byte> buffer(1000);
  for (uint64_t key = 0; key < 60; ++key) {
    ASSERT_EQ(PutOne(*client_, KeyOf(key), ValueOf(key, 1000)), Code::kOk);
  }
  const rpc::ClusterStatus before = Status();
  LoseState();
  ASSERT_TRUE(cluster_->StartManager().ok());
  Result<rpc::ClusterStatus> status = TryStatus();
  EXPECT_EQ(status.code(), Code::kUnavailable) << "it decides nothing yet";
  uint64_t round = 0;
  ASSERT_TRUE(WaitUntil(
      [&] {
        const uint64_t key = round++ % 60;
        EXPECT_EQ(GetOne(*client_, KeyOf(key), buffer).code, Code::kOk) << key;
        EXPECT_EQ(PutOne(*client_, KeyOf(1000 + round), ValueOf(1, 100)), Code::kOk);
        status = TryStatus();
        return status.ok() && status->nodes.size() == 3;
      },
      20s));
  EXPECT_EQ(status->map.cluster, before.map.cluster);
  EXPECT_EQ(status->map.term, before.map.term + 1);
  EXPECT_GT(status->map.epoch, before.map.epoch);
  // All are heard again, with the shards that they had; the clients take the higher term.
  ASSERT_TRUE(cluster_->WaitAlive(3, 20s).ok());
  const rpc::ClusterStatus after = Status();
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(after.nodes[i].record.name, before.nodes[i].record.name);
    EXPECT_EQ(after.nodes[i].record.id, before.nodes[i].record.id);
    EXPECT_EQ(after.nodes[i].shards, before.nodes[i].shards);
  }
  const auto kinds = Events();
  EXPECT_NE(std::find(kinds.begin(), kinds.end(), rpc::EventKind::kMapAdopted), kinds.end());
  for (uint64_t key = 0; key < 60; ++key) {
    EXPECT_EQ(GetOne(*client_, KeyOf(key), buffer).code, Code::kOk) << key;
    EXPECT_TRUE(IsValueOf(key, buffer)) << key;
  }
  const auto fresh = Connect();
  ASSERT_NE(fresh, nullptr);
  EXPECT_EQ(GetOne(*fresh, KeyOf(7), buffer).code, Code::kOk);
}

TEST_F(ManagerTest, ServersThatFallSilentTogetherKeepTheirShards) {
  StartCluster(3);
  std::this_thread::sleep_for(kDeadTime);  // after its start nobody dies within one
  const rpc::ClusterStatus before = Status();
  for (const size_t i : {0, 1}) cluster_->server(i)->Signal(SIGSTOP);
  ASSERT_TRUE(WaitUntil([&] { return !Status().frozen.empty(); }, 20s));
  EXPECT_NE(Status().frozen.find("2 of 3"), std::string::npos);
  EXPECT_EQ(Status().map, before.map);
  for (const size_t i : {0, 1}) cluster_->server(i)->Signal(SIGCONT);
  ASSERT_TRUE(WaitUntil([&] { return Status().frozen.empty(); }, 20s));
  ASSERT_TRUE(cluster_->WaitAlive(3, 20s).ok());
  EXPECT_EQ(Status().map, before.map) << "nothing was moved";
  const auto kinds = Events();
  EXPECT_NE(std::find(kinds.begin(), kinds.end(), rpc::EventKind::kFrozen), kinds.end());
  EXPECT_NE(std::find(kinds.begin(), kinds.end(), rpc::EventKind::kThawed), kinds.end());
  EXPECT_EQ(std::find(kinds.begin(), kinds.end(), rpc::EventKind::kDied), kinds.end());
}

TEST_F(ManagerTest, ADrainedServerOwnsNothingUntilItIsUndrained) {
  StartCluster(3);
  const Admin admin({cluster_->manager_address()});
  const auto shards_of = [&](const std::string& name) {
    for (const rpc::NodeStatus& node : Status().nodes) {
      if (node.record.name == name) return node.shards;
    }
    return UINT32_MAX;
  };
  const uint32_t before = shards_of("server-1");
  EXPECT_GT(before, 20'000u);
  ASSERT_TRUE(admin.DrainNode("server-1", false, 5s).ok());
  EXPECT_EQ(shards_of("server-1"), 0u);
  // A restart of the manager does not forget it.
  cluster_->manager()->Kill();
  ASSERT_TRUE(cluster_->StartManager().ok());
  ASSERT_TRUE(WaitUntil([&] { return TryStatus().ok(); }, 20s));
  EXPECT_EQ(shards_of("server-1"), 0u);
  ASSERT_TRUE(WaitUntil([&] { return client_->Locate("any").server != "server-1"; }, 20s));
  ASSERT_TRUE(admin.DrainNode("server-1", true, 5s).ok());
  EXPECT_EQ(shards_of("server-1"), before);
}

}  // namespace
}  // namespace simm
