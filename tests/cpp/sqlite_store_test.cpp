#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>

#include "store_fixture.h"

namespace syncline {
namespace {

using namespace testing_store;  // NOLINT(google-build-using-namespace): the fixture is for these files alone

template <class Call>
Code code_of(Call call, std::string* message = nullptr) {
  try {
    call();
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.code();
  }
  ADD_FAILURE() << "nothing was thrown";
  return Code::internal_error;
}

TEST(SqliteStore, KeepsDocumentsAcrossReopen) {
  const Folder folder;
  Author author;
  {
    const auto store = open_sqlite(folder / "a.db");
    author.put("s", "todo", "1", "one").put("s", "todo", "2", "two").put("t", "todo", "1", "other").commit(*store);
    author.put("s", "todo", "1", "one again").remove("s", "todo", "2").commit(*store);
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "a.db-wal"));
  EXPECT_FALSE(std::filesystem::exists(folder / "a.db-writer"));
  const auto store = open_sqlite(folder / "a.db");
  const auto tx = store->read();
  EXPECT_EQ(tx->head(), 5);
  const auto rows = changed(*tx, "s");
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].id, "1");
  EXPECT_EQ(rows[0].body, "one again");
  EXPECT_EQ(rows[0].version, 2);
  EXPECT_EQ(rows[0].cursor, 4);
  EXPECT_EQ(rows[0].created, 1);
  EXPECT_EQ(rows[0].created_at, 1001);
  EXPECT_EQ(rows[0].updated_at, 1004);
  EXPECT_TRUE(rows[1].deleted);
  EXPECT_TRUE(rows[1].body.empty());
  EXPECT_EQ(changed(*tx, "s", 4).size(), 1u);
  EXPECT_EQ(changed(*tx, "s", 5).size(), 0u);
  EXPECT_EQ(changed(*tx, "s", 0, true).size(), 1u);
  EXPECT_EQ(changed(*tx, "t").size(), 1u);
  EXPECT_EQ(changed(*tx, "unknown").size(), 0u);
  EXPECT_EQ(tx->scope("s")->head, 5);
  EXPECT_EQ(tx->scope("t")->head, 3);
  EXPECT_FALSE(tx->scope("unknown").has_value());
  const StoreCounts counts = tx->counts();
  EXPECT_EQ(counts.documents, 2);
  EXPECT_EQ(counts.tombstones, 1);
  EXPECT_EQ(counts.log_lines, 5);
  EXPECT_EQ(counts.scopes, 2);
}

TEST(SqliteStore, AnswersEachKeyOfABatchOfKeys) {
  const auto store = open_sqlite(":memory:");
  Author().put("s", "e", "1", "x").put("s", "e", "2", "y").remove("s", "e", "2").commit(*store);
  const auto tx = store->read();
  const std::vector<DocumentKey> keys{{"s", "e", "1"}, {"s", "e", "3"}, {"s", "e", "2"}, {"none", "e", "1"}, {"s", "none", "1"}};
  std::vector<int> seen(keys.size(), -1);
  tx->documents(keys, [&](std::size_t at, const DocumentView* found) {
    seen[at] = found == nullptr ? 0 : found->deleted ? 2 : 1;
  });
  EXPECT_EQ(seen, (std::vector<int>{1, 0, 2, 0, 0}));
}

TEST(SqliteStore, ScansInByteOrderWithinPrefixAndAfterAnId) {
  const auto store = open_sqlite(":memory:");
  Author author;
  for (const char* id : {"b", "a", "ab", "a1", "aé", "B", "10", "9", "\xf4\x8f\xbf\xbf", "abc", "gone"}) author.put("s", "e", id, "x");
  author.put("s", "f", "a2", "x").put("t", "e", "a3", "x").remove("s", "e", "gone").commit(*store);
  const auto tx = store->read();
  using Ids = std::vector<std::string>;
  EXPECT_EQ(scan(*tx, "s", "e"), (Ids{"10", "9", "B", "a", "a1", "ab", "abc", "aé", "b", "\xf4\x8f\xbf\xbf"}));
  EXPECT_EQ(scan(*tx, "s", "e", "a"), (Ids{"a", "a1", "ab", "abc", "aé"}));
  EXPECT_EQ(scan(*tx, "s", "e", "ab"), (Ids{"ab", "abc"}));
  EXPECT_EQ(scan(*tx, "s", "e", "a", "a"), (Ids{"a1", "ab", "abc", "aé"}));
  EXPECT_EQ(scan(*tx, "s", "e", "ab", "a"), (Ids{"ab", "abc"}));
  EXPECT_EQ(scan(*tx, "s", "e", "a", "b"), Ids{});
  EXPECT_EQ(scan(*tx, "s", "e", "", "b"), (Ids{"\xf4\x8f\xbf\xbf"}));
  EXPECT_EQ(scan(*tx, "s", "none"), Ids{});
}

std::unique_ptr<Store> nine_documents() {
  std::unique_ptr<Store> store = open_sqlite(":memory:");
  Author author;
  for (int i = 0; i < 9; ++i) author.put("s", "e", std::to_string(i), "x");
  author.commit(*store);
  return store;
}

