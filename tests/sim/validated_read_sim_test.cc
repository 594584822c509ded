// The one-sided get (common/protocol/validated_read) against a real pool whose owner puts,
// replaces, removes and evicts between any two 64-byte pieces of a read, on the simulated
// transport, under one seed. The checksum is off: the protocol alone must keep wrong bytes out. The
// known-wrong reader that skips the second look at the slot must be caught by the same check, or
// the check proves nothing.
//
// SIMM_SIM_SEED=N replays one seed; SIMM_SIM_SEEDS=N sets how many are tried.

#include <gtest/gtest.h>

#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/random.h"
#include "common/protocol/validated_read.h"
#include "common/transport/sim/sim_transport.h"
#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"
#include "tests/support/seed_report.h"

namespace simm {
namespace {

using dataserver::PinnedValue;
using dataserver::Pool;
using protocol::ValidatedRead;
using transport::Op;

constexpr int kKeys = 6;
constexpr int kReads = 12;
constexpr uint64_t kMaxValue = 3000;

std::string KeyName(uint64_t i) { return "key-" + std::to_string(i); }

uint64_t EnvOr(const char* name, uint64_t fallback) {
  const char* const text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : fallback;
}

struct Outcome {
  int hits = 0, misses = 0, wrong = 0, retries = 0, asked = 0, cached_reads = 0;
  void Add(const Outcome& o) {
    hits += o.hits;
    misses += o.misses;
    wrong += o.wrong;
    retries += o.retries;
    asked += o.asked;
    cached_reads += o.cached_reads;
  }
};

class NullReceiver : public transport::Receiver {
 public:
  transport::PayloadTarget OnMessage(uint64_t, ByteSpan, uint64_t) override { return {}; }
  void OnMessageEnd(uint64_t, std::optional<uint64_t>) override {}
  void OnClosed(const Status&) override {}
};

class Simulation {
 public:
  Simulation(uint64_t seed, bool skip_second_look)
      : random_(seed), network_(seed + 1), skip_(skip_second_look) {
    pool_ = std::move(*Pool::Create(
        {.memory_bytes = 1 << 20, .mean_value_bytes = 64 << 10, .path = "", .prefault = false},
        clock_));
    index_region_ = *transport_.Register(
        {const_cast<std::byte*>(pool_->index_memory().data()), pool_->index_memory().size()},
        transport::kRemoteRead);
    data_region_ = *transport_.Register(pool_->data_memory(), transport::kRemoteRead);
    index_ = index_region_->Describe();
    data_ = data_region_->Describe();
    scratch_region_ = *transport_.Register(
        {reinterpret_cast<std::byte*>(&scratch_), sizeof scratch_}, transport::kLocalOnly);
    buffer_.resize(kMaxValue);
    buffer_region_ = *transport_.Register(buffer_, transport::kLocalOnly);
    acceptor_ = *transport_.Listen("server", "--listen",
                                   [](const transport::SessionTag&) { return Status(); });
    near_ = *transport_.Connect("server", {1, 1}, std::chrono::seconds(1));
    near_->Start(&receiver_);
    far_ = acceptor_->Accept();
    far_->Start(&receiver_);
    FillPoolWithOthers();
  }

  Outcome Run() {
    for (int i = 0; i < kReads; ++i) ReadOne();
    EXPECT_TRUE(pool_->Audit().ok()) << pool_->Audit().ToString();
    return outcome_;
  }

 private:
  struct Done : transport::Completion {
    void OnComplete(const Status& s) override {
      status = s;
      done = true;
    }
    Status status;
    bool done = false;
  };

