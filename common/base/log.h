#pragma once

#include <spdlog/spdlog.h>

#include <atomic>
#include <string>
#include <utility>

#include "common/base/clock.h"

namespace simm {

// Sets the format ("time level component: text" on stderr, or one JSON object a line) and the level
// ("debug", "info", "warn", "error"). Call once, at the start of main. An unknown level means info.
void InitLog(const std::string& component, const std::string& level, bool json);

// A field of every JSON line from now on, such as {"boot", "..."}: what tells the lines of this
// process from those of its like in one place. A name that is there gets the new value.
// Thread-safe.
void SetLogField(const std::string& name, const std::string& value);

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

// One statement that logs. Whatever it is called for, it writes at most kLinesPerSecond lines a
// second; how many were kept back is said by the next line that it writes, or by the next line of
// any other statement. Thread-safe; lives as long as the process.
class LogSite {
 public:
  static constexpr int64_t kLinesPerSecond = 20;

  template <typename... Args>
  void Log(spdlog::level::level_enum level, spdlog::format_string_t<Args...> format,
           Args&&... args) {
    if (!spdlog::should_log(level)) return;
    const int64_t more = Enter(level, MonotonicClock::Get().Now());
    if (more < 0) return;
    if (more == 0) {
      spdlog::log(level, format, std::forward<Args>(args)...);
    } else {
      spdlog::log(level, "{} ({} more suppressed)",
                  fmt::format(format, std::forward<Args>(args)...), more);
    }
  }

  // -1: keep quiet. Otherwise how many lines were kept back before this one.
  int64_t Enter(spdlog::level::level_enum level, Instant now);

 private:
  friend class SilentSites;
  std::atomic<int64_t> window_end_{INT64_MIN};
  std::atomic<int64_t> lines_{0};
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

#define SIMM_LOG_AT(level, ...)            \
  do {                                     \
    static ::simm::LogSite simm_log_site;  \
    simm_log_site.Log(level, __VA_ARGS__); \
  } while (false)
#define SIMM_LOG_DEBUG(...) SIMM_LOG_AT(::spdlog::level::debug, __VA_ARGS__)
#define SIMM_LOG_INFO(...) SIMM_LOG_AT(::spdlog::level::info, __VA_ARGS__)
#define SIMM_LOG_WARN(...) SIMM_LOG_AT(::spdlog::level::warn, __VA_ARGS__)
#define SIMM_LOG_ERROR(...) SIMM_LOG_AT(::spdlog::level::err, __VA_ARGS__)
