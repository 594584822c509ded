#include <gtest/gtest.h>

#include <thread>

#include "common/rpc/manager_stub.h"
#include "common/rpc/map_watcher.h"
#include "manager/service.h"
#include "tests/unit/rpc/sample_map.h"

namespace simm::manager {
namespace {

using namespace std::chrono_literals;
using rpc::Eventually;

// Keeps the state in memory; fails when told to.
class FakeStore final : public Store {
 public:
  Result<std::optional<DurableState>> Load() override {
    MutexLock lock(mutex_);
    return state_;
  }
  Status Save(const DurableState& state) override {
    if (failing) return Status(Code::kUnavailable, "the disk is full");
    MutexLock lock(mutex_);
    state_ = state;
    return Status::Ok();
  }
  uint64_t epoch() const {
    MutexLock lock(mutex_);
    return state_.has_value() ? state_->map.version.epoch : 0;
  }
  std::atomic<bool> failing{false};

 private:
  mutable Mutex mutex_;
  std::optional<DurableState> state_ SIMM_GUARDED_BY(mutex_);
};

rpc::RegisterRequest Request(const std::string& name, uint64_t boot = 1) {
  rpc::RegisterRequest request;
  request.name = name;
  request.pool_id = {1, std::hash<std::string>()(name) | 1};
  request.boot_id = {2, boot};
  request.control_address = "127.0.0.1:7";
  request.data_address = "127.0.0.1:8";
  request.weight = 1 << 20;
  return request;
}

class ManagerServiceTest : public testing::Test {
 protected:
  ManagerServiceTest() { Start(); }
  ~ManagerServiceTest() override { StopAll(); }

  void Start() {
    board_ = std::make_unique<rpc::MapBoard>(true);
    ManagerService::Options options;
    options.membership = {50ms, 150ms, 500ms};
    service_ = *ManagerService::Start(options, store_, MonotonicClock::Get(), *board_, registry_);
    rpc::ControlServerOptions serving;
    serving.listen = "127.0.0.1:" + std::to_string(port_);
    serving.manager = service_.get();
    serving.maps = board_.get();
    auto server = rpc::ControlServer::Start(serving);
    ASSERT_TRUE(server.ok()) << server.status().ToString();
    server_ = *std::move(server);
    port_ = server_->port();
    stub_ = *rpc::ManagerStub::Create({Address()});
  }
  void StopAll() {
    if (server_ != nullptr) server_->Shutdown(1s);
    server_.reset();
    service_.reset();
    board_.reset();
  }
  std::string Address() const { return "127.0.0.1:" + std::to_string(port_); }
  std::unique_ptr<rpc::MapWatcher> Watch(rpc::WatcherKind kind) {
    rpc::MapWatcherOptions options;
    options.addresses = {Address()};
    options.kind = kind;
    return *rpc::MapWatcher::Start(std::move(options));
  }
  bool Beat(ServerId id, const MapVersion& applied, uint64_t boot = 1) {
    rpc::HeartbeatRequest request;
    request.id = id;
    request.boot_id = {2, boot};
    request.map = applied;
    const auto reply = stub_->Heartbeat(request, 2s);
    return reply.ok() && !reply->register_again;
  }

