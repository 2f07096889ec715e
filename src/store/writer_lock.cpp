// <path>-writer := "pid " number "\n" "host " name "\n" "since " RFC 3339 "\n"
#include "store/writer_lock.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <mutex>

#include "base/error.h"

namespace syncline {

namespace {

// An flock belongs to the open file, which a forked child shares: it would hold the lock after its parent is gone. So the child
// closes its copies at once. The handler may only touch what is lock-free; a lock that finds no slot is merely inherited.
std::array<std::atomic<int>, 256> held_descriptors;

void close_in_child() noexcept {
  for (auto& slot : held_descriptors) {
    const int descriptor = slot.exchange(0);
    if (descriptor != 0) close(descriptor - 1);
  }
}

void remember(int descriptor) {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, close_in_child); });
  for (auto& slot : held_descriptors) {
    int free = 0;
    if (slot.compare_exchange_strong(free, descriptor + 1)) return;
  }
}

void forget(int descriptor) noexcept {
  for (auto& slot : held_descriptors) {
    int held = descriptor + 1;
    if (slot.compare_exchange_strong(held, 0)) return;
  }
}

std::string description() {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host[0] = '?';
  std::array<char, 32> since{};
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  std::strftime(since.data(), since.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return "pid " + std::to_string(getpid()) + "\nhost " + host.data() + "\nsince " + since.data() + "\n";
}

// "pid 12 on host a, since 2026-..." from what the holder wrote; it may be writing it right now.
std::string holder(int descriptor) {
  std::array<char, 512> content{};
  const ssize_t size = pread(descriptor, content.data(), content.size(), 0);
  std::string text(content.data(), size > 0 ? static_cast<std::size_t>(size) : 0);
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (std::size_t at = 0; (at = text.find('\n', at)) != std::string::npos;) text.replace(at, 1, ", ");
  return text.empty() ? "unknown" : text;
}

}  // namespace

WriterLock::WriterLock(const std::string& database_path) : path_(database_path + "-writer"), owner_(getpid()) {
  for (;;) {
    const int descriptor = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (descriptor < 0) {
      const int reason = errno;
      throw Error(reason == ENOSPC || reason == EDQUOT ? Code::disk_full : Code::storage,
                  "'" + database_path + "' cannot be opened for writing: '" + path_ + "': " + std::strerror(reason) +
                      "; use a folder that can be written, or read_only=True",
                  {{"path", database_path}});
    }
    if (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
      const int reason = errno;
      const std::string who = holder(descriptor);
      close(descriptor);
      if (reason != EWOULDBLOCK) {
        throw Error(Code::storage, "'" + path_ + "' cannot be locked: " + std::strerror(reason), {{"path", database_path}});
      }
      throw Error(Code::locked,
                  "'" + database_path + "' is open for writing already (" + who +
                      "); one process writes a file: use syncline.connect(url) to reach it, or read_only=True",
                  {{"path", database_path}, {"holder", who}});
    }
    // The holder before may have removed the file between our open and our lock; then this is the lock of a file nobody sees.
    struct stat ours {};
    struct stat visible {};
    if (fstat(descriptor, &ours) == 0 && stat(path_.c_str(), &visible) == 0 && ours.st_ino == visible.st_ino &&
        ours.st_dev == visible.st_dev) {
      descriptor_ = descriptor;
      break;
    }
    close(descriptor);
  }
  remember(descriptor_);
  // Only a message for a person: where it cannot be written, the lock holds all the same.
  const std::string text = description();
  if (ftruncate(descriptor_, 0) != 0 || pwrite(descriptor_, text.data(), text.size(), 0) < 0) return;
}

WriterLock::~WriterLock() {
  if (owner_ != getpid()) return;
  unlink(path_.c_str());
  forget(descriptor_);
  close(descriptor_);
}

}  // namespace syncline
