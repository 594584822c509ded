#include "client/task_pool.h"

#include <pthread.h>

#include <utility>

namespace simm::client {

void TaskPool::Run(std::function<void()> task) {
  MutexLock lock(mutex_);
  if (stopping_) return;
  tasks_.push_back(std::move(task));
  if (tasks_.size() > idle_ && threads_.size() < max_threads_) {
    threads_.emplace_back([this] { Work(); });
  }
  wake_.NotifyOne();
}

void TaskPool::Stop() {
  std::vector<std::thread> threads;
  {
    MutexLock lock(mutex_);
    stopping_ = true;
    tasks_.clear();
    threads.swap(threads_);
    wake_.NotifyAll();
  }
  for (std::thread& thread : threads) thread.join();
}

void TaskPool::Work() {
  // Else it would bear the name of the thread that happened to start it.
  pthread_setname_np(pthread_self(), "simm-task");
  while (true) {
    std::function<void()> task;
    {
      MutexLock lock(mutex_);
      ++idle_;
      while (!stopping_ && tasks_.empty()) wake_.Wait(mutex_);
      --idle_;
      if (stopping_) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

}  // namespace simm::client
