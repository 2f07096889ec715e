// What keeps a database bounded, as python/syncline/retention.py and engine.py use it: retention, compaction, positions, erasure; what the
// inspector counts; and the clock that tests turn by hand.
#include <atomic>
#include <map>

#include "base/ids.h"
#include "bindings/keeping.h"
#include "bindings/types.h"

namespace syncline::python {

namespace {

// Between the steps of a long call the main thread still sees signals.
bool heed_signals() {
  const WithGil gil;
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  return true;
}

py::dict to_dict(const Compaction& done) {
  py::dict made;
  made["log_lines"] = done.log_lines;
  made["tombstones"] = done.tombstones;
  made["results"] = done.results;
  made["positions"] = done.positions;
  made["dead_letters"] = done.dead_letters;
  return made;
}

// Neither age nor cursor: what the retention says.
py::dict keep(PyEngine& self, std::optional<std::int64_t> age, std::optional<Cursor> after) {
  Compaction done;
  {
    const WithoutGil free;  // waits for turns and for the disk
    Compactor& compactor = self.core().compactor();
    done = age || after ? compactor.compact({.age = age, .after = after}, heed_signals) : compactor.round(heed_signals);
  }
  return to_dict(done);
}

py::dict keeping(PyEngine& self) {
  CompactorStatus status;
  {
    const WithoutGil free;  // waits for another thread's look
    if (!self.core().read_only()) status = self.core().compactor().status();
  }
  py::dict made;
  made["rounds"] = status.rounds;
  made["failures"] = status.failures;
  made["last_error"] = to_str(status.last_error);
  made["last_round_at"] = status.last_round_at;
  made["last_round_took"] = status.last_round_took;
  made["total"] = to_dict(status.total);
  return made;
}

// (client_id, user, scope, cursor, last_seen, lag)
py::list positions(PyEngine& self, const std::optional<std::string>& scope) {
  std::vector<Position> found;
  {
    const WithoutGil free;  // reads
    found = self.core().positions(scope.value_or(std::string()));
  }
  py::list made(found.size());
  for (std::size_t n = 0; n < found.size(); ++n) {
    const Position& one = found[n];
    py::object user = one.user.empty() ? py::object(py::none()) : to_str(one.user);
    made[n] = py::make_tuple(to_str(one.client_id), std::move(user), to_str(one.scope), one.cursor, one.last_seen, one.lag);
  }
  return made;
}

// ({entity: live documents}, whether that is all of them): no more than `most` rows are read, tombstones too. There is no count in the
// store, since one would cost every write; this walks the rows in their order: 10,000 documents of 200 B in 2 ms.
py::tuple contents(PyEngine& self, py::handle scope, std::int64_t most) {
  const std::string name(text(scope, "scope", Code::invalid_scope));
  check_name(name, "scope", Code::invalid_scope);
  std::map<std::string, std::int64_t, std::less<>> counted;
  bool all = true;
  {
    const WithoutGil free;  // scans
    std::int64_t seen = 0;
    self.core().begin_read()->changed(name, 0, false, [&](const DocumentView& row) {
      if (seen == most) return all = false;
      ++seen;
      if (row.deleted) return true;
      const auto found = counted.find(row.entity);
      if (found != counted.end()) {
        ++found->second;
      } else {
        counted.emplace(row.entity, 1);
      }
      return true;
    });
  }
  py::dict made;
  for (const auto& [entity, documents] : counted) made[to_str(entity)] = documents;
  return py::make_tuple(made, all);
}

// (owner, last_seq, settled, seen_at); None: it never pushed here.
py::object client(PyEngine& self, py::handle client_id) {
  const std::string name(text(client_id, "client_id", Code::invalid_request));
  std::optional<ClientRow> found;
  {
    const WithoutGil free;  // reads
    found = self.core().begin_read()->client(name);
  }
  if (!found) return py::none();
  return py::make_tuple(to_str(found->owner), found->last_seq, found->settled, found->seen_at);
}

py::dict erase(PyEngine& self, py::handle scope, py::handle entity, py::handle id, py::handle user, bool rewrite) {
  EraseRequest request;
  request.scope = text(scope, "scope", Code::invalid_scope);
  request.entity = optional_text(entity, "entity", Code::invalid_request).value_or(std::string());
  request.id = optional_text(id, "id", Code::invalid_request).value_or(std::string());
  request.user = optional_text(user, "user", Code::usage).value_or(std::string());
  if (!request.user.empty()) check_name(request.user, "user", Code::usage);
  if ((!entity.is_none() && request.entity.empty()) || (!id.is_none() && request.id.empty())) {
    throw Error(Code::invalid_request, "an empty entity or id names no document; leave both out to erase the whole scope");
  }
  request.rewrite = rewrite;
  Erased erased;
  {
    const WithoutGil free;  // waits for turns and for the disk
    erased = self.core().erase(request, heed_signals);
  }
  py::dict made;
  made["documents"] = erased.documents;
  made["tombstones"] = erased.tombstones;
  made["dead_letters"] = erased.dead_letters;
  made["rewritten"] = erased.rewritten;
  return made;
}

// Text out of a damaged file need not be UTF-8.
py::str to_words(std::string_view text) {
  PyObject* made = PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "backslashreplace");
  if (made == nullptr) throw py::error_already_set();
  return py::reinterpret_steal<py::str>(made);
}

py::list to_list(const std::vector<Problem>& problems) {
  py::list made(problems.size());
  for (std::size_t n = 0; n < problems.size(); ++n) made[n] = py::make_tuple(to_words(problems[n].place), to_words(problems[n].what));
  return made;
}

// ([(place, what)], how many there are, {what was looked at: how many})
py::tuple verify(PyEngine& self, const py::object& progress) {
  Report report;
  const auto tell = [&progress](std::int64_t done, std::int64_t total) {
    const WithGil gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (!progress.is_none()) progress(done, total);
  };
  {
    const WithoutGil free;  // reads everything
    report = self.core().verify(tell);
  }
  const Checked& checked = report.checked;
  py::dict counts;
  counts["documents"] = checked.documents;
  counts["versions"] = checked.versions;
  counts["log_lines"] = checked.log_lines;
  counts["unlogged"] = checked.unlogged;
  counts["clients"] = checked.clients;
  counts["results"] = checked.results;
  counts["scopes"] = checked.scopes;
  return py::make_tuple(to_list(report.problems), report.found, counts);
}

py::tuple repair_file(const std::string& path) {
  Repaired repaired;
  {
    const WithoutGil free;  // reads and writes everything
    repaired = repair(path);
  }
  py::list done(repaired.done.size());
  for (std::size_t n = 0; n < repaired.done.size(); ++n) done[n] = to_words(repaired.done[n]);
  return py::make_tuple(done, to_list(repaired.left));
}

}  // namespace

