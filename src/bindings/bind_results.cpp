// What push, pull and snapshot give back: light objects over the core's answer, documents decoded when they are asked for.
#include <algorithm>

#include "bindings/errors.h"
#include "bindings/html.h"
#include "bindings/py_codec.h"
#include "bindings/types.h"
#include "engine/wire.h"

namespace syncline::python {

namespace {

struct PyResult {
  std::shared_ptr<PyPushResult> push;
  std::size_t index = 0;
  [[nodiscard]] const MutationResult& get() const { return push->push.results[index]; }
};

struct PyNote {
  std::shared_ptr<PyPushResult> push;
  std::size_t result = 0, index = 0;
  [[nodiscard]] const ChangeNote& get() const { return push->push.results[result].changes[index]; }
};

struct PyResultError {
  Refusal refusal;
};

struct PyChange {
  std::shared_ptr<PyPull> pull;
  std::size_t index = 0;
  [[nodiscard]] const PyPull::Line& get() const { return pull->lines[index]; }
};

bool same(const Refusal& a, const Refusal& b) { return a.code == b.code && a.message == b.message && a.details == b.details; }

bool same(const ChangeNote& a, const ChangeNote& b) {
  return a.cursor == b.cursor && a.entity == b.entity && a.id == b.id && a.op == b.op && a.version == b.version;
}

bool same(const MutationResult& a, const MutationResult& b) {
  return a.cursor == b.cursor && a.duplicate == b.duplicate && a.ok() == b.ok() && (a.ok() || same(*a.error, *b.error)) &&
         std::ranges::equal(a.changes, b.changes, [](const ChangeNote& x, const ChangeNote& y) { return same(x, y); });
}

// Whether `other` is of type T too, and equal.
template <typename T, typename Same>
auto equality(Same same_as) {
  return [same_as](const T& a, py::handle other) -> py::object {
    if (!py::isinstance<T>(other)) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
    return py::bool_(same_as(a, other.cast<const T&>()));
  };
}

std::size_t position(py::ssize_t index, std::size_t size) {
  if (index < 0) index += static_cast<py::ssize_t>(size);
  if (index < 0 || static_cast<std::size_t>(index) >= size) throw py::index_error("there are " + std::to_string(size));
  return static_cast<std::size_t>(index);
}

py::list results_of(const std::shared_ptr<PyPushResult>& self) {
  py::list made(self->push.results.size());
  for (std::size_t i = 0; i < self->push.results.size(); ++i) made[i] = py::cast(std::make_unique<PyResult>(PyResult{self, i}));
  return made;
}

py::list changes_of(const std::shared_ptr<PyPull>& self) {
  py::list made(self->lines.size());
  for (std::size_t i = 0; i < self->lines.size(); ++i) made[i] = py::cast(std::make_unique<PyChange>(PyChange{self, i}));
  return made;
}

py::object error_of(const PyResult& self) {
  if (self.get().ok()) return py::none();
  return py::cast(std::make_unique<PyResultError>(PyResultError{*self.get().error}));
}

py::object last_seq_of(const std::optional<std::int64_t>& last_seq) {
  if (last_seq) return py::int_(*last_seq);
  return py::none();
}

std::string address(const std::string& entity, std::string_view id) {
  std::string made = entity;
  made += '/';
  made += id;
  return made;
}

std::string describe(const PyResult& self) {
  const MutationResult& result = self.get();
  std::string out = "<Result ";
  if (result.ok()) {
    out += "ok cursor=" + std::to_string(result.cursor) + " changes=" + std::to_string(result.changes.size());
  } else {
    out += result.error->code + " " + repr_of(result.error->message);
  }
  return out + (result.duplicate ? " duplicate>" : ">");
}

bool same_line(const PyChange& a, const PyChange& b) {
  const PyPull::Line& x = a.get();
  const PyPull::Line& y = b.get();
  return x.cursor == y.cursor && a.pull->scope == b.pull->scope && a.pull->entities[x.entity] == b.pull->entities[y.entity] &&
         a.pull->id(x) == b.pull->id(y) && x.op == y.op && x.version == y.version && x.ts == y.ts && a.pull->data(x) == b.pull->data(y);
}

void bind_push(py::module_& module) {
  py::classh<PyNote>(module, "ChangeNote", "What a mutation did to one document, without the document.")
      .def("_repr_html_", html("note"))
      .def_property_readonly("cursor", [](const PyNote& self) { return self.get().cursor; })
      .def_property_readonly("entity", [](const PyNote& self) { return cached_str(self.get().entity); })
      .def_property_readonly("id", [](const PyNote& self) { return to_str(self.get().id); })
      .def_property_readonly("op", [](const PyNote& self) { return cached_str(op_name(self.get().op)); })
      .def_property_readonly("version", [](const PyNote& self) { return self.get().version; })
      .def("__eq__", equality<PyNote>([](const PyNote& a, const PyNote& b) { return same(a.get(), b.get()); }))
      .def("__hash__", [](const PyNote& self) { return self.get().cursor; })
      .def("__repr__", [](const PyNote& self) {
        const ChangeNote& note = self.get();
        return "<ChangeNote " + std::to_string(note.cursor) + " " + std::string(op_name(note.op)) + " " + address(note.entity, note.id) +
               " version=" + std::to_string(note.version) + ">";
      })
      .attr("__match_args__") = py::make_tuple("op", "entity", "id");

  py::classh<PyResultError>(module, "ResultError", "Why a mutation was refused.")
      .def_property_readonly("code", [](const PyResultError& self) { return to_str(self.refusal.code); })
      .def_property_readonly("message", [](const PyResultError& self) { return to_str(self.refusal.message); })
      .def_property_readonly("details", [](const PyResultError& self) { return to_dict(self.refusal.details); })
      .def("__eq__", equality<PyResultError>([](const PyResultError& a, const PyResultError& b) { return same(a.refusal, b.refusal); }))
      .def("__hash__", [](const PyResultError& self) { return py::hash(to_str(self.refusal.code + self.refusal.message)); })
      .def("__repr__",
           [](const PyResultError& self) { return "<ResultError " + self.refusal.code + " " + repr_of(self.refusal.message) + ">"; })
      .attr("__match_args__") = py::make_tuple("code", "message");

  py::classh<PyResult>(module, "Result", "What became of one mutation.")
      .def("_repr_html_", html("result"))
      .def_property_readonly("ok", [](const PyResult& self) { return self.get().ok(); })
      .def_property_readonly("cursor", [](const PyResult& self) { return self.get().cursor; })
      .def_property_readonly("duplicate", [](const PyResult& self) { return self.get().duplicate; })
      .def_property_readonly("error", &error_of)
      .def_property_readonly("changes",
                             [](const PyResult& self) {
                               py::list made(self.get().changes.size());
                               for (std::size_t i = 0; i < self.get().changes.size(); ++i) {
                                 made[i] = py::cast(std::make_unique<PyNote>(PyNote{self.push, self.index, i}));
                               }
                               return made;
                             })
      .def("raise_for_error",
           [](const PyResult& self) {
             if (self.get().ok()) return;
             const py::object made = to_exception(*self.get().error);
             PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(made.ptr())), made.ptr());
             throw py::error_already_set();
           })
      .def("__eq__", equality<PyResult>([](const PyResult& a, const PyResult& b) { return same(a.get(), b.get()); }))
      .def("__hash__", [](const PyResult& self) { return self.get().cursor; })
      .def("__repr__", &describe)
      .attr("__match_args__") = py::make_tuple("ok", "error");

