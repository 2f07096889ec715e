// The mutations that the server has not settled, in the order in which they were made.
//
// What     The queue in memory and as unlogged documents of the reserved scope: an entry that changed is written again with the next
//          commit, one that left is removed by it. Numbers without a gap from the front on; places rise for ever.
// Grammar  note "queue" / 20 digits of the place:
//            {args, code?, confirmed, fate, later, message?, name, scope, seed, seq, tries, ts, void}
// Owner    the replica. Threads  one at a time, under the replica's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "replica/replica.h"

namespace syncline::replica {

// What the server said of a mutation. Nothing is final in another epoch.
enum class Fate : std::uint8_t {
  unknown,
  applied,
  refused,
  consumed,  // its number is gone without an effect of it, or it was answered in a time that this file does not remember
};

// Why only the number of a mutation is sent.
enum class Void : std::uint8_t {
  none,
  told,       // it was refused, and the application knows
  discarded,  // by the application
  given_up,   // `code` and `message` say why; told when its number is consumed
};

struct Entry {
  Place place = 0;
  std::int64_t seq = 0;
  std::string scope, name, args;
  std::int64_t ts = 0;
  std::uint64_t seed = 0;
  Fate fate = Fate::unknown;
  Void voided = Void::none;
  bool confirmed = false;  // its effect, or its refusal, is in the confirmed documents
  bool later = false;      // it is numbered under the next client id
  std::int64_t tries = 0;
  std::string code, message;
  // Not kept:
  bool sent = false, durable = false, dirty = false;

  // Whether its effect belongs on top of the confirmed documents.
  [[nodiscard]] bool replays() const noexcept {
    return voided == Void::none && !confirmed && (fate == Fate::unknown || fate == Fate::applied);
  }
  // What it takes in a push, at most.
  [[nodiscard]] std::size_t wire_size() const noexcept { return args.size() + name.size() + scope.size() + 400; }
};

std::string place_id(Place place);
Place place_of_id(std::string_view id);

class Queue {
 public:
  void load(std::string_view id, std::string_view body);  // in order of id
  Entry& push(Entry entry);
  [[nodiscard]] Entry* find(Place place);
  [[nodiscard]] std::deque<Entry>& entries() noexcept { return entries_; }
  [[nodiscard]] const std::deque<Entry>& entries() const noexcept { return entries_; }
  void change(Entry& entry);  // it is written with the next commit
  std::deque<Entry>::iterator remove(const std::deque<Entry>::iterator& at);

  [[nodiscard]] bool dirty() const noexcept { return !changed_.empty() || !gone_.empty(); }
  [[nodiscard]] std::size_t not_durable() const noexcept { return fresh_; }
  // What the next commit has to write; views into `bodies` and into the queue live until `written`.
  void write(WriteBatch& batch, std::deque<std::string>& texts, std::int64_t now);
  void written();  // the commit stands

 private:
  std::deque<Entry> entries_;
  std::vector<Place> changed_, gone_;
  std::size_t fresh_ = 0;  // never written
};

}  // namespace syncline::replica
