// Canonical msgpack: the one form in which values are stored, compared, hashed and sent.
//
// Grammar  value  := nil | bool | int | float64 | str | bin | array | map | instant
//          map    := keys are str, unique, sorted by their bytes, none begins with '$'
//          int    := the shortest msgpack form; -2^63 ... 2^64-1
//          float  := always float64; every NaN is 0x7ff8000000000000; -0.0 survives
//          str    := valid UTF-8; shortest header; instant := timestamp ext (-1), shortest of 32/64/96, whole microseconds,
//                    years 1 to 9999
//          Equal values are equal bytes.
// Owner    `Writer` appends to a string it does not own; `Reader` walks bytes it does not own.
// Threads  one object, one thread; free functions any.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "base/error.h"

namespace syncline::mp {

inline constexpr int kMaxNesting = 64;                       // maps and lists within each other
inline constexpr std::size_t kMaxDocument = 1u << 20;        // 1 MiB, encoded
inline constexpr std::int64_t kMinInstant = -62135596800'000'000;  // 0001-01-01T00:00:00Z in microseconds
inline constexpr std::int64_t kMaxInstant = 253402300799'999'999;  // 9999-12-31T23:59:59.999999Z

class Writer {
 public:
  explicit Writer(std::string& out) : out_(out) {}

  void nil();
  void boolean(bool value);
  void integer(std::int64_t value);
  void natural(std::uint64_t value);
  void real(double value);
  void str(std::string_view value);  // the caller vouches for UTF-8
  void bin(std::string_view value);
  void array(std::size_t size);
  void map(std::size_t size);
  void instant(std::int64_t microseconds);
  void raw(std::string_view canonical);  // a value that is canonical already

 private:
  std::string& out_;
};

enum class Kind : std::uint8_t { nil, boolean, integer, natural, real, str, bin, array, map, instant };
// `natural` only for integers above 2^63-1; all others are `integer`.

// A cursor over canonical bytes written by this library (never over untrusted ones: those go through `canonicalise`
// first). Reading past the end or as the wrong kind throws Error(corrupt) with the byte offset.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}

  [[nodiscard]] bool at_end() const noexcept { return at_ >= bytes_.size(); }
  [[nodiscard]] std::size_t offset() const noexcept { return at_; }
  [[nodiscard]] Kind peek() const;

  void nil();
  bool boolean();
  std::int64_t integer();
  std::uint64_t natural();  // any integer that is not negative
  double real();
  std::string_view str();
  std::string_view bin();
  std::size_t array();
  std::size_t map();
  std::int64_t instant();

  std::string_view skip();  // the bytes of the next value, whole
  bool next_is_nil() const { return peek() == Kind::nil; }

 private:
  [[nodiscard]] std::uint8_t head() const;
  template <typename T>
  [[nodiscard]] T load(std::size_t at) const;
  std::string_view take(std::size_t header, std::size_t size);
  [[noreturn]] void truncated() const;
  [[noreturn]] void unexpected(const char* wanted) const;

  std::string_view bytes_;
  std::size_t at_ = 0;
};

// Where a refused value was found, and what it is called in the message.
struct Border {
  Code code = Code::invalid_mutation;  // with which code to refuse
  int max_nesting = kMaxNesting;
  std::size_t max_bytes = kMaxDocument;  // of the encoded form; above it: too_large with `limit`
  bool allow_dollar_keys = false;
};

// Untrusted msgpack -> canonical msgpack. Refuses with Error(border.code) naming the byte `offset`: truncated or trailing
// bytes, an ext that is no timestamp, invalid UTF-8, a key that is no string, a duplicate key, a '$' key, nesting beyond
// the limit. Bytes that are canonical already are copied as they are.
std::string canonicalise(std::string_view untrusted, const Border& border = {});

// Whether these untrusted bytes are one value in canonical form, within the border.
bool is_canonical(std::string_view untrusted, const Border& border = {});

// Throws Error(border.code) unless `text` is valid UTF-8; names the offset.
void check_utf8(std::string_view text, const Border& border = {});

