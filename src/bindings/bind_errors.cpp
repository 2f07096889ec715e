// A core `Error` becomes the Python class of its code: here, once.
#include "bindings/errors.h"

#include <array>

namespace syncline::python {

namespace {

constexpr std::array kClasses = {
    "InvalidRequest",  "InvalidMutation", "InvalidScope",  "Unauthenticated", "Forbidden", "NotFound",    "UnknownMutation",
    "InternalError",   "SequenceGap",     "SequenceReused", "Conflict",       "CursorTooOld", "HistoryGone", "EpochMismatch", "ResultExpired",
    "TooLarge",        "Rejected",        "RateLimited",   "Unavailable",     "Closed",    "UsageError",  "Locked",
    "ForeignFile",     "NewerSchema",     "Corrupt",       "DiskFull",        "ReadOnly",  "StorageError"};
static_assert(kClasses.size() == static_cast<std::size_t>(Code::storage) + 1);

}  // namespace

py::dict to_dict(const std::vector<Detail>& details) {
  py::dict made;
  for (const auto& [name, value] : details) {
    if (const auto* number = std::get_if<std::int64_t>(&value)) {
      made[to_str(name)] = *number;
    } else {
      made[to_str(name)] = to_str(std::get<std::string>(value));
    }
  }
  return made;
}

py::object to_exception(const Error& error) {
  const py::handle type = package_attribute("syncline.errors", kClasses[static_cast<std::size_t>(error.code())]);
  return type(to_str(error.what()), py::arg("details") = to_dict(error.details()));
}

py::object to_exception(const Refusal& refusal) {
  return package_attribute("syncline.errors", "from_code")(to_str(refusal.code), to_str(refusal.message), to_dict(refusal.details));
}

py::object to_exception(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Error& known) {
    return to_exception(known);
  } catch (py::error_already_set& raised) {
    return raised.value();
  } catch (const std::exception& other) {
    return to_exception(Error(Code::internal_error, other.what()));
  }
}

std::optional<Code> code_named(std::string_view name) noexcept {
  for (std::size_t i = 0; i <= static_cast<std::size_t>(Code::storage); ++i) {
    if (code_name(static_cast<Code>(i)) == name) return static_cast<Code>(i);
  }
  return std::nullopt;
}

void bind_errors(py::module_& module) {
  py::register_local_exception_translator([](std::exception_ptr raised) {
    if (!raised) return;
    try {
      std::rethrow_exception(raised);
    } catch (const Error& error) {
      const py::object made = to_exception(error);
      PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(made.ptr())), made.ptr());
    }
  });
  module.def(
      "http_status",
      [](const std::string& code) {
        const std::optional<Code> known = code_named(code);
        return known ? http_status(*known) : http_status(Code::rejected);
      },
      py::arg("code"), "The HTTP status of an error code; an unknown one is a `Rejected`'s own: 422.");
}

}  // namespace syncline::python
