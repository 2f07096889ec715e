#include "replica/state.h"

#include <unistd.h>

#include <algorithm>
#include <iterator>

#include "base/ids.h"
#include "base/msgpack.h"
#include "replica/staging.h"

namespace syncline::replica {

namespace {

constexpr std::string_view kIdentity = "identity";
constexpr std::string_view kSelf = "self";
constexpr std::string_view kQueue = "queue";
constexpr std::string_view kScope = "scope";
constexpr std::string_view kRefused = "refused";

// A KeyboardInterrupt hits whatever mutator happens to run; in a replay that is nobody's fault.
constexpr int kInterruptedReplays = 3;

}  // namespace

Replica::State::State(std::unique_ptr<Store> given, MutatorHost& mutators, ReplicaOptions chosen)
    : pid(getpid()), store(std::move(given)), host(mutators), options(std::move(chosen)) {
  if (!options.clock) options.clock = system_clock();
  if (!options.entropy) options.entropy = system_entropy();
  if (!options.client_id.empty()) check_name(options.client_id, "client_id", Code::usage);
  if (!options.user.empty()) check_name(options.user, "user", Code::usage);
  load();
}

void Replica::State::load() {
  const std::unique_ptr<ReadTx> tx = store->read();
  if (!tx->epochs().empty()) {
    const std::string path = store->info().path;
    throw Error(Code::foreign_file, "'" + path + "' is an engine's database; give the replica a path of its own", {{"path", path}});
  }
  const auto notes = [&](std::string_view entity, const std::function<void(std::string_view, std::string_view)>& read) {
    try {
      tx->unlogged(kReplicaScope, entity, {}, {}, [&](const UnloggedView& row) {
        read(row.id, row.body);
        return true;
      });
    } catch (const Error& error) {
      if (error.code() != Code::corrupt) throw;
      throw Error(Code::corrupt, "'" + store->info().path + "' is damaged: a replica's " + std::string(entity) + " note: " + error.what());
    }
  };
  bool known = false;
  notes(kIdentity, [&](std::string_view, std::string_view body) {
    self = Identity::decode(body);
    known = true;
  });
  notes(kQueue, [&](std::string_view id, std::string_view body) { queue.load(id, body); });
  notes(kScope, [&](std::string_view id, std::string_view body) {
    auto slot = std::make_unique<Slot>();
    slot->name = id;
    slot->record = ScopeRecord::decode(body);
    slots.emplace(slot->name, std::move(slot));
  });
  notes(kRefused, [&](std::string_view id, std::string_view body) {
    Refused one = decode_refused(id, body);
    refused.emplace(one.place, std::move(one));
  });
  for (const auto& [name, slot] : slots) use(*slot, fresh_overlay(*slot));
  if (!known) {
    self.client_id = options.client_id.empty() ? new_client_id() : options.client_id;
    fresh_id = options.client_id.empty();
    self_dirty = true;
  }
  opened_next = self.next;
  settle();  // a crash may have come between an answer's commit and this
}

bool Replica::State::dirty() const {
  return self_dirty || queue.dirty() || !refused_changed.empty() ||
         std::ranges::any_of(slots, [](const auto& item) { return item.second->dirty || item.second->wipe_stage; });
}

bool Replica::State::flush() {
  if (dirty()) {
    commit({});
    return true;
  }
  if (waiting.empty()) return false;
  std::ranges::move(waiting, std::back_inserter(ready));
  waiting.clear();
  return true;
}

void Replica::State::commit(const std::function<void(WriteTx&)>& more) {
  base_tx.reset();  // it would keep the log of writes from being emptied
  const std::int64_t now = options.clock->now();
  const std::unique_ptr<WriteTx> tx = store->write();
  if (more) more(*tx);
  WriteBatch batch;
  std::deque<std::string> texts;
  const auto put = [&](std::string_view entity, std::string_view id, std::string body) {
    batch.unlogged.push_back({.scope = kReplicaScope, .entity = entity, .id = id, .body = texts.emplace_back(std::move(body)), .updated_at = now});
  };
  if (self_dirty) put(kIdentity, kSelf, self.encode());
  queue.write(batch, texts, now);
  for (const auto& [name, slot] : slots) {
    if (slot->dirty) put(kScope, name, slot->record.encode());
    if (slot->wipe_stage) batch.forget_scopes.push_back(texts.emplace_back(stage_name(name)));
  }
  for (const Place place : refused_changed) {
    const auto found = refused.find(place);
    put(kRefused, texts.emplace_back(place_id(place)), found == refused.end() ? std::string() : encode(found->second));
  }
  tx->apply(batch);
  tx->commit();

  self_dirty = false;
  queue.written();
  refused_changed.clear();
  for (const auto& [name, slot] : slots) slot->dirty = slot->wipe_stage = false;
  std::ranges::move(waiting, std::back_inserter(ready));
  waiting.clear();
}

ReadTx& Replica::State::base() {
  if (!base_tx) base_tx = store->read();
  return *base_tx;
}

// ----------------------------------------------------------------------------------------------------------------- view

Slot* Replica::State::find(std::string_view scope) {
  const auto found = slots.find(scope);
  return found == slots.end() ? nullptr : found->second.get();
}

Slot& Replica::State::joined(const std::string& scope) {
  if (Slot* slot = find(scope)) return *slot;
  check_name(scope, "scope", Code::invalid_scope);
  throw Error(Code::invalid_scope, "scope " + scope + " is not joined; join it first", {{"scope", scope}});
}

std::unique_ptr<Overlay> Replica::State::fresh_overlay(const Slot& slot) const {
  return std::make_unique<Overlay>(slot.name, static_cast<std::size_t>(options.limits.max_document_bytes));
}

void Replica::State::use(Slot& slot, std::unique_ptr<Overlay> overlay) {
  overlay->over([this]() -> ReadTx& { return base(); });
  slot.overlay = std::move(overlay);
}

void Replica::State::build(Slot& slot) {
  if (slot.built) return;
  slot.built = true;
  replay(slot, *slot.overlay);
}

Outcome Replica::State::run(const Entry& entry, Overlay& overlay) {
  Mutation mutation;
  mutation.name = entry.name;
  mutation.args = entry.args;
  mutation.client_id = entry.later ? self.successor : self.client_id;
  mutation.client_seq = entry.seq;
  mutation.scope = entry.scope;
  mutation.ts = entry.ts;
  mutation.seed = entry.seed;
  Random random(entry.seed);
  Tx tx(overlay, entry.scope, mutation.client_id, options.user, entry.ts, random);
  struct End {
    Tx& tx;
    ~End() { tx.end(); }
  } end{tx};
  try {
    return host.run(mutation, tx);
  } catch (const Error& error) {
    return {Outcome::Kind::refused, Refusal{std::string(code_name(error.code())), error.what(), error.details()}};
  }
}

void Replica::State::replay(const Slot& slot, Overlay& overlay) {
  for (const Entry& entry : queue.entries()) {
    if (entry.scope != slot.name || !entry.replays()) continue;
    // In a closed scope nothing of ours will be confirmed any more.
    if (!slot.record.open && entry.fate == Fate::applied) continue;
    ++replayed;
    Outcome outcome;
    for (int n = 0; n < kInterruptedReplays; ++n) {
      outcome = run(entry, overlay);
      if (outcome.kind != Outcome::Kind::abort) break;
      overlay.drop();
    }
    outcome.kind == Outcome::Kind::ok ? overlay.merge(nullptr) : overlay.drop();
  }
}

void Replica::State::tell_changed(const Slot& slot, std::string_view key, std::string before, std::string after,
                                  std::vector<Event>& into) const {
  if (before == after) return;
  const auto [entity, id] = split_key(key);
  Event event;
  event.kind = Event::Kind::changed;
  event.scope = slot.name;
  event.entity = entity;
  event.id = id;
  event.before = std::move(before);
  event.after = std::move(after);
  into.push_back(std::move(event));
}

void Replica::State::rebase(Slot& slot) {
  if (!slot.built) return;
  ++rebases;
  std::unique_ptr<Overlay> next = fresh_overlay(slot);
  next->over([this]() -> ReadTx& { return base(); });
  replay(slot, *next);
  if (tell_changes) {
    const auto body = [&](const Layer& layer, const std::string& key) {
      if (const auto found = layer.documents.find(key); found != layer.documents.end()) return found->second.body;
      const auto [entity, id] = split_key(key);
      return confirmed_body(base(), slot.name, entity, id).value_or(std::string());
    };
    const Layer& old = slot.overlay->layer();
    std::set<std::string> keys;
    for (const auto& [key, document] : old.documents) keys.insert(key);
    for (const auto& [key, document] : next->layer().documents) keys.insert(key);
    for (const std::string& key : keys) tell_changed(slot, key, body(old, key), body(next->layer(), key), waiting);
  }
  slot.overlay = std::move(next);
}

void Replica::State::rebase(const std::set<std::string>& scopes) {
  for (const std::string& scope : scopes) {
    if (Slot* slot = find(scope)) rebase(*slot);
  }
}

// ----------------------------------------------------------------------------------------------------------- the queue

std::string Replica::State::new_client_id() { return uuid7(options.clock->now(), options.entropy->next()); }

std::uint64_t Replica::State::new_request() noexcept {
  static std::atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

// Rule 6. The results came from another history: those of refused mutations are told already, so they may never run.
void Replica::State::forget_fates() {
  for (Entry& entry : queue.entries()) {
    if (entry.fate == Fate::unknown) continue;
    if (entry.fate == Fate::refused || (entry.fate == Fate::consumed && entry.voided == Void::given_up)) entry.voided = Void::told;
    entry.fate = Fate::unknown;
    queue.change(entry);
  }
}

void Replica::State::drop_stage(Slot& slot) {
  if (slot.record.stage.pages == 0) return;
  slot.record.stage = {};
  slot.dirty = slot.wipe_stage = true;
}

// Rule 3.
void Replica::State::abandon_requests(const Slot* answering) {
  push_request = question_request = 0;
  for (const auto& [name, slot] : slots) {
    if (slot.get() == answering) continue;
    slot->outstanding = 0;
    drop_stage(*slot);
  }
}

void Replica::State::learn(std::string_view epoch, const Slot* answering) {
  if (self.epoch == epoch) return;
  self.epoch = epoch;
  self_dirty = true;
  forget_fates();
  abandon_requests(answering);
}

// Rule 10.
void Replica::State::identify(std::int64_t last_seq) {
  if (identified) return;
  identified = true;
  if (last_seq < self.checked) {
    self.checked = self.next;
    self_dirty = true;
    return;
  }
  // Numbers from `checked` on are used on the server. The ones of the file may be the same mutations, or others' that a lost later state
  // of it has made: they are pushed under the old id to learn their fate. What was made since the file was opened moves behind.
  doubtful = true;
  if (last_seq >= opened_next) {
    number_later([&](const Entry& entry) { return entry.later || entry.seq >= opened_next; });
  }
  settle();
}

void Replica::State::number_later(const std::function<bool(const Entry&)>& chosen) {
  if (self.successor.empty()) self.successor = new_client_id();
  self.successor_next = 1;
  self_dirty = true;
  for (Entry& entry : queue.entries()) {
    if (!chosen(entry)) continue;
    entry.later = true;
    entry.confirmed = false;
    entry.seq = self.successor_next++;
    queue.change(entry);
  }
}

void Replica::State::activate_successor() {
  self.client_id = std::exchange(self.successor, {});
  self.next = self.checked = self.successor_next;
  doubtful = false;
  self.settled = 0;
  self_dirty = true;
  for (Entry& entry : queue.entries()) {
    entry.later = false;
    queue.change(entry);
  }
  abandon_requests(nullptr);
  Event event;
  event.kind = Event::Kind::renamed;
  event.message = "this file had been set back to an older state; what comes is sent under a new client id, " + self.client_id;
  waiting.push_back(std::move(event));
}

// Rule 9. Nothing of ours was ever applied under that id.
void Replica::State::take_new_identity(const std::string& why) {
  auto& entries = queue.entries();
  std::int64_t seq = 0;
  for (auto at = entries.begin(); at != entries.end();) {
    if (at->voided != Void::none || at->fate == Fate::refused || at->fate == Fate::consumed) {
      if (at->voided == Void::given_up && at->fate == Fate::unknown) tell_refused(*at, at->code, at->message);
      at = queue.remove(at);
      continue;
    }
    at->seq = ++seq;
    at->fate = Fate::unknown;
    at->confirmed = at->later = false;
    queue.change(*at);
    ++at;
  }
  self.client_id = new_client_id();
  self.next = self.checked = seq + 1;
  doubtful = false;
  self.settled = 0;
  self.successor.clear();
  self_dirty = true;
  identified = true;
  abandon_requests(nullptr);
  Event event;
  event.kind = Event::Kind::renamed;
  event.message = why + "; what is pending is sent under a new client id, " + self.client_id;
  waiting.push_back(std::move(event));
}

// Rule 4. What is answered and in the documents (or can be in none that are held) leaves, from the front.
void Replica::State::settle() {
  const auto done = [&](const Entry& entry) {
    if (entry.fate == Fate::unknown) return false;
    if (entry.fate != Fate::applied || entry.confirmed) return true;
    const Slot* slot = find(entry.scope);
    return slot == nullptr || !slot->record.open;
  };
  auto& entries = queue.entries();
  bool held = false;            // something under the present id is left
  std::set<std::string> shown;  // of what leaves with its effect: its scope is closed, and no pull will bring it
  for (auto at = entries.begin(); at != entries.end();) {
    if (at->later) {
      ++at;
      continue;
    }
    if (!done(*at)) {
      held = true;
      break;
    }
    self.settled = std::max(self.settled, at->seq);
    self_dirty = true;
    if (at->replays()) shown.insert(at->scope);
    at = queue.remove(at);
  }
  if (!held && !self.successor.empty()) activate_successor();
  if (doubtful && self.successor.empty() && self.settled >= opened_next - 1) {
    doubtful = false;
    self.checked = self.next;
    self_dirty = true;
  }
  rebase(shown);
}

void Replica::State::give_up(Entry& entry, std::string code, std::string message) {
  entry.voided = Void::given_up;
  entry.code = std::move(code);
  entry.message = std::move(message);
  queue.change(entry);
}

void Replica::State::tell_refused(const Entry& entry, const std::string& code, const std::string& message) {
  Refused one;
  one.place = entry.place;
  one.client_id = self.client_id;
  one.seq = entry.seq;
  one.scope = entry.scope;
  one.name = entry.name;
  one.args = entry.args;
  one.ts = entry.ts;
  one.at = options.clock->now();
  one.code = code;
  one.message = message;
  refused.insert_or_assign(entry.place, std::move(one));
  refused_changed.insert(entry.place);
  while (static_cast<std::int64_t>(refused.size()) > options.max_refused) {
    refused_changed.insert(refused.begin()->first);
    refused.erase(refused.begin());
  }
  Event event;
  event.kind = Event::Kind::refused;
  event.scope = entry.scope;
  event.place = entry.place;
  event.code = code;
  event.message = message;
  waiting.push_back(std::move(event));
}

}  // namespace syncline::replica
