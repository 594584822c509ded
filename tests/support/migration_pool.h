#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "dataserver/pool.h"
#include "tests/support/fake_clock.h"
#include "tests/support/pool_driver.h"

namespace simm::dataserver {

inline constexpr uint64_t kMovedBytes = 1000;

inline std::vector<uint32_t> AllShards() {
  std::vector<uint32_t> shards(limits::kShards);
  std::iota(shards.begin(), shards.end(), 0);
  return shards;
}

inline EntryFacts Facts(const std::string& key, uint64_t version = 0,
                        Duration age = std::chrono::seconds(1), uint64_t bytes = kMovedBytes) {
  std::vector<std::byte> value(bytes);
  FillValue(value, key, version);
  return {.hash = HashOf(key),
          .ns = 0,
          .key = key,
          .value_bytes = bytes,
          .checksum = Xxh3_64(value),
          .age = age};
}

// The pool of a data server, whose shards move here.
class PoolMigrationTest : public ::testing::Test {
 protected:
  PoolMigrationTest() { Make(1 << 20, {}); }
  ~PoolMigrationTest() override {
    const Status status = pool_->Audit();
    EXPECT_TRUE(status.ok()) << status.ToString();
  }
  void Make(uint64_t memory, const std::string& path) {
    pool_.reset();
    pool_ = std::move(*Pool::Create({.memory_bytes = memory,
                                     .mean_value_bytes = 4096,
                                     .path = path,
                                     .prefault = false,
                                     .boot_clock = &clock_},
                                    clock_));
  }
  Code Pull(const EntryFacts& facts, uint64_t version = 0) {
    const auto grant = pool_->Allocate(facts.hash, facts.ns, facts.key, facts.value_bytes);
    if (!grant.ok()) return grant.code();
    FillValue(grant->value, facts.key, version);
    return pool_->CommitPulled(*grant, facts, {});
  }
  Code Remove(const std::string& key) { return pool_->Remove(HashOf(key), 0, key); }
  void Sweep() {
    for (uint64_t cursor = 0; cursor != UINT64_MAX;)
      cursor = pool_->DropShards([](uint32_t) { return true; }, cursor);
  }

  FakeClock clock_{1'000'000'000'000};
  std::unique_ptr<Pool> pool_;
};

}  // namespace simm::dataserver
