// The store on one SQLite file.
//
// Open     throws Error(locked) naming the process that writes the file, Error(foreign_file), Error(newer_schema),
//          Error(corrupt), Error(disk_full), Error(storage) where a folder is missing or may not be written.
// ":memory:"  a private temporary file in WAL mode with synchronous off, deleted at close (SQLite's own shared memory databases have
//          no snapshots).
// Threads  as store.h says. One writer connection; a pool of read-only connections; one of a Checkpointer's thread, which alone
//          checkpoints besides the writer.
#pragma once

#include <memory>
#include <string>

#include "store/store.h"

namespace syncline {

std::unique_ptr<Store> open_sqlite(const std::string& path, const StoreOptions& options = {});

}  // namespace syncline
