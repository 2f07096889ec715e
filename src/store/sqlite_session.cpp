#include "store/sqlite_session.h"

#include <algorithm>
#include <utility>

namespace syncline::sqlite {

namespace {

// The half-open range of the ids that begin with `prefix` and are greater than `after_id`. The next string after x in byte order is
// x with a zero byte; all that begin with x lie below x with its last byte raised (no byte of UTF-8 is 0xff, so there is always
// one to raise).
struct IdRange {
  IdRange(std::string_view prefix, std::string_view after_id) : low(prefix), high(prefix) {
    if (!after_id.empty() && after_id >= prefix) low.assign(after_id).push_back('\0');
    if (high.empty()) {
      high.push_back('\xff');
    } else {
      high.back() = static_cast<char>(static_cast<unsigned char>(high.back()) + 1);
    }
  }
  std::string low, high;
};

// The columns of a row as an SQL function gets them, with the words of a Statement.
class Columns {
 public:
  explicit Columns(sqlite3_value** values) noexcept : values_(values) {}
  [[nodiscard]] std::int64_t integer(int column) const noexcept { return sqlite3_value_int64(values_[column]); }
  [[nodiscard]] std::string_view text(int column) const noexcept {
    return view(sqlite3_value_text(values_[column]), sqlite3_value_bytes(values_[column]));
  }
  [[nodiscard]] std::string_view blob(int column) const noexcept {
    return view(sqlite3_value_blob(values_[column]), sqlite3_value_bytes(values_[column]));
  }

