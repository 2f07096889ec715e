// How results are stored: one blob per (client, push), so that a repeat is answered with what was said the first time.
//
// Grammar  blob   := [entry, ...]                                  in order of seq
//          entry  := [seq, hash, cursor, error, changes]           hash: of the mutation's content, as an unsigned integer
//          error  := nil | [code, message, {name: str | int}]
//          changes := [[cursor, entity, id, op, version], ...]
// Threads  any: pure functions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/mutation.h"

namespace syncline::results {

struct Stored {
  std::uint64_t hash = 0;
  MutationResult result;
};

// What one client's pushes of one commit are answered, encoded one after the other.
class Entries {
 public:
  void add(std::int64_t seq, std::uint64_t hash, const MutationResult& result);  // seq: above those that are in
  [[nodiscard]] std::optional<Stored> find(std::int64_t seq) const;
  [[nodiscard]] bool empty() const noexcept { return places_.empty(); }
  [[nodiscard]] std::int64_t first() const { return places_.front().seq; }
  [[nodiscard]] std::int64_t last() const { return places_.back().seq; }
  [[nodiscard]] std::string pack() const;  // the blob

 private:
  struct Place {
    std::int64_t seq;
    std::size_t at;  // where its entry begins
  };
  std::string bytes_;
  std::vector<Place> places_;
};

std::optional<Stored> find(std::string_view blob, std::int64_t seq);

}  // namespace syncline::results
