// One column of a table while it is filled: contiguous buffers in the memory layout of Apache Arrow.
//
// Owner    a batch of a `TableSource`; whoever took the batch owns its memory from then on.
// Threads  one at a time.
// Layout   validity: a bit per row, least significant first, made with the first null; words: 8 bytes a row; bits: a bit a row;
//          offsets: rows + 1 positions in `chars`; codes: a position in the dictionary per row, the dictionary in offsets and chars.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace syncline {

enum class ColumnType : std::uint8_t {
  none,     // nothing but null
  boolean,
  integer,  // int64
  natural,  // uint64
  real,     // float64
  instant,  // microseconds since 1970, UTC
  text,     // UTF-8
  json,     // UTF-8: the protocol's JSON of a value that no single type holds
  bytes,
  name,     // UTF-8 of which the same few come again: codes and a dictionary
};

struct ColumnField {
  std::string name;
  ColumnType type = ColumnType::none;
  bool nullable = true;
};

// The distinct texts of a column, numbered in the order in which they came.
class NameTable {
 public:
  std::int32_t code(std::string_view text);
  [[nodiscard]] std::size_t size() const noexcept { return offsets.size() - 1; }
  [[nodiscard]] std::string_view text(std::int32_t code) const noexcept {
    const auto at = static_cast<std::size_t>(code);
    return std::string_view(chars).substr(static_cast<std::size_t>(offsets[at]), static_cast<std::size_t>(offsets[at + 1] - offsets[at]));
  }

  std::vector<std::int32_t> offsets{0};
  std::string chars;

 private:
  struct Slot {
    std::uint64_t hash = 0;
    std::int32_t code = -1;
  };
  void grow();
  std::vector<Slot> slots_;
  std::int32_t last_ = -1;
};

class Column {
 public:
  explicit Column(ColumnType type);

  // Each adds a row; which one may be called follows from the type.
  void null();
  void boolean(bool value) {
    if ((rows_ & 7) == 0) bits.push_back(0);
    if (value) bits.back() = static_cast<std::uint8_t>(bits.back() | 1u << (rows_ & 7));
    valid();
  }
  void integer(std::int64_t value) {
    words.push_back(value);
    valid();
  }
  void natural(std::uint64_t value) { integer(static_cast<std::int64_t>(value)); }
  void real(double value) { integer(std::bit_cast<std::int64_t>(value)); }
  void text(std::string_view value) {
    chars.append(value);
    written();
  }
  // The row is what was appended to `chars` since the last one.
  void written() {
    offsets.push_back(static_cast<std::int32_t>(chars.size()));
    valid();
  }
  void name(std::string_view value) {
    codes.push_back(names.code(value));
    valid();
  }
  void name_or_null(std::string_view value) { value.empty() ? null() : name(value); }
  // Nulls up to `rows`.
  void pad(std::size_t rows) {
    while (rows_ < rows) null();
  }

  [[nodiscard]] ColumnType type() const noexcept { return type_; }
  [[nodiscard]] std::size_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::size_t nulls() const noexcept { return nulls_; }

  std::vector<std::uint8_t> validity;  // empty: no row is null
  std::vector<std::uint8_t> bits;
  std::vector<std::int64_t> words;
  std::vector<std::int32_t> offsets;
  std::vector<std::int32_t> codes;
  std::string chars;
  NameTable names;

 private:
  void valid() {
    if (nulls_ > 0) {
      if ((rows_ & 7) == 0) validity.push_back(0);
      validity.back() = static_cast<std::uint8_t>(validity.back() | 1u << (rows_ & 7));
    }
    ++rows_;
  }

  ColumnType type_;
  std::size_t rows_ = 0, nulls_ = 0;
};

}  // namespace syncline
