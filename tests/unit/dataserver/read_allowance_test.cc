#include "dataserver/read_allowance.h"

#include <gtest/gtest.h>

#include "common/base/limits.h"
#include "common/base/random.h"

namespace simm::dataserver {
namespace {

using namespace std::chrono_literals;
using protocol::ReadTotals;

constexpr Instant kStart{1'000'000'000};
constexpr uint64_t kLargest = 1 << 30;
const ReadTotals kAll = {.get_hits = UINT64_MAX,
                         .get_misses = UINT64_MAX,
                         .get_length_mismatches = UINT64_MAX,
                         .get_bytes = UINT64_MAX,
                         .exists_hits = UINT64_MAX,
                         .exists_misses = UINT64_MAX,
                         .validation_failures = UINT64_MAX,
                         .validation_retries = UINT64_MAX};

uint64_t KeysOf(const ReadTotals& t) {
  return t.get_hits + t.get_misses + t.get_length_mismatches + t.exists_hits + t.exists_misses +
         t.validation_retries;
}

// What one reader can do is believed to the last key, report after report, late ones included.
TEST(ReadAllowance, WhatCanBeReadIsBelieved) {
  ReadAllowance allowance;
  const ReadTotals second = {.get_hits = 900'000,
                             .get_misses = 100'000,
                             .get_length_mismatches = 3,
                             .get_bytes = 50'000'000'000,
                             .exists_hits = 2'000'000,
                             .exists_misses = 5'000'000,
                             .validation_failures = 1,
                             .validation_retries = 70'000};
  bool cut = true;
  Instant now = kStart;
  for (int i = 0; i < 100; ++i, now = now + 1s) {
    EXPECT_EQ(allowance.Cut(second, kLargest, now, &cut), second) << i;
    EXPECT_FALSE(cut);
  }
  // A server that was stopped for ten seconds reads what has come meanwhile at once.
  now = now + 10s;
  for (int i = 0; i < 10; ++i) {
    EXPECT_EQ(allowance.Cut(second, kLargest, now, &cut), second) << i;
    EXPECT_FALSE(cut);
  }
}

TEST(ReadAllowance, WhatNobodyCanReadIsCutOff) {
  ReadAllowance allowance;
  bool cut = false;
  const ReadTotals believed = allowance.Cut(kAll, kLargest, kStart, &cut);
  EXPECT_TRUE(cut);
  EXPECT_LE(KeysOf(believed), 2 * limits::kLaneKeysPerSecond);
  EXPECT_LE(believed.get_bytes, 2 * limits::kLaneBytesPerSecond);
  EXPECT_EQ(KeysOf(allowance.Cut(kAll, kLargest, kStart, &cut)), 0u) << "all is spent";
  EXPECT_TRUE(cut);
  // However often, however long: keys and bytes of the time that has passed.
  Random random(1);
  Instant now = kStart;
  uint64_t keys = 0, bytes = 0;
  for (int i = 0; i < 10'000; ++i) {
    now = now + std::chrono::milliseconds(random.Below(20));
    const ReadTotals more = allowance.Cut(kAll, kLargest, now, &cut);
    keys += KeysOf(more);
    bytes += more.get_bytes;
  }
  const auto seconds = static_cast<uint64_t>(ToSeconds(now - kStart)) + 1;
  EXPECT_LE(keys, seconds * limits::kLaneKeysPerSecond);
  EXPECT_LE(bytes, seconds * limits::kLaneBytesPerSecond);
  EXPECT_GE(bytes, (seconds - 2) * limits::kLaneBytesPerSecond) << "no less either";
  // A lane that has been silent for a day has saved up a minute.
  const ReadTotals later = allowance.Cut(kAll, kLargest, now + 24h, &cut);
  EXPECT_LE(KeysOf(later), 60 * limits::kLaneKeysPerSecond);
  EXPECT_LE(later.get_bytes, 60 * limits::kLaneBytesPerSecond);
}

TEST(ReadAllowance, WhatContradictsItselfIsCutOff) {
  ReadAllowance allowance;
  bool cut = false;
  EXPECT_EQ(allowance.Cut({.get_bytes = 1}, kLargest, kStart, &cut).get_bytes, 0u) << "of no hit";
  EXPECT_TRUE(cut);
  EXPECT_EQ(allowance.Cut({.get_hits = 3, .get_bytes = 3001}, 1000, kStart, &cut).get_bytes, 3000u)
      << "three values of at most 1000";
  EXPECT_TRUE(cut);
  const ReadTotals damaged = {.get_misses = 2, .validation_failures = 3};
  EXPECT_EQ(allowance.Cut(damaged, kLargest, kStart, &cut).validation_failures, 2u);
  EXPECT_TRUE(cut);
  // A clock that seems to run backwards takes nothing away and gives nothing.
  EXPECT_EQ(allowance.Cut({.get_hits = 5}, kLargest, kStart - 1h, &cut).get_hits, 5u);
  EXPECT_FALSE(cut);
}

}  // namespace
}  // namespace simm::dataserver
