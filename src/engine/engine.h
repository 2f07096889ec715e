// The facade: one database, its commit queue, and everything that reads it.
//
// Owner    the application (through the bindings). Owns store, queue and pokes.
// Threads  any, unless a member says otherwise. Never call it with the GIL held. Every call after close() throws Error(closed), every call
//          in a forked child Error(usage).
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/clock.h"
#include "engine/commit_queue.h"
#include "engine/compaction.h"
#include "engine/dead_letters.h"
#include "engine/erase.h"
#include "engine/mutation.h"
#include "engine/positions.h"
#include "engine/tx.h"
#include "engine/upgrades.h"
#include "engine/verify.h"
#include "store/store.h"

namespace syncline {

// ------------------------------------------------------------------------------------------------------------- options

// Where a replica keeps what is its own; a file that has it is no engine's.
inline constexpr std::string_view kReplicaScope = "_replica";

struct Limits {
  std::int64_t max_body_bytes = 8 << 20;       // of a request
  std::int64_t max_mutations = 1000;           // a push
  std::int64_t max_page_bytes = 4 << 20;       // a page of a pull
  std::int64_t max_document_bytes = 1 << 20;   // encoded
  std::int64_t max_nesting = 64;
  std::int64_t max_snapshot_bytes = 64 << 20;
  std::int64_t keep_results = 1000;            // of a client that never says `settled`
};

struct EngineOptions {
  StoreOptions store;
  Limits limits;
  GroupLimits group;
  DeadLetterLimits dead_letters;
  Retention retention;
  std::shared_ptr<Clock> clock;      // null: the system's
  std::shared_ptr<Entropy> entropy;  // null: the system's
};

// --------------------------------------------------------------------------------------------------------------- push

// What running a mutator came to.
struct Outcome {
  enum class Kind : std::uint8_t {
    ok,
    refused,  // `refusal` is its result; the number is consumed
    retry,    // nothing is consumed; it and what follows of its client says `unavailable`
    abort,    // as retry, and nothing more of this push is run (KeyboardInterrupt and its like)
  };
  Kind kind = Kind::ok;
  Refusal refusal;
  std::shared_ptr<Failure> failure;  // refused because its code failed: leaves a dead letter
};

// The application's mutators. Implemented by the bindings. `run` is called in the push's turn, on the push's own thread, without any
// lock of the engine held; an Error it throws counts as refused with its wire code.
class MutatorHost {
 public:
  virtual ~MutatorHost() = default;
  virtual Outcome run(const Mutation& mutation, Tx& tx) = 0;
};

struct PushOptions {
  std::string user;                      // empty: none
  std::set<std::string> forbidden;       // scopes that authorisation refused; asked before, applied after deduplication
  bool require_client = true;            // false: backend code, whose mutations may come without client_id
};

struct PushJob {
  const PushRequest* request = nullptr;
  const PushOptions* options = nullptr;
  MutatorHost* host = nullptr;
  PushResult result;
  std::exception_ptr error;  // set instead of `result`: the push was refused whole
};

// --------------------------------------------------------------------------------------------------------- pull and view

struct PullRequest {
  std::string scope;
  Cursor cursor = 0;
  std::optional<std::string> epoch;  // required above cursor 0
  std::optional<std::string> page;   // the token of the page before
  std::optional<std::int64_t> limit; // changes a page, >= 1
  std::optional<std::string> client_id;
  std::optional<std::vector<std::string>> entities;  // none: all that are not reserved
  std::string user;                  // whose client_id it must be
};

struct PageEnd {
  Cursor cursor = 0;  // to keep: only when !has_more
  std::string epoch;
  bool has_more = false;
  std::string page;  // token, when has_more
  std::optional<std::int64_t> last_seq;  // when a client_id was given
};

// A change as a pull tells it.
struct ChangeView {
  Cursor cursor = 0;
  std::string_view scope, entity, id;
  Op op = Op::create;
  std::string_view data;  // empty for a delete
  std::int64_t version = 0, ts = 0;
};
using VisitChange = std::function<void(const ChangeView&)>;

struct SnapshotRequest {
  std::string scope;
  std::optional<std::string> client_id;
  std::string user;
};

struct Snapshot {
  struct Group {
    std::string entity;
    std::vector<Row> rows;
  };
  std::vector<Group> data;
  Cursor cursor = 0;
  std::string epoch;
  std::optional<std::int64_t> last_seq;
};

enum class Format : std::uint8_t { json, msgpack };

// A read-only view of one scope in one snapshot. One thread at a time. Holding it pins the snapshot: keep it short.
class View {
 public:
  View(std::unique_ptr<ReadTx> tx, std::string scope, std::shared_ptr<const Upgrader> upgrader = nullptr)
      : tx_(std::move(tx)), scope_(std::move(scope)), upgrader_(std::move(upgrader)) {}
  std::optional<std::string> get(std::string_view entity, std::string_view id);
  bool exists(std::string_view entity, std::string_view id);
  std::int64_t version(std::string_view entity, std::string_view id);
  std::vector<Row> scan(std::string_view entity, std::string_view prefix = {}, std::int64_t limit = -1);
  std::vector<Row> find(std::string_view entity, const FindOptions& options);
  [[nodiscard]] Cursor cursor();  // the database's head in this snapshot
  [[nodiscard]] const std::string& scope() const noexcept { return scope_; }
  void close() noexcept { tx_.reset(); }

