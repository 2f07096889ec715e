#include "store/wal_gather.h"

#include <sqlite3.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace syncline::sqlite {

namespace {

constexpr int kHeader = 24;               // of a frame
constexpr int kCapacity = (1 << 17) - 1;  // as much as SQLite's VFS for Unix writes at once (seekAndWriteFd in os_unix.c)
constexpr sqlite3_int64 kNowhere = -1;

// SQLite gives each file memory of the VFS's size, here of one of these and of the file proper behind it.
struct alignas(8) Log {
  sqlite3_file base;
  char* memory;
  int used;             // bytes that are gathered,
  sqlite3_int64 begin;  // and where they belong
  sqlite3_int64 next;   // with nothing gathered: behind what was written last
  bool page_follows;    // the last that was gathered is a header,
  bool ends;            // of a transaction's last frame

  sqlite3_file* real() noexcept { return reinterpret_cast<sqlite3_file*>(this + 1); }
};

Log& log_of(sqlite3_file* file) noexcept { return *reinterpret_cast<Log*>(file); }

int write_out(Log& log) noexcept {
  if (log.used == 0) return SQLITE_OK;
  const int size = std::exchange(log.used, 0);
  log.page_follows = false;
  const int rc = log.real()->pMethods->xWrite(log.real(), log.memory, size, log.begin);
  log.next = rc == SQLITE_OK ? log.begin + size : kNowhere;
  return rc;
}

void gather(Log& log, const void* data, int size) noexcept {
  std::memcpy(log.memory + log.used, data, static_cast<std::size_t>(size));
  log.used += size;
}

int write(sqlite3_file* file, const void* data, int size, sqlite3_int64 offset) noexcept {
  Log& log = log_of(file);
  const bool appends = offset == (log.used > 0 ? log.begin + log.used : log.next);
  if (appends && log.page_follows && size <= kCapacity - log.used) {
    gather(log, data, size);
    log.page_follows = false;
    const bool has_room = kHeader + size <= kCapacity - log.used;  // for another frame of such a page
    return log.ends || !has_room ? write_out(log) : SQLITE_OK;
  }
  // Only at the end: when SQLite makes checksums anew it writes headers alone, over those that are there.
  if (appends && !log.page_follows && size == kHeader) {
    if (log.used == 0) log.begin = offset;
    const auto* const bytes = static_cast<const unsigned char*>(data);
    log.ends = (bytes[4] | bytes[5] | bytes[6] | bytes[7]) != 0;  // the database's size in pages; 0 in all frames but the last
    log.page_follows = true;
    gather(log, data, size);
    return SQLITE_OK;
  }
  if (const int rc = write_out(log); rc != SQLITE_OK) return rc;
  const int rc = log.real()->pMethods->xWrite(log.real(), data, size, offset);
  log.next = rc == SQLITE_OK ? offset + size : kNowhere;
  return rc;
}

// A method of the file proper, once it has all,
template <auto Method, class... Arguments>
int after_all(sqlite3_file* file, Arguments... arguments) noexcept {
  Log& log = log_of(file);
  if (const int rc = write_out(log); rc != SQLITE_OK) return rc;
  return (log.real()->pMethods->*Method)(log.real(), arguments...);
}

// or, where it is not about what is in it, as it is.
template <auto Method, class... Arguments>
int as_it_is(sqlite3_file* file, Arguments... arguments) noexcept {
  sqlite3_file* const real = log_of(file).real();
  return (real->pMethods->*Method)(real, arguments...);
}

int close(sqlite3_file* file) noexcept {
  Log& log = log_of(file);
  std::free(log.memory);  // what is in it was never committed
  return log.real()->pMethods->xClose(log.real());
}

constexpr sqlite3_io_methods kMethods = [] {
  using Of = sqlite3_io_methods;
  Of made{};
  made.iVersion = 1;  // shared memory is the database file's, and nothing maps a WAL
  made.xClose = close;
  made.xWrite = write;
  made.xRead = after_all<&Of::xRead>;
  made.xTruncate = after_all<&Of::xTruncate>;
  made.xSync = after_all<&Of::xSync>;
  made.xFileSize = after_all<&Of::xFileSize>;
  made.xLock = after_all<&Of::xLock>;
  made.xUnlock = after_all<&Of::xUnlock>;
  made.xCheckReservedLock = after_all<&Of::xCheckReservedLock>;
  made.xFileControl = as_it_is<&Of::xFileControl>;  // asks for the number of the last error, which a write would change
  made.xSectorSize = as_it_is<&Of::xSectorSize>;
  made.xDeviceCharacteristics = as_it_is<&Of::xDeviceCharacteristics>;
  return made;
}();

sqlite3_vfs* system_of(sqlite3_vfs* vfs) noexcept { return static_cast<sqlite3_vfs*>(vfs->pAppData); }

template <auto Method, class... Arguments>
int by_system(sqlite3_vfs* vfs, Arguments... arguments) noexcept {
  sqlite3_vfs* const system = system_of(vfs);
  return (system->*Method)(system, arguments...);
}

int open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out_flags) noexcept {
  sqlite3_vfs* const system = system_of(vfs);
  if ((flags & SQLITE_OPEN_WAL) == 0) return system->xOpen(system, name, file, flags, out_flags);
  Log& log = log_of(file);
  log = Log{.base = {.pMethods = nullptr}, .memory = nullptr, .used = 0, .begin = 0, .next = kNowhere, .page_follows = false, .ends = false};
  log.memory = static_cast<char*>(std::malloc(kCapacity));
  if (log.memory == nullptr) return SQLITE_NOMEM;
  const int rc = system->xOpen(system, name, log.real(), flags, out_flags);
  if (rc == SQLITE_OK) {
    log.base.pMethods = &kMethods;
  } else {
    std::free(log.memory);
  }
  return rc;
}

}  // namespace

const char* gathering_vfs() {
  static constexpr const char* kName = "syncline-gathering";
  static sqlite3_vfs own = [] {
    sqlite3_vfs* const system = sqlite3_vfs_find(nullptr);
    if (system == nullptr) throw Error(Code::internal_error, "SQLite has no way to files on this system");
    sqlite3_vfs made{};
    made.iVersion = 2;
    made.szOsFile = static_cast<int>(sizeof(Log)) + system->szOsFile;
    made.mxPathname = system->mxPathname;
    made.zName = kName;
    made.pAppData = system;
    made.xOpen = open;
    made.xDelete = by_system<&sqlite3_vfs::xDelete>;
    made.xAccess = by_system<&sqlite3_vfs::xAccess>;
    made.xFullPathname = by_system<&sqlite3_vfs::xFullPathname>;
    made.xRandomness = by_system<&sqlite3_vfs::xRandomness>;
    made.xSleep = by_system<&sqlite3_vfs::xSleep>;
    made.xCurrentTime = by_system<&sqlite3_vfs::xCurrentTime>;
    made.xCurrentTimeInt64 = by_system<&sqlite3_vfs::xCurrentTimeInt64>;
    made.xGetLastError = by_system<&sqlite3_vfs::xGetLastError>;
    return made;
  }();
  static const int registered = sqlite3_vfs_register(&own, 0);
  if (registered != SQLITE_OK) throw Error(Code::internal_error, "SQLite does not take Syncline's way to files");
  return kName;
}

}  // namespace syncline::sqlite
