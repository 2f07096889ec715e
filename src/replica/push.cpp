// What a replica pushes, and what the answer to it means.
#include <algorithm>

#include "replica/state.h"

namespace syncline::replica {

namespace {

std::string said_or(const std::string& said, const char* otherwise) { return said.empty() ? otherwise : said; }

}  // namespace

Answered what_now(int status, const ErrorAnswer& said) {
  Answered told;
  told.code = said.code;
  told.message = said_or(said.message, "");
  if (told.message.empty()) told.message = "the server answered with status " + std::to_string(status);
  told.retry_after = std::max<std::int64_t>(said.retry_after, 0);
  if (status == 401) {
    told.next = Answered::Next::unauthenticated;
    told.code = said_or(said.code, "unauthenticated");
  } else if (status == 408 || status == 425 || status == 429 || status < 200 || status >= 500) {
    told.next = Answered::Next::wait;
    told.code = said_or(said.code, "unavailable");
  } else {
    told.next = Answered::Next::failed;
    told.code = said_or(said.code, "invalid_request");
  }
  return told;
}

std::optional<Outgoing> Replica::State::next_push() {
  if (push_request != 0 || question_request != 0) return std::nullopt;
  const auto& entries = queue.entries();
  const auto wanted = [](const Entry& entry) { return !entry.later && entry.fate == Fate::unknown; };
  const auto first = std::ranges::find_if(entries, wanted);
  if (first == entries.end()) return std::nullopt;
  if (!identified) {
    // A pull tells last_seq; where no scope is open to be pulled, one is asked only for that.
    if (std::ranges::any_of(slots, [](const auto& item) { return item.second->record.open; })) return std::nullopt;
    question_request = new_request();
    return Outgoing{.request = question_request,
                    .path = "/_sync/pull",
                    .scope = first->scope,
                    .body = encode_pull({.scope = first->scope, .client_id = self.client_id, .limit = 1})};
  }
  flush();  // rule 1
  const std::int64_t most = std::min({options.max_batch, options.limits.max_mutations, batch_cap > 0 ? batch_cap : options.max_batch});
  const auto most_bytes = static_cast<std::size_t>(std::min(options.max_batch_bytes, options.limits.max_body_bytes));
  std::vector<const Entry*> batch;
  std::size_t bytes = 400;
  push_sent.clear();
  for (auto at = first; at != entries.end() && static_cast<std::int64_t>(batch.size()) < most; ++at) {
    if (!wanted(*at)) continue;
    bytes += at->wire_size();
    if (!batch.empty() && bytes > most_bytes) break;
    batch.push_back(&*at);
    push_sent.push_back({at->place, at->seq, at->voided != Void::none});
  }
  for (const Sent& sent : push_sent) queue.find(sent.place)->sent = true;
  push_request = new_request();
  return Outgoing{.request = push_request,
                  .path = "/_sync/push",
                  .body = encode_push({.client_id = self.client_id, .epoch = self.epoch, .settled = self.settled}, batch),
                  .mutations = static_cast<std::int64_t>(batch.size())};
}

Answered Replica::State::pushed(int status, std::string_view body, const std::vector<Sent>& sent) {
  if (status == 200) {
    const PushAnswer answer = parse_push_answer(body);
    if (answer.results.size() != sent.size()) {
      throw Error(Code::invalid_request, std::to_string(answer.results.size()) + " results for " + std::to_string(sent.size()) + " mutations");
    }
    if (self.epoch.empty() && !answer.epoch.empty()) learn(answer.epoch, nullptr);
    Answered told;
    take_results(answer, sent, told);
    return told;
  }
  const ErrorAnswer said = parse_error(body);
  if (status == 403 && said.code == "forbidden" && said.client_id == self.client_id) {
    take_new_identity("client id " + self.client_id + " belongs to another user");
    flush();
    return {.code = said.code, .message = said.message};
  }
  if (status == 410 && said.code == "epoch_mismatch" && !said.epoch.empty()) {
    learn(said.epoch, nullptr);
    return {.code = said.code, .message = said.message};
  }
  if (status == 413) {
    if (sent.size() > 1) {
      batch_cap = static_cast<std::int64_t>(sent.size() / 2);
      return {.code = said_or(said.code, "too_large"), .message = said.message};
    }
    Entry* entry = queue.find(sent.front().place);
    if (entry != nullptr && !sent.front().as_void) {
      if (entry->voided == Void::none) give_up(*entry, "too_large", said_or(said.message, "the server takes no request of this size"));
      rebase({entry->scope});
      flush();
      return {.code = said_or(said.code, "too_large"), .message = said.message};
    }
  }
  return what_now(status, said);
}

void Replica::State::take_results(const PushAnswer& answer, const std::vector<Sent>& sent, Answered& told) {
  std::set<std::string> moved;  // scopes whose replay is another
  std::set<Place> reused;
  bool gap = false;
  bool stopped = false;
  if (batch_cap > 0) batch_cap = batch_cap >= options.max_batch ? 0 : batch_cap * 2;
  for (std::size_t n = 0; n < sent.size(); ++n) {
    Entry* entry = queue.find(sent[n].place);
    if (entry == nullptr || entry->seq != sent[n].seq || entry->fate != Fate::unknown) continue;
    const PushedOne& one = answer.results[n];
    if (one.code == code_name(Code::unavailable)) {
      // Those behind the first were not run.
      if (!std::exchange(stopped, true) && ++entry->tries >= options.max_tries && !sent[n].as_void && entry->voided == Void::none) {
        give_up(*entry, one.code, "the server asked to try again " + std::to_string(entry->tries) + " times; given up");
        moved.insert(entry->scope);
      }
      queue.change(*entry);
      if (told.code.empty()) told = {.next = Answered::Next::wait, .code = one.code, .message = one.message};
      continue;
    }
    if (one.code == code_name(Code::sequence_gap)) {
      gap = true;
      continue;
    }
    queue.change(*entry);
    if (one.code == code_name(Code::sequence_reused)) {
      if (sent[n].as_void || entry->voided != Void::none) {
        entry->fate = Fate::consumed;
      } else {
        reused.insert(entry->place);
      }
    } else if (one.code == code_name(Code::result_expired)) {
      if (sent[n].as_void) {
        entry->fate = Fate::consumed;
      } else if (doubtful && entry->seq >= self.checked) {
        // Whether it is what was answered nobody can say. Run again it might count twice; so the application is told.
        entry->fate = Fate::refused;
        if (entry->voided == Void::none) tell_refused(*entry, one.code, one.message);
        moved.insert(entry->scope);
      } else {
        entry->fate = Fate::applied;  // it was answered before
      }
    } else if (!one.ok) {
      entry->fate = Fate::refused;
      if (entry->voided == Void::none || entry->voided == Void::given_up) tell_refused(*entry, one.code, one.message);
      moved.insert(entry->scope);
    } else if (!sent[n].as_void || (one.duplicate && one.changed && entry->voided != Void::told)) {
      // It was applied, whatever was wished for it since.
      entry->fate = Fate::applied;
      if (entry->voided != Void::none) moved.insert(entry->scope);
      entry->voided = Void::none;
      entry->code.clear();
      entry->message.clear();
    } else {
      entry->fate = Fate::consumed;
      if (entry->voided == Void::given_up) tell_refused(*entry, entry->code, entry->message);
    }
  }
  if (!reused.empty()) {
    // These numbers were used by a state of this file that is lost. They were never run; they and what is behind them move.
    const Place from = *reused.begin();
    number_later([&](const Entry& entry) {
      return entry.later || reused.contains(entry.place) || (entry.place > from && entry.fate == Fate::unknown && entry.voided == Void::none);
    });
  }
  const std::int64_t before = self.settled;
  settle();
  if (gap) {
    // Rule 7: from the front, where `settled` lifts the server over what it has lost.
    forget_fates();
    if (sent.front().seq == before + 1 && self.settled == before) {
      told = {.next = Answered::Next::wait, .code = std::string(code_name(Code::sequence_gap)), .message = "the server misses what was settled"};
    }
  }
  rebase(moved);
  if (!waiting.empty()) flush();
}

Answered Replica::State::asked(int status, std::string_view body) {
  if (status == 200) {
    const PullAnswer answer = parse_pull_answer(body);
    learn(answer.epoch, nullptr);
    identify(answer.last_seq);
    flush();
    return {};
  }
  const ErrorAnswer said = parse_error(body);
  if (status == 403 && said.code == "forbidden") {
    if (said.client_id == self.client_id) {
      take_new_identity("client id " + self.client_id + " belongs to another user");
      flush();
    } else {
      identified = true;  // nobody tells: a number that was used is noticed by its content
      self.checked = self.next;
      self_dirty = true;
    }
    return {.code = said.code, .message = said.message};
  }
  return what_now(status, said);
}

Answered Replica::State::answer(std::uint64_t request, int status, std::string_view body) {
  // An answer that makes no sense came from something between, or was cut off: asked again, it may.
  try {
    if (request != 0 && request == push_request) {
      push_request = 0;
      const std::vector<Sent> sent = std::exchange(push_sent, {});
      return pushed(status, body, sent);
    }
    if (request != 0 && request == question_request) {
      question_request = 0;
      return asked(status, body);
    }
    for (const auto& [name, slot] : slots) {
      if (request == 0 || slot->outstanding != request) continue;
      slot->outstanding = 0;
      return pulled(*slot, status, body);
    }
  } catch (const Error& error) {
    if (error.code() != Code::invalid_request) throw;
    return {.next = Answered::Next::wait, .code = std::string(code_name(Code::unavailable)), .message = error.what()};
  }
  return {.next = Answered::Next::ignored};
}

}  // namespace syncline::replica
