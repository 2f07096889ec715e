#include "engine/dead_letters.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <utility>

#include "base/msgpack.h"
#include "engine/engine.h"

namespace syncline {

namespace dead_letters {

namespace {

struct Ledger {
  std::int64_t bytes = 0, count = 0, dropped = 0;
  std::int64_t first = 1;  // no letter has a lower number
  std::int64_t last = 0;   // the highest number given
};

Ledger parse(std::string_view body) {
  Ledger ledger;
  if (body.empty()) return ledger;
  const auto number = [&](std::string_view name) { return mp::Reader(mp::field(body, name)).integer(); };
  ledger.bytes = number("bytes");
  ledger.count = number("count");
  ledger.dropped = number("dropped");
  ledger.first = number("first");
  ledger.last = number("last");
  return ledger;
}

Ledger load(WriteSet& set) { return parse(set.unlogged(kScope, kLedger, kLedger).value_or(std::string())); }

void save(WriteSet& set, const Ledger& ledger) {
  std::string body;
  mp::Writer writer(body);
  writer.map(5);
  const auto put = [&](std::string_view name, std::int64_t value) {
    writer.str(name);
    writer.integer(value);
  };
  put("bytes", ledger.bytes);
  put("count", ledger.count);
  put("dropped", ledger.dropped);
  put("first", ledger.first);
  put("last", ledger.last);
  set.put_unlogged(kScope, kLedger, kLedger, std::move(body));
}

std::int64_t number_of(std::string_view id) {
  std::int64_t number = 0;
  std::from_chars(id.data(), id.data() + id.size(), number);
  return number;
}

bool over(const Ledger& ledger, const DeadLetterLimits& limits) {
  return ledger.count > limits.max_count || ledger.bytes > limits.max_bytes;
}

// Drops the oldest while they are too many or too old, but never the one numbered `spared`.
void drop_oldest(WriteSet& set, Ledger& ledger, const DeadLetterLimits& limits, std::int64_t spared) {
  while (ledger.count > 0) {
    std::int64_t oldest = 0;
    std::int64_t size = 0;
    std::int64_t at = 0;
    set.scan_unlogged(kScope, kLetter, id_of(ledger.first - 1), [&](std::string_view id, std::string_view body) {
      oldest = number_of(id);
      size = static_cast<std::int64_t>(body.size());
      at = mp::Reader(mp::field(body, "at")).instant();
      return false;
    });
    if (oldest == 0 || oldest == spared || !(over(ledger, limits) || at < set.now() - limits.max_age)) return;
    set.put_unlogged(kScope, kLetter, id_of(oldest), {});
    ledger.first = oldest + 1;
    ledger.bytes -= size;
    --ledger.count;
    ++ledger.dropped;
  }
}

}  // namespace

std::string id_of(std::int64_t number) {
  std::array<char, 24> text{};
  std::snprintf(text.data(), text.size(), "%016lld", static_cast<long long>(number));
  return std::string(text.data());
}

DeadLetterCounts counts_of(std::string_view ledger) {
  const Ledger parsed = parse(ledger);
  return {parsed.count, parsed.dropped, parsed.bytes};
}

std::string encode(const DeadLetter& letter) {
  std::string body;
  mp::Writer writer(body);
  const auto text = [&](std::string_view name, std::string_view value) {
    writer.str(name);
    writer.str(value);
  };
  const auto instant = [&](std::string_view name, std::int64_t value) {
    writer.str(name);
    writer.instant(value);
  };
  writer.map(14);
  writer.str("args");
  letter.args.empty() ? writer.nil() : writer.raw(letter.args);
  instant("at", letter.at);
  writer.str("attempts");
  writer.integer(letter.attempts);
  text("client_id", letter.client_id);
  writer.str("client_seq");
  writer.integer(letter.client_seq);
  text("error", letter.error);
  text("message", letter.message);
  text("name", letter.name);
  text("scope", letter.scope);
  writer.str("seed");
  writer.natural(letter.seed);
  text("traceback", letter.traceback);
  instant("tried_at", letter.tried_at);
  instant("ts", letter.ts);
  text("user", letter.user);
  return body;
}

DeadLetter decode(std::int64_t id, std::string_view body) {
  const auto field = [&](std::string_view name) { return mp::Reader(mp::field(body, name)); };
  const auto text = [&](std::string_view name) { return std::string(field(name).str()); };
  DeadLetter letter;
  letter.id = id;
  letter.name = text("name");
  letter.args = mp::field(body, "args");
  letter.scope = text("scope");
  letter.user = text("user");
  letter.client_id = text("client_id");
  letter.client_seq = field("client_seq").integer();
  letter.ts = field("ts").instant();
  letter.seed = field("seed").natural();
  letter.error = text("error");
  letter.message = text("message");
  letter.traceback = text("traceback");
  letter.at = field("at").instant();
  letter.tried_at = field("tried_at").instant();
  letter.attempts = field("attempts").integer();
  return letter;
}

std::int64_t add(WriteSet& set, const DeadLetter& letter, const DeadLetterLimits& limits) {
  Ledger ledger = load(set);
  const std::int64_t number = ++ledger.last;
  std::string body = encode(letter);
  ledger.bytes += static_cast<std::int64_t>(body.size());
  ++ledger.count;
  set.put_unlogged(kScope, kLetter, id_of(number), std::move(body));
  drop_oldest(set, ledger, limits, number);
  save(set, ledger);
  return number;
}

std::optional<DeadLetter> find(WriteSet& set, std::int64_t id) {
  const std::optional<std::string> body = set.unlogged(kScope, kLetter, id_of(id));
  if (!body) return std::nullopt;
  return decode(id, *body);
}

void replace(WriteSet& set, const DeadLetter& letter) {
  const std::string id = id_of(letter.id);
  const std::string before = set.unlogged(kScope, kLetter, id).value_or(std::string());
  std::string body = encode(letter);
  Ledger ledger = load(set);
  ledger.bytes += static_cast<std::int64_t>(body.size()) - static_cast<std::int64_t>(before.size());
  set.put_unlogged(kScope, kLetter, id, std::move(body));
  save(set, ledger);
}

bool remove(WriteSet& set, std::int64_t id) {
  const std::optional<std::string> before = set.unlogged(kScope, kLetter, id_of(id));
  if (!before) return false;
  Ledger ledger = load(set);
  ledger.bytes -= static_cast<std::int64_t>(before->size());
  --ledger.count;
  set.put_unlogged(kScope, kLetter, id_of(id), {});
  save(set, ledger);
  return true;
}

void prune(WriteSet& set, const DeadLetterLimits& limits) {
  Ledger ledger = load(set);
  const std::int64_t before = ledger.count;
  drop_oldest(set, ledger, limits, 0);
  if (ledger.count != before) save(set, ledger);
}

}  // namespace dead_letters

// -------------------------------------------------------------------------------------------------------------- engine

std::vector<DeadLetter> Engine::dead_letters(std::int64_t after, std::int64_t limit) {
  check();
  std::vector<DeadLetter> found;
  const std::unique_ptr<ReadTx> tx = store_->read();
  tx->unlogged(dead_letters::kScope, dead_letters::kLetter, {}, dead_letters::id_of(std::max<std::int64_t>(after, 0)),
               [&](const UnloggedView& row) {
                 if (static_cast<std::int64_t>(found.size()) >= limit) return false;
                 std::int64_t id = 0;
                 std::from_chars(row.id.data(), row.id.data() + row.id.size(), id);
                 found.push_back(dead_letters::decode(id, row.body));
                 return true;
               });
  return found;
}

DeadLetterCounts Engine::dead_letter_counts() {
  check();
  DeadLetterCounts counts;
  store_->read()->unlogged(dead_letters::kScope, dead_letters::kLedger, {}, {}, [&](const UnloggedView& row) {
    counts = dead_letters::counts_of(row.body);
    return false;
  });
  return counts;
}

std::optional<MutationResult> Engine::retry_dead_letter(std::int64_t id, MutatorHost& host, const WaitHook& hook) {
  check_writable();
  MutationResult result;
  const auto part = [&](WriteSet& set) {
    std::optional<DeadLetter> letter = dead_letters::find(set, id);
    if (!letter) throw Error(Code::not_found, "there is no dead letter " + std::to_string(id));
    Mutation mutation;
    mutation.name = letter->name;
    mutation.args = letter->args;
    mutation.scope = letter->scope;
    mutation.ts = letter->ts;
    mutation.seed = letter->seed;
    Outcome outcome = decide(set, mutation, host, {.user = letter->user, .forbidden = {}, .require_client = false});
    counters_.mutations.fetch_add(1, std::memory_order_relaxed);
    if (outcome.kind == Outcome::Kind::ok) {
      result.changes = set.merge({.client_id = {}, .user = letter->user, .mutation = letter->name, .client_seq = 0, .mutation_ts = letter->ts},
                                 result.cursor);
      dead_letters::remove(set, id);
      return;
    }
    set.drop();
    if (outcome.kind != Outcome::Kind::refused) {
      // Nothing came of it: the letter stays as it is.
      result.error = {std::string(code_name(Code::unavailable)), "the mutator asks to try again", {}};
      return;
    }
    counters_.refused.fetch_add(1, std::memory_order_relaxed);
    ++letter->attempts;
    letter->tried_at = set.now();
    if (outcome.failure) {
      letter->error = outcome.failure->type;
      letter->message = outcome.failure->message;
      letter->traceback = outcome.failure->traceback;
    } else {
      letter->error = outcome.refusal.code;
      letter->message = outcome.refusal.message;
      letter->traceback.clear();
    }
    dead_letters::replace(set, *letter);
    result.error = std::move(outcome.refusal);
  };
  if (!queue_->run(part, hook)) return std::nullopt;
  return result;
}

bool Engine::discard_dead_letter(std::int64_t id) {
  check_writable();
  bool there = false;
  queue_->run([&](WriteSet& set) { there = dead_letters::remove(set, id); }, {});
  return there;
}

void Engine::prune_dead_letters(const DeadLetterLimits& limits) {
  check_writable();
  queue_->run([&](WriteSet& set) { dead_letters::prune(set, limits); }, {});
}

}  // namespace syncline
