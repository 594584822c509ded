// One-sided puts between real processes over shared memory (DESIGN 6 and 7): what they cost, what
// is kept at hand and given back, pins, hints, and what is left behind when either side stops or
// dies in the middle of a put.

#include <gtest/gtest.h>

#include <csignal>
#include <fstream>
#include <sstream>

#include "bench/child_process.h"
#include "common/base/limits.h"
#include "common/rpc/dataserver_stub.h"
#include "tests/support/cluster_fixture.h"

namespace simm {
namespace {

constexpr auto kSessionTimeout = 2000ms;  // of ClusterTest's servers
constexpr auto kBack = kSessionTimeout + 2000ms;

class PutsTest : public ClusterTest {
 protected:
  void SetUp() override { setenv("SIMM_TEST_TRANSPORT", "shm", 1); }

  // From the data server itself: what the manager knows is a heartbeat old.
  rpc::ServerStats Node() const {
    const auto status = rpc::GetServerStatus(cluster_->server_ready(0).listen, 2s);
    EXPECT_TRUE(status.ok()) << status.status().ToString();
    return status.ok() ? status->stats : rpc::ServerStats{};
  }
  uint64_t HeldBytes() const {
    const rpc::ServerStats node = Node();
    return node.granted_bytes + node.pinned_bytes + node.limbo_bytes;
  }
  uint64_t GrantedBytes() const { return Node().granted_bytes; }
  bool NothingHeld(std::chrono::milliseconds limit = kBack) {
    return WaitUntil([&] { return HeldBytes() == 0; }, limit);
  }
  std::vector<KeyResult> PutBatch(Client& client, uint64_t first, size_t count, size_t size) {
    std::vector<std::string> keys;
    std::vector<std::vector<std::byte>> values;
    for (size_t i = 0; i < count; ++i) {
      keys.push_back(KeyOf(first + i));
      values.push_back(ValueOf(first + i, size));
    }
    std::vector<PutItem> puts;
    for (size_t i = 0; i < count; ++i) puts.push_back({keys[i], values[i].data(), size});
    return client.Put(puts);
  }
  static ClientStats Since(const ClientStats& before, ClientStats now) {
    now.work_requests -= before.work_requests;
    now.doorbells -= before.doorbells;
    now.requests -= before.requests;
    now.lease_hits -= before.lease_hits;
    now.resolves -= before.resolves;
    return now;
  }

  // Fills the pool of 64 MiB several times over, until `until` on the watch.
  void Storm(const Stopwatch& watch, std::chrono::milliseconds until) {
    constexpr size_t kSize = 100'000;
    const auto value = ValueOf(1, kSize);
    const uint64_t evicted = Node().evictions;
    while (watch.Elapsed() < until || Node().evictions < evicted + 1300) {
      std::vector<std::string> names;
      for (int i = 0; i < 64; ++i) names.push_back("storm-" + std::to_string(++storms_));
      std::vector<PutItem> puts;
      for (const std::string& name : names) puts.push_back({name, value.data(), kSize});
      (void)client_->Put(puts);
      if (watch.Elapsed() > until + 5s) break;
    }
    EXPECT_GE(Node().evictions, evicted + 1300) << "no storm";
  }

  // A writer that stops or breaks at a step of its put; see stepping_writer.cc.
  std::unique_ptr<bench::ChildProcess> StartWriter(const std::string& step, const std::string& key,
                                                   size_t size, bool replace = false) {
    log_ = cluster_->folder() + "/writer-" + std::to_string(++writers_) + ".log";
    std::vector<std::string> argv = {SIMM_STEPPING_WRITER, cluster_->server_ready(0).listen, step,
                                     key, std::to_string(size)};
    if (replace) argv.push_back("replace");
    auto child = bench::ChildProcess::Start(argv, log_);
    EXPECT_TRUE(child.ok()) << child.status().ToString();
    return child.ok() ? std::move(*child) : nullptr;
  }
  std::string Said() const {
    std::ifstream log(log_);
    return {std::istreambuf_iterator<char>(log), std::istreambuf_iterator<char>()};
  }
  bool Says(const std::string& what) {
    return WaitUntil([&] { return Said().find(what) != std::string::npos; }, 10s);
  }

