// The reading half of the engine: pull, snapshot, views. Each is one short read transaction.
#include <algorithm>
#include <charconv>
#include <cstddef>
#include <limits>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/ids.h"
#include "engine/engine.h"
#include "engine/page.h"

namespace syncline {

namespace {

// Grammar  token := position '.' began '.' epoch
//          position: of the last change that was sent; began: the head when the first page was read, 0 for a pull from above 0.
struct PageToken {
  Cursor position = 0, began = 0;
  std::string epoch;
};

std::string format_token(const PageToken& token) {
  return std::to_string(token.position) + "." + std::to_string(token.began) + "." + token.epoch;
}

PageToken parse_token(std::string_view text) {
  const auto refuse = [] { return Error(Code::invalid_request, "page is no token that a pull gave; start again without it"); };
  PageToken token;
  const char* const end = text.data() + text.size();
  const auto number = [&](const char* from, Cursor& value) {
    const auto [at, error] = std::from_chars(from, end, value);
    if (error != std::errc() || at == end || *at != '.' || value < 0) throw refuse();
    return at + 1;
  };
  const char* at = number(text.data(), token.position);
  at = number(at, token.began);
  token.epoch.assign(at, end);
  return token;
}

bool lists(const std::vector<EpochRow>& epochs, std::string_view epoch, Cursor cursor, Cursor head) {
  for (std::size_t n = 0; n < epochs.size(); ++n) {
    if (epochs[n].epoch == epoch) return n + 1 < epochs.size() ? cursor < epochs[n + 1].first : cursor <= head;
  }
  return false;
}

void check_lineage(const std::vector<EpochRow>& epochs, std::string_view epoch, Cursor cursor, Cursor head) {
  if (lists(epochs, epoch, cursor, head)) return;
  const std::string& current = epochs.back().epoch;
  throw Error(Code::epoch_mismatch,
              "epoch " + std::string(epoch) + " of this database never reached cursor " + std::to_string(cursor) +
                  " (a restored backup, or another database); pull from cursor 0",
              {{"epoch", current}});
}

class EntityFilter {
 public:
  explicit EntityFilter(const std::optional<std::vector<std::string>>& wanted) : wanted_(wanted) {}
  [[nodiscard]] bool takes(std::string_view entity) const {
    // What is reserved is delivered only to who asks for it by name.
    if (!wanted_) return !entity.starts_with('_');
    return std::ranges::find(*wanted_, entity) != wanted_->end();
  }

 private:
  const std::optional<std::vector<std::string>>& wanted_;
};

// Where the changes of a pull go when the caller wants them one by one.
class Calls {
 public:
  static constexpr bool kTakes = false;
  explicit Calls(const VisitChange& visit) noexcept : visit_(visit) {}
  void change(const ChangeView& change) { visit_(change); }
  static bool take(const ChangeView&) noexcept { return false; }

 private:
  const VisitChange& visit_;
};

// The documents of one page on their way to a sink: which are passed over, and where the page ends.
template <class Sink>
class PageScan {
 public:
  PageScan(const PullRequest& request, const PageToken& at, std::int64_t max_bytes, const Upgrader* upgrader, Sink& sink)
      : request_(request),
        entities_(request.entities),
        upgrader_(upgrader),
        sink_(sink),
        began_(at.began),
        position_(at.position),
        most_(request.limit.value_or(std::numeric_limits<std::int64_t>::max())),
        max_bytes_(static_cast<std::size_t>(max_bytes)) {}

  // As TakeDocument: the plain case, a document that the page and the sink's memory have room for.
  bool take(const DocumentView& document) {
    if (passes_over(document)) return true;
    if (is_old(document)) return false;  // an upgrade calls Python
    const std::size_t size = size_of(document, document.body);
    if (is_full(size) || !sink_.take(change_of(document, document.body))) return false;
    sent(document, size);
    return true;
  }

