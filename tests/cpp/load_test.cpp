// A bulk load is one commit that says and stores what as many `set`s would have.
#include <gtest/gtest.h>

#include "engine/history.h"
#include "engine_fixture.h"

namespace syncline::testing {
namespace {

struct Table {
  void row(const std::string& id, std::string_view json) {
    ids.push_back(id);
    bodies.push_back(pack(json));
  }
  [[nodiscard]] std::vector<LoadRow> rows() const {
    std::vector<LoadRow> made;
    for (std::size_t n = 0; n < ids.size(); ++n) made.push_back({ids[n], bodies[n]});
    return made;
  }
  std::vector<std::string> ids, bodies;
};

TEST(Load, CreatesUpdatesAndLeavesAloneWhatIsThere) {
  Bench bench;
  Table table;
  table.row("a", R"({"v":1})");
  table.row("b", R"({"v":1})");
  Loaded loaded = bench.engine->load("s", "k", table.rows(), "ada").value();
  EXPECT_EQ(loaded.created, 2);
  EXPECT_EQ(loaded.cursor, 2);
  table.bodies[1] = pack(R"({"v":2})");
  table.row("c", "{}");
  loaded = bench.engine->load("s", "k", table.rows(), "ada").value();
  EXPECT_EQ(loaded.unchanged, 1);
  EXPECT_EQ(loaded.updated, 1);
  EXPECT_EQ(loaded.created, 1);
  EXPECT_EQ(bench.engine->head(), 4);
  EXPECT_EQ(bench.get("b"), R"({"v":2})");
  VersionReader versions(*bench.engine, "s", "k", "b");
  std::vector<std::string> seen;
  versions.next(10, [&](const VersionView& version) {
    seen.push_back(unpack(version.body) + std::string(version.line.user));
    return true;
  });
  EXPECT_EQ(seen, (std::vector<std::string>{R"({"v":2})" "ada", R"({"v":1})" "ada"}));
}

TEST(Load, OneCommitIsOneMutationOfTheLog) {
  Bench bench;
  Table table;
  table.row("a", "{}");
  table.row("b", "{}");
  bench.engine->load("s", "k", table.rows(), "").value();
  bench.one({.name = "set", .args = pack(R"({"id":"c"})"), .scope = "s"}, {.require_client = false});
  std::vector<std::int64_t> numbers;
  bench.engine->begin_read()->log({}, [&](const LogLineView& line) {
    numbers.push_back(line.client_seq);
    return true;
  });
  EXPECT_EQ(numbers, (std::vector<std::int64_t>{1, 1, 3}));
}

TEST(Load, NothingNewIsNoCommit) {
  Bench bench;
  Table table;
  table.row("a", "{}");
  bench.engine->load("s", "k", table.rows(), "").value();
  const std::uint64_t commits = bench.engine->stats().commits;
  EXPECT_EQ(bench.engine->load("s", "k", table.rows(), "")->cursor, 0);
  EXPECT_EQ(bench.engine->load("s", "k", {}, "")->cursor, 0);
  EXPECT_EQ(bench.engine->stats().commits, commits);
  EXPECT_EQ(bench.engine->head(), 1);
}

TEST(Load, PokesTheScope) {
  Bench bench;
  std::vector<Poke> told;
  bench.engine->set_poke_listener([&](const std::vector<Poke>& pokes) { told = pokes; });
  Table table;
  table.row("a", "{}");
  table.row("b", "{}");
  bench.engine->load("s", "k", table.rows(), "").value();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told[0].scope, "s");
  EXPECT_EQ(told[0].cursor, 2);
  bench.engine->set_poke_listener({});
}

TEST(Load, RefusesWhatIsNoPlace) {
  Bench bench;
  EXPECT_EQ(error_code([&] { bench.engine->load("_s", "k", {}, ""); }), "invalid_scope");
  EXPECT_EQ(error_code([&] { bench.engine->load("s", "", {}, ""); }), "invalid_mutation");
}

}  // namespace
}  // namespace syncline::testing
