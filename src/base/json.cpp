#include "base/json.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <system_error>
#include <utility>

#ifdef __SSE2__
#include <emmintrin.h>
#endif
#if defined(__SSE2__) && !defined(RAPIDJSON_SSE2) && !defined(RAPIDJSON_SSE42)
#define RAPIDJSON_SSE2
#endif
#include <rapidjson/error/en.h>
#include <rapidjson/reader.h>

#include "base/builder.h"
#include "base/bytes.h"
#include "base/packer.h"
#include "base/utf8.h"

namespace syncline::json {

namespace {

using mp::put::raw;

constexpr std::int64_t kSafeInteger = std::int64_t{1} << 53;

// Documents are bounded where they are written; this only keeps a damaged file from exhausting the stack.
constexpr int kMaxDepth = 1000;

// --- numbers ---------------------------------------------------------------------------------------------------------

enum class Parsed { ok, malformed, out_of_range };

struct Integer {
  bool negative = false;
  std::uint64_t bits = 0;
};

// Decimal digits, perhaps after '-'; the JSON grammar of integers, and nothing else.
Parsed parse_integer(std::string_view text, Integer& out) {
  const bool minus = text.starts_with('-');
  const std::string_view digits = text.substr(minus ? 1 : 0);
  if (digits.empty() || (digits.size() > 1 && digits.front() == '0')) return Parsed::malformed;
  const char* const end = text.data() + text.size();
  std::from_chars_result read{};
  if (minus) {
    std::int64_t value = 0;
    read = std::from_chars(text.data(), end, value);
    out = {value < 0, static_cast<std::uint64_t>(value)};
  } else {
    read = std::from_chars(text.data(), end, out.bits);
    out.negative = false;
  }
  if (read.ec == std::errc::result_out_of_range) return Parsed::out_of_range;
  return read.ec == std::errc{} && read.ptr == end ? Parsed::ok : Parsed::malformed;
}

// Whether a JSON number is closer to zero than every float64, which std::from_chars does not tell from its opposite.
bool is_tiny(std::string_view number) {
  const std::size_t mark = number.find_first_of("eE");
  if (mark == std::string_view::npos) return number.substr(number.starts_with('-') ? 1 : 0).starts_with('0');
  std::string_view exponent = number.substr(mark + 1);
  if (exponent.starts_with('+')) exponent.remove_prefix(1);
  std::int64_t power = 0;
  const auto read = std::from_chars(exponent.data(), exponent.data() + exponent.size(), power);
  if (read.ec == std::errc::result_out_of_range) return exponent.starts_with('-');
  const std::string_view mantissa = number.substr(0, mark);
  const std::size_t point = std::min(mantissa.find('.'), mantissa.size());
  const std::size_t first = mantissa.find_first_of("123456789");
  if (first == std::string_view::npos) return true;
  constexpr std::int64_t kFar = std::int64_t{1} << 40;  // beyond any text's length, and safe to add to
  return std::clamp(power, -kFar, kFar) + static_cast<std::int64_t>(point) - static_cast<std::int64_t>(first) < 0;
}

// --- base64 ----------------------------------------------------------------------------------------------------------

constexpr char kBase64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::uint8_t kNoDigit = 0xff;

constexpr std::array<std::uint8_t, 256> kBase64Digits = [] {
  std::array<std::uint8_t, 256> digits{};
  digits.fill(kNoDigit);
  for (std::uint8_t i = 0; i < 64; ++i) digits[static_cast<std::uint8_t>(kBase64[i])] = i;
  return digits;
}();

constexpr std::size_t base64_size(std::size_t bytes) { return (bytes + 2) / 3 * 4; }

char* put_base64(std::string_view bytes, char* to) noexcept {
  const auto at = [bytes](std::size_t i) -> std::uint32_t { return static_cast<std::uint8_t>(bytes[i]); };
  const auto put = [&to](std::uint32_t digit) { *to++ = kBase64[digit & 63]; };
  std::size_t i = 0;
  for (; bytes.size() - i >= 3; i += 3) {
    const std::uint32_t three = at(i) << 16 | at(i + 1) << 8 | at(i + 2);
    for (const int shift : {18, 12, 6, 0}) put(three >> shift);
  }
  if (bytes.size() - i == 1) {
    put(at(i) >> 2);
    put(at(i) << 4);
    *to++ = '=';
    *to++ = '=';
  } else if (bytes.size() - i == 2) {
    put(at(i) >> 2);
    put(at(i) << 4 | at(i + 1) >> 4);
    put(at(i + 1) << 2);
    *to++ = '=';
  }
  return to;
}

bool decode_base64(std::string_view text, std::string& out) {
  if (text.size() % 4 != 0) return false;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  const std::string_view digits = text.substr(0, text.size() - padding);
  out.reserve(text.size() / 4 * 3);
  std::uint32_t bits = 0;
  unsigned count = 0;
  for (const char c : digits) {
    const std::uint8_t digit = kBase64Digits[static_cast<std::uint8_t>(c)];
    if (digit == kNoDigit) return false;
    bits = (bits << 6 | digit) & 0xffffff;
    count += 6;
    if (count >= 8) {
      count -= 8;
      out.push_back(static_cast<char>(bits >> count));
    }
  }
  // Bits left over would let two texts mean the same bytes.
  return (bits & ((1u << count) - 1)) == 0;
}

// --- instants --------------------------------------------------------------------------------------------------------

constexpr std::int64_t kSecond = 1'000'000;
constexpr std::int64_t kDay = 86'400 * kSecond;
constexpr std::int64_t kDaysBefore1970 = 719'468;  // from 0000-03-01, where the eras below begin
constexpr std::int64_t kDaysPerEra = 146'097;      // 400 years

struct Date {
  std::int64_t year, month, day;
};

// The proleptic Gregorian calendar with years that begin in March, so that the leap day is the last.
constexpr std::int64_t days_from_date(const Date& date) {
  const std::int64_t year = date.year - (date.month <= 2 ? 1 : 0);
  const std::int64_t era = year / 400;
  const std::int64_t year_of_era = year - era * 400;
  const std::int64_t day_of_year = (153 * ((date.month + 9) % 12) + 2) / 5 + date.day - 1;
  return era * kDaysPerEra + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - kDaysBefore1970;
}

constexpr Date date_from_days(std::int64_t days) {
  const std::int64_t shifted = days + kDaysBefore1970;
  const std::int64_t era = shifted / kDaysPerEra;
  const std::int64_t day_of_era = shifted - era * kDaysPerEra;
  const std::int64_t year_of_era =
      (day_of_era - day_of_era / 1460 + day_of_era / 36'524 - day_of_era / (kDaysPerEra - 1)) / 365;
  const std::int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  const std::int64_t march_month = (5 * day_of_year + 2) / 153;
  const std::int64_t month = march_month < 10 ? march_month + 3 : march_month - 9;
  return {era * 400 + year_of_era + (month <= 2 ? 1 : 0), month, day_of_year - (153 * march_month + 2) / 5 + 1};
}

static_assert(days_from_date({1, 1, 1}) * kDay == mp::kMinInstant);
static_assert(days_from_date({9999, 12, 31}) * kDay + kDay - 1 == mp::kMaxInstant);

constexpr std::int64_t days_in_month(std::int64_t year, std::int64_t month) {
  if (month == 2) return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) ? 29 : 28;
  return month == 4 || month == 6 || month == 9 || month == 11 ? 30 : 31;
}

// nullptr, or why the text is no instant.
const char* read_instant(std::string_view text, std::int64_t& microseconds) {
  constexpr const char* kForm = "an instant is not RFC 3339, as 2026-01-02T03:04:05.000006Z is";
  std::size_t at = 0;
  bool good = true;
  const auto number = [&](std::size_t digits) {
    std::int64_t value = 0;
    for (; digits > 0; --digits, ++at) {
      if (at >= text.size() || text[at] < '0' || text[at] > '9') {
        good = false;
        return std::int64_t{0};
      }
      value = value * 10 + (text[at] - '0');
    }
    return value;
  };
  const auto mark = [&](char upper, char lower) {
    good = good && at < text.size() && (text[at] == upper || text[at] == lower);
    ++at;
  };
  const std::int64_t year = number(4);
  mark('-', '-');
  const std::int64_t month = number(2);
  mark('-', '-');
  const std::int64_t day = number(2);
  mark('T', 't');
  const std::int64_t hour = number(2);
  mark(':', ':');
  const std::int64_t minute = number(2);
  mark(':', ':');
  const std::int64_t second = number(2);
  if (!good) return kForm;
  std::int64_t fraction = 0;
  if (at < text.size() && text[at] == '.') {
    const std::size_t start = ++at;
    std::int64_t unit = kSecond / 10;
    for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at, unit /= 10) {
      if (unit == 0 && text[at] != '0') return "an instant is finer than a microsecond";
      fraction += unit * (text[at] - '0');
    }
    if (at == start) return kForm;
  }
  std::int64_t offset = 0;
  if (at < text.size() && (text[at] == '+' || text[at] == '-')) {
    const std::int64_t sign = text[at] == '-' ? -1 : 1;
    ++at;
    const std::int64_t hours = number(2);
    mark(':', ':');
    const std::int64_t minutes = number(2);
    if (!good || hours > 23 || minutes > 59) return kForm;
    offset = sign * (hours * 60 + minutes) * 60 * kSecond;
  } else {
    mark('Z', 'z');
  }
  if (!good || at != text.size()) return kForm;
  if (month < 1 || month > 12 || day < 1 || day > days_in_month(year, month) || hour > 23 || minute > 59 || second > 59) {
    return "an instant names a day or a time that does not exist";
  }
  if (year < 1) return "an instant lies outside the years 1 to 9999";
  microseconds =
      days_from_date({year, month, day}) * kDay + ((hour * 60 + minute) * 60 + second) * kSecond + fraction - offset;
  if (microseconds < mp::kMinInstant || microseconds > mp::kMaxInstant) {
    return "an instant lies outside the years 1 to 9999";
  }
  return nullptr;
}

// --- reading ---------------------------------------------------------------------------------------------------------

enum class Form : std::uint8_t { none, binary, date, number_long, number_double };

Form form_of(std::string_view key) {
  if (key == "$binary") return Form::binary;
  if (key == "$date") return Form::date;
  if (key == "$numberLong") return Form::number_long;
  if (key == "$numberDouble") return Form::number_double;
  return Form::none;
}

// Receives RapidJSON's events. A map is opened in the builder only with its first key: by then it is known whether it is
// a map at all or the '$' form of another value.
class Receiver {
 public:
  explicit Receiver(mp::Builder& builder) : builder_(builder) {}

