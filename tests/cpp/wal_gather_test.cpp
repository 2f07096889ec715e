// Frames that are gathered and written at once are, for whoever reads the file and for whoever finds it after a crash, as SQLite's own.
#include "store/wal_gather.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/ids.h"
#include "folder.h"
#include "store/sqlite.h"
#include "write_hook.h"

namespace syncline::sqlite {
namespace {

using testing::Folder;
using Rows = std::map<std::int64_t, std::string>;

// Counts what SQLite writes while it stands; after `fail_after(n)`, n more are written and those behind them fail.
class Writes {
 public:
  Writes() { standing() = this; }
  Writes(const Writes&) = delete;
  Writes& operator=(const Writes&) = delete;
  [[nodiscard]] int count() const { return count_; }
  void fail_after(int more) { left_ = more; }
  void fail_no_more() { left_ = -1; }

 private:
  static Writes*& standing() {
    static Writes* writes = nullptr;
    return writes;
  }
  static ssize_t write_at(int descriptor, const void* data, std::size_t size, off_t at) {
    Writes& writes = *standing();
    if (writes.left_ == 0) {
      errno = ENOSPC;
      return -1;
    }
    if (writes.left_ > 0) --writes.left_;
    ++writes.count_;
    return pwrite(descriptor, data, size, at);
  }

  int count_ = 0;
  int left_ = -1;
  const testing::WriteHook hook_{&Writes::write_at};
};

Rows rows_of(Connection& connection) {
  Rows rows;
  Statement select(connection.handle(), "SELECT id, body FROM t", connection.path(), false);
  while (select.step()) rows.emplace(select.integer(0), std::string(select.blob(1)));
  return rows;
}

// What somebody finds who has SQLite alone.
Rows rows_at(const std::string& path) {
  Connection connection(path, Mode::read);
  EXPECT_EQ(connection.number("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'"), 0);
  return rows_of(connection);
}

class WalGather : public ::testing::TestWithParam<const char*> {
 protected:
  WalGather() {
    writer_.execute("PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0; PRAGMA synchronous = " + std::string(GetParam()) +
                    "; CREATE TABLE t (id INTEGER PRIMARY KEY, body BLOB)");
  }

  void put(std::int64_t id, std::string body) {
    Statement insert(writer_.handle(), "INSERT OR REPLACE INTO t VALUES (?1, ?2)", path_, false);
    insert.bind(1, id);
    insert.bind_blob(2, body);
    insert.run();
    running_[id] = std::move(body);
  }
  void commit() {
    writer_.execute("COMMIT");
    committed_ = running_;
  }
  void roll_back() {
    if (writer_.in_transaction()) writer_.execute("ROLLBACK");
    running_ = committed_;
  }
  // For another connection, and for whoever finds the two files as they are now: after a crash the WAL's index is made anew from its
  // frames.
  void expect_committed() {
    EXPECT_EQ(rows_of(reader_), committed_);
    const Folder crashed;
    for (const char* end : {"", "-wal"}) std::filesystem::copy_file(path_ + end, crashed / "a.db" + end);
    EXPECT_EQ(rows_at(crashed / "a.db"), committed_);
  }