  // So that a new value takes the memory of an old one at once.
  void FillPoolWithOthers() {
    for (int i = 0;
         dataserver::Put(*pool_, "filler-" + std::to_string(i), 20'000) == Code::kOk && i < 60;
         ++i) {
    }
  }

  // What the owner does between two pieces of the reader's work.
  void Mutate() {
    const std::string key = KeyName(random_.Below(kKeys));
    switch (random_.Below(8)) {
      case 0:
      case 1:
      case 2: {
        const uint64_t version = ++versions_[key];
        const uint64_t size = 1 + random_.Below(kMaxValue);
        const auto mode =
            random_.OneIn(3) ? dataserver::PutMode::kIfAbsent : dataserver::PutMode::kReplace;
        if (dataserver::Put(*pool_, key, size, version, mode) == Code::kOk)
          committed_[key].push_back({version, size});
        break;
      }
      case 3:
        pool_->Remove(dataserver::HashOf(key), 0, key);
        break;
      case 4:
        (void)dataserver::Put(*pool_, "filler-" + std::to_string(random_()),
                              20'000 + random_.Below(20'000));
        break;
      case 5:
        pool_->EvictSome();
        break;
      default:
        break;
    }
    clock_.Advance(std::chrono::microseconds(random_.Below(1000)));
  }

  Status Read(const transport::RemoteRegion& region, uint64_t offset,
              std::vector<transport::MutableSegment> local) {
    Done done;
    transport::WorkItem item;
    item.op = Op::kRead;
    item.local = local;
    item.remote = &region;
    item.remote_offset = offset;
    item.completion = &done;
    if (Status s = near_->Post({&item, 1}); !s.ok()) return s;
    while (!done.done) {
      if (random_.OneIn(4)) Mutate();
      near_->Progress();
    }
    return done.status;
  }

  // The answer to a kLookup: the slot as it is now, and the value pinned.
  protocol::Location Locate(const std::string& key) {
    protocol::Location location;
    const Hash128 hash = dataserver::HashOf(key);
    PinnedValue pinned;
    location.code = pool_->Acquire(hash, 0, key, &pinned);
    if (location.code != Code::kOk) return location;
    pins_.push_back(pinned);
    const auto& g = pool_->geometry();
    for (uint64_t at = g.buckets_offset; at + protocol::kSlotBytes <= g.leases_offset;
         at += protocol::kSlotBytes) {
      protocol::Slot slot;
      std::memcpy(&slot, pool_->index_memory().data() + at, sizeof slot);
      const protocol::SlotWord word{slot.word};
      if (word.state() == protocol::SlotState::kLive && slot.fingerprint() == hash) {
        location.slot = slot;
        location.slot_offset = at;
      }
    }
    return location;
  }

  void ReadOne() {
    const std::string key = KeyName(random_.Below(kKeys));
    const auto& g = pool_->geometry();
    const protocol::PoolView view = {g.bucket_count, g.buckets_offset, g.index_bytes, g.data_bytes};
    ValidatedRead read(view,
                       {.hash = dataserver::HashOf(key),
                        .namespace_id = 0,
                        .key = key,
                        .buffer = buffer_,
                        .allow_shorter = true,
                        .verify = false},
                       scratch_);
    std::optional<protocol::CachedLocation> cached;
    if (const auto it = cache_.find(key); it != cache_.end() && random_.OneIn(2)) {
      cached = it->second;
      ++outcome_.cached_reads;
    }
    Code code = Code::kMiss;
    bool skipped = false;
    for (auto next = read.Start(cached); next != ValidatedRead::Next::kDone && !skipped;) {
      switch (next) {
        case ValidatedRead::Next::kReadBucket:
          ASSERT_TRUE(
              Read(index_, read.offset(), {Scratch(&scratch_.bucket, sizeof scratch_.bucket)})
                  .ok());
          next = read.OnRead();
          break;
        case ValidatedRead::Next::kReadSlot:
          ASSERT_TRUE(
              Read(index_, read.offset(), {Scratch(&scratch_.slot, sizeof scratch_.slot)}).ok());
          next = read.OnRead();
          break;
        case ValidatedRead::Next::kReadExtent: {
          std::vector<transport::MutableSegment> local = {
              Scratch(scratch_.head, read.head_bytes())};
          if (read.value_bytes() > 0)
            local.push_back({buffer_.data(), read.value_bytes(), buffer_region_.get()});
          ASSERT_TRUE(Read(data_, read.offset(), local).ok());
          if (skip_) {
            skipped = true;
            code = Code::kOk;
          } else {
            next = read.OnRead();
          }
          break;
        }
        case ValidatedRead::Next::kAskServer:
          ++outcome_.asked;
          next = read.OnLocation(Locate(key));
          break;
        case ValidatedRead::Next::kDone:
          break;
      }
    }
    if (!skipped) code = read.result();
    Judge(key, code, read);
  }

