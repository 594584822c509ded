#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "common/config/config.h"
#include "common/transport/open.h"

namespace simm::dataserver {

// Everything that simm-dataserver can be told; defaults are the program's.
struct ServerOptions {
  std::vector<std::string> managers = {"127.0.0.1:30001"};
  uint64_t memory_bytes = 1ULL << 30;
  uint64_t mean_value_bytes = 16 << 10;
  std::string listen = "0.0.0.0:30003";
  std::string data_listen = "0.0.0.0:30002";
  std::string advertise;  // empty: the address from which the manager is reached
  std::string http = "0.0.0.0:30082";
  std::string name;  // empty: host name and data port
  std::string zone;
  std::string pool;
  std::string transport = "auto";
  std::string shm_socket;
  transport::RdmaOptions rdma;
  uint64_t migration_bandwidth = 256ULL << 20;  // bytes a second; 0: no limit
  uint32_t threads = 0;                         // 0: one per processor, at most 16
  bool prefault = true;
  bool huge_pages = true;
  bool verify_puts = true;
  bool verify_commits = false;
  std::chrono::milliseconds session_timeout{10'000};
  std::chrono::milliseconds slow_op{1'000};
  std::string log_level = "info";
  bool log_json = false;
  std::string ready_file;
  std::vector<config::OptionValue> effective;  // all of these, for operators who ask
};

config::ConfigSpec MakeSpec(ServerOptions* options);

}  // namespace simm::dataserver
