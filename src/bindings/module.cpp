#include "bindings/py_codec.h"
#include "bindings/python.h"

PYBIND11_MODULE(_core, module) {
  namespace python = syncline::python;
  module.doc() = "Syncline's core. Use it through the package `syncline`.";
  module.attr("__version__") = SYNCLINE_VERSION;
  python::init_codec();
  python::bind_errors(module);
  python::bind_codec(module);
  python::bind_wire(module);
  python::bind_results(module);
  python::bind_tx(module);
  python::bind_view(module);
  python::bind_engine(module);
  python::bind_tables(module);
  python::bind_history(module);
  python::bind_dead_letters(module);
  python::bind_notes(module);
  python::bind_load(module);
  python::bind_upgrades(module);
  python::bind_keeping(module);
  python::bind_replica(module);
}
