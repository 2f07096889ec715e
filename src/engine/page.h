// A pull's and a snapshot's answer as bytes, written straight from the rows of the scan.
//
// What     One writer per format, with the same four words, so that one loop serves both. Keys are literals: nothing about an answer is
//          looked up or escaped twice.
// Owner    the call that answers; appends to bytes it does not own.
// Threads  one at a time.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/json.h"
#include "base/msgpack.h"
#include "engine/engine.h"

namespace syncline::page {

class JsonPage {
 public:
  static constexpr bool kTakes = true;
  JsonPage(Bytes& out, std::string_view scope);
  void change(const ChangeView& change);
  // `change` where it surely fits into the memory there is and nothing is wrong with it; false: nothing was written.
  bool take(const ChangeView& change) noexcept;
  void end(const PageEnd& end);

 private:
  [[nodiscard]] std::size_t frame_of(const ChangeView& change) const noexcept;
  [[nodiscard]] char* put_head(const ChangeView& change, char* at);
  [[nodiscard]] char* put_tail(const ChangeView& change, char* at) noexcept;

  Bytes& out_;
  std::string scope_;   // with its key, as it stands in every change
  std::string entity_;  // of the last change
  std::string middle_;  // what stands between a change's cursor and its id: the same for a run of one entity
  std::int64_t ts_ = 0; // of the last change: what was committed together has one
  std::array<char, json::kInstant> instant_{};
  bool first_ = true;
};

class PackedPage {
 public:
  static constexpr bool kTakes = true;
  PackedPage(Bytes& out, std::string_view scope);
  void change(const ChangeView& change);
  bool take(const ChangeView& change) noexcept;  // as JsonPage's
  void end(const PageEnd& end);

 private:
  [[nodiscard]] std::size_t most_of(const ChangeView& change) const noexcept;
  char* put(const ChangeView& change, char* at) noexcept;
  Bytes& out_;
  std::size_t begin_;  // of the page in `out_`
  std::string scope_;
  std::size_t count_ = 0;
};

void write_json(const Snapshot& snapshot, Bytes& out);
void write_packed(const Snapshot& snapshot, Bytes& out);

}  // namespace syncline::page