TEST(SqliteStore, LetsAVisitorReadAndStop) {
  const auto store = nine_documents();
  const auto tx = store->read();
  std::vector<std::string> pairs;
  tx->scan("s", "e", "", "", [&](const DocumentView& outer) {
    tx->scan("s", "e", "", "", [&](const DocumentView& inner) {
      pairs.push_back(std::string(outer.id) + std::string(inner.id));
      return inner.id < "1";
    });
    return outer.id < "1";
  });
  EXPECT_EQ(pairs, (std::vector<std::string>{"00", "01", "10", "11"}));
  EXPECT_THROW(tx->changed("s", 0, false, [](const DocumentView&) -> bool { throw std::runtime_error("visitor"); }),
               std::runtime_error);
  EXPECT_EQ(changed(*tx, "s").size(), 9u);
}

TEST(SqliteStore, WhatIsTakenDoesNotComeToTheVisitor) {
  const auto store = open_sqlite(":memory:");
  Author author;
  for (const char* id : {"a", "b", "c", "d", "e", "f"}) author.put("s", id < std::string_view("d") ? "low" : "high", id, std::string("body ") + id);
  author.put("t", "low", "x", "x").put("t", "low", "y", "y").remove("s", "high", "e").commit(*store);
  const auto tx = store->read();
  for (const bool live_only : {false, true}) {
    std::vector<Document> all;
    std::string way;
    tx->changed(
        "s", 1, live_only,
        [&](const DocumentView& row) {
          all.emplace_back(row);
          way += "v";
          // Another run has rows and an offer of its own.
          tx->changed("t", 0, false, [](const DocumentView&) { return false; }, [](const DocumentView& inner) { return inner.id == "x"; });
          return true;
        },
        [&](const DocumentView& row) {
          if (row.id == "c" || row.id == "f") return false;
          if (row.id == "d") throw std::runtime_error("what fails is the visitor's");
          all.emplace_back(row);
          way += "t";
          return true;
        });
    EXPECT_EQ(way, live_only ? "tvvv" : "tvvvt");
    EXPECT_EQ(all, changed(*tx, "s", 1, live_only));
  }
}

TEST(SqliteStore, AVisitorStopsARunWhoseRowsAreTaken) {
  const auto store = nine_documents();
  const auto tx = store->read();
  std::string seen;
  const auto take = [&](const DocumentView& row) {
    seen += std::string(row.id) + "t";
    return row.id != "3";
  };
  const auto stop = [&](const DocumentView& row) {
    seen += std::string(row.id) + "v";
    return false;
  };
  tx->changed("s", 0, false, stop, take);
  EXPECT_EQ(seen, "0t1t2t3t3v");
  EXPECT_THROW(tx->changed("s", 0, false, [](const DocumentView&) -> bool { throw std::runtime_error("visitor"); }, take), std::runtime_error);
  EXPECT_EQ(changed(*tx, "s").size(), 9u);
}

TEST(SqliteStore, ASnapshotDoesNotMove) {
  const auto store = open_sqlite(":memory:");
  Author author;
  author.put("s", "e", "1", "x").commit(*store);
  const auto before = store->read();
  author.put("s", "e", "2", "x").put("new", "new", "1", "x").commit(*store);
  const auto after = store->read();
  EXPECT_EQ(before->head(), 1);
  EXPECT_EQ(changed(*before, "s").size(), 1u);
  EXPECT_EQ(changed(*before, "new").size(), 0u);
  EXPECT_EQ(after->head(), 3);
  EXPECT_EQ(changed(*after, "s").size(), 2u);
  EXPECT_EQ(changed(*after, "new").size(), 1u);
}

TEST(SqliteStore, AWriterSeesWhatItAppliedAndRollsBackWhatItDidNotCommit) {
  const auto store = open_sqlite(":memory:");
  Author author;
  author.put("s", "e", "1", "x").commit(*store);
  {
    Author lost = author;
    const auto tx = store->write();
    lost.put("s", "e", "2", "x").put("lost scope", "lost entity", "1", "x").apply(*tx);
    WriteBatch client;
    client.clients.push_back({.client_id = "lost", .owner = "ada", .fresh = true});
    tx->apply(client);
    EXPECT_EQ(tx->head(), 3);
    EXPECT_EQ(changed(*tx, "s").size(), 2u);
    EXPECT_EQ(changed(*store->read(), "s").size(), 1u);
  }
  // The numbers of what was lost go to others now.
  const auto tx = store->write();
  author.put("other scope", "other entity", "1", "x").apply(*tx);
  WriteBatch client;
  client.clients.push_back({.client_id = "other", .owner = "bob", .fresh = true});
  tx->apply(client);
  tx->commit();
  const auto view = store->read();
  EXPECT_EQ(view->head(), 2);
  EXPECT_FALSE(view->scope("lost scope").has_value());
  EXPECT_FALSE(view->client("lost").has_value());
  ASSERT_EQ(changed(*view, "other scope").size(), 1u);
  EXPECT_EQ(changed(*view, "other scope")[0].entity, "other entity");
  EXPECT_EQ(view->client("other")->owner, "bob");
}

