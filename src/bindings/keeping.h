// The retention and the clock that an engine is opened with, as Python holds them. Owner: the bindings. Threads: any.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/clock.h"
#include "engine/compaction.h"
#include "engine/dead_letters.h"

namespace syncline::python {

struct PyRetention {
  Retention retention;
  DeadLetterLimits dead_letters;
};

class PyClock : public Clock {
 public:
  explicit PyClock(std::int64_t microseconds) : time_(microseconds) {}
  std::int64_t now() override { return time_.load(); }
  void advance(std::int64_t microseconds) { time_ += microseconds; }

 private:
  std::atomic<std::int64_t> time_;
};

}  // namespace syncline::python
