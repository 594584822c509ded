#pragma once

#include <spdlog/spdlog.h>

#include <atomic>
#include <string>

#include "common/base/clock.h"

namespace simm {

// Sets the format ("time level component: text" on stderr, or one JSON object a line) and the level
// ("debug", "info", "warn", "error"). Call once, at the start of main. An unknown level means info.
void InitLog(const std::string& component, const std::string& level, bool json);

// Lets one call through per interval and counts the rest. Thread-safe.
class LogLimiter {
 public:
  explicit LogLimiter(Duration interval) : interval_(interval) {}
  // -1: keep quiet. Otherwise how many calls were kept back before this one.
  int64_t Allow(Instant now);

 private:
  const Duration interval_;
  std::atomic<int64_t> next_{INT64_MIN};
  std::atomic<int64_t> suppressed_{0};
};

// Tells how far a long piece of work is: "WHAT: 12.0 GiB of 64.0 GiB", every 2 s, and nothing when
// it takes less. Thread-safe.
class ProgressLog {
 public:
  ProgressLog(std::string what, uint64_t total_bytes);
  void Add(uint64_t bytes);

 private:
  const std::string what_;
  const uint64_t total_bytes_;
  std::atomic<uint64_t> done_bytes_{0};
  LogLimiter limiter_;
};

}  // namespace simm

#define SIMM_LOG_DEBUG(...) ::spdlog::debug(__VA_ARGS__)
#define SIMM_LOG_INFO(...) ::spdlog::info(__VA_ARGS__)
#define SIMM_LOG_WARN(...) ::spdlog::warn(__VA_ARGS__)
#define SIMM_LOG_ERROR(...) ::spdlog::error(__VA_ARGS__)
