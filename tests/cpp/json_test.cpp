#include "base/json.h"

#include <gtest/gtest.h>

#include <charconv>
#include <cmath>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "random_value.h"

namespace syncline::json {
namespace {

using namespace std::string_literals;

std::string to_json(std::string_view value) {
  std::string out;
  from_msgpack(value, out);
  return out;
}

std::string integer(std::int64_t value) {
  std::string out;
  mp::Writer(out).integer(value);
  return out;
}

std::string natural(std::uint64_t value) {
  std::string out;
  mp::Writer(out).natural(value);
  return out;
}

std::string real(double value) {
  std::string out;
  mp::Writer(out).real(value);
  return out;
}

std::string str(std::string_view value) {
  std::string out;
  mp::Writer(out).str(value);
  return out;
}

std::string bin(std::string_view value) {
  std::string out;
  mp::Writer(out).bin(value);
  return out;
}

std::string instant(std::int64_t value) {
  std::string out;
  mp::Writer(out).instant(value);
  return out;
}

std::int64_t detail(const Error& error, std::string_view name) {
  for (const auto& [key, value] : error.details()) {
    if (key == name) return std::get<std::int64_t>(value);
  }
  return -1;
}

void expect_refused(std::string_view text, std::string_view why = "", std::int64_t offset = -1, const mp::Border& border = {}) {
  try {
    static_cast<void>(to_msgpack(text, border));
    ADD_FAILURE() << "accepted: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), border.code) << error.what();
    EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << text << ": " << error.what();
    EXPECT_GE(detail(error, "offset"), 0) << error.what();
    if (offset >= 0) {
      EXPECT_EQ(detail(error, "offset"), offset) << text << ": " << error.what();
    }
  }
}

TEST(FromJson, KeepsIntegersExactUpTo64Bits) {
  EXPECT_EQ(to_msgpack("0"), "\x00"s);
  EXPECT_EQ(to_msgpack("-0"), "\x00"s);
  EXPECT_EQ(to_msgpack(" -1 "), "\xff"s);
  EXPECT_EQ(to_msgpack("9007199254740993"), integer(9007199254740993));
  EXPECT_EQ(to_msgpack("18446744073709551615"), natural(~0ull));
  EXPECT_EQ(to_msgpack("-9223372036854775808"), integer(std::numeric_limits<std::int64_t>::min()));
  expect_refused("18446744073709551616", "64 bits");
  expect_refused("-9223372036854775809", "64 bits");
  expect_refused("123456789012345678901234567890", "64 bits");
}

TEST(FromJson, TellsFloatsFromIntegersByTheirSpelling) {
  EXPECT_EQ(to_msgpack("1.0"), real(1.0));
  EXPECT_EQ(to_msgpack("1e0"), real(1.0));
  EXPECT_EQ(to_msgpack("1E2"), real(100.0));
  EXPECT_EQ(to_msgpack("-0.0"), real(-0.0));
  EXPECT_EQ(to_msgpack("0.1"), real(0.1));
  EXPECT_EQ(to_msgpack("1.7976931348623157e308"), real(std::numeric_limits<double>::max()));
  EXPECT_EQ(to_msgpack("5e-324"), real(5e-324));
  EXPECT_EQ(to_msgpack("9007199254740993.0"), real(9007199254740992.0));
  EXPECT_EQ(to_msgpack("100000000000000000000.0"), real(1e20));
}

TEST(FromJson, RefusesFloatsThatAreTooLargeAndRoundsTinyOnesToZero) {
  for (const char* const large : {"1e309", "-1e309", "1e999", "1e99999999999999999999", "123456789.5e301"}) {
    expect_refused(large);
  }
  EXPECT_EQ(to_msgpack("1e-400"), real(0.0));
  EXPECT_EQ(to_msgpack("-1e-400"), real(-0.0));
  EXPECT_EQ(to_msgpack("1e-99999999999999999999"), real(0.0));
  EXPECT_EQ(to_msgpack("0.0001e-9223372036854775808"), real(0.0));
  EXPECT_EQ(to_msgpack("0." + std::string(400, '0') + "1"), real(0.0));
}

TEST(FromJson, ReadsStringsWithEveryEscape) {
  EXPECT_EQ(to_msgpack(R"("a\"\\\/\b\f\n\r\té😀\u0000z")"), str("a\"\\/\b\f\n\r\té😀\0z"s));
  EXPECT_EQ(to_msgpack("\"漢字\""), str("漢字"));
  EXPECT_EQ(to_msgpack(R"({"\u0000":"\u0000"})"), "\x81\xa1\0\xa1\0"s);
}

TEST(FromJson, RefusesTextThatIsNotUnicode) {
  expect_refused(R"("\ud83d")");
  expect_refused(R"("\ud83dx")");
  expect_refused(R"("\ud83dA")");
  expect_refused(R"("\ude00")");
  expect_refused(R"({"\ude00":1})");
  expect_refused("\"\xff\"", "UTF-8", 1);
  expect_refused("\"\xed\xa0\x80\"", "UTF-8", 1);
  expect_refused("\xef\xbb\xbf{}", "not JSON", 0);
  expect_refused("\"a\0b\""s, "NUL", 2);
  expect_refused("{}\0"s, "NUL", 2);
}

TEST(FromJson, RefusesWhatIsNoJson) {
  for (const char* const text : {"", " ", "{", "[1,]", "{\"a\":1,}", "{a:1}", "'a'", "01", "1.", ".5", "+1", "NaN", "Infinity",
                                 "nul", "[1] 2", "{}{}", "// x\n1", "\"\n\"", "\"\\x\"", "[1 2]", "{\"a\" 1}", "1e", "-"}) {
    expect_refused(text, "not JSON");
  }
}

TEST(FromJson, SortsKeysAndRefusesDuplicates) {
  EXPECT_EQ(to_msgpack(R"({"z":1,"a":{"y":2,"x":[{"q":null,"p":true}]},"zz":3})"),
            "\x83\xa1\x61\x82\xa1x\x91\x82\xa1p\xc3\xa1q\xc0\xa1y\x02\xa1z\x01\xa2zz\x03"s);
  EXPECT_EQ(to_msgpack("{}"), "\x80");
  EXPECT_EQ(to_msgpack("[{},[]]"), "\x92\x80\x90");
  expect_refused(R"({"a":1,"a":2})", "'a' appears twice");
  expect_refused(R"({"b":1,"a":1,"b":2})", "'b' appears twice");
  expect_refused(R"({"a":1,"\u0061":2})", "'a' appears twice");
}

TEST(FromJson, WidensTheHeadersOfLargeMapsAndLists) {
  for (const int size : {15, 16, 17, 65535, 65536}) {
    std::string list = "[";
    std::string map = "{";
    for (int i = 0; i < size; ++i) {
      list += std::string(i > 0 ? "," : "") + "{\"b\":1,\"a\":[]}";
      map += std::string(i > 0 ? "," : "") + "\"k" + std::to_string(size - i) + "\":{\"x\":1}";
    }
    const mp::Border border{.max_bytes = 1u << 24};
    const std::string encoded_list = to_msgpack(list + "]", border);
    const std::string encoded_map = to_msgpack(map + "}", border);
    EXPECT_EQ(mp::canonicalise(encoded_list, border), encoded_list);
    EXPECT_EQ(mp::canonicalise(encoded_map, border), encoded_map);
    EXPECT_EQ(mp::Reader(encoded_list).array(), static_cast<std::size_t>(size));
    EXPECT_EQ(mp::Reader(encoded_map).map(), static_cast<std::size_t>(size));
  }
}

TEST(FromJson, ReadsTheDollarForms) {
  EXPECT_EQ(to_msgpack(R"({"$binary":"AAH/"})"), bin("\x00\x01\xff"s));
  EXPECT_EQ(to_msgpack(R"({"$binary":""})"), bin(""));
  EXPECT_EQ(to_msgpack(R"({"$binary":"+/8="})"), bin("\xfb\xff"s));
  EXPECT_EQ(to_msgpack(R"({"$binary":"AA=="})"), bin("\0"s));
  EXPECT_EQ(to_msgpack(R"({"$date":"1970-01-01T00:00:00.000001Z"})"), instant(1));
  EXPECT_EQ(to_msgpack(R"({"$numberLong":"5"})"), integer(5));
  EXPECT_EQ(to_msgpack(R"({"$numberLong":"-9223372036854775808"})"), integer(std::numeric_limits<std::int64_t>::min()));
  EXPECT_EQ(to_msgpack(R"({"$numberLong":"18446744073709551615"})"), natural(~0ull));
  EXPECT_EQ(to_msgpack(R"({"$numberDouble":"NaN"})"), real(std::numeric_limits<double>::quiet_NaN()));
  EXPECT_EQ(to_msgpack(R"({"$numberDouble":"-Infinity"})"), real(-std::numeric_limits<double>::infinity()));
  EXPECT_EQ(to_msgpack(R"({"$numberDouble":"Infinity"})"), real(std::numeric_limits<double>::infinity()));
  EXPECT_EQ(to_msgpack(R"({"$numberDouble":"-0.0"})"), real(-0.0));
  EXPECT_EQ(to_msgpack(R"([{"$numberLong":"1"},{"a":{"$numberLong":"2"},"b":{}}])"), "\x92\x01\x82\xa1\x61\x02\xa1\x62\x80"s);
}

TEST(FromJson, RefusesMalformedDollarForms) {
  for (const char* const text :
       {R"({"$binary":"A"})", R"({"$binary":"AA"})", R"({"$binary":"AB=="})", R"({"$binary":"AAB="})", R"({"$binary":"AA=A"})",
        R"({"$binary":"===="})", R"({"$binary":"A==="})", R"({"$binary":"AA A"})", R"({"$binary":"-_8="})", R"({"$binary":1})",
        R"({"$binary":{"base64":"AA=="}})", R"({"$date":1})", R"({"$date":{"$numberLong":"1"}})", R"({"$date":null})",
        R"({"$date":[]})", R"({"$numberLong":5})", R"({"$numberLong":"05"})", R"({"$numberLong":"+5"})",
        R"({"$numberLong":"-0"})", R"({"$numberLong":" 5"})", R"({"$numberLong":"5.0"})", R"({"$numberLong":""})",
        R"({"$numberLong":"-"})", R"({"$numberLong":"5x"})", R"({"$numberLong":"18446744073709551616"})",
        R"({"$numberDouble":"1.5"})", R"({"$numberDouble":"nan"})", R"({"$numberDouble":"0.0"})", R"({"$numberDouble":1.5})",
        R"({"$numberDecimal":"1"})", R"({"$oid":"x"})", R"({"$":1})", R"({"$date":"2026-01-01T00:00:00Z","a":1})",
        R"({"a":1,"$date":"2026-01-01T00:00:00Z"})", R"({"$numberLong":"1","$numberLong":"1"})"}) {
    expect_refused(text);
    expect_refused("[" + std::string(text) + "]");
  }
}

TEST(FromJson, LetsOperatorsThroughWhereTheBorderDoes) {
  const mp::Border filter{.code = Code::invalid_request, .allow_dollar_keys = true};
  EXPECT_EQ(to_msgpack(R"({"n":{"$lt":9,"$gte":{"$numberLong":"1"}}})", filter), "\x81\xa1n\x82\xa4$gte\x01\xa3$lt\x09"s);
  expect_refused(R"({"n":{"$gt":1,"$date":"2026-01-01T00:00:00Z"}})", "beside", -1, filter);
}

TEST(FromJson, BoundsNestingAndSize) {
  const auto nested = [](std::size_t depth) { return std::string(depth, '[') + "1" + std::string(depth, ']'); };
  EXPECT_EQ(to_msgpack(nested(64)).size(), 65u);
  expect_refused(nested(65), "nested more than 64");
  expect_refused(std::string(1'000'000, '['), "nested more than 64");
  std::string maps = "1";
  for (int i = 0; i < 65; ++i) maps = "{\"a\":" + maps + "}";
  expect_refused(maps, "nested more than 64");
  // The '$' form of a value is no level of its own.
  EXPECT_NO_THROW(to_msgpack(std::string(64, '[') + R"({"$numberLong":"1"})" + std::string(64, ']')));
  try {
    static_cast<void>(to_msgpack("\"" + std::string(100, 'x') + "\"", mp::Border{.max_bytes = 50}));
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::too_large);
    EXPECT_EQ(detail(error, "limit"), 50);
  }
}

