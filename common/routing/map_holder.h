#pragma once

#include <memory>
#include <utility>

#include "common/base/mutex.h"
#include "common/routing/route_table.h"

namespace simm {

// The newest map that this process holds, for many readers. Thread-safe.
class MapHolder {
 public:
  std::shared_ptr<const RouteTable> Get() const {
    MutexLock lock(mutex_);
    return table_;
  }
  void Set(std::shared_ptr<const RouteTable> table) {
    MutexLock lock(mutex_);
    table_ = std::move(table);
  }

 private:
  mutable Mutex mutex_;
  std::shared_ptr<const RouteTable> table_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace simm
