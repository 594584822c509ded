#include <sys/wait.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "bench/histogram.h"
#include "bench/micro/loopback.h"

// How long a question of 64 B and its answer take over a bare loopback connection between two
// processes that block in their system calls.
namespace simm::bench {
namespace {

[[noreturn]] void Answer(int fd, std::byte* buffer, size_t buffer_bytes, size_t question,
                         size_t answer) {
  std::byte asked[4096];
  for (size_t at = 0; ReceiveAll(fd, asked, question);) {
    if (!SendAll(fd, buffer + at, answer)) break;
    at = at + 2 * answer <= buffer_bytes ? at + answer : 0;
  }
  _exit(0);
}

int Main(int argc, char** argv) {
  constexpr size_t kBuffer = 256 << 20;
  size_t question = 64;
  size_t answer = 4096;
  double seconds = 3;
  CLI::App app("Round trip of a question and its answer over one loopback connection");
  app.add_option("--question", question, "Bytes asked")->check(CLI::Range(1, 4096));
  app.add_option("--answer", answer, "Bytes answered")->check(CLI::Range(size_t{1}, kBuffer));
  app.add_option("--seconds", seconds, "How long")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  std::byte* const source = MapPages(kBuffer, 1);
  std::byte* const target = MapPages(kBuffer, 2);
  const SocketPair pair = ConnectLoopback();
  const pid_t child = fork();
  if (child == 0) {
    close(pair.client);
    Answer(pair.server, source, kBuffer, question, answer);
  }
  close(pair.server);
  using Clock = std::chrono::steady_clock;
  Histogram latency;
  const auto start = Clock::now();
  const auto end = start + std::chrono::duration<double>(seconds);
  std::byte asked[4096] = {};
  auto now = start;
  for (size_t at = 0; now < end;) {
    Require(SendAll(pair.client, asked, question), "send");
    Require(ReceiveAll(pair.client, target + at, answer), "recv");
    at = at + 2 * answer <= kBuffer ? at + answer : 0;
    const auto later = Clock::now();
    latency.Record(static_cast<uint64_t>(std::chrono::nanoseconds(later - now).count()));
    now = later;
  }
  const double took = std::chrono::duration<double>(now - start).count();
  close(pair.client);
  waitpid(child, nullptr, 0);
  const nlohmann::json result = {
      {"op", "round_trip_baseline"},
      {"question_bytes", question},
      {"answer_bytes", answer},
      {"seconds", took},
      {"ops_per_s", static_cast<double>(latency.count()) / took},
      {"latency_us", {{"p50", latency.PercentileUs(0.5)}, {"p99", latency.PercentileUs(0.99)}}}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace simm::bench

int main(int argc, char** argv) { return simm::bench::Main(argc, argv); }