  py::classh<PyPushResult>(module, "PushResult", "The results of a push, in the order of its mutations.")
      .def("_repr_html_", html("push_result"))
      .def_property_readonly("results", &results_of)
      .def_property_readonly("cursor", [](const PyPushResult& self) { return self.push.cursor; })
      .def_property_readonly("epoch", [](const PyPushResult& self) { return to_str(self.push.epoch); })
      .def_property_readonly("ok",
                             [](const PyPushResult& self) {
                               return std::ranges::all_of(self.push.results, [](const MutationResult& result) { return result.ok(); });
                             })
      .def("raise_for_error",
           [](const PyPushResult& self) {
             for (const MutationResult& result : self.push.results) {
               if (result.ok()) continue;
               const py::object made = to_exception(*result.error);
               PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(made.ptr())), made.ptr());
               throw py::error_already_set();
             }
           })
      .def(
          "encode",
          [](const PyPushResult& self, std::string_view format_name) {
            const Format format = format_of(format_name);
            std::string body;
            {
              const WithoutGil free;  // encodes
              body = wire::encode(self.push, format);
            }
            return to_bytes(body);
          },
          py::arg("format"))
      .def("__len__", [](const PyPushResult& self) { return self.push.results.size(); })
      .def("__getitem__",
           [](const std::shared_ptr<PyPushResult>& self, py::ssize_t index) {
             return std::make_unique<PyResult>(PyResult{self, position(index, self->push.results.size())});
           })
      .def("__getitem__", [](const std::shared_ptr<PyPushResult>& self, const py::slice& slice) -> py::object { return results_of(self)[slice]; })
      .def("__iter__", [](const std::shared_ptr<PyPushResult>& self) { return py::iter(results_of(self)); })
      .def("__repr__", [](const std::shared_ptr<PyPushResult>& self) {
        constexpr std::size_t kShown = 5;
        std::string out = "<PushResult";
        const std::size_t size = self->push.results.size();
        for (std::size_t i = 0; i < std::min(size, kShown); ++i) {
          out += i == 0 ? " " : ", ";
          out += describe({self, i});
        }
        if (size > kShown) out.append(", ... ").append(std::to_string(size)).append(" results");
        out += '>';
        return out;
      });
}

