// Errors of the core as Python exceptions. Owner: the bindings. Threads: with the GIL.
#pragma once

#include <exception>
#include <optional>
#include <string_view>
#include <vector>

#include "bindings/python.h"

namespace syncline::python {

py::dict to_dict(const std::vector<Detail>& details);
py::object to_exception(const Error& error);
py::object to_exception(const Refusal& refusal);
py::object to_exception(const std::exception_ptr& error);
std::optional<Code> code_named(std::string_view name) noexcept;

}  // namespace syncline::python