// Encoded map -> the encoded value of one top-level field, or an empty view where it is absent.
std::string_view field(std::string_view map, std::string_view key);

// XXH3-64 of the bytes: the body hash of the log and the content hash of a mutation.
std::uint64_t hash64(std::string_view bytes) noexcept;

// The body of Reader is inline because it is the inner loop of pull, diff and find.

inline std::uint8_t Reader::head() const {
  if (at_ >= bytes_.size()) truncated();
  return static_cast<std::uint8_t>(bytes_[at_]);
}

// The big-endian number `at` bytes behind the header byte.
template <typename T>
T Reader::load(std::size_t at) const {
  if (bytes_.size() - at_ < at + sizeof(T)) truncated();
  T value;
  std::memcpy(&value, bytes_.data() + at_ + at, sizeof(T));
  if constexpr (std::endian::native == std::endian::little) {
    if constexpr (sizeof(T) == 2) value = __builtin_bswap16(value);
    if constexpr (sizeof(T) == 4) value = __builtin_bswap32(value);
    if constexpr (sizeof(T) == 8) value = __builtin_bswap64(value);
  }
  return value;
}

inline std::string_view Reader::take(std::size_t header, std::size_t size) {
  const std::size_t left = bytes_.size() - at_;
  if (left < header || left - header < size) truncated();
  const std::string_view body(bytes_.data() + at_ + header, size);
  at_ += header + size;
  return body;
}

inline Kind Reader::peek() const {
  const std::uint8_t byte = head();
  if (byte < 0x80 || byte >= 0xe0) return Kind::integer;
  if (byte < 0x90) return Kind::map;
  if (byte < 0xa0) return Kind::array;
  if (byte < 0xc0) return Kind::str;
  switch (byte) {
    case 0xc0: return Kind::nil;
    case 0xc2:
    case 0xc3: return Kind::boolean;
    case 0xc4:
    case 0xc5:
    case 0xc6: return Kind::bin;
    case 0xc7:
    case 0xd6:
    case 0xd7: return Kind::instant;
    case 0xcb: return Kind::real;
    case 0xcf: return load<std::uint8_t>(1) >= 0x80 ? Kind::natural : Kind::integer;
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3: return Kind::integer;
    case 0xd9:
    case 0xda:
    case 0xdb: return Kind::str;
    case 0xdc:
    case 0xdd: return Kind::array;
    case 0xde:
    case 0xdf: return Kind::map;
    default: unexpected("a value");
  }
}

inline void Reader::nil() {
  if (head() != 0xc0) unexpected("nil");
  ++at_;
}

inline bool Reader::boolean() {
  const std::uint8_t byte = head();
  if (byte != 0xc2 && byte != 0xc3) unexpected("a bool");
  ++at_;
  return byte == 0xc3;
}

inline std::int64_t Reader::integer() {
  const std::uint8_t byte = head();
  std::int64_t value = 0;
  std::size_t size = 1;
  if (byte < 0x80 || byte >= 0xe0) {
    value = static_cast<std::int8_t>(byte);
  } else {
    switch (byte) {
      case 0xcc: value = load<std::uint8_t>(1), size = 2; break;
      case 0xcd: value = load<std::uint16_t>(1), size = 3; break;
      case 0xce: value = load<std::uint32_t>(1), size = 5; break;
      case 0xcf:
        value = static_cast<std::int64_t>(load<std::uint64_t>(1)), size = 9;
        if (value < 0) unexpected("an integer below 2^63");
        break;
      case 0xd0: value = static_cast<std::int8_t>(load<std::uint8_t>(1)), size = 2; break;
      case 0xd1: value = static_cast<std::int16_t>(load<std::uint16_t>(1)), size = 3; break;
      case 0xd2: value = static_cast<std::int32_t>(load<std::uint32_t>(1)), size = 5; break;
      case 0xd3: value = static_cast<std::int64_t>(load<std::uint64_t>(1)), size = 9; break;
      default: unexpected("an integer");
    }
  }
  at_ += size;
  return value;
}