void bind_keeping(py::module_& module) {
  py::classh<PyRetention>(module, "Retention", "How long what is kept, in microseconds; None: for ever.")
      .def(py::init([](std::optional<std::int64_t> history, std::optional<std::int64_t> tombstones, std::optional<std::int64_t> positions,
                       std::optional<std::int64_t> dead_letters, std::int64_t max_positions, std::int64_t max_dead_letters,
                       std::optional<std::int64_t> hold_for_clients, std::optional<std::int64_t> hold_for_feeds, std::int64_t interval) {
             auto made = std::make_unique<PyRetention>();
             made->retention = {.history = history,
                                .tombstones = tombstones,
                                .positions = positions,
                                .max_positions = max_positions,
                                .hold_for_clients = hold_for_clients,
                                .hold_for_feeds = hold_for_feeds,
                                .interval = interval};
             made->dead_letters.max_age = dead_letters.value_or(INT64_MAX / 2);
             made->dead_letters.max_count = max_dead_letters;
             return made;
           }),
           py::kw_only(), py::arg("history"), py::arg("tombstones"), py::arg("positions"), py::arg("dead_letters"),
           py::arg("max_positions"), py::arg("max_dead_letters"), py::arg("hold_for_clients"), py::arg("hold_for_feeds"),
           py::arg("interval"));

  py::classh<PyClock>(module, "ManualClock", "A clock for tests: it stands still until it is told to go on.")
      .def(py::init<std::int64_t>(), py::arg("microseconds"))
      .def_property_readonly("microseconds", &PyClock::now)
      .def("advance", &PyClock::advance, py::arg("microseconds"));

  py::reinterpret_borrow<py::classh<PyEngine>>(module.attr("Engine"))
      .def("keep", &keep, py::arg("age"), py::arg("after"))
      .def("keeping", &keeping)
      .def("positions", &positions, py::arg("scope"))
      .def("contents", &contents, py::arg("scope"), py::arg("most"))
      .def("client", &client, py::arg("client_id"))
      .def("verify", &verify, py::arg("progress"))
      .def("erase", &erase, py::arg("scope"), py::arg("entity"), py::arg("id"), py::arg("user"), py::arg("rewrite"));

  module.def("repair", &repair_file, py::arg("path"));
}

}  // namespace syncline::python
