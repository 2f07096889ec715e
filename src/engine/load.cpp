// Bulk load: many documents of one entity in one commit, without mutators and without a write set.
#include <algorithm>
#include <utility>

#include "base/delta.h"
#include "base/ids.h"
#include "base/msgpack.h"
#include "engine/engine.h"

namespace syncline {

std::optional<Loaded> Engine::load(const std::string& scope, const std::string& entity, std::span<const LoadRow> rows,
                                   const std::string& user, const WaitHook& hook) {
  check_writable();
  check_name(scope, "scope", Code::invalid_scope);
  check_name(entity, "entity", Code::invalid_mutation);
  // A group of its own: what goes round the write set must not meet anything in it.
  const std::unique_ptr<CommitQueue::Session> session = queue_->session(hook);
  if (!session) return std::nullopt;
  WriteSet& set = session->set();

  Loaded loaded;
  std::vector<DocumentKey> keys;
  keys.reserve(rows.size());
  for (const LoadRow& row : rows) keys.push_back({scope, entity, row.id});
  struct Before {
    Cursor cursor = 0, created = 0;
    std::int64_t version = 0, created_at = 0;
    bool live = false, same = false;
    std::string delta;
  };
  std::vector<Before> before(rows.size());
  set.tx().documents(keys, [&](std::size_t index, const DocumentView* document) {
    if (document == nullptr) return;
    Before& was = before[index];
    was.cursor = document->cursor;
    was.created = document->created;
    was.version = document->version;
    was.created_at = document->created_at;
    was.live = !document->deleted;
    was.same = was.live && document->body == rows[index].body;
    if (was.live && !was.same) was.delta = delta::diff(document->body, rows[index].body);
  });

  WriteBatch batch;
  batch.documents.reserve(rows.size());
  batch.log.reserve(rows.size());
  const std::int64_t now = set.now();
  Cursor first = 0;
  for (std::size_t n = 0; n < rows.size(); ++n) {
    const LoadRow& row = rows[n];
    const Before& was = before[n];
    if (was.same) {
      ++loaded.unchanged;
      continue;
    }
    ++(was.live ? loaded.updated : loaded.created);
    loaded.cursor = set.take_cursor();
    if (first == 0) first = loaded.cursor;
    batch.documents.push_back({.scope = scope,
                               .entity = entity,
                               .id = row.id,
                               .previous = was.cursor,
                               .cursor = loaded.cursor,
                               .created = was.live ? was.created : loaded.cursor,
                               .version = was.version + 1,
                               .created_at = was.live ? was.created_at : now,
                               .updated_at = now,
                               .body = row.body});
    LogLineView line;
    line.cursor = loaded.cursor;
    line.scope = scope;
    line.entity = entity;
    line.id = row.id;
    line.op = was.live ? Op::update : Op::create;
    line.version = was.version + 1;
    line.previous = was.cursor;
    line.ts = now;
    line.client_seq = first;
    line.user = user;
    line.mutation_ts = now;
    line.delta = was.delta;
    line.hash = mp::hash64(row.body);
    batch.log.push_back(line);
  }
  if (batch.documents.empty()) return loaded;  // rolled back: there is nothing to say
  set.touch_scope(scope, loaded.cursor);
  set.tx().apply(batch);
  session->commit();
  counters_.changes.fetch_add(batch.log.size(), std::memory_order_relaxed);
  return loaded;
}

}  // namespace syncline
