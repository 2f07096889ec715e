#include "engine/erase.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "engine_fixture.h"
#include "folder.h"

namespace syncline::testing {
namespace {

const std::string kSecret = "a-secret-of-Ada-";

EngineOptions quiet() {
  EngineOptions options;
  options.store.durability = Durability::normal;
  options.retention.interval = 0;
  return options;
}

Mutation set(std::int64_t seq, const std::string& id, const std::string& value, const std::string& scope = "s") {
  return mutation("c", seq, "set", "{\"id\":\"" + id + "\",\"v\":\"" + value + "\"}", scope);
}
Mutation del(std::int64_t seq, const std::string& id, const std::string& scope = "s") {
  return mutation("c", seq, "del", "{\"id\":\"" + id + "\"}", scope);
}

class Erase : public ::testing::Test {
 protected:
  std::size_t in_the_files(const std::string& text) const {
    std::size_t count = 0;
    for (const char* end : {"", "-wal"}) {
      std::ifstream file(path + end, std::ios::binary);
      std::stringstream bytes;
      bytes << file.rdbuf();
      const std::string all = bytes.str();
      for (std::size_t at = all.find(text); at != std::string::npos; at = all.find(text, at + 1)) ++count;
    }
    return count;
  }
  std::vector<std::pair<Op, std::string>> log(Bench& bench, const std::string& scope, const std::string& id) {
    std::vector<std::pair<Op, std::string>> lines;
    bench.engine->close();
    {
      StoreOptions options;
      options.read_only = true;
      const auto store = open_sqlite(path, options);
      store->read()->log({.scope = scope, .entity = {}, .id = id, .client_id = {}}, [&](const LogLineView& line) {
        lines.emplace_back(line.op, line.delta.empty() ? "" : unpack(line.delta));
        EXPECT_TRUE(line.op != Op::remove || line.previous == 0);
        return true;
      });
    }
    bench.open();
    return lines;
  }

  const Folder folder;
  const std::string path = folder / "erase.db";
};

TEST_F(Erase, ADocumentGoesWithItsHistoryAndClientsLearnOfItByAPull) {
  Bench bench(path, quiet());
  bench.push({set(1, "a", kSecret + "1"), set(2, "b", "stays"), set(3, "a", kSecret + "2")});
  const Cursor before = bench.engine->head();
  EXPECT_GT(in_the_files(kSecret), 0U);

  const Erased erased = bench.engine->erase({.scope = "s", .entity = "k", .id = "a", .user = "officer"});
  EXPECT_EQ(erased.documents, 1);
  EXPECT_TRUE(erased.rewritten);
  EXPECT_EQ(in_the_files(kSecret), 0U);
  EXPECT_EQ(in_the_files("stays"), 1U);

  const Pulled pulled = bench.pull_from(before);
  ASSERT_EQ(pulled.changes.size(), 1U);
  EXPECT_EQ(pulled.changes[0].op, Op::remove);
  EXPECT_EQ(pulled.changes[0].id, "a");
  EXPECT_EQ(bench.get("a"), "absent");
  const auto lines = log(bench, "s", "a");
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0], std::make_pair(Op::remove, std::string()));

  bench.push({set(4, "a", "anew")});
  EXPECT_EQ(bench.get("a"), "{\"id\":\"a\",\"v\":\"anew\"}");
}

TEST_F(Erase, WhatWasDeletedBeforeLosesItsHistoryToo) {
  Bench bench(path, quiet());
  bench.push({set(1, "a", kSecret + "1"), set(2, "a", kSecret + "2")});
  const Cursor before = bench.engine->head();
  bench.push({del(3, "a")});
  const Erased erased = bench.engine->erase({.scope = "s", .entity = "k", .id = "a", .user = {}});
  EXPECT_EQ(erased.documents, 0);
  EXPECT_EQ(erased.tombstones, 1);
  EXPECT_EQ(in_the_files(kSecret), 0U);
  EXPECT_EQ(log(bench, "s", "a").size(), 1U);
  EXPECT_EQ(bench.pull_from(before).changes.at(0).op, Op::remove);
}