TEST(ToJson, WritesFloatsSoThatTheyReadBackAsFloats) {
  EXPECT_EQ(to_json(real(0.0)), "0.0");
  EXPECT_EQ(to_json(real(1.0)), "1.0");
  EXPECT_EQ(to_json(real(-2.5)), "-2.5");
  EXPECT_EQ(to_json(real(0.1)), "0.1");
  EXPECT_EQ(to_json(real(100000.0)), "100000.0");
  EXPECT_EQ(to_json(real(1e15)), "1000000000000000.0");
  EXPECT_EQ(to_json(real(1e16)), "1e+16");
  EXPECT_EQ(to_json(real(1.5e300)), "1.5e+300");
  EXPECT_EQ(to_json(real(5e-324)), "5e-324");
  testing::RandomValues random(7);
  for (int i = 0; i < 20000; ++i) {
    const std::string value = real(random.real());
    const std::string text = to_json(value);
    ASSERT_EQ(to_msgpack(text), value) << text;
    ASSERT_NE(text.find_first_of(".e{"), std::string::npos) << text;
  }
}

TEST(ToJson, WritesWhatJsonCannotSayInDollarForms) {
  EXPECT_EQ(to_json(real(std::numeric_limits<double>::quiet_NaN())), R"({"$numberDouble":"NaN"})");
  EXPECT_EQ(to_json(real(std::numeric_limits<double>::infinity())), R"({"$numberDouble":"Infinity"})");
  EXPECT_EQ(to_json(real(-std::numeric_limits<double>::infinity())), R"({"$numberDouble":"-Infinity"})");
  EXPECT_EQ(to_json(real(-0.0)), R"({"$numberDouble":"-0.0"})");
  EXPECT_EQ(to_json(integer(1ll << 53)), "9007199254740992");
  EXPECT_EQ(to_json(integer((1ll << 53) + 1)), R"({"$numberLong":"9007199254740993"})");
  EXPECT_EQ(to_json(integer(-(1ll << 53))), "-9007199254740992");
  EXPECT_EQ(to_json(integer(-(1ll << 53) - 1)), R"({"$numberLong":"-9007199254740993"})");
  EXPECT_EQ(to_json(natural(~0ull)), R"({"$numberLong":"18446744073709551615"})");
  EXPECT_EQ(to_json(bin("\x00\x01\xff"s)), R"({"$binary":"AAH/"})");
  EXPECT_EQ(to_json(bin("\xfb\xff"s)), R"({"$binary":"+/8="})");
  EXPECT_EQ(to_json(bin("f")), R"({"$binary":"Zg=="})");
  EXPECT_EQ(to_json(instant(1)), R"({"$date":"1970-01-01T00:00:00.000001Z"})");
}

