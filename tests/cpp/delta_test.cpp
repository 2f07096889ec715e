#include "base/delta.h"

#include <gtest/gtest.h>

#include <map>
#include <utility>
#include <vector>

#include "base/msgpack.h"
#include "random_value.h"

namespace syncline::delta {
namespace {

using namespace std::string_literals;

const std::string kEmpty = "\x80";

TEST(Delta, OfEqualDocumentsIsTheEmptyMap) {
  testing::RandomValues random(3);
  for (int i = 0; i < 200; ++i) {
    const std::string document = random.document();
    EXPECT_EQ(diff(document, document), kEmpty);
    EXPECT_TRUE(is_empty(diff(document, document)));
    EXPECT_EQ(delta::apply(document, kEmpty), document);
    EXPECT_EQ(undo(document, kEmpty), document);
  }
  EXPECT_FALSE(is_empty("\x81\xa1x\x92\x00\x01"s));
}

TEST(Delta, NamesOnlyWhatChanged) {
  const std::string before = "\x83\xa1\x61\x01\xa1m\x82\xa1x\x01\xa1y\x02\xa1r\xc0"s;
  const std::string after = "\x83\xa1\x61\x01\xa1m\x82\xa1x\x01\xa1y\x03\xa1n\xc3"s;
  EXPECT_EQ(diff(before, after), "\x83\xa1m\x92\x03\x81\xa1y\x93\x02\x02\x03\xa1n\x92\x00\xc3\xa1r\x92\x01\xc0"s);
}

TEST(Delta, ComparesListsAsWholeValues) {
  EXPECT_EQ(diff("\x81\xa1l\x92\x01\x02"s, "\x81\xa1l\x92\x01\x03"s), "\x81\xa1l\x93\x02\x92\x01\x02\x92\x01\x03"s);
}

TEST(Delta, TellsAnEmptyMapFromAnAbsentFieldAndFromNull) {
  const std::string empty = "\x81\xa1m\x80"s;
  const std::string null = "\x81\xa1m\xc0"s;
  const std::string full = "\x81\xa1m\x81\xa1x\x01"s;
  for (const auto& a : {kEmpty, empty, null, full}) {
    for (const auto& b : {kEmpty, empty, null, full}) {
      const std::string difference = diff(a, b);
      EXPECT_EQ(is_empty(difference), a == b);
      EXPECT_EQ(delta::apply(a, difference), b);
      EXPECT_EQ(undo(b, difference), a);
    }
  }
}

TEST(Delta, AppliesAndUndoesByteForByte) {
  testing::RandomValues random(4);
  for (int i = 0; i < 6000; ++i) {
    const std::string a = random.document();
    const std::string b = i % 3 == 0 ? random.document() : random.variant(a);
    const std::string difference = diff(a, b);
    ASSERT_EQ(delta::apply(a, difference), b);
    ASSERT_EQ(undo(b, difference), a);
    ASSERT_EQ(is_empty(difference), a == b);
    ASSERT_EQ(mp::Reader(difference).skip(), difference);
  }
}

TEST(Delta, ChainsOverManyVersions) {
  testing::RandomValues random(5);
  std::vector<std::string> versions{random.document()};
  std::vector<std::string> deltas;
  for (int i = 0; i < 300; ++i) {
    versions.push_back(random.variant(versions.back()));
    deltas.push_back(diff(versions[versions.size() - 2], versions.back()));
  }
  std::string document = versions.back();
  for (std::size_t i = deltas.size(); i-- > 0;) {
    document = undo(document, deltas[i]);
    ASSERT_EQ(document, versions[i]);
  }
}

TEST(Delta, GrowsAndShrinksThroughEveryMapHeader) {
  std::map<std::string, std::string> fields;
  std::string last = kEmpty;
  for (const std::size_t size : {15u, 16u, 65535u, 65536u, 3u}) {
    fields.clear();
    for (std::size_t i = 0; i < size; ++i) fields.emplace("field" + std::to_string(i), "\x01");
    std::string next;
    testing::RandomValues::write(fields, next);
    const std::string difference = diff(last, next);
    EXPECT_EQ(delta::apply(last, difference), next);
    EXPECT_EQ(undo(next, difference), last);
    last = next;
  }
}

TEST(Delta, RefusesADocumentItDoesNotFit) {
  const std::string one = "\x81\xa1x\x01"s;
  const std::string two = "\x81\xa1x\x02"s;
  const auto refused = [](const std::string& document, const std::string& difference) {
    try {
      static_cast<void>(delta::apply(document, difference));
      return false;
    } catch (const Error& error) {
      return error.code() == Code::corrupt;
    }
  };
  EXPECT_TRUE(refused(two, diff(one, two)));
  EXPECT_TRUE(refused(kEmpty, diff(one, two)));
  EXPECT_TRUE(refused(one, diff(kEmpty, two)));
  EXPECT_TRUE(refused(kEmpty, diff(one, kEmpty)));
  EXPECT_TRUE(refused(one, "\x81\xa1x\x92\x03\x80"s));
  EXPECT_TRUE(refused(one, "\x81\xa1x\x92\x04\x80"s));
  EXPECT_TRUE(refused(one, "\x81\xa1x\x91\x00"s));
  EXPECT_TRUE(refused(one, "\x82\xa1z\x92\x00\x01\xa1y\x92\x00\x01"s));
  EXPECT_TRUE(refused(one, "\x01"s));
  EXPECT_TRUE(refused(one, ""));
  EXPECT_TRUE(refused(one, "\x80\x80"s));
}

TEST(Delta, SurvivesDamage) {
  testing::RandomValues random(6);
  for (int i = 0; i < 100; ++i) {
    const std::string a = random.document();
    const std::string b = random.variant(a);
    const std::string difference = diff(a, b);
    for (std::size_t at = 0; at < difference.size(); ++at) {
      std::string damaged = difference;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 + static_cast<int>(random.below(255))));
      for (const std::string& bytes : {damaged, difference.substr(0, at)}) {
        try {
          static_cast<void>(delta::apply(a, bytes));
          static_cast<void>(undo(b, bytes));
          for_each_leaf(bytes, [](void*, const Leaf&) {}, nullptr);
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), Code::corrupt);
        }
      }
    }
  }
}

