// Tables for analysis, handed to whoever speaks the Arrow PyCapsule protocol (pyarrow, pandas, Polars, DuckDB): no copy, no Python object
// per row. The structs and their rules are those of the Arrow C data and C stream interfaces.
#include <cerrno>
#include <exception>
#include <functional>
#include <new>

#include "base/ids.h"
#include "bindings/py_codec.h"
#include "bindings/types.h"
#include "engine/table.h"

// The names and members are the interface's; pyarrow casts to them.
extern "C" {
// NOLINTBEGIN(readability-identifier-naming)
struct ArrowSchema {
  const char* format;
  const char* name;
  const char* metadata;
  std::int64_t flags;
  std::int64_t n_children;
  struct ArrowSchema** children;
  struct ArrowSchema* dictionary;
  void (*release)(struct ArrowSchema*);
  void* private_data;
};

struct ArrowArray {
  std::int64_t length;
  std::int64_t null_count;
  std::int64_t offset;
  std::int64_t n_buffers;
  std::int64_t n_children;
  const void** buffers;
  struct ArrowArray** children;
  struct ArrowArray* dictionary;
  void (*release)(struct ArrowArray*);
  void* private_data;
};

struct ArrowArrayStream {
  int (*get_schema)(struct ArrowArrayStream*, struct ArrowSchema* out);
  int (*get_next)(struct ArrowArrayStream*, struct ArrowArray* out);
  const char* (*get_last_error)(struct ArrowArrayStream*);
  void (*release)(struct ArrowArrayStream*);
  void* private_data;
};
// NOLINTEND(readability-identifier-naming)
}

