#include "base/msgpack.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "random_value.h"

namespace syncline::mp {
namespace {

using namespace std::string_literals;

std::string written(const std::function<void(Writer&)>& write) {
  std::string out;
  Writer writer(out);
  write(writer);
  return out;
}

std::int64_t detail(const Error& error, std::string_view name) {
  for (const auto& [key, value] : error.details()) {
    if (key == name) return std::get<std::int64_t>(value);
  }
  return -1;
}

void expect_refused(std::string_view bytes, std::string_view why, std::int64_t offset = -1, const Border& border = {}) {
  try {
    const std::string out = canonicalise(bytes, border);
    FAIL() << "accepted, should be refused: " << why;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), border.code) << error.what();
    EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
    if (offset >= 0) {
      EXPECT_EQ(detail(error, "offset"), offset) << error.what();
    }
  }
}

TEST(Writer, TakesTheShortestFormOfAnInteger) {
  const auto natural = [](std::uint64_t n) { return written([n](Writer& w) { w.natural(n); }); };
  const auto integer = [](std::int64_t n) { return written([n](Writer& w) { w.integer(n); }); };
  EXPECT_EQ(natural(0), "\x00"s);
  EXPECT_EQ(natural(127), "\x7f"s);
  EXPECT_EQ(natural(128), "\xcc\x80"s);
  EXPECT_EQ(natural(255), "\xcc\xff"s);
  EXPECT_EQ(natural(256), "\xcd\x01\x00"s);
  EXPECT_EQ(natural(65536), "\xce\x00\x01\x00\x00"s);
  EXPECT_EQ(natural(1ull << 32), "\xcf\x00\x00\x00\x01\x00\x00\x00\x00"s);
  EXPECT_EQ(natural(~0ull), "\xcf\xff\xff\xff\xff\xff\xff\xff\xff"s);
  EXPECT_EQ(integer(-1), "\xff"s);
  EXPECT_EQ(integer(-32), "\xe0"s);
  EXPECT_EQ(integer(-33), "\xd0\xdf"s);
  EXPECT_EQ(integer(-128), "\xd0\x80"s);
  EXPECT_EQ(integer(-129), "\xd1\xff\x7f"s);
  EXPECT_EQ(integer(-32768), "\xd1\x80\x00"s);
  EXPECT_EQ(integer(-32769), "\xd2\xff\xff\x7f\xff"s);
  EXPECT_EQ(integer(-2147483649), "\xd3\xff\xff\xff\xff\x7f\xff\xff\xff"s);
  EXPECT_EQ(integer(std::numeric_limits<std::int64_t>::min()), "\xd3\x80\x00\x00\x00\x00\x00\x00\x00"s);
  EXPECT_EQ(integer(5), natural(5));
}

TEST(Writer, TakesTheShortestHeaders) {
  for (const std::size_t size : {0u, 31u, 32u, 255u, 256u, 65535u, 65536u}) {
    const std::string text(size, 'x');
    const std::string str = written([&](Writer& w) { w.str(text); });
    const std::string bin = written([&](Writer& w) { w.bin(text); });
    EXPECT_EQ(str.size() - size, size < 32 ? 1u : size < 256 ? 2u : size < 65536 ? 3u : 5u);
    EXPECT_EQ(bin.size() - size, size < 256 ? 2u : size < 65536 ? 3u : 5u);
    EXPECT_EQ(Reader(str).str(), text);
    EXPECT_EQ(Reader(bin).bin(), text);
    const std::string map = written([&](Writer& w) { w.map(size); });
    const std::string array = written([&](Writer& w) { w.array(size); });
    EXPECT_EQ(map.size(), size < 16 ? 1u : size < 65536 ? 3u : 5u);
    EXPECT_EQ(array.size(), map.size());
    EXPECT_EQ(Reader(map).map(), size);
    EXPECT_EQ(Reader(array).array(), size);
  }
}

