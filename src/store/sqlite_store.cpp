#include "store/sqlite_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>

#include "store/check.h"
#include "store/checkpointer.h"
#include "store/schema.h"
#include "store/sqlite_session.h"
#include "store/sqlite_writer.h"
#include "store/writer_lock.h"

namespace syncline {

namespace {

namespace fs = std::filesystem;
using sqlite::Mode;
using sqlite::Session;

constexpr const char* kMemory = ":memory:";

// Measured in CPU time, as in schema.cpp: pages of 8 KiB write sequential ids 1.2 times faster, random ones 1.15 times slower with
// twice the WAL. Memory mapping makes look-ups 1.3 times and scans no faster, and would turn an I/O error into a signal: left off.
constexpr int kPageSize = 4096;
constexpr int kWriterCacheKiB = 64 * 1024;
constexpr int kReaderCacheKiB = 4 * 1024;
constexpr int kRewriteWait = 250;  // milliseconds
constexpr std::int64_t kLeftFreePages = 1000;
constexpr int kBackupPages = 512;  // between two calls of `progress`
constexpr std::int64_t kFrameBytes = kPageSize + 24;  // of the WAL

// The folder of a ":memory:" store; goes with it.
class TemporaryFolder {
 public:
  TemporaryFolder() : path_((fs::temp_directory_path() / "syncline-XXXXXX").string()) {
    if (mkdtemp(path_.data()) == nullptr) {
      throw Error(Code::storage, "A temporary folder for ':memory:' cannot be made at '" + path_ + "': " + std::strerror(errno) +
                                     "; set TMPDIR to a folder that can be written");
    }
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (owner_ == getpid()) fs::remove_all(path_, ignored);
  }
  [[nodiscard]] std::string file() const { return path_ + "/memory.db"; }

 private:
  std::string path_;
  pid_t owner_ = getpid();
};

// The one path of a file, however it was named: two names of it must meet at one lock.
std::string canonical(const std::string& path) {
  if (path.empty() || path.find('\0') != std::string::npos) {
    throw Error(Code::storage, "A database needs the path of a file, or ':memory:'; this one is empty or has a zero byte");
  }
  std::error_code error;
  const fs::path resolved = fs::weakly_canonical(fs::absolute(path, error), error);
  if (error) throw Error(Code::storage, "'" + path + "' cannot be resolved: " + error.message(), {{"path", path}});
  if (fs::is_directory(resolved, error)) {
    throw Error(Code::storage, "'" + path + "' is a folder; give the path of a file in it", {{"path", path}});
  }
  if (!fs::is_directory(resolved.parent_path(), error)) {
    throw Error(Code::storage, "The folder '" + resolved.parent_path().string() + "' of the database does not exist; make it first",
                {{"path", path}});
  }
  return resolved.string();
}

// What tells one state of a file that "nobody writes" from another.
struct Fingerprint {
  std::int64_t bytes = -1, seconds = 0, nanoseconds = 0, wal_bytes = -1;
  friend bool operator==(const Fingerprint&, const Fingerprint&) = default;
};

std::int64_t size_of(const std::string& path) noexcept {
  struct stat file {};
  return stat(path.c_str(), &file) == 0 ? static_cast<std::int64_t>(file.st_size) : -1;
}

Fingerprint fingerprint_of(const std::string& path) noexcept {
  struct stat file {};
  Fingerprint found;
  if (stat(path.c_str(), &file) == 0) {
    found = {static_cast<std::int64_t>(file.st_size), static_cast<std::int64_t>(file.st_mtim.tv_sec),
             static_cast<std::int64_t>(file.st_mtim.tv_nsec), size_of(path + "-wal")};
  }
  return found;
}

// Makes a new name in a folder last.
void sync_folder(const std::string& folder) noexcept {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return;
  fsync(descriptor);
  close(descriptor);
}

class SqliteStore;

// The part of a transaction that is the same in both kinds.
template <class Tx>
class BorrowedTx : public Tx {
 public:
  BorrowedTx(SqliteStore& store, Session& session) noexcept : store_(store), session_(session) {}

