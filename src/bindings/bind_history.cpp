// `Log`, `History` and `Past`: iterators that read ahead a chunk at a time, and light objects that point into the chunk.
#include <array>
#include <atomic>

#include "base/delta.h"
#include "bindings/html.h"
#include "bindings/py_codec.h"
#include "bindings/types.h"
#include "engine/history.h"

namespace syncline::python {

namespace {

constexpr Code kCode = Code::invalid_request;
constexpr std::string_view kEmptyMap = "\x80";

// Of History: the first chunk small, for who wants the latest versions only; later ones large enough that a chunk costs nothing.
constexpr std::size_t kFirstVersions = 16;
constexpr std::size_t kMostVersions = 1024;
constexpr std::size_t kMostBytes = std::size_t{1} << 20;

// A chunk of lines, in one buffer. Immutable once built: any thread.
struct Chunk {
  struct Piece {
    std::size_t at = 0, size = 0;
  };
  struct Line {
    Cursor cursor = 0, previous = 0;
    std::int64_t version = 0, ts = 0, client_seq = 0, mutation_ts = 0;
    std::uint64_t hash = 0;
    Piece scope, entity, id, client_id, user, mutation, delta, body;
    Op op = Op::create;
  };
  std::string bytes;
  std::vector<Line> lines;

  [[nodiscard]] std::string_view text(const Piece& piece) const { return std::string_view(bytes).substr(piece.at, piece.size); }

  void add(const LogLineView& view, std::string_view body) {
    Line line;
    line.cursor = view.cursor;
    line.previous = view.previous;
    line.version = view.version;
    line.ts = view.ts;
    line.client_seq = view.client_seq;
    line.mutation_ts = view.mutation_ts;
    line.hash = view.hash;
    line.op = view.op;
    const Line* last = lines.empty() ? nullptr : &lines.back();
    // Names are few, and come in runs.
    line.scope = again(view.scope, last, &Line::scope);
    line.entity = again(view.entity, last, &Line::entity);
    line.id = again(view.id, last, &Line::id);
    line.client_id = again(view.client_id, last, &Line::client_id);
    line.user = again(view.user, last, &Line::user);
    line.mutation = again(view.mutation, last, &Line::mutation);
    line.delta = put(view.delta);
    line.body = put(body);
    lines.push_back(line);
  }

 private:
  Piece put(std::string_view text) {
    const Piece piece{bytes.size(), text.size()};
    bytes.append(text);
    return piece;
  }
  Piece again(std::string_view text, const Line* last, Piece Line::*field) {
    return last != nullptr && this->text(last->*field) == text ? last->*field : put(text);
  }
};

// One line, alone or as a version.
struct Entry {
  std::shared_ptr<const Chunk> chunk;
  std::size_t index = 0;
  [[nodiscard]] const Chunk::Line& line() const { return chunk->lines[index]; }
  [[nodiscard]] std::string_view text(Chunk::Piece Chunk::Line::*field) const { return chunk->text(line().*field); }
};
struct PyLogLine : Entry {};
struct PyVersion : Entry {};

// The engine of an object that may outlive it. The last one closes it, which waits: never with the GIL held.
class EngineHold {
 public:
  explicit EngineHold(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}
  ~EngineHold() {
    std::optional<WithoutGil> free;  // may wait for what runs
    if (PyGILState_Check() != 0) free.emplace();
    engine_.reset();
  }
  EngineHold(const EngineHold&) = delete;
  EngineHold& operator=(const EngineHold&) = delete;

 private:
  std::shared_ptr<Engine> engine_;
};

// Hands entries out one by one, and reads the next chunk without the GIL. Threads that share one get each entry once.
template <typename Item>
class Chunked {
 public:
  explicit Chunked(std::shared_ptr<Engine> engine) : engine_(std::move(engine)) {}
  virtual ~Chunked() = default;
  Chunked(const Chunked&) = delete;
  Chunked& operator=(const Chunked&) = delete;

  std::unique_ptr<Item> next() {
    for (;;) {
      if (chunk_ && index_ < chunk_->lines.size()) return std::make_unique<Item>(Item{{chunk_, index_++}});
      if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
      if (ended_) throw py::stop_iteration();
      refill();
    }
  }