TEST(MergeFields, PutsThePatchOverTheTopLevelFields) {
  const std::string document = "\x83\xa1\x61\x01\xa1m\x81\xa1x\x01\xa1z\x05"s;
  const std::string patch = "\x83\xa1\x62\x02\xa1m\x81\xa1y\x01\xa1z\xc0"s;
  EXPECT_EQ(merge_fields(document, patch), "\x84\xa1\x61\x01\xa1\x62\x02\xa1m\x81\xa1y\x01\xa1z\xc0"s);
  EXPECT_EQ(merge_fields(document, kEmpty), document);
  EXPECT_EQ(merge_fields(kEmpty, patch), patch);
}

TEST(ForEachLeaf, NamesEachLeafWithItsPathAndBothSides) {
  const std::string before = "\x83\xa1\x61\x01\xa1m\x81\xa1n\x82\xa1x\x01\xa1y\x02\xa1r\xc0"s;
  const std::string after = "\x82\xa1\x61\x07\xa1m\x81\xa1n\x82\xa1w\xc3\xa1y\x02"s;
  using Sides = std::pair<std::string, std::string>;
  std::map<std::string, Sides> leaves;
  for_each_leaf(
      diff(before, after),
      [](void* context, const Leaf& leaf) {
        std::string path;
        for (std::size_t i = 0; i < leaf.depth; ++i) (path += '/') += leaf.path[i];
        (*static_cast<decltype(leaves)*>(context))[path] = Sides(leaf.before, leaf.after);
      },
      &leaves);
  const std::map<std::string, Sides> expected{{"/a", Sides("\x01", "\x07")},
                                              {"/m/n/w", Sides("", "\xc3")},
                                              {"/m/n/x", Sides("\x01", "")},
                                              {"/r", Sides("\xc0", "")}};
  EXPECT_EQ(leaves, expected);
}

}  // namespace
}  // namespace syncline::delta
