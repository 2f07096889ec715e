// The write-ahead log is moved into the file beside the writer: it stays bounded, and nobody waits for it who need not.
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stdexcept>
#include <thread>

#include "child.h"
#include "store/sqlite.h"
#include "store_fixture.h"
#include "write_hook.h"

namespace syncline {
namespace {

using namespace testing_store;  // NOLINT(google-build-using-namespace): the fixture is for these files alone
using testing::in_child;
using testing::killed_while_committing;

constexpr std::int64_t kFrameBytes = 4096 + 24;
constexpr int kPages = 1000;
constexpr std::int64_t kBound = (2 * kPages + 200) * kFrameBytes;  // and what some commits add

// What SQLite's own threads may write, while one of these stands: another thread than the one that made it is held up, or its writes
// fail.
class Gate {
 public:
  Gate() { standing() = this; }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  ~Gate() {
    open();
    standing() = nullptr;
  }

  void shut() {
    const std::lock_guard lock(mutex_);
    shut_ = true;
  }
  void open() {
    const std::lock_guard lock(mutex_);
    shut_ = false;
    changed_.notify_all();
  }
  void fail(bool failing) { failing_ = failing; }
  void wait_until_held() {  // until somebody waits at it
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, std::chrono::seconds(60), [this] { return held_; })) throw std::runtime_error("no thread began to write");
  }
  [[nodiscard]] int failed() const { return failed_; }

 private:
  static std::atomic<Gate*>& standing() {
    static std::atomic<Gate*> gate;
    return gate;
  }
  static ssize_t write_at(int descriptor, const void* data, std::size_t size, off_t at) {
    Gate* gate = standing();
    if (gate != nullptr && std::this_thread::get_id() != gate->owner_) {
      std::unique_lock lock(gate->mutex_);
      gate->held_ = gate->shut_;
      gate->changed_.notify_all();
      gate->changed_.wait(lock, [&] { return !gate->shut_; });
      gate->held_ = false;
      if (gate->failing_) {
        ++gate->failed_;
        errno = EIO;
        return -1;
      }
    }
    return pwrite(descriptor, data, size, at);
  }

  const std::thread::id owner_ = std::this_thread::get_id();
  std::mutex mutex_;
  std::condition_variable changed_;
  bool shut_ = false;
  bool held_ = false;
  std::atomic<bool> failing_ = false;
  std::atomic<int> failed_ = 0;
  const testing::WriteHook hook_{&Gate::write_at};
};

std::int64_t faults(const std::string& path) {
  return sqlite::Connection(path, sqlite::Mode::read).number("SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'");
}

// Writes some 26 pages a commit.
class Busy {
 public:
  explicit Busy(std::string path, Durability durability = Durability::normal)
      : path_(std::move(path)), store_(open_sqlite(path_, {.durability = durability, .checkpoint_pages = kPages})) {}

  void commit() {
    author_.put("s", "e", std::to_string(author_.head()), body_);
    author_.commit(*store_);
  }
  // As many commits as it takes to write so many pages.
  void write(std::int64_t pages) {
    for (std::int64_t i = 0; i < pages / 25; ++i) {
      commit();
      highest_ = std::max(highest_, wal());
    }
  }
  [[nodiscard]] std::int64_t wal() { return store_->info().wal_bytes; }
  [[nodiscard]] std::int64_t highest_wal() const { return highest_; }
  std::unique_ptr<Store>& store() { return store_; }
  Author& author() { return author_; }

  // Closes it, and looks whether what was written is there and nothing is left beside it.
  void expect_whole() {
    store_.reset();
    EXPECT_FALSE(std::filesystem::exists(path_ + "-wal"));
    const auto again = open_sqlite(path_);
    EXPECT_EQ(again->read()->head(), author_.head());
    EXPECT_EQ(static_cast<Cursor>(log(*again->read()).size()), author_.head());
    EXPECT_EQ(faults(path_), 0);
  }

