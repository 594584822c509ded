#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>

#include "common/base/mutex.h"
#include "common/routing/route_table.h"

namespace simm::rpc {

enum class WatcherKind : uint8_t { kClient = 1, kServer = 2 };

// Where the WatchMap streams of a ControlServer get their tables. Thread-safe.
class MapSource {
 public:
  // Called with a newer table; must not block and must not call the source.
  using Sink = std::function<void(std::shared_ptr<const RouteTable>)>;

  virtual ~MapSource() = default;
  // True for a manager: what it offers is the newest there is.
  virtual bool FromManager() const = 0;
  // Newest table for that kind of watcher; nullptr while there is none.
  virtual std::shared_ptr<const RouteTable> Current(WatcherKind kind) const = 0;
  // Calls `sink` with the current table, if there is one, before it returns, then with each newer
  // one, one call at a time. After Unsubscribe has returned, `sink` is not called any more.
  virtual uint64_t Subscribe(WatcherKind kind, Sink sink) = 0;
  virtual void Unsubscribe(uint64_t token) = 0;
};

// A MapSource into which its owner publishes. Older tables and another cluster's are ignored.
// Thread-safe.
class MapBoard final : public MapSource {
 public:
  explicit MapBoard(bool from_manager) : from_manager_(from_manager) {}

  // To all watchers; on a data server.
  void Publish(std::shared_ptr<const RouteTable> table);
  // To one kind only; on the manager, which lets servers see an epoch before clients do (DESIGN 3).
  void Publish(WatcherKind kind, std::shared_ptr<const RouteTable> table);
  // Subscribers, for status and metrics.
  size_t Watchers() const;

  bool FromManager() const override { return from_manager_; }
  std::shared_ptr<const RouteTable> Current(WatcherKind kind) const override;
  uint64_t Subscribe(WatcherKind kind, Sink sink) override;
  void Unsubscribe(uint64_t token) override;

 private:
  struct Subscriber {
    WatcherKind kind;
    Sink sink;
  };

  const bool from_manager_;
  mutable Mutex mutex_;
  std::shared_ptr<const RouteTable> for_clients_ SIMM_GUARDED_BY(mutex_);
  std::shared_ptr<const RouteTable> for_servers_ SIMM_GUARDED_BY(mutex_);
  std::unordered_map<uint64_t, Subscriber> subscribers_ SIMM_GUARDED_BY(mutex_);
  uint64_t next_token_ SIMM_GUARDED_BY(mutex_) = 1;
};

}  // namespace simm::rpc