  bool Null() { return plain() && builder_.nil(); }
  bool Bool(bool value) { return plain() && builder_.boolean(value); }

  bool RawNumber(const char* text, rapidjson::SizeType size, bool) {
    const std::string_view number(text, size);
    if (!plain()) return false;
    if (number.find_first_of(".eE") == std::string_view::npos) {
      Integer integer;
      if (parse_integer(number, integer) != Parsed::ok) {
        return builder_.refuse("an integer does not fit 64 bits");
      }
      return put(integer);
    }
    double value = 0;
    const auto read = std::from_chars(number.data(), number.data() + number.size(), value);
    if (read.ec == std::errc::result_out_of_range) {
      if (!is_tiny(number)) return builder_.refuse("a number is too large for a float64");
      value = number.starts_with('-') ? -0.0 : 0.0;
    } else if (read.ec != std::errc{} || read.ptr != number.data() + number.size()) {
      return builder_.refuse("a number is malformed");
    }
    return builder_.real(value);
  }

  // RapidJSON converts no number itself when it is asked for their text.
  bool Int(int) { return false; }
  bool Uint(unsigned) { return false; }
  bool Int64(std::int64_t) { return false; }
  bool Uint64(std::uint64_t) { return false; }
  bool Double(double) { return false; }

  bool String(const char* text, rapidjson::SizeType size, bool) {
    const std::string_view value(text, size);
    const Form form = std::exchange(form_, Form::none);
    if (form == Form::none) return builder_.str(value);
    form_ends_ = true;
    return special(form, value);
  }

