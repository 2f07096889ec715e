#include "store/repair.h"

#include <algorithm>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "base/delta.h"
#include "base/msgpack.h"
#include "store/check.h"
#include "store/schema.h"
#include "store/sqlite_session.h"
#include "store/writer_lock.h"

namespace syncline {

namespace {

using sqlite::Connection;
using sqlite::cursor_of;
using sqlite::Mode;
using sqlite::scope_of;
using sqlite::Statement;

constexpr const char* kMask = "1099511627775";  // the cursor's part of a place
constexpr std::size_t kMostSaid = 1000;

struct Line {
  std::int64_t scope = 0, entity = 0, op = 0, version = 0, previous = 0, ts = 0;
  std::string id, delta;
  std::uint64_t hash = 0;
  [[nodiscard]] bool removes() const { return op == static_cast<std::int64_t>(Op::remove); }
  [[nodiscard]] bool creates() const { return op == static_cast<std::int64_t>(Op::create); }
};

class Repair {
 public:
  Repair(Connection& connection, Repaired& repaired) : connection_(connection), repaired_(repaired) {}

  void run() {
    schema();
    meta();
    scopes();
    say_count("REINDEX", damaged_indexes(), "the indexes were rebuilt");
    duplicates();
    marks();
    links();
    tombstones();
    keys();
    documents();
    unreached();
    clients();
    connection_.execute("DROP TABLE IF EXISTS temp.reached");
  }

 private:
  Statement prepare(std::string_view sql) { return {connection_.handle(), sql, connection_.path(), false}; }
  std::int64_t number(const std::string& sql) { return connection_.number(sql); }
  void say(std::string what) {
    if (repaired_.done.size() < kMostSaid) repaired_.done.push_back(std::move(what));
    if (repaired_.done.size() == kMostSaid) repaired_.done.emplace_back("... and more of the like");
  }
  void say_count(const std::string& sql, std::int64_t count, const std::string& what) {
    if (count == 0) return;
    connection_.execute(sql);
    say(what);
  }
  // Runs a statement that changes rows, and says how many it did.
  void change(const std::string& sql, const std::string& what) {
    connection_.execute(sql);
    if (const std::int64_t rows = connection_.changed_rows(); rows > 0) say(what + ": " + std::to_string(rows));
  }

  std::string name(std::int64_t scope, std::int64_t entity, std::string_view id) {
    const auto text = [this](const char* sql, std::int64_t no) {
      Statement row = prepare(sql);
      row.bind(1, no);
      return row.step() ? std::string(row.text(0)) : "number " + std::to_string(no);
    };
    return "(" + text("SELECT name FROM scopes WHERE no = ?1", scope) + ", " + text("SELECT name FROM names WHERE no = ?1", entity) + ", " +
           std::string(id) + ")";
  }

  std::int64_t damaged_indexes() {
    std::int64_t damaged = 0;
    Statement lines = prepare("PRAGMA integrity_check(100)");
    while (lines.step()) damaged += lines.text(0) == "ok" ? 0 : 1;
    return damaged;
  }

  // What can be made again is; of a table that cannot, an empty one is made, but not of those that say what the others mean.
  void schema() {
    Connection fresh(":memory:", Mode::write);
    sqlite::migrate(fresh);
    Statement wanted(fresh.handle(), "SELECT type, name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%' ORDER BY type DESC",
                     fresh.path(), false);
    while (wanted.step()) {
      Statement there = prepare("SELECT 1 FROM sqlite_schema WHERE name = ?1");
      there.bind_text(1, wanted.text(1));
      if (there.step()) continue;
      const std::string table(wanted.text(1));
      if (table == "documents" || table == "scopes" || table == "names" || table == "changelog" || table == "clients") {
        throw Error(Code::corrupt, "'" + connection_.path() + "' has no table " + table + ", which cannot be rebuilt; restore a backup",
                    {{"path", connection_.path()}});
      }
      connection_.execute(std::string(wanted.text(2)));
      const bool derived = table == "keys" || table == "tombstones" || table == "meta";
      say("the " + std::string(wanted.text(0)) + " " + table + " was missing, and " +
          (derived ? "was rebuilt" : "is empty now: what it held is lost"));
    }
  }

