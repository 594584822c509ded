#include "client/python/process.h"

#include <nanobind/nanobind.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

namespace simm::python {
namespace {

using namespace std::chrono_literals;

constexpr auto kLongestExit = 10s;

// By the GIL:
pid_t first_pid = 0;
int calls_under_way = 0;
bool leaving = false;
// Set when somebody is still under way after kLongestExit: he stays where he is.
std::atomic<bool> gone{false};

[[noreturn]] void RaiseFrom(const char* name, const char* format, int code, const char* message) {
  PyObject* const errors = PyImport_ImportModule("simm.errors");
  if (errors != nullptr) {
    PyObject* const error = code < 0 ? PyObject_CallMethod(errors, name, format, message)
                                     : PyObject_CallMethod(errors, name, format, code, message);
    if (error != nullptr) {
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error)), error);
      Py_DECREF(error);
    }
    Py_DECREF(errors);
  }
  throw nanobind::python_error();
}

}  // namespace

GilReleased::GilReleased() : state_((++calls_under_way, PyEval_SaveThread())) {}

GilReleased::~GilReleased() {
  while (gone.load()) std::this_thread::sleep_for(1h);
  PyEval_RestoreThread(state_);
  --calls_under_way;
}

void Raise(int code, const char* message) { RaiseFrom("error_of", "is", code, message); }
void RaiseNamed(const char* name, const char* message) { RaiseFrom(name, "s", -1, message); }

bool IsForked() { return first_pid != 0 && first_pid != getpid(); }

void EnterProcess() {
  if (IsForked()) {
    RaiseNamed("ForkError",
               "this process was forked from one that had already opened a SiMM client, and "
               "neither its threads nor its connections are here. Open clients after the fork, "
               "or start processes with multiprocessing's \"spawn\" or \"forkserver\"");
  }
  first_pid = getpid();
}

bool IsLeaving() { return leaving; }

bool LeaveProcess() {
  leaving = true;
  const auto end = std::chrono::steady_clock::now() + kLongestExit;
  while (calls_under_way > 0 && std::chrono::steady_clock::now() < end) {
    Py_BEGIN_ALLOW_THREADS;
    std::this_thread::sleep_for(1ms);
    Py_END_ALLOW_THREADS;
  }
  gone = calls_under_way > 0;
  return calls_under_way == 0;
}

}  // namespace simm::python
