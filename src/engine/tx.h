// What a mutator writes through: one scope, one mutation.
//
// Owner    the push (or the write session) that runs the mutator. Dead once `end()` was said: every call then throws Error(closed),
//          so a kept `tx` cannot write into somebody else's commit.
// Threads  the one that runs the mutator.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "engine/select.h"
#include "engine/workspace.h"

namespace syncline {

class Tx {
 public:
  // `random` is one for each mutation, shared by the scopes of one write. It and what the views show live until `end()`.
  Tx(Workspace& workspace, std::string_view scope, std::string_view client_id, std::string_view user, std::int64_t now, Random& random);

  // Encoded bodies are canonical msgpack maps. Throw Error(invalid_mutation) for a bad name or body, Error(closed) when dead.
  std::optional<std::string_view> get(std::string_view entity, std::string_view id);
  bool exists(std::string_view entity, std::string_view id);
  void set(std::string_view entity, std::string_view id, std::string body);
  void update(std::string_view entity, std::string_view id, std::string_view patch);  // Error(not_found)
  bool remove(std::string_view entity, std::string_view id);
  std::int64_t version(std::string_view entity, std::string_view id);                 // 0: absent
  void expect(std::string_view entity, std::string_view id, std::int64_t version);    // Error(conflict)
  std::vector<Row> scan(std::string_view entity, std::string_view prefix = {}, std::int64_t limit = -1);
  std::vector<Row> find(std::string_view entity, const FindOptions& options);

  [[nodiscard]] std::string_view scope() const noexcept { return scope_; }
  [[nodiscard]] std::string_view client_id() const noexcept { return client_id_; }  // empty: backend
  [[nodiscard]] std::string_view user() const noexcept { return user_; }            // empty: none
  [[nodiscard]] std::int64_t now() const noexcept;  // microseconds: the mutation's ts, never later than the server's clock
  std::string uuid();          // UUIDv7 of (now, the mutation's seed)
  double random();             // [0, 1)
  std::uint64_t random_bits(); // 64 bits

  void end() noexcept { workspace_ = nullptr; }
  [[nodiscard]] bool alive() const noexcept { return workspace_ != nullptr; }

 private:
  Workspace& live(std::string_view entity);
  Workspace& live(std::string_view entity, std::string_view id);

  Workspace* workspace_;
  std::string_view scope_, client_id_, user_;
  std::int64_t now_;
  Random& random_;
};

}  // namespace syncline
