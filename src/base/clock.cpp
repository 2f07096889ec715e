#include "base/clock.h"

#include <array>
#include <atomic>
#include <chrono>
#include <pthread.h>
#include <unistd.h>
#if defined(__APPLE__)
#include <sys/random.h>
#endif

#include "base/error.h"

namespace syncline {

namespace {

std::atomic<std::uint64_t> forks{0};  // of this process and its parents

class SystemClock final : public Clock {
 public:
  std::int64_t now() override {
    const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::microseconds>(since_1970).count();
  }
};

// A system call brings 256 bytes, which a thread uses up alone: one call for each seed was a twentieth of a push. A child of fork() has
// its parent's memory, so what was drawn before it is thrown away: two processes never draw the same bits.
class SystemEntropy final : public Entropy {
 public:
  SystemEntropy() {
    static const int registered = pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
    if (registered != 0) throw Error(Code::internal_error, "the operating system has no memory for a fork handler");
  }

  std::uint64_t next() override {
    thread_local Drawn drawn;
    const std::uint64_t now = forks.load(std::memory_order_relaxed);
    if (drawn.left == 0 || drawn.at != now) {
      if (::getentropy(drawn.bits.data(), sizeof drawn.bits) != 0) {
        throw Error(Code::internal_error, "the operating system gave no random bits");
      }
      drawn.left = drawn.bits.size();
      drawn.at = now;
    }
    return drawn.bits[--drawn.left];
  }

 private:
  struct Drawn {
    std::array<std::uint64_t, 32> bits;  // 256 bytes are the most that one getentropy gives
    std::size_t left = 0;
    std::uint64_t at = 0;  // so many forks
  };
};

}  // namespace

std::shared_ptr<Clock> system_clock() { return std::make_shared<SystemClock>(); }
std::shared_ptr<Entropy> system_entropy() { return std::make_shared<SystemEntropy>(); }

}  // namespace syncline