// The writer remembers the highest id of each kind, and keeps its look-up open: neither may hide a document or show a lost one.
TEST(SqliteStore, AWriterFindsADocumentWhereverItsIdLies) {
  const auto store = open_sqlite(":memory:");
  Author author;
  const auto there = [](WriteTx& tx, std::string_view id) {
    const DocumentKey key{"s", "e", id};
    bool found = false;
    tx.documents({&key, 1}, [&](std::size_t, const DocumentView* document) {
      found = document != nullptr;
      const DocumentKey nested{"s", "e", "m"};  // a visitor reads through the same transaction
      tx.documents({&nested, 1}, [](std::size_t, const DocumentView*) {});
      if (found) {
        EXPECT_EQ(document->id, id);
      }
    });
    return found;
  };
  author.put("s", "e", "m", "x").commit(*store);
  {
    Author lost = author;
    const auto tx = store->write();
    EXPECT_TRUE(there(*tx, "m"));
    EXPECT_FALSE(there(*tx, "z"));
    lost.put("s", "e", "z", "x").apply(*tx);
    EXPECT_TRUE(there(*tx, "z"));
    EXPECT_FALSE(there(*tx, "zz"));
  }
  const auto tx = store->write();
  EXPECT_FALSE(there(*tx, "z"));
  author.put("s", "e", "a", "x").put("s", "e", "p", "x").apply(*tx);
  for (const char* id : {"a", "m", "p"}) EXPECT_TRUE(there(*tx, id)) << id;
  for (const char* id : {"0", "b", "q", "z"}) EXPECT_FALSE(there(*tx, id)) << id;
  tx->commit();
}

TEST(SqliteStore, AClaimedKeyIsTheDocumentsThatFollowsIt) {
  const auto store = open_sqlite(":memory:");
  Author author;
  author.put("s", "e", "m", "x").put("s", "e", "gone", "x").remove("s", "e", "gone").commit(*store);
  WriteBatch batch;
  batch.head = 9;
  {
    const auto tx = store->write();
    EXPECT_EQ(tx->claim({"s", "e", "m"}, 4), Claim::taken);
    EXPECT_EQ(tx->claim({"s", "e", "gone"}, 4), Claim::taken) << "a tombstone has its key";
    EXPECT_EQ(tx->claim({"s", "e", "z"}, 4), Claim::free) << "beyond every id: nothing to look up";
    EXPECT_EQ(tx->claim({"s", "e", "a"}, 4), Claim::made);
    EXPECT_EQ(tx->claim({"s", "e", "a"}, 5), Claim::taken);
    EXPECT_EQ(tx->claim({"s", "e", "b"}, 5), Claim::made);
  }
  const auto tx = store->write();  // what was claimed and not committed is free again
  EXPECT_EQ(tx->claim({"s", "e", "a"}, 4), Claim::made);
  EXPECT_EQ(tx->claim({"s", "e", "b"}, 5), Claim::made);
  batch.documents.push_back({.scope = "s", .entity = "e", .id = "a", .cursor = 4, .created = 4, .version = 1, .body = "\x80", .claimed = 4});
  // Written again before it was put in place: its row lies elsewhere than its claim said.
  batch.documents.push_back({.scope = "s", .entity = "e", .id = "b", .cursor = 9, .created = 5, .version = 2, .body = "\x80", .claimed = 5});
  tx->apply(batch);
  tx->commit();
  const auto view = store->read();
  for (const auto& [id, cursor] : std::map<std::string, Cursor>{{"a", 4}, {"b", 9}}) {
    const DocumentKey key{"s", "e", id};
    view->documents({&key, 1}, [&](std::size_t, const DocumentView* found) {
      ASSERT_NE(found, nullptr) << id;
      EXPECT_EQ(found->cursor, cursor);
    });
  }
}

TEST(SqliteStore, ABatchThatFailsLeavesNothingAndEndsItsTransaction) {
  const auto store = open_sqlite(":memory:");
  Author author;
  author.put("s", "e", "1", "x").commit(*store);
  {
    const auto tx = store->write();
    WriteBatch batch;
    batch.documents.push_back({.scope = "s", .entity = "e", .id = "2", .cursor = 2, .created = 2, .version = 1, .body = "y"});
    batch.documents.push_back({.scope = "s", .entity = "e", .id = "9", .previous = 7, .cursor = 3, .created = 3, .version = 1, .body = "y"});
    EXPECT_EQ(code_of([&] { tx->apply(batch); }), Code::usage);
    EXPECT_EQ(code_of([&] { tx->commit(); }), Code::usage);
    EXPECT_EQ(code_of([&] { tx->head(); }), Code::usage);
  }
  for (const PutDocument& wrong : {PutDocument{.scope = "s", .entity = "e", .id = "5", .cursor = kMaxCursor + 1, .body = "y"},
                                   PutDocument{.scope = "s", .entity = "e", .id = "5", .cursor = 0, .body = "y"},
                                   PutDocument{.scope = "s", .entity = "e", .id = "5", .cursor = 5},
                                   PutDocument{.scope = "s", .entity = "e", .id = "5", .cursor = 5, .body = "y", .deleted = true}}) {
    WriteBatch batch;
    batch.documents.push_back(wrong);
    EXPECT_EQ(code_of([&] { store->write()->apply(batch); }), Code::usage);
  }
  EXPECT_EQ(changed(*store->read(), "s").size(), 1u);
  author.put("s", "e", "2", "z").commit(*store);
  EXPECT_EQ(changed(*store->read(), "s").size(), 2u);
}

