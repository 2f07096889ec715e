// What a check says of a sound database, and of one whose bytes were changed behind its back; what a repair makes of it. The many ways
// of damage are tests/python/test_verify.py's.
#include "engine/verify.h"

#include <gtest/gtest.h>
#include <sqlite3.h>

#include <algorithm>

#include "engine_fixture.h"
#include "folder.h"

namespace syncline::testing {
namespace {

class Verify : public ::testing::Test {
 protected:

  static EngineOptions quiet() {
    EngineOptions options;
    options.store.durability = Durability::normal;
    options.retention.interval = 0;
    return options;
  }
  void damage(const std::string& sql) const {
    sqlite3* db = nullptr;
    ASSERT_EQ(sqlite3_open(path.c_str(), &db), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(db, sql.c_str(), nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(db);
    sqlite3_close(db);
  }
  static bool says(const std::vector<Problem>& problems, const std::string& place, const std::string& what) {
    return std::ranges::any_of(problems, [&](const Problem& one) {
      return one.place.find(place) != std::string::npos && one.what.find(what) != std::string::npos;
    });
  }

  const Folder folder;
  const std::string path = folder / "verify.db";
};

// A life of all that there is; afterwards everything holds.
TEST_F(Verify, EveryStateThatTheEngineLeavesIsSound) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    Random random(seed);
    Bench bench(":memory:", quiet());
    std::int64_t seq = 0;
    for (int step = 0; step < 200; ++step) {
      const std::string id = "{\"id\":\"" + std::to_string(random.next() % 9) + "\",\"v\":" + std::to_string(step) + "}";
      const std::string scope = random.next() % 2 == 0 ? "s" : "t";
      const std::string what = std::vector<std::string>{"set", "set", "del", "boom", "nothing"}[random.next() % 5];
      std::map<std::string, std::int64_t> settled;
      if (random.next() % 9 == 0) settled["c"] = seq;
      ++seq;
      bench.push({mutation("c", seq, what, id, scope)}, {}, settled);
      bench.clock->time += static_cast<std::int64_t>(random.next() % age::kHour);
      switch (random.next() % 20) {
        case 0: bench.engine->compactor().compact({.age = 3 * age::kHour, .after = {}}); break;
        case 1: bench.engine->compactor().compact({.age = {}, .after = static_cast<Cursor>(random.next() % 200)}); break;
        case 2:
          bench.engine->erase({.scope = scope, .entity = "k", .id = std::to_string(random.next() % 9), .user = {}, .rewrite = false});
          break;
        case 3: bench.engine->purge(bench.engine->head() / 2, 0, 3); break;
        default: break;
      }
    }
    const Report report = bench.engine->verify();
    for (const Problem& one : report.problems) ADD_FAILURE() << "seed " << seed << ": " << one.place << ": " << one.what;
    EXPECT_GT(report.checked.documents, 0);
    EXPECT_GT(report.checked.results, 0);
  }
}

TEST_F(Verify, WhatIsWrongIsNamedWithItsPlaceAndRebuiltWhereItFollows) {
  {
    Bench bench(path, quiet());
    bench.push({mutation("c", 1, "set", "{\"id\":\"a\",\"v\":1}"), mutation("c", 2, "set", "{\"id\":\"b\",\"v\":1}"),
                mutation("c", 3, "set", "{\"id\":\"a\",\"v\":2}")});
  }
  damage("DELETE FROM keys WHERE id = 'a'; UPDATE meta SET head = 1; UPDATE changelog SET hash = 5 WHERE cursor = 1");
  {
    StoreOptions options;
    options.read_only = true;
    const Report report = verify(*open_sqlite(path, options));
    EXPECT_TRUE(says(report.problems, "document (s, k, a)", "it has no key"));
    EXPECT_TRUE(says(report.problems, "document (s, k, a)", "above the database's head 1"));
    EXPECT_TRUE(says(report.problems, "log line 1 of document (s, k, a)", "its hash is not that of version 1"));
    EXPECT_EQ(report.found, static_cast<std::int64_t>(report.problems.size()));
  }
  const Repaired repaired = repair(path);
  EXPECT_EQ(repaired.done.size(), 3U);
  EXPECT_TRUE(repaired.left.empty());
  Bench bench(path, quiet());
  EXPECT_EQ(bench.get("a"), "{\"id\":\"a\",\"v\":2}");
  EXPECT_EQ(bench.engine->head(), 3);
  EXPECT_TRUE(bench.engine->verify().problems.empty());
}

TEST_F(Verify, ABodyIsNeverMadeUp) {
  {
    Bench bench(path, quiet());
    bench.push({mutation("c", 1, "set", "{\"id\":\"a\",\"v\":1}")});
  }
  damage("UPDATE documents SET body = x'80'");
  const Repaired repaired = repair(path);
  EXPECT_TRUE(repaired.done.empty());
  EXPECT_TRUE(says(repaired.left, "log line 1 of document (s, k, a)", "its hash is not that of version 1"));
}

TEST_F(Verify, OnlyAClosedDatabaseIsRepaired) {
  Bench bench(path, quiet());
  EXPECT_EQ(error_code([&] { repair(path); }), "locked");
  EXPECT_EQ(error_code([&] { repair(path + "-nothing"); }), "storage");
}

}  // namespace
}  // namespace syncline::testing
