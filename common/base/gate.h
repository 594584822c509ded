#pragma once

#include <cstdint>

#include "common/base/mutex.h"

namespace simm {

// Counts work in flight so that its owner can refuse new work and wait for the old (Seastar's
// gate). Thread-safe.
class Gate {
 public:
  // False once closed: the caller must not start.
  bool Enter() {
    MutexLock lock(mutex_);
    if (closed_) return false;
    ++inside_;
    return true;
  }
  void Leave() {
    MutexLock lock(mutex_);
    if (--inside_ == 0 && closed_) empty_.NotifyAll();
  }
  // Refuses new entries from now on.
  void Close() {
    MutexLock lock(mutex_);
    closed_ = true;
  }
  // Refuses new entries and returns when the last one inside has left. May be called twice.
  void CloseAndDrain() {
    MutexLock lock(mutex_);
    closed_ = true;
    while (inside_ != 0) empty_.Wait(mutex_);
  }

 private:
  Mutex mutex_;
  CondVar empty_;
  uint64_t inside_ SIMM_GUARDED_BY(mutex_) = 0;
  bool closed_ SIMM_GUARDED_BY(mutex_) = false;
};

// Enters on construction if it may, leaves on destruction if it did.
class GatePass {
 public:
  explicit GatePass(Gate& gate) : gate_(gate), entered_(gate.Enter()) {}
  ~GatePass() {
    if (entered_) gate_.Leave();
  }
  GatePass(const GatePass&) = delete;
  GatePass& operator=(const GatePass&) = delete;
  explicit operator bool() const { return entered_; }

 private:
  Gate& gate_;
  bool entered_;
};

}  // namespace simm
