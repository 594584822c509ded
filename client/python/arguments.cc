#include "client/python/arguments.h"

namespace simm::python {
namespace {

// PySequence_Fast for as long as it lives.
class Items {
 public:
  explicit Items(PyObject* sequence, const char* complaint)
      : fast_(PySequence_Fast(sequence, complaint)) {
    if (fast_ == nullptr) throw nanobind::python_error();
  }
  ~Items() { Py_DECREF(fast_); }
  Items(const Items&) = delete;
  Items& operator=(const Items&) = delete;

  size_t size() const { return static_cast<size_t>(PySequence_Fast_GET_SIZE(fast_)); }
  PyObject* at(size_t i) const {
    return PySequence_Fast_GET_ITEM(fast_, static_cast<Py_ssize_t>(i));
  }

 private:
  PyObject* const fast_;
};

std::string_view BytesOf(PyObject* key) {
  if (PyUnicode_Check(key)) {
    Py_ssize_t size = 0;
    const char* const data = PyUnicode_AsUTF8AndSize(key, &size);
    if (data == nullptr) throw nanobind::python_error();
    return {data, static_cast<size_t>(size)};
  }
  if (PyBytes_Check(key)) {
    return {PyBytes_AS_STRING(key), static_cast<size_t>(PyBytes_GET_SIZE(key))};
  }
  PyErr_Format(PyExc_TypeError, "a key is str or bytes, not %s", Py_TYPE(key)->tp_name);
  throw nanobind::python_error();
}

}  // namespace

Keys::Keys(PyObject* sequence) {
  if (PyUnicode_Check(sequence) || PyBytes_Check(sequence)) {
    PyErr_SetString(PyExc_TypeError, "keys is a list of keys, not one key");
    throw nanobind::python_error();
  }
  const Items items(sequence, "keys is a list of str or bytes");
  views_.reserve(items.size());
  size_t total = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    views_.push_back(BytesOf(items.at(i)));
    total += views_.back().size();
  }
  bytes_.reserve(total);  // no move below: the views stay right
  for (std::string_view& view : views_) {
    const size_t at = bytes_.size();
    bytes_.append(view);
    view = {bytes_.data() + at, view.size()};
  }
}

std::vector<uint64_t> Numbers(PyObject* sequence, size_t count, const char* name) {
  const Items items(sequence, "addresses and sizes are lists of int");
  if (items.size() != count) {
    PyErr_Format(PyExc_ValueError, "%zu %s for %zu keys", items.size(), name, count);
    throw nanobind::python_error();
  }
  std::vector<uint64_t> numbers(count);
  for (size_t i = 0; i < count; ++i) {
    PyObject* const index = PyNumber_Index(items.at(i));  // ints, and numpy's
    if (index == nullptr) throw nanobind::python_error();
    numbers[i] = PyLong_AsUnsignedLongLong(index);
    Py_DECREF(index);
    if (numbers[i] == static_cast<uint64_t>(-1) && PyErr_Occurred() != nullptr)
      throw nanobind::python_error();
  }
  return numbers;
}

}  // namespace simm::python
