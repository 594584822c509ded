#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>
#include <vector>

#include "bench/child_process.h"
#include "bench/histogram.h"
#include "bench/trace.h"
#include "bench/value_pattern.h"
#include "common/protocol/pool_layout.h"

namespace simm::bench {
namespace {

using ::testing::HasSubstr;

TEST(ValuePatternTest, MatchesOnlyItself) {
  for (const size_t size : {0, 1, 63, 64, 65, 1000, 4096}) {
    std::vector<std::byte> value(size);
    FillPattern(ValueSeed(7, 1), value);
    EXPECT_TRUE(MatchesPattern(ValueSeed(7, 1), value)) << size;
    if (size < 8) continue;
    EXPECT_FALSE(MatchesPattern(ValueSeed(7, 2), value)) << size;
    EXPECT_FALSE(MatchesPattern(ValueSeed(8, 1), value)) << size;
  }
}

TEST(ValuePatternTest, SeesEveryFlippedByte) {
  std::vector<std::byte> value(200);
  FillPattern(1, value);
  for (std::byte& byte : value) {
    byte ^= std::byte{0x10};
    EXPECT_FALSE(MatchesPattern(1, value));
    byte ^= std::byte{0x10};
  }
  EXPECT_TRUE(MatchesPattern(1, value));
}

TEST(ValuePatternTest, SeesShiftedWordsAndBlocks) {
  std::vector<std::byte> value(4096 + 64);
  FillPattern(1, value);
  for (const size_t shift : {8, 16, 32, 64}) {
    EXPECT_FALSE(MatchesPattern(1, {value.data() + shift, 4096})) << shift;
  }
}

TEST(HistogramTest, PercentilesWithinTheBucketWidth) {
  Histogram histogram;
  for (uint64_t nanos = 1; nanos <= 100'000; ++nanos) histogram.Record(nanos);
  EXPECT_NEAR(histogram.PercentileUs(0.5), 50, 50 * 0.016);
  EXPECT_NEAR(histogram.PercentileUs(0.99), 99, 99 * 0.016);
  EXPECT_NEAR(histogram.PercentileUs(1), 100, 100 * 0.016);
}

TEST(HistogramTest, ExtremesAndMerge) {
  Histogram a;
  Histogram b;
  EXPECT_EQ(a.PercentileUs(0.5), 0);
  a.Record(0);
  b.Record(UINT64_MAX);
  a.Merge(b);
  EXPECT_EQ(a.count(), 2u);
  EXPECT_EQ(a.PercentileUs(0), 0);
  EXPECT_GE(a.PercentileUs(1), 1.8e16);
}

class TraceTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& text) {
    path_ = ::testing::TempDir() + "trace." + std::to_string(getpid());
    std::ofstream(path_) << text;
    return path_;
  }
  ~TraceTest() override {
    if (!path_.empty()) std::remove(path_.c_str());
  }
  std::string path_;
};

TEST_F(TraceTest, ReadsRequests) {
  const std::string file = Write("{\"hash_ids\":[1,2,3]}\n\n{\"hash_ids\":[1,2,4,5]}\n");
  const Result<Trace> trace = Trace::Read(file, 0);
  ASSERT_TRUE(trace.ok()) << trace.status().ToString();
  EXPECT_EQ(trace->requests().size(), 2u);
  EXPECT_EQ(trace->blocks(), 7u);
  EXPECT_EQ(trace->distinct(), 5u);
  EXPECT_EQ(trace->longest(), 4u);
  EXPECT_EQ(Trace::Read(file, 1)->distinct(), 3u);
}

TEST_F(TraceTest, RefusesWhatIsNoTrace) {
  for (const char* text : {"{", "[]", "{\"hash_ids\":7}", "{\"hash_ids\":[\"a\"]}", ""}) {
    EXPECT_EQ(Trace::Read(Write(text), 0).code(), Code::kInvalidArgument) << text;
  }
  EXPECT_THAT(Trace::Read(Write("{\"hash_ids\":[1]}\n{}"), 0).status().message(), HasSubstr(":2:"));
  EXPECT_EQ(Trace::Read("/nonexistent", 0).code(), Code::kInvalidArgument);
}

TEST_F(TraceTest, ServersHoldTheFractionAndLittleMore) {
  std::string text;
  for (int i = 0; i < 10'000; ++i) text += "{\"hash_ids\":[" + std::to_string(i) + "]}\n";
  const Result<Trace> trace = Trace::Read(Write(text), 0);
  ASSERT_TRUE(trace.ok());
  Options options;
  options.embedded = 3;
  options.value_bytes = 64 << 10;
  options.capacity_fraction = 0.1;
  ASSERT_TRUE(SizeForTrace(*trace, &options).ok());
  const uint64_t data =
      3 * protocol::ComputeGeometry(options.memory_bytes, options.value_bytes).data_bytes;
  const uint64_t block = protocol::ExtentBytes(4, options.value_bytes);
  EXPECT_EQ(data / block, 1000u);
}

TEST(ChildProcessTest, ReportsHowItEnded) {
  const std::string log = ::testing::TempDir() + "child." + std::to_string(getpid());
  auto child = ChildProcess::Start({"/bin/sh", "-c", "exit 7"}, log);
  ASSERT_TRUE(child.ok());
  (*child)->Stop();
  const std::optional<int> code = (*child)->Ended();
  ASSERT_TRUE(code.has_value());
  EXPECT_TRUE(*code == 7 || *code == 128 + SIGTERM);
  auto sleeper = ChildProcess::Start({"/bin/sleep", "1000"}, log);
  ASSERT_TRUE(sleeper.ok());
  EXPECT_FALSE((*sleeper)->Ended().has_value());
  (*sleeper)->Kill();
  EXPECT_EQ((*sleeper)->Ended(), 128 + SIGKILL);
  EXPECT_EQ(ChildProcess::Start({"/nonexistent"}, log).code(), Code::kUnavailable);
  std::remove(log.c_str());
}

}  // namespace
}  // namespace simm::bench
