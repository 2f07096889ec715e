// `View`: one scope in one snapshot; and what it shares with `Tx`.
#include "bindings/html.h"
#include "bindings/py_codec.h"
#include "bindings/types.h"

namespace syncline::python {

namespace {

constexpr Code kCode = Code::invalid_request;

SortKey sort_key(py::handle given) {
  if (PyUnicode_Check(given.ptr())) {
    const std::string_view name = text(given, "sort", kCode);
    if (name.starts_with('-')) return {std::string(name.substr(1)), true};
    return {std::string(name), false};
  }
  if (PyTuple_Check(given.ptr()) && PyTuple_GET_SIZE(given.ptr()) == 2) {
    const auto pair = py::reinterpret_borrow<py::tuple>(given);
    const py::object direction = pair[1];
    if (PyLong_Check(direction.ptr())) {
      const std::int64_t sign = integer(direction, "the direction of sort", kCode);
      if (sign == 1 || sign == -1) return {std::string(text(pair[0], "sort", kCode)), sign < 0};
    }
  }
  throw Error(kCode, "sort takes a field ('-field' to descend), a (field, 1 or -1), or a list of them");
}

// Runs `use` on the live view, without the GIL, one thread at a time.
template <typename Use>
auto with_view(PyView& self, Use use) {
  const WithoutGil free;  // waits for another thread's call, reads from the disk, scans
  const std::scoped_lock lock(self.mutex);
  if (!self.view) throw Error(Code::closed, "this view is finished: use it within its `with` block");
  return use(*self.view);
}

std::vector<Row> rows(PyView& self, py::handle entity, py::handle prefix, py::handle limit) {
  const std::string_view name = text(entity, "entity", kCode);
  const std::string_view begins = text(prefix, "prefix", kCode);
  const std::int64_t most = row_limit(limit);
  return with_view(self, [&](View& view) { return view.scan(name, begins, most); });
}

void close(PyView& self) {
  const WithoutGil free;  // waits for another thread's call
  self.end();
}

}  // namespace

FindOptions find_options(py::handle filter, py::handle sort, py::handle limit) {
  FindOptions options;
  if (!filter.is_none()) {
    if (!PyDict_Check(filter.ptr())) throw Error(kCode, std::string("a filter must be a dict, not ") + Py_TYPE(filter.ptr())->tp_name);
    mp::Border border;
    border.code = kCode;
    border.allow_dollar_keys = true;
    options.filter = Filter(encode(filter, "filter", border));
  }
  if (!sort.is_none()) {
    if (PyList_Check(sort.ptr())) {
      for (const py::handle one : sort) options.order.push_back(sort_key(one));
    } else if (PyTuple_Check(sort.ptr()) && !(PyTuple_GET_SIZE(sort.ptr()) == 2 && PyLong_Check(PyTuple_GET_ITEM(sort.ptr(), 1)))) {
      for (const py::handle one : sort) options.order.push_back(sort_key(one));
    } else {
      options.order.push_back(sort_key(sort));
    }
  }
  options.limit = row_limit(limit);
  return options;
}

std::int64_t row_limit(py::handle limit) {
  if (limit.is_none()) return -1;
  const std::int64_t most = integer(limit, "limit", kCode);
  if (most < 0) throw Error(kCode, "limit must not be negative; None takes all");
  return most;
}

py::list to_pairs(const std::vector<Row>& found) {
  py::list made(found.size());
  for (std::size_t i = 0; i < found.size(); ++i) made[i] = py::make_tuple(to_str(found[i].id), decode(found[i].body));
  return made;
}

py::dict to_documents(const std::vector<Row>& found) {
  py::dict made;
  for (const Row& row : found) made[to_str(row.id)] = decode(row.body);
  return made;
}

void bind_view(py::module_& module) {
  py::classh<PyView>(module, "View", "A scope as it was at one moment. Close it soon: it holds that moment fast.")
      .def("get",
           [](PyView& self, py::handle entity, py::handle id) -> py::object {
             const std::string_view name = text(entity, "entity", kCode);
             const std::string_view key = text(id, "id", kCode);
             const auto body = with_view(self, [&](View& view) { return view.get(name, key); });
             if (!body) return py::none();
             return decode(*body);
           },
           py::arg("entity"), py::arg("id"), "The document, a fresh dict, or None.")
      .def("exists",
           [](PyView& self, py::handle entity, py::handle id) {
             const std::string_view name = text(entity, "entity", kCode);
             const std::string_view key = text(id, "id", kCode);
             return with_view(self, [&](View& view) { return view.exists(name, key); });
           },
           py::arg("entity"), py::arg("id"))
      .def("version",
           [](PyView& self, py::handle entity, py::handle id) {
             const std::string_view name = text(entity, "entity", kCode);
             const std::string_view key = text(id, "id", kCode);
             return with_view(self, [&](View& view) { return view.version(name, key); });
           },
           py::arg("entity"), py::arg("id"), "0: absent.")
      .def("list", [](PyView& self, py::handle entity) { return to_documents(rows(self, entity, py::str(), py::none())); }, py::arg("entity"))
      .def("scan",
           [](PyView& self, py::handle entity, py::handle prefix, py::handle limit) { return to_pairs(rows(self, entity, prefix, limit)); },
           py::arg("entity"), py::kw_only(), py::arg("prefix") = "", py::arg("limit") = py::none())
      .def("find",
           [](PyView& self, py::handle entity, py::handle filter, py::handle sort, py::handle limit) {
             const FindOptions options = find_options(filter, sort, limit);
             const std::string_view name = text(entity, "entity", kCode);
             return to_pairs(with_view(self, [&](View& view) { return view.find(name, options); }));
           },
           py::arg("entity"), py::arg("filter") = py::none(), py::kw_only(), py::arg("sort") = py::none(), py::arg("limit") = py::none())
      .def_property_readonly("cursor", [](PyView& self) { return with_view(self, [](View& view) { return view.cursor(); }); })
      .def_property_readonly("scope", [](PyView& self) { return to_str(with_view(self, [](View& view) { return view.scope(); })); })
      .def("close", &close)
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](PyView& self, const py::args&) { close(self); })
      .def("_repr_html_", html("view"))
      .def("__repr__", [](PyView& self) { return std::string(self.view ? "<View>" : "<View finished>"); });
}

}  // namespace syncline::python
