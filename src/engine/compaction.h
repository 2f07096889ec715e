// Bounded growth: what may be forgotten, and the thread that forgets it in short steps.
//
// What     history        log lines older than `history`; each scope's log_floor rises
//          tombstones     older than `tombstones`, never younger than an hour and never before their last log line; each scope's
//                         floor rises, and a pull from below is refused. So compaction is invisible from any cursor at or above it
//          results        only what a client has settled, or, of one that never says so, all but its last `keep_results`
//          positions      of clients that were not seen for long, and the oldest above a number
//          dead letters   the old, and the oldest above a number
// Holding  `hold_for_clients` keeps tombstones that a known client has not yet pulled, `hold_for_feeds` log lines that a feed has not yet
//          read, both up to that age and no longer: nobody who stays away keeps the database growing.
// Steps    Short ones: a quarter of a millisecond of work while others commit, with a pause nine times as long behind it, ten
//          milliseconds when nobody does. Log lines go in one commit with the pushes that wait, so that these lose the work's time and
//          no turn of the disk.
// Owner    the engine. Threads  `round`, `compact`, `status`: any, also beside each other; the thread is its own, and takes no GIL.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "engine/commit_queue.h"
#include "engine/dead_letters.h"
#include "engine/positions.h"
#include "store/store.h"

namespace syncline {

// In microseconds.
namespace age {
inline constexpr std::int64_t kSecond = 1'000'000, kHour = 3'600 * kSecond, kDay = 24 * kHour;
}  // namespace age

inline constexpr std::string_view kFeedsScope = "_feeds";
inline constexpr std::string_view kFeedEntity = "feed";

// Ages in microseconds; none: for ever.
struct Retention {
  std::optional<std::int64_t> history = 30 * age::kDay;
  std::optional<std::int64_t> tombstones = 30 * age::kDay;
  std::optional<std::int64_t> positions = 90 * age::kDay;
  std::int64_t max_positions = 100'000;
  std::optional<std::int64_t> hold_for_clients;  // none: not held
  std::optional<std::int64_t> hold_for_feeds = 90 * age::kDay;
  std::int64_t interval = 60 * age::kSecond;  // between two rounds; 0: no thread
};

// What one call forgot.
struct Compaction {
  std::int64_t log_lines = 0, tombstones = 0, results = 0, positions = 0, dead_letters = 0, steps = 0;
  std::int64_t pages = 0;  // given back to the disk
  Compaction& operator+=(const Compaction& other) noexcept;
};

// What to keep in place of what the retention says of history and tombstones.
struct Keep {
  std::optional<std::int64_t> age;
  std::optional<Cursor> after;  // everything after this cursor
};

struct CompactorStatus {
  std::uint64_t rounds = 0, failures = 0;
  std::string last_error;            // of the last round; empty: it went well
  std::int64_t last_round_at = 0;    // microseconds; 0: none yet
  std::int64_t last_round_took = 0;  // microseconds
  Compaction total;
};

class Compactor {
 public:
  static constexpr std::int64_t kYoungestTombstone = age::kHour;

  // `pushes` and `commits` are the engine's counts. What is given by reference outlives it.
  Compactor(Store& store, CommitQueue& queue, Clock& clock, Positions& positions, const std::atomic<std::uint64_t>& pushes,
            const std::atomic<std::uint64_t>& commits, Retention retention, DeadLetterLimits dead_letters, std::int64_t keep_results);
  ~Compactor() { stop(); }
  Compactor(const Compactor&) = delete;
  Compactor& operator=(const Compactor&) = delete;

  void start();          // the thread, unless interval is 0
  void stop() noexcept;  // waits for the step that runs; then writes the positions that were noted
  void wake();           // a round now

  // What the thread does each interval. `hook` is asked between steps; false ends it early.
  Compaction round(const WaitHook& hook = {});
  Compaction compact(const Keep& keep, const WaitHook& hook = {});
  void write_positions();

  [[nodiscard]] const Retention& retention() const noexcept { return retention_; }
  [[nodiscard]] CompactorStatus status();

 private:
  struct Cuts {
    Cursor history = 0;                 // lines up to here go
    Cursor tombstones = 0;              // tombstones up to here may go ...
    std::int64_t made_before = 0;       // ... that were made before this time,
    std::int64_t given_up_before = 0;   // and, where a client holds them, before this one
  };
  class Steps;

  void run();
  Cuts cuts(const Keep* keep);
  Compaction forget(const Cuts& cuts, bool all, const WaitHook& hook);
  void forget_history(Steps& steps, Cursor through);
  void forget_tombstones(Steps& steps, const Cuts& cuts);
  void forget_results(Steps& steps);
  void forget_dead_letters(Steps& steps);
  void forget_positions(Steps& steps);
  void give_back(Steps& steps);
  std::optional<Cursor> slowest_feed(ReadTx& tx);
  bool pause(std::int64_t microseconds);  // false: it is to stop

  Store& store_;
  CommitQueue& queue_;
  Clock& clock_;
  Positions& positions_;
  const std::atomic<std::uint64_t>& pushes_;
  const std::atomic<std::uint64_t>& commits_;
  const Retention retention_;
  const DeadLetterLimits dead_letters_;
  const std::int64_t keep_results_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  bool stopping_ = false, woken_ = false;
  CompactorStatus status_;
  std::mutex writing_positions_;
  std::atomic<bool> alone_{false};  // log lines go in commits of their own
  std::thread thread_;
};

// The last cursor up to which every line is older than that time.
Cursor last_before(ReadTx& tx, std::int64_t before);

}  // namespace syncline
