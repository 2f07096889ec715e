// The right of one process to write a database file: an flock on `<path>-writer`, whose content says who has it.
//
// Owner    the store holds one for as long as it is open for writing. Threads  any, one at a time.
// The lock dies with its process, so content that a crash left behind does no harm. A forked child does not inherit it.
#pragma once

#include <sys/types.h>

#include <string>

namespace syncline {

class WriterLock {
 public:
  // Throws Error(locked) naming the process that has it, Error(storage) where the file cannot be made.
  explicit WriterLock(const std::string& database_path);
  WriterLock(const WriterLock&) = delete;
  WriterLock& operator=(const WriterLock&) = delete;
  ~WriterLock();  // removes the file and lets go

 private:
  std::string path_;
  int descriptor_ = -1;
  pid_t owner_ = -1;
};

}  // namespace syncline
