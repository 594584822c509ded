#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <thread>

#include "common/base/bytes.h"
#include "common/base/code.h"
#include "common/base/gate.h"
#include "common/base/ids.h"
#include "common/base/log.h"
#include "common/base/random.h"
#include "common/base/status.h"

namespace simm {
namespace {

TEST(Size, TakesUnitsAndRefusesTheRest) {
  EXPECT_EQ(*ParseSize("4096"), 4096u);
  EXPECT_EQ(*ParseSize("64KiB"), 65536u);
  EXPECT_EQ(*ParseSize("64 k"), 65536u);
  EXPECT_EQ(*ParseSize("1.5GiB"), 3ULL << 29);
  EXPECT_EQ(*ParseSize("2MB"), 2ULL << 20);
  EXPECT_EQ(*ParseSize("0"), 0u);
  for (const char* bad : {"", "x", "-1", "1XB", "1KiBB", "9999999999T", "nan", "KiB"}) {
    EXPECT_EQ(ParseSize(bad).code(), Code::kInvalidArgument) << bad;
  }
  EXPECT_EQ(FormatSize(100), "100 B");
  EXPECT_EQ(FormatSize(64ULL << 20), "64.0 MiB");
}

TEST(Bytes, ReadersAndWritersStopAtTheirBounds) {
  std::byte buffer[10];
  ByteWriter w(buffer);
  w.Put(uint64_t{0x1122334455667788});
  EXPECT_TRUE(w.ok());
  w.Put(uint32_t{1});
  EXPECT_FALSE(w.ok());
  ByteReader r(ByteSpan(buffer).first(9));
  EXPECT_EQ(r.Get<uint64_t>(), 0x1122334455667788u);
  EXPECT_EQ(r.Get<uint16_t>(), 0u) << "one byte is left";
  EXPECT_FALSE(r.ok());
  EXPECT_EQ(r.remaining(), 0u);
}

TEST(Bytes, KeysAreShownAsTheyAreOrInHex) {
  EXPECT_EQ(PrintableKey("abc"), "abc");
  EXPECT_EQ(PrintableKey(std::string("a\0", 2)), "0x6100");
}

TEST(Codes, HaveNamesAndReactions) {
  std::set<std::string_view> names;
  for (uint8_t i = 0; i <= kMaxCode; ++i) names.insert(CodeName(static_cast<Code>(i)));
  EXPECT_EQ(names.size(), size_t{kMaxCode} + 1);
  EXPECT_EQ(CodeName(static_cast<Code>(200)), "UNKNOWN");
  EXPECT_EQ(ReactionTo(Code::kWrongOwner), Reaction::kRefreshMap);
  EXPECT_EQ(ReactionTo(Code::kUnavailable), Reaction::kFallBack);
  EXPECT_EQ(ReactionTo(Code::kBusy), Reaction::kRetry);
  EXPECT_EQ(Status(Code::kMiss, "why").ToString(), "MISS: why");
}

TEST(Ids, PrintAndParse) {
  const Id128 id = NewId128();
  EXPECT_EQ(*ParseId128(ToString(id)), id);
  EXPECT_FALSE(id.IsZero());
  EXPECT_FALSE(ParseId128("12").ok());
  EXPECT_FALSE(ParseId128(std::string(32, 'g')).ok());
}

TEST(Random, IsAFunctionOfItsSeedAndStaysBelow) {
  Random a(5), b(5), c(6);
  EXPECT_EQ(a(), b());
  EXPECT_NE(a(), c());
  for (int i = 0; i < 1000; ++i) {
    EXPECT_LT(a.Below(7), 7u);
    EXPECT_LT(a.Unit(), 1.0);
  }
}

TEST(Gate, DrainsWhatIsInsideAndRefusesWhatComesAfter) {
  Gate gate;
  std::atomic<bool> left{false};
  ASSERT_TRUE(gate.Enter());
  std::thread drainer([&] {
    gate.CloseAndDrain();
    EXPECT_TRUE(left.load());
  });
  while (gate.Enter()) gate.Leave();  // until the drainer has closed it
  left = true;
  gate.Leave();
  drainer.join();
  EXPECT_FALSE(static_cast<bool>(GatePass(gate)));
}

TEST(LogLimiter, LetsOneThroughAndCountsTheRest) {
  LogLimiter limiter(std::chrono::seconds(1));
  EXPECT_EQ(limiter.Allow({0}), 0);
  EXPECT_EQ(limiter.Allow({1}), -1);
  EXPECT_EQ(limiter.Allow({2}), -1);
  EXPECT_EQ(limiter.Allow({2'000'000'000}), 2);
}

TEST(CheckDeathTest, ABrokenInvariantEndsTheProcess) {
  EXPECT_DEATH(SIMM_CHECK(1 == 2, "because"), "1 == 2: because");
}

}  // namespace
}  // namespace simm
