// Rebuilds in a database file what follows from the rest of it, and says so; what does not follow is left, and told.
//
// Rebuilt  indexes; keys from documents; tombstones from the deletions in the log; versions, times and creation cursors of documents
//          from log lines whose hash fits them; links of log lines from their order; heads of scopes and of the database; last numbers
//          of clients from their results.
// Given up history that does not fit together, from the fault back: its lines go, and log_floor rises so that it is refused and not
//          guessed; floors that cannot be true, in favour of one that makes clients pull anew; results of nobody.
// Never    a body, a name, an owner.
// Owner    free function: the file is open nowhere for writing meanwhile (Error(locked)). One transaction: a crash leaves all as it was.
// Threads  any.
#pragma once

#include <string>
#include <vector>

#include "store/store.h"

namespace syncline {

struct Repaired {
  std::vector<std::string> done;  // in words, with the place
  std::vector<Problem> left;      // what a check finds afterwards
};

// `hooks.found` is not used. Throws as opening does; Error(corrupt) where pages are so damaged that SQLite cannot read them.
Repaired repair_sqlite(const std::string& path, CheckHooks hooks);

}  // namespace syncline
