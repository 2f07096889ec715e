// The application's upgrade functions, called by the core for documents of an older schema.
#include <algorithm>

#include "bindings/errors.h"
#include "bindings/py_codec.h"
#include "bindings/types.h"
#include "engine/upgrades.h"

namespace syncline::python {

namespace {

class PyUpgrader final : public Upgrader {
 public:
  struct Step {
    Cursor from = 0;  // documents from before it need the step
    std::int64_t schema = 0;
    std::shared_ptr<py::object> function;
  };
  struct Entity {
    std::string name;
    std::vector<Step> steps;  // in order of schema, and so of cursor
  };
  PyUpgrader(std::vector<Entity> entities, const mp::Border& border) : entities_(std::move(entities)), border_(border) {
    for (const Entity& entity : entities_) last_ = std::max(last_, entity.steps.back().from - 1);
  }

  [[nodiscard]] bool applies(std::string_view entity, Cursor cursor) const noexcept override {
    if (cursor > last_) return false;
    const Entity* found = find(entity);
    return found != nullptr && cursor < found->steps.back().from;
  }

  [[nodiscard]] Cursor last() const noexcept override { return last_; }

  [[nodiscard]] std::string upgrade(std::string_view entity, std::string_view id, Cursor cursor, std::string_view body) const override {
    const WithGil gil;
    return run(entity, id, cursor, body);
  }

  [[nodiscard]] std::optional<std::string> try_upgrade(std::string_view entity, std::string_view id, Cursor cursor,
                                                       std::string_view body) const override {
    const WithGil gil;
    try {
      return run(entity, id, cursor, body);
    } catch (py::error_already_set& raised) {
      const py::object& value = raised.value();
      if (PyObject_IsInstance(value.ptr(), PyExc_Exception) != 1) throw;
      if (raised.trace()) PyException_SetTraceback(value.ptr(), raised.trace().ptr());
      log(entity, id, value);
    } catch (const Error& error) {
      log(entity, id, to_exception(error));
    }
    return std::nullopt;
  }

 private:
  [[nodiscard]] const Entity* find(std::string_view name) const noexcept {
    const auto found = std::ranges::find(entities_, name, &Entity::name);
    return found == entities_.end() ? nullptr : &*found;
  }

  [[nodiscard]] std::string run(std::string_view entity, std::string_view id, Cursor cursor, std::string_view body) const {
    const Entity* found = find(entity);
    py::object document = decode(body);
    for (const Step& step : found->steps) {
      if (cursor >= step.from) continue;
      document = (*step.function)(document);
      if (!PyDict_Check(document.ptr())) {
        throw Error(Code::usage, "the upgrade of " + repr_of(entity) + " to schema " + std::to_string(step.schema) +
                                     " must return a dict, not " + Py_TYPE(document.ptr())->tp_name);
      }
    }
    return encode(document, std::string(entity) + "/" + std::string(id), border_);
  }

  static void log(std::string_view entity, std::string_view id, const py::object& error) {
    try {
      package_attribute("syncline.upgrades", "_log_failure")(to_str(entity), to_str(id), error);
    } catch (py::error_already_set& broken) {
      broken.discard_as_unraisable("syncline: logging an upgrade's failure");
    }
  }

  std::vector<Entity> entities_;
  mp::Border border_;
  Cursor last_ = 0;
};

// `table`: entity -> [(from, schema, function), ...]; empty: nothing to upgrade.
void set_upgrades(const PyEngine& engine, const py::dict& table) {
  std::vector<PyUpgrader::Entity> entities;
  for (const auto& [name, steps] : table) {
    PyUpgrader::Entity entity{std::string(text(name, "entity", Code::usage)), {}};
    for (const py::handle one : steps) {
      const auto step = py::reinterpret_borrow<py::tuple>(one);
      entity.steps.push_back({step[0].cast<Cursor>(), step[1].cast<std::int64_t>(), hold(step[2])});
    }
    entities.push_back(std::move(entity));
  }
  std::shared_ptr<const Upgrader> upgrader;
  if (!entities.empty()) upgrader = std::make_shared<PyUpgrader>(std::move(entities), engine.limits().document());
  const WithoutGil free;  // the old one takes the GIL to end
  engine.core().set_upgrader(std::move(upgrader));
}

// (reached, more, upgraded, same, failed)
py::tuple upgrade_step(const PyEngine& engine, py::handle scope, Cursor after, std::int64_t at_most) {
  const std::string name(text(scope, "scope", Code::usage));
  UpgradeStep step;
  {
    const WithoutGil free;  // waits for its turn and for the disk
    step = engine.core().upgrade_step(name, after, at_most);
  }
  return py::make_tuple(step.reached, step.more, step.upgraded, step.same, step.failed);
}

}  // namespace

void bind_upgrades(py::module_& module) {
  module.def("set_upgrades", &set_upgrades, py::arg("engine"), py::arg("table"));
  module.def("upgrade_step", &upgrade_step, py::arg("engine"), py::arg("scope"), py::arg("after"), py::arg("at_most"));
}

}  // namespace syncline::python
