#include "store/check.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/delta.h"
#include "base/ids.h"
#include "base/msgpack.h"
#include "store/schema.h"

namespace syncline::sqlite {

namespace {

constexpr std::int64_t kProgressEvery = 10'000;

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

// What is wrong with a stored body, "" where nothing is: it must be a map, in the one form that equal values have.
std::string body_fault(std::string_view body) {
  try {
    if (mp::Reader(body).peek() != mp::Kind::map) return "its body is no map";
    const mp::Border border{.code = Code::corrupt, .max_nesting = mp::kMaxNesting, .max_bytes = SIZE_MAX, .allow_dollar_keys = false};
    if (mp::canonicalise(body, border) != body) return "its body is not in canonical form";
  } catch (const Error& error) {
    return std::string("its body cannot be read: ") + error.what();
  }
  return {};
}

std::string name_fault(std::string_view name) {
  try {
    check_name(name, "it", Code::corrupt, true);
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

struct Scope {
  std::string name;
  Cursor head = 0, floor = 0, log_floor = 0;
};

// The columns of a log line that its document is held against.
struct Line {
  std::int64_t scope = 0, entity = 0;
  std::string id;
  std::int64_t op = 0, version = 0;
  Cursor previous = 0;
  std::int64_t ts = 0;
  std::string delta;
  std::uint64_t hash = 0;
};

class Check {
 public:
  Check(Connection& connection, const CheckHooks& hooks) : connection_(connection), hooks_(hooks) {}

  Checked run() {
    part("the file", [this] { file(); });
    part("the schema", [this] { schema(); });
    part("names and scopes", [this] { names(); });
    part("the epochs", [this] { epochs(); });
    part("the file", [this] {
      total_ = connection_.number("SELECT (SELECT count(*) FROM documents) + (SELECT count(*) FROM changelog)");
    });
    part("the log", [this] { range(); });
    part("the documents", [this] { documents(); });
    part("the keys", [this] { keys(); });
    part("the log", [this] { log(); });
    part("unlogged documents", [this] { unlogged(); });
    part("clients and results", [this] { clients(); });
    if (hooks_.progress) hooks_.progress(total_, total_);
    return checked_;
  }

 private:
  void found(std::string place, std::string what) { hooks_.found({std::move(place), std::move(what)}); }

  // A damaged page ends its part, not the check.
  template <class Part>
  void part(const char* name, const Part& body) {
    try {
      body();
    } catch (const Error& error) {
      found(name, std::string("cannot be read to its end: ") + error.what());
    }
  }
  Statement prepare(std::string_view sql) { return {connection_.handle(), sql, connection_.path(), false}; }
  void step() {
    if (hooks_.progress && ++done_ % kProgressEvery == 0) hooks_.progress(std::min(done_, total_), total_);
  }

  void file() {
    Statement lines = prepare("PRAGMA integrity_check(100)");
    while (lines.step()) {
      if (lines.text(0) != "ok") found("the file", std::string(lines.text(0)));
    }
  }

  void schema() {
    if (const std::int64_t version = connection_.number("PRAGMA user_version"); version != kSchemaVersion) {
      found("the schema", "it is version " + std::to_string(version) + ", not " + std::to_string(kSchemaVersion));
    }
    Connection fresh(":memory:", Mode::write);
    migrate(fresh);
    const auto read = [](Connection& from) {
      std::map<std::string, std::string> all;
      Statement rows(from.handle(), "SELECT type || ' ' || name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'",
                     from.path(), false);
      while (rows.step()) all.emplace(rows.text(0), rows.text(1));
      return all;
    };
    const auto wanted = read(fresh);
    const auto there = read(connection_);
    for (const auto& [name, sql] : wanted) {
      const auto at = there.find(name);
      if (at == there.end()) {
        found("the schema", "the " + name + " is missing");
      } else if (at->second != sql) {
        found("the schema", "the " + name + " is another than this version makes");
      }
    }
    for (const auto& [name, sql] : there) {
      if (!wanted.contains(name)) found("the schema", "the " + name + " is none of ours");
    }
  }

  void names() {
    if (const std::int64_t rows = connection_.number("SELECT count(*) FROM meta"); rows != 1) {
      found("meta", "it has " + std::to_string(rows) + " rows, not one");
    }
    head_ = connection_.number("SELECT head FROM meta");
    if (head_ < 0 || head_ > kMaxCursor) found("meta", "the head " + std::to_string(head_) + " is no cursor");
    Statement name = prepare("SELECT no, name FROM names");
    while (name.step()) {
      if (const std::string fault = name_fault(name.text(1)); !fault.empty()) found("name " + std::to_string(name.integer(0)), fault);
      names_.emplace(name.integer(0), name.text(1));
    }
    Statement row = prepare("SELECT no, name, head, floor, log_floor, log_swept FROM scopes");
    while (row.step()) {
      ++checked_.scopes;
      Scope& scope = scopes_[row.integer(0)];
      scope = {std::string(row.text(1)), row.integer(2), row.integer(3), row.integer(4)};
      const std::string place = "scope " + quoted(scope.name);
      if (row.integer(0) < 1 || row.integer(0) > kMaxScopeNumber) found(place, "its number " + std::to_string(row.integer(0)) + " is none");
      if (const std::string fault = name_fault(scope.name); !fault.empty()) found(place, fault);
      for (const auto& [what, value] : {std::pair("head", scope.head), {"floor", scope.floor}, {"log_floor", scope.log_floor},
                                        {"log_swept", row.integer(5)}}) {
        if (value < 0 || value > head_) {
          found(place, std::string("its ") + what + " is " + std::to_string(value) + ", and the database's head " + std::to_string(head_));
        }
      }
    }
  }

  void epochs() {
    Cursor last = 0;
    std::int64_t count = 0;
    Statement row = prepare("SELECT epoch, first FROM epochs ORDER BY no");
    while (row.step()) {
      ++count;
      const std::string place = "epoch " + quoted(row.text(0));
      if (row.text(0).empty()) found(place, "it has no name");
      if (row.integer(1) < std::max<Cursor>(last, 1)) {
        found(place, "it begins at cursor " + std::to_string(row.integer(1)) + ", before the epoch before it");
      }
      last = row.integer(1);
      if (last > head_ + 1) {
        found(place, "it begins at cursor " + std::to_string(last) + ", above the database's head " + std::to_string(head_));
      }
    }
    if (count == 0) found("the epochs", "there is none, though the database was written");
  }

  void range() {
    first_line_ = connection_.number("SELECT coalesce(min(cursor), 0) FROM changelog");
    const Cursor last = connection_.number("SELECT coalesce(max(cursor), 0) FROM changelog");
    if (last > head_) found("log line " + std::to_string(last), "it lies above the database's head " + std::to_string(head_));
    if (last - first_line_ < kMaxCursor) seen_.assign(static_cast<std::size_t>(last - first_line_ + 1), false);
  }

  std::string document_name(std::int64_t scope, std::int64_t entity, std::string_view id) const {
    const auto of_scope = scopes_.find(scope);
    const auto of_entity = names_.find(entity);
    return "(" + (of_scope != scopes_.end() ? of_scope->second.name : "scope number " + std::to_string(scope)) + ", " +
           (of_entity != names_.end() ? of_entity->second : "entity number " + std::to_string(entity)) + ", " + std::string(id) + ")";
  }

  void documents() {
    Statement row = prepare(
        "SELECT place, entity, id, version, updated_at, created, body, typeof(body), created_at FROM documents ORDER BY place");
    Statement key = prepare("SELECT cursor FROM keys WHERE scope = ?1 AND entity = ?2 AND id = ?3");
    Statement line = prepare("SELECT scope, entity, id, op, version, previous, ts, delta, hash FROM changelog WHERE cursor = ?1");
    while (row.step()) {
      step();
      ++checked_.documents;
      const std::int64_t scope = scope_of(row.integer(0));
      const Cursor cursor = cursor_of(row.integer(0));
      const std::int64_t entity = row.integer(1);
      const std::string id(row.text(2));
      const bool deleted = row.is_null(6);
      const std::string place = (deleted ? "tombstone " : "document ") + document_name(scope, entity, id);
      const auto at = scopes_.find(scope);
      if (at == scopes_.end()) found(place, "its scope has no row");
      if (!names_.contains(entity)) found(place, "its entity has no name");
      if (const std::string fault = name_fault(id); !fault.empty()) found(place, "its id: " + fault);
      if (cursor < 1 || cursor > head_) {
        found(place, "its cursor " + std::to_string(cursor) + " is above the database's head " + std::to_string(head_));
      }
      if (at != scopes_.end() && cursor > at->second.head) {
        found("scope " + quoted(at->second.name),
              "its head " + std::to_string(at->second.head) + " is below cursor " + std::to_string(cursor) + " of " + place);
      }
      if (row.integer(3) < 1) found(place, "its version is " + std::to_string(row.integer(3)));
      if (row.integer(5) < 1 || row.integer(5) > cursor) {
        found(place, "it was created at cursor " + std::to_string(row.integer(5)) + ", and is at " + std::to_string(cursor));
      }
      std::string body(row.blob(6));
      std::string fault;
      if (!deleted) fault = row.text(7) != "blob" || body.empty() ? "its body is no map" : body_fault(body);
      if (!fault.empty()) found(place, fault);

      key.bind(1, scope);
      key.bind(2, entity);
      key.bind_text(3, id);
      if (!key.step()) {
        found(place, "it has no key: nobody finds it by its id");
      } else if (key.integer(0) != cursor) {
        found(place, "its key names cursor " + std::to_string(key.integer(0)) + ", and it is at " + std::to_string(cursor));
      }
      key.reset();

      Newest newest{.version = row.integer(3), .updated_at = row.integer(4), .created = row.integer(5), .created_at = row.integer(8)};
      follow(line, place, {scope, entity, id}, cursor, newest, std::move(body), fault.empty());
    }
  }

  struct Newest {
    std::int64_t version, updated_at, created, created_at;
  };
  struct Key {
    std::int64_t scope, entity;
    std::string_view id;
  };

  static bool read(Statement& row, Cursor cursor, Line& line) {
    row.bind(1, cursor);
    const bool there = row.step();
    if (there) {
      line = {row.integer(0), row.integer(1), std::string(row.text(2)), row.integer(3),
              row.integer(4), row.integer(5), row.integer(6),           std::string(row.blob(7)),
              static_cast<std::uint64_t>(row.integer(8))};
    }
    row.reset();
    return there;
  }

  // From a document's newest line back to its first, each held against the body that it left.
  void follow(Statement& row, const std::string& document, const Key& key, Cursor newest, const Newest& expected, std::string body,
              bool readable) {
    const auto scope = scopes_.find(key.scope);
    const Cursor log_floor = scope != scopes_.end() ? scope->second.log_floor : head_;
    std::int64_t version = expected.version;
    bool created_known = false;
    for (Cursor at = newest; at != 0;) {
      Line line;
      const std::string place = "log line " + std::to_string(at) + " of " + document;
      if (!read(row, at, line)) {
        if (at > log_floor) found(place, "it is missing, and lies above the log_floor " + std::to_string(log_floor) + " of its scope");
        return;
      }
      ++checked_.versions;
      if (line.scope != key.scope || line.entity != key.entity || line.id != key.id) {
        found(place, "it is of another document: " + document_name(line.scope, line.entity, line.id));
        return;
      }
      if (const auto index = static_cast<std::size_t>(at - first_line_); index < seen_.size()) {
        if (seen_[index]) {
          found(place, "two lines, or two documents, lead to it");
          return;
        }
        seen_[index] = true;
      }
      if (line.version != version) found(place, "it says version " + std::to_string(line.version) + ", not " + std::to_string(version));
      version = line.version - 1;
      if (at == newest && line.ts != expected.updated_at) found(place, "its time is not that of its document's last change");
      const bool removes = line.op == static_cast<std::int64_t>(Op::remove);
      const bool creates = line.op == static_cast<std::int64_t>(Op::create);
      if (!removes && !creates && line.op != static_cast<std::int64_t>(Op::update)) {
        found(place, "its op is " + std::to_string(line.op) + ", none of create, update, delete");
        return;
      }
      if (readable && removes != body.empty()) {
        found(place, removes ? "it deletes what is there" : "it writes what is not there");
        return;
      }
      if (readable && !removes && mp::hash64(body) != line.hash) {
        found(place, "its hash is not that of version " + std::to_string(line.version) + " of the document");
        readable = false;
      }
      if (creates && !created_known) {
        created_known = true;
        if (expected.created != at || expected.created_at != line.ts) {
          found(document,
                "it says that it was created at cursor " + std::to_string(expected.created) + ", and its log at " + std::to_string(at));
        }
      }
      if (line.previous < 0 || line.previous >= at) {
        found(place, "it follows line " + std::to_string(line.previous) + ", which is not before it");
        return;
      }
      const bool erased = removes && line.delta.empty();
      if (line.previous == 0 && line.version != 1 && !erased) {
        found(place, "it is version " + std::to_string(line.version) + " and follows no line");
      }
      if (line.previous != 0 && erased) found(place, "it is an erasure, and still leads to line " + std::to_string(line.previous));
      if (erased) return;
      if (removes) {
        body = std::move(line.delta);
        readable = true;
        if (const std::string fault = body_fault(body); !fault.empty()) {
          found(place, "what it deleted: " + fault);
          readable = false;
        }
      } else if (creates) {
        body.clear();
        readable = true;
      } else if (readable) {
        try {
          body = delta::undo(body, line.delta);
        } catch (const Error& error) {
          found(place, std::string("its delta does not fit the document: ") + error.what());
          readable = false;
        }
      }
      at = line.previous;
    }
  }

  void keys() {
    Statement row = prepare(
        "SELECT k.scope, k.entity, k.id, k.cursor FROM keys k LEFT JOIN documents d ON d.place = (k.scope << 40 | k.cursor)"
        " WHERE d.place IS NULL OR d.entity <> k.entity OR d.id <> k.id");
    while (row.step()) {
      found("key " + document_name(row.integer(0), row.integer(1), row.text(2)),
            "there is no such document at cursor " + std::to_string(row.integer(3)));
    }
  }

  void log() {
    Statement row = prepare(
        "SELECT l.cursor, l.scope, l.entity, l.id, typeof(l.client) = 'integer' AND c.no IS NULL, l.mutation IS NOT NULL AND n.no IS NULL,"
        " l.client FROM changelog l LEFT JOIN clients c ON c.no = l.client LEFT JOIN names n ON n.no = l.mutation ORDER BY l.cursor");
    while (row.step()) {
      step();
      ++checked_.log_lines;
      const auto index = static_cast<std::size_t>(row.integer(0) - first_line_);
      const auto place = [&] {
        return "log line " + std::to_string(row.integer(0)) + " of " + document_name(row.integer(1), row.integer(2), row.text(3));
      };
      if (row.integer(0) < 1) found(place(), "its number is no cursor");
      if (index < seen_.size() && !seen_[index]) found(place(), "no document, and no later line, leads to it");
      if (row.integer(4) != 0) found(place(), "its client number " + std::to_string(row.integer(6)) + " has no row");
      if (row.integer(5) != 0) found(place(), "its mutation has no name");
    }
  }

  void unlogged() {
    Statement row = prepare(
        "SELECT u.scope, u.entity, u.id, u.body, k.cursor FROM unlogged u"
        " LEFT JOIN keys k ON k.scope = u.scope AND k.entity = u.entity AND k.id = u.id");
    while (row.step()) {
      ++checked_.unlogged;
      const std::string place = "unlogged document " + document_name(row.integer(0), row.integer(1), row.text(2));
      const auto scope = scopes_.find(row.integer(0));
      const auto entity = names_.find(row.integer(1));
      if (scope == scopes_.end()) found(place, "its scope has no row");
      if (entity == names_.end()) found(place, "its entity has no name");
      if (scope != scopes_.end() && entity != names_.end() && !scope->second.name.starts_with('_') && !entity->second.starts_with('_')) {
        found(place, "neither its scope nor its entity is reserved");
      }
      if (const std::string fault = body_fault(row.blob(3)); !fault.empty()) found(place, fault);
      if (!row.is_null(4)) found(place, "the same key is a logged document too");
    }
  }

  void clients() {
    Statement client = prepare("SELECT client_id, last_seq, settled FROM clients");
    while (client.step()) {
      ++checked_.clients;
      const std::string place = "client " + quoted(client.text(0));
      if (const std::string fault = name_fault(client.text(0)); !fault.empty()) found(place, fault);
      if (client.integer(2) < 0 || client.integer(1) < client.integer(2)) {
        found(place,
              "it has settled up to " + std::to_string(client.integer(2)) + ", and its last number is " + std::to_string(client.integer(1)));
      }
    }
    Statement row = prepare(
        "SELECT r.client, c.client_id, r.first_seq, r.last_seq, r.results, c.last_seq FROM results r LEFT JOIN clients c ON c.no = r.client"
        " ORDER BY r.client, r.last_seq");
    std::int64_t of = 0;
    std::int64_t before = 0;
    while (row.step()) {
      ++checked_.results;
      const std::int64_t first = row.integer(2);
      const std::int64_t last = row.integer(3);
      const std::string place = "results " + std::to_string(first) + " ... " + std::to_string(last) + " of " +
                                (row.is_null(1) ? "client number " + std::to_string(row.integer(0)) : "client " + quoted(row.text(1)));
      if (row.is_null(1)) {
        found(place, "the client has no row");
      } else if (last > row.integer(5)) {
        found(place, "the client's last number is " + std::to_string(row.integer(5)));
      }
      if (first < 1 || first > last) found(place, "they end before they begin");
      if (row.integer(0) == of && first <= before) found(place, "they overlap those before, which end at " + std::to_string(before));
      of = row.integer(0);
      before = last;
      if (!hooks_.results_fault) continue;
      if (const std::string fault = hooks_.results_fault({first, last, std::string(row.blob(4))}); !fault.empty()) found(place, fault);
    }
  }

  Connection& connection_;
  const CheckHooks& hooks_;
  Checked checked_;
  Cursor head_ = 0;
  Cursor first_line_ = 0;
  std::unordered_map<std::int64_t, std::string> names_;
  std::unordered_map<std::int64_t, Scope> scopes_;
  std::vector<bool> seen_;  // log lines that a document leads to, from first_line_ on
  std::int64_t done_ = 0, total_ = 0;
};

}  // namespace

Checked check(Connection& connection, const CheckHooks& hooks) { return Check(connection, hooks).run(); }

}  // namespace syncline::sqlite
