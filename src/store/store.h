// The only storage seam: what the engine may ask of a database, and nothing of how it is done.
//
// What     `Store` opens snapshots (`ReadTx`) and the database-wide right to write (`WriteTx`); a `WriteBatch` is plain data
//          that one `apply` puts in place. It knows documents, log lines, clients with their results, scopes, epochs and index
//          entries, nothing else.
// Owner    an engine owns its store; the store owns its connections; a transaction borrows one and gives it back.
// Threads  `Store`: any. `ReadTx`: one thread at a time. `WriteTx`: one thread at a time, which may be another one each time
//          (the members of a commit group hand it on); the hand-over is the caller's to order.
// Views    a string_view in a row handed to a visitor lives until the visitor returns; in a row that is returned by value there
//          are none. Views in a WriteBatch must live until `apply` returns.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace syncline {

// A position in the database's one sequence of changes: 1 ... 2^40-1, strictly increasing in commit order, never reused; 0 is
// "before everything".
using Cursor = std::int64_t;
inline constexpr Cursor kMaxCursor = (Cursor{1} << 40) - 1;

enum class Op : std::uint8_t { create = 1, update = 2, remove = 3 };
std::string_view op_name(Op op) noexcept;  // "create", "update", "delete"

struct DocumentKey {
  std::string_view scope{}, entity{}, id{};
};

// A document as it is stored, or the tombstone it left (deleted, no body).
struct DocumentView {
  std::string_view entity{}, id{};
  std::string_view body{};  // canonical msgpack map; empty for a tombstone
  bool deleted = false;
  std::int64_t version = 0;     // 1 for the first; goes on over deletion while the tombstone stands
  std::int64_t created_at = 0;  // microseconds since 1970
  std::int64_t updated_at = 0;
  Cursor cursor = 0;   // of its latest change
  Cursor created = 0;  // of the change that (last) created it
};

// One line of the changelog: what one mutation did to one document.
struct LogLineView {
  Cursor cursor = 0;
  std::string_view scope{}, entity{}, id{};
  Op op = Op::create;
  std::int64_t version = 0;
  Cursor previous = 0;          // of this document's previous line; 0: none
  std::int64_t ts = 0;          // server's clock, microseconds
  std::string_view client_id{};   // empty: backend code
  std::int64_t client_seq = 0;    // of backend code: the cursor its mutation begins at, so that this and client_id tell mutations apart
  std::string_view user{};        // empty: none
  std::string_view mutation{};    // the mutator's name; empty: a direct write
  std::int64_t mutation_ts = 0; // the client's clock, microseconds
  std::string_view delta{};       // create: empty; update: delta; delete: the old body
  std::uint64_t hash = 0;       // XXH3-64 of the resulting body; 0 for a delete
};

struct ClientRow {
  std::string client_id{}, owner{};
  std::int64_t last_seq = 0;
  std::int64_t settled = 0;
  std::int64_t seen_at = 0;  // of its last push, microseconds
};

// The results of one push of one client: what one (client, push) has stored, in the engine's own encoding.
struct ResultRow {
  std::int64_t first_seq = 0, last_seq = 0;
  std::string results{};
};

struct ScopeRow {
  std::string name{};
  Cursor head = 0;       // of the last commit that touched it
  Cursor floor = 0;      // highest cursor of a tombstone that was purged in it
  Cursor log_floor = 0;  // highest cursor of a log line that was purged in it
};

struct EpochRow {
  std::string epoch{};
  Cursor first = 0;  // the first cursor of its tenure
  std::int64_t opened_at = 0;
};

struct LogRange {
  Cursor after = 0;
  Cursor through = kMaxCursor;
  std::string_view scope{}, entity{}, id{};  // empty: any
  std::string_view client_id{};          // empty: any
  bool newest_first = false;
};

struct StoreCounts {
  std::int64_t documents = 0, tombstones = 0, unlogged = 0, log_lines = 0, clients = 0, results = 0, scopes = 0;
};

struct StoreInfo {
  std::string kind;     // "sqlite"
  std::string version;  // of the database library
  std::string path;
  std::int64_t bytes = 0, wal_bytes = 0, free_disk_bytes = 0;
  int schema_version = 0;
};

// A document outside the sequence: no cursor, no log line, no tombstone, in no pull (heartbeats, positions, counters). Reserved
// scopes or entities only; the same key is never both this and a document.
struct UnloggedView {
  std::string_view entity{}, id{};
  std::string_view body{};  // canonical msgpack map
  std::int64_t updated_at = 0;
};

using VisitDocument = std::function<bool(const DocumentView&)>;  // false: stop
// True: done with it; false: it is for the visitor. Called within the database library: must neither throw, nor wait, nor take a lock.
using TakeDocument = std::function<bool(const DocumentView&)>;
using VisitLogLine = std::function<bool(const LogLineView&)>;
using VisitUnlogged = std::function<bool(const UnloggedView&)>;
using VisitScope = std::function<bool(const ScopeRow&)>;
using VisitClient = std::function<bool(const ClientRow&)>;

