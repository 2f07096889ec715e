#include "base/query.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/msgpack.h"
#include "random_value.h"

namespace syncline {
namespace {

const mp::Border kFilterBorder{.code = Code::invalid_request, .allow_dollar_keys = true};

bool matches(std::string_view filter, std::string_view document) {
  return Filter(json::to_msgpack(filter, kFilterBorder)).matches(json::to_msgpack(document));
}

int compare(std::string_view a, std::string_view b) {
  const std::string left = json::to_msgpack(a);
  const std::string right = json::to_msgpack(b);
  const int order = compare_values(left, right);
  EXPECT_EQ(compare_values(right, left), -order) << a << " and " << b;
  return order;
}

void expect_refused(std::string_view filter, std::string_view why) {
  try {
    const Filter made(json::to_msgpack(filter, kFilterBorder));
    ADD_FAILURE() << "accepted: " << filter;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::invalid_request);
    EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
  }
}

TEST(Filter, WithoutConditionsMatchesEverything) {
  EXPECT_TRUE(Filter().matches_all());
  EXPECT_TRUE(Filter("\x80").matches_all());
  EXPECT_TRUE(matches("{}", R"({"a":1})"));
  EXPECT_FALSE(Filter(json::to_msgpack(R"({"a":1})")).matches_all());
}

TEST(Filter, JoinsFieldsAndOperatorsByAnd) {
  EXPECT_TRUE(matches(R"({"a":1,"b":"x"})", R"({"a":1,"b":"x","c":0})"));
  EXPECT_FALSE(matches(R"({"a":1,"b":"x"})", R"({"a":1,"b":"y"})"));
  EXPECT_TRUE(matches(R"({"n":{"$gte":1,"$lt":9}})", R"({"n":1})"));
  EXPECT_FALSE(matches(R"({"n":{"$gte":1,"$lt":9}})", R"({"n":9})"));
}

TEST(Filter, ReachesIntoMapsWithDots) {
  EXPECT_TRUE(matches(R"({"a.b.c":1})", R"({"a":{"b":{"c":1}}})"));
  EXPECT_FALSE(matches(R"({"a.b.c":1})", R"({"a":{"b":1}})"));
  EXPECT_TRUE(matches(R"({"a.b.c":null})", R"({"a":{"b":1}})"));
  EXPECT_FALSE(matches(R"({"a.0":1})", R"({"a":[1]})"));
}

TEST(Filter, TreatsAMissingFieldAsNull) {
  for (const char* const document : {"{}", R"({"a":null})"}) {
    EXPECT_TRUE(matches(R"({"a":null})", document));
    EXPECT_TRUE(matches(R"({"a":{"$eq":null}})", document));
    EXPECT_FALSE(matches(R"({"a":{"$ne":null}})", document));
    EXPECT_TRUE(matches(R"({"a":{"$ne":1}})", document));
    EXPECT_TRUE(matches(R"({"a":{"$in":[1,null]}})", document));
    EXPECT_FALSE(matches(R"({"a":{"$in":[1]}})", document));
    EXPECT_FALSE(matches(R"({"a":{"$nin":[null]}})", document));
    EXPECT_TRUE(matches(R"({"a":{"$nin":[1]}})", document));
    EXPECT_TRUE(matches(R"({"a":{"$gte":null}})", document));
    EXPECT_TRUE(matches(R"({"a":{"$lte":null}})", document));
    EXPECT_FALSE(matches(R"({"a":{"$gt":null}})", document));
    EXPECT_FALSE(matches(R"({"a":{"$lt":null}})", document));
    EXPECT_FALSE(matches(R"({"a":{"$lt":5}})", document));
    EXPECT_FALSE(matches(R"({"a":{"$gte":0}})", document));
  }
}

TEST(Filter, OrdersWithinOneClassOnly) {
  EXPECT_FALSE(matches(R"({"a":{"$gt":1}})", R"({"a":"x"})"));
  EXPECT_FALSE(matches(R"({"a":{"$lt":"x"}})", R"({"a":1})"));
  EXPECT_FALSE(matches(R"({"a":{"$lt":true}})", R"({"a":0})"));
  EXPECT_TRUE(matches(R"({"a":{"$lt":true}})", R"({"a":false})"));
  EXPECT_TRUE(matches(R"({"a":{"$gt":1}})", R"({"a":1.5})"));
  EXPECT_TRUE(matches(R"({"a":{"$gt":"a"}})", R"({"a":"b"})"));
  EXPECT_TRUE(matches(R"({"a":{"$lt":{"$date":"2026-01-02T00:00:00Z"}}})", R"({"a":{"$date":"2026-01-01T00:00:00Z"}})"));
  EXPECT_FALSE(matches(R"({"a":{"$lt":{"$date":"2026-01-02T00:00:00Z"}}})", R"({"a":1})"));
}

TEST(Filter, MatchesAListAsAWholeOrByAnElement) {
  EXPECT_TRUE(matches(R"({"tags":"x"})", R"({"tags":["y","x"]})"));
  EXPECT_TRUE(matches(R"({"tags":["y","x"]})", R"({"tags":["y","x"]})"));
  EXPECT_TRUE(matches(R"({"tags":["x"]})", R"({"tags":[["x"],"y"]})"));
  EXPECT_FALSE(matches(R"({"tags":"x"})", R"({"tags":[["x"]]})"));
  EXPECT_FALSE(matches(R"({"tags":{"$ne":"x"}})", R"({"tags":["y","x"]})"));
  EXPECT_TRUE(matches(R"({"tags":{"$ne":"z"}})", R"({"tags":["y","x"]})"));
  EXPECT_TRUE(matches(R"({"n":{"$gt":5}})", R"({"n":[1,9]})"));
  EXPECT_FALSE(matches(R"({"n":{"$gt":5}})", R"({"n":[]})"));
  EXPECT_TRUE(matches(R"({"n":{"$in":[3,9]}})", R"({"n":[1,9]})"));
  EXPECT_FALSE(matches(R"({"n":{"$nin":[3,9]}})", R"({"n":[1,9]})"));
  EXPECT_TRUE(matches(R"({"n":{"$in":[[1,9]]}})", R"({"n":[1,9]})"));
  EXPECT_TRUE(matches(R"({"n":null})", R"({"n":[1,null]})"));
}

TEST(Filter, ComparesMapsAndNumbersByValue) {
  EXPECT_TRUE(matches(R"({"m":{"x":1}})", R"({"m":{"x":1.0}})"));
  EXPECT_FALSE(matches(R"({"m":{"x":1}})", R"({"m":{"x":1,"y":2}})"));
  EXPECT_TRUE(matches(R"({"m":{}})", R"({"m":{}})"));
  EXPECT_FALSE(matches(R"({"m":{}})", R"({"m":{"x":1}})"));
  EXPECT_TRUE(matches(R"({"n":0})", R"({"n":{"$numberDouble":"-0.0"}})"));
}

TEST(Filter, RefusesWhatItDoesNotKnow) {
  expect_refused("1", "map");
  expect_refused(R"({"$or":[]})", "'$or'");
  expect_refused(R"({"a":{"$regex":"x"}})", "'$regex'");
  expect_refused(R"({"a":{"$gt":1,"b":2}})", "mixes");
  expect_refused(R"({"a":{"$in":1}})", "not a list");
  expect_refused(R"({"a":{"$nin":{}}})", "not a list");
  expect_refused(R"({"a":{"b":{"$gt":1}}})", "within a value");
  expect_refused(R"({"a":{"$eq":{"$gt":1}}})", "within a value");
  expect_refused(R"({"a":[{"$gt":1}]})", "within a value");
  expect_refused(R"({"a..b":1})", "empty part");
  expect_refused(R"({"":1})", "empty part");
  expect_refused(R"({"a.":1})", "empty part");
}

TEST(CompareValues, IsExactBetweenIntegersAndFloats) {
  EXPECT_EQ(compare("1", "1.0"), 0);
  EXPECT_EQ(compare("0", R"({"$numberDouble":"-0.0"})"), 0);
  EXPECT_EQ(compare("9007199254740993", "9007199254740992.0"), 1);
  EXPECT_EQ(compare("9007199254740992", "9007199254740992.0"), 0);
  EXPECT_EQ(compare("-9007199254740993", "-9007199254740992.0"), -1);
  EXPECT_EQ(compare("9223372036854775807", "9223372036854775808.0"), -1);
  EXPECT_EQ(compare("9223372036854775808", "9223372036854775808.0"), 0);
  EXPECT_EQ(compare("18446744073709551615", "18446744073709551616.0"), -1);
  EXPECT_EQ(compare("18446744073709551615", "18446744073709549568.0"), 1);
  EXPECT_EQ(compare("-9223372036854775808", "-9223372036854775808.0"), 0);
  EXPECT_EQ(compare("-9223372036854775808", "-9.3e18"), 1);
  EXPECT_EQ(compare("18446744073709551615", "-1"), 1);
  EXPECT_EQ(compare("18446744073709551615", "18446744073709551614"), 1);
  EXPECT_EQ(compare("18446744073709551615", "9223372036854775807"), 1);
  EXPECT_EQ(compare("5", "5.5"), -1);
  EXPECT_EQ(compare("-5", "-5.5"), 1);
  EXPECT_EQ(compare("0", "-0.5"), 1);
  EXPECT_EQ(compare("-1", "-0.5"), -1);
  EXPECT_EQ(compare("1", R"({"$numberDouble":"Infinity"})"), -1);
  EXPECT_EQ(compare("-1", R"({"$numberDouble":"-Infinity"})"), 1);
}

TEST(CompareValues, PutsNanBelowAllNumbersAndEqualToItself) {
  const char* const nan = R"({"$numberDouble":"NaN"})";
  EXPECT_EQ(compare(nan, nan), 0);
  EXPECT_EQ(compare(nan, R"({"$numberDouble":"-Infinity"})"), -1);
  EXPECT_EQ(compare(nan, "-9223372036854775808"), -1);
  EXPECT_EQ(compare(nan, "18446744073709551615"), -1);
  EXPECT_EQ(compare(nan, "null"), 1);
}

TEST(CompareValues, OrdersTheClassesAsMongoDbDoes) {
  const std::vector<std::string> ascending = {
      "null", R"({"$numberDouble":"NaN"})", "-1", "0.5", "18446744073709551615", R"("")", R"("Z")", R"("a")", R"("é")",
      "{}", R"({"a":1})", R"({"a":1,"b":0})", R"({"b":1})", R"({"a":""})", "[]", "[1]", "[1,0]", "[2]",
      R"({"$binary":""})", R"({"$binary":"AA=="})", "false", "true", R"({"$date":"1969-01-01T00:00:00Z"})",
      R"({"$date":"2026-01-01T00:00:00Z"})"};
  for (std::size_t i = 0; i < ascending.size(); ++i) {
    for (std::size_t j = 0; j < ascending.size(); ++j) {
      EXPECT_EQ(compare(ascending[i], ascending[j]), i < j ? -1 : i > j ? 1 : 0) << ascending[i] << " and " << ascending[j];
    }
  }
  EXPECT_EQ(compare_values("", "\xc0"), 0);
  EXPECT_EQ(compare_values("", std::string_view("\x00", 1)), -1);
}

TEST(CompareValues, IsATotalOrder) {
  testing::RandomValues random(11);
  std::vector<std::string> values(400);
  for (std::string& value : values) random.value(value, 2);
  std::sort(values.begin(), values.end(), [](const auto& a, const auto& b) { return compare_values(a, b) < 0; });
  for (std::size_t i = 0; i < values.size(); ++i) {
    for (std::size_t j = i; j < values.size(); ++j) {
      ASSERT_LE(compare_values(values[i], values[j]), 0);
      ASSERT_EQ(compare_values(values[i], values[j]), -compare_values(values[j], values[i]));
      if (values[i] == values[j]) {
        ASSERT_EQ(compare_values(values[i], values[j]), 0);
      }
    }
  }
}

TEST(CompareDocuments, GoesThroughTheSortKeysInOrder) {
  const std::string a = json::to_msgpack(R"({"n":1,"m":{"x":5}})");
  const std::string b = json::to_msgpack(R"({"n":1,"m":{"x":7}})");
  const std::string c = json::to_msgpack(R"({"m":{"x":9}})");
  EXPECT_LT(compare_documents(a, b, {{"n", false}, {"m.x", false}}), 0);
  EXPECT_GT(compare_documents(a, b, {{"n", false}, {"m.x", true}}), 0);
  EXPECT_EQ(compare_documents(a, b, {{"n", true}}), 0);
  EXPECT_LT(compare_documents(c, a, {{"n", false}}), 0);
  EXPECT_GT(compare_documents(c, a, {{"n", true}}), 0);
  EXPECT_EQ(compare_documents(a, c, {}), 0);
}

TEST(ValueAt, FollowsMapsOnly) {
  const std::string document = json::to_msgpack(R"({"a":{"b":{"c":7},"l":[1]}})");
  EXPECT_EQ(value_at(document, {"a", "b", "c"}), "\x07");
  EXPECT_EQ(value_at(document, {}), document);
  EXPECT_TRUE(value_at(document, {"a", "x", "c"}).empty());
  EXPECT_TRUE(value_at(document, {"a", "l", "0"}).empty());
}

}  // namespace
}  // namespace syncline
