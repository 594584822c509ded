#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/rpc/map_source.h"

namespace simm::manager {

// Publishes each table to the data servers at once and to clients when every living server has
// applied it, or limits::kServersFirst after the oldest that is held back (DESIGN 3). Pure: time is
// passed in. Thread-compatible.
class ServersFirst {
 public:
  explicit ServersFirst(rpc::MapBoard& board) : board_(board) {}

  void Publish(std::shared_ptr<const RouteTable> table, Instant now) {
    board_.Publish(rpc::WatcherKind::kServer, table);
    // A newer table does not put off the clients any further.
    if (for_clients_ == nullptr) clients_at_ = now + limits::kServersFirst;
    for_clients_ = std::move(table);
  }
  // To the clients, if there is something for them and its time has come. `all_applied` is asked
  // only where it matters.
  void PublishIfDue(Instant now, const std::function<bool()>& all_applied) {
    if (for_clients_ == nullptr || (now < clients_at_ && !all_applied())) return;
    board_.Publish(rpc::WatcherKind::kClient, std::exchange(for_clients_, nullptr));
    clients_at_ = kForever;
  }
  // When it is due at the latest; kForever: nothing is held back.
  Instant clients_at() const { return clients_at_; }

 private:
  rpc::MapBoard& board_;
  std::shared_ptr<const RouteTable> for_clients_;
  Instant clients_at_ = kForever;
};

}  // namespace simm::manager
