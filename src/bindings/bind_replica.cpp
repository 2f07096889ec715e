// The replica as python/syncline/replica.py drives it, one call for each of the core's.
//
// Locks    the replica's own lock comes before the GIL: mutators run under it and take the GIL, so every call here frees the GIL before it
//          enters the core. Nothing of Python is made, called or let go without the GIL.
#include <deque>
#include <mutex>
#include <optional>
#include <type_traits>

#include "bindings/keeping.h"
#include "bindings/mutator_host.h"
#include "bindings/py_codec.h"
#include "bindings/types.h"
#include "replica/replica.h"
#include "store/sqlite_store.h"

namespace syncline::python {

namespace {

using replica::Answered;
using replica::Event;
using replica::Outgoing;
using replica::Place;
using replica::ReplicaView;

// What the mutators of this thread's call raised. With the GIL.
struct Caught {
  std::optional<py::error_already_set> raised;       // by the last mutator that ran, and only where `mutate` asked for it
  std::optional<py::error_already_set> interrupted;  // KeyboardInterrupt and its like
  bool wanted = false;
};

Caught& caught() {
  thread_local Caught of_this_thread;
  return of_this_thread;
}

// In a replay a mutator's failure only skips its effect: nothing is logged, the server will say what is to be said. In `mutate` what it
// raised goes to who called.
class ReplicaHost final : public PyMutatorHost {
 public:
  using PyMutatorHost::PyMutatorHost;

  Outcome run(const Mutation& mutation, Tx& tx) override {
    {
      const WithGil gil;
      caught().raised.reset();
    }
    return PyMutatorHost::run(mutation, tx);
  }

 protected:
  Outcome failed(const Mutation&, py::error_already_set& raised) override {
    Caught& here = caught();
    const bool fault = PyObject_IsInstance(raised.value().ptr(), PyExc_Exception) == 1;
    if (here.wanted) here.raised.emplace(raised);
    if (fault) return {Outcome::Kind::refused, {std::string(code_name(Code::rejected)), "the mutator refused", {}}};
    here.interrupted.emplace(raised);
    return {Outcome::Kind::abort, {}};
  }
  Outcome broken(const Mutation&, const py::object& fault) override {
    if (caught().wanted) {
      py::set_error(py::type::of(fault), fault);
      caught().raised.emplace();
    }
    return {Outcome::Kind::refused, {std::string(code_name(Code::internal_error)), "the mutator is no plain function", {}}};
  }
};

class CallClock final : public Clock {
 public:
  explicit CallClock(py::object call) : call_(hold(std::move(call))) {}
  std::int64_t now() override {
    const WithGil gil;
    return (*call_)().cast<std::int64_t>();
  }

 private:
  std::shared_ptr<py::object> call_;
};

class CallEntropy final : public Entropy {
 public:
  explicit CallEntropy(py::object call) : call_(hold(std::move(call))) {}
  std::uint64_t next() override {
    const WithGil gil;
    return (*call_)().cast<std::uint64_t>();
  }

 private:
  std::shared_ptr<py::object> call_;
};

// A view with a lock, because nobody can keep two threads from sharing a Python object.
struct PyReplicaView : Reading {
  std::unique_ptr<ReplicaView> view;
  std::string scope;
  std::mutex mutex;

  void end() override {
    const std::scoped_lock lock(mutex);
    view.reset();
  }
};

void raise_interrupted() {
  if (std::optional<py::error_already_set> raised = std::exchange(caught().interrupted, std::nullopt)) {
    throw py::error_already_set(*raised);
  }
}

class PyReplica {
 public:
  PyReplica(std::unique_ptr<ReplicaHost> host, std::unique_ptr<MutatorWatch> watch, const PyLimits& limits)
      : limits_(limits), watch_(std::move(watch)), host_(std::move(host)) {}
  ~PyReplica() {
    const WithoutGil free;  // writes what is not yet on the disk
    end_views();
    core_.reset();
  }
  PyReplica(const PyReplica&) = delete;
  PyReplica& operator=(const PyReplica&) = delete;

