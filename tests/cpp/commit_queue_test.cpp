#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "engine_fixture.h"

namespace syncline::testing {
namespace {

TEST(CommitQueue, ManyThreadsShareGroupsAndLoseNothing) {
  Bench bench;
  constexpr int kThreads = 8;
  constexpr int kEach = 200;
  std::vector<std::thread> threads;
  std::atomic<int> failures{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Host host = standard_host();
      for (int n = 1; n <= kEach; ++n) {
        const PushRequest request{{mutation("c" + std::to_string(t), n, "add", R"({"id":"shared"})")}, {}, {}};
        const auto result = bench.engine->push(request, host, {});
        if (!result || !result->results.at(0).ok()) ++failures;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(bench.get("shared"), "{\"n\":" + std::to_string(kThreads * kEach) + "}");
  EXPECT_EQ(bench.engine->head(), kThreads * kEach);
}

TEST(CommitQueue, AMutatorRunsOnTheThreadThatPushed) {
  Bench bench;
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Host host;
      const std::thread::id me = std::this_thread::get_id();
      host.mutators["who"] = [&](Tx&, std::string_view) { wrong += std::this_thread::get_id() != me; };
      for (int n = 1; n <= 50; ++n) {
        const PushRequest request{{mutation("c" + std::to_string(t), n, "who", "{}")}, {}, {}};
        bench.engine->push(request, host, {});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(CommitQueue, ReadersNeverSeeAHoleBelowTheirCursor) {
  Bench bench;
  std::atomic<bool> stop{false};
  std::thread reader([&] {
    PullRequest request;
    request.scope = "s";
    request.epoch = bench.engine->epoch();
    std::int64_t seen = 0;
    while (!stop) {
      const PageEnd end = bench.engine->pull(request, [&](const ChangeView& change) {
        EXPECT_GT(change.cursor, request.cursor);
        ++seen;
      });
      request.cursor = end.cursor;
    }
    const PageEnd end = bench.engine->pull(request, [&](const ChangeView&) { ++seen; });
    EXPECT_EQ(end.cursor, 400);
    EXPECT_EQ(seen, 400);
  });
  std::vector<std::thread> writers;
  for (int t = 0; t < 4; ++t) {
    writers.emplace_back([&, t] {
      Host host = standard_host();
      for (int n = 1; n <= 100; ++n) {
        const std::string id = std::to_string(t) + "-" + std::to_string(n);
        const PushRequest request{{mutation("c" + std::to_string(t), n, "add", "{\"id\":\"" + id + "\"}")}, {}, {}};
        bench.engine->push(request, host, {});
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  stop = true;
  reader.join();
}

TEST(CommitQueue, AReentrantPushIsRefusedNotADeadlock) {
  Bench bench;
  std::string inner;
  bench.host.mutators["again"] = [&](Tx&, std::string_view) {
    inner = error_code([&] { bench.one(mutation("d", 1, "nothing", "{}")); });
  };
  EXPECT_TRUE(bench.one(mutation("c", 1, "again", "{}")).ok());
  EXPECT_EQ(inner, "usage");
}

TEST(CommitQueue, AWaitingPushCanBeWithdrawn) {
  Bench bench;
  const std::unique_ptr<WriteSession> session = bench.engine->write({"s"}, "");
  bool ran = false;
  std::thread other([&] {
    Host host;
    host.mutators["x"] = [&](Tx&, std::string_view) { ran = true; };
    const PushRequest request{{mutation("c", 1, "x", "{}")}, {}, {}};
    EXPECT_FALSE(bench.engine->push(request, host, {}, [] { return false; }).has_value());
  });
  other.join();
  session->rollback();
  EXPECT_FALSE(ran);
  EXPECT_TRUE(bench.one(mutation("c", 1, "nothing", "{}")).ok());
}

TEST(WriteSession, CommitsSeveralScopesAtOnceOrNothing) {
  Bench bench;
  {
    const std::unique_ptr<WriteSession> session = bench.engine->write({"a", "b"}, "ada");
    session->txs()[0]->set("k", "x", pack(R"({"n":1})"));
    session->txs()[1]->set("k", "x", pack(R"({"n":2})"));
    EXPECT_EQ(error_code([&] { bench.one(mutation("c", 1, "nothing", "{}")); }), "usage");
    EXPECT_EQ(session->commit().size(), 2u);
    EXPECT_EQ(error_code([&] { session->txs()[0]->get("k", "x"); }), "closed");
  }
  EXPECT_EQ(bench.get("x", "a"), R"({"n":1})");
  EXPECT_EQ(bench.get("x", "b"), R"({"n":2})");
  {
    const std::unique_ptr<WriteSession> session = bench.engine->write({"a"}, "ada");
    session->txs()[0]->remove("k", "x");
  }
  EXPECT_EQ(bench.get("x", "a"), R"({"n":1})");
}

TEST(Engine, PokesEachTouchedScopeAfterTheCommit) {
  Bench bench;
  std::vector<Poke> pokes;
  bench.engine->set_poke_listener([&](const std::vector<Poke>& told) {
    for (const Poke& poke : told) {
      EXPECT_EQ(bench.engine->cursor(poke.scope), poke.cursor);
      pokes.push_back(poke);
    }
  });
  bench.push({mutation("c", 1, "add", R"({"id":"a"})", "s"), mutation("c", 2, "nothing", "{}", "t")});
  ASSERT_EQ(pokes.size(), 2u);
  EXPECT_EQ(pokes[0].cursor, 1);
  EXPECT_EQ(pokes[1].cursor, 2);
}

TEST(Engine, RefusesEverythingAfterClose) {
  Bench bench;
  bench.engine->close();
  bench.engine->close();
  EXPECT_EQ(error_code([&] { bench.one(mutation("c", 1, "nothing", "{}")); }), "closed");
  EXPECT_EQ(error_code([&] { bench.pull_from(0); }), "closed");
  EXPECT_EQ(error_code([&] { bench.engine->write({"s"}, ""); }), "closed");
}

}  // namespace
}  // namespace syncline::testing
