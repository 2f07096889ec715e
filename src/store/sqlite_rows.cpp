#include "store/sqlite_rows.h"

#include <new>
#include <string>

namespace syncline::sqlite {

struct RowTable::Shown {
  std::string declaration;
  const Rows* rows = nullptr;
};

namespace {

struct Table : sqlite3_vtab {
  const RowTable::Shown* shown;
};

struct Scan : sqlite3_vtab_cursor {
  const Rows* rows;
  std::size_t row;
};

Scan& scan_of(sqlite3_vtab_cursor* cursor) noexcept { return *static_cast<Scan*>(cursor); }

int connect(sqlite3* db, void* given, int, const char* const*, sqlite3_vtab** made, char**) {
  const auto* shown = static_cast<const RowTable::Shown*>(given);
  const int rc = sqlite3_declare_vtab(db, shown->declaration.c_str());
  if (rc != SQLITE_OK) return rc;
  auto table = std::unique_ptr<Table>(new (std::nothrow) Table{});
  if (table == nullptr) return SQLITE_NOMEM;
  table->shown = shown;
  *made = table.release();
  return SQLITE_OK;
}

int disconnect(sqlite3_vtab* table) {
  const std::unique_ptr<Table> gone(static_cast<Table*>(table));
  return SQLITE_OK;
}

int best_index(sqlite3_vtab*, sqlite3_index_info* plan) {
  plan->estimatedCost = 1;
  plan->estimatedRows = 1;
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
  scan.rows = static_cast<Table*>(cursor->pVtab)->shown->rows;
  scan.row = 0;
  return SQLITE_OK;
}

int next(sqlite3_vtab_cursor* cursor) {
  ++scan_of(cursor).row;
  return SQLITE_OK;
}

int eof(sqlite3_vtab_cursor* cursor) {
  const Scan& scan = scan_of(cursor);
  return scan.rows != nullptr && scan.rows->has(scan.row) ? 0 : 1;
}

int column(sqlite3_vtab_cursor* cursor, sqlite3_context* into, int column) {
  const Scan& scan = scan_of(cursor);
  scan.rows->cell(scan.row, column, Cell(into));
  return SQLITE_OK;
}

int rowid(sqlite3_vtab_cursor* cursor, sqlite3_int64* into) {
  *into = static_cast<sqlite3_int64>(scan_of(cursor).row);
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

RowTable::RowTable(Connection& connection, const char* name, const char* columns) : shown_(std::make_unique<Shown>()) {
  shown_->declaration = std::string("CREATE TABLE ") + name + " " + columns;
  const int rc = sqlite3_create_module_v2(connection.handle(), name, &kModule, shown_.get(), nullptr);
  if (rc != SQLITE_OK) raise(connection.handle(), rc, connection.path(), "preparing");
}

RowTable::~RowTable() = default;

void RowTable::show(const Rows* rows) noexcept { shown_->rows = rows; }

}  // namespace syncline::sqlite
