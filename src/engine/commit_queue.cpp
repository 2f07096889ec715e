#include "engine/commit_queue.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <utility>

namespace syncline {

namespace {

constexpr std::chrono::nanoseconds kHookEvery = std::chrono::milliseconds(50);
constexpr std::int64_t kSecond = 1'000'000'000;

}  // namespace

CommitQueue::CommitQueue(Begin begin, Commit commit, GroupLimits limits)
    : begin_(std::move(begin)), commit_(std::move(commit)), limits_(limits) {}

CommitQueue::~CommitQueue() { close(); }

bool CommitQueue::run(const std::function<void(WriteSet&)>& part, const WaitHook& hook) {
  Member self;
  self.part = &part;
  std::unique_lock lock(mutex_);
  if (!join(lock, self, hook)) {
    lock.unlock();
    if (self.thrown) std::rethrow_exception(self.thrown);
    return false;
  }
  if (self.state == State::lead) {
    lead(lock, self, hook);
  } else {
    lock.unlock();
  }
  if (self.error) std::rethrow_exception(self.error);
  if (self.thrown) std::rethrow_exception(self.thrown);
  return true;
}

CommitQueue::Wake::Wake() { sem_init(&semaphore_, 0, 0); }

CommitQueue::Wake::~Wake() { sem_destroy(&semaphore_); }

void CommitQueue::Wake::post() noexcept { sem_post(&semaphore_); }

bool CommitQueue::Wake::wait(bool forever) {
  if (forever) {
    while (sem_wait(&semaphore_) != 0) {
    }
    return true;
  }
  timespec until{};
  clock_gettime(CLOCK_REALTIME, &until);
  until.tv_nsec += kHookEvery.count();
  until.tv_sec += until.tv_nsec / kSecond;
  until.tv_nsec %= kSecond;
  for (;;) {
    if (sem_timedwait(&semaphore_, &until) == 0) return true;
    if (errno == ETIMEDOUT) return false;
  }
}

bool CommitQueue::wait(std::unique_lock<std::mutex>& lock, Member& self, const WaitHook& hook, State from) {
  for (;;) {
    lock.unlock();
    const bool forever = !hook || self.thrown;
    const bool woken = self.wake.wait(forever);
    bool go_on = true;
    if (!woken) {
      try {
        go_on = hook();
      } catch (...) {
        self.thrown = std::current_exception();
        go_on = false;
      }
    }
    lock.lock();
    if (woken) return true;
    // A state that has changed meanwhile is followed by its post, which must find the member alive.
    if (!go_on && from == State::waiting && self.state == from) return false;
  }
}

bool CommitQueue::join(std::unique_lock<std::mutex>& lock, Member& self, const WaitHook& hook) {
  check_not_inside();
  if (closed_) throw Error(Code::closed, "the engine is closed");
  if (!led_) {
    led_ = true;
    self.state = State::lead;
    return true;
  }
  if (queue_.size() >= limits_.max_waiting) {
    throw Error(Code::rate_limited, std::to_string(queue_.size()) + " pushes are waiting already; try again later",
                {{"limit", static_cast<std::int64_t>(limits_.max_waiting)}});
  }
  queue_.push_back(&self);
  if (!wait(lock, self, hook, State::waiting)) {
    std::erase(queue_, &self);
    if (queue_.empty() && !led_) idle_.notify_all();
    return false;
  }
  if (self.state == State::turn) {
    Gathering& gathering = *self.gathering;
    lock.unlock();
    run_part(self, *gathering.set);
    lock.lock();
    self.state = State::ran;
    Member* next = next_turn(gathering);
    if (next == nullptr) {
      next = gathering.leader;
      next->state = State::gathered;
    }
    lock.unlock();
    next->wake.post();
    lock.lock();
    // The hook still hears signals here, but a member cannot leave its group.
    wait(lock, self, hook, State::ran);
  }
  return true;
}

void CommitQueue::run_part(Member& member, WriteSet& set) {
  inside_.store(std::this_thread::get_id());
  try {
    (*member.part)(set);
  } catch (...) {
    member.error = std::current_exception();
  }
  set.drop();
  inside_.store(std::thread::id());
}

CommitQueue::Member* CommitQueue::next_turn(Gathering& gathering) {
  const bool full = gathering.set->mutations() >= limits_.max_mutations || gathering.set->bytes() >= limits_.max_bytes ||
                    std::chrono::steady_clock::now() >= gathering.until;
  if (full || queue_.empty() || queue_.front()->part == nullptr) return nullptr;
  Member* const next = queue_.front();
  queue_.pop_front();
  gathering.members.push_back(next);
  next->gathering = &gathering;
  next->state = State::turn;
  return next;
}

void CommitQueue::lead(std::unique_lock<std::mutex>& lock, Member& self, const WaitHook& hook) {
  Gathering gathering;
  gathering.leader = &self;
  gathering.until = std::chrono::steady_clock::now() + std::chrono::microseconds(limits_.max_microseconds);
  std::exception_ptr failure;
  lock.unlock();
  {
    Group group;
    try {
      group = begin_();
    } catch (...) {
      failure = std::current_exception();
    }
    if (!failure) {
      gathering.set = group.set.get();
      run_part(self, *group.set);
      lock.lock();
      if (Member* const next = next_turn(gathering)) {
        lock.unlock();
        next->wake.post();
        lock.lock();
        // The hook still hears signals here, but a leader cannot leave its group.
        wait(lock, self, hook, State::lead);
      }
      lock.unlock();
      try {
        commit_(group);
      } catch (...) {
        failure = std::current_exception();
      }
    }
  }
  lock.lock();
  if (failure) self.error = failure;
  for (Member* const member : gathering.members) {
    if (failure) member->error = failure;
    member->state = State::done;
  }
  self.state = State::done;
  Member* const next = pass_on();
  lock.unlock();
  // The next group's work begins before this one's members go home.
  if (next != nullptr) next->wake.post();
  for (Member* const member : gathering.members) member->wake.post();
}

CommitQueue::Member* CommitQueue::pass_on() {
  if (queue_.empty()) {
    led_ = false;
    idle_.notify_all();
    return nullptr;
  }
  Member* const next = queue_.front();
  queue_.pop_front();
  next->state = State::lead;
  return next;
}

void CommitQueue::pass_on_and_wake() noexcept {
  Member* next = nullptr;
  {
    const std::scoped_lock lock(mutex_);
    next = pass_on();
  }
  if (next != nullptr) next->wake.post();
}

std::unique_ptr<CommitQueue::Session> CommitQueue::session(const WaitHook& hook) {
  Member self;
  {
    std::unique_lock lock(mutex_);
    if (!join(lock, self, hook)) {
      lock.unlock();
      if (self.thrown) std::rethrow_exception(self.thrown);
      return nullptr;
    }
  }
  try {
    return std::unique_ptr<Session>(new Session(*this, begin_()));
  } catch (...) {
    pass_on_and_wake();
    throw;
  }
}

CommitQueue::Session::Session(CommitQueue& queue, Group group) : queue_(queue), group_(std::move(group)) { adopt(); }

CommitQueue::Session::~Session() { finish(); }

WriteSet& CommitQueue::Session::set() {
  if (!open_) throw Error(Code::closed, "this write is finished");
  return *group_.set;
}

void CommitQueue::Session::adopt() { queue_.inside_.store(std::this_thread::get_id()); }

void CommitQueue::Session::commit() {
  if (!open_) throw Error(Code::closed, "this write is finished");
  try {
    queue_.commit_(group_);
  } catch (...) {
    finish();
    throw;
  }
  finish();
}

void CommitQueue::Session::finish() noexcept {
  if (!open_) return;
  open_ = false;
  group_.set.reset();
  group_.tx.reset();
  queue_.inside_.store(std::thread::id());
  queue_.pass_on_and_wake();
}

void CommitQueue::check_not_inside() const {
  if (inside_.load() == std::this_thread::get_id()) {
    throw Error(Code::usage,
                "this thread is inside a mutator or a write already: write through its tx instead of calling push or write again");
  }
}

std::size_t CommitQueue::waiting() const {
  const std::scoped_lock lock(mutex_);
  return queue_.size();
}

void CommitQueue::close() {
  std::unique_lock lock(mutex_);
  closed_ = true;
  idle_.wait(lock, [&] { return !led_ && queue_.empty(); });
}

}  // namespace syncline
