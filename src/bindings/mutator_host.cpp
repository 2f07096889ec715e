#include "bindings/mutator_host.h"

#include <algorithm>
#include <array>
#include <utility>

#include "bindings/errors.h"
#include "bindings/py_codec.h"

namespace syncline::python {

namespace {

Outcome refused(std::string code, std::string message, std::vector<Detail> details = {}) {
  return {Outcome::Kind::refused, {std::move(code), std::move(message), std::move(details)}};
}

std::string utf8_or(py::handle value, const char* otherwise) {
  if (!PyUnicode_Check(value.ptr())) return otherwise;
  const char* utf8 = PyUnicode_AsUTF8(value.ptr());
  if (utf8 == nullptr) {
    PyErr_Clear();
    return otherwise;
  }
  return utf8;
}

std::vector<Detail> details_of(py::handle error) {
  std::vector<Detail> details;
  const py::object given = py::getattr(error, "details", py::dict());
  if (!PyDict_Check(given.ptr())) return details;
  for (const auto& [name, value] : py::reinterpret_borrow<py::dict>(given)) {
    int overflow = 0;
    const bool number = PyLong_Check(value.ptr()) && !PyBool_Check(value.ptr());
    const long long integer = number ? PyLong_AsLongLongAndOverflow(value.ptr(), &overflow) : 0;
    std::string key = utf8_or(name, "");
    // These two names are the error's own on the wire.
    if (key.empty() || key == "code" || key == "message") continue;
    if (number && overflow == 0) {
      details.emplace_back(std::move(key), static_cast<std::int64_t>(integer));
    } else {
      details.emplace_back(std::move(key), utf8_or(py::str(value), "?"));
    }
  }
  return details;
}

// The codes that say something about the mutation. The others are faults of the mutator's code, or of the storage.
bool about_mutation(Code code) {
  constexpr std::array kSuch = {Code::invalid_mutation, Code::invalid_scope, Code::forbidden, Code::not_found, Code::unknown_mutation,
                                Code::conflict,         Code::too_large,     Code::rejected};
  return std::ranges::find(kSuch, code) != kSuch.end();
}

bool is_awaitable(PyObject* result) {
  return PyCoro_CheckExact(result) || PyGen_CheckExact(result) || PyAsyncGen_CheckExact(result) ||
         (Py_TYPE(result)->tp_as_async != nullptr && Py_TYPE(result)->tp_as_async->am_await != nullptr);
}

void log_failure(std::string_view name, py::handle error) {
  try {
    package_attribute("syncline.mutators", "_log_failure")(to_str(name), error);
  } catch (py::error_already_set& broken) {
    broken.discard_as_unraisable("syncline: logging a mutator's failure");
  }
}

void log_slow(const Mutation& mutation, const py::object& name, double seconds, Tx& tx) {
  try {
    package_attribute("syncline.mutators", "_log_slow")(name, seconds, to_str(mutation.scope), to_str(mutation.client_id),
                                                        mutation.client_seq, to_str(tx.user()));
  } catch (py::error_already_set& broken) {
    broken.discard_as_unraisable("syncline: logging a slow mutator");
  }
}

// The client hears nothing of `error`: the log and a dead letter do.
Outcome internal(std::string_view name, py::handle error) {
  log_failure(name, error);
  Outcome outcome = refused(std::string(code_name(Code::internal_error)), "internal error");
  outcome.failure = std::make_shared<Failure>();
  try {
    const auto told = package_attribute("syncline.dead_letters", "_describe")(error).cast<py::tuple>();
    outcome.failure->type = told[0].cast<std::string>();
    outcome.failure->message = told[1].cast<std::string>();
    outcome.failure->traceback = told[2].cast<std::string>();
  } catch (py::error_already_set& broken) {
    outcome.failure->type = Py_TYPE(error.ptr())->tp_name;
    broken.discard_as_unraisable("syncline: describing a mutator's failure");
  }
  return outcome;
}

class InContext {
 public:
  explicit InContext(const py::object& context) : context_(context.is_none() ? nullptr : context.ptr()) {
    if (context_ != nullptr && PyContext_Enter(context_) != 0) throw py::error_already_set();
  }
  ~InContext() {
    if (context_ == nullptr) return;
    const py::error_scope kept;
    PyContext_Exit(context_);
  }
  InContext(const InContext&) = delete;
  InContext& operator=(const InContext&) = delete;

