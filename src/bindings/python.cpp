#include "bindings/python.h"

#include <unistd.h>

#include <map>
#include <utility>

namespace syncline::python {

bool WithoutGil::finalizing() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

void WithoutGil::hang() noexcept {
  for (;;) pause();
}

namespace {

std::string type_name(py::handle value) { return Py_TYPE(value.ptr())->tp_name; }

}  // namespace

std::string_view text(py::handle value, const char* what, Code code) {
  if (!PyUnicode_Check(value.ptr())) throw Error(code, std::string(what) + " must be a str, not " + type_name(value));
  Py_ssize_t size = 0;
  const char* utf8 = PyUnicode_AsUTF8AndSize(value.ptr(), &size);
  if (utf8 == nullptr) {
    PyErr_Clear();
    throw Error(code, std::string(what) + " is a str with a lone surrogate, which has no UTF-8 form");
  }
  return {utf8, static_cast<std::size_t>(size)};
}

std::optional<std::string> optional_text(py::handle value, const char* what, Code code) {
  if (value.is_none()) return std::nullopt;
  return std::string(text(value, what, code));
}

std::int64_t integer(py::handle value, const std::string& what, Code code) {
  if (!PyLong_Check(value.ptr()) || PyBool_Check(value.ptr())) {
    throw Error(code, what + " must be an int, not " + type_name(value));
  }
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
  if (overflow != 0) throw Error(code, what + " must be an int of 64 bits");
  return number;
}

Body::Body(py::handle source) {
  if (PyBytes_Check(source.ptr())) {
    owner_ = py::reinterpret_borrow<py::object>(source);
    view_ = {PyBytes_AS_STRING(source.ptr()), static_cast<std::size_t>(PyBytes_GET_SIZE(source.ptr()))};
    return;
  }
  Py_buffer buffer;
  if (PyObject_GetBuffer(source.ptr(), &buffer, PyBUF_SIMPLE) != 0) {
    PyErr_Clear();
    throw py::type_error("a body must be bytes, a bytearray or a contiguous memoryview, not " + type_name(source));
  }
  // Another thread might write into it while it is parsed without the GIL.
  copy_.assign(static_cast<const char*>(buffer.buf), static_cast<std::size_t>(buffer.len));
  PyBuffer_Release(&buffer);
  view_ = copy_;
}

Format format_of(std::string_view name) {
  if (name == "json") return Format::json;
  if (name == "msgpack") return Format::msgpack;
  throw Error(Code::usage, "format must be 'json' or 'msgpack', not '" + std::string(name) + "'");
}

py::bytes to_bytes(std::string_view bytes) { return {bytes.data(), bytes.size()}; }

py::str to_str(std::string_view utf8) {
  PyObject* made = PyUnicode_DecodeUTF8(utf8.data(), static_cast<Py_ssize_t>(utf8.size()), "replace");
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(made);
}

std::string repr_of(std::string_view utf8) { return py::repr(to_str(utf8)).cast<std::string>(); }

py::handle package_attribute(const char* module, const char* name) {
  // Never freed: the interpreter may be gone when static objects are destroyed.
  static auto& cache = *new std::map<std::pair<std::string, std::string>, PyObject*>;
  PyObject*& found = cache[{module, name}];
  if (found == nullptr) found = py::object(py::module_::import(module).attr(name)).release().ptr();
  return found;
}

}  // namespace syncline::python
