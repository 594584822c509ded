#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/base/mutex.h"
#include "common/metrics/metrics.h"
#include "common/rpc/control_services.h"
#include "common/rpc/map_source.h"
#include "manager/adoption.h"
#include "manager/event_log.h"
#include "manager/membership.h"
#include "manager/servers_first.h"
#include "manager/store/store.h"

namespace simm::manager {

// Membership as a running service: serializes changes, makes them durable, publishes them.
//
// One thread, the committer, takes all changes that have gathered, puts them into one epoch, saves
// it and only then publishes: first to data servers, then, when every living server has applied it
// or kServersFirst has passed, to clients. Calls that change something wait for it. Heartbeats
// never wait for the disk. When the store fails, the callers get the error, the old map stays in
// force, and Ready() says why until a save has worked again.
//
// With an empty store it first learns the newest map from the data servers (Adoption) and answers
// kUnavailable to everything else; a server that holds a newer map than the store is asked for it
// at any time. Thread-safe.
class ManagerService final : public rpc::ManagerHandler {
 public:
  struct Options {
    MembershipOptions membership;
    std::string version;       // of the program
    bool new_cluster = false;  // an empty store means a new cluster: wait for nobody's map
    // Wall clock of the events, in milliseconds since 1970; empty: the system's.
    std::function<uint64_t()> unix_ms;
    // Fills in how much is going on (ClusterHistory); may be empty.
    std::function<void(rpc::ClusterStatus&)> add_rates;
  };

  // Loads the state and publishes its map, or begins to learn one; starts the committer. The
  // arguments are borrowed and outlive the service. Fails as the store does.
  static Result<std::unique_ptr<ManagerService>> Start(Options options, Store& store, Clock& clock,
                                                       rpc::MapBoard& board,
                                                       metrics::Registry& registry);
  ~ManagerService() override;  // Stop()

  Result<rpc::RegisterReply> Register(const rpc::RegisterRequest& request) override;
  Result<rpc::HeartbeatReply> Heartbeat(const rpc::HeartbeatRequest& request) override;
  Result<rpc::ClusterStatus> GetStatus() override;
  Result<NamespaceId> CreateNamespace(const std::string& name) override;
  Status RemoveNode(const std::string& name) override;
  Status ReportMap(std::shared_ptr<const RouteTable> table) override;
  Result<rpc::DrainReply> DrainNode(const std::string& name, bool undrain) override;
  Result<std::vector<rpc::Event>> ListEvents(uint64_t after, uint32_t newest) override;
  std::string LeaderElsewhere() const override { return {}; }

  // OK, or why this manager cannot do its work: for /readyz.
  Status Ready() const;
  // What an operator must know although it does its work (the map is frozen); mostly empty.
  std::string Note() const;
  // Finishes the changes in hand, refuses new ones, joins the committer. Shut the ControlServer
  // down first. May be called twice.
  void Stop();

 private:
  // A change that a caller waits for.
  struct Change {
    std::function<void(Instant, Membership::Draft&)> apply;
    // What happened, if it becomes durable: set by `apply`; kind, server and text.
    std::optional<rpc::Event> event;
    Status outcome;  // of making it durable
    bool done = false;
  };

  ManagerService(Options options, Store& store, Clock& clock, rpc::MapBoard& board,
                 metrics::Registry& registry);

  Status Submit(Change& change);
  void Commit();
  // One round: bury the dead, apply `changes`, save, publish.
  void Round(const std::vector<Change*>& changes);
  // The draft is durable: from now on it is the state. `table` null: it changed nothing.
  void Publish(Membership::Draft draft, std::shared_ptr<const RouteTable> table,
               const std::vector<Change*>& changes, const std::vector<std::string>& dead)
      SIMM_REQUIRES(mutex_);
  void NoteEvents(const std::vector<Change*>& changes) SIMM_REQUIRES(mutex_);
  // Begins with what was learned, when it is time.
  void BeginIfLearned();
  Status Begin(DurableState state, rpc::EventKind how);
  Status Save(const DurableState& state);
  void PublishToClientsIfDue(Instant now) SIMM_REQUIRES(mutex_);
  void SetStoreError(const Status& status) SIMM_REQUIRES(mutex_);
  void AddEvent(rpc::EventKind kind, const std::string& server, std::string text)
      SIMM_REQUIRES(mutex_);
  // Of a registration while the newest map is not here: what to do until it is.
  Result<rpc::RegisterReply> AskForMap(const rpc::RegisterRequest& request, bool send_map,
                                       const std::string& why) const;
  // kUnavailable while there is no membership.
  Status Deciding() const SIMM_REQUIRES(mutex_);
  void Collect(metrics::Sink& sink) const;

  const Options options_;
  Store& store_;  // of the committer, once it runs
  Clock& clock_;
  rpc::MapBoard& board_;
  metrics::Registry& registry_;
  const Instant started_;
  metrics::Counter heartbeats_;
  metrics::Counter store_failures_;
  uint64_t collector_ = 0;

  mutable Mutex mutex_;
  CondVar wake_;                                                    // of the committer
  CondVar done_;                                                    // of the callers
  std::unique_ptr<Membership> membership_ SIMM_GUARDED_BY(mutex_);  // null: still learning
  Adoption adoption_ SIMM_GUARDED_BY(mutex_);
  EventLog events_ SIMM_GUARDED_BY(mutex_);
  std::string frozen_ SIMM_GUARDED_BY(mutex_);
  uint32_t replicas_ SIMM_GUARDED_BY(mutex_) = 1;           // of the map that was published last
  std::set<std::string> draining_ SIMM_GUARDED_BY(mutex_);  // not empty yet, for the events
  std::deque<Change*> waiting_ SIMM_GUARDED_BY(mutex_);
  Status store_error_ SIMM_GUARDED_BY(mutex_);
  ServersFirst publication_ SIMM_GUARDED_BY(mutex_);
  bool stopping_ SIMM_GUARDED_BY(mutex_) = false;

  Mutex join_mutex_;
  std::thread committer_ SIMM_GUARDED_BY(join_mutex_);
};

}  // namespace simm::manager
