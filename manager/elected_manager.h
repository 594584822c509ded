#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "common/base/mutex.h"
#include "common/rpc/etcd_stub.h"
#include "manager/service.h"
#include "manager/store/etcd_store.h"

namespace simm::manager {

// One manager of several that share an etcd (DESIGN 9). They elect a leader by a key that lives as
// long as its lease is kept alive. The leader runs a ManagerService on an EtcdStore; the others
// publish the map that it has saved, and answer every call with kUnavailable and its address.
//
// Without etcd there is no leader after one lease: the map stays as it is, watches are served, the
// data path does not notice. Owns one thread besides the service's. Thread-safe.
class ElectedManager final : public rpc::ManagerHandler {
 public:
  struct Options {
    ManagerService::Options service;
    std::string prefix = "/simm";  // of the keys
    std::chrono::seconds lease{5};
  };

  // The arguments are borrowed and outlive it. Until Begin it leads nothing and knows no leader.
  ElectedManager(Options options, rpc::EtcdStub& etcd, Clock& clock, rpc::MapBoard& board,
                 metrics::Registry& registry);
  ~ElectedManager() override;  // Stop()

  Result<rpc::RegisterReply> Register(const rpc::RegisterRequest& request) override;
  Result<rpc::HeartbeatReply> Heartbeat(const rpc::HeartbeatRequest& request) override;
  // Where no leader is known: the map as it was saved last, and what is wrong.
  Result<rpc::ClusterStatus> GetStatus() override;
  Result<NamespaceId> CreateNamespace(const std::string& name) override;
  Status RemoveNode(const std::string& name) override;
  Status ReportMap(std::shared_ptr<const RouteTable> table) override;
  Result<rpc::DrainReply> DrainNode(const std::string& name, bool undrain) override;
  Result<std::vector<rpc::Event>> ListEvents(uint64_t after, uint32_t newest) override;
  std::string LeaderElsewhere() const override;

  // Takes part from now on: as `address` ("host:port"), where others call this manager. Once.
  void Begin(std::string address);
  // OK for a leader that can save and for a follower that knows its leader; for /readyz.
  Status Ready() const;
  std::string Note() const;
  // Gives the leadership up, so that another takes it at once. May be called twice.
  void Stop();

 private:
  // What exists only while this manager leads. The service is the first to go.
  struct Leading {
    int64_t lease = 0;
    std::unique_ptr<EtcdStore> store;
    std::unique_ptr<ManagerService> service;
  };

  std::string LeaderKey() const { return options_.prefix + "/leader"; }
  std::string StateKey() const { return options_.prefix + "/state"; }
  std::string Address() const;
  bool Stopping() const;
  // False when it is to stop.
  bool Sleep(Duration time);
  void Run();
  // Until the lease is lost.
  void Lead();
  void StepDown(bool revoke);
  // One look at etcd: who leads, which map is saved. True: nobody leads.
  bool Follow();
  void Campaign();
  void PublishSaved(const rpc::EtcdEntry& peeked);
  void SetProblem(const Status& problem);
  // The service, if this manager leads at this moment; else why not.
  Result<std::shared_ptr<Leading>> Leader() const;

  const Options options_;
  rpc::EtcdStub& etcd_;
  Clock& clock_;
  rpc::MapBoard& board_;
  metrics::Registry& registry_;
  const Instant started_;
  metrics::Counter elections_;
  uint64_t collector_ = 0;
  // Until when the lease cannot have ended, by the monotonic clock of this machine.
  std::atomic<int64_t> leads_until_{0};

  // Of the thread.
  int64_t seen_revision_ = 0;                      // of the state that was published last
  std::shared_ptr<const RouteTable> for_clients_;  // seen by servers already
  Instant clients_at_ = kForever;

  mutable Mutex mutex_;
  CondVar wake_;
  std::shared_ptr<Leading> leading_ SIMM_GUARDED_BY(mutex_);
  std::string address_ SIMM_GUARDED_BY(mutex_);  // of this manager
  std::string leader_ SIMM_GUARDED_BY(mutex_);   // address; empty: none is known
  Status problem_ SIMM_GUARDED_BY(mutex_);
  bool stopping_ SIMM_GUARDED_BY(mutex_) = false;
  Mutex join_mutex_;
  std::thread thread_ SIMM_GUARDED_BY(join_mutex_);
};

}  // namespace simm::manager
