#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/random.h"
#include "common/rpc/channel.h"
#include "common/rpc/control_services.h"
#include "common/rpc/dataserver_stub.h"
#include "common/rpc/manager_stub.h"
#include "common/rpc/node_stub.h"
#include "tests/unit/rpc/sample_map.h"

namespace simm::rpc {
namespace {

using namespace std::chrono_literals;

// Answers with what it was asked, so that a field that is lost on the wire is seen.
class EchoManager final : public ManagerHandler {
 public:
  Result<RegisterReply> Register(const RegisterRequest& request) override {
    if (request.name == "refuse") return Status(Code::kWrongCluster, "not here");
    registered = request;
    return RegisterReply{7, {{1, 2}, 3, 4}, 500, 9000, true, 250};
  }
  Result<HeartbeatReply> Heartbeat(const HeartbeatRequest& request) override {
    heartbeat = request;
    if (delay > 0ms) std::this_thread::sleep_for(delay);
    return HeartbeatReply{request.map, true};
  }
  Result<ClusterStatus> GetStatus() override {
    ClusterStatus status;
    status.map = {{1, 2}, 3, 4};
    status.manager_version = "x";
    status.uptime_ms = 5;
    status.watchers = 6;
    status.nodes.resize(2);
    status.nodes[1].record = SampleMap(1, 2)->contents().servers[1];
    status.nodes[1].record.state = ServerState::kSuspect;
    status.nodes[1].shards = 12;
    status.nodes[1].silent_ms = 34;
    status.nodes[1].stats.evictions = 56;
    status.namespaces = {"default", "tenant"};
    status.nodes[1].migration = {1, 2, 3, 4, 5, 6, 7};
    status.nodes[1].shards_coming = 8;
    status.nodes[1].shards_leaving = 9;
    status.nodes[1].record.capabilities = 3;
    status.frozen = "why";
    status.leader = "a:1";
    status.problem = "etcd";
    status.replicas = 2;
    status.shards_moving = 10;
    status.shards_under_replicated = 11;
    return status;
  }
  Result<NamespaceId> CreateNamespace(const std::string& name) override {
    return name == "full" ? Result<NamespaceId>(Status(Code::kFailedPrecondition, "no more"))
                          : Result<NamespaceId>(NamespaceId{65535});
  }
  Status RemoveNode(const std::string& name) override {
    return name == "ghost" ? Status(Code::kMiss, "no such server") : Status::Ok();
  }

  Status ReportMap(std::shared_ptr<const RouteTable> table) override {
    reported = std::move(table);
    return Status::Ok();
  }
  Result<DrainReply> DrainNode(const std::string& name, bool undrain) override {
    if (!leader.empty()) return Status(Code::kUnavailable, "not the leader");
    return DrainReply{undrain, {{1, 2}, 3, name.size()}};
  }
  Result<std::vector<Event>> ListEvents(uint64_t after, uint32_t newest) override {
    Event event{after + 1, 12345, EventKind::kThawed, "s", {{1, 2}, 3, newest}, "text"};
    return std::vector<Event>{event, {after + 2}};
  }
  std::string LeaderElsewhere() const override { return leader; }

  RegisterRequest registered;
  HeartbeatRequest heartbeat;
  std::shared_ptr<const RouteTable> reported;
  std::string leader;  // else it decides itself
  std::chrono::milliseconds delay{0};
};

class EchoDataServer final : public DataServerHandler {
 public:
  Result<HandshakeReply> Handshake(const HandshakeRequest& request,
                                   const std::string& peer) override {
    HandshakeReply reply;
    reply.server = request.expected_server;
    reply.server_name = request.client_name + " from " + peer;
    reply.transport = request.transports.at(1);
    reply.endpoint = std::string("\0\xff", 2);
    reply.session = UINT64_MAX;
    reply.takes_read_reports = request.client_name == "me";
    return reply;
  }
  Result<std::string> OpenLane(const OpenLaneRequest& request) override {
    if (request.transport != "verbs") {
      return simm::Status(Code::kFailedPrecondition, "no " + request.transport + " here");
    }
    return "answer to " + request.offer;
  }
  Result<uint64_t> ClearNamespace(const ClearNamespaceRequest& request,
                                  const std::function<bool()>& cancelled) override {
    if (cancelled()) return simm::Status(Code::kDeadlineExceeded, "nobody waits");
    return request.namespace_id * 10 + request.expected_server +
           (request.expected_cluster == Id128{1, 2} ? 1'000'000ULL : 0);
  }
  Result<SampleKeysReply> SampleKeys(const SampleKeysRequest& request,
                                     const std::function<bool()>&) override {
    if (request.name_space != "default") return simm::Status(Code::kMiss, "no such namespace");
    SampleKeysReply reply;
    reply.keys = {{request.prefix + std::string("\0\xff", 2), 7}};
    reply.scanned = request.limit;
    reply.complete = true;
    return reply;
  }
  Result<NodeStatus> GetStatus() override { return NodeStatus{}; }
};

class ControlServerTest : public testing::Test {
 protected:
  ControlServerTest() { server_ = Start("127.0.0.1:0"); }