  Cursor head() override { return open().head(); }
  void documents(std::span<const DocumentKey> keys, const VisitFound& visit) override { open().documents(keys, visit); }
  void scan(std::string_view scope, std::string_view entity, std::string_view prefix, std::string_view after_id,
            const VisitDocument& visit) override {
    open().scan(scope, entity, prefix, after_id, visit);
  }
  void changed(std::string_view scope, Cursor after, bool live_only, const VisitDocument& visit, const TakeDocument& take) override {
    open().changed(scope, after, live_only, visit, take);
  }
  void log(const LogRange& range, const VisitLogLine& visit) override { open().log(range, visit); }
  Cursor trace(Cursor newest, const VisitLogLine& visit) override { return open().trace(newest, visit); }
  Cursor log_floor() override { return open().log_floor(); }
  void unlogged(std::string_view scope, std::string_view entity, std::string_view prefix, std::string_view after_id,
                const VisitUnlogged& visit) override {
    open().unlogged(scope, entity, prefix, after_id, visit);
  }
  void unlogged_ages(std::string_view scope, std::string_view entity, const VisitAge& visit) override {
    open().unlogged_ages(scope, entity, visit);
  }
  void oldest_tombstones(std::string_view after_scope, const VisitOldest& visit) override { open().oldest_tombstones(after_scope, visit); }
  void overfull_clients(std::int64_t keep, const VisitClient& visit) override { open().overfull_clients(keep, visit); }
  std::optional<ClientRow> client(std::string_view client_id) override { return open().client(client_id); }
  std::optional<ResultRow> result(std::string_view client_id, std::int64_t client_seq) override {
    return open().result(client_id, client_seq);
  }
  std::optional<ScopeRow> scope(std::string_view name) override { return open().scope(name); }
  void scopes(const VisitScope& visit) override { open().scopes(visit); }
  std::vector<EpochRow> epochs() override { return open().epochs(); }
  StoreCounts counts() override { return open().counts(); }

 protected:
  // The session, while the transaction is one.
  Session& open() {
    if (over_) throw Error(Code::usage, "This transaction is over: it was committed, or one of its writes failed; begin another");
    return session_;
  }

  SqliteStore& store_;
  Session& session_;
  bool over_ = false;
};

class SqliteReadTx final : public BorrowedTx<ReadTx> {
 public:
  using BorrowedTx::BorrowedTx;
  ~SqliteReadTx() override;
  [[nodiscard]] Session& session() noexcept { return session_; }
};

class SqliteWriteTx final : public BorrowedTx<WriteTx> {
 public:
  using BorrowedTx::BorrowedTx;
  ~SqliteWriteTx() override;
  Applied apply(const WriteBatch& batch) override;
  Claim claim(const DocumentKey& key, Cursor cursor) override;
  std::int64_t give_back(std::int64_t pages) override;
  void commit() override;

 private:
  template <class Writing>
  auto wholly(Writing writing);
};

class SqliteStore final : public Store {
 public:
  SqliteStore(const std::string& path, const StoreOptions& options);
  ~SqliteStore() override;

  std::unique_ptr<ReadTx> read() override;
  std::unique_ptr<WriteTx> write() override;
  void backup(const std::string& path, const std::function<void(std::int64_t, std::int64_t)>& progress) override;
  Checked check(const CheckHooks& hooks) override;
  bool rewrite() override;
  StoreInfo info() override;
  void close() override;

  void give_back(Session& session) noexcept;
  void end_write(bool committed) noexcept;
  sqlite::Writer& writer() noexcept { return *writer_; }
  sqlite::Checkpointer& checkpointer() noexcept { return *checkpointer_; }
  // Said before the commit: who reads from then on may find other numbers behind the names it knows.
  void renumbered() noexcept { renumbered_.store(true); }