TEST(Writer, WritesOneNanAndKeepsTheSignOfZero) {
  const std::string nan = "\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"s;
  EXPECT_EQ(written([](Writer& w) { w.real(std::numeric_limits<double>::quiet_NaN()); }), nan);
  EXPECT_EQ(written([](Writer& w) { w.real(-std::numeric_limits<double>::quiet_NaN()); }), nan);
  EXPECT_TRUE(std::signbit(Reader(written([](Writer& w) { w.real(-0.0); })).real()));
}

TEST(Writer, TakesTheShortestTimestamp) {
  const auto size = [](std::int64_t t) { return written([t](Writer& w) { w.instant(t); }).size(); };
  EXPECT_EQ(size(0), 6u);
  EXPECT_EQ(size(0xffffffffLL * 1'000'000), 6u);
  EXPECT_EQ(size(0xffffffffLL * 1'000'000 + 1), 10u);
  EXPECT_EQ(size(0x100000000LL * 1'000'000), 10u);
  EXPECT_EQ(size(0x3ffffffffLL * 1'000'000 + 999'999), 10u);
  EXPECT_EQ(size(0x400000000LL * 1'000'000), 15u);
  EXPECT_EQ(size(-1), 15u);
  for (const std::int64_t t : {kMinInstant, kMaxInstant, std::int64_t{-1}, std::int64_t{0}, std::int64_t{1},
                               std::int64_t{-1'000'000}, std::int64_t{1'790'000'000'123'456}}) {
    EXPECT_EQ(Reader(written([t](Writer& w) { w.instant(t); })).instant(), t);
  }
  EXPECT_THROW(size(kMinInstant - 1), Error);
  EXPECT_THROW(size(kMaxInstant + 1), Error);
}

TEST(Reader, ReadsBackWhatWasWritten) {
  const std::string bytes = written([](Writer& w) {
    w.array(10);
    w.nil();
    w.boolean(true);
    w.boolean(false);
    w.integer(-40000);
    w.natural(~0ull);
    w.natural(1ull << 62);
    w.real(1.5);
    w.str("text");
    w.bin("bytes");
    w.instant(7);
  });
  Reader r(bytes);
  ASSERT_EQ(r.peek(), Kind::array);
  ASSERT_EQ(r.array(), 10u);
  EXPECT_TRUE(r.next_is_nil());
  r.nil();
  EXPECT_TRUE(r.boolean());
  EXPECT_FALSE(r.boolean());
  EXPECT_EQ(r.integer(), -40000);
  EXPECT_EQ(r.peek(), Kind::natural);
  EXPECT_THROW(r.integer(), Error);
  EXPECT_EQ(r.natural(), ~0ull);
  EXPECT_EQ(r.peek(), Kind::integer);
  EXPECT_EQ(r.natural(), 1ull << 62);
  EXPECT_EQ(r.real(), 1.5);
  EXPECT_EQ(r.str(), "text");
  EXPECT_EQ(r.bin(), "bytes");
  EXPECT_EQ(r.instant(), 7);
  EXPECT_TRUE(r.at_end());
  EXPECT_EQ(Reader(bytes).skip(), bytes);
}

TEST(Reader, SaysWhereTheBytesEndOrAreOfAnotherKind) {
  const std::string text = written([](Writer& w) { w.str("hello"); });
  Reader wrong(text);
  EXPECT_THROW(wrong.integer(), Error);
  EXPECT_THROW(wrong.bin(), Error);
  EXPECT_THROW(wrong.instant(), Error);
  EXPECT_EQ(wrong.str(), "hello");
  try {
    wrong.nil();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::corrupt);
    EXPECT_EQ(detail(error, "offset"), 6);
  }
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_THROW(Reader(std::string_view(text).substr(0, size)).str(), Error);
    EXPECT_THROW(Reader(std::string_view(text).substr(0, size)).skip(), Error);
  }
  EXPECT_THROW(Reader("\xdf\xff\xff\xff\xff"s).skip(), Error);
  EXPECT_THROW(Reader("\xc1"s).skip(), Error);
  EXPECT_THROW(Reader("\xff"s).natural(), Error);
}

TEST(Canonicalise, SortsKeysByTheirBytesAtEveryDepth) {
  const std::string in = "\x83\xa1z\x01\xa1\x61\x82\xa1y\x02\xa1x\x92\x01\x82\xa1q\xc0\xa1p\xc0\xa2zz\x03"s;
  EXPECT_EQ(canonicalise(in), "\x83\xa1\x61\x82\xa1x\x92\x01\x82\xa1p\xc0\xa1q\xc0\xa1y\x02\xa1z\x01\xa2zz\x03"s);
  // Bytes, not signed characters: "é" (c3 a9) comes after "z".
  EXPECT_EQ(canonicalise("\x82\xa2\xc3\xa9\x01\xa1z\x02"s), "\x82\xa1z\x02\xa2\xc3\xa9\x01"s);
  EXPECT_EQ(canonicalise("\x82\xa1\x61\x01\xa0\x02"s), "\x82\xa0\x02\xa1\x61\x01"s);
}

TEST(Canonicalise, ShortensEveryLongForm) {
  EXPECT_EQ(canonicalise("\xcf\x00\x00\x00\x00\x00\x00\x00\x05"s), "\x05"s);
  EXPECT_EQ(canonicalise("\xd3\x00\x00\x00\x00\x00\x00\x00\x05"s), "\x05"s);
  EXPECT_EQ(canonicalise("\xd3\xff\xff\xff\xff\xff\xff\xff\xff"s), "\xff"s);
  EXPECT_EQ(canonicalise("\xdb\x00\x00\x00\x01x"s), "\xa1x"s);
  EXPECT_EQ(canonicalise("\xdf\x00\x00\x00\x01\xd9\x01x\xdd\x00\x00\x00\x01\xc0"s), "\x81\xa1x\x91\xc0"s);
  EXPECT_EQ(canonicalise("\xc6\x00\x00\x00\x01\xff"s), "\xc4\x01\xff"s);
  EXPECT_EQ(canonicalise("\xca\x3f\x80\x00\x00"s), "\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00"s);
  EXPECT_EQ(canonicalise("\xcb\xff\xf8\x00\x00\x00\x00\x00\x01"s), "\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00"s);
  EXPECT_EQ(canonicalise("\xc7\x0c\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07"s), "\xd6\xff\x00\x00\x00\x07"s);
  EXPECT_EQ(canonicalise("\xd9\x00"s), "\xa0"s);
}

TEST(Canonicalise, CopiesWhatIsCanonical) {
  testing::RandomValues random(1);
  for (int i = 0; i < 2000; ++i) {
    const std::string document = random.document();
    ASSERT_EQ(canonicalise(document), document);
    ASSERT_EQ(Reader(document).skip(), document);
  }
}

TEST(Canonicalise, RefusesWhatIsNoValue) {
  expect_refused("", "ends within", 0);
  expect_refused("\xa5hell"s, "ends within", 5);
  expect_refused("\x82\xa1\x61"s, "ends within", 3);
  expect_refused("\x01\x02"s, "follow", 1);
  expect_refused("\x91\xc1"s, "0xc1", 1);
  expect_refused("\xa2\xc1"s, "ends within", 2);
  expect_refused("\xa3x\xff\x79"s, "UTF-8", 2);
  expect_refused("\x81\xa2x\xff\x01"s, "key is not valid UTF-8", 3);
  expect_refused("\x81\x01\x02"s, "not a string", 1);
  expect_refused("\x81\xc0\x02"s, "not a string", 1);
  expect_refused("\x81\x80\x02"s, "not a string", 1);
  expect_refused("\x81\xc4\x01x\x02"s, "not a string");
  expect_refused("\x82\xa1x\x01\xa1x\x02"s, "'x' appears twice", 5);
  expect_refused("\x83\xa1x\x01\xa1\x61\x01\xa1x\x02"s, "'x' appears twice");
  expect_refused("\x82\xa0\x01\xa0\x02"s, "appears twice");
  expect_refused("\x81\xa2$x\x01"s, "begins with '$'", 2);
  expect_refused("\xd4\x05\x00"s, "extension");
  expect_refused("\xc7\x00\xff"s, "timestamp");
  expect_refused("\xd6\x00\x00\x00\x00\x07"s, "extension");
  expect_refused("\xd7\xff\x00\x00\x00\x04\x00\x00\x00\x00"s, "finer than a microsecond");
  expect_refused("\xd7\xff\xff\xff\xff\xff\x00\x00\x00\x00"s, "timestamp");
  expect_refused("\xc7\x0c\xff\x00\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"s, "years 1 to 9999");
  EXPECT_EQ(canonicalise("\x81\xa2$x\x01"s, Border{.allow_dollar_keys = true}), "\x81\xa2$x\x01"s);
  expect_refused("\x01\x02", "follow", 1, Border{.code = Code::invalid_request});
}

TEST(Canonicalise, BoundsNesting) {
  const auto nested = [](int depth) { return std::string(static_cast<std::size_t>(depth), '\x91') + '\x01'; };
  EXPECT_EQ(canonicalise(nested(64)), nested(64));
  expect_refused(nested(65), "nested more than 64", 64);
  expect_refused(nested(1'000'000), "nested more than 64", 64);
  expect_refused(nested(3), "nested more than 2", 2, Border{.max_nesting = 2});
  EXPECT_EQ(canonicalise("\x01"s, Border{.max_nesting = 0}), "\x01"s);
}

TEST(Canonicalise, BoundsTheEncodedSize) {
  const auto bytes = [](std::size_t size) { return written([&](Writer& w) { w.bin(std::string(size, 'x')); }); };
  EXPECT_EQ(canonicalise(bytes(100), Border{.max_bytes = 102}), bytes(100));
  for (const auto& [document, limit] : {std::pair{bytes(100), 101}, std::pair{std::string("\x93\x01\x02\x03"), 3}}) {
    try {
      static_cast<void>(canonicalise(document, Border{.max_bytes = static_cast<std::size_t>(limit)}));
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::too_large);
      EXPECT_EQ(detail(error, "limit"), limit);
    }
  }
  // The limit is on the canonical form, not on the form it came in.
  EXPECT_EQ(canonicalise("\xcf\x00\x00\x00\x00\x00\x00\x00\x05"s, Border{.max_bytes = 1}), "\x05"s);
}

TEST(Canonicalise, DoesNotAllocateForADeclaredSize) {
  expect_refused("\xdd\xff\xff\xff\xff"s, "ends within");
  expect_refused("\xdf\xff\xff\xff\xff\xa1\x61\x01"s, "ends within");
  expect_refused("\xc6\xff\xff\xff\xff\x01"s, "ends within");
  expect_refused("\xdb\xff\xff\xff\xff\x01"s, "ends within");
  expect_refused("\xc9\xff\xff\xff\xff\xff"s, "ends within");
}

TEST(Canonicalise, RefusesOrRepairsEveryTruncationAndEveryChangedByte) {
  testing::RandomValues random(2);
  // A list that begins with a long form is never copied as it is, so that each value takes both ways.
  const auto rewritten = [](const std::string& bytes) -> std::string {
    try {
      return canonicalise("\x92\xcc\x01"s + bytes).substr(2);
    } catch (const Error&) {
      return "";
    }
  };
  const auto check = [&](const std::string& bytes) {
    std::string out;
    try {
      out = canonicalise(bytes);
    } catch (const Error&) {
      EXPECT_EQ(rewritten(bytes), "");
      return false;
    }
    EXPECT_EQ(rewritten(bytes), out);
    EXPECT_EQ(canonicalise(out), out);
    EXPECT_EQ(Reader(out).skip(), out);
    return true;
  };
  for (int i = 0; i < 60; ++i) {
    const std::string document = random.document();
    for (std::size_t size = 0; size < document.size(); ++size) ASSERT_FALSE(check(document.substr(0, size)));
    for (std::size_t at = 0; at < document.size(); ++at) {
      std::string damaged = document;
      for (const int flip : {1, 2, 4, 8, 16, 32, 64, 128, 255, static_cast<int>(random.below(255)) + 1}) {
        damaged[at] = static_cast<char>(document[at] ^ flip);
        check(damaged);
        // What is only ever read from our own storage must not crash on damage either.
        try {
          Reader(damaged).skip();
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), Code::corrupt);
        }
      }
    }
  }
}

