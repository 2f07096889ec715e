// The SQLite store against a model made of maps: random batches, rollbacks, purges and reopenings from a seed that a failure names.
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "store_fixture.h"

namespace syncline {
namespace {

using namespace testing_store;  // NOLINT(google-build-using-namespace): the fixture is for these files alone

struct Model {
  struct Scope {
    Cursor head = 0, floor = 0, log_floor = 0;
  };
  struct Client {
    std::string owner;
    std::int64_t last_seq = 0, settled = 0;
    std::map<std::int64_t, std::pair<std::int64_t, std::string>> results;  // last -> first, results
  };
  Cursor head = 0;
  std::map<Key, Document> documents;
  std::map<Cursor, Line> log;
  std::map<std::string, Scope> scopes;
  std::map<std::string, Client> clients;
};

class World {
 public:
  explicit World(unsigned seed) : random_(seed) {}

  std::size_t pick(std::size_t below) { return std::uniform_int_distribution<std::size_t>(0, below - 1)(random_); }
  std::string name(const char* prefix, std::size_t of) { return prefix + std::to_string(pick(of)); }

  // One random batch, applied to the transaction and to the model alike.
  void apply(WriteTx& tx, Model& model) {
    WriteBatch batch;
    std::deque<std::string> texts;
    std::deque<Line> lines;
    std::map<Key, PutDocument> puts;
    const auto keep = [&](std::string text) -> std::string_view { return texts.emplace_back(std::move(text)); };

    std::string client_id;
    if (pick(2) == 0) {
      client_id = name("client", 6);
      const bool fresh = !model.clients.contains(client_id);
      Model::Client& client = model.clients[client_id];
      if (fresh) client.owner = name("user", 3);
      PutClient put;
      put.client_id = keep(client_id);
      put.owner = keep(client.owner);
      put.fresh = fresh;
      put.first_seq = client.last_seq + 1;
      client.last_seq += static_cast<std::int64_t>(1 + pick(4));
      put.last_seq = put.last_result_seq = client.last_seq;
      put.results = keep("results " + std::to_string(random_()));
      if (pick(3) == 0) put.forget_through = client.settled = static_cast<std::int64_t>(pick(static_cast<std::size_t>(client.last_seq)));
      put.settled = client.settled;
      std::erase_if(client.results, [&](const auto& row) { return row.first <= put.forget_through; });
      client.results[client.last_seq] = {put.first_seq, std::string(put.results)};
      batch.clients.push_back(put);
    }
    const std::size_t changes = pick(12);
    for (std::size_t i = 0; i < changes; ++i) {
      const Key key{name("scope", 4), name("entity", 3), name("id", 9)};
      Document& row = model.documents[key];
      const bool exists = row.version > 0;
      const bool live = exists && !row.deleted;
      const bool remove = live && pick(3) == 0;
      const Cursor before = row.cursor;
      const std::string old_body = row.body;
      row.entity = std::get<1>(key);
      row.id = std::get<2>(key);
      row.cursor = ++model.head;
      ++row.version;
      row.deleted = remove;
      row.body = remove ? "" : "body " + std::string(pick(400), 'x') + std::to_string(random_());
      row.updated_at = static_cast<std::int64_t>(random_());
      if (!live) {
        row.created = row.cursor;
        row.created_at = row.updated_at;
      }
      Line line;
      line.cursor = row.cursor;
      line.scope = std::get<0>(key);
      line.entity = row.entity;
      line.id = row.id;
      line.op = remove ? Op::remove : live ? Op::update : Op::create;
      line.version = row.version;
      line.previous = before;
      line.ts = row.updated_at;
      line.client_id = client_id;
      line.client_seq = static_cast<std::int64_t>(pick(100));
      line.user = client_id.empty() || pick(2) == 0 ? name("user", 3) : model.clients[client_id].owner;
      if (pick(4) == 0) line.user.clear();
      if (pick(2) == 0) line.mutation = name("mutation", 3);
      line.delta = remove ? old_body : "delta";
      line.hash = remove ? 0 : (std::uint64_t{random_()} << 32 | random_());
      model.log[line.cursor] = line;
      lines.push_back(line);
      Model::Scope& scope = model.scopes[line.scope];
      scope.head = line.cursor;
      const auto known = puts.find(key);
      const Cursor previous = known != puts.end() ? known->second.previous : before;
      puts[key] = {keep(line.scope), keep(line.entity), keep(line.id), previous, row.cursor, row.created, row.version,
                   row.created_at, row.updated_at, keep(row.body), remove};
    }
    for (const auto& [key, put] : puts) batch.documents.push_back(put);
    for (const Line& line : lines) batch.log.push_back(line.view());
    for (const auto& [scope, row] : model.scopes) batch.scopes.push_back({scope, row.head});
    batch.head = model.head;
    tx.apply(batch);
    if (pick(5) == 0) purge(tx, model);
  }

