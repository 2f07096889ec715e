// The engine as python/syncline/engine.py uses it. Every call frees the GIL before it enters the core.
#include <algorithm>
#include <chrono>
#include <limits>
#include <set>

#include "bindings/answer.h"
#include "bindings/errors.h"
#include "bindings/keeping.h"
#include "bindings/mutator_host.h"
#include "bindings/py_codec.h"
#include "bindings/types.h"
#include "store/sqlite_store.h"

namespace syncline::python {

namespace {

// A write of backend code. One thread's at a time.
class PyWrite {
 public:
  PyWrite(std::shared_ptr<Engine> engine, std::unique_ptr<WriteSession> session, const PyLimits& limits)
      : engine_(std::move(engine)), session_(std::move(session)) {
    for (const std::shared_ptr<Tx>& tx : session_->txs()) {
      auto made = std::make_shared<PyTx>();
      made->tx = tx.get();
      made->owner = tx;
      made->border = limits.document();
      txs_.push_back(std::move(made));
    }
  }
  ~PyWrite() {
    const WithoutGil free;  // rolls back
    session_.reset();
    engine_.reset();
  }
  PyWrite(const PyWrite&) = delete;
  PyWrite& operator=(const PyWrite&) = delete;

  [[nodiscard]] py::list txs() const {
    py::list made;
    for (const auto& tx : txs_) made.append(py::cast(tx));
    return made;
  }
  void adopt() {
    session_->adopt();
    for (const auto& tx : txs_) tx->thread = std::this_thread::get_id();
  }
  void commit() {
    const WithoutGil free;  // waits for the disk
    static_cast<void>(session_->commit());
  }
  void rollback() {
    const WithoutGil free;  // rolls back
    session_->rollback();
  }

