// What a replica says to the server and what it hears, as msgpack: requests are written, answers walked, without a tree in between.
//
// Threads  any: pure functions. An answer that is none throws Error(invalid_request) that says what was wrong with it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "replica/queue.h"

namespace syncline::replica {

struct PushHead {
  std::string_view client_id, epoch;  // epoch empty: none is known
  std::int64_t settled = 0;
};
std::string encode_push(const PushHead& head, const std::vector<const Entry*>& entries);

struct PullQuestion {
  std::string_view scope, epoch, page, client_id;  // empty: left out
  Cursor cursor = 0;
  std::int64_t limit = 0;  // 0: left out
};
std::string encode_pull(const PullQuestion& question);

struct PushedOne {
  bool ok = false, duplicate = false, changed = false;
  std::string code, message;
};
struct PushAnswer {
  std::vector<PushedOne> results;
  std::string epoch;
};
PushAnswer parse_push_answer(std::string_view body);

// Views into the answer's body.
struct PullAnswer {
  std::string_view changes;  // the list, encoded
  Cursor cursor = 0;
  std::string_view epoch, page;
  bool has_more = false;
  std::int64_t last_seq = 0;
  bool empty = false;  // no change in it
};
PullAnswer parse_pull_answer(std::string_view body);

struct PulledChange {
  Cursor cursor = 0;
  std::string_view entity, id, data;  // data empty: deleted
  std::int64_t version = 0, ts = 0;
};
using VisitPulled = std::function<void(const PulledChange&)>;
// Checks names, cursors and bodies: what is visited can be stored.
void for_each_change(std::string_view changes, const VisitPulled& visit);

// {error: {code, message, ...}}; code empty where the body says none.
struct ErrorAnswer {
  std::string code, message, client_id, epoch;
  std::int64_t retry_after = 0;
};
ErrorAnswer parse_error(std::string_view body);

}  // namespace syncline::replica
