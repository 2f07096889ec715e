#include "base/builder.h"

#include <algorithm>

#include "base/utf8.h"

namespace syncline::mp {

namespace {

constexpr std::size_t header_size(std::size_t count) noexcept {
  return count < 16 ? 1 : count <= 0xffff ? 3 : 5;
}

void put_header(char* at, std::size_t count, bool is_map) noexcept {
  if (count < 16) {
    at[0] = static_cast<char>((is_map ? 0x80u : 0x90u) | count);
  } else if (count <= 0xffff) {
    at[0] = static_cast<char>(is_map ? 0xdeu : 0xdcu);
    at[1] = static_cast<char>(count >> 8);
    at[2] = static_cast<char>(count);
  } else {
    at[0] = static_cast<char>(is_map ? 0xdfu : 0xddu);
    for (unsigned i = 0; i < 4; ++i) at[1 + i] = static_cast<char>(count >> (24 - 8 * i));
  }
}

constexpr std::size_t str_header_size(std::size_t size) noexcept {
  return size < 32 ? 1 : size < 0x100 ? 2 : size < 0x10000 ? 3 : 5;
}

void resize_header(std::string& out, std::size_t at, std::size_t from, std::size_t to) {
  if (from < to) out.insert(at, to - from, '\0');
  if (from > to) out.erase(at, from - to);
}

}  // namespace

void close_header(std::string& out, std::size_t header_at, std::size_t size, bool is_map) {
  resize_header(out, header_at, 1, header_size(size));
  put_header(out.data() + header_at, size, is_map);
}

bool Builder::refuse(std::string message, std::size_t within) {
  refusal_ = {border_.code, std::move(message), within, false};
  return false;
}

bool Builder::too_large() {
  refusal_ = {Code::too_large, "the value is larger than " + std::to_string(border_.max_bytes) + " bytes when encoded",
              0, true};
  return false;
}

void Builder::raise(std::size_t offset) const {
  const auto at = static_cast<std::int64_t>(offset);
  if (refusal_.size_limit) {
    throw Error(refusal_.code, refusal_.message,
                {{"limit", static_cast<std::int64_t>(border_.max_bytes)}, {"offset", at}});
  }
  throw Error(refusal_.code, refusal_.message + " (at byte " + std::to_string(at) + ")", {{"offset", at}});
}

bool Builder::str(std::string_view text) {
  if (!value(text.size() + 1)) return false;
  if (texts_ == Texts::unchecked) {
    if (const std::size_t at = utf8::first_invalid(text); at != utf8::kValid) return refuse("a string is not valid UTF-8", at);
  }
  writer_.str(text);
  return true;
}

bool Builder::instant(std::int64_t microseconds) {
  if (!value(6)) return false;
  if (microseconds < kMinInstant || microseconds > kMaxInstant) {
    return refuse("an instant lies outside the years 1 to 9999");
  }
  writer_.instant(microseconds);
  return true;
}

bool Builder::open(std::size_t expected, bool is_map) {
  if (!value(1)) return false;
  if (frames_.size() >= static_cast<std::size_t>(border_.max_nesting)) {
    return refuse("maps and lists are nested more than " + std::to_string(border_.max_nesting) + " deep");
  }
  const std::size_t reserved = header_size(expected);
  frames_.push_back({out_.size(), fields_.size(), 0, reserved, is_map, true});
  out_.append(reserved, '\0');
  return true;
}

bool Builder::key(std::string_view name) {
  if (out_.size() + name.size() + 1 > border_.max_bytes) return too_large();
  if (texts_ == Texts::unchecked) {
    if (const std::size_t at = utf8::first_invalid(name); at != utf8::kValid) return refuse("a key is not valid UTF-8", at);
  }
  if (!border_.allow_dollar_keys && !name.empty() && name.front() == '$') {
    return refuse("the key " + utf8::quoted(name) +
                  " begins with '$'; such keys are reserved for the JSON form of values");
  }
  Frame& frame = frames_.back();
  if (frame.sorted && fields_.size() > frame.fields_at) {
    const int order = key_of(fields_.back()).compare(name);
    if (order == 0) return refuse("the key " + utf8::quoted(name) + " appears twice in one map");
    frame.sorted = order < 0;
  }
  ++frame.count;
  fields_.push_back({out_.size(), name.size()});
  writer_.str(name);
  return true;
}

bool Builder::close() {
  const Frame frame = frames_.back();
  if (frame.is_map && !frame.sorted && !sort_fields(frame)) return false;
  frames_.pop_back();
  fields_.resize(frame.fields_at);
  const std::size_t needed = header_size(frame.count);
  resize_header(out_, frame.header_at, frame.header_size, needed);
  put_header(out_.data() + frame.header_at, frame.count, frame.is_map);
  return out_.size() <= border_.max_bytes || too_large();
}

std::string_view Builder::key_of(const Field& field) const noexcept {
  return {out_.data() + field.at + str_header_size(field.key_size), field.key_size};
}

bool Builder::sort_fields(const Frame& frame) {
  ranges_.clear();
  ranges_.reserve(fields_.size() - frame.fields_at);
  for (std::size_t i = frame.fields_at; i < fields_.size(); ++i) {
    const std::size_t end = i + 1 < fields_.size() ? fields_[i + 1].at : out_.size();
    ranges_.push_back({key_of(fields_[i]), fields_[i].at, end - fields_[i].at});
  }
  std::sort(ranges_.begin(), ranges_.end(), [](const Range& a, const Range& b) { return a.key < b.key; });
  for (std::size_t i = 1; i < ranges_.size(); ++i) {
    if (ranges_[i - 1].key == ranges_[i].key) {
      return refuse("the key " + utf8::quoted(ranges_[i].key) + " appears twice in one map");
    }
  }
  scratch_.clear();
  scratch_.reserve(out_.size() - frame.header_at);
  for (const Range& range : ranges_) scratch_.append(out_, range.at, range.size);
  out_.replace(frame.header_at + frame.header_size, scratch_.size(), scratch_);
  return true;
}

}  // namespace syncline::mp
