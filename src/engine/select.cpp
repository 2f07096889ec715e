#include "engine/select.h"

#include <algorithm>
#include <cstddef>

namespace syncline {

std::vector<Row> take_rows(const RowSource& source, std::int64_t limit) {
  return find_rows(source, {.filter = {}, .order = {}, .limit = limit});
}

std::vector<Row> find_rows(const RowSource& source, const FindOptions& options) {
  std::vector<Row> rows;
  if (options.limit == 0) return rows;
  const bool sorted = !options.order.empty();
  const auto enough = options.limit < 0 ? static_cast<std::size_t>(-1) : static_cast<std::size_t>(options.limit);
  source([&](std::string_view id, std::string_view body) {
    if (options.filter.matches_all() || options.filter.matches(body)) rows.push_back({std::string(id), std::string(body)});
    return sorted || rows.size() < enough;
  });
  if (sorted) {
    // Rows come in order of id, and the sort is stable: equal keys stay in that order.
    std::ranges::stable_sort(rows, [&](const Row& a, const Row& b) { return compare_documents(a.body, b.body, options.order) < 0; });
    if (rows.size() > enough) rows.resize(enough);
  }
  return rows;
}

}  // namespace syncline
