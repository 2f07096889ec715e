// What the store's tests share: a batch that owns its text, and rows that outlive their visitor.
//
// Owner    the test that declares them. Threads  one.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "folder.h"
#include "store/sqlite_store.h"

namespace syncline::testing_store {

using testing::Folder;

struct Document {
  std::string entity, id, body;
  bool deleted = false;
  std::int64_t version = 0, created_at = 0, updated_at = 0;
  Cursor cursor = 0, created = 0;
  Document() = default;
  explicit Document(const DocumentView& view)
      : entity(view.entity), id(view.id), body(view.body), deleted(view.deleted), version(view.version),
        created_at(view.created_at), updated_at(view.updated_at), cursor(view.cursor), created(view.created) {}
  friend bool operator==(const Document&, const Document&) = default;
};

struct Line {
  Cursor cursor = 0;
  std::string scope, entity, id;
  Op op = Op::create;
  std::int64_t version = 0;
  Cursor previous = 0;
  std::int64_t ts = 0;
  std::string client_id;
  std::int64_t client_seq = 0;
  std::string user, mutation;
  std::int64_t mutation_ts = 0;
  std::string delta;
  std::uint64_t hash = 0;
  Line() = default;
  explicit Line(const LogLineView& view)
      : cursor(view.cursor), scope(view.scope), entity(view.entity), id(view.id), op(view.op), version(view.version),
        previous(view.previous), ts(view.ts), client_id(view.client_id), client_seq(view.client_seq), user(view.user),
        mutation(view.mutation), mutation_ts(view.mutation_ts), delta(view.delta), hash(view.hash) {}
  [[nodiscard]] LogLineView view() const {
    return {cursor, scope, entity, id, op, version, previous, ts, client_id, client_seq, user, mutation, mutation_ts, delta, hash};
  }
  friend bool operator==(const Line&, const Line&) = default;
};

using Key = std::tuple<std::string, std::string, std::string>;  // scope, entity, id

inline std::vector<Document> changed(ReadTx& tx, std::string_view scope, Cursor after = 0, bool live_only = false) {
  std::vector<Document> rows;
  tx.changed(scope, after, live_only, [&](const DocumentView& row) {
    rows.emplace_back(row);
    return true;
  });
  return rows;
}

inline std::vector<Line> log(ReadTx& tx, const LogRange& range = {}) {
  std::vector<Line> lines;
  tx.log(range, [&](const LogLineView& line) {
    lines.emplace_back(line);
    return true;
  });
  return lines;
}

inline std::vector<std::string> scan(ReadTx& tx, std::string_view scope, std::string_view entity, std::string_view prefix = {},
                                     std::string_view after = {}) {
  std::vector<std::string> ids;
  tx.scan(scope, entity, prefix, after, [&](const DocumentView& row) {
    ids.emplace_back(row.id);
    return true;
  });
  return ids;
}

// "id=body@updated_at" of each.
inline std::vector<std::string> unlogged(ReadTx& tx, std::string_view scope, std::string_view entity, std::string_view prefix = {},
                                         std::string_view after = {}) {
  std::vector<std::string> rows;
  tx.unlogged(scope, entity, prefix, after, [&](const UnloggedView& row) {
    rows.push_back(std::string(row.id) + "=" + std::string(row.body) + "@" + std::to_string(row.updated_at));
    return true;
  });
  return rows;
}

inline std::optional<Document> document(ReadTx& tx, std::string_view scope, std::string_view entity, std::string_view id) {
  std::optional<Document> result;
  const DocumentKey key{scope, entity, id};
  tx.documents({&key, 1}, [&](std::size_t, const DocumentView* found) {
    if (found != nullptr) result.emplace(*found);
  });
  return result;
}

// Writes as the engine would: numbers the changes, keeps versions and links, and adds a log line for each.
class Author {
 public:
  explicit Author(Cursor head = 0) : head_(head) {}

  Author& put(const std::string& scope, const std::string& entity, const std::string& id, const std::string& body) {
    return change(scope, entity, id, body, false);
  }
  Author& remove(const std::string& scope, const std::string& entity, const std::string& id) {
    return change(scope, entity, id, {}, true);
  }
  [[nodiscard]] Cursor head() const { return head_; }
  [[nodiscard]] Cursor cursor(const std::string& scope, const std::string& entity, const std::string& id) const {
    const auto at = rows_.find({scope, entity, id});
    return at == rows_.end() ? 0 : at->second.cursor;
  }

  void apply(WriteTx& tx) {
    WriteBatch batch;
    batch.head = head_;
    for (const auto& [key, put] : pending_) batch.documents.push_back(put);
    for (const Line& line : lines_) batch.log.push_back(line.view());
    for (const auto& [scope, head] : scope_heads_) batch.scopes.push_back({scope, head});
    tx.apply(batch);
    pending_.clear();
    lines_.clear();
    scope_heads_.clear();
  }
  void commit(Store& store) {
    const auto tx = store.write();
    apply(*tx);
    tx->commit();
  }

 private:
  Author& change(const std::string& scope, const std::string& entity, const std::string& id, const std::string& body, bool deleted) {
    const Key key{scope, entity, id};
    Document& row = rows_[key];
    const bool create = row.version == 0 || row.deleted;
    const Cursor before = row.cursor;
    row.cursor = ++head_;
    ++row.version;
    row.deleted = deleted;
    row.updated_at = 1000 + head_;
    if (create) {
      row.created = head_;
      row.created_at = row.updated_at;
    }
    texts_.push_back(scope);
    const std::string_view s = texts_.back();
    texts_.push_back(entity);
    const std::string_view e = texts_.back();
    texts_.push_back(id);
    const std::string_view i = texts_.back();
    texts_.push_back(body);
    const std::string_view b = texts_.back();
    const auto known = pending_.find(key);
    const Cursor previous = known != pending_.end() ? known->second.previous : before;
    pending_[key] = {s, e, i, previous, row.cursor, row.created, row.version, row.created_at, row.updated_at, b, deleted};
    Line line;
    line.cursor = head_;
    line.scope = scope;
    line.entity = entity;
    line.id = id;
    line.op = deleted ? Op::remove : create ? Op::create : Op::update;
    line.version = row.version;
    line.previous = before;
    line.ts = row.updated_at;
    line.delta = create ? "" : "delta of " + id;
    line.hash = deleted ? 0 : 0xFEDCBA9876543210u + static_cast<std::uint64_t>(head_);
    lines_.push_back(line);
    scope_heads_[scope] = head_;
    return *this;
  }

  Cursor head_;
  std::map<Key, Document> rows_;
  std::map<Key, PutDocument> pending_;
  std::vector<Line> lines_;
  std::map<std::string, Cursor> scope_heads_;
  std::deque<std::string> texts_;
};

}  // namespace syncline::testing_store
