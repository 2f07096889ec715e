#include "replica/queue.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <utility>

#include "base/msgpack.h"

namespace syncline::replica {

namespace {

constexpr std::string_view kEntity = "queue";

std::string encode(const Entry& entry) {
  std::string out;
  mp::Writer writer(out);
  const bool coded = !entry.code.empty();
  writer.map(coded ? 13 : 11);
  writer.str("args");
  writer.raw(entry.args);
  if (coded) {
    writer.str("code");
    writer.str(entry.code);
  }
  writer.str("confirmed");
  writer.boolean(entry.confirmed);
  writer.str("fate");
  writer.integer(static_cast<std::int64_t>(entry.fate));
  writer.str("later");
  writer.boolean(entry.later);
  if (coded) {
    writer.str("message");
    writer.str(entry.message);
  }
  writer.str("name");
  writer.str(entry.name);
  writer.str("scope");
  writer.str(entry.scope);
  writer.str("seed");
  writer.natural(entry.seed);
  writer.str("seq");
  writer.integer(entry.seq);
  writer.str("tries");
  writer.integer(entry.tries);
  writer.str("ts");
  writer.integer(entry.ts);
  writer.str("void");
  writer.integer(static_cast<std::int64_t>(entry.voided));
  return out;
}

Entry decode(std::string_view body) {
  Entry entry;
  mp::Reader reader(body);
  for (std::size_t left = reader.map(); left > 0; --left) {
    const std::string_view field = reader.str();
    if (field == "args") {
      entry.args = reader.skip();
    } else if (field == "code") {
      entry.code = reader.str();
    } else if (field == "confirmed") {
      entry.confirmed = reader.boolean();
    } else if (field == "fate") {
      entry.fate = static_cast<Fate>(reader.integer());
    } else if (field == "later") {
      entry.later = reader.boolean();
    } else if (field == "message") {
      entry.message = reader.str();
    } else if (field == "name") {
      entry.name = reader.str();
    } else if (field == "scope") {
      entry.scope = reader.str();
    } else if (field == "seed") {
      entry.seed = reader.natural();
    } else if (field == "seq") {
      entry.seq = reader.integer();
    } else if (field == "tries") {
      entry.tries = reader.integer();
    } else if (field == "ts") {
      entry.ts = reader.integer();
    } else if (field == "void") {
      entry.voided = static_cast<Void>(reader.integer());
    } else {
      reader.skip();
    }
  }
  return entry;
}

}  // namespace

std::string place_id(Place place) {
  std::array<char, 21> text{};
  std::snprintf(text.data(), text.size(), "%020lld", static_cast<long long>(place));
  return text.data();
}

Place place_of_id(std::string_view id) {
  Place place = 0;
  std::from_chars(id.data(), id.data() + id.size(), place);
  return place;
}

void Queue::load(std::string_view id, std::string_view body) {
  Entry entry = decode(body);
  entry.place = place_of_id(id);
  entry.durable = true;
  entry.sent = true;  // it may have been
  entries_.push_back(std::move(entry));
}

Entry& Queue::push(Entry entry) {
  ++fresh_;
  Entry& kept = entries_.emplace_back(std::move(entry));
  change(kept);
  return kept;
}

Entry* Queue::find(Place place) {
  const auto at = std::ranges::lower_bound(entries_, place, {}, &Entry::place);
  return at != entries_.end() && at->place == place ? &*at : nullptr;
}

void Queue::change(Entry& entry) {
  if (entry.dirty) return;
  entry.dirty = true;
  changed_.push_back(entry.place);
}

std::deque<Entry>::iterator Queue::remove(const std::deque<Entry>::iterator& at) {
  if (at->durable) {
    gone_.push_back(at->place);
  } else {
    --fresh_;
  }
  return entries_.erase(at);
}

void Queue::write(WriteBatch& batch, std::deque<std::string>& texts, std::int64_t now) {
  const auto put = [&](Place place, std::string body) {
    const std::string& id = texts.emplace_back(place_id(place));
    batch.unlogged.push_back({.scope = kReplicaScope, .entity = kEntity, .id = id, .body = texts.emplace_back(std::move(body)), .updated_at = now});
  };
  for (const Place place : changed_) {
    if (const Entry* entry = find(place)) put(place, encode(*entry));
  }
  for (const Place place : gone_) put(place, {});
}

void Queue::written() {
  for (const Place place : changed_) {
    Entry* entry = find(place);
    if (entry == nullptr) continue;
    entry->dirty = false;
    entry->durable = true;
  }
  changed_.clear();
  gone_.clear();
  fresh_ = 0;
}

}  // namespace syncline::replica