namespace syncline::python {

namespace {

constexpr std::int64_t kNullable = 2;  // ARROW_FLAG_NULLABLE

// -------------------------------------------------------------------------------------------------------------- schema

const char* format_of(ColumnType type) {
  switch (type) {
    case ColumnType::none: return "n";
    case ColumnType::boolean: return "b";
    case ColumnType::integer: return "l";
    case ColumnType::natural: return "L";
    case ColumnType::real: return "g";
    case ColumnType::instant: return "tsu:UTC";
    case ColumnType::text:
    case ColumnType::json: return "u";
    case ColumnType::bytes: return "z";
    case ColumnType::name: return "i";
  }
  return "n";
}

// One pair, in the interface's encoding: so that a reader can tell text from JSON.
std::string metadata_of(ColumnType type) {
  if (type != ColumnType::json) return {};
  std::string out;
  const auto number = [&](std::int32_t value) { out.append(reinterpret_cast<const char*>(&value), sizeof value); };
  const auto word = [&](std::string_view text) {
    number(static_cast<std::int32_t>(text.size()));
    out += text;
  };
  number(1);
  word("syncline:encoding");
  word("json");
  return out;
}

struct SchemaParts {
  std::string name, metadata;
  std::vector<std::unique_ptr<ArrowSchema>> owned;
  std::vector<ArrowSchema*> children;
  std::unique_ptr<ArrowSchema> dictionary;
};

void release_schema(ArrowSchema* schema) {
  const std::unique_ptr<SchemaParts> parts(static_cast<SchemaParts*>(schema->private_data));
  // A child that was moved away has no release any more.
  for (ArrowSchema* child : parts->children) {
    if (child->release != nullptr) child->release(child);
  }
  if (parts->dictionary && parts->dictionary->release != nullptr) parts->dictionary->release(parts->dictionary.get());
  schema->release = nullptr;
}

void export_node(const char* format, std::int64_t flags, std::unique_ptr<SchemaParts> parts, ArrowSchema& out) {
  out = {.format = format,
         .name = parts->name.c_str(),
         .metadata = parts->metadata.empty() ? nullptr : parts->metadata.c_str(),
         .flags = flags,
         .n_children = static_cast<std::int64_t>(parts->children.size()),
         .children = parts->children.data(),
         .dictionary = parts->dictionary.get(),
         .release = &release_schema,
         .private_data = parts.get()};
  static_cast<void>(parts.release());
}

void export_field(const ColumnField& field, ArrowSchema& out) {
  auto parts = std::make_unique<SchemaParts>();
  parts->name = field.name;
  parts->metadata = metadata_of(field.type);
  if (field.type == ColumnType::name) {
    parts->dictionary = std::make_unique<ArrowSchema>();
    export_node("u", kNullable, std::make_unique<SchemaParts>(), *parts->dictionary);
  }
  export_node(format_of(field.type), field.nullable ? kNullable : 0, std::move(parts), out);
}

void export_schema(const std::vector<ColumnField>& fields, ArrowSchema& out) {
  auto parts = std::make_unique<SchemaParts>();
  for (const ColumnField& field : fields) {
    parts->owned.push_back(std::make_unique<ArrowSchema>());
    export_field(field, *parts->owned.back());
    parts->children.push_back(parts->owned.back().get());
  }
  export_node("+s", 0, std::move(parts), out);
}

// --------------------------------------------------------------------------------------------------------------- array

struct ArrayParts {
  Column column{ColumnType::none};
  std::vector<const void*> buffers;
  std::vector<std::unique_ptr<ArrowArray>> owned;
  std::vector<ArrowArray*> children;
  std::unique_ptr<ArrowArray> dictionary;
};

void release_array(ArrowArray* array) {
  const std::unique_ptr<ArrayParts> parts(static_cast<ArrayParts*>(array->private_data));
  for (ArrowArray* child : parts->children) {
    if (child->release != nullptr) child->release(child);
  }
  if (parts->dictionary && parts->dictionary->release != nullptr) parts->dictionary->release(parts->dictionary.get());
  array->release = nullptr;
}

void export_node(std::size_t rows, std::size_t nulls, std::unique_ptr<ArrayParts> parts, ArrowArray& out) {
  out = {.length = static_cast<std::int64_t>(rows),
         .null_count = static_cast<std::int64_t>(nulls),
         .offset = 0,
         .n_buffers = static_cast<std::int64_t>(parts->buffers.size()),
         .n_children = static_cast<std::int64_t>(parts->children.size()),
         .buffers = parts->buffers.data(),
         .children = parts->children.data(),
         .dictionary = parts->dictionary.get(),
         .release = &release_array,
         .private_data = parts.get()};
  static_cast<void>(parts.release());
}

void export_column(Column&& filled, ArrowArray& out) {
  auto parts = std::make_unique<ArrayParts>();
  parts->column = std::move(filled);
  Column& column = parts->column;
  const void* const validity = column.validity.empty() ? nullptr : column.validity.data();
  switch (column.type()) {
    case ColumnType::none: break;
    case ColumnType::boolean: parts->buffers = {validity, column.bits.data()}; break;
    case ColumnType::integer:
    case ColumnType::natural:
    case ColumnType::real:
    case ColumnType::instant: parts->buffers = {validity, column.words.data()}; break;
    case ColumnType::text:
    case ColumnType::json:
    case ColumnType::bytes: parts->buffers = {validity, column.offsets.data(), column.chars.data()}; break;
    case ColumnType::name: {
      auto names = std::make_unique<ArrayParts>();
      names->column.names = std::move(column.names);
      NameTable& table = names->column.names;
      names->buffers = {nullptr, table.offsets.data(), table.chars.data()};
      parts->buffers = {validity, column.codes.data()};
      parts->dictionary = std::make_unique<ArrowArray>();
      export_node(table.size(), 0, std::move(names), *parts->dictionary);
      break;
    }
  }
  export_node(column.rows(), column.nulls(), std::move(parts), out);
}

void export_batch(Batch&& batch, ArrowArray& out) {
  auto parts = std::make_unique<ArrayParts>();
  parts->buffers = {nullptr};
  for (Column& column : batch.columns) {
    parts->owned.push_back(std::make_unique<ArrowArray>());
    export_column(std::move(column), *parts->owned.back());
    parts->children.push_back(parts->owned.back().get());
  }
  export_node(batch.rows, 0, std::move(parts), out);
}

// -------------------------------------------------------------------------------------------------------------- stream

// What went wrong in a stream of a table, for Python to raise as what it is: the interface passes on only a sentence.
struct Fault {
  std::mutex mutex;
  std::exception_ptr error;
};

class Stream : public Reading {
 public:
  Stream(std::shared_ptr<Engine> engine, std::unique_ptr<TableSource> source, std::shared_ptr<Fault> fault)
      : engine_(std::move(engine)), source_(std::move(source)), fault_(std::move(fault)), fields_(source_->fields()) {}

