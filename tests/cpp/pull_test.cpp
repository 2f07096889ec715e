#include <gtest/gtest.h>

#include <algorithm>

#include "engine_fixture.h"

namespace syncline::testing {
namespace {

constexpr std::int64_t kHour = 3'600'000'000;

TEST(Pull, GivesEachDocumentOnceInCursorOrderAndTheHead) {
  Bench bench;
  bench.push({mutation("c", 1, "add", R"({"id":"a"})"), mutation("c", 2, "add", R"({"id":"b"})"), mutation("c", 3, "add", R"({"id":"a"})")});
  const Pulled pulled = bench.pull_from(0);
  ASSERT_EQ(pulled.changes.size(), 2u);
  EXPECT_EQ(pulled.changes[0].id, "b");
  EXPECT_EQ(pulled.changes[1].data, R"({"n":2})");
  EXPECT_EQ(pulled.end.cursor, 3);
  EXPECT_FALSE(pulled.end.has_more);
  EXPECT_FALSE(pulled.end.last_seq.has_value());
}

TEST(Pull, OpIsRelativeToTheCursorAskedFrom) {
  Bench bench;
  bench.one(mutation("c", 1, "add", R"({"id":"a"})"));
  bench.one(mutation("c", 2, "add", R"({"id":"a"})"));
  EXPECT_EQ(bench.pull_from(0).changes.at(0).op, Op::create);
  EXPECT_EQ(bench.pull_from(1).changes.at(0).op, Op::update);
  bench.one(mutation("c", 3, "del", R"({"id":"a"})"));
  EXPECT_EQ(bench.pull_from(1).changes.at(0).op, Op::remove);
  EXPECT_TRUE(bench.pull_from(0).changes.empty());
}

TEST(Pull, PagesEndAtTheHeadAndOnlyTheLastMovesTheCursor) {
  Bench bench;
  for (int n = 1; n <= 5; ++n) bench.one(mutation("c", n, "add", "{\"id\":\"d" + std::to_string(n) + "\"}"));
  bench.one(mutation("o", 1, "add", R"({"id":"x"})", "other"));
  PullRequest request;
  request.scope = "s";
  request.limit = 2;
  request.client_id = "c";
  std::vector<std::string> ids;
  int pages = 0;
  for (;;) {
    const Pulled page = bench.pull(request);
    ++pages;
    for (const Seeing& change : page.changes) ids.push_back(change.id);
    EXPECT_EQ(page.end.last_seq.value(), 5);
    if (!page.end.has_more) {
      EXPECT_EQ(page.end.cursor, 6);
      break;
    }
    EXPECT_EQ(page.end.cursor, 0);
    request.page = page.end.page;
  }
  EXPECT_EQ(pages, 3);
  EXPECT_EQ(ids, (std::vector<std::string>{"d1", "d2", "d3", "d4", "d5"}));
}

TEST(Pull, APageIsBoundedByBytes) {
  EngineOptions options;
  options.limits.max_page_bytes = 300;
  Bench bench(":memory:", options);
  for (int n = 1; n <= 9; ++n) bench.one(mutation("c", n, "add", "{\"id\":\"d" + std::to_string(n) + "\"}"));
  const Pulled page = bench.pull_from(0);
  EXPECT_TRUE(page.end.has_more);
  EXPECT_GE(page.changes.size(), 1u);
  EXPECT_LT(page.changes.size(), 9u);
}

TEST(Pull, WhatIsDeletedBetweenPagesIsTold) {
  Bench bench;
  for (int n = 1; n <= 3; ++n) bench.one(mutation("c", n, "add", "{\"id\":\"d" + std::to_string(n) + "\"}"));
  PullRequest request;
  request.scope = "s";
  request.limit = 2;
  const Pulled first = bench.pull(request);
  ASSERT_EQ(first.changes.size(), 2u);
  bench.one(mutation("c", 4, "del", R"({"id":"d1"})"));
  request.page = first.end.page;
  const Pulled second = bench.pull(request);
  ASSERT_EQ(second.changes.size(), 2u);
  EXPECT_EQ(second.changes[0].id, "d3");
  EXPECT_EQ(second.changes[1].id, "d1");
  EXPECT_EQ(second.changes[1].op, Op::remove);
}

TEST(Pull, ScopesAreSealed) {
  Bench bench;
  bench.one(mutation("c", 1, "add", R"({"id":"a"})", "s"));
  bench.one(mutation("c", 2, "add", R"({"id":"b"})", "s2"));
  EXPECT_EQ(bench.pull_from(0, "s").changes.size(), 1u);
  EXPECT_EQ(bench.pull_from(0, "s2").changes.at(0).id, "b");
  EXPECT_TRUE(bench.pull_from(0, "s3").changes.empty());
  EXPECT_EQ(bench.get("a", "s2"), "absent");
}

TEST(Pull, BelowTheFloorIsCursorTooOldNeverAnEmptySuccess) {
  Bench bench;
  bench.one(mutation("c", 1, "add", R"({"id":"a"})"));
  bench.one(mutation("c", 2, "add", R"({"id":"b"})"));
  bench.one(mutation("c", 3, "del", R"({"id":"a"})"));
  bench.clock->time += 2 * kHour;
  bench.one(mutation("c", 4, "add", R"({"id":"b"})"));
  EXPECT_EQ(bench.engine->purge(kMaxCursor, kHour).purged_tombstones, 1);
  EXPECT_EQ(error_code([&] { bench.pull_from(2); }), "cursor_too_old");
  EXPECT_EQ(bench.pull_from(3).changes.size(), 1u);
  EXPECT_EQ(bench.pull_from(0).changes.size(), 1u);
}

TEST(Pull, AYoungTombstoneIsNeverPurged) {
  Bench bench;
  bench.one(mutation("c", 1, "add", R"({"id":"a"})"));
  bench.one(mutation("c", 2, "del", R"({"id":"a"})"));
  EXPECT_EQ(bench.engine->purge(kMaxCursor, kHour).purged_tombstones, 0);
  EXPECT_EQ(bench.pull_from(1).changes.at(0).op, Op::remove);
}

TEST(Pull, APagedPullFromAboveZeroIsTooOldOnceADeletionItNeedsIsPurged) {
  Bench bench;
  for (int n = 1; n <= 4; ++n) bench.one(mutation("c", n, "add", "{\"id\":\"d" + std::to_string(n) + "\"}"));
  bench.one(mutation("c", 5, "add", R"({"id":"d2"})"));
  bench.one(mutation("c", 6, "add", R"({"id":"d3"})"));
  bench.one(mutation("c", 7, "del", R"({"id":"d1"})"));
  PullRequest request;
  request.scope = "s";
  request.cursor = 4;
  request.epoch = bench.engine->epoch();
  request.limit = 1;
  const Pulled first = bench.pull(request);
  bench.clock->time += 2 * kHour;
  bench.one(mutation("c", 8, "add", R"({"id":"d4"})"));
  EXPECT_EQ(bench.engine->purge(kMaxCursor, kHour).purged_tombstones, 1);
  request.page = first.end.page;
  EXPECT_EQ(error_code([&] { bench.pull(request); }), "cursor_too_old");
}

TEST(Pull, AFullPullInPagesOutlivesAPurgeOfWhatWasGoneBeforeItBegan) {
  Bench bench;
  for (int n = 1; n <= 4; ++n) bench.one(mutation("c", n, "add", "{\"id\":\"d" + std::to_string(n) + "\"}"));
  bench.one(mutation("c", 5, "del", R"({"id":"d1"})"));
  PullRequest request;
  request.scope = "s";
  request.limit = 1;
  const Pulled first = bench.pull(request);
  bench.clock->time += 2 * kHour;
  bench.one(mutation("c", 6, "add", R"({"id":"d4"})"));
  EXPECT_EQ(bench.engine->purge(kMaxCursor, kHour).purged_tombstones, 1);
  request.page = first.end.page;
  EXPECT_EQ(bench.pull(request).changes.at(0).id, "d3");
}

TEST(Pull, ACursorFromTheFutureOrAnotherDatabaseIsEpochMismatch) {
  Bench bench;
  bench.one(mutation("c", 1, "add", R"({"id":"a"})"));
  EXPECT_EQ(error_code([&] { bench.pull_from(2); }), "epoch_mismatch");
  PullRequest request;
  request.scope = "s";
  request.cursor = 1;
  request.epoch = "0000000000000000";
  EXPECT_EQ(error_code([&] { bench.pull(request); }), "epoch_mismatch");
  request.epoch.reset();
  EXPECT_EQ(error_code([&] { bench.pull(request); }), "invalid_request");
  request.cursor = 0;
  EXPECT_EQ(bench.pull(request).changes.size(), 1u);
}

TEST(Pull, BadRequestsAreRefused) {
  Bench bench;
  PullRequest request;
  request.scope = "s";
  request.page = "nonsense";
  EXPECT_EQ(error_code([&] { bench.pull(request); }), "invalid_request");
  request.page.reset();
  request.limit = 0;
  EXPECT_EQ(error_code([&] { bench.pull(request); }), "invalid_request");
  request.limit.reset();
  request.scope = "_reserved";
  EXPECT_EQ(error_code([&] { bench.pull(request); }), "invalid_scope");
}

TEST(Pull, SomeoneElsesClientIdIsForbidden) {
  Bench bench;
  PushOptions ada;
  ada.user = "ada";
  bench.one(mutation("c", 1, "add", R"({"id":"a"})"), ada);
  PullRequest request;
  request.scope = "s";
  request.client_id = "c";
  request.user = "bob";
  EXPECT_EQ(error_code([&] { bench.pull(request); }), "forbidden");
  request.client_id = "unknown";
  EXPECT_EQ(bench.pull(request).end.last_seq.value(), 0);
}

TEST(Pull, APageIsTheSameHoweverMuchMemoryItFinds) {
  EngineOptions options;
  options.limits.max_page_bytes = 20'000;
  Bench bench(":memory:", options);
  Random random(7);
  for (int n = 1; n <= 300; ++n) {
    const std::string id = std::to_string(random.next() % 200);
    std::string args = R"({"id":"d)" + id + R"(","v":")" + std::string(random.next() % 400, n % 9 == 0 ? '\t' : 'x') + "\"}";
    for (std::size_t at = args.find('\t'); at != std::string::npos; at = args.find('\t', at)) args.replace(at, 1, "\\t");
    bench.clock->time += 1'234'567;
    bench.one(mutation("c", n, n % 7 == 0 ? "del" : "set", args));
  }
  for (const Format format : {Format::json, Format::msgpack}) {
    PullRequest request;
    request.scope = "s";
    std::vector<std::string> ids;
    for (;;) {
      Bytes none;  // grows as the page does
      bench.engine->pull_encoded(request, format, none);
      Bytes plenty;
      plenty.ensure(1 << 20);
      bench.engine->pull_encoded(request, format, plenty);
      ASSERT_EQ(none.view(), plenty.view());
      const Pulled visited = bench.pull(request);
      const std::string packed = format == Format::json ? json::to_msgpack(plenty.view()) : mp::canonicalise(plenty.view());
      mp::Reader changes(mp::field(packed, "changes"));
      ASSERT_EQ(changes.array(), visited.changes.size());
      for (const Seeing& change : visited.changes) {
        const std::string_view one = changes.skip();
        ASSERT_EQ(mp::Reader(mp::field(one, "cursor")).integer(), change.cursor);
        ASSERT_EQ(mp::Reader(mp::field(one, "id")).str(), change.id);
        ASSERT_EQ(mp::Reader(mp::field(one, "op")).str(), op_name(change.op));
        const std::string_view data = mp::field(one, "data");
        ASSERT_EQ(data.empty() ? "" : unpack(data), change.data);
        ids.push_back(change.id);
      }
      if (!visited.end.has_more) break;
      request.page = visited.end.page;
    }
    std::ranges::sort(ids);
    EXPECT_EQ(std::ranges::adjacent_find(ids), ids.end());
    EXPECT_GT(ids.size(), 100u);
  }
}

TEST(Pull, EncodedAnswersSayTheSameInBothFormats) {
  Bench bench;
  bench.push({mutation("c", 1, "set", R"({"id":"a","v":"ä\"\n"})"), mutation("c", 2, "add", R"({"id":"b"})")});
  bench.one(mutation("c", 3, "del", R"({"id":"b"})"));
  PullRequest request;
  request.scope = "s";
  request.cursor = 1;
  request.epoch = bench.engine->epoch();
  request.client_id = "c";
  Bytes answer;
  answer += "what an earlier answer left";
  bench.engine->pull_encoded(request, Format::json, answer);
  const std::string text(answer.view());
  EXPECT_EQ(text.rfind(R"({"changes":[{"cursor":3,"scope":"s","entity":"k","id":"b","op":"delete","version":2,"ts":"2023-11-14T22:13:20.000000Z"}],"cursor":3,"epoch":")", 0), 0u)
      << text;
  bench.engine->pull_encoded(request, Format::msgpack, answer);
  const std::string packed = mp::canonicalise(answer.view());
  mp::Reader changes(mp::field(packed, "changes"));
  EXPECT_EQ(changes.array(), 1u);
  EXPECT_EQ(mp::Reader(mp::field(packed, "last_seq")).integer(), 3);
}

TEST(Snapshot, GroupsTheLiveDocumentsOfOneReadTransaction) {
  Bench bench;
  bench.push({mutation("c", 1, "add", R"({"id":"b"})"), mutation("c", 2, "add", R"({"id":"a"})"), mutation("c", 3, "del", R"({"id":"b"})")});
  const Snapshot snapshot = bench.engine->snapshot({"s", "c", ""});
  ASSERT_EQ(snapshot.data.size(), 1u);
  EXPECT_EQ(snapshot.data[0].rows.at(0).id, "a");
  EXPECT_EQ(snapshot.cursor, 3);
  EXPECT_EQ(snapshot.last_seq.value(), 3);
  Bytes answer;
  bench.engine->snapshot_encoded({"s", std::nullopt, ""}, Format::json, answer);
  const std::string text(answer.view());
  EXPECT_EQ(text.rfind(R"({"data":{"k":{"a":{"n":1}}},"cursor":3,"epoch":")", 0), 0u) << text;
}

TEST(Snapshot, IsRefusedAboveItsLimit) {
  EngineOptions options;
  options.limits.max_snapshot_bytes = 10;
  Bench bench(":memory:", options);
  for (int n = 1; n <= 9; ++n) bench.one(mutation("c", n, "add", "{\"id\":\"d" + std::to_string(n) + "\"}"));
  EXPECT_EQ(error_code([&] { bench.engine->snapshot({"s", std::nullopt, ""}); }), "too_large");
}

TEST(View, SeesOneSnapshotWhileWritesGoOn) {
  Bench bench;
  bench.one(mutation("c", 1, "add", R"({"id":"a"})"));
  const std::unique_ptr<View> view = bench.engine->read("s");
  bench.one(mutation("c", 2, "add", R"({"id":"a"})"));
  EXPECT_EQ(unpack(view->get("k", "a").value()), R"({"n":1})");
  EXPECT_EQ(bench.get("a"), R"({"n":2})");
}

TEST(View, FindFiltersSortsAndLimits) {
  Bench bench;
  for (int n = 1; n <= 5; ++n) {
    bench.one(mutation("c", n, "set", "{\"id\":\"d" + std::to_string(n) + "\",\"v\":" + std::to_string(n % 3) + "}"));
  }
  FindOptions options;
  options.filter = Filter(mp::canonicalise(pack(R"({"v":1})")));
  EXPECT_EQ(bench.engine->read("s")->find("k", options).size(), 2u);
  FindOptions sorted;
  sorted.order = {{"v", true}};
  sorted.limit = 2;
  const std::vector<Row> rows = bench.engine->read("s")->find("k", sorted);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].id, "d2");
  EXPECT_EQ(rows[1].id, "d5");
}

}  // namespace
}  // namespace syncline::testing
