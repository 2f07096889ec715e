#include "store/sqlite_incoming.h"

namespace syncline::sqlite {

Incoming::Incoming(Connection& connection)
    : connection_(connection), table_(connection, "incoming", "(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)") {}

void Incoming::insert(Query query, const Rows& rows) {
  if (!rows.has(0)) return;
  struct Showing {
    Showing(RowTable& table_, const Rows& rows_) noexcept : table(table_) { table.show(&rows_); }
    ~Showing() { table.show(nullptr); }
    Showing(const Showing&) = delete;
    Showing& operator=(const Showing&) = delete;
    RowTable& table;
  } const showing(table_, rows);
  connection_.use(query)->run();
}

}  // namespace syncline::sqlite