TEST(ToJson, EscapesWhatMustBeEscapedAtEveryPosition) {
  for (int c = 0; c < 0x80; ++c) {
    for (std::size_t before = 0; before < 18; ++before) {
      const std::string text = std::string(before, 'x') + static_cast<char>(c) + "é tail of the text";
      const std::string json = to_json(str(text));
      ASSERT_EQ(to_msgpack(json), str(text)) << json;
      for (const char letter : json) ASSERT_GE(static_cast<unsigned char>(letter), 0x20) << c;
    }
  }
  EXPECT_EQ(to_json(str("\"\\\n\x01/\x7f")), "\"\\\"\\\\\\n\\u0001/\x7f\"");
}

TEST(ToJson, ReturnsEveryValueItWasGiven) {
  testing::RandomValues random(8);
  for (int i = 0; i < 5000; ++i) {
    const std::string document = random.document();
    bool reserved = false;
    std::string canonical;
    try {
      canonical = mp::canonicalise(document);
    } catch (const Error&) {
      reserved = true;
    }
    ASSERT_FALSE(reserved);
    const std::string json = to_json(document);
    ASSERT_EQ(to_msgpack(json), document) << json;
  }
}

TEST(ToJson, EscapesTextOfEveryLengthAndWritesNothingBehindIt) {
  for (std::size_t size = 0; size < 50; ++size) {
    for (std::size_t at = 0; at <= size; ++at) {  // `size`: none
      std::string text(size, 'x');
      if (at < size) text[at] = at % 2 == 0 ? '"' : '\x01';
      const std::string escaped = at % 2 == 0 ? "\\\"" : "\\u0001";
      const std::string wanted = "\"" + std::string(at, 'x') + (at < size ? escaped + std::string(size - at - 1, 'x') : "") + "\"";
      std::string out(6 * size + 8, '#');
      const char* const end = put_string(text, out.data());
      ASSERT_EQ(std::string_view(out.data(), end), wanted);
      ASSERT_EQ(out.find_first_not_of('#', wanted.size()), std::string::npos) << size << " " << at;
    }
  }
}

