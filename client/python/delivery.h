#pragma once

#include <Python.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "client/client.h"

namespace simm::python {

// The results of an asynchronous call on their way to Python.
struct Completed {
  PyObject* callback = nullptr;  // a reference that goes with this
  std::vector<KeyResult> results;
  bool with_bytes = false;  // callback(codes, value_bytes) instead of callback(codes)
};

// Brings to Python what happens on threads of C++: results of asynchronous calls, and log lines (to
// the logger "simm.native"). One thread of its own takes the GIL for all of it, so that no thread
// of the client library ever waits for the GIL. One for the process; thread-safe; the GIL is needed
// only where it says so.
class Delivery {
 public:
  static constexpr size_t kMaxLogLines = 1000;

  static Delivery& Get();
  // Log lines of this library come here from now on.
  void TakeLog();
  // With the GIL. Does nothing if it runs already.
  void Start();
  // With the GIL, which is given up meanwhile. Delivers what is there; later things are dropped.
  void Stop();

  void Push(Completed completed);
  // Beyond kMaxLogLines that wait they are counted only.
  void PushLog(int python_level, std::string line);

 private:
  struct LogLine {
    int level = 0;
    std::string text;
  };

  void Work();
  static void Call(const Completed& completed);
  static void Log(const std::vector<LogLine>& lines, uint64_t dropped);

  std::mutex mutex_;
  std::condition_variable wake_;
  bool started_ = false;
  bool stopping_ = false;
  std::thread thread_;
  std::deque<Completed> completed_;
  std::vector<LogLine> lines_;
  uint64_t dropped_lines_ = 0;
};

}  // namespace simm::python
