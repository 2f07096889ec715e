// The log and the documents as tables: typed columns, a batch of rows at a time.
//
// Rule     A document is a row. A map is flattened into columns named by their path, "address.city"; a dot or backslash that belongs to a
//          key is written with a backslash before it, as in a line's `changes`, and so is a leading '_', with which the columns of our own
//          begin. Null, absent and the empty map are all null. Over all rows of the table, a path where there are
//            bools, strings, bytes or instants only      has that type;
//            integers only                               is int64, uint64 where one is above 2^63-1 and none is negative;
//            integers and floats                         is float64 where every integer is exactly a float64;
//            lists, or anything mixed                    is JSON text, in the dialect of the protocol: no value is changed or lost;
//            maps with more than kMaxFields keys in all  is JSON text too: such a map has data for keys.
// Memory   one batch: at most `batch_rows` rows, and no row more once they hold kBatchBytes. To find the types costs a pass before the
//          first batch and memory for the paths, kMaxColumns at most.
// Cost     processor time, measured on a million lines of the log (benchmarks/tables.py): 0.51 us a line into columns, 0.60 us into a
//          pandas table (1.7 M lines/s), where the same query with sqlite3 and pandas takes 4.2 us; 0.65 us a document of five fields.
// Owner    the bindings own a source; it must end before its engine does, and after `Engine::close` it throws Error(closed).
// Threads  a source: one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/query.h"
#include "engine/column.h"
#include "engine/engine.h"
#include "engine/history.h"

namespace syncline {

inline constexpr std::size_t kMaxFields = 256;    // of one map, over all rows, that become columns
inline constexpr std::size_t kMaxColumns = 2000;  // of a table
inline constexpr std::size_t kBatchBytes = 64 << 20;
inline constexpr std::int64_t kMaxBatchRows = 1 << 20;

struct Batch {
  std::size_t rows = 0;
  std::vector<Column> columns;
};

class TableSource {
 public:
  TableSource() = default;
  virtual ~TableSource() = default;
  TableSource(const TableSource&) = delete;
  TableSource& operator=(const TableSource&) = delete;

  [[nodiscard]] virtual const std::vector<ColumnField>& fields() const = 0;
  virtual Batch next() = 0;  // no rows: that was all
};

// One row per line that was asked for. Each chunk is a short read transaction of its own: lines do not change, and one that is purged
// meanwhile is left out. `changed`: a column with the names of the fields that an update changed.
std::unique_ptr<TableSource> log_table(Engine& engine, LogRequest request, bool changed, std::int64_t batch_rows);

// One row per version of a document, newest first, with the fields that it had: read twice, in short transactions of their own.
std::unique_ptr<TableSource> history_table(Engine& engine, std::string scope, std::string entity, std::string id, std::int64_t batch_rows);

struct DocumentTableRequest {
  std::vector<std::string> scopes;               // empty: all that are not reserved
  std::optional<std::string> entity;             // none: all that are not reserved
  std::optional<std::vector<std::string>> only;  // the top-level fields to take; none: all
  Filter filter;
  std::int64_t batch_rows = 1 << 16;
};

// One row per live document, in order of scope and cursor, all of one snapshot, which is held from the call to the destruction.
std::unique_ptr<TableSource> document_table(Engine& engine, DocumentTableRequest request);

}  // namespace syncline
