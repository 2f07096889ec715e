// History: the changelog as lines, one document's versions, any scope as it stood at a cursor.
//
// What     `LogReader` streams log lines, `VersionReader` walks one document back from now to where its history begins, `Past` reads
//          scopes as they were. All of it is the changelog: an update is undone by its delta, a deletion by the body it kept, and
//          every body met on the way is held against the hash of its line.
// Cost     of a version: one look-up and one undo. Of the past: what changed in that scope and entity since, and what is listed.
//          Measured in processor time through Python, documents of 200 B (benchmarks/history.py): 680,000 versions/s of a document
//          with 10,000 of them, 560,000 with each body decoded; 1.4 million log lines/s. The first ten documents as they were before
//          100 changes take 0.2 to 0.6 ms, before 1,000 changes 3 to 8 ms, of 1,000 documents and of 100,000; one document 10 us.
// Refusals Error(history_gone) where lines that it would take were purged or erased: never a guess; (corrupt) where a line is missing
//          above the scope's log_floor, does not fit or has another hash; (invalid_request) for what lies in the future;
//          (invalid_scope) for what is no scope. A scope that nobody wrote to is empty, now and in the past.
// Owner    the caller; each needs its engine to outlive it. No read transaction outlasts a call.
// Threads  readers: one at a time. `Past`: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "engine/engine.h"

namespace syncline {

// A place in the sequence: a cursor, or an instant by the server's clock, in microseconds.
struct Instant {
  std::int64_t microseconds = 0;
};
using Moment = std::variant<Cursor, Instant>;

// The cursor of the last line that is no later than `instant`; 0: there is none.
Cursor cursor_at(ReadTx& tx, std::int64_t instant);

// ---------------------------------------------------------------------------------------------------------------- log

struct LogRequest {
  Moment since = Cursor{0};       // lines after that cursor, or of that instant and later; 0: all that are kept
  std::optional<Moment> through;  // lines up to that cursor or instant; none: up to the head when the reading begins
  std::string scope{}, entity{}, id{}, client_id{};  // empty: any; what is reserved comes only to who names it
  bool newest_first = false;
  std::int64_t limit = -1;  // -1: all
};

class LogReader {
 public:
  // history_gone: lines after `since` are gone (never for 0).
  LogReader(Engine& engine, LogRequest request);

  // Reads the next lines, in a read transaction of their own. False: that was all. A call may visit none and yet say true.
  bool next(const VisitLogLine& visit);
  [[nodiscard]] Cursor through() const noexcept { return through_; }  // up to where it reads: ask from there for what comes later

 private:
  bool takes(const LogLineView& line) const;
  bool visit_one(const LogLineView& line, const VisitLogLine& visit);
  bool next_of_document(ReadTx& tx, const VisitLogLine& visit);
  bool next_of_range(ReadTx& tx, const VisitLogLine& visit);

  Engine& engine_;
  LogRequest request_;
  Cursor after_ = 0, through_ = 0;  // what was asked, as cursors
  Cursor low_ = 0, high_ = 0;       // what is not yet read of it
  std::int64_t left_;               // of the limit
  // Of one document: its lines, newest first, found when the reading begins.
  bool of_document_ = false;
  std::vector<Cursor> lines_;
  std::size_t at_ = 0;
  // Of this chunk.
  std::size_t chunk_ = 0, lines_left_ = 0, bytes_left_ = 0;
};

// ------------------------------------------------------------------------------------------------------------ versions

// One version of one document: its log line, and the body that it left.
struct VersionView {
  const LogLineView& line;
  std::string_view body{};  // canonical msgpack map; empty: this version is the deletion
};
using VisitVersion = std::function<bool(const VersionView&)>;

class VersionReader {
 public:
  // not_found: there is neither document nor tombstone. history_gone: there is, but not one line of it.
  VersionReader(Engine& engine, std::string scope, std::string entity, std::string id);

  // Reads up to `at_most` versions, newest first, in a read transaction of their own; stops early when `visit` says false. False:
  // that was all.
  bool next(std::size_t at_most, const VisitVersion& visit);
  // At the end: whether the oldest version it saw is the document's first. If not, what came before is gone.
  [[nodiscard]] bool complete() const noexcept { return complete_; }

 private:
  Engine& engine_;
  std::string scope_, entity_, id_;
  Cursor at_ = 0;            // the line to read next; 0: the end
  std::int64_t version_ = 0; // that it must be
  std::string body_;         // that it left; empty: deleted
  bool complete_ = false;
};

// The bodies that some lines left: for each of their documents one walk back from now, in one read transaction. In the order of
// `lines`; empty where the line is a deletion.
struct LineKey {
  std::string_view scope, entity, id;
  Cursor cursor = 0;
};
std::vector<std::string> bodies_of(Engine& engine, std::span<const LineKey> lines);

// ----------------------------------------------------------------------------------------------------------------- past

// Every scope as it was when the cursor was the head. Each call reads anew in a short transaction; what it says never changes, until
// it is compacted away.
class Past {
 public:
  Past(Engine& engine, const Moment& moment);

  std::optional<std::string> get(std::string_view scope, std::string_view entity, std::string_view id);
  std::int64_t version(std::string_view scope, std::string_view entity, std::string_view id);  // 0: absent
  std::vector<Row> scan(std::string_view scope, std::string_view entity, std::string_view prefix = {}, std::int64_t limit = -1);
  std::vector<Row> find(std::string_view scope, std::string_view entity, const FindOptions& options);
  [[nodiscard]] Cursor cursor() const noexcept { return cursor_; }

 private:
  struct State {
    std::string body;  // empty: absent
    std::int64_t version = 0;
  };
  std::unique_ptr<ReadTx> read(std::string_view scope);  // null: nobody ever wrote to it
  State state(std::string_view scope, std::string_view entity, std::string_view id);
  State undo(ReadTx& tx, std::string_view scope, const DocumentView& document) const;
  void visit_all(ReadTx& tx, std::string_view scope, std::string_view entity, std::string_view prefix, const VisitRow& visit) const;

  Engine& engine_;
  Cursor cursor_ = 0;
};

// -------------------------------------------------------------------------------------------------------------- explain

// What is known of a document and of a client that should have it.
struct Findings {
  enum class State : std::uint8_t { unknown, live, deleted };
  State state = State::unknown;
  std::int64_t version = 0, created_at = 0, updated_at = 0;
  Cursor cursor = 0, created = 0;
  bool has_line = false;  // the log still says who made the latest change
  std::string user, by_client, mutation;
  std::int64_t by_client_seq = 0;
  Cursor head = 0;                // of the database
  std::optional<ScopeRow> scope;  // none: nobody ever wrote to it
  std::optional<ClientRow> client;
  // Of the client's last kRecent mutations those that were refused, newest first, as far as their results are kept.
  struct Refused {
    std::int64_t client_seq = 0;
    std::string code, message;
  };
  static constexpr std::int64_t kRecent = 20;
  std::vector<Refused> refused;
  std::optional<Cursor> position;  // up to where the client is known to have the scope
  std::int64_t position_at = 0;    // when it was there
};
Findings find_out(Engine& engine, std::string_view scope, std::string_view entity, std::string_view id, std::string_view client_id);

}  // namespace syncline