 private:
  ReadTx& live();
  void visit_all(std::string_view entity, std::string_view prefix, const VisitRow& visit);
  std::unique_ptr<ReadTx> tx_;
  std::string scope_;
  std::shared_ptr<const Upgrader> upgrader_;  // null: nothing to upgrade
};

// --------------------------------------------------------------------------------------------------------------- poke

struct Poke {
  std::string scope;
  Cursor cursor = 0;
  std::string epoch;
};
// Called after each commit on the thread that led it, with no lock held; must not throw and must not wait.
using PokeListener = std::function<void(const std::vector<Poke>&)>;

// -------------------------------------------------------------------------------------------------------------- engine

struct EngineStats {
  std::uint64_t pushes = 0, mutations = 0, duplicates = 0, refused = 0, commits = 0, changes = 0, pulls = 0, pulled_changes = 0,
                snapshots = 0;
  std::size_t waiting = 0;
  Cursor head = 0;
};

// A row of a bulk load: a canonical msgpack map.
struct LoadRow {
  std::string_view id, body;
};

struct Loaded {
  std::int64_t created = 0, updated = 0, unchanged = 0;
  Cursor cursor = 0;  // of the last change; 0: nothing changed
};

// Backend code's own transaction: one Tx per scope, one commit. Bound to the thread that opened it.
class WriteSession {
 public:
  WriteSession(std::unique_ptr<CommitQueue::Session> session, const std::vector<std::string>& scopes, std::string user,
               std::uint64_t seed);
  ~WriteSession();  // rolls back unless commit() was said
  WriteSession(const WriteSession&) = delete;
  WriteSession& operator=(const WriteSession&) = delete;
  [[nodiscard]] const std::vector<std::shared_ptr<Tx>>& txs() const noexcept { return txs_; }
  // Commits. Returns what changed, over all scopes.
  std::vector<ChangeNote> commit();
  void rollback() noexcept;
  void adopt();  // the calling thread holds the write from now on (one that was acquired for an event loop)

