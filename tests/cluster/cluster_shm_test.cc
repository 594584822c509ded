// Shared memory between real processes (DESIGN 5 to 7): what a read and a write cost in work and in
// the server's CPU, and what the deaths and pauses of either side do to the other.

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>
#include <nlohmann/json.hpp>
#include <ostream>
#include <thread>

#include "bench/child_process.h"
#include "tests/support/cluster_fixture.h"
#include "tests/support/cpu_time.h"
#include "tests/support/http_get.h"
#include "tests/support/sanitized.h"
#include "tests/support/simmctl.h"

namespace simm {
namespace {

class ShmTest : public ClusterTest {
 protected:
  void SetUp() override { setenv("SIMM_TEST_TRANSPORT", "shm", 1); }

  void PutAll(size_t count, size_t size) {
    for (size_t i = 0; i < count; ++i)
      ASSERT_EQ(PutOne(*client_, KeyOf(i), ValueOf(i, size)), Code::kOk);
  }
  std::vector<KeyResult> GetAll(size_t count, size_t size) {
    keys_.clear();
    memory_.assign(count * size, std::byte{0});
    std::vector<GetItem> gets;
    for (size_t i = 0; i < count; ++i) keys_.push_back(KeyOf(i));
    for (size_t i = 0; i < count; ++i) gets.push_back({keys_[i], memory_.data() + i * size, size});
    return client_->Get(gets);
  }
  void ExpectAllRight(const std::vector<KeyResult>& results, size_t size) {
    for (size_t i = 0; i < results.size(); ++i) {
      EXPECT_EQ(results[i].code, Code::kOk) << i;
      EXPECT_TRUE(IsValueOf(i, {memory_.data() + i * size, size})) << i;
    }
  }
  uint64_t HeldBytes() const {
    uint64_t held = 0;
    for (const auto& node : Status().nodes)
      held += node.stats.granted_bytes + node.stats.pinned_bytes + node.stats.limbo_bytes;
    return held;
  }
  // simm-bench as a process of its own on this cluster.
  std::unique_ptr<bench::ChildProcess> StartBench(std::vector<std::string> more) {
    std::vector<std::string> argv = {BinDir() + "/simm-bench"};
    argv.insert(argv.end(), more.begin(), more.end());
    argv.insert(argv.end(),
                {"--manager", cluster_->manager_address(), "--transport", "shm", "--json"});
    auto child = bench::ChildProcess::Start(argv, cluster_->folder() + "/bench.log");
    EXPECT_TRUE(child.ok()) << child.status().ToString();
    return child.ok() ? std::move(*child) : nullptr;
  }

