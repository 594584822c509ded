// Data servers that are killed, stopped, damaged and started again on the same pool files: what was
// committed is there again, under load, over tcp and over shared memory (SIMM_TEST_TRANSPORT); what
// cannot be taken over is a cold start with its reason.

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstring>
#include <fstream>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "common/protocol/pool_layout.h"
#include "tests/support/cluster_fixture.h"
#include "tests/support/pool_folder.h"
#include "tests/support/sanitized.h"

namespace simm {
namespace {

using testing::HasSubstr;
using testing::Not;

class RestartTest : public ClusterTest {
 protected:
  bench::EmbeddedOptions PoolOptions(uint32_t servers, uint64_t memory = 128 << 20) const {
    bench::EmbeddedOptions options = Options(servers, memory);
    options.pool_folder = std::filesystem::path(folder_.pool()).parent_path();
    return options;
  }
  std::string PoolPath(size_t server) const {
    return std::string(std::filesystem::path(folder_.pool()).parent_path()) + "/server-" +
           std::to_string(server);
  }
  std::string LogOf(size_t server) const {
    std::ifstream in(cluster_->folder() + "/server-" + std::to_string(server) + ".log");
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  }
  void PutKeys(uint64_t from, uint64_t to, size_t size) {
    for (uint64_t key = from; key < to; ++key)
      ASSERT_EQ(PutOne(*client_, KeyOf(key), ValueOf(key, size)), Code::kOk) << key;
  }
  void PutBatch(uint64_t from, size_t count, size_t size) {
    std::vector<std::string> names;
    std::vector<std::vector<std::byte>> values;
    std::vector<PutItem> items;
    for (uint64_t key = from; key < from + count; ++key) {
      names.push_back(KeyOf(key));
      values.push_back(ValueOf(key, size));
    }
    for (size_t i = 0; i < count; ++i) items.push_back({names[i], values[i].data(), size});
    for (const KeyResult& result : client_->Put(items)) ASSERT_EQ(result.code, Code::kOk);
  }
  // How many of the keys are there; each that is has its bytes.
  uint64_t CountHits(Client& client, uint64_t from, uint64_t to, size_t size) {
    std::vector<std::byte> buffer(size);
    uint64_t hits = 0;
    for (uint64_t key = from; key < to; ++key) {
      const Code code = GetOne(client, KeyOf(key), buffer).code;
      EXPECT_TRUE(code == Code::kOk || code == Code::kMiss) << CodeName(code);
      if (code != Code::kOk) continue;
      EXPECT_TRUE(IsValueOf(key, buffer)) << key;
      ++hits;
    }
    return hits;
  }
  // Until a key is a hit again for a client that was connected before.
  void WaitForHit(Client& client, uint64_t key, size_t size, std::chrono::milliseconds limit) {
    std::vector<std::byte> buffer(size);
    EXPECT_TRUE(
        WaitUntil([&] { return GetOne(client, KeyOf(key), buffer).code == Code::kOk; }, limit));
  }
  uint64_t GrantedBytes() const {
    uint64_t granted = 0;
    for (const auto& node : Status().nodes) granted += node.stats.granted_bytes;
    return granted;
  }

