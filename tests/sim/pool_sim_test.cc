// Seeded random operations on a pool against a model that knows only what was put. SIMM_SIM_SEED
// replays one seed, SIMM_SIM_SEEDS sets how many are run.
#include <gtest/gtest.h>

#include <cstdlib>
#include <iostream>
#include <map>
#include <string>
#include <vector>

#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"
#include "tests/support/seed_report.h"

namespace simm::dataserver {
namespace {

class PoolSim {
 public:
  explicit PoolSim(uint64_t seed) : random_(seed) {
    // From pools of a handful of values with an index that overflows to thousands of small ones.
    const uint64_t memory = (1 + random_.Below(3)) << 20;
    auto pool = Pool::Create({.memory_bytes = memory,
                              .mean_value_bytes = uint64_t{1} << (9 + random_.Below(12)),
                              .path = {},
                              .prefault = false},
                             clock_);
    SIMM_CHECK(pool.ok(), pool.status().ToString());
    pool_ = std::move(*pool);
    keys_ = 5 + random_.Below(200);
    largest_ = uint64_t{64} << random_.Below(13);
  }

  // Empty when all was right.
  std::string Run(int steps) {
    for (int step = 0; step < steps && wrong_.empty(); ++step) {
      clock_.Advance(std::chrono::milliseconds(random_.Below(50)));
      Step();
      if (step % 25 == 0) Audit();
    }
    while (!grants_.empty()) Abandon();
    while (!pins_.empty()) Release();
    Audit();
    const PoolUsage usage = pool_->Usage();
    if (usage.granted_bytes != 0 || usage.pinned_bytes != 0) Wrong("bytes are left behind");
    return wrong_;
  }

 private:
  struct OpenGrant {
    Grant grant;
    std::string key;
    NamespaceId ns;
    uint64_t version;
  };
  struct OpenPin {
    PinnedValue pinned;
    std::string key;
    uint64_t version;
  };
  struct Entry {
    uint64_t version;
    uint64_t bytes;
  };
  using Name = std::pair<NamespaceId, std::string>;

  void Wrong(const std::string& what) {
    if (wrong_.empty()) wrong_ = what;
  }
  Name Pick() {
    return {static_cast<NamespaceId>(random_.Below(2)),
            "key" + std::to_string(random_.Below(keys_))};
  }

  void Step() {
    const uint64_t dice = random_.Below(100);
    if (dice < 30) return Allocate();
    if (dice < 55) return Commit();
    if (dice < 58) return Abandon();
    if (dice < 72) return Acquire();
    if (dice < 82) return Release();
    if (dice < 86) return Remove();
    if (dice < 90) return Touch();
    if (dice < 96) {
      pool_->EvictSome();
      return;
    }
    if (dice < 97) return Drop();
    return Scan();
  }

