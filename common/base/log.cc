#include "common/base/log.h"

#include <spdlog/sinks/stdout_sinks.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/base/bytes.h"

namespace simm {
namespace {

// One JSON object a line: ts, level, component, message.
class JsonFormatter final : public spdlog::formatter {
 public:
  void format(const spdlog::details::log_msg& record, spdlog::memory_buf_t& out) override {
    const auto ms =
        std::chrono::duration_cast<std::chrono::milliseconds>(record.time.time_since_epoch());
    const auto level = spdlog::level::to_string_view(record.level);
    const nlohmann::json line = {
        {"ts", static_cast<double>(ms.count()) / 1000.0},
        {"level", std::string(level.data(), level.size())},
        {"component", std::string(record.logger_name.data(), record.logger_name.size())},
        {"message", std::string(record.payload.data(), record.payload.size())}};
    const std::string text =
        line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    out.append(text.data(), text.data() + text.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<JsonFormatter>();
  }
};

}  // namespace

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