 private:
  std::shared_ptr<Engine> engine_;
  std::unique_ptr<WriteSession> session_;
  std::vector<std::shared_ptr<PyTx>> txs_;
};

std::unique_ptr<PyEngine> open(const std::string& path, std::string_view durability, bool read_only, const PyLimits& limits,
                               const PyRetention* retention, std::shared_ptr<PyClock> clock) {
  EngineOptions options;
  if (durability == "full") {
    options.store.durability = Durability::full;
  } else if (durability == "normal") {
    options.store.durability = Durability::normal;
  } else {
    throw Error(Code::usage, "durability must be 'full' or 'normal', not '" + std::string(durability) + "'");
  }
  options.store.read_only = read_only;
  options.limits = static_cast<const Limits&>(limits);
  options.group.max_waiting = static_cast<std::size_t>(limits.max_waiting);
  if (retention != nullptr) {
    options.retention = retention->retention;
    options.dead_letters = retention->dead_letters;
  }
  options.clock = std::move(clock);
  std::unique_ptr<Engine> engine;
  {
    const WithoutGil free;  // reads from the disk
    const StoreOptions store_options = options.store;
    engine = std::make_unique<Engine>(open_sqlite(path, store_options), std::move(options));
  }
  return std::make_unique<PyEngine>(std::move(engine), limits);
}

py::object push(PyEngine& self, const PushRequest& request, py::handle user, const py::dict& table, std::optional<double> timeout) {
  const PushOptions options{.user = user_of(user), .forbidden = {}, .require_client = false};
  PyMutatorHost host(table, py::none(), py::none(), self.limits().document(), self.watch());
  std::optional<PushResult> result;
  std::exception_ptr failure;
  {
    const WithoutGil free;  // waits for its turn and for the disk
    try {
      result = self.core().push(request, host, options, wait_hook(timeout, nullptr));
    } catch (const Error&) {
      failure = std::current_exception();
    } catch (const py::error_already_set&) {
      failure = std::current_exception();
    }
  }
  if (host.aborted()) host.raise_abort();
  if (failure) std::rethrow_exception(failure);
  if (!result) return py::none();
  return py::cast(std::make_shared<PyPushResult>(PyPushResult{std::move(*result)}));
}

// A job is (request, user, forbidden, require_client, context, admit).
py::list push_many(PyEngine& self, const py::list& jobs, const py::dict& table) {
  struct Held {
    py::object request;
    PushOptions options;
    std::unique_ptr<PyMutatorHost> host;
  };
  LentTx lent;
  std::vector<Held> held;
  std::vector<PushJob> todo;
  held.reserve(jobs.size());
  todo.reserve(jobs.size());
  for (const py::handle one : jobs) {
    const auto job = py::reinterpret_borrow<py::tuple>(one);
    PushOptions options{.user = user_of(job[1]), .forbidden = {}, .require_client = job[3].cast<bool>()};
    for (const py::handle scope : job[2]) options.forbidden.emplace(text(scope, "a forbidden scope", Code::usage));
    held.push_back(
        {job[0], std::move(options), std::make_unique<PyMutatorHost>(table, job[4], job[5], self.limits().document(), self.watch(), &lent)});
    todo.push_back({held.back().request.cast<const PushRequest*>(), nullptr, held.back().host.get(), {}, nullptr});
  }
  for (std::size_t i = 0; i < todo.size(); ++i) todo[i].options = &held[i].options;
  {
    const WithoutGil free;  // waits for its turn and for the disk
    try {
      self.core().push_many(todo);
    } catch (const Error&) {
      for (PushJob& job : todo) job.error = std::current_exception();
    }
  }
  py::list results(jobs.size());
  for (std::size_t i = 0; i < todo.size(); ++i) {
    if (held[i].host->aborted()) {
      results[i] = held[i].host->abort_value();
    } else if (todo[i].error) {
      results[i] = to_exception(todo[i].error);
    } else {
      results[i] = py::cast(std::make_shared<PyPushResult>(PyPushResult{std::move(todo[i].result)}));
    }
  }
  return results;
}

PullRequest with_user(const PullRequest& request, py::handle user) {
  PullRequest made = request;
  made.user = user_of(user);
  return made;
}

SnapshotRequest with_user(const SnapshotRequest& request, py::handle user) {
  SnapshotRequest made = request;
  made.user = user_of(user);
  return made;
}

std::shared_ptr<PyPull> pull(PyEngine& self, const PullRequest& given, py::handle user) {
  const PullRequest request = with_user(given, user);
  auto made = std::make_shared<PyPull>();
  made->scope = request.scope;
  const WithoutGil free;  // scans
  made->end = self.core().pull(request, [&](const ChangeView& change) {
    PyPull::Line line;
    line.cursor = change.cursor;
    line.version = change.version;
    line.ts = change.ts;
    line.op = change.op;
    // Entities are few, and come in runs.
    const auto known = std::find(made->entities.rbegin(), made->entities.rend(), change.entity);
    if (known == made->entities.rend()) {
      line.entity = static_cast<std::uint32_t>(made->entities.size());
      made->entities.emplace_back(change.entity);
    } else {
      line.entity = static_cast<std::uint32_t>(made->entities.rend() - known - 1);
    }
    line.id_at = made->bytes.size();
    line.id_size = change.id.size();
    made->bytes.append(change.id);
    line.data_at = made->bytes.size();
    line.data_size = change.data.size();
    made->bytes.append(change.data);
    made->lines.push_back(line);
  });
  return made;
}

std::shared_ptr<PySnapshot> snapshot(PyEngine& self, const SnapshotRequest& given, py::handle user) {
  const SnapshotRequest request = with_user(given, user);
  const WithoutGil free;  // scans
  return std::make_shared<PySnapshot>(PySnapshot{self.core().snapshot(request)});
}

py::bytes pull_encoded(PyEngine& self, const PullRequest& given, py::handle user, std::string_view format_name) {
  const PullRequest request = with_user(given, user);
  const Format format = format_of(format_name);
  AnswerBytes body;
  {
    const WithoutGil free;  // scans and encodes
    self.core().pull_encoded(request, format, body);
  }
  return body.take();
}

py::bytes snapshot_encoded(PyEngine& self, const SnapshotRequest& given, py::handle user, std::string_view format_name) {
  const SnapshotRequest request = with_user(given, user);
  const Format format = format_of(format_name);
  AnswerBytes body;
  {
    const WithoutGil free;  // scans and encodes
    self.core().snapshot_encoded(request, format, body);
  }
  return body.take();
}

std::shared_ptr<PyView> read(PyEngine& self, py::handle scope) {
  const std::string name(text(scope, "scope", Code::invalid_scope));
  auto made = std::make_shared<PyView>();
  const WithoutGil free;  // may wait for a connection
  made->view = self.core().read(name);
  self.remember(made);
  return made;
}

std::unique_ptr<PyWrite> write(PyEngine& self, py::handle scopes, py::handle user, std::optional<double> timeout, py::object cancelled) {
  std::vector<std::string> names;
  for (const py::handle scope : scopes) names.emplace_back(text(scope, "scope", Code::invalid_scope));
  const std::string owner = user_of(user);
  const std::shared_ptr<py::object> held = cancelled.is_none() ? nullptr : hold(std::move(cancelled));
  std::unique_ptr<WriteSession> session;
  {
    const WithoutGil free;  // waits for its turn
    session = self.core().write(names, owner, wait_hook(timeout, held));
  }
  if (!session) return nullptr;
  return std::make_unique<PyWrite>(self.shared(), std::move(session), self.limits());
}

void set_poke_listener(PyEngine& self, py::object listener) {
  PokeListener made;
  if (!listener.is_none()) {
    made = [held = hold(std::move(listener))](const std::vector<Poke>& pokes) {
      const WithGil gil;
      try {
        py::list told;
        for (const Poke& poke : pokes) told.append(py::make_tuple(to_str(poke.scope), poke.cursor, to_str(poke.epoch)));
        (*held)(told);
      } catch (py::error_already_set& raised) {
        raised.discard_as_unraisable("syncline: a poke listener");
      }
    };
  }
  const WithoutGil free;  // waits for another thread's call; the old listener takes the GIL to end
  self.core().set_poke_listener(std::move(made));
}

void backup(PyEngine& self, const std::string& path, const py::object& progress) {
  const auto tell = [&progress](std::int64_t done, std::int64_t total) {
    const WithGil gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (!progress.is_none()) progress(done, total);
  };
  const WithoutGil free;  // copies
  self.core().backup(path, tell);
}

// (name, head, floor, log floor) of those that clients can name, in order of name.
py::list scopes(PyEngine& self) {
  std::vector<ScopeRow> rows;
  {
    const WithoutGil free;  // scans
    self.core().begin_read()->scopes([&](const ScopeRow& row) {
      if (!row.name.starts_with('_')) rows.push_back(row);
      return true;
    });
  }
  py::list made;
  for (const ScopeRow& row : rows) made.append(py::make_tuple(to_str(row.name), row.head, row.floor, row.log_floor));
  return made;
}

// What costs nothing to tell, however much the database holds.
py::dict counters(PyEngine& self) {
  EngineStats stats;
  StoreInfo info;
  {
    const WithoutGil free;  // reads
    stats = self.core().stats();
    info = self.core().info();
  }
  py::dict made;
  made["pushes"] = stats.pushes;
  made["mutations"] = stats.mutations;
  made["duplicates"] = stats.duplicates;
  made["refused"] = stats.refused;
  made["commits"] = stats.commits;
  made["changes"] = stats.changes;
  made["pulls"] = stats.pulls;
  made["pulled_changes"] = stats.pulled_changes;
  made["snapshots"] = stats.snapshots;
  made["waiting"] = stats.waiting;
  made["head"] = stats.head;
  made["bytes"] = info.bytes;
  made["wal_bytes"] = info.wal_bytes;
  made["free_disk_bytes"] = info.free_disk_bytes;
  return made;
}

py::dict stats(PyEngine& self) {
  py::dict made = counters(self);
  StoreCounts counts;
  {
    const WithoutGil free;  // scans
    counts = self.core().counts();
  }
  made["documents"] = counts.documents;
  made["tombstones"] = counts.tombstones;
  made["unlogged"] = counts.unlogged;
  made["log_lines"] = counts.log_lines;
  made["clients"] = counts.clients;
  made["results"] = counts.results;
  made["scopes"] = counts.scopes;
  return made;
}

void watch_mutators(PyEngine& self, std::optional<double> slow_seconds, py::object runner) {
  self.watch().slow_seconds = slow_seconds.value_or(std::numeric_limits<double>::infinity());
  self.watch().runner = std::move(runner);
}

py::tuple mutator_bounds() {
  py::tuple made(MutatorWatch::kBounds.size());
  for (std::size_t n = 0; n < MutatorWatch::kBounds.size(); ++n) made[n] = MutatorWatch::kBounds[n];
  return made;
}

py::dict info(PyEngine& self) {
  StoreInfo info;
  Cursor head = 0;
  std::size_t waiting = 0;
  {
    const WithoutGil free;  // reads
    info = self.core().info();
    const EngineStats stats = self.core().stats();
    head = stats.head;
    waiting = stats.waiting;
  }
  py::dict made;
  made["kind"] = info.kind;
  made["version"] = info.version;
  made["path"] = to_str(info.path);
  made["schema_version"] = info.schema_version;
  made["bytes"] = info.bytes;
  made["wal_bytes"] = info.wal_bytes;
  made["free_disk_bytes"] = info.free_disk_bytes;
  made["head"] = head;
  made["waiting"] = waiting;
  return made;
}

// A call into the core with nothing to convert but its result.
template <typename Call>
auto freed(Call call) {
  return [call](PyEngine& self) {
    const WithoutGil free;  // may wait or read
    return call(self);
  };
}

}  // namespace

std::string user_of(py::handle user) {
  if (user.is_none()) return {};
  std::string name(text(user, "user", Code::usage));
  check_name(name, "user", Code::usage);
  return name;
}

std::shared_ptr<py::object> hold(py::object object) {
  return {new py::object(std::move(object)), [](py::object* held) {
            const WithGil gil;
            delete held;
          }};
}

WaitHook wait_hook(std::optional<double> timeout, const std::shared_ptr<py::object>& cancelled) {
  using Time = std::chrono::steady_clock;
  std::optional<Time::time_point> deadline;
  if (timeout) deadline = Time::now() + std::chrono::duration_cast<Time::duration>(std::chrono::duration<double>(std::min(*timeout, 1e8)));
  return [deadline, cancelled] {
    const WithGil gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (cancelled && (*cancelled)().cast<bool>()) return false;
    return !deadline || Time::now() < *deadline;
  };
}

void bind_engine(py::module_& module) {
  py::classh<PyWrite>(module, "Write", "A write of backend code, between its begin and its end.")
      .def_property_readonly("txs", &PyWrite::txs)
      .def("adopt", &PyWrite::adopt)
      .def("commit", &PyWrite::commit)
      .def("rollback", &PyWrite::rollback);

  py::classh<PyEngine>(module, "Engine", "The core of one database.")
      .def(py::init(&open), py::arg("path"), py::kw_only(), py::arg("durability"), py::arg("read_only"), py::arg("limits"),
           py::arg("retention").none(true) = py::none(), py::arg("clock").none(true) = py::none())
      .def("push", &push, py::arg("request"), py::arg("user"), py::arg("table"), py::arg("timeout"))
      .def("push_many", &push_many, py::arg("jobs"), py::arg("table"))
      .def("pull", &pull, py::arg("request"), py::arg("user"))
      .def("pull_encoded", &pull_encoded, py::arg("request"), py::arg("user"), py::arg("format"))
      .def("snapshot", &snapshot, py::arg("request"), py::arg("user"))
      .def("snapshot_encoded", &snapshot_encoded, py::arg("request"), py::arg("user"), py::arg("format"))
      .def("read", &read, py::arg("scope"))
      .def("write", &write, py::arg("scopes"), py::arg("user"), py::arg("timeout"), py::arg("cancelled"))
      .def("cursor",
           [](PyEngine& self, py::handle scope) {
             const std::string name(text(scope, "scope", Code::invalid_scope));
             const WithoutGil free;  // reads
             return self.core().cursor(name);
           },
           py::arg("scope"))
      .def("head", freed([](PyEngine& self) { return self.core().head(); }))
      .def_property_readonly("epoch", [](PyEngine& self) { return to_str(self.core().epoch()); })
      .def_property_readonly("limits", [](PyEngine& self) { return std::make_unique<PyLimits>(self.limits()); })
      .def_property_readonly("read_only", [](PyEngine& self) { return self.core().read_only(); })
      .def("scopes", &scopes)
      .def("stats", &stats)
      .def("counters", &counters)
      .def("mutator_times", [](PyEngine& self) { return self.watch().to_dict(); })
      .def("watch_mutators", &watch_mutators, py::kw_only(), py::arg("slow_seconds"), py::arg("runner"))
      .def_property_readonly_static("mutator_bounds", [](const py::object&) { return mutator_bounds(); })
      .def("info", &info)
      .def("backup", &backup, py::arg("path"), py::arg("progress"))
      .def("compact",
           [](PyEngine& self, Cursor through, std::int64_t min_age) {
             Applied gone;
             {
               const WithoutGil free;  // waits for turns and for the disk
               gone = self.core().purge(through, min_age);
             }
             return py::make_tuple(gone.purged_tombstones, gone.purged_log_lines);
           },
           py::arg("through"), py::arg("min_age"))
      .def("set_poke_listener", &set_poke_listener, py::arg("listener"))
      .def_static("check_user", [](py::handle user) { static_cast<void>(user_of(user)); }, py::arg("user"))
      .def("check_not_writing", freed([](PyEngine& self) { self.core().check_not_writing(); }))
      .def("close", freed([](PyEngine& self) { self.close(); }));
}

}  // namespace syncline::python
