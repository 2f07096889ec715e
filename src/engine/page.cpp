#include "engine/page.h"

#include <array>
#include <charconv>

#include "base/json.h"

namespace syncline::page {

namespace {

// Where a packed page keeps its two sizes, which are known only at the end: a map of up to 15 fields, "changes", a 32-bit list.
constexpr std::string_view kPackedHead("\x80\xa7" "changes\xdd\0\0\0\0", 14);
constexpr std::size_t kPackedCount = 10;

void append_integer(std::int64_t value, std::string& out) {
  std::array<char, 24> text{};
  out.append(text.data(), std::to_chars(text.data(), text.data() + text.size(), value).ptr);
}

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

JsonPage::JsonPage(std::string& out, std::string_view scope) : out_(out), scope_(R"(,"scope":)") {
  json::append_string(scope, scope_);
  scope_ += R"(,"entity":)";
  out_ += R"({"changes":[)";
}

void JsonPage::change(const ChangeView& change) {
  out_ += first_ ? R"({"cursor":)" : R"(,{"cursor":)";
  first_ = false;
  append_integer(change.cursor, out_);
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
  append_integer(change.version, out_);
  out_ += R"(,"ts":")";
  json::append_instant(change.ts, out_);
  out_ += "\"}";
}

void JsonPage::end(const PageEnd& end) {
  out_ += R"(],"cursor":)";
  append_integer(end.cursor, out_);
  out_ += R"(,"epoch":)";
  json::append_string(end.epoch, out_);
  out_ += end.has_more ? R"(,"has_more":true,"page":)" : R"(,"has_more":false)";
  if (end.has_more) json::append_string(end.page, out_);
  if (end.last_seq) {
    out_ += R"(,"last_seq":)";
    append_integer(*end.last_seq, out_);
  }
  out_ += '}';
}

PackedPage::PackedPage(std::string& out, std::string_view scope) : out_(out), writer_(out) {
  scope_ = "\xa5" "scope";
  mp::Writer(scope_).str(scope);
  scope_ += "\xa6" "entity";
  out_ += kPackedHead;
}

void PackedPage::change(const ChangeView& change) {
  ++count_;
  out_ += change.op == Op::remove ? "\x87\xa6" "cursor" : "\x88\xa6" "cursor";
  writer_.integer(change.cursor);
  out_ += scope_;
  writer_.str(change.entity);
  out_ += "\xa2" "id";
  writer_.str(change.id);
  out_ += packed_op(change.op);
  if (change.op != Op::remove) {
    out_ += "\xa4" "data";
    out_ += change.data;
  }
  out_ += "\xa7" "version";
  writer_.integer(change.version);
  out_ += "\xa2" "ts";
  writer_.instant(change.ts);
}

void PackedPage::end(const PageEnd& end) {
  const std::size_t fields = 4 + (end.has_more ? 1u : 0u) + (end.last_seq ? 1u : 0u);
  out_[0] = static_cast<char>(0x80u | fields);
  for (std::size_t n = 0; n < 4; ++n) out_[kPackedCount + n] = static_cast<char>((count_ >> (24 - 8 * n)) & 0xffu);
  writer_.str("cursor");
  writer_.integer(end.cursor);
  writer_.str("epoch");
  writer_.str(end.epoch);
  writer_.str("has_more");
  writer_.boolean(end.has_more);
  if (end.has_more) {
    writer_.str("page");
    writer_.str(end.page);
  }
  if (end.last_seq) {
    writer_.str("last_seq");
    writer_.integer(*end.last_seq);
  }
}

void write_json(const Snapshot& snapshot, std::string& out) {
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
      out += ':';
      json::from_msgpack(row.body, out);
    }
    out += '}';
  }
  out += R"(},"cursor":)";
  append_integer(snapshot.cursor, out);
  out += R"(,"epoch":)";
  json::append_string(snapshot.epoch, out);
  if (snapshot.last_seq) {
    out += R"(,"last_seq":)";
    append_integer(*snapshot.last_seq, out);
  }
  out += '}';
}

void write_packed(const Snapshot& snapshot, std::string& out) {
  mp::Writer writer(out);
  writer.map(3 + (snapshot.last_seq ? 1u : 0u));
  writer.str("data");
  writer.map(snapshot.data.size());
  for (const Snapshot::Group& group : snapshot.data) {
    writer.str(group.entity);
    writer.map(group.rows.size());
    for (const Row& row : group.rows) {
      writer.str(row.id);
      writer.raw(row.body);
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
}

}  // namespace syncline::page
