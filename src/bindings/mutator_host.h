// Runs the application's Python mutators for one push.
//
// Owner    the binding of push, for the length of one push (a replica's, for its life); constructed and destroyed with the GIL.
// Threads  `run` is called by the engine on the push's thread without the GIL, which it takes.
#pragma once

#include <optional>

#include "bindings/types.h"

namespace syncline::python {

// The `Tx` that mutators are lent: one object for those that run one after the other, as long as none of them kept it. To make one takes
// 1,900 instructions, of 84,000 that a push among 64 took.
struct LentTx {
  py::object object;
  PyTx* tx = nullptr;
};

class PyMutatorHost : public MutatorHost {
 public:
  // `table` is name -> (function, validate or None); `context` a contextvars.Context to run in, or None; `admit` the
  // `acquire` of a lock, or None: the first mutator runs only if it is free without waiting (the push may have been withdrawn). `lent` is
  // the batch's, and outlives this; without it the host has its own.
  PyMutatorHost(py::dict table, py::object context, py::object admit, const mp::Border& border, MutatorWatch& watch, LentTx* lent = nullptr);
  ~PyMutatorHost() override;

  Outcome run(const Mutation& mutation, Tx& tx) override;

  // What a mutator raised that is no Exception (KeyboardInterrupt and its like): it leaves through its push.
  [[nodiscard]] bool aborted() const noexcept { return abort_.has_value(); }
  [[nodiscard]] py::object abort_value() const { return abort_->value(); }
  [[noreturn]] void raise_abort() { throw py::error_already_set(*abort_); }

 protected:
  // What the mutator raised, or a fault that was found in it, as what it came to.
  virtual Outcome failed(const Mutation& mutation, py::error_already_set& raised);
  virtual Outcome broken(const Mutation& mutation, const py::object& fault);

 private:
  Outcome call(const Mutation& mutation, Tx& tx);
  py::object invoke(PyObject* function, const py::object& name, PyObject* validate, py::object args, Tx& tx);
  PyObject* borrow_tx(Tx& tx);

  py::dict table_;
  py::object context_;
  py::object admit_;
  bool withdrawn_ = false;
  mp::Border border_;
  MutatorWatch& watch_;
  LentTx own_;
  LentTx& lent_;
  std::optional<py::error_already_set> abort_;
};

}  // namespace syncline::python