 protected:
  virtual bool read(Chunk& into) = 0;  // without the GIL; false: that was all

 private:
  void refill() {
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    const std::shared_ptr<const Chunk> seen = chunk_;
    auto fresh = std::make_shared<Chunk>();
    std::exception_ptr failure;
    bool more = false;
    std::unique_lock lock(mutex_, std::defer_lock);
    {
      const WithoutGil free;  // waits for another thread's chunk, reads from the disk
      lock.lock();
      try {
        if (chunk_ == seen && !ended_) more = read(*fresh);
      } catch (const Error&) {
        failure = std::current_exception();  // told when what was read before it has been handed out
      }
    }
    // Published with the lock and the GIL: who looks has one of them.
    if (chunk_ != seen || ended_) return;
    chunk_ = std::move(fresh);
    index_ = 0;
    ended_ = !more;
    failure_ = failure;
  }

  EngineHold engine_;
  std::mutex mutex_;
  std::shared_ptr<const Chunk> chunk_;
  std::size_t index_ = 0;
  bool ended_ = false;
  std::exception_ptr failure_;
};

class PyLog : public Chunked<PyLogLine> {
 public:
  PyLog(const std::shared_ptr<Engine>& engine, LogRequest request) : Chunked(engine), reader_(*engine, std::move(request)) {}
  [[nodiscard]] Cursor through() const noexcept { return reader_.through(); }

 protected:
  bool read(Chunk& into) override {
    return reader_.next([&](const LogLineView& line) {
      into.add(line, {});
      return true;
    });
  }

 private:
  LogReader reader_;
};

class PyHistory : public Chunked<PyVersion> {
 public:
  PyHistory(const std::shared_ptr<Engine>& engine, std::string scope, std::string entity, std::string id, std::int64_t limit)
      : Chunked(engine), reader_(*engine, std::move(scope), std::move(entity), std::move(id)), left_(limit) {}

  // Nothing as long as it has not come to the end.
  [[nodiscard]] std::optional<bool> complete() const { return over_ ? std::optional<bool>(complete_) : std::nullopt; }

 protected:
  bool read(Chunk& into) override {
    if (left_ == 0) return false;
    size_ = size_ == 0 ? kFirstVersions : std::min(size_ * 4, kMostVersions);
    const std::size_t most = left_ < 0 ? size_ : std::min(size_, static_cast<std::size_t>(left_));
    const bool more = reader_.next(most, [&](const VersionView& version) {
      into.add(version.line, version.body);
      return into.bytes.size() < kMostBytes;
    });
    if (left_ > 0) left_ -= static_cast<std::int64_t>(into.lines.size());
    if (!more) {
      complete_ = reader_.complete();
      over_ = true;
    }
    return more && left_ != 0;
  }

 private:
  VersionReader reader_;
  std::int64_t left_;
  std::size_t size_ = 0;
  bool complete_ = false;
  std::atomic<bool> over_{false};
};

struct PyPast {
  PyPast(const std::shared_ptr<Engine>& held, const Moment& moment) : engine(held), past(*held, moment) {}

