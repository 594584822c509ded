#pragma once

#include <string>
#include <thread>

#include "common/base/clock.h"
#include "common/base/ids.h"
#include "common/base/mutex.h"
#include "common/metrics/http_server.h"
#include "common/rpc/control_services.h"
#include "manager/cluster_history.h"

namespace simm::manager {

// The page for people at "/" of the manager's HTTP port, and the JSON that it is made from. Owns
// one thread, which looks at the cluster once a second for the history. Thread-safe.
//
// Answers: / (the page), /api/status, /api/history?after=N, /api/events?after=N. Each JSON object
// has "run": another one than before means another manager, whose numbers begin anew. Where this
// manager cannot say (it learns the map, follows a leader), /api/status and /api/events answer 503
// with {"run", "problem", "leader"}.
class StatusPage {
 public:
  // Borrowed; they outlive it. The history is filled here.
  StatusPage(rpc::ManagerHandler& manager, ClusterHistory& history, Clock& clock);
  ~StatusPage();  // joins the thread

  // Adds the routes. `http` must be gone before this object is.
  void ServeOn(metrics::HttpServer& http);

 private:
  void Run();
  metrics::HttpReply Page() const;
  metrics::HttpReply Status() const;
  metrics::HttpReply History(const metrics::HttpRequest& request) const;
  metrics::HttpReply Events(const metrics::HttpRequest& request) const;
  metrics::HttpReply Failure(const simm::Status& status) const;

  rpc::ManagerHandler& manager_;
  ClusterHistory& history_;
  Clock& clock_;
  const std::string run_ = ToString(NewId128());

  Mutex mutex_;
  CondVar wake_;
  bool stopping_ SIMM_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace simm::manager
