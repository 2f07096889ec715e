#include "base/utf8.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace syncline::utf8 {

std::size_t first_invalid(std::string_view text) noexcept {
  const char* const begin = text.data();
  const std::size_t size = text.size();
  const auto byte = [begin](std::size_t at) { return static_cast<std::uint8_t>(begin[at]); };
  const auto continues = [&](std::size_t at) { return at < size && (byte(at) & 0xc0) == 0x80; };
  std::size_t at = 0;
  while (at < size) {
    while (size - at >= 8) {
      std::uint64_t eight;
      std::memcpy(&eight, begin + at, 8);
      if ((eight & 0x8080808080808080u) != 0) break;
      at += 8;
    }
    if (at >= size) break;
    const std::uint8_t lead = byte(at);
    if (lead < 0x80) {
      ++at;
    } else if (lead < 0xc2) {
      return at;
    } else if (lead < 0xe0) {
      if (!continues(at + 1)) return at;
      at += 2;
    } else if (lead < 0xf0) {
      if (!continues(at + 1) || !continues(at + 2)) return at;
      const std::uint8_t second = byte(at + 1);
      if ((lead == 0xe0 && second < 0xa0) || (lead == 0xed && second > 0x9f)) return at;
      at += 3;
    } else if (lead < 0xf5) {
      if (!continues(at + 1) || !continues(at + 2) || !continues(at + 3)) return at;
      const std::uint8_t second = byte(at + 1);
      if ((lead == 0xf0 && second < 0x90) || (lead == 0xf4 && second > 0x8f)) return at;
      at += 4;
    } else {
      return at;
    }
  }
  return kValid;
}

std::string quoted(std::string_view text) {
  constexpr std::size_t kShown = 40;
  const std::size_t valid = std::min(first_invalid(text), text.size());
  std::size_t shown = std::min(valid, kShown);
  while (shown > 0 && shown < valid && (static_cast<std::uint8_t>(text[shown]) & 0xc0) == 0x80) --shown;
  std::string out = "'";
  for (const char c : text.substr(0, shown)) {
    out += static_cast<std::uint8_t>(c) < 0x20 || c == 0x7f ? '?' : c;
  }
  if (shown < text.size()) out += "...";
  out += '\'';
  return out;
}

}  // namespace syncline::utf8