  bool StartObject() {
    if (!plain()) return false;
    opening_ = true;
    return true;
  }

  bool Key(const char* text, rapidjson::SizeType size, bool) {
    const std::string_view name(text, size);
    if (form_ends_) return alone();
    const Form form = name.starts_with('$') ? form_of(name) : Form::none;
    if (form != Form::none) {
      if (!opening_) return alone();
      opening_ = false;
      form_ = form;
      return true;
    }
    if (opening_) {
      opening_ = false;
      if (!builder_.open_map()) return false;
    }
    return builder_.key(name);
  }

  bool EndObject(rapidjson::SizeType) {
    if (form_ends_) {
      form_ends_ = false;
      return true;
    }
    if (opening_) {
      opening_ = false;
      if (!builder_.open_map()) return false;
    }
    return builder_.close();
  }

  bool StartArray() { return plain() && builder_.open_array(); }
  bool EndArray(rapidjson::SizeType) { return builder_.close(); }

 private:
  bool plain() { return form_ == Form::none || builder_.refuse("the value of a '$' form is not a string"); }
  bool alone() { return builder_.refuse("a '$' form has other fields beside it"); }

  bool put(const Integer& integer) {
    return integer.negative ? builder_.integer(static_cast<std::int64_t>(integer.bits)) : builder_.natural(integer.bits);
  }