  void end() override {
    const std::scoped_lock lock(mutex_);
    source_.reset();
  }

  // The interface's calls: 0, or an errno.
  int schema(ArrowSchema& out) noexcept {
    return guarded([&] { export_schema(fields_, out); });
  }
  int next(ArrowArray& out) noexcept {
    return guarded([&] {
      const std::scoped_lock lock(mutex_);
      out = {};
      if (finished_) return;
      if (!source_) throw Error(Code::closed, "the engine was closed while a table of it was read");
      Batch batch = source_->next();
      if (batch.rows == 0) {
        finished_ = true;
        source_.reset();  // and with it the snapshot that it held
        return;
      }
      export_batch(std::move(batch), out);
    });
  }
  [[nodiscard]] const char* last_error() const noexcept { return said_.empty() ? nullptr : said_.c_str(); }

 private:
  template <typename Call>
  int guarded(Call call) noexcept {
    try {
      call();
      return 0;
    } catch (const std::bad_alloc&) {
      return ENOMEM;
    } catch (const std::exception& error) {
      said_ = error.what();
      const std::scoped_lock lock(fault_->mutex);
      fault_->error = std::current_exception();
      return EIO;
    }
  }

  std::shared_ptr<Engine> engine_;  // outlives the source
  std::mutex mutex_;
  std::unique_ptr<TableSource> source_;
  std::shared_ptr<Fault> fault_;
  std::vector<ColumnField> fields_;
  std::string said_;
  bool finished_ = false;
};

// The consumer calls with or without the GIL; a scan, and the end of an engine, must not hold it.
template <typename Call>
auto without_gil(Call call) {
  if (PyGILState_Check() == 0) return call();
  const WithoutGil free;  // scans
  return call();
}

std::shared_ptr<Stream>& stream_of(ArrowArrayStream* self) { return *static_cast<std::shared_ptr<Stream>*>(self->private_data); }

void release_stream(ArrowArrayStream* self) {
  std::unique_ptr<std::shared_ptr<Stream>> held(&stream_of(self));
  self->release = nullptr;
  without_gil([&] { held.reset(); });
}

void export_stream(std::shared_ptr<Stream> stream, ArrowArrayStream& out) {
  out = {.get_schema = [](ArrowArrayStream* self, ArrowSchema* schema) { return stream_of(self)->schema(*schema); },
         .get_next = [](ArrowArrayStream* self,
                        ArrowArray* array) { return without_gil([&] { return stream_of(self)->next(*array); }); },
         .get_last_error = [](ArrowArrayStream* self) { return stream_of(self)->last_error(); },
         .release = &release_stream,
         .private_data = std::make_unique<std::shared_ptr<Stream>>(std::move(stream)).release()};
}

// A struct of the interface in a capsule: whoever takes it over clears `release`.
template <typename Struct>
py::object capsule(std::unique_ptr<Struct> held, const char* name) {
  PyObject* made = PyCapsule_New(held.get(), name, [](PyObject* self) {
    const std::unique_ptr<Struct> owned(static_cast<Struct*>(PyCapsule_GetPointer(self, PyCapsule_GetName(self))));
    if (owned && owned->release != nullptr) owned->release(owned.get());
  });
  if (made == nullptr) {
    held->release(held.get());
    throw py::error_already_set();
  }
  static_cast<void>(held.release());
  return py::reinterpret_steal<py::object>(made);
}

// --------------------------------------------------------------------------------------------------------------- table

// What would be scanned: each stream is a scan of its own.
class PyTable {
 public:
  using Open = std::function<std::unique_ptr<TableSource>(Engine&)>;
  PyTable(py::object engine, Open open) : engine_(std::move(engine)), open_(std::move(open)) {}

  [[nodiscard]] py::object stream(const py::object&) const {
    std::shared_ptr<Stream> made = start();
    auto held = std::make_unique<ArrowArrayStream>();
    export_stream(std::move(made), *held);
    return capsule(std::move(held), "arrow_array_stream");
  }

  [[nodiscard]] py::object schema() const {
    auto held = std::make_unique<ArrowSchema>();
    Engine& engine = engine_.cast<PyEngine&>().core();
    {
      const WithoutGil free;  // scans, where the documents say what the columns are
      export_schema(open_(engine)->fields(), *held);
    }
    return capsule(std::move(held), "arrow_schema");
  }