  std::string log_;
  int writers_ = 0;
  uint64_t storms_ = 0;
};

// ---- leases at hand

TEST_F(PutsTest, APutWithALeaseAtHandIsOneDoorbellAndNoLease) {
  StartCluster(1, 512 << 20);
  constexpr size_t kSize = 50'000;
  for (uint64_t i = 0; i < 4; ++i)
    ASSERT_EQ(PutOne(*client_, KeyOf(i), ValueOf(i, kSize)), Code::kOk);
  uint64_t work = 0, doorbells = 0;
  constexpr uint64_t kPuts = 40;
  const ClientStats before = client_->Stats();
  for (uint64_t i = 10; i < 10 + kPuts; ++i)
    ASSERT_EQ(PutOne(*client_, KeyOf(i), ValueOf(i, kSize)), Code::kOk);
  const ClientStats all = Since(before, client_->Stats());
  work = all.work_requests, doorbells = all.doorbells;
  EXPECT_EQ(all.lease_hits, kPuts);
  EXPECT_EQ(doorbells, kPuts) << "each put is one";
  // WRITE and COMMIT of each, and a LEASE for many behind some.
  EXPECT_GE(work, 2 * kPuts);
  EXPECT_LE(work, 2 * kPuts + kPuts / 4);
}

TEST_F(PutsTest, ABatchWithItsLeasesAtHandIsOneDoorbell) {
  StartCluster(1, 1ULL << 30);
  constexpr size_t kKeys = 16, kSize = 50'000;
  for (uint64_t round = 0; round < 3; ++round) {
    for (const KeyResult& r : PutBatch(*client_, round * 100, kKeys, kSize))
      ASSERT_EQ(r.code, Code::kOk);
  }
  const ClientStats before = client_->Stats();
  for (const KeyResult& r : PutBatch(*client_, 1000, kKeys, kSize)) ASSERT_EQ(r.code, Code::kOk);
  const ClientStats all = Since(before, client_->Stats());
  EXPECT_EQ(all.lease_hits, kKeys);
  EXPECT_EQ(all.doorbells, 1u);
  EXPECT_EQ(all.work_requests, 2 * kKeys + 1) << "and one LEASE ahead";
  for (uint64_t i = 0; i < kKeys; ++i) {
    std::vector<std::byte> buffer(kSize);
    EXPECT_EQ(GetOne(*client_, KeyOf(1000 + i), buffer).code, Code::kOk);
    EXPECT_TRUE(IsValueOf(1000 + i, buffer));
  }
}

TEST_F(PutsTest, IdleLeasesStayWithinTheirShareAndGoBackAfterFiveSeconds) {
  StartCluster(1, 256 << 20);
  constexpr size_t kSize = 100'000;
  for (uint64_t i = 0; i < 30; ++i)
    ASSERT_EQ(PutOne(*client_, KeyOf(i), ValueOf(i, kSize)), Code::kOk);
  const Stopwatch watch;
  const uint64_t kept = GrantedBytes();
  EXPECT_GT(kept, 0u) << "at hand";
  EXPECT_LE(kept, (256u << 20) / limits::kProcessAheadShare);
  EXPECT_TRUE(WaitUntil([&] { return GrantedBytes() == 0; }, 8s)) << GrantedBytes();
  EXPECT_GE(watch.Elapsed(), 4s) << "not at once: the next put may come";
  EXPECT_EQ(PutOne(*client_, "again", ValueOf(1, kSize)), Code::kOk);
}

TEST_F(PutsTest, AClientThatEndsInGoodOrderLeavesNothingGranted) {
  StartCluster(1, 256 << 20);
  auto other = ConnectTo({cluster_->manager_address(), cluster_->manager_address()});
  for (uint64_t i = 0; i < 30; ++i)
    ASSERT_EQ(PutOne(*other, KeyOf(i), ValueOf(i, 100'000)), Code::kOk);
  EXPECT_GT(GrantedBytes(), 0u);
  other.reset();
  // The process lives on; by word alone the server knows that it writes no more.
  EXPECT_TRUE(WaitUntil([&] { return GrantedBytes() == 0; }, 1s)) << GrantedBytes();
}

TEST_F(PutsTest, AServerThatLendsNothingAheadStillTakesEveryPut) {
  StartCluster(1, 16 << 20);  // half a process's share is 80 KiB
  for (uint64_t i = 0; i < 300; ++i)
    ASSERT_EQ(PutOne(*client_, KeyOf(i), ValueOf(i, 120'000)), Code::kOk) << i;
  EXPECT_EQ(client_->Stats().lease_hits, 0u);
  EXPECT_EQ(client_->Stats().put_failures, 0u);
  EXPECT_EQ(client_->Servers()[0].transport, "shm");
}

// ---- pins and hints

TEST_F(PutsTest, PinnedValuesOutliveAStormOfEvictionsForTheirTime) {
  for (const char* transport : {"shm", "tcp"}) {
    setenv("SIMM_TEST_TRANSPORT", transport, 1);
    StartCluster(1, 64 << 20);
    constexpr size_t kSize = 100'000;
    std::vector<std::string> names;
    for (uint64_t i = 0; i < 40; ++i) {
      ASSERT_EQ(PutOne(*client_, KeyOf(i), ValueOf(i, kSize)), Code::kOk);
      names.push_back(KeyOf(i));
    }
    std::vector<std::string_view> keys(names.begin(), names.end());
    keys.push_back("missing");
    const Stopwatch since;
    const auto pins = client_->Pin(keys);
    ASSERT_EQ(pins.size(), 41u);
    EXPECT_EQ(pins[40].code, Code::kMiss);
    EXPECT_EQ(pins[40].pinned_ms, 0u);
    for (size_t i = 0; i < 40; ++i) {
      EXPECT_EQ(pins[i].code, Code::kOk);
      EXPECT_GT(pins[i].pinned_ms, 1000u);
      EXPECT_LE(pins[i].pinned_ms, 2000u);
    }
    Storm(since, 1200ms);
    std::vector<std::byte> buffer(kSize);
    for (uint64_t i = 0; i < 40; ++i) {
      EXPECT_EQ(GetOne(*client_, KeyOf(i), buffer).code, Code::kOk) << i;
      EXPECT_TRUE(IsValueOf(i, buffer)) << i;
    }
    EXPECT_LT(since.Elapsed(), 2000ms) << "the machine was too slow for this test to say anything";
    // Once the time is over they are as evictable as all others.
    ASSERT_TRUE(WaitUntil([&] { return since.Elapsed() > 2500ms; }, 4s));
    Storm(since, 3500ms);
    uint64_t left = 0;
    for (const KeyResult& r : client_->Exists(std::span(keys).first(40)))
      left += r.code == Code::kOk;
    EXPECT_EQ(left, 0u);
  }
}

TEST_F(PutsTest, PinsBeyondAQuarterOfThePoolAreRefusedGracefully) {
  StartCluster(1, 64 << 20);
  constexpr size_t kSize = 1 << 20;
  std::vector<std::string> names;
  for (uint64_t i = 0; i < 40; ++i) {
    ASSERT_EQ(PutOne(*client_, KeyOf(i), ValueOf(i, kSize)), Code::kOk);
    names.push_back(KeyOf(i));
  }
  const std::vector<std::string_view> keys(names.begin(), names.end());
  uint64_t held = 0, refused = 0;
  for (const PinResult& pin : client_->Pin(keys)) {
    EXPECT_EQ(pin.code, Code::kOk) << "it is there";
    (pin.pinned_ms > 0 ? held : refused) += 1;
  }
  EXPECT_EQ(held, 15u) << "heads included, 16 do not fit into a quarter";
  EXPECT_EQ(refused, 25u);
}

TEST_F(PutsTest, APinOfAServerThatIsAwayIsAMiss) {
  StartCluster(1);
  ASSERT_EQ(PutOne(*client_, "k", ValueOf(1, 10)), Code::kOk);
  cluster_->server(0)->Kill();
  const std::string_view key = "k";
  EXPECT_EQ(client_->Pin({&key, 1}, {.deadline = 300ms})[0].code, Code::kMiss);
  const std::string_view empty;
  EXPECT_EQ(client_->Pin({&empty, 1})[0].code, Code::kInvalidArgument);
}

// ---- a writer that stops or dies on its way

constexpr size_t kWritten = 200'000;

TEST_F(PutsTest, AWriterKilledBetweenItsStepsCostsItsSessionAtMost) {
  StartCluster(1, 256 << 20);
  for (const std::string step : {"lease", "write", "commit"}) {
    const std::string key = "killed-" + step;
    auto writer = StartWriter(step, key, kWritten);
    ASSERT_TRUE(Says("reached")) << Said();
    if (step != "commit") {
      EXPECT_GT(GrantedBytes(), 0u);
    }
    writer->Kill();
    EXPECT_TRUE(NothingHeld()) << step << ": " << HeldBytes();
    std::vector<std::byte> buffer(kWritten);
    const Code code = GetOne(*client_, key, buffer).code;
    EXPECT_EQ(code, step == "commit" ? Code::kOk : Code::kMiss) << step;
    if (code == Code::kOk) {
      EXPECT_TRUE(IsValueOf(1, buffer));
    }
  }
}

TEST_F(PutsTest, AWriterStoppedBeyondItsSessionEndsItsPutAndHoldsNothing) {
  StartCluster(1, 256 << 20);
  for (const std::string step : {"lease", "write"}) {
    auto writer = StartWriter(step, "stopped-" + step, kWritten);
    ASSERT_TRUE(Says("reached")) << Said();
    const uint64_t granted = GrantedBytes();
    EXPECT_GT(granted, 0u);
    const Stopwatch watch;
    while (watch.Elapsed() < kSessionTimeout + 1500ms) {
      EXPECT_EQ(GrantedBytes(), granted) << "it may still write there";
      for (uint64_t i = 0; i < 50; ++i) (void)PutOne(*client_, KeyOf(i), ValueOf(i, 100'000));
      (void)WaitUntil([] { return false; }, 100ms);
      if (GrantedBytes() > granted) break;  // this client's own leases at hand
    }
    (void)WaitUntil([&] { return watch.Elapsed() > kSessionTimeout + 1500ms; }, 5s);
    writer->Signal(SIGCONT);
    ASSERT_TRUE(Says("ended")) << Said();
    EXPECT_NE(Said().find("lane broke"), std::string::npos) << Said();
    for (uint64_t i = 0; i < 50; ++i) {
      std::vector<std::byte> buffer(100'000);
      if (GetOne(*client_, KeyOf(i), buffer).code == Code::kOk) {
        EXPECT_TRUE(IsValueOf(i, buffer)) << i;
      }
    }
    std::vector<std::byte> buffer(kWritten);
    if (GetOne(*client_, "stopped-" + step, buffer).code == Code::kOk) {
      EXPECT_TRUE(IsValueOf(1, buffer));
    }
    EXPECT_EQ(client_->Stats().corrupt, 0u);
    writer->Kill();
    EXPECT_TRUE(NothingHeld(8s)) << HeldBytes();
  }
}

// A lane that breaks with its COMMIT sent, or never sent: the other lane's RESOLVE tells which.
TEST_F(PutsTest, APutWhoseLaneBreaksIsAskedAboutAndEndsOnce) {
  StartCluster(1, 256 << 20);
  for (const bool replace : {false, true}) {
    for (const std::string step : {"write", "commit"}) {
      const std::string key = "broken-" + step + (replace ? "-replaced" : "");
      ASSERT_EQ(!replace || PutOne(*client_, key, ValueOf(9, kWritten)) == Code::kOk, true);
      auto writer = StartWriter(step + "-break", key, kWritten, replace);
      ASSERT_TRUE(Says("ended")) << Said();
      EXPECT_NE(Said().find("ended done OK, resolves 1"), std::string::npos)
          << key << ": " << Said();
      std::vector<std::byte> buffer(kWritten);
      EXPECT_EQ(GetOne(*client_, key, buffer).code, Code::kOk);
      EXPECT_TRUE(IsValueOf(1, buffer));
      // The process lives on: what its broken lane held, it has disowned.
      EXPECT_TRUE(NothingHeld(8s)) << HeldBytes();
      writer->Kill();
    }
  }
}

TEST_F(PutsTest, AServerRestartedBetweenWriteAndCommitPublishesNothing) {
  StartCluster(1, 128 << 20);
  auto writer = StartWriter("write", "orphan", kWritten);
  ASSERT_TRUE(Says("reached")) << Said();
  cluster_->server(0)->Kill();
  ASSERT_TRUE(cluster_->StartServer(0).ok());
  ASSERT_TRUE(
      WaitUntil([&] { return PutOne(*client_, "new", ValueOf(3, 1000)) == Code::kOk; }, 10s));
  writer->Signal(SIGCONT);
  ASSERT_TRUE(Says("ended")) << Said();
  EXPECT_NE(Said().find("ended undone"), std::string::npos) << "its session is of another start";
  EXPECT_EQ(ExistsOne(*client_, "orphan"), Code::kMiss);
  std::vector<std::byte> buffer(1000);
  EXPECT_EQ(GetOne(*client_, "new", buffer).code, Code::kOk);
  EXPECT_TRUE(IsValueOf(3, buffer));
  EXPECT_TRUE(NothingHeld(8s)) << HeldBytes();
}

TEST_F(PutsTest, ADeadlineInTheMiddleOfAPutIsKeptAndNothingStaysGranted) {
  StartCluster(1, 256 << 20);
  for (uint64_t i = 0; i < 8; ++i)
    ASSERT_EQ(PutOne(*client_, KeyOf(i), ValueOf(i, kWritten)), Code::kOk);
  cluster_->server(0)->Signal(SIGSTOP);
  for (int i = 0; i < 5; ++i) {
    PutOptions options;
    options.deadline = 200ms;
    const Stopwatch watch;
    const Code code = PutOne(*client_, "late-" + std::to_string(i), ValueOf(1, kWritten), options);
    EXPECT_LE(watch.Elapsed(), 250ms);
    EXPECT_TRUE(code == Code::kDeadlineExceeded || code == Code::kUnavailable) << CodeName(code);
  }
  cluster_->server(0)->Signal(SIGCONT);
  ASSERT_TRUE(
      WaitUntil([&] { return PutOne(*client_, "new", ValueOf(2, 1000)) == Code::kOk; }, 10s));
  EXPECT_TRUE(NothingHeld(10s)) << "this process lives on: " << HeldBytes();
  for (int i = 0; i < 5; ++i) {
    std::vector<std::byte> buffer(kWritten);
    const Code code = GetOne(*client_, "late-" + std::to_string(i), buffer).code;
    EXPECT_TRUE(code == Code::kOk || code == Code::kMiss);
    if (code == Code::kOk) {
      EXPECT_TRUE(IsValueOf(1, buffer));
    }
  }
}

}  // namespace
}  // namespace simm
