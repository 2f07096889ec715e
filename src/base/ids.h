// Identifiers: what a name may be, and UUIDv7 (RFC 9562) made from a time and random bits.
//
// Threads  any; `Random` is one thread's.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"

namespace syncline {

inline constexpr std::size_t kMaxName = 255;  // bytes of UTF-8

// scope, entity, id, client_id and name: 1-255 bytes of UTF-8, no control characters (C0, DEL, C1); a leading '_' is
// reserved and refused unless `allow_reserved`. Throws Error(code) saying which `what` was wrong and why.
void check_name(std::string_view name, std::string_view what, Code code, bool allow_reserved = false);
// Whether it is a name of plain ASCII, as nearly all are: then nothing else need be asked.
[[nodiscard]] bool is_plain_name(std::string_view name) noexcept;
// The same, where saying what it is costs something: `what()` is asked only for the message of a refusal.
template <std::invocable What>
void check_name(std::string_view name, const What& what, Code code, bool allow_reserved = false) {
  if (!is_plain_name(name)) check_name(name, std::string_view(what()), code, allow_reserved);
}

// The deterministic generator behind tx.uuid() and tx.random: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), seeded by the mutation's seed.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() noexcept;
  double uniform() noexcept;  // [0, 1) with 53 bits

 private:
  std::uint64_t state_;
};

// UUIDv7 from microseconds since 1970 (the millisecond part leads; the microseconds go into rand_a) and 62 random bits.
std::string uuid7(std::int64_t microseconds, std::uint64_t random_bits);

}  // namespace syncline