  bool special(Form form, std::string_view text) {
    switch (form) {
      case Form::binary: {
        std::string bytes;
        if (!decode_base64(text, bytes)) return builder_.refuse("$binary is not base64 with padding");
        return builder_.bin(bytes);
      }
      case Form::date: {
        std::int64_t microseconds = 0;
        if (const char* const why = read_instant(text, microseconds)) return builder_.refuse(why);
        return builder_.instant(microseconds);
      }
      case Form::number_long: {
        Integer integer;
        const Parsed parsed = text == "-0" ? Parsed::malformed : parse_integer(text, integer);
        if (parsed == Parsed::out_of_range) return builder_.refuse("$numberLong does not fit 64 bits");
        if (parsed == Parsed::malformed) return builder_.refuse("$numberLong is not an integer in decimal digits");
        return put(integer);
      }
      case Form::number_double:
        if (text == "NaN") return builder_.real(std::numeric_limits<double>::quiet_NaN());
        if (text == "Infinity") return builder_.real(std::numeric_limits<double>::infinity());
        if (text == "-Infinity") return builder_.real(-std::numeric_limits<double>::infinity());
        if (text == "-0.0") return builder_.real(-0.0);
        return builder_.refuse("$numberDouble is not one of NaN, Infinity, -Infinity, -0.0");
      case Form::none: break;
    }
    return false;
  }

