// Up to where each client has each scope: noted in memory by pulls, written in batches.
//
// What     A pull that names its client notes (client, scope) -> the cursor it asked from and the one it was told. Nothing is written
//          on a pull: `take` hands what is new to the compactor's thread, which stores it as unlogged documents. What was noted and
//          not yet written is lost in a crash; positions are for lag and for holding a floor back, never for an answer.
// Storage  scope `_positions`, entity `position`, id: 32 hex digits of (client, scope), body {client_id, confirmed, cursor, scope, seen,
//          user}.
// Bounds   at most kMostNoted wait in memory; further ones are not noted until those were written.
// Owner    the engine. Threads  any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "store/store.h"

namespace syncline {

inline constexpr std::string_view kPositionsScope = "_positions";
inline constexpr std::string_view kPositionEntity = "position";

struct Position {
  std::string client_id, user, scope;
  Cursor cursor = 0;           // of the last answer it was given whole
  Cursor confirmed = 0;        // that it asked from: it surely has this; 0: it began
  std::int64_t last_seen = 0;  // microseconds
  std::int64_t lag = 0;        // how far the scope's head is ahead of `cursor`

  // Below which floor it would have to begin anew; 0: it has nothing to lose.
  [[nodiscard]] Cursor held() const noexcept { return confirmed > 0 ? confirmed : cursor; }
};

class Positions {
 public:
  static constexpr std::size_t kMostNoted = 100'000;
  static constexpr std::size_t kWorthWriting = 10'000;

  // True: so many wait that they should be written now.
  bool note(std::string_view client_id, std::string_view user, std::string_view scope, Cursor confirmed, Cursor told, std::int64_t now);

  // Hands over what was noted since; `put_back` returns what could not be written, unless it was noted again.
  std::vector<Position> take();
  void put_back(std::vector<Position> positions);
  // All, stored and noted, in order of scope and client; of one scope where it is not empty. `lag` is filled in.
  std::vector<Position> all(ReadTx& tx, std::string_view scope);

  // Of one client and scope, stored or noted; `lag` is left 0.
  std::optional<Position> find(ReadTx& tx, std::string_view client_id, std::string_view scope);

  static std::string id_of(const Position& position);
  static std::string encode(const Position& position);
  static Position decode(std::string_view body);  // Error(corrupt)

 private:
  using Key = std::pair<std::string, std::string>;  // scope, client
  std::mutex mutex_;
  std::map<Key, Position> noted_;
};

}  // namespace syncline
