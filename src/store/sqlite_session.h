// A connection in a transaction, and everything that can be asked of it: the reading half of the store on SQLite.
//
// Owner    the store's pool; a transaction borrows one.
// Threads  one at a time. A visitor may read through the session that called it.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "store/dictionary.h"
#include "store/frontier.h"
#include "store/sqlite.h"
#include "store/sqlite_wanted.h"
#include "store/store.h"

namespace syncline::sqlite {

// A document's place: its scope's number above, its cursor below.
inline constexpr int kCursorBits = 40;
inline constexpr std::int64_t kMaxScopeNumber = (std::int64_t{1} << 23) - 1;
constexpr std::int64_t place_of(std::int64_t scope, Cursor cursor) noexcept { return scope << kCursorBits | cursor; }
constexpr Cursor cursor_of(std::int64_t place) noexcept { return place & kMaxCursor; }
constexpr std::int64_t scope_of(std::int64_t place) noexcept { return place >> kCursorBits; }

class Session {
 public:
  Session(std::string path, Mode mode);

  // Reads the head, and stays at that row: SQLite keeps the snapshot of a read as long as one is under way. BEGIN and ROLLBACK would be
  // two statements more, a tenth of what a pull without documents costs.
  void begin_read();
  // False: the connection is of no more use.
  bool end_read() noexcept;
  void begin_write();
  void commit();
  void abandon() noexcept;  // as Connection::abandon
  // Rolls back where a transaction is open; false: the connection is of no more use.
  bool rollback() noexcept;

  // Lets go of what a look-up holds open: before anything is written.
  void rest() noexcept {
    if (wanted) wanted->rest();
  }

  // Whether the id lies above every id there is, where that is known: then nothing is there.
  bool beyond(std::int64_t scope, std::int64_t entity, std::string_view id);

  Cursor head();
  void documents(std::span<const DocumentKey> keys, const VisitFound& visit);
  void scan(std::string_view scope, std::string_view entity, std::string_view prefix, std::string_view after_id,
            const VisitDocument& visit);
  void changed(std::string_view scope, Cursor after, bool live_only, const VisitDocument& visit, const TakeDocument& take = {});
  void log(const LogRange& range, const VisitLogLine& visit);
  Cursor trace(Cursor newest, const VisitLogLine& visit);
  Cursor log_floor();
  void unlogged(std::string_view scope, std::string_view entity, std::string_view prefix, std::string_view after_id,
                const VisitUnlogged& visit);
  void unlogged_ages(std::string_view scope, std::string_view entity, const VisitAge& visit);
  void oldest_tombstones(std::string_view after_scope, const VisitOldest& visit);
  void overfull_clients(std::int64_t keep, const VisitClient& visit);
  std::optional<ClientRow> client(std::string_view client_id);
  std::optional<ResultRow> result(std::string_view client_id, std::int64_t client_seq);
  std::optional<ScopeRow> scope(std::string_view name);
  void scopes(const VisitScope& visit);
  std::vector<EpochRow> epochs();
  StoreCounts counts();

  // The cursors of one document's log lines in the chain that begins at `newest`, newest first, those at or below `after` left out.
  std::vector<Cursor> chain(Cursor newest, Cursor after);

  Connection connection;
  Dictionary names;          // entities and mutators
  Dictionary scope_numbers;
  // Of the writer's session: it alone knows that nobody else writes, and looks up one key after another.
  std::optional<Frontier> frontier;
  std::optional<Wanted> wanted;

 private:
  // One run's memory of the last entity: rows of the same one lie together.
  struct EntityMemo {
    std::int64_t number = 0;
    std::string_view text;
    std::string scratch;
  };
  // A run of `changed` whose rows are offered before they come out of SQLite.
  struct Offer {
    const TakeDocument& take;
    EntityMemo& memo;
    bool live_only;
  };
  // syncline_left(the eight columns): whether the row is left for the visitor. Anything that fails is, and fails again there.
  static void left(sqlite3_context* result, int count, sqlite3_value** columns) noexcept;
  const Offer* offer_ = nullptr;
  Statement snapshot_;  // at the row of `meta` from begin_read to end_read
  bool reading_ = false;
  Cursor snapshot_head_ = 0;
  bool looking_up_ = false;
  template <class Find>
  void find_each(std::span<const DocumentKey> keys, const VisitFound& visit, Find find);
  template <class Row>
  void read_row(Row& row, EntityMemo& memo, DocumentView& into);
  bool read_line(Statement& row, const VisitLogLine& visit);
  [[noreturn]] void refuse_loop(Cursor line, Cursor previous) const;
  void log_of_document(const LogRange& range, std::int64_t scope, std::int64_t entity, const VisitLogLine& visit);
};

}  // namespace syncline::sqlite
