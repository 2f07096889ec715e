// The highest id of each kind of document, so that one that lies beyond needs no look-up to be known as new.
//
// What     For (scope, entity) an upper bound of the ids in `keys`. Time-ordered ids, which tx.uuid() makes, are beyond it each time: a
//          creation then costs a comparison instead of a walk through the index (6,400 instructions of a push's 73,000). The
//          bound may be too high, after a removal; it is never too low, for there is one writer.
// Owner    the writer's session. Bounded.
// Threads  its connection's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

namespace syncline::sqlite {

class Frontier {
 public:
  // Whether the id lies above every id there is. `highest()` is asked once for each kind, for the highest id that is stored; empty: none.
  template <class Highest>
  bool beyond(std::int64_t scope, std::int64_t entity, std::string_view id, Highest highest) {
    const Kind kind{scope, entity};
    auto at = bounds_.find(kind);
    if (at == bounds_.end()) {
      if (bounds_.size() >= kMost) bounds_.clear();
      at = bounds_.emplace(kind, highest()).first;
    }
    return id > at->second;
  }
  void added(std::int64_t scope, std::int64_t entity, std::string_view id) {
    const auto at = bounds_.find({scope, entity});
    if (at != bounds_.end() && id > at->second) at->second = id;
  }
  // Much has gone, so lower bounds may do; or what had gone is there again.
  void forgotten() noexcept { bounds_.clear(); }

 private:
  static constexpr std::size_t kMost = 16384;  // of up to 255 bytes each

  struct Kind {
    std::int64_t scope, entity;
    friend bool operator==(const Kind&, const Kind&) = default;
  };
  struct Hash {
    std::size_t operator()(const Kind& kind) const noexcept {
      return static_cast<std::size_t>(static_cast<std::uint64_t>(kind.scope) * 0x9e3779b97f4a7c15u + static_cast<std::uint64_t>(kind.entity));
    }
  };
  std::unordered_map<Kind, std::string, Hash> bounds_;
};

}  // namespace syncline::sqlite