  // As VisitDocument.
  bool visit(const DocumentView& document) {
    if (passes_over(document)) return true;
    std::string_view body = document.body;
    if (is_old(document)) {
      upgraded_ = upgrader_->try_upgrade(document.entity, document.id, document.cursor, body);
      if (upgraded_) body = *upgraded_;
    }
    const std::size_t size = size_of(document, body);
    if (is_full(size)) {
      has_more_ = true;
      return false;
    }
    sink_.change(change_of(document, body));
    sent(document, size);
    return true;
  }

  [[nodiscard]] bool has_more() const noexcept { return has_more_; }
  [[nodiscard]] Cursor position() const noexcept { return position_; }
  [[nodiscard]] std::int64_t count() const noexcept { return count_; }

 private:
  [[nodiscard]] bool passes_over(const DocumentView& document) const {
    return (document.deleted && document.cursor <= began_) || !entities_.takes(document.entity);
  }
  [[nodiscard]] bool is_old(const DocumentView& document) const noexcept {
    return upgrader_ != nullptr && !document.deleted && upgrader_->applies(document.entity, document.cursor);
  }
  static std::size_t size_of(const DocumentView& document, std::string_view body) noexcept {
    return body.size() + document.entity.size() + document.id.size() + 64;
  }
  [[nodiscard]] bool is_full(std::size_t size) const noexcept {
    return count_ == most_ || (count_ > 0 && bytes_ + size > max_bytes_);
  }
  [[nodiscard]] ChangeView change_of(const DocumentView& document, std::string_view body) const noexcept {
    return {.cursor = document.cursor,
            .scope = request_.scope,
            .entity = document.entity,
            .id = document.id,
            .op = document.deleted ? Op::remove : (document.created > request_.cursor ? Op::create : Op::update),
            .data = body,
            .version = document.version,
            .ts = document.updated_at};
  }
  void sent(const DocumentView& document, std::size_t size) noexcept {
    ++count_;
    bytes_ += size;
    position_ = document.cursor;
  }

