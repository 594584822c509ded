#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "common/routing/map_holder.h"
#include "common/rpc/control_types.h"
#include "common/rpc/manager_stub.h"

namespace simm::dataserver {

// Keeps this data server in the manager's membership: registers, again and again until it is let
// in, then sends heartbeats. Never gives up and never ends the process: without a manager the data
// path goes on as it is. Owns one thread. Thread-safe.
class Registrar {
 public:
  struct Options {
    rpc::RegisterRequest request;  // expected_cluster is filled from the map held
    std::function<rpc::ServerStats()> stats;
    // Shards pulled by the rows of this map, ascending, and how far all is.
    std::function<std::vector<uint32_t>(const RouteTable&)> pulled;
    std::function<rpc::MigrationProgress()> migration;
    MapHolder* map = nullptr;
    std::atomic<ServerId>* self = nullptr;  // set at each registration
    // Before that: this server goes by this id from here on.
    std::function<void(ServerId)> on_registered;
    // Told of each heartbeat: how long the call took, and whether it was answered. May be empty.
    std::function<void(Duration took, bool answered)> on_heartbeat = {};
  };
  Registrar(std::unique_ptr<rpc::ManagerStub> manager, Options options);
  ~Registrar();  // Stop

  // The next heartbeat now: the manager learns which map is in force here.
  void HeartbeatSoon();
  // Ok, or why this server is not in the membership now.
  Status Ready() const;
  void Stop();

 private:
  void Run();
  bool TryRegister();
  void ReportMap(const rpc::RegisterReply& reply, const RouteTable* held);
  bool SendHeartbeat();
  bool Sleep(Duration time);  // false when stopping
  void SetProblem(const Status& problem);

  std::unique_ptr<rpc::ManagerStub> manager_;
  Options options_;
  Duration heartbeat_;
  Instant answered_;  // when the manager's last answer came in
  mutable Mutex mutex_;
  CondVar wake_;
  bool stopping_ SIMM_GUARDED_BY(mutex_) = false;
  bool soon_ SIMM_GUARDED_BY(mutex_) = false;
  Status problem_ SIMM_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace simm::dataserver
