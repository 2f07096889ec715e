// Unlogged documents of reserved scopes, for what Python keeps of its own: positions of feeds, schemas of entities.
#include "bindings/py_codec.h"
#include "bindings/types.h"

namespace syncline::python {

namespace {

py::list notes(const PyEngine& engine, py::handle scope, py::handle entity) {
  const std::string where(text(scope, "scope", Code::usage));
  const std::string what(text(entity, "entity", Code::usage));
  std::vector<Row> found;
  {
    const WithoutGil free;  // reads from the disk
    found = engine.core().notes(where, what);
  }
  return to_pairs(found);
}

void put_note(const PyEngine& engine, py::handle scope, py::handle entity, py::handle id, py::handle document) {
  const std::string where(text(scope, "scope", Code::usage));
  const std::string what(text(entity, "entity", Code::usage));
  const std::string which(text(id, "id", Code::usage));
  const std::string body = document.is_none() ? std::string() : encode(document, "note");
  const WithoutGil free;  // waits for its turn and for the disk
  engine.core().put_note(where, what, which, body);
}

}  // namespace

void bind_notes(py::module_& module) {
  module.def("notes", &notes, py::arg("engine"), py::arg("scope"), py::arg("entity"));
  module.def("put_note", &put_note, py::arg("engine"), py::arg("scope"), py::arg("entity"), py::arg("id"), py::arg("document"));
}

}  // namespace syncline::python
