// Bulk load as python/syncline/load.py uses it.
#include <unordered_set>

#include "base/ids.h"
#include "bindings/py_codec.h"
#include "bindings/types.h"

namespace syncline::python {

namespace {

struct Rows {
  std::vector<std::string> ids, bodies;
  std::unordered_set<std::string_view> seen;  // points into `ids`, which must not move
};

std::string id_of(py::handle given, const char* what) {
  if (PyUnicode_Check(given.ptr())) return std::string(text(given, what));
  // Tables number their rows.
  if (PyLong_Check(given.ptr()) && !PyBool_Check(given.ptr())) return py::cast<std::string>(py::str(given));
  throw Error(Code::invalid_mutation, std::string(what) + " must be a str or an int, not " + Py_TYPE(given.ptr())->tp_name +
                                          "; give (id, document) pairs to make another one");
}

// False: a row of that id was taken before.
bool take(Rows& rows, py::handle row, const py::object& key, const mp::Border& border) {
  py::object document;
  std::string id;
  if (PyTuple_Check(row.ptr()) && PyTuple_GET_SIZE(row.ptr()) == 2) {
    id = id_of(PyTuple_GET_ITEM(row.ptr(), 0), "the id");
    document = py::reinterpret_borrow<py::object>(PyTuple_GET_ITEM(row.ptr(), 1));
  } else {
    document = py::reinterpret_borrow<py::object>(row);
  }
  // A row of a database driver is a mapping, and no dict.
  if (!PyDict_Check(document.ptr()) && py::hasattr(document, "keys")) document = py::dict(document);
  if (!PyDict_Check(document.ptr())) {
    throw Error(Code::invalid_mutation, std::string("a row must be a dict, or an (id, dict) pair, not ") + Py_TYPE(row.ptr())->tp_name);
  }
  if (id.empty()) {
    PyObject* given = PyDict_GetItemWithError(document.ptr(), key.ptr());
    if (given == nullptr) {
      if (PyErr_Occurred() != nullptr) throw py::error_already_set();
      throw Error(Code::invalid_mutation, "there is no field " + repr_of(py::cast<std::string>(key)) + " to be the id; name another one with key=");
    }
    id = id_of(given, "the id");
  }
  check_name(id, "id", Code::invalid_mutation);
  if (rows.seen.contains(id)) return false;
  rows.bodies.push_back(encode(document, "row", border));
  rows.seen.insert(rows.ids.emplace_back(std::move(id)));
  return true;
}

// Loads rows from the first to before the first whose id came already: how many, and what became of them. None: interrupted.
py::tuple load(PyEngine& engine, py::handle scope, py::handle entity, const py::list& given, const py::object& key, py::handle user,
               std::int64_t number) {
  const std::string where(text(scope, "scope", Code::invalid_scope));
  const std::string what(text(entity, "entity"));
  const std::string owner = user_of(user);
  const mp::Border border = engine.limits().document();
  Rows rows;
  rows.ids.reserve(given.size());
  rows.bodies.reserve(given.size());
  rows.seen.reserve(given.size());
  for (const py::handle row : given) {
    try {
      if (!take(rows, row, key, border)) break;
    } catch (const Error& error) {
      throw Error(error.code(), "rows[" + std::to_string(number + static_cast<std::int64_t>(rows.ids.size())) + "]: " + error.what(),
                  error.details());
    }
  }
  std::vector<LoadRow> views;
  views.reserve(rows.ids.size());
  for (std::size_t n = 0; n < rows.ids.size(); ++n) views.push_back({rows.ids[n], rows.bodies[n]});
  Loaded loaded;
  {
    const WithoutGil free;  // waits for its turn and for the disk
    loaded = engine.core().load(where, what, views, owner, wait_hook(std::nullopt)).value();
  }
  return py::make_tuple(views.size(), loaded.created, loaded.updated, loaded.unchanged, loaded.cursor);
}

}  // namespace

void bind_load(py::module_& module) {
  module.def("load", &load, py::arg("engine"), py::arg("scope"), py::arg("entity"), py::arg("rows"), py::arg("key"), py::arg("user"),
             py::arg("number"));
}

}  // namespace syncline::python
