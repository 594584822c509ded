// What a user of the client library sees of a healthy cluster of real processes: every kind of key
// and value, batches, a full cache, counters.

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <sstream>
#include <thread>

#include "common/base/limits.h"
#include "common/base/random.h"
#include "common/protocol/pool_layout.h"
#include "tests/support/cluster_fixture.h"
#include "tests/support/http_get.h"
#include "tests/support/sanitized.h"

namespace simm {
namespace {

class DataTest : public ClusterTest {};

TEST_F(DataTest, KeysOfEveryKindComeBackAndForbiddenOnesAreRefused) {
  StartCluster(3);
  Random random(1);
  std::vector<std::string> keys = {"a",
                                   std::string(256, 'x'),
                                   std::string("\0", 1),
                                   std::string("a\0b", 3),
                                   std::string("a\0c", 3),
                                   "\xff\xfe",
                                   " ",
                                   "\n"};
  for (int i = 0; i < 50; ++i) {
    std::string key(1 + random.Below(256), '\0');
    for (char& c : key) c = static_cast<char>(random());
    keys.push_back(key);
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    ASSERT_EQ(PutOne(*client_, keys[i], ValueOf(i, 1000 + i)), Code::kOk) << PrintableKey(keys[i]);
  }
  for (size_t i = 0; i < keys.size(); ++i) {
    std::vector<std::byte> buffer(1000 + i);
    ASSERT_EQ(GetOne(*client_, keys[i], buffer).code, Code::kOk) << PrintableKey(keys[i]);
    EXPECT_TRUE(IsValueOf(i, buffer)) << PrintableKey(keys[i]);
  }
  std::vector<std::byte> buffer(10);
  EXPECT_EQ(PutOne(*client_, "", buffer), Code::kInvalidArgument);
  EXPECT_EQ(GetOne(*client_, "", buffer).code, Code::kInvalidArgument);
  EXPECT_EQ(ExistsOne(*client_, ""), Code::kInvalidArgument);
  const std::string long_key(257, 'x');
  EXPECT_EQ(PutOne(*client_, long_key, buffer), Code::kTooLarge);
  EXPECT_EQ(GetOne(*client_, long_key, buffer).code, Code::kTooLarge);
  EXPECT_EQ(ExistsOne(*client_, long_key), Code::kTooLarge);
  EXPECT_EQ(ExistsOne(*client_, std::string(256, 'y')), Code::kMiss);
}

TEST_F(DataTest, ValuesFromNothingToThePoolsSize) {
  StartCluster(1);
  const auto geometry = protocol::ComputeGeometry(64 << 20, 16 << 10);
  const uint64_t largest = geometry.data_bytes - protocol::ExtentHeadBytes(KeyOf(1).size());
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, uint64_t{63}, uint64_t{64}, uint64_t{4096},
                              uint64_t{1} << 20, largest}) {
    const auto value = ValueOf(size, size);
    ASSERT_EQ(PutOne(*client_, KeyOf(1), value, {.replace = true}), Code::kOk) << size;
    std::vector<std::byte> buffer(size);
    const KeyResult got = GetOne(*client_, KeyOf(1), buffer);
    ASSERT_EQ(got.code, Code::kOk) << size;
    EXPECT_EQ(got.value_bytes, size);
    EXPECT_EQ(buffer, value) << size;
  }
  const auto too_large = ValueOf(1, largest + 1);
  EXPECT_EQ(PutOne(*client_, KeyOf(2), too_large), Code::kTooLarge);
  const PutItem absurd = {"k", too_large.data(), limits::kMaxValueBytes + 1};
  EXPECT_EQ(client_->Put({&absurd, 1})[0].code, Code::kTooLarge);
  std::vector<std::byte> buffer(largest);
  EXPECT_EQ(GetOne(*client_, KeyOf(1), buffer).code, Code::kOk)
      << "a refused put leaves the rest alone";
  const PutItem nowhere = {"k", nullptr, 5};
  EXPECT_EQ(client_->Put({&nowhere, 1})[0].code, Code::kInvalidArgument);
}

