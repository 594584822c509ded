#include "client/python/delivery.h"

#include <pthread.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <memory>
#include <utility>

#include "client/python/results.h"

namespace simm::python {
namespace {

int PythonLevel(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::trace:
    case spdlog::level::debug:
      return 10;
    case spdlog::level::info:
      return 20;
    case spdlog::level::warn:
      return 30;
    case spdlog::level::err:
      return 40;
    default:
      return 50;
  }
}

class PythonSink final : public spdlog::sinks::base_sink<std::mutex> {
 protected:
  void sink_it_(const spdlog::details::log_msg& record) override {
    Delivery::Get().PushLog(PythonLevel(record.level),
                            std::string(record.payload.data(), record.payload.size()));
  }
  void flush_() override {}
};

}  // namespace

Delivery& Delivery::Get() {
  // Never destroyed: threads of the client library may log until the very end of the process.
  static Delivery* const delivery = new Delivery;
  return *delivery;
}

void Delivery::TakeLog() {
  auto logger = std::make_shared<spdlog::logger>("simm", std::make_shared<PythonSink>());
  logger->set_level(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
}

void Delivery::Start() {
  const std::lock_guard lock(mutex_);
  if (started_) return;
  started_ = true;
  thread_ = std::thread([this] { Work(); });
}

void Delivery::Stop() {
  Py_BEGIN_ALLOW_THREADS;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    wake_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  Py_END_ALLOW_THREADS;
}

void Delivery::Push(Completed completed) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;  // the interpreter is going: its references go with it
  completed_.push_back(std::move(completed));
  wake_.notify_one();
}

void Delivery::PushLog(int python_level, std::string line) {
  const std::lock_guard lock(mutex_);
  if (stopping_) return;
  if (lines_.size() >= kMaxLogLines) {
    ++dropped_lines_;
    return;
  }
  lines_.push_back({python_level, std::move(line)});
  wake_.notify_one();
}

void Delivery::Work() {
  pthread_setname_np(pthread_self(), "simm-python");
  while (true) {
    std::deque<Completed> completed;
    std::vector<LogLine> lines;
    uint64_t dropped = 0;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || !completed_.empty() || !lines_.empty(); });
      if (completed_.empty() && lines_.empty()) return;
      completed.swap(completed_);
      lines.swap(lines_);
      dropped = std::exchange(dropped_lines_, 0);
    }
    const PyGILState_STATE gil = PyGILState_Ensure();
    for (const Completed& one : completed) Call(one);
    if (!lines.empty()) Log(lines, dropped);
    PyGILState_Release(gil);
  }
}

void Delivery::Call(const Completed& completed) {
  PyObject* const codes = CodeList(completed.results);
  PyObject* const bytes = completed.with_bytes ? ByteCountList(completed.results) : nullptr;
  PyObject* answer = nullptr;
  if (codes != nullptr && (bytes != nullptr || !completed.with_bytes)) {
    answer = PyObject_CallFunctionObjArgs(completed.callback, codes, bytes, nullptr);
  }
  if (answer == nullptr) PyErr_WriteUnraisable(completed.callback);
  Py_XDECREF(answer);
  Py_XDECREF(codes);
  Py_XDECREF(bytes);
  Py_DECREF(completed.callback);
}

void Delivery::Log(const std::vector<LogLine>& lines, uint64_t dropped) {
  PyObject* const logging = PyImport_ImportModule("logging");
  PyObject* const logger =
      logging == nullptr ? nullptr : PyObject_CallMethod(logging, "getLogger", "s", "simm.native");
  for (const LogLine& line : lines) {
    if (logger == nullptr) break;
    // "%s": a line may hold any character.
    PyObject* const text = PyUnicode_DecodeUTF8(
        line.text.data(), static_cast<Py_ssize_t>(line.text.size()), "replace");
    PyObject* const done = text == nullptr
                               ? nullptr
                               : PyObject_CallMethod(logger, "log", "isO", line.level, "%s", text);
    if (done == nullptr) PyErr_WriteUnraisable(logger);
    Py_XDECREF(text);
    Py_XDECREF(done);
  }
  if (logger != nullptr && dropped > 0) {
    PyObject* const done =
        PyObject_CallMethod(logger, "warning", "sK", "%d more lines were dropped",
                            static_cast<unsigned long long>(dropped));
    if (done == nullptr) PyErr_WriteUnraisable(logger);
    Py_XDECREF(done);
  }
  if (PyErr_Occurred() != nullptr) PyErr_WriteUnraisable(nullptr);
  Py_XDECREF(logger);
  Py_XDECREF(logging);
}

}  // namespace simm::python
