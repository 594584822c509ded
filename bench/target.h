#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/embedded_cluster.h"
#include "bench/options.h"
#include "client/admin.h"
#include "client/client.h"

namespace simm::bench {

// The cluster under test, started for this run or somebody else's, and the client that calls it.
// Thread-compatible; the client is thread-safe.
class Target {
 public:
  // kUnavailable, kInvalidArgument: with what to do. Call from the main thread, before any other
  // one.
  static Result<std::unique_ptr<Target>> Open(const Options& options);

  Client& client() { return *client_; }
  Result<rpc::ClusterStatus> Status() const;
  // Sum of the data files of the servers that are alive.
  uint64_t DataBytes() const;
  // The transport in use, as the client says.
  std::string Transport() const;
  // Of the data servers that this run has started.
  std::vector<pid_t> ServerPids() const;
  const Options& options() const { return options_; }

 private:
  explicit Target(const Options& options) : options_(options) {}

  Options options_;
  std::unique_ptr<EmbeddedCluster> cluster_;
  std::unique_ptr<Admin> admin_;
  std::unique_ptr<Client> client_;
};

// Page-aligned memory, known to the client's transports for as long as it lives.
class Arena {
 public:
  Arena(Client& client, size_t bytes);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  std::byte* data() { return data_; }
  size_t size() const { return size_; }

 private:
  Client& client_;
  std::byte* data_;
  size_t size_;
  MemoryHandle handle_;
  bool registered_ = false;
};

}  // namespace simm::bench
