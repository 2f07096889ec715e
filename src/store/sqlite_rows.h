// Rows that are in memory, as a table that SQL can read: an eponymous virtual table of one connection.
//
// Owner    who offers them: a `RowTable`, and the `Rows` in it, must outlive every statement that reads it.
// Threads  the connection's.
#pragma once

#include <sqlite3.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "store/sqlite.h"

namespace syncline::sqlite {

// Where a row says what stands in a column. Views must live until the row has been used.
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

class Rows {
 public:
  virtual ~Rows() = default;
  Rows() = default;
  Rows(const Rows&) = delete;
  Rows& operator=(const Rows&) = delete;
  [[nodiscard]] virtual bool has(std::size_t row) const noexcept = 0;  // whether there is a row of that number; they count from 0
  virtual void cell(std::size_t row, int column, Cell into) const noexcept = 0;
};

class RowTable {
 public:
  // `columns` as in CREATE TABLE: "(a, b, c)".
  RowTable(Connection& connection, const char* name, const char* columns);
  RowTable(const RowTable&) = delete;
  RowTable& operator=(const RowTable&) = delete;
  ~RowTable();

  void show(const Rows* rows) noexcept;  // from now on; nullptr: none

  struct Shown;  // what the module finds

 private:
  std::unique_ptr<Shown> shown_;
};

}  // namespace syncline::sqlite
