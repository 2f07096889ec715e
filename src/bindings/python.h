// What every binding shares: pybind11, the GIL, and the conversion of small arguments.
//
// Owner    the bindings. Threads  as each piece says; `WithoutGil` frees the GIL, `WithGil` takes it.
#pragma once

#define PY_SSIZE_T_CLEAN
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <concepts>
#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"
#include "engine/engine.h"

namespace syncline::python {

namespace py = pybind11;

// Frees the GIL for its scope. Every use says what it waits for or computes.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  // A daemon thread that asks for the GIL while the interpreter ends is unwound through here, unless an error is on its way already: two
  // cannot be, and the thread waits for the process to end instead.
  ~WithoutGil() noexcept(false) {
    if (std::uncaught_exceptions() > errors_ && finalizing()) hang();
    PyEval_RestoreThread(state_);
  }
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;

 private:
  static bool finalizing() noexcept;
  [[noreturn]] static void hang() noexcept;

  PyThreadState* state_;
  int errors_ = std::uncaught_exceptions();
};

// Takes the GIL for its scope, on a thread that has freed it or that Python has never seen.
class WithGil {
 public:
  WithGil() : state_(PyGILState_Ensure()) {}
  ~WithGil() { PyGILState_Release(state_); }
  WithGil(const WithGil&) = delete;
  WithGil& operator=(const WithGil&) = delete;

 private:
  PyGILState_STATE state_;
};

// A str as its UTF-8; lives as long as the object. Error(code) naming `what` when it is no str or has lone surrogates.
std::string_view text(py::handle value, const char* what, Code code = Code::invalid_mutation);
// The same, where saying what it is costs something: `what()` is asked only for the message of a refusal.
template <std::invocable What>
std::string_view text(py::handle value, const What& what, Code code) {
  Py_ssize_t size = 0;
  if (PyUnicode_Check(value.ptr())) {
    if (const char* utf8 = PyUnicode_AsUTF8AndSize(value.ptr(), &size)) return {utf8, static_cast<std::size_t>(size)};
    PyErr_Clear();
  }
  return text(value, what().c_str(), code);
}
std::optional<std::string> optional_text(py::handle value, const char* what, Code code);
std::int64_t integer(py::handle value, const std::string& what, Code code);
template <std::invocable What>
std::int64_t integer(py::handle value, const What& what, Code code) {
  if (PyLong_Check(value.ptr()) && !PyBool_Check(value.ptr())) {
    int overflow = 0;
    const long long number = PyLong_AsLongLongAndOverflow(value.ptr(), &overflow);
    if (overflow == 0) return number;
  }
  return integer(value, what(), code);
}

// The bytes of a body. Held as they are where nobody can change them, copied otherwise.
class Body {
 public:
  explicit Body(py::handle source);
  [[nodiscard]] std::string_view view() const noexcept { return view_; }

 private:
  py::object owner_;
  std::string copy_;
  std::string_view view_;
};

Format format_of(std::string_view name);  // "json", "msgpack"; Error(usage) for any other
py::bytes to_bytes(std::string_view bytes);
py::str to_str(std::string_view utf8);

// `quoted` for a repr.
std::string repr_of(std::string_view utf8);

// The class of syncline.errors, or another attribute of a module of the package. Borrowed, cached for ever.
py::handle package_attribute(const char* module, const char* name);

void bind_errors(py::module_& module);
void bind_codec(py::module_& module);
void bind_wire(py::module_& module);
void bind_results(py::module_& module);
void bind_tx(py::module_& module);
void bind_view(py::module_& module);
void bind_engine(py::module_& module);
void bind_tables(py::module_& module);
void bind_history(py::module_& module);
void bind_dead_letters(py::module_& module);
void bind_notes(py::module_& module);
void bind_load(py::module_& module);
void bind_upgrades(py::module_& module);
void bind_keeping(py::module_& module);
void bind_replica(py::module_& module);

}  // namespace syncline::python