 private:
  void take_write();  // waits for the writer before
  void open_for_writing();
  void open_for_reading();
  std::unique_ptr<Session> open_reader();
  void check_process() const;
  void check_open() const;
  void reopen_if_moved();
  void abandon() noexcept;

  const StoreOptions options_;
  const std::string name_;  // as the caller gave it
  const pid_t process_ = getpid();
  std::optional<TemporaryFolder> folder_;
  std::string path_;
  std::optional<WriterLock> lock_;
  std::unique_ptr<Session> writing_session_;
  std::optional<sqlite::Writer> writer_;
  std::unique_ptr<sqlite::Checkpointer> checkpointer_;
  std::atomic<bool> renumbered_{false};

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::vector<std::unique_ptr<Session>> idle_;
  std::vector<std::unique_ptr<Session>> lent_;
  bool writing_ = false;
  bool closing_ = false;
  bool closed_ = false;
  Mode reader_mode_ = Mode::read;
  Fingerprint fingerprint_;  // of an immutable file
};

SqliteReadTx::~SqliteReadTx() { store_.give_back(session_); }

SqliteWriteTx::~SqliteWriteTx() {
  if (!over_) store_.end_write(false);
}

template <class Writing>
auto SqliteWriteTx::wholly(Writing writing) {
  open();
  try {
    return writing(store_.writer());
  } catch (...) {
    // Half of it may be in place: nothing of this transaction may be committed any more.
    over_ = true;
    store_.end_write(false);
    throw;
  }
}

Applied SqliteWriteTx::apply(const WriteBatch& batch) {
  return wholly([&](sqlite::Writer& writer) {
    if (!batch.swap_scopes.empty()) store_.renumbered();
    return writer.apply(batch);
  });
}

Claim SqliteWriteTx::claim(const DocumentKey& key, Cursor cursor) {
  return wholly([&](sqlite::Writer& writer) { return writer.claim(key, cursor); });
}

std::int64_t SqliteWriteTx::give_back(std::int64_t pages) {
  Session& session = open();
  session.rest();
  sqlite::Connection& connection = session.connection;
  const std::int64_t free = connection.number("PRAGMA freelist_count");
  const std::int64_t used = connection.number("PRAGMA page_count") - free;
  const std::int64_t wanted = std::min(pages, free - std::max(used / 4, kLeftFreePages));
  if (wanted <= 0) return 0;
  try {
    connection.execute("PRAGMA incremental_vacuum(" + std::to_string(wanted) + ")");
    return free - connection.number("PRAGMA freelist_count");
  } catch (...) {
    over_ = true;
    store_.end_write(false);
    throw;
  }
}

void SqliteWriteTx::commit() {
  Session& session = open();
  over_ = true;
  try {
    session.commit();
    store_.checkpointer().committed();
  } catch (...) {
    store_.end_write(false);
    throw;
  }
  store_.end_write(true);
}

SqliteStore::SqliteStore(const std::string& path, const StoreOptions& options) : options_(options), name_(path) {
  if (options_.max_readers < 1) throw Error(Code::usage, "max_readers must be 1 or more");
  if (options_.checkpoint_pages < 1) throw Error(Code::usage, "checkpoint_pages must be 1 or more");
  if (path == kMemory) {
    if (options_.read_only) throw Error(Code::usage, "':memory:' is private and new: there is nothing to read with read_only=True");
    path_ = folder_.emplace().file();
  } else {
    path_ = canonical(path);
  }
  options_.read_only ? open_for_reading() : open_for_writing();
}

SqliteStore::~SqliteStore() {
  try {
    close();
  } catch (const Error&) {  // a destructor has nobody to tell; what was acknowledged is in the WAL
  }
}

void SqliteStore::open_for_writing() {
  lock_.emplace(path_);
  writing_session_ = std::make_unique<Session>(path_, Mode::write);
  sqlite::Connection& connection = writing_session_->connection;
  const bool empty = sqlite::examine(connection);
  // Pages that can be moved cost nothing measurable: 150,000 random writes took 3.5 s of CPU time with them and 3.6 without.
  if (empty) connection.execute("PRAGMA page_size = " + std::to_string(kPageSize) + "; PRAGMA auto_vacuum = INCREMENTAL");
  connection.execute("PRAGMA journal_mode = WAL");
  const bool lasting = !folder_.has_value();
  std::string synchronous = "NORMAL";
  if (!lasting) synchronous = "OFF";
  if (lasting && options_.durability == Durability::full) synchronous = "FULL; PRAGMA fullfsync = ON; PRAGMA checkpoint_fullfsync = ON";
  synchronous = "PRAGMA synchronous = " + synchronous;
  connection.execute(synchronous);
  connection.execute("PRAGMA cache_size = -" + std::to_string(kWriterCacheKiB) +
                     // A WAL that a long reader let grow is cut back to what it takes without one.
                     "; PRAGMA journal_size_limit = " + std::to_string(2 * options_.checkpoint_pages * kFrameBytes));
  sqlite::migrate(connection);
  writer_.emplace(*writing_session_);
  writing_session_->frontier.emplace();
  writing_session_->wanted.emplace(connection);
  checkpointer_ = std::make_unique<sqlite::Checkpointer>(connection, synchronous, lasting, options_.checkpoint_pages);
}

void SqliteStore::open_for_reading() {
  if (size_of(path_) < 0) {
    throw Error(Code::storage, "'" + path_ + "' does not exist; only an open for writing creates it", {{"path", path_}});
  }
  idle_.push_back(open_reader());
}

std::unique_ptr<Session> SqliteStore::open_reader() {
  const auto open = [this](Mode mode) {
    auto session = std::make_unique<Session>(path_, mode);
    if (sqlite::examine(session->connection)) {
      throw Error(Code::foreign_file, "'" + path_ + "' is empty, and no Syncline database yet; open it for writing first",
                  {{"path", path_}});
    }
    session->connection.execute("PRAGMA cache_size = -" + std::to_string(kReaderCacheKiB));
    return session;
  };
  try {
    auto session = open(Mode::read);
    reader_mode_ = Mode::read;
    return session;
  } catch (const Error& error) {
    // A file in WAL mode needs its "-shm" beside it, which cannot be made in a folder that cannot be written.
    if (!options_.read_only || (error.code() != Code::storage && error.code() != Code::read_only)) throw;
    if (access(path_.c_str(), R_OK) != 0) throw;
    const Fingerprint now = fingerprint_of(path_);
    if (now.wal_bytes > 0) {
      throw Error(Code::storage,
                  "'" + path_ + "' was not closed cleanly: '" + path_ + "-wal' holds commits that can only be read where its folder " +
                      "can be written; open it once for writing, or copy both files to such a folder (" + error.what() + ")",
                  {{"path", path_}});
    }
    auto session = open(Mode::immutable);
    fingerprint_ = now;
    reader_mode_ = Mode::immutable;
    return session;
  }
}

void SqliteStore::check_process() const {
  if (process_ != getpid()) {
    throw Error(Code::usage, "This store was opened by process " + std::to_string(process_) +
                                 " and cannot be used after fork; open it in the child, or use syncline.connect(url)");
  }
}

void SqliteStore::check_open() const {
  if (closing_) throw Error(Code::closed, "The database '" + name_ + "' is closed", {{"path", name_}});
}

// An immutable connection believes that nobody writes. Should somebody have begun to, the next snapshot begins on a new connection.
void SqliteStore::reopen_if_moved() {
  if (reader_mode_ == Mode::immutable && !(fingerprint_of(path_) == fingerprint_)) idle_.clear();
}

std::unique_ptr<ReadTx> SqliteStore::read() {
  check_process();
  Session* session = nullptr;
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] {
      return closing_ || !idle_.empty() || static_cast<int>(lent_.size()) < options_.max_readers;
    });
    check_open();
    reopen_if_moved();
    // Before anything can throw: giving back must not need memory.
    lent_.reserve(static_cast<std::size_t>(options_.max_readers));
    idle_.reserve(static_cast<std::size_t>(options_.max_readers));
    if (!idle_.empty()) {
      lent_.push_back(std::move(idle_.back()));
      idle_.pop_back();
    } else {
      // Opening reads the disk, but only once per reader; under the lock the pool stays simple.
      lent_.push_back(open_reader());
    }
    session = lent_.back().get();
  }
  try {
    session->begin_read();
    // Asked behind the begin: a snapshot that is older than the renumbering is as old as what the session knows.
    if (renumbered_.load()) session->scope_numbers.clear();
    return std::make_unique<SqliteReadTx>(*this, *session);
  } catch (...) {
    give_back(*session);
    throw;
  }
}