  void open(const std::string& path, const StoreOptions& store, replica::ReplicaOptions options) {
    core_ = std::make_unique<replica::Replica>(open_sqlite(path, store), *host_, std::move(options));
  }

  // Runs `use` on the core without the GIL. An interrupt that hit a mutator leaves through this call.
  template <typename Use>
  auto with(Use use) {
    const auto run = [&] {
      const WithoutGil free;  // waits for another thread's call, for mutators and for the disk
      return use(*core_);
    };
    try {
      if constexpr (std::is_void_v<decltype(run())>) {
        run();
        raise_interrupted();
      } else {
        auto result = run();
        raise_interrupted();
        return result;
      }
    } catch (...) {
      caught().interrupted.reset();
      throw;
    }
  }

  // Without the GIL.
  void remember(const std::shared_ptr<Reading>& reading) {
    const std::scoped_lock lock(mutex_);
    if (closing_) return reading->end();
    std::erase_if(readings_, [](const std::weak_ptr<Reading>& one) { return one.expired(); });
    readings_.push_back(reading);
  }
  // Open, a view would keep the store from closing for ever. Without the GIL.
  void end_views() {
    std::vector<std::weak_ptr<Reading>> readings;
    {
      const std::scoped_lock lock(mutex_);
      closing_ = true;
      readings.swap(readings_);
    }
    for (const std::weak_ptr<Reading>& one : readings) {
      if (const std::shared_ptr<Reading> reading = one.lock()) reading->end();
    }
  }
  [[nodiscard]] mp::Border border() {
    const std::scoped_lock lock(mutex_);
    mp::Border made = limits_.document();
    made.max_bytes = static_cast<std::size_t>(limits_.max_body_bytes);
    return made;
  }
  [[nodiscard]] PyLimits limits() {
    const std::scoped_lock lock(mutex_);
    return limits_;
  }
  void set_limits(const PyLimits& limits) {
    const std::scoped_lock lock(mutex_);
    limits_ = limits;
  }