  const PoolFolder folder_;
};

TEST_F(RestartTest, AStoppedServerComesBackWithItsEntries) {
  constexpr size_t kSize = 20'000;
  StartCluster(PoolOptions(2));
  PutKeys(0, 400, kSize);
  for (const int signal : {SIGTERM, SIGKILL}) {
    cluster_->server(0)->Signal(signal);
    ASSERT_TRUE(WaitUntil([&] { return cluster_->server(0)->Ended().has_value(); }, 20s));
    ASSERT_TRUE(cluster_->StartServer(0).ok());
    const uint64_t theirs = KeysOwnedBy(0, 1)[0];
    WaitForHit(*client_, theirs, kSize, 10s);
    EXPECT_EQ(CountHits(*client_, 0, 400, kSize), 400u);
  }
  EXPECT_THAT(LogOf(0), HasSubstr("warm start of the pool " + PoolPath(0)));
  EXPECT_THAT(LogOf(0), Not(HasSubstr("cold start")));
  PutKeys(400, 500, kSize);
  EXPECT_EQ(CountHits(*client_, 0, 500, kSize), 500u);
  EXPECT_EQ(client_->Stats().corrupt, 0u);
}

// DESIGN 1.7 and 10: kill -9 under full load.
TEST_F(RestartTest, KilledUnderLoadItHasWhatWasCommittedAgain) {
  constexpr size_t kSize = 30'000;
  constexpr int kThreads = 3;
  constexpr int kKills = 3;
  StartCluster(PoolOptions(1, 512 << 20));
  std::atomic<bool> running{true};
  std::atomic<uint64_t> next{0};
  std::mutex mutex;
  std::set<uint64_t> committed;
  std::vector<std::thread> writers;
  for (int i = 0; i < kThreads; ++i) {
    writers.emplace_back([&] {
      std::vector<std::byte> buffer(kSize);
      while (running.load() && next.load() < 12'000) {
        const uint64_t key = next++;
        const auto value = ValueOf(key, kSize);
        const auto stored = [&] {
          const Code code = PutOne(*client_, KeyOf(key), value, {.deadline = 500ms});
          // EXISTS: stored by an attempt whose answer was lost.
          return code == Code::kOk || code == Code::kExists || !running.load();
        };
        if (!WaitUntil(stored, 60s) || !running.load()) continue;
        uint64_t known = 0;
        {
          const std::lock_guard lock(mutex);
          committed.insert(key);
          known = *committed.lower_bound(key / 2);
        }
        if (GetOne(*client_, KeyOf(known), buffer).code != Code::kOk) continue;
        EXPECT_TRUE(IsValueOf(known, buffer));
      }
    });
  }
  const auto count = [&] {
    const std::lock_guard lock(mutex);
    return committed.size();
  };
  for (int kill = 0; kill < kKills; ++kill) {
    const size_t before = count();
    ASSERT_TRUE(WaitUntil([&] { return count() > before + 1500 || next.load() >= 12'000; }, 30s));
    cluster_->server(0)->Kill();
    const Stopwatch away;
    ASSERT_TRUE(cluster_->StartServer(0).ok());
    const auto started = away.Elapsed();
    uint64_t first = 0;
    {
      const std::lock_guard lock(mutex);
      first = *committed.begin();
    }
    WaitForHit(*client_, first, kSize, 10s);
    std::printf("killed and started: ready after %lld ms, first hit after %lld ms\n",
                static_cast<long long>(started.count()),
                static_cast<long long>(away.Elapsed().count()));
  }
  running = false;
  for (std::thread& writer : writers) writer.join();
  uint64_t hits = 0;
  std::vector<std::byte> buffer(kSize);
  for (const uint64_t key : committed) {
    if (GetOne(*client_, KeyOf(key), buffer).code != Code::kOk) continue;
    EXPECT_TRUE(IsValueOf(key, buffer)) << key;
    ++hits;
  }
  std::printf("%llu of %zu committed entries are there after %d kills\n",
              static_cast<unsigned long long>(hits), committed.size(), kKills);
  EXPECT_GE(static_cast<double>(hits), 0.999 * static_cast<double>(committed.size()));
  EXPECT_EQ(client_->Stats().corrupt, 0u);
}

// The time to the first hit after the start, printed; SIMM_RESTART_MIB sets the pool's size.
TEST_F(RestartTest, AFullPoolServesSoonAfterItsStart) {
  const char* const mib = std::getenv("SIMM_RESTART_MIB");
  const uint64_t memory = (mib != nullptr ? std::strtoull(mib, nullptr, 10) : 256) << 20;
  constexpr size_t kSize = 16 << 10, kBatch = 128;
  const uint64_t keys = memory / (kSize + 512) / 10 * 9 / kBatch * kBatch;
  StartCluster(PoolOptions(1, memory));
  for (uint64_t key = 0; key < keys; key += kBatch) PutBatch(key, kBatch, kSize);
  cluster_->server(0)->Kill();
  const Stopwatch since;
  ASSERT_TRUE(cluster_->StartServer(0).ok());
  const auto ready = since.Elapsed();
  WaitForHit(*client_, 77, kSize, 30s);
  const auto hit = since.Elapsed();
  const std::string log = LogOf(0);
  std::printf("%llu MiB, %llu entries: ready %lld ms, first hit %lld ms after the start\n%s\n",
              static_cast<unsigned long long>(memory >> 20), static_cast<unsigned long long>(keys),
              static_cast<long long>(ready.count()), static_cast<long long>(hit.count()),
              log.substr(log.rfind("warm start")).substr(0, 160).c_str());
  uint64_t hits = 0;
  for (uint64_t key = 0; key < keys; key += 97) hits += CountHits(*client_, key, key + 1, kSize);
  EXPECT_EQ(hits, (keys + 96) / 97);
}

// A client that lives on neither keeps the new server from its memory nor harms what is in it.
TEST_F(RestartTest, AClientThatLivesOnGivesBackWhatItHeld) {
  constexpr size_t kSize = 4096;
  constexpr uint64_t kBatch = 32, kKeys = 4 * kBatch;  // of a round
  StartCluster(PoolOptions(1));
  // As the newest start of the server counts; the manager hears of it with the heartbeats.
  const auto granted_after = [&](uint64_t puts) -> std::optional<uint64_t> {
    const auto status = Status();
    if (status.nodes.size() != 1 || status.nodes[0].stats.puts < puts) return std::nullopt;
    return status.nodes[0].stats.granted_bytes;
  };
  const auto put_round = [&](uint64_t round) {
    for (uint64_t i = 0; i < kKeys; i += kBatch) PutBatch(kKeys * round + i, kBatch, kSize);
  };
  put_round(0);
  uint64_t before = 0;  // leases at hand, over shared memory
  ASSERT_TRUE(WaitUntil(
      [&] {
        const auto granted = granted_after(kKeys);
        before = granted.value_or(0);
        return granted.has_value();
      },
      10s));
  EXPECT_EQ(before > 0, TestTransport() == "shm") << before;
  for (uint64_t round = 1; round <= 3; ++round) {
    cluster_->server(0)->Kill();
    ASSERT_TRUE(cluster_->StartServer(0).ok());
    WaitForHit(*client_, 5, kSize, 10s);
    put_round(round);
    // The old lanes' extents come back by the word of the client, which lives on.
    EXPECT_TRUE(WaitUntil([&] { return granted_after(kKeys).value_or(UINT64_MAX) <= before; }, 20s))
        << GrantedBytes() << " of " << before;
  }
  EXPECT_EQ(CountHits(*client_, 0, 4 * kKeys, kSize), 4 * kKeys);
  // All of it, once what is at hand has not been used for 5 s.
  EXPECT_TRUE(WaitUntil([&] { return GrantedBytes() == 0; }, 30s)) << GrantedBytes();
}

TEST_F(RestartTest, ASecondServerOfThePoolWaitsThenTakesOver) {
  constexpr size_t kSize = 10'000;
  StartCluster(PoolOptions(1));
  PutKeys(0, 50, kSize);
  const auto second = bench::ChildProcess::Start(
      {BinDir() + "/simm-dataserver", "--manager", cluster_->manager_address(), "--name",
       "server-0", "--memory", std::to_string(128 << 20), "--mean-value", "16384", "--pool",
       PoolPath(0), "--listen", "127.0.0.1:0", "--data-listen", "127.0.0.1:0", "--http", "off",
       "--advertise", "127.0.0.1"},
      cluster_->folder() + "/second.log");
  ASSERT_TRUE(second.ok());
  const auto log = [&] {
    std::ifstream in(cluster_->folder() + "/second.log");
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  };
  ASSERT_TRUE(
      WaitUntil([&] { return log().find("waiting for its end") != std::string::npos; }, 10s));
  EXPECT_EQ(CountHits(*client_, 0, 50, kSize), 50u) << "the first one serves on";
  cluster_->server(0)->Signal(SIGTERM);
  ASSERT_TRUE(WaitUntil([&] { return cluster_->server(0)->Ended().has_value(); }, 20s));
  WaitForHit(*client_, 1, kSize, 20s);
  EXPECT_EQ(CountHits(*client_, 0, 50, kSize), 50u);
  EXPECT_THAT(log(), HasSubstr("warm start"));
  (*second)->Signal(SIGTERM);
  EXPECT_TRUE(WaitUntil([&] { return (*second)->Ended().has_value(); }, 10s));
}

// What is told to stop while it waits for the pool stops.
TEST_F(RestartTest, AServerThatWaitsForThePoolCanBeStopped) {
  StartCluster(PoolOptions(1));
  const auto second = bench::ChildProcess::Start(
      {BinDir() + "/simm-dataserver", "--manager", cluster_->manager_address(), "--name",
       "server-0", "--memory", std::to_string(128 << 20), "--pool", PoolPath(0), "--listen",
       "127.0.0.1:0", "--data-listen", "127.0.0.1:0", "--http", "off"},
      cluster_->folder() + "/second.log");
  ASSERT_TRUE(second.ok());
  const auto waits = [&] {
    std::ifstream in(cluster_->folder() + "/second.log");
    std::ostringstream text;
    text << in.rdbuf();
    return text.str().find("waiting for its end") != std::string::npos;
  };
  ASSERT_TRUE(WaitUntil(waits, 10s));
  (*second)->Signal(SIGTERM);
  ASSERT_TRUE(WaitUntil([&] { return (*second)->Ended().has_value(); }, 10s));
  EXPECT_EQ(*(*second)->Ended(), 0);
}

TEST_F(RestartTest, WhatCannotBeTakenOverIsAColdStartWithItsReason) {
  constexpr size_t kSize = 10'000;
  StartCluster(PoolOptions(1));
  PutKeys(0, 50, kSize);
  cluster_->server(0)->Kill();
  {
    const int fd = open((PoolPath(0) + ".index").c_str(), O_RDWR);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(pwrite(fd, "damaged", 7, offsetof(protocol::Superblock, bucket_count)), 7);
    close(fd);
  }
  ASSERT_TRUE(cluster_->StartServer(0).ok());
  EXPECT_THAT(LogOf(0), HasSubstr("cold start of the pool"));
  EXPECT_THAT(LogOf(0), HasSubstr("superblock"));
  EXPECT_TRUE(
      WaitUntil([&] { return PutOne(*client_, KeyOf(1), ValueOf(1, kSize)) == Code::kOk; }, 15s));
  EXPECT_EQ(CountHits(*client_, 2, 50, kSize), 0u);
}

TEST_F(RestartTest, FlippedBitsInSlotsCostTheirEntriesOnly) {
  constexpr size_t kSize = 10'000;
  StartCluster(PoolOptions(1));
  PutKeys(0, 300, kSize);
  cluster_->server(0)->Kill();
  uint64_t flipped = 0;
  {
    const int fd = open((PoolPath(0) + ".index").c_str(), O_RDWR);
    protocol::Superblock block;
    ASSERT_EQ(pread(fd, &block, sizeof block, 0), ssize_t{sizeof block});
    auto* const index = static_cast<std::byte*>(
        mmap(nullptr, block.index_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    ASSERT_NE(index, MAP_FAILED);
    for (uint64_t b = 0; b < block.bucket_count; ++b) {
      auto& bucket = *reinterpret_cast<protocol::Bucket*>(index + block.buckets_offset +
                                                          b * protocol::kBucketBytes);
      for (protocol::Slot& slot : bucket.slots) {
        const protocol::SlotWord word{slot.word};
        if (word.state() != protocol::SlotState::kLive || flipped == 40) continue;
        reinterpret_cast<std::byte*>(&slot)[8 + flipped] ^= std::byte{1};
        ++flipped;
      }
    }
    munmap(index, block.index_bytes);
    close(fd);
  }
  ASSERT_EQ(flipped, 40u);
  ASSERT_TRUE(cluster_->StartServer(0).ok());
  EXPECT_TRUE(WaitUntil([&] { return CountHits(*client_, 0, 300, kSize) == 260; }, 15s));
  EXPECT_THAT(LogOf(0), HasSubstr("40 damaged"));
}

TEST_F(RestartTest, AnotherSizeIsAColdStartThatSaysWhichItWas) {
  constexpr size_t kSize = 10'000;
  bench::EmbeddedOptions options = PoolOptions(1);
  StartCluster(options);
  PutKeys(0, 50, kSize);
  cluster_->server(0)->Signal(SIGTERM);
  ASSERT_TRUE(WaitUntil([&] { return cluster_->server(0)->Ended().has_value(); }, 20s));
  const std::string log_path = cluster_->folder() + "/larger.log";
  const auto larger = bench::ChildProcess::Start(
      {BinDir() + "/simm-dataserver", "--manager", cluster_->manager_address(), "--name",
       "server-0", "--memory", std::to_string(192 << 20), "--mean-value", "16384", "--pool",
       PoolPath(0), "--listen", "127.0.0.1:0", "--data-listen", "127.0.0.1:0", "--http", "off",
       "--advertise", "127.0.0.1"},
      log_path);
  ASSERT_TRUE(larger.ok());
  const auto log = [&] {
    std::ifstream in(log_path);
    std::ostringstream text;
    text << in.rdbuf();
    return text.str();
  };
  EXPECT_TRUE(
      WaitUntil([&] { return PutOne(*client_, KeyOf(1), ValueOf(1, kSize)) == Code::kOk; }, 20s))
      << log();
  EXPECT_THAT(log(), HasSubstr("it is laid out for another --memory or --mean-value (128"));
  EXPECT_EQ(CountHits(*client_, 2, 50, kSize), 0u);
  // The same server to the manager: its place in the map is kept.
  EXPECT_EQ(Status().nodes.size(), 1u);
  (*larger)->Signal(SIGTERM);
  EXPECT_TRUE(WaitUntil([&] { return (*larger)->Ended().has_value(); }, 10s));
}

// A pool on huge pages: a file system of its own, with as many pages as it needs set aside for the
// test. Needs root; SIMM_REQUIRE_HUGE_PAGES turns the lack into a failure.
class HugePageRestartTest : public RestartTest {
 protected:
  static constexpr const char* kCount = "/proc/sys/vm/nr_hugepages";
  static constexpr uint64_t kNeeded = 80;  // of 2 MiB, for a pool of 128 MiB

  void SetUp() override {
    long before = 0;
    std::ifstream(kCount) >> before;
    std::ofstream(kCount) << before + static_cast<long>(kNeeded);
    long now = 0;
    std::ifstream(kCount) >> now;
    pages_before_ = before;
    mount_ = std::string(std::filesystem::temp_directory_path()) + "/simm-huge-XXXXXX";
    ASSERT_NE(mkdtemp(mount_.data()), nullptr);
    mounted_ = mount("none", mount_.c_str(), "hugetlbfs", 0, "pagesize=2M") == 0;
    if (mounted_ && now >= before + static_cast<long>(kNeeded)) return;
    const std::string why = "NOT TESTED: huge pages, " + std::to_string(now - before) + " of " +
                            std::to_string(kNeeded) + " could be set aside, hugetlbfs " +
                            (mounted_ ? "is mounted" : "cannot be mounted");
    if (std::getenv("SIMM_REQUIRE_HUGE_PAGES") != nullptr) FAIL() << why;
    GTEST_SKIP() << why;
  }
  void TearDown() override {
    client_.reset();
    cluster_.reset();
    if (mounted_) umount2(mount_.c_str(), MNT_DETACH);
    rmdir(mount_.c_str());
    std::ofstream(kCount) << pages_before_;
  }

  std::string mount_;
  bool mounted_ = false;
  long pages_before_ = 0;
};

TEST_F(HugePageRestartTest, KilledItComesBackWithItsEntries) {
  constexpr size_t kSize = 20'000;
  bench::EmbeddedOptions options = Options(1, 128 << 20);
  options.pool_folder = mount_;
  StartCluster(options);
  PutKeys(0, 400, kSize);
  for (int kill = 0; kill < 2; ++kill) {
    cluster_->server(0)->Kill();
    ASSERT_TRUE(cluster_->StartServer(0).ok());
    WaitForHit(*client_, 0, kSize, 10s);
    EXPECT_EQ(CountHits(*client_, 0, 400, kSize), 400u);
  }
  EXPECT_THAT(LogOf(0), HasSubstr("warm start of the pool " + mount_ + "/server-0"));
  PutKeys(400, 500, kSize);
  EXPECT_EQ(CountHits(*client_, 0, 500, kSize), 500u);
  EXPECT_EQ(client_->Stats().corrupt, 0u);
}

TEST_F(RestartTest, AValueIsGoneASecondAfterItsTime) {
  StartCluster(PoolOptions(1));
  PutOptions put;
  put.ttl = 1500ms;
  ASSERT_EQ(PutOne(*client_, "short", ValueOf(1, 5000), put), Code::kOk);
  const Stopwatch since;
  put.ttl = 600s;
  ASSERT_EQ(PutOne(*client_, "long", ValueOf(2, 5000), put), Code::kOk);
  EXPECT_EQ(ExistsOne(*client_, "short"), Code::kOk);
  put.ttl = -1ms;
  EXPECT_EQ(PutOne(*client_, "bad", ValueOf(2, 5000), put), Code::kInvalidArgument);
  ASSERT_TRUE(WaitUntil([&] { return ExistsOne(*client_, "short") == Code::kMiss; }, 20s));
  EXPECT_GE(since.Elapsed(), 1400ms);
  EXPECT_EQ(ExistsOne(*client_, "long"), Code::kOk);
}

}  // namespace
}  // namespace simm