  void Allocate() {
    if (grants_.size() > 6) return Commit();
    const auto [ns, key] = Pick();
    uint64_t bytes = random_.Below(largest_ + 1);
    if (random_.OneIn(40)) bytes = random_.Below(pool_->MaxValueBytes(key.size()) + 1);
    if (random_.OneIn(200)) bytes = pool_->MaxValueBytes(key.size());
    Result<Grant> grant = pool_->Allocate(HashOf(key, ns), ns, key, bytes);
    if (!grant.ok()) {
      if (grant.code() != Code::kBusy) Wrong("Allocate failed: " + grant.status().ToString());
      if (grants_.empty() && pins_.empty()) Wrong("busy though nothing is granted or pinned");
      return;
    }
    const uint64_t version = ++versions_;
    FillValue(grant->value, key, version);
    grants_.push_back({*grant, key, ns, version});
  }
  template <typename T>
  T TakeAny(std::vector<T>* from) {
    const size_t i = random_.Below(from->size());
    T taken = (*from)[i];
    (*from)[i] = from->back();
    from->pop_back();
    return taken;
  }
  void Commit() {
    if (grants_.empty()) return;
    const OpenGrant open = TakeAny(&grants_);
    const auto mode = random_.OneIn(3) ? PutMode::kReplace : PutMode::kIfAbsent;
    uint64_t bytes = 0;
    const bool there =
        pool_->Lookup(HashOf(open.key, open.ns), open.ns, open.key, &bytes) == Code::kOk;
    const Code code = pool_->Commit(open.grant, HashOf(open.key, open.ns), open.ns, open.key, mode,
                                    Xxh3_64(open.grant.value), {});
    if (there && mode == PutMode::kIfAbsent) {
      if (code != Code::kExists) Wrong("expected EXISTS, got " + std::string(CodeName(code)));
      return;
    }
    if (code != Code::kOk) Wrong("Commit failed: " + std::string(CodeName(code)));
    model_[{open.ns, open.key}] = {open.version, open.grant.value.size()};
    if (pool_->Lookup(HashOf(open.key, open.ns), open.ns, open.key, &bytes) != Code::kOk) {
      Wrong("a value just put is not there");
    }
  }
  void Abandon() {
    if (!grants_.empty()) pool_->Abandon(TakeAny(&grants_).grant);
  }
  void Acquire() {
    const auto [ns, key] = Pick();
    PinnedValue pinned;
    const Code code = pool_->Acquire(HashOf(key, ns), ns, key, &pinned);
    const auto entry = model_.find({ns, key});
    if (code == Code::kMiss) {
      // Evicted; it must not come back by itself.
      if (entry != model_.end()) model_.erase(entry);
      return;
    }
    if (entry == model_.end())
      return Wrong("a hit for what was never put, removed or missed before");
    if (pinned.value.size() != entry->second.bytes) Wrong("a value of another length");
    if (!IsValue(pinned.value, key, entry->second.version)) Wrong("bytes of another value");
    pins_.push_back({pinned, key, entry->second.version});
    if (pins_.size() > 6) Release();
  }
  void Release() {
    if (pins_.empty()) return;
    const OpenPin open = TakeAny(&pins_);
    if (!IsValue(open.pinned.value, open.key, open.version))
      Wrong("bytes changed while they were pinned");
    pool_->Release(open.pinned);
  }
  void Remove() {
    const auto [ns, key] = Pick();
    const Code code = pool_->Remove(HashOf(key, ns), ns, key);
    if (model_.erase({ns, key}) == 0 && code == Code::kOk) Wrong("removed what was not there");
  }
  void Touch() {
    const auto [ns, key] = Pick();
    pool_->Touch(HashOf(key, ns), ns, key);
    pool_->TouchSlot(static_cast<uint32_t>(random_.Below(200)), random_.Below(1000));
  }
  void Drop() {
    const uint64_t denied = random_.Below(5);
    const auto owned = [&](uint32_t shard) { return shard % 5 != denied; };
    for (uint64_t cursor = 0; cursor != UINT64_MAX;) cursor = pool_->DropShards(owned, cursor);
    std::erase_if(model_, [&](const auto& item) {
      return !owned(ShardOf(HashOf(item.first.second, item.first.first)));
    });
  }
  void Scan() {
    std::map<Name, uint64_t> seen;
    for (uint64_t cursor = 0; cursor != UINT64_MAX;) {
      cursor = pool_->Scan(cursor, 1 + random_.Below(50),
                           [&](NamespaceId ns, std::string_view key, uint64_t bytes) {
                             if (!seen.emplace(Name{ns, key}, bytes).second)
                               Wrong("a key scanned twice");
                           });
    }
    if (seen.size() != pool_->Usage().entries) Wrong("a scan that is not complete");
    for (const auto& [name, bytes] : seen) {
      const auto entry = model_.find(name);
      if (entry == model_.end() || entry->second.bytes != bytes) Wrong("scanned what is not there");
    }
    std::erase_if(model_, [&](const auto& item) { return !seen.contains(item.first); });
  }
  void Audit() {
    if (const Status status = pool_->Audit(); !status.ok()) Wrong(status.ToString());
    const PoolUsage usage = pool_->Usage();
    if (usage.free_bytes + usage.granted_bytes + usage.live_bytes + usage.limbo_bytes +
            usage.pinned_bytes !=
        usage.data_bytes) {
      Wrong("the five states do not add up");
    }
  }

  FakeClock clock_;
  Random random_;
  std::unique_ptr<Pool> pool_;
  uint64_t keys_ = 0;
  uint64_t largest_ = 0;
  uint64_t versions_ = 0;
  std::map<Name, Entry> model_;  // what may be there; what is missed is forgotten
  std::vector<OpenGrant> grants_;
  std::vector<OpenPin> pins_;
  std::string wrong_;
};

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

TEST(PoolSim, SeededOperationsAgreeWithTheModel) {
  const uint64_t one = FromEnvironment("SIMM_SIM_SEED", 0);
  const uint64_t first = one != 0 ? one : 1;
  const uint64_t last = one != 0 ? one : FromEnvironment("SIMM_SIM_SEEDS", 2000);
  SeedReport report("pool_sim_test");
  for (uint64_t seed = first; seed <= last; ++seed) {
    report.Running(seed);
    const std::string wrong = PoolSim(seed).Run(300);
    ASSERT_TRUE(wrong.empty()) << "seed " << seed << ": " << wrong << "\n"
                               << SeedReport::Replay(seed);
  }
}

}  // namespace
}  // namespace simm::dataserver