  std::vector<std::string> keys_;
  std::vector<std::byte> memory_;
};

TEST_F(ShmTest, TheRoadIsNamedWithItsReason) {
  StartCluster(1);
  ASSERT_EQ(PutOne(*client_, "k", ValueOf(1, 10)), Code::kOk);
  ASSERT_EQ(client_->Servers().size(), 1u);
  EXPECT_EQ(client_->Servers()[0].transport, "shm");
  EXPECT_NE(client_->Servers()[0].transport_reason, "");
  setenv("SIMM_TEST_TRANSPORT", "tcp", 1);
  const auto plain = Connect();
  std::vector<std::byte> buffer(10);
  EXPECT_EQ(GetOne(*plain, "k", buffer).code, Code::kOk);
  EXPECT_EQ(plain->Servers()[0].transport, "tcp");
}

TEST_F(ShmTest, AServerThatOffersNoSharedMemoryIsReachedOverTcp) {
  bench::EmbeddedOptions options = Options(1);
  options.server_flags.insert(options.server_flags.end(), {"--transport", "tcp"});
  StartCluster(options);
  setenv("SIMM_TEST_TRANSPORT", "auto", 1);
  const auto client = Connect();
  ASSERT_EQ(PutOne(*client, "k", ValueOf(1, 10)), Code::kOk);
  EXPECT_EQ(client->Servers()[0].transport, "tcp");
  EXPECT_NE(client->Servers()[0].transport_reason.find("offers no other"), std::string::npos);
}

// DESIGN 5: three reads without a location, two with one; a batch pays each step once.
TEST_F(ShmTest, AGetCostsThreeReadsThenTwoAndABatchOneDoorbellAStep) {
  StartCluster(1, 256 << 20);
  constexpr size_t kKeys = 32, kSize = 64 << 10;
  PutAll(kKeys, kSize);
  const auto delta = [&](auto run) {
    const ClientStats before = client_->Stats();
    run();
    ClientStats now = client_->Stats();
    now.work_requests -= before.work_requests;
    now.doorbells -= before.doorbells;
    now.requests -= before.requests;
    now.validation_retries -= before.validation_retries;
    return now;
  };
  const ClientStats cold = delta([&] { ExpectAllRight(GetAll(kKeys, kSize), kSize); });
  EXPECT_EQ(cold.work_requests, 3 * kKeys);
  EXPECT_EQ(cold.doorbells, 3u);
  EXPECT_EQ(cold.requests, 0u) << "no message";
  const ClientStats warm = delta([&] { ExpectAllRight(GetAll(kKeys, kSize), kSize); });
  // A batch of touches may travel with it.
  EXPECT_LE(warm.work_requests, 2 * kKeys + 1);
  EXPECT_GE(warm.work_requests, 2 * kKeys);
  EXPECT_EQ(warm.doorbells, 2u);
  const ClientStats asked = delta([&] {
    std::vector<std::string_view> keys(keys_.begin(), keys_.end());
    for (const KeyResult& result : client_->Exists(keys)) EXPECT_EQ(result.code, Code::kOk);
  });
  EXPECT_LE(asked.work_requests, kKeys + 1);
  EXPECT_EQ(asked.doorbells, 1u);
  EXPECT_EQ(asked.requests, 0u) << "no message";
}

// What the servers together have counted of reads.
struct ReadCounts {
  uint64_t hits = 0, misses = 0, bytes = 0;
  friend bool operator==(const ReadCounts&, const ReadCounts&) = default;
};
std::ostream& operator<<(std::ostream& out, const ReadCounts& counts) {
  return out << counts.hits << " hits, " << counts.misses << " misses, " << counts.bytes << " B";
}

class ShmCountsTest : public ShmTest {
 protected:
  ReadCounts Counted() const {
    ReadCounts counts;
    for (const auto& node : Status().nodes) {
      counts.hits += node.stats.hits;
      counts.misses += node.stats.misses;
      counts.bytes += node.stats.bytes_read;
    }
    return counts;
  }
  void ExpectCounted(const ReadCounts& right, std::chrono::milliseconds within) {
    EXPECT_TRUE(WaitUntil([&] { return Counted() == right; }, within))
        << "servers count " << Counted() << ", it was " << right;
  }
  ReadCounts ByClient() const {
    const ClientStats stats = client_->Stats();
    return {stats.hits, stats.misses, stats.bytes_read};
  }
  nlohmann::json Page() const {
    const std::string answer = HttpGet(cluster_->manager_ready().http, "/api/status");
    return nlohmann::json::parse(answer.substr(answer.find("\r\n\r\n") + 4));
  }
};

// The servers take no part in these reads, and operators see them all the same: on the page, by
// simmctl, in the metrics.
TEST_F(ShmCountsTest, OneSidedReadsAreCountedWhereOperatorsLook) {
  constexpr size_t kKeys = 30, kSize = 20'000;
  StartCluster(2);
  PutAll(kKeys, kSize);
  ExpectAllRight(GetAll(kKeys, kSize), kSize);
  std::vector<std::byte> buffer(kSize);
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(GetOne(*client_, "absent-" + std::to_string(i), buffer).code, Code::kMiss);
  }
  EXPECT_EQ(ByClient(), (ReadCounts{kKeys, 10, kKeys * kSize}));
  ExpectCounted(ByClient(), 8s);  // the lanes lie idle
  // Readers that only miss are heard of too.
  for (int i = 0; i < 5; ++i) GetOne(*client_, "absent-" + std::to_string(i), buffer);
  ExpectCounted(ByClient(), 8s);

  // What goes on now; the manager looks over a few heartbeats.
  const auto is_seen = [](const nlohmann::json& rates) {
    return rates["hits"] > 0 && rates["misses"] > 0 && rates["bytes_read"] > 0;
  };
  bool page = false, simmctl = false;
  EXPECT_TRUE(WaitUntil(
      [&] {
        GetAll(kKeys, kSize);
        GetOne(*client_, "absent-1", buffer);
        page = page || is_seen(Page()["rates"]);
        simmctl = simmctl || is_seen(Simmctl(cluster_->manager_address(), "status")["rates"]);
        return page && simmctl;
      },
      20s))
      << "page " << page << ", simmctl " << simmctl;

