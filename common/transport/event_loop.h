#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <unordered_map>
#include <vector>

#include "common/base/clock.h"
#include "common/base/mutex.h"

namespace simm::transport {

// epoll(7) in a class: calls back when descriptors are ready, runs posted tasks and a tick. One
// thread calls Run; Watch, Change and Forget belong to that thread (or to anybody before Run); Post
// and Stop to any thread.
class EventLoop {
 public:
  using Handler = std::function<void(uint32_t poll_events)>;

  EventLoop();
  ~EventLoop();

  void Watch(int fd, short events, Handler handler);
  void Change(int fd, short events);
  void Forget(int fd);
  // Called about every `interval`.
  void SetTick(Duration interval, std::function<void()> tick);
  void Post(std::function<void()> task);
  void Run();
  void Stop();

 private:
  struct Watched {
    short events = 0;
    std::shared_ptr<Handler> handler;
  };
  void RunTasks();

  int epoll_fd_;
  int wake_fd_;
  std::unordered_map<int, Watched> watched_;
  Duration tick_interval_{};
  std::function<void()> tick_;
  std::atomic<bool> stop_{false};
  Mutex mutex_;
  std::vector<std::function<void()>> tasks_ SIMM_GUARDED_BY(mutex_);
};

}  // namespace simm::transport