TEST(Canonicalise, TakesBothWaysAlikeForEveryLength) {
  for (const std::size_t size : {0u, 1u, 15u, 16u, 31u, 32u, 255u, 256u, 65535u, 65536u}) {
    const std::string text(size, 'x');
    for (const auto& value : {written([&](Writer& w) { w.str(text); }), written([&](Writer& w) { w.bin(text); }),
                              written([&](Writer& w) { w.array(size); }) + std::string(size, '\x01'),
                              written([&](Writer& w) { w.natural(size); }), written([&](Writer& w) { w.natural(size << 16); }),
                              written([&](Writer& w) { w.integer(-static_cast<std::int64_t>(size)); })}) {
      EXPECT_EQ(canonicalise(value), value);
      EXPECT_EQ(canonicalise("\x92\xcc\x01"s + value), "\x92\x01" + value);
    }
  }
  for (const std::int64_t t : std::initializer_list<std::int64_t>{kMinInstant, -1, 0, 1, 0xffffffffLL * 1'000'000,
                               0x100000000LL * 1'000'000, 0x3ffffffffLL * 1'000'000 + 999'999, 0x400000000LL * 1'000'000,
                               kMaxInstant}) {
    const std::string value = written([t](Writer& w) { w.instant(t); });
    EXPECT_EQ(canonicalise(value), value);
    EXPECT_EQ(canonicalise("\x92\xcc\x01"s + value), "\x92\x01" + value);
  }
}

