#include "store/sqlite_incoming.h"

#include <new>

namespace syncline::sqlite {

namespace {

struct Table : sqlite3_vtab {
  const Rows* const* current;
};

struct Scan : sqlite3_vtab_cursor {
  const Rows* rows;
  std::size_t at, size;
};

Scan& scan_of(sqlite3_vtab_cursor* cursor) noexcept { return *static_cast<Scan*>(cursor); }

int connect(sqlite3* db, void* current, int, const char* const*, sqlite3_vtab** made, char**) {
  const int rc = sqlite3_declare_vtab(db, "CREATE TABLE incoming (a, b, c, d, e, f, g, h, i, j, k, l, m, n, o)");
  if (rc != SQLITE_OK) return rc;
  auto table = std::unique_ptr<Table>(new (std::nothrow) Table{});
  if (table == nullptr) return SQLITE_NOMEM;
  table->current = static_cast<const Rows* const*>(current);
  *made = table.release();
  return SQLITE_OK;
}

int disconnect(sqlite3_vtab* table) {
  const std::unique_ptr<Table> gone(static_cast<Table*>(table));
  return SQLITE_OK;
}

int best_index(sqlite3_vtab*, sqlite3_index_info* plan) {
  plan->estimatedCost = 100;
  plan->estimatedRows = 100;
  return SQLITE_OK;
}

int open(sqlite3_vtab*, sqlite3_vtab_cursor** made) {
  auto scan = std::unique_ptr<Scan>(new (std::nothrow) Scan{});
  if (scan == nullptr) return SQLITE_NOMEM;
  *made = scan.release();
  return SQLITE_OK;
}

int close(sqlite3_vtab_cursor* cursor) {
  const std::unique_ptr<Scan> gone(static_cast<Scan*>(cursor));
  return SQLITE_OK;
}

int filter(sqlite3_vtab_cursor* cursor, int, const char*, int, sqlite3_value**) {
  Scan& scan = scan_of(cursor);
  scan.rows = *static_cast<Table*>(cursor->pVtab)->current;
  scan.at = 0;
  scan.size = scan.rows != nullptr ? scan.rows->size() : 0;
  return SQLITE_OK;
}

int next(sqlite3_vtab_cursor* cursor) {
  ++scan_of(cursor).at;
  return SQLITE_OK;
}

int eof(sqlite3_vtab_cursor* cursor) {
  const Scan& scan = scan_of(cursor);
  return scan.at >= scan.size ? 1 : 0;
}

int column(sqlite3_vtab_cursor* cursor, sqlite3_context* into, int column) {
  const Scan& scan = scan_of(cursor);
  scan.rows->cell(scan.at, column, Cell(into));
  return SQLITE_OK;
}

int rowid(sqlite3_vtab_cursor* cursor, sqlite3_int64* into) {
  *into = static_cast<sqlite3_int64>(scan_of(cursor).at);
  return SQLITE_OK;
}

// No xCreate: there is one such table on a connection, without being created.
const sqlite3_module kModule = {
    .iVersion = 0,
    .xCreate = nullptr,
    .xConnect = connect,
    .xBestIndex = best_index,
    .xDisconnect = disconnect,
    .xDestroy = nullptr,
    .xOpen = open,
    .xClose = close,
    .xFilter = filter,
    .xNext = next,
    .xEof = eof,
    .xColumn = column,
    .xRowid = rowid,
};

}  // namespace

Incoming::Incoming(Connection& connection) : connection_(connection), current_(std::make_unique<const Rows*>(nullptr)) {
  const int rc = sqlite3_create_module_v2(connection.handle(), "incoming", &kModule, current_.get(), nullptr);
  if (rc != SQLITE_OK) raise(connection.handle(), rc, connection.path(), "preparing");
}

Incoming::~Incoming() = default;

void Incoming::insert(Query query, const Rows& rows) {
  if (rows.size() == 0) return;
  struct Showing {
    Showing(const Rows** place, const Rows* rows_) noexcept : current(place) { *current = rows_; }
    ~Showing() { *current = nullptr; }
    Showing(const Showing&) = delete;
    Showing& operator=(const Showing&) = delete;
    const Rows** current;
  } const showing(current_.get(), &rows);
  connection_.use(query)->run();
}

}  // namespace syncline::sqlite
