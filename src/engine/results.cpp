#include "engine/results.h"

#include <algorithm>

#include "base/msgpack.h"

namespace syncline::results {

namespace {

Stored decode_entry(std::string_view entry) {
  mp::Reader reader(entry);
  reader.array();
  reader.integer();
  Stored stored;
  stored.hash = reader.natural();
  stored.result.cursor = reader.integer();
  if (reader.next_is_nil()) {
    reader.nil();
  } else {
    reader.array();
    Refusal refusal;
    refusal.code = reader.str();
    refusal.message = reader.str();
    for (std::size_t left = reader.map(); left > 0; --left) {
      std::string name(reader.str());
      if (reader.peek() == mp::Kind::str) {
        refusal.details.emplace_back(std::move(name), std::string(reader.str()));
      } else {
        refusal.details.emplace_back(std::move(name), reader.integer());
      }
    }
    stored.result.error = std::move(refusal);
  }
  for (std::size_t left = reader.array(); left > 0; --left) {
    reader.array();
    ChangeNote change;
    change.cursor = reader.integer();
    change.entity = reader.str();
    change.id = reader.str();
    change.op = static_cast<Op>(reader.integer());
    change.version = reader.integer();
    stored.result.changes.push_back(std::move(change));
  }
  return stored;
}

}  // namespace

void Entries::add(std::int64_t seq, std::uint64_t hash, const MutationResult& result) {
  places_.push_back({seq, bytes_.size()});
  mp::Writer writer(bytes_);
  writer.array(5);
  writer.integer(seq);
  writer.natural(hash);
  writer.integer(result.cursor);
  if (result.error) {
    writer.array(3);
    writer.str(result.error->code);
    writer.str(result.error->message);
    writer.map(result.error->details.size());
    for (const auto& [name, value] : result.error->details) {
      writer.str(name);
      if (const auto* number = std::get_if<std::int64_t>(&value)) {
        writer.integer(*number);
      } else {
        writer.str(std::get<std::string>(value));
      }
    }
  } else {
    writer.nil();
  }
  writer.array(result.changes.size());
  for (const ChangeNote& change : result.changes) {
    writer.array(5);
    writer.integer(change.cursor);
    writer.str(change.entity);
    writer.str(change.id);
    writer.integer(static_cast<std::int64_t>(change.op));
    writer.integer(change.version);
  }
}

std::optional<Stored> Entries::find(std::int64_t seq) const {
  const auto place = std::ranges::lower_bound(places_, seq, {}, &Place::seq);
  if (place == places_.end() || place->seq != seq) return std::nullopt;
  return decode_entry(std::string_view(bytes_).substr(place->at));
}

std::string Entries::pack() const {
  constexpr std::size_t kHead = 5;
  std::string out;
  out.reserve(kHead + bytes_.size());
  mp::Writer writer(out);
  writer.array(places_.size());
  writer.raw(bytes_);
  return out;
}

std::optional<Stored> find(std::string_view blob, std::int64_t seq) {
  mp::Reader reader(blob);
  for (std::size_t left = reader.array(); left > 0; --left) {
    const std::string_view entry = reader.skip();
    mp::Reader inner(entry);
    inner.array();
    if (inner.integer() == seq) return decode_entry(entry);
  }
  return std::nullopt;
}

}  // namespace syncline::results
