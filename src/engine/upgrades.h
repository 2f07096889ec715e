// Documents of an older schema, read as those of today's.
//
// What     A document's schema is told by its cursor: a new schema of an entity holds from the cursor at which it was introduced, and
//          whatever was written before is older. So no document carries a number, and nothing is added to those that need no upgrade.
//          Every read hands out the upgraded body; `Engine::upgrade_step` writes it back by ordinary commits.
// Owner    the engine holds the current one; a transaction keeps the one it began with.
// Threads  any, without the GIL.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "store/store.h"

namespace syncline {

class Upgrader {
 public:
  virtual ~Upgrader() = default;
  // Whether a document of `entity` whose latest change was at `cursor` has an older schema.
  [[nodiscard]] virtual bool applies(std::string_view entity, Cursor cursor) const noexcept = 0;
  // The highest cursor of an older document there can be.
  [[nodiscard]] virtual Cursor last() const noexcept = 0;
  // The body in today's schema. Throws what the application's function throws.
  [[nodiscard]] virtual std::string upgrade(std::string_view entity, std::string_view id, Cursor cursor, std::string_view body) const = 0;
  // The same for who must not fail: nothing, where it cannot be upgraded, which is logged.
  [[nodiscard]] virtual std::optional<std::string> try_upgrade(std::string_view entity, std::string_view id, Cursor cursor,
                                                               std::string_view body) const = 0;
};

// Of one step of the upgrade of a scope.
struct UpgradeStep {
  Cursor reached = 0;  // go on behind it
  bool more = false;
  std::int64_t upgraded = 0, same = 0, failed = 0;
};

}  // namespace syncline