  const Folder folder_;
  const std::string path_ = folder_ / "a.db";
  Connection writer_{path_, Mode::write};
  Connection reader_{path_, Mode::read};
  Rows committed_, running_;
};

INSTANTIATE_TEST_SUITE_P(Durability, WalGather, ::testing::Values("FULL", "NORMAL"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST_P(WalGather, ATransactionIsWrittenInFewCalls) {
  Writes writes;
  for (int round = 0; round < 3; ++round) {
    const int before = writes.count();
    writer_.execute("BEGIN IMMEDIATE");
    for (int id = 0; id < 100; ++id) put(100 * round + id, std::string(3000, 'x'));
    commit();
    EXPECT_GE(writes.count() - before, 3);  // of some 100 frames, 31 at once
    // The first one does not know yet where the WAL ends.
    EXPECT_LE(writes.count() - before, 8);
  }
  expect_committed();
}

TEST_P(WalGather, EachCommitIsSeenAndSurvivesACrash) {
  for (const int pages : {1, 2, 29, 30, 31, 32, 61, 62, 63, 200, 1}) {
    writer_.execute("BEGIN IMMEDIATE");
    put(pages, std::string(static_cast<std::size_t>(pages) * 4096, static_cast<char>('a' + pages % 26)));
    commit();
    expect_committed();
  }
}

TEST_P(WalGather, WhatDoesNotFitIntoTheCacheIsReadBackAndCommittedOrGoes) {
  writer_.execute("PRAGMA cache_size = 8; PRAGMA cache_spill = 1");
  Random random(7);
  for (int round = 0; round < 60; ++round) {
    writer_.execute("BEGIN IMMEDIATE");
    // Pages that were written out are written again: over their frames, whose checksums are then made anew.
    for (std::uint64_t left = random.next() % 200; left > 0; --left) {
      put(static_cast<std::int64_t>(random.next() % 80), std::string(random.next() % 9000, static_cast<char>('a' + random.next() % 26)));
      if (left % 40 == 0) {
        ASSERT_EQ(rows_of(writer_), running_);
      }
    }
    ASSERT_EQ(rows_of(writer_), running_);
    if (random.next() % 3 == 0) {
      roll_back();
    } else {
      commit();
    }
    expect_committed();
    if (round % 20 == 19) {  // the WAL begins anew
      EXPECT_EQ(writer_.number("PRAGMA wal_checkpoint(RESTART)"), 0);
    }
  }
}

TEST_P(WalGather, AWriteThatFailsFailsItsTransactionAlone) {
  Writes writes;
  int failed = 0;
  for (int more = 0; more < 12; ++more) {
    put(more, std::string(5000, 'b'));
    committed_ = running_;
    writes.fail_after(more);
    bool whole = true;
    try {
      writer_.execute("BEGIN IMMEDIATE");
      for (int id = 0; id < 100; ++id) put(100 + id, std::string(3000, static_cast<char>('a' + more)));
      commit();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Code::disk_full) << error.what();
      whole = false;
    }
    writes.fail_no_more();
    if (!whole) {
      ++failed;
      roll_back();
    }
    expect_committed();
  }
  EXPECT_GE(failed, 3);
  EXPECT_LT(failed, 12);
}

TEST_P(WalGather, WhatWasNotCommittedGoesWithTheConnection) {
  put(1, "kept");
  committed_ = running_;
  {
    Connection other(path_, Mode::write);
    other.execute("PRAGMA cache_size = 8; PRAGMA cache_spill = 1; BEGIN IMMEDIATE");
    other.execute("WITH RECURSIVE n(i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < 200) INSERT INTO t SELECT i, zeroblob(4000) FROM n");
  }
  expect_committed();
  put(2, "kept too");
  committed_ = running_;
  expect_committed();
}

// What SQLite may do to a WAL and what it never does, in any order, over what is gathered at the time: the file is the same as if each
// piece were written when it came.
TEST(WalGatherFile, IsWhatWasWrittenWhateverTheOrder) {
  const Folder folder;
  std::ofstream(folder / "a.db").flush();  // whose permissions its WAL gets
  const std::string path = folder / "a.db-wal";
  sqlite3_vfs* const vfs = sqlite3_vfs_find(gathering_vfs());
  const auto memory = std::make_unique<std::uint64_t[]>(static_cast<std::size_t>(vfs->szOsFile) / 8 + 1);
  auto* const file = reinterpret_cast<sqlite3_file*>(memory.get());
  int flags = SQLITE_OPEN_WAL | SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE;
  const std::string name = path + std::string(2, '\0');  // where parameters would stand
  ASSERT_EQ(vfs->xOpen(vfs, name.c_str(), file, flags, &flags), SQLITE_OK);

  Random random(11);
  std::string model;
  const auto put = [&](std::size_t offset, const std::string& piece) {
    if (model.size() < offset + piece.size()) model.resize(offset + piece.size());
    model.replace(offset, piece.size(), piece);
    ASSERT_EQ(file->pMethods->xWrite(file, piece.data(), static_cast<int>(piece.size()), static_cast<sqlite3_int64>(offset)), SQLITE_OK);
  };
  const auto piece = [&](std::size_t size) {
    std::string made(size, '\0');
    for (char& byte : made) byte = static_cast<char>(random.next());
    return made;
  };
  put(0, piece(32));
  for (int i = 0; i < 4000; ++i) {
    const std::size_t somewhere = random.next() % (model.size() + 1);
    switch (random.next() % 24) {
      case 0: put(somewhere, piece(24)); break;
      case 1: put(somewhere, piece(512)); break;
      case 2: put(0, piece(32)); break;
      case 3: put(model.size(), piece(random.next() % 3 == 0 ? 24 : 512)); break;
      case 4: {
        sqlite3_int64 size = 0;
        ASSERT_EQ(file->pMethods->xFileSize(file, &size), SQLITE_OK);
        ASSERT_EQ(static_cast<std::size_t>(size), model.size());
        break;
      }
      case 5: {
        std::string read(std::min<std::size_t>(600, model.size() - somewhere), '\0');
        ASSERT_EQ(file->pMethods->xRead(file, read.data(), static_cast<int>(read.size()), static_cast<sqlite3_int64>(somewhere)), SQLITE_OK);
        ASSERT_EQ(read, model.substr(somewhere, read.size()));
        break;
      }
      case 6:
        if (random.next() % 8 != 0) break;
        model.resize(somewhere);
        ASSERT_EQ(file->pMethods->xTruncate(file, static_cast<sqlite3_int64>(somewhere)), SQLITE_OK);
        break;
      case 7: {
        ASSERT_EQ(file->pMethods->xSync(file, SQLITE_SYNC_NORMAL), SQLITE_OK);
        std::ifstream whole(path, std::ios::binary);
        ASSERT_EQ(std::string(std::istreambuf_iterator<char>(whole), {}), model);
        break;
      }
      default: {  // a frame, mostly not the last
        std::string header = piece(24);
        if (random.next() % 16 != 0) header.replace(4, 4, std::string(4, '\0'));
        put(model.size(), header);
        put(model.size(), piece(512));
        break;
      }
    }
  }
  EXPECT_EQ(file->pMethods->xClose(file), SQLITE_OK);
}

}  // namespace
}  // namespace syncline::sqlite
