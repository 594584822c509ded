// RDMA between real processes (DESIGN 1, 5, 6, 10): what a read and a write cost in work and in the
// server's CPU, what the deaths and pauses of either side do, and what a faulty client can not do.
// Runs where there is an RDMA device: the lane `rdma` brings one.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "bench/child_process.h"
#include "common/protocol/pool_layout.h"
#include "common/rpc/dataserver_stub.h"
#include "common/transport/open.h"
#include "tests/rdma/rdma_fixture.h"
#include "tests/support/cluster_fixture.h"

namespace simm {
namespace {

class VerbsClusterTest : public ClusterTest {
 protected:
  void SetUp() override {
    const auto verbs = transport::OpenVerbs({});
    if (!verbs.ok()) SIMM_SKIP_WITHOUT_DEVICE(verbs.status());
    setenv("SIMM_TEST_TRANSPORT", "verbs", 1);
  }

  // Servers on the far end of the link, so that values cross it.
  bench::EmbeddedOptions Far(uint32_t servers, uint64_t memory = 64 << 20) const {
    bench::EmbeddedOptions options = Options(servers, memory);
    // Emulated processors: patience with heartbeats and sessions.
    options.manager_flags = {"--heartbeat-ms", "200", "--suspect-ms", "1500", "--dead-ms", "3000"};
    options.server_flags = {"--session-timeout-ms", "3000", "--rdma-device", "rxe1"};
    return options;
  }

  // Memory for `count` values, known to the client's transports.
  void Prepare(size_t count, size_t size) {
    if (handle_.id != 0) {
      ASSERT_TRUE(client_->DeregisterMemory(handle_).ok());
    }
    memory_.assign(count * size, std::byte{0});
    const auto handle = client_->RegisterMemory(memory_.data(), memory_.size());
    ASSERT_TRUE(handle.ok()) << handle.status().ToString();
    handle_ = *handle;
    size_ = size;
    keys_.clear();
    for (size_t i = 0; i < count; ++i) keys_.push_back(KeyOf(i));
  }
  std::vector<KeyResult> PutPrepared(const PutOptions& options = {.replace = true}) {
    std::vector<PutItem> puts;
    for (size_t i = 0; i < keys_.size(); ++i) {
      bench::FillPattern(bench::ValueSeed(i, 0), {memory_.data() + i * size_, size_});
      puts.push_back({keys_[i], memory_.data() + i * size_, size_});
    }
    return client_->Put(puts, options);
  }
  std::vector<KeyResult> GetPrepared(const GetOptions& options = {}) {
    std::fill(memory_.begin(), memory_.end(), std::byte{0});
    std::vector<GetItem> gets;
    for (size_t i = 0; i < keys_.size(); ++i)
      gets.push_back({keys_[i], memory_.data() + i * size_, size_});
    return client_->Get(gets, options);
  }
  void ExpectPut() {
    for (const KeyResult& result : PutPrepared()) EXPECT_EQ(result.code, Code::kOk);
  }
  void ExpectAllRight() {
    const auto results = GetPrepared();
    for (size_t i = 0; i < results.size(); ++i) {
      EXPECT_EQ(results[i].code, Code::kOk) << i;
      EXPECT_TRUE(IsValueOf(i, {memory_.data() + i * size_, size_})) << i;
    }
  }
  // Right bytes or a miss; how many were right.
  size_t RightOrMiss(const std::vector<KeyResult>& results) {
    size_t right = 0;
    for (size_t i = 0; i < results.size(); ++i) {
      if (results[i].code != Code::kOk) {
        EXPECT_EQ(results[i].code, Code::kMiss) << i;
        continue;
      }
      EXPECT_TRUE(IsValueOf(i, {memory_.data() + i * size_, size_})) << i;
      ++right;
    }
    return right;
  }
  uint64_t HeldBytes() const {
    uint64_t held = 0;
    for (const auto& node : Status().nodes)
      held += node.stats.granted_bytes + node.stats.pinned_bytes + node.stats.limbo_bytes;
    return held;
  }
  template <typename Work>
  ClientStats Cost(Work work) {
    const ClientStats before = client_->Stats();
    work();
    ClientStats now = client_->Stats();
    now.work_requests -= before.work_requests;
    now.doorbells -= before.doorbells;
    now.requests -= before.requests;
    now.payload_bytes_copied -= before.payload_bytes_copied;
    now.bounced_values -= before.bounced_values;
    return now;
  }
  std::unique_ptr<bench::ChildProcess> StartBench(std::vector<std::string> more) {
    std::vector<std::string> argv = {BinDir() + "/simm-bench"};
    argv.insert(argv.end(), more.begin(), more.end());
    argv.insert(argv.end(),
                {"--manager", cluster_->manager_address(), "--transport", "verbs", "--json"});
    auto child = bench::ChildProcess::Start(argv, cluster_->folder() + "/bench.log");
    EXPECT_TRUE(child.ok()) << child.status().ToString();
    return child.ok() ? std::move(*child) : nullptr;
  }

