#include "client/bounce_pool.h"

#include <utility>

#include "common/base/clock.h"
#include "common/base/log.h"

namespace simm::client {

BounceBuffer::BounceBuffer(BouncePool& pool, std::unique_ptr<std::byte[]> memory,
                           std::unique_ptr<transport::LocalRegion> region)
    : pool_(pool), memory_(std::move(memory)), region_(std::move(region)) {}

BounceBuffer::~BounceBuffer() {
  MutexLock lock(pool_.mutex_);
  pool_.idle_.push_back({std::move(memory_), std::move(region_)});
}

std::unique_ptr<BounceBuffer> BouncePool::Take() {
  {
    MutexLock lock(mutex_);
    if (!idle_.empty()) {
      Idle idle = std::move(idle_.back());
      idle_.pop_back();
      return std::unique_ptr<BounceBuffer>(
          new BounceBuffer(*this, std::move(idle.memory), std::move(idle.region)));
    }
    if (made_ == limits::kMaxBounceBuffers) return nullptr;
    ++made_;
  }
  auto buffer = Make();
  if (buffer == nullptr) {
    MutexLock lock(mutex_);
    --made_;
  }
  return buffer;
}

std::unique_ptr<BounceBuffer> BouncePool::Make() {
  auto memory = std::make_unique_for_overwrite<std::byte[]>(kBufferBytes);
  auto region = transport_.Register({memory.get(), kBufferBytes}, transport::kLocalOnly);
  if (!region.ok()) {
    static LogLimiter limiter(std::chrono::seconds(10));
    if (limiter.Allow(MonotonicClock::Get().Now()) >= 0) {
      SIMM_LOG_WARN("no bounce buffer: {}; values in unregistered memory go over tcp",
                    region.status().message());
    }
    return nullptr;
  }
  return std::unique_ptr<BounceBuffer>(
      new BounceBuffer(*this, std::move(memory), std::move(*region)));
}

}  // namespace simm::client
