// Requests and answers as bytes: the protocol's JSON and msgpack, without an object in between.
//
// Threads  any: pure functions. Throw Error(invalid_request) naming the missing or wrong field, Error(too_large).
#pragma once

#include <string>
#include <string_view>

#include "engine/engine.h"

namespace syncline::wire {

// Any body -> canonical msgpack (JSON or msgpack by `format`), envelope levels allowed on top of the documents' nesting.
std::string canonical_body(std::string_view body, Format format, const Limits& limits);

PushRequest parse_push(std::string_view body, Format format, const Limits& limits);
PullRequest parse_pull(std::string_view body, Format format, const Limits& limits);
SnapshotRequest parse_snapshot(std::string_view body, Format format, const Limits& limits);

std::string encode(const PushResult& result, Format format);
// {error: {code, message, ...details}}
std::string encode_error(const Refusal& refusal, Format format);

}  // namespace syncline::wire