  std::unique_ptr<ControlServer> Start(const std::string& listen) {
    ControlServerOptions options;
    options.listen = listen;
    options.manager = &manager_;
    options.data_server = &data_server_;
    options.describe = [] {
      NodeDescription node{"echo", "9.9", 123, {{"listen", "x:1", "flag --listen"}}, {}};
      node.host.host_name = "h";
      node.host.memlock_bytes = UINT64_MAX;
      node.host.interfaces = {{"eth7", 9000, true}};
      node.host.rdma_ports = {{"mlx5_0", 1, "ACTIVE", "ens1", 9000}};
      node.host.huge_pages_free = 5;
      return node;
    };
    options.observer = [this](std::string_view, Code, Duration) { ++observed_; };
    Result<std::unique_ptr<ControlServer>> server = ControlServer::Start(std::move(options));
    EXPECT_TRUE(server.ok()) << server.status().ToString();
    return *std::move(server);
  }
  std::string Address() const { return "127.0.0.1:" + std::to_string(server_->port()); }

  EchoManager manager_;
  EchoDataServer data_server_;
  std::atomic<int> observed_{0};
  std::unique_ptr<ControlServer> server_;
};

TEST_F(ControlServerTest, APlaceToAskAProgramAboutItself) {
  const Result<NodeDescription> node = DescribeNode(Address(), 5s);
  ASSERT_TRUE(node.ok()) << node.status().ToString();
  EXPECT_EQ(node->program, "echo");
  EXPECT_EQ(node->version, "9.9");
  EXPECT_EQ(node->unix_ms, 123U);
  ASSERT_EQ(node->options.size(), 1U);
  EXPECT_EQ(node->options[0].source, "flag --listen");
  EXPECT_EQ(node->host.memlock_bytes, UINT64_MAX);
  EXPECT_EQ(node->host.huge_pages_free, 5U);
  ASSERT_EQ(node->host.interfaces.size(), 1U);
  EXPECT_EQ(node->host.interfaces[0].mtu, 9000U);
  ASSERT_EQ(node->host.rdma_ports.size(), 1U);
  EXPECT_EQ(node->host.rdma_ports[0].state, "ACTIVE");
  EXPECT_EQ(node->host.rdma_ports[0].interface, "ens1");
  EXPECT_EQ(node->host.rdma_ports[0].interface_mtu, 9000U);
}

// Whoever was cut off and has gone leaves nothing behind; whoever is there notices nothing.
TEST_F(ControlServerTest, ConnectionsWithoutCallsAreClosedAndCallsGoOn) {
  ControlServerOptions options;
  options.listen = "127.0.0.1:0";
  options.manager = &manager_;
  options.idle_limit = 300ms;
  const auto server = *ControlServer::Start(std::move(options));
  const std::string address = "127.0.0.1:" + std::to_string(server->port());
  const auto channel = OpenChannel(address);
  const auto in = [](auto time) { return std::chrono::system_clock::now() + time; };
  ASSERT_TRUE(channel->WaitForConnected(in(10s)));
  EXPECT_TRUE(channel->WaitForStateChange(GRPC_CHANNEL_READY, in(20s))) << "it stays open";
  auto stub = *ManagerStub::Create({address});
  manager_.delay = 1500ms;
  EXPECT_TRUE(stub->Heartbeat({}, 20s).ok()) << "a call is longer than that";
  EXPECT_TRUE(channel->WaitForConnected(in(10s)));
  manager_.delay = 0ms;
  for (int i = 0; i < 8; ++i) {
    EXPECT_TRUE(stub->Heartbeat({}, 20s).ok()) << i;
    std::this_thread::sleep_for(i * 100ms);  // about the limit, too
  }
}

TEST_F(ControlServerTest, AnOlderProgramSaysNothingOfItself) {
  ControlServerOptions options;
  options.listen = "127.0.0.1:0";
  options.manager = &manager_;
  const auto older = *ControlServer::Start(std::move(options));
  const auto node = DescribeNode("127.0.0.1:" + std::to_string(older->port()), 5s);
  EXPECT_EQ(node.status().code(), Code::kFailedPrecondition);
  EXPECT_EQ(DescribeNode("nonsense", 1s).status().code(), Code::kInvalidArgument);
}

TEST_F(ControlServerTest, CarriesSampledKeysOfAnyBytes) {
  const auto keys = SampleKeys(Address(), {{1, 2}, 3, "default", "pre", 9}, 5s);
  ASSERT_TRUE(keys.ok()) << keys.status().ToString();
  ASSERT_EQ(keys->keys.size(), 1U);
  EXPECT_EQ(keys->keys[0].key, "pre" + std::string("\0\xff", 2));
  EXPECT_EQ(keys->keys[0].value_bytes, 7U);
  EXPECT_EQ(keys->scanned, 9U);
  EXPECT_TRUE(keys->complete);
  EXPECT_EQ(SampleKeys(Address(), {{}, 0, "other", "", 9}, 5s).status().code(), Code::kMiss);
}

TEST_F(ControlServerTest, CarriesEveryFieldOfTheManagersCalls) {
  auto stub = *ManagerStub::Create({Address()});
  RegisterRequest request{{1, 2}, "name", {3, 4}, 5,   {6, 7}, "c:1",
                          "d:2",  "zone", 8,      "v", 3,      {{1, 2}, 5, 6}};
  Result<RegisterReply> registered = stub->Register(request, 5s);
  ASSERT_TRUE(registered.ok()) << registered.status().ToString();
  EXPECT_EQ(registered->id, 7U);
  EXPECT_EQ(registered->map, (MapVersion{{1, 2}, 3, 4}));
  EXPECT_EQ(registered->heartbeat_ms, 500U);
  EXPECT_EQ(registered->dead_ms, 9000U);
  EXPECT_TRUE(registered->send_map);
  EXPECT_EQ(registered->retry_ms, 250U);
  const RegisterRequest& got = manager_.registered;
  EXPECT_EQ(std::tie(got.expected_cluster, got.name, got.pool_id, got.incarnation, got.boot_id),
            std::tie(request.expected_cluster, request.name, request.pool_id, request.incarnation,
                     request.boot_id));
  EXPECT_EQ(std::tie(got.control_address, got.data_address, got.zone, got.weight, got.version),
            std::tie(request.control_address, request.data_address, request.zone, request.weight,
                     request.version));
  EXPECT_EQ(got.capabilities, 3U);
  EXPECT_EQ(got.held, request.held);
  HeartbeatRequest heartbeat{
      9, {1, 1}, {{2, 2}, 3, 4}, {}, {0, 7, 8, 65535}, {1, 2, 3, 4, 5, 6, 7}, 1234};
  heartbeat.stats.bytes_written = 77;
  Result<HeartbeatReply> beaten = stub->Heartbeat(heartbeat, 5s);
  ASSERT_TRUE(beaten.ok());
  EXPECT_TRUE(beaten->register_again);
  EXPECT_EQ(beaten->map, heartbeat.map);
  EXPECT_EQ(manager_.heartbeat.stats.bytes_written, 77U);
  EXPECT_EQ(manager_.heartbeat.pulled_shards, heartbeat.pulled_shards);
  EXPECT_EQ(manager_.heartbeat.migration, heartbeat.migration);
  EXPECT_EQ(manager_.heartbeat.unanswered_ms, heartbeat.unanswered_ms);
  Result<ClusterStatus> status = stub->GetStatus(5s);
  ASSERT_TRUE(status.ok());
  ASSERT_EQ(status->nodes.size(), 2U);
  EXPECT_EQ(status->nodes[1].record.name, "server-2");
  EXPECT_EQ(status->nodes[1].record.state, ServerState::kSuspect);
  EXPECT_EQ(status->nodes[1].stats.evictions, 56U);
  EXPECT_EQ(status->namespaces, (std::vector<std::string>{"default", "tenant"}));
  EXPECT_EQ(status->nodes[1].migration, (MigrationProgress{1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(status->nodes[1].shards_coming, 8U);
  EXPECT_EQ(status->nodes[1].shards_leaving, 9U);
  EXPECT_EQ(status->nodes[1].record.capabilities, 3U);
  EXPECT_EQ(status->frozen, "why");
  EXPECT_EQ(status->leader, "a:1");
  EXPECT_EQ(status->problem, "etcd");
  EXPECT_EQ(status->replicas, 2U);
  EXPECT_EQ(status->shards_moving, 10U);
  EXPECT_EQ(status->shards_under_replicated, 11U);
  EXPECT_EQ(*stub->CreateNamespace("x", 5s), 65535);
  EXPECT_TRUE(stub->RemoveNode("x", 5s).ok());
  EXPECT_EQ(observed_, 5);
}

TEST_F(ControlServerTest, CarriesMapsEventsAndDrains) {
  auto stub = *ManagerStub::Create({Address()});
  // Larger than one request may be: it travels in pieces.
  const auto table = SampleMap(9, 3000);
  ASSERT_TRUE(stub->ReportMap(*table, 10s).ok());
  ASSERT_NE(manager_.reported, nullptr);
  EXPECT_EQ(manager_.reported->contents().owners, table->contents().owners);
  EXPECT_EQ(manager_.reported->version(), table->version());
  const auto events = stub->ListEvents(41, 5, 5s);
  ASSERT_TRUE(events.ok()) << events.status().ToString();
  ASSERT_EQ(events->size(), 2U);
  const Event& event = (*events)[0];
  EXPECT_EQ(std::tie(event.number, event.unix_ms, event.kind, event.server, event.text),
            std::make_tuple(42, 12345, EventKind::kThawed, "s", "text"));
  EXPECT_EQ(event.map, (MapVersion{{1, 2}, 3, 5}));
  const auto drained = stub->DrainNode("name", true, 5s);
  ASSERT_TRUE(drained.ok());
  EXPECT_TRUE(drained->migrates);
  EXPECT_EQ(drained->map.epoch, 4U);
}

TEST_F(ControlServerTest, TheStubFollowsTheLeaderThatIsNamed) {
  EchoManager leader;
  ControlServerOptions options;
  options.listen = "127.0.0.1:0";
  options.manager = &leader;
  auto server = *ControlServer::Start(std::move(options));
  // Not in the list that the caller was given.
  manager_.leader = "127.0.0.1:" + std::to_string(server->port());
  auto stub = *ManagerStub::Create({Address()});
  EXPECT_TRUE(stub->DrainNode("x", false, 5s).ok());
  const int asked = observed_;
  EXPECT_TRUE(stub->DrainNode("x", false, 5s).ok());
  EXPECT_EQ(observed_, asked) << "the next call goes to the leader at once";
  // It falls back to the list when the leader is gone, and ends when they name each other.
  leader.leader = Address();
  EXPECT_EQ(stub->DrainNode("x", false, 5s).code(), Code::kUnavailable);
  server.reset();
  manager_.leader.clear();
  EXPECT_TRUE(stub->DrainNode("x", false, 5s).ok());
}

TEST_F(ControlServerTest, CarriesCodesAndMessages) {
  auto stub = *ManagerStub::Create({Address()});
  RegisterRequest request;
  request.name = "refuse";
  const Status refused = stub->Register(request, 5s).status();
  EXPECT_EQ(refused.code(), Code::kWrongCluster);
  EXPECT_EQ(refused.message(), "not here");
  EXPECT_EQ(stub->CreateNamespace("full", 5s).code(), Code::kFailedPrecondition);
  EXPECT_EQ(stub->RemoveNode("ghost", 5s).code(), Code::kMiss);
}

TEST_F(ControlServerTest, CarriesTheClearingOfANamespace) {
  Result<uint64_t> dropped = ClearNamespace(Address(), {{1, 2}, 5, 40'000}, 5s);
  ASSERT_TRUE(dropped.ok()) << dropped.status().ToString();
  EXPECT_EQ(*dropped, 1'400'005u);
  EXPECT_EQ(ClearNamespace("127.0.0.1:1", {}, 2s).code(), Code::kUnavailable);
}

TEST_F(ControlServerTest, CarriesTheHandshake) {
  HandshakeRequest request{{1, 2}, 5, "me", {"shm", "tcp"}};
  Result<HandshakeReply> reply = Handshake(Address(), request, 5s);
  ASSERT_TRUE(reply.ok()) << reply.status().ToString();
  EXPECT_EQ(reply->server, 5U);
  EXPECT_EQ(reply->transport, "tcp");
  EXPECT_EQ(reply->endpoint, std::string("\0\xff", 2));
  EXPECT_EQ(reply->session, UINT64_MAX);
  EXPECT_TRUE(reply->takes_read_reports);
  EXPECT_FALSE(Handshake(Address(), {{1, 2}, 5, "you", {"shm", "tcp"}}, 5s)->takes_read_reports)
      << "as of a server of before, which does not say it";
  EXPECT_EQ(reply->server_name.rfind("me from ipv4:127.0.0.1:", 0), 0U) << reply->server_name;
  EXPECT_TRUE(GetServerStatus(Address(), 5s).ok());
  EXPECT_EQ(Handshake("127.0.0.1:1", request, 2s).code(), Code::kUnavailable);
  EXPECT_EQ(Handshake("nonsense", request, 2s).code(), Code::kInvalidArgument);
}

TEST_F(ControlServerTest, TheStubPassesOnToTheNextManager) {
  auto stub = *ManagerStub::Create({"127.0.0.1:1", Address()});
  EXPECT_TRUE(stub->GetStatus(5s).ok());
  EXPECT_TRUE(stub->GetStatus(5s).ok());
  auto nobody = *ManagerStub::Create({"127.0.0.1:1", "127.0.0.1:2"});
  EXPECT_EQ(nobody->GetStatus(2s).code(), Code::kUnavailable);
  EXPECT_EQ(ManagerStub::Create({}).code(), Code::kInvalidArgument);
}

TEST_F(ControlServerTest, ACallEndsByItsDeadline) {
  manager_.delay = 700ms;
  auto stub = *ManagerStub::Create({Address()});
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(stub->Heartbeat({}, 200ms).code(), Code::kDeadlineExceeded);
  EXPECT_LT(std::chrono::steady_clock::now() - start, 450ms);
}

TEST_F(ControlServerTest, APortInUseIsSaid) {
  ControlServerOptions options;
  options.listen = Address();
  options.manager = &manager_;
  const Status status = ControlServer::Start(std::move(options)).status();
  EXPECT_EQ(status.code(), Code::kFailedPrecondition);
  EXPECT_NE(status.message().find(Address()), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("already in use"), std::string::npos) << status.message();
  EXPECT_NE(status.message().find("--listen"), std::string::npos) << status.message();
}

TEST_F(ControlServerTest, GarbageOnThePortIsHarmless) {
  Random random(5);
  for (int i = 0; i < 50; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(server_->port());
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    std::string bytes = i % 2 == 0 ? "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" : "";
    for (int k = 0; k < 4000; ++k) bytes += static_cast<char>(random());
    (void)!send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    close(fd);
  }
  auto stub = *ManagerStub::Create({Address()});
  EXPECT_TRUE(stub->GetStatus(5s).ok());
}

TEST_F(ControlServerTest, ARequestBeyondTheBoundIsRefused) {
  auto stub = *ManagerStub::Create({Address()});
  EXPECT_FALSE(stub->CreateNamespace(std::string(1 << 20, 'x'), 5s).ok());
  EXPECT_TRUE(stub->GetStatus(5s).ok());
}

}  // namespace
}  // namespace simm::rpc
