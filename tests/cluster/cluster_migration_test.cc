// Shards on the move with real processes under load: join, drain with data, removals meanwhile, and
// either end killed half way.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "client/admin.h"
#include "common/rpc/dataserver_stub.h"
#include "tests/support/cluster_fixture.h"
#include "tests/support/http_get.h"
#include "tests/support/pool_folder.h"

namespace simm {
namespace {

constexpr size_t kBytes = 40'000;

class MigrationTest : public ClusterTest {
 protected:
  // `started` of `servers`, the others when a test wants them.
  void StartSome(size_t servers, size_t started, const std::string& bandwidth,
                 uint64_t memory = 64 << 20) {
    bench::EmbeddedOptions options = Options(static_cast<uint32_t>(servers), memory);
    options.server_flags.insert(options.server_flags.end(), {"--migration-bandwidth", bandwidth});
    options.pool_folder = pool_folder_;
    auto cluster = bench::EmbeddedCluster::Create(options);
    ASSERT_TRUE(cluster.ok()) << cluster.status().ToString();
    cluster_ = std::move(*cluster);
    ASSERT_TRUE(cluster_->StartManager().ok());
    for (size_t i = 0; i < started; ++i) ASSERT_TRUE(cluster_->StartServer(i).ok());
    ASSERT_TRUE(cluster_->WaitAlive(started, 30s).ok());
    client_ = Connect();
    ASSERT_NE(client_, nullptr);
  }
  void Fill(uint64_t count) {
    for (uint64_t key = 0; key < count; ++key)
      ASSERT_EQ(PutOne(*client_, KeyOf(key), ValueOf(key, kBytes)), Code::kOk) << key;
  }
  uint64_t Missing(uint64_t count) {
    std::vector<std::byte> buffer(kBytes);
    uint64_t missing = 0;
    for (uint64_t key = 0; key < count; ++key) {
      const Code code = GetOne(*client_, KeyOf(key), buffer).code;
      if (code == Code::kOk) {
        EXPECT_TRUE(IsValueOf(key, buffer)) << key;
      } else {
        EXPECT_EQ(code, Code::kMiss) << key;
        ++missing;
      }
    }
    return missing;
  }
  rpc::NodeStatus NodeOf(const std::string& name) const {
    for (const rpc::NodeStatus& node : Status().nodes) {
      if (node.record.name == name) return node;
    }
    return {};
  }
  // No shard is on its way, as the manager sees it.
  bool Settled() const {
    for (const rpc::NodeStatus& node : Status().nodes) {
      if (node.shards_coming != 0 || node.shards_leaving != 0) return false;
    }
    return true;
  }
  uint64_t EntriesAt(size_t server) const {
    const auto status = rpc::GetServerStatus(cluster_->server_ready(server).listen, 5s);
    EXPECT_TRUE(status.ok()) << status.status().ToString();
    return status.ok() ? status->stats.entries : UINT64_MAX;
  }
  uint64_t Pulled() const {
    uint64_t pulled = 0;
    for (const rpc::NodeStatus& node : Status().nodes) pulled += node.migration.entries_pulled;
    return pulled;
  }

  std::string pool_folder_;
};

// Reads known keys and puts new ones until it is told to stop.
class Load {
 public:
  Load(std::unique_ptr<Client> client, uint64_t keys) : client_(std::move(client)), keys_(keys) {
    thread_ = std::thread([this] { Run(); });
  }
  ~Load() { Stop(); }
  void Stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  uint64_t reads() const { return reads_; }
  uint64_t misses() const { return misses_; }
  uint64_t wrong() const { return wrong_; }
  uint64_t errors() const { return errors_; }

 private:
  void Run() {
    std::vector<std::byte> buffer(kBytes);
    for (uint64_t round = 0; !stop_; ++round) {
      const uint64_t key = round * 7919 % keys_;
      const std::string name = KeyOf(key);
      const GetItem item = {name, buffer.data(), buffer.size()};
      const Code code = client_->Get({&item, 1}, {})[0].code;
      ++reads_;
      if (code == Code::kMiss) ++misses_;
      if (code == Code::kOk && !IsValueOf(key, buffer)) ++wrong_;
      if (code != Code::kOk && code != Code::kMiss) ++errors_;
      const std::string fresh = "fresh-" + std::to_string(round % 500);
      const auto value = ValueOf(round % 500, 1000);
      const PutItem put = {fresh, value.data(), value.size()};
      const Code stored = client_->Put({&put, 1}, {})[0].code;
      if (stored != Code::kOk && stored != Code::kExists) ++errors_;
    }
  }

