// Is everything that is stored as it must be? Read only, in one snapshot, beside whatever runs.
//
// What     SQLite's own check of the file; tables and indexes as the schema says; names, scopes, epochs and heads; each document against
//          its key and, version by version, against its log lines and their hashes; canonical encoding; lines that belong to nothing;
//          clients and their results; unlogged documents. What is wrong is said in words, with the place.
// Cost     each row is read once, each version undone once: 0.1 M documents with a line each a second. The snapshot keeps the log of
//          writes from being taken over meanwhile: on a large and busy database, verify a backup.
// Owner    value types. Threads  any.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "store/repair.h"
#include "store/store.h"

namespace syncline {

struct Report {
  static constexpr std::size_t kMost = 1000;
  std::vector<Problem> problems;  // at most kMost of them
  std::int64_t found = 0;         // all
  Checked checked;
};

// `progress(done, total)` in rows; it may throw to end it.
using VerifyProgress = std::function<void(std::int64_t, std::int64_t)>;
Report verify(Store& store, const VerifyProgress& progress = {});

// As repair_sqlite, with the engine's knowledge of results.
Repaired repair(const std::string& path);

}  // namespace syncline
