#include <gtest/gtest.h>

#include "engine_fixture.h"
#include "folder.h"

namespace syncline::testing {
namespace {

TEST(Push, AppliesOnceAndRepeatsTheStoredResult) {
  Bench bench;
  const MutationResult first = bench.one(mutation("c", 1, "add", R"({"id":"a"})"));
  ASSERT_TRUE(first.ok());
  const MutationResult again = bench.one(mutation("c", 1, "add", R"({"id":"a"})"));
  EXPECT_TRUE(again.ok());
  EXPECT_TRUE(again.duplicate);
  EXPECT_EQ(again.cursor, first.cursor);
  ASSERT_EQ(again.changes.size(), 1u);
  EXPECT_EQ(again.changes[0].version, 1);
  EXPECT_EQ(bench.get("a"), R"({"n":1})");
  EXPECT_EQ(bench.host.runs, 1);
}

TEST(Push, DeduplicatesWithinOnePush) {
  Bench bench;
  const PushResult result = bench.push({mutation("c", 1, "add", R"({"id":"a"})"), mutation("c", 1, "add", R"({"id":"a"})")});
  EXPECT_FALSE(result.results[0].duplicate);
  EXPECT_TRUE(result.results[1].duplicate);
  EXPECT_EQ(bench.get("a"), R"({"n":1})");
}

TEST(Push, ANumberReusedForOtherContentIsRefused) {
  Bench bench;
  bench.one(mutation("c", 1, "add", R"({"id":"a"})"));
  const MutationResult reused = bench.one(mutation("c", 1, "add", R"({"id":"b"})"));
  EXPECT_EQ(reused.error.value().code, "sequence_reused");
  EXPECT_EQ(bench.get("b"), "absent");
  EXPECT_TRUE(bench.one(mutation("c", 2, "add", R"({"id":"b"})")).ok());
}

TEST(Push, AGapIsRefusedAndStopsOnlyItsClient) {
  Bench bench;
  const PushResult result = bench.push({mutation("c", 2, "add", R"({"id":"a"})"), mutation("c", 3, "add", R"({"id":"a"})"),
                                        mutation("d", 1, "add", R"({"id":"b"})")});
  EXPECT_EQ(result.results[0].error.value().code, "sequence_gap");
  EXPECT_EQ(std::get<std::int64_t>(result.results[0].error->details.at(0).second), 1);
  EXPECT_EQ(result.results[1].error.value().code, "unavailable");
  EXPECT_TRUE(result.results[2].ok());
  EXPECT_TRUE(bench.one(mutation("c", 1, "add", R"({"id":"a"})")).ok());
}

TEST(Push, ARefusedMutationConsumesItsNumberAndLeavesNothing) {
  Bench bench;
  const MutationResult boom = bench.one(mutation("c", 1, "boom", R"({"id":"a"})"));
  EXPECT_EQ(boom.error.value().code, "conflict");
  EXPECT_GT(boom.cursor, 0);
  EXPECT_EQ(bench.get("a"), "absent");
  EXPECT_TRUE(bench.pull_from(0).changes.empty());
  const MutationResult again = bench.one(mutation("c", 1, "boom", R"({"id":"a"})"));
  EXPECT_TRUE(again.duplicate);
  EXPECT_EQ(again.error.value().code, "conflict");
  EXPECT_EQ(again.error->message, "boom");
  EXPECT_TRUE(bench.one(mutation("c", 2, "add", R"({"id":"a"})")).ok());
}

TEST(Push, EveryRefusalOfTheNextMutationConsumesIt) {
  Bench bench;
  PushOptions options;
  options.forbidden = {"secret"};
  EXPECT_EQ(bench.one(mutation("c", 1, "add", R"({"id":"a"})", "secret"), options).error.value().code, "forbidden");
  EXPECT_EQ(bench.one(mutation("c", 2, "add", R"({"id":"a"})", "_ours")).error.value().code, "invalid_scope");
  EXPECT_EQ(bench.one(mutation("c", 3, "nope", "{}")).error.value().code, "unknown_mutation");
  EXPECT_EQ(bench.one(mutation("c", 4, "set", R"({"id":"_reserved?"})")).ok(), false);
  EXPECT_TRUE(bench.one(mutation("c", 5, "add", R"({"id":"a"})")).ok());
}

TEST(Push, DeduplicationComesBeforeAuthorisation) {
  Bench bench;
  bench.one(mutation("c", 1, "add", R"({"id":"a"})"));
  PushOptions options;
  options.forbidden = {"s"};
  const MutationResult again = bench.one(mutation("c", 1, "add", R"({"id":"a"})"), options);
  EXPECT_TRUE(again.ok());
  EXPECT_TRUE(again.duplicate);
}

TEST(Push, RetryConsumesNothingAndHoldsBackItsClient) {
  Bench bench;
  const PushResult result = bench.push({mutation("c", 1, "add", R"({"id":"a"})"), mutation("c", 2, "retry", R"({"id":"x"})"),
                                        mutation("c", 3, "add", R"({"id":"a"})"), mutation("d", 1, "add", R"({"id":"b"})")});
  EXPECT_TRUE(result.results[0].ok());
  EXPECT_EQ(result.results[1].error.value().code, "unavailable");
  EXPECT_EQ(result.results[2].error.value().code, "unavailable");
  EXPECT_TRUE(result.results[3].ok());
  EXPECT_EQ(bench.get("x"), "absent");
  EXPECT_EQ(bench.get("a"), R"({"n":1})");
  EXPECT_TRUE(bench.one(mutation("c", 2, "add", R"({"id":"a"})")).ok());
}

TEST(Push, AbortConsumesNothingMoreOfItsPush) {
  Bench bench;
  const PushResult result = bench.push(
      {mutation("c", 1, "add", R"({"id":"a"})"), mutation("c", 2, "abort", "{}"), mutation("d", 1, "add", R"({"id":"b"})")});
  EXPECT_TRUE(result.results[0].ok());
  EXPECT_EQ(result.results[2].error.value().code, "unavailable");
  EXPECT_EQ(bench.get("a"), R"({"n":1})");
  EXPECT_EQ(bench.get("b"), "absent");
}

TEST(Push, AForeignClientIdRefusesThePushWhole) {
  Bench bench;
  PushOptions ada, bob;
  ada.user = "ada";
  bob.user = "bob";
  bench.one(mutation("c", 1, "add", R"({"id":"a"})"), ada);
  EXPECT_EQ(error_code([&] { bench.push({mutation("d", 1, "add", R"({"id":"b"})"), mutation("c", 2, "add", R"({"id":"a"})")}, bob); }),
            "forbidden");
  EXPECT_EQ(bench.get("b"), "absent");
  EXPECT_TRUE(bench.one(mutation("c", 2, "add", R"({"id":"a"})"), ada).ok());
}

TEST(Push, AnotherEpochRefusesThePushWholeWithTheCurrentOne) {
  Bench bench;
  try {
    bench.push({mutation("c", 1, "add", R"({"id":"a"})")}, {}, {}, "0123456789abcdef");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::epoch_mismatch);
    EXPECT_EQ(std::get<std::string>(error.details().at(0).second), bench.engine->epoch());
  }
  EXPECT_TRUE(bench.push({mutation("c", 1, "add", R"({"id":"a"})")}, {}, {}, bench.engine->epoch()).results[0].ok());
}

TEST(Push, AMutationWithoutAClientIsForBackendCodeOnly) {
  Bench bench;
  EXPECT_EQ(error_code([&] { bench.push({mutation("", 0, "add", R"({"id":"a"})")}); }), "invalid_request");
  PushOptions backend;
  backend.require_client = false;
  EXPECT_TRUE(bench.one(mutation("", 0, "add", R"({"id":"a"})"), backend).ok());
  EXPECT_TRUE(bench.one(mutation("", 0, "add", R"({"id":"a"})"), backend).ok());
  EXPECT_EQ(bench.get("a"), R"({"n":2})");
}

TEST(Push, AVoidOnlyConsumesItsNumber) {
  Bench bench;
  Mutation nothing = mutation("c", 1, "", "null");
  nothing.is_void = true;
  EXPECT_TRUE(bench.one(nothing).ok());
  EXPECT_TRUE(bench.one(mutation("c", 2, "add", R"({"id":"a"})")).ok());
}

TEST(Push, AVoidForAKnownNumberLearnsItsFate) {
  Bench bench;
  bench.one(mutation("c", 1, "boom", R"({"id":"a"})"));
  Mutation nothing = mutation("c", 1, "", "null");
  nothing.is_void = true;
  EXPECT_EQ(bench.one(nothing).error.value().code, "conflict");
}

TEST(Push, SettledLiftsLastSeqOverAGapAndLetsResultsGo) {
  Bench bench;
  bench.one(mutation("c", 1, "add", R"({"id":"a"})"));
  EXPECT_TRUE(bench.push({mutation("c", 8, "add", R"({"id":"a"})")}, {}, {{"c", 7}}).results[0].ok());
  EXPECT_EQ(bench.one(mutation("c", 1, "add", R"({"id":"a"})")).error.value().code, "result_expired");
  EXPECT_EQ(bench.one(mutation("c", 5, "add", R"({"id":"a"})")).error.value().code, "result_expired");
}

TEST(Push, ASilentClientKeepsItsLastResults) {
  EngineOptions options;
  options.limits.keep_results = 3;
  Bench bench(":memory:", options);
  for (int n = 1; n <= 8; ++n) bench.one(mutation("c", n, "add", R"({"id":"a"})"));
  EXPECT_TRUE(bench.one(mutation("c", 6, "add", R"({"id":"a"})")).ok());
  EXPECT_EQ(bench.one(mutation("c", 5, "add", R"({"id":"a"})")).error.value().code, "result_expired");
}

TEST(Push, ADocumentThatIsTooLargeIsARefusedMutation) {
  Bench bench;
  const std::string large(1u << 20, 'x');
  const MutationResult result = bench.one(mutation("c", 1, "set", R"({"id":"a","v":1})"));
  EXPECT_TRUE(result.ok());
  Mutation big = mutation("c", 2, "nothing", "{}");
  bench.host.mutators["nothing"] = [&](Tx& tx, std::string_view) {
    std::string body;
    mp::Writer writer(body);
    writer.map(1);
    writer.str("v");
    writer.str(large);
    tx.set("k", "big", body);
  };
  EXPECT_EQ(bench.one(big).error.value().code, "too_large");
  EXPECT_EQ(bench.get("big"), "absent");
  EXPECT_TRUE(bench.one(mutation("c", 3, "add", R"({"id":"n"})")).ok());
}

TEST(Push, VersionsGoOnOverATombstone) {
  Bench bench;
  bench.one(mutation("c", 1, "add", R"({"id":"a"})"));
  bench.one(mutation("c", 2, "del", R"({"id":"a"})"));
  const MutationResult back = bench.one(mutation("c", 3, "add", R"({"id":"a"})"));
  EXPECT_EQ(back.changes.at(0).op, Op::create);
  EXPECT_EQ(back.changes.at(0).version, 3);
}

TEST(Push, AWriteThatChangesNothingIsNoChangeButTakesACursor) {
  Bench bench;
  const MutationResult first = bench.one(mutation("c", 1, "set", R"({"id":"a","v":1})"));
  const MutationResult same = bench.one(mutation("c", 2, "set", R"({"id":"a","v":1})"));
  EXPECT_TRUE(same.changes.empty());
  EXPECT_GT(same.cursor, first.cursor);
  EXPECT_EQ(bench.engine->cursor("s"), same.cursor);
}

TEST(Push, ReadsItsOwnAndTheGroupsWrites) {
  Bench bench;
  std::vector<std::string> seen;
  bench.host.mutators["look"] = [&](Tx& tx, std::string_view) {
    tx.remove("k", "b");
    tx.set("k", "aa", pack("{}"));
    for (const Row& row : tx.scan("k")) seen.push_back(row.id);
  };
  bench.push({mutation("c", 1, "add", R"({"id":"a"})"), mutation("c", 2, "add", R"({"id":"b"})")});
  bench.push({mutation("c", 3, "add", R"({"id":"c"})"), mutation("c", 4, "look", "{}")});
  EXPECT_EQ(seen, (std::vector<std::string>{"a", "aa", "c"}));
}

TEST(Push, AKeptTxIsDead) {
  Bench bench;
  std::optional<Tx> kept;
  bench.host.mutators["keep"] = [&](Tx& tx, std::string_view) {
    kept.emplace(tx);
    tx.end();
  };
  bench.one(mutation("c", 1, "keep", "{}"));
  bench.host.mutators["dead"] = [&](Tx& tx, std::string_view) {
    tx.end();
    tx.set("k", "a", pack("{}"));
  };
  EXPECT_EQ(bench.one(mutation("c", 2, "dead", "{}")).ok(), false);
  EXPECT_EQ(bench.get("a"), "absent");
}

TEST(Push, NowIsTheMutationsTimeButNeverLaterThanTheServers) {
  Bench bench;
  std::vector<std::int64_t> seen;
  bench.host.mutators["now"] = [&](Tx& tx, std::string_view) { seen.push_back(tx.now()); };
  Mutation early = mutation("c", 1, "now", "{}");
  early.ts = bench.clock->time - 5;
  Mutation late = mutation("c", 2, "now", "{}");
  late.ts = bench.clock->time + 5;
  bench.push({early, late});
  EXPECT_EQ(seen, (std::vector<std::int64_t>{bench.clock->time - 5, bench.clock->time.load()}));
}

TEST(Push, TheSeedDecidesTheIds) {
  Bench bench;
  std::vector<std::string> ids;
  bench.host.mutators["mint"] = [&](Tx& tx, std::string_view) { ids.push_back(tx.uuid()); };
  for (int n = 1; n <= 2; ++n) {
    Mutation mint = mutation("c" + std::to_string(n), 1, "mint", "{}");
    mint.seed = 42;
    mint.ts = 1'000'000;
    bench.one(mint);
  }
  EXPECT_EQ(ids.at(0), ids.at(1));
}

TEST(Push, SurvivesReopeningWithItsClientsAndANewEpoch) {
  const Folder folder;
  Bench bench(folder / "reopen.db");
  const std::string before = bench.engine->epoch();
  const Cursor cursor = bench.one(mutation("c", 1, "add", R"({"id":"a"})")).cursor;
  bench.engine->close();
  bench.open();
  EXPECT_NE(bench.engine->epoch(), before);
  EXPECT_TRUE(bench.one(mutation("c", 1, "add", R"({"id":"a"})")).duplicate);
  PullRequest request;
  request.scope = "s";
  request.cursor = cursor;
  request.epoch = before;
  EXPECT_TRUE(bench.pull(request).changes.empty());  // the old epoch reached this cursor: it is still good
  bench.one(mutation("c", 2, "add", R"({"id":"a"})"));
  request.cursor = cursor + 1;
  EXPECT_EQ(error_code([&] { bench.pull(request); }), "epoch_mismatch");
}

}  // namespace
}  // namespace syncline::testing
