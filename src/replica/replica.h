// The client's half: confirmed documents, the queue of mutations that the server has not settled, and the optimistic view of both.
//
// What     A machine without network, threads and timers. It says what to send (`next_push`, `next_pull`, as whole msgpack bodies) and is
//          told what came back; whoever drives it decides when, so a test can run a hundred of them in one thread. What is refused,
//          lost, repeated or restored is decided here and nowhere else.
// Kept     In a store of its own. Confirmed documents lie under their scopes with the server's cursors and versions, without log lines.
//          All else is unlogged documents of the reserved scope "_replica":
//            identity  "self"                {client_id, next, settled, epoch}                  next: the number of the next mutation
//            queue     20 digits of a place  {seq, scope, name, args, ts, seed, result, ...}    places rise and outlive a new numbering
//            scope     its name              {cursor, epoch, open, ...}
//            refused   20 digits of a place  {client_id, seq, scope, name, args, ts, code, message, at}
//          (records.h and queue.h have them in full). The pages of a pull that has not ended are staged as documents of "_replica/<scope>".
// View     confirmed + the replay of what is queued for the scope, in order, skipping what is refused or at or below the `last_seq` of the
//          scope's last applied pull. It is kept in memory as the documents that the replay touched.
// Durable  `mutate` returns when its effect is visible; `flush` puts it on the disk. Nothing leaves (`next_push` flushes first) and no event
//          is told before it is there.
// Owner    the application, through the bindings.
// Threads  any: one lock inside, held while mutators run. A mutator that calls its own replica gets Error(usage). Never call it with the
//          GIL held.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/mutation.h"
#include "engine/select.h"
#include "store/store.h"

namespace syncline::replica {

// A position in the queue: 1, 2, 3, ... in the order of the calls, never reused, the same after a new client id. 0: none.
using Place = std::int64_t;

struct ReplicaOptions {
  std::string user;                  // what `tx.user` says here; empty: none
  std::string client_id;             // of a new file; empty: a random one
  std::int64_t max_tries = 50;       // a mutation that the server says `unavailable` to so often is voided
  std::int64_t max_batch = 1000;     // mutations a push; the server's own limit holds as well
  std::int64_t max_batch_bytes = 1 << 20;
  std::int64_t max_pending = 100'000;  // in the queue; more are refused with rate_limited
  std::int64_t max_refused = 1000;     // kept; the oldest go
  Limits limits;                     // until the server told its own
  std::shared_ptr<Clock> clock;      // null: the system's
  std::shared_ptr<Entropy> entropy;  // null: the system's
};

// A request to be sent: POST `path` with `body` as application/msgpack. Its answer counts only while it is the outstanding one.
struct Outgoing {
  std::uint64_t request = 0;
  std::string path;  // "/_sync/push", "/_sync/pull"
  std::string scope; // of a pull
  std::string body;
  std::int64_t mutations = 0;  // in a push
};

// What an answer came to: what the driver does next.
struct Answered {
  enum class Next : std::uint8_t {
    done,             // as it should be; ask next_push / next_pull whether there is more
    ignored,          // not the outstanding request
    wait,             // again after a backoff: unavailable, rate_limited, a 5xx, an answer that is none
    unauthenticated,  // refresh the token, then again
    failed,           // the server refuses what this client says, and will again: `code` and `message` say what; wait long
  };
  Next next = Next::done;
  std::string code, message;
  std::int64_t retry_after = 0;  // seconds, of the answer; 0: it did not say
};

// What became visible, or was learned, and is on the disk.
struct Event {
  enum class Kind : std::uint8_t {
    changed,   // a document of the view: `before` and `after`, empty where there is none
    refused,   // the mutation at `place`, by the server: `code`, `message`
    opened,    // the scope has its first (or, after `closed`, its next) documents
    closed,    // the scope may not be read any more; its documents are forgotten (each as `changed` before)
    restored,  // the server came back from a backup (a new epoch that does not know our cursor): everything is pulled anew
    renamed,   // a new client id: `message` says why
  };
  Kind kind = Kind::changed;
  std::string scope, entity, id, before, after;
  Place place = 0;
  std::string code, message;
};

// A mutation that the server has not settled.
struct Pending {
  Place place = 0;
  std::int64_t seq = 0;
  std::string scope, name, args;
  std::int64_t ts = 0;
  std::int64_t tries = 0;  // how often the server said `unavailable` to it
  bool durable = false, sent = false;
  bool voided = false;     // it goes as a void: only its number is left
  bool confirmed = false;  // its effect is in the confirmed documents
};

// A mutation that was refused, or given up: kept until it is taken out.
struct Refused {
  Place place = 0;
  std::string client_id;
  std::int64_t seq = 0;
  std::string scope, name, args;
  std::int64_t ts = 0, at = 0;
  std::string code, message;
};

struct ScopeState {
  std::string name;
  Cursor cursor = 0;
  std::string epoch;
  bool open = true;     // false: the server said forbidden
  bool loaded = false;  // it had a whole pull
  bool pulling = false;
  std::int64_t staged_pages = 0;
};

struct ReplicaStatus {
  std::string client_id, epoch;
  std::int64_t pending = 0, unsent = 0, unflushed = 0, refused = 0, documents_touched = 0;  // the last: by the replay
  std::uint64_t rebases = 0, replayed = 0, pulled = 0;
  bool identified = false;  // it has learned its last_seq since it was opened
};

// A look at one scope. `confirmed`: without the pending mutations. One thread at a time; keep it short: `close` waits for its end.
class ReplicaView {
 public:
  virtual ~ReplicaView() = default;
  virtual std::optional<std::string> get(std::string_view entity, std::string_view id) = 0;
  virtual std::int64_t version(std::string_view entity, std::string_view id) = 0;
  virtual std::vector<Row> scan(std::string_view entity, std::string_view prefix, std::int64_t limit) = 0;
  virtual std::vector<Row> find(std::string_view entity, const FindOptions& options) = 0;
};

// What `mutate` throws when the mutator refuses, or fails: `refusal` has its own code.
class MutationRefused : public Error {
 public:
  MutationRefused(Code code, Refusal why) : Error(code, why.message, why.details), refusal(std::move(why)) {}
  Refusal refusal;
};

class Replica {
 public:
  // Reads what is kept. `host` runs the mutators, at once and in replays, and must outlive it. Error(foreign_file): an engine's
  // database; (corrupt). That another process has the file is the store's to refuse (locked).
  Replica(std::unique_ptr<Store> store, MutatorHost& host, ReplicaOptions options);
  ~Replica();  // as close()
  Replica(const Replica&) = delete;
  Replica& operator=(const Replica&) = delete;

