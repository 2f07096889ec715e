// Erasure: a document, or all of a scope, forgotten with its history.
//
// What     A live document becomes a tombstone, so that clients learn of it; its log lines go, and what stays in the log is one
//          deletion without the old body and without a link to what was before. Dead letters that hold it go too. At the end the file is
//          written anew: not a byte of the old values is left in it, nor in the log of writes beside it.
// Not      what the application itself put elsewhere: other documents, backups, ids and entities (a tombstone names its document
//          until it is purged), and the messages of refusals that clients were answered.
// Owner    value types. Threads  any.
#pragma once

#include <cstdint>
#include <string>

namespace syncline {

struct EraseRequest {
  std::string scope;
  std::string entity, id;  // both empty: the whole scope
  std::string user;        // who asks, for the log; empty: none
  bool rewrite = true;     // false: the old bytes stay in the file until they are overwritten
};

struct Erased {
  std::int64_t documents = 0;     // that were live
  std::int64_t tombstones = 0;    // of documents deleted before, whose history went
  std::int64_t dead_letters = 0;
  bool rewritten = false;         // the file holds no old byte any more
  bool complete = true;           // false: the hook ended it early
};

}  // namespace syncline
