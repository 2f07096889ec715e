// Seeded random values for property tests, encoded canonically.
//
// Owner  the test. Threads  one object, one thread.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <string>

#include "base/ids.h"
#include "base/msgpack.h"

namespace syncline::testing {

class RandomValues {
 public:
  explicit RandomValues(std::uint64_t seed) : random_(seed) {}

  std::uint64_t below(std::uint64_t bound) { return random_.next() % bound; }

  std::string key() {
    static constexpr const char* kKeys[] = {"a", "b", "c", "count", "title", "done", "über", "", "list", "z", "tags", "aa"};
    return kKeys[below(std::size(kKeys))];
  }

  std::string text() {
    static constexpr const char* kPieces[] = {"x", "hello", "é", "漢字", "😀", "\"", "\\", "\n", "/", "$", "0123456789"};
    std::string out;
    for (auto left = below(6); left > 0; --left) out += kPieces[below(std::size(kPieces))];
    if (below(40) == 0) out.append(300, 'q');
    if (below(20) == 0) out.push_back('\0');
    return out;
  }

  double real() {
    switch (below(8)) {
      case 0: return 0.0;
      case 1: return -0.0;
      case 2: return std::numeric_limits<double>::quiet_NaN();
      case 3: return std::numeric_limits<double>::infinity();
      case 4: return -std::numeric_limits<double>::infinity();
      case 5: return static_cast<double>(below(1000)) - 500.0;
      case 6: return std::bit_cast<double>(random_.next());
      default: return random_.uniform() * 1e6;
    }
  }

  std::uint64_t natural() { return random_.next() >> below(64); }

  std::int64_t instant() {
    if (below(2) == 0) return static_cast<std::int64_t>(below(4'000'000'000)) * (below(2) == 0 ? 1'000'000 : 1'234'567);
    const auto span = static_cast<std::uint64_t>(mp::kMaxInstant - mp::kMinInstant);
    return mp::kMinInstant + static_cast<std::int64_t>(below(span + 1));
  }

  void value(std::string& out, int depth = 0) {
    mp::Writer writer(out);
    switch (below(depth < 4 ? 12 : 9)) {
      case 0: writer.nil(); break;
      case 1: writer.boolean(below(2) == 0); break;
      case 2: writer.natural(natural()); break;
      case 3: writer.integer(-static_cast<std::int64_t>(natural() >> 1) - 1); break;
      case 4: writer.integer(static_cast<std::int64_t>(below(10))); break;
      case 5: writer.real(real()); break;
      case 6: writer.str(text()); break;
      case 7: writer.bin(text() + "\xff"); break;
      case 8: writer.instant(instant()); break;
      case 9: {
        const auto size = below(5);
        writer.array(size);
        for (auto left = size; left > 0; --left) value(out, depth + 1);
        break;
      }
      default: map(out, depth + 1);
    }
  }

  void map(std::string& out, int depth = 0) {
    std::map<std::string, std::string> fields;
    for (auto left = below(7); left > 0; --left) {
      std::string encoded;
      value(encoded, depth);
      fields.insert_or_assign(key(), encoded);
    }
    if (below(50) == 0) {
      for (int i = 0; i < 20; ++i) fields.insert_or_assign("k" + std::to_string(i), "\x01");
    }
    write(fields, out);
  }

  std::string document() {
    std::string out;
    map(out);
    return out;
  }

  // A document that shares most of its fields with `other`.
  std::string variant(std::string_view other) {
    std::string out;
    vary(other, out);
    return out;
  }

  static void write(const std::map<std::string, std::string>& fields, std::string& out) {
    mp::Writer writer(out);
    writer.map(fields.size());
    for (const auto& [name, encoded] : fields) {
      writer.str(name);
      writer.raw(encoded);
    }
  }

 private:
  void vary(std::string_view other, std::string& out) {
    std::map<std::string, std::string> fields;
    mp::Reader reader(other);
    for (std::size_t left = reader.map(); left > 0; --left) {
      const std::string name(reader.str());
      const bool nested = reader.peek() == mp::Kind::map;
      const std::string_view old = reader.skip();
      std::string encoded(old);
      const auto fate = below(6);
      if (fate == 0) continue;
      if (fate == 1) {
        encoded.clear();
        value(encoded, 2);
      } else if (fate <= 3 && nested) {
        encoded.clear();
        vary(old, encoded);
      }
      fields.emplace(name, encoded);
    }
    if (below(3) == 0) {
      std::string encoded;
      value(encoded, 2);
      fields.insert_or_assign(key(), encoded);
    }
    write(fields, out);
  }

  Random random_;
};

}  // namespace syncline::testing
