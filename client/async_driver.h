#pragma once

#include <poll.h>

#include <list>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "common/base/clock.h"
#include "common/base/limits.h"
#include "common/base/mutex.h"
#include "common/base/spin.h"

namespace simm::client {

// What makes the next step of some work useful; whichever comes first.
struct StepWaits {
  std::vector<pollfd> descriptors;
  Instant until = kForever;
  bool event = false;  // the event descriptor that Begin was given has been signalled
};

// Work that never waits by itself: whoever drives it waits. One-thread, except where it says so.
class AsyncTask {
 public:
  virtual ~AsyncTask() = default;

  // Whose it is, for AsyncDriver::Cancel: a number that no other owner has ever had. The same at
  // any time, on any thread.
  virtual uint64_t owner() const = 0;
  // By when Step will return true; likewise.
  virtual Instant deadline() const = 0;

  // Once, before the first Step. `event_fd` is to be signalled when what was waited for elsewhere
  // (a lane, a newer map) is there.
  virtual void Begin(int event_fd) = 0;
  // Moves on as far as it goes without waiting and without keeping the thread for long. True: it
  // has ended.
  virtual bool Step() = 0;
  // After a Step that returned false.
  virtual void AddWaits(StepWaits* waits) = 0;
  // Its deadline is now: the next steps end it.
  virtual void Cancel() = 0;
  // Once, after the Step that returned true; nothing else is called any more.
  virtual void End() = 0;
};

// A few threads that drive many tasks side by side, each task on one of them from its first step to
// its end. Tasks beyond the bound wait in the order in which they came; those whose deadline passes
// meanwhile are begun at once, in order to end. Threads start with the first task. Thread-safe.
class AsyncDriver {
 public:
  struct Options {
    size_t threads = 2;
    size_t max_active = limits::kMaxAsyncCalls;  // over all threads
    size_t max_queued = limits::kMaxQueuedAsyncCalls;
  };
  explicit AsyncDriver(const Options& options);
  // Every task must have ended. Never on one of its own threads.
  ~AsyncDriver();

  // Takes the task, or leaves it to the caller: too many wait already.
  bool Submit(std::unique_ptr<AsyncTask>& task);
  // Cancels all tasks of an owner, the waiting ones too: their End comes soon. Does not wait for
  // it.
  void Cancel(uint64_t owner);
  // Tasks that wait for the event look again.
  void SignalAll();
  bool IsOwnThread() const;

 private:
  struct Active {
    explicit Active(std::unique_ptr<AsyncTask> task_in) : task(std::move(task_in)) {}
    std::unique_ptr<AsyncTask> task;
    bool begun = false;
    bool due = true;
    size_t first_descriptor = 0, end_descriptor = 0;
    Instant until;
    bool event = false;
  };
  struct Queued {
    std::unique_ptr<AsyncTask> task;
    std::multimap<Instant, std::list<Queued>::iterator>::iterator by_deadline;
  };
  struct Worker {
    Worker();
    ~Worker();
    void Signal() const;

    const int event_fd;
    std::thread thread;
    // Its own thread's:
    std::vector<Active> active;
    StepWaits waits;
    SpinBeforeSleep spin;
    // By the driver's lock:
    size_t active_count = 0;
    bool sleeping = false;  // or about to: has to be signalled
    std::vector<uint64_t> cancelled;
  };

  void Work(Worker& worker);
  // False: it is time to go.
  bool TakeNew(Worker& worker);
  void TakeQueuedLocked(Worker& worker) SIMM_REQUIRES(mutex_);
  std::unique_ptr<AsyncTask> UnqueueLocked(std::list<Queued>::iterator it) SIMM_REQUIRES(mutex_);
  void StepDue(Worker& worker);
  // Until something is due, or the driver signals.
  void Wait(Worker& worker);
  Instant GatherWaits(Worker& worker);

  const Options options_;
  const size_t max_active_each_;
  mutable Mutex mutex_;
  // Set up once, under the lock; the vector does not change afterwards.
  std::vector<std::unique_ptr<Worker>> workers_ SIMM_GUARDED_BY(mutex_);
  bool stopping_ SIMM_GUARDED_BY(mutex_) = false;
  std::list<Queued> queue_ SIMM_GUARDED_BY(mutex_);
  std::multimap<Instant, std::list<Queued>::iterator> by_deadline_ SIMM_GUARDED_BY(mutex_);
  // Cancelled while they waited: begun whatever the bound says.
  std::vector<std::unique_ptr<AsyncTask>> cancelled_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace simm::client