void SqliteStore::give_back(Session& session) noexcept {
  if (process_ != getpid()) return;
  const bool usable = session.end_read();
  std::unique_ptr<Session> broken;
  {
    const std::lock_guard lock(mutex_);
    const auto at = std::find_if(lent_.begin(), lent_.end(), [&](const auto& lent) { return lent.get() == &session; });
    if (at == lent_.end()) return;
    (usable ? idle_.emplace_back() : broken) = std::move(*at);
    lent_.erase(at);
    changed_.notify_all();  // under the lock: close() may destroy the store as soon as it has it
  }
}

void SqliteStore::take_write() {
  check_process();
  std::unique_lock lock(mutex_);
  if (options_.read_only) {
    throw Error(Code::read_only, "The database '" + name_ + "' was opened with read_only=True", {{"path", name_}});
  }
  changed_.wait(lock, [this] { return closing_ || !writing_; });
  check_open();
  writing_ = true;
}

std::unique_ptr<WriteTx> SqliteStore::write() {
  take_write();
  try {
    writing_session_->begin_write();
    return std::make_unique<SqliteWriteTx>(*this, *writing_session_);
  } catch (...) {
    end_write(false);
    throw;
  }
}

void SqliteStore::end_write(bool committed) noexcept {
  if (process_ != getpid()) return;
  if (!committed) {
    writing_session_->rollback();
    writer_->rolled_back();
  }
  {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    changed_.notify_all();
  }
}

