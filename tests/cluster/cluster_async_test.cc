// The asynchronous face of the client on a cluster of processes: thousands of calls of one thread,
// a fixed number of threads behind them, and the same bounds as for blocking calls.

#include <dirent.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <memory>
#include <thread>

#include "common/base/limits.h"
#include "tests/support/cluster_fixture.h"
#include "tests/support/sanitized.h"

namespace simm {
namespace {

constexpr auto kGrace = 50ms;
constexpr auto kScheduling = kSanitized ? 600ms : 150ms;  // a busy 2-core box

size_t CountEntries(const char* folder) {
  size_t n = 0;
  DIR* const dir = opendir(folder);
  while (readdir(dir) != nullptr) ++n;
  closedir(dir);
  return n;
}
size_t Threads() { return CountEntries("/proc/self/task"); }
// Of the asynchronous driver, which names its threads.
size_t DriverThreads() {
  size_t n = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream file(task.path() / "comm");
    std::string name;
    n += std::getline(file, name) && name == "simm-async" ? 1 : 0;
  }
  return n;
}
size_t Descriptors() { return CountEntries("/proc/self/fd"); }

class AsyncTest : public ClusterTest {
 protected:
  ~AsyncTest() override { setenv("SIMM_TEST_TRANSPORT", transport_.c_str(), 1); }

  // One get of one key, with everything it points to.
  struct One {
    std::string key;
    std::vector<std::byte> memory;
    std::atomic<int> done{0};
    KeyResult result;
    std::chrono::milliseconds took{-1};
  };
  using Many = std::vector<std::unique_ptr<One>>;

  static Many Gets(size_t count, size_t size, size_t distinct) {
    Many many;
    for (size_t i = 0; i < count; ++i) {
      many.push_back(std::make_unique<One>());
      many.back()->key = KeyOf(i % distinct);
      many.back()->memory.resize(size);
    }
    return many;
  }
  void BeginGet(Client& client, One& one, std::chrono::milliseconds deadline) {
    const GetItem item = {one.key, one.memory.data(), one.memory.size()};
    client.GetAsync({&item, 1}, {.deadline = deadline},
                    [&one, this, watch = Stopwatch()](std::vector<KeyResult> results) {
                      one.result = results.at(0);
                      one.took = watch.Elapsed();
                      ++one.done;
                      ++ended_;
                    });
  }
  bool AllEnded(size_t count, std::chrono::milliseconds limit) {
    return WaitUntil([&] { return ended_ == count; }, limit);
  }
  void PutAll(size_t count, size_t size) {
    for (size_t i = 0; i < count; ++i)
      ASSERT_EQ(PutOne(*client_, KeyOf(i), ValueOf(i, size)), Code::kOk);
  }

