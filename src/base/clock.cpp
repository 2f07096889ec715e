#include "base/clock.h"

#include <chrono>
#include <unistd.h>
#if defined(__APPLE__)
#include <sys/random.h>
#endif

#include "base/error.h"

namespace syncline {

namespace {

class SystemClock final : public Clock {
 public:
  std::int64_t now() override {
    const auto since_1970 = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::microseconds>(since_1970).count();
  }
};

// Unbuffered, so that two processes forked from one never draw the same bits.
class SystemEntropy final : public Entropy {
 public:
  std::uint64_t next() override {
    std::uint64_t bits = 0;
    if (::getentropy(&bits, sizeof bits) != 0) {
      throw Error(Code::internal_error, "the operating system gave no random bits");
    }
    return bits;
  }
};

}  // namespace

std::shared_ptr<Clock> system_clock() { return std::make_shared<SystemClock>(); }
std::shared_ptr<Entropy> system_entropy() { return std::make_shared<SystemEntropy>(); }

}  // namespace syncline
