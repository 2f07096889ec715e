// What a replica pulls, and what the answer to it means.
#include <algorithm>
#include <iterator>
#include <unordered_map>

#include "base/msgpack.h"

#include "replica/staging.h"
#include "replica/state.h"

namespace syncline::replica {

std::optional<Outgoing> Replica::State::next_pull(Slot& slot) {
  if (slot.outstanding != 0) return std::nullopt;
  const Stage& stage = slot.record.stage;
  PullQuestion question;
  question.scope = slot.name;
  question.client_id = self.client_id;
  if (stage.pages > 0) {
    question.cursor = stage.cursor;
    question.epoch = stage.asked;
    question.page = stage.page;
  } else if (slot.record.loaded && !slot.resync && slot.record.cursor > 0) {
    question.cursor = slot.record.cursor;
    question.epoch = slot.record.epoch;
  }
  slot.outstanding = new_request();
  slot.asked_from = question.cursor;
  slot.asked_page = stage.pages > 0;
  return Outgoing{.request = slot.outstanding, .path = "/_sync/pull", .scope = slot.name, .body = encode_pull(question)};
}

Answered Replica::State::pulled(Slot& slot, int status, std::string_view body) {
  if (status == 200) {
    const PullAnswer answer = parse_pull_answer(body);
    const bool torn = slot.asked_page && slot.record.stage.epoch != answer.epoch;
    const std::string asked_as = self.client_id;
    learn(answer.epoch, &slot);
    identify(answer.last_seq);
    if (self.client_id != asked_as) {  // its last_seq speaks of the old id's numbers
      flush();
      return {};
    }
    if (torn || (slot.asked_page && slot.record.stage.pages == 0)) {
      drop_stage(slot);  // pages of two epochs do not belong together
      return {};
    }
    answer.has_more ? stage(slot, answer) : apply(slot, answer);
    return {};
  }
  const ErrorAnswer said = parse_error(body);
  if (status == 403 && said.code == "forbidden") {
    if (!said.client_id.empty() && said.client_id == self.client_id) {
      take_new_identity("client id " + self.client_id + " belongs to another user");
      flush();
      return {.code = said.code, .message = said.message};
    }
    close_scope(slot);
    return {.next = Answered::Next::failed, .code = said.code, .message = said.message};
  }
  if (status == 410) {
    drop_stage(slot);
    if (slot.asked_from > 0 && !slot.resync && said.code == "epoch_mismatch") {
      Event event;
      event.kind = Event::Kind::restored;
      event.scope = slot.name;
      event.message = said.message;
      waiting.push_back(std::move(event));
    }
    slot.resync = true;
    flush();
    return {.code = said.code, .message = said.message};
  }
  if (status == 400 && slot.asked_page) {
    drop_stage(slot);  // a token that the server does not know any more
    return {.code = said.code, .message = said.message};
  }
  return what_now(status, said);
}

void Replica::State::stage(Slot& slot, const PullAnswer& answer) {
  const ScopeRecord before = slot.record;
  const bool fresh = slot.asked_from == 0;
  const bool first = before.stage.pages == 0;
  Stage& stage = slot.record.stage;
  if (first) {
    stage.cursor = slot.asked_from;
    stage.asked = fresh ? std::string() : before.epoch;
    stage.epoch = answer.epoch;
  }
  stage.page = answer.page;
  ++stage.pages;
  slot.dirty = true;
  slot.wipe_stage = false;
  try {
    commit([&](WriteTx& tx) {
      const std::string name = stage_name(slot.name);
      if (first) forget_scope(tx, name);
      // From 0 there is nothing that a deletion could take away but what an earlier page brought.
      put_page(tx, name, answer.changes, !fresh, {});
    });
  } catch (...) {
    slot.record = before;
    throw;
  }
}

void Replica::State::apply(Slot& slot, const PullAnswer& answer) {
  const ScopeRecord before = slot.record;
  const bool fresh = slot.asked_from == 0;
  const bool staged = before.stage.pages > 0;
  const bool had = before.loaded;
  const bool told = tell_changes;
  if (told) build(slot);

  // Rule 5: of this scope alone.
  std::vector<Place> flipped;
  for (Entry& entry : queue.entries()) {
    if (entry.scope != slot.name) continue;
    const bool confirmed = !entry.later && entry.seq <= answer.last_seq;
    if (confirmed == entry.confirmed) continue;
    entry.confirmed = confirmed;
    queue.change(entry);
    flipped.push_back(entry.place);
  }
  const bool resync = std::exchange(slot.resync, false);
  slot.record = {.cursor = answer.cursor, .epoch = std::string(answer.epoch), .open = true, .loaded = true, .stage = {}};
  slot.dirty = slot.dirty || before.cursor != answer.cursor || before.epoch != answer.epoch || !before.open || !before.loaded || staged;

  // The most frequent answer by far: there is nothing new. Where the cursor is then is written with whatever comes next.
  if (answer.empty && !staged && !fresh && flipped.empty()) {
    settle();
    return;
  }

  ++rebases;
  std::unique_ptr<Overlay> next = fresh_overlay(slot);
  std::vector<Event> events;
  try {
    commit([&](WriteTx& tx) {
      const std::string stage = stage_name(slot.name);
      std::unordered_map<std::string, std::string> was;  // confirmed bodies that the pull replaces; empty: there was none
      BeforeChange note;
      if (told) {
        note = [&](std::string_view entity, std::string_view id) {
          const auto [at, added] = was.try_emplace(key_of(entity, id));
          if (added) at->second = confirmed_body(tx, slot.name, entity, id).value_or(std::string());
        };
      }
      if (!fresh) {
        if (staged) {
          put_page(tx, stage, answer.changes, true, {});
          merge_stage(tx, slot.name, note);
        } else {
          put_page(tx, slot.name, answer.changes, false, note);
        }
      } else if (staged || had) {
        if (!staged) forget_scope(tx, stage);
        put_page(tx, stage, answer.changes, false, {});
        swap_stage(tx, slot.name);
      } else {
        put_page(tx, slot.name, answer.changes, false, {});
      }

      next->over([&tx]() -> ReadTx& { return tx; });
      replay(slot, *next);

      if (told) {
        const auto& old_layer = slot.overlay->layer().documents;
        const auto& new_layer = next->layer().documents;
        const bool plain = old_layer.empty() && new_layer.empty();
        const auto optimistic = [&](const std::string& key) { return old_layer.contains(key) || new_layer.contains(key); };
        const auto confirmed_before = [&](const std::string& key) -> std::string {
          const auto [entity, id] = split_key(key);
          if (fresh) return had ? confirmed_body(tx, stage, entity, id).value_or(std::string()) : std::string();
          if (const auto found = was.find(key); found != was.end()) return found->second;
          return confirmed_body(tx, slot.name, entity, id).value_or(std::string());
        };
        const auto confirmed_now = [&](const std::string& key) {
          const auto [entity, id] = split_key(key);
          return confirmed_body(tx, slot.name, entity, id).value_or(std::string());
        };
        if (fresh) {
          tx.changed(slot.name, 0, true, [&](const DocumentView& row) {
            std::string key = key_of(row.entity, row.id);
            if (plain || !optimistic(key)) tell_changed(slot, key, confirmed_before(key), std::string(row.body), events);
            return true;
          });
          if (had) {
            tx.changed(stage, 0, true, [&](const DocumentView& row) {
              std::string key = key_of(row.entity, row.id);
              if ((plain || !optimistic(key)) && confirmed_now(key).empty()) tell_changed(slot, key, std::string(row.body), {}, events);
              return true;
            });
          }
        } else {
          for (auto& [key, body] : was) {
            if (plain || !optimistic(key)) tell_changed(slot, key, body, confirmed_now(key), events);
          }
        }
        std::set<std::string> keys;
        for (const auto& [key, document] : old_layer) keys.insert(key);
        for (const auto& [key, document] : new_layer) keys.insert(key);
        for (const std::string& key : keys) {
          const auto old = old_layer.find(key);
          const auto now = new_layer.find(key);
          tell_changed(slot, key, old != old_layer.end() ? old->second.body : confirmed_before(key),
                       now != new_layer.end() ? now->second.body : confirmed_now(key), events);
        }
      }
      if (fresh && (staged || had)) forget_scope(tx, stage);
    });
  } catch (...) {
    slot.record = before;
    slot.resync = resync;
    for (const Place place : flipped) {
      if (Entry* entry = queue.find(place)) entry->confirmed = !entry->confirmed;
    }
    throw;
  }
  slot.wipe_stage = false;
  use(slot, std::move(next));
  slot.built = true;
  pulled_changes += mp::Reader(answer.changes).array();
  std::ranges::move(events, std::back_inserter(ready));
  if (!had) {
    Event event;
    event.kind = Event::Kind::opened;
    event.scope = slot.name;
    ready.push_back(std::move(event));
  }
  settle();
}

// Rule 8.
void Replica::State::close_scope(Slot& slot) {
  if (!slot.record.open) return;
  const ScopeRecord before = slot.record;
  if (tell_changes) build(slot);
  std::vector<Place> flipped;
  for (Entry& entry : queue.entries()) {
    if (entry.scope != slot.name || !entry.confirmed) continue;
    entry.confirmed = false;
    queue.change(entry);
    flipped.push_back(entry.place);
  }
  slot.record = {.open = false};
  slot.resync = false;
  slot.dirty = true;
  std::unique_ptr<Overlay> next = fresh_overlay(slot);
  std::vector<Event> events;
  try {
    commit([&](WriteTx& tx) {
      std::vector<std::pair<std::string, std::string>> gone;
      if (tell_changes) {
        tx.changed(slot.name, 0, true, [&](const DocumentView& row) {
          gone.emplace_back(key_of(row.entity, row.id), row.body);
          return true;
        });
      }
      forget_scope(tx, slot.name);
      forget_scope(tx, stage_name(slot.name));
      next->over([&tx]() -> ReadTx& { return tx; });
      replay(slot, *next);
      if (!tell_changes) return;
      const auto& old_layer = slot.overlay->layer().documents;
      const auto& new_layer = next->layer().documents;
      std::map<std::string, std::string> was;
      for (auto& [key, body] : gone) was.emplace(std::move(key), std::move(body));
      for (const auto& [key, document] : old_layer) was.insert_or_assign(key, document.body);
      for (const auto& [key, document] : new_layer) was.try_emplace(key);
      for (const auto& [key, body] : was) {
        const auto now = new_layer.find(key);
        tell_changed(slot, key, body, now != new_layer.end() ? now->second.body : std::string(), events);
      }
    });
  } catch (...) {
    slot.record = before;
    for (const Place place : flipped) {
      if (Entry* entry = queue.find(place)) entry->confirmed = true;
    }
    throw;
  }
  use(slot, std::move(next));
  slot.built = true;
  std::ranges::move(events, std::back_inserter(ready));
  Event event;
  event.kind = Event::Kind::closed;
  event.scope = slot.name;
  ready.push_back(std::move(event));
  settle();
}

}  // namespace syncline::replica
