#include "store/sqlite_writer.h"

#include <algorithm>
#include <limits>
#include <map>
#include <vector>

namespace syncline::sqlite {

namespace {

constexpr std::size_t kMostClients = 16384;  // kept in memory, of up to 512 bytes each

[[noreturn]] void refuse(const std::string& message) { throw Error(Code::usage, message); }

std::string described(std::string_view scope, std::string_view entity, std::string_view id) {
  return "(" + std::string(scope) + ", " + std::string(entity) + ", " + std::string(id) + ")";
}

// The number of the name that came last: rows of a batch mostly name the same scope, entity and mutation one after the other.
class Last {
 public:
  template <class Number>
  std::int64_t number(std::string_view name, Number of_name) {
    if (number_ == 0 || name != name_) {
      number_ = of_name();
      name_ = name;
    }
    return number_;
  }

 private:
  std::string_view name_;
  std::int64_t number_ = 0;
};

struct LogRow {
  const LogLineView* line = nullptr;
  std::int64_t scope = 0, entity = 0;
  std::int64_t client = 0;    // its number; 0: it has none
  std::int64_t mutation = 0;  // 0: none
  bool by_owner = false;      // the user is the client's owner
};

class NewKeys : public Rows {
 public:
  explicit NewKeys(std::span<const DocumentRow> rows) noexcept : rows_(rows) {}
  [[nodiscard]] bool has(std::size_t row) const noexcept override { return row < rows_.size(); }
  void cell(std::size_t row, int column, Cell into) const noexcept override {
    const DocumentRow& document = rows_[row];
    switch (column) {
      case 0: return into.integer(document.scope);
      case 1: return into.integer(document.entity);
      case 2: return into.text(document.put->id);
      default: return into.integer(document.put->cursor);
    }
  }

 private:
  std::span<const DocumentRow> rows_;
};

class NewRows : public Rows {
 public:
  explicit NewRows(std::span<const DocumentRow> rows) noexcept : rows_(rows) {}
  [[nodiscard]] bool has(std::size_t row) const noexcept override { return row < rows_.size(); }
  void cell(std::size_t row, int column, Cell into) const noexcept override {
    const DocumentRow& document = rows_[row];
    const PutDocument& put = *document.put;
    switch (column) {
      case 0: return into.integer(place_of(document.scope, put.cursor));
      case 1: return into.integer(document.entity);
      case 2: return into.text(put.id);
      case 3: return into.integer(put.version);
      case 4: return into.integer(put.created_at);
      case 5: return into.integer(put.updated_at);
      case 6: return into.integer(put.created);
      default: return put.deleted ? into.null() : into.blob(put.body);
    }
  }

 private:
  std::span<const DocumentRow> rows_;
};

class NewLines : public Rows {
 public:
  explicit NewLines(std::span<const LogRow> rows) noexcept : rows_(rows) {}
  [[nodiscard]] bool has(std::size_t row) const noexcept override { return row < rows_.size(); }
  void cell(std::size_t row, int column, Cell into) const noexcept override {
    const LogRow& numbers = rows_[row];
    const LogLineView& line = *numbers.line;
    switch (column) {
      case 0: return into.integer(line.cursor);
      case 1: return into.integer(numbers.scope);
      case 2: return into.integer(numbers.entity);
      case 3: return into.text(line.id);
      case 4: return into.integer(static_cast<std::int64_t>(line.op));
      case 5: return into.integer(line.version);
      case 6: return into.integer(line.previous);
      case 7: return into.integer(line.ts);
      case 8:
        if (numbers.client != 0) return into.integer(numbers.client);
        return line.client_id.empty() ? into.null() : into.text(line.client_id);
      case 9: return into.integer(line.client_seq);
      case 10: return numbers.by_owner ? into.null() : into.text(line.user);
      case 11: return numbers.mutation != 0 ? into.integer(numbers.mutation) : into.null();
      case 12: return into.integer(line.mutation_ts);
      case 13: return line.delta.empty() ? into.null() : into.blob(line.delta);
      default: return into.integer(static_cast<std::int64_t>(line.hash));
    }
  }