  EngineHold engine;
  Past past;
  std::atomic<bool> closed{false};
};

Moment moment_of(py::handle value, const char* what) {
  if (PyLong_Check(value.ptr()) && !PyBool_Check(value.ptr())) return Cursor{integer(value, what, kCode)};
  if (PyBool_Check(value.ptr()) || !py::hasattr(value, "utcoffset")) {
    throw Error(kCode, std::string(what) + " must be a cursor or an aware datetime, not " + Py_TYPE(value.ptr())->tp_name);
  }
  return Instant{instant_of(value, what, kCode)};
}

std::string name_or_any(py::handle value, const char* what) {
  if (value.is_none()) return {};
  std::string name(text(value, what, kCode));
  if (name.empty()) throw Error(kCode, std::string(what) + " is empty; leave it out to mean any");
  return name;
}

std::shared_ptr<PyLog> open_log(const PyEngine& engine, py::handle since, py::handle through, py::handle scope, py::handle entity,
                                py::handle id, py::handle client_id, bool newest_first, py::handle limit) {
  LogRequest request = log_request(since, through, scope, entity, id, client_id, newest_first, limit);
  const WithoutGil free;  // reads
  return std::make_shared<PyLog>(engine.shared(), std::move(request));
}

std::shared_ptr<PyHistory> open_history(const PyEngine& engine, py::handle scope, py::handle entity, py::handle id, py::handle limit) {
  std::string in(text(scope, "scope", Code::invalid_scope));
  std::string of(text(entity, "entity", kCode));
  std::string key(text(id, "id", kCode));
  const std::int64_t most = row_limit(limit);
  const WithoutGil free;  // reads
  return std::make_shared<PyHistory>(engine.shared(), std::move(in), std::move(of), std::move(key), most);
}

std::shared_ptr<PyPast> open_past(const PyEngine& engine, py::handle moment) {
  const Moment at = moment_of(moment, "cursor");
  const WithoutGil free;  // reads
  return std::make_shared<PyPast>(engine.shared(), at);
}

// ---------------------------------------------------------------------------------------------------------------- entries

py::object or_none(std::string_view name) {
  if (name.empty()) return py::none();
  return cached_str(name);
}

// "a.b" for b within a; a dot that belongs to a key is written "\.".
std::string path_of(const delta::Leaf& leaf) {
  std::string path;
  for (std::size_t n = 0; n < leaf.depth; ++n) {
    if (n > 0) path += '.';
    for (const char c : leaf.path[n]) {
      if (c == '.' || c == '\\') path += '\\';
      path += c;
    }
  }
  return path;
}

py::dict changes_of(std::string_view delta) {
  py::dict made;
  delta::for_each_leaf(
      delta,
      [](void* context, const delta::Leaf& leaf) {
        const auto side = [](std::string_view value) {
          if (value.empty()) return py::reinterpret_borrow<py::object>(package_attribute("syncline.history", "ABSENT"));
          return decode(value);
        };
        (*static_cast<py::dict*>(context))[to_str(path_of(leaf))] = py::make_tuple(side(leaf.before), side(leaf.after));
      },
      &made);
  return made;
}

// A create keeps no body in its line; a version has it all the same.
py::object changes_of(const Entry& self) {
  switch (self.line().op) {
    case Op::create: {
      const std::string_view body = self.text(&Chunk::Line::body);
      if (body.empty()) return py::none();
      return changes_of(delta::diff(kEmptyMap, body));
    }
    case Op::update: return changes_of(self.text(&Chunk::Line::delta));
    case Op::remove: break;
  }
  const std::string_view old = self.text(&Chunk::Line::delta);
  if (old.empty()) return py::none();  // erased
  return changes_of(delta::diff(old, kEmptyMap));
}

bool same(const Entry& a, const Entry& b) {
  const Chunk::Line& x = a.line();
  const Chunk::Line& y = b.line();
  using Line = Chunk::Line;
  constexpr std::array kTexts = {&Line::scope, &Line::entity, &Line::id, &Line::client_id, &Line::user, &Line::mutation, &Line::delta, &Line::body};
  return x.cursor == y.cursor && x.previous == y.previous && x.version == y.version && x.ts == y.ts && x.client_seq == y.client_seq &&
         x.mutation_ts == y.mutation_ts && x.hash == y.hash && x.op == y.op &&
         std::ranges::all_of(kTexts, [&](auto field) { return a.text(field) == b.text(field); });
}

std::string describe(const Entry& self, const char* kind) {
  const Chunk::Line& line = self.line();
  std::string out = "<" + std::string(kind) + " " + std::to_string(line.cursor) + " " + std::string(op_name(line.op)) + " ";
  out += std::string(self.text(&Chunk::Line::entity)) + "/" + std::string(self.text(&Chunk::Line::id));
  return out + " version=" + std::to_string(line.version) + ">";
}

// What lines and versions have in common.
template <typename Item>
py::classh<Item> bind_entry(py::module_& module, const char* name, const char* doc) {
  using Line = Chunk::Line;
  py::classh<Item> bound(module, name, doc);
  bound.def_property_readonly("cursor", [](const Item& self) { return self.line().cursor; })
      .def_property_readonly("scope", [](const Item& self) { return cached_str(self.text(&Line::scope)); })
      .def_property_readonly("entity", [](const Item& self) { return cached_str(self.text(&Line::entity)); })
      .def_property_readonly("id", [](const Item& self) { return to_str(self.text(&Line::id)); })
      .def_property_readonly("op", [](const Item& self) { return cached_str(op_name(self.line().op)); })
      .def_property_readonly("version", [](const Item& self) { return self.line().version; })
      .def_property_readonly("previous", [](const Item& self) { return self.line().previous; })
      .def_property_readonly("ts", [](const Item& self) { return datetime_of(self.line().ts); })
      .def_property_readonly("user", [](const Item& self) { return or_none(self.text(&Line::user)); })
      .def_property_readonly("client_id", [](const Item& self) { return or_none(self.text(&Line::client_id)); })
      .def_property_readonly("client_seq",
                             [](const Item& self) -> py::object {
                               if (self.line().client_id.size == 0) return py::none();
                               return py::int_(self.line().client_seq);
                             })
      .def_property_readonly("_origin",
                             [](const Item& self) { return py::make_tuple(or_none(self.text(&Line::client_id)), self.line().client_seq); })
      .def_property_readonly("mutation", [](const Item& self) { return or_none(self.text(&Line::mutation)); })
      .def_property_readonly("mutation_ts", [](const Item& self) { return datetime_of(self.line().mutation_ts); })
      .def_property_readonly("hash", [](const Item& self) { return self.line().hash; })
      .def_property_readonly("changes", [](const Item& self) { return changes_of(self); })
      .def("__eq__",
           [](const Item& self, py::handle other) -> py::object {
             if (!py::isinstance<Item>(other)) return py::reinterpret_borrow<py::object>(Py_NotImplemented);
             return py::bool_(same(self, other.cast<const Item&>()));
           })
      .def("__hash__", [](const Item& self) { return self.line().cursor; })
      .def("_repr_html_", html("line"))
      .def("__repr__", [name](const Item& self) { return describe(self, name); });
  return bound;
}

// ------------------------------------------------------------------------------------------------------------------- past

// Runs `use` on the past, without the GIL.
template <typename Use>
auto with_past(PyPast& self, Use use) {
  if (self.closed) throw Error(Code::closed, "this past is finished: use it within its `with` block");
  const WithoutGil free;  // reads from the disk, scans
  return use(self.past);
}

// A scope and an entity as the caller's strs hold them.
struct Whose {
  Whose(py::handle scope_, py::handle entity_) : scope(text(scope_, "scope", Code::invalid_scope)), entity(text(entity_, "entity", kCode)) {}
  std::string_view scope, entity;
};

std::vector<Row> rows(PyPast& self, py::handle scope, py::handle entity, py::handle prefix, py::handle limit) {
  const Whose whose(scope, entity);
  const std::string_view begins = text(prefix, "prefix", kCode);
  const std::int64_t most = row_limit(limit);
  return with_past(self, [&](Past& past) { return past.scan(whose.scope, whose.entity, begins, most); });
}

std::int64_t version(PyPast& self, py::handle scope, py::handle entity, py::handle id) {
  const Whose whose(scope, entity);
  const std::string_view key = text(id, "id", kCode);
  return with_past(self, [&](Past& past) { return past.version(whose.scope, whose.entity, key); });
}

void bind_past(py::module_& module) {
  py::classh<PyPast>(module, "Past", "Every scope as it was when `cursor` was the head.")
      .def(py::init(&open_past), py::arg("engine"), py::arg("moment"))
      .def("get",
           [](PyPast& self, py::handle scope, py::handle entity, py::handle id) -> py::object {
             const Whose whose(scope, entity);
             const std::string_view key = text(id, "id", kCode);
             const auto body = with_past(self, [&](Past& past) { return past.get(whose.scope, whose.entity, key); });
             if (!body) return py::none();
             return decode(*body);
           },
           py::arg("scope"), py::arg("entity"), py::arg("id"))
      .def("exists",
           [](PyPast& self, py::handle scope, py::handle entity, py::handle id) { return version(self, scope, entity, id) != 0; },
           py::arg("scope"), py::arg("entity"), py::arg("id"))
      .def("version", &version, py::arg("scope"), py::arg("entity"), py::arg("id"))
      .def("list",
           [](PyPast& self, py::handle scope, py::handle entity) { return to_documents(rows(self, scope, entity, py::str(), py::none())); },
           py::arg("scope"), py::arg("entity"))
      .def("scan",
           [](PyPast& self, py::handle scope, py::handle entity, py::handle prefix, py::handle limit) {
             return to_pairs(rows(self, scope, entity, prefix, limit));
           },
           py::arg("scope"), py::arg("entity"), py::kw_only(), py::arg("prefix") = "", py::arg("limit") = py::none())
      .def("find",
           [](PyPast& self, py::handle scope, py::handle entity, py::handle filter, py::handle sort, py::handle limit) {
             const FindOptions options = find_options(filter, sort, limit);
             const Whose whose(scope, entity);
             return to_pairs(with_past(self, [&](Past& past) { return past.find(whose.scope, whose.entity, options); }));
           },
           py::arg("scope"), py::arg("entity"), py::arg("filter") = py::none(), py::kw_only(), py::arg("sort") = py::none(),
           py::arg("limit") = py::none())
      .def_property_readonly("cursor", [](const PyPast& self) { return self.past.cursor(); })
      .def("close", [](PyPast& self) { self.closed = true; })
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](PyPast& self, const py::args&) { self.closed = true; })
      .def("_repr_html_", html("past"))
      .def("__repr__", [](const PyPast& self) {
        return "<Past cursor=" + std::to_string(self.past.cursor()) + (self.closed ? " finished>" : ">");
      });
}

