#include "engine/history.h"

#include <algorithm>
#include <map>
#include <memory>
#include <tuple>
#include <utility>

#include "base/delta.h"
#include "base/ids.h"
#include "base/msgpack.h"
#include "engine/results.h"

namespace syncline {

namespace {

// A chunk of the log is one read transaction: the first one small, because many readers want a few lines, the next ones large enough
// that their transactions cost nothing. With a filter, a transaction looks at no more than a window of cursors.
constexpr std::size_t kFirstChunk = 64;
constexpr std::size_t kLargestChunk = 4096;
constexpr std::size_t kChunkBytes = std::size_t{1} << 20;
constexpr Cursor kWindow = 1 << 16;

struct Place {
  std::string_view scope, entity, id;
};

std::string named(const Place& place) {
  return std::string(place.entity) + "/" + std::string(place.id) + " in " + std::string(place.scope);
}

[[noreturn]] void refuse_gone(std::string_view what, Cursor asked, Cursor floor) {
  throw Error(Code::history_gone,
              "the history of " + std::string(what) + " is kept from cursor " + std::to_string(floor) + " on; cursor " +
                  std::to_string(asked) + " was asked for",
              {{"floor", floor}});
}

[[noreturn]] void refuse_damaged(const Place& place, Cursor line, const std::string& why) {
  throw Error(Code::corrupt, "log line " + std::to_string(line) + " of " + named(place) + " " + why + "; engine.verify() tells what else is damaged",
              {{"cursor", line}});
}

Cursor log_floor_of(ReadTx& tx, std::string_view scope) {
  const std::optional<ScopeRow> row = tx.scope(scope);
  return row ? row->log_floor : 0;
}

// A line that is not there was purged, or the file is damaged.
void check_purged(ReadTx& tx, const Place& place, Cursor missing) {
  if (missing > log_floor_of(tx, place.scope)) refuse_damaged(place, missing, "is missing");
}

// `body` (empty: deleted) and `version` must be what the line left.
void check_line(const LogLineView& line, const Place& place, std::string_view body, std::int64_t version) {
  if (line.id != place.id || line.entity != place.entity || line.scope != place.scope) {
    refuse_damaged(place, line.cursor, "is one of " + named({line.scope, line.entity, line.id}));
  }
  if (line.version != version) {
    refuse_damaged(place, line.cursor,
                   "made version " + std::to_string(line.version) + ", and not the " + std::to_string(version) + " that is found behind it");
  }
  if (line.op == Op::update && line.previous == 0) refuse_damaged(place, line.cursor, "changes what it says was not there");
  if (body.empty() != (line.op == Op::remove)) refuse_damaged(place, line.cursor, "does not fit the line behind it");
  if (!body.empty() && mp::hash64(body) != line.hash) refuse_damaged(place, line.cursor, "has another hash than the body it left");
}

// What the document was before that line; empty: absent. A deletion whose body was erased knows not: nullopt.
std::optional<std::string> before(const LogLineView& line, const Place& place, std::string_view body) {
  switch (line.op) {
    case Op::create: return std::string();
    case Op::update: break;
    case Op::remove: return line.delta.empty() ? std::nullopt : std::optional<std::string>(line.delta);
  }
  try {
    return delta::undo(body, line.delta);
  } catch (const Error& error) {
    refuse_damaged(place, line.cursor, std::string("cannot be undone: ") + error.what());
  }
}

void check_not_future(Cursor cursor, Cursor head, const char* what) {
  if (cursor < 0) throw Error(Code::invalid_request, std::string(what) + " is negative; 0 is before everything");
  if (cursor > head) {
    throw Error(Code::invalid_request,
                std::string(what) + " " + std::to_string(cursor) + " lies in the future: the database's head is " + std::to_string(head),
                {{"head", head}});
  }
}

void check_not_future(const Instant& instant, Engine& engine, const char* what) {
  if (instant.microseconds > engine.now()) throw Error(Code::invalid_request, std::string(what) + " lies in the future of the server's clock");
}

std::optional<std::pair<Cursor, std::int64_t>> newest_of(ReadTx& tx, const Place& place, std::string* body) {
  std::optional<std::pair<Cursor, std::int64_t>> found;
  const DocumentKey key{place.scope, place.entity, place.id};
  tx.documents({&key, 1}, [&](std::size_t, const DocumentView* document) {
    if (document == nullptr) return;
    found = {document->cursor, document->version};
    if (body != nullptr) *body = document->body;
  });
  return found;
}

void check_place(std::string_view scope, std::string_view entity, std::string_view id) {
  check_name(scope, "scope", Code::invalid_scope, true);
  check_name(entity, "entity", Code::invalid_request, true);
  check_name(id, "id", Code::invalid_request, true);
}

}  // namespace

Cursor cursor_at(ReadTx& tx, std::int64_t instant) {
  // The log's times rise with its cursors (one clock, one writer), so the last line up to a time is found by halving.
  Cursor low = 0;
  Cursor high = tx.head() + 1;
  while (high - low > 1) {
    const Cursor middle = low + (high - low) / 2;
    Cursor at = high;
    std::int64_t ts = 0;
    tx.log({.after = middle - 1, .through = high - 1}, [&](const LogLineView& line) {
      at = line.cursor;
      ts = line.ts;
      return false;
    });
    if (at < high && ts <= instant) {
      low = at;
    } else {
      high = middle;  // later, or no line in this half
    }
  }
  return low;
}

// ---------------------------------------------------------------------------------------------------------------- log

LogReader::LogReader(Engine& engine, LogRequest request) : engine_(engine), request_(std::move(request)), left_(request_.limit) {
  if (!request_.scope.empty()) check_name(request_.scope, "scope", Code::invalid_scope, true);
  if (!request_.entity.empty()) check_name(request_.entity, "entity", Code::invalid_request, true);
  if (!request_.id.empty()) check_name(request_.id, "id", Code::invalid_request, true);
  if (!request_.client_id.empty()) check_name(request_.client_id, "client_id", Code::invalid_request, true);
  if (left_ < -1) throw Error(Code::invalid_request, "limit must not be negative");

  const std::unique_ptr<ReadTx> tx = engine_.begin_read();
  through_ = tx->head();
  bool everything = false;
  if (const Cursor* cursor = std::get_if<Cursor>(&request_.since)) {
    check_not_future(*cursor, through_, "since");
    after_ = *cursor;
    everything = after_ == 0;
  } else {
    const Instant since = std::get<Instant>(request_.since);
    check_not_future(since, engine_, "since");
    after_ = cursor_at(*tx, since.microseconds - 1);
  }
  if (request_.through) {
    const Cursor* cursor = std::get_if<Cursor>(&*request_.through);
    if (cursor != nullptr && *cursor < 0) throw Error(Code::invalid_request, "through is negative; 0 is before everything");
    through_ = std::min(through_, cursor != nullptr ? *cursor : cursor_at(*tx, std::get<Instant>(*request_.through).microseconds));
  }
  if (!everything) {
    const Cursor floor = request_.scope.empty() ? tx->log_floor() : log_floor_of(*tx, request_.scope);
    if (after_ < floor) refuse_gone(request_.scope.empty() ? "the database" : request_.scope, after_, floor);
  }
  low_ = after_;
  high_ = through_;

  of_document_ = !request_.scope.empty() && !request_.entity.empty() && !request_.id.empty();
  if (!of_document_) return;
  const Place place{request_.scope, request_.entity, request_.id};
  const auto newest = newest_of(*tx, place, nullptr);
  high_ = newest ? newest->first : 0;
  if (request_.newest_first) return;
  const Cursor missing = tx->trace(high_, [&](const LogLineView& line) {
    if (line.cursor <= after_) return false;
    if (line.cursor <= through_) lines_.push_back(line.cursor);
    return true;
  });
  if (missing > after_) check_purged(*tx, place, missing);
  at_ = lines_.size();
}

bool LogReader::next(const VisitLogLine& visit) {
  if (left_ == 0 || (of_document_ && !request_.newest_first ? at_ == 0 : high_ <= low_)) return false;
  chunk_ = chunk_ == 0 ? kFirstChunk : std::min(chunk_ * 4, kLargestChunk);
  lines_left_ = chunk_;
  bytes_left_ = kChunkBytes;
  const std::unique_ptr<ReadTx> tx = engine_.begin_read();
  return of_document_ ? next_of_document(*tx, visit) : next_of_range(*tx, visit);
}

bool LogReader::takes(const LogLineView& line) const {
  if (request_.scope.empty() && line.scope.starts_with('_')) return false;
  if (request_.entity.empty() && line.entity.starts_with('_')) return false;
  return request_.client_id.empty() || line.client_id == request_.client_id;
}

// False: this chunk is full.
bool LogReader::visit_one(const LogLineView& line, const VisitLogLine& visit) {
  if (!takes(line)) return true;
  if (left_ > 0) --left_;
  --lines_left_;
  bytes_left_ -= std::min(bytes_left_, line.delta.size());
  return visit(line) && left_ != 0 && lines_left_ != 0 && bytes_left_ != 0;
}

bool LogReader::next_of_document(ReadTx& tx, const VisitLogLine& visit) {
  if (request_.newest_first) {
    const Cursor missing = tx.trace(high_, [&](const LogLineView& line) {
      high_ = line.previous;
      if (line.cursor <= after_) {
        high_ = 0;
        return false;
      }
      return line.cursor > through_ || visit_one(line, visit);
    });
    if (missing > after_) check_purged(tx, {request_.scope, request_.entity, request_.id}, missing);
    if (missing != 0) high_ = 0;
    return left_ != 0 && high_ > low_;
  }
  bool going_on = true;
  while (going_on && at_ > 0) {
    // A line that was purged since the reading began is passed over.
    tx.trace(lines_[--at_], [&](const LogLineView& line) {
      going_on = visit_one(line, visit);
      return false;
    });
  }
  return left_ != 0 && at_ > 0;
}

bool LogReader::next_of_range(ReadTx& tx, const VisitLogLine& visit) {
  const bool down = request_.newest_first;
  const Cursor end = down ? std::max(low_, high_ - kWindow) : std::min(high_, low_ + kWindow);
  Cursor stopped_at = 0;
  tx.log({.after = down ? end : low_,
          .through = down ? high_ : end,
          .scope = request_.scope,
          .entity = request_.entity,
          .id = request_.id,
          .client_id = request_.client_id,
          .newest_first = down},
         [&](const LogLineView& line) {
           if (visit_one(line, visit)) return true;
           stopped_at = line.cursor;
           return false;
         });
  if (down) {
    high_ = stopped_at != 0 ? stopped_at - 1 : end;
  } else {
    low_ = stopped_at != 0 ? stopped_at : end;
  }
  return left_ != 0 && low_ < high_;
}

// ------------------------------------------------------------------------------------------------------------ versions

VersionReader::VersionReader(Engine& engine, std::string scope, std::string entity, std::string id)
    : engine_(engine), scope_(std::move(scope)), entity_(std::move(entity)), id_(std::move(id)) {
  check_place(scope_, entity_, id_);
  const Place place{scope_, entity_, id_};
  const std::unique_ptr<ReadTx> tx = engine_.begin_read();
  const auto newest = newest_of(*tx, place, &body_);
  if (!newest) throw Error(Code::not_found, "there is no " + named(place) + ": it was never written, or deleted and forgotten since");
  std::tie(at_, version_) = *newest;
  if (tx->trace(at_, [](const LogLineView&) { return false; }) == 0) return;
  check_purged(*tx, place, at_);
  throw Error(Code::history_gone, "no history of " + named(place) + " is kept: it was compacted away, or erased",
              {{"floor", log_floor_of(*tx, scope_)}});
}

bool VersionReader::next(std::size_t at_most, const VisitVersion& visit) {
  if (at_ == 0 || at_most == 0) return at_ != 0;
  const Place place{scope_, entity_, id_};
  const std::unique_ptr<ReadTx> tx = engine_.begin_read();
  const Cursor missing = tx->trace(at_, [&](const LogLineView& line) {
    check_line(line, place, body_, version_);
    const bool wanted = visit({line, body_}) && --at_most > 0;
    std::optional<std::string> earlier = before(line, place, body_);
    complete_ = line.previous == 0 && line.op == Op::create;
    at_ = earlier ? line.previous : 0;
    body_ = std::move(earlier).value_or(std::string());
    version_ = line.version - 1;
    return wanted && at_ != 0;
  });
  if (missing != 0) {
    check_purged(*tx, place, missing);
    at_ = 0;
  }
  return at_ != 0;
}

std::vector<std::string> bodies_of(Engine& engine, std::span<const LineKey> lines) {
  std::vector<std::string> bodies(lines.size());
  std::map<std::tuple<std::string_view, std::string_view, std::string_view>, std::vector<std::size_t>> documents;
  for (std::size_t n = 0; n < lines.size(); ++n) documents[{lines[n].scope, lines[n].entity, lines[n].id}].push_back(n);
  const std::unique_ptr<ReadTx> tx = engine.begin_read();
  for (auto& document : documents) {
    const auto& [scope, entity, id] = document.first;
    const Place place{scope, entity, id};
    std::vector<std::size_t>& wanted = document.second;
    std::ranges::sort(wanted, std::ranges::greater{}, [&](std::size_t n) { return lines[n].cursor; });
    auto next = wanted.begin();
    std::string body;
    if (const auto newest = newest_of(*tx, place, &body)) {
      std::int64_t version = newest->second;
      tx->trace(newest->first, [&](const LogLineView& line) {
        check_line(line, place, body, version);
        if (line.cursor == lines[*next].cursor) {
          bodies[*next] = body;
          if (++next == wanted.end()) return false;
        }
        std::optional<std::string> earlier = before(line, place, body);
        if (!earlier) return false;
        body = std::move(*earlier);
        version = line.version - 1;
        return line.previous >= lines[*next].cursor;
      });
    }
    if (next != wanted.end()) refuse_gone(named(place), lines[*next].cursor, log_floor_of(*tx, place.scope));
  }
  return bodies;
}

// ---------------------------------------------------------------------------------------------------------------- past

Past::Past(Engine& engine, const Moment& moment) : engine_(engine) {
  const std::unique_ptr<ReadTx> tx = engine_.begin_read();
  if (const Cursor* cursor = std::get_if<Cursor>(&moment)) {
    check_not_future(*cursor, tx->head(), "cursor");
    cursor_ = *cursor;
  } else {
    const Instant instant = std::get<Instant>(moment);
    check_not_future(instant, engine_, "that moment");
    cursor_ = cursor_at(*tx, instant.microseconds);
  }
}

std::unique_ptr<ReadTx> Past::read(std::string_view scope) {
  check_name(scope, "scope", Code::invalid_scope, true);
  std::unique_ptr<ReadTx> tx = engine_.begin_read();
  const std::optional<ScopeRow> row = tx->scope(scope);
  if (!row) return nullptr;
  // A purged tombstone was a document once; a purged line, what it was before. Those at or below the cursor are none of its business.
  if (const Cursor floor = std::max(row->floor, row->log_floor); floor > cursor_) refuse_gone(scope, cursor_, floor);
  return tx;
}

Past::State Past::undo(ReadTx& tx, std::string_view scope, const DocumentView& document) const {
  const Place place{scope, document.entity, document.id};
  State state{std::string(document.body), document.version};
  const Cursor missing = tx.trace(document.cursor, [&](const LogLineView& line) {
    check_line(line, place, state.body, state.version);
    if (line.cursor <= cursor_) return false;  // looked at for its hash alone
    std::optional<std::string> earlier = before(line, place, state.body);
    if (!earlier) {
      throw Error(Code::history_gone, "what " + named(place) + " was before cursor " + std::to_string(line.cursor) + " was erased",
                  {{"floor", line.cursor}});
    }
    state = {std::move(*earlier), line.version - 1};
    return line.previous > cursor_ || !state.body.empty();
  });
  if (missing != 0) check_purged(tx, place, missing);
  return state;
}

Past::State Past::state(std::string_view scope, std::string_view entity, std::string_view id) {
  State state;
  const std::unique_ptr<ReadTx> tx = read(scope);
  if (!tx) return state;
  const DocumentKey key{scope, entity, id};
  tx->documents({&key, 1}, [&](std::size_t, const DocumentView* document) {
    if (document == nullptr) return;
    state = document->cursor > cursor_ ? undo(*tx, scope, *document) : State{std::string(document->body), document->version};
  });
  return state;
}

std::optional<std::string> Past::get(std::string_view scope, std::string_view entity, std::string_view id) {
  State found = state(scope, entity, id);
  if (found.body.empty()) return std::nullopt;
  return std::move(found.body);
}

std::int64_t Past::version(std::string_view scope, std::string_view entity, std::string_view id) {
  const State found = state(scope, entity, id);
  return found.body.empty() ? 0 : found.version;
}

// Live documents as they were, in byte order of id: what changed since is undone and laid over what is there now.
void Past::visit_all(ReadTx& tx, std::string_view scope, std::string_view entity, std::string_view prefix, const VisitRow& visit) const {
  std::map<std::string, std::string, std::less<>> then;
  tx.changed(scope, cursor_, false, [&](const DocumentView& document) {
    if (document.entity == entity && document.id.starts_with(prefix)) then.emplace(document.id, undo(tx, scope, document).body);
    return true;
  });
  auto next = then.begin();
  bool wanted = true;
  const auto overlaid = [&] {
    if (!next->second.empty()) wanted = visit(next->first, next->second);
    ++next;
  };
  tx.scan(scope, entity, prefix, {}, [&](const DocumentView& document) {
    while (wanted && next != then.end() && next->first < document.id) overlaid();
    if (!wanted) return false;
    if (next != then.end() && next->first == document.id) {
      overlaid();
    } else {
      wanted = visit(document.id, document.body);
    }
    return wanted;
  });
  while (wanted && next != then.end()) overlaid();
}

std::vector<Row> Past::scan(std::string_view scope, std::string_view entity, std::string_view prefix, std::int64_t limit) {
  const std::unique_ptr<ReadTx> tx = read(scope);
  if (!tx) return {};
  return take_rows([&](const VisitRow& visit) { visit_all(*tx, scope, entity, prefix, visit); }, limit);
}

std::vector<Row> Past::find(std::string_view scope, std::string_view entity, const FindOptions& options) {
  const std::unique_ptr<ReadTx> tx = read(scope);
  if (!tx) return {};
  return find_rows([&](const VisitRow& visit) { visit_all(*tx, scope, entity, {}, visit); }, options);
}

// -------------------------------------------------------------------------------------------------------------- explain

Findings find_out(Engine& engine, std::string_view scope, std::string_view entity, std::string_view id, std::string_view client_id) {
  check_place(scope, entity, id);
  if (!client_id.empty()) check_name(client_id, "client_id", Code::invalid_request, true);
  const std::unique_ptr<ReadTx> tx = engine.begin_read();
  Findings found;
  found.head = tx->head();
  found.scope = tx->scope(scope);
  const DocumentKey key{scope, entity, id};
  tx->documents({&key, 1}, [&](std::size_t, const DocumentView* document) {
    if (document == nullptr) return;
    found.state = document->deleted ? Findings::State::deleted : Findings::State::live;
    found.version = document->version;
    found.created_at = document->created_at;
    found.updated_at = document->updated_at;
    found.cursor = document->cursor;
    found.created = document->created;
  });
  tx->trace(found.cursor, [&](const LogLineView& line) {
    found.has_line = true;
    found.user = line.user;
    found.by_client = line.client_id;
    found.by_client_seq = line.client_seq;
    found.mutation = line.mutation;
    return false;
  });
  if (client_id.empty()) return found;
  found.client = tx->client(client_id);
  if (const std::optional<Position> position = engine.position(*tx, client_id, scope); position && position->cursor > 0) {
    found.position = position->cursor;
    found.position_at = position->last_seen;
  }
  if (!found.client) return found;
  const std::int64_t last = found.client->last_seq;
  std::optional<ResultRow> row;
  for (std::int64_t seq = last; seq > std::max<std::int64_t>(last - Findings::kRecent, 0); --seq) {
    // One row has the results of one push.
    if (!row || seq < row->first_seq) row = tx->result(client_id, seq);
    if (!row) continue;
    const std::optional<results::Stored> stored = results::find(row->results, seq);
    if (!stored || stored->result.ok()) continue;
    found.refused.push_back({seq, stored->result.error->code, stored->result.error->message});
  }
  return found;
}

}  // namespace syncline
