#include "base/msgpack.h"

#include <algorithm>
#include <limits>

#ifndef MSGPACK_NO_BOOST
#define MSGPACK_NO_BOOST
#endif
#include <msgpack.hpp>
#ifndef XXH_INLINE_ALL
#define XXH_INLINE_ALL
#endif
#include <xxhash.h>

#include "base/builder.h"
#include "base/utf8.h"

namespace syncline::mp {

namespace {

constexpr std::int64_t kMicrosecondsPerSecond = 1'000'000;
constexpr std::uint64_t kNan = 0x7ff8000000000000u;
constexpr std::uint8_t kTimestampType = 0xff;  // ext type -1

template <typename T>
T big_endian(const char* at) noexcept {
  T value = 0;
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    value = static_cast<T>(static_cast<std::uint64_t>(value) << 8 | static_cast<std::uint8_t>(at[i]));
  }
  return value;
}

template <typename T>
void append(std::string& out, unsigned header, T value) {
  char bytes[1 + sizeof(T)];
  bytes[0] = static_cast<char>(header);
  for (std::size_t i = 0; i < sizeof(T); ++i) {
    bytes[1 + i] = static_cast<char>(value >> (8 * (sizeof(T) - 1 - i)));
  }
  out.append(bytes, sizeof bytes);
}

void append_byte(std::string& out, unsigned byte) { out.push_back(static_cast<char>(byte)); }

void check_size(std::size_t size) {
  constexpr std::size_t kMost = std::numeric_limits<std::uint32_t>::max();
  if (size > kMost) {
    throw Error(Code::too_large, "a string, list or map has more than 2^32-1 bytes or items",
                {{"limit", static_cast<std::int64_t>(kMost)}});
  }
}

// The payload of a timestamp; false when it is none this library writes or reads.
bool decode_timestamp(std::string_view payload, std::int64_t& microseconds) noexcept {
  std::int64_t seconds = 0;
  std::uint32_t nanoseconds = 0;
  if (payload.size() == 4) {
    seconds = big_endian<std::uint32_t>(payload.data());
  } else if (payload.size() == 8) {
    const auto both = big_endian<std::uint64_t>(payload.data());
    seconds = static_cast<std::int64_t>(both & 0x3ffffffffu);
    nanoseconds = static_cast<std::uint32_t>(both >> 34);
  } else if (payload.size() == 12) {
    nanoseconds = big_endian<std::uint32_t>(payload.data());
    seconds = static_cast<std::int64_t>(big_endian<std::uint64_t>(payload.data() + 4));
  } else {
    return false;
  }
  if (nanoseconds > 999'999'999 || nanoseconds % 1000 != 0) return false;
  if (seconds < kMinInstant / kMicrosecondsPerSecond || seconds > kMaxInstant / kMicrosecondsPerSecond) return false;
  microseconds = seconds * kMicrosecondsPerSecond + nanoseconds / 1000;
  return true;
}

// Receives the events of msgpack-c's parser, which keeps its own stack on the heap and allocates nothing for a declared
// size, and passes them to the builder. Strings know their place in the input; other faults are located by the parser.
class Receiver : public msgpack::null_visitor {
 public:
  Receiver(std::string_view input, Builder& builder) : input_(input), builder_(builder) {}

  bool visit_nil() { return plain() && builder_.nil(); }
  bool visit_boolean(bool v) { return plain() && builder_.boolean(v); }
  bool visit_positive_integer(std::uint64_t v) { return plain() && builder_.natural(v); }
  bool visit_negative_integer(std::int64_t v) { return plain() && builder_.integer(v); }
  bool visit_float32(float v) { return plain() && builder_.real(static_cast<double>(v)); }
  bool visit_float64(double v) { return plain() && builder_.real(v); }
  bool visit_str(const char* v, std::uint32_t size) {
    const std::string_view text(v, size);
    if (in_key_ ? builder_.key(text) : builder_.str(text)) return true;
    place(v);
    return false;
  }
  bool visit_bin(const char* v, std::uint32_t size) { return plain() && builder_.bin({v, size}); }
  bool visit_ext(const char* v, std::uint32_t size) {
    if (!plain()) return false;
    place(v);
    if (size == 0 || static_cast<std::uint8_t>(v[0]) != kTimestampType) {
      return builder_.refuse("an extension is no timestamp (-1), the only one there is");
    }
    std::int64_t microseconds = 0;
    if (!decode_timestamp({v + 1, size - 1}, microseconds)) {
      return builder_.refuse("a timestamp is malformed, finer than a microsecond, or outside the years 1 to 9999");
    }
    return builder_.instant(microseconds);
  }
  bool start_array(std::uint32_t size) { return plain() && builder_.open_array(size); }
  bool end_array() { return builder_.close(); }
  bool start_map(std::uint32_t size) { return plain() && builder_.open_map(size); }
  bool end_map() { return builder_.close(); }
  bool start_map_key() {
    in_key_ = true;
    return true;
  }
  bool end_map_key() {
    in_key_ = false;
    return true;
  }

