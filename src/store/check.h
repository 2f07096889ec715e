// What must hold in a database file, beyond what SQLite itself looks after.
//
// Owner    the store, which calls it on a connection with an open transaction. Threads  the connection's.
#pragma once

#include "store/sqlite_session.h"
#include "store/store.h"

namespace syncline::sqlite {

Checked check(Connection& connection, const CheckHooks& hooks);

}  // namespace syncline::sqlite
