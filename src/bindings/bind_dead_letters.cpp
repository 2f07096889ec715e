// Dead letters as python/syncline/dead_letters.py uses them.
#include "bindings/mutator_host.h"
#include "bindings/py_codec.h"
#include "bindings/types.h"

namespace syncline::python {

namespace {

py::object or_none(const std::string& name) {
  if (name.empty()) return py::none();
  return to_str(name);
}

// In the order of the fields of syncline.DeadLetter.
py::tuple to_tuple(const DeadLetter& letter) {
  return py::make_tuple(letter.id, to_str(letter.name), letter.args.empty() ? py::none() : decode(letter.args), to_str(letter.scope),
                        or_none(letter.user), or_none(letter.client_id),
                        letter.client_seq == 0 ? py::object(py::none()) : py::object(py::int_(letter.client_seq)),
                        datetime_of(letter.ts), letter.seed, to_str(letter.error), to_str(letter.message), to_str(letter.traceback),
                        datetime_of(letter.at), datetime_of(letter.tried_at), letter.attempts);
}

py::list page(const PyEngine& engine, std::int64_t after, std::int64_t limit) {
  std::vector<DeadLetter> found;
  {
    const WithoutGil free;  // reads from the disk
    found = engine.core().dead_letters(after, limit);
  }
  py::list made;
  for (const DeadLetter& letter : found) made.append(to_tuple(letter));
  return made;
}

py::tuple counts(const PyEngine& engine) {
  DeadLetterCounts counts;
  {
    const WithoutGil free;  // reads from the disk
    counts = engine.core().dead_letter_counts();
  }
  return py::make_tuple(counts.count, counts.dropped, counts.bytes);
}

py::object retry(PyEngine& engine, std::int64_t id, const py::dict& table, std::optional<double> timeout) {
  PyMutatorHost host(table, py::none(), py::none(), engine.limits().document(), engine.watch());
  std::optional<MutationResult> result;
  std::exception_ptr failure;
  {
    const WithoutGil free;  // waits for its turn and for the disk
    try {
      result = engine.core().retry_dead_letter(id, host, wait_hook(timeout));
    } catch (const Error&) {
      failure = std::current_exception();
    } catch (const py::error_already_set&) {
      failure = std::current_exception();
    }
  }
  if (host.aborted()) host.raise_abort();
  if (failure) std::rethrow_exception(failure);
  if (!result) return py::none();
  auto made = std::make_shared<PyPushResult>();
  made->push.cursor = result->cursor;
  made->push.epoch = engine.core().epoch();
  made->push.results.push_back(std::move(*result));
  return py::cast(std::move(made));
}

bool discard(const PyEngine& engine, std::int64_t id) {
  const WithoutGil free;  // waits for its turn and for the disk
  return engine.core().discard_dead_letter(id);
}

}  // namespace

void bind_dead_letters(py::module_& module) {
  module.def("dead_letters", &page, py::arg("engine"), py::arg("after"), py::arg("limit"));
  module.def("dead_letter_counts", &counts, py::arg("engine"));
  module.def("retry_dead_letter", &retry, py::arg("engine"), py::arg("id"), py::arg("table"), py::arg("timeout"));
  module.def("discard_dead_letter", &discard, py::arg("engine"), py::arg("id"));
}

}  // namespace syncline::python
