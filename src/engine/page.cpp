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
  json::put_instant(ts_, instant_.data());
  out_ += R"({"changes":[)";
}

// The most of a change without its data.
std::size_t JsonPage::frame_of(const ChangeView& change) const noexcept {
  constexpr std::size_t kKeys = 128;  // keys, op and marks
  return kKeys + scope_.size() + json::most_of(change.entity.size()) + json::most_of(change.id.size()) + 2 * json::kInteger + json::kInstant;
}

char* JsonPage::put_head(const ChangeView& change, char* at) {
  if (middle_.empty() || change.entity != entity_) {
    Bytes field;
    field += scope_;
    json::append_string(change.entity, field);
    field += R"(,"id":)";
    middle_ = field.view();
    entity_ = change.entity;
  }
  at = mp::put::raw(at, first_ ? R"({"cursor":)" : R"(,{"cursor":)");
  at = json::put_integer(change.cursor, at);
  at = mp::put::raw(at, middle_);
  at = json::put_string(change.id, at);
  at = mp::put::raw(at, json_op(change.op));
  return change.op == Op::remove ? at : mp::put::raw(at, R"(,"data":)");
}

char* JsonPage::put_tail(const ChangeView& change, char* at) noexcept {
  at = mp::put::raw(at, R"(,"version":)");
  at = json::put_integer(change.version, at);
  at = mp::put::raw(at, R"(,"ts":")");
  if (change.ts != ts_) json::put_instant(ts_ = change.ts, instant_.data());
  at = mp::put::raw(at, {instant_.data(), instant_.size()});
  first_ = false;
  return mp::put::raw(at, "\"}");
}

void JsonPage::change(const ChangeView& change) {
  const std::size_t frame = frame_of(change);
  out_.append(frame, [&](char* at) { return put_head(change, at); });
  if (change.op != Op::remove) json::from_msgpack(change.data, out_);
  out_.append(frame, [&](char* at) { return put_tail(change, at); });
}

bool JsonPage::take(const ChangeView& change) noexcept {
  const std::size_t data = change.op == Op::remove ? 0 : json::most_of(change.data.size());
  if (out_.room() < frame_of(change) + data) return false;
  try {
    out_.append(0, [&](char* at) {
      at = put_head(change, at);
      if (change.op != Op::remove) at = json::put_value(change.data, at);
      return put_tail(change, at);
    });
    return true;
  } catch (...) {
    return false;
  }
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

// One check for the whole of a change.
std::size_t PackedPage::most_of(const ChangeView& change) const noexcept {
  constexpr std::size_t kFrame = 64;  // the keys and the op, with some to spare
  return kFrame + scope_.size() + change.entity.size() + change.id.size() + change.data.size() + 4 * mp::put::kHeader + mp::put::kInstant;
}

void PackedPage::change(const ChangeView& change) {
  out_.append(most_of(change), [&](char* at) { return put(change, at); });
}

bool PackedPage::take(const ChangeView& change) noexcept {
  if (out_.room() < most_of(change)) return false;
  this->change(change);
  return true;
}

char* PackedPage::put(const ChangeView& change, char* at) noexcept {
  ++count_;
  const bool gone = change.op == Op::remove;
  at = mp::put::raw(at, gone ? std::string_view("\x87\xa6" "cursor") : std::string_view("\x88\xa6" "cursor"));
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
  return mp::put::instant(at, change.ts);
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
