#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/base/mutex.h"
#include "common/rpc/control_services.h"
#include "common/rpc/map_source.h"
#include "tests/support/cluster_fixture.h"

namespace simm {

// A manager of which a test says what its map is: it takes the data servers named "server-0",
// "server-1", ... as ids 1, 2, ... and publishes the rows that it is told, to the data servers
// first. It declares nobody dead. Thread-safe.
class ScriptedManager final : public rpc::ManagerHandler {
 public:
  // The row of a shard.
  using Rows = std::function<std::vector<ShardOwner>(uint32_t shard)>;

  explicit ScriptedManager(uint32_t replicas) : board_(/*from_manager=*/true) {
    contents_.replicas = replicas;
    contents_.version = {.cluster = {77, 88}, .term = 1, .epoch = 0};
    contents_.namespaces = {{0, "default"}};
    rpc::ControlServerOptions options;
    options.listen = "127.0.0.1:0";
    options.manager = this;
    options.maps = &board_;
    auto server = rpc::ControlServer::Start(options);
    EXPECT_TRUE(server.ok()) << server.status().ToString();
    server_ = std::move(*server);
  }
  ~ScriptedManager() override { server_->Shutdown(std::chrono::seconds(1)); }

  std::string address() const { return "127.0.0.1:" + std::to_string(server_->port()); }

  // The next epoch: first to the data servers; to clients when those `running` have applied it.
  void Publish(const Rows& rows, const std::vector<ServerId>& running) {
    std::shared_ptr<const RouteTable> table;
    {
      MutexLock lock(mutex_);
      rows_ = rows;
      table = PublishLocked(/*to_clients=*/false);
    }
    EXPECT_TRUE(WaitUntil(
        [&] {
          MutexLock lock(mutex_);
          for (const ServerId id : running) {
            if (applied_[id].OlderThan(table->version())) return false;
          }
          return true;
        },
        std::chrono::seconds(30)));
    board_.Publish(rpc::WatcherKind::kClient, table);
  }

  Result<rpc::RegisterReply> Register(const rpc::RegisterRequest& request) override {
    MutexLock lock(mutex_);
    const auto id =
        static_cast<ServerId>(1 + std::stoul(request.name.substr(request.name.rfind('-') + 1)));
    ServerRecord record;
    record.id = id;
    record.name = request.name;
    record.pool_id = request.pool_id;
    record.incarnation = request.incarnation;
    record.boot_id = request.boot_id;
    record.control_address = request.control_address;
    record.data_address = request.data_address;
    record.weight = request.weight;
    record.capabilities = request.capabilities;
    records_[id] = record;
    PublishLocked(/*to_clients=*/true);
    return rpc::RegisterReply{
        .id = id, .map = contents_.version, .heartbeat_ms = 50, .dead_ms = 10'000};
  }
  Result<rpc::HeartbeatReply> Heartbeat(const rpc::HeartbeatRequest& request) override {
    MutexLock lock(mutex_);
    applied_[request.id] = request.map;
    return rpc::HeartbeatReply{.map = contents_.version, .register_again = false};
  }
  Result<rpc::ClusterStatus> GetStatus() override {
    MutexLock lock(mutex_);
    rpc::ClusterStatus status;
    status.map = contents_.version;
    for (const auto& [id, record] : records_) {
      rpc::NodeStatus& node = status.nodes.emplace_back();
      node.record = record;
      node.map = applied_[id];
    }
    return status;
  }
  Result<NamespaceId> CreateNamespace(const std::string&) override { return NamespaceId{0}; }
  Status RemoveNode(const std::string&) override { return Refusal(); }
  Status ReportMap(std::shared_ptr<const RouteTable>) override { return Refusal(); }
  Result<rpc::DrainReply> DrainNode(const std::string&, bool) override { return Refusal(); }
  Result<std::vector<rpc::Event>> ListEvents(uint64_t, uint32_t) override {
    return std::vector<rpc::Event>{};
  }
  std::string LeaderElsewhere() const override { return {}; }

 private:
  static Status Refusal() { return Status(Code::kFailedPrecondition, "this manager is scripted"); }

  std::shared_ptr<const RouteTable> PublishLocked(bool to_clients) SIMM_REQUIRES(mutex_) {
    ++contents_.version.epoch;
    contents_.servers.clear();
    for (const auto& [id, record] : records_) contents_.servers.push_back(record);
    contents_.owners.assign(size_t{limits::kShards} * contents_.replicas, {});
    for (uint32_t shard = 0; rows_ != nullptr && shard < limits::kShards; ++shard) {
      const std::vector<ShardOwner> row = rows_(shard);
      for (size_t i = 0; i < row.size(); ++i) {
        ShardOwner& owner = contents_.owners[size_t{shard} * contents_.replicas + i];
        if (records_.contains(row[i].server)) owner = row[i];
        if (!records_.contains(owner.source)) owner.source = kNoServer;
      }
    }
    auto table = RouteTable::Create(contents_);
    EXPECT_TRUE(table.ok()) << table.status().ToString();
    board_.Publish(rpc::WatcherKind::kServer, *table);
    if (to_clients) board_.Publish(rpc::WatcherKind::kClient, *table);
    return *table;
  }

  rpc::MapBoard board_;
  Mutex mutex_;
  MapContents contents_ SIMM_GUARDED_BY(mutex_);
  Rows rows_ SIMM_GUARDED_BY(mutex_);
  std::map<ServerId, ServerRecord> records_ SIMM_GUARDED_BY(mutex_);
  std::map<ServerId, MapVersion> applied_ SIMM_GUARDED_BY(mutex_);
  std::unique_ptr<rpc::ControlServer> server_;
};

}  // namespace simm
