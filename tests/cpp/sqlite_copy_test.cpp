// What a store offers to who keeps a copy of another database's documents.
#include <gtest/gtest.h>

#include "store_fixture.h"

namespace syncline {
namespace {

using namespace testing_store;  // NOLINT(google-build-using-namespace): the fixture is for these files alone

PutDocument copied(std::string_view scope, std::string_view id, Cursor cursor, std::string_view body) {
  return {.scope = scope,
          .entity = "e",
          .id = id,
          .previous = kFindRow,
          .cursor = cursor,
          .created = cursor,
          .version = 1,
          .created_at = 1,
          .updated_at = 1,
          .body = body,
          .deleted = body.empty()};
}

void apply(Store& store, const WriteBatch& batch) {
  const auto tx = store.write();
  tx->apply(batch);
  tx->commit();
}

std::vector<std::string> shown(ReadTx& tx, std::string_view scope) {
  std::vector<std::string> out;
  for (const Document& row : changed(tx, scope)) out.push_back(row.id + "=" + row.body + "@" + std::to_string(row.cursor));
  return out;
}

using Strings = std::vector<std::string>;

TEST(SqliteCopy, ARowIsReplacedWhereverItLies) {
  const auto store = open_sqlite(":memory:");
  WriteBatch first;
  first.documents = {copied("s", "b", 1, "one"), copied("s", "a", 2, "two"), copied("s", "c", 3, "three")};
  apply(*store, first);
  WriteBatch second;
  second.documents = {copied("s", "c", 4, "four"), copied("s", "aa", 5, "five"), copied("s", "b", 6, "")};
  apply(*store, second);
  const auto tx = store->read();
  EXPECT_EQ(shown(*tx, "s"), (Strings{"a=two@2", "c=four@4", "aa=five@5", "b=@6"}));
  EXPECT_EQ(scan(*tx, "s", "e"), (Strings{"a", "aa", "c"}));
}

TEST(SqliteCopy, WhatIsForgottenLeavesNothing) {
  const auto store = open_sqlite(":memory:");
  WriteBatch first;
  first.documents = {copied("s", "a", 1, "one"), copied("s", "b", 2, "two"), copied("t", "a", 3, "three"), copied("s", "c", 4, "")};
  first.unlogged.push_back({.scope = "s", .entity = "_note", .id = "n", .body = "kept", .updated_at = 1});
  apply(*store, first);
  WriteBatch second;
  second.forget_documents = {{"s", "e", "a"}, {"s", "e", "unknown"}, {"nowhere", "e", "a"}};
  apply(*store, second);
  EXPECT_EQ(shown(*store->read(), "s"), (Strings{"b=two@2", "c=@4"}));
  EXPECT_FALSE(document(*store->read(), "s", "e", "a").has_value());
  WriteBatch third;
  third.forget_scopes = {"s", "nowhere"};
  third.documents = {copied("s", "b", 2, "again")};  // behind it
  apply(*store, third);
  const auto tx = store->read();
  EXPECT_EQ(shown(*tx, "s"), Strings{"b=again@2"});
  EXPECT_EQ(shown(*tx, "t"), Strings{"a=three@3"});
  EXPECT_EQ(tx->scope("s")->floor, 0);
  EXPECT_EQ(unlogged(*tx, "s", "_note"), Strings{"n=kept@1"});
}

TEST(SqliteCopy, TwoScopesChangeNamesForEveryReaderThatBeginsBehindIt) {
  const testing::Folder folder;
  auto store = open_sqlite(folder / "a.db", {.durability = Durability::normal});
  WriteBatch first;
  first.documents = {copied("s", "a", 1, "old"), copied("_new", "a", 7, "new"), copied("_new", "b", 8, "more")};
  apply(*store, first);
  const auto before = store->read();
  EXPECT_EQ(shown(*before, "s"), Strings{"a=old@1"});
  {
    const auto tx = store->write();
    WriteBatch swap;
    swap.swap_scopes.push_back({"s", "_new"});
    tx->apply(swap);
    EXPECT_EQ(shown(*tx, "s"), (Strings{"a=new@7", "b=more@8"}));
  }
  EXPECT_EQ(shown(*store->read(), "s"), Strings{"a=old@1"}) << "it was rolled back";
  WriteBatch swap;
  swap.swap_scopes.push_back({"s", "_new"});
  apply(*store, swap);
  EXPECT_EQ(shown(*before, "s"), Strings{"a=old@1"}) << "a snapshot does not move";
  for (int n = 0; n < 3; ++n) {
    const auto tx = store->read();
    EXPECT_EQ(shown(*tx, "s"), (Strings{"a=new@7", "b=more@8"}));
    EXPECT_EQ(shown(*tx, "_new"), Strings{"a=old@1"});
  }
  WriteBatch more;
  more.documents = {copied("s", "a", 9, "newer")};
  apply(*store, more);
  EXPECT_EQ(shown(*store->read(), "s"), (Strings{"b=more@8", "a=newer@9"}));
}

}  // namespace
}  // namespace syncline
