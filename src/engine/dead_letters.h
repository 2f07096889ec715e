// What a mutator's code failed of, kept for whoever mends it: a letter per unexpected exception, in the commit that consumed the
// mutation's number.
//
// What     Unlogged documents in the scope "_dead_letters": no client can name them, no pull, log or snapshot has them.
//          entity "letter"   id: its number, 16 digits   body: the fields of DeadLetter
//          entity "ledger"   id "ledger"                 body {bytes, count, dropped, first, last}
//          Numbers rise and are never reused. Too many, too old or too large altogether: the oldest go, and `dropped` counts them.
// Owner    the engine; the functions here work on the write set of the commit that is being made.
// Threads  as the write set.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "engine/mutation.h"
#include "engine/write_set.h"

namespace syncline {

// An exception that no client may hear of.
struct Failure {
  std::string type, message, traceback;
  std::uint64_t seed = 0;  // what the mutation's uuid() and random were made of
};

struct DeadLetterLimits {
  std::int64_t max_count = 1000;
  std::int64_t max_age = std::int64_t{30} * 24 * 3600 * 1'000'000;  // microseconds
  std::int64_t max_bytes = std::int64_t{64} << 20;                  // of all of them, encoded
};

struct DeadLetter {
  std::int64_t id = 0;
  std::string name, args, scope, user, client_id;  // args: canonical msgpack
  std::int64_t client_seq = 0;
  std::int64_t ts = 0;  // the mutation's, microseconds: run again, `tx.now` is the same
  std::uint64_t seed = 0;
  std::string error, message, traceback;  // of the last attempt
  std::int64_t at = 0, tried_at = 0;      // of the first attempt and the last
  std::int64_t attempts = 1;
};

struct DeadLetterCounts {
  std::int64_t count = 0, dropped = 0, bytes = 0;
};

namespace dead_letters {

inline constexpr std::string_view kScope = "_dead_letters";
inline constexpr std::string_view kLetter = "letter";
inline constexpr std::string_view kLedger = "ledger";

std::string encode(const DeadLetter& letter);  // without its id: a canonical map that decodes to the fields' names
DeadLetter decode(std::int64_t id, std::string_view body);
std::string id_of(std::int64_t number);
DeadLetterCounts counts_of(std::string_view ledger);  // empty: zeros

// Gives the letter its number and puts it in place; what is beyond the limits goes.
std::int64_t add(WriteSet& set, const DeadLetter& letter, const DeadLetterLimits& limits);
std::optional<DeadLetter> find(WriteSet& set, std::int64_t id);
void replace(WriteSet& set, const DeadLetter& letter);  // one that is there
bool remove(WriteSet& set, std::int64_t id);            // false: there is none
void prune(WriteSet& set, const DeadLetterLimits& limits);

}  // namespace dead_letters
}  // namespace syncline