TEST(ToJson, IsTheSameWhereThereIsRoomForTheWholeAndWhereThereIsNot) {
  testing::RandomValues random(12);
  const auto check = [](const std::string& value) {
    std::string whole(most_of(value.size()), '#');
    const std::string_view written(whole.data(), put_value(value, whole.data()));
    ASSERT_LE(written.size() + 1, most_of(value.size()) - 63);  // and a comma, without what is added for tiny values
    Bytes pieces;  // of no size yet
    from_msgpack(value, pieces);
    ASSERT_EQ(written, pieces.view());
  };
  for (int i = 0; i < 5000; ++i) check(random.document());
  // The widest of each kind.
  for (const std::string& value : {bin(""), bin("x"), str(""), str("\x01"), str(std::string(9, '\x1f')), instant(0), instant(1), real(-0.0),
                                   real(std::numeric_limits<double>::infinity() * -1), real(1.2345678901234567e-4), real(-1.7976931348623157e308),
                                   natural(std::numeric_limits<std::uint64_t>::max()), integer(std::numeric_limits<std::int64_t>::min()),
                                   integer(-32), "\xc0"s, "\xc2"s, "\x80"s, "\x90"s}) {
    check(value);
  }
}

TEST(ToJson, MakesRoomForWhatItAppendsHoweverLittleIsLeft) {
  const std::string document = "\x82\xa1\x61\x01\xa1\x62\xa1\x01"s;
  const std::vector<std::pair<std::function<void(Bytes&)>, std::string>> writers{
      {[](Bytes& out) { append_integer(std::numeric_limits<std::int64_t>::min(), out); }, "-9223372036854775808"},
      {[](Bytes& out) { append_string("a\x01\x02", out); }, R"("a\u0001\u0002")"},
      {[&](Bytes& out) { from_msgpack(document, out); }, R"({"a":1,"b":"\u0001"})"},
      {[](Bytes& out) { from_msgpack(bin("abc"), out); }, R"({"$binary":"YWJj"})"},
      {[](Bytes& out) { from_msgpack(real(-1.7976931348623157e308), out); }, "-1.7976931348623157e+308"}};
  for (const auto& [write, wanted] : writers) {
    for (std::size_t left = 0; left < 100; ++left) {
      Bytes out;
      do {
        out.push_back('#');
      } while (out.room() != left);
      const std::size_t before = out.size();
      write(out);
      ASSERT_LE(out.size(), out.capacity()) << wanted << " into " << left;
      ASSERT_EQ(out.view().substr(before), wanted) << left;
    }
  }
}