// The first tombstone of a scope.
struct OldestTombstone {
  std::string_view scope{};
  Cursor cursor = 0;
  std::int64_t updated_at = 0;
};
using VisitOldest = std::function<bool(const OldestTombstone&)>;
using VisitAge = std::function<bool(std::string_view id, std::int64_t updated_at)>;
// Called once per key, in any order; nullptr: there is neither document nor tombstone.
using VisitFound = std::function<void(std::size_t index, const DocumentView* found)>;

// A consistent snapshot. Destroying it gives the connection back.
class ReadTx {
 public:
  virtual ~ReadTx() = default;
  ReadTx() = default;
  ReadTx(const ReadTx&) = delete;
  ReadTx& operator=(const ReadTx&) = delete;

  virtual Cursor head() = 0;  // of the database, in this snapshot
  virtual void documents(std::span<const DocumentKey> keys, const VisitFound& visit) = 0;
  // Live documents of one entity whose id begins with `prefix` and is greater than `after_id`, in byte order of id.
  virtual void scan(std::string_view scope, std::string_view entity, std::string_view prefix, std::string_view after_id,
                    const VisitDocument& visit) = 0;
  // Documents and tombstones of a scope with cursor > after, in cursor order. With `live_only` the tombstones are left out.
  // What `take` takes does not come to `visit`: a fifth of a row's cost is its way to a visitor that may do anything.
  virtual void changed(std::string_view scope, Cursor after, bool live_only, const VisitDocument& visit, const TakeDocument& take = {}) = 0;
  virtual void log(const LogRange& range, const VisitLogLine& visit) = 0;
  // The line at `newest`, then its document's line before it, and so on until `visit` says false. Returns the cursor of a line
  // that is not there; 0: it stopped where it was told to, or at a line that names no previous one.
  virtual Cursor trace(Cursor newest, const VisitLogLine& visit) = 0;
  virtual Cursor log_floor() = 0;  // the highest of all scopes that are not reserved
  // Unlogged documents of one entity whose id begins with `prefix` and is greater than `after_id`, in byte order of id.
  virtual void unlogged(std::string_view scope, std::string_view entity, std::string_view prefix, std::string_view after_id,
                        const VisitUnlogged& visit) = 0;
  // As `unlogged`, all of an entity, without reading the bodies.
  virtual void unlogged_ages(std::string_view scope, std::string_view entity, const VisitAge& visit) = 0;
  // The first tombstone of each scope that has one; one look-up a scope. Scopes come in the store's own order, those up to and with
  // `after_scope` (a name it gave before; empty: none) left out.
  virtual void oldest_tombstones(std::string_view after_scope, const VisitOldest& visit) = 0;
  // Clients with results that may be forgotten: of those up to `settled`, or, of one that never said so, all but its last `keep`.
  virtual void overfull_clients(std::int64_t keep, const VisitClient& visit) = 0;
  virtual std::optional<ClientRow> client(std::string_view client_id) = 0;
  virtual std::optional<ResultRow> result(std::string_view client_id, std::int64_t client_seq) = 0;  // the row that covers it
  virtual std::optional<ScopeRow> scope(std::string_view name) = 0;
  virtual void scopes(const VisitScope& visit) = 0;  // in order of name
  virtual std::vector<EpochRow> epochs() = 0;        // oldest first
  virtual StoreCounts counts() = 0;                  // exact; costs a scan of the keys
};

inline constexpr Cursor kFindRow = -1;

struct PutDocument {
  std::string_view scope{}, entity{}, id{};
  Cursor previous = 0;  // the cursor its row has now; 0: it has no row; kFindRow: whatever row it has is replaced
  Cursor cursor = 0;
  Cursor created = 0;
  std::int64_t version = 0, created_at = 0, updated_at = 0;
  std::string_view body{};  // empty and `deleted`: the tombstone
  bool deleted = false;
  Cursor claimed = 0;  // what `claim` was given for it, where that said `made`
};

struct PutUnlogged {
  std::string_view scope{}, entity{}, id{};
  std::string_view body{};  // empty: it goes
  std::int64_t updated_at = 0;
};

struct PutClient {
  std::string_view client_id{}, owner{};
  std::int64_t last_seq = 0, settled = 0, seen_at = 0;
  bool fresh = false;  // it has no row yet
  // The results to add: one row of `first_seq ... last_result_seq`; none where `results` is empty.
  std::int64_t first_seq = 0, last_result_seq = 0;
  std::string_view results{};
  std::int64_t forget_through = 0;  // result rows that end at or below are dropped
};

struct PutScope {
  std::string_view name{};
  Cursor head = 0;
};

