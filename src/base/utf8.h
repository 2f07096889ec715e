// UTF-8 as Unicode defines it: no surrogates, no overlong forms, nothing above U+10FFFF.
//
// Threads  any: pure functions. Cost: eight bytes at a step while the text is ASCII.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace syncline::utf8 {

inline constexpr std::size_t kValid = static_cast<std::size_t>(-1);

// The offset of the first byte that belongs to no valid sequence, or kValid.
std::size_t first_invalid(std::string_view text) noexcept;

// `text` in quotes for a message to a person: at most 40 bytes of it, control characters shown as '?'.
std::string quoted(std::string_view text);

}  // namespace syncline::utf8
