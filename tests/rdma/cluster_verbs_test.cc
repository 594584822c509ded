// RDMA between real processes (DESIGN 1, 5, 6, 10): what a read and a write cost in work and in the
// server's CPU, and what the deaths and pauses of either side do. Runs where there is an RDMA
// device: the lane `rdma` brings one.

#include <atomic>
#include <csignal>
#include <fstream>
#include <thread>

#include "tests/rdma/cluster_verbs_fixture.h"
#include "tests/support/cpu_time.h"

namespace simm {
namespace {

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
  EXPECT_LT(LeastExtraCpu(0.1, measure), 0.1);
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
