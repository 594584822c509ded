#include "client/async_driver.h"

#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "common/base/check.h"

namespace simm::client {
namespace {

Instant Now() { return MonotonicClock::Get().Now(); }

void ClearEvent(int fd) {
  uint64_t count;
  [[maybe_unused]] const ssize_t n = read(fd, &count, sizeof count);
}

}  // namespace

AsyncDriver::Worker::Worker() : event_fd(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  SIMM_CHECK(event_fd >= 0, "no descriptor for an eventfd: raise ulimit -n");
}

AsyncDriver::Worker::~Worker() { close(event_fd); }

void AsyncDriver::Worker::Signal() const {
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(event_fd, &one, sizeof one);
}

AsyncDriver::AsyncDriver(const Options& options)
    : options_(options),
      max_active_each_(std::max<size_t>(options.max_active / options.threads, 1)) {
  SIMM_CHECK(options.threads > 0, "a driver without threads drives nothing");
}

AsyncDriver::~AsyncDriver() {
  SIMM_CHECK(!IsOwnThread(),
             "the last client of a cluster was destroyed by a callback of an asynchronous call");
  std::vector<std::unique_ptr<Worker>> workers;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    workers.swap(workers_);
    for (const auto& worker : workers) worker->Signal();
  }
  for (const auto& worker : workers) worker->thread.join();
  MutexLock lock(mutex_);
  SIMM_CHECK(queue_.empty() && cancelled_.empty(), "an asynchronous call outlived its client");
}

bool AsyncDriver::IsOwnThread() const {
  MutexLock lock(mutex_);
  return std::any_of(workers_.begin(), workers_.end(), [](const auto& worker) {
    return worker->thread.get_id() == std::this_thread::get_id();
  });
}

// ---- from any thread

bool AsyncDriver::Submit(std::unique_ptr<AsyncTask>& task) {
  MutexLock lock(mutex_);
  if (stopping_ || queue_.size() >= options_.max_queued) return false;
  if (workers_.empty()) {
    for (size_t i = 0; i < options_.threads; ++i) workers_.push_back(std::make_unique<Worker>());
    // A worker's first act is to take the lock, so it finds its thread set.
    for (const auto& worker : workers_)
      worker->thread = std::thread([this, w = worker.get()] { Work(*w); });
  }
  const Instant deadline = task->deadline();
  const auto it = queue_.insert(queue_.end(), Queued{std::move(task), {}});
  it->by_deadline = by_deadline_.emplace(deadline, it);
  // Who is awake looks at the queue before he sleeps. Of the others the one with the least to do;
  // when all are full somebody has to watch over the deadline of what waits.
  Worker* best = nullptr;
  for (const auto& worker : workers_) {
    if (!worker->sleeping) continue;
    if (best == nullptr || worker->active_count < best->active_count) best = worker.get();
  }
  if (best != nullptr) {
    best->sleeping = false;
    best->Signal();
  }
  return true;
}

void AsyncDriver::Cancel(uint64_t owner) {
  MutexLock lock(mutex_);
  for (auto it = queue_.begin(); it != queue_.end();) {
    const auto next = std::next(it);
    if (it->task->owner() == owner) cancelled_.push_back(UnqueueLocked(it));
    it = next;
  }
  for (const auto& worker : workers_) {
    worker->cancelled.push_back(owner);
    worker->sleeping = false;
    worker->Signal();
  }
}

void AsyncDriver::SignalAll() {
  MutexLock lock(mutex_);
  for (const auto& worker : workers_) worker->Signal();
}

std::unique_ptr<AsyncTask> AsyncDriver::UnqueueLocked(std::list<Queued>::iterator it) {
  std::unique_ptr<AsyncTask> task = std::move(it->task);
  by_deadline_.erase(it->by_deadline);
  queue_.erase(it);
  return task;
}

// ---- the workers

void AsyncDriver::Work(Worker& worker) {
  pthread_setname_np(pthread_self(), "simm-async");
  while (TakeNew(worker)) {
    StepDue(worker);
    Wait(worker);
  }
}

