#include "engine/engine.h"

#include <unistd.h>

#include <array>
#include <cstdio>
#include <utility>

#include "base/ids.h"

namespace syncline {

namespace {

std::string new_epoch(Entropy& entropy) {
  std::array<char, 17> text{};
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(entropy.next()));
  return std::string(text.data());
}

// A replica's file knows no epoch of its own; as an engine it would number anew what another server has numbered.
void refuse_replica(ReadTx& tx, Store& store) {
  if (!tx.scope(kReplicaScope)) return;
  const std::string path = store.info().path;
  throw Error(Code::foreign_file, "'" + path + "' is a replica's file; open it with syncline.Replica, or give the engine a path of its own",
              {{"path", path}});
}

}  // namespace

Engine::Engine(std::unique_ptr<Store> store, EngineOptions options)
    : store_(std::move(store)),
      options_(std::move(options)),
      clock_(options_.clock ? options_.clock : system_clock()),
      entropy_(options_.entropy ? options_.entropy : system_entropy()),
      pid_(getpid()) {
  if (options_.store.read_only) {
    const std::unique_ptr<ReadTx> tx = store_->read();
    refuse_replica(*tx, *store_);
    epochs_ = tx->epochs();
  } else {
    const std::unique_ptr<WriteTx> tx = store_->write();
    refuse_replica(*tx, *store_);
    WriteBatch batch;
    batch.epochs.push_back({new_epoch(*entropy_), tx->head() + 1, clock_->now()});
    tx->apply(batch);
    epochs_ = tx->epochs();
    tx->commit();
  }
  if (epochs_.empty()) throw Error(Code::corrupt, "the database lists no epoch; it was never opened for writing");
  epoch_ = epochs_.back().epoch;
  queue_ = std::make_unique<CommitQueue>([this] { return begin(); }, [this](CommitQueue::Group& group) { commit(group); }, options_.group);
  if (options_.store.read_only) return;
  compactor_ = std::make_unique<Compactor>(*store_, *queue_, *clock_, positions_, counters_.pushes, counters_.commits, options_.retention,
                                           options_.dead_letters, options_.limits.keep_results);
  compactor_->start();
}

Engine::~Engine() {
  // A forked child must not touch what its parent has open.
  if (getpid() != pid_) {
    static_cast<void>(compactor_.release());
    static_cast<void>(queue_.release());
    static_cast<void>(store_.release());
    return;
  }
  close();
}

void Engine::check() const {
  if (getpid() != pid_) {
    throw Error(Code::usage, "this engine was opened before fork(); open one in each process (or use syncline.connect from the workers)");
  }
  if (closed_.load(std::memory_order_acquire)) throw Error(Code::closed, "the engine is closed");
}

void Engine::check_writable() const {
  check();
  if (options_.store.read_only) throw Error(Code::read_only, "the database was opened with read_only=True");
}

void Engine::close() {
  if (getpid() != pid_ || closed_.exchange(true)) return;
  if (compactor_) compactor_->stop();
  queue_->close();
  store_->close();
}

CommitQueue::Group Engine::begin() {
  CommitQueue::Group group;
  group.tx = store_->write();
  group.set =
      std::make_unique<WriteSet>(*group.tx, clock_->now(), static_cast<std::size_t>(options_.limits.max_document_bytes), upgrader());
  return group;
}

void Engine::commit(CommitQueue::Group& group) {
  group.set->flush(options_.limits.keep_results);
  group.tx->commit();
  group.tx.reset();
  counters_.commits.fetch_add(1, std::memory_order_relaxed);
  counters_.changes.fetch_add(group.set->changes(), std::memory_order_relaxed);

  if (group.set->touched_scopes().empty()) return;  // so the compactor's thread never holds a listener
  std::shared_ptr<const PokeListener> listener;
  {
    const std::scoped_lock lock(listener_mutex_);
    listener = listener_;
  }
  if (!listener) return;
  std::vector<Poke> pokes;
  for (const auto& [scope, cursor] : group.set->touched_scopes()) pokes.push_back({scope, cursor, epoch_});
  (*listener)(pokes);
}

std::optional<PushResult> Engine::push(const PushRequest& request, MutatorHost& host, const PushOptions& options, const WaitHook& hook) {
  check_writable();
  validate(request, options);
  counters_.pushes.fetch_add(1, std::memory_order_relaxed);
  PushResult result;
  if (!queue_->run([&](WriteSet& set) { result = run_push(set, request, host, options); }, hook)) return std::nullopt;
  return result;
}

void Engine::push_many(std::span<PushJob> jobs, const WaitHook& hook) {
  check_writable();
  const auto part = [&](WriteSet& set) {
    for (PushJob& job : jobs) {
      if (job.error) continue;
      try {
        job.result = run_push(set, *job.request, *job.host, *job.options);
      } catch (...) {
        set.drop();
        job.error = std::current_exception();
      }
    }
  };
  for (PushJob& job : jobs) {
    try {
      validate(*job.request, *job.options);
      counters_.pushes.fetch_add(1, std::memory_order_relaxed);
    } catch (const Error&) {
      job.error = std::current_exception();
    }
  }
  try {
    queue_->run(part, hook);
  } catch (const Error&) {
    // The group's commit failed: nothing of any of them was consumed.
    for (PushJob& job : jobs) {
      if (!job.error) job.error = std::current_exception();
    }
  }
}

