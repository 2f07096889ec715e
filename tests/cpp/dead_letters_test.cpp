// Letters are bounded, counted and in the commit of the number they belong to.
#include "engine/dead_letters.h"

#include <gtest/gtest.h>

#include "engine_fixture.h"

namespace syncline::testing {
namespace {

constexpr std::int64_t kSecond = 1'000'000;

Outcome broken() {
  Outcome outcome{Outcome::Kind::refused, {"internal_error", "internal error", {}}};
  outcome.failure = std::make_shared<Failure>();
  outcome.failure->type = "Bug";
  outcome.failure->message = "of the code";
  outcome.failure->traceback = "line 1";
  return outcome;
}

EngineOptions at_most(DeadLetterLimits limits) {
  EngineOptions options;
  options.dead_letters = limits;
  return options;
}

struct Letters : Bench {
  explicit Letters(DeadLetterLimits limits = {}) : Bench(":memory:", at_most(limits)) {
    host.mutators["bug"] = [this](Tx& tx, std::string_view args) {
      tx.set("k", field_str(args, "id"), std::string(args));
      if (bugged) throw broken();
    };
  }
  std::vector<std::int64_t> sequences() {
    std::vector<std::int64_t> found;
    for (const DeadLetter& letter : engine->dead_letters(0, 1000)) found.push_back(letter.client_seq);
    return found;
  }
  bool bugged = true;
};

using Numbers = std::vector<std::int64_t>;

TEST(DeadLetters, AFailureLeavesNoDocumentButALetter) {
  Letters bench;
  const MutationResult result = bench.one(mutation("c", 1, "bug", R"({"id":"a"})"), {.user = "ada"});
  EXPECT_EQ(result.error->code, "internal_error");
  EXPECT_EQ(bench.get("a"), "absent");
  const std::vector<DeadLetter> found = bench.engine->dead_letters(0, 10);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].id, 1);
  EXPECT_EQ(found[0].name, "bug");
  EXPECT_EQ(unpack(found[0].args), R"({"id":"a"})");
  EXPECT_EQ(found[0].user, "ada");
  EXPECT_EQ(found[0].client_id, "c");
  EXPECT_EQ(found[0].error, "Bug");
  EXPECT_EQ(found[0].ts, bench.clock->time.load());
  EXPECT_EQ(bench.engine->counts().documents, 0);
}

TEST(DeadLetters, ALetterDecodesToWhatWasEncoded) {
  DeadLetter letter{.id = 9,
                    .name = "n",
                    .args = pack(R"({"a":[1,2]})"),
                    .scope = "s",
                    .user = "u",
                    .client_id = "c",
                    .client_seq = 4,
                    .ts = -5,
                    .seed = ~std::uint64_t{0},
                    .error = "E",
                    .message = "m",
                    .traceback = "t",
                    .at = 7,
                    .tried_at = 8,
                    .attempts = 3};
  const std::string body = dead_letters::encode(letter);
  EXPECT_EQ(dead_letters::encode(dead_letters::decode(9, body)), body);
  EXPECT_EQ(mp::canonicalise(body), body);
  EXPECT_EQ(dead_letters::decode(9, body).seed, letter.seed);
}

TEST(DeadLetters, TheOldestGoWhenThereAreTooManyWithinOneCommitAsOverSeveral) {
  Letters bench({.max_count = 3});
  bench.push({mutation("c", 1, "bug", R"({"id":"a"})"), mutation("c", 2, "bug", R"({"id":"a"})")});
  bench.push({mutation("c", 3, "bug", R"({"id":"a"})"), mutation("c", 4, "bug", R"({"id":"a"})"), mutation("c", 5, "bug", R"({"id":"a"})")});
  EXPECT_EQ(bench.sequences(), (Numbers{3, 4, 5}));
  EXPECT_EQ(bench.engine->dead_letter_counts().dropped, 2);
  EXPECT_EQ(bench.engine->dead_letter_counts().count, 3);
}

TEST(DeadLetters, TheOldGoWhenAnotherComesOrWhenTheyArePruned) {
  Letters bench({.max_age = 10 * kSecond});
  bench.one(mutation("c", 1, "bug", R"({"id":"a"})"));
  bench.clock->time += 11 * kSecond;
  bench.one(mutation("c", 2, "bug", R"({"id":"a"})"));
  EXPECT_EQ(bench.sequences(), (Numbers{2}));
  bench.clock->time += 11 * kSecond;
  bench.engine->prune_dead_letters({.max_age = 10 * kSecond});
  EXPECT_EQ(bench.sequences(), (Numbers{}));
  EXPECT_EQ(bench.engine->dead_letter_counts().dropped, 2);
  EXPECT_EQ(bench.engine->dead_letter_counts().bytes, 0);
}

TEST(DeadLetters, TheirBytesAreBoundedButTheLatestStays) {
  Letters bench({.max_bytes = 3000});
  const std::string args = R"({"id":"a","pad":")" + std::string(1200, 'x') + R"("})";
  for (int seq = 1; seq <= 4; ++seq) bench.one(mutation("c", seq, "bug", args));
  EXPECT_EQ(bench.sequences(), (Numbers{3, 4}));
  bench.one(mutation("c", 5, "bug", R"({"id":"a","pad":")" + std::string(5000, 'x') + R"("})"));
  EXPECT_EQ(bench.sequences(), (Numbers{5}));
  EXPECT_EQ(bench.engine->dead_letter_counts().dropped, 4);
}

TEST(DeadLetters, SuccessOfARetryRemovesTheLetterAndFailureRaisesItsAttempts) {
  Letters bench;
  bench.one(mutation("c", 1, "bug", R"({"id":"a"})"), {.user = "ada"});
  EXPECT_FALSE(bench.engine->retry_dead_letter(1, bench.host)->ok());
  EXPECT_EQ(bench.engine->dead_letters(0, 1)[0].attempts, 2);
  EXPECT_EQ(bench.get("a"), "absent");
  bench.bugged = false;
  const MutationResult result = *bench.engine->retry_dead_letter(1, bench.host);
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(bench.get("a"), R"({"id":"a"})");
  EXPECT_EQ(bench.sequences(), (Numbers{}));
  EXPECT_EQ(error_code([&] { bench.engine->retry_dead_letter(1, bench.host); }), "not_found");
}

TEST(DeadLetters, ARetryThatIsTornOutLeavesTheLetterAsItWas) {
  Letters bench;
  bench.one(mutation("c", 1, "bug", R"({"id":"a"})"));
  bench.host.mutators["bug"] = [](Tx&, std::string_view) { throw Outcome{Outcome::Kind::abort, {}, {}}; };
  EXPECT_EQ(bench.engine->retry_dead_letter(1, bench.host)->error->code, "unavailable");
  EXPECT_EQ(bench.engine->dead_letters(0, 1)[0].attempts, 1);
}

TEST(DeadLetters, NumbersAreNeverUsedAgain) {
  Letters bench;
  bench.one(mutation("c", 1, "bug", R"({"id":"a"})"));
  EXPECT_TRUE(bench.engine->discard_dead_letter(1));
  EXPECT_FALSE(bench.engine->discard_dead_letter(1));
  bench.one(mutation("c", 2, "bug", R"({"id":"a"})"));
  EXPECT_EQ(bench.engine->dead_letters(0, 10).at(0).id, 2);
}

}  // namespace
}  // namespace syncline::testing
