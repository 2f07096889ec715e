// The nouns of a push: what comes in and what goes out.
//
// Owner    value types.  Threads  any.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "store/store.h"

namespace syncline {

// A client's named request, or a backend's (client_id empty).
struct Mutation {
  std::string name;
  bool is_void = false;  // name null: it only consumes its number
  std::string args;      // canonical msgpack of any value; nil where absent
  std::string client_id;
  std::int64_t client_seq = 0;  // 1, 2, 3, ... per client
  std::string scope;
  std::optional<std::int64_t> ts;     // the client's clock, microseconds
  std::optional<std::uint64_t> seed;  // what tx.uuid() and tx.random derive from

  // XXH3-64 of (name, args, scope): how a reused number is noticed.
  [[nodiscard]] std::uint64_t content_hash() const;
};

struct PushRequest {
  std::vector<Mutation> mutations;
  std::optional<std::string> epoch;             // other than the current one: the push is refused whole
  std::map<std::string, std::int64_t> settled;  // client -> up to here it has its answers on its disk

  // Every scope named, each once: what authorisation is asked for.
  [[nodiscard]] std::set<std::string> scopes() const;
  [[nodiscard]] std::set<std::string> clients() const;
};

// A change as a result tells it: no body.
struct ChangeNote {
  Cursor cursor = 0;
  std::string entity, id;
  Op op = Op::create;
  std::int64_t version = 0;
};

// A refusal as it is stored and sent. `code` is a protocol code or a `Rejected`'s own.
struct Refusal {
  std::string code, message;
  std::vector<Detail> details;

  [[nodiscard]] static Refusal from(const Error& error);
};

struct MutationResult {
  Cursor cursor = 0;  // of its last change, or the one it took without changing anything; 0 where nothing was consumed
  std::optional<Refusal> error;
  std::vector<ChangeNote> changes;
  bool duplicate = false;

  [[nodiscard]] bool ok() const noexcept { return !error.has_value(); }
};

struct PushResult {
  std::vector<MutationResult> results;  // one per mutation, in order
  Cursor cursor = 0;                    // the database's head after the commit: for people, never a pull cursor
  std::string epoch;
};

}  // namespace syncline