TEST_F(Erase, AWholeScopeGoesAndNothingOfAnother) {
  Bench bench(path, quiet());
  std::int64_t seq = 0;
  for (int n = 0; n < 700; ++n) {
    const std::string id = std::to_string(n);
    bench.push({set(++seq, id, kSecret + id, "gone"), set(++seq, id, "kept-" + id, "stays")});
    if (n % 3 == 0) bench.push({set(++seq, id, kSecret + "again", "gone")});
    if (n % 5 == 0) bench.push({del(++seq, id, "gone")});
    if (n % 10 == 0) bench.push({set(++seq, id, kSecret + "anew", "gone")});
  }
  const Cursor before = bench.engine->head();
  const Erased erased = bench.engine->erase({.scope = "gone", .entity = {}, .id = {}, .user = {}});
  EXPECT_EQ(erased.documents, 630);
  EXPECT_EQ(erased.tombstones, 70);
  EXPECT_TRUE(erased.rewritten);
  EXPECT_EQ(in_the_files(kSecret), 0U);
  EXPECT_TRUE(bench.engine->read("gone")->scan("k").empty());
  EXPECT_EQ(bench.engine->read("stays")->scan("k").size(), 700U);
  EXPECT_EQ(bench.pull_from(before, "gone").changes.size(), 630U);
  EXPECT_TRUE(bench.pull_from(before, "stays").changes.empty());
  EXPECT_EQ(bench.engine->counts().log_lines, 700 + 700);
  EXPECT_EQ(bench.engine->erase({.scope = "gone", .entity = {}, .id = {}, .user = {}, .rewrite = false}).documents, 0) << "once is enough";
}

TEST_F(Erase, WhatIsNotThereIsNothingToErase) {
  Bench bench(path, quiet());
  bench.push({set(1, "a", "1")});
  const Cursor head = bench.engine->head();
  const Erased erased = bench.engine->erase({.scope = "s", .entity = "k", .id = "other", .user = {}, .rewrite = false});
  EXPECT_EQ(erased.documents + erased.tombstones, 0);
  EXPECT_EQ(bench.engine->erase({.scope = "nobody", .entity = {}, .id = {}, .user = {}, .rewrite = false}).documents, 0);
  EXPECT_EQ(bench.engine->head(), head);
  EXPECT_EQ(error_code([&] { bench.engine->erase({.scope = "s", .entity = "k", .id = {}, .user = {}}); }), "invalid_request");
  EXPECT_EQ(error_code([&] { bench.engine->erase({.scope = "_feeds", .entity = {}, .id = {}, .user = {}}); }), "invalid_scope");
}

TEST_F(Erase, AReaderThatHoldsTheOldStateIsToldOf) {
  Bench bench(path, quiet());
  bench.push({set(1, "a", kSecret)});
  std::unique_ptr<View> view = bench.engine->read("s");
  EXPECT_FALSE(bench.engine->erase({.scope = "s", .entity = "k", .id = "a", .user = {}}).rewritten);
  EXPECT_TRUE(view->get("k", "a").has_value()) << "a snapshot is a snapshot";
  view.reset();
  EXPECT_TRUE(bench.engine->erase({.scope = "s", .entity = "k", .id = "a", .user = {}}).rewritten);
  EXPECT_EQ(in_the_files(kSecret), 0U);
}

TEST_F(Erase, AfterARandomLifeNoByteOfAnErasedValueIsLeft) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    Random random(seed);
    const std::string scope = "s" + std::to_string(seed);
    Bench bench(path, quiet());
    const std::string client = "c" + std::to_string(seed);
    std::int64_t seq = 0;
    for (int n = 0; n < 1500; ++n) {
      const std::string id = std::to_string(random.next() % 200);
      const std::size_t size = random.next() % 5 == 0 ? random.next() % 20'000 : random.next() % 300;
      const bool secret = id.back() == '7';
      if (random.next() % 6 == 0) {
        bench.push({mutation(client, ++seq, "del", "{\"id\":\"" + id + "\"}", scope)});
      } else {
        const std::string value = (secret ? kSecret : "open-") + std::string(size, 'x');
        bench.push({mutation(client, ++seq, "set", "{\"id\":\"" + id + "\",\"v\":\"" + value + "\"}", scope)});
      }
    }
    for (int n = 7; n < 200; n += 10) {
      const Erased erased = bench.engine->erase(
          {.scope = scope, .entity = "k", .id = std::to_string(n), .user = {}, .rewrite = n == 197});
      EXPECT_EQ(erased.rewritten, n == 197);
    }
    EXPECT_EQ(in_the_files(kSecret), 0U);
    EXPECT_GT(in_the_files("open-"), 0U);
  }
}

}  // namespace
}  // namespace syncline::testing
