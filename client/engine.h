#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "client/async_driver.h"
#include "client/bounce_pool.h"
#include "client/client.h"
#include "client/key_plans.h"
#include "client/memory_registry.h"
#include "client/op_metrics.h"
#include "client/peer.h"
#include "client/stats.h"
#include "client/task_pool.h"
#include "common/base/mutex.h"
#include "common/rpc/manager_stub.h"
#include "common/rpc/map_watcher.h"
#include "common/transport/transport.h"

namespace simm::client {

// What all clients of a process share per cluster: the map, the peers with their connections and
// breakers, background work. Thread-safe.
class Engine {
 public:
  // The engine of these addresses and this transport, shared with whoever has it open already.
  static Result<std::shared_ptr<Engine>> Open(const ClientOptions& options);
  ~Engine();

  std::shared_ptr<const RouteTable> Map() const { return watcher_->Current(); }
  // A map with at least one data server. kUnavailable says who was asked and what to check.
  Result<std::shared_ptr<const RouteTable>> WaitForServers(Duration timeout) const;
  // Returns when the map is not older than `wanted`, or after `timeout`.
  void WaitForMap(uint64_t term, uint64_t epoch, Duration timeout) const;
  // The id of a namespace, made by the manager if it does not exist.
  Result<NamespaceId> NamespaceOf(const std::string& name, Duration timeout);

  // The peer for this record; one that stands for an earlier start of that server is retired.
  std::shared_ptr<Peer> PeerFor(const ServerRecord& record);
  std::vector<ServerHealth> Servers() const;
  std::vector<std::shared_ptr<Peer>> Peers() const;

  // How the server stands now; nothing is begun.
  Standing StandingOf(ServerId id) const;

  // Asks a server, in the background, to check the bytes that it has stored of a key and drop them
  // if they are damaged.
  void Scrub(const std::string& key, const Hash128& hash, NamespaceId namespace_id,
             ServerId server);

  StatsCounters& stats() { return stats_; }
  OpMetrics& ops() { return ops_; }
  // What data servers know this process by.
  const std::string& client_name() const { return client_name_; }
  TaskPool& tasks() { return tasks_; }
  MemoryRegistry& memory() { return *memory_; }
  AsyncDriver& async() { return async_; }

 private:
  explicit Engine(const ClientOptions& options);
  Status Start();
  Status OpenTransports();
  void MaintainLoop();
  void CloseUnusedLanes(const std::vector<std::shared_ptr<Peer>>& peers);

  const ClientOptions options_;
  StatsCounters stats_;
  OpMetrics ops_;
  TaskPool connects_;
  TaskPool tasks_;
  std::atomic<int> scrubs_{0};
  std::unique_ptr<transport::Transport> messages_;                // tcp
  std::vector<std::unique_ptr<transport::Transport>> one_sided_;  // best first
  std::string one_sided_missing_;  // why one that was asked for is not in `one_sided_`
  std::shared_ptr<LocationCache> locations_;
  std::unique_ptr<BouncePool> bounce_;
  std::unique_ptr<MemoryRegistry> memory_;
  std::unique_ptr<rpc::ManagerStub> managers_;
  std::string client_name_;

  mutable Mutex map_mutex_;
  mutable CondVar map_changed_;

  mutable Mutex peers_mutex_;
  std::unordered_map<ServerId, std::shared_ptr<Peer>> peers_ SIMM_GUARDED_BY(peers_mutex_);
  // They outlive a server's start, and its peer.
  std::unordered_map<ServerId, std::shared_ptr<LostLanes>> lost_lanes_
      SIMM_GUARDED_BY(peers_mutex_);

  Mutex stop_mutex_;
  CondVar stop_signal_;
  bool stopping_ SIMM_GUARDED_BY(stop_mutex_) = false;
  std::thread maintainer_;
  AsyncDriver async_;  // told of new maps by the watcher, which goes first
  std::unique_ptr<rpc::MapWatcher> watcher_;
};

}  // namespace simm::client