 private:
  static std::string_view view(const void* data, int size) noexcept {
    return data == nullptr ? std::string_view() : std::string_view(static_cast<const char*>(data), static_cast<std::size_t>(size));
  }
  sqlite3_value** values_;
};

}  // namespace

Session::Session(std::string path, Mode mode)
    : connection(std::move(path), mode),
      names(connection, Query::name_number, Query::name_text),
      scope_numbers(connection, Query::scope_number, Query::scope_text) {
  constexpr int kColumns = 8;
  const int rc = sqlite3_create_function_v2(connection.handle(), "syncline_left", kColumns, SQLITE_UTF8 | SQLITE_DIRECTONLY, this, &Session::left,
                                            nullptr, nullptr, nullptr);
  if (rc != SQLITE_OK) raise(connection.handle(), rc, connection.path(), "preparing");
}

void Session::begin_read() {
  names.trim();
  scope_numbers.trim();
  if (!snapshot_) snapshot_ = Statement(connection.handle(), text_of(Query::head), connection.path(), true);
  snapshot_.step();
  snapshot_head_ = snapshot_.integer(0);
  reading_ = true;
}

bool Session::end_read() noexcept {
  if (snapshot_) snapshot_.reset();
  reading_ = false;
  return sqlite3_txn_state(connection.handle(), nullptr) == SQLITE_TXN_NONE;
}

void Session::begin_write() {
  names.trim();
  scope_numbers.trim();
  connection.use(Query::begin_write)->run();
  head();
}

void Session::commit() {
  rest();
  connection.use(Query::commit)->run();
}

void Session::abandon() noexcept {
  if (wanted) wanted->abandon();
  snapshot_.abandon();
  connection.abandon();
}

bool Session::rollback() noexcept {
  rest();
  if (!connection.in_transaction()) return true;  // SQLite has done so itself after some errors
  try {
    connection.use(Query::rollback)->run();
    return true;
  } catch (const Error&) {
    return false;
  }
}

Cursor Session::head() {
  if (reading_) return snapshot_head_;
  Loan select = connection.use(Query::head);
  return select->step() ? select->integer(0) : 0;
}

template <class Row>
void Session::read_row(Row& row, EntityMemo& memo, DocumentView& into) {
  into.cursor = cursor_of(row.integer(0));
  if (const std::int64_t entity = row.integer(1); entity != memo.number) {
    memo.text = names.text(entity, memo.scratch);
    memo.number = entity;
  }
  into.entity = memo.text;
  into.id = row.text(2);
  into.version = row.integer(3);
  into.created_at = row.integer(4);
  into.updated_at = row.integer(5);
  into.created = row.integer(6);
  into.body = row.blob(7);
  into.deleted = into.body.empty();  // a live body is a map, one byte at least
}

void Session::documents(std::span<const DocumentKey> keys, const VisitFound& visit) {
  // A visitor that reads through the session that called it finds the open statement in use.
  if (wanted && !looking_up_) {
    struct LookingUp {
      explicit LookingUp(bool& flag_) noexcept : flag(flag_) { flag = true; }
      ~LookingUp() { flag = false; }
      LookingUp(const LookingUp&) = delete;
      LookingUp& operator=(const LookingUp&) = delete;
      bool& flag;
    } const looking_up(looking_up_);
    find_each(keys, visit, [this](std::int64_t scope, std::int64_t entity, std::string_view id) { return wanted->find(scope, entity, id); });
    return;
  }
  Loan select = connection.use(Query::find_document);
  find_each(keys, visit, [&select](std::int64_t scope, std::int64_t entity, std::string_view id) {
    select->reset();
    select->bind(1, scope);
    select->bind(2, entity);
    select->bind_text(3, id);
    return select->step() ? &*select : nullptr;
  });
}

template <class Find>
void Session::find_each(std::span<const DocumentKey> keys, const VisitFound& visit, Find find) {
  EntityMemo memo;
  DocumentView found;
  std::string_view scope;
  std::string_view entity;
  std::int64_t scope_number = 0;
  std::int64_t entity_number = 0;
  for (std::size_t at = 0; at < keys.size(); ++at) {
    const DocumentKey& key = keys[at];
    if (at == 0 || key.scope != scope) scope_number = scope_numbers.number(scope = key.scope);
    if (at == 0 || key.entity != entity) entity_number = names.number(entity = key.entity);
    const bool none = scope_number == 0 || entity_number == 0 || beyond(scope_number, entity_number, key.id);
    Statement* row = none ? nullptr : find(scope_number, entity_number, key.id);
    if (row != nullptr) read_row(*row, memo, found);
    visit(at, row != nullptr ? &found : nullptr);
  }
}

bool Session::beyond(std::int64_t scope, std::int64_t entity, std::string_view id) {
  return frontier && frontier->beyond(scope, entity, id, [&] {
    Loan select = connection.use(Query::highest_id);
    select->bind(1, scope);
    select->bind(2, entity);
    return select->step() ? std::string(select->text(0)) : std::string();
  });
}

void Session::scan(std::string_view scope, std::string_view entity, std::string_view prefix, std::string_view after_id,
                   const VisitDocument& visit) {
  const std::int64_t scope_number = scope_numbers.number(scope);
  const std::int64_t entity_number = names.number(entity);
  if (scope_number == 0 || entity_number == 0) return;
  const IdRange ids(prefix, after_id);
  Loan select = connection.use(Query::scan);
  select->bind(1, scope_number);
  select->bind(2, entity_number);
  select->bind_text(3, ids.low);
  select->bind_text(4, ids.high);
  EntityMemo memo;
  DocumentView row;
  while (select->step()) {
    read_row(*select, memo, row);
    if (!row.deleted && !visit(row)) return;
  }
}

// A row that goes through sqlite3_step and ten sqlite3_column_... costs 600 instructions more than one that is taken here, of the 3,000
// that a document of 200 B took on its way into a page.
void Session::left(sqlite3_context* result, int, sqlite3_value** columns) noexcept {
  auto& session = *static_cast<Session*>(sqlite3_user_data(result));
  int left = 1;
  if (const Offer* const offer = session.offer_; offer != nullptr) {
    try {
      Columns row(columns);
      DocumentView document;
      session.read_row(row, offer->memo, document);
      left = (document.deleted && offer->live_only) || offer->take(document) ? 0 : 1;
    } catch (...) {
      left = 1;
    }
  }
  sqlite3_result_int(result, left);
}

void Session::changed(std::string_view scope, Cursor after, bool live_only, const VisitDocument& visit, const TakeDocument& take) {
  const std::int64_t scope_number = scope_numbers.number(scope);
  if (scope_number == 0 || after >= kMaxCursor) return;
  EntityMemo memo;
  DocumentView row;
  const Offer offer{take, memo, live_only};
  // A visitor may read as well, by another statement: its rows are its own.
  struct Offering {
    Offering(const Offer*& place_, const Offer* offered) noexcept : place(place_), before(std::exchange(place_, offered)) {}
    ~Offering() { place = before; }
    Offering(const Offering&) = delete;
    Offering& operator=(const Offering&) = delete;
    const Offer*& place;
    const Offer* before;
  } const offering(offer_, take ? &offer : nullptr);
  Loan select = connection.use(take ? Query::changed_left : Query::changed);
  select->bind(1, place_of(scope_number, std::max<Cursor>(after, 0)));
  select->bind(2, place_of(scope_number, kMaxCursor));
  while (select->step()) {
    read_row(*select, memo, row);
    if (row.deleted && live_only) continue;
    if (!visit(row)) return;
  }
}

void Session::unlogged(std::string_view scope, std::string_view entity, std::string_view prefix, std::string_view after_id,
                       const VisitUnlogged& visit) {
  const std::int64_t scope_number = scope_numbers.number(scope);
  const std::int64_t entity_number = names.number(entity);
  if (scope_number == 0 || entity_number == 0) return;
  const IdRange ids(prefix, after_id);
  Loan select = connection.use(Query::unlogged);
  select->bind(1, scope_number);
  select->bind(2, entity_number);
  select->bind_text(3, ids.low);
  select->bind_text(4, ids.high);
  while (select->step()) {
    if (!visit({.entity = entity, .id = select->text(0), .body = select->blob(1), .updated_at = select->integer(2)})) return;
  }
}

void Session::unlogged_ages(std::string_view scope, std::string_view entity, const VisitAge& visit) {
  const std::int64_t scope_number = scope_numbers.number(scope);
  const std::int64_t entity_number = names.number(entity);
  if (scope_number == 0 || entity_number == 0) return;
  Loan select = connection.use(Query::unlogged_ages);
  select->bind(1, scope_number);
  select->bind(2, entity_number);
  while (select->step()) {
    if (!visit(select->text(0), select->integer(1))) return;
  }
}

void Session::oldest_tombstones(std::string_view after_scope, const VisitOldest& visit) {
  std::int64_t after = after_scope.empty() ? 0 : scope_numbers.number(after_scope);
  for (;;) {
    // The last place of that scope: the next tombstone is another's.
    std::int64_t place = 0;
    std::int64_t updated_at = 0;
    {
      Loan select = connection.use(Query::oldest_tombstone);
      select->bind(1, place_of(after, kMaxCursor));
      if (!select->step()) return;
      place = select->integer(0);
      updated_at = select->integer(1);
    }
    after = scope_of(place);
    std::string scratch;
    if (!visit({scope_numbers.text(after, scratch), cursor_of(place), updated_at})) return;
  }
}

void Session::overfull_clients(std::int64_t keep, const VisitClient& visit) {
  Loan select = connection.use(Query::overfull_clients);
  select->bind(1, keep);
  while (select->step()) {
    if (!visit({std::string(select->text(0)), std::string(select->text(1)), select->integer(2), select->integer(3), select->integer(4)})) {
      return;
    }
  }
}

bool Session::read_line(Statement& row, const VisitLogLine& visit) {
  std::string scope_scratch;
  std::string entity_scratch;
  std::string mutation_scratch;
  LogLineView line;
  line.cursor = row.integer(0);
  line.scope = scope_numbers.text(row.integer(1), scope_scratch);
  line.entity = names.text(row.integer(2), entity_scratch);
  line.id = row.text(3);
  line.op = static_cast<Op>(row.integer(4));
  line.version = row.integer(5);
  line.previous = row.integer(6);
  line.ts = row.integer(7);
  const bool known_client = !row.is_null(8) && !row.is_text(8);
  line.client_id = known_client ? row.text(9) : row.text(8);
  line.client_seq = row.integer(11);
  if (!row.is_null(12)) {
    line.user = row.text(12);
  } else if (known_client) {
    line.user = row.text(10);
  }
  if (!row.is_null(13)) line.mutation = names.text(row.integer(13), mutation_scratch);
  line.mutation_ts = row.integer(14);
  line.delta = row.blob(15);
  line.hash = static_cast<std::uint64_t>(row.integer(16));
  return visit(line);
}

void Session::log(const LogRange& range, const VisitLogLine& visit) {
  std::int64_t scope_number = 0;
  std::int64_t entity_number = 0;
  if (!range.scope.empty() && (scope_number = scope_numbers.number(range.scope)) == 0) return;
  if (!range.entity.empty() && (entity_number = names.number(range.entity)) == 0) return;
  if (scope_number != 0 && entity_number != 0 && !range.id.empty()) {
    log_of_document(range, scope_number, entity_number, visit);
    return;
  }
  Loan select = connection.use(range.newest_first ? Query::log_newest_first : Query::log);
  select->bind(1, range.after);
  select->bind(2, range.through);
  scope_number != 0 ? select->bind(3, scope_number) : select->bind_null(3);
  entity_number != 0 ? select->bind(4, entity_number) : select->bind_null(4);
  range.id.empty() ? select->bind_null(5) : select->bind_text(5, range.id);
  select->bind_null(6);
  select->bind_null(7);
  if (!range.client_id.empty()) {
    select->bind_text(6, range.client_id);
    select->bind_text(7, range.client_id);
    Loan number = connection.use(Query::client_number);
    number->bind_text(1, range.client_id);
    if (number->step()) select->bind(6, number->integer(0));
  }
  while (select->step()) {
    if (!read_line(*select, visit)) return;
  }
}

void Session::log_of_document(const LogRange& range, std::int64_t scope, std::int64_t entity, const VisitLogLine& visit) {
  Cursor newest = 0;
  {
    Loan key = connection.use(Query::row_cursor);
    key->bind(1, scope);
    key->bind(2, entity);
    key->bind_text(3, range.id);
    if (!key->step()) return;
    newest = key->integer(0);
  }
  const auto see = [&](Cursor cursor) {
    Loan select = connection.use(Query::log_line);
    select->bind(1, cursor);
    if (!select->step()) return false;
    if (!range.client_id.empty()) {
      const bool known_client = !select->is_null(8) && !select->is_text(8);
      if ((known_client ? select->text(9) : select->text(8)) != range.client_id) return true;
    }
    return read_line(*select, visit);
  };
  if (range.newest_first) {
    // Each line is read once where it lies in the range; above it, only its link.
    for (Cursor at = newest; at > range.after;) {
      Cursor previous = 0;
      {
        Loan link = connection.use(Query::log_previous);
        link->bind(1, at);
        if (!link->step()) return;
        previous = link->integer(0);
      }
      if (at <= range.through && !see(at)) return;
      at = previous;
    }
    return;
  }
  const std::vector<Cursor> cursors = chain(newest, range.after);
  for (auto at = cursors.rbegin(); at != cursors.rend(); ++at) {
    if (*at > range.through) return;
    if (!see(*at)) return;
  }
}

Cursor Session::trace(Cursor newest, const VisitLogLine& visit) {
  Loan select = connection.use(Query::log_line);
  for (Cursor at = newest; at > 0;) {
    select->bind(1, at);
    if (!select->step()) return at;
    const Cursor previous = select->integer(6);
    const bool more = read_line(*select, visit);
    select->reset();
    if (!more) return 0;
    if (previous >= at) refuse_loop(at, previous);
    at = previous;
  }
  return 0;
}

Cursor Session::log_floor() {
  Loan select = connection.use(Query::log_floor);
  return select->step() ? select->integer(0) : 0;
}

std::vector<Cursor> Session::chain(Cursor newest, Cursor after) {
  std::vector<Cursor> cursors;
  Loan link = connection.use(Query::log_previous);
  for (Cursor at = newest; at > after;) {
    link->bind(1, at);
    if (!link->step()) break;
    cursors.push_back(at);
    const Cursor previous = link->integer(0);
    link->reset();
    if (previous >= at) refuse_loop(at, previous);
    at = previous;
  }
  return cursors;
}

// A link that leads upwards would go round for ever.
void Session::refuse_loop(Cursor line, Cursor previous) const {
  throw Error(Code::corrupt,
              "The database file '" + connection.path() + "' is damaged: log line " + std::to_string(line) + " follows line " +
                  std::to_string(previous),
              {{"path", connection.path()}});
}

std::optional<ClientRow> Session::client(std::string_view client_id) {
  Loan select = connection.use(Query::find_client);
  select->bind_text(1, client_id);
  if (!select->step()) return std::nullopt;
  return ClientRow{std::string(select->text(0)), std::string(select->text(1)), select->integer(2), select->integer(3),
                   select->integer(4)};
}

std::optional<ResultRow> Session::result(std::string_view client_id, std::int64_t client_seq) {
  Loan select = connection.use(Query::find_result);
  select->bind_text(1, client_id);
  select->bind(2, client_seq);
  if (!select->step() || select->integer(0) > client_seq) return std::nullopt;
  return ResultRow{select->integer(0), select->integer(1), std::string(select->blob(2))};
}

namespace {

ScopeRow scope_row(Statement& row) {
  return ScopeRow{std::string(row.text(0)), row.integer(1), row.integer(2), row.integer(3)};
}

}  // namespace

std::optional<ScopeRow> Session::scope(std::string_view name) {
  // By its number, where that is known, half of the way to the row is saved.
  if (const std::int64_t number = scope_numbers.known(name); number != 0) {
    Loan select = connection.use(Query::scope_row);
    select->bind(1, number);
    if (select->step() && select->text(0) == name) return scope_row(*select);
  }
  Loan select = connection.use(Query::find_scope);
  select->bind_text(1, name);
  if (!select->step()) return std::nullopt;
  scope_numbers.remember(name, select->integer(4));
  return scope_row(*select);
}

void Session::scopes(const VisitScope& visit) {
  Loan select = connection.use(Query::scopes);
  while (select->step()) {
    if (!visit(scope_row(*select))) return;
  }
}

std::vector<EpochRow> Session::epochs() {
  std::vector<EpochRow> rows;
  Loan select = connection.use(Query::epochs);
  while (select->step()) rows.push_back({std::string(select->text(0)), select->integer(1), select->integer(2)});
  return rows;
}

StoreCounts Session::counts() {
  StoreCounts counts;
  counts.tombstones = connection.number("SELECT count(*) FROM documents INDEXED BY tombstones WHERE body IS NULL");
  counts.documents = connection.number("SELECT count(*) FROM keys") - counts.tombstones;
  counts.unlogged = connection.number("SELECT count(*) FROM unlogged");
  counts.log_lines = connection.number("SELECT count(*) FROM changelog");
  counts.clients = connection.number("SELECT count(*) FROM clients");
  counts.results = connection.number("SELECT count(*) FROM results");
  counts.scopes = connection.number("SELECT count(*) FROM scopes");
  return counts;
}

}  // namespace syncline::sqlite
