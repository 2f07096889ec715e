// The tables of a database file and their versions.
//
// Owner    the store, which calls it once per open. Threads  the one that opens.
#pragma once

#include "store/sqlite.h"

namespace syncline::sqlite {

inline constexpr std::int64_t kApplicationId = 0x53796E63;  // "Sync", in the file's header
inline constexpr int kSchemaVersion = 1;

// Is this file ours, and can this library read it? Throws Error(foreign_file), Error(newer_schema). True: it is empty.
bool examine(Connection& connection);

// Creates the tables in an empty file, or brings an older schema forward, in one transaction.
void migrate(Connection& connection);

}  // namespace syncline::sqlite