inline std::uint64_t Reader::natural() {
  if (head() == 0xcf) {
    const auto value = load<std::uint64_t>(1);
    at_ += 9;
    return value;
  }
  const std::size_t start = at_;
  const std::int64_t value = integer();
  if (value < 0) {
    at_ = start;
    unexpected("an integer that is not negative");
  }
  return static_cast<std::uint64_t>(value);
}

inline double Reader::real() {
  if (head() != 0xcb) unexpected("a float");
  const auto bits = load<std::uint64_t>(1);
  at_ += 9;
  return std::bit_cast<double>(bits);
}

inline std::string_view Reader::str() {
  const std::uint8_t byte = head();
  if ((byte & 0xe0) == 0xa0) return take(1, byte & 0x1f);
  switch (byte) {
    case 0xd9: return take(2, load<std::uint8_t>(1));
    case 0xda: return take(3, load<std::uint16_t>(1));
    case 0xdb: return take(5, load<std::uint32_t>(1));
    default: unexpected("a string");
  }
}

inline std::string_view Reader::bin() {
  switch (head()) {
    case 0xc4: return take(2, load<std::uint8_t>(1));
    case 0xc5: return take(3, load<std::uint16_t>(1));
    case 0xc6: return take(5, load<std::uint32_t>(1));
    default: unexpected("bytes");
  }
}

inline std::size_t Reader::array() {
  const std::uint8_t byte = head();
  std::size_t size = byte & 0x0f;
  std::size_t header = 1;
  if (byte == 0xdc) {
    size = load<std::uint16_t>(1), header = 3;
  } else if (byte == 0xdd) {
    size = load<std::uint32_t>(1), header = 5;
  } else if ((byte & 0xf0) != 0x90) {
    unexpected("a list");
  }
  at_ += header;
  return size;
}

inline std::size_t Reader::map() {
  const std::uint8_t byte = head();
  std::size_t size = byte & 0x0f;
  std::size_t header = 1;
  if (byte == 0xde) {
    size = load<std::uint16_t>(1), header = 3;
  } else if (byte == 0xdf) {
    size = load<std::uint32_t>(1), header = 5;
  } else if ((byte & 0xf0) != 0x80) {
    unexpected("a map");
  }
  at_ += header;
  return size;
}

inline std::string_view Reader::skip() {
  const std::size_t start = at_;
  std::uint64_t left = 1;
  do {
    --left;
    const std::uint8_t byte = head();
    if (byte < 0x80 || byte >= 0xe0) {
      ++at_;
    } else if (byte >= 0xa0 && byte < 0xc0) {
      take(1, byte & 0x1f);
    } else if (byte < 0x90) {
      left += 2u * (byte & 0x0fu);
      ++at_;
    } else if (byte < 0xa0) {
      left += byte & 0x0fu;
      ++at_;
    } else {
      switch (byte) {
        case 0xc0:
        case 0xc2:
        case 0xc3: ++at_; break;
        case 0xcc:
        case 0xd0: take(2, 0); break;
        case 0xcd:
        case 0xd1: take(3, 0); break;
        case 0xce:
        case 0xd2: take(5, 0); break;
        case 0xcb:
        case 0xcf:
        case 0xd3: take(9, 0); break;
        case 0xd6: take(6, 0); break;
        case 0xd7: take(10, 0); break;
        case 0xc7: take(3, load<std::uint8_t>(1)); break;
        case 0xc4:
        case 0xd9: take(2, load<std::uint8_t>(1)); break;
        case 0xc5:
        case 0xda: take(3, load<std::uint16_t>(1)); break;
        case 0xc6:
        case 0xdb: take(5, load<std::uint32_t>(1)); break;
        case 0xdc:
        case 0xdd: left += array(); break;
        case 0xde:
        case 0xdf: left += 2 * static_cast<std::uint64_t>(map()); break;
        default: unexpected("a value");
      }
    }
  } while (left > 0);
  return bytes_.substr(start, at_ - start);
}

}  // namespace syncline::mp
