#include "engine/write_set.h"

#include <algorithm>
#include <utility>

#include "base/delta.h"
#include "base/msgpack.h"

namespace syncline {

namespace {

// Clean entries (documents that were only read, or written by a mutation that failed) are kept for the mutations that follow, up to
// this much.
constexpr std::size_t kReadCacheBytes = 32u << 20;

// Names hold no control characters, so NUL separates them and keys sort by scope, entity, id.
void write_key(std::string& out, std::string_view scope, std::string_view entity, std::string_view id) {
  out.clear();
  out.append(scope).push_back('\0');
  out.append(entity).push_back('\0');
  out.append(id);
}

struct KeyParts {
  std::string_view scope, entity, id;
};

KeyParts split_key(std::string_view key) {
  const std::size_t first = key.find('\0');
  const std::size_t second = key.find('\0', first + 1);
  return {key.substr(0, first), key.substr(first + 1, second - first - 1), key.substr(second + 1)};
}

}  // namespace

WriteSet::WriteSet(WriteTx& tx, std::int64_t now, std::size_t max_document, std::shared_ptr<const Upgrader> upgrader)
    : tx_(tx), now_(now), max_document_(max_document), upgrader_(std::move(upgrader)), head_(tx.head()) {}

const std::string& WriteSet::key(std::string_view scope, std::string_view entity, std::string_view id) {
  write_key(key_, scope, entity, id);
  return key_;
}

WriteSet::Documents::iterator WriteSet::entry(std::string_view key) {
  // Creations mostly come in order of id.
  const bool is_last = !documents_.empty() && documents_.rbegin()->first < key;
  const auto at = is_last ? documents_.end() : documents_.lower_bound(key);
  if (at != documents_.end() && at->first == key) return at;
  clean_bytes_ += key.size() + sizeof(Entry);
  return documents_.emplace_hint(at, key, Entry());
}

void WriteSet::know(Documents::value_type& document) {
  const std::string& key = document.first;
  Entry& entry = document.second;
  if (entry.known) return;
  const auto [scope, entity, id] = split_key(key);
  const DocumentKey wanted{scope, entity, id};
  tx_.documents({&wanted, 1}, [&entry](std::size_t, const DocumentView* found) {
    if (found == nullptr) return;
    entry.row = entry.cursor = found->cursor;
    entry.created = found->created;
    entry.version = found->version;
    entry.created_at = found->created_at;
    entry.updated_at = found->updated_at;
    entry.live = !found->deleted;
    entry.body = found->body;
  });
  entry.known = true;
  clean_bytes_ += entry.body.size();
}

void WriteSet::enter(Documents::value_type& document) {
  auto& [key, entry] = document;
  if (entry.known) return;
  const auto [scope, entity, id] = split_key(key);
  switch (tx_.claim({scope, entity, id}, head_ + 1)) {
    case Claim::made: entry.claimed = head_ + 1; break;
    case Claim::free: break;
    case Claim::taken: return know(document);
  }
  entry.known = true;
}

std::string_view WriteSet::named(std::string_view name) {
  if (name.empty()) return {};
  for (const std::string_view last : last_names_) {
    if (last == name) return last;
  }
  std::string_view& last = last_names_[next_name_++ % last_names_.size()];
  last = names_.emplace_back(name);
  return last;
}

std::optional<Seen> WriteSet::get(std::string_view scope, std::string_view entity, std::string_view id) {
  const auto at = this->entry(key(scope, entity, id));
  know(*at);
  Entry& entry = at->second;
  if (entry.drafted) {
    if (!entry.draft_live) return std::nullopt;
    // What this mutation has written is the next version, once, however often it wrote.
    return Seen{entry.draft, entry.version + 1};
  }
  if (!entry.live) return std::nullopt;
  if (!outdated(entity, entry.cursor)) return Seen{entry.body, entry.version};
  if (entry.upgraded.empty()) {
    entry.upgraded = upgrader_->upgrade(entity, id, entry.cursor, entry.body);
    clean_bytes_ += entry.upgraded.size();
  }
  return Seen{entry.upgraded, entry.version};
}

std::int64_t WriteSet::version(std::string_view scope, std::string_view entity, std::string_view id) {
  // Not by `get`: a document that cannot be upgraded can still be deleted.
  const auto at = this->entry(key(scope, entity, id));
  know(*at);
  const Entry& entry = at->second;
  if (entry.drafted) return entry.draft_live ? entry.version + 1 : 0;
  return entry.live ? entry.version : 0;
}

WriteSet::Entry& WriteSet::draft(std::string_view scope, std::string_view entity, std::string_view id) {
  const auto at = entry(key(scope, entity, id));
  if (!at->second.drafted) {
    at->second.drafted = true;
    drafts_.push_back(at);
  }
  return at->second;
}

void WriteSet::set(std::string_view scope, std::string_view entity, std::string_view id, std::string body) {
  if (body.size() > max_document_) {
    throw Error(Code::too_large,
                "document " + std::string(entity) + "/" + std::string(id) + " is " + std::to_string(body.size()) +
                    " bytes encoded; at most " + std::to_string(max_document_) + " are stored",
                {{"limit", static_cast<std::int64_t>(max_document_)}});
  }
  Entry& written = draft(scope, entity, id);
  written.draft = std::move(body);
  written.draft_live = true;
}

bool WriteSet::remove(std::string_view scope, std::string_view entity, std::string_view id) {
  if (version(scope, entity, id) == 0) return false;
  Entry& written = draft(scope, entity, id);
  written.draft.clear();
  written.draft_live = false;
  return true;
}

void WriteSet::scan(std::string_view scope, std::string_view entity, std::string_view prefix, const Visit& visit) {
  // The overlay: what the two levels say of this range, by id; nullptr where a document is gone.
  std::string first;
  write_key(first, scope, entity, prefix);
  std::map<std::string_view, const std::string*> overlay;
  for (auto at = documents_.lower_bound(first); at != documents_.end() && at->first.starts_with(first); ++at) {
    const Entry& entry = at->second;
    if (entry.drafted) {
      overlay[split_key(at->first).id] = entry.draft_live ? &entry.draft : nullptr;
    } else if (entry.dirty) {
      overlay[split_key(at->first).id] = entry.live ? &entry.body : nullptr;
    }
  }
  auto next = overlay.begin();
  bool wanted = true;
  const auto pending_before = [&](std::string_view id) {
    for (; wanted && next != overlay.end() && next->first < id; ++next) {
      if (next->second != nullptr) wanted = visit(next->first, *next->second);
    }
  };
  tx_.scan(scope, entity, prefix, {}, [&](const DocumentView& document) {
    pending_before(document.id);
    if (!wanted) return false;
    if (next != overlay.end() && next->first == document.id) {
      if (next->second != nullptr) wanted = visit(next->first, *next->second);
      ++next;
    } else if (outdated(entity, document.cursor)) {
      wanted = visit(document.id, upgrader_->upgrade(entity, document.id, document.cursor, document.body));
    } else {
      wanted = visit(document.id, document.body);
    }
    return wanted;
  });
  for (; wanted && next != overlay.end(); ++next) {
    if (next->second != nullptr) wanted = visit(next->first, *next->second);
  }
}

Cursor WriteSet::take_cursor() {
  if (head_ >= kMaxCursor) throw Error(Code::storage, "the database has used all of its 2^40 cursors");
  return ++head_;
}

void WriteSet::touch_scope(std::string_view scope, Cursor cursor) {
  if (const auto found = scopes_.find(scope); found != scopes_.end()) {
    found->second = cursor;
  } else {
    scopes_.emplace(std::string(scope), cursor);
  }
}

std::vector<ChangeNote> WriteSet::merge(const Origin& origin, Cursor& cursor) {
  std::vector<ChangeNote> notes;
  notes.reserve(drafts_.size());
  Cursor first = 0;
  for (const Documents::iterator& written : drafts_) {
    Entry& entry = written->second;
    // A document that is written and was not looked at is mostly new; then the cursor it claims is the one it takes below.
    if (entry.draft_live) {
      enter(*written);
    } else {
      know(*written);
    }
    if (!entry.live && !entry.draft_live) continue;

    const auto [scope, entity, id] = split_key(written->first);
    LogLineView line;
    if (!entry.live) {
      line.op = Op::create;
    } else if (!entry.draft_live) {
      line.op = Op::remove;
      line.delta = deltas_.emplace_back(std::move(entry.body));
    } else {
      // The same bytes under another schema are another document.
      if (entry.body == entry.draft && !outdated(entity, entry.cursor)) continue;
      line.op = Op::update;
      line.delta = deltas_.emplace_back(delta::diff(entry.body, entry.draft));
    }
    cursor = take_cursor();
    if (first == 0) first = cursor;
    line.cursor = cursor;
    line.scope = scope;
    line.entity = entity;
    line.id = id;
    line.previous = entry.cursor;
    line.version = entry.version + 1;
    line.ts = now_;
    line.client_id = named(origin.client_id);
    line.client_seq = origin.client_id.empty() ? first : origin.client_seq;
    line.user = named(origin.user);
    line.mutation = named(origin.mutation);
    line.mutation_ts = origin.mutation_ts;
    line.hash = entry.draft_live ? mp::hash64(entry.draft) : 0;
    bytes_ += entry.draft.size() + line.delta.size() + written->first.size();

    if (line.op == Op::create) {
      entry.created = cursor;
      entry.created_at = now_;
    }
    entry.cursor = cursor;
    entry.version = line.version;
    entry.updated_at = now_;
    entry.live = entry.draft_live;
    entry.body = std::move(entry.draft);
    entry.dirty = true;
    notes.push_back({cursor, std::string(entity), std::string(id), line.op, line.version});
    touch_scope(scope, cursor);
    log_.push_back(line);
  }
  if (notes.empty()) cursor = take_cursor();
  ++merges_;
  drop();
  return notes;
}

void WriteSet::drop() noexcept {
  for (const Documents::iterator& written : drafts_) {
    Entry& entry = written->second;
    entry.draft.clear();
    entry.drafted = false;
  }
  drafts_.clear();
  if (clean_bytes_ > kReadCacheBytes) {
    std::erase_if(documents_, [](const auto& item) { return !item.second.dirty; });
    clean_bytes_ = 0;
  }
}

std::optional<std::string> WriteSet::unlogged(std::string_view scope, std::string_view entity, std::string_view id) {
  if (const auto found = unlogged_.find(key(scope, entity, id)); found != unlogged_.end()) {
    if (found->second.empty()) return std::nullopt;
    return found->second;
  }
  std::optional<std::string> body;
  tx_.unlogged(scope, entity, id, {}, [&](const UnloggedView& row) {
    if (row.id == id) body = row.body;
    return false;
  });
  return body;
}

void WriteSet::put_unlogged(std::string_view scope, std::string_view entity, std::string_view id, std::string body) {
  unlogged_.insert_or_assign(key(scope, entity, id), std::move(body));
}

void WriteSet::scan_unlogged(std::string_view scope, std::string_view entity, std::string_view after_id, const Visit& visit) {
  std::string after;
  write_key(after, scope, entity, after_id);
  const std::string range = after.substr(0, after.size() - after_id.size());
  auto next = unlogged_.upper_bound(after);
  const auto in_range = [&] { return next != unlogged_.end() && next->first.starts_with(range); };
  bool wanted = true;
  tx_.unlogged(scope, entity, {}, after_id, [&](const UnloggedView& row) {
    for (; wanted && in_range() && split_key(next->first).id < row.id; ++next) {
      if (!next->second.empty()) wanted = visit(split_key(next->first).id, next->second);
    }
    if (!wanted) return false;
    if (in_range() && split_key(next->first).id == row.id) {
      if (!next->second.empty()) wanted = visit(row.id, next->second);
      ++next;
    } else {
      wanted = visit(row.id, row.body);
    }
    return wanted;
  });
  for (; wanted && in_range(); ++next) {
    if (!next->second.empty()) wanted = visit(split_key(next->first).id, next->second);
  }
}

WriteSet::Client& WriteSet::client(std::string_view client_id) {
  if (const auto found = clients_.find(client_id); found != clients_.end()) return found->second;
  Client client;
  if (std::optional<ClientRow> row = tx_.client(client_id)) {
    client.row = std::move(*row);
  } else {
    client.row.client_id = client_id;
    client.fresh = true;
  }
  return clients_.emplace(std::string(client_id), std::move(client)).first->second;
}

void WriteSet::flush(std::int64_t keep_unsettled_results) {
  WriteBatch batch;
  batch.head = head_;
  for (const auto& [key, entry] : documents_) {
    if (!entry.dirty) continue;
    const auto [scope, entity, id] = split_key(key);
    // A document that was made and unmade within the group leaves its tombstone as well: its log lines name it.
    batch.documents.push_back({.scope = scope,
                               .entity = entity,
                               .id = id,
                               .previous = entry.row,
                               .cursor = entry.cursor,
                               .created = entry.created,
                               .version = entry.version,
                               .created_at = entry.created_at,
                               .updated_at = entry.updated_at,
                               .body = entry.live ? std::string_view(entry.body) : std::string_view(),
                               .deleted = !entry.live,
                               .claimed = entry.claimed});
  }
  // In cursor order each scope's rows are appended where its last ones lie.
  std::ranges::sort(batch.documents, {}, &PutDocument::cursor);
  batch.log = std::move(log_);
  std::deque<std::string> encoded;
  for (const auto& [client_id, client] : clients_) {
    if (!client.dirty) continue;
    PutClient put;
    put.client_id = client_id;
    put.owner = client.row.owner;
    put.last_seq = client.row.last_seq;
    put.settled = client.row.settled;
    put.seen_at = now_;
    put.fresh = client.fresh;
    if (!client.results.empty()) {
      put.first_seq = client.results.first();
      put.last_result_seq = client.results.last();
      put.results = encoded.emplace_back(client.results.pack());
    }
    put.forget_through = client.row.settled > 0 ? client.row.settled : client.row.last_seq - keep_unsettled_results;
    batch.clients.push_back(put);
  }
  for (const auto& [name, head] : scopes_) batch.scopes.push_back({name, head});
  for (const auto& [key, body] : unlogged_) {
    const auto [scope, entity, id] = split_key(key);
    batch.unlogged.push_back({.scope = scope, .entity = entity, .id = id, .body = body, .updated_at = now_});
  }
  tx_.apply(batch);
  log_ = std::move(batch.log);
}

}  // namespace syncline
