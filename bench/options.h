#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace simm::bench {

// What the command line of simm-bench says.
struct Options {
  std::string op;  // put, get, exists, mixed, trace, fill
  std::string command;

  std::string manager = "127.0.0.1:30001";
  uint32_t embedded = 0;  // data servers of a cluster of its own; 0: use `manager`
  uint64_t memory_bytes = 1ULL << 30;
  std::string transport = "auto";
  std::vector<std::string> rdma_devices;
  std::string checksum = "always";
  std::string name_space = "default";
  bool json = false;
  std::string http;  // where the client's metrics are; empty: as the environment says

  uint64_t value_bytes = 0;  // 0: the command's own default
  uint32_t batch = 16;
  uint32_t threads = 1;
  double seconds = 10;
  double warmup_seconds = 0.5;
  bool verify = false;
  uint64_t keys = 0;  // 0: as many as fill half of the cluster
  uint64_t arena_bytes = 256ULL << 20;
  uint32_t deadline_ms = 5000;
  uint64_t seed = 1;

  double replace_fraction = 1.0;  // of the puts, in put and mixed
  uint32_t put_threads = 1;       // in mixed
  double put_rate = 0;  // values a second over all put threads in mixed; 0: as fast as possible
  double fill_factor = 1.5;

  std::string file;
  double capacity_fraction = 0.1;
  uint64_t limit = 0;
  uint32_t concurrency = 1;
  bool touch_after_put = false;
  std::string key_prefix;
};

// Fills `options`; or the exit code of --help, --version (0) or a wrong command line (2).
std::optional<int> ParseOptions(int argc, char** argv, Options* options);

}  // namespace simm::bench
