// meta       one row. head: the highest cursor of the database
// names      entities and mutators, numbered: a row holds one or two bytes in place of a name
// scopes     numbered 1 ... 2^23-1. head, floor, log_floor as in ScopeRow; log_swept: up to where a purge of this scope has
//            looked for log lines (it goes on from there)
// log_floors finds the highest log_floor of a million scopes; only a purge touches it
// documents  place = scope number << 40 | cursor: one scope is one run of pages in cursor order, whatever was written in between.
//            body NULL: a tombstone. An update deletes the row and inserts it at its new place.
// keys       where a key's row is: a table of its own, in key order and without rowid. Measured in CPU time, 100,000 documents
//            of 200 B with log line in batches of 100, against a unique index over (scope, entity, id) on documents: random ids
//            1.1 times faster (81 k/s creates, 73 k/s updates against 73 and 66), sequential ids slower on creates (146 k/s
//            against 189), even on updates and look-ups, 1-3 % smaller. Taken because random ids are what a store waits for.
// tombstones finds them without reading the documents; writes of live documents do not touch it
// unlogged   documents without a cursor: no log line, no tombstone, in no pull
// changelog  one line per change. client: its number in `clients`, its id as text where it has no row there, or NULL for
//            backend code. user: NULL where it is the client's owner (nobody, without a client). mutation: NULL for a direct write.
// clients    one row per client, never forgotten; the owner is the user that first used it and never changes
// results    what one push of a client stored, found by the last of its numbers
// epochs     in the order of their tenures
#include "store/schema.h"

namespace syncline::sqlite {

namespace {

constexpr const char* kTables = R"sql(
  CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    head INTEGER NOT NULL
  );
  INSERT INTO meta (id, head) VALUES (1, 0);

  CREATE TABLE names (
    no INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
  );

  CREATE TABLE scopes (
    no INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    head INTEGER NOT NULL DEFAULT 0,
    floor INTEGER NOT NULL DEFAULT 0,
    log_floor INTEGER NOT NULL DEFAULT 0,
    log_swept INTEGER NOT NULL DEFAULT 0
  );
  CREATE INDEX log_floors ON scopes (log_floor) WHERE log_floor > 0 AND substr(name, 1, 1) <> '_';

  CREATE TABLE documents (
    place INTEGER PRIMARY KEY,
    entity INTEGER NOT NULL,
    id TEXT NOT NULL,
    version INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    created INTEGER NOT NULL,
    body BLOB
  );
  CREATE INDEX tombstones ON documents (place) WHERE body IS NULL;

  CREATE TABLE keys (
    scope INTEGER NOT NULL,
    entity INTEGER NOT NULL,
    id TEXT NOT NULL,
    cursor INTEGER NOT NULL,
    PRIMARY KEY (scope, entity, id)
  ) WITHOUT ROWID;

  CREATE TABLE unlogged (
    scope INTEGER NOT NULL,
    entity INTEGER NOT NULL,
    id TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (scope, entity, id)
  ) WITHOUT ROWID;

  CREATE TABLE changelog (
    cursor INTEGER PRIMARY KEY,
    scope INTEGER NOT NULL,
    entity INTEGER NOT NULL,
    id TEXT NOT NULL,
    op INTEGER NOT NULL,
    version INTEGER NOT NULL,
    previous INTEGER NOT NULL,
    ts INTEGER NOT NULL,
    client,
    client_seq INTEGER NOT NULL,
    user TEXT,
    mutation INTEGER,
    mutation_ts INTEGER NOT NULL,
    delta BLOB,
    hash INTEGER NOT NULL
  );

  CREATE TABLE clients (
    no INTEGER PRIMARY KEY,
    client_id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    last_seq INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
  );

  CREATE TABLE results (
    client INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    results BLOB NOT NULL,
    PRIMARY KEY (client, last_seq)
  ) WITHOUT ROWID;

  CREATE TABLE epochs (
    no INTEGER PRIMARY KEY,
    epoch TEXT NOT NULL UNIQUE,
    first INTEGER NOT NULL,
    opened_at INTEGER NOT NULL
  );
)sql";

[[noreturn]] void refuse_foreign(const Connection& connection, const std::string& why) {
  throw Error(Code::foreign_file,
              "'" + connection.path() + "' is not a Syncline database: " + why + "; give a path of its own to Syncline",
              {{"path", connection.path()}});
}

}  // namespace

bool examine(Connection& connection) {
  std::int64_t id = 0;
  std::int64_t version = 0;
  std::int64_t tables = 0;
  try {
    id = connection.number("PRAGMA application_id");
    version = connection.number("PRAGMA user_version");
    tables = connection.number("SELECT count(*) FROM sqlite_schema");
  } catch (const Error& error) {
    if ((sqlite3_errcode(connection.handle()) & 0xff) == SQLITE_NOTADB) refuse_foreign(connection, "it is no SQLite file");
    throw;
  }
  if (id == 0 && version == 0 && tables == 0) return true;
  if (id != kApplicationId) refuse_foreign(connection, "it is another program's SQLite file");
  if (version > kSchemaVersion) {
    throw Error(Code::newer_schema,
                "'" + connection.path() + "' has schema " + std::to_string(version) + ", this Syncline knows up to " +
                    std::to_string(kSchemaVersion) + "; upgrade Syncline to open it",
                {{"path", connection.path()}, {"found", version}, {"supported", std::int64_t{kSchemaVersion}}});
  }
  return false;
}

void migrate(Connection& connection) {
  if (connection.number("PRAGMA user_version") == kSchemaVersion) return;
  connection.execute("BEGIN IMMEDIATE");
  try {
    // Each step takes the schema from the version before to its own; a new one is added below and never changes an old one.
    if (connection.number("PRAGMA user_version") < 1) connection.execute(kTables);
    connection.execute("PRAGMA application_id = " + std::to_string(kApplicationId) +
                       "; PRAGMA user_version = " + std::to_string(kSchemaVersion) + "; COMMIT");
  } catch (...) {
    if (connection.in_transaction()) sqlite3_exec(connection.handle(), "ROLLBACK", nullptr, nullptr, nullptr);
    throw;
  }
}

}  // namespace syncline::sqlite
