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
  // What a call holds of registered memory until Unuse; zero for memory that is not registered.
  struct Use {
    uint64_t id = 0;
    const transport::LocalRegion* region = nullptr;  // with the registrar; nullptr: none
  };

  // `registrar`: the transport that needs local memory to be registered, nullptr if there is none.
  // `required`: memory that it cannot take is refused; else such memory goes through bounce
  // buffers.
  explicit MemoryRegistry(transport::Transport* registrar = nullptr, bool required = false)
      : registrar_(registrar), required_(required) {}

  // kInvalidArgument: no memory, or it overlaps a registered range. kUnavailable: the registrar
  // refuses; the message says which limit and the mend.
  Result<MemoryHandle> Register(void* data, size_t size);
  // kInvalidArgument: unknown. kFailedPrecondition: a call is using it.
  Status Deregister(MemoryHandle handle);

  // Marks a range as in use by a call; its handle cannot be taken away meanwhile.
  Use BeginUse(const void* data, size_t size);
  void EndUse(uint64_t id);
  bool empty() const;
  uint64_t bytes() const;  // registered now

 private:
  struct Range {
    uint64_t id = 0;
    size_t size = 0;
    uint64_t users = 0;
    std::unique_ptr<transport::LocalRegion> region;
  };
  bool OverlapsLocked(uintptr_t begin, size_t size) const SIMM_REQUIRES(mutex_);

  transport::Transport* const registrar_;
  const bool required_;
  mutable Mutex mutex_;
  uint64_t bytes_ SIMM_GUARDED_BY(mutex_) = 0;
  uint64_t last_id_ SIMM_GUARDED_BY(mutex_) = 0;
  std::map<uintptr_t, Range> ranges_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace simm::client