  const PullRequest& request_;
  const EntityFilter entities_;
  const Upgrader* upgrader_;
  Sink& sink_;
  Cursor began_, position_;
  std::int64_t most_, count_ = 0;
  std::size_t max_bytes_, bytes_ = 0;
  bool has_more_ = false;
  std::optional<std::string> upgraded_;
};

}  // namespace

const std::vector<EpochRow>& Engine::lineage(ReadTx& tx, std::vector<EpochRow>& read) const {
  if (!options_.store.read_only) return epochs_;
  return read = tx.epochs();
}

std::optional<std::int64_t> Engine::last_seq(ReadTx& tx, const std::optional<std::string>& client_id, const std::string& user) const {
  if (!client_id) return std::nullopt;
  const std::optional<ClientRow> row = tx.client(*client_id);
  if (!row) return 0;
  if (row->owner != user) throw Error(Code::forbidden, "client id " + *client_id + " belongs to another user; take a new one", {{"client_id", *client_id}});
  return row->last_seq;
}

template <class Sink>
PageEnd Engine::pull_into(const PullRequest& request, Sink& sink) {
  check();
  check_name(request.scope, "scope", Code::invalid_scope);
  if (request.client_id) check_name(*request.client_id, "client_id", Code::invalid_request);
  if (request.cursor < 0) throw Error(Code::invalid_request, "cursor is negative; 0 is before everything");
  if (request.limit && *request.limit < 1) throw Error(Code::invalid_request, "limit must be at least 1");
  if (request.cursor > 0 && !request.epoch) {
    throw Error(Code::invalid_request, "epoch is missing: a cursor above 0 comes with the epoch it was given in");
  }

  const std::unique_ptr<ReadTx> tx = store_->read();
  std::vector<EpochRow> read;
  const std::vector<EpochRow>& epochs = lineage(*tx, read);
  const Cursor head = tx->head();
  const std::optional<ScopeRow> scope = tx->scope(request.scope);
  const Cursor floor = scope ? scope->floor : 0;

  PageToken at{request.cursor, request.cursor == 0 ? head : 0, epochs.back().epoch};
  if (request.cursor > 0) check_lineage(epochs, *request.epoch, request.cursor, head);
  if (request.page) {
    at = parse_token(*request.page);
    if (at.position < request.cursor || (request.cursor > 0 && at.began > 0)) {
      throw Error(Code::invalid_request, "page belongs to a pull from another cursor");
    }
    check_lineage(epochs, at.epoch, std::max(at.position, at.began), head);
    at.epoch = epochs.back().epoch;
  }
  // A document that was deleted after `began` may have been sent by an earlier page; deletions up to it concern nobody who started
  // from 0. A pull from above 0 has documents of its own, so there every deletion counts.
  if (std::max(at.position, at.began) < floor) {
    throw Error(Code::cursor_too_old,
                "cursor " + std::to_string(at.position) + " of " + request.scope + " is below its floor " + std::to_string(floor) +
                    ": deletions were purged since; pull from cursor 0",
                {{"floor", floor}});
  }

  PageEnd end;
  end.last_seq = last_seq(*tx, request.client_id, request.user);
  end.epoch = epochs.back().epoch;

  const std::shared_ptr<const Upgrader> upgrader = this->upgrader();
  PageScan<Sink> scan(request, at, options_.limits.max_page_bytes, upgrader.get(), sink);
  if (scope) {
    const bool live_only = request.cursor == 0 && !request.page;
    TakeDocument take;
    if (Sink::kTakes) take = [&scan](const DocumentView& document) { return scan.take(document); };
    tx->changed(request.scope, at.position, live_only, [&scan](const DocumentView& document) { return scan.visit(document); }, take);
  }
  end.has_more = scan.has_more();
  at.position = scan.position();
  if (end.has_more) {
    end.page = format_token(at);
    end.cursor = request.cursor;  // who keeps it all the same loses nothing
  } else {
    end.cursor = head;
  }
  if (request.client_id && compactor_ &&
      positions_.note(*request.client_id, request.user, request.scope, request.cursor, end.cursor, clock_->now())) {
    compactor_->wake();
  }
  counters_.pulls.fetch_add(1, std::memory_order_relaxed);
  counters_.pulled_changes.fetch_add(static_cast<std::uint64_t>(scan.count()), std::memory_order_relaxed);
  return end;
}

PageEnd Engine::pull(const PullRequest& request, const VisitChange& visit) {
  Calls calls(visit);
  return pull_into(request, calls);
}

void Engine::pull_encoded(const PullRequest& request, Format format, Bytes& out) {
  out.clear();
  const auto encode = [&](auto page) { page.end(pull_into(request, page)); };
  format == Format::json ? encode(page::JsonPage(out, request.scope)) : encode(page::PackedPage(out, request.scope));
}

Snapshot Engine::snapshot(const SnapshotRequest& request) {
  check();
  check_name(request.scope, "scope", Code::invalid_scope);
  if (request.client_id) check_name(*request.client_id, "client_id", Code::invalid_request);
  const std::unique_ptr<ReadTx> tx = store_->read();
  Snapshot out;
  out.cursor = tx->head();
  std::vector<EpochRow> read;
  out.epoch = lineage(*tx, read).back().epoch;
  out.last_seq = last_seq(*tx, request.client_id, request.user);
  const auto limit = static_cast<std::size_t>(options_.limits.max_snapshot_bytes);
  std::size_t bytes = 0;
  std::unordered_map<std::string, std::size_t> at;
  const std::shared_ptr<const Upgrader> upgrader = this->upgrader();
  tx->changed(request.scope, 0, true, [&](const DocumentView& document) {
    if (document.entity.starts_with('_')) return true;
    std::optional<std::string> upgraded;
    if (upgrader && upgrader->applies(document.entity, document.cursor)) {
      upgraded = upgrader->try_upgrade(document.entity, document.id, document.cursor, document.body);
    }
    std::string body = upgraded ? std::move(*upgraded) : std::string(document.body);
    bytes += body.size() + document.id.size();
    if (bytes > limit) {
      throw Error(Code::too_large, "the snapshot of " + request.scope + " is larger than " + std::to_string(limit) + " bytes; pull from cursor 0",
                  {{"limit", options_.limits.max_snapshot_bytes}});
    }
    const auto [found, fresh] = at.try_emplace(std::string(document.entity), out.data.size());
    if (fresh) out.data.push_back({std::string(document.entity), {}});
    out.data[found->second].rows.push_back({std::string(document.id), std::move(body)});
    return true;
  });
  std::ranges::sort(out.data, {}, &Snapshot::Group::entity);
  for (Snapshot::Group& group : out.data) std::ranges::sort(group.rows, {}, &Row::id);
  counters_.snapshots.fetch_add(1, std::memory_order_relaxed);
  return out;
}

void Engine::snapshot_encoded(const SnapshotRequest& request, Format format, Bytes& out) {
  const Snapshot snapshot = this->snapshot(request);
  out.clear();
  format == Format::json ? page::write_json(snapshot, out) : page::write_packed(snapshot, out);
}

Cursor Engine::cursor(const std::string& scope) {
  check();
  check_name(scope, "scope", Code::invalid_scope);
  const std::optional<ScopeRow> row = store_->read()->scope(scope);
  return row ? row->head : 0;
}

std::unique_ptr<View> Engine::read(const std::string& scope) {
  check();
  check_name(scope, "scope", Code::invalid_scope);
  return std::make_unique<View>(store_->read(), scope, upgrader());
}

std::unique_ptr<ReadTx> Engine::begin_read() {
  check();
  return store_->read();
}

// ---------------------------------------------------------------------------------------------------------------- view

ReadTx& View::live() {
  if (!tx_) throw Error(Code::closed, "this view is closed: read inside its `with` block");
  return *tx_;
}

std::optional<std::string> View::get(std::string_view entity, std::string_view id) {
  std::optional<std::string> body;
  const DocumentKey key{scope_, entity, id};
  live().documents({&key, 1}, [&](std::size_t, const DocumentView* document) {
    if (document == nullptr || document->deleted) return;
    if (upgrader_ && upgrader_->applies(entity, document->cursor)) {
      body = upgrader_->try_upgrade(entity, id, document->cursor, document->body);
    }
    if (!body) body = document->body;
  });
  return body;
}

bool View::exists(std::string_view entity, std::string_view id) { return version(entity, id) != 0; }

std::int64_t View::version(std::string_view entity, std::string_view id) {
  std::int64_t version = 0;
  const DocumentKey key{scope_, entity, id};
  live().documents({&key, 1}, [&](std::size_t, const DocumentView* document) {
    if (document != nullptr && !document->deleted) version = document->version;
  });
  return version;
}

void View::visit_all(std::string_view entity, std::string_view prefix, const VisitRow& visit) {
  std::optional<std::string> upgraded;
  live().scan(scope_, entity, prefix, {}, [&](const DocumentView& document) {
    if (upgrader_ && upgrader_->applies(entity, document.cursor)) {
      upgraded = upgrader_->try_upgrade(entity, document.id, document.cursor, document.body);
      if (upgraded) return visit(document.id, *upgraded);
    }
    return visit(document.id, document.body);
  });
}

std::vector<Row> View::scan(std::string_view entity, std::string_view prefix, std::int64_t limit) {
  return take_rows([&](const VisitRow& visit) { visit_all(entity, prefix, visit); }, limit);
}

std::vector<Row> View::find(std::string_view entity, const FindOptions& options) {
  return find_rows([&](const VisitRow& visit) { visit_all(entity, {}, visit); }, options);
}

Cursor View::cursor() { return live().head(); }

}  // namespace syncline
