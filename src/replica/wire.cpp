#include "replica/wire.h"

#include "base/ids.h"
#include "base/msgpack.h"

namespace syncline::replica {

namespace {

// Documents of the server's making are within its own limits; these only keep nonsense out.
constexpr mp::Border kBody{.code = Code::invalid_request, .max_nesting = 128, .max_bytes = 1u << 30, .allow_dollar_keys = false};

[[noreturn]] void refuse(const std::string& what) { throw Error(Code::invalid_request, "the answer is none of a Syncline server: " + what); }

// Reads a map field by field; fields that `read` does not take are passed over.
template <typename Read>
void read_map(mp::Reader& reader, const char* what, Read read) {
  if (reader.at_end() || reader.peek() != mp::Kind::map) refuse(std::string(what) + " is no map");
  for (std::size_t left = reader.map(); left > 0; --left) {
    const std::string_view field = reader.str();
    if (reader.next_is_nil() || !read(field)) reader.skip();
  }
}

// What the reader finds out of place is the answer's fault, not the disk's.
template <typename Parse>
auto parse(Parse run) {
  try {
    return run();
  } catch (const Error& error) {
    if (error.code() == Code::corrupt) refuse(error.what());
    throw;
  }
}

}  // namespace

std::string encode_push(const PushHead& head, const std::vector<const Entry*>& entries) {
  std::string out;
  std::size_t size = 300;
  for (const Entry* entry : entries) size += entry->wire_size();
  out.reserve(size);
  mp::Writer writer(out);
  writer.map(head.epoch.empty() ? 2 : 3);
  if (!head.epoch.empty()) {
    writer.str("epoch");
    writer.str(head.epoch);
  }
  writer.str("mutations");
  writer.array(entries.size());
  for (const Entry* entry : entries) {
    const bool whole = entry->voided == Void::none;
    writer.map(whole ? 7 : 3);
    if (whole) {
      writer.str("args");
      writer.raw(entry->args);
    }
    writer.str("client_id");
    writer.str(head.client_id);
    writer.str("client_seq");
    writer.integer(entry->seq);
    writer.str("name");
    if (!whole) {
      writer.nil();
      continue;
    }
    writer.str(entry->name);
    writer.str("scope");
    writer.str(entry->scope);
    writer.str("seed");
    writer.natural(entry->seed);
    writer.str("ts");
    writer.instant(entry->ts);
  }
  writer.str("settled");
  writer.map(1);
  writer.str(head.client_id);
  writer.integer(head.settled);
  return out;
}

std::string encode_pull(const PullQuestion& question) {
  std::string out;
  mp::Writer writer(out);
  const auto text = [&](const char* name, std::string_view value) {
    if (value.empty()) return;
    writer.str(name);
    writer.str(value);
  };
  writer.map(2 + (question.client_id.empty() ? 0u : 1u) + (question.epoch.empty() ? 0u : 1u) + (question.limit == 0 ? 0u : 1u) +
             (question.page.empty() ? 0u : 1u));
  text("client_id", question.client_id);
  writer.str("cursor");
  writer.integer(question.cursor);
  text("epoch", question.epoch);
  if (question.limit != 0) {
    writer.str("limit");
    writer.integer(question.limit);
  }
  text("page", question.page);
  text("scope", question.scope);
  return out;
}

PushAnswer parse_push_answer(std::string_view body) {
  return parse([&] {
    PushAnswer answer;
    bool listed = false;
    mp::Reader reader(body);
    read_map(reader, "a push's answer", [&](std::string_view field) {
      if (field == "epoch") {
        answer.epoch = reader.str();
        return true;
      }
      if (field != "results") return false;
      listed = true;
      for (std::size_t left = reader.array(); left > 0; --left) {
        PushedOne one;
        bool said = false;
        read_map(reader, "a result", [&](std::string_view name) {
          if (name == "ok") {
            said = true;
            one.ok = reader.boolean();
          } else if (name == "duplicate") {
            one.duplicate = reader.boolean();
          } else if (name == "changes") {
            const std::string_view changes = reader.skip();
            one.changed = mp::Reader(changes).array() > 0;
          } else if (name == "error") {
            read_map(reader, "an error", [&](std::string_view part) {
              if (part == "code") {
                one.code = reader.str();
              } else if (part == "message") {
                one.message = reader.str();
              } else {
                return false;
              }
              return true;
            });
          } else {
            return false;
          }
          return true;
        });
        if (!said || one.ok != one.code.empty()) refuse("a result is neither ok nor has it an error's code");
        answer.results.push_back(std::move(one));
      }
      return true;
    });
    if (!listed) refuse("it has no results");
    return answer;
  });
}

PullAnswer parse_pull_answer(std::string_view body) {
  return parse([&] {
    PullAnswer answer;
    bool placed = false;
    bool counted = false;
    mp::Reader reader(body);
    read_map(reader, "a pull's answer", [&](std::string_view field) {
      if (field == "changes") {
        answer.changes = reader.skip();
        answer.empty = mp::Reader(answer.changes).array() == 0;
      } else if (field == "cursor") {
        placed = true;
        answer.cursor = reader.integer();
      } else if (field == "epoch") {
        answer.epoch = reader.str();
      } else if (field == "has_more") {
        answer.has_more = reader.boolean();
      } else if (field == "page") {
        answer.page = reader.str();
      } else if (field == "last_seq") {
        counted = true;
        answer.last_seq = reader.integer();
      } else {
        return false;
      }
      return true;
    });
    if (answer.changes.empty() || !placed || !counted || answer.epoch.empty() || answer.cursor < 0 || answer.cursor > kMaxCursor) {
      refuse("changes, cursor, epoch or last_seq is missing");
    }
    if (answer.has_more && answer.page.empty()) refuse("has_more without page");
    return answer;
  });
}

void for_each_change(std::string_view changes, const VisitPulled& visit) {
  parse([&] {
    mp::Reader reader(changes);
    std::string_view entity;
    for (std::size_t left = reader.array(); left > 0; --left) {
      PulledChange change;
      bool deleted = false;
      read_map(reader, "a change", [&](std::string_view field) {
        if (field == "cursor") {
          change.cursor = reader.integer();
        } else if (field == "entity") {
          change.entity = reader.str();
        } else if (field == "id") {
          change.id = reader.str();
        } else if (field == "op") {
          deleted = reader.str() == "delete";
        } else if (field == "data") {
          change.data = reader.skip();
        } else if (field == "version") {
          change.version = reader.integer();
        } else if (field == "ts") {
          change.ts = reader.instant();
        } else {
          return false;
        }
        return true;
      });
      if (change.cursor < 1 || change.cursor > kMaxCursor) refuse("a change has no cursor");
      if (change.entity.empty() || change.entity != entity) check_name(entity = change.entity, "the entity of a change", Code::invalid_request, true);
      check_name(change.id, "the id of a change", Code::invalid_request, true);
      if (deleted) {
        change.data = {};
      } else if (change.data.empty() || mp::Reader(change.data).peek() != mp::Kind::map || !mp::is_canonical(change.data, kBody)) {
        refuse("the data of " + std::string(change.entity) + "/" + std::string(change.id) + " is no document in canonical form");
      }
      visit(change);
    }
    return 0;
  });
}

ErrorAnswer parse_error(std::string_view body) {
  ErrorAnswer said;
  try {
    mp::Reader reader(body);
    read_map(reader, "an error's answer", [&](std::string_view field) {
      if (field != "error") return false;
      read_map(reader, "an error", [&](std::string_view part) {
        const mp::Kind kind = reader.peek();
        if (kind == mp::Kind::str && part == "code") {
          said.code = reader.str();
        } else if (kind == mp::Kind::str && part == "message") {
          said.message = reader.str();
        } else if (kind == mp::Kind::str && part == "client_id") {
          said.client_id = reader.str();
        } else if (kind == mp::Kind::str && part == "epoch") {
          said.epoch = reader.str();
        } else if (kind == mp::Kind::integer && part == "retry_after") {
          said.retry_after = reader.integer();
        } else {
          return false;
        }
        return true;
      });
      return true;
    });
  } catch (const Error&) {  // a proxy's page, for one: its status says enough
    return {};
  }
  return said;
}

}  // namespace syncline::replica
