#include "engine/wire.h"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <string_view>

#include "base/ids.h"

namespace syncline {
namespace {

std::string or_none(const std::optional<std::string>& value) { return value ? "'" + *value + "'" : "none"; }

std::string read(const std::string& body) {
  try {
    const PullRequest request = wire::parse_pull(body, Format::json, Limits{});
    std::string entities = "none";
    if (request.entities) {
      entities.clear();
      for (const std::string& entity : *request.entities) entities += "'" + entity + "'";
    }
    return "'" + request.scope + "' " + std::to_string(request.cursor) + " " + or_none(request.epoch) + " " + or_none(request.page) + " " +
           (request.limit ? std::to_string(*request.limit) : "none") + " " + or_none(request.client_id) + " " + entities;
  } catch (const Error& error) {
    return std::to_string(static_cast<int>(error.code())) + ": " + error.what();
  }
}

// An offset in a refusal is one more then.
std::string read_after_a_line_break(const std::string& body) { return read("\n" + body); }

std::string without_offset(std::string text) {
  const std::size_t at = text.find(" (at byte ");
  return at == std::string::npos ? text : text.substr(0, at);
}

TEST(ParsePull, ReadsOrRefusesABodyWithWhiteSpaceInFrontAsItDoesWithout) {
  EXPECT_EQ(read(R"({"scope":"list:1","cursor":0})"), "'list:1' 0 none none none none none");
  EXPECT_EQ(read(R"({"client_id": "c", "scope": "s", "limit": 20, "cursor": 12, "epoch": "e", "page": "1.2.e"})"), "'s' 12 'e' '1.2.e' 20 'c' none");
  for (const char* body : {
           R"({"scope":"s","cursor":999999999999999})", R"({"scope":"s","cursor":1000000000000000})", R"({"scope":"s","cursor":9223372036854775807})",
           R"({"scope":"s","cursor":9223372036854775808})", R"({"scope":"s","cursor":-1})", R"({"scope":"s","cursor":-0})",
           R"({"scope":"s","cursor":01})", R"({"scope":"s","cursor":1.0})", R"({"scope":"s","cursor":1e2})", R"({"scope":"s","cursor":"1"})",
           R"({"scope":"s","cursor":})", R"({"scope":"s","cursor":+1})", R"({"scope":"s","cursor":null})", R"({"scope":"s","cursor":0,})",
           R"({"scope":"s","cursor":0}})", R"({"scope":"s","cursor":0} )", R"({"scope":"s","cursor":0}x)", R"({"scope":"s","cursor":0)",
           R"({"scope":"s" "cursor":0})", R"({"scope":"s","cursor":0,"scope":"t"})", R"({"scope":"s","cursor":0,"cursor":1})",
           R"({"scope":"s","scope":"s"})", R"({"scope":"s\u0041","cursor":0})", R"({"scope":"\"","cursor":0})", R"({"scope":"ä","cursor":0})",
           "{\"scope\":\"\xff\",\"cursor\":0}", "{\"scope\":\"a\tb\",\"cursor\":0}", "{\"scope\":\"\x7f\",\"cursor\":0}",
           R"({"scope":"","cursor":0})", R"({"scope":null,"cursor":0})", R"({"scope":7,"cursor":0})", R"({"cursor":0})", R"({"scope":"s"})", R"({})",
           R"([])", R"(7)", "", " ", R"({"scope":"s","cursor":0,"entities":["a","b"]})", R"({"scope":"s","cursor":0,"entities":[]})",
           R"({"scope":"s","cursor":0,"unknown":{"a":[1]}})", R"({"scope":"s","cursor":0,"$date":"x"})", R"({"scope":{"$date":"x"},"cursor":0})",
           R"({"scope":"s","cursor":{"$numberLong":"5"}})", R"({"scope":"s","cursor":0,"epoch":null,"page":null,"limit":null,"client_id":null})",
           R"({"scope":"s","cursor":0,"epoch":"","page":"","client_id":""})", R"({"scope":"s","cursor":0,"limit":0})", R"(  { "scope" : "s" , "cursor" : 3 } )",
           R"({'scope':'s','cursor':0})", R"({"scope":"s","cursor": 0 ,"limit":5 })"}) {
    EXPECT_EQ(without_offset(read(body)), without_offset(read_after_a_line_break(body))) << body;
  }
}

TEST(ParsePull, ReadsOrRefusesADamagedBodyWithWhiteSpaceInFrontAsItDoesWithout) {
  const std::string body = R"({"scope":"list:1","cursor":120,"epoch":"0af3","page":"7.0.0af3","limit":50,"client_id":"c-1"})";
  Random random(3);
  static constexpr std::string_view kBytes = "\"\\{}[]:, 0159-+.eE$ax\x01\x7f\xc3";
  for (int round = 0; round < 20000; ++round) {
    std::string damaged = body;
    for (std::uint64_t left = 1 + random.next() % 2; left > 0; --left) {
      const auto at = static_cast<std::size_t>(random.next() % damaged.size());
      const char byte = kBytes[static_cast<std::size_t>(random.next() % kBytes.size())];
      switch (random.next() % 3) {
        case 0: damaged[at] = byte; break;
        case 1: damaged.insert(at, 1, byte); break;
        default: damaged.erase(at, 1); break;
      }
    }
    ASSERT_EQ(without_offset(read(damaged)), without_offset(read_after_a_line_break(damaged))) << damaged;
  }
}

TEST(ParsePull, RefusesABodyAboveTheLimit) {
  Limits limits;
  limits.max_body_bytes = 1024;
  const std::string body = R"({"scope":")" + std::string(1024, 's') + R"(","cursor":0})";
  EXPECT_THROW(wire::parse_pull(body, Format::json, limits), Error);
}

}  // namespace
}  // namespace syncline