TEST(SqliteStore, AcceptsTheLastCursor) {
  const auto store = open_sqlite(":memory:");
  const auto tx = store->write();
  WriteBatch batch;
  batch.head = kMaxCursor;
  batch.documents.push_back({.scope = "a", .entity = "e", .id = "1", .cursor = kMaxCursor, .created = kMaxCursor, .version = 1, .body = "y"});
  batch.documents.push_back({.scope = "b", .entity = "e", .id = "1", .cursor = 1, .created = 1, .version = 1, .body = "z"});
  tx->apply(batch);
  EXPECT_EQ(changed(*tx, "a", kMaxCursor - 1).size(), 1u);
  EXPECT_EQ(changed(*tx, "a", kMaxCursor).size(), 0u);
  EXPECT_EQ(changed(*tx, "b").size(), 1u);
  EXPECT_EQ(document(*tx, "a", "e", "1")->cursor, kMaxCursor);
}

TEST(SqliteStore, KeepsLogLinesWhole) {
  const auto store = open_sqlite(":memory:");
  Line full;
  full.cursor = 1;
  full.scope = "s";
  full.entity = "e";
  full.id = "42";
  full.op = Op::update;
  full.version = 7;
  full.ts = -5;
  full.client_id = "12";
  full.client_seq = 99;
  full.user = "ada";
  full.mutation = "todo/create";
  full.mutation_ts = 77;
  full.delta = std::string("\0\xff", 2);
  full.hash = ~std::uint64_t{0};
  Line other_user = full;
  other_user.cursor = 2;
  other_user.user = "bob";
  other_user.previous = 1;
  Line no_user = full;
  no_user.cursor = 3;
  no_user.user = "";
  Line backend = full;
  backend.cursor = 4;
  backend.client_id = "";
  backend.user = "ops";
  backend.mutation = "";
  Line plain = backend;
  plain.cursor = 5;
  plain.user = "";
  Line stranger = full;  // a client without a row, whose id reads like the number of one that has
  stranger.cursor = 6;
  stranger.client_id = "1";
  stranger.user = "";
  Line strange_user = stranger;
  strange_user.cursor = 7;
  strange_user.user = "eve";
  const std::vector<Line> lines{full, other_user, no_user, backend, plain, stranger, strange_user};
  const auto tx = store->write();
  WriteBatch batch;
  batch.clients.push_back({.client_id = "12", .owner = "ada", .fresh = true});
  for (const Line& line : lines) batch.log.push_back(line.view());
  tx->apply(batch);
  EXPECT_EQ(log(*tx), lines);
  EXPECT_EQ(log(*tx, {.client_id = "12"}), (std::vector<Line>{full, other_user, no_user}));
  EXPECT_EQ(log(*tx, {.client_id = "1"}), (std::vector<Line>{stranger, strange_user}));
  EXPECT_EQ(log(*tx, {.client_id = "none"}), std::vector<Line>{});
}