 private:
  std::span<const LogRow> rows_;
};

}  // namespace

Applied Writer::apply(const WriteBatch& batch) {
  session_.rest();
  Applied applied;
  for (const DocumentKey& key : batch.forget_history) forget_history(key, false);
  for (const DocumentKey& key : batch.erase_history) forget_history(key, true);
  for (const std::string_view name : batch.forget_scopes) forget_scope(name);
  for (const SwapScopes& names : batch.swap_scopes) swap_names(names);
  for (const DocumentKey& key : batch.forget_documents) forget_document(key);
  // Clients first: log lines hold their numbers.
  for (const PutClient& client : batch.clients) put(client, applied);
  for (const PutScope& put_scope : batch.scopes) run(Query::set_scope_head, scope(put_scope.name), put_scope.head);
  put(batch.documents);
  for (const PutUnlogged& document : batch.unlogged) put(document);
  put(batch.log);
  for (const EpochRow& epoch : batch.epochs) {
    Loan insert = session_.connection.use(Query::add_epoch);
    insert->bind_text(1, epoch.epoch);
    insert->bind(2, epoch.first);
    insert->bind(3, epoch.opened_at);
    insert->run();
  }
  if (batch.head != 0) {
    Loan update = session_.connection.use(Query::set_head);
    update->bind(1, batch.head);
    update->run();
  }
  for (const Purge& one : batch.purges) purge(one, session_.head(), applied);
  return applied;
}

void Writer::rolled_back() noexcept {
  session_.names.clear();
  session_.scope_numbers.clear();
  if (session_.frontier) session_.frontier->forgotten();
  clients_.clear();
}

void Writer::run(Query query, std::int64_t first, std::int64_t second) {
  Loan statement = session_.connection.use(query);
  statement->bind(1, first);
  statement->bind(2, second);
  statement->run();
}

std::int64_t Writer::name(std::string_view text) {
  if (const std::int64_t known = session_.names.number(text); known != 0) return known;
  Loan insert = session_.connection.use(Query::add_name);
  insert->bind_text(1, text);
  insert->step();
  const std::int64_t number = insert->integer(0);
  insert->step();
  session_.names.remember(text, number);
  return number;
}

std::int64_t Writer::scope(std::string_view text) {
  if (const std::int64_t known = session_.scope_numbers.number(text); known != 0) return known;
  Loan insert = session_.connection.use(Query::add_scope);
  insert->bind_text(1, text);
  insert->step();
  const std::int64_t number = insert->integer(0);
  insert->step();
  if (number > kMaxScopeNumber) {
    throw Error(Code::too_large,
                "'" + session_.connection.path() + "' holds its " + std::to_string(kMaxScopeNumber) +
                    " scopes, the most one file can; put '" + std::string(text) + "' into another database",
                {{"limit", kMaxScopeNumber}});
  }
  session_.scope_numbers.remember(text, number);
  return number;
}

const Writer::Client* Writer::client(std::string_view client_id) {
  if (const auto known = clients_.find(client_id); known != clients_.end()) return &known->second;
  Loan select = session_.connection.use(Query::client_number);
  select->bind_text(1, client_id);
  if (!select->step()) return nullptr;
  if (clients_.size() >= kMostClients) clients_.clear();
  return &clients_.emplace(client_id, Client{select->integer(0), std::string(select->text(1))}).first->second;
}

void Writer::put(const PutClient& put, Applied& applied) {
  std::int64_t number = 0;
  if (put.fresh) {
    Loan insert = session_.connection.use(Query::add_client);
    insert->bind_text(1, put.client_id);
    insert->bind_text(2, put.owner);
    insert->bind(3, put.last_seq);
    insert->bind(4, put.settled);
    insert->bind(5, put.seen_at);
    insert->step();
    number = insert->integer(0);
    insert->step();
  } else {
    const Client* known = client(put.client_id);
    if (known == nullptr) refuse("The client '" + std::string(put.client_id) + "' has no row; say fresh to give it one");
    if (known->owner != put.owner) refuse("The client '" + std::string(put.client_id) + "' belongs to '" + known->owner + "'");
    number = known->number;
    Loan update = session_.connection.use(Query::set_client);
    update->bind(1, number);
    update->bind(2, put.last_seq);
    update->bind(3, put.settled);
    update->bind(4, put.seen_at);
    update->run();
  }
  if (put.forget_through > 0) {
    run(Query::forget_results, number, put.forget_through);
    applied.forgotten_results += session_.connection.changed_rows();
  }
  if (put.results.empty()) return;
  if (put.first_seq > put.last_result_seq) {
    refuse("The results of '" + std::string(put.client_id) + "' end before they begin, at " + std::to_string(put.last_result_seq));
  }
  Loan insert = session_.connection.use(Query::add_result);
  insert->bind(1, number);
  insert->bind(2, put.last_result_seq);
  insert->bind(3, put.first_seq);
  insert->bind_blob(4, put.results);
  insert->run();
}

void Writer::put(std::span<const PutDocument> documents) {
  if (documents.empty()) return;
  std::vector<DocumentRow> rows;
  std::vector<DocumentRow> keys;
  rows.reserve(documents.size());
  Last scopes;
  Last entities;
  std::vector<DocumentKey> wanted;
  for (const PutDocument& put : documents) {
    if (put.cursor < 1 || put.cursor > kMaxCursor) {
      refuse("The cursor " + std::to_string(put.cursor) + " is not one of 1 ... " + std::to_string(kMaxCursor));
    }
    if (put.deleted != put.body.empty()) {
      refuse("The document " + described(put.scope, put.entity, put.id) + " must have a body, or be deleted and have none");
    }
    rows.push_back({&put, scopes.number(put.scope, [&] { return scope(put.scope); }),
                    entities.number(put.entity, [&] { return name(put.entity); }), put.previous});
    if (put.previous == kFindRow) wanted.push_back({put.scope, put.entity, put.id});
  }
  if (!wanted.empty()) find_rows(wanted, rows);
  for (const DocumentRow& row : rows) {
    if (row.previous != 0) {
      move(row);
    } else if (row.put->claimed == 0) {
      keys.push_back(row);
    } else if (row.put->claimed != row.put->cursor) {
      move_key(row, row.put->claimed);
    }
  }
  incoming_.insert(Query::add_keys, NewKeys(keys));
  if (session_.frontier) {
    for (const DocumentRow& row : keys) session_.frontier->added(row.scope, row.entity, row.put->id);
  }
  incoming_.insert(Query::add_rows, NewRows(rows));
}

// Takes the document's row away, and points its key to where the next one will be.
void Writer::move(const DocumentRow& row) {
  {
    Loan remove = session_.connection.use(Query::remove_row);
    remove->bind(1, place_of(row.scope, row.previous));
    remove->run();
  }
  move_key(row, row.previous);
}

void Writer::move_key(const DocumentRow& row, Cursor from) {
  const PutDocument& put = *row.put;
  Loan key = session_.connection.use(Query::move_key);
  key->bind(1, row.scope);
  key->bind(2, row.entity);
  key->bind_text(3, put.id);
  key->bind(4, put.cursor);
  key->run();
  if (session_.connection.changed_rows() != 1) {
    refuse("The document " + described(put.scope, put.entity, put.id) + " has no row at cursor " + std::to_string(from));
  }
}

// Asks for the rows of all whose row is not known, in order, before anything is written.
void Writer::find_rows(std::span<const DocumentKey> keys, std::span<DocumentRow> rows) {
  auto row = rows.begin();
  session_.documents(keys, [&](std::size_t, const DocumentView* found) {
    while (row->previous != kFindRow) ++row;
    row->previous = found != nullptr ? found->cursor : 0;
  });
  session_.rest();
}

void Writer::forget_scope(std::string_view name) {
  const std::int64_t number = session_.scope_numbers.number(name);
  if (number == 0) return;
  run(Query::remove_rows, place_of(number, 0), place_of(number, kMaxCursor));
  Loan remove = session_.connection.use(Query::remove_keys);
  remove->bind(1, number);
  remove->run();
  if (session_.frontier) session_.frontier->forgotten();
}

void Writer::swap_names(const SwapScopes& names) {
  const std::int64_t one = scope(names.one);
  const std::int64_t other = scope(names.other);
  const auto rename = [&](std::int64_t number, std::string_view name) {
    Loan update = session_.connection.use(Query::rename_scope);
    update->bind(1, number);
    update->bind_text(2, name);
    update->run();
  };
  // No scope has an empty name.
  rename(one, {});
  rename(other, names.one);
  rename(one, names.other);
  session_.scope_numbers.clear();
}

void Writer::forget_document(const DocumentKey& key) {
  const std::int64_t scope_number = session_.scope_numbers.number(key.scope);
  const std::int64_t entity_number = session_.names.number(key.entity);
  if (scope_number == 0 || entity_number == 0) return;
  Cursor cursor = 0;
  {
    Loan select = session_.connection.use(Query::row_cursor);
    select->bind(1, scope_number);
    select->bind(2, entity_number);
    select->bind_text(3, key.id);
    if (!select->step()) return;
    cursor = select->integer(0);
  }
  Loan row = session_.connection.use(Query::remove_row);
  row->bind(1, place_of(scope_number, cursor));
  row->run();
  Loan gone = session_.connection.use(Query::remove_key);
  gone->bind(1, scope_number);
  gone->bind(2, entity_number);
  gone->bind_text(3, key.id);
  gone->run();
}

Claim Writer::claim(const DocumentKey& key, Cursor cursor) {
  const std::int64_t scope_number = scope(key.scope);
  const std::int64_t entity_number = name(key.entity);
  if (session_.beyond(scope_number, entity_number, key.id)) return Claim::free;
  Loan insert = session_.connection.use(Query::claim_key);
  insert->bind(1, scope_number);
  insert->bind(2, entity_number);
  insert->bind_text(3, key.id);
  insert->bind(4, cursor);
  insert->run();
  return session_.connection.changed_rows() == 1 ? Claim::made : Claim::taken;
}

void Writer::put(const PutUnlogged& put) {
  if (!put.scope.starts_with('_') && !put.entity.starts_with('_')) {
    refuse("The document " + described(put.scope, put.entity, put.id) + " cannot be unlogged: neither its scope nor its entity is reserved");
  }
  Loan statement = session_.connection.use(put.body.empty() ? Query::remove_unlogged : Query::put_unlogged);
  statement->bind(1, scope(put.scope));
  statement->bind(2, name(put.entity));
  statement->bind_text(3, put.id);
  if (!put.body.empty()) {
    statement->bind(4, put.updated_at);
    statement->bind_blob(5, put.body);
  }
  statement->run();
}

void Writer::put(std::span<const LogLineView> lines) {
  if (lines.empty()) return;
  std::vector<LogRow> rows;
  rows.reserve(lines.size());
  Last scopes;
  Last entities;
  Last mutations;
  for (const LogLineView& line : lines) {
    if (line.previous >= line.cursor) {
      refuse("The log line " + std::to_string(line.cursor) + " cannot follow the line " + std::to_string(line.previous));
    }
    const Client* known = line.client_id.empty() ? nullptr : client(line.client_id);
    rows.push_back({.line = &line,
                    .scope = scopes.number(line.scope, [&] { return scope(line.scope); }),
                    .entity = entities.number(line.entity, [&] { return name(line.entity); }),
                    .client = known != nullptr ? known->number : 0,
                    .mutation = line.mutation.empty() ? 0 : mutations.number(line.mutation, [&] { return name(line.mutation); }),
                    .by_owner = line.user == (known != nullptr ? std::string_view(known->owner) : std::string_view())});
  }
  incoming_.insert(Query::add_log_lines, NewLines(rows));
}

void Writer::remove_line(Cursor cursor) {
  Loan remove = session_.connection.use(Query::remove_log_line);
  remove->bind(1, cursor);
  remove->run();
}

bool Writer::deleted(std::int64_t place) {
  Loan select = session_.connection.use(Query::is_tombstone);
  select->bind(1, place);
  return select->step() && select->integer(0) != 0;
}

void Writer::forget_history(const DocumentKey& key, bool erase) {
  const std::int64_t scope_number = session_.scope_numbers.number(key.scope);
  const std::int64_t entity_number = session_.names.number(key.entity);
  if (scope_number == 0 || entity_number == 0) return;
  Cursor newest = 0;
  {
    Loan select = session_.connection.use(Query::row_cursor);
    select->bind(1, scope_number);
    select->bind(2, entity_number);
    select->bind_text(3, key.id);
    if (!select->step()) return;
    newest = select->integer(0);
  }
  std::vector<Cursor> lines = session_.chain(newest, 0);
  if (lines.empty()) return;
  if (!erase) {
    run(Query::raise_log_floor, scope_number, lines.front());
  } else if (deleted(place_of(scope_number, newest))) {
    Loan strip = session_.connection.use(Query::strip_log_line);
    strip->bind(1, newest);
    strip->run();
    lines.erase(lines.begin());
  }
  for (const Cursor line : lines) remove_line(line);
}

void Writer::purge(const Purge& purge, Cursor head, Applied& applied) {
  if (purge.log_through > 0) purge_log(purge, head, applied);
  if (purge.tombstones_through > 0) purge_tombstones(purge, applied);
}

void Writer::purge_log(const Purge& purge, Cursor head, Applied& applied) {
  // A line above the head would be written later, below a mark that says it had been looked at.
  const Cursor through = std::min(purge.log_through, head);
  const std::int64_t most = purge.at_most > 0 ? purge.at_most : std::numeric_limits<std::int64_t>::max();
  const bool everywhere = purge.scope.empty();
  const std::int64_t scope_number = everywhere ? 0 : session_.scope_numbers.number(purge.scope);
  if (!everywhere && scope_number == 0) return;

  std::vector<Cursor> lines;
  std::map<std::int64_t, Cursor> floors;  // of each scope, its highest line here
  {
    Loan select = session_.connection.use(everywhere ? Query::sweep_log_everywhere : Query::sweep_log);
    if (everywhere) {
      select->bind(1, through);
      select->bind(2, most);
    } else {
      Loan swept = session_.connection.use(Query::log_swept);
      swept->bind(1, scope_number);
      select->bind(1, swept->step() ? swept->integer(0) : 0);
      select->bind(2, through);
      select->bind(3, scope_number);
      select->bind(4, most);
    }
    while (select->step()) {
      lines.push_back(select->integer(0));
      floors[select->integer(1)] = lines.back();
    }
  }
  for (const Cursor line : lines) remove_line(line);
  for (const auto& [number, floor] : floors) run(Query::raise_log_floor, number, floor);
  const auto removed = static_cast<std::int64_t>(lines.size());
  if (!everywhere) run(Query::set_log_swept, scope_number, removed < most ? through : lines.back());
  applied.purged_log_lines += removed;
}

void Writer::purge_tombstones(const Purge& purge, Applied& applied) {
  struct Tombstone {
    std::int64_t place, entity;
    std::string id;
  };
  const std::int64_t most = purge.at_most > 0 ? purge.at_most : std::numeric_limits<std::int64_t>::max();
  const Cursor through = std::min(purge.tombstones_through, kMaxCursor);
  const bool everywhere = purge.scope.empty();
  std::vector<Tombstone> tombstones;
  {
    Loan select = session_.connection.use(everywhere ? Query::sweep_tombstones_everywhere : Query::sweep_tombstones);
    if (everywhere) {
      select->bind(1, through);
      select->bind(2, most);
      select->bind(3, purge.tombstones_before);
    } else {
      const std::int64_t scope_number = session_.scope_numbers.number(purge.scope);
      if (scope_number == 0) return;
      select->bind(1, place_of(scope_number, 0));
      select->bind(2, place_of(scope_number, through));
      select->bind(3, most);
      select->bind(4, purge.tombstones_before);
    }
    while (select->step()) tombstones.push_back({select->integer(0), select->integer(1), std::string(select->text(2))});
  }
  // Oldest first, line by line from the oldest: what the bound cuts off is still a whole chain, and its tombstone stays.
  std::int64_t lines_left = most;
  std::map<std::int64_t, std::pair<Cursor, Cursor>> floors;  // of each scope: tombstones, lines
  for (const Tombstone& tombstone : tombstones) {
    const std::int64_t scope_number = scope_of(tombstone.place);
    auto& [floor, log_floor] = floors[scope_number];
    const std::vector<Cursor> chain = session_.chain(cursor_of(tombstone.place), 0);
    const auto lines = std::min(lines_left, static_cast<std::int64_t>(chain.size()));
    for (auto line = chain.rbegin(); line != chain.rbegin() + lines; ++line) {
      remove_line(*line);
      log_floor = std::max(log_floor, *line);
    }
    lines_left -= lines;
    applied.purged_log_lines += lines;
    if (lines < static_cast<std::int64_t>(chain.size())) break;
    {
      Loan key = session_.connection.use(Query::remove_key);
      key->bind(1, scope_number);
      key->bind(2, tombstone.entity);
      key->bind_text(3, tombstone.id);
      key->run();
    }
    Loan row = session_.connection.use(Query::remove_row);
    row->bind(1, tombstone.place);
    row->run();
    floor = std::max(floor, cursor_of(tombstone.place));
    ++applied.purged_tombstones;
  }
  for (const auto& [number, reached] : floors) {
    if (reached.first > 0) run(Query::raise_floor, number, reached.first);
    if (reached.second > 0) run(Query::raise_log_floor, number, reached.second);
  }
}

}  // namespace syncline::sqlite
