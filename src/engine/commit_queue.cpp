#include "engine/commit_queue.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace syncline {

namespace {

constexpr std::chrono::milliseconds kHookEvery{50};

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
  if (self.state == State::lead) lead(lock, self, hook);
  lock.unlock();
  if (self.error) std::rethrow_exception(self.error);
  if (self.thrown) std::rethrow_exception(self.thrown);
  return true;
}

bool CommitQueue::wait(std::unique_lock<std::mutex>& lock, Member& self, const WaitHook& hook, bool may_withdraw,
                       const std::function<bool()>& ready) {
  while (!ready()) {
    if (!hook || self.thrown) {
      self.wake.wait(lock);
      continue;
    }
    if (self.wake.wait_until(lock, std::chrono::system_clock::now() + kHookEvery) != std::cv_status::timeout || ready()) continue;
    bool go_on = true;
    lock.unlock();
    try {
      go_on = hook();
    } catch (...) {
      self.thrown = std::current_exception();
      go_on = false;
    }
    lock.lock();
    if (!go_on && may_withdraw && !ready()) return false;
  }
  return true;
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
  if (!wait(lock, self, hook, true, [&] { return self.state != State::waiting; })) {
    std::erase(queue_, &self);
    if (queue_.empty() && !led_) idle_.notify_all();
    return false;
  }
  if (self.state == State::turn) {
    lock.unlock();
    run_part(self, *self.set);
    lock.lock();
    self.state = State::ran;
    self.leader->wake.notify_all();
    wait(lock, self, hook, false, [&] { return self.state == State::done; });
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

void CommitQueue::lead(std::unique_lock<std::mutex>& lock, Member& self, const WaitHook& hook) {
  const auto gathered_until = std::chrono::steady_clock::now() + std::chrono::microseconds(limits_.max_microseconds);
  std::deque<Member*> members;
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
      run_part(self, *group.set);
      for (;;) {
        lock.lock();
        const bool full = group.set->mutations() >= limits_.max_mutations || group.set->bytes() >= limits_.max_bytes ||
                          std::chrono::steady_clock::now() >= gathered_until;
        if (full || queue_.empty() || queue_.front()->part == nullptr) break;
        Member& member = *queue_.front();
        queue_.pop_front();
        members.push_back(&member);
        member.set = group.set.get();
        member.leader = &self;
        member.state = State::turn;
        member.wake.notify_all();
        // The hook still hears signals here, but a leader cannot leave its group.
        wait(lock, self, hook, false, [&] { return member.state == State::ran; });
        lock.unlock();
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
  for (Member* member : members) {
    if (failure) member->error = failure;
    member->state = State::done;
    member->wake.notify_all();
  }
  self.state = State::done;
  pass_on();
}

void CommitQueue::pass_on() {
  if (queue_.empty()) {
    led_ = false;
    idle_.notify_all();
    return;
  }
  Member& next = *queue_.front();
  queue_.pop_front();
  next.state = State::lead;
  next.wake.notify_all();
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
    const std::scoped_lock lock(mutex_);
    pass_on();
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
  const std::scoped_lock lock(queue_.mutex_);
  queue_.pass_on();
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