  const std::unique_ptr<Client> client_;
  const uint64_t keys_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> reads_{0};
  std::atomic<uint64_t> misses_{0};
  std::atomic<uint64_t> wrong_{0};
  std::atomic<uint64_t> errors_{0};
  std::thread thread_;
};

// 3 -> 5 -> 2.
TEST_F(MigrationTest, JoinTwoThenDrainThreeAndNoKeyIsEverMissed) {
  constexpr uint64_t kKeys = 1500;  // 60 MB of 192
  ASSERT_NO_FATAL_FAILURE(StartSome(5, 3, "40MiB"));
  ASSERT_NO_FATAL_FAILURE(Fill(kKeys));
  Load load(Connect(), kKeys);
  ASSERT_TRUE(cluster_->StartServer(3).ok());
  ASSERT_TRUE(cluster_->StartServer(4).ok());
  ASSERT_TRUE(cluster_->WaitAlive(5, 30s).ok());
  ASSERT_TRUE(WaitUntil([&] { return Settled(); }, 60s));
  EXPECT_GT(NodeOf("server-3").migration.entries_pulled, 100u);
  EXPECT_GT(NodeOf("server-4").migration.entries_pulled, 100u);
  EXPECT_EQ(Missing(kKeys), 0u);

  constexpr size_t kLeave[] = {1, 0, 2};
  for (const size_t server : kLeave) {
    EXPECT_GT(EntriesAt(server), 100u);
    const std::string name = "server-" + std::to_string(server);
    const auto drained = Admin({cluster_->manager_address()}).DrainNode(name, false, 5s);
    ASSERT_TRUE(drained.ok()) << drained.status().ToString();
    EXPECT_TRUE(drained->migrates);
  }
  for (const size_t server : kLeave) {
    ASSERT_TRUE(WaitUntil([&] { return Settled() && EntriesAt(server) == 0; }, 60s)) << server;
    EXPECT_EQ(NodeOf("server-" + std::to_string(server)).shards, 0u);
  }
  load.Stop();
  EXPECT_EQ(Missing(kKeys), 0u);
  uint64_t given_up = 0;
  for (const rpc::NodeStatus& one : Status().nodes) given_up += one.migration.entries_given_up;
  EXPECT_EQ(given_up, 0u);
  EXPECT_GT(load.reads(), 100u);

  EXPECT_EQ(load.misses(), 0u) << "of " << load.reads();
  EXPECT_EQ(load.wrong(), 0u);
  EXPECT_EQ(load.errors(), 0u);
  // The drained servers can go.
  for (const size_t server : kLeave) cluster_->server(server)->Kill();
  EXPECT_EQ(Missing(kKeys), 0u);
}

TEST_F(MigrationTest, WhatIsRemovedOrReplacedDuringAPullStaysSo) {
  constexpr uint64_t kKeys = 600;
  ASSERT_NO_FATAL_FAILURE(StartSome(2, 1, "4MiB"));  // 12 MB: 3 s
  ASSERT_NO_FATAL_FAILURE(Fill(kKeys));
  ASSERT_TRUE(cluster_->StartServer(1).ok());
  ASSERT_TRUE(WaitUntil([&] { return NodeOf("server-1").shards_coming > 0; }, 30s));
  ASSERT_TRUE(WaitUntil(
      [&] {
        return client_->Locate(KeyOf(KeysOwnedBy(0, 1)[0])).server == "server-0" &&
               !KeysOwnedBy(1, 1).empty();
      },
      30s));
  const std::vector<uint64_t> moving = KeysOwnedBy(1, 200);
  for (size_t i = 0; i < 200; i += 2) {
    const std::string removed = KeyOf(moving[i]);
    const std::string_view name = removed;
    EXPECT_EQ(client_->Remove({&name, 1})[0].code, Code::kOk) << removed;
    PutOptions replace;
    replace.replace = true;
    EXPECT_EQ(PutOne(*client_, KeyOf(moving[i + 1]), ValueOf(moving[i + 1], kBytes, 5), replace),
              Code::kOk);
  }
  std::vector<std::byte> buffer(kBytes);
  const auto check = [&](const char* when) {
    for (size_t i = 0; i < 200; i += 2) {
      EXPECT_EQ(GetOne(*client_, KeyOf(moving[i]), buffer).code, Code::kMiss) << when << i;
      EXPECT_EQ(GetOne(*client_, KeyOf(moving[i + 1]), buffer).code, Code::kOk) << when << i;
      EXPECT_TRUE(IsValueOf(moving[i + 1], buffer, 5)) << when << i;
    }
  };
  const auto tombstones = [&] {
    return Series(HttpGet(cluster_->server_ready(1).http, "/metrics"), "simm_pool_tombstones");
  };
  EXPECT_GT(tombstones(), 0);
  check("meanwhile ");
  // This client may have the map before that for a moment, and the source its entries.
  ASSERT_TRUE(WaitUntil([&] { return Settled(); }, 60s));
  check("as the source is dropped ");
  const auto everybody = [&] { return client_->Locate(KeyOf(0)).epoch == Status().map.epoch; };
  ASSERT_TRUE(WaitUntil(everybody, 60s));
  check("afterwards ");
  // Nothing else has to happen for their end.
  EXPECT_TRUE(WaitUntil([&] { return tombstones() == 0; }, 60s));
}

TEST_F(MigrationTest, ASourceThatDiesCostsMissesOnly) {
  constexpr uint64_t kKeys = 1000;
  ASSERT_NO_FATAL_FAILURE(StartSome(3, 2, "4MiB"));
  ASSERT_NO_FATAL_FAILURE(Fill(kKeys));
  std::this_thread::sleep_for(kDeadTime);  // after its start nobody dies within one
  ASSERT_TRUE(cluster_->StartServer(2).ok());
  ASSERT_TRUE(WaitUntil([&] { return Pulled() > 20; }, 30s));
  cluster_->server(0)->Kill();
  // Settles without the dead source.
  ASSERT_TRUE(WaitUntil(
      [&] { return NodeOf("server-0").record.state == ServerState::kDead && Settled(); }, 60s));
  EXPECT_GE(NodeOf("server-2").migration.entries_pulled, 20u);
  const uint64_t missing = Missing(kKeys);
  EXPECT_GT(missing, 0u);
  EXPECT_LT(missing, kKeys * 3 / 4);
  ASSERT_EQ(PutOne(*client_, "after", ValueOf(1, 100)), Code::kOk);
}

TEST_F(MigrationTest, ADestinationThatIsKilledGoesOnWhereItWas) {
  constexpr uint64_t kKeys = 800;
  PoolFolder folder;
  pool_folder_ = folder.pool();
  std::filesystem::create_directories(pool_folder_);
  ASSERT_NO_FATAL_FAILURE(StartSome(2, 1, "4MiB"));
  ASSERT_NO_FATAL_FAILURE(Fill(kKeys));
  ASSERT_TRUE(cluster_->StartServer(1).ok());
  ASSERT_TRUE(WaitUntil([&] { return Pulled() > 100; }, 30s));
  cluster_->server(1)->Kill();
  ASSERT_TRUE(cluster_->StartServer(1).ok());
  ASSERT_TRUE(cluster_->WaitAlive(2, 30s).ok());
  ASSERT_TRUE(WaitUntil([&] { return Settled(); }, 60s));
  EXPECT_EQ(Missing(kKeys), 0u);
  // What it had is not fetched again.
  const uint64_t pulled = NodeOf("server-1").migration.entries_pulled;
  EXPECT_LT(pulled, EntriesAt(1) - 50);
  ASSERT_TRUE(WaitUntil([&] { return EntriesAt(0) + EntriesAt(1) == kKeys; }, 30s))
      << "the source has dropped what has moved";
}

TEST_F(MigrationTest, AServerThatReturnsAfterItsDeathHasItsShardsAndWhatCameMeanwhile) {
  constexpr uint64_t kKeys = 600, kLater = 300;
  PoolFolder folder;
  pool_folder_ = folder.pool();
  std::filesystem::create_directories(pool_folder_);
  ASSERT_NO_FATAL_FAILURE(StartSome(3, 3, "40MiB"));
  ASSERT_NO_FATAL_FAILURE(Fill(kKeys));
  const std::vector<uint64_t> its = KeysOwnedBy(1, 100);
  cluster_->server(1)->Kill();
  const auto gone = [&] {
    return NodeOf("server-1").record.state == ServerState::kDead && Settled();
  };
  ASSERT_TRUE(WaitUntil(gone, 30s));
  for (uint64_t key = kKeys; key < kKeys + kLater; ++key) {  // those of its shards elsewhere
    const auto stored = [&] {
      return PutOne(*client_, KeyOf(key), ValueOf(key, kBytes)) == Code::kOk;
    };
    ASSERT_TRUE(WaitUntil(stored, 30s)) << key;
  }
  ASSERT_TRUE(cluster_->StartServer(1).ok());
  ASSERT_TRUE(cluster_->WaitAlive(3, 30s).ok());
  const auto back = [&] { return OwnerOf(KeyOf(its[0])) == 1; };
  ASSERT_TRUE(WaitUntil(back, 30s));
  EXPECT_EQ(KeysOwnedBy(1, 100), its) << "the very same shards";
  EXPECT_EQ(Missing(kKeys + kLater), 0u);
  // What it had was not fetched; what had come meanwhile was.
  const rpc::NodeStatus node = NodeOf("server-1");
  EXPECT_GT(node.migration.entries_pulled, kLater / 6);
  EXPECT_LE(node.migration.entries_pulled, kLater);
}

// Four servers in two zones, two owners a shard.
class RepairTest : public MigrationTest {
 protected:
  void StartReplicated() {
    bench::EmbeddedOptions options = Options(4, 64 << 20);
    options.manager_flags.insert(options.manager_flags.end(), {"--replicas", "2"});
    options.zones = {"a", "a", "b", "b"};
    StartCluster(options);
  }
  bool Repaired() const {
    const auto status = Status();
    return status.shards_under_replicated == 0 && status.shards_moving == 0;
  }
  bool Dead(size_t server) const {
    return NodeOf("server-" + std::to_string(server)).record.state == ServerState::kDead;
  }
};

TEST_F(RepairTest, AfterALossReplicasAreMadeAnewAndTheNextLossCostsNothing) {
  constexpr uint64_t kKeys = 700;
  ASSERT_NO_FATAL_FAILURE(StartReplicated());
  ASSERT_NO_FATAL_FAILURE(Fill(kKeys));
  EXPECT_EQ(Status().replicas, 2u);
  uint64_t entries = 0;
  for (size_t i = 0; i < 4; ++i) entries += EntriesAt(i);
  EXPECT_EQ(entries, 2 * kKeys);
  Load load(Connect(), kKeys);
  for (const size_t server : {0, 2}) {  // one of each zone, one after the other
    const uint64_t pulled = Pulled();
    cluster_->server(server)->Kill();
    ASSERT_TRUE(WaitUntil([&] { return Dead(server) && Repaired(); }, 60s));
    EXPECT_GT(Pulled(), pulled + kKeys / 5);
    EXPECT_EQ(Missing(kKeys), 0u) << server;
  }
  load.Stop();
  EXPECT_EQ(load.misses(), 0u) << "of " << load.reads();
  EXPECT_EQ(load.wrong(), 0u);
  EXPECT_GT(load.reads(), 100u);
  EXPECT_GE(EntriesAt(1), kKeys);
  EXPECT_GE(EntriesAt(3), kKeys);
}

TEST_F(RepairTest, TheLossOfAZoneCostsNoKey) {
  constexpr uint64_t kKeys = 400;
  ASSERT_NO_FATAL_FAILURE(StartReplicated());
  ASSERT_NO_FATAL_FAILURE(Fill(kKeys));
  cluster_->server(2)->Kill();
  cluster_->server(3)->Kill();
  EXPECT_EQ(Missing(kKeys), 0u);
  // Half of the servers at once: the map is frozen, and they return, empty.
  ASSERT_TRUE(WaitUntil([&] { return !Status().frozen.empty(); }, 30s));
  EXPECT_EQ(Missing(kKeys), 0u);
  ASSERT_TRUE(cluster_->StartServer(2).ok());
  ASSERT_TRUE(cluster_->StartServer(3).ok());
  ASSERT_TRUE(cluster_->WaitAlive(4, 30s).ok());
  ASSERT_TRUE(WaitUntil([&] { return Repaired() && Status().frozen.empty(); }, 60s));
  EXPECT_EQ(Missing(kKeys), 0u);
  EXPECT_EQ(EntriesAt(2) + EntriesAt(3), kKeys) << "made anew from the other zone";
}

}  // namespace
}  // namespace simm
