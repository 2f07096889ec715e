// What several bindings share of the native objects that Python sees. Owner: the bindings. Threads: as each type says.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/msgpack.h"
#include "bindings/mutator_watch.h"
#include "bindings/python.h"
#include "engine/history.h"

namespace syncline::python {

// The engine's limits with the one of its queue.
struct PyLimits : Limits {
  std::int64_t max_waiting = 10'000;

  [[nodiscard]] mp::Border document() const {
    return {.code = Code::invalid_mutation,
            .max_nesting = static_cast<int>(max_nesting),
            .max_bytes = static_cast<std::size_t>(max_document_bytes),
            .allow_dollar_keys = false};
  }
};

// A pull's page, or a snapshot, as it left the core; its Changes point into it. Immutable once built: any thread.
struct PyPull {
  struct Line {
    Cursor cursor = 0;
    std::int64_t version = 0, ts = 0;
    std::uint32_t entity = 0;                // index into `entities`
    std::size_t id_at = 0, id_size = 0, data_at = 0, data_size = 0;
    Op op = Op::create;
  };
  std::string scope, bytes;
  std::vector<std::string> entities;
  std::vector<Line> lines;
  PageEnd end;

  [[nodiscard]] std::string_view id(const Line& line) const { return std::string_view(bytes).substr(line.id_at, line.id_size); }
  [[nodiscard]] std::string_view data(const Line& line) const { return std::string_view(bytes).substr(line.data_at, line.data_size); }
};

struct PyPushResult {
  PushResult push;
};

struct PySnapshot {
  Snapshot snapshot;
};

// A `Tx` as a mutator or a write holds it: dead once `tx` is null. One thread's.
struct PyTx {
  Tx* tx = nullptr;
  std::shared_ptr<Tx> owner;  // of a write; a mutator's belongs to the push
  mp::Border border;
  std::thread::id thread = std::this_thread::get_id();
};

// What holds a read transaction open: it ends with its engine, which could not close before. `end` is called without the GIL, by
// any thread, and may be called twice.
class Reading {
 public:
  Reading() = default;
  virtual ~Reading() = default;
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;
  virtual void end() = 0;
};

// A `View` with a lock, because nobody can keep two threads from sharing a Python object.
struct PyView : Reading {
  std::unique_ptr<View> view;
  std::mutex mutex;

  void end() override {
    const std::scoped_lock lock(mutex);
    view.reset();
  }
};

// The core's engine as Python holds it.
class PyEngine {
 public:
  PyEngine(std::unique_ptr<Engine> engine, const PyLimits& limits) : engine_(std::move(engine)), limits_(limits) {}
  ~PyEngine() {
    const WithoutGil free;  // may wait for what runs
    engine_.reset();
  }
  PyEngine(const PyEngine&) = delete;
  PyEngine& operator=(const PyEngine&) = delete;

  [[nodiscard]] Engine& core() const { return *engine_; }
  [[nodiscard]] const std::shared_ptr<Engine>& shared() const { return engine_; }
  [[nodiscard]] const PyLimits& limits() const { return limits_; }
  [[nodiscard]] MutatorWatch& watch() { return watch_; }

  void remember(const std::shared_ptr<Reading>& reading) {
    const std::scoped_lock lock(mutex_);
    std::erase_if(readings_, [](const std::weak_ptr<Reading>& one) { return one.expired(); });
    readings_.push_back(reading);
  }

  // Without the GIL. What reads ends first: open, it would keep the store from closing for ever.
  void close() {
    engine_->check_not_writing();
    std::vector<std::weak_ptr<Reading>> readings;
    {
      const std::scoped_lock lock(mutex_);
      readings.swap(readings_);
    }
    for (const std::weak_ptr<Reading>& one : readings) {
      if (const std::shared_ptr<Reading> reading = one.lock()) reading->end();
    }
    engine_->close();
  }

 private:
  std::shared_ptr<Engine> engine_;
  PyLimits limits_;
  MutatorWatch watch_;
  std::mutex mutex_;
  std::vector<std::weak_ptr<Reading>> readings_;
};

// An object of Python held by code that knows no GIL.
std::shared_ptr<py::object> hold(py::object object);
std::string user_of(py::handle user);  // empty for None

// While a call waits its turn: the main thread still sees signals, and a deadline or `cancelled()` withdraws it.
WaitHook wait_hook(std::optional<double> timeout, const std::shared_ptr<py::object>& cancelled = nullptr);

// The arguments of `engine.log`.
LogRequest log_request(py::handle since, py::handle through, py::handle scope, py::handle entity, py::handle id, py::handle client_id,
                       bool newest_first, py::handle limit);

// The arguments of `find`.
FindOptions find_options(py::handle filter, py::handle sort, py::handle limit);
std::int64_t row_limit(py::handle limit);
py::list to_pairs(const std::vector<Row>& found);
py::dict to_documents(const std::vector<Row>& found);

}  // namespace syncline::python
