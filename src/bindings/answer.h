// An answer that is written where Python will find it: bytes that become a `bytes` object without being copied.
//
// What     The memory is that of a `bytes` object from the first, which is cut to what was written at the end: of a page of 4 MiB with documents
//          of 2 kB a tenth of the time was its copy. A larger one is made with the GIL while the scan waits.
// Owner    the call that answers. Threads  one; written without the GIL, begun and taken with it.
#pragma once

#include <cstddef>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "bindings/python.h"

namespace syncline::python {

class AnswerBytes : public Bytes {
 public:
  AnswerBytes() { rest_on_new(kSmall); }
  AnswerBytes(const AnswerBytes&) = delete;
  AnswerBytes& operator=(const AnswerBytes&) = delete;
  ~AnswerBytes() override { Py_XDECREF(object_); }

  py::bytes take() {
    if (_PyBytes_Resize(&object_, static_cast<Py_ssize_t>(size())) != 0) throw py::error_already_set();
    return py::reinterpret_steal<py::bytes>(std::exchange(object_, nullptr));
  }

 protected:
  void grow(std::size_t size) override {
    const std::size_t wanted = this->size() + size;
    const WithGil gil;
    rest_on_new(wanted <= kMiddle ? kMiddle : wanted <= kPage ? kPage : wanted + wanted / 2);
  }

 private:
  // Three sizes and not one more: what is touched for the first time costs as much as what is copied.
  static constexpr std::size_t kSmall = 64 << 10;
  static constexpr std::size_t kMiddle = 512 << 10;
  static constexpr std::size_t kPage = (4 << 20) + (512 << 10);

  void rest_on_new(std::size_t capacity) {
    PyObject* larger = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(capacity));
    if (larger == nullptr) throw py::error_already_set();
    if (size() > 0) std::memcpy(PyBytes_AS_STRING(larger), data(), size());
    Py_XDECREF(object_);
    object_ = larger;
    rest_on(PyBytes_AS_STRING(object_), capacity);
  }

  PyObject* object_ = nullptr;
};

}  // namespace syncline::python
