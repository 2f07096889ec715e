// `list`, `scan` and `find` over any source of documents in byte order of id: a snapshot, or a write set over the store.
//
// Threads  any: pure functions.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/query.h"

namespace syncline {

// One row of `list`, `scan` and `find`.
struct Row {
  std::string id, body;
};

struct FindOptions {
  Filter filter;
  std::vector<SortKey> order;  // empty: by id
  std::int64_t limit = -1;     // -1: all
};

// A source calls its visitor for each live document until it returns false.
using VisitRow = std::function<bool(std::string_view id, std::string_view body)>;
using RowSource = std::function<void(const VisitRow&)>;

std::vector<Row> take_rows(const RowSource& source, std::int64_t limit);
std::vector<Row> find_rows(const RowSource& source, const FindOptions& options);

}  // namespace syncline
