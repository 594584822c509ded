// Keys whose rows name several servers: a source beside the owner while a shard moves, several
// owners with replicas. Real data servers, a map that the test writes.

#include <signal.h>

#include <atomic>
#include <future>
#include <thread>

#include "tests/support/cluster_fixture.h"
#include "tests/support/scripted_manager.h"
#include "tests/support/simmctl.h"

namespace simm {
namespace {

constexpr ServerId kA = 1, kB = 2;  // "server-0", "server-1"
constexpr uint64_t kKeys = 64;
constexpr size_t kBytes = 20'000;

class RowsTest : public ClusterTest {
 protected:
  void Start(uint32_t servers, uint32_t replicas) {
    manager_ = std::make_unique<ScriptedManager>(replicas);
    bench::EmbeddedOptions options = Options(servers);
    options.manager_address = manager_->address();
    // What moves does so in batches, the hottest first; behind the first one the pull stands still.
    options.server_flags.insert(options.server_flags.end(), {"--migration-bandwidth", "1"});
    StartCluster(options);
    ASSERT_NE(client_, nullptr);
    for (ServerId id = 1; id <= servers; ++id) running_.push_back(id);
  }
  void TearDown() override {
    client_.reset();
    cluster_.reset();
    manager_.reset();
  }
  // Publishes, and waits until the client has it.
  void Publish(const ScriptedManager::Rows& rows) {
    manager_->Publish(rows, running_);
    const uint64_t epoch = Status().map.epoch;
    ASSERT_TRUE(WaitUntil([&] { return client_->Locate("k").epoch >= epoch; }, 30s));
  }
  void PutAll(uint64_t from = 0, uint64_t to = kKeys) {
    for (uint64_t key = from; key < to; ++key)
      ASSERT_EQ(PutOne(*client_, KeyOf(key), ValueOf(key, kBytes)), Code::kOk) << key;
  }
  // More than one batch of a pull, hotter than everything else.
  void PutDecoys() {
    const auto value = ValueOf(0, 1000);
    for (size_t i = 0; i < 2 * limits::kMaxKeysPerMessage; ++i)
      ASSERT_EQ(PutOne(*client_, "decoy-" + std::to_string(i), value), Code::kOk) << i;
  }
  // All keys in one batch; each is there with the right bytes.
  void ExpectAll(const GetOptions& options = {}) {
    std::vector<std::string> keys;
    std::vector<std::vector<std::byte>> buffers(kKeys, std::vector<std::byte>(kBytes));
    std::vector<GetItem> items;
    for (uint64_t key = 0; key < kKeys; ++key) keys.push_back(KeyOf(key));
    for (uint64_t key = 0; key < kKeys; ++key)
      items.push_back({keys[key], buffers[key].data(), kBytes});
    const auto results = client_->Get(items, options);
    for (uint64_t key = 0; key < kKeys; ++key) {
      ASSERT_EQ(results[key].code, Code::kOk) << key;
      ASSERT_TRUE(IsValueOf(key, buffers[key])) << key;
    }
  }
  std::vector<Code> ExistsAll() {
    std::vector<std::string> keys;
    for (uint64_t key = 0; key < kKeys; ++key) keys.push_back(KeyOf(key));
    const std::vector<std::string_view> views(keys.begin(), keys.end());
    std::vector<Code> codes;
    for (const KeyResult& result : client_->Exists(views)) codes.push_back(result.code);
    return codes;
  }
  bool GetsRight(Client& client, uint64_t key) {
    std::vector<std::byte> buffer(kBytes);
    return GetOne(client, KeyOf(key), buffer).code == Code::kOk && IsValueOf(key, buffer);
  }
  void Kill(ServerId id) {
    cluster_->server(id - 1)->Kill();
    std::erase(running_, id);
  }

