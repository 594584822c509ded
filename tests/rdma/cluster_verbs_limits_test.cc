// RDMA between real processes: too small limits, and what a faulty client can not do.

#include <filesystem>
#include <fstream>
#include <numeric>

#include "common/protocol/pool_layout.h"
#include "common/rpc/dataserver_stub.h"
#include "tests/rdma/cluster_verbs_fixture.h"
#include "tests/support/pool_folder.h"

namespace simm {
namespace {

// Bounding set and limit as an ordinary service has them.
TEST_F(VerbsClusterTest, TooLittleLockableMemoryIsAClearRefusalOrTcp) {
  StartCluster(Far(1));
  const auto start = [&](const std::string& transport) {
    return bench::ChildProcess::Start({"/usr/bin/prlimit",
                                       "--memlock=8388608",
                                       "/usr/bin/setpriv",
                                       "--bounding-set=-ipc_lock",
                                       BinDir() + "/simm-dataserver",
                                       "--manager",
                                       cluster_->manager_address(),
                                       "--name",
                                       "limited",
                                       "--memory",
                                       "64MiB",
                                       "--listen",
                                       "127.0.0.1:0",
                                       "--data-listen",
                                       "127.0.0.1:0",
                                       "--http",
                                       "off",
                                       "--advertise",
                                       "127.0.0.1",
                                       "--transport",
                                       transport},
                                      cluster_->folder() + "/limited.log");
  };
  const auto said = [&] {
    std::ifstream log(cluster_->folder() + "/limited.log");
    return std::string{std::istreambuf_iterator<char>(log), std::istreambuf_iterator<char>()};
  };
  auto strict = start("verbs");
  ASSERT_TRUE(strict.ok());
  ASSERT_TRUE(WaitUntil([&] { return (*strict)->Ended().has_value(); }, 20s));
  EXPECT_EQ(*(*strict)->Ended(), 1) << said();
  EXPECT_NE(said().find("ulimit -l"), std::string::npos) << said();
  auto lenient = start("auto");
  ASSERT_TRUE(lenient.ok());
  EXPECT_TRUE(WaitUntil([&] { return Status().nodes.size() == 2; }, 20s)) << said();
  EXPECT_NE(said().find("ulimit -l"), std::string::npos) << said();
}

// DESIGN 1.7 over RDMA: the memory outlives the process, its registration does not.
TEST_F(VerbsClusterTest, KilledAndStartedOnItsPoolItHasItsEntriesAgain) {
  constexpr size_t kKeys = 200, kSize = 20'000;
  const PoolFolder folder;
  bench::EmbeddedOptions options = Far(1);
  options.pool_folder = std::filesystem::path(folder.pool()).parent_path();
  StartCluster(options);
  Prepare(kKeys, kSize);
  ExpectPut();
  for (int kill = 0; kill < 2; ++kill) {
    cluster_->server(0)->Kill();
    const Stopwatch away;
    ASSERT_TRUE(cluster_->StartServer(0).ok());
    ASSERT_TRUE(WaitUntil([&] { return RightOrMiss(GetPrepared()) > 0; }, 20s));
    std::printf("killed and started: first hit after %lld ms\n",
                static_cast<long long>(away.Elapsed().count()));
    // Not by messages over tcp: the reads are one-sided again.
    EXPECT_TRUE(WaitUntil(
        [&] {
          const ClientStats cost = Cost([&] { ExpectAllRight(); });
          return cost.work_requests >= 2 * kKeys;
        },
        20s));
  }
  ExpectPut();
  ExpectAllRight();
  EXPECT_EQ(client_->Stats().corrupt, 0u);
  // What the killed servers had granted is free again once this client's lanes are idle.
  EXPECT_TRUE(WaitUntil([&] { return HeldBytes() == 0; }, 30s)) << HeldBytes();
}

// A client of its own making, with what the handshake tells everybody.
class FaultyClient {
 public:
  Status Open(const std::string& control_address) {
    rpc::HandshakeRequest request;
    request.client_name = "faulty";
    request.transports = {"verbs", "tcp"};
    auto reply = rpc::Handshake(control_address, request, 5s);
    if (!reply.ok()) return reply.status();
    reply_ = *reply;
    if (reply_.offers.size() != 1) return Status(Code::kUnavailable, "no offer of verbs");
    transport::RdmaOptions options;
    options.bootstrap = [](const std::string& endpoint, const std::string& offer,
                           Duration timeout) {
      return rpc::OpenLane(endpoint, {"verbs", offer}, timeout);
    };
    auto transport = transport::OpenVerbs(options);
    if (!transport.ok()) return transport.status();
    transport_ = std::move(*transport);
    auto lane =
        transport_->Connect(reply_.offers[0].endpoint, {reply_.session, reply_.incarnation}, 5s);
    if (!lane.ok()) return lane.status();
    lane_ = std::move(*lane);
    lane_->Start(&receiver_);
    auto region = transport_->Register(memory_, transport::kLocalOnly);
    if (!region.ok()) return region.status();
    region_ = std::move(*region);
    return Status::Ok();
  }
  // One READ or WRITE of this client's memory; how it ended.
  Status Do(transport::Op op, const std::vector<rpc::RegionChunk>& chunks, uint64_t offset,
            size_t bytes) {
    transport::RemoteRegion remote;
    for (const auto& chunk : chunks)
      remote.chunks.push_back({chunk.offset, chunk.length, chunk.key});
    const transport::MutableSegment local = {memory_.data(), bytes, region_.get()};
    transport::CountingCompletion done;
    transport::WorkItem item;
    item.op = op;
    item.local = {&local, 1};
    item.remote = &remote;
    item.remote_offset = offset;
    item.completion = &done;
    if (const Status posted = lane_->Post({&item, 1}); !posted.ok()) return posted;
    for (const Stopwatch watch; done.calls == 0 && watch.Elapsed() < 10s;) lane_->Progress();
    EXPECT_EQ(done.calls, 1);
    return done.last;
  }
  const rpc::TransportOffer& offer() const { return reply_.offers[0]; }
  const rpc::HandshakeReply& reply() const { return reply_; }
  std::vector<std::byte>& memory() { return memory_; }