void bind_pull(py::module_& module) {
  py::classh<PyChange>(module, "Change", "One document of a pull: as it is now, or that it is gone.")
      .def("_repr_html_", html("change"))
      .def_property_readonly("cursor", [](const PyChange& self) { return self.get().cursor; })
      .def_property_readonly("scope", [](const PyChange& self) { return cached_str(self.pull->scope); })
      .def_property_readonly("entity", [](const PyChange& self) { return cached_str(self.pull->entities[self.get().entity]); })
      .def_property_readonly("id", [](const PyChange& self) { return to_str(self.pull->id(self.get())); })
      .def_property_readonly("op", [](const PyChange& self) { return cached_str(op_name(self.get().op)); })
      .def_property_readonly("data",
                             [](const PyChange& self) -> py::object {
                               if (self.get().data_size == 0) return py::none();
                               return decode(self.pull->data(self.get()));
                             })
      .def_property_readonly("version", [](const PyChange& self) { return self.get().version; })
      .def_property_readonly("ts", [](const PyChange& self) { return datetime_of(self.get().ts); })
      .def("__eq__", equality<PyChange>(&same_line))
      .def("__hash__", [](const PyChange& self) { return self.get().cursor; })
      .def("__repr__", [](const PyChange& self) {
        const PyPull::Line& line = self.get();
        return "<Change " + std::to_string(line.cursor) + " " + std::string(op_name(line.op)) + " " +
               address(self.pull->entities[line.entity], self.pull->id(line)) + " version=" + std::to_string(line.version) + ">";
      })
      .attr("__match_args__") = py::make_tuple("op", "entity", "id", "data");

  py::classh<PyPull>(module, "Pull", "A page of the changes of a scope.")
      .def("_repr_html_", html("pull"))
      .def_property_readonly("changes", &changes_of)
      .def_property_readonly("scope", [](const PyPull& self) { return to_str(self.scope); })
      .def_property_readonly("cursor", [](const PyPull& self) { return self.end.cursor; })
      .def_property_readonly("epoch", [](const PyPull& self) { return to_str(self.end.epoch); })
      .def_property_readonly("has_more", [](const PyPull& self) { return self.end.has_more; })
      .def_property_readonly("page", [](const PyPull& self) -> py::object {
        if (self.end.has_more) return to_str(self.end.page);
        return py::none();
      })
      .def_property_readonly("last_seq", [](const PyPull& self) { return last_seq_of(self.end.last_seq); })
      .def("__len__", [](const PyPull& self) { return self.lines.size(); })
      .def("__iter__", [](const std::shared_ptr<PyPull>& self) { return py::iter(changes_of(self)); })
      .def("__repr__", [](const PyPull& self) {
        return "<Pull " + repr_of(self.scope) + " " + std::to_string(self.lines.size()) + " changes cursor=" + std::to_string(self.end.cursor) +
               (self.end.has_more ? " has_more>" : ">");
      });

  py::classh<PySnapshot>(module, "Snapshot", "The live documents of a scope at one cursor.")
      .def("_repr_html_", html("snapshot"))
      .def_property_readonly("data",
                             [](const PySnapshot& self) {
                               py::dict made;
                               for (const Snapshot::Group& group : self.snapshot.data) made[cached_str(group.entity)] = to_documents(group.rows);
                               return made;
                             })
      .def_property_readonly("cursor", [](const PySnapshot& self) { return self.snapshot.cursor; })
      .def_property_readonly("epoch", [](const PySnapshot& self) { return to_str(self.snapshot.epoch); })
      .def_property_readonly("last_seq", [](const PySnapshot& self) { return last_seq_of(self.snapshot.last_seq); })
      .def("__repr__", [](const PySnapshot& self) {
        std::size_t documents = 0;
        for (const Snapshot::Group& group : self.snapshot.data) documents += group.rows.size();
        return "<Snapshot " + std::to_string(documents) + " documents cursor=" + std::to_string(self.snapshot.cursor) + ">";
      });
}

}  // namespace

void bind_results(py::module_& module) {
  bind_push(module);
  bind_pull(module);
}

}  // namespace syncline::python
