// Moves the write-ahead log into the database file beside the writer, so that no commit pays for it.
//
// What     When the WAL has grown by `pages`, a thread with a connection of its own sweeps: passive checkpoints, which never
//          hold up the writer, until only a small rest is left. The writer then moves that rest at a commit: only a checkpoint that
//          nobody writes beside reaches the end of the WAL, and lets the next commit begin it anew. Should the WAL double during
//          a sweep, the writer waits for it, so the file stays bounded. Where a reader's snapshot keeps pages in the WAL, both
//          give up until it has grown by as much again.
// Owner    the store; made after the writer's connection and destroyed before it. In a forked child it must be leaked, since the
//          thread is not there to be waited for.
// Threads  all but the thread's own work: who has the right to write. The thread is started by the first need, and takes no GIL. It
//          has no lower priority: the writer may have to wait for it.
// Errors   none is thrown: what was committed is safe in the WAL. What failed is tried again by the writer at its next commit, and
//          then each time the WAL has grown by `pages`.
// Durable  SQLite syncs the WAL before it moves pages and the file before the WAL begins anew, each as the connection's `synchronous`
//          says. The thread's own sync comes on top: it leaves the writer's little to do.
//
// Measured beside SQLite's own checkpoint in the commit, both at 16,000 pages, in pushes of 100 creations on two cores that others used
// as well, medians of seven pairs of runs. The ratio is the time with the thread over the time without; below 1 the thread is faster:
//                  mean   p99    p99.9
//   full, time     0.91   0.92   0.40
//   full, random   0.86   0.76   0.59
//   normal, time   0.83   1.32   0.12
//   normal, random 0.88   0.99   0.40
// Single pairs of the mean lay between 0.66 and 1.31. The worse p99 of `normal` with ids in order of time is what the thread takes of
// the processor and the disk while it sweeps: more pushes take some milliseconds, where a few took 100.
//
// Up to SQLite 3.51.2 a checkpoint can corrupt the file if it begins when everything has been moved already while the next commit is
// beginning the WAL anew (https://sqlite.org/wal.html#walresetbug). So a sweep begins a checkpoint only where frames are known to be
// left, which nobody else moves meanwhile, and only the writer's are begun without that knowledge.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "store/sqlite.h"

namespace syncline::sqlite {

class Checkpointer {
 public:
  // `settings` are PRAGMAs for the thread's connection: the writer's `synchronous`. `lasting`: the file is to survive the machine.
  Checkpointer(Connection& writer, std::string settings, bool lasting, int pages);
  ~Checkpointer();
  Checkpointer(const Checkpointer&) = delete;
  Checkpointer& operator=(const Checkpointer&) = delete;

  void committed() noexcept;  // after each commit
  void rest() noexcept;       // ends a sweep; the next begins at a commit
  void emptied() noexcept;    // after `rest` and a checkpoint that began the WAL anew

 private:
  enum class Phase : std::uint8_t {
    resting,
    sweeping,  // the thread checkpoints
    swept,     // the writer is to move the rest
  };
  struct Moved {
    int frames = 0, of = 0;
    bool failed = false;
  };

  static int noted(void* self, sqlite3* db, const char* schema, int frames);
  static Moved checkpoint(Connection& connection) noexcept;
  void start() noexcept;
  void run();
  void sweep(std::unique_lock<std::mutex>& lock, Connection& connection);

  Connection& writer_;
  const std::string settings_;
  const bool lasting_;
  const int pages_;
  std::thread thread_;

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  Phase phase_ = Phase::resting;
  bool ending_ = false;
  int frames_ = 0;  // in the WAL
  int seen_ = 0;    // of them, when a checkpoint was last tried
  int limit_ = 0;   // of a sweep: with more frames the writer waits
};

}  // namespace syncline::sqlite
