#pragma once

#include <cstdint>
#include <map>
#include <memory>

#include "client/client.h"
#include "common/base/mutex.h"
#include "common/transport/transport.h"

namespace simm::client {

// The user's registered memory, by address. Thread-safe.
class MemoryRegistry {
 public:
  explicit MemoryRegistry(transport::Transport& transport) : transport_(transport) {}

  // kInvalidArgument: no memory, or it overlaps a registered range.
  Result<MemoryHandle> Register(void* data, size_t size);
  // kInvalidArgument: unknown. kFailedPrecondition: a call is using it.
  Status Deregister(MemoryHandle handle);

  // Marks ranges as in use by a call; the handle can not be taken away meanwhile. Unregistered
  // memory is fine: 0.
  uint64_t Use(const void* data, size_t size);
  void Unuse(uint64_t id);
  bool empty() const;

 private:
  struct Range {
    uint64_t id = 0;
    size_t size = 0;
    uint64_t users = 0;
    std::unique_ptr<transport::LocalRegion> region;
  };
  transport::Transport& transport_;
  mutable Mutex mutex_;
  uint64_t last_id_ SIMM_GUARDED_BY(mutex_) = 0;
  std::map<uintptr_t, Range> ranges_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace simm::client
