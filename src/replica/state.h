// Everything a replica knows, and the rules that change it. The facade takes the lock; what is here runs under it.
//
// Order    What an answer says is worked out in memory, then committed; where a commit fails, documents, cursors and confirmations are as
//          they were, and what the server said of mutations is written with the next one.
// Owner    the replica. Threads  one at a time, under `mutex`.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "replica/overlay.h"
#include "replica/queue.h"
#include "replica/records.h"
#include "replica/replica.h"
#include "replica/wire.h"

namespace syncline::replica {

// A scope that is joined.
struct Slot {
  std::string name;
  ScopeRecord record;
  bool dirty = false;       // the record differs from the disk's
  bool wipe_stage = false;  // pages of a pull that was given up lie there
  bool resync = false;      // the next pull begins from 0
  std::uint64_t outstanding = 0;  // the request of its pull; 0: none
  Cursor asked_from = 0;
  bool asked_page = false;
  std::unique_ptr<Overlay> overlay;
  bool built = false;  // the overlay holds the replay
};

struct Sent {
  Place place = 0;
  std::int64_t seq = 0;
  bool as_void = false;
};

// Says what any refused request means where the rules say nothing more of it.
Answered what_now(int status, const ErrorAnswer& said);

struct Replica::State {
  State(std::unique_ptr<Store> given, MutatorHost& mutators, ReplicaOptions chosen);

  // -- what is kept, read and written
  void load();
  // One transaction: `more`, then all that changed here. Afterwards what waited to be told is.
  void commit(const std::function<void(WriteTx&)>& more);
  bool flush();
  [[nodiscard]] bool dirty() const;
  ReadTx& base();  // the confirmed documents as of the last commit

  // -- the optimistic view
  Slot* find(std::string_view scope);
  Slot& joined(const std::string& scope);  // Error(invalid_scope)
  void build(Slot& slot);
  [[nodiscard]] std::unique_ptr<Overlay> fresh_overlay(const Slot& slot) const;
  Outcome run(const Entry& entry, Overlay& overlay);
  void replay(const Slot& slot, Overlay& overlay);
  void use(Slot& slot, std::unique_ptr<Overlay> overlay);
  void rebase(Slot& slot);  // the documents are the same, the pending mutations are not
  void rebase(const std::set<std::string>& scopes);
  void tell_changed(const Slot& slot, std::string_view key, std::string before, std::string after, std::vector<Event>& into) const;

  // -- the queue's rules
  void learn(std::string_view epoch, const Slot* answering);
  void identify(std::int64_t last_seq);
  void forget_fates();
  void settle();
  void number_later(const std::function<bool(const Entry&)>& chosen);
  void activate_successor();
  void take_new_identity(const std::string& why);
  void abandon_requests(const Slot* answering);
  void drop_stage(Slot& slot);
  void give_up(Entry& entry, std::string code, std::string message);
  void tell_refused(const Entry& entry, const std::string& code, const std::string& message);
  [[nodiscard]] std::string new_client_id();
  // Numbers a request, never as another of this process: an answer to a replica that crashed means nothing to the next on its file.
  static std::uint64_t new_request() noexcept;

  // -- requests and answers
  std::optional<Outgoing> next_push();
  std::optional<Outgoing> next_pull(Slot& slot);
  Answered answer(std::uint64_t request, int status, std::string_view body);
  Answered pushed(int status, std::string_view body, const std::vector<Sent>& sent);
  Answered pulled(Slot& slot, int status, std::string_view body);
  Answered asked(int status, std::string_view body);
  void take_results(const PushAnswer& answer, const std::vector<Sent>& sent, Answered& told);
  void stage(Slot& slot, const PullAnswer& answer);
  void apply(Slot& slot, const PullAnswer& answer);
  void close_scope(Slot& slot);

  std::mutex mutex;
  std::atomic<std::thread::id> holder{};
  bool closed = false;
  pid_t pid;

  std::unique_ptr<Store> store;
  MutatorHost& host;
  ReplicaOptions options;
  Identity self;
  bool self_dirty = false;
  bool identified = false;
  bool fresh_id = false;         // made by this opening: no server knows it
  bool doubtful = false;         // what is numbered from `checked` to `opened_next` may have been another's number
  std::int64_t opened_next = 1;  // `next` when the file was opened
  Queue queue;
  std::map<std::string, std::unique_ptr<Slot>, std::less<>> slots;
  std::map<Place, Refused> refused;
  std::set<Place> refused_changed;  // written or removed with the next commit
  bool tell_changes = true;
  std::vector<Event> waiting;  // for the next commit
  std::deque<Event> ready;
  std::unique_ptr<ReadTx> base_tx;

  std::uint64_t push_request = 0;
  std::vector<Sent> push_sent;
  std::uint64_t question_request = 0;  // for last_seq, where no scope is open
  std::int64_t batch_cap = 0;          // after a 413; 0: none
  std::uint64_t rebases = 0, replayed = 0, pulled_changes = 0;
};

}  // namespace syncline::replica
