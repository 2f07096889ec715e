#include "engine/wire.h"

#include <cstddef>
#include <functional>
#include <utility>

#include "base/json.h"
#include "base/msgpack.h"

namespace syncline::wire {

namespace {

// A push wraps arguments in a body, a list and a mutation: they may nest as deeply as a document on top of that.
constexpr int kEnvelope = 3;

[[noreturn]] void refuse(const std::string& what) { throw Error(Code::invalid_request, what); }

std::string where(const std::string& path, std::string_view name) { return path.empty() ? std::string(name) : path + "." + std::string(name); }

std::string read_str(mp::Reader& reader, const std::string& path) {
  if (reader.peek() != mp::Kind::str) refuse(path + " must be a string");
  return std::string(reader.str());
}

std::int64_t read_integer(mp::Reader& reader, const std::string& path) {
  if (reader.peek() != mp::Kind::integer) refuse(path + " must be an integer of 64 bits");
  return reader.integer();
}

std::int64_t read_instant(mp::Reader& reader, const std::string& path) {
  if (reader.peek() == mp::Kind::instant) return reader.instant();
  if (reader.peek() != mp::Kind::str) refuse(path + " must be an instant: RFC 3339 with an offset, such as 2026-01-31T12:00:00.000000Z");
  return json::parse_instant(reader.str(), {.code = Code::invalid_request});
}

std::uint64_t read_seed(mp::Reader& reader, const std::string& path) {
  if (reader.peek() == mp::Kind::natural) return reader.natural();
  return static_cast<std::uint64_t>(read_integer(reader, path));
}

// Reads a map field by field; a field that is null counts as absent, one that nobody knows is passed over.
using ReadField = std::function<bool(std::string_view name, mp::Reader& reader)>;
void read_map(mp::Reader& reader, const std::string& path, const ReadField& read) {
  if (reader.at_end() || reader.peek() != mp::Kind::map) refuse((path.empty() ? std::string("the body") : path) + " must be a map of fields");
  for (std::size_t left = reader.map(); left > 0; --left) {
    const std::string_view name = reader.str();
    if (!read(name, reader)) reader.skip();
  }
}

Mutation read_mutation(mp::Reader& reader, const std::string& path) {
  Mutation mutation;
  bool named = false;
  bool scoped = false;
  read_map(reader, path, [&](std::string_view name, mp::Reader& value) {
    const bool nil = value.next_is_nil();
    if (name == "name") {
      named = true;
      mutation.is_void = nil;
      if (nil) return false;
      mutation.name = read_str(value, where(path, name));
    } else if (name == "args") {
      mutation.args = value.skip();
    } else if (nil) {
      return false;
    } else if (name == "scope") {
      scoped = true;
      mutation.scope = read_str(value, where(path, name));
    } else if (name == "client_id") {
      mutation.client_id = read_str(value, where(path, name));
    } else if (name == "client_seq") {
      mutation.client_seq = read_integer(value, where(path, name));
    } else if (name == "ts") {
      mutation.ts = read_instant(value, where(path, name));
    } else if (name == "seed") {
      mutation.seed = read_seed(value, where(path, name));
    } else {
      return false;
    }
    return true;
  });
  if (!named) refuse(where(path, "name") + " is missing (null for a void, which only consumes its number)");
  if (!scoped && !mutation.is_void) refuse(where(path, "scope") + " is missing");
  return mutation;
}

void write_refusal(mp::Writer& writer, const Refusal& refusal) {
  writer.map(2 + refusal.details.size());
  writer.str("code");
  writer.str(refusal.code);
  writer.str("message");
  writer.str(refusal.message);
  for (const auto& [name, value] : refusal.details) {
    writer.str(name);
    if (const auto* number = std::get_if<std::int64_t>(&value)) {
      writer.integer(*number);
    } else {
      writer.str(std::get<std::string>(value));
    }
  }
}

std::string in_format(std::string packed, Format format) {
  if (format == Format::msgpack) return packed;
  std::string text;
  json::from_msgpack(packed, text);
  return text;
}

}  // namespace

std::string canonical_body(std::string_view body, Format format, const Limits& limits) {
  const auto most = static_cast<std::size_t>(limits.max_body_bytes);
  if (body.size() > most) {
    throw Error(Code::too_large, "the body has " + std::to_string(body.size()) + " bytes; at most " + std::to_string(most) + " are taken",
                {{"limit", limits.max_body_bytes}});
  }
  // A float written as "1." takes 9 bytes packed, so the packed form may be larger than the body, by less than this.
  const mp::Border border{.code = Code::invalid_request,
                          .max_nesting = static_cast<int>(limits.max_nesting) + kEnvelope,
                          .max_bytes = 4 * most,
                          .allow_dollar_keys = false};
  return format == Format::json ? json::to_msgpack(body, border) : mp::canonicalise(body, border);
}

PushRequest parse_push(std::string_view body, Format format, const Limits& limits) {
  const std::string packed = canonical_body(body, format, limits);
  mp::Reader reader(packed);
  PushRequest request;
  bool given = false;
  read_map(reader, "", [&](std::string_view name, mp::Reader& value) {
    if (value.next_is_nil()) return false;
    if (name == "mutations") {
      given = true;
      if (value.peek() != mp::Kind::array) refuse("mutations must be a list");
      const std::size_t count = value.array();
      if (count > static_cast<std::size_t>(limits.max_mutations)) {
        throw Error(Code::too_large,
                    std::to_string(count) + " mutations in one push; at most " + std::to_string(limits.max_mutations) + " are taken",
                    {{"limit", limits.max_mutations}});
      }
      request.mutations.reserve(count);
      for (std::size_t n = 0; n < count; ++n) request.mutations.push_back(read_mutation(value, "mutations[" + std::to_string(n) + "]"));
    } else if (name == "epoch") {
      request.epoch = read_str(value, "epoch");
    } else if (name == "settled") {
      read_map(value, "settled", [&](std::string_view client, mp::Reader& seq) {
        request.settled[std::string(client)] = read_integer(seq, where("settled", client));
        return true;
      });
      if (request.settled.size() > static_cast<std::size_t>(limits.max_mutations)) refuse("settled names too many clients");
    } else {
      return false;
    }
    return true;
  });
  if (!given) refuse("mutations is missing: a push is {mutations: [...]}");
  return request;
}

PullRequest parse_pull(std::string_view body, Format format, const Limits& limits) {
  const std::string packed = canonical_body(body, format, limits);
  mp::Reader reader(packed);
  PullRequest request;
  bool scoped = false;
  bool placed = false;
  read_map(reader, "", [&](std::string_view name, mp::Reader& value) {
    if (value.next_is_nil()) return false;
    if (name == "scope") {
      scoped = true;
      request.scope = read_str(value, "scope");
    } else if (name == "cursor") {
      placed = true;
      request.cursor = read_integer(value, "cursor");
    } else if (name == "epoch") {
      request.epoch = read_str(value, "epoch");
    } else if (name == "page") {
      request.page = read_str(value, "page");
    } else if (name == "limit") {
      request.limit = read_integer(value, "limit");
    } else if (name == "client_id") {
      request.client_id = read_str(value, "client_id");
    } else if (name == "entities") {
      if (value.peek() != mp::Kind::array) refuse("entities must be a list of strings");
      std::vector<std::string> entities;
      for (std::size_t left = value.array(); left > 0; --left) entities.push_back(read_str(value, "entities"));
      request.entities = std::move(entities);
    } else {
      return false;
    }
    return true;
  });
  if (!scoped) refuse("scope is missing");
  if (!placed) refuse("cursor is missing; 0 asks for everything");
  return request;
}

SnapshotRequest parse_snapshot(std::string_view body, Format format, const Limits& limits) {
  const std::string packed = canonical_body(body, format, limits);
  mp::Reader reader(packed);
  SnapshotRequest request;
  bool scoped = false;
  read_map(reader, "", [&](std::string_view name, mp::Reader& value) {
    if (value.next_is_nil()) return false;
    if (name == "scope") {
      scoped = true;
      request.scope = read_str(value, "scope");
    } else if (name == "client_id") {
      request.client_id = read_str(value, "client_id");
    } else {
      return false;
    }
    return true;
  });
  if (!scoped) refuse("scope is missing");
  return request;
}

std::string encode(const PushResult& result, Format format) {
  std::string out;
  mp::Writer writer(out);
  writer.map(3);
  writer.str("results");
  writer.array(result.results.size());
  for (const MutationResult& one : result.results) {
    writer.map(3 + (one.error ? 1u : 0u) + (one.duplicate ? 1u : 0u));
    writer.str("ok");
    writer.boolean(one.ok());
    writer.str("cursor");
    writer.integer(one.cursor);
    if (one.error) {
      writer.str("error");
      write_refusal(writer, *one.error);
    }
    writer.str("changes");
    writer.array(one.changes.size());
    for (const ChangeNote& change : one.changes) {
      writer.map(5);
      writer.str("cursor");
      writer.integer(change.cursor);
      writer.str("entity");
      writer.str(change.entity);
      writer.str("id");
      writer.str(change.id);
      writer.str("op");
      writer.str(op_name(change.op));
      writer.str("version");
      writer.integer(change.version);
    }
    if (one.duplicate) {
      writer.str("duplicate");
      writer.boolean(true);
    }
  }
  writer.str("cursor");
  writer.integer(result.cursor);
  writer.str("epoch");
  writer.str(result.epoch);
  return in_format(std::move(out), format);
}

std::string encode_error(const Refusal& refusal, Format format) {
  std::string out;
  mp::Writer writer(out);
  writer.map(1);
  writer.str("error");
  write_refusal(writer, refusal);
  return in_format(std::move(out), format);
}

}  // namespace syncline::wire
