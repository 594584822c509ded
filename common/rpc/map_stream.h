#pragma once

#include <grpcpp/grpcpp.h>

#include <array>
#include <memory>
#include <unordered_set>

#include "common/base/mutex.h"
#include "common/routing/route_table.h"
#include "common/rpc/map_source.h"
#include "proto/map.grpc.pb.h"

// Inside common/rpc only: the serving side of WatchMap.
namespace simm::rpc {

// Updates in wire form. Ten thousand watchers get the same few: each is built once, and gRPC shares
// the bytes by reference count. Thread-safe.
class UpdateCache {
 public:
  explicit UpdateCache(bool from_manager) : from_manager_(from_manager) {}
  // From `sent` to `newest`: a diff, or a snapshot when there is nothing to build upon or when the
  // watcher has fallen behind by more than kWatchQueueUpdates epochs.
  grpc::ByteBuffer Update(const RouteTable* sent, const RouteTable& newest);
  grpc::ByteBuffer UpToDate(const MapVersion& version) const;

 private:
  struct Entry {
    MapVersion from;  // zero: a snapshot
    MapVersion to;
    grpc::ByteBuffer bytes;
  };

  const bool from_manager_;
  Mutex mutex_;
  std::array<Entry, 8> entries_ SIMM_GUARDED_BY(mutex_);
  size_t next_ SIMM_GUARDED_BY(mutex_) = 0;
};

class MapStream;

// MapService over a MapSource. A stream holds the table it sent last and the newest one: a slow
// watcher costs no queue, it skips epochs. Raw (bytes) so that the cache can be shared.
// Thread-safe.
class MapServiceHost final
    : public v1::MapService::WithRawCallbackMethod_WatchMap<v1::MapService::Service> {
 public:
  explicit MapServiceHost(MapSource& source) : source_(source), cache_(source.FromManager()) {}

  grpc::ServerWriteReactor<grpc::ByteBuffer>* WatchMap(grpc::CallbackServerContext* context,
                                                       const grpc::ByteBuffer* request) override;
  // Ends every stream and refuses new ones; returns when the last one is gone. Call it before the
  // gRPC server is shut down.
  void Close();

 private:
  friend class MapStream;
  void Forget(MapStream* stream);

  MapSource& source_;
  UpdateCache cache_;
  Mutex mutex_;
  CondVar empty_;
  std::unordered_set<MapStream*> streams_ SIMM_GUARDED_BY(mutex_);
  bool closed_ SIMM_GUARDED_BY(mutex_) = false;
};

}  // namespace simm::rpc