  void raise_fault() const {
    std::exception_ptr error;
    {
      const std::scoped_lock lock(fault_->mutex);
      std::swap(error, fault_->error);
    }
    if (error) std::rethrow_exception(error);
  }

 private:
  [[nodiscard]] std::shared_ptr<Stream> start() const {
    auto& engine = engine_.cast<PyEngine&>();
    const WithoutGil free;  // scans, where the documents say what the columns are
    auto made = std::make_shared<Stream>(engine.shared(), open_(engine.core()), fault_);
    engine.remember(made);
    return made;
  }

  py::object engine_;
  Open open_;
  std::shared_ptr<Fault> fault_ = std::make_shared<Fault>();
};

std::vector<std::string> names_of(py::handle values, const char* what, Code code) {
  std::vector<std::string> names;
  for (const py::handle value : values) names.emplace_back(text(value, what, code));
  return names;
}

std::unique_ptr<PyTable> make_log_table(py::object engine, py::handle since, py::handle through, py::handle scope, py::handle entity,
                                        py::handle id, py::handle client_id, bool newest_first, py::handle limit, bool changed,
                                        std::int64_t batch_rows) {
  LogRequest request = log_request(since, through, scope, entity, id, client_id, newest_first, limit);
  return std::make_unique<PyTable>(std::move(engine), [request = std::move(request), changed, batch_rows](Engine& core) {
    return log_table(core, request, changed, batch_rows);
  });
}

std::unique_ptr<PyTable> make_history_table(py::object engine, py::handle scope, py::handle entity, py::handle id,
                                            std::int64_t batch_rows) {
  std::string in(text(scope, "scope", Code::invalid_scope));
  std::string of(text(entity, "entity", Code::invalid_request));
  std::string key(text(id, "id", Code::invalid_request));
  return std::make_unique<PyTable>(
      std::move(engine), [in = std::move(in), of = std::move(of), key = std::move(key), batch_rows](Engine& core) {
        return history_table(core, in, of, key, batch_rows);
      });
}

std::unique_ptr<PyTable> make_document_table(py::object engine, py::handle scopes, py::handle entity, py::handle fields, py::handle filter,
                                             std::int64_t batch_rows) {
  DocumentTableRequest request;
  if (!scopes.is_none()) {
    request.scopes = names_of(scopes, "scope", Code::invalid_scope);
    for (const std::string& scope : request.scopes) check_name(scope, "scope", Code::invalid_scope, true);
    if (request.scopes.empty()) throw Error(Code::invalid_scope, "scope is an empty list; None takes all scopes");
  }
  if (!entity.is_none()) {
    request.entity = text(entity, "entity", Code::invalid_request);
    check_name(*request.entity, "entity", Code::invalid_request, true);
  }
  if (!fields.is_none()) request.only = names_of(fields, "a field", Code::invalid_request);
  request.filter = find_options(filter, py::none(), py::none()).filter;
  request.batch_rows = batch_rows;
  return std::make_unique<PyTable>(std::move(engine), [request](Engine& core) { return document_table(core, request); });
}

}  // namespace

void bind_tables(py::module_& module) {
  py::classh<PyTable>(module, "Table", "Rows to be scanned natively by who asks through the Arrow PyCapsule protocol.")
      .def("__arrow_c_stream__", &PyTable::stream, py::arg("requested_schema") = py::none())
      .def("__arrow_c_schema__", &PyTable::schema)
      .def("raise_fault", &PyTable::raise_fault);
  module.def("log_table", &make_log_table, py::arg("engine"), py::kw_only(), py::arg("since"), py::arg("through"), py::arg("scope"),
             py::arg("entity"), py::arg("id"), py::arg("client_id"), py::arg("newest_first"), py::arg("limit"), py::arg("changed"),
             py::arg("batch_rows"));
  module.def("history_table", &make_history_table, py::arg("engine"), py::arg("scope"), py::arg("entity"), py::arg("id"), py::kw_only(),
             py::arg("batch_rows"));
  module.def("document_table", &make_document_table, py::arg("engine"), py::kw_only(), py::arg("scopes"), py::arg("entity"),
             py::arg("fields"), py::arg("filter"), py::arg("batch_rows"));
}

}  // namespace syncline::python