  void parse_error(std::size_t, std::size_t) { builder_.refuse("the byte 0xc1 begins no msgpack value"); }

  [[nodiscard]] std::size_t placed_or(std::size_t otherwise) const noexcept { return placed_ ? offset_ : otherwise; }

 private:
  bool plain() { return !in_key_ || builder_.refuse("a key is not a string"); }
  void place(const char* at) noexcept {
    // The parser may pass no pointer with an empty string.
    if (at == nullptr) return;
    placed_ = true;
    offset_ = static_cast<std::size_t>(at - input_.data());
  }

  std::string_view input_;
  Builder& builder_;
  bool in_key_ = false;
  bool placed_ = false;
  std::size_t offset_ = 0;
};

constexpr std::size_t header_size(std::size_t size, std::size_t most_in_one_byte, bool has_8_bit_form) noexcept {
  return size <= most_in_one_byte ? 1 : has_8_bit_form && size <= 0xff ? 2 : size <= 0xffff ? 3 : 5;
}

constexpr std::size_t integer_size(std::int64_t value) noexcept {
  if (value >= 0) return value < 0x80 ? 1 : value <= 0xff ? 2 : value <= 0xffff ? 3 : value <= 0xffffffff ? 5 : 9;
  return value >= -32 ? 1 : value >= -0x80 ? 2 : value >= -0x8000 ? 3 : value >= -0x80000000LL ? 5 : 9;
}

constexpr std::size_t instant_size(std::int64_t microseconds) noexcept {
  if (microseconds < 0 || microseconds >= (std::int64_t{1} << 34) * kMicrosecondsPerSecond) return 15;
  return microseconds % kMicrosecondsPerSecond != 0 || microseconds > 0xffffffff * kMicrosecondsPerSecond ? 10 : 6;
}

// Whether the next value is canonical and within the border: the one validating pass of the fast path. It says no more
// than that; what is wrong is found, or mended, by the slow one. The forms that one value can take differ in length,
// but for integers, which may also be marked as signed or not.
bool canonical_next(std::string_view bytes, Reader& reader, const Border& border, int levels_left) {
  const std::size_t start = reader.offset();
  const auto took = [&reader, start](std::size_t size) { return reader.offset() - start == size; };
  switch (reader.peek()) {
    case Kind::nil: reader.nil(); return true;
    case Kind::boolean: static_cast<void>(reader.boolean()); return true;
    case Kind::integer: {
      const std::int64_t value = reader.integer();
      const auto form = static_cast<std::uint8_t>(bytes[start]);
      const bool signed_form = form >= 0xd0 && form <= 0xd3;
      return took(integer_size(value)) && !(signed_form && value >= 0);
    }
    case Kind::natural: static_cast<void>(reader.natural()); return true;
    case Kind::real: {
      const double value = reader.real();
      return value == value || std::bit_cast<std::uint64_t>(value) == kNan;
    }
    case Kind::str: {
      const std::string_view text = reader.str();
      return took(header_size(text.size(), 31, true) + text.size()) && utf8::first_invalid(text) == utf8::kValid;
    }
    case Kind::bin: {
      const std::size_t size = reader.bin().size();
      return took(std::max<std::size_t>(header_size(size, 0, true), 2) + size);
    }
    case Kind::instant: {
      const std::int64_t microseconds = reader.instant();
      return took(instant_size(microseconds));
    }
    case Kind::array: {
      const std::size_t size = reader.array();
      if (levels_left == 0 || !took(header_size(size, 15, false))) return false;
      for (std::size_t i = 0; i < size; ++i) {
        if (!canonical_next(bytes, reader, border, levels_left - 1)) return false;
      }
      return true;
    }
    case Kind::map: {
      const std::size_t size = reader.map();
      if (levels_left == 0 || !took(header_size(size, 15, false))) return false;
      std::string_view last;
      for (std::size_t i = 0; i < size; ++i) {
        const std::size_t key_start = reader.offset();
        const std::string_view key = reader.str();
        if (reader.offset() - key_start != header_size(key.size(), 31, true) + key.size()) return false;
        if (i > 0 && key <= last) return false;
        if (!border.allow_dollar_keys && key.starts_with('$')) return false;
        if (utf8::first_invalid(key) != utf8::kValid) return false;
        last = key;
        if (!canonical_next(bytes, reader, border, levels_left - 1)) return false;
      }
      return true;
    }
  }
  return false;
}

}  // namespace