TEST(SqliteStore, FiltersTheLogAndWalksOneDocumentsHistory) {
  const auto store = open_sqlite(":memory:");
  Author author;
  author.put("s", "e", "1", "a").put("s", "e", "2", "a").put("t", "e", "1", "a").put("s", "f", "1", "a").commit(*store);
  author.put("s", "e", "1", "b").put("s", "e", "1", "c").remove("s", "e", "1").put("s", "e", "1", "d").commit(*store);
  const auto tx = store->read();
  const auto cursors = [&](const LogRange& range) {
    std::vector<Cursor> found;
    for (const Line& line : log(*tx, range)) found.push_back(line.cursor);
    return found;
  };
  using Cursors = std::vector<Cursor>;
  EXPECT_EQ(cursors({}), (Cursors{1, 2, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(cursors({.after = 2, .through = 4, .newest_first = true}), (Cursors{4, 3}));
  EXPECT_EQ(cursors({.scope = "s", .entity = "e"}), (Cursors{1, 2, 5, 6, 7, 8}));
  EXPECT_EQ(cursors({.id = "1"}), (Cursors{1, 3, 4, 5, 6, 7, 8}));
  EXPECT_EQ(cursors({.scope = "t"}), (Cursors{3}));
  EXPECT_EQ(cursors({.scope = "none"}), Cursors{});
  EXPECT_EQ(cursors({.scope = "s", .entity = "e", .id = "1", .newest_first = true}), (Cursors{8, 7, 6, 5, 1}));
  EXPECT_EQ(cursors({.scope = "s", .entity = "e", .id = "1"}), (Cursors{1, 5, 6, 7, 8}));
  EXPECT_EQ(cursors({.after = 1, .through = 6, .scope = "s", .entity = "e", .id = "1", .newest_first = true}), (Cursors{6, 5}));
  EXPECT_EQ(cursors({.after = 1, .through = 6, .scope = "s", .entity = "e", .id = "1"}), (Cursors{5, 6}));
  EXPECT_EQ(cursors({.scope = "s", .entity = "e", .id = "none"}), Cursors{});
}

TEST(SqliteStore, KeepsClientsAndTheResultsThatCoverANumber) {
  const Folder folder;
  {
    const auto store = open_sqlite(folder / "a.db");
    const auto tx = store->write();
    WriteBatch batch;
    batch.clients.push_back({.client_id = "c", .owner = "ada", .last_seq = 3, .settled = 0, .seen_at = 5, .fresh = true,
                             .first_seq = 1, .last_result_seq = 3, .results = "1-3"});
    batch.clients.push_back({.client_id = "d", .owner = "", .last_seq = 0, .fresh = true});
    tx->apply(batch);
    tx->commit();
  }
  const auto store = open_sqlite(folder / "a.db");
  {
    const auto tx = store->write();
    WriteBatch batch;
    batch.clients.push_back({.client_id = "c", .owner = "ada", .last_seq = 9, .settled = 3, .seen_at = 6,
                             .first_seq = 6, .last_result_seq = 9, .results = "6-9"});
    tx->apply(batch);
    tx->commit();
  }
  const auto tx = store->read();
  const auto client = tx->client("c");
  ASSERT_TRUE(client.has_value());
  EXPECT_EQ(client->owner, "ada");
  EXPECT_EQ(client->last_seq, 9);
  EXPECT_EQ(client->settled, 3);
  EXPECT_EQ(client->seen_at, 6);
  EXPECT_FALSE(tx->client("none").has_value());
  EXPECT_EQ(tx->result("c", 1)->results, "1-3");
  EXPECT_EQ(tx->result("c", 3)->results, "1-3");
  EXPECT_FALSE(tx->result("c", 4).has_value());
  EXPECT_EQ(tx->result("c", 6)->first_seq, 6);
  EXPECT_EQ(tx->result("c", 9)->last_seq, 9);
  EXPECT_FALSE(tx->result("c", 10).has_value());
  EXPECT_FALSE(tx->result("d", 1).has_value());
  EXPECT_FALSE(tx->result("none", 1).has_value());
  {
    const auto write = store->write();
    WriteBatch batch;
    batch.clients.push_back({.client_id = "c", .owner = "ada", .last_seq = 9, .settled = 8, .seen_at = 7, .forget_through = 8});
    write->apply(batch);
    EXPECT_FALSE(write->result("c", 3).has_value());
    EXPECT_TRUE(write->result("c", 8).has_value());  // its row ends at 9
    WriteBatch stolen;
    stolen.clients.push_back({.client_id = "c", .owner = "eve", .last_seq = 10});
    EXPECT_EQ(code_of([&] { write->apply(stolen); }), Code::usage);
  }
  WriteBatch unknown;
  unknown.clients.push_back({.client_id = "none", .owner = "eve", .last_seq = 10});
  EXPECT_EQ(code_of([&] { store->write()->apply(unknown); }), Code::usage);
}

TEST(SqliteStore, KeepsEpochsInOrderAndScopesByName) {
  const auto store = open_sqlite(":memory:");
  const auto tx = store->write();
  WriteBatch batch;
  batch.epochs = {{"zz", 1, 10}, {"aa", 1, 11}, {"mm", 5, 12}};
  batch.scopes = {{"b", 2}, {"a", 3}, {"é", 4}};
  tx->apply(batch);
  tx->commit();
  const auto view = store->read();
  const auto epochs = view->epochs();
  ASSERT_EQ(epochs.size(), 3u);
  EXPECT_EQ(epochs[0].epoch, "zz");
  EXPECT_EQ(epochs[1].epoch, "aa");
  EXPECT_EQ(epochs[2].first, 5);
  EXPECT_EQ(epochs[2].opened_at, 12);
  std::vector<std::string> names;
  view->scopes([&](const ScopeRow& row) {
    names.push_back(row.name);
    return true;
  });
  EXPECT_EQ(names, (std::vector<std::string>{"a", "b", "é"}));
}

Applied purge(Store& store, const Purge& what) {
  const auto tx = store.write();
  WriteBatch batch;
  batch.purges.push_back(what);
  const Applied applied = tx->apply(batch);
  tx->commit();
  return applied;
}

TEST(SqliteStore, PurgesATombstoneWithAllOfItsLinesAndRaisesTheFloors) {
  const auto store = open_sqlite(":memory:");
  Author author;
  author.put("s", "e", "1", "a").put("s", "e", "2", "a").put("t", "e", "1", "a").commit(*store);       // 1 2 3
  author.put("s", "e", "1", "b").remove("s", "e", "1").remove("s", "e", "2").remove("t", "e", "1").commit(*store);  // 4 5 6 7
  const Applied applied = purge(*store, {.scope = "s", .tombstones_through = 5});
  EXPECT_EQ(applied.purged_tombstones, 1);
  EXPECT_EQ(applied.purged_log_lines, 3);
  const auto tx = store->read();
  EXPECT_EQ(tx->scope("s")->floor, 5);
  EXPECT_EQ(tx->scope("s")->log_floor, 5);
  EXPECT_EQ(tx->scope("t")->floor, 0);
  EXPECT_FALSE(document(*tx, "s", "e", "1").has_value());
  EXPECT_TRUE(document(*tx, "s", "e", "2")->deleted);
  std::vector<Cursor> left;
  for (const Line& line : log(*tx)) left.push_back(line.cursor);
  EXPECT_EQ(left, (std::vector<Cursor>{2, 3, 6, 7}));
  EXPECT_EQ(tx->counts().tombstones, 2);
}

TEST(SqliteStore, PurgesLogLinesOfOneScopeAndGoesOnWhereItStopped) {
  const auto store = open_sqlite(":memory:");
  Author author;
  for (int i = 0; i < 10; ++i) author.put(i % 2 == 0 ? "s" : "t", "e", "1", std::to_string(i));
  author.commit(*store);
  EXPECT_EQ(purge(*store, {.scope = "s", .log_through = 8, .at_most = 3}).purged_log_lines, 3);  // 1 3 5
  EXPECT_EQ(store->read()->scope("s")->log_floor, 5);
  EXPECT_EQ(purge(*store, {.scope = "s", .log_through = 8, .at_most = 3}).purged_log_lines, 1);  // 7
  EXPECT_EQ(purge(*store, {.scope = "s", .log_through = 8, .at_most = 3}).purged_log_lines, 0);
  const auto tx = store->read();
  EXPECT_EQ(tx->scope("s")->log_floor, 7);
  EXPECT_EQ(tx->scope("s")->floor, 0);
  EXPECT_EQ(tx->scope("t")->log_floor, 0);
  EXPECT_EQ(log(*tx, {.scope = "s"}).size(), 1u);
  EXPECT_EQ(log(*tx, {.scope = "t"}).size(), 5u);
  EXPECT_EQ(log(*tx, {.scope = "s", .entity = "e", .id = "1", .newest_first = true}).size(), 1u);
  EXPECT_EQ(document(*tx, "s", "e", "1")->version, 5);
  // A bound above the head must not hide lines that are written later.
  EXPECT_EQ(purge(*store, {.scope = "s", .log_through = kMaxCursor}).purged_log_lines, 1);
  author.put("s", "e", "1", "later").commit(*store);
  EXPECT_EQ(purge(*store, {.scope = "s", .log_through = kMaxCursor}).purged_log_lines, 1);
}

TEST(SqliteStore, ABoundedPurgeNeverLeavesLinesOfAPurgedTombstone) {
  const auto store = open_sqlite(":memory:");
  Author author;
  for (int i = 0; i < 7; ++i) author.put("s", "e", "long", std::to_string(i)).put("s", "e", "alive", std::to_string(i));
  author.remove("s", "e", "long").put("s", "e", "short", "x").remove("s", "e", "short").commit(*store);
  std::int64_t steps = 0;
  for (;;) {
    const Applied applied = purge(*store, {.scope = "", .tombstones_through = author.head(), .at_most = 3});
    EXPECT_LE(applied.purged_log_lines, 3);
    const auto tx = store->read();
    for (const Line& line : log(*tx)) EXPECT_TRUE(document(*tx, line.scope, line.entity, line.id).has_value()) << line.cursor;
    if (applied.purged_log_lines + applied.purged_tombstones == 0) break;
    ++steps;
  }
  EXPECT_EQ(steps, 4);  // 8 + 2 lines, 3 at a time
  const auto tx = store->read();
  EXPECT_EQ(tx->counts().tombstones, 0);
  EXPECT_EQ(tx->counts().log_lines, 7);
  EXPECT_EQ(tx->scope("s")->floor, author.head());
}

TEST(SqliteStore, PurgesEveryScopeAtOnce) {
  const auto store = open_sqlite(":memory:");
  Author author;
  author.put("s", "e", "1", "a").put("t", "e", "1", "a").remove("s", "e", "1").remove("t", "e", "1").put("u", "e", "1", "a").commit(*store);
  const Applied applied = purge(*store, {.scope = "", .tombstones_through = 3, .log_through = 2});
  EXPECT_EQ(applied.purged_tombstones, 1);
  EXPECT_EQ(applied.purged_log_lines, 3);
  const auto tx = store->read();
  EXPECT_EQ(tx->scope("s")->floor, 3);
  EXPECT_EQ(tx->scope("s")->log_floor, 3);
  EXPECT_EQ(tx->scope("t")->floor, 0);
  EXPECT_EQ(tx->scope("t")->log_floor, 2);
  EXPECT_EQ(tx->scope("u")->log_floor, 0);
}

TEST(SqliteStore, ForgetsTheHistoryOfADocumentAndKeepsItsRow) {
  const auto store = open_sqlite(":memory:");
  Author author;
  author.put("s", "e", "1", "a").put("s", "e", "2", "a").put("s", "e", "1", "b").commit(*store);
  const auto tx = store->write();
  WriteBatch batch;
  batch.forget_history = {{"s", "e", "1"}, {"s", "e", "none"}, {"none", "e", "1"}};
  tx->apply(batch);
  author.put("s", "e", "1", "c").apply(*tx);
  EXPECT_EQ(document(*tx, "s", "e", "1")->version, 3);
  const auto lines = log(*tx, {.scope = "s", .entity = "e", .id = "1", .newest_first = true});
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_EQ(lines[0].cursor, 4);
  EXPECT_EQ(log(*tx).size(), 2u);
  EXPECT_EQ(tx->scope("s")->log_floor, 3);
}

TEST(SqliteStore, TracesADocumentsLinesFromAnyOfThemAndSaysWhichIsMissing) {
  using Cursors = std::vector<Cursor>;
  const auto store = open_sqlite(":memory:");
  Author author;
  author.put("s", "e", "1", "a").put("s", "e", "2", "x").put("s", "e", "1", "b").remove("s", "e", "1").put("s", "e", "1", "c").commit(*store);
  const auto trace = [&](Cursor newest, std::size_t most, Cursor expected) {
    Cursors seen;
    const auto tx = store->read();
    EXPECT_EQ(tx->trace(newest, [&](const LogLineView& line) {
      EXPECT_EQ(line.id, "1");
      seen.push_back(line.cursor);
      return seen.size() < most;
    }), expected);
    return seen;
  };
  EXPECT_EQ(trace(5, 99, 0), (Cursors{5, 4, 3, 1}));
  EXPECT_EQ(trace(4, 2, 0), (Cursors{4, 3}));
  EXPECT_EQ(trace(6, 99, 6), Cursors{});
  EXPECT_EQ(trace(0, 99, 0), Cursors{});
  purge(*store, {.scope = "s", .log_through = 3});
  EXPECT_EQ(trace(5, 99, 3), (Cursors{5, 4}));
}

TEST(SqliteStore, TellsTheHighestLogFloorOfWhatIsNotReserved) {
  const auto store = open_sqlite(":memory:");
  Author author;
  author.put("s", "e", "1", "a").put("t", "e", "1", "a").put("_own", "e", "1", "a").put("t", "e", "1", "b").commit(*store);
  EXPECT_EQ(store->read()->log_floor(), 0);
  purge(*store, {.scope = "_own", .log_through = 3});
  EXPECT_EQ(store->read()->log_floor(), 0);
  purge(*store, {.scope = "s", .log_through = 3});
  EXPECT_EQ(store->read()->log_floor(), 1);
  purge(*store, {.scope = "", .log_through = 3});
  EXPECT_EQ(store->read()->log_floor(), 2);
}

TEST(SqliteStore, UnloggedDocumentsTakeNoCursorLeaveNoLineAndAreInNoPull) {
  const auto store = open_sqlite(":memory:");
  const auto tx = store->write();
  WriteBatch batch;
  batch.unlogged = {{"_positions", "client", "a", "1", 10}, {"_positions", "client", "b", "2", 20}, {"s", "_typing", "a", "3", 30}};
  tx->apply(batch);
  EXPECT_EQ(unlogged(*tx, "_positions", "client"), (std::vector<std::string>{"a=1@10", "b=2@20"}));
  batch.unlogged = {{"_positions", "client", "a", "", 0}, {"_positions", "client", "b", "4", 40}, {"_positions", "client", "none", "", 0}};
  tx->apply(batch);
  EXPECT_EQ(unlogged(*tx, "_positions", "client"), (std::vector<std::string>{"b=4@40"}));
  EXPECT_EQ(unlogged(*tx, "s", "_typing"), (std::vector<std::string>{"a=3@30"}));
  EXPECT_TRUE(unlogged(*tx, "none", "client").empty());
  EXPECT_TRUE(changed(*tx, "_positions").empty());
  EXPECT_TRUE(changed(*tx, "s").empty());
  EXPECT_TRUE(log(*tx).empty());
  EXPECT_FALSE(document(*tx, "_positions", "client", "b").has_value());
  EXPECT_EQ(tx->head(), 0);
  EXPECT_EQ(tx->counts().unlogged, 2);
  EXPECT_EQ(tx->counts().documents, 0);
}

TEST(SqliteStore, UnloggedDocumentsAreReadByPrefixAndFromAnId) {
  const auto store = open_sqlite(":memory:");
  const auto tx = store->write();
  WriteBatch batch;
  for (const char* id : {"a:1", "a:2", "b:1"}) batch.unlogged.push_back({"_s", "e", id, "x", 0});
  tx->apply(batch);
  EXPECT_EQ(unlogged(*tx, "_s", "e", "a:"), (std::vector<std::string>{"a:1=x@0", "a:2=x@0"}));
  EXPECT_EQ(unlogged(*tx, "_s", "e", "", "a:2"), (std::vector<std::string>{"b:1=x@0"}));
}

TEST(SqliteStore, OnlyAReservedScopeOrEntityHoldsUnloggedDocuments) {
  const auto store = open_sqlite(":memory:");
  const auto tx = store->write();
  WriteBatch batch;
  batch.unlogged = {{"s", "e", "1", "x", 0}};
  EXPECT_THROW(tx->apply(batch), Error);
}

TEST(SqliteStore, AWriteTransactionMayBeHandedBetweenThreads) {
  const auto store = open_sqlite(":memory:");
  Author author;
  author.put("s", "e", "1", "x");
  auto tx = store->write();
  std::atomic<bool> second_has_it = false;
  std::thread second([&] {
    const auto waiting = store->write();
    second_has_it = true;
  });
  std::thread([&] { author.apply(*tx); }).join();
  std::thread([&] { tx->commit(); }).join();
  std::thread([&] { tx.reset(); }).join();
  second.join();
  EXPECT_TRUE(second_has_it);
  EXPECT_EQ(store->read()->head(), 1);
}

TEST(SqliteStore, AReaderWaitsForAFreeConnection) {
  const auto store = open_sqlite(":memory:", {.max_readers = 2});
  auto first = store->read();
  auto second = store->read();
  std::atomic<bool> third_has_it = false;
  std::thread third([&] {
    const auto waited = store->read();
    third_has_it = true;
  });
  EXPECT_FALSE(third_has_it);
  first.reset();
  third.join();
  EXPECT_TRUE(third_has_it);
}

TEST(SqliteStore, CloseWaitsForOpenTransactionsAndRefusesNewOnes) {
  const auto store = open_sqlite(":memory:");
  auto reader = store->read();
  auto writer = store->write();
  std::thread refused([&] { EXPECT_EQ(code_of([&] { store->write(); }), Code::closed); });
  std::atomic<bool> closed = false;
  std::thread closing([&] {
    store->close();
    closed = true;
  });
  refused.join();  // it was waiting for the writer, or came after close() had begun
  EXPECT_FALSE(closed);
  Author author;
  author.put("s", "e", "1", "x").apply(*writer);
  writer->commit();
  writer.reset();
  EXPECT_EQ(reader->head(), 0);
  reader.reset();
  closing.join();
  EXPECT_EQ(code_of([&] { store->read(); }), Code::closed);
  EXPECT_EQ(code_of([&] { store->write(); }), Code::closed);
  EXPECT_EQ(code_of([&] { store->info(); }), Code::closed);
  store->close();
}

TEST(SqliteStore, ManyThreadsReadWhileOneWrites) {
  const Folder folder;
  const auto store = open_sqlite(folder / "a.db", {.durability = Durability::normal, .max_readers = 3});
  std::atomic<bool> done = false;
  std::vector<std::thread> readers;
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([&] {
      Cursor last = 0;
      while (!done) {
        const auto tx = store->read();
        const Cursor head = tx->head();
        EXPECT_GE(head, last);
        last = head;
        const auto rows = changed(*tx, "s");
        // Gap-free: what a snapshot shows is exactly what was committed up to its head.
        EXPECT_EQ(static_cast<Cursor>(rows.size()), head);
      }
    });
  }
  Author author;
  for (int i = 0; i < 300; ++i) author.put("s", "e" + std::to_string(i % 7), std::to_string(i), "x").commit(*store);
  done = true;
  for (std::thread& reader : readers) reader.join();
}

TEST(SqliteStore, MemoryStoresArePrivateAndLeaveNothing) {
  const Folder folder;
  const char* before = getenv("TMPDIR");
  const std::string saved = before != nullptr ? before : "";
  setenv("TMPDIR", folder.path().c_str(), 1);
  {
    const auto one = open_sqlite(":memory:");
    const auto two = open_sqlite(":memory:");
    Author().put("s", "e", "1", "x").commit(*one);
    EXPECT_EQ(one->read()->head(), 1);
    EXPECT_EQ(two->read()->head(), 0);
    EXPECT_EQ(one->info().path, ":memory:");
    EXPECT_FALSE(std::filesystem::is_empty(folder.path()));
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  before != nullptr ? setenv("TMPDIR", saved.c_str(), 1) : unsetenv("TMPDIR");
  EXPECT_EQ(code_of([] { open_sqlite(":memory:", {.read_only = true}); }), Code::usage);
}

TEST(SqliteStore, TellsAboutItself) {
  const Folder folder;
  const auto store = open_sqlite(folder / "a.db");
  Author().put("s", "e", "1", "x").commit(*store);
  const StoreInfo info = store->info();
  EXPECT_EQ(info.kind, "sqlite");
  EXPECT_FALSE(info.version.empty());
  EXPECT_EQ(info.path, std::filesystem::canonical(folder / "a.db").string());
  EXPECT_GT(info.bytes + info.wal_bytes, 0);
  EXPECT_GT(info.free_disk_bytes, 0);
  EXPECT_EQ(info.schema_version, 1);
}

TEST(SqliteStore, BacksUpOneSnapshotWhileWritesGoOn) {
  const Folder folder;
  const auto store = open_sqlite(folder / "a.db", {.durability = Durability::normal});
  Author author;
  const std::string body(2000, 'x');
  for (int i = 0; i < 3000; ++i) author.put("s", "e", std::to_string(i), body);
  author.commit(*store);
  const Cursor head = author.head();
  std::int64_t calls = 0;
  std::int64_t last = 0;
  std::int64_t total = 0;
  store->backup(folder / "b.db", [&](std::int64_t done, std::int64_t of) {
    ++calls;
    EXPECT_GE(done, last);
    last = done;
    total = of;
    author.put("s", "e", "more", std::to_string(calls)).commit(*store);
  });
  EXPECT_GT(calls, 1);
  EXPECT_EQ(last, total);
  EXPECT_FALSE(std::filesystem::exists(folder / "b.db-partial"));
  EXPECT_EQ(code_of([&] { store->backup(folder / "b.db", {}); }), Code::storage);
  for (const bool read_only : {true, false}) {
    const auto copy = open_sqlite(folder / "b.db", {.read_only = read_only});
    EXPECT_EQ(copy->read()->head(), head);
    EXPECT_EQ(changed(*copy->read(), "s").size(), 3000u);
  }
  EXPECT_GT(store->read()->head(), head);
  EXPECT_THROW(store->backup(folder / "c.db", [](std::int64_t, std::int64_t) { throw std::runtime_error("enough"); }), std::runtime_error);
  EXPECT_FALSE(std::filesystem::exists(folder / "c.db"));
  EXPECT_FALSE(std::filesystem::exists(folder / "c.db-partial"));
}

TEST(SqliteStore, NamesItsOperations) {
  EXPECT_EQ(op_name(Op::create), "create");
  EXPECT_EQ(op_name(Op::update), "update");
  EXPECT_EQ(op_name(Op::remove), "delete");
}

}  // namespace
}  // namespace syncline
