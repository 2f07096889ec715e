#include "base/ids.h"

#include <gtest/gtest.h>

#include <set>

#include "base/clock.h"

namespace syncline {
namespace {

using namespace std::string_literals;

bool accepted(const std::string& name, bool allow_reserved = false) {
  try {
    check_name(name, "entity", Code::invalid_mutation, allow_reserved);
    return true;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), Code::invalid_mutation);
    EXPECT_TRUE(std::string(error.what()).starts_with("entity ")) << error.what();
    return false;
  }
}

TEST(CheckName, AllowsOneTo255BytesOfText) {
  EXPECT_TRUE(accepted("t"));
  EXPECT_TRUE(accepted("list:1"));
  EXPECT_TRUE(accepted("über/漢字 😀"));
  EXPECT_TRUE(accepted(std::string(255, 'x')));
  EXPECT_FALSE(accepted(std::string(256, 'x')));
  EXPECT_FALSE(accepted(""));
}

TEST(CheckName, RefusesControlCharactersAndBrokenText) {
  for (int c = 0; c < 0x20; ++c) EXPECT_FALSE(accepted("a"s + static_cast<char>(c) + "b"));
  EXPECT_FALSE(accepted("a\x7f"));
  for (int c = 0x80; c < 0xa0; ++c) EXPECT_FALSE(accepted("a\xc2"s + static_cast<char>(c)));
  EXPECT_TRUE(accepted("a\xc2\xa0"));
  EXPECT_FALSE(accepted("a\xff"));
  EXPECT_FALSE(accepted("a\xc2"));
}

// Whole words of eight bytes are looked at at once; nothing may hide at their ends.
TEST(CheckName, FindsAControlCharacterAtEveryPlaceOfEveryLength) {
  for (std::size_t size = 1; size <= 40; ++size) {
    const std::string plain(size, '~');
    EXPECT_TRUE(accepted(plain));
    for (std::size_t at = 0; at < size; ++at) {
      for (const char bad : {'\0', '\x1f', '\x7f', '\x80', '\xff'}) {
        std::string name = plain;
        name[at] = bad;
        EXPECT_FALSE(accepted(name)) << size << " " << at;
      }
    }
  }
}

TEST(CheckName, KeepsTheLeadingUnderscoreForTheEngine) {
  EXPECT_FALSE(accepted("_op"));
  EXPECT_TRUE(accepted("_op", true));
  EXPECT_TRUE(accepted("a_"));
}

TEST(Random, IsSplitMix64) {
  Random random(1234567);
  EXPECT_EQ(random.next(), 6457827717110365317u);
  EXPECT_EQ(random.next(), 3203168211198807973u);
  EXPECT_EQ(random.next(), 9817491932198370423u);
}

TEST(Random, IsUniformBelowOneAndRepeatable) {
  Random a(7);
  Random b(7);
  double sum = 0;
  for (int i = 0; i < 10000; ++i) {
    const double x = a.uniform();
    EXPECT_EQ(x, b.uniform());
    ASSERT_GE(x, 0.0);
    ASSERT_LT(x, 1.0);
    sum += x;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.02);
}

TEST(Uuid7, CarriesTimeVersionAndVariant) {
  EXPECT_EQ(uuid7(0, 0), "00000000-0000-7000-8000-000000000000");
  EXPECT_EQ(uuid7(0, ~0ull), "00000000-0000-7000-bfff-ffffffffffff");
  // RFC 9562, A.6: 2022-02-22T19:22:22Z
  EXPECT_EQ(uuid7(1645557742000'000, 0x18c4dc0c0c07398f), "017f22e2-79b0-7000-98c4-dc0c0c07398f");
  EXPECT_EQ(uuid7(1645557742000'999, 0), "017f22e2-79b0-7ffb-8000-000000000000");
  EXPECT_EQ(uuid7(-5, 0), uuid7(0, 0));
}

TEST(Uuid7, SortsByMicrosecond) {
  std::string last;
  for (std::int64_t t = 1'790'000'000'000'000; t < 1'790'000'000'005'000; ++t) {
    const std::string id = uuid7(t, static_cast<std::uint64_t>(-t));
    ASSERT_LT(last, id);
    last = id;
  }
}

TEST(SystemEntropy, DoesNotRepeat) {
  const auto entropy = system_entropy();
  std::set<std::uint64_t> seen;
  for (int i = 0; i < 1000; ++i) seen.insert(entropy->next());
  EXPECT_EQ(seen.size(), 1000u);
}

TEST(SystemClock, CountsMicrosecondsSince1970) {
  const auto clock = system_clock();
  EXPECT_GT(clock->now(), 1'700'000'000'000'000);
  EXPECT_LT(clock->now(), 10'000'000'000'000'000);
}

}  // namespace
}  // namespace syncline
