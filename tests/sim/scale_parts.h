#pragma once

#include <ctime>
#include <memory>
#include <set>
#include <string>

#include "tests/sim/scale_world.h"

// Inside the scale simulation only: the processes and streams of a ScaleWorld.
namespace simm::sim {

inline constexpr char kManagerAddress[] = "manager:1";

// Adds what its scope has used to a figure.
class ScaleWorld::Cpu {
 public:
  explicit Cpu(double& sum) : sum_(sum), start_(Used()) {}
  ~Cpu() { sum_ += Used() - start_; }

 private:
  static double Used() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
  }
  double& sum_;
  const double start_;
};

struct ScaleWorld::Message {
  std::string bytes;
  MapVersion from;
  rpc::MapUpdate update;  // once decoded; a diff that was applied once is a snapshot here
  bool decoded = false;
  bool diff = false, snapshot = false;
};

// Who serves the map: the manager or a data server.
struct ScaleWorld::Source {
  Source(rpc::MapBoard& of, rpc::UpdateCache& bytes) : board(of), cache(bytes) {}
  bool from_manager() const { return board.FromManager(); }
  rpc::MapBoard& board;
  rpc::UpdateCache& cache;
  Instant sending_until{};
  std::set<std::shared_ptr<Stream>> streams;
};

struct ScaleWorld::Watcher {
  explicit Watcher(uint64_t seed) : random(seed) {}
  rpc::WatcherKind kind = rpc::WatcherKind::kClient;
  Server* server = nullptr;  // that watches
  bool by_itself = false;
  uint64_t life = 0;
  rpc::MapFollower follower;
  rpc::WatchBackoff backoff;
  Random random;
  std::shared_ptr<Stream> stream;
};

struct ScaleWorld::Stream {
  Watcher* watcher = nullptr;
  Source* source = nullptr;
  uint64_t token = 0;
  Table sent, newest;
  bool writing = false;
  bool open = true;
  bool saw_update = false;
};

struct ScaleWorld::Server {
  Server(size_t number, uint64_t seed) : watcher(seed) {
    request.name = "s" + std::to_string(number);
    request.pool_id = {10, number + 1};
    request.control_address = "s" + std::to_string(number) + ":1";
    request.data_address = "s" + std::to_string(number) + ":2";
    request.weight = 64ULL << 30;
    request.capabilities = kCapabilityMigration | kCapabilityReportMap;
    request.version = "1.0.0";
    watcher.kind = rpc::WatcherKind::kServer;
    watcher.server = this;
  }
  rpc::RegisterRequest request;
  bool running = false;
  bool cut_off = false;
  bool soon = false;  // the next heartbeat at once
  uint64_t beat = 0;  // the number of the heartbeat that comes next; older ones are void
  ServerId id = kNoServer;
  Duration pause{};
  Instant pulled_at{};
  Watcher watcher;
  std::unique_ptr<rpc::MapBoard> board;
  std::unique_ptr<Source> source;
};

}  // namespace simm::sim
