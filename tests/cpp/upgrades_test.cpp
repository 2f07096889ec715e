// Documents of an older schema are read as today's, and written back by ordinary commits.
#include "engine/upgrades.h"

#include <gtest/gtest.h>

#include "engine/history.h"
#include "engine_fixture.h"

namespace syncline::testing {
namespace {

// Doubles n; cannot where n is 13.
class Doubling : public Upgrader {
 public:
  explicit Doubling(Cursor from) : from_(from) {}
  [[nodiscard]] bool applies(std::string_view entity, Cursor cursor) const noexcept override { return entity == "k" && cursor < from_; }
  [[nodiscard]] Cursor last() const noexcept override { return from_ - 1; }
  [[nodiscard]] std::string upgrade(std::string_view, std::string_view, Cursor, std::string_view body) const override {
    const std::int64_t n = mp::Reader(mp::field(body, "n")).integer();
    if (n == 13) throw Error(Code::usage, "thirteen");
    return pack("{\"n\":" + std::to_string(2 * n) + "}");
  }
  [[nodiscard]] std::optional<std::string> try_upgrade(std::string_view entity, std::string_view id, Cursor cursor,
                                                       std::string_view body) const override {
    try {
      return upgrade(entity, id, cursor, body);
    } catch (const Error&) {
      return std::nullopt;
    }
  }

 private:
  Cursor from_;
};

struct Upgrading : Bench {
  Upgrading() {
    host.mutators["put"] = [](Tx& tx, std::string_view args) { tx.set("k", field_str(args, "id"), std::string(mp::field(args, "doc"))); };
    host.mutators["read"] = [this](Tx& tx, std::string_view args) {
      seen = unpack(tx.get("k", field_str(args, "id")).value_or(pack("null")));
      for (const Row& row : tx.scan("k")) scanned += row.id + unpack(row.body);
    };
  }
  void put(const std::string& id, int n) {
    one(mutation("c", ++seq, "put", R"({"id":")" + id + R"(","doc":{"n":)" + std::to_string(n) + "}}"));
  }
  void introduce() { engine->set_upgrader(std::make_shared<Doubling>(engine->head() + 1)); }
  std::string seen, scanned;
  std::int64_t seq = 0;
};

TEST(Upgrades, EveryReadHandsOutTheUpgradedBody) {
  Upgrading bench;
  bench.put("a", 1);
  bench.introduce();
  bench.put("b", 1);
  EXPECT_EQ(bench.get("a"), R"({"n":2})");
  EXPECT_EQ(bench.get("b"), R"({"n":1})");
  EXPECT_EQ(bench.engine->read("s")->scan("k").at(0).body, pack(R"({"n":2})"));
  EXPECT_EQ(bench.pull_from(0).changes.at(0).data, R"({"n":2})");
  EXPECT_EQ(bench.engine->snapshot({.scope = "s", .client_id = {}, .user = {}}).data.at(0).rows.at(0).body, pack(R"({"n":2})"));
  bench.one(mutation("c", ++bench.seq, "read", R"({"id":"a"})"));
  EXPECT_EQ(bench.seen, R"({"n":2})");
  EXPECT_EQ(bench.scanned, R"(a{"n":2}b{"n":1})");
}

TEST(Upgrades, TheSameBytesWrittenUnderTheNewSchemaAreAnUpdate) {
  Upgrading bench;
  bench.put("a", 5);
  bench.introduce();
  bench.put("a", 5);
  EXPECT_EQ(bench.get("a"), R"({"n":5})");
  EXPECT_EQ(bench.engine->read("s")->version("k", "a"), 2);
}

TEST(Upgrades, WhatAMutatorWritesIsLoggedAgainstWhatWasStored) {
  Upgrading bench;
  bench.put("a", 5);
  bench.host.mutators["touch"] = [](Tx& tx, std::string_view) { tx.update("k", "a", pack(R"({"m":1})")); };
  bench.introduce();
  bench.one(mutation("c", ++bench.seq, "touch", "null"));
  EXPECT_EQ(bench.get("a"), R"({"m":1,"n":10})");
  Past past(*bench.engine, Cursor{1});
  EXPECT_EQ(unpack(*past.get("s", "k", "a")), R"({"n":5})");
}

TEST(Upgrades, StepsWriteBackEachDocumentOnceAndSkipWhatCannotBe) {
  Upgrading bench;
  for (int n = 0; n < 5; ++n) bench.put("d" + std::to_string(n), n == 3 ? 13 : n);
  bench.introduce();
  Cursor after = 0;
  std::int64_t upgraded = 0, same = 0, failed = 0;
  for (bool more = true; more;) {
    const UpgradeStep step = bench.engine->upgrade_step("s", after, 2);
    after = step.reached;
    more = step.more;
    upgraded += step.upgraded;
    same += step.same;
    failed += step.failed;
  }
  EXPECT_EQ(upgraded, 3);
  EXPECT_EQ(same, 1);  // 2 * 0
  EXPECT_EQ(failed, 1);
  const Cursor head = bench.engine->head();
  const UpgradeStep again = bench.engine->upgrade_step("s", 0, 100);
  EXPECT_EQ(again.upgraded, 0);
  EXPECT_EQ(bench.engine->head(), head);
  bench.engine->set_upgrader(nullptr);
  EXPECT_EQ(bench.get("d4"), R"({"n":8})");
  EXPECT_EQ(bench.get("d3"), R"({"n":13})");
}

TEST(Upgrades, WhatCannotBeUpgradedIsToldAsItIsAndCanBeDeleted) {
  Upgrading bench;
  bench.put("a", 13);
  bench.introduce();
  EXPECT_EQ(bench.get("a"), R"({"n":13})");
  EXPECT_EQ(bench.pull_from(0).changes.at(0).data, R"({"n":13})");
  EXPECT_EQ(bench.one(mutation("c", ++bench.seq, "read", R"({"id":"a"})")).error->code, "internal_error");
  EXPECT_TRUE(bench.one(mutation("c", ++bench.seq, "del", R"({"id":"a"})")).ok());
  EXPECT_EQ(bench.get("a"), "absent");
}

}  // namespace
}  // namespace syncline::testing
