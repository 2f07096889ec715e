// SQLite's calls of pwrite go to a function of the test's while one of these stands.
//
// Owner    the test that declares it; one at a time. Threads  made and destroyed while SQLite writes nothing; the function is called on
//          whichever thread writes.
#pragma once

#include <sqlite3.h>
#include <sys/types.h>

#include <cstddef>

namespace syncline::testing {

class WriteHook {
 public:
  using Write = ssize_t (*)(int descriptor, const void* data, std::size_t size, off_t at);

  explicit WriteHook(Write write) {
    for (const char* name : {"pwrite", "pwrite64"}) {
      if (vfs()->xGetSystemCall(vfs(), name) != nullptr) vfs()->xSetSystemCall(vfs(), name, reinterpret_cast<sqlite3_syscall_ptr>(write));
    }
  }
  WriteHook(const WriteHook&) = delete;
  WriteHook& operator=(const WriteHook&) = delete;
  ~WriteHook() { vfs()->xSetSystemCall(vfs(), nullptr, nullptr); }

 private:
  static sqlite3_vfs* vfs() { return sqlite3_vfs_find(nullptr); }
};

}  // namespace syncline::testing