  std::vector<std::string> keys_;
  std::vector<std::byte> memory_;
  size_t size_ = 0;
  MemoryHandle handle_;
};

TEST_F(VerbsClusterTest, TwoServersAndAClientSpeakItAndSaySo) {
  StartCluster(Far(2));
  Prepare(24, 70'000);
  ExpectPut();
  ExpectAllRight();
  ASSERT_EQ(client_->Servers().size(), 2u);
  // A busy machine may miss the first handshake's deadline: the way is tried again.
  EXPECT_TRUE(WaitUntil(
      [&] {
        ExpectAllRight();
        size_t over_verbs = 0;
        for (const ServerHealth& server : client_->Servers()) {
          EXPECT_NE(server.transport_reason, "");
          over_verbs += server.transport == "verbs" ? 1 : 0;
        }
        return over_verbs == 2;
      },
      20s))
      << client_->Servers()[0].transport_reason << "; " << client_->Servers()[1].transport_reason;
  EXPECT_TRUE(WaitUntil(
      [&] {
        uint64_t lanes = 0;
        for (const auto& node : Status().nodes) {
          for (const auto& entry : node.stats.transports) {
            if (entry.name != "verbs") continue;
            EXPECT_TRUE(entry.offered);
            EXPECT_NE(entry.reason.find("rxe1"), std::string::npos) << entry.reason;
            lanes += entry.connections;
          }
        }
        return lanes >= 2;
      },
      5s));
  std::vector<std::byte> buffer(70'000);
  EXPECT_EQ(GetOne(*client_, "nobody", buffer).code, Code::kMiss);
  EXPECT_EQ(GetOne(*client_, keys_[0], {buffer.data(), 100}).code, Code::kLengthMismatch);
  EXPECT_EQ(ExistsOne(*client_, keys_[0]), Code::kOk);
}

TEST_F(VerbsClusterTest, WhatAGetAndAPutCost) {
  StartCluster(Far(1, 128 << 20));
  Prepare(12, 64 << 10);  // what with a LEASE the server takes without having answered
  const std::string_view first = "first";
  const PutItem opener = {first, memory_.data(), 10};
  ASSERT_EQ(client_->Put({&opener, 1})[0].code, Code::kOk);  // opens the lane
  const ClientStats put = Cost([&] { ExpectPut(); });
  EXPECT_EQ(put.payload_bytes_copied, 0u);
  // At most a LEASE, then for each value a WRITE and a COMMIT.
  EXPECT_LE(put.work_requests, 1 + 2 * keys_.size());
  EXPECT_GE(put.work_requests, 2 * keys_.size());
  EXPECT_LE(put.doorbells, 2u);
  const ClientStats cold = Cost([&] { ExpectAllRight(); });
  EXPECT_EQ(cold.work_requests, 3 * keys_.size());
  EXPECT_EQ(cold.doorbells, 3u);
  EXPECT_EQ(cold.requests, 0u) << "no message";
  EXPECT_EQ(cold.payload_bytes_copied, 0u);
  const ClientStats warm = Cost([&] { ExpectAllRight(); });
  EXPECT_GE(warm.work_requests, 2 * keys_.size());
  EXPECT_LE(warm.work_requests, 2 * keys_.size() + 1) << "touches may travel with it";
  EXPECT_EQ(warm.doorbells, 2u);
  const ClientStats asked = Cost([&] {
    const std::vector<std::string_view> keys(keys_.begin(), keys_.end());
    for (const KeyResult& result : client_->Exists(keys)) EXPECT_EQ(result.code, Code::kOk);
  });
  EXPECT_LE(asked.work_requests, keys_.size() + 1);
  EXPECT_EQ(asked.doorbells, 1u);
  // One WRITE and one READ for each MiB.
  Prepare(1, 1 << 20);
  ExpectPut();
  ExpectAllRight();
  EXPECT_LE(Cost([&] { ExpectAllRight(); }).work_requests, 2 + 1u);
  Prepare(1, 5 << 20);
  const ClientStats large_put = Cost([&] {
    const PutItem item = {"large", memory_.data(), size_};
    EXPECT_EQ(client_->Put({&item, 1})[0].code, Code::kOk);
  });
  EXPECT_LE(large_put.work_requests, 1 + 5 + 1 + 1u) << "LEASE, COMMIT; touches may travel with it";
  const ClientStats large_get = Cost([&] {
    const GetItem item = {"large", memory_.data(), size_};
    EXPECT_EQ(client_->Get({&item, 1})[0].code, Code::kOk);
  });
  EXPECT_LE(large_get.work_requests, 1 + 5 + 1 + 1u);
  EXPECT_EQ(large_get.payload_bytes_copied, 0u);
}

TEST_F(VerbsClusterTest, UnregisteredMemoryGoesThroughABounceBufferOrTcp) {
  StartCluster(Far(1, 256 << 20));
  for (const size_t size : {size_t{1}, size_t{100'000}, size_t{3} << 20}) {
    const auto value = ValueOf(size, size);
    std::vector<std::byte> buffer(size);
    const ClientStats put =
        Cost([&] { EXPECT_EQ(PutOne(*client_, KeyOf(size), value), Code::kOk); });
    EXPECT_EQ(put.bounced_values, 1u);
    EXPECT_EQ(put.payload_bytes_copied, size);
    const ClientStats get =
        Cost([&] { EXPECT_EQ(GetOne(*client_, KeyOf(size), buffer).code, Code::kOk); });
    EXPECT_EQ(get.bounced_values, 1u);
    EXPECT_EQ(get.payload_bytes_copied, size);
    EXPECT_EQ(buffer, value);
  }
  // Larger than a bounce buffer: the bytes take the road that copies them anyhow.
  const size_t size = 20 << 20;
  const auto value = ValueOf(7, size);
  std::vector<std::byte> buffer(size);
  ASSERT_EQ(PutOne(*client_, "large", value), Code::kOk);
  const ClientStats get =
      Cost([&] { EXPECT_EQ(GetOne(*client_, "large", buffer).code, Code::kOk); });
  EXPECT_EQ(get.bounced_values, 0u);
  EXPECT_EQ(buffer, value);
}

double CpuSeconds(pid_t pid) {
  clockid_t clock;
  if (clock_getcpuclockid(pid, &clock) != 0) return 0;
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Both ends on one device: the kernel's packets of Soft-RoCE would else be handled in whatever
// process they interrupt, and counted as its own.
TEST_F(VerbsClusterTest, TheServersCpuIsNotInTheReadPath) {
  bench::EmbeddedOptions options = Far(1, 128 << 20);
  options.server_flags = {"--session-timeout-ms", "3000", "--rdma-device", "rxe0"};
  StartCluster(options);
  Prepare(16, 1 << 20);
  ExpectPut();
  const pid_t pid = cluster_->server(0)->pid();
  const auto measure = [&](bool reading) {
    const double before = CpuSeconds(pid);
    size_t gets = 0;
    for (const Stopwatch watch; watch.Elapsed() < 10s;) {
      if (!reading) {
        std::this_thread::sleep_for(50ms);
        continue;
      }
      for (const KeyResult& result : GetPrepared()) gets += result.code == Code::kOk ? 1 : 0;
    }
    EXPECT_TRUE(!reading || gets > 200) << gets;
    return CpuSeconds(pid) - before;
  };
  const double busy = measure(true);
  const double idle = measure(false);
  std::printf("bench: server CPU in 10 s: %.3f s while read, %.3f s idle\n", busy, idle);
  EXPECT_LT(busy - idle, 0.1);
}

TEST_F(VerbsClusterTest, APausedServersMemoryStaysReadable) {
  StartCluster(Far(1));
  Prepare(8, 5000);
  ExpectPut();
  ExpectAllRight();
  cluster_->server(0)->Signal(SIGSTOP);
  const Stopwatch watch;
  // Long enough for keepalives to fail and the breaker of messages to open.
  while (watch.Elapsed() < 5s) ExpectAllRight();
  PutOptions quick;
  quick.deadline = 300ms;
  EXPECT_NE(PutOne(*client_, "new", ValueOf(1, 10), quick), Code::kOk);
  cluster_->server(0)->Signal(SIGCONT);
  EXPECT_TRUE(WaitUntil([&] { return PutOne(*client_, "new", ValueOf(1, 10)) == Code::kOk; }, 15s));
}

TEST_F(VerbsClusterTest, AServerKilledInMidReadIsMissesAndServesAgainAfterItsRestart) {
  StartCluster(Far(2, 128 << 20));
  Prepare(24, 1 << 20);
  ExpectPut();
  ExpectAllRight();
  std::thread killer([&] {
    std::this_thread::sleep_for(60ms);  // a batch of 24 MiB takes some 250 ms here
    cluster_->server(0)->Kill();
  });
  GetOptions options;
  options.deadline = 3s;
  const Stopwatch first;
  RightOrMiss(GetPrepared(options));
  EXPECT_LE(first.Elapsed(), 3s + 250ms);
  killer.join();
  (void)GetPrepared(options);
  const Stopwatch then;
  const size_t right = RightOrMiss(GetPrepared(options));
  EXPECT_LT(right, keys_.size());
  EXPECT_LE(then.Elapsed(), 1500ms) << "what is left is read, the rest is a miss at once";
  ASSERT_TRUE(cluster_->StartServer(0).ok());
  EXPECT_TRUE(WaitUntil(
      [&] {
        (void)PutPrepared();
        return RightOrMiss(GetPrepared()) == keys_.size();
      },
      30s));
  for (const ServerHealth& server : client_->Servers()) EXPECT_EQ(server.transport, "verbs");
}

TEST_F(VerbsClusterTest, AServerKilledInMidPutCostsItsKeysOnly) {
  StartCluster(Far(2, 128 << 20));
  Prepare(24, 1 << 20);
  ExpectPut();
  std::vector<size_t> owner;
  for (const std::string& key : keys_) owner.push_back(OwnerOf(key));
  std::thread killer([&] {
    std::this_thread::sleep_for(60ms);
    cluster_->server(1)->Kill();
  });
  PutOptions options;
  options.replace = true;
  options.deadline = 3s;
  const Stopwatch watch;
  const auto results = PutPrepared(options);
  EXPECT_LE(watch.Elapsed(), 3s + 250ms);
  killer.join();
  for (size_t i = 0; i < results.size(); ++i) {
    if (owner[i] == 0) {
      EXPECT_EQ(results[i].code, Code::kOk) << i;
    }
  }
  const auto left = GetPrepared();
  for (size_t i = 0; i < left.size(); ++i) {
    if (owner[i] == 0) {
      EXPECT_EQ(left[i].code, Code::kOk) << i;
    }
  }
  RightOrMiss(left);
}

TEST_F(VerbsClusterTest, AWriterKilledAtAnyMomentLeavesNothingGranted) {
  StartCluster(Far(1, 128 << 20));
  auto bench = StartBench({"put", "--value-size", "256KiB", "--batch", "8", "--seconds", "60"});
  ASSERT_TRUE(WaitUntil([&] { return Status().nodes[0].stats.puts > 100; }, 40s));
  bench->Kill();
  EXPECT_TRUE(WaitUntil([&] { return HeldBytes() == 0; }, 3s + 2s + 2s)) << HeldBytes();
  EXPECT_EQ(PutOne(*client_, "k", ValueOf(1, 10)), Code::kOk);
}

TEST_F(VerbsClusterTest, AWriterStoppedForLongerThanItsSessionWakesUpHarmlessly) {
  StartCluster(Far(1, 64 << 20));
  auto bench = StartBench({"mixed", "--value-size", "256KiB", "--batch", "8", "--seconds", "10",
                           "--verify", "--deadline-ms", "3000"});
  // Beyond what it puts before it begins to measure.
  ASSERT_TRUE(WaitUntil([&] { return Status().nodes[0].stats.puts > 200; }, 40s));
  bench->Signal(SIGSTOP);
  // Meanwhile others need the room, and the session ends.
  const Stopwatch watch;
  for (uint64_t i = 0; watch.Elapsed() < 5s; ++i)
    (void)PutOne(*client_, KeyOf(i % 800), ValueOf(i % 800, 100'000));
  EXPECT_TRUE(WaitUntil([&] { return HeldBytes() == 0; }, 5s)) << HeldBytes();
  bench->Signal(SIGCONT);
  ASSERT_TRUE(WaitUntil([&] { return bench->Ended().has_value(); }, 60s));
  std::ifstream log(cluster_->folder() + "/bench.log");
  const std::string said{std::istreambuf_iterator<char>(log), std::istreambuf_iterator<char>()};
  EXPECT_EQ(bench->Ended().value_or(-1), 0) << "a wrong byte ends it with 1: " << said;
  std::vector<std::byte> buffer(100'000);
  for (uint64_t key = 0; key < 800; ++key) {
    if (GetOne(*client_, KeyOf(key), buffer).code == Code::kOk) {
      EXPECT_TRUE(IsValueOf(key, buffer)) << key;
    }
  }
  EXPECT_EQ(client_->Stats().corrupt, 0u);
}

TEST_F(VerbsClusterTest, ADeadlinePassedWhileTheDeviceWorksLeavesTheBufferAlone) {
  StartCluster(Far(1, 256 << 20));
  Prepare(1, 64 << 20);
  ExpectPut();
  GetOptions hasty;
  hasty.deadline = 100ms;  // 64 MiB take some 700 ms here
  for (int round = 0; round < 3; ++round) {
    const Stopwatch watch;
    const auto results = GetPrepared(hasty);
    EXPECT_LE(watch.Elapsed(), 100ms + 250ms) << "50 ms on a processor that is not emulated";
    if (results[0].code == Code::kOk) continue;
    EXPECT_EQ(results[0].code, Code::kMiss);
    std::fill(memory_.begin(), memory_.end(), std::byte{0x5a});
    const Stopwatch after;
    while (after.Elapsed() < 300ms) std::this_thread::sleep_for(10ms);
    EXPECT_TRUE(std::all_of(memory_.begin(), memory_.end(), [](std::byte b) {
      return b == std::byte{0x5a};
    })) << "the device has written after the call had returned";
  }
  PutOptions hasty_put;
  hasty_put.deadline = 100ms;
  hasty_put.replace = true;
  EXPECT_NE(PutPrepared(hasty_put)[0].code, Code::kOk);
  // What had been there is still whole, or the key is gone; and all that was lent comes back.
  EXPECT_TRUE(WaitUntil([&] { return RightOrMiss(GetPrepared()) == 1; }, 15s));
  EXPECT_TRUE(WaitUntil([&] { return HeldBytes() == 0; }, 10s)) << HeldBytes();
}

TEST_F(VerbsClusterTest, MemoryInUseCannotBeDeregistered) {
  StartCluster(Far(1, 256 << 20));
  Prepare(1, 32 << 20);
  ExpectPut();
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    while (!stop) (void)GetPrepared();
  });
  // Between two reads it may be taken away: then it is given again.
  EXPECT_TRUE(WaitUntil(
      [&] {
        const simm::Status status = client_->DeregisterMemory(handle_);
        if (!status.ok()) return status.code() == Code::kFailedPrecondition;
        const auto again = client_->RegisterMemory(memory_.data(), memory_.size());
        if (again.ok()) handle_ = *again;
        return false;
      },
      10s));
  stop = true;
  reader.join();
  ExpectAllRight();
  EXPECT_TRUE(client_->DeregisterMemory(handle_).ok());
}

TEST_F(VerbsClusterTest, WithoutADeviceTcpIsUsedAndItIsSaid) {
  bench::EmbeddedOptions options = Far(1);
  options.server_flags = {"--session-timeout-ms", "3000", "--rdma-device", "none0"};
  StartCluster(options);
  setenv("SIMM_TEST_TRANSPORT", "verbs", 1);
  EXPECT_EQ(PutOne(*client_, "k", ValueOf(1, 10)), Code::kOk);
  EXPECT_EQ(client_->Servers()[0].transport, "tcp");
  EXPECT_NE(client_->Servers()[0].transport_reason.find("offers no other"), std::string::npos);
  const rpc::ClusterStatus status = Status();
  for (const auto& entry : status.nodes[0].stats.transports) {
    if (entry.name != "verbs") continue;
    EXPECT_FALSE(entry.offered);
    EXPECT_NE(entry.reason.find("no RDMA device is called none0; here are: rxe"), std::string::npos)
        << entry.reason;
  }
  ClientOptions wrong;
  wrong.addresses = {cluster_->manager_address()};
  wrong.transport = "verbs";
  wrong.rdma_devices = {"none1"};
  const auto refused = Client::Connect(wrong);
  EXPECT_EQ(refused.code(), Code::kUnavailable);
  EXPECT_NE(refused.status().message().find("none1"), std::string::npos);
}

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

TEST_F(VerbsClusterTest, ALinkThatIsDownCostsItsRoadNotTheKeys) {
  StartCluster(Far(1));
  Prepare(8, 5000);
  ExpectPut();
  ExpectAllRight();
  const auto all_over = [&](const std::string& transport) {
    GetOptions options;
    options.deadline = 1s;
    return RightOrMiss(GetPrepared(options)) == keys_.size() &&
           client_->Servers()[0].transport == transport;
  };
  ASSERT_EQ(std::system("ip link set rdma1 down"), 0);
  EXPECT_TRUE(WaitUntil([&] { return all_over("tcp"); }, 30s))
      << client_->Servers()[0].transport << ": " << client_->Servers()[0].transport_reason;
  EXPECT_NE(client_->Servers()[0].transport_reason.find("verbs: "), std::string::npos);
  EXPECT_EQ(PutOne(*client_, "new", ValueOf(1, 10)), Code::kOk);
  ASSERT_EQ(std::system("ip link set rdma1 up; ip addr add 192.168.77.2/24 dev rdma1 || true"), 0);
  EXPECT_TRUE(WaitUntil([&] { return all_over("verbs"); }, 60s))
      << client_->Servers()[0].transport << ": " << client_->Servers()[0].transport_reason;
}

}  // namespace
}  // namespace simm
