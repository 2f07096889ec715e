#include "store/checkpointer.h"

#include <limits>
#include <system_error>
#include <utility>

namespace syncline::sqlite {

namespace {

constexpr int kSmallPart = 16;  // of the pages that a sweep began with: a rest that the writer moves in some milliseconds

// Brings to the disk what checkpoints have written: SQLite does so only with the one that reaches the end of the WAL. That it fails
// is SQLite's to find out, whose own sync still comes.
void sync(Connection& connection) noexcept {
  sqlite3_file* file = nullptr;
  if (sqlite3_file_control(connection.handle(), "main", SQLITE_FCNTL_FILE_POINTER, &file) != SQLITE_OK) return;
  if (file != nullptr && file->pMethods != nullptr) file->pMethods->xSync(file, SQLITE_SYNC_NORMAL);
}

}  // namespace

Checkpointer::Checkpointer(Connection& writer, std::string settings, bool lasting, int pages)
    : writer_(writer), settings_(std::move(settings)), lasting_(lasting), pages_(pages) {
  sqlite3_wal_hook(writer_.handle(), noted, this);  // in the place of SQLite's own automatic checkpoint
}

Checkpointer::~Checkpointer() {
  sqlite3_wal_hook(writer_.handle(), nullptr, nullptr);
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

int Checkpointer::noted(void* self, sqlite3*, const char*, int frames) {
  auto& own = *static_cast<Checkpointer*>(self);
  const std::lock_guard lock(own.mutex_);
  own.frames_ = frames;
  return SQLITE_OK;
}

Checkpointer::Moved Checkpointer::checkpoint(Connection& connection) noexcept {
  Moved moved;
  const int rc = sqlite3_wal_checkpoint_v2(connection.handle(), nullptr, SQLITE_CHECKPOINT_PASSIVE, &moved.of, &moved.frames);
  moved.failed = rc != SQLITE_OK;
  return moved;
}

void Checkpointer::committed() noexcept {
  std::unique_lock lock(mutex_);
  if (frames_ < seen_) {  // the WAL was begun anew
    seen_ = 0;
    if (phase_ == Phase::swept) phase_ = Phase::resting;
  }
  if (phase_ == Phase::resting && frames_ - seen_ >= pages_) {
    limit_ = 2 * frames_;
    start();
  }
  if (phase_ == Phase::sweeping && frames_ >= limit_) changed_.wait(lock, [this] { return phase_ != Phase::sweeping; });
  if (phase_ != Phase::swept) return;
  checkpoint(writer_);
  phase_ = Phase::resting;
  seen_ = frames_;
}

void Checkpointer::rest() noexcept {
  std::unique_lock lock(mutex_);
  limit_ = 0;
  changed_.wait(lock, [this] { return phase_ != Phase::sweeping; });
}

void Checkpointer::emptied() noexcept {
  const std::lock_guard lock(mutex_);
  phase_ = Phase::resting;
  frames_ = seen_ = 0;
}

void Checkpointer::start() noexcept {
  phase_ = Phase::sweeping;
  if (thread_.joinable()) {
    changed_.notify_all();
    return;
  }
  try {
    thread_ = std::thread([this] { run(); });
  } catch (const std::system_error&) {
    phase_ = Phase::swept;
  }
}

void Checkpointer::run() {
  std::optional<Connection> connection;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || phase_ == Phase::sweeping; });
    if (ending_) return;
    lock.unlock();
    try {
      if (!connection) {
        connection.emplace(writer_.path(), Mode::checkpoint);
        connection->execute(settings_);
        connection->number("PRAGMA schema_version");  // only what has read the file knows of its WAL
      }
    } catch (const Error&) {
      connection.reset();
    }
    lock.lock();
    if (connection) sweep(lock, *connection);
    phase_ = Phase::swept;
    changed_.notify_all();
  }
}

void Checkpointer::sweep(std::unique_lock<std::mutex>& lock, Connection& connection) {
  for (int before = std::numeric_limits<int>::max();;) {
    lock.unlock();
    const Moved moved = checkpoint(connection);
    if (lasting_) sync(connection);
    lock.lock();
    if (moved.failed) return;
    seen_ = moved.of;
    const int left = frames_ - moved.frames;
    // Where a pass leaves more than half of what the one before left, more of them do not help: a reader is in the way, or the disk is
    // slow.
    if (ending_ || frames_ >= limit_ || left <= pages_ / kSmallPart || left > before / 2) return;
    before = left;
  }
}

}  // namespace syncline::sqlite
