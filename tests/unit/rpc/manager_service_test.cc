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
  void Replace(std::optional<DurableState> state) {
    MutexLock lock(mutex_);
    state_ = std::move(state);
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
    options.new_cluster = new_cluster_;
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

  // As a data server does: registers, and sends the map held when it is asked for it.
  Result<rpc::RegisterReply> RegisterWith(rpc::RegisterRequest request,
                                          const std::shared_ptr<const RouteTable>& held) {
    request.capabilities = kCapabilityReportMap;
    if (held != nullptr) {
      request.held = held->version();
      request.expected_cluster = held->version().cluster;
    }
    auto reply = stub_->Register(request, 5s);
    if (reply.ok() && reply->send_map) {
      const Status reported = stub_->ReportMap(*held, 5s);
      if (!reported.ok()) return reported;
    }
    return reply;
  }
  std::vector<rpc::EventKind> EventKinds() {
    std::vector<rpc::EventKind> kinds;
    const auto events = stub_->ListEvents(0, 0, 5s);
    if (events.ok()) {
      for (const rpc::Event& event : *events) kinds.push_back(event.kind);
    }
    return kinds;
  }

  FakeStore store_;
  bool new_cluster_ = true;
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

TEST_F(ManagerServiceTest, ALostStateIsLearnedFromTheServers) {
  const auto client = Watch(rpc::WatcherKind::kClient);
  const auto a = stub_->Register(Request("a"), 5s);
  const auto b = stub_->Register(Request("b"), 5s);
  ASSERT_TRUE(a.ok() && b.ok());
  ASSERT_TRUE(Eventually(
      [&] { return client->Current() != nullptr && client->Current()->version() == b->map; }));
  const auto held = client->Current();
  StopAll();
  store_.Replace(std::nullopt);
  new_cluster_ = false;
  Start();
  ASSERT_TRUE(Eventually([&] { return stub_->ListEvents(0, 0, 1s).ok(); }, 2));
  EXPECT_EQ(service_->Ready().code(), Code::kUnavailable);
  EXPECT_NE(service_->Ready().message().find("--new-cluster"), std::string::npos);
  EXPECT_EQ(stub_->GetStatus(5s).code(), Code::kUnavailable);
  EXPECT_FALSE(Beat(a->id, held->version())) << "it must register, so that it says what it holds";
  EXPECT_EQ(stub_->Register(Request("a"), 5s).code(), Code::kUnavailable)
      << "a server that cannot report its map gets a plain refusal";
  const auto learning = RegisterWith(Request("a"), held);
  ASSERT_TRUE(learning.ok()) << learning.status().ToString();
  EXPECT_EQ(learning->id, kNoServer);
  EXPECT_TRUE(learning->send_map);
  EXPECT_GT(learning->retry_ms, 0U);
  const auto other = RegisterWith(Request("b"), held);
  ASSERT_TRUE(other.ok());
  EXPECT_FALSE(other->send_map) << "that map is here already";
  EXPECT_NE(registry_.Scrape().find("simm_manager_learning 1"), std::string::npos);
  Result<rpc::RegisterReply> again = *other;
  ASSERT_TRUE(Eventually([&] {
    again = RegisterWith(Request("a"), held);
    return again.ok() && again->id != kNoServer;
  }));
  EXPECT_EQ(again->id, a->id);
  EXPECT_EQ(again->map.cluster, held->version().cluster);
  EXPECT_EQ(again->map.term, held->version().term + 1);
  EXPECT_GT(again->map.epoch, held->version().epoch);
  EXPECT_EQ(store_.epoch(), again->map.epoch);
  EXPECT_TRUE(Beat(b->id, held->version()));
  EXPECT_TRUE(Eventually([&] { return client->Current()->version() == again->map; }))
      << "a client takes the higher term";
  EXPECT_EQ(client->Current()->contents().owners, held->contents().owners);
  const auto kinds = EventKinds();
  EXPECT_NE(std::find(kinds.begin(), kinds.end(), rpc::EventKind::kMapAdopted), kinds.end());
}

TEST_F(ManagerServiceTest, ALostStateThatNobodyHoldsIsANewCluster) {
  StopAll();
  store_.Replace(std::nullopt);
  new_cluster_ = false;
  const Instant start = MonotonicClock::Get().Now();
  Start();
  Result<rpc::RegisterReply> reply = Status(Code::kInternal, "");
  ASSERT_TRUE(Eventually([&] {
    reply = RegisterWith(Request("a"), nullptr);
    return reply.ok() && reply->id != kNoServer;
  }));
  EXPECT_GE(MonotonicClock::Get().Now() - start, 500ms) << "one dead-time";
  EXPECT_EQ(reply->map.term, 1U);
}

TEST_F(ManagerServiceTest, AStateOlderThanTheServersMapsIsMended) {
  ASSERT_TRUE(stub_->Register(Request("a"), 5s).ok());
  const DurableState backup = **store_.Load();
  const auto b = stub_->Register(Request("b"), 5s);
  ASSERT_TRUE(b.ok());
  const auto held = *RouteTable::Create((*store_.Load())->map);
  StopAll();
  store_.Replace(backup);
  Start();
  ASSERT_TRUE(Eventually([&] { return stub_->GetStatus(1s).ok(); }, 2));
  EXPECT_FALSE(Beat(b->id, held->version()));
  const auto asked = RegisterWith(Request("b"), held);
  ASSERT_TRUE(asked.ok()) << asked.status().ToString();
  EXPECT_TRUE(asked->send_map);
  const auto again = RegisterWith(Request("b"), held);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->id, b->id);
  EXPECT_EQ(again->map.term, held->version().term + 1);
  EXPECT_EQ(stub_->GetStatus(5s)->nodes.size(), 2U);
  auto foreign = Request("c");
  foreign.expected_cluster = {4, 4};
  EXPECT_EQ(stub_->Register(foreign, 5s).code(), Code::kWrongCluster);
  EXPECT_EQ(stub_->ReportMap(*held, 5s).code(), Code::kFailedPrecondition) << "not newer any more";
}

