#include "store/sqlite_wanted.h"

#include <new>

namespace syncline::sqlite {

namespace {

// The columns and their order are what Session::read_row expects.
constexpr std::string_view kSelect =
    "SELECT d.place, d.entity, d.id, d.version, d.created_at, d.updated_at, d.created, d.body FROM wanted w"
    " LEFT JOIN keys k ON k.scope = w.scope AND k.entity = w.entity AND k.id = w.id"
    " LEFT JOIN documents d ON d.place = (k.scope << 40 | k.cursor)";

struct Table : sqlite3_vtab {
  const Wanted::Key* key;
};

struct Endless : sqlite3_vtab_cursor {
  sqlite3_int64 row;
};

int connect(sqlite3* db, void* key, int, const char* const*, sqlite3_vtab** made, char**) {
  const int rc = sqlite3_declare_vtab(db, "CREATE TABLE wanted (scope, entity, id)");
  if (rc != SQLITE_OK) return rc;
  auto table = std::unique_ptr<Table>(new (std::nothrow) Table{});
  if (table == nullptr) return SQLITE_NOMEM;
  table->key = static_cast<const Wanted::Key*>(key);
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
  auto cursor = std::unique_ptr<Endless>(new (std::nothrow) Endless{});
  if (cursor == nullptr) return SQLITE_NOMEM;
  *made = cursor.release();
  return SQLITE_OK;
}

int close(sqlite3_vtab_cursor* cursor) {
  const std::unique_ptr<Endless> gone(static_cast<Endless*>(cursor));
  return SQLITE_OK;
}

int filter(sqlite3_vtab_cursor* cursor, int, const char*, int, sqlite3_value**) {
  static_cast<Endless*>(cursor)->row = 0;
  return SQLITE_OK;
}

int next(sqlite3_vtab_cursor* cursor) {
  ++static_cast<Endless*>(cursor)->row;
  return SQLITE_OK;
}

int eof(sqlite3_vtab_cursor*) { return 0; }

int column(sqlite3_vtab_cursor* cursor, sqlite3_context* into, int column) {
  const Wanted::Key& key = *static_cast<Table*>(cursor->pVtab)->key;
  switch (column) {
    case 0: sqlite3_result_int64(into, key.scope); break;
    case 1: sqlite3_result_int64(into, key.entity); break;
    default: sqlite3_result_text(into, key.id.data(), static_cast<int>(key.id.size()), SQLITE_STATIC);
  }
  return SQLITE_OK;
}

int rowid(sqlite3_vtab_cursor* cursor, sqlite3_int64* into) {
  *into = static_cast<Endless*>(cursor)->row;
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

Wanted::Wanted(Connection& connection) : connection_(connection), key_(std::make_unique<Key>()) {
  const int rc = sqlite3_create_module_v2(connection.handle(), "wanted", &kModule, key_.get(), nullptr);
  if (rc != SQLITE_OK) raise(connection.handle(), rc, connection.path(), "preparing");
}

Wanted::~Wanted() = default;

Statement* Wanted::find(std::int64_t scope, std::int64_t entity, std::string_view id) {
  *key_ = {scope, entity, id};
  if (!select_) select_ = std::make_unique<Statement>(connection_.handle(), kSelect, connection_.path(), true);
  open_ = true;
  select_->step();  // it has no last row
  return select_->is_null(0) ? nullptr : select_.get();
}

void Wanted::abandon() noexcept {
  if (select_) select_->abandon();
}

void Wanted::rest() noexcept {
  if (open_) select_->reset();
  open_ = false;
}

}  // namespace syncline::sqlite