  const std::string transport_ = TestTransport();
  std::atomic<size_t> ended_{0};
};

TEST_F(AsyncTest, ThousandsOfCallsOfOneThreadOnAFewThreads) {
  StartCluster(2);
  constexpr size_t kDistinct = 50, kSize = 4096, kCalls = 4000;
  PutAll(kDistinct, kSize);
  Many warm = Gets(200, kSize, kDistinct);
  for (const auto& one : warm) BeginGet(*client_, *one, 10'000ms);
  ASSERT_TRUE(AllEnded(warm.size(), 20s));
  const size_t drivers = DriverThreads(), threads = Threads(), descriptors = Descriptors();
  EXPECT_GE(drivers, 2u);
  EXPECT_LE(drivers, limits::kMaxAsyncThreads);
  for (int round = 0; round < 3; ++round) {
    ended_ = 0;
    Many many = Gets(kCalls, kSize, kDistinct);
    for (const auto& one : many) BeginGet(*client_, *one, 20'000ms);
    EXPECT_EQ(DriverThreads(), drivers);
    ASSERT_TRUE(AllEnded(kCalls, 30s)) << ended_ << " of " << kCalls;
    for (size_t i = 0; i < kCalls; ++i) {
      ASSERT_EQ(many[i]->done, 1);
      ASSERT_EQ(many[i]->result.code, Code::kOk);
      ASSERT_TRUE(IsValueOf(i % kDistinct, many[i]->memory)) << i;
    }
  }
  // gRPC and the task pool may have started one of theirs meanwhile.
  EXPECT_LE(Threads(), threads + 3) << "calls start threads";
  EXPECT_LE(Descriptors(), descriptors);
  client_.reset();
  EXPECT_EQ(DriverThreads(), 0u);
}

TEST_F(AsyncTest, EveryOperationAnswersAsTheBlockingOneDoes) {
  StartCluster(2);
  const auto value = ValueOf(1, 5000);
  std::vector<std::byte> buffer(5000), small(10);
  const std::string long_key(300, 'k');
  const std::vector<PutItem> puts = {{"a", value.data(), 5000},
                                     {"a", value.data(), 5000},
                                     {"b", value.data(), 0},
                                     {long_key, value.data(), 1},
                                     {"c", nullptr, 5}};
  const std::vector<GetItem> gets = {
      {"a", buffer.data(), 5000}, {"a", small.data(), 10}, {"", nullptr, 0}};
  const std::vector<std::string_view> keys = {"a", "nothing", long_key};
  std::vector<std::vector<Code>> seen(7);
  const auto into = [&](size_t index) {
    return [&, index](std::vector<KeyResult> results) {
      for (const KeyResult& r : results) seen[index].push_back(r.code);
      ++ended_;
    };
  };
  // One after the other, so that the answers are fixed.
  size_t step = 0;
  const auto next = [&] { return AllEnded(++step, 5s); };
  client_->PutAsync(puts, {}, into(0));
  ASSERT_TRUE(next());
  client_->GetAsync(gets, {}, into(1));
  ASSERT_TRUE(next());
  client_->ExistsAsync(keys, {}, into(2));
  ASSERT_TRUE(next());
  client_->TouchAsync(keys, {}, into(3));
  ASSERT_TRUE(next());
  client_->RemoveAsync(keys, {}, into(4));
  ASSERT_TRUE(next());
  client_->ExistsAsync(keys, {}, into(5));
  ASSERT_TRUE(next());
  client_->ExistsAsync({}, {}, into(6));
  ASSERT_TRUE(next());
  using enum Code;
  EXPECT_EQ(seen[0], (std::vector{kOk, kExists, kOk, kTooLarge, kInvalidArgument}));
  EXPECT_EQ(seen[1], (std::vector{kOk, kLengthMismatch, kInvalidArgument}));
  EXPECT_TRUE(IsValueOf(1, buffer));
  EXPECT_EQ(seen[2], (std::vector{kOk, kMiss, kTooLarge}));
  EXPECT_EQ(seen[3], (std::vector{kOk, kMiss, kTooLarge}));
  EXPECT_EQ(seen[4], (std::vector{kOk, kMiss, kTooLarge}));
  EXPECT_EQ(seen[5], (std::vector{kMiss, kMiss, kTooLarge}));
  EXPECT_TRUE(seen[6].empty());
  const std::vector<std::string_view> too_many(limits::kMaxBatchKeys + 1, "a");
  bool refused = false;
  client_->ExistsAsync(too_many, {}, [&](std::vector<KeyResult> results) {
    refused = results.size() == too_many.size() && results[0].code == kInvalidArgument;
  });
  EXPECT_TRUE(refused) << "before the method returns";
}

// Over shared memory a call of 65,536 keys takes 512 steps without a wait in between; a small one
// beside it waits for a step, not for the call.
TEST_F(AsyncTest, SmallCallsDoNotWaitForLongOnes) {
  setenv("SIMM_TEST_TRANSPORT", "shm", 1);
  StartCluster(1);
  std::vector<std::string> names;
  for (size_t i = 0; i < limits::kMaxBatchKeys; ++i) names.push_back("absent-" + std::to_string(i));
  const std::vector<std::string_view> keys(names.begin(), names.end());
  constexpr size_t kLong = 6;  // in flight, more than there are threads on a small machine
  std::atomic<size_t> begun{0}, long_ended{0};
  std::atomic<int64_t> long_us{0};
  const auto since = [](Instant begin) {
    return (MonotonicClock::Get().Now() - begin).count() / 1000;
  };
  std::vector<int64_t> small_us;
  for (int round = 0; round < 15; ++round) {
    for (; begun - long_ended < kLong; ++begun) {
      client_->ExistsAsync(keys, {.deadline = 30'000ms},
                           [&, begin = MonotonicClock::Get().Now()](std::vector<KeyResult> r) {
                             EXPECT_EQ(r.back().code, Code::kMiss);
                             long_us += since(begin);
                             ++long_ended;
                           });
    }
    const std::string_view small = "absent";
    std::atomic<int64_t> took{-1};
    client_->ExistsAsync(
        {&small, 1}, {.deadline = 30'000ms},
        [&, begin = MonotonicClock::Get().Now()](std::vector<KeyResult>) { took = since(begin); });
    ASSERT_TRUE(WaitUntil([&] { return took >= 0; }, 30s));
    small_us.push_back(took);
  }
  ASSERT_TRUE(WaitUntil([&] { return long_ended == begun; }, 30s));
  std::sort(small_us.begin(), small_us.end());
  const int64_t median_us = small_us[small_us.size() / 2];
  const int64_t mean_long_us = long_us / static_cast<int64_t>(begun);
  EXPECT_LT(median_us * 8, mean_long_us) << "a small call takes " << median_us << " us";
  RecordProperty("small_us", static_cast<int>(median_us));
  RecordProperty("long_us", static_cast<int>(mean_long_us));
}

TEST_F(AsyncTest, ADeadServerCostsMissesNotTime) {
  StartCluster(2);
  const auto theirs = KeysOwnedBy(1, 20);
  const auto others = KeysOwnedBy(0, 20);
  for (const auto& keys : {theirs, others}) {
    for (const uint64_t key : keys)
      ASSERT_EQ(PutOne(*client_, KeyOf(key), ValueOf(key, 3000)), Code::kOk);
  }
  cluster_->server(1)->Kill();
  Many many = Gets(2000, 3000, 1);
  for (size_t i = 0; i < many.size(); ++i)
    many[i]->key = KeyOf(i % 2 == 0 ? theirs[i % 20] : others[i % 20]);
  const Stopwatch watch;
  for (const auto& one : many) BeginGet(*client_, *one, 1000ms);
  ASSERT_TRUE(AllEnded(many.size(), 10s));
  EXPECT_LE(watch.Elapsed(), 1000ms + kGrace + kScheduling);
  for (size_t i = 0; i < many.size(); ++i) {
    EXPECT_EQ(many[i]->done, 1);
    EXPECT_EQ(many[i]->result.code, i % 2 == 0 ? Code::kMiss : Code::kOk) << i;
  }
}

TEST_F(AsyncTest, DeadlinesHoldBehindAPausedServerAlsoForCallsInTheQueue) {
  StartCluster(1);
  PutAll(10, 3000);
  // Over shared memory a paused server can still be read: these are writes.
  const auto value = ValueOf(5, 3000);
  cluster_->server(0)->Signal(SIGSTOP);
  constexpr size_t kCalls = 3000;
  std::vector<std::string> keys;
  for (size_t i = 0; i < kCalls; ++i) keys.push_back("new-" + std::to_string(i));
  std::vector<std::chrono::milliseconds> took(kCalls);
  std::vector<Code> codes(kCalls, Code::kInternal);
  for (size_t i = 0; i < kCalls; ++i) {
    const PutItem item = {keys[i], value.data(), value.size()};
    client_->PutAsync({&item, 1}, {.deadline = 400ms},
                      [&, i, watch = Stopwatch()](std::vector<KeyResult> results) {
                        took[i] = watch.Elapsed();
                        codes[i] = results[0].code;
                        ++ended_;
                      });
  }
  ASSERT_TRUE(AllEnded(kCalls, 10s));
  for (size_t i = 0; i < kCalls; ++i) {
    EXPECT_LE(took[i], 400ms + kGrace + kScheduling) << i;
    EXPECT_TRUE(codes[i] == Code::kDeadlineExceeded || codes[i] == Code::kUnavailable) << i;
  }
  cluster_->server(0)->Signal(SIGCONT);
  EXPECT_TRUE(WaitUntil([&] { return PutOne(*client_, "after", value) == Code::kOk; }, 5s));
}

// Calls end long before their deadlines when their client goes, and their memory is free then.
TEST_F(AsyncTest, DestroyingTheClientEndsItsCallsAndOnlyThose) {
  StartCluster(2);
  PutAll(20, 3000);
  auto doomed = Connect();
  cluster_->server(0)->Signal(SIGSTOP);
  constexpr size_t kCalls = 1000;
  const auto theirs = KeysOwnedBy(0, kCalls);
  Many many = Gets(kCalls, 3000, 1);
  std::vector<Code> codes(kCalls, Code::kInternal);
  const auto value = ValueOf(5, 3000);
  for (size_t i = 0; i < kCalls; ++i) {
    many[i]->key = KeyOf(theirs[i]);
    const PutItem item = {many[i]->key, value.data(), value.size()};
    doomed->PutAsync({&item, 1}, {.deadline = 20'000ms}, [&, i](std::vector<KeyResult> results) {
      codes[i] = results[0].code;
      ++ended_;
    });
  }
  std::atomic<int> others{0};
  Code other = Code::kInternal;
  const std::string_view key = many[0]->key;
  client_->RemoveAsync({&key, 1}, {.deadline = 3000ms}, [&](std::vector<KeyResult> results) {
    other = results[0].code;
    ++others;
  });
  const Stopwatch watch;
  doomed.reset();
  EXPECT_LE(watch.Elapsed(), 500ms);
  EXPECT_EQ(ended_, kCalls);
  for (size_t i = 0; i < kCalls; ++i) EXPECT_EQ(codes[i], Code::kDeadlineExceeded) << i;
  EXPECT_EQ(others, 0) << "a call of another client was ended too: " << CodeName(other);
  cluster_->server(0)->Signal(SIGCONT);
  ASSERT_TRUE(WaitUntil([&] { return others == 1; }, 10s));
  EXPECT_TRUE(other == Code::kMiss || other == Code::kOk) << CodeName(other);
}

// A chain: each end begins the next call, until the client is destroyed under it.
TEST_F(AsyncTest, CallbacksMayBeginCallsUntilTheClientIsGone) {
  StartCluster(1);
  PutAll(1, 100);
  const std::string key = KeyOf(0);
  std::atomic<uint64_t> links{0};
  std::atomic<bool> refused{false};
  Client* const client = client_.get();
  std::function<void(std::vector<KeyResult>)> next;
  next = [&](std::vector<KeyResult> results) {
    ASSERT_EQ(results.size(), 1u);
    ++links;
    if (results[0].code != Code::kOk) {
      refused = true;
      return;
    }
    const std::string_view keys[] = {key};
    client->ExistsAsync(keys, {}, next);
  };
  next({KeyResult{.code = Code::kOk}});
  ASSERT_TRUE(WaitUntil([&] { return links > 500; }, 10s));
  client_.reset();
  EXPECT_TRUE(refused) << "the chain was not told of its end";
}

// Everything that was there when it began is gone, under load, and nothing of another namespace.
TEST_F(AsyncTest, ANamespaceIsClearedWhileOthersReadAndWrite) {
  StartCluster(2, 128 << 20);
  auto doomed = Connect(Verify::kAlways, "doomed");
  constexpr size_t kKeys = 3000, kSize = 2000;
  for (size_t i = 0; i < kKeys; ++i) {
    const auto value = ValueOf(i, kSize);
    ASSERT_EQ(PutOne(*doomed, KeyOf(i), value), Code::kOk);
    if (i < 200) {
      ASSERT_EQ(PutOne(*client_, KeyOf(i), value), Code::kOk);
    }
  }
  std::atomic<bool> running{true};
  std::atomic<uint64_t> rounds{0};
  std::thread load([&] {
    std::vector<std::byte> buffer(kSize);
    for (uint64_t i = 0; running.load(); ++i, ++rounds) {
      EXPECT_EQ(GetOne(*client_, KeyOf(i % 200), buffer).code, Code::kOk);
      EXPECT_TRUE(IsValueOf(i % 200, buffer));
      const Code put = PutOne(*client_, "more-" + std::to_string(i % 500), buffer);
      EXPECT_TRUE(put == Code::kOk || put == Code::kExists) << CodeName(put);
    }
  });
  EXPECT_TRUE(WaitUntil([&] { return rounds > 50; }, 10s));
  const auto dropped = doomed->ClearNamespace();
  ASSERT_TRUE(dropped.ok()) << dropped.status().ToString();
  EXPECT_EQ(*dropped, kKeys);
  const uint64_t then = rounds;
  EXPECT_TRUE(WaitUntil([&] { return rounds > then + 50; }, 10s));
  running = false;
  load.join();
  std::vector<std::byte> buffer(kSize);
  for (size_t i = 0; i < kKeys; ++i)
    ASSERT_EQ(GetOne(*doomed, KeyOf(i), buffer).code, Code::kMiss) << i;
  EXPECT_EQ(PutOne(*doomed, KeyOf(0), buffer), Code::kOk);
  EXPECT_EQ(*doomed->ClearNamespace(), 1u);
  // A server that is away: said, and by the deadline.
  cluster_->server(1)->Signal(SIGSTOP);
  const Stopwatch watch;
  const auto partly = doomed->ClearNamespace({.deadline = 300ms});
  EXPECT_LE(watch.Elapsed(), 300ms + kGrace + kScheduling);
  EXPECT_EQ(partly.code(), Code::kDeadlineExceeded);
  EXPECT_NE(partly.status().message().find("server-1"), std::string::npos)
      << partly.status().message();
  cluster_->server(1)->Signal(SIGCONT);
}

// While two servers change places behind them, waits for a newer map do not hold up the threads.
TEST_F(AsyncTest, AJoinUnderAsynchronousLoadLosesNoCall) {
  auto cluster = bench::EmbeddedCluster::Create(Options(2));
  ASSERT_TRUE(cluster.ok());
  cluster_ = std::move(*cluster);
  ASSERT_TRUE(cluster_->StartManager().ok());
  ASSERT_TRUE(cluster_->StartServer(0).ok());
  ASSERT_TRUE(cluster_->WaitAlive(1, 10s).ok());
  client_ = Connect();
  std::atomic<bool> running{true};
  std::atomic<uint64_t> begun{0}, answered{0}, wrong{0};
  const auto value = ValueOf(3, 2000);
  std::thread load([&] {
    while (running.load()) {
      if (begun - answered > 400) {
        std::this_thread::yield();
        continue;
      }
      auto key = std::make_shared<std::string>("k" + std::to_string(begun % 5000));
      const PutItem item = {*key, value.data(), value.size()};
      ++begun;
      client_->PutAsync({&item, 1}, {.deadline = 5000ms}, [&, key](std::vector<KeyResult> results) {
        const Code code = results[0].code;
        wrong += code == Code::kOk || code == Code::kExists ? 0 : 1;
        ++answered;
      });
    }
  });
  EXPECT_TRUE(WaitUntil([&] { return answered > 1000; }, 10s));
  ASSERT_TRUE(cluster_->StartServer(1).ok());
  ASSERT_TRUE(cluster_->WaitAlive(2, 10s).ok());
  const uint64_t then = answered;
  EXPECT_TRUE(WaitUntil([&] { return answered > then + 3000; }, 10s));
  running = false;
  load.join();
  EXPECT_TRUE(WaitUntil([&] { return answered == begun; }, 10s));
  EXPECT_EQ(wrong, 0u);
}

}  // namespace
}  // namespace simm