bool is_canonical(std::string_view untrusted, const Border& border) {
  if (untrusted.size() > border.max_bytes) return false;
  try {
    Reader reader(untrusted);
    return canonical_next(untrusted, reader, border, std::max(border.max_nesting, 0)) && reader.at_end();
  } catch (const Error&) {
    return false;
  }
}

void Writer::nil() { append_byte(out_, 0xc0); }
void Writer::boolean(bool value) { append_byte(out_, value ? 0xc3 : 0xc2); }

void Writer::integer(std::int64_t value) {
  if (value >= 0) return natural(static_cast<std::uint64_t>(value));
  const auto bits = static_cast<std::uint64_t>(value);
  if (value >= -32) return append_byte(out_, static_cast<std::uint8_t>(bits));
  if (value >= -0x80) return append(out_, 0xd0, static_cast<std::uint8_t>(bits));
  if (value >= -0x8000) return append(out_, 0xd1, static_cast<std::uint16_t>(bits));
  if (value >= -0x80000000LL) return append(out_, 0xd2, static_cast<std::uint32_t>(bits));
  append(out_, 0xd3, bits);
}

void Writer::natural(std::uint64_t value) {
  if (value < 0x80) return append_byte(out_, static_cast<unsigned>(value));
  if (value <= 0xff) return append(out_, 0xcc, static_cast<std::uint8_t>(value));
  if (value <= 0xffff) return append(out_, 0xcd, static_cast<std::uint16_t>(value));
  if (value <= 0xffffffff) return append(out_, 0xce, static_cast<std::uint32_t>(value));
  append(out_, 0xcf, value);
}

void Writer::real(double value) {
  append(out_, 0xcb, value != value ? kNan : std::bit_cast<std::uint64_t>(value));
}

void Writer::str(std::string_view value) {
  check_size(value.size());
  const std::size_t size = value.size();
  if (size < 32) {
    append_byte(out_, 0xa0u | static_cast<unsigned>(size));
  } else if (size <= 0xff) {
    append(out_, 0xd9, static_cast<std::uint8_t>(size));
  } else if (size <= 0xffff) {
    append(out_, 0xda, static_cast<std::uint16_t>(size));
  } else {
    append(out_, 0xdb, static_cast<std::uint32_t>(size));
  }
  out_.append(value);
}

void Writer::bin(std::string_view value) {
  check_size(value.size());
  const std::size_t size = value.size();
  if (size <= 0xff) {
    append(out_, 0xc4, static_cast<std::uint8_t>(size));
  } else if (size <= 0xffff) {
    append(out_, 0xc5, static_cast<std::uint16_t>(size));
  } else {
    append(out_, 0xc6, static_cast<std::uint32_t>(size));
  }
  out_.append(value);
}

void Writer::array(std::size_t size) {
  check_size(size);
  if (size < 16) return append_byte(out_, 0x90u | static_cast<unsigned>(size));
  if (size <= 0xffff) return append(out_, 0xdc, static_cast<std::uint16_t>(size));
  append(out_, 0xdd, static_cast<std::uint32_t>(size));
}

void Writer::map(std::size_t size) {
  check_size(size);
  if (size < 16) return append_byte(out_, 0x80u | static_cast<unsigned>(size));
  if (size <= 0xffff) return append(out_, 0xde, static_cast<std::uint16_t>(size));
  append(out_, 0xdf, static_cast<std::uint32_t>(size));
}