void SqliteStore::backup(const std::string& path, const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const std::string target = canonical(path);
  const std::string partial = target + "-partial";
  const auto refuse_existing = [&] {
    throw Error(Code::storage, "'" + path + "' exists already; a backup never overwrites: give a new path", {{"path", path}});
  };
  if (size_of(target) >= 0) refuse_existing();
  const auto tx = read();
  sqlite::Connection& source = static_cast<SqliteReadTx&>(*tx).session().connection;
  try {
    {
      sqlite::Connection copy(partial, Mode::write);
      copy.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = FULL");
      // The snapshot that is open on the source keeps the copy from starting over at each commit.
      sqlite3_backup* running = sqlite3_backup_init(copy.handle(), "main", source.handle(), "main");
      if (running == nullptr) sqlite::raise(copy.handle(), sqlite3_errcode(copy.handle()), partial, "backing up to");
      const std::unique_ptr<sqlite3_backup, decltype([](sqlite3_backup* handle) { sqlite3_backup_finish(handle); })> owned(running);
      for (int rc = SQLITE_OK; rc == SQLITE_OK;) {
        rc = sqlite3_backup_step(running, kBackupPages);
        if (rc != SQLITE_OK && rc != SQLITE_DONE) sqlite::raise(copy.handle(), rc, partial, "backing up to");
        const std::int64_t total = sqlite3_backup_pagecount(running);
        if (progress) progress(total - sqlite3_backup_remaining(running), total);
      }
    }
    // A link, not a rename: it refuses to replace what has appeared there since.
    if (link(partial.c_str(), target.c_str()) != 0) {
      if (errno == EEXIST) refuse_existing();
      throw Error(Code::storage, "The backup cannot be put at '" + path + "': " + std::strerror(errno), {{"path", path}});
    }
  } catch (...) {
    unlink(partial.c_str());
    throw;
  }
  unlink(partial.c_str());
  sync_folder(fs::path(target).parent_path().string());
}