  void Judge(const std::string& key, Code code, const ValidatedRead& read) {
    for (const PinnedValue& pinned : pins_) pool_->Release(pinned);
    pins_.clear();
    outcome_.retries += static_cast<int>(read.retries());
    if (code != Code::kOk) {
      ++outcome_.misses;
      return;
    }
    const ByteSpan bytes = ByteSpan(buffer_).first(read.value_bytes());
    bool right = false;
    for (const auto& [version, size] : committed_[key]) {
      right |= size == bytes.size() && dataserver::IsValue(bytes, key, version);
    }
    ++(right ? outcome_.hits : outcome_.wrong);
    if (!skip_) cache_[key] = read.location();
  }

  transport::MutableSegment Scratch(void* at, size_t size) {
    return {static_cast<std::byte*>(at), size, scratch_region_.get()};
  }

  Random random_;
  transport::SimNetwork network_;
  transport::SimTransport transport_{network_};
  FakeClock clock_;
  const bool skip_;
  std::unique_ptr<Pool> pool_;
  std::unique_ptr<transport::LocalRegion> index_region_, data_region_, scratch_region_,
      buffer_region_;
  transport::RemoteRegion index_, data_;
  protocol::ReadScratch scratch_;
  std::vector<std::byte> buffer_;
  NullReceiver receiver_;
  std::unique_ptr<transport::Acceptor> acceptor_;
  std::unique_ptr<transport::Connection> near_, far_;
  std::map<std::string, uint64_t> versions_;
  std::map<std::string, std::vector<std::pair<uint64_t, uint64_t>>> committed_;
  std::map<std::string, protocol::CachedLocation> cache_;
  std::vector<PinnedValue> pins_;
  Outcome outcome_;
};

TEST(ValidatedReadSim, RightBytesOrAMissUnderEverySeed) {
  const uint64_t only = EnvOr("SIMM_SIM_SEED", 0);
  const uint64_t seeds = only != 0 ? 1 : EnvOr("SIMM_SIM_SEEDS", 2000);
  Outcome total;
  SeedReport report("validated_read_sim_test");
  for (uint64_t i = 0; i < seeds; ++i) {
    const uint64_t seed = only != 0 ? only : i + 1;
    report.Running(seed);
    const Outcome outcome = Simulation(seed, false).Run();
    ASSERT_EQ(outcome.wrong, 0) << SeedReport::Replay(seed);
    ASSERT_FALSE(HasFailure()) << SeedReport::Replay(seed);
    total.Add(outcome);
  }
  std::printf("%llu seeds: %d hits, %d misses, %d retries, %d questions, %d cached\n",
              static_cast<unsigned long long>(seeds), total.hits, total.misses, total.retries,
              total.asked, total.cached_reads);
  if (seeds >= 200) {
    EXPECT_GT(total.hits, 1000) << "the simulation hardly reads anything";
    EXPECT_GT(total.retries, 100) << "the simulation hardly ever disturbs a read";
    EXPECT_GT(total.cached_reads, 100);
  }
}

TEST(ValidatedReadSim, TheReaderWithoutTheSecondLookIsCaught) {
  int wrong = 0;
  for (uint64_t seed = 1; seed <= 500 && wrong == 0; ++seed)
    wrong += Simulation(seed, true).Run().wrong;
  EXPECT_GT(wrong, 0)
      << "a reader that is known to be wrong passes: this test cannot see wrong bytes";
}

}  // namespace
}  // namespace simm
