#include "engine/erase.h"

#include <algorithm>
#include <deque>
#include <utility>

#include "base/ids.h"
#include "base/msgpack.h"
#include "engine/dead_letters.h"
#include "engine/engine.h"

namespace syncline {

namespace {

constexpr std::size_t kStep = 200;  // documents a write

// The documents of one step, with the text that its batch points into.
class Step {
 public:
  Step(WriteSet& set, const EraseRequest& request) : set_(set), request_(request) {}

  void add(const DocumentView& document) {
    const std::string& entity = texts_.emplace_back(document.entity);
    const std::string& id = texts_.emplace_back(document.id);
    batch_.erase_history.push_back({request_.scope, entity, id});
    ++count_;
    if (document.deleted) {
      ++tombstones;
      return;
    }
    const Cursor cursor = set_.take_cursor();
    if (first == 0) first = cursor;
    last = cursor;
    batch_.documents.push_back({.scope = request_.scope,
                                .entity = entity,
                                .id = id,
                                .previous = document.cursor,
                                .cursor = cursor,
                                .created = document.created,
                                .version = document.version + 1,
                                .created_at = document.created_at,
                                .updated_at = set_.now(),
                                .body = {},
                                .deleted = true});
    LogLineView line;
    line.cursor = cursor;
    line.scope = request_.scope;
    line.entity = entity;
    line.id = id;
    line.op = Op::remove;
    line.version = document.version + 1;
    line.ts = line.mutation_ts = set_.now();
    line.user = request_.user;
    batch_.log.push_back(line);
    set_.touch_scope(request_.scope, cursor);
    ++documents;
  }
  void apply() { set_.tx().apply(batch_); }
  [[nodiscard]] std::size_t count() const noexcept { return count_; }

  Cursor first = 0, last = 0;  // its own tombstones; 0: none
  std::int64_t documents = 0, tombstones = 0;

 private:
  WriteSet& set_;
  const EraseRequest& request_;
  WriteBatch batch_;
  std::deque<std::string> texts_;
  std::size_t count_ = 0;
};

bool holds(const EraseRequest& request, std::string_view letter) {
  const std::string_view scope = mp::field(letter, "scope");
  if (scope.empty() || mp::Reader(scope).peek() != mp::Kind::str || mp::Reader(scope).str() != request.scope) return false;
  return request.id.empty() || letter.find(request.id) != std::string_view::npos;
}

}  // namespace

Erased Engine::erase(const EraseRequest& request, const WaitHook& hook) {
  check_writable();
  check_name(request.scope, "scope", Code::invalid_scope);
  if (request.entity.empty() != request.id.empty()) {
    throw Error(Code::invalid_request, "erase takes an entity and an id, or neither for the whole scope");
  }
  const bool whole = request.id.empty();
  if (!whole) {
    check_name(request.entity, "entity", Code::invalid_request, true);
    check_name(request.id, "id", Code::invalid_request);
  }
  Erased erased;
  std::vector<std::pair<Cursor, Cursor>> own;  // the tombstones made here, rising
  Cursor position = 0;
  for (bool more = true; more;) {
    const std::unique_ptr<CommitQueue::Session> session = queue_->session(hook);
    if (!session) {
      erased.complete = false;
      return erased;
    }
    WriteSet& set = session->set();
    Step step(set, request);
    if (whole) {
      // What is changed meanwhile lies ahead of `position` again, as do the tombstones made here, which are leapt over.
      for (bool leap = true; std::exchange(leap, false);) {
        more = false;
        set.tx().changed(request.scope, position, false, [&](const DocumentView& document) {
          const auto range = std::ranges::lower_bound(own, document.cursor, {}, &std::pair<Cursor, Cursor>::second);
          if (range != own.end() && range->first <= document.cursor) {
            position = range->second;
            leap = true;
            return false;
          }
          position = document.cursor;
          step.add(document);
          more = step.count() >= kStep;
          return !more;
        });
      }
    } else {
      more = false;
      const DocumentKey key{request.scope, request.entity, request.id};
      set.tx().documents({&key, 1}, [&](std::size_t, const DocumentView* document) {
        if (document != nullptr) step.add(*document);
      });
    }
    if (step.count() == 0) break;
    step.apply();
    session->commit();
    erased.documents += step.documents;
    erased.tombstones += step.tombstones;
    if (step.first != 0) own.emplace_back(step.first, step.last);
  }

  std::vector<std::int64_t> letters;
  store_->read()->unlogged(dead_letters::kScope, dead_letters::kLetter, {}, {}, [&](const UnloggedView& letter) {
    if (holds(request, letter.body)) letters.push_back(std::stoll(std::string(letter.id)));
    return true;
  });
  if (!letters.empty()) {
    const std::unique_ptr<CommitQueue::Session> session = queue_->session({});
    for (const std::int64_t id : letters) erased.dead_letters += dead_letters::remove(session->set(), id) ? 1 : 0;
    session->commit();
  }
  if (request.rewrite) erased.rewritten = store_->rewrite();
  return erased;
}

}  // namespace syncline
