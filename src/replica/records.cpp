#include "replica/records.h"

#include "base/msgpack.h"
#include "replica/queue.h"

namespace syncline::replica {

namespace {

template <typename Read>
void read_fields(mp::Reader& reader, Read read) {
  for (std::size_t left = reader.map(); left > 0; --left) {
    if (const std::string_view field = reader.str(); !read(field)) reader.skip();
  }
}

void text(mp::Writer& writer, const char* name, std::string_view value) {
  writer.str(name);
  writer.str(value);
}

void number(mp::Writer& writer, const char* name, std::int64_t value) {
  writer.str(name);
  writer.integer(value);
}

}  // namespace

std::string Identity::encode() const {
  std::string out;
  mp::Writer writer(out);
  const bool followed = !successor.empty();
  writer.map(followed ? 8 : 6);
  number(writer, "checked", checked);
  text(writer, "client_id", client_id);
  text(writer, "epoch", epoch);
  number(writer, "next", next);
  number(writer, "place", place);
  number(writer, "settled", settled);
  if (followed) {
    text(writer, "successor", successor);
    number(writer, "successor_next", successor_next);
  }
  return out;
}

Identity Identity::decode(std::string_view body) {
  Identity self;
  mp::Reader reader(body);
  read_fields(reader, [&](std::string_view field) {
    if (field == "checked") {
      self.checked = reader.integer();
    } else if (field == "client_id") {
      self.client_id = reader.str();
    } else if (field == "epoch") {
      self.epoch = reader.str();
    } else if (field == "next") {
      self.next = reader.integer();
    } else if (field == "place") {
      self.place = reader.integer();
    } else if (field == "settled") {
      self.settled = reader.integer();
    } else if (field == "successor") {
      self.successor = reader.str();
    } else if (field == "successor_next") {
      self.successor_next = reader.integer();
    } else {
      return false;
    }
    return true;
  });
  return self;
}

std::string ScopeRecord::encode() const {
  std::string out;
  mp::Writer writer(out);
  const bool staged = stage.pages > 0;
  writer.map(staged ? 5 : 4);
  number(writer, "cursor", cursor);
  text(writer, "epoch", epoch);
  writer.str("loaded");
  writer.boolean(loaded);
  writer.str("open");
  writer.boolean(open);
  if (staged) {
    writer.str("stage");
    writer.map(5);
    text(writer, "asked", stage.asked);
    number(writer, "cursor", stage.cursor);
    text(writer, "epoch", stage.epoch);
    text(writer, "page", stage.page);
    number(writer, "pages", stage.pages);
  }
  return out;
}

ScopeRecord ScopeRecord::decode(std::string_view body) {
  ScopeRecord record;
  mp::Reader reader(body);
  read_fields(reader, [&](std::string_view field) {
    if (field == "cursor") {
      record.cursor = reader.integer();
    } else if (field == "epoch") {
      record.epoch = reader.str();
    } else if (field == "loaded") {
      record.loaded = reader.boolean();
    } else if (field == "open") {
      record.open = reader.boolean();
    } else if (field == "stage") {
      read_fields(reader, [&](std::string_view part) {
        if (part == "asked") {
          record.stage.asked = reader.str();
        } else if (part == "cursor") {
          record.stage.cursor = reader.integer();
        } else if (part == "epoch") {
          record.stage.epoch = reader.str();
        } else if (part == "page") {
          record.stage.page = reader.str();
        } else if (part == "pages") {
          record.stage.pages = reader.integer();
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
  return record;
}

std::string encode(const Refused& refused) {
  std::string out;
  mp::Writer writer(out);
  writer.map(9);
  writer.str("args");
  writer.raw(refused.args);
  number(writer, "at", refused.at);
  text(writer, "client_id", refused.client_id);
  text(writer, "code", refused.code);
  text(writer, "message", refused.message);
  text(writer, "name", refused.name);
  text(writer, "scope", refused.scope);
  number(writer, "seq", refused.seq);
  number(writer, "ts", refused.ts);
  return out;
}

Refused decode_refused(std::string_view id, std::string_view body) {
  Refused refused;
  refused.place = place_of_id(id);
  mp::Reader reader(body);
  read_fields(reader, [&](std::string_view field) {
    if (field == "args") {
      refused.args = reader.skip();
    } else if (field == "at") {
      refused.at = reader.integer();
    } else if (field == "client_id") {
      refused.client_id = reader.str();
    } else if (field == "code") {
      refused.code = reader.str();
    } else if (field == "message") {
      refused.message = reader.str();
    } else if (field == "name") {
      refused.name = reader.str();
    } else if (field == "scope") {
      refused.scope = reader.str();
    } else if (field == "seq") {
      refused.seq = reader.integer();
    } else if (field == "ts") {
      refused.ts = reader.integer();
    } else {
      return false;
    }
    return true;
  });
  return refused;
}

}  // namespace syncline::replica
