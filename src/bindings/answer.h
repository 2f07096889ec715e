// An answer that is written where Python will find it: bytes that become a `bytes` object without being copied.
//
// What     The memory is that of a `bytes` object from the first, which is told its size at the end: of a page of 4 MiB with documents
//          of 2 kB a tenth of the time was its copy. A larger one is made with the GIL while the scan waits.
// Owner    the call that answers. Threads  one; written without the GIL, begun and taken with it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "base/bytes.h"
#include "bindings/python.h"

namespace syncline::python {

class AnswerBytes : public Bytes {
 public:
  // Pages of one size follow each other: with the memory that the last one of this thread took, the next grows not once.
  AnswerBytes() {
    const std::size_t capacity = std::clamp(last_size + last_size / 8, kSmall, kMostAtOnce);
    object_ = PyBytes_FromStringAndSize(nullptr, static_cast<Py_ssize_t>(capacity));
    if (object_ == nullptr) throw py::error_already_set();
    rest_on(PyBytes_AS_STRING(object_), capacity);
  }
  AnswerBytes(const AnswerBytes&) = delete;
  AnswerBytes& operator=(const AnswerBytes&) = delete;
  ~AnswerBytes() override { Py_XDECREF(object_); }

  py::bytes take() {
    last_size = size();
    // What was left over is given back only where it is much. glibc maps a large piece anew for each page, and has the kernel clear it
    // (1,063 faults for 4 MiB, a tenth of the pull), until a piece that it mapped comes back whole: one that was cut never teaches it.
    if (capacity() - size() > size() / 2) {
      if (_PyBytes_Resize(&object_, static_cast<Py_ssize_t>(size())) != 0) throw py::error_already_set();
    } else {
      Py_SET_SIZE(reinterpret_cast<PyVarObject*>(object_), static_cast<Py_ssize_t>(size()));
      PyBytes_AS_STRING(object_)[size()] = '\0';
    }
    return py::reinterpret_steal<py::bytes>(std::exchange(object_, nullptr));
  }

 protected:
  void grow(std::size_t size) override {
    const std::size_t wanted = this->size() + size;
    const std::size_t capacity = wanted <= kMiddle ? kMiddle : wanted <= kPage ? kPage : wanted + wanted / 2;
    const WithGil gil;
    // Where the allocator can, in place.
    if (_PyBytes_Resize(&object_, static_cast<Py_ssize_t>(capacity)) != 0) throw py::error_already_set();
    rest_on(PyBytes_AS_STRING(object_), capacity);
  }

 private:
  // The first is below what glibc maps by itself. Few steps: what is touched for the first time costs as much as what is copied. A page
  // of 4 MiB comes to 5.3 MB as JSON with documents of 200 B.
  static constexpr std::size_t kSmall = 120 << 10;
  static constexpr std::size_t kMiddle = 1 << 20;
  static constexpr std::size_t kPage = 7 << 20;
  static constexpr std::size_t kMostAtOnce = 8 << 20;
  static inline thread_local std::size_t last_size = 0;

  PyObject* object_ = nullptr;
};

}  // namespace syncline::python