  FakeStore store_;
  metrics::Registry registry_;
  uint16_t port_ = 0;
  std::unique_ptr<rpc::MapBoard> board_;
  std::unique_ptr<ManagerService> service_;
  std::unique_ptr<rpc::ControlServer> server_;
  std::unique_ptr<rpc::ManagerStub> stub_;
};

TEST_F(ManagerServiceTest, RegistersAndPublishes) {
  const auto watcher = Watch(rpc::WatcherKind::kClient);
  const auto reply = stub_->Register(Request("a"), 5s);
  ASSERT_TRUE(reply.ok()) << reply.status().ToString();
  EXPECT_EQ(reply->heartbeat_ms, 50U);
  EXPECT_EQ(store_.epoch(), reply->map.epoch) << "durable before it is answered";
  EXPECT_TRUE(Eventually([&] {
    const auto table = watcher->Current();
    return table != nullptr && table->ShardsOf(reply->id) == limits::kShards;
  }));
  const auto status = stub_->GetStatus(5s);
  ASSERT_TRUE(status.ok());
  EXPECT_EQ(status->nodes.size(), 1U);
  EXPECT_EQ(status->watchers, 1U);
  EXPECT_NE(registry_.Scrape().find("simm_manager_registrations_total{outcome=\"joined\"} 1"),
            std::string::npos);
}

TEST_F(ManagerServiceTest, ServersSeeAnEpochBeforeClients) {
  const auto a = stub_->Register(Request("a"), 5s);
  ASSERT_TRUE(a.ok());
  const auto peer = Watch(rpc::WatcherKind::kServer);
  const auto client = Watch(rpc::WatcherKind::kClient);
  ASSERT_TRUE(client->WaitForMap(5s).ok());
  ASSERT_TRUE(Eventually(
      [&] { return client->Current()->version() == a->map && peer->Current() != nullptr; }));
  ASSERT_TRUE(Beat(a->id, a->map));
  ASSERT_TRUE(stub_->CreateNamespace("n", 5s).ok());
  MapVersion next = a->map;
  ++next.epoch;
  ASSERT_TRUE(Eventually([&] { return peer->Current()->version() == next; }));
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(client->Current()->version(), a->map) << "'a' has not applied the new epoch";
  const Instant told = MonotonicClock::Get().Now();
  ASSERT_TRUE(Beat(a->id, next));
  ASSERT_TRUE(Eventually([&] { return client->Current()->version() == next; }));
  EXPECT_LT(MonotonicClock::Get().Now() - told, 300ms);
}

TEST_F(ManagerServiceTest, AServerThatNeverAppliesDoesNotHoldClientsUpForEver) {
  const auto a = stub_->Register(Request("a"), 5s);
  ASSERT_TRUE(a.ok());
  const auto client = Watch(rpc::WatcherKind::kClient);
  ASSERT_TRUE(Eventually(
      [&] { return client->Current() != nullptr && client->Current()->version() == a->map; }));
}

TEST_F(ManagerServiceTest, ManyRegisterAtOnce) {
  std::vector<std::thread> threads;
  std::atomic<int> registered{0};
  for (int i = 0; i < 40; ++i) {
    threads.emplace_back([&, i] {
      registered += stub_->Register(Request("s" + std::to_string(i)), 10s).ok() ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(registered, 40);
  EXPECT_EQ(stub_->GetStatus(5s)->nodes.size(), 40U);
}

TEST_F(ManagerServiceTest, AFullDiskPublishesNothingAndHeals) {
  const auto a = stub_->Register(Request("a"), 5s);
  ASSERT_TRUE(a.ok());
  store_.failing = true;
  const auto b = stub_->Register(Request("b"), 5s);
  EXPECT_EQ(b.code(), Code::kUnavailable);
  EXPECT_NE(b.status().message().find("disk is full"), std::string::npos);
  EXPECT_EQ(service_->Ready().code(), Code::kUnavailable);
  EXPECT_TRUE(Beat(a->id, a->map)) << "heartbeats need no disk";
  EXPECT_EQ(stub_->GetStatus(5s)->map, a->map);
  EXPECT_NE(registry_.Scrape().find("simm_manager_store_failures_total"), std::string::npos);
  store_.failing = false;
  EXPECT_TRUE(Eventually([&] { return service_->Ready().ok(); }));
  EXPECT_TRUE(stub_->Register(Request("b"), 5s).ok());
}

TEST_F(ManagerServiceTest, ADeathMovesTheShardsAndARestartKeepsTheMap) {
  const auto a = stub_->Register(Request("a"), 5s);
  const auto b = stub_->Register(Request("b"), 5s);
  ASSERT_TRUE(a.ok() && b.ok());
  const auto client = Watch(rpc::WatcherKind::kClient);
  ASSERT_TRUE(Eventually([&] {
    Beat(a->id, b->map);
    const auto table = client->Current();
    return table != nullptr && table->ShardsOf(a->id) == limits::kShards;
  }));
  const MapVersion before = stub_->GetStatus(5s)->map;
  StopAll();
  Start();
  // gRPC remembers the refused port for up to half a second.
  ASSERT_TRUE(Eventually([&] { return stub_->GetStatus(1s).ok(); }, 2));
  EXPECT_EQ(stub_->GetStatus(5s)->map, before);
  EXPECT_TRUE(Beat(a->id, before)) << "a restart of the manager is nothing to the servers";
  EXPECT_TRUE(stub_->Register(Request("b"), 5s).ok());
  EXPECT_TRUE(Eventually([&] {
    Beat(a->id, before);
    Beat(b->id, before);
    return client->Current()->ShardsOf(b->id) == limits::kShards / 2;
  })) << "watchers must find the manager again";
}

}  // namespace
}  // namespace simm::manager
