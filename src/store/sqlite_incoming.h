// The rows of a batch as a table that SQL can read, so that one statement puts all of them in place.
//
// What     `incoming` is an eponymous virtual table of a connection: INSERT INTO documents (...) SELECT a, b, ... FROM incoming. What a
//          statement costs at its begin and its end, and its walk down from the root of the tree, is paid once a batch and no more
//          once a row: 16,800 instructions for a document with its key against 9,900, 8,000 for a log line against 5,700, batches of
//          100 of 200 B.
// Owner    the writer of a connection, which it must not outlive by a statement.
// Threads  its connection's.
#pragma once

#include "store/sqlite_rows.h"

namespace syncline::sqlite {

class Incoming {
 public:
  explicit Incoming(Connection& connection);
  Incoming(const Incoming&) = delete;
  Incoming& operator=(const Incoming&) = delete;

  // Runs a statement that inserts what `incoming` holds; its columns are a ... o.
  void insert(Query query, const Rows& rows);

 private:
  Connection& connection_;
  RowTable table_;
};

}  // namespace syncline::sqlite
