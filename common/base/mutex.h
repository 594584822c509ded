#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

// Names of clang's thread-safety analysis; nothing under other compilers.
#if defined(__clang__)
#define SIMM_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define SIMM_THREAD_ATTRIBUTE(x)
#endif
#define SIMM_CAPABILITY(x) SIMM_THREAD_ATTRIBUTE(capability(x))
#define SIMM_SCOPED_CAPABILITY SIMM_THREAD_ATTRIBUTE(scoped_lockable)
#define SIMM_GUARDED_BY(x) SIMM_THREAD_ATTRIBUTE(guarded_by(x))
#define SIMM_PT_GUARDED_BY(x) SIMM_THREAD_ATTRIBUTE(pt_guarded_by(x))
#define SIMM_REQUIRES(...) SIMM_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define SIMM_EXCLUDES(...) SIMM_THREAD_ATTRIBUTE(locks_excluded(__VA_ARGS__))
#define SIMM_ACQUIRE(...) SIMM_THREAD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define SIMM_RELEASE(...) SIMM_THREAD_ATTRIBUTE(release_capability(__VA_ARGS__))
#define SIMM_TRY_ACQUIRE(...) SIMM_THREAD_ATTRIBUTE(try_acquire_capability(__VA_ARGS__))
#define SIMM_NO_THREAD_SAFETY SIMM_THREAD_ATTRIBUTE(no_thread_safety_analysis)

namespace simm {

// std::mutex that clang's analysis understands.
class SIMM_CAPABILITY("mutex") Mutex {
 public:
  void Lock() SIMM_ACQUIRE() { mutex_.lock(); }
  void Unlock() SIMM_RELEASE() { mutex_.unlock(); }
  bool TryLock() SIMM_TRY_ACQUIRE(true) { return mutex_.try_lock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class SIMM_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) SIMM_ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~MutexLock() SIMM_RELEASE() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits with the mutex held; always in a loop on the condition.
class CondVar {
 public:
  void Wait(Mutex& mutex) SIMM_REQUIRES(mutex) SIMM_NO_THREAD_SAFETY {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    condition_.wait(lock);
    lock.release();
  }
  // False when the time ran out first.
  bool WaitFor(Mutex& mutex, std::chrono::nanoseconds timeout)
      SIMM_REQUIRES(mutex) SIMM_NO_THREAD_SAFETY {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    const bool signalled = condition_.wait_for(lock, timeout) == std::cv_status::no_timeout;
    lock.release();
    return signalled;
  }
  void NotifyOne() { condition_.notify_one(); }
  void NotifyAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace simm
