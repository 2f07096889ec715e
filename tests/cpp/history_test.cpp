#include "engine/history.h"

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <algorithm>
#include <random>

#include "engine_fixture.h"
#include "store_fixture.h"

namespace syncline {
namespace {

using testing::Bench;
using testing::error_code;
using testing::mutation;
using testing::unpack;

struct Kept {
  Cursor cursor;
  std::string scope, entity, id;
  Op op;
  std::int64_t version;
  std::string client, user, name;
  friend bool operator==(const Kept&, const Kept&) = default;
};

std::vector<Kept> read_all(LogReader& reader) {
  std::vector<Kept> lines;
  const auto keep = [&](const LogLineView& line) {
    lines.push_back({line.cursor, std::string(line.scope), std::string(line.entity), std::string(line.id), line.op, line.version,
                     std::string(line.client_id), std::string(line.user), std::string(line.mutation)});
    return true;
  };
  while (reader.next(keep)) {
  }
  return lines;
}

std::vector<Kept> log(Engine& engine, LogRequest request = {}) {
  LogReader reader(engine, std::move(request));
  return read_all(reader);
}

std::vector<Cursor> cursors(Engine& engine, LogRequest request = {}) {
  std::vector<Cursor> found;
  for (const Kept& line : log(engine, std::move(request))) found.push_back(line.cursor);
  return found;
}

// "version op body" of each, newest first; "..." where what came before is gone.
std::vector<std::string> versions(Engine& engine, const std::string& id, const std::string& scope = "s", std::size_t chunk = 1000) {
  VersionReader reader(engine, scope, "k", id);
  std::vector<std::string> found;
  const auto keep = [&](const VersionView& version) {
    found.push_back(std::to_string(version.line.version) + " " + std::string(op_name(version.line.op)) +
                    (version.body.empty() ? "" : " " + unpack(version.body)));
    return true;
  };
  while (reader.next(chunk, keep)) {
  }
  if (!reader.complete()) found.emplace_back("...");
  return found;
}

std::map<std::string, std::string> listed(Past& past, const std::string& scope = "s") {
  std::map<std::string, std::string> found;
  for (const Row& row : past.scan(scope, "k")) found[row.id] = unpack(row.body);
  return found;
}

// {"v": {"$gte": least}}: what JSON's own dialect would refuse.
std::string at_least(std::int64_t least) {
  std::string filter;
  mp::Writer writer(filter);
  writer.map(1);
  writer.str("v");
  writer.map(1);
  writer.str("$gte");
  writer.integer(least);
  return filter;
}

std::string set_args(const std::string& id, int value) { return R"({"id":")" + id + R"(","v":)" + std::to_string(value) + "}"; }

class History : public ::testing::Test {
 protected:
  Cursor set(const std::string& id, int value, const std::string& scope = "s") {
    return bench.one(mutation("", 0, "set", set_args(id, value), scope), backend).cursor;
  }
  Cursor del(const std::string& id, const std::string& scope = "s") {
    return bench.one(mutation("", 0, "del", R"({"id":")" + id + "\"}", scope), backend).cursor;
  }
  Engine& engine() { return *bench.engine; }
  // Purges as compaction does, whatever the ages.
  void purge(Purge what) {
    bench.engine.reset();
    {
      const auto store = open_sqlite(path, {});
      const auto tx = store->write();
      WriteBatch batch;
      batch.purges.push_back(what);
      tx->apply(batch);
      tx->commit();
    }
    bench.open();
  }
  void forget(const std::string& id) {
    bench.engine.reset();
    {
      const auto store = open_sqlite(path, {});
      const auto tx = store->write();
      WriteBatch batch;
      batch.forget_history.push_back({"s", "k", id});
      tx->apply(batch);
      tx->commit();
    }
    bench.open();
  }
  void sql(const std::string& statement) {
    bench.engine.reset();
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db, statement.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
    EXPECT_EQ(sqlite3_changes(db), 1);
    sqlite3_close(db);
    bench.open();
  }

