// What is forgotten and what is not, by rounds with a clock that is turned by hand; and invariant 8 against a twin without compaction.
#include "engine/compaction.h"

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <thread>

#include "engine_fixture.h"
#include "folder.h"

namespace syncline::testing {
namespace {

EngineOptions quiet(Retention retention = {}) {
  EngineOptions options;
  options.store.durability = Durability::normal;
  options.retention = retention;
  options.retention.interval = 0;  // rounds come when the test says so
  return options;
}

Mutation set(std::int64_t seq, const std::string& id, const std::string& value = "1", const std::string& scope = "s") {
  return mutation("c", seq, "set", "{\"id\":\"" + id + "\",\"v\":" + value + "}", scope);
}
Mutation del(std::int64_t seq, const std::string& id, const std::string& scope = "s") {
  return mutation("c", seq, "del", "{\"id\":\"" + id + "\"}", scope);
}

Pulled pull_as(Bench& bench, const std::string& client, Cursor cursor, const std::string& scope = "s") {
  PullRequest request;
  request.scope = scope;
  request.cursor = cursor;
  request.epoch = bench.engine->epoch();
  request.client_id = client;
  return bench.pull(request);
}

void put_unlogged(Bench& bench, const std::string& scope, const std::string& entity, const std::string& id, const std::string& body,
                  const std::string& path) {
  bench.engine->close();
  {
    const auto store = open_sqlite(path, {});
    const auto tx = store->write();
    const std::string packed = pack(body);
    WriteBatch batch;
    batch.unlogged.push_back({.scope = scope, .entity = entity, .id = id, .body = packed, .updated_at = bench.clock->now()});
    tx->apply(batch);
    tx->commit();
  }
  bench.open();
}

struct File {
  const Folder folder;
  const std::string path = folder / "keeping.db";
};

TEST(Compaction, LinesGoWhenTheyAreOldAndTombstonesWithTheirLastLineOrLater) {
  Bench bench(":memory:", quiet());
  bench.push({set(1, "a"), del(2, "a"), set(3, "b")});
  bench.clock->time += 29 * age::kDay;
  bench.push({set(4, "b", "2")});
  EXPECT_EQ(bench.engine->compactor().round().log_lines, 0);

  bench.clock->time += 2 * age::kDay;
  const Compaction gone = bench.engine->compactor().round();
  EXPECT_EQ(gone.log_lines, 3);
  EXPECT_EQ(gone.tombstones, 1);
  EXPECT_EQ(bench.engine->counts().log_lines, 1);
  EXPECT_EQ(bench.engine->counts().tombstones, 0);
  EXPECT_EQ(bench.get("b"), "{\"id\":\"b\",\"v\":2}");
  EXPECT_EQ(error_code([&] { bench.pull_from(1); }), "cursor_too_old");
  EXPECT_EQ(bench.pull_from(2).changes.size(), 1U);
}

TEST(Compaction, ATombstoneOutlivesItsHistoryWhereItIsToBeKeptLonger) {
  Bench bench(":memory:", quiet({.history = age::kDay, .tombstones = 10 * age::kDay}));
  bench.push({set(1, "a"), del(2, "a")});
  bench.clock->time += 2 * age::kDay;
  EXPECT_EQ(bench.engine->compactor().round().log_lines, 2);
  EXPECT_EQ(bench.engine->counts().tombstones, 1);
  bench.clock->time += 9 * age::kDay;
  EXPECT_EQ(bench.engine->compactor().round().tombstones, 1) << "though its line went long ago";
}

TEST(Compaction, ATombstoneStaysAsLongAsItsHistory) {
  Bench bench(":memory:", quiet({.history = 10 * age::kDay, .tombstones = age::kDay}));
  bench.push({set(1, "a"), del(2, "a")});
  bench.clock->time += 2 * age::kDay;
  EXPECT_EQ(bench.engine->compactor().round().tombstones, 0);
  bench.clock->time += 9 * age::kDay;
  EXPECT_EQ(bench.engine->compactor().round().tombstones, 1);
}

TEST(Compaction, NoTombstoneYoungerThanAnHourIsEverPurged) {
  Bench bench(":memory:", quiet({.history = 0, .tombstones = 0}));
  bench.push({set(1, "a"), del(2, "a")});
  bench.clock->time += age::kHour - 1;
  bench.engine->compactor().compact({.age = 0, .after = {}});
  bench.engine->compactor().compact({.age = {}, .after = kMaxCursor});
  bench.engine->compactor().round();
  EXPECT_EQ(bench.engine->counts().tombstones, 1);
  EXPECT_EQ(bench.engine->counts().log_lines, 0) << "history may go at once";
  bench.clock->time += 2;
  EXPECT_EQ(bench.engine->compactor().round().tombstones, 1);
}

TEST(Compaction, ForEverIsForEver) {
  Bench bench(":memory:", quiet({.history = {}, .tombstones = {}, .positions = {}}));
  bench.push({set(1, "a"), del(2, "a")});
  pull_as(bench, "c", 0);
  bench.clock->time += 10'000 * age::kDay;
  const Compaction gone = bench.engine->compactor().round();
  EXPECT_EQ(gone.log_lines + gone.tombstones + gone.positions, 0);
}

TEST(Compaction, KeepSaysAnAgeOrACursorInPlaceOfTheRetention) {
  Bench bench(":memory:", quiet());
  for (std::int64_t n = 1; n <= 5; ++n) bench.push({set(n, "a", std::to_string(n))});
  EXPECT_EQ(bench.engine->compactor().compact({.age = {}, .after = 2}).log_lines, 2);
  bench.clock->time += age::kHour;
  bench.push({set(6, "a", "6")});
  EXPECT_EQ(bench.engine->compactor().compact({.age = age::kHour / 2, .after = {}}).log_lines, 3);
  EXPECT_EQ(bench.engine->counts().log_lines, 1);
}

TEST(Compaction, WhatClientsHaveNotPulledIsHeldUpToTheBound) {
  Bench bench(":memory:", quiet({.history = age::kDay, .tombstones = age::kDay, .hold_for_clients = 10 * age::kDay}));
  bench.push({set(1, "a"), set(2, "b"), set(3, "x", "1", "t"), set(4, "a", "2")});
  const Cursor slow = pull_as(bench, "slow", 0).end.cursor;
  const Cursor other = pull_as(bench, "other", 0, "t").end.cursor;
  bench.push({del(5, "a")});
  bench.push({del(6, "b"), del(7, "x", "t")});
  pull_as(bench, "quick", slow);
  pull_as(bench, "other", other, "t");  // confirms only what it had
  bench.clock->time += 2 * age::kDay;
  EXPECT_EQ(bench.engine->compactor().round().tombstones, 0) << "slow has not pulled any of them, other has not confirmed";
  EXPECT_EQ(pull_as(bench, "slow", slow).changes.size(), 2U);

  const Cursor now = bench.engine->head();
  pull_as(bench, "slow", now);
  pull_as(bench, "quick", now);
  EXPECT_EQ(bench.engine->compactor().round().tombstones, 2) << "only other holds its scope back";
  bench.clock->time += 9 * age::kDay;
  EXPECT_EQ(bench.engine->compactor().round().tombstones, 1) << "nobody holds longer than the bound";
}

TEST(Compaction, WithoutHoldingNoClientKeepsAnything) {
  Bench bench(":memory:", quiet());
  bench.push({set(1, "a")});
  const Cursor slow = pull_as(bench, "slow", 0).end.cursor;
  bench.push({del(2, "a")});
  bench.clock->time += 31 * age::kDay;
  EXPECT_EQ(bench.engine->compactor().round().tombstones, 1);
  EXPECT_EQ(error_code([&] { pull_as(bench, "slow", slow); }), "cursor_too_old");
}

TEST(Compaction, WhatAFeedHasNotReadIsHeldUpToTheBound) {
  const File file;
  Bench bench(file.path, quiet({.history = age::kDay, .hold_for_feeds = 10 * age::kDay}));
  for (std::int64_t n = 1; n <= 4; ++n) bench.push({set(n, "a", std::to_string(n))});
  put_unlogged(bench, "_feeds", "feed", "index", "{\"cursor\":2}", file.path);
  bench.clock->time += 2 * age::kDay;
  EXPECT_EQ(bench.engine->compactor().round().log_lines, 2);
  bench.clock->time += 9 * age::kDay;
  EXPECT_EQ(bench.engine->compactor().round().log_lines, 2);
}

TEST(Compaction, OnlySettledResultsGoOrAllButTheLastOfAClientThatNeverSaysSo) {
  const File file;
  EngineOptions options = quiet();
  Bench bench(file.path, options);
  for (std::int64_t n = 1; n <= 20; ++n) bench.push({set(n, "a", std::to_string(n))});
  for (std::int64_t n = 1; n <= 5; ++n) bench.push({mutation("d", n, "nothing", "{}")}, {}, {{"d", n > 3 ? 2 : 0}});
  EXPECT_EQ(bench.engine->compactor().round().results, 0);
  bench.engine->close();

  options.limits.keep_results = 6;
  Bench small(file.path, options);
  EXPECT_EQ(small.engine->compactor().round().results, 14);
  EXPECT_EQ(small.engine->compactor().round().results, 0);
  EXPECT_TRUE(small.one(set(15, "a", "15")).duplicate);
  EXPECT_EQ(small.one(set(14, "a", "14")).error->code, "result_expired");
  EXPECT_TRUE(small.one(mutation("d", 3, "nothing", "{}")).duplicate) << "d settled only up to 2";
}

TEST(Compaction, DatabaseLeftAloneStopsGrowingAndABusyOneStaysBounded) {
  Bench bench(":memory:", quiet());
  std::int64_t most = 0;
  std::int64_t seq = 0;
  for (int day = 0; day < 120; ++day) {
    for (int n = 0; n < 10; ++n) {
      const std::string id = std::to_string(day) + "-" + std::to_string(n);
      bench.push({set(++seq, id), set(++seq, id, "2"), del(++seq, id)});
    }
    pull_as(bench, "client-" + std::to_string(day), 0);
    bench.clock->time += age::kDay;
    bench.engine->compactor().round();
    const StoreCounts counts = bench.engine->counts();
    const std::int64_t rows = counts.documents + counts.tombstones + counts.unlogged + counts.log_lines + counts.results;
    if (day == 100) most = rows;
    if (day > 100) {
      EXPECT_LE(rows, most);
    }
  }
  bench.clock->time += 100 * age::kDay;
  bench.engine->compactor().round();
  const StoreCounts counts = bench.engine->counts();
  EXPECT_EQ(counts.log_lines + counts.tombstones + counts.unlogged + counts.documents, 0);
  EXPECT_LE(counts.results, 1000);
}

TEST(Compaction, TheThreadKeepsToTheRetentionByItself) {
  EngineOptions options = quiet({.history = age::kDay});
  options.retention.interval = 1'000;
  Bench bench(":memory:", options);
  bench.push({set(1, "a"), set(2, "a", "2")});
  pull_as(bench, "c", 0);
  bench.clock->time += 2 * age::kDay;
  while (bench.engine->compactor().status().total.log_lines < 2) std::this_thread::yield();
  EXPECT_EQ(bench.engine->counts().log_lines, 0);
  EXPECT_EQ(bench.engine->counts().unlogged, 1);
  EXPECT_EQ(bench.engine->compactor().status().failures, 0U);
}

TEST(Compaction, AnEngineClosesInTheMiddleOfARound) {
  for (int n = 0; n < 20; ++n) {
    EngineOptions options = quiet({.history = 0, .tombstones = 0});
    options.retention.interval = 1'000;
    Bench bench(":memory:", options);
    for (std::int64_t seq = 1; seq <= 20; ++seq) {
      bench.push({set(seq, "a", std::to_string(seq))});
      bench.clock->time += age::kDay;
    }
    bench.engine->close();
    EXPECT_EQ(error_code([&] { bench.engine->compactor(); }), "closed");
  }
}

TEST(Compaction, AReadOnlyEngineForgetsNothing) {
  const File file;
  { Bench bench(file.path, quiet()); }
  EngineOptions options = quiet();
  options.store.read_only = true;
  Bench bench(file.path, options);
  EXPECT_EQ(error_code([&] { bench.engine->compactor(); }), "read_only");
  EXPECT_TRUE(bench.engine->positions().empty());
}

TEST(Compaction, WhatAFileHasFreeInExcessIsGivenBackToTheDisk) {
  const File file;
  Bench bench(file.path, quiet({.history = age::kDay}));
  const std::string text(2000, 'x');
  std::int64_t seq = 0;
  for (int n = 0; n < 60; ++n) {
    std::vector<Mutation> batch;
    for (int m = 0; m < 200; ++m) {
      ++seq;
      const std::string args = "{\"id\":\"" + std::to_string(m / 2) + "\",\"v\":\"" + text + "\"}";
      batch.push_back(mutation("c", seq, seq % 2 == 1 ? "set" : "del", args));
    }
    bench.push(batch, {}, {{"c", seq - 200}});
  }
  bench.open();
  const std::int64_t before = bench.engine->info().bytes;
  bench.clock->time += 40 * age::kDay;
  EXPECT_GT(bench.engine->compactor().round().pages, 0);
  EXPECT_EQ(bench.engine->compactor().round().pages, 0) << "some is left for the writes to come";
  bench.open();
  EXPECT_LT(bench.engine->info().bytes, before / 2);
  EXPECT_TRUE(bench.engine->verify().problems.empty());
}

TEST(Compaction, TheHookEndsARoundBetweenTwoSteps) {
  Bench bench(":memory:", quiet());
  for (std::int64_t n = 1; n <= 500; ++n) bench.push({set(n, "a", std::to_string(n))});
  bench.clock->time += 31 * age::kDay;
  bench.push({set(501, "a", "501")});
  int asked = 0;
  while (bench.engine->compactor().round([&] { return ++asked % 2 == 0; }).log_lines > 0) {
  }
  EXPECT_EQ(bench.engine->counts().log_lines, 1);
}

// Two engines do the same; one is compacted at random moments. From every cursor at or above its floor it answers as the other.
TEST(Compaction, IsInvisibleFromEveryCursorAtOrAboveTheFloor) {
  for (std::uint64_t seed = 1; seed <= 40 && !::testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    Retention retention{.history = static_cast<std::int64_t>(random.next() % 3) * age::kHour,
                        .tombstones = static_cast<std::int64_t>(random.next() % 4) * age::kHour};
    if (random.next() % 2 == 0) retention.hold_for_clients = 6 * age::kHour;
    Bench compacted(":memory:", quiet(retention));
    Bench twin(":memory:", quiet({.history = {}, .tombstones = {}}));
    std::int64_t seq = 0;
    for (int step = 0; step < 120; ++step) {
      const std::string scope = random.next() % 2 == 0 ? "s" : "t";
      const std::string id = std::to_string(random.next() % 6);
      const Mutation made = random.next() % 3 == 0 ? del(++seq, id, scope) : set(++seq, id, std::to_string(random.next() % 9), scope);
      compacted.push({made});
      twin.push({made});
      const auto passed = static_cast<std::int64_t>(random.next() % (age::kHour / 2));
      compacted.clock->time += passed;
      twin.clock->time += passed;
      if (random.next() % 5 == 0) pull_as(compacted, "p" + std::to_string(random.next() % 3), 0, scope);
      switch (random.next() % 8) {
        case 0: compacted.engine->compactor().round(); break;
        case 1: compacted.engine->compactor().compact({.age = age::kHour, .after = {}}); break;
        case 2: compacted.engine->compactor().compact({.age = {}, .after = static_cast<Cursor>(random.next() % 100)}); break;
        default: break;
      }
    }
    for (const std::string scope : {"s", "t"}) {
      Cursor first = kMaxCursor;  // from which it answers
      for (Cursor cursor = 0; cursor <= twin.engine->head(); ++cursor) {
        Pulled got;
        try {
          got = compacted.pull_from(cursor, scope);
        } catch (const Error& error) {
          ASSERT_EQ(error.code(), Code::cursor_too_old);
          ASSERT_EQ(first, kMaxCursor) << "a floor is one cursor, and all above it are answered";
          ASSERT_GT(cursor, 0) << "0 is always welcome";
          continue;
        }
        if (cursor > 0) first = std::min(first, cursor);
        const Pulled wanted = twin.pull_from(cursor, scope);
        ASSERT_EQ(got.end.cursor, wanted.end.cursor);
        ASSERT_EQ(got.changes.size(), wanted.changes.size()) << "from " << cursor;
        for (std::size_t n = 0; n < got.changes.size(); ++n) {
          EXPECT_EQ(got.changes[n].cursor, wanted.changes[n].cursor);
          EXPECT_EQ(got.changes[n].id, wanted.changes[n].id);
          EXPECT_EQ(got.changes[n].op, wanted.changes[n].op);
          EXPECT_EQ(got.changes[n].data, wanted.changes[n].data);
        }
      }
    }
  }
}

}  // namespace
}  // namespace syncline::testing
