// Canonical msgpack (msgpack.h) into raw memory: the Writer of the inner loops, for what is valid already.
//
// What     Pieces that are written at a place with room for them. Each returns the place behind what it wrote.
// Threads  any: pure functions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace syncline::mp::put {

inline constexpr std::size_t kHeader = 9;    // the most of a str, a bin, an array, a map or a number
inline constexpr std::size_t kInstant = 15;  // of an instant

template <typename Number>
char* big_endian(char* at, Number value) noexcept {
  if constexpr (std::endian::native == std::endian::little) {
    if constexpr (sizeof(Number) == 2) value = __builtin_bswap16(value);
    if constexpr (sizeof(Number) == 4) value = __builtin_bswap32(value);
    if constexpr (sizeof(Number) == 8) value = __builtin_bswap64(value);
  }
  std::memcpy(at, &value, sizeof(Number));
  return at + sizeof(Number);
}

template <typename Number>
char* number(char* at, unsigned head, Number value) noexcept {
  *at = static_cast<char>(head);
  return big_endian(at + 1, value);
}

inline char* byte(char* at, unsigned value) noexcept {
  *at = static_cast<char>(value);
  return at + 1;
}

inline char* natural(char* at, std::uint64_t value) noexcept {
  if (value < 0x80) return byte(at, static_cast<unsigned>(value));
  if (value <= 0xff) return number(at, 0xcc, static_cast<std::uint8_t>(value));
  if (value <= 0xffff) return number(at, 0xcd, static_cast<std::uint16_t>(value));
  if (value <= 0xffffffff) return number(at, 0xce, static_cast<std::uint32_t>(value));
  return number(at, 0xcf, value);
}

inline char* integer(char* at, std::int64_t value) noexcept {
  if (value >= 0) return natural(at, static_cast<std::uint64_t>(value));
  const auto bits = static_cast<std::uint64_t>(value);
  if (value >= -32) return byte(at, static_cast<std::uint8_t>(bits));
  if (value >= -0x80) return number(at, 0xd0, static_cast<std::uint8_t>(bits));
  if (value >= -0x8000) return number(at, 0xd1, static_cast<std::uint16_t>(bits));
  if (value >= -0x80000000LL) return number(at, 0xd2, static_cast<std::uint32_t>(bits));
  return number(at, 0xd3, bits);
}

// The header of a string of `size` bytes, less than 2^32.
inline char* str_header(char* at, std::size_t size) noexcept {
  if (size < 32) return byte(at, 0xa0u | static_cast<unsigned>(size));
  if (size <= 0xff) return number(at, 0xd9, static_cast<std::uint8_t>(size));
  if (size <= 0xffff) return number(at, 0xda, static_cast<std::uint16_t>(size));
  return number(at, 0xdb, static_cast<std::uint32_t>(size));
}

inline char* array_header(char* at, std::size_t size) noexcept {
  if (size < 16) return byte(at, 0x90u | static_cast<unsigned>(size));
  if (size <= 0xffff) return number(at, 0xdc, static_cast<std::uint16_t>(size));
  return number(at, 0xdd, static_cast<std::uint32_t>(size));
}

inline char* raw(char* at, std::string_view bytes) noexcept {
  if (!bytes.empty()) std::memcpy(at, bytes.data(), bytes.size());
  return at + bytes.size();
}

inline char* str(char* at, std::string_view text) noexcept { return raw(str_header(at, text.size()), text); }

// Within the years that an instant may have.
inline char* instant(char* at, std::int64_t microseconds) noexcept {
  constexpr std::int64_t kSecond = 1'000'000;
  std::int64_t seconds = microseconds / kSecond;
  std::int64_t rest = microseconds % kSecond;
  if (rest < 0) {
    rest += kSecond;
    --seconds;
  }
  const auto nanoseconds = static_cast<std::uint32_t>(rest * 1000);
  constexpr std::uint8_t kTimestamp = 0xff;
  if (seconds < 0 || seconds > 0x3ffffffff) {
    at = number(at, 0xc7, std::uint8_t{12});
    return big_endian(number(at, kTimestamp, nanoseconds), static_cast<std::uint64_t>(seconds));
  }
  if (nanoseconds != 0 || seconds > 0xffffffff) {
    return number(byte(at, 0xd7), kTimestamp, std::uint64_t{nanoseconds} << 34 | static_cast<std::uint64_t>(seconds));
  }
  return number(byte(at, 0xd6), kTimestamp, static_cast<std::uint32_t>(seconds));
}

}  // namespace syncline::mp::put
