#include <sys/wait.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>

#include "bench/micro/loopback.h"
#include "common/base/bytes.h"

// How fast one TCP connection over loopback streams from one cold buffer into another: the most
// that any store can do with one connection. Two processes, as client and data server are.
namespace simm::bench {
namespace {

// The sender walks through its buffer in chunks until the receiver has enough and closes.
[[noreturn]] void Send(int fd, const std::byte* buffer, size_t bytes, size_t chunk) {
  for (size_t at = 0; SendAll(fd, buffer + at, chunk);)
    at = at + 2 * chunk <= bytes ? at + chunk : 0;
  _exit(0);
}

int Main(int argc, char** argv) {
  std::string buffer_text = "1GiB";
  std::string chunk_text = "1MiB";
  double seconds = 3;
  CLI::App app("Streams between two cold buffers over one loopback connection");
  app.add_option("--buffer", buffer_text, "Size of each buffer")->capture_default_str();
  app.add_option("--chunk", chunk_text, "Bytes of one send and receive")->capture_default_str();
  app.add_option("--seconds", seconds, "How long")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const Result<uint64_t> bytes = ParseSize(buffer_text);
  const Result<uint64_t> chunk = ParseSize(chunk_text);
  if (!bytes.ok() || !chunk.ok() || *chunk == 0 || *chunk > *bytes) {
    std::fprintf(stderr, "--buffer and --chunk: sizes such as 64KiB; a chunk fits the buffer\n");
    return 2;
  }
  std::byte* const source = MapPages(*bytes, 1);
  std::byte* const target = MapPages(*bytes, 2);
  const SocketPair pair = ConnectLoopback();
  const pid_t child = fork();
  if (child == 0) {
    close(pair.client);
    Send(pair.server, source, *bytes, *chunk);
  }
  close(pair.server);
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto end = start + std::chrono::duration<double>(seconds);
  uint64_t moved = 0;
  for (size_t at = 0; Clock::now() < end;) {
    Require(ReceiveAll(pair.client, target + at, *chunk), "recv");
    moved += *chunk;
    at = at + 2 * *chunk <= *bytes ? at + *chunk : 0;
  }
  const double took = std::chrono::duration<double>(Clock::now() - start).count();
  close(pair.client);
  waitpid(child, nullptr, 0);
  const nlohmann::json result = {{"op", "stream_baseline"},
                                 {"buffer_bytes", *bytes},
                                 {"chunk_bytes", *chunk},
                                 {"seconds", took},
                                 {"bytes_per_s", static_cast<double>(moved) / took}};
  std::printf("%s\n", result.dump().c_str());
  return 0;
}

}  // namespace
}  // namespace simm::bench

int main(int argc, char** argv) { return simm::bench::Main(argc, argv); }
