// Unlogged documents by name: what Python keeps of its own beside the data, such as a feed's position.
#include "base/ids.h"
#include "engine/engine.h"

namespace syncline {

std::vector<Row> Engine::notes(const std::string& scope, const std::string& entity) {
  check();
  check_name(scope, "scope", Code::usage, true);
  check_name(entity, "entity", Code::usage, true);
  std::vector<Row> found;
  store_->read()->unlogged(scope, entity, {}, {}, [&](const UnloggedView& row) {
    found.push_back({std::string(row.id), std::string(row.body)});
    return true;
  });
  return found;
}

bool Engine::put_note(const std::string& scope, const std::string& entity, const std::string& id, const std::string& body,
                      const WaitHook& hook) {
  check_writable();
  check_name(scope, "scope", Code::usage, true);
  check_name(entity, "entity", Code::usage, true);
  check_name(id, "id", Code::usage, true);
  return queue_->run([&](WriteSet& set) { set.put_unlogged(scope, entity, id, body); }, hook);
}

}  // namespace syncline
