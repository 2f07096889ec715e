#include "bindings/mutator_watch.h"

#include <algorithm>

namespace syncline::python {

MutatorWatch::Times& MutatorWatch::of(std::string_view name) {
  const auto found = times_.find(name);
  return found != times_.end() ? found->second : times_.emplace(name, Times{}).first->second;
}

py::dict MutatorWatch::to_dict() const {
  py::dict made;
  for (const auto& [name, times] : times_) {
    py::list buckets;
    for (const std::uint64_t count : times.buckets) buckets.append(count);
    made[to_str(name)] = py::make_tuple(times.calls, times.failures, times.seconds, times.slowest, buckets);
  }
  return made;
}

double MutatorRun::end(bool failed) {
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun_).count();
  ++times_.calls;
  if (failed) ++times_.failures;
  times_.seconds += seconds;
  times_.slowest = std::max(times_.slowest, seconds);
  const auto bound = std::ranges::lower_bound(MutatorWatch::kBounds, seconds);
  ++times_.buckets[static_cast<std::size_t>(bound - MutatorWatch::kBounds.begin())];
  return seconds;
}

}  // namespace syncline::python