  mp::Builder& builder_;
  Form form_ = Form::none;  // the '$' form whose value comes next
  bool form_ends_ = false;  // its value came; only the closing brace may follow
  bool opening_ = false;    // a brace was opened and no key has come
};

[[noreturn]] void refuse(const mp::Border& border, const std::string& message, std::size_t offset) {
  throw Error(border.code, message + " (at byte " + std::to_string(offset) + ")",
              {{"offset", static_cast<std::int64_t>(offset)}});
}

// --- writing ---------------------------------------------------------------------------------------------------------

// For each byte: 0 when it stands for itself, 'u' for \u00xx, else the letter after the backslash.
constexpr std::array<char, 256> kEscapes = [] {
  std::array<char, 256> escapes{};
  for (std::size_t i = 0; i < 0x20; ++i) escapes[i] = 'u';
  escapes['\b'] = 'b';
  escapes['\t'] = 't';
  escapes['\n'] = 'n';
  escapes['\f'] = 'f';
  escapes['\r'] = 'r';
  escapes['"'] = '"';
  escapes['\\'] = '\\';
  return escapes;
}();

// Whether one of eight bytes is a quote, a backslash or below 0x20.
constexpr bool needs_escape(std::uint64_t eight) noexcept {
  constexpr std::uint64_t kOnes = 0x0101010101010101u;
  constexpr std::uint64_t kHighs = 0x8080808080808080u;
  const std::uint64_t quote = eight ^ (kOnes * '"');
  const std::uint64_t backslash = eight ^ (kOnes * '\\');
  const std::uint64_t found =
      ((quote - kOnes) & ~quote) | ((backslash - kOnes) & ~backslash) | ((eight - kOnes * 0x20) & ~eight);
  return (found & kHighs) != 0;
}

template <typename Word>
Word load(const char* at) noexcept {
  Word word;
  std::memcpy(&word, at, sizeof word);
  return word;
}

// Copies a text of less than sixteen bytes, as keys and most values are, when no byte of it needs an escape: its first bytes and its
// last ones, which may be the same. Where the bytes come one by one, they cost four times as much.
bool copy_short(std::string_view text, char* to) noexcept {
  const char* const from = text.data();
  const std::size_t size = text.size();
  if (size >= 8) {
    const auto first = load<std::uint64_t>(from);
    const auto last = load<std::uint64_t>(from + size - 8);
    if (needs_escape(first) || needs_escape(last)) return false;
    std::memcpy(to, &first, 8);
    std::memcpy(to + size - 8, &last, 8);
    return true;
  }
  if (size >= 4) {
    const auto first = load<std::uint32_t>(from);
    const auto last = load<std::uint32_t>(from + size - 4);
    if (needs_escape(std::uint64_t{last} << 32 | first)) return false;
    std::memcpy(to, &first, 4);
    std::memcpy(to + size - 4, &last, 4);
    return true;
  }
  for (std::size_t at = 0; at < size; ++at) {
    if (kEscapes[static_cast<std::uint8_t>(from[at])] != 0) return false;
    to[at] = from[at];
  }
  return true;
}

// Copies the bytes from the front that need no escape, and says how many they were. Writes nothing beyond the text's size.
std::size_t copy_plain(std::string_view text, char* to) noexcept {
  if (text.size() < 16 && copy_short(text, to)) return text.size();
  std::size_t at = 0;
#ifdef __SSE2__
  const __m128i quote = _mm_set1_epi8('"');
  const __m128i backslash = _mm_set1_epi8('\\');
  const __m128i last_control = _mm_set1_epi8(0x1f);
  while (text.size() - at >= 16) {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(text.data() + at));
    const __m128i control = _mm_cmpeq_epi8(_mm_max_epu8(bytes, last_control), last_control);
    const __m128i found = _mm_or_si128(control, _mm_or_si128(_mm_cmpeq_epi8(bytes, quote), _mm_cmpeq_epi8(bytes, backslash)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + at), bytes);
    if (const auto mask = static_cast<unsigned>(_mm_movemask_epi8(found)); mask != 0) {
      return at + static_cast<std::size_t>(std::countr_zero(mask));
    }
    at += 16;
    // The rest once more with what comes before it.
    if (const std::size_t left = text.size() - at; left > 0 && left < 16) at = text.size() - 16;
  }
#endif
  for (; text.size() - at >= 8; at += 8) {
    const auto eight = load<std::uint64_t>(text.data() + at);
    if (needs_escape(eight)) break;
    std::memcpy(to + at, &eight, 8);
  }
  for (; at < text.size() && kEscapes[static_cast<std::uint8_t>(text[at])] == 0; ++at) to[at] = text[at];
  return at;
}