 private:
  rpc::HandshakeReply reply_;
  transport::RecordingReceiver receiver_;
  std::vector<std::byte> memory_ = std::vector<std::byte>(1 << 20, std::byte{0xee});
  std::unique_ptr<transport::Transport> transport_;
  std::unique_ptr<transport::LocalRegion> region_;
  std::unique_ptr<transport::Connection> lane_;
};

TEST_F(VerbsClusterTest, NobodyWritesTheIndexAndDamageToValuesIsAMiss) {
  StartCluster(Far(1));
  Prepare(4, 50'000);
  ExpectPut();
  ExpectAllRight();
  const std::string control = cluster_->server_ready(0).listen;
  FaultyClient reader;
  ASSERT_TRUE(reader.Open(control).ok());
  EXPECT_TRUE(reader.Do(transport::Op::kRead, reader.offer().index, 0, 4096).ok());
  EXPECT_EQ(reader.Do(transport::Op::kWrite, reader.offer().index, 4096, 64).code(),
            Code::kUnavailable)
      << "the index may be read only";
  ExpectAllRight();

  // Behind no lease at all: over the values of others.
  FaultyClient writer;
  ASSERT_TRUE(writer.Open(control).ok());
  for (uint64_t at = 0; at + (1 << 20) <= writer.reply().pool.data_bytes; at += 1 << 20)
    ASSERT_TRUE(writer.Do(transport::Op::kWrite, writer.offer().data, at, 1 << 20).ok());
  EXPECT_EQ(RightOrMiss(GetPrepared()), 0u) << "wrong bytes are found out";
  EXPECT_TRUE(WaitUntil([&] { return PutPrepared()[0].code == Code::kOk; }, 10s))
      << "damaged values are dropped, so that they do not shadow their keys";
}

TEST_F(VerbsClusterTest, BeyondTheCapTheLongestUnusedLanesClose) {
  StartCluster(Far(3));
  ClientOptions options;
  options.addresses = {cluster_->manager_address()};
  options.transport = "verbs";
  options.max_rdma_lanes = 0;
  EXPECT_EQ(Client::Connect(options).status().code(), Code::kInvalidArgument);
  options.max_rdma_lanes = 1;
  auto capped = Client::Connect(options);
  ASSERT_TRUE(capped.ok()) << capped.status().ToString();
  client_ = std::move(*capped);
  const auto lanes = [&] {
    std::vector<uint64_t> open;
    for (const auto& node : Status().nodes) {
      uint64_t of_verbs = 0;
      for (const auto& entry : node.stats.transports)
        of_verbs += entry.name == "verbs" ? entry.connections : 0;
      open.push_back(of_verbs);
    }
    return open;
  };
  const auto sum = [](const std::vector<uint64_t>& open) {
    return std::accumulate(open.begin(), open.end(), uint64_t{0});
  };
  Prepare(60, 20'000);
  ExpectPut();  // through all three servers
  // Three rounds: what was closed opens again when it is needed, and the bytes are right.
  for (int round = 0; round < 3; ++round) {
    ExpectAllRight();
    EXPECT_TRUE(WaitUntil([&] { return sum(lanes()) == 1; }, 20s)) << sum(lanes());
  }
  // The lane in use stays: that of the last server asked.
  const size_t owner = OwnerOf(keys_[0]);
  std::vector<std::byte> buffer(size_);
  ASSERT_EQ(GetOne(*client_, keys_[0], buffer).code, Code::kOk);
  EXPECT_TRUE(WaitUntil(
      [&] {
        const auto nodes = Status().nodes;
        const auto open = lanes();
        for (size_t i = 0; i < nodes.size(); ++i) {
          const bool own = nodes[i].record.name == "server-" + std::to_string(owner);
          if (open[i] != (own ? 1u : 0u)) return false;
        }
        return true;
      },
      20s));
}

TEST_F(VerbsClusterTest, KeysOfAnEarlierIncarnationOpenNothing) {
  StartCluster(Far(1));
  FaultyClient before;
  ASSERT_TRUE(before.Open(cluster_->server_ready(0).listen).ok());
  ASSERT_TRUE(before.Do(transport::Op::kRead, before.offer().data, 0, 4096).ok());
  const rpc::TransportOffer old = before.offer();
  cluster_->server(0)->Kill();
  ASSERT_TRUE(cluster_->StartServer(0).ok());
  ASSERT_TRUE(cluster_->WaitAlive(1, 20s).ok());
  EXPECT_FALSE(before.Do(transport::Op::kRead, old.data, 0, 4096).ok()) << "its lane is dead";
  FaultyClient after;
  ASSERT_TRUE(WaitUntil(
      [&] {
        after = FaultyClient();
        return after.Open(cluster_->server_ready(0).listen).ok();
      },
      10s));
  if (old.data[0].key == after.offer().data[0].key) {
    std::printf("bench: the device gave the same key again; the lane alone keeps them apart\n");
  } else {
    EXPECT_FALSE(after.Do(transport::Op::kRead, old.data, 0, 4096).ok());
  }
}

}  // namespace
}  // namespace simm