  // -- scopes
  void join(const std::string& scope);   // nothing if it is joined
  // Forgets its documents and staging, without `changed` events; its unanswered mutations stay. Error(invalid_scope): not joined.
  void leave(const std::string& scope);
  [[nodiscard]] std::vector<ScopeState> scopes();

  // -- the application's side
  // Runs the mutator on the view. What it refuses is thrown, and nothing is queued. Error(too_large): larger than the server takes.
  Place mutate(const std::string& scope, const std::string& name, std::string args);
  bool flush();                           // false: all was durable already
  [[nodiscard]] bool unflushed();
  bool discard(Place place);              // voids it and takes its effect back; false: it is settled or void already
  [[nodiscard]] std::vector<Pending> pending();
  [[nodiscard]] std::vector<Refused> refused();
  bool forget_refused(Place place);
  std::unique_ptr<ReplicaView> view(const std::string& scope, bool confirmed);  // Error(invalid_scope): not joined
  std::vector<Event> take_events(std::size_t most = SIZE_MAX);                  // durable ones, in order, each once
  // Whether `changed` events are gathered; they are, until it says otherwise. Who tells nobody saves the time and the memory: they wait
  // here until they are taken.
  void tell_changes(bool wanted);
  [[nodiscard]] ReplicaStatus status();

  // -- the driver's side
  std::optional<Outgoing> next_push();  // none: nothing to send, one is outstanding, or `last_seq` is not known yet
  std::optional<Outgoing> next_pull(const std::string& scope);  // none: one is outstanding, or not joined
  Answered answer(std::uint64_t request, int status, std::string_view body);  // body: application/msgpack
  void lost(std::uint64_t request);     // no answer came, or none will be waited for
  // Whether the poke says something else than the scope has: then pull.
  [[nodiscard]] bool news(const std::string& scope, Cursor cursor, const std::string& epoch);
  void learn_limits(const Limits& limits);  // of the server's health answer

  void close();    // flushes; idempotent
  void abandon();  // as a crash: what was not flushed is gone. For tests

 private:
  struct State;
  class Guard;
  friend class StoreView;
  std::unique_ptr<State> state_;
};

}  // namespace syncline::replica
