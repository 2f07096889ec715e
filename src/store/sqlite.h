// SQLite's C interface as three small classes: a connection, a statement, and the loan of a cached statement.
//
// Owner    a `Connection` owns its handle and the statements it has prepared; a `Loan` must end before its connection does.
// Threads  one at a time per connection (opened with SQLITE_OPEN_NOMUTEX); the hand-over between threads is the caller's to order.
// Errors   every failing call throws `Error` with the code that fits, the path and SQLite's own words.
#pragma once

#include <sqlite3.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "store/queries.h"

namespace syncline::sqlite {

// Throws the Error that fits SQLite's result code. `doing`: "opening", "committing", ...
[[noreturn]] void raise(sqlite3* db, int rc, const std::string& path, std::string_view doing);

// One prepared statement. What is bound by view must stay alive until the statement is reset. Columns count from 0, parameters from 1.
class Statement {
 public:
  Statement() = default;
  Statement(sqlite3* db, std::string_view sql, const std::string& path, bool kept);

  void bind(int at, std::int64_t value) { check(sqlite3_bind_int64(handle_.get(), at, value)); }
  void bind_text(int at, std::string_view value);
  void bind_blob(int at, std::string_view value);
  void bind_null(int at) { check(sqlite3_bind_null(handle_.get(), at)); }

  // True: a row is there to be read. False: done.
  bool step() {
    const int rc = sqlite3_step(handle_.get());
    if (rc == SQLITE_ROW) return true;
    if (rc == SQLITE_DONE) return false;
    fail(rc);
  }
  void reset() noexcept { sqlite3_reset(handle_.get()); }
  // Steps a statement that returns nothing, and makes it ready again.
  void run() {
    step();
    reset();
  }

  [[nodiscard]] std::int64_t integer(int column) noexcept { return sqlite3_column_int64(handle_.get(), column); }
  [[nodiscard]] std::string_view text(int column) noexcept;  // a view into the row; NULL is empty
  [[nodiscard]] std::string_view blob(int column) noexcept;
  [[nodiscard]] bool is_null(int column) noexcept { return sqlite3_column_type(handle_.get(), column) == SQLITE_NULL; }
  [[nodiscard]] bool is_text(int column) noexcept { return sqlite3_column_type(handle_.get(), column) == SQLITE_TEXT; }

  explicit operator bool() const noexcept { return handle_ != nullptr; }
  void abandon() noexcept { static_cast<void>(handle_.release()); }

 private:
  void check(int rc) {
    if (rc != SQLITE_OK) fail(rc);
  }
  [[noreturn]] void fail(int rc);

  struct Finalise {
    void operator()(sqlite3_stmt* statement) const noexcept { sqlite3_finalize(statement); }
  };
  std::unique_ptr<sqlite3_stmt, Finalise> handle_;
  const std::string* path_ = nullptr;
};

// A statement for the time of one call: the connection's cached one, or its own where a visitor reads within a read.
class Loan {
 public:
  Loan(Statement& cached, bool& busy) : statement_(&cached), busy_(&busy) { *busy_ = true; }
  explicit Loan(Statement own) : own_(std::move(own)), statement_(&own_) {}
  Loan(const Loan&) = delete;
  Loan& operator=(const Loan&) = delete;
  ~Loan() {
    statement_->reset();
    if (busy_ != nullptr) *busy_ = false;
  }

  Statement* operator->() noexcept { return statement_; }
  Statement& operator*() noexcept { return *statement_; }

 private:
  Statement own_;
  Statement* statement_;
  bool* busy_ = nullptr;
};

inline constexpr int kBusyTimeout = 5000;  // milliseconds that a connection waits for another program

enum class Mode : std::uint8_t {
  write,      // creates the file where it is missing
  checkpoint, // of a file that this process writes; only checkpoints
  read,       // read-only; sees what a writer commits, and never checkpoints
  immutable,  // read-only of a file that nobody writes, in a folder that cannot be written
};

class Connection {
 public:
  Connection(std::string path, Mode mode);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  [[nodiscard]] Loan use(Query query);
  void execute(const std::string& sql);
  std::int64_t number(const std::string& sql);  // the first column of the first row; 0 where there is none
  [[nodiscard]] bool in_transaction() const noexcept { return sqlite3_get_autocommit(handle_.get()) == 0; }
  [[nodiscard]] std::int64_t changed_rows() const noexcept { return sqlite3_changes(handle_.get()); }
  [[nodiscard]] sqlite3* handle() noexcept { return handle_.get(); }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  // Lets go of the handle without closing it: in a forked child, closing would disturb the parent's.
  void abandon() noexcept;

 private:
  struct Close {
    void operator()(sqlite3* db) const noexcept { sqlite3_close_v2(db); }
  };
  struct Slot {
    Statement statement;
    bool busy = false;
  };
  std::string path_;
  std::unique_ptr<sqlite3, Close> handle_;
  std::unique_ptr<std::array<Slot, kQueries>> slots_;
};

}  // namespace syncline::sqlite
