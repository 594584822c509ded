#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "common/base/bytes.h"
#include "common/base/limits.h"
#include "common/base/mutex.h"
#include "common/transport/transport.h"

namespace simm::client {

class BouncePool;

// One buffer of the pool, given back on destruction.
class BounceBuffer {
 public:
  ~BounceBuffer();
  MutableByteSpan memory() const { return region_->memory(); }
  const transport::LocalRegion* region() const { return region_.get(); }

 private:
  friend class BouncePool;
  BounceBuffer(BouncePool& pool, std::unique_ptr<std::byte[]> memory,
               std::unique_ptr<transport::LocalRegion> region);

  BouncePool& pool_;
  std::unique_ptr<std::byte[]> memory_;
  std::unique_ptr<transport::LocalRegion> region_;
};

// Registered memory through which values go whose own memory is not registered, where a transport
// needs that. Buffers are made as they are needed, up to a bound, and kept. Thread-safe; outlives
// its buffers.
class BouncePool {
 public:
  static constexpr size_t kBufferBytes = limits::kWaveBytes;

  explicit BouncePool(transport::Transport& transport) : transport_(transport) {}
  // kBufferBytes of memory; nullptr: all are in use, or memory cannot be registered.
  std::unique_ptr<BounceBuffer> Take();

 private:
  friend class BounceBuffer;
  struct Idle {
    std::unique_ptr<std::byte[]> memory;
    std::unique_ptr<transport::LocalRegion> region;
  };
  std::unique_ptr<BounceBuffer> Make();

  transport::Transport& transport_;
  Mutex mutex_;
  size_t made_ SIMM_GUARDED_BY(mutex_) = 0;
  std::vector<Idle> idle_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace simm::client
