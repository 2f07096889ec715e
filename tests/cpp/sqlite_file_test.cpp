// The SQLite store against what happens to a file: other processes, kill -9, other programs' files, full disks, read-only folders.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "child.h"
#include "store/sqlite.h"
#include "store/writer_lock.h"
#include "store_fixture.h"

namespace syncline {
namespace {

using namespace testing_store;  // NOLINT(google-build-using-namespace): the fixture is for these files alone
using testing::in_child;
using testing::killed_while_committing;

template <class Call>
std::string refusal(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return std::string(code_name(error.code())) + ": " + error.what();
  }
  return "nothing was thrown";
}

void write_file(const std::string& path, const std::string& content) { std::ofstream(path, std::ios::binary) << content; }

void execute(const std::string& path, const std::string& sql) { sqlite::Connection(path, sqlite::Mode::write).execute(sql); }

#define EXPECT_REFUSED(call, code, words)                                              \
  do {                                                                                 \
    const std::string said = refusal([&] { call; });                                   \
    EXPECT_EQ(said.substr(0, said.find(':')), code) << said;                           \
    EXPECT_NE(said.find(words), std::string::npos) << said;                            \
  } while (false)

TEST(SqliteFile, RefusesAPathThatCannotHoldADatabase) {
  const Folder folder;
  EXPECT_REFUSED(open_sqlite(""), "storage", "path");
  EXPECT_REFUSED(open_sqlite(std::string("a\0b", 3)), "storage", "zero byte");
  EXPECT_REFUSED(open_sqlite(folder.path()), "storage", "is a folder");
  EXPECT_REFUSED(open_sqlite(folder / "none/a.db"), "storage", "does not exist");
  EXPECT_REFUSED(open_sqlite(folder / "a.db", {.read_only = true}), "storage", "does not exist");
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(SqliteFile, TakesAPathAsItIs) {
  const Folder folder;
  for (const char* name : {"a?b#c%20.db", "file:x.db", "with space and é.db"}) {
    const std::string path = folder / name;
    Author().put("s", "e", "1", "x").commit(*open_sqlite(path));
    EXPECT_TRUE(std::filesystem::exists(path));
    EXPECT_EQ(open_sqlite(path, {.read_only = true})->read()->head(), 1);
  }
}

TEST(SqliteFile, LeavesOtherProgramsFilesAsTheyAre) {
  const Folder folder;
  write_file(folder / "text.db", "this is no database, and it is long enough to have a header of its own: " + std::string(200, 'x'));
  execute(folder / "other.db", "CREATE TABLE theirs (x)");
  execute(folder / "marked.db", "PRAGMA application_id = 77");
  for (const bool read_only : {false, true}) {
    for (const char* name : {"text.db", "other.db", "marked.db"}) {
      const std::string path = folder / name;
      std::ifstream before_stream(path, std::ios::binary);
      const std::string before{std::istreambuf_iterator<char>(before_stream), {}};
      EXPECT_REFUSED(open_sqlite(path, {.read_only = read_only}), "foreign_file", "is not a Syncline database");
      std::ifstream after_stream(path, std::ios::binary);
      const std::string after{std::istreambuf_iterator<char>(after_stream), {}};
      EXPECT_EQ(before, after);
      EXPECT_FALSE(std::filesystem::exists(path + "-writer"));
    }
  }
  write_file(folder / "empty.db", "");
  EXPECT_REFUSED(open_sqlite(folder / "empty.db", {.read_only = true}), "foreign_file", "empty");
  Author().put("s", "e", "1", "x").commit(*open_sqlite(folder / "empty.db"));
}

TEST(SqliteFile, RefusesANewerSchema) {
  const Folder folder;
  open_sqlite(folder / "a.db")->close();
  execute(folder / "a.db", "PRAGMA user_version = 99");
  EXPECT_REFUSED(open_sqlite(folder / "a.db"), "newer_schema", "schema 99");
  EXPECT_REFUSED(open_sqlite(folder / "a.db", {.read_only = true}), "newer_schema", "schema 99");
}

TEST(SqliteFile, NamesDamage) {
  const Folder folder;
  {
    const auto store = open_sqlite(folder / "a.db");
    Author author;
    for (int i = 0; i < 2000; ++i) author.put("s", "e", std::to_string(i), std::string(200, 'x'));
    author.commit(*store);
  }
  {
    std::fstream file(folder / "a.db", std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(4096 * 12);
    const std::string noise(4096 * 150, '\xa5');
    file.write(noise.data(), static_cast<std::streamsize>(noise.size()));
  }
  const auto store = open_sqlite(folder / "a.db", {.read_only = true});
  const auto tx = store->read();
  EXPECT_REFUSED((changed(*tx, "s"), tx->counts(), log(*tx)), "corrupt", "damaged");
}

TEST(SqliteFile, ASecondWriterIsToldWhoHasTheFile) {
  const Folder folder;
  const std::string path = folder / "a.db";
  auto store = open_sqlite(path);
  const std::string pid = "pid " + std::to_string(getpid());
  EXPECT_REFUSED(open_sqlite(path), "locked", pid);
  EXPECT_REFUSED(open_sqlite(path), "locked", "syncline.connect(url)");
  EXPECT_REFUSED(open_sqlite(path), "locked", "read_only=True");
  std::filesystem::create_symlink(path, folder / "link.db");
  EXPECT_REFUSED(open_sqlite(folder / "link.db"), "locked", pid);
  EXPECT_EQ(in_child([&] { return refusal([&] { open_sqlite(path); }).find(pid) != std::string::npos ? 0 : 1; }), 0);
  store.reset();
  EXPECT_FALSE(std::filesystem::exists(path + "-writer"));
  write_file(path + "-writer", "pid 1\nhost long gone\n");  // what a crash leaves
  EXPECT_NO_THROW(open_sqlite(path));
}

TEST(SqliteFile, TheLockDiesWithItsProcessEvenIfAChildLives) {
  const Folder folder;
  const std::string path = folder / "a.db";
  int ready[2];
  int over[2];
  ASSERT_EQ(pipe(ready), 0);
  ASSERT_EQ(pipe(over), 0);
  const pid_t parent = fork();
  if (parent == 0) {
    const WriterLock lock(path);
    if (fork() == 0) {  // outlives its parent, until the test ends
      close(over[1]);
      char byte = 0;
      if (write(ready[1], "x", 1) != 1 || read(over[0], &byte, 1) < 0) _exit(1);
      _exit(0);
    }
    pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_REFUSED(WriterLock{path}, "locked", "pid " + std::to_string(parent));
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  EXPECT_NO_THROW(WriterLock{path});
  close(over[1]);
}

TEST(SqliteFile, AForkedChildIsRefusedAndDoesNoHarm) {
  const Folder folder;
  const auto store = open_sqlite(folder / "a.db");
  Author author;
  author.put("s", "e", "1", "x").commit(*store);
  EXPECT_EQ(in_child([&] {
              const bool read = refusal([&] { store->read(); }).find("fork") != std::string::npos;
              const bool write = refusal([&] { store->write(); }).find("fork") != std::string::npos;
              store->close();
              return read && write ? 0 : 1;
            }),
            0);
  EXPECT_TRUE(std::filesystem::exists(folder / "a.db-wal"));
  author.put("s", "e", "2", "x").commit(*store);
  EXPECT_EQ(changed(*store->read(), "s").size(), 2u);
}

TEST(SqliteFile, ReadsBesideALiveWriterInAnotherProcess) {
  const Folder folder;
  const std::string path = folder / "a.db";
  const auto store = open_sqlite(path);
  Author author;
  author.put("s", "e", "1", "x").commit(*store);
  int ask[2];
  int answer[2];
  ASSERT_EQ(pipe(ask), 0);
  ASSERT_EQ(pipe(answer), 0);
  const pid_t child = fork();
  if (child == 0) {
    try {
      const auto reader = open_sqlite(path, {.read_only = true});
      char byte = 0;
      while (read(ask[0], &byte, 1) == 1) {
        byte = static_cast<char>(reader->read()->head());
        if (write(answer[1], &byte, 1) != 1) _exit(1);
        if (byte == 2) break;
      }
      if (refusal([&] { reader->write(); }).find("read_only") == std::string::npos) _exit(2);
    } catch (const std::exception&) {
      _exit(3);
    }
    _exit(0);
  }
  const auto head_there = [&] {
    char byte = 0;
    EXPECT_EQ(write(ask[1], "?", 1), 1);
    EXPECT_EQ(read(answer[0], &byte, 1), 1);
    return static_cast<int>(byte);
  };
  EXPECT_EQ(head_there(), 1);
  author.put("s", "e", "2", "x").commit(*store);
  EXPECT_EQ(head_there(), 2);
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

// As a user who may write nothing here; root itself may write anywhere.
int as_nobody(const std::function<int()>& body) {
  return in_child([&] {
    if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) return 98;
    return body();
  });
}

class ReadOnlyFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    chmod(folder_.path().c_str(), 0755);
    const auto store = open_sqlite(path_);
    author_.put("s", "e", "1", "x").commit(*store);
  }
  void TearDown() override { chmod(folder_.path().c_str(), 0755); }
  void close_folder() { chmod(folder_.path().c_str(), 0555); }

  Folder folder_;
  std::string path_ = folder_ / "a.db";
  Author author_;
};

TEST_F(ReadOnlyFolder, AStoppedFileIsReadInAFolderThatCannotBeWritten) {
  close_folder();
  EXPECT_EQ(as_nobody([&] {
              const auto store = open_sqlite(path_, {.read_only = true});
              return store->read()->head() == 1 && changed(*store->read(), "s").size() == 1 ? 0 : 1;
            }),
            0);
  EXPECT_FALSE(std::filesystem::exists(path_ + "-shm"));
}

TEST_F(ReadOnlyFolder, AWriterThatComesLaterIsSeen) {
  if (geteuid() != 0) GTEST_SKIP() << "needs a writer with more rights than the reader";
  close_folder();
  int go[2];
  int ready[2];
  ASSERT_EQ(pipe(go), 0);
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    if (setgid(65534) != 0 || setuid(65534) != 0) _exit(98);
    try {
      const auto store = open_sqlite(path_, {.read_only = true});
      char byte = 0;
      if (store->read()->head() != 1) _exit(1);
      if (write(ready[1], "x", 1) != 1 || read(go[0], &byte, 1) != 1) _exit(2);
      _exit(store->read()->head() == 2 ? 0 : 3);
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
      _exit(4);
    }
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  {
    const auto store = open_sqlite(path_);
    author_.put("s", "e", "2", "x").commit(*store);
    ASSERT_EQ(write(go[1], "x", 1), 1);
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(WEXITSTATUS(status), 0);
  }
}

TEST_F(ReadOnlyFolder, AFileThatWasKilledIsRefusedThereWithTheReason) {
  EXPECT_EQ(in_child([&] {
              const auto store = open_sqlite(path_);
              author_.put("s", "e", "2", "x").commit(*store);
              raise(SIGKILL);
              return 0;
            }),
            128 + SIGKILL);
  EXPECT_GT(std::filesystem::file_size(path_ + "-wal"), 0u);
  std::filesystem::remove(path_ + "-shm");
  close_folder();
  EXPECT_EQ(as_nobody([&] {
              const std::string said = refusal([&] { open_sqlite(path_, {.read_only = true}); });
              return said.find("was not closed cleanly") != std::string::npos ? 0 : 1;
            }),
            0);
  chmod(folder_.path().c_str(), 0755);
  EXPECT_EQ(open_sqlite(path_, {.read_only = true})->read()->head(), 2);
}

TEST_F(ReadOnlyFolder, WritingIsRefusedWithTheReason) {
  close_folder();
  EXPECT_EQ(as_nobody([&] {
              const std::string said = refusal([&] { open_sqlite(path_); });
              return said.find("storage") == 0 && said.find("read_only=True") != std::string::npos ? 0 : 1;
            }),
            0);
}

TEST(SqliteFile, AFileKilledWhileWritingReopensAtAWholeCommit) {
  const Folder folder;
  const std::string path = folder / "a.db";
  Cursor last = 0;
  for (int round = 0; round < 5; ++round) {
    const Cursor acknowledged = killed_while_committing([&](const auto& told) {
      const auto store = open_sqlite(path);
      Author author(last);
      for (int i = 0;; ++i) {
        const std::string id = std::to_string(round) + "-" + std::to_string(i);
        for (const char* entity : {"a", "b", "c"}) author.put("s", entity, id, std::string(300, 'x'));
        author.commit(*store);
        told(author.head());
      }
    });

    const auto store = open_sqlite(path);
    const auto tx = store->read();
    last = tx->head();
    EXPECT_GE(last, acknowledged);
    EXPECT_EQ(last % 3, 0);
    EXPECT_EQ(changed(*tx, "s").size(), static_cast<std::size_t>(last));
    EXPECT_EQ(log(*tx).size(), static_cast<std::size_t>(last));
    EXPECT_EQ(scan(*tx, "s", "a").size(), static_cast<std::size_t>(last / 3));
  }
}

// Fills what `limit` leaves: every acknowledged commit must be there, the one that failed must not, and the store goes on.
int fill(const std::string& path, const std::function<void()>& make_room) {
  const auto store = open_sqlite(path);
  Author author;
  const std::string body(4000, 'x');
  for (int i = 0;; ++i) {
    if (i == 5000) return 1;  // nothing was ever full
    Author next = author;
    next.put("s", "e", std::to_string(i), body);
    try {
      next.commit(*store);
    } catch (const Error& error) {
      if (error.code() != Code::disk_full) {
        std::fprintf(stderr, "child: %s\n", error.what());
        return 2;
      }
      break;
    }
    author = next;
  }
  if (store->read()->head() != author.head()) return 3;
  if (static_cast<Cursor>(changed(*store->read(), "s").size()) != author.head()) return 4;
  make_room();
  author.put("s", "e", "after", "x").commit(*store);
  return store->read()->head() == author.head() ? 0 : 5;
}

TEST(SqliteFile, AFileAtItsSizeLimitFailsWithDiskFullAndLosesNothing) {
  const Folder folder;
  EXPECT_EQ(in_child([&] {
              signal(SIGXFSZ, SIG_IGN);
              rlimit limit{};
              getrlimit(RLIMIT_FSIZE, &limit);
              const rlimit before = limit;
              limit.rlim_cur = 4u << 20;
              setrlimit(RLIMIT_FSIZE, &limit);
              return fill(folder / "a.db", [&] { setrlimit(RLIMIT_FSIZE, &before); });
            }),
            0);
}

TEST(SqliteFile, AFullDiskFailsWithDiskFullAndLosesNothing) {
  const Folder folder;
  if (mount("tmpfs", folder.path().c_str(), "tmpfs", 0, "size=4m") != 0) GTEST_SKIP() << "a small disk cannot be mounted here";
  EXPECT_EQ(in_child([&] {
              return fill(folder / "a.db", [&] { mount("tmpfs", folder.path().c_str(), "tmpfs", MS_REMOUNT, "size=32m"); });
            }),
            0);
  umount(folder.path().c_str());
}

}  // namespace
}  // namespace syncline
