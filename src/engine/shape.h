// Which columns the documents of a table have: learned from all of them, then used to take each apart. The rule is in table.h.
//
// Owner    a table's source. Threads  one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/column.h"

namespace syncline {

class Shape {
 public:
  // `only`: the top-level fields to take; none: all.
  explicit Shape(std::optional<std::vector<std::string>> only = {});

  void learn(std::string_view document);

  // The columns, in byte order of the keys of each map. Nothing is learned afterwards. Error(too_large) above kMaxColumns.
  std::vector<ColumnField> fields();

  // Adds a row to the columns [first, first + number of fields) of a batch: row `row`, the ones before which it was not said are null.
  void add(std::string_view document, std::size_t row, std::vector<Column>& columns, std::size_t first) const;

 private:
  struct Node {
    std::string key;
    std::vector<Node> children;  // sorted by key
    std::uint16_t kinds = 0;     // bit per mp::Kind
    bool negative = false;       // an integer below 0 was seen
    bool inexact = false;        // an integer that is no float64 was seen
    bool whole = false;          // more keys than become columns: JSON
    std::optional<std::size_t> column;
  };
  static void learn(Node& node, std::string_view value);
  void plan(Node& node, const std::string& path, std::vector<ColumnField>& fields);
  static ColumnType type_of(const Node& node);
  static void add(const Node& node, std::string_view map, std::size_t row, std::vector<Column>& columns, std::size_t first);

  Node root_;
  std::optional<std::vector<std::string>> only_;  // sorted
};

}  // namespace syncline