void Writer::instant(std::int64_t microseconds) {
  if (microseconds < kMinInstant || microseconds > kMaxInstant) {
    throw Error(Code::invalid_mutation, "an instant lies outside the years 1 to 9999");
  }
  std::int64_t seconds = microseconds / kMicrosecondsPerSecond;
  std::int64_t rest = microseconds % kMicrosecondsPerSecond;
  if (rest < 0) {
    rest += kMicrosecondsPerSecond;
    --seconds;
  }
  const auto nanoseconds = static_cast<std::uint32_t>(rest * 1000);
  if (seconds < 0 || seconds > 0x3ffffffff) {
    append(out_, 0xc7, std::uint8_t{12});
    append(out_, kTimestampType, nanoseconds);
    out_.append({static_cast<char>(seconds >> 56), static_cast<char>(seconds >> 48), static_cast<char>(seconds >> 40),
                 static_cast<char>(seconds >> 32), static_cast<char>(seconds >> 24), static_cast<char>(seconds >> 16),
                 static_cast<char>(seconds >> 8), static_cast<char>(seconds)});
  } else if (nanoseconds != 0 || seconds > 0xffffffff) {
    append_byte(out_, 0xd7);
    append(out_, kTimestampType, std::uint64_t{nanoseconds} << 34 | static_cast<std::uint64_t>(seconds));
  } else {
    append_byte(out_, 0xd6);
    append(out_, kTimestampType, static_cast<std::uint32_t>(seconds));
  }
}

void Writer::raw(std::string_view canonical) { out_.append(canonical); }

void Reader::truncated() const {
  throw Error(Code::corrupt, "stored msgpack ends within a value at byte " + std::to_string(at_),
              {{"offset", static_cast<std::int64_t>(at_)}});
}

void Reader::unexpected(const char* wanted) const {
  throw Error(Code::corrupt,
              "stored msgpack at byte " + std::to_string(at_) + " is not " + wanted,
              {{"offset", static_cast<std::int64_t>(at_)}});
}

std::int64_t Reader::instant() {
  const std::uint8_t byte = head();
  const std::size_t header = byte == 0xc7 ? 3 : 2;
  if (byte != 0xc7 && byte != 0xd6 && byte != 0xd7) unexpected("an instant");
  if (load<std::uint8_t>(header - 1) != kTimestampType) unexpected("an instant");
  const std::size_t start = at_;
  const std::size_t size = byte == 0xd6 ? 4 : byte == 0xd7 ? 8 : load<std::uint8_t>(1);
  std::int64_t microseconds = 0;
  if (!decode_timestamp(take(header, size), microseconds)) {
    at_ = start;
    unexpected("an instant");
  }
  return microseconds;
}

std::string canonicalise(std::string_view untrusted, const Border& border) {
  if (is_canonical(untrusted, border)) return std::string(untrusted);
  Builder builder(border);
  builder.reserve(std::min(untrusted.size(), border.max_bytes));
  Receiver receiver(untrusted, builder);
  std::size_t end = 0;
  const auto fail = [&](const std::string& what, std::size_t at) {
    builder.refuse(what);
    builder.raise(at);
  };
  const bool complete = msgpack::parse(untrusted.data(), untrusted.size(), end, receiver);
  if (!complete) {
    if (!builder.refusal().message.empty()) builder.raise(receiver.placed_or(end) + builder.refusal().within);
    fail("the msgpack ends within a value", untrusted.size());
  }
  if (end < untrusted.size()) fail("bytes follow the msgpack value", end);
  return builder.take();
}

void check_utf8(std::string_view text, const Border& border) {
  if (const std::size_t at = utf8::first_invalid(text); at != utf8::kValid) {
    throw Error(border.code, "text is not valid UTF-8 (at byte " + std::to_string(at) + ")",
                {{"offset", static_cast<std::int64_t>(at)}});
  }
}

std::string_view field(std::string_view map, std::string_view key) {
  Reader reader(map);
  for (std::size_t left = reader.map(); left > 0; --left) {
    const int order = reader.str().compare(key);
    if (order > 0) return {};
    if (order == 0) return reader.skip();
    reader.skip();
  }
  return {};
}

std::uint64_t hash64(std::string_view bytes) noexcept { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace syncline::mp
