#include "store/wal_gather.h"

#include <sqlite3.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace syncline::sqlite {

namespace {

constexpr int kHeader = 24;            // of a frame
constexpr int kCapacity = (1 << 17) - 1;  // as much as SQLite's VFS for Unix writes at once (seekAndWriteFd in os_unix.c)
constexpr sqlite3_int64 kNowhere = -1;

// SQLite gives each file memory of the VFS's size, here of one of these and of the file proper behind it.
struct alignas(8) Log {
  sqlite3_file base;
  char* memory;
  int used;              // bytes that are gathered,
  sqlite3_int64 begin;   // and where they belong
  sqlite3_int64 next;    // with nothing gathered: behind what was written last
  bool page_follows;     // the last that was gathered is a header,
  bool ends;             // of a transaction's last frame

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

// What is done to the file proper once it has all.
template <class Do>
int done(sqlite3_file* file, Do act) noexcept {
  Log& log = log_of(file);
  if (const int rc = write_out(log); rc != SQLITE_OK) return rc;
  return act(log.real()->pMethods, log.real());
}

int close(sqlite3_file* file) noexcept {
  Log& log = log_of(file);
  std::free(log.memory);  // what is in it was never committed
  return log.real()->pMethods->xClose(log.real());
}

const sqlite3_io_methods* methods() {
  using Methods = const sqlite3_io_methods*;
  static const sqlite3_io_methods all = [] {
    sqlite3_io_methods made{};
    made.iVersion = 1;  // shared memory is the database file's, and nothing maps a WAL
    made.xClose = close;
    made.xWrite = write;
    made.xRead = [](sqlite3_file* file, void* into, int size, sqlite3_int64 offset) {
      return done(file, [=](Methods of, sqlite3_file* real) { return of->xRead(real, into, size, offset); });
    };
    made.xTruncate = [](sqlite3_file* file, sqlite3_int64 size) {
      return done(file, [=](Methods of, sqlite3_file* real) { return of->xTruncate(real, size); });
    };
    made.xSync = [](sqlite3_file* file, int flags) {
      return done(file, [=](Methods of, sqlite3_file* real) { return of->xSync(real, flags); });
    };
    made.xFileSize = [](sqlite3_file* file, sqlite3_int64* size) {
      return done(file, [=](Methods of, sqlite3_file* real) { return of->xFileSize(real, size); });
    };
    made.xLock = [](sqlite3_file* file, int level) {
      return done(file, [=](Methods of, sqlite3_file* real) { return of->xLock(real, level); });
    };
    made.xUnlock = [](sqlite3_file* file, int level) {
      return done(file, [=](Methods of, sqlite3_file* real) { return of->xUnlock(real, level); });
    };
    made.xCheckReservedLock = [](sqlite3_file* file, int* is) {
      return done(file, [=](Methods of, sqlite3_file* real) { return of->xCheckReservedLock(real, is); });
    };
    made.xFileControl = [](sqlite3_file* file, int operation, void* argument) {
      sqlite3_file* const real = log_of(file).real();  // the last error's number is asked for, which a write would change
      return real->pMethods->xFileControl(real, operation, argument);
    };
    made.xSectorSize = [](sqlite3_file* file) {
      sqlite3_file* const real = log_of(file).real();
      return real->pMethods->xSectorSize(real);
    };
    made.xDeviceCharacteristics = [](sqlite3_file* file) {
      sqlite3_file* const real = log_of(file).real();
      return real->pMethods->xDeviceCharacteristics(real);
    };
    return made;
  }();
  return &all;
}

sqlite3_vfs* system_of(sqlite3_vfs* vfs) noexcept { return static_cast<sqlite3_vfs*>(vfs->pAppData); }

int open(sqlite3_vfs* vfs, const char* name, sqlite3_file* file, int flags, int* out_flags) noexcept {
  sqlite3_vfs* const system = system_of(vfs);
  if ((flags & SQLITE_OPEN_WAL) == 0) return system->xOpen(system, name, file, flags, out_flags);
  Log& log = log_of(file);
  log = Log{.base = {.pMethods = nullptr}, .memory = nullptr, .used = 0, .begin = 0, .next = kNowhere, .page_follows = false, .ends = false};
  log.memory = static_cast<char*>(std::malloc(kCapacity));
  if (log.memory == nullptr) return SQLITE_NOMEM;
  const int rc = system->xOpen(system, name, log.real(), flags, out_flags);
  if (rc == SQLITE_OK) {
    log.base.pMethods = methods();
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
    made.xDelete = [](sqlite3_vfs* vfs, const char* name, int sync) { return system_of(vfs)->xDelete(system_of(vfs), name, sync); };
    made.xAccess = [](sqlite3_vfs* vfs, const char* name, int flags, int* out) {
      return system_of(vfs)->xAccess(system_of(vfs), name, flags, out);
    };
    made.xFullPathname = [](sqlite3_vfs* vfs, const char* name, int size, char* out) {
      return system_of(vfs)->xFullPathname(system_of(vfs), name, size, out);
    };
    made.xRandomness = [](sqlite3_vfs* vfs, int size, char* out) { return system_of(vfs)->xRandomness(system_of(vfs), size, out); };
    made.xSleep = [](sqlite3_vfs* vfs, int microseconds) { return system_of(vfs)->xSleep(system_of(vfs), microseconds); };
    made.xCurrentTime = [](sqlite3_vfs* vfs, double* out) { return system_of(vfs)->xCurrentTime(system_of(vfs), out); };
    made.xCurrentTimeInt64 = [](sqlite3_vfs* vfs, sqlite3_int64* out) { return system_of(vfs)->xCurrentTimeInt64(system_of(vfs), out); };
    made.xGetLastError = [](sqlite3_vfs* vfs, int size, char* out) { return system_of(vfs)->xGetLastError(system_of(vfs), size, out); };
    return made;
  }();
  static const int registered = sqlite3_vfs_register(&own, 0);
  if (registered != SQLITE_OK) throw Error(Code::internal_error, "SQLite does not take Syncline's way to files");
  return kName;
}

}  // namespace syncline::sqlite