TEST_F(DataTest, AnotherLengthIsThatKeysErrorAndWritesNothing) {
  StartCluster(1);
  ASSERT_EQ(PutOne(*client_, "k", ValueOf(1, 5000)), Code::kOk);
  for (const size_t size : {size_t{4999}, size_t{5001}, size_t{0}, size_t{100'000}}) {
    std::vector<std::byte> memory(size + 64, std::byte{0x5a});
    const KeyResult got = GetOne(*client_, "k", MutableByteSpan(memory).first(size));
    EXPECT_EQ(got.code, Code::kLengthMismatch) << size;
    EXPECT_EQ(got.value_bytes, 5000u);
    EXPECT_TRUE(std::all_of(memory.begin(), memory.end(), [](std::byte b) {
      return b == std::byte{0x5a};
    })) << size;
  }
  std::vector<std::byte> memory(6000, std::byte{0x5a});
  const KeyResult got = GetOne(*client_, "k", memory, {.allow_shorter = true});
  EXPECT_EQ(got.code, Code::kOk);
  EXPECT_EQ(got.value_bytes, 5000u);
  EXPECT_TRUE(IsValueOf(1, ByteSpan(memory).first(5000)));
  EXPECT_EQ(memory[5000], std::byte{0x5a});
}

TEST_F(DataTest, AWrongLengthInABatchIsOneKeysMatter) {
  StartCluster(1);
  for (uint64_t i = 0; i < 4; ++i)
    ASSERT_EQ(PutOne(*client_, KeyOf(i), ValueOf(i, 5000)), Code::kOk);
  std::vector<std::byte> a(5000), shorter(4000), longer(6000), d(5000);
  const std::vector<std::string> keys = {KeyOf(0), KeyOf(1), KeyOf(2), KeyOf(3)};
  const std::vector<GetItem> gets = {{keys[0], a.data(), a.size()},
                                     {keys[1], shorter.data(), shorter.size()},
                                     {keys[2], longer.data(), longer.size()},
                                     {keys[3], d.data(), d.size()}};
  const auto got = client_->Get(gets);
  EXPECT_EQ(got[0].code, Code::kOk);
  EXPECT_EQ(got[1].code, Code::kLengthMismatch);
  EXPECT_EQ(got[2].code, Code::kLengthMismatch);
  EXPECT_EQ(got[3].code, Code::kOk);
  EXPECT_TRUE(IsValueOf(0, a));
  EXPECT_TRUE(IsValueOf(3, d));
  EXPECT_EQ(shorter, std::vector<std::byte>(4000));
  EXPECT_EQ(longer, std::vector<std::byte>(6000));
}

TEST_F(DataTest, PutKeepsOrReplacesRemoveForgets) {
  StartCluster(2);
  ASSERT_EQ(PutOne(*client_, "k", ValueOf(1, 300)), Code::kOk);
  EXPECT_EQ(PutOne(*client_, "k", ValueOf(2, 300)), Code::kExists);
  std::vector<std::byte> buffer(300);
  ASSERT_EQ(GetOne(*client_, "k", buffer).code, Code::kOk);
  EXPECT_TRUE(IsValueOf(1, buffer)) << "the first value stays";
  EXPECT_EQ(PutOne(*client_, "k", ValueOf(3, 300), {.replace = true}), Code::kOk);
  ASSERT_EQ(GetOne(*client_, "k", buffer).code, Code::kOk);
  EXPECT_TRUE(IsValueOf(3, buffer));
  const std::string_view key = "k";
  EXPECT_EQ(client_->Remove({&key, 1})[0].code, Code::kOk);
  EXPECT_EQ(client_->Remove({&key, 1})[0].code, Code::kMiss);
  EXPECT_EQ(GetOne(*client_, "k", buffer).code, Code::kMiss);
  EXPECT_EQ(client_->Touch({&key, 1})[0].code, Code::kMiss);
}

TEST_F(DataTest, BatchesOfNothingOfDuplicatesAndOfThousands) {
  StartCluster(3, 128 << 20);
  EXPECT_TRUE(client_->Put({}).empty());
  EXPECT_TRUE(client_->Get({}).empty());
  EXPECT_TRUE(client_->Exists({}).empty());

  const auto first = ValueOf(1, 100), second = ValueOf(2, 100);
  const std::vector<PutItem> twice = {{"dup", first.data(), 100}, {"dup", second.data(), 100}};
  const auto put = client_->Put(twice);
  EXPECT_EQ(put[0].code, Code::kOk);
  EXPECT_EQ(put[1].code, Code::kExists);
  std::vector<std::byte> a(100), b(100);
  const std::vector<GetItem> both = {{"dup", a.data(), 100}, {"dup", b.data(), 100}};
  for (const KeyResult& r : client_->Get(both)) EXPECT_EQ(r.code, Code::kOk);
  EXPECT_EQ(a, first);
  EXPECT_EQ(b, first);
  const auto replaced = client_->Put(twice, {.replace = true});
  EXPECT_EQ(replaced[1].code, Code::kOk);
  ASSERT_EQ(GetOne(*client_, "dup", a).code, Code::kOk);
  EXPECT_EQ(a, second) << "of two replacements in a batch the later wins";

  constexpr size_t kMany = 4096, kSize = 2000;
  std::vector<std::string> keys;
  std::vector<std::byte> values(kMany * kSize), got(kMany * kSize);
  std::vector<PutItem> puts;
  std::vector<GetItem> gets;
  for (size_t i = 0; i < kMany; ++i) keys.push_back(KeyOf(i) + std::string(i % 200, '.'));
  for (size_t i = 0; i < kMany; ++i) {
    bench::FillPattern(bench::ValueSeed(i, 0), {values.data() + i * kSize, kSize});
    puts.push_back({keys[i], values.data() + i * kSize, kSize});
    gets.push_back({keys[i], got.data() + i * kSize, kSize});
  }
  for (const KeyResult& r : client_->Put(puts)) ASSERT_EQ(r.code, Code::kOk);
  for (const KeyResult& r : client_->Get(gets)) ASSERT_EQ(r.code, Code::kOk);
  EXPECT_EQ(got, values);
  std::vector<std::string_view> names(keys.begin(), keys.end());
  names.push_back("absent");
  const auto exists = client_->Exists(names);
  EXPECT_TRUE(std::all_of(exists.begin(), exists.end() - 1,
                          [](const auto& r) { return r.code == Code::kOk; }));
  EXPECT_EQ(exists.back().code, Code::kMiss);
  EXPECT_EQ(client_->Exists(std::vector<std::string_view>(65'537, "k"))[0].code,
            Code::kInvalidArgument);
}

TEST_F(DataTest, NamespacesNeverMeet) {
  StartCluster(2);
  auto other = Connect(Verify::kAlways, "other");
  ASSERT_EQ(PutOne(*client_, "k", ValueOf(1, 100)), Code::kOk);
  EXPECT_EQ(ExistsOne(*other, "k"), Code::kMiss);
  ASSERT_EQ(PutOne(*other, "k", ValueOf(2, 100)), Code::kOk);
  std::vector<std::byte> buffer(100);
  ASSERT_EQ(GetOne(*client_, "k", buffer).code, Code::kOk);
  EXPECT_TRUE(IsValueOf(1, buffer));
  ASSERT_EQ(GetOne(*other, "k", buffer).code, Code::kOk);
  EXPECT_TRUE(IsValueOf(2, buffer));
}

TEST_F(DataTest, ABatchIsOneRoundTripAServerAndCopiesNoValue) {
  StartCluster(3, 128 << 20);
  constexpr size_t kKeys = 256, kSize = 64 << 10;
  std::vector<std::string> keys;
  for (size_t i = 0; i < kKeys; ++i) keys.push_back(KeyOf(i));
  std::vector<std::string_view> names(keys.begin(), keys.end());
  std::vector<std::byte> values(kKeys * kSize);
  std::vector<PutItem> puts;
  std::vector<GetItem> gets;
  for (size_t i = 0; i < kKeys; ++i) {
    puts.push_back({keys[i], values.data() + i * kSize, kSize});
    gets.push_back({keys[i], values.data() + i * kSize, kSize});
  }
  (void)client_->Put(puts);
  const ClientStats before = client_->Stats();
  (void)client_->Exists(names);
  const ClientStats exists = client_->Stats();
  EXPECT_EQ(exists.round_trips - before.round_trips, 3u);
  for (const KeyResult& r : client_->Get(gets)) ASSERT_EQ(r.code, Code::kOk);
  const ClientStats got = client_->Stats();
  EXPECT_EQ(got.round_trips - exists.round_trips, 3u);
  // The extent heads (128 B each) may pass through the staging buffer, the values may not.
  EXPECT_LE(got.payload_bytes_copied - exists.payload_bytes_copied, kKeys * 128);
  EXPECT_EQ(got.corrupt, 0u);
}

TEST_F(DataTest, AFullCacheTakesEveryPutAndKeepsTheFreshest) {
  StartCluster(2, 96 << 20);
  constexpr size_t kSize = 4 << 20;
  const auto value = ValueOf(7, kSize);
  std::vector<std::byte> buffer(kSize);
  int fresh = 0;
  for (uint64_t i = 0; i < 140; ++i) {
    ASSERT_EQ(PutOne(*client_, KeyOf(i), value), Code::kOk) << i;
    if (i >= 40)
      fresh += GetOne(*client_, KeyOf(i), buffer).code == Code::kOk && buffer == value ? 1 : 0;
  }
  EXPECT_EQ(fresh, 100) << "of 100 fresh values in a full cache";
  uint64_t evictions = 0;
  EXPECT_TRUE(WaitUntil(
      [&] {
        evictions = 0;
        for (const auto& node : Status().nodes) evictions += node.stats.evictions;
        return evictions > 80;
      },
      3s))
      << evictions;
}

TEST_F(DataTest, ThePrefixOfAChainOutlivesItsEnd) {
  StartCluster(1, 32 << 20);
  constexpr size_t kSize = 256 << 10, kChain = 60;
  const auto value = ValueOf(1, kSize);
  std::vector<std::string> keys;
  std::vector<PutItem> puts;
  for (size_t i = 0; i < kChain; ++i) keys.push_back("chain-" + std::to_string(i));
  for (const std::string& key : keys) puts.push_back({key, value.data(), kSize});
  for (const KeyResult& r : client_->Put(puts)) ASSERT_EQ(r.code, Code::kOk);
  // New values push out a part of the chain: its end must go first.
  for (uint64_t i = 0; i < 80; ++i) ASSERT_EQ(PutOne(*client_, KeyOf(i), value), Code::kOk);
  std::vector<std::string_view> names(keys.begin(), keys.end());
  const auto exists = client_->Exists(names);
  const auto first_gone =
      std::find_if(exists.begin(), exists.end(), [](const auto& r) { return r.code != Code::kOk; });
  const auto present = static_cast<size_t>(std::count_if(
      exists.begin(), exists.end(), [](const auto& r) { return r.code == Code::kOk; }));
  EXPECT_LT(present, kChain) << "nothing was evicted: the test shows nothing";
  EXPECT_GT(present, 5u);
  EXPECT_EQ(static_cast<size_t>(first_gone - exists.begin()), present)
      << "a hole in the prefix makes the rest useless";
}

TEST_F(DataTest, ManyThreadsOnOneClientSeeOnlyRightBytes) {
  StartCluster(3, 64 << 20);
  std::atomic<uint64_t> wrong{0}, hits{0}, failed_puts{0};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      Random random(t);
      for (int round = 0; round < 60; ++round) {
        std::vector<std::string> keys;
        std::vector<std::vector<std::byte>> values;
        std::vector<PutItem> puts;
        std::vector<GetItem> gets;
        std::vector<uint64_t> ids;
        for (int i = 0; i < 8; ++i) ids.push_back(random.Below(400));
        for (const uint64_t id : ids) {
          keys.push_back(KeyOf(id));
          values.push_back(ValueOf(id, 10'000 + id * 700));
        }
        for (size_t i = 0; i < ids.size(); ++i)
          puts.push_back({keys[i], values[i].data(), values[i].size()});
        for (const KeyResult& r : client_->Put(puts, {.replace = random.OneIn(4)})) {
          failed_puts += r.code != Code::kOk && r.code != Code::kExists ? 1 : 0;
        }
        for (size_t i = 0; i < ids.size(); ++i)
          gets.push_back({keys[i], values[i].data(), values[i].size()});
        for (auto& v : values) std::fill(v.begin(), v.end(), std::byte{0});
        const auto got = client_->Get(gets);
        for (size_t i = 0; i < got.size(); ++i) {
          if (got[i].code != Code::kOk) continue;
          ++hits;
          wrong += IsValueOf(ids[i], values[i]) ? 0 : 1;
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong.load(), 0u);
  EXPECT_EQ(failed_puts.load(), 0u);
  EXPECT_GT(hits.load(), 1000u);
  EXPECT_EQ(client_->Stats().corrupt, 0u);
}

TEST_F(DataTest, RegisteredMemoryIsCheckedAndHeldWhileInUse) {
  StartCluster(1);
  std::vector<std::byte> memory(1 << 20);
  auto handle = client_->RegisterMemory(memory.data(), memory.size());
  ASSERT_TRUE(handle.ok());
  EXPECT_EQ(client_->RegisterMemory(memory.data() + 100, 10).code(), Code::kInvalidArgument);
  EXPECT_EQ(client_->RegisterMemory(nullptr, 10).code(), Code::kInvalidArgument);
  ASSERT_EQ(PutOne(*client_, "k", ByteSpan(memory).first(5000)), Code::kOk);
  ASSERT_EQ(GetOne(*client_, "k", MutableByteSpan(memory).first(5000)).code, Code::kOk);
  EXPECT_TRUE(client_->DeregisterMemory(*handle).ok());
  EXPECT_EQ(client_->DeregisterMemory(*handle).code(), Code::kInvalidArgument);
}

TEST_F(DataTest, MetricsSayWhatHappenedAndTheStatesAddUp) {
  StartCluster(1);
  const auto value = ValueOf(1, 10'000);
  std::vector<std::byte> buffer(value.size());
  ASSERT_EQ(PutOne(*client_, "k", value), Code::kOk);
  ASSERT_EQ(GetOne(*client_, "k", buffer).code, Code::kOk);
  ASSERT_EQ(GetOne(*client_, "absent", buffer).code, Code::kMiss);
  const std::string http = cluster_->server_ready(0).http;
  const std::string scrape = HttpGet(http, "/metrics");
  const std::string keys = "simm_dataserver_keys_total{op=\"";
  EXPECT_EQ(Series(scrape, keys + "get\",outcome=\"ok\",transport=\"tcp\"}") +
                Series(scrape, keys + "get\",outcome=\"miss\",transport=\"tcp\"}"),
            2)
      << scrape;
  EXPECT_EQ(Series(scrape, "simm_dataserver_request_seconds_count{op=\"put\"}"), 1);
  EXPECT_EQ(Series(scrape, "simm_dataserver_value_bytes_written_total"), 10'000);
  EXPECT_EQ(Series(scrape, "simm_dataserver_value_bytes_read_total{transport=\"tcp\"}"), 10'000);
  double connections = 0;
  for (const char* state : {"idle", "active", "stalled"}) {
    connections += Series(scrape, std::string("simm_dataserver_connections{state=\"") + state +
                                      "\",transport=\"tcp\"}");
  }
  EXPECT_GE(connections, 1);
  EXPECT_EQ(Series(scrape, "simm_pool_evictions_total{cause=\"memory\"}"), 0);
  double sum = 0;
  for (const char* state : {"free", "granted", "live", "limbo", "pinned"}) {
    const double bytes = Series(scrape, std::string("simm_pool_bytes{state=\"") + state + "\"}");
    EXPECT_GE(bytes, 0) << state;
    sum += bytes;
  }
  EXPECT_EQ(sum, Series(scrape, "simm_pool_data_bytes"));
  EXPECT_EQ(HttpGet(http, "/healthz").find("HTTP/1.1 200"), 0u);
  EXPECT_EQ(HttpGet(http, "/readyz").find("HTTP/1.1 200"), 0u);
  const std::string manager = cluster_->manager_ready().http;
  EXPECT_EQ(HttpGet(manager, "/readyz").find("HTTP/1.1 200"), 0u);
  EXPECT_NE(HttpGet(manager, "/metrics").find("simm_manager_epoch"), std::string::npos);
}

// From /proc: resident bytes that belong to no file or shared mapping, and seconds of processor
// time.
uint64_t AnonymousBytes(pid_t pid) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  std::string line;
  while (std::getline(status, line)) {
    if (line.rfind("RssAnon:", 0) == 0) return std::stoull(line.substr(8)) << 10;
  }
  return 0;
}
double CpuSeconds(pid_t pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  std::istringstream fields(text.substr(text.rfind(')') + 2));
  std::string skip;
  for (int i = 0; i < 11; ++i) fields >> skip;
  double user = 0, system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

TEST_F(DataTest, AFullServerNeedsLittleBesideItsPoolAndIdlesQuietly) {
  constexpr uint64_t kMemory = 512 << 20;
  StartCluster(1, kMemory);
  constexpr size_t kSize = 16 << 10, kBatch = 512;
  const auto value = ValueOf(1, kSize);
  for (uint64_t at = 0; at < 40'000; at += kBatch) {
    std::vector<std::string> keys;
    for (uint64_t i = 0; i < kBatch; ++i) keys.push_back(KeyOf(at + i));
    std::vector<PutItem> puts;
    for (const std::string& key : keys) puts.push_back({key, value.data(), kSize});
    for (const KeyResult& r : client_->Put(puts)) ASSERT_EQ(r.code, Code::kOk);
  }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_LE(AnonymousBytes(cluster_->server(0)->pid()),
            (kSanitized ? 96 << 20 : 64 << 20) + kMemory / 100);
#endif
  const double server_before = CpuSeconds(cluster_->server(0)->pid());
  const double manager_before = CpuSeconds(cluster_->manager()->pid());
  const Stopwatch watch;
  std::this_thread::sleep_for(3s);  // the measured interval itself
  const double seconds = static_cast<double>(watch.Elapsed().count()) / 1000;
  std::printf("idle: data server %.2f %%, manager %.2f %% of a core\n",
              100 * (CpuSeconds(cluster_->server(0)->pid()) - server_before) / seconds,
              100 * (CpuSeconds(cluster_->manager()->pid()) - manager_before) / seconds);
  if (kSanitized) return;
  // Two ticks of /proc's 10 ms on top of one per cent: its resolution.
  EXPECT_LT(CpuSeconds(cluster_->server(0)->pid()) - server_before, 0.01 * seconds + 0.02);
  EXPECT_LT(CpuSeconds(cluster_->manager()->pid()) - manager_before, 0.01 * seconds + 0.02);
}

}  // namespace
}  // namespace simm
