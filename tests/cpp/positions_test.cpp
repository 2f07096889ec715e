#include "engine/positions.h"

#include <gtest/gtest.h>

#include "engine_fixture.h"
#include "folder.h"

namespace syncline::testing {
namespace {

EngineOptions quiet() {
  EngineOptions options;
  options.retention.interval = 0;
  return options;
}

Pulled pull_as(Bench& bench, const std::string& client, Cursor cursor, std::optional<std::int64_t> limit = {},
               std::optional<std::string> page = {}) {
  PullRequest request;
  request.scope = "s";
  request.cursor = cursor;
  request.epoch = bench.engine->epoch();
  request.client_id = client;
  request.limit = limit;
  request.page = std::move(page);
  request.user = "ada";
  return bench.pull(request);
}

void set(Bench& bench, std::int64_t seq, const std::string& id, const std::string& scope = "s") {
  bench.push({mutation("w", seq, "set", "{\"id\":\"" + id + "\"}", scope)});
}

TEST(Positions, APullNotesWhereItsClientIsWithoutAWrite) {
  Bench bench(":memory:", quiet());
  set(bench, 1, "a");
  set(bench, 2, "b");
  pull_as(bench, "c", 0);
  set(bench, 3, "c");
  const std::uint64_t commits = bench.engine->stats().commits;
  pull_as(bench, "c", 2);
  pull_as(bench, "d", 1);
  bench.pull_from(0);  // nobody's
  EXPECT_EQ(bench.engine->stats().commits, commits);
  EXPECT_EQ(bench.engine->counts().unlogged, 0);

  set(bench, 4, "d");
  set(bench, 5, "x", "t");
  const std::vector<Position> found = bench.engine->positions("s");
  ASSERT_EQ(found.size(), 2U);
  EXPECT_EQ(found[0].client_id, "c");
  EXPECT_EQ(found[0].user, "ada");
  EXPECT_EQ(found[0].cursor, 3);
  EXPECT_EQ(found[0].confirmed, 2);
  EXPECT_EQ(found[0].lag, 1) << "the other scope's commit is none of it";
  EXPECT_EQ(found[0].last_seen, bench.clock->now());
  EXPECT_TRUE(bench.engine->positions("t").empty());
  EXPECT_EQ(bench.engine->positions().size(), 2U);
}

TEST(Positions, AClientIsWhereItBeganUntilItsLastPageCame) {
  Bench bench(":memory:", quiet());
  set(bench, 1, "a");
  set(bench, 2, "b");
  set(bench, 3, "c");
  const Pulled first = pull_as(bench, "c", 0, 2);
  ASSERT_TRUE(first.end.has_more);
  EXPECT_EQ(bench.engine->positions("s").at(0).cursor, 0);
  EXPECT_EQ(bench.engine->positions("s").at(0).lag, 3);
  pull_as(bench, "c", 0, 2, first.end.page);
  EXPECT_EQ(bench.engine->positions("s").at(0).cursor, 3);
}

TEST(Positions, TheyAreWrittenInRoundsAndOnClosing) {
  const Folder folder;
  Bench bench(folder / "positions.db", quiet());
  set(bench, 1, "a");
  for (int n = 0; n < 700; ++n) pull_as(bench, "c" + std::to_string(n), 0);
  bench.engine->compactor().round();
  EXPECT_EQ(bench.engine->counts().unlogged, 700);
  set(bench, 2, "b");
  pull_as(bench, "c7", 1);
  bench.engine->close();
  bench.open();
  const std::vector<Position> found = bench.engine->positions("s");
  EXPECT_EQ(found.size(), 700U);
  for (const Position& position : found) {
    EXPECT_EQ(position.cursor, position.client_id == "c7" ? 2 : 1);
    EXPECT_EQ(position.lag, position.client_id == "c7" ? 0 : 1);
  }
  bench.engine->close();
}

TEST(Positions, TheIdleAndTheOldestAboveTheNumberAreForgotten) {
  EngineOptions options = quiet();
  options.retention.positions = age::kDay;
  options.retention.max_positions = 3;
  Bench bench(":memory:", options);
  set(bench, 1, "a");
  for (int n = 0; n < 6; ++n) {
    pull_as(bench, "c" + std::to_string(n), 0);
    bench.clock->time += 1;
  }
  EXPECT_EQ(bench.engine->compactor().round().positions, 3);
  EXPECT_EQ(bench.engine->positions().at(0).client_id, "c3");
  bench.clock->time += age::kDay;
  pull_as(bench, "c4", 1);
  EXPECT_EQ(bench.engine->compactor().round().positions, 2);
  EXPECT_EQ(bench.engine->positions().at(0).client_id, "c4");
}

TEST(Positions, WhatWaitsInMemoryIsBounded) {
  Positions positions;
  for (std::size_t n = 0; n < Positions::kMostNoted + 10; ++n) positions.note(std::to_string(n), "", "s", 0, 1, 1);
  std::vector<Position> taken = positions.take();
  EXPECT_EQ(taken.size(), Positions::kMostNoted);
  EXPECT_TRUE(positions.take().empty());
  positions.note(taken[0].client_id, "", "s", 5, 6, 2);
  positions.put_back(std::move(taken));
  bool newer = false;
  for (const Position& one : positions.take()) newer = newer || one.confirmed == 5;
  EXPECT_TRUE(newer) << "what was noted since is not overwritten";
}

TEST(Positions, NotesComeBackAsTheyWere) {
  Position position{.client_id = "c", .user = "", .scope = "s:1", .cursor = 1LL << 39, .confirmed = 7, .last_seen = 1'700'000'000'000'001};
  const Position back = Positions::decode(Positions::encode(position));
  EXPECT_EQ(back.client_id, "c");
  EXPECT_EQ(back.scope, "s:1");
  EXPECT_EQ(back.user, "");
  EXPECT_EQ(back.cursor, 1LL << 39);
  EXPECT_EQ(back.confirmed, 7);
  EXPECT_EQ(back.last_seen, 1'700'000'000'000'001);
  EXPECT_EQ(Positions::id_of(position).size(), 32U);
  std::swap(position.client_id, position.scope);
  EXPECT_NE(Positions::id_of(position), Positions::id_of(back));
}

}  // namespace
}  // namespace syncline::testing
