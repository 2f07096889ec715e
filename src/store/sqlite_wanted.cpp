#include "store/sqlite_wanted.h"

namespace syncline::sqlite {

namespace {

// The columns and their order are what Session::read_row expects.
constexpr std::string_view kSelect =
    "SELECT d.place, d.entity, d.id, d.version, d.created_at, d.updated_at, d.created, d.body FROM wanted w"
    " LEFT JOIN keys k ON k.scope = w.scope AND k.entity = w.entity AND k.id = w.id"
    " LEFT JOIN documents d ON d.place = (k.scope << 40 | k.cursor)";

}  // namespace

bool Wanted::Key::has(std::size_t) const noexcept { return true; }

void Wanted::Key::cell(std::size_t, int column, Cell into) const noexcept {
  switch (column) {
    case 0: return into.integer(scope);
    case 1: return into.integer(entity);
    default: return into.text(id);
  }
}

Wanted::Wanted(Connection& connection) : connection_(connection), table_(connection, "wanted", "(scope, entity, id)") { table_.show(&key_); }

Statement* Wanted::find(std::int64_t scope, std::int64_t entity, std::string_view id) {
  key_.scope = scope;
  key_.entity = entity;
  key_.id = id;
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