TEST(ToJson, AppendsToWhatIsThere) {
  Bytes out;
  out += "[";
  from_msgpack("\x81\xa1\x61\x01"s, out);
  out.push_back(',');
  from_msgpack("\xc0"s, out);
  append_string("\"", out);
  EXPECT_EQ(out.view(), R"([{"a":1},null"\"")");
  std::string text = "[";
  from_msgpack("\xc0"s, text);
  EXPECT_EQ(text, "[null");
}

// Short numbers are written without std::to_chars, which is what they must look like.
TEST(ToJson, WritesEveryFloatAsTheShortestTextThatReadsBack) {
  testing::RandomValues random(11);
  const auto check = [](double value) {
    char digits[64];
    const auto end = std::to_chars(digits, digits + sizeof digits, value, std::chars_format::fixed);
    std::string wanted(digits, end.ptr);
    if (wanted.find('.') == std::string::npos) wanted += ".0";
    std::string packed;
    mp::Writer(packed).real(value);
    EXPECT_EQ(to_json(packed), wanted);
  };
  for (int i = 0; i < 20000; ++i) {
    const double whole = static_cast<double>(random.below(std::uint64_t{1} << random.below(50)));
    for (const double scale : {1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0, 3.0}) {
      const double value = whole / scale;
      if (value < 1e-4) continue;
      check(value);
      check(-value);
      check(std::nextafter(value, 1e15));
    }
  }
  for (const double value : {0.0, 0.5, 1e-4, 0.0001, 0.00015, 999999999999999.0, 999999999999999.5, 1e15, 123456789012345.67, 9007199254740993.0}) {
    check(value);
  }
}