 private:
  PyObject* context_;
};

}  // namespace

PyMutatorHost::PyMutatorHost(py::dict table, py::object context, py::object admit, const mp::Border& border, MutatorWatch& watch,
                             LentTx* lent)
    : table_(std::move(table)),
      context_(std::move(context)),
      admit_(std::move(admit)),
      border_(border),
      watch_(watch),
      lent_(lent != nullptr ? *lent : own_) {}

PyMutatorHost::~PyMutatorHost() = default;

PyObject* PyMutatorHost::borrow_tx(Tx& tx) {
  if (!lent_.object || Py_REFCNT(lent_.object.ptr()) != 1) {
    lent_.object = py::cast(std::make_unique<PyTx>());
    lent_.tx = lent_.object.cast<PyTx*>();
    lent_.tx->border = border_;
  }
  lent_.tx->tx = &tx;
  lent_.tx->thread = std::this_thread::get_id();
  return lent_.object.ptr();
}

Outcome PyMutatorHost::run(const Mutation& mutation, Tx& tx) {
  const WithGil gil;
  struct End {
    LentTx& lent;
    ~End() {
      if (lent.tx != nullptr) lent.tx->tx = nullptr;
    }
  } end{lent_};
  try {
    if (!admit_.is_none()) {
      const auto admitted = py::reinterpret_steal<py::object>(PyObject_CallOneArg(admit_.ptr(), Py_False));
      if (!admitted) throw py::error_already_set();
      withdrawn_ = admitted.ptr() != Py_True;
      admit_ = py::none();
    }
    if (withdrawn_) return {Outcome::Kind::abort, {}};
    return call(mutation, tx);
  } catch (py::error_already_set& raised) {
    return failed(mutation, raised);
  }
}

Outcome PyMutatorHost::call(const Mutation& mutation, Tx& tx) {
  const py::object name = cached_str(mutation.name);
  PyObject* entry = PyDict_GetItemWithError(table_.ptr(), name.ptr());
  if (entry == nullptr) {
    if (PyErr_Occurred() != nullptr) throw py::error_already_set();
    return refused(std::string(code_name(Code::unknown_mutation)), "there is no mutator named '" + mutation.name + "'");
  }
  const auto held = py::reinterpret_borrow<py::object>(entry);
  PyObject* function = PyTuple_GET_ITEM(entry, 0);
  PyObject* validate = PyTuple_GET_ITEM(entry, 1);
  MutatorRun run(watch_, mutation.name);
  const py::object result = invoke(function, name, validate, mutation.args.empty() ? py::none() : decode(mutation.args), tx);
  const double seconds = run.end(!result);
  if (seconds >= watch_.slow_seconds) {
    const py::error_scope kept;
    log_slow(mutation, name, seconds, tx);
  }
  if (!result) throw py::error_already_set();
  if (result.is_none() || !is_awaitable(result.ptr())) return {};
  if (py::hasattr(result, "close")) result.attr("close")();
  const std::string kind = Py_TYPE(result.ptr())->tp_name;
  return broken(mutation, package_attribute("syncline.errors", "UsageError")(to_str(
                              "the mutator returned a " + kind + ", which nobody awaits; write it as a plain function")));
}

Outcome PyMutatorHost::broken(const Mutation& mutation, const py::object& fault) { return internal(mutation.name, fault); }

// What the mutator returned; null where it, or the check of its arguments, raised.
py::object PyMutatorHost::invoke(PyObject* function, const py::object& name, PyObject* validate, py::object args, Tx& tx) {
  const InContext context(context_);
  if (validate != Py_None) {
    args = py::reinterpret_steal<py::object>(PyObject_CallOneArg(validate, args.ptr()));
    if (!args) return args;
  }
  const py::object runner = watch_.runner;
  if (runner.is_none()) {
    PyObject* arguments[] = {nullptr, borrow_tx(tx), args.ptr()};
    return py::reinterpret_steal<py::object>(PyObject_Vectorcall(function, arguments + 1, 2 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
  }
  PyObject* arguments[] = {nullptr, function, name.ptr(), borrow_tx(tx), args.ptr()};
  return py::reinterpret_steal<py::object>(
      PyObject_Vectorcall(runner.ptr(), arguments + 1, 4 | PY_VECTORCALL_ARGUMENTS_OFFSET, nullptr));
}

Outcome PyMutatorHost::failed(const Mutation& mutation, py::error_already_set& raised) {
  const py::object value = raised.value();
  // Who catches in Python finds the traceback on the exception; here it is kept beside it.
  if (raised.trace()) PyException_SetTraceback(value.ptr(), raised.trace().ptr());
  const auto is = [&](const char* name) {
    return PyObject_IsInstance(value.ptr(), package_attribute("syncline.errors", name).ptr()) == 1;
  };
  if (PyObject_IsInstance(value.ptr(), PyExc_Exception) != 1) {
    abort_.emplace(raised);
    return {Outcome::Kind::abort, {}};
  }
  if (is("Retry")) return {Outcome::Kind::retry, {}};
  if (is("Error")) {
    const std::string code = utf8_or(py::getattr(value, "code", py::none()), "internal_error");
    const std::string message = utf8_or(py::getattr(value, "message", py::none()), "");
    if (is("Rejected")) return refused(code, message, details_of(value));
    const std::optional<Code> known = code_named(code);
    if (known && about_mutation(*known)) return refused(code, message, details_of(value));
    // A filter or a limit made of the arguments.
    if (known == Code::invalid_request) return refused(std::string(code_name(Code::invalid_mutation)), message, details_of(value));
    // The storage below failed: a later try may do better. What is closed or forbidden to the mutator's code stays so.
    if (known && known != Code::closed && wire_code(*known) == Code::unavailable) return {Outcome::Kind::retry, {}};
  }
  return internal(mutation.name, value);
}

}  // namespace syncline::python