  void purge(WriteTx& tx, Model& model) {
    const std::string scope = name("scope", 5);
    const bool everywhere = scope == "scope4";
    WriteBatch batch;
    Purge purge;
    if (!everywhere) purge.scope = scope;
    purge.tombstones_through = static_cast<Cursor>(pick(static_cast<std::size_t>(model.head) + 1));
    purge.log_through = static_cast<Cursor>(pick(static_cast<std::size_t>(model.head) + 1));
    batch.purges.push_back(purge);
    const Applied applied = tx.apply(batch);
    Applied expected;
    const auto covers = [&](const std::string& of) { return everywhere || of == scope; };
    std::erase_if(model.documents, [&](const auto& entry) {
      const Document& row = entry.second;
      if (!covers(std::get<0>(entry.first)) || !row.deleted || row.cursor > purge.tombstones_through) return false;
      Model::Scope& floors = model.scopes[std::get<0>(entry.first)];
      floors.floor = std::max(floors.floor, row.cursor);
      expected.purged_log_lines += std::erase_if(model.log, [&](const auto& line) {
        const bool gone = Key{line.second.scope, line.second.entity, line.second.id} == entry.first;
        if (gone) floors.log_floor = std::max(floors.log_floor, line.first);
        return gone;
      });
      ++expected.purged_tombstones;
      return true;
    });
    expected.purged_log_lines += std::erase_if(model.log, [&](const auto& line) {
      if (!covers(line.second.scope) || line.first > purge.log_through) return false;
      Model::Scope& floors = model.scopes[line.second.scope];
      floors.log_floor = std::max(floors.log_floor, line.first);
      return true;
    });
    EXPECT_EQ(applied.purged_tombstones, expected.purged_tombstones);
    EXPECT_EQ(applied.purged_log_lines, expected.purged_log_lines);
  }

  void check(ReadTx& tx, const Model& model) {
    EXPECT_EQ(tx.head(), model.head);
    std::int64_t tombstones = 0;
    for (const auto& [name, scope] : model.scopes) {
      const auto row = tx.scope(name);
      ASSERT_TRUE(row.has_value()) << name;
      EXPECT_EQ(row->head, scope.head);
      EXPECT_EQ(row->floor, scope.floor);
      EXPECT_EQ(row->log_floor, scope.log_floor);
      std::map<Cursor, Document> expected;
      for (const auto& [key, document] : model.documents) {
        if (std::get<0>(key) == name) expected[document.cursor] = document;
      }
      std::vector<Document> rows;
      const auto after = static_cast<Cursor>(pick(static_cast<std::size_t>(model.head) + 1));
      for (const auto& [cursor, document] : expected) {
        if (cursor > after) rows.push_back(document);
        if (document.deleted) ++tombstones;
      }
      EXPECT_EQ(changed(tx, name, after), rows);
      for (const char* entity : {"entity0", "entity1", "entity2"}) {
        std::vector<std::string> ids;
        for (const auto& [key, document] : model.documents) {
          if (std::get<0>(key) == name && std::get<1>(key) == entity && !document.deleted) ids.push_back(std::get<2>(key));
        }
        EXPECT_EQ(scan(tx, name, entity), ids);
      }
    }
    std::vector<Line> lines;
    for (const auto& [cursor, line] : model.log) lines.push_back(line);
    EXPECT_EQ(log(tx), lines);
    if (!model.documents.empty()) {
      const auto at = std::next(model.documents.begin(), static_cast<std::ptrdiff_t>(pick(model.documents.size())));
      const auto& [scope, entity, id] = at->first;
      EXPECT_EQ(document(tx, scope, entity, id), at->second);
      std::vector<Line> history;
      for (const Line& line : lines) {
        if (Key{line.scope, line.entity, line.id} == at->first) history.push_back(line);
      }
      EXPECT_EQ(log(tx, {.scope = scope, .entity = entity, .id = id}), history);
      std::reverse(history.begin(), history.end());
      EXPECT_EQ(log(tx, {.scope = scope, .entity = entity, .id = id, .newest_first = true}), history);
    }
    std::int64_t results = 0;
    for (const auto& [id, client] : model.clients) {
      const auto row = tx.client(id);
      ASSERT_TRUE(row.has_value()) << id;
      EXPECT_EQ(row->owner, client.owner);
      EXPECT_EQ(row->last_seq, client.last_seq);
      EXPECT_EQ(row->settled, client.settled);
      results += static_cast<std::int64_t>(client.results.size());
      for (std::int64_t seq = 1; seq <= client.last_seq + 1; ++seq) {
        const auto found = tx.result(id, seq);
        const auto expected = client.results.lower_bound(seq);
        const bool covered = expected != client.results.end() && expected->second.first <= seq;
        ASSERT_EQ(found.has_value(), covered) << id << " " << seq;
        if (covered) {
          EXPECT_EQ(found->results, expected->second.second);
        }
      }
    }
    const StoreCounts counts = tx.counts();
    EXPECT_EQ(counts.tombstones, tombstones);
    EXPECT_EQ(counts.documents + counts.tombstones, static_cast<std::int64_t>(model.documents.size()));
    EXPECT_EQ(counts.log_lines, static_cast<std::int64_t>(model.log.size()));
    EXPECT_EQ(counts.clients, static_cast<std::int64_t>(model.clients.size()));
    EXPECT_EQ(counts.results, results);
    EXPECT_EQ(counts.scopes, static_cast<std::int64_t>(model.scopes.size()));
  }

 private:
  std::mt19937 random_;
};

TEST(SqliteModel, TheStoreIsTheModelUnderRandomBatchesRollbacksAndReopenings) {
  for (unsigned seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    World world(seed);
    const Folder folder;
    auto store = open_sqlite(folder / "a.db", {.durability = Durability::normal});
    Model committed;
    for (int step = 0; step < 60; ++step) {
      SCOPED_TRACE("step " + std::to_string(step));
      {
        const auto before = store->read();
        Model model = committed;
        const auto tx = store->write();
        for (std::size_t batches = 1 + world.pick(3); batches > 0; --batches) world.apply(*tx, model);
        if (world.pick(4) == 0) world.check(*tx, model);
        world.check(*before, committed);
        if (world.pick(3) != 0) {
          tx->commit();
          committed = std::move(model);
        }
      }
      if (world.pick(8) == 0) {
        store.reset();
        store = open_sqlite(folder / "a.db", {.durability = Durability::normal});
      }
      if (world.pick(4) == 0) world.check(*store->read(), committed);
      if (HasFailure()) return;
    }
  }
}

}  // namespace
}  // namespace syncline
