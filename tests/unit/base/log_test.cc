#include "common/base/log.h"

#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <unistd.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

namespace simm {
namespace {

// Takes what is logged for as long as it lives, in the place of the process's logger.
class CapturedLog {
 public:
  CapturedLog() : before_(spdlog::default_logger()) {
    sink_ = std::make_shared<spdlog::sinks::ostream_sink_mt>(text_);
    auto logger = std::make_shared<spdlog::logger>("captured", sink_);
    logger->set_pattern("%v");
    spdlog::set_default_logger(logger);
  }
  ~CapturedLog() { spdlog::set_default_logger(before_); }
  size_t Lines() const {
    const std::string text = text_.str();
    return static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
  }
  std::string text() const { return text_.str(); }

 private:
  const std::shared_ptr<spdlog::logger> before_;
  std::ostringstream text_;
  std::shared_ptr<spdlog::sinks::ostream_sink_mt> sink_;
};

TEST(LogSite, IsBoundedAndSaysHowManyItKeptBack) {
  static LogSite site;
  const auto second = [](int64_t n) { return Instant{n * 1'000'000'000}; };
  int64_t passed = 0;
  for (int i = 0; i < 1000; ++i) passed += site.Enter(spdlog::level::info, second(1)) >= 0 ? 1 : 0;
  EXPECT_EQ(passed, LogSite::kLinesPerSecond);
  EXPECT_EQ(site.Enter(spdlog::level::info, second(3)), 1000 - LogSite::kLinesPerSecond);
  EXPECT_EQ(site.Enter(spdlog::level::info, second(3)), 0);
}

TEST(LogSite, AnotherStatementTellsForOneThatHasFallenSilent) {
  CapturedLog log;
  static LogSite loud, other;  // as those of statements, which live for ever
  for (int i = 0; i < 120; ++i) (void)loud.Enter(spdlog::level::warn, {1});
  EXPECT_EQ(log.Lines(), 0u);
  EXPECT_EQ(other.Enter(spdlog::level::info, {5'000'000'000}), 0);
  EXPECT_EQ(log.text(), "100 lines of one kind were suppressed: more than 20 a second\n");
  EXPECT_EQ(loud.Enter(spdlog::level::warn, {6'000'000'000}), 0) << "said already";
}

TEST(LogSite, AStatementInALoopDoesNotFloodTheLog) {
  CapturedLog log;
  for (int i = 0; i < 10'000; ++i) SIMM_LOG_WARN("line {}", i);
  // One more window may have begun meanwhile, and more on a machine that is busy for seconds.
  EXPECT_GE(log.Lines(), static_cast<size_t>(LogSite::kLinesPerSecond));
  EXPECT_LT(log.Lines(), 1000u);
}

// Everything that a process writes to stderr while `body` runs, with the format of --log-json.
std::string JsonLinesOf(const std::function<void()>& body) {
  const auto before = spdlog::default_logger();
  testing::internal::CaptureStderr();
  InitLog("unit", "info", /*json=*/true);
  body();
  spdlog::set_default_logger(before);
  return testing::internal::GetCapturedStderr();
}

TEST(JsonLog, OneObjectALineWithTheProcessesFields) {
  SetLogField("boot", "00ff");
  const std::string text = JsonLinesOf([] {
    SIMM_LOG_INFO("a \"quoted\" {}\nsecond line \xff", 7);
    SIMM_LOG_ERROR("two");
  });
  std::istringstream lines(text);
  std::string line;
  ASSERT_TRUE(std::getline(lines, line));
  const auto first = nlohmann::json::parse(line);
  EXPECT_EQ(first.at("level"), "info");
  EXPECT_EQ(first.at("component"), "unit");
  EXPECT_EQ(first.at("boot"), "00ff");
  EXPECT_EQ(first.at("pid"), getpid());
  EXPECT_GT(first.at("ts").get<double>(), 1.6e9);
  EXPECT_EQ(first.at("message").get<std::string>().substr(0, 12), "a \"quoted\" 7");
  ASSERT_TRUE(std::getline(lines, line));
  EXPECT_EQ(nlohmann::json::parse(line).at("message"), "two");
  EXPECT_FALSE(std::getline(lines, line));
}

}  // namespace
}  // namespace simm