  void meta() {
    head_ = std::max({number(std::string("SELECT coalesce(max(place & ") + kMask + "), 0) FROM documents"),
                      number(std::string("SELECT coalesce(max(cursor), 0) FROM changelog WHERE cursor <= ") + kMask),
                      number(std::string("SELECT coalesce(max(head), 0) FROM scopes WHERE head <= ") + kMask),
                      number(std::string("SELECT coalesce(max(first) - 1, 0) FROM epochs WHERE first <= ") + kMask)});
    const std::int64_t rows = number("SELECT count(*) FROM meta");
    const Cursor said = number("SELECT coalesce(max(head), -1) FROM meta");
    if (rows == 1 && said >= head_ && said <= kMaxCursor) {
      head_ = said;
      return;
    }
    connection_.execute("DELETE FROM meta; INSERT INTO meta (id, head) VALUES (1, " + std::to_string(head_) + ")");
    say("the database's head was " + (rows == 0 ? "missing" : std::to_string(said)) + ", and is " + std::to_string(head_) + " now");
  }

  // Of two rows of one key the later one counts.
  void duplicates() {
    change(std::string("DELETE FROM documents WHERE EXISTS (SELECT 1 FROM (SELECT place >> 40 AS s, entity AS e, id AS i,"
                       " max(place) AS latest, count(*) AS n FROM documents GROUP BY 1, 2, 3) AS g"
                       " WHERE g.n > 1 AND g.s = place >> 40 AND g.e = entity AND g.i = id AND place < g.latest)"),
           "second rows of a document, older than the one that stays");
  }

  // A deleted document whose body came back, or became empty in place of nothing.
  void marks() {
    std::vector<std::pair<std::int64_t, std::string>> wrong;
    {
      Statement row = prepare(std::string("SELECT d.place, d.entity, d.id FROM documents d JOIN changelog l") +
                              " ON l.cursor = (d.place & " + kMask + ") WHERE l.op = 3 AND d.body IS NOT NULL AND (length(d.body) = 0 OR d.body = l.delta)");
      while (row.step()) wrong.emplace_back(row.integer(0), name(scope_of(row.integer(0)), row.integer(1), row.text(2)));
    }
    for (const auto& [place, what] : wrong) {
      connection_.execute("UPDATE documents SET body = NULL WHERE place = " + std::to_string(place));
      say("document " + what + " is marked as deleted again, as its log says");
    }
  }

  // Which line comes before which follows from the order of a document's lines, where no version between them is missing.
  void links() {
    std::vector<std::pair<Cursor, Cursor>> wrong;
    {
      Statement row = prepare(
          "SELECT cursor, before FROM (SELECT cursor, previous, version, op, delta, lag(cursor) OVER document AS before,"
          " lag(version) OVER document AS older FROM changelog WINDOW document AS (PARTITION BY scope, entity, id ORDER BY cursor))"
          " WHERE before IS NOT NULL AND older = version - 1 AND previous <> before AND NOT (op = 3 AND delta IS NULL)");
      while (row.step()) wrong.emplace_back(row.integer(0), row.integer(1));
    }
    Statement link = prepare("UPDATE changelog SET previous = ?2 WHERE cursor = ?1");
    for (const auto& [cursor, before] : wrong) {
      link.bind(1, cursor);
      link.bind(2, before);
      link.run();
      say("log line " + std::to_string(cursor) + " follows line " + std::to_string(before) + " again, its document's one before");
    }
  }

