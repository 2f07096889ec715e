// `_repr_html_`: what a notebook shows of a native object, rendered in Python. Owner: the bindings. Threads: with the GIL.
#pragma once

#include "bindings/python.h"

namespace syncline::python {

// The method that calls syncline._html's function of that name; the module is imported when a notebook first asks.
inline auto html(const char* name) {
  return [name](const py::object& self) -> py::object { return py::module_::import("syncline._html").attr(name)(self); };
}

}  // namespace syncline::python