 private:
  std::mutex mutex_;
  PyLimits limits_;
  std::vector<std::weak_ptr<Reading>> readings_;
  bool closing_ = false;
  std::unique_ptr<MutatorWatch> watch_;
  std::unique_ptr<ReplicaHost> host_;
  std::unique_ptr<replica::Replica> core_;
};

std::unique_ptr<PyReplica> open(const std::string& path, py::dict mutators, py::handle user, py::handle client_id, std::string_view durability,
                                std::int64_t max_tries, std::int64_t max_batch, std::int64_t max_batch_bytes, std::int64_t max_pending,
                                std::int64_t max_refused, py::object clock, py::object entropy, const PyLimits* given) {
  StoreOptions store;
  if (durability == "normal") {
    store.durability = Durability::normal;
  } else if (durability != "full") {
    throw Error(Code::usage, "durability must be 'full' or 'normal', not '" + std::string(durability) + "'");
  }
  const auto positive = [](const char* name, std::int64_t value) {
    if (value < 1) throw Error(Code::usage, std::string(name) + " must be 1 or more, not " + std::to_string(value));
    return value;
  };
  const PyLimits limits = given != nullptr ? *given : PyLimits{};
  replica::ReplicaOptions options;
  options.user = user_of(user);
  options.client_id = optional_text(client_id, "client_id", Code::usage).value_or(std::string());
  options.max_tries = positive("max_tries", max_tries);
  options.max_batch = positive("max_batch", max_batch);
  options.max_batch_bytes = positive("max_batch_bytes", max_batch_bytes);
  options.max_pending = positive("max_pending", max_pending);
  options.max_refused = positive("max_refused", max_refused);
  options.limits = static_cast<const Limits&>(limits);
  if (py::isinstance<PyClock>(clock)) {
    options.clock = clock.cast<std::shared_ptr<PyClock>>();
  } else if (!clock.is_none()) {
    options.clock = std::make_shared<CallClock>(std::move(clock));
  }
  if (!entropy.is_none()) options.entropy = std::make_shared<CallEntropy>(std::move(entropy));
  auto watch = std::make_unique<MutatorWatch>();
  auto host = std::make_unique<ReplicaHost>(std::move(mutators), py::none(), py::none(), limits.document(), *watch);
  auto made = std::make_unique<PyReplica>(std::move(host), std::move(watch), limits);
  const WithoutGil free;  // reads from the disk
  made->open(path, store, std::move(options));
  return made;
}

Place mutate(PyReplica& self, py::handle scope, py::handle name, py::handle args) {
  const std::string in(text(scope, "scope", Code::invalid_scope));
  const std::string called(text(name, "name"));
  std::string packed = encode(args, "args", self.border());
  struct Catch {
    bool outer = std::exchange(caught().wanted, true);  // a mutator called another replica
    ~Catch() {
      caught().wanted = outer;
      caught().raised.reset();
    }
  } catching;
  try {
    return self.with([&](replica::Replica& core) { return core.mutate(in, called, std::move(packed)); });
  } catch (const replica::MutationRefused&) {
    if (caught().raised) throw py::error_already_set(*caught().raised);
    throw;
  }
}

std::shared_ptr<PyReplicaView> view(PyReplica& self, py::handle scope, bool confirmed) {
  auto made = std::make_shared<PyReplicaView>();
  made->scope = text(scope, "scope", Code::invalid_scope);
  self.with([&](replica::Replica& core) {
    made->view = core.view(made->scope, confirmed);
    self.remember(made);
  });
  return made;
}

template <typename Use>
auto with_view(PyReplicaView& self, Use use) {
  const WithoutGil free;  // waits for another thread's call, reads from the disk, scans
  const std::scoped_lock lock(self.mutex);
  if (!self.view) throw Error(Code::closed, "this view is finished: use it within its `with` block");
  return use(*self.view);
}

constexpr Code kAsked = Code::invalid_request;

std::vector<Row> rows(PyReplicaView& self, py::handle entity, py::handle prefix, py::handle limit) {
  const std::string_view name = text(entity, "entity", kAsked);
  const std::string_view begins = text(prefix, "prefix", kAsked);
  const std::int64_t most = row_limit(limit);
  return with_view(self, [&](ReplicaView& of) { return of.scan(name, begins, most); });
}

py::object document_or_none(const std::string& body) {
  if (body.empty()) return py::none();
  return decode(body);
}

py::object text_or_none(const std::string& value) {
  if (value.empty()) return py::none();
  return to_str(value);
}

const char* kind_name(Event::Kind kind) {
  switch (kind) {
    case Event::Kind::changed: return "changed";
    case Event::Kind::refused: return "refused";
    case Event::Kind::opened: return "opened";
    case Event::Kind::closed: return "closed";
    case Event::Kind::restored: return "restored";
    case Event::Kind::renamed: break;
  }
  return "renamed";
}

const char* next_name(Answered::Next next) {
  switch (next) {
    case Answered::Next::done: return "done";
    case Answered::Next::ignored: return "ignored";
    case Answered::Next::wait: return "wait";
    case Answered::Next::unauthenticated: return "unauthenticated";
    case Answered::Next::failed: break;
  }
  return "failed";
}

py::object args_of(const std::string& args) { return args.empty() ? py::none() : decode(args); }

void learn_limits(PyReplica& self, const py::dict& health) {
  PyLimits limits = self.limits();
  const py::object told = health.contains("limits") ? py::object(health["limits"]) : py::object(health);
  if (!PyDict_Check(told.ptr())) throw Error(Code::usage, "learn_limits takes the server's health answer, a dict with `limits`");
  const auto fields = py::reinterpret_borrow<py::dict>(told);
  const auto take = [&](const char* name, std::int64_t& into) {
    if (fields.contains(name)) into = std::max<std::int64_t>(1, integer(fields[name], name, Code::usage));
  };
  take("body_bytes", limits.max_body_bytes);
  take("mutations", limits.max_mutations);
  take("page_bytes", limits.max_page_bytes);
  take("document_bytes", limits.max_document_bytes);
  take("nesting", limits.max_nesting);
  limits.max_nesting = std::min<std::int64_t>(limits.max_nesting, mp::kMaxNesting);
  self.set_limits(limits);
  self.with([&](replica::Replica& core) { core.learn_limits(static_cast<const Limits&>(limits)); });
}

template <typename Made>
py::list moved(std::vector<Made> all) {
  py::list made(all.size());
  for (std::size_t n = 0; n < all.size(); ++n) made[n] = py::cast(std::make_unique<Made>(std::move(all[n])));
  return made;
}

template <typename Call>
auto called(Call call) {
  return [call](PyReplica& self) { return self.with(call); };
}

void bind_values(py::module_& module) {
  py::classh<Outgoing>(module, "ReplicaRequest", "A request to be sent: POST `path` with `body` as application/msgpack.")
      .def_readonly("request", &Outgoing::request)
      .def_property_readonly("path", [](const Outgoing& self) { return to_str(self.path); })
      .def_property_readonly("scope", [](const Outgoing& self) { return text_or_none(self.scope); })
      .def_property_readonly("body", [](const Outgoing& self) { return to_bytes(self.body); })
      .def_readonly("mutations", &Outgoing::mutations)
      .def("__repr__", [](const Outgoing& self) {
        return "<ReplicaRequest " + std::to_string(self.request) + " " + self.path + (self.scope.empty() ? "" : " " + repr_of(self.scope)) + ">";
      });

  py::classh<Answered>(module, "ReplicaAnswered", "What an answer came to.")
      .def_property_readonly("next", [](const Answered& self) { return to_str(next_name(self.next)); })
      .def_property_readonly("code", [](const Answered& self) { return text_or_none(self.code); })
      .def_property_readonly("message", [](const Answered& self) { return text_or_none(self.message); })
      .def_readonly("retry_after", &Answered::retry_after)
      .def("__repr__", [](const Answered& self) {
        return std::string("<ReplicaAnswered ") + next_name(self.next) + (self.code.empty() ? "" : " " + self.code) + ">";
      });

  py::classh<Event>(module, "ReplicaEvent", "What became visible, or was learned, and is on the disk.")
      .def_property_readonly("kind", [](const Event& self) { return to_str(kind_name(self.kind)); })
      .def_property_readonly("scope", [](const Event& self) { return text_or_none(self.scope); })
      .def_property_readonly("entity", [](const Event& self) { return text_or_none(self.entity); })
      .def_property_readonly("id", [](const Event& self) { return text_or_none(self.id); })
      .def_property_readonly("before", [](const Event& self) { return document_or_none(self.before); }, "A fresh dict, or None.")
      .def_property_readonly("after", [](const Event& self) { return document_or_none(self.after); }, "A fresh dict, or None.")
      .def_readonly("place", &Event::place)
      .def_property_readonly("code", [](const Event& self) { return text_or_none(self.code); })
      .def_property_readonly("message", [](const Event& self) { return text_or_none(self.message); })
      .def("__repr__", [](const Event& self) {
        std::string out = std::string("<ReplicaEvent ") + kind_name(self.kind);
        for (const std::string* part : {&self.scope, &self.entity, &self.id}) {
          if (!part->empty()) out += " " + repr_of(*part);
        }
        return out + ">";
      });

  py::classh<replica::Pending>(module, "ReplicaPending", "A mutation that the server has not settled.")
      .def_readonly("place", &replica::Pending::place)
      .def_readonly("seq", &replica::Pending::seq)
      .def_property_readonly("scope", [](const replica::Pending& self) { return to_str(self.scope); })
      .def_property_readonly("name", [](const replica::Pending& self) { return to_str(self.name); })
      .def_property_readonly("args", [](const replica::Pending& self) { return args_of(self.args); })
      .def_property_readonly("ts", [](const replica::Pending& self) { return datetime_of(self.ts); })
      .def_readonly("tries", &replica::Pending::tries)
      .def_readonly("durable", &replica::Pending::durable)
      .def_readonly("sent", &replica::Pending::sent)
      .def_readonly("voided", &replica::Pending::voided)
      .def_readonly("confirmed", &replica::Pending::confirmed)
      .def("__repr__", [](const replica::Pending& self) {
        return "<ReplicaPending " + std::to_string(self.place) + " " + repr_of(self.name) + " in " + repr_of(self.scope) + ">";
      });

  py::classh<replica::Refused>(module, "ReplicaRefused", "A mutation that was refused, or given up.")
      .def_readonly("place", &replica::Refused::place)
      .def_property_readonly("client_id", [](const replica::Refused& self) { return to_str(self.client_id); })
      .def_readonly("seq", &replica::Refused::seq)
      .def_property_readonly("scope", [](const replica::Refused& self) { return to_str(self.scope); })
      .def_property_readonly("name", [](const replica::Refused& self) { return to_str(self.name); })
      .def_property_readonly("args", [](const replica::Refused& self) { return args_of(self.args); })
      .def_property_readonly("ts", [](const replica::Refused& self) { return datetime_of(self.ts); })
      .def_property_readonly("at", [](const replica::Refused& self) { return datetime_of(self.at); })
      .def_property_readonly("code", [](const replica::Refused& self) { return to_str(self.code); })
      .def_property_readonly("message", [](const replica::Refused& self) { return to_str(self.message); })
      .def("__repr__", [](const replica::Refused& self) {
        return "<ReplicaRefused " + std::to_string(self.place) + " " + repr_of(self.name) + ": " + self.code + ">";
      });

  py::classh<replica::ScopeState>(module, "ReplicaScope", "Where a joined scope stands.")
      .def_property_readonly("name", [](const replica::ScopeState& self) { return to_str(self.name); })
      .def_readonly("cursor", &replica::ScopeState::cursor)
      .def_property_readonly("epoch", [](const replica::ScopeState& self) { return text_or_none(self.epoch); })
      .def_readonly("open", &replica::ScopeState::open)
      .def_readonly("loaded", &replica::ScopeState::loaded)
      .def_readonly("pulling", &replica::ScopeState::pulling)
      .def_readonly("staged_pages", &replica::ScopeState::staged_pages)
      .def("__repr__", [](const replica::ScopeState& self) {
        return "<ReplicaScope " + repr_of(self.name) + " at " + std::to_string(self.cursor) + (self.open ? "" : ", closed") + ">";
      });

  py::classh<replica::ReplicaStatus>(module, "ReplicaStatus", "Numbers about a replica.")
      .def_property_readonly("client_id", [](const replica::ReplicaStatus& self) { return to_str(self.client_id); })
      .def_property_readonly("epoch", [](const replica::ReplicaStatus& self) { return text_or_none(self.epoch); })
      .def_readonly("pending", &replica::ReplicaStatus::pending)
      .def_readonly("unsent", &replica::ReplicaStatus::unsent)
      .def_readonly("unflushed", &replica::ReplicaStatus::unflushed)
      .def_readonly("refused", &replica::ReplicaStatus::refused)
      .def_readonly("documents_touched", &replica::ReplicaStatus::documents_touched)
      .def_readonly("rebases", &replica::ReplicaStatus::rebases)
      .def_readonly("replayed", &replica::ReplicaStatus::replayed)
      .def_readonly("pulled", &replica::ReplicaStatus::pulled)
      .def_readonly("identified", &replica::ReplicaStatus::identified);
}

void bind_replica_view(py::module_& module) {
  py::classh<PyReplicaView>(module, "ReplicaView", "A replica's scope as it was at one moment. Close it soon: it holds that moment fast.")
      .def("get",
           [](PyReplicaView& self, py::handle entity, py::handle id) -> py::object {
             const std::string_view name = text(entity, "entity", kAsked);
             const std::string_view key = text(id, "id", kAsked);
             const auto body = with_view(self, [&](ReplicaView& of) { return of.get(name, key); });
             return body ? decode(*body) : py::none();
           },
           py::arg("entity"), py::arg("id"), "The document, a fresh dict, or None.")
      .def("exists",
           [](PyReplicaView& self, py::handle entity, py::handle id) {
             const std::string_view name = text(entity, "entity", kAsked);
             const std::string_view key = text(id, "id", kAsked);
             return with_view(self, [&](ReplicaView& of) { return of.version(name, key) != 0; });
           },
           py::arg("entity"), py::arg("id"))
      .def("version",
           [](PyReplicaView& self, py::handle entity, py::handle id) {
             const std::string_view name = text(entity, "entity", kAsked);
             const std::string_view key = text(id, "id", kAsked);
             return with_view(self, [&](ReplicaView& of) { return of.version(name, key); });
           },
           py::arg("entity"), py::arg("id"), "0: absent.")
      .def("list", [](PyReplicaView& self, py::handle entity) { return to_documents(rows(self, entity, py::str(), py::none())); }, py::arg("entity"))
      .def("scan",
           [](PyReplicaView& self, py::handle entity, py::handle prefix, py::handle limit) { return to_pairs(rows(self, entity, prefix, limit)); },
           py::arg("entity"), py::kw_only(), py::arg("prefix") = "", py::arg("limit") = py::none())
      .def("find",
           [](PyReplicaView& self, py::handle entity, py::handle filter, py::handle sort, py::handle limit) {
             const FindOptions options = find_options(filter, sort, limit);
             const std::string_view name = text(entity, "entity", kAsked);
             return to_pairs(with_view(self, [&](ReplicaView& of) { return of.find(name, options); }));
           },
           py::arg("entity"), py::arg("filter") = py::none(), py::kw_only(), py::arg("sort") = py::none(), py::arg("limit") = py::none())
      .def_property_readonly("scope", [](const PyReplicaView& self) { return to_str(self.scope); })
      .def("close",
           [](PyReplicaView& self) {
             const WithoutGil free;  // waits for another thread's call
             self.end();
           })
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__",
           [](PyReplicaView& self, const py::args&) {
             const WithoutGil free;  // waits for another thread's call
             self.end();
           })
      .def("__repr__", [](PyReplicaView& self) { return "<ReplicaView of " + repr_of(self.scope) + (self.view ? ">" : ", finished>"); });
}

}  // namespace

