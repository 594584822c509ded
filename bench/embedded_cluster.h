#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/child_process.h"
#include "common/base/status.h"

namespace simm::bench {

struct EmbeddedOptions {
  std::string bin_dir;  // where simm-manager and simm-dataserver are; empty: this program's own
  uint32_t servers = 1;
  uint64_t memory_bytes = 1ULL << 30;  // of each data server
  uint64_t mean_value_bytes = 16 << 10;
  // A manager that finds no state begins a new cluster at its first start only; here: at each.
  bool always_new_cluster = false;
  // Not empty: no manager is started; that of this address is the caller's.
  std::string manager_address;
  std::vector<std::string> manager_flags;  // added to the command lines
  std::vector<std::string> server_flags;
  std::vector<std::string> zones;  // of the first data servers; the others have none
  // Not empty: each data server has its pool in files of this folder, FOLDER/server-<index>.
  std::string pool_folder;
  std::chrono::milliseconds start_timeout{60'000};
};

// What a started program says in its ready file; empty where it has none.
struct ReadyAddresses {
  std::string listen;
  std::string data_listen;
  std::string http;
};

// A manager and data servers as real processes on loopback, with ports chosen by the kernel and
// state in a temporary folder that goes with them. Start from the main thread (see ChildProcess).
// Thread-compatible.
class EmbeddedCluster {
 public:
  // Starts all and waits until the manager calls every data server alive. kUnavailable: with the
  // end of the log of the program that did not come up.
  static Result<std::unique_ptr<EmbeddedCluster>> Start(const EmbeddedOptions& options);
  // Starts nothing yet: for tests that choose the order themselves. kUnavailable: no temporary
  // folder.
  static Result<std::unique_ptr<EmbeddedCluster>> Create(const EmbeddedOptions& options);
  // Ends all processes and removes the folder.
  ~EmbeddedCluster();

  // (Re)starts the manager, on the port that it had before. Its state stays.
  Status StartManager();
  // (Re)starts data server `index`, named "server-<index>", on the ports that it had before.
  Status StartServer(size_t index);
  // Until `alive` data servers are alive and each has applied the newest map.
  Status WaitAlive(size_t alive, std::chrono::milliseconds timeout) const;

  const std::string& manager_address() const { return manager_.ready.listen; }
  const ReadyAddresses& manager_ready() const { return manager_.ready; }
  const ReadyAddresses& server_ready(size_t index) const { return servers_[index].ready; }
  // nullptr before the start.
  ChildProcess* manager() { return manager_.process.get(); }
  ChildProcess* server(size_t index) { return servers_[index].process.get(); }
  size_t server_count() const { return servers_.size(); }
  const std::string& folder() const { return folder_; }

 private:
  struct Program {
    std::unique_ptr<ChildProcess> process;
    ReadyAddresses ready;
  };

  explicit EmbeddedCluster(EmbeddedOptions options);
  Status Launch(const std::string& name, std::vector<std::string> argv, Program* program) const;
  std::string LogTail(const std::string& name) const;

  EmbeddedOptions options_;
  std::string folder_;
  Program manager_;
  bool manager_started_ = false;
  std::vector<Program> servers_;
};

}  // namespace simm::bench