 private:
  const std::string body_ = std::string(100'000, 'x');
  std::string path_;
  std::unique_ptr<Store> store_;
  Author author_;
  std::int64_t highest_ = 0;
};

// Until the thread has begun to write what it moves, and is held up there.
void hold_a_sweep(Busy& busy, Gate& gate) {
  gate.shut();
  busy.write(kPages + kPages / 10);
  gate.wait_until_held();
}

class GatedCheckpointer : public ::testing::Test {
 protected:
  Folder folder_;
  Gate gate_;
  Busy busy_{folder_ / "a.db"};
};

TEST(Checkpointer, TheWalStaysBoundedUnderAWriterThatNeverPauses) {
  for (const Durability durability : {Durability::normal, Durability::full}) {
    const Folder folder;
    Busy busy(folder / "a.db", durability);
    busy.write(6 * kPages);
    EXPECT_LE(busy.highest_wal(), kBound);
    EXPECT_GE(busy.highest_wal(), kPages * kFrameBytes);
    busy.expect_whole();
  }
}

TEST(Checkpointer, TheWalOfAMemoryStoreStaysBounded) {
  Busy busy(":memory:");
  busy.write(6 * kPages);
  EXPECT_LE(busy.highest_wal(), kBound);
}

TEST(Checkpointer, TheWalComesDownWhenALongReaderLetsGo) {
  const Folder folder;
  Busy busy(folder / "a.db");
  busy.write(kPages / 2);
  auto reader = busy.store()->read();
  const Cursor seen = reader->head();
  busy.write(4 * kPages);
  EXPECT_GT(busy.wal(), kBound);  // the pages it may still ask for
  EXPECT_EQ(reader->head(), seen);
  EXPECT_EQ(static_cast<Cursor>(log(*reader).size()), seen);
  reader.reset();
  busy.write(12 * kPages);  // a sweep begins after one of them, and may let the WAL double
  EXPECT_LE(busy.wal(), kBound);
  busy.expect_whole();
}

TEST_F(GatedCheckpointer, CommitsGoOnWhileTheThreadMovesPages) {
  hold_a_sweep(busy_, gate_);
  busy_.write(kPages / 2);
  EXPECT_EQ(busy_.store()->read()->head(), busy_.author().head());
  gate_.open();
  busy_.write(3 * kPages);
  EXPECT_LE(busy_.highest_wal(), kBound);
  busy_.expect_whole();
}

TEST_F(GatedCheckpointer, TheWriterMovesWhatTheThreadCannot) {
  gate_.fail(true);
  busy_.write(5 * kPages);
  EXPECT_GT(gate_.failed(), 0);
  EXPECT_LE(busy_.highest_wal(), kBound);
  busy_.expect_whole();
}

TEST_F(GatedCheckpointer, CloseWaitsForTheThreadAndLeavesNoWal) {
  hold_a_sweep(busy_, gate_);
  std::atomic<bool> closed = false;
  std::thread opener([&] {
    EXPECT_FALSE(closed);
    gate_.open();
  });
  busy_.store()->close();
  closed = true;
  opener.join();
  busy_.expect_whole();
}

TEST_F(GatedCheckpointer, ARewriteWaitsForTheThreadAndEmptiesTheWal) {
  hold_a_sweep(busy_, gate_);
  std::thread opener([&] { gate_.open(); });
  EXPECT_TRUE(busy_.store()->rewrite());
  opener.join();
  EXPECT_EQ(busy_.wal(), 0);
  busy_.write(2 * kPages);
  EXPECT_LE(busy_.highest_wal(), kBound);
  busy_.expect_whole();
}

TEST_F(GatedCheckpointer, AForkedChildWaitsForNoThread) {
  hold_a_sweep(busy_, gate_);
  EXPECT_EQ(in_child([&] {
              busy_.store().reset();
              return 0;
            }),
            0);
  gate_.open();
  busy_.write(2 * kPages);
  busy_.expect_whole();
}

TEST(Checkpointer, AProcessThatIsKilledWhileItMovesPagesLosesNothing) {
  const Folder folder;
  const std::string path = folder / "a.db";
  const Cursor acknowledged = killed_while_committing([&](const auto& told) {
    Gate gate;
    Busy busy(path);
    hold_a_sweep(busy, gate);
    gate.open();
    for (;;) {
      told(busy.author().head());
      busy.commit();
    }
  });
  const auto store = open_sqlite(path);
  const auto tx = store->read();
  EXPECT_GE(tx->head(), acknowledged);
  EXPECT_EQ(static_cast<Cursor>(log(*tx).size()), tx->head());
  EXPECT_EQ(faults(path), 0);
}

}  // namespace
}  // namespace syncline