  testing_store::Folder folder;
  std::string path = folder / "history.db";
  Bench bench{path};
  PushOptions backend{.user = {}, .forbidden = {}, .require_client = false};
};

// ---------------------------------------------------------------------------------------------------------------- log

TEST_F(History, TheLogTellsWhoDidWhatThroughWhich) {
  bench.one(mutation("c1", 1, "set", set_args("a", 1)), {.user = "ada", .forbidden = {}, .require_client = true});
  set("a", 2);
  del("a");
  const std::vector<Kept> expected = {{1, "s", "k", "a", Op::create, 1, "c1", "ada", "set"},
                                      {2, "s", "k", "a", Op::update, 2, "", "", "set"},
                                      {3, "s", "k", "a", Op::remove, 3, "", "", "del"}};
  EXPECT_EQ(log(engine()), expected);
}

TEST_F(History, TheLogIsFilteredAndBoundedFromBothEnds) {
  for (int n = 0; n < 4; ++n) {
    set("a", n, "s");
    set("b", n, "t");
  }
  EXPECT_EQ(cursors(engine(), {.scope = "s"}), (std::vector<Cursor>{1, 3, 5, 7}));
  EXPECT_EQ(cursors(engine(), {.scope = "t", .newest_first = true, .limit = 3}), (std::vector<Cursor>{8, 6, 4}));
  EXPECT_EQ(cursors(engine(), {.since = Cursor{2}, .through = Cursor{6}}), (std::vector<Cursor>{3, 4, 5, 6}));
  EXPECT_EQ(cursors(engine(), {.id = "b", .limit = 2}), (std::vector<Cursor>{2, 4}));
  EXPECT_EQ(cursors(engine(), {.since = Cursor{8}}), std::vector<Cursor>{});
  EXPECT_EQ(cursors(engine(), {.since = Cursor{1}, .through = Cursor{5}, .scope = "s", .entity = "k", .id = "a"}), (std::vector<Cursor>{3, 5}));
  EXPECT_EQ(cursors(engine(), {.since = Cursor{1}, .through = Cursor{5}, .scope = "s", .entity = "k", .id = "a", .newest_first = true}),
            (std::vector<Cursor>{5, 3}));
  EXPECT_EQ(cursors(engine(), {.scope = "s", .entity = "k", .id = "a", .newest_first = true, .limit = 1}), std::vector<Cursor>{7});
  EXPECT_EQ(cursors(engine(), {.scope = "s", .entity = "k", .id = "nobody"}), std::vector<Cursor>{});
  EXPECT_EQ(cursors(engine(), {.scope = "nowhere"}), std::vector<Cursor>{});
  EXPECT_EQ(cursors(engine(), {.limit = 0}), std::vector<Cursor>{});
}

TEST_F(History, TheLogKnowsItsClients) {
  bench.one(mutation("c1", 1, "set", set_args("a", 1)));
  bench.one(mutation("c2", 1, "set", set_args("a", 2)));
  set("a", 3);
  EXPECT_EQ(cursors(engine(), {.client_id = "c2"}), std::vector<Cursor>{2});
  EXPECT_EQ(cursors(engine(), {.scope = "s", .entity = "k", .id = "a", .client_id = "c1"}), std::vector<Cursor>{1});
  EXPECT_EQ(cursors(engine(), {.scope = "s", .entity = "k", .id = "a", .client_id = "c2", .newest_first = true}), std::vector<Cursor>{2});
}

TEST_F(History, TheLogIsReadInChunksWithoutLosingOrRepeatingALine) {
  bench.push(std::vector<Mutation>(900, mutation("", 0, "add", R"({"id":"a"})")), backend);
  for (const bool newest_first : {false, true}) {
    for (const std::string id : {"", "a"}) {
      LogRequest request{.scope = "s", .entity = "k", .id = id, .newest_first = newest_first};
      std::vector<Cursor> found = cursors(engine(), request);
      if (newest_first) std::ranges::reverse(found);
      ASSERT_EQ(found.size(), 900U);
      for (std::size_t n = 0; n < found.size(); ++n) EXPECT_EQ(found[n], static_cast<Cursor>(n + 1));
    }
  }
}

TEST_F(History, TheLogEndsAtTheHeadOfWhenItBegan) {
  set("a", 1);
  LogReader reader(engine(), {});
  set("a", 2);
  EXPECT_EQ(reader.through(), 1);
  EXPECT_EQ(read_all(reader).size(), 1U);
}

TEST_F(History, TheLogGoesOnWhereAVisitorStopped) {
  for (int n = 0; n < 5; ++n) set("a", n);
  LogReader reader(engine(), {});
  std::vector<Cursor> seen;
  bool more = true;
  while (more) {
    more = reader.next([&](const LogLineView& line) {
      seen.push_back(line.cursor);
      return false;
    });
  }
  EXPECT_EQ(seen, (std::vector<Cursor>{1, 2, 3, 4, 5}));
}

TEST_F(History, TheLogIsAskedByTime) {
  const std::int64_t start = bench.clock->time;
  for (int n = 0; n < 6; ++n) {
    bench.clock->time = start + n * 1000;
    set("a", n);
  }
  EXPECT_EQ(cursors(engine(), {.since = Instant{start + 3000}}), (std::vector<Cursor>{4, 5, 6}));
  EXPECT_EQ(cursors(engine(), {.since = Instant{start + 2001}, .through = Instant{start + 4999}}), (std::vector<Cursor>{4, 5}));
  EXPECT_EQ(cursors(engine(), {.since = Instant{start - 1}, .through = Instant{start - 1}}), std::vector<Cursor>{});
  EXPECT_EQ(error_code([&] { cursors(engine(), {.since = Instant{start + 5001}}); }), "invalid_request");
}

TEST_F(History, ReservedLinesComeOnlyToWhoNamesThem) {
  set("a", 1);
  {
    bench.engine.reset();
    const auto store = open_sqlite(path, {});
    testing_store::Author author(1);
    author.put("_own", "note", "1", testing::pack("{}"));
    author.put("t", "_op", "1", testing::pack("{}"));
    author.commit(*store);
  }
  bench.open();
  EXPECT_EQ(cursors(engine()), std::vector<Cursor>{1});
  EXPECT_EQ(cursors(engine(), {.scope = "_own"}), std::vector<Cursor>{2});
  EXPECT_EQ(cursors(engine(), {.entity = "_op"}), std::vector<Cursor>{3});
  EXPECT_EQ(Past(engine(), Cursor{2}).scan("_own", "note").size(), 1U);
}

TEST_F(History, TheLogRefusesToBeginWhereLinesAreGone) {
  for (int n = 0; n < 4; ++n) set("a", n, n % 2 == 0 ? "s" : "t");
  purge({.scope = "s", .tombstones_through = 0, .log_through = 3, .at_most = 0});
  EXPECT_EQ(error_code([&] { log(engine(), {.since = Cursor{2}}); }), "history_gone");
  EXPECT_EQ(error_code([&] { log(engine(), {.since = Cursor{2}, .scope = "s"}); }), "history_gone");
  EXPECT_EQ(error_code([&] { log(engine(), {.since = Instant{bench.clock->time}}); }), "history_gone");
  EXPECT_EQ(cursors(engine(), {.since = Cursor{1}, .scope = "t"}), (std::vector<Cursor>{2, 4}));
  EXPECT_EQ(cursors(engine(), {.since = Cursor{3}}), std::vector<Cursor>{4});
  EXPECT_EQ(cursors(engine()), (std::vector<Cursor>{2, 4})) << "from 0 there is what is kept";
}

TEST_F(History, TheLogRefusesWhatIsNoRequest) {
  set("a", 1);
  EXPECT_EQ(error_code([&] { log(engine(), {.since = Cursor{2}}); }), "invalid_request");
  EXPECT_EQ(error_code([&] { log(engine(), {.since = Cursor{-1}}); }), "invalid_request");
  EXPECT_EQ(error_code([&] { log(engine(), {.through = Cursor{-1}}); }), "invalid_request");
  EXPECT_EQ(error_code([&] { log(engine(), {.scope = "a\n"}); }), "invalid_scope");
  EXPECT_EQ(error_code([&] { log(engine(), {.id = std::string(256, 'x')}); }), "invalid_request");
  LogReader reader(engine(), {});
  engine().close();
  EXPECT_EQ(error_code([&] { read_all(reader); }), "closed");
  EXPECT_EQ(error_code([&] { log(engine()); }), "closed");
}

// ------------------------------------------------------------------------------------------------------------ versions

TEST_F(History, VersionsComeNewestFirstWithTheirBodies) {
  set("a", 1);
  set("b", 7);
  set("a", 2);
  del("a");
  set("a", 3);
  const std::vector<std::string> expected = {R"(4 create {"id":"a","v":3})", "3 delete", R"(2 update {"id":"a","v":2})",
                                             R"(1 create {"id":"a","v":1})"};
  for (const std::size_t chunk : {1U, 2U, 3U, 100U}) EXPECT_EQ(versions(engine(), "a", "s", chunk), expected);
}

TEST_F(History, VersionsOfADeletedDocumentEndWithItsDeletion) {
  set("a", 1);
  del("a");
  EXPECT_EQ(versions(engine(), "a"), (std::vector<std::string>{"2 delete", R"(1 create {"id":"a","v":1})"}));
}

TEST_F(History, AReadingIsNotDisturbedByWhatIsWrittenMeanwhile) {
  for (int n = 1; n <= 5; ++n) set("a", n);
  VersionReader reader(engine(), "s", "k", "a");
  std::vector<std::int64_t> seen;
  int value = 100;
  while (reader.next(1, [&](const VersionView& version) {
    seen.push_back(version.line.version);
    return true;
  })) {
    set("a", ++value);
  }
  EXPECT_EQ(seen, (std::vector<std::int64_t>{5, 4, 3, 2, 1}));
  EXPECT_TRUE(reader.complete());
}

TEST_F(History, VersionsSayWhereTheyWereCompactedAway) {
  for (int n = 1; n <= 4; ++n) set("a", n);
  purge({.scope = {}, .tombstones_through = 0, .log_through = 2, .at_most = 0});
  EXPECT_EQ(versions(engine(), "a"), (std::vector<std::string>{R"(4 update {"id":"a","v":4})", R"(3 update {"id":"a","v":3})", "..."}));
  purge({.scope = {}, .tombstones_through = 0, .log_through = 4, .at_most = 0});
  EXPECT_EQ(error_code([&] { versions(engine(), "a"); }), "history_gone");
  set("a", 5);
  EXPECT_EQ(versions(engine(), "a"), (std::vector<std::string>{R"(5 update {"id":"a","v":5})", "..."}));
}

TEST_F(History, VersionsThatAreErasedAreNotInvented) {
  set("a", 1);
  set("b", 1);
  set("a", 2);
  forget("a");
  EXPECT_EQ(error_code([&] { versions(engine(), "a"); }), "history_gone");
  EXPECT_EQ(versions(engine(), "b").size(), 1U) << "the neighbour keeps its own";
  del("a");
  EXPECT_EQ(versions(engine(), "a"), (std::vector<std::string>{"3 delete", "..."}));
}

TEST_F(History, WhatNeverWasIsNotFound) {
  set("a", 1);
  EXPECT_EQ(error_code([&] { versions(engine(), "b"); }), "not_found");
  EXPECT_EQ(error_code([&] { versions(engine(), "a", "nowhere"); }), "not_found");
  EXPECT_EQ(error_code([&] { versions(engine(), ""); }), "invalid_request");
  EXPECT_EQ(error_code([&] { versions(engine(), "a", ""); }), "invalid_scope");
}

TEST_F(History, DamageIsToldAndNotReadOver) {
  for (int n = 1; n <= 4; ++n) set("a", n);
  const auto refused = [&](const char* why) {
    EXPECT_EQ(error_code([&] { versions(engine(), "a"); }), "corrupt") << why;
    EXPECT_EQ(error_code([&] { Past(engine(), Cursor{1}).get("s", "k", "a"); }), "corrupt") << why;
    EXPECT_EQ(error_code([&] { Past(engine(), Cursor{1}).scan("s", "k"); }), "corrupt") << why;
    EXPECT_NO_THROW(Past(engine(), Cursor{4}).scan("s", "k")) << why;
  };
  sql("UPDATE changelog SET hash = hash + 1 WHERE cursor = 3");
  refused("a hash differs");
  sql("UPDATE changelog SET hash = hash - 1 WHERE cursor = 3");
  EXPECT_EQ(versions(engine(), "a").size(), 4U);
  sql("UPDATE changelog SET version = 7 WHERE cursor = 3");
  refused("a version is another");
  sql("UPDATE changelog SET version = 3, delta = x'81a1769302cd03e705' WHERE cursor = 3");
  refused("a delta does not fit");
  sql("UPDATE changelog SET id = 'b' WHERE cursor = 3");
  refused("a line is another document's");
  sql("DELETE FROM changelog WHERE cursor = 3");
  refused("a line is missing above the floor");
}

TEST_F(History, TheBodyThatTheUndoingLeavesIsCheckedToo) {
  set("a", 1);
  set("a", 2);
  sql("UPDATE changelog SET hash = hash + 1 WHERE cursor = 1");
  EXPECT_EQ(error_code([&] { Past(engine(), Cursor{1}).get("s", "k", "a"); }), "corrupt");
}

// ---------------------------------------------------------------------------------------------------------------- past

TEST_F(History, ThePastIsWhatItWas) {
  set("a", 1);
  set("b", 1);
  set("a", 2);
  del("b");
  set("c", 1);
  set("b", 2);
  using Documents = std::map<std::string, std::string>;
  const auto at = [&](Cursor cursor) {
    Past past(engine(), cursor);
    return listed(past);
  };
  EXPECT_EQ(at(0), Documents{});
  EXPECT_EQ(at(2), (Documents{{"a", R"({"id":"a","v":1})"}, {"b", R"({"id":"b","v":1})"}}));
  EXPECT_EQ(at(4), (Documents{{"a", R"({"id":"a","v":2})"}}));
  EXPECT_EQ(at(6), (Documents{{"a", R"({"id":"a","v":2})"}, {"b", R"({"id":"b","v":2})"}, {"c", R"({"id":"c","v":1})"}}));
  Past past(engine(), Cursor{3});
  EXPECT_EQ(unpack(past.get("s", "k", "b").value()), R"({"id":"b","v":1})");
  EXPECT_FALSE(past.get("s", "k", "c").has_value());
  EXPECT_FALSE(past.get("s", "other", "a").has_value());
  EXPECT_EQ(past.version("s", "k", "a"), 2);
  EXPECT_EQ(past.version("s", "k", "c"), 0);
  EXPECT_EQ(past.scan("nowhere", "k").size(), 0U);
}

TEST_F(History, ThePastIsFoundAndScannedLikeThePresent) {
  for (int n = 0; n < 20; ++n) set("x" + std::to_string(n), n % 4);
  const Cursor then = engine().head();
  const std::vector<FindOptions> asked = {
      {.filter = Filter(testing::pack(R"({"v":2})")), .order = {}, .limit = -1},
      {.filter = {}, .order = {{"v", true}}, .limit = 7},
      {.filter = Filter(at_least(2)), .order = {{"v", false}}, .limit = 3},
  };
  std::vector<std::vector<Row>> present;
  for (const FindOptions& options : asked) present.push_back(engine().read("s")->find("k", options));
  const std::vector<Row> prefixed = engine().read("s")->scan("k", "x1", 4);
  for (int n = 0; n < 20; n += 3) del("x" + std::to_string(n));
  for (int n = 0; n < 30; n += 2) set("x" + std::to_string(n), 2);
  Past past(engine(), then);
  const auto same = [](const std::vector<Row>& a, const std::vector<Row>& b) {
    return std::ranges::equal(a, b, [](const Row& x, const Row& y) { return x.id == y.id && x.body == y.body; });
  };
  for (std::size_t n = 0; n < asked.size(); ++n) EXPECT_TRUE(same(past.find("s", "k", asked[n]), present[n])) << n;
  EXPECT_TRUE(same(past.scan("s", "k", "x1", 4), prefixed));
}

TEST_F(History, ThePastIsAskedByTime) {
  const std::int64_t start = bench.clock->time;
  set("a", 1);
  bench.clock->time = start + 1000;
  set("a", 2);
  bench.clock->time = start + 5000;
  EXPECT_EQ(Past(engine(), Instant{start}).cursor(), 1);
  EXPECT_EQ(Past(engine(), Instant{start + 999}).cursor(), 1);
  EXPECT_EQ(Past(engine(), Instant{start + 5000}).cursor(), 2);
  EXPECT_EQ(Past(engine(), Instant{start - 1}).cursor(), 0);
  EXPECT_EQ(error_code([&] { Past(engine(), Instant{start + 5001}); }), "invalid_request");
  EXPECT_EQ(error_code([&] { Past(engine(), Cursor{3}); }), "invalid_request");
  EXPECT_EQ(error_code([&] { Past(engine(), Cursor{-1}); }), "invalid_request");
}

TEST_F(History, ThePastBelowAFloorIsRefused) {
  set("a", 1);
  set("b", 1);
  del("b");
  set("a", 2);
  set("a", 3, "t");
  set("a", 4, "t");
  purge({.scope = {}, .tombstones_through = 3, .log_through = 0, .at_most = 0});
  EXPECT_EQ(error_code([&] { Past(engine(), Cursor{2}).scan("s", "k"); }), "history_gone");
  EXPECT_EQ(error_code([&] { Past(engine(), Cursor{2}).get("s", "k", "a"); }), "history_gone");
  EXPECT_EQ(Past(engine(), Cursor{3}).scan("s", "k").size(), 1U) << "at the floor all is known";
  EXPECT_EQ(Past(engine(), Cursor{2}).scan("t", "k").size(), 0U) << "another scope's floor is none of its business";
  purge({.scope = "t", .tombstones_through = 0, .log_through = 5, .at_most = 0});
  EXPECT_EQ(error_code([&] { Past(engine(), Cursor{4}).scan("t", "k"); }), "history_gone");
  EXPECT_EQ(unpack(Past(engine(), Cursor{5}).get("t", "k", "a").value()), R"({"id":"a","v":3})");
}

TEST_F(History, ThePastOfAScopeWithAnErasedDocumentIsRefused) {
  set("a", 1);
  set("b", 1);
  set("a", 2);
  forget("a");
  EXPECT_EQ(error_code([&] { Past(engine(), Cursor{2}).scan("s", "k"); }), "history_gone");
  EXPECT_EQ(Past(engine(), Cursor{3}).scan("s", "k").size(), 2U);
}

TEST_F(History, ADocumentMadeAnewAfterItsTombstoneWasForgottenBeginsThere) {
  set("a", 1);
  del("a");
  purge({.scope = {}, .tombstones_through = 2, .log_through = 2, .at_most = 0});
  set("a", 2);
  set("a", 3);
  EXPECT_EQ(versions(engine(), "a"), (std::vector<std::string>{R"(2 update {"id":"a","v":3})", R"(1 create {"id":"a","v":2})"}));
  EXPECT_EQ(Past(engine(), Cursor{2}).scan("s", "k").size(), 0U);
  EXPECT_EQ(error_code([&] { Past(engine(), Cursor{1}).scan("s", "k"); }), "history_gone");
}

// Random writes, deletions, re-creations and compactions beside recorded copies of the scope at each cursor.
TEST_F(History, ThePastEqualsItsRecordedCopiesOverRandomSchedules) {
  std::mt19937 random(20260);
  const auto below = [&](int most) { return static_cast<int>(random() % static_cast<unsigned>(most)); };
  using Documents = std::map<std::string, std::string>;
  for (int run = 0; run < 15; ++run) {
    bench.engine.reset();
    std::filesystem::remove(path);
    std::filesystem::remove(path + "-wal");
    std::filesystem::remove(path + "-shm");
    bench.open();
    std::vector<Documents> copies = {{}};
    std::map<std::string, std::vector<std::string>> lives;  // id -> its versions, oldest first
    Cursor floor = 0;
    for (int step = 0; step < 80; ++step) {
      const std::string id(1, static_cast<char>('a' + below(5)));
      const auto before = static_cast<std::size_t>(engine().head());
      const int dice = below(10);
      if (dice < 3) {
        del(id);
      } else if (dice < 9) {
        set(id, below(1000));
      } else if (below(3) == 0) {
        const Cursor through = below(static_cast<int>(before) + 1);
        purge({.scope = {}, .tombstones_through = below(2) == 0 ? through : 0, .log_through = through, .at_most = below(4)});
      }
      Documents now;
      for (const Row& row : engine().read("s")->scan("k", {}, -1)) now[row.id] = unpack(row.body);
      for (std::size_t cursor = before + 1; cursor <= static_cast<std::size_t>(engine().head()); ++cursor) copies.push_back(now);
    }
    const auto store = open_sqlite(path, {.durability = Durability::full, .read_only = true});
    if (const auto row = store->read()->scope("s")) floor = std::max(row->floor, row->log_floor);
    for (Cursor cursor = 0; cursor < static_cast<Cursor>(copies.size()); ++cursor) {
      Past past(engine(), cursor);
      if (cursor < floor) {
        EXPECT_EQ(error_code([&] { listed(past); }), "history_gone");
        continue;
      }
      const Documents& copy = copies[static_cast<std::size_t>(cursor)];
      EXPECT_EQ(listed(past), copy) << "run " << run << ", cursor " << cursor;
      for (const char* id : {"a", "b", "c", "d", "e"}) {
        const auto body = past.get("s", "k", id);
        const auto found = copy.find(id);
        EXPECT_EQ(body ? unpack(*body) : "absent", found == copy.end() ? "absent" : found->second);
      }
    }
  }
}

TEST_F(History, AReadOnlyEngineHasTheSamePast) {
  set("a", 1);
  set("a", 2);
  EngineOptions options;
  options.store.read_only = true;
  Engine reader(open_sqlite(path, options.store), options);
  EXPECT_EQ(versions(reader, "a").size(), 2U);
  EXPECT_EQ(unpack(Past(reader, Cursor{1}).get("s", "k", "a").value()), R"({"id":"a","v":1})");
  EXPECT_EQ(cursors(reader).size(), 2U);
}

// -------------------------------------------------------------------------------------------------------------- explain

TEST_F(History, FindingsTellTheDocumentAndTheClient) {
  bench.one(mutation("c1", 1, "set", set_args("a", 1)), {.user = "ada", .forbidden = {}, .require_client = true});
  const Findings live = find_out(engine(), "s", "k", "a", "c1");
  EXPECT_EQ(live.state, Findings::State::live);
  EXPECT_EQ(live.version, 1);
  EXPECT_EQ(live.cursor, 1);
  EXPECT_EQ(live.by_client, "c1");
  EXPECT_EQ(live.user, "ada");
  EXPECT_EQ(live.mutation, "set");
  EXPECT_EQ(live.client->last_seq, 1);
  del("a");
  EXPECT_EQ(find_out(engine(), "s", "k", "a", {}).state, Findings::State::deleted);
  const Findings unknown = find_out(engine(), "nowhere", "k", "a", "c9");
  EXPECT_EQ(unknown.state, Findings::State::unknown);
  EXPECT_FALSE(unknown.scope.has_value());
  EXPECT_FALSE(unknown.client.has_value());
}

TEST_F(History, BodiesOfLinesAreWhatTheyLeftInWhateverOrderTheyAreAskedFor) {
  set("a", 1);   // 1
  set("b", 1);   // 2
  set("a", 2);   // 3
  del("a");      // 4
  set("a", 3);   // 5
  set("a", 4);   // 6
  const std::vector<LineKey> lines = {{"s", "k", "a", 5}, {"s", "k", "a", 1}, {"s", "k", "b", 2}, {"s", "k", "a", 4}, {"s", "k", "a", 3}};
  const std::vector<std::string> bodies = bodies_of(engine(), lines);
  ASSERT_EQ(bodies.size(), 5u);
  EXPECT_EQ(unpack(mp::field(bodies[0], "v")), "3");
  EXPECT_EQ(unpack(mp::field(bodies[1], "v")), "1");
  EXPECT_EQ(unpack(mp::field(bodies[2], "v")), "1");
  EXPECT_EQ(bodies[3], "");
  EXPECT_EQ(unpack(mp::field(bodies[4], "v")), "2");
  EXPECT_EQ(error_code([&] { bodies_of(engine(), std::vector<LineKey>{{"s", "k", "nobody", 1}}); }), "history_gone");
}

}  // namespace
}  // namespace syncline
