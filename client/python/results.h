#pragma once

#include <Python.h>

#include <vector>

#include "client/client.h"

namespace simm::python {

// New lists with one int for each key: its Code, or its value's length. With the GIL; nullptr with
// a Python error set.
PyObject* CodeList(const std::vector<KeyResult>& results);
// One bool for each key: kOk.
PyObject* FlagList(const std::vector<KeyResult>& results);
PyObject* ByteCountList(const std::vector<KeyResult>& results);

}  // namespace simm::python