constexpr std::size_t kEscape = 6;  // the most that a byte becomes

char* put_escape(std::uint8_t byte, char* to) noexcept {
  constexpr char kHex[] = "0123456789abcdef";
  const char escape = kEscapes[byte];
  *to++ = '\\';
  *to++ = escape;
  if (escape == 'u') {
    for (const char digit : {'0', '0', kHex[byte >> 4], kHex[byte & 15]}) *to++ = digit;
  }
  return to;
}

// What the bytes from the first that is no plain one come to.
void append_escaped(std::string_view text, Bytes& out) {
  while (!text.empty()) {
    std::size_t at = 0;
    out.append(text.size() + kEscape, [&](char* to) {
      at = copy_plain(text, to);
      return at < text.size() ? put_escape(static_cast<std::uint8_t>(text[at]), to + at) : to + at;
    });
    text.remove_prefix(std::min(at + 1, text.size()));
  }
}

constexpr std::array<char, 200> kPairs = [] {
  std::array<char, 200> pairs{};
  for (std::size_t i = 0; i < 100; ++i) {
    pairs[2 * i] = static_cast<char>('0' + i / 10);
    pairs[2 * i + 1] = static_cast<char>('0' + i % 10);
  }
  return pairs;
}();

char* put_pair(char* at, std::uint32_t value) noexcept {
  std::memcpy(at, kPairs.data() + 2 * static_cast<std::size_t>(value), 2);
  return at + 2;
}

// A number of at most four decimals whose digits fit a float64 is written from them: it is the shortest text that reads back as the
// same number, for two such numbers never lie in one float64. std::to_chars takes 750 instructions for it, this 60.
char* put_short(double value, char* at) noexcept {
  constexpr double kMostDigits = 1e15;
  const double size = std::fabs(value);
  std::uint64_t scale = 1;
  for (int decimals = 0; decimals <= 4; ++decimals, scale *= 10) {
    const double scaled = size * static_cast<double>(scale);
    if (!(scaled < kMostDigits)) return nullptr;
    const auto whole = static_cast<std::uint64_t>(scaled);
    const std::uint64_t digits = whole + (scaled - static_cast<double>(whole) >= 0.5 ? 1 : 0);
    if (static_cast<double>(digits) / static_cast<double>(scale) != size) continue;
    if (value < 0) *at++ = '-';
    at = std::to_chars(at, at + 20, digits / scale).ptr;
    *at++ = '.';
    const std::uint64_t fraction = digits % scale;
    if (decimals == 0) {
      *at++ = '0';
    } else {
      for (std::uint64_t unit = scale / 10; unit > 0; unit /= 10) *at++ = static_cast<char>('0' + fraction / unit % 10);
    }
    return at;
  }
  return nullptr;
}

char* put_real(double value, char* at) noexcept {
  if (std::isnan(value)) return raw(at, R"({"$numberDouble":"NaN"})");
  if (std::isinf(value)) return raw(at, value > 0 ? R"({"$numberDouble":"Infinity"})" : R"({"$numberDouble":"-Infinity"})");
  if (value == 0 && std::signbit(value)) return raw(at, R"({"$numberDouble":"-0.0"})");
  constexpr std::size_t kMost = 40;
  const double size = std::fabs(value);
  const bool fixed = size == 0 || (size >= 1e-4 && size < 1e16);
  if (fixed) {
    if (char* const end = put_short(value, at); end != nullptr) return end;
  }
  char* end = std::to_chars(at, at + kMost, value, fixed ? std::chars_format::fixed : std::chars_format::scientific).ptr;
  if (fixed && std::memchr(at, '.', static_cast<std::size_t>(end - at)) == nullptr) end = raw(end, ".0");
  return end;
}

template <typename T>
char* put_number(T value, char* at) noexcept {
  constexpr std::size_t kMost = 24;
  return std::to_chars(at, at + kMost, value).ptr;
}