// ---------------------------------------------------------------------------------------------------------------- explain

// Keyword arguments of syncline.history.Explanation.
py::dict find_out(const PyEngine& engine, py::handle scope, py::handle entity, py::handle id, py::handle client_id) {
  const Whose whose(scope, entity);
  const std::string_view key = text(id, "id", kCode);
  const std::string client = name_or_any(client_id, "client_id");
  Findings found;
  {
    const WithoutGil free;  // reads
    found = syncline::find_out(engine.core(), whose.scope, whose.entity, key, client);
  }
  constexpr std::array kStates = {"unknown", "live", "deleted"};
  const bool known = found.state != Findings::State::unknown;
  py::dict made;
  made["state"] = kStates[static_cast<std::size_t>(found.state)];
  made["version"] = found.version;
  made["cursor"] = found.cursor;
  made["created"] = found.created;
  made["created_at"] = known ? datetime_of(found.created_at) : py::none();
  made["ts"] = known ? datetime_of(found.updated_at) : py::none();
  made["logged"] = found.has_line;
  made["user"] = or_none(found.user);
  made["by_client"] = or_none(found.by_client);
  made["by_client_seq"] = found.by_client.empty() ? py::object(py::none()) : py::object(py::int_(found.by_client_seq));
  made["mutation"] = or_none(found.mutation);
  made["head"] = found.head;
  made["scope_known"] = found.scope.has_value();
  made["floor"] = found.scope ? found.scope->floor : 0;
  made["log_floor"] = found.scope ? found.scope->log_floor : 0;
  made["client_known"] = found.client.has_value();
  made["client_user"] = found.client ? or_none(found.client->owner) : py::none();
  made["client_last_seq"] = found.client ? found.client->last_seq : 0;
  made["client_seen_at"] = found.client ? datetime_of(found.client->seen_at) : py::none();
  py::tuple refused(found.refused.size());
  for (std::size_t n = 0; n < found.refused.size(); ++n) {
    const Findings::Refused& one = found.refused[n];
    refused[n] = py::make_tuple(one.client_seq, to_str(one.code), to_str(one.message));
  }
  made["refused"] = refused;
  made["position"] = found.position ? py::object(py::int_(*found.position)) : py::object(py::none());
  made["position_at"] = found.position ? datetime_of(found.position_at) : py::none();
  return made;
}

