// How results are stored: one blob per (client, push), so that a repeat is answered with what was said the first time.
//
// Grammar  blob   := [entry, ...]                                  in order of seq
//          entry  := [seq, hash, cursor, error, changes]           hash: of the mutation's content, as an unsigned integer
//          error  := nil | [code, message, {name: str | int}]
//          changes := [[cursor, entity, id, op, version], ...]
// Threads  any: pure functions.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "engine/mutation.h"

namespace syncline::results {

struct Stored {
  std::uint64_t hash = 0;
  MutationResult result;
};

std::string encode_entry(std::int64_t seq, std::uint64_t hash, const MutationResult& result);
Stored decode_entry(std::string_view entry);
std::string pack(const std::map<std::int64_t, std::string>& entries);
std::optional<Stored> find(std::string_view blob, std::int64_t seq);

}  // namespace syncline::results