template <typename T>
char* put_long(T value, char* at) noexcept {
  return raw(put_number(value, raw(at, R"({"$numberLong":")")), "\"}");
}

constexpr std::size_t kScalar = 64;  // the most of a value that is neither text nor bytes nor holds others

// Of such a value.
char* put_scalar(mp::Reader& reader, mp::Kind kind, char* at) {
  switch (kind) {
    case mp::Kind::boolean: return reader.boolean() ? raw(at, "true") : raw(at, "false");
    case mp::Kind::integer: {
      const std::int64_t value = reader.integer();
      return value < -kSafeInteger || value > kSafeInteger ? put_long(value, at) : put_number(value, at);
    }
    case mp::Kind::natural: return put_long(reader.natural(), at);
    case mp::Kind::real: return put_real(reader.real(), at);
    case mp::Kind::instant: return raw(put_instant(reader.instant(), raw(at, R"({"$date":")")), "\"}");
    case mp::Kind::nil:
    case mp::Kind::str:
    case mp::Kind::bin:
    case mp::Kind::array:
    case mp::Kind::map: break;
  }
  reader.nil();
  return raw(at, "null");
}

// Where a value is written: memory that surely holds all of it,
struct Enough {
  char* at;
  template <class Put>
  void append(std::size_t, Put put) {
    at = put(at);
  }
  void push_back(char byte) { *at++ = byte; }
  void string(std::string_view text) { at = put_string(text, at); }
};

// or, where what it might come to at most is far more than it will, memory that each piece makes room in.
struct Growing {
  Bytes& out;
  template <class Put>
  void append(std::size_t most, Put put) {
    out.append(most, put);
  }
  void push_back(char byte) { out.push_back(byte); }
  void string(std::string_view text) { append_string(text, out); }
};

template <class Out>
void write(mp::Reader& reader, Out& out, int depth) {
  const mp::Kind kind = reader.peek();
  if (kind == mp::Kind::str) {
    out.string(reader.str());
    return;
  }
  if (kind == mp::Kind::bin) {
    const std::string_view bytes = reader.bin();
    out.append(kScalar + base64_size(bytes.size()),
               [bytes](char* at) { return raw(put_base64(bytes, raw(at, R"({"$binary":")")), "\"}"); });
    return;
  }
  if (kind != mp::Kind::array && kind != mp::Kind::map) {
    out.append(kScalar, [&](char* at) { return put_scalar(reader, kind, at); });
    return;
  }
  if (depth > kMaxDepth) throw Error(Code::corrupt, "a stored document is nested too deeply");
  const bool is_map = kind == mp::Kind::map;
  const std::size_t size = is_map ? reader.map() : reader.array();
  out.push_back(is_map ? '{' : '[');
  for (std::size_t i = 0; i < size; ++i) {
    if (i > 0) out.push_back(',');
    if (is_map) {
      out.string(reader.str());
      out.push_back(':');
    }
    write(reader, out, depth + 1);
  }
  out.push_back(is_map ? '}' : ']');
}

}  // namespace

std::string to_msgpack(std::string_view text, const mp::Border& border) {
  if (text.size() >= std::numeric_limits<rapidjson::SizeType>::max()) {
    throw Error(Code::too_large, "the JSON text is 4 GiB or larger",
                {{"limit", std::int64_t{std::numeric_limits<rapidjson::SizeType>::max()}}});
  }
  if (const std::size_t at = text.find('\0'); at != std::string_view::npos) {
    refuse(border, "the JSON text has a NUL byte", at);
  }
  if (const std::size_t at = utf8::first_invalid(text); at != utf8::kValid) {
    refuse(border, "the JSON text is not valid UTF-8", at);
  }
  // RapidJSON scans sixteen bytes at a step as far as the terminating NUL and the rest of its step.
  constexpr std::size_t kStep = 16;
  std::string terminated;
  terminated.reserve(text.size() + kStep);
  terminated.append(text).append(kStep, '\0');

  mp::Builder builder(border);
  builder.reserve(std::min(text.size(), border.max_bytes));
  Receiver receiver(builder);
  rapidjson::StringStream stream(terminated.c_str());
  rapidjson::Reader reader;
  // Encoding was checked above, at eight bytes a step; escapes are checked by the builder with the string they are in.
  // Recursion is bounded by the builder's refusal to nest further.
  const rapidjson::ParseResult result = reader.Parse<rapidjson::kParseNumbersAsStringsFlag>(stream, receiver);
  if (result.IsError()) {
    if (result.Code() == rapidjson::kParseErrorTermination) builder.raise(result.Offset());
    refuse(border, std::string("not JSON: ") + rapidjson::GetParseError_En(result.Code()), result.Offset());
  }
  return builder.take();
}

char* put_value(std::string_view value, char* at) {
  mp::Reader reader(value);
  Enough out{at};
  write(reader, out, 0);
  return out.at;
}

void from_msgpack(std::string_view value, Bytes& out) {
  if (out.room() >= most_of(value.size())) {
    out.append(0, [value](char* at) { return put_value(value, at); });
    return;
  }
  mp::Reader reader(value);
  Growing growing{out};
  write(reader, growing, 0);
}

void from_msgpack(std::string_view value, std::string& out) {
  Bytes text;
  from_msgpack(value, text);
  out.append(text.view());
}

char* put_string(std::string_view text, char* at) noexcept {
  *at++ = '"';
  for (;;) {
    const std::size_t plain = copy_plain(text, at);
    at += plain;
    if (plain == text.size()) break;
    at = put_escape(static_cast<std::uint8_t>(text[plain]), at);
    text.remove_prefix(plain + 1);
  }
  *at++ = '"';
  return at;
}

void append_string(std::string_view text, Bytes& out) {
  char* const to = out.ensure(text.size() + 2);
  to[0] = '"';
  const std::size_t plain = copy_plain(text, to + 1);
  out.advance(plain + 1);
  if (plain < text.size()) append_escaped(text.substr(plain), out);
  out.push_back('"');
}

char* put_integer(std::int64_t value, char* at) noexcept { return put_number(value, at); }

void append_integer(std::int64_t value, Bytes& out) {
  out.append(kInteger, [value](char* at) { return put_number(value, at); });
}

char* put_instant(std::int64_t microseconds, char* at) noexcept {
  std::int64_t days = microseconds / kDay;
  std::int64_t rest = microseconds % kDay;
  if (rest < 0) {
    rest += kDay;
    --days;
  }
  const Date date = date_from_days(days);
  const auto second_of_day = static_cast<std::uint32_t>(rest / kSecond);
  const auto fraction = static_cast<std::uint32_t>(rest % kSecond);
  const auto pair = [&at](std::uint32_t value) { at = put_pair(at, value); };
  const auto mark = [&at](char value) { *at++ = value; };
  pair(static_cast<std::uint32_t>(date.year / 100));
  pair(static_cast<std::uint32_t>(date.year % 100));
  mark('-');
  pair(static_cast<std::uint32_t>(date.month));
  mark('-');
  pair(static_cast<std::uint32_t>(date.day));
  mark('T');
  pair(second_of_day / 3600);
  mark(':');
  pair(second_of_day / 60 % 60);
  mark(':');
  pair(second_of_day % 60);
  mark('.');
  pair(fraction / 10000);
  pair(fraction / 100 % 100);
  pair(fraction % 100);
  mark('Z');
  return at;
}

std::int64_t parse_instant(std::string_view text, const mp::Border& border) {
  std::int64_t microseconds = 0;
  if (const char* const why = read_instant(text, microseconds)) {
    throw Error(border.code, std::string(why) + ": " + utf8::quoted(text));
  }
  return microseconds;
}

}  // namespace syncline::json
