#include "replica/replica.h"

#include <unistd.h>

#include <algorithm>
#include <iterator>

#include "base/ids.h"
#include "replica/staging.h"
#include "replica/state.h"

namespace syncline::replica {

namespace {

Code code_of(const std::string& name) {
  for (int n = 0; n <= static_cast<int>(Code::storage); ++n) {
    const auto code = static_cast<Code>(n);
    if (code_name(code) == name) return code;
  }
  return Code::rejected;
}

}  // namespace

// The lock, for the length of a call. A mutator runs under it, so one that calls its own replica would wait for ever.
class Replica::Guard {
 public:
  explicit Guard(State& state) : state_(state) {
    if (getpid() != state.pid) {
      throw Error(Code::usage, "this replica was opened before fork(); open one in each process, each with a file of its own");
    }
    if (state.holder.load(std::memory_order_relaxed) == std::this_thread::get_id()) {
      throw Error(Code::usage, "a mutator must not call its own replica: read and write through its tx");
    }
    state.mutex.lock();
    state.holder.store(std::this_thread::get_id(), std::memory_order_relaxed);
  }
  ~Guard() {
    state_.holder.store(std::thread::id(), std::memory_order_relaxed);
    state_.mutex.unlock();
  }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

  State& open() {
    if (state_.closed) throw Error(Code::closed, "the replica is closed");
    return state_;
  }

 private:
  State& state_;
};

// A snapshot of the confirmed documents with the layer that lay over them at that moment.
class StoreView final : public ReplicaView {
 public:
  StoreView(std::unique_ptr<ReadTx> tx, std::string scope, std::shared_ptr<Layer> layer)
      : tx_(std::move(tx)), scope_(std::move(scope)), layer_(layer ? std::optional<SharedLayer>(std::in_place, std::move(layer)) : std::nullopt) {}

  std::optional<std::string> get(std::string_view entity, std::string_view id) override {
    if (const LayerDocument* said = find(entity, id)) return said->live ? std::optional(said->body) : std::nullopt;
    return confirmed_body(*tx_, scope_, entity, id);
  }
  std::int64_t version(std::string_view entity, std::string_view id) override {
    if (const LayerDocument* said = find(entity, id)) return said->live ? said->version : 0;
    std::int64_t version = 0;
    const DocumentKey key{scope_, entity, id};
    tx_->documents({&key, 1}, [&](std::size_t, const DocumentView* found) {
      if (found != nullptr && !found->deleted) version = found->version;
    });
    return version;
  }
  std::vector<Row> scan(std::string_view entity, std::string_view prefix, std::int64_t limit) override {
    return take_rows([&](const VisitRow& visit) { each(entity, prefix, visit); }, limit);
  }
  std::vector<Row> find(std::string_view entity, const FindOptions& options) override {
    return find_rows([&](const VisitRow& visit) { each(entity, {}, visit); }, options);
  }

 private:
  const LayerDocument* find(std::string_view entity, std::string_view id) {
    if (!layer_) return nullptr;
    const auto& documents = layer_->get()->documents;
    const auto found = documents.find(key_of(entity, id));
    return found == documents.end() ? nullptr : &found->second;
  }
  void each(std::string_view entity, std::string_view prefix, const VisitRow& visit) {
    Said said;
    if (layer_) say(*layer_->get(), entity, prefix, said);
    scan_merged(*tx_, scope_, entity, prefix, said, visit);
  }

