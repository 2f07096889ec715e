// Group commit: many pushes, one transaction, one fsync.
//
// What     Who arrives first leads: it opens the transaction, the members run their parts one after the other *each on its own thread*,
//          and the leader flushes once, commits once and wakes everybody. While it commits, the next group gathers. After LevelDB's
//          writer queue (db/db_impl.cc, BuildBatchGroup), with the work handed round instead of copied.
// Wakes    The turn goes from member to member, and only the last one wakes the leader; each has a semaphore of its own, which is posted
//          when the mutex is free again. So a turn costs one switch of threads.
// Owner    the engine.
// Threads  any. Never called with the GIL held. The queue's mutex is never held while a member's part runs or the disk is waited for.
#pragma once

#include <semaphore.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "engine/write_set.h"
#include "store/store.h"

namespace syncline {

// Called about every 50 ms while a member waits, without any lock; returning false withdraws a member whose turn has not come. What it
// throws does the same; once the turn has come, it is thrown after the commit instead.
using WaitHook = std::function<bool()>;

struct GroupLimits {
  std::size_t max_mutations = 4096;
  std::size_t max_bytes = 16u << 20;
  std::int64_t max_microseconds = 50'000;  // of gathering: bounds the latency of the first member
  std::size_t max_waiting = 10'000;        // a further one is refused: rate_limited
};

class CommitQueue {
 public:
  // `begin` opens a group (transaction + write set), `commit` flushes and commits it; both on the leader's thread.
  struct Group {
    std::unique_ptr<WriteTx> tx;
    std::unique_ptr<WriteSet> set;
  };
  using Begin = std::function<Group()>;
  using Commit = std::function<void(Group&)>;

  CommitQueue(Begin begin, Commit commit, GroupLimits limits);
  ~CommitQueue();
  CommitQueue(const CommitQueue&) = delete;
  CommitQueue& operator=(const CommitQueue&) = delete;

  // Runs `part` in its turn and returns after the commit. What `part` throws reaches its own caller only, after the commit, and its
  // group goes on; a failed commit throws to every member. Returns false when the hook withdrew it (nothing ran).
  // Error(usage) from within a part or a Session of the same thread; Error(closed); Error(rate_limited).
  bool run(const std::function<void(WriteSet&)>& part, const WaitHook& hook);

  // A group of its own, held by the calling thread until commit() or destruction (which rolls back).
  class Session {
   public:
    ~Session();
    Session(const Session&) = delete;
    Session& operator=(const Session&) = delete;
    [[nodiscard]] WriteSet& set();
    void commit();
    void adopt();  // the calling thread holds the session from now on

   private:
    friend class CommitQueue;
    Session(CommitQueue& queue, Group group);
    void finish() noexcept;
    CommitQueue& queue_;
    Group group_;
    bool open_ = true;
  };
  std::unique_ptr<Session> session(const WaitHook& hook);  // nullptr when withdrawn

  // Error(usage) when this thread is inside a part or a session of this queue.
  void check_not_inside() const;
  [[nodiscard]] std::size_t waiting() const;
  void close();  // refuses new members, waits for those that are in

 private:
  enum class State : std::uint8_t { waiting, lead, turn, ran, gathered, done };
  // May be destroyed as soon as its wait is over, while who ended it is still in `post`: glibc's semaphores allow that.
  class Wake {
   public:
    Wake();
    ~Wake();
    Wake(const Wake&) = delete;
    Wake& operator=(const Wake&) = delete;
    void post() noexcept;
    bool wait(bool forever);  // false: about 50 ms went by

   private:
    sem_t semaphore_;
  };
  struct Gathering;
  struct Member {
    const std::function<void(WriteSet&)>* part = nullptr;  // nullptr: a session
    State state = State::waiting;                          // guarded by the mutex
    Gathering* gathering = nullptr;                        // its group's, from its turn on
    std::exception_ptr error;   // of its part, or of the commit
    std::exception_ptr thrown;  // by its wait hook
    Wake wake;
  };
  // What the members of a group share while they run. On the leader's stack.
  struct Gathering {
    Member* leader = nullptr;
    WriteSet* set = nullptr;
    std::chrono::steady_clock::time_point until;
    std::deque<Member*> members;  // without the leader
  };

  // Joins the queue; returns when the member leads or is done. False: withdrawn.
  bool join(std::unique_lock<std::mutex>& lock, Member& self, const WaitHook& hook);
  // Waits for the one post that follows when its state is changed from `from`, calling the hook now and then; false: the hook wants to
  // withdraw (only from `waiting`).
  bool wait(std::unique_lock<std::mutex>& lock, Member& self, const WaitHook& hook, State from);
  void lead(std::unique_lock<std::mutex>& lock, Member& self, const WaitHook& hook);  // returns without the lock
  void run_part(Member& member, WriteSet& set);
  // Both with the mutex held; whom they return is to be woken when it is free again.
  Member* next_turn(Gathering& gathering);  // nullptr: the group is complete
  Member* pass_on();                        // the next in the queue leads; nullptr: nobody waits
  void pass_on_and_wake() noexcept;  // without the mutex

  const Begin begin_;
  const Commit commit_;
  const GroupLimits limits_;
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::deque<Member*> queue_;
  bool led_ = false;  // somebody leads, or holds a session
  bool closed_ = false;
  std::atomic<std::thread::id> inside_;  // the thread that runs a part, or holds the session
};

}  // namespace syncline
