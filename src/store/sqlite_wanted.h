// One look-up by key after another through a statement that stays open between them.
//
// What     `wanted` is an eponymous virtual table of a connection that never ends: its next row is the key that is asked for next. A SELECT
//          that joins documents to it is stepped once a key, and what a statement costs at its begin and end falls away: 6,400
//          instructions for a key that is not there against 4,400.
// Owner    the writer's session. The statement holds cursors: `rest` before anything is written, and before the transaction ends.
// Threads  its connection's.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "store/sqlite_rows.h"

namespace syncline::sqlite {

class Wanted {
 public:
  explicit Wanted(Connection& connection);
  Wanted(const Wanted&) = delete;
  Wanted& operator=(const Wanted&) = delete;

  // The row of the key, as Query::find_document has it; nullptr: there is none. Valid until the next call of either.
  Statement* find(std::int64_t scope, std::int64_t entity, std::string_view id);
  void rest() noexcept;
  void abandon() noexcept;  // as Connection::abandon

 private:
  class Key : public Rows {
   public:
    [[nodiscard]] bool has(std::size_t row) const noexcept override;
    void cell(std::size_t row, int column, Cell into) const noexcept override;
    std::int64_t scope = 0, entity = 0;
    std::string_view id;
  };

  Connection& connection_;
  Key key_;
  RowTable table_;
  std::unique_ptr<Statement> select_;
  bool open_ = false;
};

}  // namespace syncline::sqlite
