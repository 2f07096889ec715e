#include "engine/compaction.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>

#include "base/msgpack.h"

namespace syncline {

namespace {

using Steady = std::chrono::steady_clock;

// Measured with benchmarks/compaction.py beside 4,400 durable pushes a second: 1,000,000 lines went in 7.7 s, and the pushes' p99 was
// 0.76 ms, 1.96 times that without compaction; with busy steps of a millisecond 6.5 s, and 1.54 ms. Alone 590,000 lines/s.
constexpr std::int64_t kBusyStep = 250;     // microseconds of work in a step while others commit
constexpr std::int64_t kIdleStep = 10'000;  // while nobody does
constexpr std::int64_t kPauses = 9;         // a busy step is followed by that many times its work
// Even on a machine that is too busy to do a step in time, more is forgotten than single pushes write.
constexpr std::int64_t kFirstRows = 100, kFewestRows = 50, kMostRows = 10'000;
constexpr std::int64_t kLongestPause = 50'000;
constexpr std::int64_t kSlice = 50'000;           // of a pause, between two questions whether to end
constexpr std::int64_t kFirstRound = 10 * age::kSecond;  // after the opening, at the latest
constexpr std::uint64_t kSlowEvery = 10;            // rounds: what costs a look at every position or client is rarer
constexpr std::size_t kScopesAtOnce = 1'000;

std::int64_t since(Steady::time_point start) {
  return std::chrono::duration_cast<std::chrono::microseconds>(Steady::now() - start).count();
}

}  // namespace

Compaction& Compaction::operator+=(const Compaction& other) noexcept {
  log_lines += other.log_lines;
  tombstones += other.tombstones;
  results += other.results;
  positions += other.positions;
  dead_letters += other.dead_letters;
  steps += other.steps;
  pages += other.pages;
  return *this;
}

Cursor last_before(ReadTx& tx, std::int64_t before) {
  // The log's times rise with its cursors (one clock, one writer), so the first line that is not older is found by halving.
  const auto line_after = [&](Cursor after, Cursor through, std::int64_t& ts) {
    Cursor at = 0;
    tx.log({.after = after, .through = through, .scope = {}, .entity = {}, .id = {}, .client_id = {}, .newest_first = false},
           [&](const LogLineView& line) {
             at = line.cursor;
             ts = line.ts;
             return false;
           });
    return at;
  };
  Cursor low = 0;                // every line up to here is older
  Cursor high = tx.head() + 1;   // no line from here on is
  while (high - low > 1) {
    const Cursor middle = low + (high - low) / 2;
    std::int64_t ts = 0;
    const Cursor at = line_after(middle - 1, high - 1, ts);
    if (at == 0) {
      high = middle;  // no line between
    } else if (ts < before) {
      low = at;
    } else {
      high = middle;
    }
  }
  // Where no line is, because it was purged or because a cursor was taken without one, everything is older than the next line.
  std::int64_t ts = 0;
  const Cursor next = line_after(low, tx.head(), ts);
  return next == 0 ? tx.head() : next - 1;
}

// The writes of one round: each as long as the pushes beside it can bear.
class Compactor::Steps {
 public:
  Steps(Compactor& owner, const WaitHook& hook) : owner_(owner), hook_(hook), seen_(others()) {}

  using Part = std::function<std::int64_t(WriteSet&, std::int64_t)>;

  // `part` may touch so many rows, and says how many it did: none rolls back. False: no further step, the caller wants to end.
  bool run(const Part& part) {
    const std::optional<bool> busy = begin();
    if (!busy) return false;
    const std::unique_ptr<CommitQueue::Session> session = owner_.queue_.session(hook_);
    if (!session) return go_on_ = false;
    const Steady::time_point start = Steady::now();
    const std::int64_t touched = part(session->set(), rows_);
    const std::int64_t took = since(start);
    if (touched > 0) {
      session->commit();
      ++own_;
    }
    end(touched, took, *busy);
    return true;
  }

