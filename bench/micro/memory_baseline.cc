#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "bench/micro/loopback.h"
#include "bench/value_pattern.h"
#include "common/base/hash.h"

// How fast one core copies, hashes, makes and checks values of 1 MiB that lie cold in 1 GiB.
namespace simm::bench {
namespace {

constexpr size_t kBuffer = size_t{1} << 30;
constexpr size_t kValue = size_t{1} << 20;

// Bytes a second of `work` on each value of the buffer in turn, for about `seconds`.
double MeasureFor(double seconds, const std::function<void(size_t offset)>& work) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  uint64_t bytes = 0;
  double took = 0;
  for (size_t at = 0; took < seconds; at = at + 2 * kValue <= kBuffer ? at + kValue : 0) {
    work(at);
    bytes += kValue;
    took = std::chrono::duration<double>(Clock::now() - start).count();
  }
  return static_cast<double>(bytes) / took;
}

int Main(int argc, char** argv) {
  double seconds = 1;
  CLI::App app("Copies, hashes, makes and checks cold memory with one core");
  app.add_option("--seconds", seconds, "How long each")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const auto measure = [&](const std::function<void(size_t offset)>& work) {
    return MeasureFor(seconds, work);
  };
  std::byte* const source = MapPages(kBuffer, 1);
  std::byte* const target = MapPages(kBuffer, 2);
  uint64_t sum = 0;
  const double copy = measure([&](size_t at) { std::memcpy(target + at, source + at, kValue); });
  const double hash = measure([&](size_t at) { sum += Xxh3_64({source + at, kValue}); });
  const double make = measure([&](size_t at) { FillPattern(at, {target + at, kValue}); });
  const double check = measure([&](size_t at) {
    sum += MatchesPattern(at, {target + at, kValue}) ? 1 : 0;
  });
  const nlohmann::json result = {{"op", "memory_baseline"},
                                 {"memcpy_bytes_per_s", copy},
                                 {"xxh3_bytes_per_s", hash},
                                 {"pattern_make_bytes_per_s", make},
                                 {"pattern_check_bytes_per_s", check},
                                 {"sum", sum}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace simm::bench

int main(int argc, char** argv) { return simm::bench::Main(argc, argv); }
