// Names and the numbers that stand for them in rows, as one connection has met them.
//
// Owner    a `Session`; bounded. What a reader has seen is committed and never changes; a writer that rolls back clears its own.
// Threads  its connection's.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "store/sqlite.h"

namespace syncline::sqlite {

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>{}(text); }
};

template <class Value>
using ByName = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;

class Dictionary {
 public:
  static constexpr std::size_t kMost = 16384;  // of up to 255 bytes each

  Dictionary(Connection& connection, Query number_of, Query text_of) noexcept
      : connection_(connection), number_of_(number_of), text_of_(text_of) {}

  // The number of a name; 0: it has none.
  std::int64_t number(std::string_view name);
  // The same without asking the database; 0: it is not known here.
  [[nodiscard]] std::int64_t known(std::string_view name) const {
    const auto found = numbers_.find(name);
    return found != numbers_.end() ? found->second : 0;
  }
  // The name of a number: a view into the dictionary, or into `scratch` where the dictionary is full. Neither moves while
  // visitors run.
  std::string_view text(std::int64_t number, std::string& scratch);
  void remember(std::string_view name, std::int64_t number);
  void clear() noexcept;
  // Makes room; between transactions, when nobody holds a view.
  void trim() noexcept {
    if (texts_.size() >= kMost) texts_.clear();
  }

 private:
  Connection& connection_;
  Query number_of_, text_of_;
  ByName<std::int64_t> numbers_;
  std::unordered_map<std::int64_t, std::string> texts_;
};

}  // namespace syncline::sqlite