  // As `run`, in one commit with the pushes that wait: they lose the time of the work, and no turn of the disk. Only for a part that
  // takes nothing away that a write set may have read.
  bool run_beside(const Part& part) {
    const std::optional<bool> busy = begin();
    if (!busy) return false;
    std::int64_t touched = 0;
    std::int64_t took = 0;
    const auto work = [&](WriteSet& set) {
      const Steady::time_point start = Steady::now();
      touched = part(set, rows_);
      took = since(start);
    };
    if (!owner_.queue_.run(work, hook_)) return go_on_ = false;
    ++own_;
    end(touched, took, *busy);
    return true;
  }
  [[nodiscard]] bool go_on() const noexcept { return go_on_; }

  Compaction done;

 private:
  std::optional<bool> begin() {
    if (!go_on_ || !rest()) {
      go_on_ = false;
      return std::nullopt;
    }
    const std::uint64_t before = std::exchange(seen_, others());
    return seen_ != before;
  }
  // What others have done: pushes, also those within a step's own commit, and writes.
  [[nodiscard]] std::uint64_t others() const { return owner_.pushes_.load() + owner_.commits_.load() - own_; }
  void end(std::int64_t touched, std::int64_t took, bool busy) {
    if (touched == 0) return;
    ++done.steps;
    took = std::max<std::int64_t>(took, 1);
    rows_ = std::clamp(std::min(rows_ * (busy ? kBusyStep : kIdleStep) / took, rows_ * 2), kFewestRows, kMostRows);
    rest_ = busy ? std::min(took * kPauses, kLongestPause) : 0;
  }
  bool rest() {
    for (std::int64_t left = std::exchange(rest_, 0); left > 0; left -= kSlice) {
      if (!owner_.pause(std::min(left, kSlice)) || (hook_ && !hook_())) return false;
    }
    return true;
  }

