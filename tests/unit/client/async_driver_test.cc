#include "client/async_driver.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <functional>
#include <set>
#include <thread>
#include <utility>

#include "common/base/gate.h"

namespace simm::client {
namespace {

using namespace std::chrono_literals;

Instant Now() { return MonotonicClock::Get().Now(); }

// What a task does, and what was done with it. Outlives the task.
struct Script {
  uint64_t owner = 1;
  Instant deadline = Now() + 60s;
  // Given to the driver as they stand:
  int descriptor = -1;
  bool event = false;
  Instant until = kForever;
  // Asked by each step.
  std::function<bool()> ended = [] { return true; };
  std::function<void()> at_end = [] {};

  std::atomic<int> steps{0}, ends{0}, cancels{0};
  std::atomic<std::thread::id> thread{};
};

class ScriptedTask final : public AsyncTask {
 public:
  explicit ScriptedTask(Script& script) : script_(script) {}
  uint64_t owner() const override { return script_.owner; }
  Instant deadline() const override { return deadline_; }
  void Begin(int) override { script_.thread = std::this_thread::get_id(); }
  bool Step() override {
    EXPECT_EQ(script_.thread.load(), std::this_thread::get_id());
    ++script_.steps;
    return Now() >= deadline_ || script_.ended();
  }
  void AddWaits(StepWaits* waits) override {
    if (script_.descriptor >= 0) waits->descriptors.push_back({script_.descriptor, POLLIN, 0});
    waits->event = script_.event;
    waits->until = std::min(script_.until, deadline_);
  }
  void Cancel() override {
    ++script_.cancels;
    deadline_ = {};
  }
  void End() override {
    EXPECT_EQ(++script_.ends, 1);
    script_.at_end();
  }

 private:
  Script& script_;
  Instant deadline_ = script_.deadline;
};

bool Submit(AsyncDriver& driver, Script& script) {
  std::unique_ptr<AsyncTask> task = std::make_unique<ScriptedTask>(script);
  return driver.Submit(task);
}

bool WaitUntil(const std::function<bool()>& condition, Duration limit = 20s) {
  const Instant end = Now() + limit;
  while (!condition()) {
    if (Now() > end) return false;
    std::this_thread::sleep_for(1ms);
  }
  return true;
}

class Event {
 public:
  Event() : fd_(eventfd(0, EFD_NONBLOCK)) {}
  ~Event() { close(fd_); }
  int fd() const { return fd_; }
  void Set() {
    const uint64_t one = 1;
    ASSERT_EQ(write(fd_, &one, sizeof one), static_cast<ssize_t>(sizeof one));
  }

