#include "engine/page.h"

#include "base/json.h"
#include "base/packer.h"

namespace syncline::page {

namespace {

// Where a packed page keeps its two sizes, which are known only at the end: a map of up to 15 fields, "changes", a 32-bit list.
constexpr std::string_view kPackedHead("\x80\xa7" "changes\xdd\0\0\0\0", 14);
constexpr std::size_t kPackedCount = 10;

std::string_view packed_op(Op op) {
  switch (op) {
    case Op::create: return "\xa2op\xa6" "create";
    case Op::update: return "\xa2op\xa6" "update";
    case Op::remove: break;
  }
  return "\xa2op\xa6" "delete";
}

std::string_view json_op(Op op) {
  switch (op) {
    case Op::create: return R"(,"op":"create")";
    case Op::update: return R"(,"op":"update")";
    case Op::remove: break;
  }
  return R"(,"op":"delete")";
}

}  // namespace

JsonPage::JsonPage(Bytes& out, std::string_view scope) : out_(out) {
  Bytes field;
  field += R"(,"scope":)";
  json::append_string(scope, field);
  field += R"(,"entity":)";
  scope_ = field.view();
  out_ += R"({"changes":[)";
}

void JsonPage::change(const ChangeView& change) {
  out_ += first_ ? R"({"cursor":)" : R"(,{"cursor":)";
  first_ = false;
  json::append_integer(change.cursor, out_);
  out_ += scope_;
  json::append_string(change.entity, out_);
  out_ += R"(,"id":)";
  json::append_string(change.id, out_);
  out_ += json_op(change.op);
  if (change.op != Op::remove) {
    out_ += R"(,"data":)";
    json::from_msgpack(change.data, out_);
  }
  out_ += R"(,"version":)";
  json::append_integer(change.version, out_);
  out_ += R"(,"ts":")";
  json::append_instant(change.ts, out_);
  out_ += "\"}";
}

void JsonPage::end(const PageEnd& end) {
  out_ += R"(],"cursor":)";
  json::append_integer(end.cursor, out_);
  out_ += R"(,"epoch":)";
  json::append_string(end.epoch, out_);
  out_ += end.has_more ? R"(,"has_more":true,"page":)" : R"(,"has_more":false)";
  if (end.has_more) json::append_string(end.page, out_);
  if (end.last_seq) {
    out_ += R"(,"last_seq":)";
    json::append_integer(*end.last_seq, out_);
  }
  out_.push_back('}');
}

PackedPage::PackedPage(Bytes& out, std::string_view scope) : out_(out), begin_(out.size()) {
  scope_ = "\xa5" "scope";
  mp::Writer(scope_).str(scope);
  scope_ += "\xa6" "entity";
  out_ += kPackedHead;
}

void PackedPage::change(const ChangeView& change) {
  ++count_;
  // One check for the whole of it.
  constexpr std::size_t kFrame = 64;  // the keys and the op, with some to spare
  char* const from = out_.ensure(kFrame + scope_.size() + change.entity.size() + change.id.size() + change.data.size() +
                                 4 * mp::put::kHeader + mp::put::kInstant);
  const bool gone = change.op == Op::remove;
  char* at = mp::put::raw(from, gone ? std::string_view("\x87\xa6" "cursor") : std::string_view("\x88\xa6" "cursor"));
  at = mp::put::integer(at, change.cursor);
  at = mp::put::raw(at, scope_);
  at = mp::put::str(at, change.entity);
  at = mp::put::raw(at, "\xa2" "id");
  at = mp::put::str(at, change.id);
  at = mp::put::raw(at, packed_op(change.op));
  if (!gone) at = mp::put::raw(mp::put::raw(at, "\xa4" "data"), change.data);
  at = mp::put::raw(at, "\xa7" "version");
  at = mp::put::integer(at, change.version);
  at = mp::put::raw(at, "\xa2" "ts");
  at = mp::put::instant(at, change.ts);
  out_.advance(static_cast<std::size_t>(at - from));
}

void PackedPage::end(const PageEnd& end) {
  const std::size_t fields = 4 + (end.has_more ? 1u : 0u) + (end.last_seq ? 1u : 0u);
  char* const head = out_.data() + begin_;
  head[0] = static_cast<char>(0x80u | fields);
  for (std::size_t n = 0; n < 4; ++n) head[kPackedCount + n] = static_cast<char>((count_ >> (24 - 8 * n)) & 0xffu);
  std::string tail;
  mp::Writer writer(tail);
  writer.str("cursor");
  writer.integer(end.cursor);
  writer.str("epoch");
  writer.str(end.epoch);
  writer.str("has_more");
  writer.boolean(end.has_more);
  if (end.has_more) {
    writer.str("page");
    writer.str(end.page);
  }
  if (end.last_seq) {
    writer.str("last_seq");
    writer.integer(*end.last_seq);
  }
  out_ += tail;
}

void write_json(const Snapshot& snapshot, Bytes& out) {
  out += R"({"data":{)";
  std::string_view between_groups;
  for (const Snapshot::Group& group : snapshot.data) {
    out += between_groups;
    between_groups = ",";
    json::append_string(group.entity, out);
    out += ":{";
    std::string_view between_rows;
    for (const Row& row : group.rows) {
      out += between_rows;
      between_rows = ",";
      json::append_string(row.id, out);
      out.push_back(':');
      json::from_msgpack(row.body, out);
    }
    out.push_back('}');
  }
  out += R"(},"cursor":)";
  json::append_integer(snapshot.cursor, out);
  out += R"(,"epoch":)";
  json::append_string(snapshot.epoch, out);
  if (snapshot.last_seq) {
    out += R"(,"last_seq":)";
    json::append_integer(*snapshot.last_seq, out);
  }
  out.push_back('}');
}

void write_packed(const Snapshot& snapshot, Bytes& out) {
  std::string piece;
  mp::Writer writer(piece);
  const auto flush = [&] {
    out += piece;
    piece.clear();
  };
  writer.map(3 + (snapshot.last_seq ? 1u : 0u));
  writer.str("data");
  writer.map(snapshot.data.size());
  for (const Snapshot::Group& group : snapshot.data) {
    writer.str(group.entity);
    writer.map(group.rows.size());
    for (const Row& row : group.rows) {
      writer.str(row.id);
      flush();
      out += row.body;
    }
  }
  writer.str("cursor");
  writer.integer(snapshot.cursor);
  writer.str("epoch");
  writer.str(snapshot.epoch);
  if (snapshot.last_seq) {
    writer.str("last_seq");
    writer.integer(*snapshot.last_seq);
  }
  flush();
}

}  // namespace syncline::page
