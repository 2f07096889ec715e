#include "base/ids.h"

#include <algorithm>
#include <cstring>

#include "base/utf8.h"

namespace syncline {

bool is_plain_name(std::string_view name) noexcept {
  if (name.empty() || name.size() > kMaxName || name.front() == '_') return false;
  // Eight bytes at once: no high bit, none below 0x20 (a borrow into a clear high bit), none 0x7f (a carry into it).
  constexpr std::uint64_t kOnes = 0x0101010101010101u;
  constexpr std::uint64_t kHigh = 0x80 * kOnes;
  const auto plain = [](std::uint64_t bytes) { return ((bytes | (bytes - 0x20 * kOnes) | (bytes + kOnes)) & kHigh) == 0; };
  std::uint64_t bytes = 0;
  if (name.size() < 8) {
    bytes = 0x2020202020202020u;
    std::memcpy(&bytes, name.data(), name.size());
    return plain(bytes);
  }
  for (std::size_t at = 0; at + 8 <= name.size(); at += 8) {
    std::memcpy(&bytes, name.data() + at, 8);
    if (!plain(bytes)) return false;
  }
  std::memcpy(&bytes, name.data() + name.size() - 8, 8);
  return plain(bytes);
}

void check_name(std::string_view name, std::string_view what, Code code, bool allow_reserved) {
  if (is_plain_name(name)) return;
  const auto refuse = [&](const std::string& why) { throw Error(code, std::string(what) + " " + why); };
  if (name.empty()) refuse("is empty; it must have 1 to 255 bytes of UTF-8");
  if (name.size() > kMaxName) {
    refuse("has " + std::to_string(name.size()) + " bytes; it must have 1 to 255 bytes of UTF-8");
  }
  if (const std::size_t at = utf8::first_invalid(name); at != utf8::kValid) {
    refuse("is not valid UTF-8 at byte " + std::to_string(at));
  }
  for (std::size_t at = 0; at < name.size(); ++at) {
    const auto byte = static_cast<unsigned char>(name[at]);
    const bool c1 = byte == 0xc2 && static_cast<unsigned char>(name[at + 1]) < 0xa0;
    if (byte < 0x20 || byte == 0x7f || c1) {
      refuse("has a control character at byte " + std::to_string(at) + "; it must have none");
    }
  }
  if (name.front() == '_' && !allow_reserved) {
    refuse(utf8::quoted(name) + " begins with '_'; such names are reserved");
  }
}

std::uint64_t Random::next() noexcept {
  state_ += 0x9e3779b97f4a7c15u;
  std::uint64_t z = state_;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

double Random::uniform() noexcept { return static_cast<double>(next() >> 11) * 0x1.0p-53; }

std::string uuid7(std::int64_t microseconds, std::uint64_t random_bits) {
  const auto clamped = static_cast<std::uint64_t>(std::max<std::int64_t>(microseconds, 0));
  const std::uint64_t milliseconds = clamped / 1000;
  // RFC 9562, 6.2, method 3: the fraction of the millisecond, scaled to twelve bits, keeps the order within it.
  const std::uint64_t fraction = clamped % 1000 * 4096 / 1000;
  const std::uint64_t high = (milliseconds << 16) | 0x7000u | fraction;
  const std::uint64_t low = 0x8000000000000000u | (random_bits & 0x3fffffffffffffffu);
  constexpr char kHex[] = "0123456789abcdef";
  std::string out;
  out.reserve(36);
  for (unsigned nibble = 0; nibble < 32; ++nibble) {
    if (nibble == 8 || nibble == 12 || nibble == 16 || nibble == 20) out += '-';
    const std::uint64_t half = nibble < 16 ? high : low;
    out += kHex[(half >> (60 - 4 * (nibble % 16))) & 15];
  }
  return out;
}

}  // namespace syncline
