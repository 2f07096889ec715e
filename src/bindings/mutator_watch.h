// What an engine notes about its mutators: how often each ran and how long, which were slow, and who wants to run them.
//
// Owner    the engine's binding; the hosts of its pushes point to it.
// Threads  any, with the GIL, which is its lock.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <string_view>

#include "bindings/python.h"

namespace syncline::python {

class MutatorWatch {
 public:
  // Seconds; a run belongs to the first bound that it does not exceed, or to the place after the last.
  static constexpr std::array kBounds = {0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0};

  struct Times {
    std::uint64_t calls = 0;
    std::uint64_t failures = 0;  // it raised, whatever it was
    double seconds = 0, slowest = 0;
    std::array<std::uint64_t, kBounds.size() + 1> buckets{};
  };

  // The times of a registered mutator. The reference stays.
  Times& of(std::string_view name);
  [[nodiscard]] py::dict to_dict() const;  // name -> (calls, failures, seconds, slowest, [count per bucket])

  double slow_seconds = std::numeric_limits<double>::infinity();  // from here on a run is told
  py::object runner = py::none();                                 // called with (function, name, tx, args) in the mutator's place

 private:
  std::map<std::string, Times, std::less<>> times_;  // as many as there are registered mutators
};

// Measures one run, from its construction to `end`. With the look-up it costs 0.15 us of a call's 2 to 3 us.
class MutatorRun {
 public:
  MutatorRun(MutatorWatch& watch, std::string_view name) : times_(watch.of(name)) {}
  // Seconds that it took.
  double end(bool failed);

 private:
  MutatorWatch::Times& times_;
  std::chrono::steady_clock::time_point begun_ = std::chrono::steady_clock::now();
};

}  // namespace syncline::python