  // Documents that the log deleted last, and that have left no row.
  void tombstones() {
    struct Lost {
      Cursor cursor;
      std::int64_t scope, entity;
      std::string id;
    };
    std::vector<Lost> lost;
    {
      Statement row = prepare(
          "SELECT g.cursor, g.scope, g.entity, g.id FROM (SELECT max(cursor) AS cursor, scope, entity, id, op FROM changelog"
          " GROUP BY scope, entity, id) AS g WHERE g.op = 3 AND NOT EXISTS (SELECT 1 FROM keys k JOIN documents d"
          " ON d.place = (k.scope << 40 | k.cursor) AND d.entity = k.entity AND d.id = k.id"
          " WHERE k.scope = g.scope AND k.entity = g.entity AND k.id = g.id)"
          " AND NOT EXISTS (SELECT 1 FROM documents d WHERE d.place = (g.scope << 40 | g.cursor))");
      while (row.step()) lost.push_back({row.integer(0), row.integer(1), row.integer(2), std::string(row.text(3))});
    }
    for (const Lost& one : lost) {
      Statement other = prepare("SELECT 1 FROM documents WHERE place >= ?1 << 40 AND place < (?1 + 1) << 40 AND entity = ?2 AND id = ?3");
      other.bind(1, one.scope);
      other.bind(2, one.entity);
      other.bind_text(3, one.id);
      if (other.step()) continue;  // it is there, and has lost its key
      const Line newest = *line(one.cursor);
      Cursor created = one.cursor;
      std::int64_t created_at = newest.ts;
      for (Cursor at = newest.previous; at > 0;) {
        const std::optional<Line> before = line(at);
        if (!before || before->previous >= at) break;
        created = at;
        created_at = before->ts;
        if (before->creates()) break;
        at = before->previous;
      }
      Statement insert = prepare(
          "INSERT INTO documents (place, entity, id, version, created_at, updated_at, created, body)"
          " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, NULL)");
      insert.bind(1, sqlite::place_of(one.scope, one.cursor));
      insert.bind(2, one.entity);
      insert.bind_text(3, one.id);
      insert.bind(4, newest.version);
      insert.bind(5, created_at);
      insert.bind(6, newest.ts);
      insert.bind(7, created);
      insert.run();
      say("the tombstone of " + name(one.scope, one.entity, one.id) + " was rebuilt from the log");
    }
  }

  void keys() {
    change("DELETE FROM keys WHERE NOT EXISTS (SELECT 1 FROM documents d WHERE d.place = (keys.scope << 40 | keys.cursor)"
           " AND d.entity = keys.entity AND d.id = keys.id)",
           "keys that named no document were removed");
    change(std::string("INSERT OR REPLACE INTO keys (scope, entity, id, cursor) SELECT d.place >> 40, d.entity, d.id, d.place & ") + kMask +
               " FROM documents d WHERE NOT EXISTS (SELECT 1 FROM keys k WHERE k.scope = d.place >> 40 AND k.entity = d.entity"
               " AND k.id = d.id AND k.cursor = (d.place & " + kMask + "))",
           "keys were rebuilt from their documents");
  }

  std::optional<Line> line(Cursor cursor) {
    if (!lines_) lines_ = prepare("SELECT scope, entity, id, op, version, previous, ts, delta, hash FROM changelog WHERE cursor = ?1");
    lines_.bind(1, cursor);
    std::optional<Line> found;
    if (lines_.step()) {
      found = Line{.scope = lines_.integer(0),
                   .entity = lines_.integer(1),
                   .op = lines_.integer(3),
                   .version = lines_.integer(4),
                   .previous = lines_.integer(5),
                   .ts = lines_.integer(6),
                   .id = std::string(lines_.text(2)),
                   .delta = std::string(lines_.blob(7)),
                   .hash = static_cast<std::uint64_t>(lines_.integer(8))};
    }
    lines_.reset();
    return found;
  }

  void raise_log_floor(std::int64_t scope, Cursor cursor) {
    Statement raise = prepare("UPDATE scopes SET log_floor = max(log_floor, ?2) WHERE no = ?1");
    raise.bind(1, scope);
    raise.bind(2, cursor);
    raise.run();
  }

  // The history of a document from the line at `cursor` back goes.
  void give_up(const std::string& document, std::int64_t scope, Cursor cursor, const std::string& why) {
    raise_log_floor(scope, cursor);
    const std::optional<Line> first = line(cursor);
    for (Cursor at = cursor; at > 0;) {
      const std::optional<Line> gone = line(at);
      if (!gone || gone->scope != first->scope || gone->entity != first->entity || gone->id != first->id) break;
      connection_.execute("DELETE FROM changelog WHERE cursor = " + std::to_string(at));
      if (gone->previous >= at) break;
      at = gone->previous;
    }
    say("the history of " + document + " up to cursor " + std::to_string(cursor) + " was given up: " + why);
  }

