#include "client/python/results.h"

namespace simm::python {
namespace {

template <typename Number>
PyObject* ListOf(const std::vector<KeyResult>& results, Number number) {
  PyObject* const list = PyList_New(static_cast<Py_ssize_t>(results.size()));
  if (list == nullptr) return nullptr;
  for (size_t i = 0; i < results.size(); ++i) {
    PyObject* const item = PyLong_FromUnsignedLongLong(number(results[i]));
    if (item == nullptr) {
      Py_DECREF(list);
      return nullptr;
    }
    PyList_SET_ITEM(list, static_cast<Py_ssize_t>(i), item);
  }
  return list;
}

}  // namespace

PyObject* CodeList(const std::vector<KeyResult>& results) {
  return ListOf(results,
                [](const KeyResult& r) { return static_cast<unsigned long long>(r.code); });
}

PyObject* FlagList(const std::vector<KeyResult>& results) {
  PyObject* const list = PyList_New(static_cast<Py_ssize_t>(results.size()));
  if (list == nullptr) return nullptr;
  for (size_t i = 0; i < results.size(); ++i) {
    PyList_SET_ITEM(list, static_cast<Py_ssize_t>(i),
                    PyBool_FromLong(results[i].code == Code::kOk ? 1 : 0));
  }
  return list;
}

PyObject* ByteCountList(const std::vector<KeyResult>& results) {
  return ListOf(results, [](const KeyResult& r) { return r.value_bytes; });
}

}  // namespace simm::python