TEST(CheckUtf8, AcceptsExactlyWhatUnicodeDefines) {
  const auto valid = [](std::string_view text) {
    try {
      check_utf8(text);
      return true;
    } catch (const Error&) {
      return false;
    }
  };
  for (const std::string& good : {""s, "ascii only, more than eight bytes"s, "é"s, "漢字"s, "😀"s, "\0"s, "\x7f"s, "\xc2\x80"s,
                                  "\xdf\xbf"s, "\xe0\xa0\x80"s, "\xed\x9f\xbf"s, "\xee\x80\x80"s, "\xef\xbf\xbf"s,
                                  "\xf0\x90\x80\x80"s, "\xf4\x8f\xbf\xbf"s}) {
    EXPECT_TRUE(valid(good));
    EXPECT_TRUE(valid("12345678" + good + "12345678"));
  }
  for (const std::string& bad : {"\x80"s, "\xbf"s, "\xc0\x80"s, "\xc1\xbf"s, "\xc2"s, "\xc2x"s, "\xe0\x9f\xbf"s,
                                 "\xed\xa0\x80"s, "\xed\xbf\xbf"s, "\xe1\x80"s, "\xf0\x8f\xbf\xbf"s, "\xf4\x90\x80\x80"s,
                                 "\xf1\x80\x80"s, "\xf5\x80\x80\x80"s, "\xff"s, "\xfe"s}) {
    EXPECT_FALSE(valid(bad));
    for (std::size_t before = 0; before < 20; ++before) {
      try {
        check_utf8(std::string(before, 'a') + bad + "tail");
        ADD_FAILURE();
      } catch (const Error& error) {
        EXPECT_EQ(detail(error, "offset"), static_cast<std::int64_t>(before));
      }
    }
  }
}

TEST(Field, FindsATopLevelFieldOrNothing) {
  const std::string map = canonicalise("\x83\xa1\x61\x01\xa1\x63\x92\x01\x02\xa2xx\xc0"s);
  EXPECT_EQ(field(map, "a"), "\x01");
  EXPECT_EQ(field(map, "c"), "\x92\x01\x02");
  EXPECT_EQ(field(map, "xx"), "\xc0");
  EXPECT_TRUE(field(map, "b").empty());
  EXPECT_TRUE(field(map, "").empty());
  EXPECT_TRUE(field(map, "zzz").empty());
  EXPECT_TRUE(field("\x80", "a").empty());
}

TEST(Hash64, IsXxh3) {
  EXPECT_EQ(hash64(""), 0x2d06800538d394c2u);  // the published value of the empty input
  EXPECT_NE(hash64("a"), hash64("b"));
}

}  // namespace
}  // namespace syncline::mp