  void documents() {
    connection_.execute("CREATE TEMP TABLE reached (cursor INTEGER PRIMARY KEY)");
    std::vector<std::pair<std::int64_t, std::string>> rows;  // in chunks: the walk changes what it reads
    std::int64_t after = -1;
    for (;;) {
      rows.clear();
      Statement row = prepare("SELECT place, id FROM documents WHERE place > ?1 ORDER BY place LIMIT 1000");
      row.bind(1, after);
      while (row.step()) rows.emplace_back(row.integer(0), row.text(1));
      row.reset();
      if (rows.empty()) return;
      for (const auto& [place, id] : rows) document(place);
      after = rows.back().first;
    }
  }

  void document(std::int64_t place) {
    Statement row = prepare("SELECT entity, id, version, created_at, updated_at, created, body FROM documents WHERE place = ?1");
    row.bind(1, place);
    if (!row.step()) return;
    const std::int64_t scope = scope_of(place);
    if (number("SELECT count(*) FROM scopes WHERE no = " + std::to_string(scope)) == 0) return;  // nowhere to say what is given up
    const std::int64_t entity = row.integer(0);
    const std::string id(row.text(1));
    const std::string what = name(scope, entity, id);
    std::string body(row.blob(6));
    const std::int64_t version = row.integer(2);
    const std::int64_t created_at = row.integer(3);
    const std::int64_t updated_at = row.integer(4);
    const Cursor created = row.integer(5);
    row.reset();

    const Cursor log_floor = number("SELECT log_floor FROM scopes WHERE no = " + std::to_string(scope));
    Statement mark = prepare("INSERT OR IGNORE INTO temp.reached (cursor) VALUES (?1)");
    Statement put = prepare("UPDATE documents SET version = ?2, created_at = ?3, updated_at = ?4, created = ?5 WHERE place = ?1");
    Cursor newer = 0;
    std::int64_t expected = version;
    std::optional<std::pair<Cursor, std::int64_t>> born;
    std::optional<Line> newest;
    for (Cursor at = cursor_of(place); at != 0;) {
      const std::optional<Line> here = line(at);
      if (!here) {
        if (at > log_floor) {
          raise_log_floor(scope, at);
          say("log line " + std::to_string(at) + " of " + what + " is lost; what it was before is not known any more");
        }
        break;
      }
      const bool another = here->scope != scope || here->entity != entity || here->id != id;
      std::string why;
      if (another) {
        why = "line " + std::to_string(at) + " is of another document";
      } else if (here->removes() != body.empty()) {
        why = "line " + std::to_string(at) + " does not fit what it left";
      } else if (!here->removes() && mp::hash64(body) != here->hash) {
        why = "line " + std::to_string(at) + " has another hash than what it left";
      } else if (newer != 0 && here->version != expected) {
        why = "line " + std::to_string(at) + " has another version than what it left";
      }
      if (!why.empty()) {
        // Between a document and its latest line nobody can say which is wrong. A line that leads astray goes itself.
        if (newer != 0) give_up(what, scope, another ? newer : at, why);
        break;
      }
      const bool erased = here->removes() && here->delta.empty();
      if (here->previous < 0 || here->previous >= at || (here->previous == 0 && here->version != 1 && !erased)) {
        give_up(what, scope, at, "line " + std::to_string(at) + " does not say which one was before it");
        break;
      }
      mark.bind(1, at);
      mark.run();
      if (newer == 0) newest = here;
      if (here->creates() && !born) born.emplace(at, here->ts);
      newer = at;
      expected = here->version - 1;
      if (here->removes()) {
        if (here->delta.empty()) break;
        body = here->delta;
      } else if (here->creates()) {
        body.clear();
      } else {
        try {
          body = delta::undo(body, here->delta);
        } catch (const Error& error) {
          give_up(what, scope, at, "the delta of line " + std::to_string(at) + " cannot be undone");
          break;
        }
      }
      at = here->previous;
    }
    if (!newest) return;
    const std::int64_t made_at = born ? born->second : created_at;
    const Cursor made = born ? born->first : created;
    if (version == newest->version && updated_at == newest->ts && created_at == made_at && created == made) return;
    put.bind(1, place);
    put.bind(2, newest->version);
    put.bind(3, made_at);
    put.bind(4, newest->ts);
    put.bind(5, made);
    put.run();
    say("version, times and creation of " + what + " were rebuilt from the log");
  }

