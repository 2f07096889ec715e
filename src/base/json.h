// JSON both ways, in the dialect of the protocol (after MongoDB Extended JSON v2).
//
//   {"$binary": base64}            bytes                       {"$date": RFC 3339 with microseconds}     an instant, in UTC
//   {"$numberLong": "…"}           integers outside +-2^53     {"$numberDouble": "NaN" | "Infinity" | "-Infinity" | "-0.0"}
//   a number with '.' or exponent is a float64 (1.0 is written "1.0"); without, an integer; beyond 64 bits it is refused
//
// Threads  any: free functions without state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/msgpack.h"

namespace syncline::json {

// JSON text -> canonical msgpack. Refuses with Error(border.code), with the byte `offset`, what is not JSON, not UTF-8
// (lone surrogates included), has a duplicate key, an unknown or malformed '$' form, nests too deeply or is too large.
std::string to_msgpack(std::string_view text, const mp::Border& border = {});

// Canonical msgpack -> JSON text, appended. Never fails on what `canonicalise` let in.
void from_msgpack(std::string_view value, Bytes& out);
void from_msgpack(std::string_view value, std::string& out);

// The same into raw memory, as packer.h does: each writes at a place with room for it, and returns the place behind what it wrote.
// Of a value of `size` packed bytes with the comma behind it: two bytes of an empty `bin` become {"$binary":""}.
constexpr std::size_t most_of(std::size_t size) noexcept { return 8 * size + 64; }
inline constexpr std::size_t kInstant = 27;
inline constexpr std::size_t kInteger = 24;
char* put_value(std::string_view value, char* at);  // throws as a Reader does on what is damaged
char* put_string(std::string_view text, char* at) noexcept;
char* put_integer(std::int64_t value, char* at) noexcept;
char* put_instant(std::int64_t microseconds, char* at) noexcept;

// A JSON string literal, quotes and escapes included, appended.
void append_string(std::string_view text, Bytes& out);

void append_integer(std::int64_t value, Bytes& out);

// "2026-01-02T03:04:05.000006Z" <-> microseconds since 1970; any UTC offset is read, Z is written.
std::int64_t parse_instant(std::string_view text, const mp::Border& border = {});  // throws Error(border.code)

}  // namespace syncline::json
