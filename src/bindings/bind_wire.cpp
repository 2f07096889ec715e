// Requests and limits: parsed from a body, or read from Python objects.
#include <algorithm>
#include <functional>

#include "base/json.h"
#include "bindings/errors.h"
#include "bindings/py_codec.h"
#include "bindings/types.h"
#include "engine/wire.h"

namespace syncline::python {

namespace {

struct LimitField {
  const char* name;
  std::function<std::int64_t&(PyLimits&)> of;
  std::int64_t least, most;
};

const std::vector<LimitField>& limit_fields() {
  constexpr std::int64_t kMost = 1LL << 30;
  static const std::vector<LimitField> fields = {
      {"max_body_bytes", [](PyLimits& l) -> std::int64_t& { return l.max_body_bytes; }, 1024, kMost},
      {"max_mutations", [](PyLimits& l) -> std::int64_t& { return l.max_mutations; }, 1, kMost},
      {"max_page_bytes", [](PyLimits& l) -> std::int64_t& { return l.max_page_bytes; }, 1024, kMost},
      {"max_document_bytes", [](PyLimits& l) -> std::int64_t& { return l.max_document_bytes; }, 64, kMost},
      {"max_nesting", [](PyLimits& l) -> std::int64_t& { return l.max_nesting; }, 1, 64},
      {"max_snapshot_bytes", [](PyLimits& l) -> std::int64_t& { return l.max_snapshot_bytes; }, 1024, kMost},
      {"keep_results", [](PyLimits& l) -> std::int64_t& { return l.keep_results; }, 1, kMost},
      {"max_waiting", [](PyLimits& l) -> std::int64_t& { return l.max_waiting; }, 1, kMost},
  };
  return fields;
}

std::unique_ptr<PyLimits> make_limits(const py::kwargs& given) {
  auto limits = std::make_unique<PyLimits>();
  std::size_t taken = 0;
  for (const LimitField& field : limit_fields()) {
    if (!given.contains(field.name)) continue;
    ++taken;
    const std::int64_t value = integer(given[field.name], field.name, Code::usage);
    if (value < field.least || value > field.most) {
      throw Error(Code::usage, std::string(field.name) + " must lie in " + std::to_string(field.least) + " ... " + std::to_string(field.most) +
                                   ", not be " + std::to_string(value));
    }
    field.of(*limits) = value;
  }
  if (taken != given.size()) {
    for (const auto& [name, value] : given) {
      bool known = false;
      for (const LimitField& field : limit_fields()) known = known || name.cast<std::string>() == field.name;
      if (!known) throw py::type_error("Limits has no field '" + name.cast<std::string>() + "'");
    }
  }
  return limits;
}

// The mutations of an in-process push ---------------------------------------------------------------------------------

std::int64_t read_ts(py::handle value, const std::string& where) {
  if (PyUnicode_Check(value.ptr())) return json::parse_instant(text(value, where.c_str(), Code::invalid_request), {.code = Code::invalid_request});
  return instant_of(value, where, Code::invalid_request);
}

std::uint64_t read_seed(py::handle value, const std::string& where) {
  if (!PyLong_Check(value.ptr()) || PyBool_Check(value.ptr())) throw Error(Code::invalid_request, where + " must be an int of 64 bits");
  const unsigned long long seed = PyLong_AsUnsignedLongLong(value.ptr());
  if (seed == static_cast<unsigned long long>(-1) && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    return static_cast<std::uint64_t>(integer(value, where, Code::invalid_request));
  }
  return seed;
}

Mutation read_mutation(py::handle source, std::size_t index, const mp::Border& border) {
  const auto where = [index](const char* field) { return "mutations[" + std::to_string(index) + "]" + (*field != 0 ? "." : "") + field; };
  py::object mapping = py::reinterpret_borrow<py::object>(source);
  if (!PyDict_Check(source.ptr())) {
    if (PyMapping_Check(source.ptr()) == 0 || PyObject_HasAttrString(source.ptr(), "keys") == 0) {
      throw Error(Code::invalid_request, where("") + " must be a mapping such as {'name': ..., 'args': ..., 'scope': ...}, not " +
                                             Py_TYPE(source.ptr())->tp_name);
    }
    mapping = py::reinterpret_steal<py::object>(PyObject_CallFunctionObjArgs(reinterpret_cast<PyObject*>(&PyDict_Type), source.ptr(), nullptr));
    if (!mapping) throw py::error_already_set();
  }
  Mutation mutation;
  bool named = false;
  bool scoped = false;
  PyObject* args = Py_None;
  Py_ssize_t at = 0;
  PyObject* key = nullptr;
  PyObject* value = nullptr;
  while (PyDict_Next(mapping.ptr(), &at, &key, &value) != 0) {
    const std::string_view field = text(key, [] { return std::string("a field of a mutation"); }, Code::invalid_request);
    if (field == "args") {
      args = value;
    } else if (field == "name") {
      named = true;
      mutation.is_void = value == Py_None;
      if (!mutation.is_void) mutation.name = text(value, [&] { return where("name"); }, Code::invalid_request);
    } else if (field == "scope") {
      scoped = value != Py_None;
      if (scoped) mutation.scope = text(value, [&] { return where("scope"); }, Code::invalid_request);
    } else if (field == "client_id") {
      if (value != Py_None) mutation.client_id = text(value, [&] { return where("client_id"); }, Code::invalid_request);
    } else if (field == "client_seq") {
      if (value != Py_None) mutation.client_seq = integer(value, [&] { return where("client_seq"); }, Code::invalid_request);
    } else if (field == "ts") {
      if (value != Py_None) mutation.ts = read_ts(value, where("ts"));
    } else if (field == "seed") {
      if (value != Py_None) mutation.seed = read_seed(value, where("seed"));
    } else {
      throw Error(Code::invalid_request, where("") + " has the unknown field '" + std::string(field) +
                                             "'; a mutation has name, args, scope, client_id, client_seq, ts and seed");
    }
  }
  if (!named) throw Error(Code::invalid_request, where("name") + " is missing (None for a void, which only consumes its number)");
  if (!scoped && !mutation.is_void) throw Error(Code::invalid_request, where("scope") + " is missing");
  if (mutation.client_seq != 0 && mutation.client_id.empty()) {
    throw Error(Code::invalid_request, where("client_seq") + " comes without a client_id");
  }
  const auto held = py::reinterpret_borrow<py::object>(args);
  mutation.args = encode(held, [&] { return where("args"); }, border);
  return mutation;
}

std::unique_ptr<PushRequest> request_of(py::handle mutations, py::handle epoch, py::handle settled, const PyLimits& limits) {
  if (PyDict_Check(mutations.ptr()) || PyUnicode_Check(mutations.ptr())) {
    throw Error(Code::invalid_request, "push takes a list of mutations; write push([...])");
  }
  auto request = std::make_unique<PushRequest>();
  const mp::Border border = {.code = Code::invalid_mutation,
                             .max_nesting = static_cast<int>(limits.max_nesting),
                             .max_bytes = static_cast<std::size_t>(limits.max_body_bytes),
                             .allow_dollar_keys = false};
  if (PyList_Check(mutations.ptr())) {
    request->mutations.reserve(static_cast<std::size_t>(std::min<std::int64_t>(PyList_GET_SIZE(mutations.ptr()), limits.max_mutations)));
  }
  for (const py::handle one : mutations) {
    if (static_cast<std::int64_t>(request->mutations.size()) == limits.max_mutations) {
      throw Error(Code::too_large, "more than " + std::to_string(limits.max_mutations) + " mutations in one push",
                  {{"limit", limits.max_mutations}});
    }
    request->mutations.push_back(read_mutation(one, request->mutations.size(), border));
  }
  request->epoch = optional_text(epoch, "epoch", Code::invalid_request);
  if (!settled.is_none()) {
    const py::dict numbers(py::reinterpret_borrow<py::object>(settled));
    for (const auto& [client, seq] : numbers) {
      request->settled[std::string(text(client, "a client of settled", Code::invalid_request))] =
          integer(seq, "settled", Code::invalid_request);
    }
  }
  return request;
}

std::unique_ptr<PullRequest> pull_of(py::handle scope, py::handle cursor, py::handle epoch, py::handle page, py::handle limit,
                                     py::handle client_id, py::handle entities) {
  auto request = std::make_unique<PullRequest>();
  request->scope = text(scope, "scope", Code::invalid_scope);
  request->cursor = integer(cursor, "cursor", Code::invalid_request);
  request->epoch = optional_text(epoch, "epoch", Code::invalid_request);
  request->page = optional_text(page, "page", Code::invalid_request);
  if (!limit.is_none()) request->limit = integer(limit, "limit", Code::invalid_request);
  request->client_id = optional_text(client_id, "client_id", Code::invalid_request);
  if (!entities.is_none()) {
    if (PyUnicode_Check(entities.ptr())) throw Error(Code::invalid_request, "entities must be a list of str, not one str");
    request->entities.emplace();
    for (const py::handle entity : entities) request->entities->emplace_back(text(entity, "an entity", Code::invalid_request));
  }
  return request;
}

template <typename Request>
auto parse_with(Request (*parse)(std::string_view, Format, const Limits&)) {
  return [parse](py::handle source, std::string_view format_name, const PyLimits& limits) {
    const Body body(source);
    const Format format = format_of(format_name);
    const WithoutGil free;  // parses
    return std::make_unique<Request>(parse(body.view(), format, limits));
  };
}

py::object or_none(const std::optional<std::string>& value) {
  if (value) return to_str(*value);
  return py::none();
}

py::list to_list(const std::set<std::string>& names) {
  py::list made;
  for (const std::string& name : names) made.append(to_str(name));
  return made;
}

}  // namespace

void bind_wire(py::module_& module) {
  auto limits = py::classh<PyLimits>(module, "Limits", "What the engine takes at most; more is answered with too_large or rate_limited.");
  limits.def(py::init(&make_limits));
  for (const LimitField& field : limit_fields()) {
    limits.def_property_readonly(field.name, [of = field.of](PyLimits& self) { return of(self); });
  }
  limits.def("__eq__", [](PyLimits& a, py::handle other) {
    if (!py::isinstance<PyLimits>(other)) return false;
    auto& b = other.cast<PyLimits&>();
    for (const LimitField& field : limit_fields()) {
      if (field.of(a) != field.of(b)) return false;
    }
    return true;
  });
  limits.attr("__hash__") = py::none();
  limits.def("__repr__", [](PyLimits& self) {
    std::string out = "Limits(";
    for (const LimitField& field : limit_fields()) {
      if (out.back() != '(') out += ", ";
      out += std::string(field.name) + "=" + std::to_string(field.of(self));
    }
    return out + ")";
  });

  py::classh<PushRequest>(module, "PushRequest", "A push that was read and not yet run.")
      .def_static("parse", parse_with(&wire::parse_push), py::arg("body"), py::arg("format"), py::arg("limits"))
      .def_static("of", &request_of, py::arg("mutations"), py::arg("epoch"), py::arg("settled"), py::arg("limits"))
      .def_property_readonly("scopes", [](const PushRequest& self) { return to_list(self.scopes()); })
      .def_property_readonly("clients", [](const PushRequest& self) { return to_list(self.clients()); })
      .def("__len__", [](const PushRequest& self) { return self.mutations.size(); });

  py::classh<PullRequest>(module, "PullRequest", "A pull that was read and not yet answered.")
      .def_static("parse", parse_with(&wire::parse_pull), py::arg("body"), py::arg("format"), py::arg("limits"))
      .def_static("of", &pull_of, py::arg("scope"), py::arg("cursor"), py::arg("epoch"), py::arg("page"), py::arg("limit"),
                  py::arg("client_id"), py::arg("entities"))
      .def_property_readonly("scope", [](const PullRequest& self) { return to_str(self.scope); })
      .def_property_readonly("cursor", [](const PullRequest& self) { return self.cursor; })
      .def_property_readonly("epoch", [](const PullRequest& self) { return or_none(self.epoch); })
      .def_property_readonly("page", [](const PullRequest& self) { return or_none(self.page); })
      .def_property_readonly("limit", [](const PullRequest& self) -> py::object {
        if (self.limit) return py::int_(*self.limit);
        return py::none();
      })
      .def_property_readonly("client_id", [](const PullRequest& self) { return or_none(self.client_id); })
      .def_property_readonly("entities", [](const PullRequest& self) -> py::object {
        if (!self.entities) return py::none();
        py::list made;
        for (const std::string& entity : *self.entities) made.append(to_str(entity));
        return made;
      });

  py::classh<SnapshotRequest>(module, "SnapshotRequest", "A request for a snapshot that was read and not yet answered.")
      .def_static("parse", parse_with(&wire::parse_snapshot), py::arg("body"), py::arg("format"), py::arg("limits"))
      .def_static(
          "of",
          [](py::handle scope, py::handle client_id) {
            auto request = std::make_unique<SnapshotRequest>();
            request->scope = text(scope, "scope", Code::invalid_scope);
            request->client_id = optional_text(client_id, "client_id", Code::invalid_request);
            return request;
          },
          py::arg("scope"), py::arg("client_id"))
      .def_property_readonly("scope", [](const SnapshotRequest& self) { return to_str(self.scope); })
      .def_property_readonly("client_id", [](const SnapshotRequest& self) { return or_none(self.client_id); });

  module.def(
      "encode_error",
      [](py::handle code, py::handle message, const py::dict& details, std::string_view format) {
        Refusal refusal;
        refusal.code = text(code, "code", Code::usage);
        refusal.message = text(message, "message", Code::usage);
        for (const auto& [name, value] : details) {
          std::string key(text(name, "a detail's name", Code::usage));
          if (PyLong_Check(value.ptr())) {
            refusal.details.emplace_back(std::move(key), integer(value, "a detail", Code::usage));
          } else {
            refusal.details.emplace_back(std::move(key), std::string(text(value, "a detail", Code::usage)));
          }
        }
        return to_bytes(wire::encode_error(refusal, format_of(format)));
      },
      py::arg("code"), py::arg("message"), py::arg("details"), py::arg("format"), "The body of an error's answer.");
}

}  // namespace syncline::python
