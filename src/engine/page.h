// A pull's and a snapshot's answer as bytes, written straight from the rows of the scan.
//
// What     One writer per format, with the same four words, so that one loop serves both. Keys are literals: nothing about an answer is
//          looked up or escaped twice.
// Owner    the call that answers; appends to a string it does not own.
// Threads  one at a time.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include "base/msgpack.h"
#include "engine/engine.h"

namespace syncline::page {

class JsonPage {
 public:
  JsonPage(std::string& out, std::string_view scope);
  void change(const ChangeView& change);
  void end(const PageEnd& end);

 private:
  std::string& out_;
  std::string scope_;  // with its key, as it stands in every change
  bool first_ = true;
};

class PackedPage {
 public:
  PackedPage(std::string& out, std::string_view scope);
  void change(const ChangeView& change);
  void end(const PageEnd& end);

 private:
  std::string& out_;
  mp::Writer writer_;
  std::string scope_;
  std::size_t count_ = 0;
};

void write_json(const Snapshot& snapshot, std::string& out);
void write_packed(const Snapshot& snapshot, std::string& out);

}  // namespace syncline::page