 private:
  std::unique_ptr<CommitQueue::Session> session_;
  const std::vector<std::string> scopes_;
  const std::string user_;
  Random random_;
  std::vector<std::shared_ptr<Tx>> txs_;
};

class Engine {
 public:
  Engine(std::unique_ptr<Store> store, EngineOptions options);  // open for writing: appends an epoch
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Refused whole (thrown; nothing consumed): invalid_request, too_large, epoch_mismatch, forbidden (someone else's client id),
  // unavailable (storage), rate_limited, closed, usage. Otherwise one result per mutation. nullopt: withdrawn by the hook.
  std::optional<PushResult> push(const PushRequest& request, MutatorHost& host, const PushOptions& options, const WaitHook& hook = {});
  // Several pushes as one member of a group, in order: each gets its result or its error.
  void push_many(std::span<PushJob> jobs, const WaitHook& hook = {});

  std::unique_ptr<WriteSession> write(const std::vector<std::string>& scopes, const std::string& user, const WaitHook& hook = {});
  std::unique_ptr<View> read(const std::string& scope);
  // A consistent snapshot of the whole database, for what reads more than one scope. Holding it pins the snapshot: keep it short.
  std::unique_ptr<ReadTx> begin_read();

  // Puts rows (of different ids) in place as one commit, without mutators. Rows that are there already change nothing. nullopt:
  // withdrawn by the hook.
  std::optional<Loaded> load(const std::string& scope, const std::string& entity, std::span<const LoadRow> rows, const std::string& user,
                             const WaitHook& hook = {});

  // Unlogged documents of a reserved scope or entity, in order of id; an empty body removes.
  std::vector<Row> notes(const std::string& scope, const std::string& entity);
  bool put_note(const std::string& scope, const std::string& entity, const std::string& id, const std::string& body,
                const WaitHook& hook = {});  // false: withdrawn by the hook

  // Documents that it applies to are upgraded wherever they are read from now on; null: none is.
  void set_upgrader(std::shared_ptr<const Upgrader> upgrader);
  // Upgrades up to `at_most` documents of the scope that were written after `after`, in one commit.
  UpgradeStep upgrade_step(const std::string& scope, Cursor after, std::int64_t at_most);

  // Letters with a number above `after`, oldest first.
  std::vector<DeadLetter> dead_letters(std::int64_t after, std::int64_t limit);
  DeadLetterCounts dead_letter_counts();
  // Runs the letter's mutation again as backend code, with its args, user, ts and seed. Success removes the letter in the same commit;
  // a refusal is kept in it. Error(not_found). nullopt: withdrawn by the hook.
  std::optional<MutationResult> retry_dead_letter(std::int64_t id, MutatorHost& host, const WaitHook& hook = {});
  bool discard_dead_letter(std::int64_t id);  // false: there is none
  void prune_dead_letters(const DeadLetterLimits& limits);

  // Throw: invalid_scope, invalid_request, forbidden (client id), cursor_too_old, epoch_mismatch.
  PageEnd pull(const PullRequest& request, const VisitChange& visit);
  void pull_encoded(const PullRequest& request, Format format, Bytes& out);  // replaces `out` by the whole answer's body
  Snapshot snapshot(const SnapshotRequest& request);                    // too_large above the limit
  void snapshot_encoded(const SnapshotRequest& request, Format format, Bytes& out);  // as pull_encoded
  [[nodiscard]] Cursor cursor(const std::string& scope);  // of the scope's last commit; 0: none yet

  // What keeps the database bounded: rounds in the background, and by demand. Error(read_only) where it is.
  Compactor& compactor();
  std::vector<Position> positions(const std::string& scope = {});  // of every scope where it is empty
  std::optional<Position> position(ReadTx& tx, std::string_view client_id, std::string_view scope);
  Erased erase(const EraseRequest& request, const WaitHook& hook = {});
  Report verify(const VerifyProgress& progress = {});
  // Purges tombstones with their lines, and log lines, up to `through` and older than `min_age` microseconds, whatever is held, in
  // steps of `step` rows. For tests: `compactor()` keeps the rules.
  Applied purge(Cursor through, std::int64_t min_age, std::int64_t step = 1000);

  void set_poke_listener(PokeListener listener);  // empty: none
  void backup(const std::string& path, const std::function<void(std::int64_t, std::int64_t)>& progress);
  [[nodiscard]] EngineStats stats();
  [[nodiscard]] StoreCounts counts();
  [[nodiscard]] StoreInfo info();
  [[nodiscard]] Cursor head();
  [[nodiscard]] std::int64_t now() const { return clock_->now(); }  // the clock that stamps commits
  [[nodiscard]] const std::string& epoch() const noexcept { return epoch_; }
  [[nodiscard]] std::vector<EpochRow> epochs();
  [[nodiscard]] const Limits& limits() const noexcept { return options_.limits; }
  [[nodiscard]] bool read_only() const noexcept { return options_.store.read_only; }
  void check_not_writing() const;  // Error(usage) when this thread is inside a mutator or a write session
  void close();                    // idempotent; waits for what runs

 private:
  void check() const;
  void check_writable() const;
  CommitQueue::Group begin();
  void commit(CommitQueue::Group& group);
  void validate(const PushRequest& request, const PushOptions& options) const;
  PushResult run_push(WriteSet& set, const PushRequest& request, MutatorHost& host, const PushOptions& options);
  Outcome decide(WriteSet& set, const Mutation& mutation, MutatorHost& host, const PushOptions& options);
  void bury(WriteSet& set, const Mutation& mutation, const std::string& user, const Failure& failure);
  template <class Sink>
  PageEnd pull_into(const PullRequest& request, Sink& sink);
  // The epochs as of `tx`; `read` holds them where another process may have added one.
  const std::vector<EpochRow>& lineage(ReadTx& tx, std::vector<EpochRow>& read) const;
  std::optional<std::int64_t> last_seq(ReadTx& tx, const std::optional<std::string>& client_id, const std::string& user) const;

  std::unique_ptr<Store> store_;
  EngineOptions options_;
  std::shared_ptr<Clock> clock_;
  std::shared_ptr<Entropy> entropy_;
  std::vector<EpochRow> epochs_;  // as of the opening: fixed for a writer's tenure
  std::string epoch_;
  pid_t pid_;
  std::atomic<bool> closed_{false};
  std::unique_ptr<CommitQueue> queue_;
  [[nodiscard]] std::shared_ptr<const Upgrader> upgrader() const;

  mutable std::mutex listener_mutex_;
  std::shared_ptr<const Upgrader> upgrader_;  // guarded by it
  std::atomic<bool> upgrading_{false};        // whether there is one
  Positions positions_;
  std::shared_ptr<const PokeListener> listener_;
  struct Counters {
    std::atomic<std::uint64_t> pushes{0}, mutations{0}, duplicates{0}, refused{0}, commits{0}, changes{0}, pulls{0}, pulled_changes{0},
        snapshots{0};
  } counters_;
  std::unique_ptr<Compactor> compactor_;  // none where it is read-only
};

}  // namespace syncline