  std::unique_ptr<ReadTx> tx_;
  std::string scope_;
  std::optional<SharedLayer> layer_;
};

Replica::Replica(std::unique_ptr<Store> store, MutatorHost& host, ReplicaOptions options)
    : state_(std::make_unique<State>(std::move(store), host, std::move(options))) {}

Replica::~Replica() {
  if (getpid() != state_->pid) {  // a forked child must not touch what its parent has open
    static_cast<void>(state_.release());
    return;
  }
  try {
    close();
  } catch (const Error&) {  // nobody to tell; the server still has what it acknowledged, the file what was flushed
  }
}

// --------------------------------------------------------------------------------------------------------------- scopes

void Replica::join(const std::string& scope) {
  check_name(scope, "scope", Code::invalid_scope);
  Guard guard(*state_);
  State& state = guard.open();
  if (state.find(scope) != nullptr) return;
  auto slot = std::make_unique<Slot>();
  slot->name = scope;
  slot->dirty = true;
  state.use(*slot, state.fresh_overlay(*slot));
  state.slots.emplace(scope, std::move(slot));
}

void Replica::leave(const std::string& scope) {
  Guard guard(*state_);
  State& state = guard.open();
  Slot& slot = state.joined(scope);
  std::vector<Place> flipped;
  for (Entry& entry : state.queue.entries()) {
    if (entry.scope != scope || !entry.confirmed) continue;
    entry.confirmed = false;
    state.queue.change(entry);
    flipped.push_back(entry.place);
  }
  slot.dirty = slot.wipe_stage = false;
  try {
    state.commit([&](WriteTx& tx) {
      forget_scope(tx, scope);
      forget_scope(tx, stage_name(scope));
      WriteBatch batch;
      batch.unlogged.push_back({.scope = kReplicaScope, .entity = "scope", .id = scope});
      tx.apply(batch);
    });
  } catch (...) {
    slot.dirty = true;
    for (const Place place : flipped) state.queue.find(place)->confirmed = true;
    throw;
  }
  state.slots.erase(scope);
  state.settle();
}

std::vector<ScopeState> Replica::scopes() {
  Guard guard(*state_);
  std::vector<ScopeState> out;
  for (const auto& [name, slot] : guard.open().slots) {
    out.push_back({.name = name,
                   .cursor = slot->record.cursor,
                   .epoch = slot->record.epoch,
                   .open = slot->record.open,
                   .loaded = slot->record.loaded,
                   .pulling = slot->outstanding != 0,
                   .staged_pages = slot->record.stage.pages});
  }
  return out;
}

// ---------------------------------------------------------------------------------------------------------- application

Place Replica::mutate(const std::string& scope, const std::string& name, std::string args) {
  check_name(name, "the mutation's name", Code::invalid_mutation);
  Guard guard(*state_);
  State& state = guard.open();
  Slot& slot = state.joined(scope);
  if (static_cast<std::int64_t>(state.queue.entries().size()) >= state.options.max_pending) {
    throw Error(Code::rate_limited,
                std::to_string(state.options.max_pending) + " mutations wait for the server; let them be sent before you make more",
                {{"limit", state.options.max_pending}});
  }
  Entry entry;
  entry.scope = scope;
  entry.name = name;
  entry.args = std::move(args);
  const std::int64_t most = state.options.limits.max_body_bytes;
  if (static_cast<std::int64_t>(entry.wire_size()) > most) {
    throw Error(Code::too_large,
                "the arguments of " + name + " are " + std::to_string(entry.args.size()) + " bytes encoded; a request takes " + std::to_string(most),
                {{"limit", most}});
  }
  state.build(slot);
  entry.place = state.self.place;
  entry.later = !state.self.successor.empty();
  entry.seq = entry.later ? state.self.successor_next : state.self.next;
  entry.ts = state.options.clock->now();
  entry.seed = state.options.entropy->next();

  Outcome outcome;
  try {
    outcome = state.run(entry, *slot.overlay);
  } catch (...) {
    slot.overlay->drop();
    throw;
  }
  if (outcome.kind != Outcome::Kind::ok) {
    slot.overlay->drop();
    if (outcome.kind == Outcome::Kind::refused) {
      const Code code = code_of(outcome.refusal.code);
      throw MutationRefused(code, std::move(outcome.refusal));
    }
    throw MutationRefused(Code::unavailable, {std::string(code_name(Code::unavailable)), "mutator " + name + " asks to try again", {}});
  }
  std::vector<Touched> touched;
  slot.overlay->merge(state.tell_changes ? &touched : nullptr);
  for (Touched& one : touched) state.tell_changed(slot, one.key, std::move(one.before), std::move(one.after), state.waiting);

  ++state.self.place;
  ++(entry.later ? state.self.successor_next : state.self.next);
  if (!entry.later && (state.fresh_id || (state.identified && !state.doubtful))) state.self.checked = state.self.next;
  state.self_dirty = true;
  return state.queue.push(std::move(entry)).place;
}

bool Replica::flush() {
  Guard guard(*state_);
  return guard.open().flush();
}

bool Replica::unflushed() {
  Guard guard(*state_);
  State& state = guard.open();
  return state.dirty() || !state.waiting.empty();
}

bool Replica::discard(Place place) {
  Guard guard(*state_);
  State& state = guard.open();
  Entry* entry = state.queue.find(place);
  if (entry == nullptr || entry->fate != Fate::unknown || entry->voided != Void::none) return false;
  entry->voided = Void::discarded;
  state.queue.change(*entry);
  state.rebase({entry->scope});
  return true;
}

std::vector<Pending> Replica::pending() {
  Guard guard(*state_);
  std::vector<Pending> out;
  for (const Entry& entry : guard.open().queue.entries()) {
    out.push_back({.place = entry.place,
                   .seq = entry.seq,
                   .scope = entry.scope,
                   .name = entry.name,
                   .args = entry.args,
                   .ts = entry.ts,
                   .tries = entry.tries,
                   .durable = entry.durable,
                   .sent = entry.sent,
                   .voided = entry.voided != Void::none || entry.fate == Fate::refused,
                   .confirmed = entry.confirmed});
  }
  return out;
}

std::vector<Refused> Replica::refused() {
  Guard guard(*state_);
  std::vector<Refused> out;
  for (const auto& [place, one] : guard.open().refused) {
    // Shown when it is on the disk.
    if (!guard.open().refused_changed.contains(place)) out.push_back(one);
  }
  return out;
}

bool Replica::forget_refused(Place place) {
  Guard guard(*state_);
  State& state = guard.open();
  if (state.refused.erase(place) == 0) return false;
  state.refused_changed.insert(place);
  return true;
}

std::unique_ptr<ReplicaView> Replica::view(const std::string& scope, bool confirmed) {
  Guard guard(*state_);
  State& state = guard.open();
  Slot& slot = state.joined(scope);
  if (!confirmed) state.build(slot);
  return std::make_unique<StoreView>(state.store->read(), scope, confirmed ? nullptr : slot.overlay->share());
}

std::vector<Event> Replica::take_events(std::size_t most) {
  Guard guard(*state_);
  State& state = guard.open();
  const auto count = static_cast<std::ptrdiff_t>(std::min(most, state.ready.size()));
  std::vector<Event> out(std::make_move_iterator(state.ready.begin()), std::make_move_iterator(state.ready.begin() + count));
  state.ready.erase(state.ready.begin(), state.ready.begin() + count);
  return out;
}

void Replica::tell_changes(bool wanted) {
  Guard guard(*state_);
  guard.open().tell_changes = wanted;
}

ReplicaStatus Replica::status() {
  Guard guard(*state_);
  State& state = guard.open();
  ReplicaStatus out;
  out.client_id = state.self.client_id;
  out.epoch = state.self.epoch;
  out.pending = static_cast<std::int64_t>(state.queue.entries().size());
  out.unsent = std::ranges::count_if(state.queue.entries(), [](const Entry& entry) { return entry.fate == Fate::unknown; });
  out.unflushed = static_cast<std::int64_t>(state.queue.not_durable());
  out.refused = static_cast<std::int64_t>(state.refused.size());
  for (const auto& [name, slot] : state.slots) out.documents_touched += static_cast<std::int64_t>(slot->overlay->layer().documents.size());
  out.rebases = state.rebases;
  out.replayed = state.replayed;
  out.pulled = state.pulled_changes;
  out.identified = state.identified;
  return out;
}

// --------------------------------------------------------------------------------------------------------------- driver

std::optional<Outgoing> Replica::next_push() {
  Guard guard(*state_);
  return guard.open().next_push();
}

std::optional<Outgoing> Replica::next_pull(const std::string& scope) {
  Guard guard(*state_);
  Slot* slot = guard.open().find(scope);
  if (slot == nullptr) return std::nullopt;
  return guard.open().next_pull(*slot);
}

Answered Replica::answer(std::uint64_t request, int status, std::string_view body) {
  Guard guard(*state_);
  return guard.open().answer(request, status, body);
}

void Replica::lost(std::uint64_t request) {
  Guard guard(*state_);
  State& state = guard.open();
  if (request == 0) return;
  if (request == state.push_request) state.push_request = 0;
  if (request == state.question_request) state.question_request = 0;
  for (const auto& [name, slot] : state.slots) {
    if (slot->outstanding == request) slot->outstanding = 0;
  }
}

bool Replica::news(const std::string& scope, Cursor cursor, const std::string& epoch) {
  Guard guard(*state_);
  const Slot* slot = guard.open().find(scope);
  if (slot == nullptr) return false;
  return !slot->record.loaded || slot->resync || slot->record.cursor != cursor || slot->record.epoch != epoch;
}

void Replica::learn_limits(const Limits& limits) {
  Guard guard(*state_);
  State& state = guard.open();
  state.options.limits = limits;
  for (const auto& [name, slot] : state.slots) slot->overlay->limit(static_cast<std::size_t>(limits.max_document_bytes));
}

void Replica::close() {
  Guard guard(*state_);
  State& state = *state_;
  if (state.closed) return;
  state.closed = true;
  std::exception_ptr failure;
  try {
    state.flush();
  } catch (const Error&) {
    failure = std::current_exception();
  }
  state.base_tx.reset();
  state.store->close();
  if (failure) std::rethrow_exception(failure);
}

void Replica::abandon() {
  Guard guard(*state_);
  State& state = *state_;
  if (std::exchange(state.closed, true)) return;
  state.base_tx.reset();
  state.store->close();
}

}  // namespace syncline::replica