TEST_F(ManagerServiceTest, MassSilenceIsShownAndEndsByRemoval) {
  const auto a = stub_->Register(Request("a"), 5s);
  const auto b = stub_->Register(Request("b"), 5s);
  ASSERT_TRUE(a.ok() && b.ok());
  const auto frozen = [&] { return stub_->GetStatus(5s)->frozen; };
  ASSERT_TRUE(Eventually([&] { return !frozen().empty(); }));
  EXPECT_NE(frozen().find("2 of 2"), std::string::npos);
  EXPECT_TRUE(service_->Ready().ok()) << "it does its work";
  EXPECT_NE(service_->Note().find("frozen"), std::string::npos);
  EXPECT_NE(registry_.Scrape().find("simm_manager_map_frozen 1"), std::string::npos);
  ASSERT_TRUE(stub_->RemoveNode("b", 5s).ok());
  ASSERT_TRUE(Eventually([&] { return frozen().empty(); }));
  EXPECT_TRUE(Eventually(
      [&] { return stub_->GetStatus(5s)->nodes[0].record.state == ServerState::kDead; }));
  using K = rpc::EventKind;
  std::vector<K> kinds = EventKinds();
  std::erase(kinds, K::kEpoch);
  EXPECT_EQ(kinds, (std::vector<K>{K::kManagerStarted, K::kJoined, K::kJoined, K::kFrozen,
                                   K::kRemoved, K::kThawed, K::kDied}));
  const auto events = stub_->ListEvents(0, 0, 5s);
  ASSERT_TRUE(events.ok());
  const auto died = std::find_if(events->begin(), events->end(),
                                 [](const rpc::Event& event) { return event.kind == K::kDied; });
  ASSERT_NE(died, events->end());
  EXPECT_EQ(died->text, "silent for 0.5 s");
}

TEST_F(ManagerServiceTest, ADrainEndsWithADrainedEvent) {
  auto request = Request("a");
  request.capabilities = kCapabilityMigration;
  const auto a = stub_->Register(request, 5s);
  request = Request("b");
  request.capabilities = kCapabilityMigration;
  const auto b = stub_->Register(request, 5s);
  ASSERT_TRUE(a.ok() && b.ok());
  const auto drained = stub_->DrainNode("a", false, 5s);
  ASSERT_TRUE(drained.ok()) << drained.status().ToString();
  EXPECT_TRUE(drained->migrates);
  const auto has_event = [&](rpc::EventKind kind) {
    const auto kinds = EventKinds();
    return std::find(kinds.begin(), kinds.end(), kind) != kinds.end();
  };
  EXPECT_TRUE(has_event(rpc::EventKind::kDraining));
  EXPECT_FALSE(has_event(rpc::EventKind::kDrained));
  // b pulls: it says of each shard that it has it, as far as one heartbeat goes.
  ASSERT_TRUE(Eventually([&] {
    const MapContents map = (*store_.Load())->map;
    rpc::HeartbeatRequest beat{b->id, {2, 1}, map.version, {}, {}, {}};
    for (uint32_t shard = 0; shard < limits::kShards; ++shard) {
      const ShardOwner& row = map.owners[shard];
      const bool room = beat.pulled_shards.size() < limits::kMaxPulledShards;
      if (row.server == b->id && row.source != kNoServer && room) {
        beat.pulled_shards.push_back(shard);
      }
    }
    EXPECT_TRUE(stub_->Heartbeat(beat, 5s).ok());
    Beat(a->id, map.version);
    return has_event(rpc::EventKind::kDrained);
  }));
  EXPECT_EQ(stub_->GetStatus(5s)->nodes[0].record.state, ServerState::kDraining);
  EXPECT_EQ(stub_->GetStatus(5s)->nodes[0].shards_leaving, 0U);
  EXPECT_EQ(stub_->DrainNode("b", false, 5s).code(), Code::kFailedPrecondition);
  EXPECT_EQ(stub_->DrainNode("x", false, 5s).code(), Code::kMiss);
  EXPECT_TRUE(stub_->DrainNode("a", true, 5s).ok());
  EXPECT_EQ(stub_->GetStatus(5s)->nodes[0].shards, limits::kShards / 2);
}

}  // namespace
}  // namespace simm::manager
