// A pull's and a snapshot's answer as bytes, written straight from the rows of the scan.
//
// What     One writer per format, with the same four words, so that one loop serves both. Keys are literals: nothing about an answer is
//          looked up or escaped twice.
// Owner    the call that answers; appends to bytes it does not own.
// Threads  one at a time.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/msgpack.h"
#include "engine/engine.h"

namespace syncline::page {

class JsonPage {
 public:
  JsonPage(Bytes& out, std::string_view scope);
  void change(const ChangeView& change);
  void end(const PageEnd& end);

 private:
  Bytes& out_;
  std::string scope_;  // with its key, as it stands in every change
  bool first_ = true;
};

class PackedPage {
 public:
  PackedPage(Bytes& out, std::string_view scope);
  void change(const ChangeView& change);
  void end(const PageEnd& end);

 private:
  Bytes& out_;
  std::size_t begin_;  // of the page in `out_`
  std::string scope_;
  std::size_t count_ = 0;
};

void write_json(const Snapshot& snapshot, Bytes& out);
void write_packed(const Snapshot& snapshot, Bytes& out);

}  // namespace syncline::page
