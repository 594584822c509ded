#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/routing/route_table.h"
#include "common/rpc/map_source.h"

namespace simm::rpc {

struct MapWatcherOptions {
  // "host:port" of managers and data servers, mixed: both serve the map (DESIGN 1.3).
  std::vector<std::string> addresses;
  WatcherKind kind = WatcherKind::kClient;
  ServerId server = kNoServer;  // of a data server that watches
  // When no address answers, ask the data servers of the map in hand. Off for a data server: the
  // map that counts for it is the manager's.
  bool ask_servers = true;
  // Called on the watcher's thread with each newer table, ascending; may block the watcher, must
  // not destroy or stop it.
  std::function<void(std::shared_ptr<const RouteTable>)> on_table;
};

// Keeps the newest key map of a cluster: one stream to one of its addresses, diffs applied, a
// snapshot after a gap. Refuses a lower (term, epoch) and another cluster's map (logged, at most
// once in 10 s). A stream that breaks is opened again at the next address, with full jitter from 50
// ms to 1 s; served by a data server, it looks for a manager again after about 10 s. Owns one
// thread. Thread-safe.
class MapWatcher {
 public:
  // kInvalidArgument: no address, or one that is not host:port. Returns before anything is
  // connected.
  static Result<std::unique_ptr<MapWatcher>> Start(MapWatcherOptions options);
  ~MapWatcher();  // Stop()
  MapWatcher(const MapWatcher&) = delete;
  MapWatcher& operator=(const MapWatcher&) = delete;

  // Newest table; nullptr before the first.
  std::shared_ptr<const RouteTable> Current() const;
  // The newest table, at once if there is one. kUnavailable names the addresses and the last error
  // when none came in time. The first map that comes decides the cluster.
  Result<std::shared_ptr<const RouteTable>> WaitForMap(Duration timeout) const;
  // Whether a stream is up, and to whom ("" if none): for status and /readyz.
  std::string ConnectedTo() const;
  // Replaces the list; a stream to an address that is no longer in it goes on until it breaks.
  Status SetAddresses(std::vector<std::string> addresses);
  // Cancels the stream and joins the thread; prompt. May be called twice.
  void Stop();

 private:
  struct Impl;
  explicit MapWatcher(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace simm::rpc