  // Lines of documents that are there, to which nothing leads any more.
  void unreached() {
    connection_.execute(
        "UPDATE scopes SET log_floor = max(log_floor, coalesce((SELECT max(l.cursor) FROM changelog l WHERE l.scope = scopes.no"
        " AND NOT EXISTS (SELECT 1 FROM temp.reached r WHERE r.cursor = l.cursor) AND EXISTS (SELECT 1 FROM keys k WHERE k.scope = l.scope"
        " AND k.entity = l.entity AND k.id = l.id AND l.cursor < k.cursor)), 0))");
    change("DELETE FROM changelog WHERE NOT EXISTS (SELECT 1 FROM temp.reached r WHERE r.cursor = changelog.cursor)"
           " AND EXISTS (SELECT 1 FROM keys k WHERE k.scope = changelog.scope AND k.entity = changelog.entity AND k.id = changelog.id"
           " AND changelog.cursor < k.cursor)",
           "log lines to which no later line led were given up");
  }

  void scopes() {
    const std::string head = std::to_string(head_);
    change("UPDATE scopes SET floor = " + head + " WHERE floor < 0 OR floor > " + head,
           "floors that could not be true were set so that clients pull anew");
    change("UPDATE scopes SET log_floor = " + head + " WHERE log_floor < 0 OR log_floor > " + head,
           "log floors that could not be true were set so that older history is refused");
    change("UPDATE scopes SET log_swept = 0 WHERE log_swept < 0 OR log_swept > " + head, "marks of purges were reset");
    change("UPDATE scopes SET head = 0 WHERE head < 0 OR head > " + head, "heads of scopes that could not be true were taken back");
    const std::string latest = std::string("max(coalesce((SELECT max(d.place & ") + kMask +
                               ") FROM documents d WHERE d.place > scopes.no << 40 AND d.place < (scopes.no + 1) << 40), 0),"
                               " coalesce((SELECT m.latest FROM latest m WHERE m.scope = scopes.no), 0))";
    connection_.execute("CREATE TEMP TABLE latest AS SELECT scope, max(cursor) AS latest FROM changelog GROUP BY scope");
    change("UPDATE scopes SET head = " + latest + " WHERE head < " + latest,
           "heads of scopes were rebuilt from their documents and the log");
    connection_.execute("DROP TABLE temp.latest");
  }

  void clients() {
    change("DELETE FROM results WHERE NOT EXISTS (SELECT 1 FROM clients c WHERE c.no = results.client)"
           " OR first_seq > last_seq OR first_seq < 1",
           "results of nobody were removed");
    change("UPDATE clients SET settled = 0 WHERE settled < 0", "marks of what a client has settled were reset");
    change("UPDATE clients SET last_seq ="
           " max(last_seq, settled, coalesce((SELECT max(r.last_seq) FROM results r WHERE r.client = clients.no), 0))"
           " WHERE last_seq < max(settled, coalesce((SELECT max(r.last_seq) FROM results r WHERE r.client = clients.no), 0))",
           "last numbers of clients were rebuilt from their results");
  }

  Connection& connection_;
  Repaired& repaired_;
  Statement lines_;
  Cursor head_ = 0;
};

}  // namespace

Repaired repair_sqlite(const std::string& path, CheckHooks hooks) {
  std::error_code ignored;
  if (!std::filesystem::is_regular_file(path, ignored)) {
    throw Error(Code::storage, "'" + path + "' is no file; give the path of a database", {{"path", path}});
  }
  const std::string canonical = std::filesystem::canonical(path).string();
  const WriterLock lock(canonical);
  Connection connection(canonical, Mode::write);
  if (sqlite::examine(connection)) {
    throw Error(Code::foreign_file, "'" + path + "' is empty: there is nothing to repair", {{"path", path}});
  }
  Repaired repaired;
  connection.execute("PRAGMA synchronous = FULL; BEGIN IMMEDIATE");
  try {
    Repair(connection, repaired).run();
    hooks.found = [&](Problem problem) {
      if (repaired.left.size() < kMostSaid) repaired.left.push_back(std::move(problem));
    };
    sqlite::check(connection, hooks);
    connection.execute("COMMIT");
  } catch (...) {
    if (connection.in_transaction()) sqlite3_exec(connection.handle(), "ROLLBACK", nullptr, nullptr, nullptr);
    throw;
  }
  return repaired;
}

}  // namespace syncline
