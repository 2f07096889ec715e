#include "engine/upgrades.h"

#include <utility>

#include "engine/engine.h"

namespace syncline {

void Engine::set_upgrader(std::shared_ptr<const Upgrader> upgrader) {
  const std::scoped_lock lock(listener_mutex_);
  upgrader_ = std::move(upgrader);
  upgrading_.store(upgrader_ != nullptr, std::memory_order_release);
}

std::shared_ptr<const Upgrader> Engine::upgrader() const {
  if (!upgrading_.load(std::memory_order_acquire)) return nullptr;
  const std::scoped_lock lock(listener_mutex_);
  return upgrader_;
}

UpgradeStep Engine::upgrade_step(const std::string& scope, Cursor after, std::int64_t at_most) {
  check_writable();
  UpgradeStep step{.reached = after};
  const std::shared_ptr<const Upgrader> upgrader = this->upgrader();
  if (!upgrader) return step;
  struct Found {
    std::string entity, id, body;
    Cursor cursor = 0;
  };
  std::vector<Found> found;
  store_->read()->changed(scope, after, true, [&](const DocumentView& document) {
    if (document.cursor > upgrader->last()) return false;
    if (static_cast<std::int64_t>(found.size()) == at_most) {
      step.more = true;
      return false;
    }
    step.reached = document.cursor;
    if (upgrader->applies(document.entity, document.cursor)) {
      found.push_back({std::string(document.entity), std::string(document.id), std::string(document.body), document.cursor});
    }
    return true;
  });
  // Nobody waits for the application's functions.
  std::erase_if(found, [&](Found& one) {
    std::optional<std::string> upgraded = upgrader->try_upgrade(one.entity, one.id, one.cursor, one.body);
    if (!upgraded) {
      ++step.failed;
    } else if (*upgraded == one.body) {
      ++step.same;
    } else {
      one.body = std::move(*upgraded);
      return false;
    }
    return true;
  });
  if (found.empty()) return step;

  const std::unique_ptr<CommitQueue::Session> session = queue_->session({});
  WriteSet& set = session->set();
  for (Found& one : found) {
    // Somebody may have written it since, or deleted it.
    const DocumentKey key{scope, one.entity, one.id};
    bool as_it_was = false;
    set.tx().documents({&key, 1}, [&](std::size_t, const DocumentView* document) {
      as_it_was = document != nullptr && document->cursor == one.cursor;
    });
    if (!as_it_was) continue;
    set.set(scope, one.entity, one.id, std::move(one.body));
    ++step.upgraded;
  }
  if (!set.dirty()) return step;
  Cursor cursor = 0;
  set.merge({.client_id = {}, .user = {}, .mutation = "_upgrade", .client_seq = 0, .mutation_ts = set.now()}, cursor);
  session->commit();
  return step;
}

}  // namespace syncline
