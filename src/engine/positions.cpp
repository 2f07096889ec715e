#include "engine/positions.h"

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

#include "base/msgpack.h"

namespace syncline {

bool Positions::note(std::string_view client_id, std::string_view user, std::string_view scope, Cursor confirmed, Cursor told,
                     std::int64_t now) {
  Key key{scope, client_id};
  const std::scoped_lock lock(mutex_);
  auto at = noted_.find(key);
  if (at == noted_.end()) {
    if (noted_.size() >= kMostNoted) return true;
    at = noted_.try_emplace(std::move(key)).first;
    at->second.client_id = client_id;
    at->second.scope = scope;
  }
  Position& position = at->second;
  position.user = user;
  position.confirmed = confirmed;
  position.cursor = told;
  position.last_seen = now;
  return noted_.size() >= kWorthWriting;
}

std::vector<Position> Positions::take() {
  std::map<Key, Position> taken;
  {
    const std::scoped_lock lock(mutex_);
    taken.swap(noted_);
  }
  std::vector<Position> positions;
  positions.reserve(taken.size());
  for (auto& [key, position] : taken) positions.push_back(std::move(position));
  return positions;
}

void Positions::put_back(std::vector<Position> positions) {
  std::vector<Position> unwritten = std::move(positions);
  const std::scoped_lock lock(mutex_);
  for (Position& position : unwritten) {
    if (noted_.size() >= kMostNoted) return;
    Key key{position.scope, position.client_id};
    noted_.try_emplace(std::move(key), std::move(position));
  }
}

std::vector<Position> Positions::all(ReadTx& tx, std::string_view scope) {
  std::map<Key, Position> found;
  tx.unlogged(kPositionsScope, kPositionEntity, {}, {}, [&](const UnloggedView& stored) {
    Position position = decode(stored.body);
    if (scope.empty() || position.scope == scope) {
      Key key{position.scope, position.client_id};
      found.insert_or_assign(std::move(key), std::move(position));
    }
    return true;
  });
  {
    const std::scoped_lock lock(mutex_);
    for (const auto& [key, position] : noted_) {
      if (scope.empty() || key.first == scope) found.insert_or_assign(key, position);
    }
  }
  std::vector<Position> positions;
  positions.reserve(found.size());
  std::string_view of;
  Cursor head = 0;
  for (auto& [key, position] : found) {
    if (key.first != of || positions.empty()) {
      of = key.first;
      const std::optional<ScopeRow> row = tx.scope(of);
      head = row ? row->head : 0;
    }
    position.lag = std::max<Cursor>(head - position.cursor, 0);
    positions.push_back(std::move(position));
  }
  return positions;
}

std::optional<Position> Positions::find(ReadTx& tx, std::string_view client_id, std::string_view scope) {
  {
    const std::scoped_lock lock(mutex_);
    if (const auto noted = noted_.find(Key(scope, client_id)); noted != noted_.end()) return noted->second;
  }
  Position wanted;
  wanted.client_id = client_id;
  wanted.scope = scope;
  std::optional<Position> found;
  const std::string id = id_of(wanted);
  tx.unlogged(kPositionsScope, kPositionEntity, id, {}, [&](const UnloggedView& stored) {
    found = decode(stored.body);
    return false;
  });
  return found;
}

std::string Positions::id_of(const Position& position) {
  const std::string one = position.scope + '\0' + position.client_id;
  const std::string other = position.client_id + '\0' + position.scope + '\0';
  std::array<char, 33> text{};
  std::snprintf(text.data(), text.size(), "%016llx%016llx", static_cast<unsigned long long>(mp::hash64(one)),
                static_cast<unsigned long long>(mp::hash64(other)));
  return {text.data(), 32};
}

std::string Positions::encode(const Position& position) {
  std::string out;
  mp::Writer writer(out);
  writer.map(6);
  writer.str("client_id");
  writer.str(position.client_id);
  writer.str("confirmed");
  writer.integer(position.confirmed);
  writer.str("cursor");
  writer.integer(position.cursor);
  writer.str("scope");
  writer.str(position.scope);
  writer.str("seen");
  writer.instant(position.last_seen);
  writer.str("user");
  writer.str(position.user);
  return out;
}

Position Positions::decode(std::string_view body) {
  Position position;
  position.client_id = mp::Reader(mp::field(body, "client_id")).str();
  position.confirmed = mp::Reader(mp::field(body, "confirmed")).integer();
  position.cursor = mp::Reader(mp::field(body, "cursor")).integer();
  position.scope = mp::Reader(mp::field(body, "scope")).str();
  position.last_seen = mp::Reader(mp::field(body, "seen")).instant();
  position.user = mp::Reader(mp::field(body, "user")).str();
  return position;
}

}  // namespace syncline