  std::unique_ptr<ScriptedManager> manager_;
  std::vector<ServerId> running_;
};

std::vector<ShardOwner> OnlyA(uint32_t) { return {{kA, kNoServer}}; }
std::vector<ShardOwner> FromAToB(uint32_t) { return {{kB, kA}}; }

// Each of three servers is the first owner of a third.
std::vector<ShardOwner> TwoOfThree(uint32_t shard) {
  return {{1 + shard % 3, kNoServer}, {1 + (shard + 1) % 3, kNoServer}};
}

using SourcesTest = RowsTest;

TEST_F(SourcesTest, WhatHasNotMovedYetIsReadWhereItIs) {
  Start(2, 1);
  Publish(OnlyA);
  PutAll();
  PutDecoys();
  Publish(FromAToB);
  ExpectAll();
  EXPECT_EQ(client_->Stats().source_hits, kKeys);
  EXPECT_EQ(ExistsAll(), std::vector<Code>(kKeys, Code::kOk));
  EXPECT_EQ(client_->Stats().source_hits, 2 * kKeys);
  const std::string key = KeyOf(3);
  const std::string_view view = key;
  EXPECT_EQ(client_->Touch({&view, 1})[0].code, Code::kOk);
  const PinResult pin = client_->Pin({&view, 1})[0];
  EXPECT_EQ(pin.code, Code::kOk);
  EXPECT_GT(pin.pinned_ms, 0u);

  // A call that does not wait is the same.
  std::vector<std::byte> buffer(kBytes);
  const GetItem item = {key, buffer.data(), kBytes};
  std::promise<Code> code;
  client_->GetAsync({&item, 1}, {}, [&](std::vector<KeyResult> r) { code.set_value(r[0].code); });
  EXPECT_EQ(code.get_future().get(), Code::kOk);
  EXPECT_TRUE(IsValueOf(3, buffer));
}

// A key that its owner has removed does not come back from the source, which still has it.
TEST_F(SourcesTest, WhatTheOwnerHasRemovedStaysRemoved) {
  Start(2, 1);
  Publish(OnlyA);
  PutAll();
  PutDecoys();
  Publish(FromAToB);
  ExpectAll();
  const uint64_t at_source = client_->Stats().source_hits;
  EXPECT_EQ(at_source, kKeys);
  std::vector<std::string> keys;
  for (uint64_t key = 0; key < kKeys / 2; ++key) keys.push_back(KeyOf(key));
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  for (const KeyResult& result : client_->Remove(views))
    EXPECT_TRUE(result.code == Code::kOk || result.code == Code::kMiss);
  const std::vector<Code> there = ExistsAll();
  for (uint64_t key = 0; key < kKeys; ++key)
    EXPECT_EQ(there[key], key < kKeys / 2 ? Code::kMiss : Code::kOk) << key;
  std::vector<std::byte> buffer(kBytes);
  EXPECT_EQ(GetOne(*client_, KeyOf(0), buffer).code, Code::kMiss);
  EXPECT_EQ(client_->Pin(views)[0].code, Code::kMiss);
  EXPECT_TRUE(GetsRight(*client_, kKeys - 1)) << "the others are where they were";
  ASSERT_EQ(PutOne(*client_, KeyOf(0), ValueOf(0, kBytes, 1)), Code::kOk);
  ASSERT_EQ(GetOne(*client_, KeyOf(0), buffer).code, Code::kOk);
  EXPECT_TRUE(IsValueOf(0, buffer, 1));
}

TEST_F(SourcesTest, WhatIsWrittenGoesToTheOwnerAlone) {
  Start(2, 1);
  Publish(OnlyA);
  PutAll();
  Publish(FromAToB);
  PutAll(kKeys, 2 * kKeys);
  ASSERT_EQ(PutOne(*client_, KeyOf(0), ValueOf(0, kBytes, 7), {.replace = true}), Code::kOk);
  std::vector<std::byte> buffer(kBytes);
  ASSERT_EQ(GetOne(*client_, KeyOf(0), buffer).code, Code::kOk);
  EXPECT_TRUE(IsValueOf(0, buffer, 7)) << "the owner's value counts, not the source's";
  for (uint64_t key = kKeys; key < 2 * kKeys; ++key) EXPECT_TRUE(GetsRight(*client_, key));
  EXPECT_EQ(client_->Stats().source_hits, 0u);
  Publish([](uint32_t) { return std::vector<ShardOwner>{{kB, kNoServer}}; });
  for (uint64_t key = kKeys; key < 2 * kKeys; ++key) EXPECT_TRUE(GetsRight(*client_, key));
}

TEST_F(SourcesTest, AMissCostsNoFurtherRoundTrip) {
  Start(2, 1);
  Publish(FromAToB);
  PutAll(0, 1);
  (void)ExistsAll();  // both have been talked to
  std::vector<std::byte> buffer(kBytes);
  ClientStats before = client_->Stats();
  EXPECT_EQ(GetOne(*client_, KeyOf(1), buffer).code, Code::kMiss);
  EXPECT_EQ(client_->Stats().round_trips - before.round_trips, 2u) << "one to each, side by side";
  before = client_->Stats();
  EXPECT_EQ(GetOne(*client_, KeyOf(0), buffer).code, Code::kOk);
  EXPECT_EQ(client_->Stats().round_trips - before.round_trips, 2u);
}

TEST_F(SourcesTest, AnOwnerThatIsAwayIsNotMissed) {
  Start(2, 1);
  Publish(OnlyA);
  PutAll();
  Publish(FromAToB);
  ExpectAll();
  Kill(kB);
  ExpectAll();
  EXPECT_EQ(ExistsAll(), std::vector<Code>(kKeys, Code::kOk));
}

TEST_F(SourcesTest, ASourceThatIsAwayHoldsNothingUp) {
  Start(2, 1);
  Publish(FromAToB);
  PutAll();
  ExpectAll();
  cluster_->server(kA - 1)->Signal(SIGSTOP);
  const Stopwatch watch;
  ExpectAll({.deadline = 60s});
  EXPECT_LT(watch.Elapsed(), 30s) << "what the owner has is not held up until the deadline";
  cluster_->server(kA - 1)->Signal(SIGCONT);
  Kill(kA);
  ExpectAll();
  std::vector<std::byte> buffer(kBytes);
  EXPECT_EQ(GetOne(*client_, KeyOf(kKeys), buffer).code, Code::kMiss);
}

using ReplicasTest = RowsTest;

TEST_F(ReplicasTest, ALocationNamesTheSourceOfEachOwner) {
  Start(3, 2);
  Publish([](uint32_t) { return std::vector<ShardOwner>{{1, kNoServer}, {2, 3}}; });
  const KeyLocation location = client_->Locate("k");
  EXPECT_EQ(location.server, "server-0");
  EXPECT_EQ(location.source, "");
  EXPECT_EQ(location.replicas, std::vector<std::string>{"server-1"});
  EXPECT_EQ(location.replica_sources, std::vector<std::string>{"server-2"});
  const nlohmann::json shown = Simmctl(manager_->address(), "map k");
  EXPECT_EQ(shown["source"], "");
  EXPECT_EQ(shown["replica_sources"], nlohmann::json({"server-2"}));
  Publish([](uint32_t) { return std::vector<ShardOwner>{{1, 3}, {2, kNoServer}}; });
  EXPECT_EQ(client_->Locate("k").source, "server-2");
  EXPECT_EQ(client_->Locate("k").replica_sources, std::vector<std::string>{""});
}

TEST_F(ReplicasTest, AHitCostsWhatItCostsWithoutReplicas) {
  Start(3, 2);
  Publish(TwoOfThree);
  PutAll();
  ExpectAll();
  const ClientStats before = client_->Stats();
  for (uint64_t key = 0; key < kKeys; ++key) EXPECT_TRUE(GetsRight(*client_, key));
  const ClientStats after = client_->Stats();
  EXPECT_EQ(after.round_trips - before.round_trips, kKeys);
  if (TestTransport() == "tcp") {
    EXPECT_EQ(after.requests - before.requests, kKeys);
  }
  EXPECT_EQ(after.replica_hits, 0u);
  EXPECT_EQ(after.partial_puts, 0u);
  // The owners share the load: with one of them away some keys are, and some are not, in its share.
  Kill(kA);
  ExpectAll();
  const uint64_t moved = client_->Stats().replica_hits;
  EXPECT_LT(moved, kKeys / 2);
}

TEST_F(ReplicasTest, EachOwnerHasEachKey) {
  for (const ServerId victim : {kA, kB}) {
    Start(2, 2);
    Publish([](uint32_t) { return std::vector<ShardOwner>{{kA, kNoServer}, {kB, kNoServer}}; });
    PutAll();
    EXPECT_EQ(client_->Stats().partial_puts, 0u);
    Kill(victim);
    ExpectAll();
    EXPECT_EQ(ExistsAll(), std::vector<Code>(kKeys, Code::kOk));
    TearDown();
    running_.clear();
  }
}

TEST_F(ReplicasTest, RemovedIsWhatEachOwnerHasRemoved) {
  Start(3, 2);
  Publish(TwoOfThree);
  PutAll();
  std::vector<std::string> keys;
  for (uint64_t key = 0; key < kKeys; ++key) keys.push_back(KeyOf(key));
  const std::vector<std::string_view> views(keys.begin(), keys.end());
  for (const KeyResult& result : client_->Remove(views)) EXPECT_EQ(result.code, Code::kOk);
  EXPECT_EQ(ExistsAll(), std::vector<Code>(kKeys, Code::kMiss));
  for (const KeyResult& result : client_->Remove(views)) EXPECT_EQ(result.code, Code::kMiss);
}

TEST_F(ReplicasTest, WhatOneOwnerLacksTheNextHas) {
  Start(3, 3);
  Publish([](uint32_t) { return std::vector<ShardOwner>{{kA, kNoServer}}; });
  PutAll();
  Publish([](uint32_t) {
    return std::vector<ShardOwner>{{kB, kNoServer}, {kA, kNoServer}, {3, kNoServer}};
  });
  ExpectAll();
  EXPECT_EQ(ExistsAll(), std::vector<Code>(kKeys, Code::kOk));
  EXPECT_GT(client_->Stats().replica_hits, 0u);
  std::vector<std::byte> buffer(kBytes);
  EXPECT_EQ(GetOne(*client_, KeyOf(kKeys), buffer).code, Code::kMiss);
}

TEST_F(ReplicasTest, TheQuorumDecidesTheResultOnly) {
  Start(3, 2);
  Publish(TwoOfThree);
  PutAll();
  EXPECT_EQ(PutOne(*client_, KeyOf(0), ValueOf(0, kBytes), {.write_quorum = 2}), Code::kExists);
  EXPECT_EQ(PutOne(*client_, "k", ValueOf(0, kBytes), {.write_quorum = 3}), Code::kInvalidArgument)
      << "more than there are replicas";
  EXPECT_EQ(PutOne(*client_, "k", ValueOf(0, kBytes), {.write_quorum = 0}), Code::kInvalidArgument);
  Kill(kA);
  uint64_t partial = 0, refused = 0, kept = 0, removed = 0;
  for (uint64_t key = kKeys; key < 2 * kKeys; ++key) {
    const auto value = ValueOf(key, kBytes);
    ASSERT_EQ(PutOne(*client_, KeyOf(key), value), Code::kOk) << key;
    EXPECT_TRUE(GetsRight(*client_, key));
    const Code both = PutOne(*client_, "both-" + KeyOf(key), value, {.write_quorum = 2});
    refused += both == Code::kUnavailable ? 1 : 0;
    kept += both == Code::kOk ? 1 : 0;
    const Code replaced = PutOne(*client_, KeyOf(key), value, {.replace = true});
    partial += replaced == Code::kUnavailable ? 1 : 0;
    const std::string name = KeyOf(key);
    const std::string_view view = name;
    removed += client_->Remove({&view, 1})[0].code == Code::kOk ? 1 : 0;
  }
  EXPECT_GT(refused, 0u);
  EXPECT_GT(kept, 0u);
  EXPECT_EQ(refused + kept, kKeys);
  EXPECT_GT(partial, 0u) << "replace needs all";
  EXPECT_LT(partial, kKeys);
  EXPECT_EQ(removed, kKeys - partial) << "and so does remove";
  EXPECT_EQ(client_->Stats().partial_puts, partial);
}

// kill -9 under load: of keys that both owners have none is missed, and none has other bytes.
TEST_F(ReplicasTest, AKilledOwnerCostsNoMiss) {
  Start(3, 2);
  Publish(TwoOfThree);
  PutAll();
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> gets{0}, wrong{0}, failed_puts{0};
  std::vector<std::thread> load;
  for (uint64_t t = 0; t < 3; ++t) {
    load.emplace_back([&, t] {
      for (uint64_t i = t; !stop; ++i) {
        wrong += GetsRight(*client_, i % kKeys) ? 0 : 1;
        ++gets;
        const uint64_t fresh = 1'000'000 * (t + 1) + i % 500;
        const Code code = PutOne(*client_, KeyOf(fresh), ValueOf(fresh, kBytes));
        failed_puts += code == Code::kOk || code == Code::kExists ? 0 : 1;
      }
    });
  }
  EXPECT_TRUE(WaitUntil([&] { return gets > 300; }, 60s));
  Kill(kB);
  const uint64_t at_kill = gets;
  EXPECT_TRUE(WaitUntil([&] { return gets > at_kill + 300; }, 60s));
  stop = true;
  for (std::thread& thread : load) thread.join();
  EXPECT_EQ(wrong, 0u);
  EXPECT_EQ(failed_puts, 0u) << "one owner is enough";
  EXPECT_GT(client_->Stats().partial_puts, 0u);
}

// A paused owner says nothing: its keys are read at the other one long before the deadline.
TEST_F(ReplicasTest, APausedOwnerIsPassedBy) {
  Start(3, 2);
  Publish(TwoOfThree);
  PutAll();
  ExpectAll();
  cluster_->server(kA - 1)->Signal(SIGSTOP);
  ExpectAll({.deadline = 20s});
  ASSERT_TRUE(WaitUntil(
      [&] {
        for (const ServerHealth& health : client_->Servers()) {
          if (health.name == "server-0") return health.breaker == "open";
        }
        return false;
      },
      30s))
      << "an echo that does not come opens the breaker";
  const Stopwatch watch;
  ExpectAll({.deadline = 60s});
  EXPECT_LT(watch.Elapsed(), 10s);
  cluster_->server(kA - 1)->Signal(SIGCONT);
}

}  // namespace
}  // namespace simm