// Tombstones of `scope` with cursor <= tombstones_through go, each with all of its log lines; and log lines of any document with
// cursor <= log_through go. floor and log_floor rise to what went, in the same transaction. Below log_floor single lines may remain.
struct Purge {
  std::string_view scope{};  // empty: every scope (one pass over the log, where one scope's purge walks past the others' lines)
  Cursor tombstones_through = 0;
  std::int64_t tombstones_before = INT64_MAX;  // and only those made before that time
  Cursor log_through = 0;
  std::int64_t at_most = 0;  // rows of each kind in this batch; 0: all. Repeat while anything was purged
};

// The documents of one name become those of the other.
struct SwapScopes {
  std::string_view one{}, other{};
};

struct WriteBatch {
  Cursor head = 0;  // the database's head after this batch; 0: unchanged
  std::vector<PutDocument> documents;
  std::vector<PutUnlogged> unlogged;
  std::vector<LogLineView> log;
  std::vector<PutClient> clients;
  std::vector<PutScope> scopes;
  std::vector<EpochRow> epochs;
  std::vector<Purge> purges;
  // Documents whose log lines go, before anything else of this batch is put in place; their rows stay, log_floor rises.
  std::vector<DocumentKey> forget_history;
  // As forget_history, but log_floor stays: what is left says itself that nothing is known before it. Of a live document no line is
  // left (the caller adds one that has no `previous`), of a tombstone its deletion without body and link.
  std::vector<DocumentKey> erase_history;
  // For who keeps a copy of another database's documents. What is forgotten leaves no tombstone and raises no floor; it has no log
  // lines. In this order, and before `documents`.
  std::vector<std::string_view> forget_scopes;  // all documents and tombstones of a scope; what is unlogged stays
  std::vector<SwapScopes> swap_scopes;          // costs the same however much they hold
  std::vector<DocumentKey> forget_documents;    // none is missed where there is none
};

struct Applied {
  std::int64_t purged_tombstones = 0, purged_log_lines = 0, forgotten_results = 0;  // the last: rows, one per client and push
};

enum class Claim : std::uint8_t {
  made,   // the key is in place; `apply` must be given the document, with `claimed`, before the commit
  free,   // there is no row, and nothing was done
  taken,  // there is a row, live or a tombstone
};

// The database-wide right to write. Reads see what was applied. Destroying it without commit() rolls back.
class WriteTx : public ReadTx {
 public:
  virtual Applied apply(const WriteBatch& batch) = 0;
  // Whether a document is new, of one that will surely be written and was not looked at: one walk through the keys where a look-up and
  // an insertion are two.
  virtual Claim claim(const DocumentKey& key, Cursor cursor) = 0;
  // Gives up to `pages` free pages back to the disk, but for a part of the file that is left for the writes to come: what is given back
  // and taken again is moved twice. Returns how many went.
  virtual std::int64_t give_back(std::int64_t pages) = 0;
  virtual void commit() = 0;  // durable as `durability` says when it returns; afterwards only destruction is allowed
};

// Something that is not as it must be, and where.
struct Problem {
  std::string place;  // "document (list:1, todo, 7)", "log line 17", "the file", ...
  std::string what;
};

struct CheckHooks {
  std::function<void(Problem)> found;
  std::function<std::string(const ResultRow&)> results_fault;  // of the engine's encoding; empty: none
  std::function<void(std::int64_t, std::int64_t)> progress;    // (done, total) in rows; may throw to end it
};

// How much was looked at.
struct Checked {
  std::int64_t documents = 0, versions = 0, log_lines = 0, unlogged = 0, clients = 0, results = 0, scopes = 0;
};

enum class Durability : std::uint8_t {
  full,    // an acknowledged commit survives power loss
  normal,  // it survives a crash of the process, not of the machine
};

struct StoreOptions {
  Durability durability = Durability::full;
  bool read_only = false;
  int max_readers = 16;  // pooled read connections; a further reader waits
  // Of the log of writes, at which they begin to be moved into the file. It takes up to twice that, or what a long reader needs. As the
  // same page is moved more often, random ids lose a quarter of their speed with 1,000 and a tenth with 4,000.
  int checkpoint_pages = 16000;
};

class Store {
 public:
  virtual ~Store() = default;
  Store() = default;
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  virtual std::unique_ptr<ReadTx> read() = 0;
  virtual std::unique_ptr<WriteTx> write() = 0;  // waits for the writer before; throws Error(read_only)
  // A consistent copy while reads and writes go on; `progress(done, total)` in pages. The target must not exist.
  virtual void backup(const std::string& path, const std::function<void(std::int64_t, std::int64_t)>& progress) = 0;
  // Looks at everything that is stored, in one snapshot.
  virtual Checked check(const CheckHooks& hooks) = 0;
  // Writes the file anew with nothing but what it holds, and empties the log of writes beside it: no free page and no old byte is left.
  // Writers wait for all of it. False: a reader still holds the old state, and with it the old bytes.
  virtual bool rewrite() = 0;
  virtual StoreInfo info() = 0;
  virtual void close() = 0;  // waits for open transactions; idempotent
};

}  // namespace syncline