void bind_replica(py::module_& module) {
  bind_values(module);
  bind_replica_view(module);

  const replica::ReplicaOptions preset;
  py::classh<PyReplica>(module, "Replica", "The core of a replica: a machine without network, threads and timers.")
      .def(py::init(&open), py::arg("path"), py::arg("mutators"), py::kw_only(), py::arg("user") = py::none(), py::arg("client_id") = py::none(),
           py::arg("durability") = "full", py::arg("max_tries") = preset.max_tries, py::arg("max_batch") = preset.max_batch,
           py::arg("max_batch_bytes") = preset.max_batch_bytes, py::arg("max_pending") = preset.max_pending,
           py::arg("max_refused") = preset.max_refused, py::arg("clock") = py::none(), py::arg("entropy") = py::none(),
           py::arg("limits").none(true) = py::none())
      .def("join",
           [](PyReplica& self, py::handle scope) {
             const std::string name(text(scope, "scope", Code::invalid_scope));
             self.with([&](replica::Replica& core) { core.join(name); });
           },
           py::arg("scope"))
      .def("leave",
           [](PyReplica& self, py::handle scope) {
             const std::string name(text(scope, "scope", Code::invalid_scope));
             self.with([&](replica::Replica& core) { core.leave(name); });
           },
           py::arg("scope"))
      .def("scopes", [](PyReplica& self) { return moved(self.with([](replica::Replica& core) { return core.scopes(); })); })
      .def("mutate", &mutate, py::arg("scope"), py::arg("name"), py::arg("args") = py::none(), "The mutation's place.")
      .def("flush", called([](replica::Replica& core) { return core.flush(); }))
      .def_property_readonly("unflushed", called([](replica::Replica& core) { return core.unflushed(); }))
      .def("discard",
           [](PyReplica& self, Place place) { return self.with([&](replica::Replica& core) { return core.discard(place); }); }, py::arg("place"))
      .def("pending", [](PyReplica& self) { return moved(self.with([](replica::Replica& core) { return core.pending(); })); })
      .def("refused", [](PyReplica& self) { return moved(self.with([](replica::Replica& core) { return core.refused(); })); })
      .def("forget_refused",
           [](PyReplica& self, Place place) { return self.with([&](replica::Replica& core) { return core.forget_refused(place); }); },
           py::arg("place"))
      .def("view", &view, py::arg("scope"), py::arg("confirmed") = false)
      .def("take_events",
           [](PyReplica& self, std::optional<std::size_t> most) {
             return moved(self.with([&](replica::Replica& core) { return core.take_events(most.value_or(SIZE_MAX)); }));
           },
           py::arg("most") = py::none())
      .def("tell_changes",
           [](PyReplica& self, bool wanted) { self.with([&](replica::Replica& core) { core.tell_changes(wanted); }); }, py::arg("wanted"),
           "Whether `changed` events are gathered; who tells nobody saves their time and memory.")
      .def("next_push",
           [](PyReplica& self) -> std::unique_ptr<Outgoing> {
             auto made = self.with([](replica::Replica& core) { return core.next_push(); });
             return made ? std::make_unique<Outgoing>(std::move(*made)) : nullptr;
           })
      .def("next_pull",
           [](PyReplica& self, py::handle scope) -> std::unique_ptr<Outgoing> {
             const std::string name(text(scope, "scope", Code::invalid_scope));
             auto made = self.with([&](replica::Replica& core) { return core.next_pull(name); });
             return made ? std::make_unique<Outgoing>(std::move(*made)) : nullptr;
           },
           py::arg("scope"))
      .def("answer",
           [](PyReplica& self, std::uint64_t request, int status, py::handle body) {
             const Body bytes(body);
             return std::make_unique<Answered>(
                 self.with([&](replica::Replica& core) { return core.answer(request, status, bytes.view()); }));
           },
           py::arg("request"), py::arg("status"), py::arg("body"))
      .def("lost",
           [](PyReplica& self, std::uint64_t request) { self.with([&](replica::Replica& core) { core.lost(request); }); }, py::arg("request"))
      .def("news",
           [](PyReplica& self, py::handle scope, Cursor cursor, py::handle epoch) {
             const std::string name(text(scope, "scope", Code::invalid_scope));
             const std::string of(text(epoch, "epoch", kAsked));
             return self.with([&](replica::Replica& core) { return core.news(name, cursor, of); });
           },
           py::arg("scope"), py::arg("cursor"), py::arg("epoch"))
      .def("learn_limits", &learn_limits, py::arg("health"))
      .def("status",
           [](PyReplica& self) {
             return std::make_unique<replica::ReplicaStatus>(self.with([](replica::Replica& core) { return core.status(); }));
           })
      .def("close",
           [](PyReplica& self) {
             self.with([&](replica::Replica& core) {
               self.end_views();
               core.close();
             });
           })
      .def("abandon", [](PyReplica& self) {
        self.with([&](replica::Replica& core) {
          self.end_views();
          core.abandon();
        });
      });
}

}  // namespace syncline::python
