#pragma once

#include <Python.h>

namespace simm::python {

// The GIL is given up for as long as it lives. Between the interpreter's exit and this stands
// LeaveProcess, which waits for all of these: a thread that came back from C++ to an interpreter
// that is being torn down would end the process with an abort.
class GilReleased {
 public:
  GilReleased();
  ~GilReleased();
  GilReleased(const GilReleased&) = delete;
  GilReleased& operator=(const GilReleased&) = delete;

 private:
  PyThreadState* const state_;
};

// Raises a Python exception: simm.errors.error_of(code, message). Throws nanobind::python_error.
[[noreturn]] void Raise(int code, const char* message);
// Raises simm.errors.`name` with this message.
[[noreturn]] void RaiseNamed(const char* name, const char* message);

// Whether this is another process than the one that connected first: a fork copies neither the
// threads of the client library nor its connections' owners.
bool IsForked();
// Called by each connect, before it does anything. Raises simm.errors.ForkError where IsForked().
void EnterProcess();
// Whether the interpreter is about to exit: nothing new may begin.
bool IsLeaving();
// Marks that it is, and waits for the calls that are under way (10 s; a call that takes longer
// never returns to Python then). True: none is left. With the GIL, which is given up meanwhile.
bool LeaveProcess();

}  // namespace simm::python