Checked SqliteStore::check(const CheckHooks& hooks) {
  const auto tx = read();
  return sqlite::check(static_cast<SqliteReadTx&>(*tx).session().connection, hooks);
}

// VACUUM, because nothing less is sure: with secure_delete on, SQLite 3.40 still leaves copies of rows in the gaps of pages that it
// split (17 of 1,000 marked values were found in the raw file after their deletion and an incremental vacuum), and free pages keep
// what they held. It takes twice the database's size for a while.
bool SqliteStore::rewrite() {
  take_write();
  bool emptied = false;
  try {
    sqlite::Connection& connection = writing_session_->connection;
    checkpointer_->rest();
    connection.execute("PRAGMA temp_store = FILE");  // a copy of the whole database
    try {
      connection.execute("VACUUM");
    } catch (...) {
      connection.execute("PRAGMA temp_store = MEMORY");
      throw;
    }
    connection.execute("PRAGMA temp_store = MEMORY");
    sqlite3_busy_timeout(connection.handle(), kRewriteWait);  // for readers; writers wait meanwhile
    const int rc = sqlite3_wal_checkpoint_v2(connection.handle(), nullptr, SQLITE_CHECKPOINT_TRUNCATE, nullptr, nullptr);
    sqlite3_busy_timeout(connection.handle(), sqlite::kBusyTimeout);
    if (rc != SQLITE_OK && (rc & 0xff) != SQLITE_BUSY) sqlite::raise(connection.handle(), rc, path_, "emptying the log of writes of");
    emptied = rc == SQLITE_OK;
    if (emptied) checkpointer_->emptied();
  } catch (...) {
    end_write(false);
    throw;
  }
  end_write(true);
  return emptied;
}

StoreInfo SqliteStore::info() {
  check_process();
  {
    const std::lock_guard lock(mutex_);
    check_open();
  }
  StoreInfo info;
  info.kind = "sqlite";
  info.version = sqlite3_libversion();
  info.path = folder_.has_value() ? kMemory : path_;
  info.bytes = std::max<std::int64_t>(size_of(path_), 0);
  info.wal_bytes = std::max<std::int64_t>(size_of(path_ + "-wal"), 0);
  std::error_code error;
  const fs::space_info space = fs::space(fs::path(path_).parent_path(), error);
  if (!error) info.free_disk_bytes = static_cast<std::int64_t>(space.available);
  info.schema_version = sqlite::kSchemaVersion;
  return info;
}

void SqliteStore::close() {
  if (process_ != getpid()) {
    abandon();
    return;
  }
  std::unique_lock lock(mutex_);
  if (closing_) {
    changed_.wait(lock, [this] { return closed_; });
    return;
  }
  closing_ = true;
  changed_.notify_all();
  changed_.wait(lock, [this] { return lent_.empty() && !writing_; });
  idle_.clear();
  checkpointer_.reset();
  if (writing_session_) {
    // With readers in other processes left, closing does not checkpoint; what can be moved is moved here.
    sqlite3* db = writing_session_->connection.handle();
    sqlite3_wal_checkpoint_v2(db, nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
    writer_.reset();
    writing_session_.reset();
  }
  lock_.reset();
  folder_.reset();
  closed_ = true;
  changed_.notify_all();
}

// In a forked child the connections are the parent's: closing them here would checkpoint or delete under its hands.
void SqliteStore::abandon() noexcept {
  static_cast<void>(checkpointer_.release());
  if (writing_session_) writing_session_->abandon();
  for (const auto& session : idle_) session->abandon();
  for (const auto& session : lent_) session->abandon();
}

}  // namespace

std::unique_ptr<Store> open_sqlite(const std::string& path, const StoreOptions& options) {
  return std::make_unique<SqliteStore>(path, options);
}

}  // namespace syncline
