// The rows of a batch as a table that SQL can read, so that one statement puts all of them in place.
//
// What     `incoming` is an eponymous virtual table of a connection: INSERT INTO documents (...) SELECT a, b, ... FROM incoming. What a
//          statement costs at its begin and its end, and its walk down from the root of the tree, is paid once a batch and no more
//          once a row: 16,000 instructions for a document with its key against 9,500, 8,000 for a log line against 4,900, batches of
//          100 of 200 B.
// Owner    the writer of a connection, which it must not outlive by a statement.
// Threads  its connection's.
#pragma once

#include <sqlite3.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "store/sqlite.h"

namespace syncline::sqlite {

// Where a row says what stands in a column. Views must live until the statement is over.
class Cell {
 public:
  explicit Cell(sqlite3_context* into) noexcept : into_(into) {}
  void integer(std::int64_t value) noexcept { sqlite3_result_int64(into_, value); }
  void text(std::string_view value) noexcept {
    // A null pointer would be NULL where an empty string is meant.
    sqlite3_result_text(into_, value.data() != nullptr ? value.data() : "", static_cast<int>(value.size()), SQLITE_STATIC);
  }
  void blob(std::string_view value) noexcept {
    sqlite3_result_blob(into_, value.data() != nullptr ? value.data() : "", static_cast<int>(value.size()), SQLITE_STATIC);
  }
  void null() noexcept { sqlite3_result_null(into_); }

 private:
  sqlite3_context* into_;
};

// What `incoming` holds while a statement reads it.
class Rows {
 public:
  virtual ~Rows() = default;
  Rows() = default;
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;
  [[nodiscard]] virtual std::size_t size() const noexcept = 0;
  virtual void cell(std::size_t row, int column, Cell into) const noexcept = 0;  // columns a, b, c, ... count from 0
};

class Incoming {
 public:
  static constexpr int kColumns = 15;  // a ... o

  explicit Incoming(Connection& connection);
  Incoming(const Incoming&) = delete;
  Incoming& operator=(const Incoming&) = delete;
  ~Incoming();

  // Runs a statement that inserts what `incoming` holds. Nothing where there are no rows.
  void insert(Query query, const Rows& rows);

 private:
  Connection& connection_;
  std::unique_ptr<const Rows*> current_;  // where the module finds the rows
};

}  // namespace syncline::sqlite
