// An answer that is written where Python will find it: bytes that become a `bytes` object without being copied.
//
// What     Small answers are copied at the end. From 64 KiB on the bytes are those of a `bytes` object, made and enlarged with the GIL
//          while the scan waits, and cut to what was written: of a page of 4 MiB with documents of 2 kB a tenth of the time was its copy.
// Owner    the call that answers. Threads  one; written without the GIL, begun and taken with it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "bindings/python.h"

namespace syncline::python {

class AnswerBytes : public Bytes {
 public:
  AnswerBytes() = default;
  AnswerBytes(const AnswerBytes&) = delete;
  AnswerBytes& operator=(const AnswerBytes&) = delete;
  ~AnswerBytes() override { Py_XDECREF(object_); }

  py::bytes take() {
    if (object_ == nullptr) return to_bytes(view());
    if (_PyBytes_Resize(&object_, static_cast<Py_ssize_t>(size())) != 0) throw py::error_already_set();
    return py::reinterpret_steal<py::bytes>(std::exchange(object_, nullptr));
  }

 protected:
  void grow(std::size_t size) override {
    const std::size_t wanted = this->size() + size;
    if (object_ == nullptr && wanted <= kSmall) return Bytes::grow(kSmall);
    const WithGil gil;
    const auto most = static_cast<Py_ssize_t>(std::max(wanted + wanted / 8, 4 * capacity()));
    if (object_ == nullptr) {
      object_ = PyBytes_FromStringAndSize(nullptr, most);
      if (object_ != nullptr && this->size() > 0) std::memcpy(PyBytes_AS_STRING(object_), data(), this->size());
      own_.reset();
    } else {
      _PyBytes_Resize(&object_, most);  // mostly in place: the allocator moves large blocks by their pages
    }
    if (object_ == nullptr) throw py::error_already_set();
    rest_on(PyBytes_AS_STRING(object_), static_cast<std::size_t>(most));
  }

 private:
  static constexpr std::size_t kSmall = 64 << 10;

  PyObject* object_ = nullptr;
};

}  // namespace syncline::python