  // The last of it goes with the lanes' close.
  ReadCounts right = ByClient();
  client_->Exists(std::vector<std::string_view>{keys_[0], "absent-1"});
  client_.reset();
  ExpectCounted(right, 8s);
  double hits = 0, misses = 0, bytes = 0, asked = 0, cut = 0;
  for (size_t i = 0; i < 2; ++i) {
    const std::string scrape = HttpGet(cluster_->server_ready(i).http, "/metrics");
    const auto of_shm = [&](const std::string& what) {
      return std::max(0.0, Series(scrape, what + "transport=\"shm\"}"));
    };
    hits += of_shm("simm_dataserver_keys_total{op=\"get\",outcome=\"ok\",");
    misses += of_shm("simm_dataserver_keys_total{op=\"get\",outcome=\"miss\",");
    asked += of_shm("simm_dataserver_keys_total{op=\"exists\",outcome=\"ok\",") +
             of_shm("simm_dataserver_keys_total{op=\"exists\",outcome=\"miss\",");
    bytes += of_shm("simm_dataserver_value_bytes_read_total{");
    cut += Series(scrape, "simm_dataserver_read_reports_cut_total");
  }
  EXPECT_EQ(hits, static_cast<double>(right.hits));
  EXPECT_EQ(misses, static_cast<double>(right.misses));
  EXPECT_EQ(bytes, static_cast<double>(right.bytes));
  EXPECT_EQ(asked, 2);
  EXPECT_EQ(cut, 0);
}

TEST_F(ShmTest, APutIsOneLeaseAndOneDoorbellOfWritesAndCommits) {
  StartCluster(1, 256 << 20);
  constexpr size_t kKeys = 16, kSize = 50'000;
  ASSERT_EQ(PutOne(*client_, "first", ValueOf(1, 10)), Code::kOk);  // opens the lane
  std::vector<std::string> keys;
  std::vector<std::vector<std::byte>> values;
  std::vector<PutItem> puts;
  for (size_t i = 0; i < kKeys; ++i) {
    keys.push_back(KeyOf(i));
    values.push_back(ValueOf(i, kSize));
  }
  for (size_t i = 0; i < kKeys; ++i) puts.push_back({keys[i], values[i].data(), kSize});
  const ClientStats before = client_->Stats();
  for (const KeyResult& result : client_->Put(puts)) EXPECT_EQ(result.code, Code::kOk);
  const ClientStats after = client_->Stats();
  EXPECT_EQ(after.doorbells - before.doorbells, 2u);
  EXPECT_EQ(after.work_requests - before.work_requests, 1 + 2 * kKeys);
  ExpectAllRight(GetAll(kKeys, kSize), kSize);
  EXPECT_TRUE(WaitUntil([&] { return HeldBytes() == 0; }, 4s)) << HeldBytes();
}

TEST_F(ShmTest, AValueBeyondTheShareThatIsLentGoesByMessage) {
  StartCluster(1, 64 << 20);
  constexpr size_t kSize = 8 << 20;
  ASSERT_EQ(PutOne(*client_, "large", ValueOf(1, kSize)), Code::kOk);
  std::vector<std::byte> buffer(kSize);
  ASSERT_EQ(GetOne(*client_, "large", buffer).code, Code::kOk);
  EXPECT_TRUE(IsValueOf(1, buffer));
}

TEST_F(ShmTest, APausedServersMemoryStaysReadable) {
  StartCluster(1);
  constexpr size_t kKeys = 20, kSize = 5000;
  PutAll(kKeys, kSize);
  ExpectAllRight(GetAll(kKeys, kSize), kSize);
  cluster_->server(0)->Signal(SIGSTOP);
  const Stopwatch watch;
  uint64_t rounds = 0;
  // Long enough for the keepalive to fail and the breaker of messages to open.
  while (watch.Elapsed() < 3500ms) {
    ExpectAllRight(GetAll(kKeys, kSize), kSize);
    ++rounds;
    std::this_thread::sleep_for(10ms);
  }
  EXPECT_GT(rounds, 100u);
  PutOptions quick;
  quick.deadline = 300ms;
  EXPECT_NE(PutOne(*client_, "new", ValueOf(1, 10), quick), Code::kOk);
  cluster_->server(0)->Signal(SIGCONT);
  EXPECT_TRUE(WaitUntil([&] { return PutOne(*client_, "new", ValueOf(1, 10)) == Code::kOk; }, 10s));
}

TEST_F(ShmTest, AKilledServerIsMissesAtOnceAndServesAgainAfterItsRestart) {
  StartCluster(2);
  constexpr size_t kKeys = 40, kSize = 20'000;
  PutAll(kKeys, kSize);
  ExpectAllRight(GetAll(kKeys, kSize), kSize);
  cluster_->server(0)->Kill();
  for (int round = 0; round < 20; ++round) {
    const Stopwatch watch;
    const auto results = GetAll(kKeys, kSize);
    EXPECT_LE(watch.Elapsed(), 400ms);
    for (size_t i = 0; i < kKeys; ++i) {
      if (results[i].code == Code::kOk) {
        EXPECT_TRUE(IsValueOf(i, {memory_.data() + i * kSize, kSize})) << i;
      } else {
        EXPECT_EQ(results[i].code, Code::kMiss);
      }
    }
  }
  ASSERT_TRUE(cluster_->StartServer(0).ok());
  EXPECT_TRUE(WaitUntil(
      [&] {
        for (size_t i = 0; i < kKeys; ++i) (void)PutOne(*client_, KeyOf(i), ValueOf(i, kSize));
        const auto results = GetAll(kKeys, kSize);
        for (const KeyResult& result : results) {
          if (result.code != Code::kOk) return false;
        }
        return true;
      },
      10s));
  ExpectAllRight(GetAll(kKeys, kSize), kSize);
}

TEST_F(ShmTest, AWriterKilledAtAnyMomentLeavesNothingGranted) {
  StartCluster(1, 256 << 20);
  for (int round = 0; round < 3; ++round) {
    auto bench = StartBench({"put", "--value-size", "256KiB", "--batch", "8", "--seconds", "30"});
    const uint64_t puts = Status().nodes[0].stats.puts;
    ASSERT_TRUE(WaitUntil([&] { return Status().nodes[0].stats.puts > puts + 200; }, 20s));
    bench->Kill();
    EXPECT_TRUE(WaitUntil([&] { return HeldBytes() == 0; }, 6s)) << HeldBytes();
  }
  EXPECT_EQ(PutOne(*client_, "k", ValueOf(1, 10)), Code::kOk);
}

TEST_F(ShmTest, AWriterStoppedForLongerThanItsSessionWakesUpHarmlessly) {
  StartCluster(1, 128 << 20);
  auto bench = StartBench({"mixed", "--value-size", "256KiB", "--batch", "8", "--seconds", "6",
                           "--verify", "--deadline-ms", "2000"});
  ASSERT_TRUE(WaitUntil([&] { return Status().nodes[0].stats.puts > 800; }, 20s));
  bench->Signal(SIGSTOP);
  // Meanwhile others need the room.
  const Stopwatch watch;
  for (uint64_t i = 0; watch.Elapsed() < 3500ms; ++i)
    (void)PutOne(*client_, KeyOf(i % 4000), ValueOf(i % 4000, 100'000));
  bench->Signal(SIGCONT);
  ASSERT_TRUE(WaitUntil([&] { return bench->Ended().has_value(); }, 40s));
  std::ifstream log(cluster_->folder() + "/bench.log");
  const std::string said{std::istreambuf_iterator<char>(log), std::istreambuf_iterator<char>()};
  EXPECT_EQ(bench->Ended().value_or(-1), 0) << "a wrong byte ends it with 1: " << said;
  uint64_t hits = 0;
  std::vector<std::byte> buffer(100'000);
  for (uint64_t key = 0; key < 4000; ++key) {
    if (GetOne(*client_, KeyOf(key), buffer).code != Code::kOk) continue;
    EXPECT_TRUE(IsValueOf(key, buffer)) << key;
    ++hits;
  }
  EXPECT_GT(hits, 100u);
  EXPECT_EQ(client_->Stats().corrupt, 0u);
  // This client's own leases at hand go back after 5 s.
  EXPECT_TRUE(WaitUntil([&] { return HeldBytes() == 0; }, 9s)) << HeldBytes();
}

constexpr double kCpuBar = kSanitized ? 0.05 : 0.01;

// DESIGN 1.2. Ten seconds of gets against ten seconds of rest.
TEST_F(ShmTest, TheServersCpuIsNotInTheReadPath) {
  bench::EmbeddedOptions options = Options(1, 256 << 20);
  StartCluster(options);
  constexpr size_t kKeys = 1024, kSize = 64 << 10;
  PutAll(kKeys, kSize);
  const pid_t pid = cluster_->server(0)->pid();
  std::vector<std::byte> buffer(64 * kSize);
  std::vector<std::string> keys;
  for (size_t i = 0; i < kKeys; ++i) keys.push_back(KeyOf(i));
  const auto measure = [&](bool reading) {
    const double before = CpuSeconds(pid);
    uint64_t gets = 0;
    for (const Stopwatch watch; watch.Elapsed() < 10s;) {
      if (!reading) {
        std::this_thread::sleep_for(50ms);
        continue;
      }
      std::vector<GetItem> items;
      for (size_t i = 0; i < 64; ++i)
        items.push_back({keys[(gets + i) % kKeys], buffer.data() + i * kSize, kSize});
      for (const KeyResult& result : client_->Get(items)) gets += result.code == Code::kOk ? 1 : 0;
    }
    EXPECT_TRUE(!reading || gets > 5000) << gets;
    return CpuSeconds(pid) - before;
  };
  EXPECT_LT(LeastExtraCpu(kCpuBar * 10, measure), kCpuBar * 10);
}

}  // namespace
}  // namespace simm