bool AsyncDriver::TakeNew(Worker& worker) {
  std::vector<uint64_t> cancelled;
  const size_t before = worker.active.size();
  {
    MutexLock lock(mutex_);
    worker.sleeping = false;
    for (auto& task : cancelled_) worker.active.emplace_back(std::move(task));
    cancelled_.clear();
    for (size_t i = before; i < worker.active.size(); ++i) worker.active[i].task->Cancel();
    TakeQueuedLocked(worker);
    worker.active_count = worker.active.size();
    cancelled.swap(worker.cancelled);
    if (stopping_ && worker.active.empty()) return false;
  }
  for (size_t i = 0; i < before; ++i) {  // the new ones came later, or know already
    Active& active = worker.active[i];
    if (std::find(cancelled.begin(), cancelled.end(), active.task->owner()) == cancelled.end())
      continue;
    active.task->Cancel();
    active.due = true;
  }
  return true;
}

void AsyncDriver::TakeQueuedLocked(Worker& worker) {
  const Instant now = Now();
  while (!by_deadline_.empty() && by_deadline_.begin()->first <= now) {
    worker.active.emplace_back(UnqueueLocked(by_deadline_.begin()->second));
  }
  if (queue_.empty() || worker.active.size() >= max_active_each_) return;
  // A fair share of what waits: the others come for theirs.
  const size_t share = (queue_.size() + options_.threads - 1) / options_.threads;
  const size_t n = std::min(share, max_active_each_ - worker.active.size());
  for (size_t i = 0; i < n; ++i) worker.active.emplace_back(UnqueueLocked(queue_.begin()));
}

void AsyncDriver::StepDue(Worker& worker) {
  for (Active& active : worker.active) {
    if (!active.due) continue;
    active.due = false;
    if (!std::exchange(active.begun, true)) active.task->Begin(worker.event_fd);
    if (!active.task->Step()) continue;
    active.task->End();
    active.task.reset();
  }
  std::erase_if(worker.active, [](const Active& active) { return active.task == nullptr; });
}

Instant AsyncDriver::GatherWaits(Worker& worker) {
  StepWaits& waits = worker.waits;
  waits.descriptors.clear();
  waits.descriptors.push_back({worker.event_fd, POLLIN, 0});
  Instant earliest = kForever;
  for (Active& active : worker.active) {
    waits.until = kForever;
    waits.event = false;
    active.first_descriptor = waits.descriptors.size();
    active.task->AddWaits(&waits);
    active.end_descriptor = waits.descriptors.size();
    active.until = waits.until;
    active.event = waits.event;
    earliest = std::min(earliest, active.until);
  }
  return earliest;
}

void AsyncDriver::Wait(Worker& worker) {
  Instant wake = GatherWaits(worker);
  {
    MutexLock lock(mutex_);
    worker.active_count = worker.active.size();
    const bool room = worker.active.size() < max_active_each_;
    if (stopping_ || !cancelled_.empty() || !worker.cancelled.empty() ||
        (room && !queue_.empty())) {
      wake = {};
    } else if (!by_deadline_.empty()) {
      wake = std::min(wake, by_deadline_.begin()->first);
    }
    worker.sleeping = true;
  }
  auto& descriptors = worker.waits.descriptors;
  const auto look = [&] { return poll(descriptors.data(), descriptors.size(), 0) != 0; };
  const Duration left = wake - Now();
  if (left <= Duration::zero()) {
    look();
  } else if (!worker.spin.Try(look)) {
    const auto ms = std::chrono::ceil<std::chrono::milliseconds>(left).count();
    poll(descriptors.data(), descriptors.size(), static_cast<int>(std::min<int64_t>(ms, 60'000)));
  }
  const bool event = descriptors[0].revents != 0;
  if (event) ClearEvent(worker.event_fd);
  const Instant now = Now();
  for (Active& active : worker.active) {
    active.due = now >= active.until || (event && active.event);
    for (size_t i = active.first_descriptor; i < active.end_descriptor && !active.due; ++i)
      active.due = descriptors[i].revents != 0;
  }
}

}  // namespace simm::client
