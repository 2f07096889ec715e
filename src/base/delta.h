// Field-level differences between two documents, on their encoded form.
//
// Grammar  delta  := map { key: change }                       keys sorted, as in every map
//          change := [0, new]        the field was added
//                  | [1, old]        it was removed
//                  | [2, old, new]   it was replaced
//                  | [3, delta]      both are maps: what differs within
//          Lists are compared as whole values. The delta of equal documents is the empty map.
// For any two encoded maps a, b: apply(a, diff(a, b)) == b and undo(b, diff(a, b)) == a, byte for byte.
// Threads  any: pure functions. Cost: one merge walk, linear in both documents.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace syncline::delta {

std::string diff(std::string_view before, std::string_view after);
std::string apply(std::string_view before, std::string_view delta);   // throws Error(corrupt) where it does not fit
std::string undo(std::string_view after, std::string_view delta);     // throws Error(corrupt) where it does not fit
bool is_empty(std::string_view delta) noexcept;

// `document` with each top-level field of `patch` put in place of its own (what `tx.update` does).
std::string merge_fields(std::string_view document, std::string_view patch);

// Visits every leaf change with its path; absent sides are empty views. For history and people.
struct Leaf {
  const std::string_view* path;
  std::size_t depth;
  std::string_view before, after;
};
void for_each_leaf(std::string_view delta, void (*visit)(void* context, const Leaf& leaf), void* context);

}  // namespace syncline::delta
