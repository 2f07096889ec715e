#include "replica/staging.h"

#include <cstddef>
#include <cstdint>

namespace syncline::replica {

namespace {

constexpr std::size_t kBatch = 2000;  // documents handed to the store at once

class Batches {
 public:
  Batches(WriteTx& tx, std::string_view scope, bool tombstones) : tx_(tx), scope_(scope), tombstones_(tombstones) {
    batch_.documents.reserve(kBatch);
  }
  // The change's texts must live until the next `flush`.
  void add(const PulledChange& change) {
    const bool deleted = change.data.empty();
    if (deleted && !tombstones_) {
      batch_.forget_documents.push_back({scope_, change.entity, change.id});
    } else {
      batch_.documents.push_back({.scope = scope_,
                                  .entity = change.entity,
                                  .id = change.id,
                                  .previous = kFindRow,
                                  .cursor = change.cursor,
                                  .created = change.cursor,
                                  .version = change.version,
                                  .created_at = change.ts,
                                  .updated_at = change.ts,
                                  .body = change.data,
                                  .deleted = deleted});
    }
    if (batch_.documents.size() + batch_.forget_documents.size() >= kBatch) flush();
  }
  void flush() {
    if (batch_.documents.empty() && batch_.forget_documents.empty()) return;
    tx_.apply(batch_);
    batch_.documents.clear();
    batch_.forget_documents.clear();
  }

 private:
  WriteTx& tx_;
  std::string_view scope_;
  bool tombstones_;
  WriteBatch batch_;
};

}  // namespace

std::string stage_name(std::string_view scope) { return std::string(kReplicaScope) + "/" + std::string(scope); }

void put_page(WriteTx& tx, std::string_view scope, std::string_view changes, bool tombstones, const BeforeChange& before) {
  Batches batches(tx, scope, tombstones);
  for_each_change(changes, [&](const PulledChange& change) {
    if (before) before(change.entity, change.id);
    batches.add(change);
  });
  batches.flush();
}

void merge_stage(WriteTx& tx, std::string_view scope, const BeforeChange& before) {
  const std::string stage = stage_name(scope);
  struct Held {
    std::string entity, id, data;
    Cursor cursor = 0;
    std::int64_t version = 0, ts = 0;
  };
  // A part at a time: nothing is written while the scan stands in the same table.
  std::vector<Held> held;
  Cursor after = 0;
  do {
    held.clear();
    tx.changed(stage, after, false, [&](const DocumentView& row) {
      held.push_back({std::string(row.entity), std::string(row.id), std::string(row.body), row.cursor, row.version, row.updated_at});
      after = row.cursor;
      return held.size() < kBatch;
    });
    Batches batches(tx, scope, false);
    for (const Held& one : held) {
      if (before) before(one.entity, one.id);
      batches.add({.cursor = one.cursor, .entity = one.entity, .id = one.id, .data = one.data, .version = one.version, .ts = one.ts});
    }
    batches.flush();
  } while (held.size() == kBatch);
  forget_scope(tx, stage);
}

void swap_stage(WriteTx& tx, std::string_view scope) {
  const std::string stage = stage_name(scope);
  WriteBatch batch;
  batch.swap_scopes.push_back({scope, stage});
  tx.apply(batch);
}

void forget_scope(WriteTx& tx, std::string_view scope) {
  WriteBatch batch;
  batch.forget_scopes.push_back(scope);
  tx.apply(batch);
}

}  // namespace syncline::replica
