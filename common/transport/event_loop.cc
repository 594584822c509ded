#include "common/transport/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "common/base/check.h"
#include "common/base/spin.h"

namespace simm::transport {

EventLoop::EventLoop()
    : epoll_fd_(epoll_create1(EPOLL_CLOEXEC)), wake_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  SIMM_CHECK(epoll_fd_ >= 0 && wake_fd_ >= 0, "no descriptor for an event loop: raise ulimit -n");
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = wake_fd_;
  SIMM_CHECK(epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, wake_fd_, &event) == 0, "epoll_ctl");
}

EventLoop::~EventLoop() {
  close(wake_fd_);
  close(epoll_fd_);
}

void EventLoop::Watch(int fd, short events, Handler handler) {
  watched_[fd] = {events, std::make_shared<Handler>(std::move(handler))};
  epoll_event event{};
  event.events = static_cast<uint32_t>(
      events);  // POLLIN and POLLOUT have the same values as EPOLLIN, EPOLLOUT
  event.data.fd = fd;
  SIMM_CHECK(epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) == 0, "epoll_ctl");
}

void EventLoop::Change(int fd, short events) {
  const auto it = watched_.find(fd);
  if (it == watched_.end() || it->second.events == events) return;
  it->second.events = events;
  epoll_event event{};
  event.events = static_cast<uint32_t>(events);
  event.data.fd = fd;
  SIMM_CHECK(epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, fd, &event) == 0, "epoll_ctl");
}

void EventLoop::Forget(int fd) {
  if (watched_.erase(fd) > 0) epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
}

void EventLoop::SetTick(Duration interval, std::function<void()> tick) {
  tick_interval_ = interval;
  tick_ = std::move(tick);
}

void EventLoop::Post(std::function<void()> task) {
  {
    MutexLock lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(wake_fd_, &one, sizeof one);
}

void EventLoop::Stop() {
  stop_.store(true);
  Post([] {});
}

void EventLoop::RunTasks() {
  std::vector<std::function<void()>> tasks;
  {
    MutexLock lock(mutex_);
    tasks.swap(tasks_);
  }
  for (const auto& task : tasks) task();
}

void EventLoop::Run() {
  Clock& clock = MonotonicClock::Get();
  Instant next_tick = clock.Now() + tick_interval_;
  std::array<epoll_event, 64> events;
  SpinBeforeSleep spin;
  while (!stop_.load()) {
    int timeout_ms = -1;
    if (tick_) {
      const auto left = std::chrono::ceil<std::chrono::milliseconds>(next_tick - clock.Now());
      timeout_ms = static_cast<int>(std::max<int64_t>(0, left.count()));
    }
    int n = 0;
    const auto wait = [&](int ms) {
      n = epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()), ms);
      return n > 0;
    };
    if (!spin.Try([&] { return wait(0); })) wait(timeout_ms);
    for (int i = 0; i < n; ++i) {
      const int fd = events[static_cast<size_t>(i)].data.fd;
      if (fd == wake_fd_) {
        uint64_t count;
        [[maybe_unused]] const ssize_t got = read(wake_fd_, &count, sizeof count);
        continue;
      }
      const auto it = watched_.find(fd);
      if (it == watched_.end()) continue;  // forgotten by an earlier handler of this round
      const std::shared_ptr<Handler> handler = it->second.handler;
      (*handler)(events[static_cast<size_t>(i)].events);
    }
    RunTasks();
    if (tick_ && clock.Now() >= next_tick) {
      tick_();
      next_tick = clock.Now() + tick_interval_;
    }
  }
  RunTasks();
}

}  // namespace simm::transport