std::unique_ptr<WriteSession> Engine::write(const std::vector<std::string>& scopes, const std::string& user, const WaitHook& hook) {
  check_writable();
  if (scopes.empty()) throw Error(Code::usage, "write needs at least one scope");
  for (const std::string& scope : scopes) check_name(scope, "scope", Code::invalid_scope);
  std::unique_ptr<CommitQueue::Session> session = queue_->session(hook);
  if (!session) return nullptr;
  return std::make_unique<WriteSession>(std::move(session), scopes, user, entropy_->next());
}

WriteSession::WriteSession(std::unique_ptr<CommitQueue::Session> session, const std::vector<std::string>& scopes, std::string user,
                           std::uint64_t seed)
    : session_(std::move(session)), scopes_(scopes), user_(std::move(user)), random_(seed) {
  WriteSet& set = session_->set();
  for (const std::string& scope : scopes_) txs_.push_back(std::make_shared<Tx>(set, scope, std::string_view(), user_, set.now(), random_));
}

WriteSession::~WriteSession() { rollback(); }

void WriteSession::adopt() {
  if (session_) session_->adopt();
}

std::vector<ChangeNote> WriteSession::commit() {
  if (!session_) throw Error(Code::closed, "this write is finished");
  for (const std::shared_ptr<Tx>& tx : txs_) tx->end();
  const std::unique_ptr<CommitQueue::Session> session = std::move(session_);
  WriteSet& set = session->set();
  if (!set.dirty()) return {};  // backend code has no sequence to move: nothing to commit
  Cursor cursor = 0;
  std::vector<ChangeNote> notes = set.merge({.client_id = {}, .user = user_, .mutation = {}, .client_seq = 0, .mutation_ts = set.now()}, cursor);
  session->commit();
  return notes;
}

void WriteSession::rollback() noexcept {
  for (const std::shared_ptr<Tx>& tx : txs_) tx->end();
  session_.reset();
}

Compactor& Engine::compactor() {
  check_writable();
  return *compactor_;
}

std::vector<Position> Engine::positions(const std::string& scope) {
  check();
  if (!scope.empty()) check_name(scope, "scope", Code::invalid_scope);
  const std::unique_ptr<ReadTx> tx = store_->read();
  return positions_.all(*tx, scope);
}

std::optional<Position> Engine::position(ReadTx& tx, std::string_view client_id, std::string_view scope) {
  return positions_.find(tx, client_id, scope);
}

Report Engine::verify(const VerifyProgress& progress) {
  check();
  return syncline::verify(*store_, progress);
}

Applied Engine::purge(Cursor through, std::int64_t min_age, std::int64_t step) {
  check_writable();
  const Cursor cut = std::min(through, last_before(*store_->read(), clock_->now() - min_age));
  Applied total;
  for (;;) {
    // A group of its own: no write set has read the rows that go.
    const std::unique_ptr<CommitQueue::Session> session = queue_->session({});
    WriteBatch batch;
    batch.purges.push_back({.scope = {}, .tombstones_through = cut, .log_through = cut, .at_most = step});
    const Applied gone = session->set().tx().apply(batch);
    if (gone.purged_tombstones == 0 && gone.purged_log_lines == 0) break;
    session->commit();
    total.purged_tombstones += gone.purged_tombstones;
    total.purged_log_lines += gone.purged_log_lines;
  }
  return total;
}

void Engine::set_poke_listener(PokeListener listener) {
  const std::scoped_lock lock(listener_mutex_);
  listener_ = listener ? std::make_shared<const PokeListener>(std::move(listener)) : nullptr;
}

void Engine::backup(const std::string& path, const std::function<void(std::int64_t, std::int64_t)>& progress) {
  check();
  store_->backup(path, progress);
}

EngineStats Engine::stats() {
  check();
  const auto read = [](const std::atomic<std::uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  EngineStats stats;
  stats.pushes = read(counters_.pushes);
  stats.mutations = read(counters_.mutations);
  stats.duplicates = read(counters_.duplicates);
  stats.refused = read(counters_.refused);
  stats.commits = read(counters_.commits);
  stats.changes = read(counters_.changes);
  stats.pulls = read(counters_.pulls);
  stats.pulled_changes = read(counters_.pulled_changes);
  stats.snapshots = read(counters_.snapshots);
  stats.waiting = queue_->waiting();
  stats.head = head();
  return stats;
}

StoreCounts Engine::counts() {
  check();
  return store_->read()->counts();
}

StoreInfo Engine::info() {
  check();
  return store_->info();
}

Cursor Engine::head() {
  check();
  return store_->read()->head();
}

std::vector<EpochRow> Engine::epochs() {
  check();
  return store_->read()->epochs();
}

void Engine::check_not_writing() const { queue_->check_not_inside(); }

}  // namespace syncline
