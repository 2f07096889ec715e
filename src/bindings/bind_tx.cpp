// `Tx` as a mutator and a write see it.
#include "bindings/py_codec.h"
#include "bindings/types.h"

namespace syncline::python {

namespace {

Tx& live(const PyTx& self) {
  if (self.tx == nullptr || !self.tx->alive()) {
    throw Error(Code::closed, "this tx is finished: a mutator may use its tx only until it returns, a write until its block ends");
  }
  if (self.thread != std::this_thread::get_id()) {
    throw Error(Code::usage, "a tx belongs to the thread that was given it; collect what the others find, and write it there");
  }
  return *self.tx;
}

struct Address {
  Address(py::handle entity_, py::handle id_) : entity(text(entity_, "entity")), id(text(id_, "id")) {}
  std::string_view entity, id;
};

py::object get(const PyTx& self, py::handle entity, py::handle id) {
  Tx& tx = live(self);
  const Address at(entity, id);
  std::optional<std::string_view> body;
  {
    const WithoutGil free;  // may read from the disk
    body = tx.get(at.entity, at.id);
  }
  if (!body) return py::none();
  return decode(*body);
}

bool exists(const PyTx& self, py::handle entity, py::handle id) {
  Tx& tx = live(self);
  const Address at(entity, id);
  const WithoutGil free;  // may read from the disk
  return tx.exists(at.entity, at.id);
}

std::string document(const PyTx& self, const Address& at, py::handle value) {
  if (!PyDict_Check(value.ptr())) {
    throw Error(Code::invalid_mutation,
                "document " + std::string(at.entity) + "/" + std::string(at.id) + " must be a dict, not " + Py_TYPE(value.ptr())->tp_name);
  }
  return encode(value, [&at] { return std::string(at.entity) + "/" + std::string(at.id); }, self.border);
}

void set(const PyTx& self, py::handle entity, py::handle id, py::handle value) {
  live(self);
  const Address at(entity, id);
  // Reading the document may run a tzinfo's code; so whether the tx still lives is asked again behind it.
  std::string body = document(self, at, value);
  live(self).set(at.entity, at.id, std::move(body));
}

void update(const PyTx& self, py::handle entity, py::handle id, py::handle fields) {
  live(self);
  const Address at(entity, id);
  const std::string patch = document(self, at, fields);
  Tx& tx = live(self);
  const WithoutGil free;  // may read from the disk
  tx.update(at.entity, at.id, patch);
}

bool remove(const PyTx& self, py::handle entity, py::handle id) {
  Tx& tx = live(self);
  const Address at(entity, id);
  const WithoutGil free;  // may read from the disk
  return tx.remove(at.entity, at.id);
}

std::int64_t version(const PyTx& self, py::handle entity, py::handle id) {
  Tx& tx = live(self);
  const Address at(entity, id);
  const WithoutGil free;  // may read from the disk
  return tx.version(at.entity, at.id);
}

void expect(const PyTx& self, py::handle entity, py::handle id, py::handle wanted) {
  Tx& tx = live(self);
  const Address at(entity, id);
  const std::int64_t number = integer(wanted, "version", Code::invalid_mutation);
  const WithoutGil free;  // may read from the disk
  tx.expect(at.entity, at.id, number);
}

std::vector<Row> rows(const PyTx& self, py::handle entity, py::handle prefix, py::handle limit) {
  Tx& tx = live(self);
  const std::string_view name = text(entity, "entity");
  const std::string_view begins = text(prefix, "prefix");
  const std::int64_t most = row_limit(limit);
  const WithoutGil free;  // scans
  return tx.scan(name, begins, most);
}

py::list find(const PyTx& self, py::handle entity, py::handle filter, py::handle sort, py::handle limit) {
  const FindOptions options = find_options(filter, sort, limit);
  Tx& tx = live(self);
  const std::string_view name = text(entity, "entity");
  std::vector<Row> found;
  {
    const WithoutGil free;  // scans
    found = tx.find(name, options);
  }
  return to_pairs(found);
}

py::object or_none(std::string_view name) {
  if (name.empty()) return py::none();
  return to_str(name);
}

}  // namespace

void bind_tx(py::module_& module) {
  py::classh<PyTx>(module, "Tx", "What a mutator or a write reads and writes through: one scope. Dead after its call.")
      .def("get", &get, py::arg("entity"), py::arg("id"), "The document, a fresh dict, or None.")
      .def("exists", &exists, py::arg("entity"), py::arg("id"))
      .def("set", &set, py::arg("entity"), py::arg("id"), py::arg("document"), "Puts a document in place, whatever was there.")
      .def("update", &update, py::arg("entity"), py::arg("id"), py::arg("fields"), "Replaces the given top-level fields. NotFound.")
      .def("delete", &remove, py::arg("entity"), py::arg("id"), "Whether there was one to delete.")
      .def("version", &version, py::arg("entity"), py::arg("id"), "0: absent.")
      .def("expect", &expect, py::arg("entity"), py::arg("id"), py::arg("version"), "Raises Conflict unless at that version; 0: absent.")
      .def("list", [](const PyTx& self, py::handle entity) { return to_documents(rows(self, entity, py::str(), py::none())); }, py::arg("entity"))
      .def("scan",
           [](const PyTx& self, py::handle entity, py::handle prefix, py::handle limit) { return to_pairs(rows(self, entity, prefix, limit)); },
           py::arg("entity"), py::kw_only(), py::arg("prefix") = "", py::arg("limit") = py::none())
      .def("find", &find, py::arg("entity"), py::arg("filter") = py::none(), py::kw_only(), py::arg("sort") = py::none(),
           py::arg("limit") = py::none())
      .def("uuid", [](const PyTx& self) { return to_str(live(self).uuid()); })
      .def_property_readonly("random", [](py::object self) { return package_attribute("syncline._random", "TxRandom")(self); })
      .def("_random", [](const PyTx& self) { return live(self).random(); })
      .def("_random_bits", [](const PyTx& self) { return live(self).random_bits(); })
      .def_property_readonly("now", [](const PyTx& self) { return datetime_of(live(self).now()); })
      .def_property_readonly("scope", [](const PyTx& self) { return to_str(live(self).scope()); })
      .def_property_readonly("user", [](const PyTx& self) { return or_none(live(self).user()); })
      .def_property_readonly("client_id", [](const PyTx& self) { return or_none(live(self).client_id()); })
      .def("__repr__", [](const PyTx& self) {
        if (self.tx == nullptr || !self.tx->alive()) return std::string("<Tx finished>");
        return "<Tx " + repr_of(self.tx->scope()) + ">";
      });
}

}  // namespace syncline::python