  Compactor& owner_;
  const WaitHook& hook_;
  std::uint64_t own_ = 0;  // commits
  std::uint64_t seen_;     // what others had done before the last step
  std::int64_t rows_ = kFirstRows;
  std::int64_t rest_ = 0;
  bool go_on_ = true;
};

Compactor::Compactor(Store& store, CommitQueue& queue, Clock& clock, Positions& positions, const std::atomic<std::uint64_t>& pushes,
                     const std::atomic<std::uint64_t>& commits, Retention retention, DeadLetterLimits dead_letters,
                     std::int64_t keep_results)
    : store_(store),
      queue_(queue),
      clock_(clock),
      positions_(positions),
      pushes_(pushes),
      commits_(commits),
      retention_(retention),
      dead_letters_(dead_letters),
      keep_results_(keep_results) {}

// -------------------------------------------------------------------------------------------------------------- thread

void Compactor::start() {
  if (retention_.interval > 0) thread_ = std::thread([this] { run(); });
}

void Compactor::stop() noexcept {
  {
    const std::scoped_lock lock(mutex_);
    if (std::exchange(stopping_, true)) return;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  try {
    write_positions();
  } catch (const std::exception&) {  // positions are a help, and nobody is left to be told
  }
}

void Compactor::wake() {
  const std::scoped_lock lock(mutex_);
  woken_ = true;
  changed_.notify_all();
}

bool Compactor::pause(std::int64_t microseconds) {
  std::unique_lock lock(mutex_);
  // The system's clock, as in the commit queue: ThreadSanitizer does not know the wait on a steady one.
  changed_.wait_until(lock, std::chrono::system_clock::now() + std::chrono::microseconds(microseconds), [this] { return stopping_; });
  return !stopping_;
}

void Compactor::run() {
  const WaitHook still_wanted = [this] {
    const std::scoped_lock lock(mutex_);
    return !stopping_;
  };
  for (std::uint64_t number = 0;; ++number) {
    {
      std::unique_lock lock(mutex_);
      const std::int64_t wait = number == 0 ? std::min(retention_.interval, kFirstRound) : retention_.interval;
      changed_.wait_until(lock, std::chrono::system_clock::now() + std::chrono::microseconds(wait), [this] { return stopping_ || woken_; });
      if (stopping_) return;
      woken_ = false;
    }
    std::string failure;
    const Steady::time_point start = Steady::now();
    try {
      write_positions();
      forget(cuts(nullptr), number % kSlowEvery == 0, still_wanted);
    } catch (const std::exception& error) {  // a full disk, a damaged file: the next round tries again
      failure = error.what();
    }
    const std::scoped_lock lock(mutex_);
    ++status_.rounds;
    if (!failure.empty()) ++status_.failures;
    status_.last_error = std::move(failure);
    status_.last_round_at = clock_.now();
    status_.last_round_took = since(start);
  }
}

CompactorStatus Compactor::status() {
  const std::scoped_lock lock(mutex_);
  return status_;
}

Compaction Compactor::round(const WaitHook& hook) {
  write_positions();
  return forget(cuts(nullptr), true, hook);
}

Compaction Compactor::compact(const Keep& keep, const WaitHook& hook) {
  write_positions();
  return forget(cuts(&keep), true, hook);
}

// ---------------------------------------------------------------------------------------------------------------- what

std::optional<Cursor> Compactor::slowest_feed(ReadTx& tx) {
  std::optional<Cursor> slowest;
  tx.unlogged(kFeedsScope, kFeedEntity, {}, {}, [&](const UnloggedView& feed) {
    const Cursor at = mp::Reader(mp::field(feed.body, "cursor")).integer();
    slowest = slowest ? std::min(*slowest, at) : at;
    return true;
  });
  return slowest;
}

Compactor::Cuts Compactor::cuts(const Keep* keep) {
  const std::int64_t now = clock_.now();
  const std::unique_ptr<ReadTx> tx = store_.read();
  Cuts cuts;
  std::optional<std::int64_t> tombstones = retention_.tombstones;
  if (keep != nullptr && keep->after) {
    cuts.history = std::min(*keep->after, tx->head());
    tombstones = 0;
  } else {
    const std::optional<std::int64_t> history = keep != nullptr ? keep->age : retention_.history;
    if (keep != nullptr) tombstones = keep->age;
    if (history) cuts.history = last_before(*tx, now - *history);
  }
  if (retention_.hold_for_feeds) {
    if (const std::optional<Cursor> feed = slowest_feed(*tx); feed && *feed < cuts.history) {
      cuts.history = std::max(*feed, std::min(cuts.history, last_before(*tx, now - *retention_.hold_for_feeds)));
    }
  }
  if (!tombstones) return cuts;
  cuts.tombstones = cuts.history;
  cuts.made_before = now - std::max(*tombstones, kYoungestTombstone);
  cuts.given_up_before = cuts.made_before;
  if (retention_.hold_for_clients) cuts.given_up_before = std::min(cuts.made_before, now - *retention_.hold_for_clients);
  return cuts;
}

// ----------------------------------------------------------------------------------------------------------------- how

Compaction Compactor::forget(const Cuts& cuts, bool all, const WaitHook& hook) {
  Steps steps(*this, hook);
  forget_history(steps, cuts.history);
  forget_tombstones(steps, cuts);
  if (all) {
    forget_dead_letters(steps);
    forget_positions(steps);
    forget_results(steps);
    give_back(steps);
  }
  const std::scoped_lock lock(mutex_);
  status_.total += steps.done;
  return steps.done;
}

void Compactor::forget_history(Steps& steps, Cursor through) {
  if (through <= 0) return;
  {
    bool any = false;
    store_.read()->log({.after = 0, .through = through, .scope = {}, .entity = {}, .id = {}, .client_id = {}, .newest_first = false},
                       [&](const LogLineView&) { return any = true, false; });
    if (!any) return;  // without having taken the write for it
  }
  bool more = true;
  const Steps::Part part = [&](WriteSet& set, std::int64_t rows) {
    WriteBatch batch;
    batch.purges.push_back({.scope = {}, .log_through = through, .at_most = rows});
    const std::int64_t gone = set.tx().apply(batch).purged_log_lines;
    more = gone == rows;
    steps.done.log_lines += gone;
    return gone;
  };
  while (more) {
    try {
      if (!(alone_.load() ? steps.run(part) : steps.run_beside(part))) return;
    } catch (const Error&) {
      alone_ = true;  // where old lines cannot be read, no push is to fail of it twice
      throw;
    }
  }
}

void Compactor::forget_tombstones(Steps& steps, const Cuts& cuts) {
  if (cuts.tombstones <= 0) return;
  std::map<std::string, Cursor, std::less<>> held;  // of each scope, where its slowest client is
  if (cuts.given_up_before < cuts.made_before) {
    const std::unique_ptr<ReadTx> tx = store_.read();
    for (const Position& position : positions_.all(*tx, {})) {
      if (position.held() == 0) continue;
      const auto [at, fresh] = held.try_emplace(position.scope, position.held());
      if (!fresh) at->second = std::min(at->second, position.held());
    }
  }
  const auto through = [&](std::string_view scope) {
    const auto at = held.find(scope);
    return at == held.end() ? cuts.tombstones : std::min(cuts.tombstones, at->second);
  };
  std::string after;
  for (bool more = true; more;) {
    std::vector<std::string> scopes;
    more = false;
    store_.read()->oldest_tombstones(after, [&](const OldestTombstone& oldest) {
      after = oldest.scope;
      const bool due = oldest.updated_at < cuts.made_before && oldest.cursor <= through(oldest.scope);
      const bool given_up = oldest.updated_at < cuts.given_up_before && oldest.cursor <= cuts.tombstones;
      if (due || given_up) scopes.emplace_back(oldest.scope);
      more = scopes.size() >= kScopesAtOnce;
      return !more;
    });
    for (std::size_t at = 0; at < scopes.size();) {
      const bool went = steps.run([&](WriteSet& set, std::int64_t rows) {
        std::int64_t left = rows;
        while (at < scopes.size() && left > 0) {
          const std::string& scope = scopes[at];
          WriteBatch batch;
          batch.purges.push_back(
              {.scope = scope, .tombstones_through = through(scope), .tombstones_before = cuts.made_before, .at_most = left});
          if (held.contains(scope)) {
            batch.purges.push_back(
                {.scope = scope, .tombstones_through = cuts.tombstones, .tombstones_before = cuts.given_up_before, .at_most = left});
          }
          const Applied gone = set.tx().apply(batch);
          steps.done.tombstones += gone.purged_tombstones;
          steps.done.log_lines += gone.purged_log_lines;
          const std::int64_t rows_gone = gone.purged_tombstones + gone.purged_log_lines;
          if (rows_gone < left) ++at;
          left -= rows_gone;
        }
        return rows - left;
      });
      if (!went) return;
    }
  }
}

void Compactor::forget_results(Steps& steps) {
  std::vector<std::string> clients;
  store_.read()->overfull_clients(keep_results_, [&](const ClientRow& client) {
    clients.push_back(client.client_id);
    return true;
  });
  for (std::size_t at = 0; at < clients.size();) {
    const bool went = steps.run([&](WriteSet& set, std::int64_t rows) {
      WriteBatch batch;
      std::vector<ClientRow> kept;  // whose text the batch holds
      kept.reserve(static_cast<std::size_t>(rows));
      for (; at < clients.size() && static_cast<std::int64_t>(kept.size()) < rows; ++at) {
        std::optional<ClientRow> row = set.tx().client(clients[at]);
        if (!row) continue;
        const ClientRow& client = kept.emplace_back(std::move(*row));
        batch.clients.push_back({.client_id = client.client_id,
                                 .owner = client.owner,
                                 .last_seq = client.last_seq,
                                 .settled = client.settled,
                                 .seen_at = client.seen_at,
                                 .results = {},
                                 .forget_through = client.settled > 0 ? client.settled : client.last_seq - keep_results_});
      }
      steps.done.results += set.tx().apply(batch).forgotten_results;
      return static_cast<std::int64_t>(kept.size());
    });
    if (!went) return;
  }
}

void Compactor::forget_dead_letters(Steps& steps) {
  const auto count = [this](bool& due) {
    const std::unique_ptr<ReadTx> tx = store_.read();
    DeadLetterCounts counts;
    tx->unlogged(dead_letters::kScope, dead_letters::kLedger, {}, {}, [&](const UnloggedView& ledger) {
      counts = dead_letters::counts_of(ledger.body);
      return false;
    });
    tx->unlogged(dead_letters::kScope, dead_letters::kLetter, {}, {}, [&](const UnloggedView& oldest) {
      due = mp::Reader(mp::field(oldest.body, "at")).instant() < clock_.now() - dead_letters_.max_age;
      return false;
    });
    due = due || counts.count > dead_letters_.max_count || counts.bytes > dead_letters_.max_bytes;
    return counts.count;
  };
  bool due = false;
  const std::int64_t before = count(due);
  if (!due) return;
  steps.run([&](WriteSet& set, std::int64_t) {
    dead_letters::prune(set, dead_letters_);
    return 1;
  });
  steps.done.dead_letters += std::max<std::int64_t>(before - count(due), 0);
}

void Compactor::forget_positions(Steps& steps) {
  const std::int64_t before = retention_.positions ? clock_.now() - *retention_.positions : INT64_MIN;
  std::vector<std::pair<std::int64_t, std::string>> kept;
  std::vector<std::string> gone;
  store_.read()->unlogged_ages(kPositionsScope, kPositionEntity, [&](std::string_view id, std::int64_t updated_at) {
    updated_at < before ? void(gone.emplace_back(id)) : void(kept.emplace_back(updated_at, id));
    return true;
  });
  if (const auto limit = static_cast<std::size_t>(retention_.max_positions); kept.size() > limit) {
    const auto oldest = kept.begin() + static_cast<std::ptrdiff_t>(kept.size() - limit);
    std::ranges::nth_element(kept, oldest);
    for (auto at = kept.begin(); at != oldest; ++at) gone.push_back(std::move(at->second));
  }
  for (std::size_t at = 0; at < gone.size();) {
    const bool went = steps.run([&](WriteSet& set, std::int64_t rows) {
      const std::size_t until = std::min(at + static_cast<std::size_t>(rows), gone.size());
      const auto here = static_cast<std::int64_t>(until - at);
      WriteBatch batch;
      for (; at < until; ++at) batch.unlogged.push_back({.scope = kPositionsScope, .entity = kPositionEntity, .id = gone[at], .body = {}});
      set.tx().apply(batch);
      steps.done.positions += here;
      return here;
    });
    if (!went) return;
  }
}

void Compactor::give_back(Steps& steps) {
  constexpr std::int64_t kRows = 10;  // that moving a page costs as much as
  for (std::int64_t gone = 1; gone > 0;) {
    const bool went = steps.run([&](WriteSet& set, std::int64_t rows) {
      gone = set.tx().give_back(std::max<std::int64_t>(rows / kRows, 1));
      return gone;
    });
    if (!went) return;
    steps.done.pages += gone;
  }
}

void Compactor::write_positions() {
  constexpr std::size_t kAtOnce = 500;
  const std::scoped_lock lock(writing_positions_);
  std::vector<Position> positions = positions_.take();
  try {
    while (!positions.empty()) {
      const std::size_t count = std::min(positions.size(), kAtOnce);
      std::vector<std::pair<std::string, std::string>> texts;
      texts.reserve(count);
      WriteBatch batch;
      for (auto at = positions.end() - static_cast<std::ptrdiff_t>(count); at != positions.end(); ++at) {
        const auto& [id, body] = texts.emplace_back(Positions::id_of(*at), Positions::encode(*at));
        batch.unlogged.push_back(
            {.scope = kPositionsScope, .entity = kPositionEntity, .id = id, .body = body, .updated_at = at->last_seen});
      }
      const std::unique_ptr<CommitQueue::Session> session = queue_.session({});
      session->set().tx().apply(batch);
      session->commit();
      positions.resize(positions.size() - count);
    }
  } catch (...) {
    positions_.put_back(std::move(positions));
    throw;
  }
}

}  // namespace syncline