// What lines that were read left of their documents; None: a deletion.
py::list bodies_of_lines(const PyEngine& engine, const py::list& lines) {
  std::vector<LineKey> keys;
  keys.reserve(lines.size());
  for (const py::handle one : lines) {
    const auto& entry = one.cast<const PyLogLine&>();
    keys.push_back({entry.text(&Chunk::Line::scope), entry.text(&Chunk::Line::entity), entry.text(&Chunk::Line::id), entry.line().cursor});
  }
  std::vector<std::string> bodies;
  {
    const WithoutGil free;  // reads
    bodies = bodies_of(engine.core(), keys);
  }
  py::list made(bodies.size());
  for (std::size_t n = 0; n < bodies.size(); ++n) made[n] = bodies[n].empty() ? py::object(py::none()) : py::object(to_bytes(bodies[n]));
  return made;
}

// The highest cursor of a purged line, of these scopes or of all.
Cursor log_floor(const PyEngine& engine, const std::vector<std::string>& scopes) {
  const WithoutGil free;  // reads
  const std::unique_ptr<ReadTx> tx = engine.core().begin_read();
  if (scopes.empty()) return tx->log_floor();
  Cursor floor = 0;
  for (const std::string& scope : scopes) {
    if (const std::optional<ScopeRow> row = tx->scope(scope)) floor = std::max(floor, row->log_floor);
  }
  return floor;
}

}  // namespace

