#include "bench/outcome.h"

#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "bench/commit.h"
#include "common/base/bytes.h"

namespace simm::bench {

std::string DescribeMachine() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  std::string model = "unknown processor";
  for (std::string line; std::getline(cpuinfo, line);) {
    if (const size_t colon = line.find(": ");
        line.starts_with("model name") && colon != line.npos) {
      model = line.substr(colon + 2);
      break;
    }
  }
  const auto pages = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES));
  const auto page_bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return model + ", " + std::to_string(sysconf(_SC_NPROCESSORS_ONLN)) + " CPUs, " +
         FormatSize(pages * page_bytes);
}

nlohmann::json LatencyJson(const Histogram& latency) {
  return {{"p50", latency.PercentileUs(0.50)},
          {"p99", latency.PercentileUs(0.99)},
          {"p999", latency.PercentileUs(0.999)}};
}

nlohmann::json ToJson(const Options& options, const std::string& transport,
                      const Outcome& outcome) {
  const double seconds = outcome.seconds > 0 ? outcome.seconds : 1e-9;
  nlohmann::json json = {{"op", options.op},
                         {"transport", transport},
                         {"value_bytes", options.value_bytes},
                         {"batch", options.batch},
                         {"threads", options.threads},
                         {"seconds", outcome.seconds},
                         {"ops_per_s", static_cast<double>(outcome.ops) / seconds},
                         {"bytes_per_s", static_cast<double>(outcome.bytes) / seconds},
                         {"latency_us", LatencyJson(outcome.latency)},
                         {"hits", outcome.hits},
                         {"misses", outcome.misses},
                         {"errors", outcome.errors},
                         {"corrupt", outcome.corrupt},
                         {"checksum", options.checksum},
                         {"verify", options.verify},
                         {"commit", kCommit},
                         {"machine", DescribeMachine()},
                         {"command", options.command}};
  json.update(outcome.extra);
  return json;
}

void PrintForPeople(const Options& options, const nlohmann::json& result) {
  const auto number = [&](const char* name) { return result.at(name).get<double>(); };
  const auto count = [&](const char* name) { return result.at(name).get<uint64_t>(); };
  const nlohmann::json& latency = result.at("latency_us");
  std::printf("%s over %s: values of %s, batch %u, %u thread(s), %.1f s\n", options.op.c_str(),
              result.at("transport").get<std::string>().c_str(),
              FormatSize(options.value_bytes).c_str(), options.batch, options.threads,
              number("seconds"));
  std::printf("  %.0f keys/s, %.3f GB/s; a call: p50 %.0f us, p99 %.0f us, p99.9 %.0f us\n",
              number("ops_per_s"), number("bytes_per_s") * 1e-9, latency.at("p50").get<double>(),
              latency.at("p99").get<double>(), latency.at("p999").get<double>());
  std::printf("  %lu hits, %lu misses, %lu errors, %lu corrupt\n", count("hits"), count("misses"),
              count("errors"), count("corrupt"));
  for (const char* name : {"requests",
                           "blocks",
                           "prefix_hit_rate",
                           "failed_puts",
                           "live_value_bytes",
                           "data_bytes",
                           "efficiency",
                           "fresh_puts",
                           "fresh_hits",
                           "round_trips_per_call",
                           "put_ops_per_s",
                           "put_latency_us",
                           "work_requests",
                           "doorbells",
                           "completions",
                           "validation_retries",
                           "lookups",
                           "retries",
                           "payload_bytes_copied",
                           "server_cpu_seconds",
                           "touch_after_put",
                           "capacity_blocks"}) {
    if (result.contains(name)) std::printf("  %s: %s\n", name, result.at(name).dump().c_str());
  }
  std::printf("  commit %s on %s\n  %s\n", result.at("commit").get<std::string>().c_str(),
              result.at("machine").get<std::string>().c_str(), options.command.c_str());
}

}  // namespace simm::bench