 private:
  const int fd_;
};

TEST(AsyncDriverTest, ThousandsOfTasksEndOnceEachOnFewThreads) {
  constexpr size_t kTasks = 5000, kThreads = 3, kMaxActive = 30;
  std::vector<Script> scripts(kTasks);
  std::atomic<size_t> active{0}, most{0}, ended{0};
  AsyncDriver driver({.threads = kThreads, .max_active = kMaxActive});
  for (Script& script : scripts) {
    script.until = Now();
    script.ended = [&, looks = 0]() mutable {
      if (looks == 0) {
        const size_t now = ++active;
        for (size_t seen = most; now > seen && !most.compare_exchange_weak(seen, now);) {
        }
      }
      return ++looks == 3;
    };
    script.at_end = [&] {
      --active;
      ++ended;
    };
  }
  for (Script& script : scripts) ASSERT_TRUE(Submit(driver, script));
  ASSERT_TRUE(WaitUntil([&] { return ended == kTasks; }));
  std::set<std::thread::id> threads;
  for (Script& script : scripts) {
    EXPECT_EQ(script.ends, 1);
    EXPECT_EQ(script.steps, 3);
    threads.insert(script.thread.load());
  }
  EXPECT_LE(threads.size(), kThreads);
  EXPECT_EQ(threads.count(std::this_thread::get_id()), 0u);
  EXPECT_LE(most, kMaxActive);
  EXPECT_GE(most, kMaxActive / kThreads) << "tasks do not run side by side";
}

TEST(AsyncDriverTest, WhatWaitsIsBegunInTheOrderInWhichItCame) {
  std::vector<size_t> order;
  std::vector<Script> scripts(200);
  Event go;
  std::atomic<bool> open{false};
  std::atomic<size_t> ended{0};
  AsyncDriver driver({.threads = 1, .max_active = 1});
  for (size_t i = 0; i < scripts.size(); ++i) {
    scripts[i].descriptor = go.fd();
    scripts[i].ended = [&open] { return open.load(); };
    scripts[i].at_end = [&, i] {
      order.push_back(i);
      ++ended;
    };
    ASSERT_TRUE(Submit(driver, scripts[i]));
  }
  open = true;
  go.Set();
  ASSERT_TRUE(WaitUntil([&] { return ended == scripts.size(); }));
  for (size_t i = 0; i < order.size(); ++i) EXPECT_EQ(order[i], i);
}

TEST(AsyncDriverTest, BeyondTheBoundATaskStaysWithItsCaller) {
  Script first, second, third;
  Event go;
  std::atomic<bool> open{false};
  for (Script* script : {&first, &second, &third}) {
    script->descriptor = go.fd();
    script->ended = [&] { return open.load(); };
  }
  AsyncDriver driver({.threads = 1, .max_active = 1, .max_queued = 1});
  ASSERT_TRUE(Submit(driver, first));
  ASSERT_TRUE(WaitUntil([&] { return first.steps > 0; }));
  ASSERT_TRUE(Submit(driver, second));
  std::unique_ptr<AsyncTask> refused = std::make_unique<ScriptedTask>(third);
  EXPECT_FALSE(driver.Submit(refused));
  EXPECT_NE(refused, nullptr);
  open = true;
  go.Set();
  ASSERT_TRUE(WaitUntil([&] { return second.ends == 1; }));
  EXPECT_EQ(first.ends, 1);
  EXPECT_EQ(third.steps, 0);
}

TEST(AsyncDriverTest, ADeadlineHoldsForWhatIsStillWaitingForItsTurn) {
  Script busy, waiting;
  Event never;
  std::atomic<bool> open{false};
  busy.descriptor = waiting.descriptor = never.fd();
  busy.ended = waiting.ended = [&] { return open.load(); };
  AsyncDriver driver({.threads = 2, .max_active = 2});
  Script other;
  other.descriptor = never.fd();
  other.ended = busy.ended;
  ASSERT_TRUE(Submit(driver, busy));
  ASSERT_TRUE(Submit(driver, other));
  ASSERT_TRUE(WaitUntil([&] { return busy.steps > 0 && other.steps > 0; }));
  const Instant begin = Now();
  waiting.deadline = begin + 100ms;
  ASSERT_TRUE(Submit(driver, waiting));
  ASSERT_TRUE(WaitUntil([&] { return waiting.ends == 1; }));
  EXPECT_GE(Now() - begin, 100ms);
  EXPECT_LE(Now() - begin, 1s);
  EXPECT_EQ(busy.ends, 0);
  EXPECT_EQ(busy.steps + other.steps, 2) << "stepped for nothing";
  open = true;
  never.Set();
  ASSERT_TRUE(WaitUntil([&] { return busy.ends + other.ends == 2; }));
}

TEST(AsyncDriverTest, CancelEndsAllOfAnOwnerAndNobodyElses) {
  std::vector<Script> scripts(40);
  Event never;
  std::atomic<bool> open{false};
  std::atomic<size_t> ended{0};
  AsyncDriver driver({.threads = 2, .max_active = 10});
  for (size_t i = 0; i < scripts.size(); ++i) {
    scripts[i].owner = 1 + i % 2;
    scripts[i].descriptor = never.fd();
    scripts[i].ended = [&] { return open.load(); };
    scripts[i].at_end = [&] { ++ended; };
    ASSERT_TRUE(Submit(driver, scripts[i]));
  }
  driver.Cancel(1);
  ASSERT_TRUE(WaitUntil([&] { return ended == scripts.size() / 2; }));
  for (size_t i = 0; i < scripts.size(); ++i) {
    EXPECT_EQ(scripts[i].ends, i % 2 == 0 ? 1 : 0) << i;
    EXPECT_EQ(scripts[i].cancels, i % 2 == 0 ? 1 : 0) << i;
  }
  open = true;
  never.Set();
  ASSERT_TRUE(WaitUntil([&] { return ended == scripts.size(); }));
}

TEST(AsyncDriverTest, OnlyThatIsSteppedForWhichSomethingHasHappened) {
  Script by_event, by_descriptor, by_time;
  Event event;
  std::atomic<int> signals{0};
  std::atomic<bool> readable{false};
  by_event.event = true;
  by_event.ended = [&] { return signals == 2; };
  by_descriptor.descriptor = event.fd();
  by_descriptor.ended = [&] { return readable.load(); };
  by_time.until = by_time.deadline = Now() + 300ms;
  by_time.ended = [] { return false; };
  AsyncDriver driver({.threads = 1});
  for (Script* script : {&by_event, &by_descriptor, &by_time}) ASSERT_TRUE(Submit(driver, *script));
  ASSERT_TRUE(WaitUntil([&] { return by_time.steps > 0; }));
  const int steps = by_event.steps;  // a signal for the thread itself may have made some
  driver.SignalAll();
  ASSERT_TRUE(WaitUntil([&] { return by_event.steps > steps; }));
  signals = 2;
  driver.SignalAll();
  ASSERT_TRUE(WaitUntil([&] { return by_event.ends == 1; }));
  EXPECT_EQ(by_descriptor.steps, 1);
  readable = true;
  event.Set();
  ASSERT_TRUE(WaitUntil([&] { return by_descriptor.ends == 1; }));
  EXPECT_EQ(by_descriptor.steps, 2);
  ASSERT_TRUE(WaitUntil([&] { return by_time.ends == 1; }));
  EXPECT_EQ(by_time.steps, 2);
}

TEST(AsyncDriverTest, TheEndOfATaskMayBeginTheNext) {
  constexpr size_t kLinks = 2000;
  std::vector<Script> chain(kLinks);
  AsyncDriver driver({.threads = 2, .max_active = 4});
  for (size_t i = 0; i + 1 < kLinks; ++i)
    chain[i].at_end = [&, i] { EXPECT_TRUE(Submit(driver, chain[i + 1])); };
  ASSERT_TRUE(Submit(driver, chain[0]));
  ASSERT_TRUE(WaitUntil([&] { return chain.back().ends == 1; }));
}

TEST(AsyncDriverTest, ManyThreadsMaySubmitAndCancelAtOnce) {
  constexpr uint64_t kOwners = 4;
  constexpr size_t kEach = 500;
  std::vector<Script> scripts(kOwners * kEach);
  std::atomic<size_t> ended{0};
  Event never;
  AsyncDriver driver({.threads = 3, .max_active = 12});
  std::vector<std::thread> threads;
  for (uint64_t owner = 1; owner <= kOwners; ++owner) {
    threads.emplace_back([&, owner] {
      for (size_t i = 0; i < kEach; ++i) {
        Script& script = scripts[(owner - 1) * kEach + i];
        script.owner = owner;
        if (i % 3 == 0) {  // these end by Cancel only
          script.descriptor = never.fd();
          script.ended = [] { return false; };
        }
        script.at_end = [&] { ++ended; };
        EXPECT_TRUE(Submit(driver, script));
      }
      driver.Cancel(owner);
    });
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_TRUE(WaitUntil([&] { return ended == scripts.size(); }));
}

}  // namespace
}  // namespace simm::client