LogRequest log_request(py::handle since, py::handle through, py::handle scope, py::handle entity, py::handle id, py::handle client_id,
                       bool newest_first, py::handle limit) {
  LogRequest request;
  request.since = moment_of(since, "since");
  if (!through.is_none()) request.through = moment_of(through, "through");
  request.scope = name_or_any(scope, "scope");
  request.entity = name_or_any(entity, "entity");
  request.id = name_or_any(id, "id");
  request.client_id = name_or_any(client_id, "client_id");
  request.newest_first = newest_first;
  request.limit = row_limit(limit);
  return request;
}

void bind_history(py::module_& module) {
  bind_entry<PyLogLine>(module, "LogLine", "What one mutation did to one document.").attr("__match_args__") =
      py::make_tuple("op", "entity", "id");
  bind_entry<PyVersion>(module, "Version", "One version of one document.")
      .def_property_readonly("data",
                             [](const PyVersion& self) -> py::object {
                               const std::string_view body = self.text(&Chunk::Line::body);
                               if (body.empty()) return py::none();
                               return decode(body);
                             })
      .attr("__match_args__") = py::make_tuple("op", "version", "data");

  py::classh<PyLog>(module, "Log", "The lines of the changelog.")
      .def(py::init(&open_log), py::arg("engine"), py::arg("since"), py::arg("through"), py::arg("scope"), py::arg("entity"),
           py::arg("id"), py::arg("client_id"), py::arg("newest_first"), py::arg("limit"))
      .def_property_readonly("through", &PyLog::through)
      .def("__iter__", [](py::object self) { return self; })
      .def("__next__", [](PyLog& self) { return self.next(); });

  py::classh<PyHistory>(module, "History", "The versions of one document, newest first.")
      .def(py::init(&open_history), py::arg("engine"), py::arg("scope"), py::arg("entity"), py::arg("id"), py::arg("limit"))
      .def_property_readonly("complete", &PyHistory::complete)
      .def("__iter__", [](py::object self) { return self; })
      .def("__next__", [](PyHistory& self) { return self.next(); });

  bind_past(module);
  module.def("bodies", &bodies_of_lines, py::arg("engine"), py::arg("lines"));
  module.def("log_floor", &log_floor, py::arg("engine"), py::arg("scopes"));
  module.def("find_out", &find_out, py::arg("engine"), py::arg("scope"), py::arg("entity"), py::arg("id"), py::arg("client_id"));
}

}  // namespace syncline::python
