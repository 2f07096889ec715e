// Builds one canonical value out of events in any key order: what the readers of msgpack, of JSON and of Python share.
//
// Rules    As in msgpack.h: keys sorted by their bytes, unique, valid UTF-8, without a leading '$'; nesting and size
//          within the border. A map's fields are sorted when it closes, and only if they did not come in order.
// Refusal  An event that breaks a rule returns false, and `refusal()` says why; the reader, which knows the offset, stops
//          and throws. After a refusal the builder is of no further use.
// Owner    the reader that made it. Threads  one object, one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/msgpack.h"

namespace syncline::mp {

// Completes a map or list whose one-byte header was left open at `header_at`, now that its size is known.
void close_header(std::string& out, std::size_t header_at, std::size_t size, bool is_map);

class Builder {
 public:
  struct Refusal {
    Code code = Code::invalid_mutation;
    std::string message;
    std::size_t within = 0;  // offset of the fault within the text of the event
    bool size_limit = false;
  };

  // Whether strings are valid UTF-8 is checked here, or was where they come from.
  enum class Texts : std::uint8_t { unchecked, valid };

  explicit Builder(const Border& border, Texts texts = Texts::unchecked) : border_(border), texts_(texts), writer_(out_) {
    frames_.reserve(8);
    fields_.reserve(32);
  }

  void reserve(std::size_t bytes) { out_.reserve(bytes); }

  bool nil() { return value(1) && (writer_.nil(), true); }
  bool boolean(bool b) { return value(1) && (writer_.boolean(b), true); }
  bool integer(std::int64_t i) { return value(1) && (writer_.integer(i), true); }
  bool natural(std::uint64_t n) { return value(1) && (writer_.natural(n), true); }
  bool real(double d) { return value(9) && (writer_.real(d), true); }
  bool str(std::string_view text);
  bool bin(std::string_view bytes) { return value(bytes.size() + 2) && (writer_.bin(bytes), true); }
  bool instant(std::int64_t microseconds);

  // `expected` is a hint at the number of items; nothing is allocated for it.
  bool open_array(std::size_t expected = 0) { return open(expected, false); }
  bool open_map(std::size_t expected = 0) { return open(expected, true); }
  bool key(std::string_view name);
  bool close();

  bool refuse(std::string message, std::size_t within = 0);
  [[nodiscard]] const Refusal& refusal() const noexcept { return refusal_; }
  [[nodiscard]] const Border& border() const noexcept { return border_; }

  // Throws the refusal as an Error found at `offset` of the input.
  [[noreturn]] void raise(std::size_t offset) const;

  // The finished value; the builder is empty afterwards.
  std::string take() { return std::move(out_); }

 private:
  struct Frame {
    std::size_t header_at;
    std::size_t fields_at;  // where its fields begin in fields_
    std::size_t count;
    std::size_t header_size;
    bool is_map;
    bool sorted;
  };
  struct Field {
    std::size_t at;
    std::size_t key_size;
  };

  struct Range {
    std::string_view key;
    std::size_t at, size;
  };

  bool value(std::size_t size);
  bool too_large();
  bool open(std::size_t expected, bool is_map);
  bool sort_fields(const Frame& frame);
  [[nodiscard]] std::string_view key_of(const Field& field) const noexcept;

  Border border_;
  Texts texts_;
  std::string out_;
  Writer writer_;
  std::vector<Frame> frames_;
  std::vector<Field> fields_;
  std::vector<Range> ranges_;  // with scratch_, kept between sorts for their memory
  std::string scratch_;
  Refusal refusal_;
};

inline bool Builder::value(std::size_t size) {
  if (out_.size() + size > border_.max_bytes) return too_large();
  if (!frames_.empty() && !frames_.back().is_map) ++frames_.back().count;
  return true;
}

}  // namespace syncline::mp
