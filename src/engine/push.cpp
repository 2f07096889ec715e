// The half of the engine that a push runs in its turn: deduplicate, refuse or run, merge, remember the answer.
#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "base/ids.h"
#include "engine/engine.h"
#include "engine/results.h"

namespace syncline {

namespace {

Refusal refusal(Code code, std::string message, std::vector<Detail> details = {}) {
  return {std::string(code_name(code)), std::move(message), std::move(details)};
}

MutationResult refused(Refusal why) {
  MutationResult result;
  result.error = std::move(why);
  return result;
}

MutationResult not_run(const char* why) { return refused(refusal(Code::unavailable, why)); }

// Deduplication needs the group's own results as well as the stored ones.
std::optional<results::Stored> stored_result(WriteSet& set, const WriteSet::Client& client, std::int64_t seq) {
  if (std::optional<results::Stored> own = client.results.find(seq)) return own;
  if (const std::optional<ResultRow> row = set.tx().result(client.row.client_id, seq)) return results::find(row->results, seq);
  return std::nullopt;
}

MutationResult repeated(WriteSet& set, const WriteSet::Client& client, const Mutation& mutation) {
  std::optional<results::Stored> stored = stored_result(set, client, mutation.client_seq);
  if (!stored) {
    return refused(refusal(Code::result_expired, "client " + mutation.client_id + " was answered on " + std::to_string(mutation.client_seq) +
                                                     " before, and that result is no longer kept"));
  }
  // A void asks what became of its number, whatever it once was.
  if (!mutation.is_void && stored->hash != mutation.content_hash()) {
    return refused(refusal(Code::sequence_reused, "client " + mutation.client_id + " used number " + std::to_string(mutation.client_seq) +
                                                      " before, for a mutation with other content"));
  }
  stored->result.duplicate = true;
  return std::move(stored->result);
}

bool may_touch(const MutationResult& result) {
  return result.ok() || (result.error->code != code_name(Code::invalid_scope) && result.error->code != code_name(Code::forbidden));
}

}  // namespace

void Engine::validate(const PushRequest& request, const PushOptions& options) const {
  const auto count = static_cast<std::int64_t>(request.mutations.size());
  if (count > options_.limits.max_mutations) {
    throw Error(Code::too_large,
                std::to_string(count) + " mutations in one push; at most " + std::to_string(options_.limits.max_mutations) + " are taken",
                {{"limit", options_.limits.max_mutations}});
  }
  std::size_t index = 0;
  for (const Mutation& mutation : request.mutations) {
    const auto where = [at = index++] { return "mutations[" + std::to_string(at) + "]"; };
    if (mutation.client_id.empty()) {
      if (options.require_client) throw Error(Code::invalid_request, where() + " has no client_id; every mutation of a client names it");
      continue;
    }
    check_name(mutation.client_id, [&] { return where() + ".client_id"; }, Code::invalid_request);
    if (mutation.client_seq < 1) {
      throw Error(Code::invalid_request,
                  where() + ".client_seq is " + std::to_string(mutation.client_seq) + "; a client numbers its mutations 1, 2, 3, ...");
    }
  }
  for (const auto& [client, seq] : request.settled) {
    check_name(client, "settled", Code::invalid_request);
    if (seq < 0) throw Error(Code::invalid_request, "settled." + client + " is negative");
  }
}

PushResult Engine::run_push(WriteSet& set, const PushRequest& request, MutatorHost& host, const PushOptions& options) {
  if (request.epoch && *request.epoch != epoch_) {
    throw Error(Code::epoch_mismatch, "the push is of epoch " + *request.epoch + ", the database is in " + epoch_, {{"epoch", epoch_}});
  }
  for (const std::string& client_id : request.clients()) {
    const WriteSet::Client& client = set.client(client_id);
    if ((!client.fresh || client.dirty) && client.row.owner != options.user) {
      throw Error(Code::forbidden, "client id " + client_id + " belongs to another user; take a new one", {{"client_id", client_id}});
    }
  }
  for (const auto& [client_id, seq] : request.settled) {
    WriteSet::Client& client = set.client(client_id);
    if (seq <= client.row.settled) continue;
    client.row.owner = options.user;
    client.row.settled = seq;
    client.row.last_seq = std::max(client.row.last_seq, seq);  // over a gap that a restored server has
    client.dirty = true;
  }

  PushResult out;
  out.epoch = epoch_;
  out.results.reserve(request.mutations.size());
  std::set<std::string, std::less<>> stopped;  // clients of which something was not consumed
  bool aborted = false;

  for (const Mutation& mutation : request.mutations) {
    WriteSet::Client* client = mutation.client_id.empty() ? nullptr : &set.client(mutation.client_id);
    if (aborted || stopped.contains(mutation.client_id)) {
      out.results.push_back(not_run("not run: an earlier mutation of this push was not consumed"));
      continue;
    }
    if (client != nullptr && mutation.client_seq <= client->row.last_seq) {
      counters_.duplicates.fetch_add(1, std::memory_order_relaxed);
      out.results.push_back(repeated(set, *client, mutation));
      continue;
    }
    if (client != nullptr && mutation.client_seq != client->row.last_seq + 1) {
      const std::int64_t expected = client->row.last_seq + 1;
      out.results.push_back(refused(refusal(Code::sequence_gap,
                                            "client " + mutation.client_id + " sent number " + std::to_string(mutation.client_seq) +
                                                ", expected " + std::to_string(expected),
                                            {{"expected", expected}})));
      stopped.insert(mutation.client_id);
      continue;
    }

    // From here on the number is consumed, whatever comes of it, but for Retry and its like.
    Outcome outcome = decide(set, mutation, host, options);
    if (outcome.kind == Outcome::Kind::retry || outcome.kind == Outcome::Kind::abort) {
      set.drop();
      out.results.push_back(not_run("the server asks to try again"));
      // Backend mutations have no sequence to keep: only the one that said Retry is left out.
      if (client != nullptr) stopped.insert(mutation.client_id);
      aborted = outcome.kind == Outcome::Kind::abort;
      continue;
    }
    MutationResult result;
    if (outcome.kind == Outcome::Kind::refused) {
      set.drop();
      if (outcome.failure) bury(set, mutation, options.user, *outcome.failure);
      result.error = std::move(outcome.refusal);
      counters_.refused.fetch_add(1, std::memory_order_relaxed);
      if (client != nullptr) result.cursor = set.take_cursor();
    } else {
      result.changes = set.merge({.client_id = mutation.client_id,
                                  .user = options.user,
                                  .mutation = mutation.name,
                                  .client_seq = mutation.client_seq,
                                  .mutation_ts = mutation.ts.value_or(set.now())},
                                 result.cursor);
    }
    counters_.mutations.fetch_add(1, std::memory_order_relaxed);
    if (client != nullptr) {
      client->row.owner = options.user;
      client->row.last_seq = mutation.client_seq;
      client->dirty = true;
      client->results.add(mutation.client_seq, mutation.content_hash(), result);
      // Its last_seq moved, and a pull of this scope must be able to say so. A scope that the client could not write stays untouched:
      // else refused requests would make scopes.
      if (!mutation.is_void && may_touch(result)) set.touch_scope(mutation.scope, result.cursor);
    }
    out.results.push_back(std::move(result));
  }
  out.cursor = set.head();
  return out;
}

void Engine::bury(WriteSet& set, const Mutation& mutation, const std::string& user, const Failure& failure) {
  dead_letters::add(set,
                    {.name = mutation.name,
                     .args = mutation.args,
                     .scope = mutation.scope,
                     .user = user,
                     .client_id = mutation.client_id,
                     .client_seq = mutation.client_seq,
                     .ts = mutation.ts.value_or(set.now()),
                     .seed = failure.seed,
                     .error = failure.type,
                     .message = failure.message,
                     .traceback = failure.traceback,
                     .at = set.now(),
                     .tried_at = set.now()},
                    options_.dead_letters);
}

Outcome Engine::decide(WriteSet& set, const Mutation& mutation, MutatorHost& host, const PushOptions& options) {
  if (mutation.is_void) return {};
  try {
    check_name(mutation.scope, "scope", Code::invalid_scope);
    if (options.forbidden.contains(mutation.scope)) {
      return {Outcome::Kind::refused, refusal(Code::forbidden, "writing to " + mutation.scope + " is not allowed")};
    }
    const std::int64_t now = std::min(mutation.ts.value_or(set.now()), set.now());
    const std::uint64_t seed = mutation.seed ? *mutation.seed : entropy_->next();
    Random random(seed);
    Tx tx(set, mutation.scope, mutation.client_id, options.user, now, random);
    Outcome outcome = host.run(mutation, tx);
    if (outcome.failure) outcome.failure->seed = seed;
    // A fault of the storage below a mutator is no answer to it.
    if (outcome.kind == Outcome::Kind::refused && outcome.refusal.code == code_name(Code::unavailable)) outcome.kind = Outcome::Kind::retry;
    return outcome;
  } catch (const Error& error) {
    if (wire_code(error.code()) == Code::unavailable) return {Outcome::Kind::retry, {}};
    return {Outcome::Kind::refused, Refusal::from(error)};
  }
}

}  // namespace syncline
