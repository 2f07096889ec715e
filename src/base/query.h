// Queries over encoded documents: the filter and the order of `find`, after MongoDB's rules.
//
// Grammar  filter    := map { field: condition }                fields joined by AND; "a.b" reaches into maps
//          condition := value                                   equality ($eq)
//                     | map of operators                        {"$gte": 1, "$lt": 9}: joined by AND
//          operators := $eq $ne $gt $gte $lt $lte $in $nin
//          Operators begin with '$', so a filter is encoded with Border::allow_dollar_keys.
// Rules    A missing field equals null (for $eq, $ne, $in, $nin), and meets no ordering operator but $gte / $lte null.
//          Ordering operators compare within one type class only (numbers of all kinds are one class); $ne and $nin are
//          the negation of $eq and $in. A list matches when it equals the operand, or one of its elements meets the condition.
//          Sorting orders classes as MongoDB does: missing and null, numbers, strings, maps, lists, bytes, bools, instants.
//          Integers and floats compare by exact value; NaN is below all numbers and equals NaN.
// Owner    value types, immutable after construction. Threads  any.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace syncline {

class Filter {
 public:
  Filter() = default;                               // matches every document
  explicit Filter(std::string_view encoded_filter); // throws Error(invalid_request) naming the unknown operator or wrong operand

  [[nodiscard]] bool matches(std::string_view document) const;
  [[nodiscard]] bool matches_all() const noexcept { return terms_.empty(); }

 private:
  enum class Op : unsigned char { eq, ne, gt, gte, lt, lte, in, nin };
  struct Term {
    std::vector<std::string> path;
    Op op;
    std::string operand;  // encoded
  };
  std::vector<Term> terms_;
};

// One field of a sort order: dotted path, descending?
using SortKey = std::pair<std::string, bool>;

// Three-way comparison of two encoded values in sort order (an empty view is a missing field): <0, 0, >0.
int compare_values(std::string_view a, std::string_view b);

// Three-way comparison of two documents by the sort keys.
int compare_documents(std::string_view a, std::string_view b, const std::vector<SortKey>& order);

// The encoded value at a dotted path within maps, or an empty view.
std::string_view value_at(std::string_view document, const std::vector<std::string>& path);

}  // namespace syncline
