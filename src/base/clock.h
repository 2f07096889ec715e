// Time and randomness as interfaces, so that a test can run a whole cluster from one seed.
//
// Owner    whoever constructs the engine; they outlive it. Threads  implementations are called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace syncline {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual std::int64_t now() = 0;  // microseconds since 1970-01-01T00:00:00Z
};

class Entropy {
 public:
  virtual ~Entropy() = default;
  virtual std::uint64_t next() = 0;  // 64 random bits
};

std::shared_ptr<Clock> system_clock();
std::shared_ptr<Entropy> system_entropy();  // from the operating system

}  // namespace syncline
