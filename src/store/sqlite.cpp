#include "store/sqlite.h"

#include <cerrno>
#include <cstring>

#include "store/wal_gather.h"

namespace syncline::sqlite {

namespace {

// "%" and "?" and "#" would end the path of a file: URI.
std::string uri_of(const std::string& path) {
  std::string uri = "file:";
  for (const char c : path) {
    if (c == '%' || c == '?' || c == '#') {
      static constexpr std::string_view kHex = "0123456789ABCDEF";
      const auto byte = static_cast<unsigned char>(c);
      uri += '%';
      uri += kHex[byte >> 4];
      uri += kHex[byte & 15];
    } else {
      uri += c;
    }
  }
  return uri + "?immutable=1";
}

bool out_of_space(int system_error) noexcept {
  return system_error == ENOSPC || system_error == EDQUOT || system_error == EFBIG;
}

// The errno behind a failure. A failing COMMIT does not record it on the connection; the file, or its WAL, remembers it.
int system_error_of(sqlite3* db, int rc) noexcept {
  if (db == nullptr) return 0;
  if (const int known = sqlite3_system_errno(db); known != 0 || (rc & 0xff) != SQLITE_IOERR) return known;
  for (const int which : {SQLITE_FCNTL_JOURNAL_POINTER, SQLITE_FCNTL_FILE_POINTER}) {
    sqlite3_file* file = nullptr;
    int last = 0;
    if (sqlite3_file_control(db, "main", which, &file) != SQLITE_OK || file == nullptr || file->pMethods == nullptr) continue;
    if (file->pMethods->xFileControl(file, SQLITE_FCNTL_LAST_ERRNO, &last) == SQLITE_OK && last != 0) return last;
  }
  return 0;
}

}  // namespace

void raise(sqlite3* db, int rc, const std::string& path, std::string_view doing) {
  const int system_error = system_error_of(db, rc);
  std::string what{doing};
  what += " '" + path + "': ";
  what += db != nullptr && sqlite3_errcode(db) != SQLITE_OK ? sqlite3_errmsg(db) : sqlite3_errstr(rc);
  std::vector<Detail> details{{"path", path}, {"sqlite_code", std::int64_t{rc}}};
  const int primary = rc & 0xff;
  if (primary == SQLITE_FULL || (primary == SQLITE_IOERR && out_of_space(system_error))) {
    throw Error(Code::disk_full, "The disk or the quota is full while " + what, std::move(details));
  }
  if (primary == SQLITE_IOERR || primary == SQLITE_CANTOPEN) {
    if (system_error != 0) what += std::string(" (") + std::strerror(system_error) + ")";
    throw Error(Code::storage, "The storage failed while " + what, std::move(details));
  }
  if (primary == SQLITE_CORRUPT || primary == SQLITE_NOTADB) {
    throw Error(Code::corrupt, "The database file is damaged; found while " + what, std::move(details));
  }
  if (primary == SQLITE_READONLY || primary == SQLITE_PERM) {
    throw Error(Code::read_only, "The database cannot be written; found while " + what, std::move(details));
  }
  if (primary == SQLITE_BUSY || primary == SQLITE_LOCKED) {
    throw Error(Code::locked, "Another program holds the database file; found while " + what, std::move(details));
  }
  throw Error(Code::storage, "The storage failed while " + what, std::move(details));
}

Statement::Statement(sqlite3* db, std::string_view sql, const std::string& path, bool kept) : path_(&path) {
  sqlite3_stmt* statement = nullptr;
  const unsigned flags = kept ? SQLITE_PREPARE_PERSISTENT : 0;
  const int rc = sqlite3_prepare_v3(db, sql.data(), static_cast<int>(sql.size()), flags, &statement, nullptr);
  if (rc != SQLITE_OK) raise(db, rc, path, "preparing a statement for");
  handle_.reset(statement);
}

void Statement::bind_text(int at, std::string_view value) {
  // A null pointer would bind NULL where an empty string is meant.
  const char* data = value.data() != nullptr ? value.data() : "";
  check(sqlite3_bind_text(handle_.get(), at, data, static_cast<int>(value.size()), SQLITE_STATIC));
}

void Statement::bind_blob(int at, std::string_view value) {
  const char* data = value.data() != nullptr ? value.data() : "";
  check(sqlite3_bind_blob(handle_.get(), at, data, static_cast<int>(value.size()), SQLITE_STATIC));
}

std::string_view Statement::text(int column) noexcept {
  const auto* data = sqlite3_column_text(handle_.get(), column);
  if (data == nullptr) return {};
  return {reinterpret_cast<const char*>(data), static_cast<std::size_t>(sqlite3_column_bytes(handle_.get(), column))};
}

std::string_view Statement::blob(int column) noexcept {
  const void* data = sqlite3_column_blob(handle_.get(), column);
  if (data == nullptr) return {};
  return {static_cast<const char*>(data), static_cast<std::size_t>(sqlite3_column_bytes(handle_.get(), column))};
}

void Statement::fail(int rc) {
  sqlite3* db = sqlite3_db_handle(handle_.get());
  // COMMIT counts as read-only, and returns no columns.
  const bool reading = sqlite3_stmt_readonly(handle_.get()) != 0 && sqlite3_column_count(handle_.get()) > 0;
  try {
    raise(db, rc, *path_, reading ? "reading" : "writing");
  } catch (...) {
    sqlite3_reset(handle_.get());
    throw;
  }
}

Connection::Connection(std::string path, Mode mode) : path_(std::move(path)), slots_(std::make_unique<std::array<Slot, kQueries>>()) {
  int flags = SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE;
  flags |= mode == Mode::write || mode == Mode::checkpoint ? SQLITE_OPEN_READWRITE : SQLITE_OPEN_READONLY;
  if (mode == Mode::write) flags |= SQLITE_OPEN_CREATE;
  if (mode == Mode::immutable) flags |= SQLITE_OPEN_URI;
  const std::string name = mode == Mode::immutable ? uri_of(path_) : path_;
  sqlite3* db = nullptr;
  const int rc = sqlite3_open_v2(name.c_str(), &db, flags, mode == Mode::write ? gathering_vfs() : nullptr);
  handle_.reset(db);
  if (rc != SQLITE_OK) raise(db, rc, path_, "opening");
  sqlite3_busy_timeout(db, kBusyTimeout);
  if (mode != Mode::write) {
    // Who checkpoints, and when, is the Checkpointer's to order.
    sqlite3_db_config(db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, nullptr);
    sqlite3_wal_autocheckpoint(db, 0);
  }
  execute("PRAGMA trusted_schema = OFF; PRAGMA foreign_keys = OFF; PRAGMA temp_store = MEMORY");
}

Loan Connection::use(Query query) {
  Slot& slot = (*slots_)[static_cast<std::size_t>(query)];
  if (slot.busy) return Loan(Statement(handle_.get(), text_of(query), path_, false));
  if (!slot.statement) slot.statement = Statement(handle_.get(), text_of(query), path_, true);
  return Loan(slot.statement, slot.busy);
}

void Connection::execute(const std::string& sql) {
  const int rc = sqlite3_exec(handle_.get(), sql.c_str(), nullptr, nullptr, nullptr);
  if (rc != SQLITE_OK) raise(handle_.get(), rc, path_, "preparing");
}

std::int64_t Connection::number(const std::string& sql) {
  Statement statement(handle_.get(), sql, path_, false);
  return statement.step() ? statement.integer(0) : 0;
}

void Connection::abandon() noexcept {
  for (Slot& slot : *slots_) slot.statement.abandon();
  static_cast<void>(handle_.release());
}

}  // namespace syncline::sqlite
