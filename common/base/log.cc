#include "common/base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/mutex.h"

namespace simm {
namespace {

// Of every JSON line.
class LogFields {
 public:
  static LogFields& Get() {
    static LogFields* const fields = new LogFields;  // threads may log until the process ends
    return *fields;
  }
  void Set(const std::string& name, const std::string& value) {
    MutexLock lock(mutex_);
    fields_[name] = value;
  }
  void AddTo(nlohmann::json* line) {
    MutexLock lock(mutex_);
    for (const auto& [name, value] : fields_) (*line)[name] = value;
  }

 private:
  Mutex mutex_;
  std::map<std::string, std::string> fields_ SIMM_GUARDED_BY(mutex_);
};

// One JSON object a line: ts, level, component, pid, message, and the fields that were set.
class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& record, spdlog::memory_buf_t& out) override {
    const auto ms =
        std::chrono::duration_cast<std::chrono::milliseconds>(record.time.time_since_epoch());
    const auto level = spdlog::level::to_string_view(record.level);
    nlohmann::json line = {
        {"ts", static_cast<double>(ms.count()) / 1000.0},
        {"level", std::string(level.data(), level.size())},
        {"component", std::string(record.logger_name.data(), record.logger_name.size())},
        {"pid", getpid()},
        {"message", std::string(record.payload.data(), record.payload.size())}};
    LogFields::Get().AddTo(&line);
    const std::string text =
        line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

}  // namespace

// Statements that have kept lines back and have not said so yet.
class SilentSites {
 public:
  static SilentSites& Get() {
    static SilentSites* const sites = new SilentSites;
    return *sites;
  }
  void Add(LogSite* site, spdlog::level::level_enum level) {
    MutexLock lock(mutex_);
    sites_.push_back({site, level});
    any_.store(true, std::memory_order_relaxed);
  }
  // Says it for those whose second is over.
  void Tell(Instant now) {
    if (!any_.load(std::memory_order_relaxed)) return;
    MutexLock lock(mutex_);
    std::erase_if(sites_, [&](const Silent& silent) {
      if (now.nanos < silent.site->window_end_.load(std::memory_order_relaxed)) return false;
      const int64_t more = silent.site->suppressed_.exchange(0, std::memory_order_relaxed);
      if (more > 0) {
        spdlog::log(silent.level, "{} lines of one kind were suppressed: more than {} a second",
                    more, LogSite::kLinesPerSecond);
      }
      return true;
    });
    any_.store(!sites_.empty(), std::memory_order_relaxed);
  }

 private:
  struct Silent {
    LogSite* site;
    spdlog::level::level_enum level;
  };
  std::atomic<bool> any_{false};
  Mutex mutex_;
  std::vector<Silent> sites_ SIMM_GUARDED_BY(mutex_);
};

int64_t LogSite::Enter(spdlog::level::level_enum level, Instant now) {
  int64_t more = 0;
  int64_t end = window_end_.load(std::memory_order_relaxed);
  if (now.nanos >= end &&
      window_end_.compare_exchange_strong(end, (now + std::chrono::seconds(1)).nanos,
                                          std::memory_order_relaxed)) {
    lines_.store(0, std::memory_order_relaxed);
    more = suppressed_.exchange(0, std::memory_order_relaxed);
  }
  if (lines_.fetch_add(1, std::memory_order_relaxed) >= kLinesPerSecond) {
    if (suppressed_.fetch_add(1, std::memory_order_relaxed) == 0)
      SilentSites::Get().Add(this, level);
    return -1;
  }
  SilentSites::Get().Tell(now);
  return more;
}

void SetLogField(const std::string& name, const std::string& value) {
  LogFields::Get().Set(name, value);
}

void InitLog(const std::string& component, const std::string& level, bool json) {
  auto logger = std::make_shared<spdlog::logger>(component,
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  if (json) {
    logger->set_formatter(std::make_unique<JsonFormatter>());
  } else {
    logger->set_pattern("%Y-%m-%d %H:%M:%S.%e %^%l%$ %n: %v");
  }
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(logger);
  const auto parsed = spdlog::level::from_str(level);
  spdlog::set_level(parsed == spdlog::level::off && level != "off" ? spdlog::level::info : parsed);
}

int64_t LogLimiter::Allow(Instant now) {
  int64_t next = next_.load(std::memory_order_relaxed);
  if (now.nanos < next ||
      !next_.compare_exchange_strong(next, (now + interval_).nanos, std::memory_order_relaxed)) {
    suppressed_.fetch_add(1, std::memory_order_relaxed);
    return -1;
  }
  return suppressed_.exchange(0, std::memory_order_relaxed);
}

ProgressLog::ProgressLog(std::string what, uint64_t total_bytes)
    : what_(std::move(what)), total_bytes_(total_bytes), limiter_(std::chrono::seconds(2)) {
  (void)limiter_.Allow(MonotonicClock::Get().Now());
}

void ProgressLog::Add(uint64_t bytes) {
  const uint64_t done = done_bytes_.fetch_add(bytes) + bytes;
  if (done >= total_bytes_ || limiter_.Allow(MonotonicClock::Get().Now()) < 0) return;
  SIMM_LOG_INFO("{}: {} of {}", what_, FormatSize(done), FormatSize(total_bytes_));
}

}  // namespace simm