TEST(FromJson, RefusesOrReadsEveryTruncationAndEveryChangedByte) {
  testing::RandomValues random(9);
  for (int i = 0; i < 60; ++i) {
    const std::string text = to_json(random.document());
    for (std::size_t at = 0; at < text.size(); ++at) {
      EXPECT_THROW(to_msgpack(text.substr(0, at)), Error);
      std::string damaged = text;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 + static_cast<int>(random.below(255))));
      std::string out;
      try {
        out = to_msgpack(damaged);
      } catch (const Error&) {
        continue;
      }
      ASSERT_EQ(mp::canonicalise(out), out) << damaged;
      ASSERT_EQ(to_msgpack(to_json(out)), out) << damaged;
    }
  }
}

std::string format_instant(std::int64_t microseconds) {
  std::string text(kInstant, '\0');
  EXPECT_EQ(put_instant(microseconds, text.data()), text.data() + text.size());
  return text;
}

TEST(Instant, IsWrittenInUtcWithMicroseconds) {
  EXPECT_EQ(format_instant(0), "1970-01-01T00:00:00.000000Z");
  EXPECT_EQ(format_instant(-1), "1969-12-31T23:59:59.999999Z");
  EXPECT_EQ(format_instant(mp::kMinInstant), "0001-01-01T00:00:00.000000Z");
  EXPECT_EQ(format_instant(mp::kMaxInstant), "9999-12-31T23:59:59.999999Z");
  EXPECT_EQ(format_instant(951'782'400'000'000), "2000-02-29T00:00:00.000000Z");
  testing::RandomValues random(10);
  for (int i = 0; i < 20000; ++i) {
    const std::int64_t t = random.instant();
    ASSERT_EQ(parse_instant(format_instant(t)), t);
  }
}

TEST(Instant, IsReadWithAnyOffset) {
  EXPECT_EQ(parse_instant("1970-01-01T00:00:00Z"), 0);
  EXPECT_EQ(parse_instant("1970-01-01t00:00:00z"), 0);
  EXPECT_EQ(parse_instant("1970-01-01T01:00:00+01:00"), 0);
  EXPECT_EQ(parse_instant("1969-12-31T18:30:00-05:30"), 0);
  EXPECT_EQ(parse_instant("1970-01-01T00:00:00-00:00"), 0);
  EXPECT_EQ(parse_instant("1970-01-01T00:00:00.5Z"), 500'000);
  EXPECT_EQ(parse_instant("1970-01-01T00:00:00.000001000Z"), 1);
  EXPECT_EQ(parse_instant("2024-02-29T00:00:00Z"), 1'709'164'800'000'000);
}

TEST(Instant, RefusesWhatDoesNotExist) {
  for (const char* const text :
       {"", "2026", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02 03:04:05Z", "2026-01-02T03:04Z", "2026-1-2T03:04:05Z",
        "2026-13-01T00:00:00Z", "2026-00-01T00:00:00Z", "2026-02-29T00:00:00Z", "1900-02-29T00:00:00Z", "2026-04-31T00:00:00Z",
        "2026-01-00T00:00:00Z", "2026-01-01T24:00:00Z", "2026-01-01T00:60:00Z", "2026-01-01T00:00:60Z", "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00.0000001Z",
        "2026-01-01T00:00:00+0100", "2026-01-01T00:00:00+24:00", "2026-01-01T00:00:00+01:60", "2026-01-01T00:00:00Zx",
        "2026-01-01T00:00:00ZZ", "-026-01-01T00:00:00Z", "2026-01-01T00:00:00+01:0"}) {
    try {
      static_cast<void>(parse_instant(text, mp::Border{.code = Code::invalid_request}));
      ADD_FAILURE() << "accepted: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::invalid_request);
    }
  }
}

}  // namespace
}  // namespace syncline::json
