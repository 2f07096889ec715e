#include "base/clock.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <set>

namespace syncline {
namespace {

using Bits = std::array<std::uint64_t, 100>;

Bits draw(Entropy& entropy) {
  Bits bits{};
  std::ranges::generate(bits, [&] { return entropy.next(); });
  return bits;
}

TEST(SystemEntropy, NeverRepeatsItself) {
  const std::shared_ptr<Entropy> one = system_entropy();
  const std::shared_ptr<Entropy> other = system_entropy();
  std::set<std::uint64_t> seen;
  for (Entropy* entropy : {one.get(), other.get(), one.get()}) {
    for (const std::uint64_t bits : draw(*entropy)) EXPECT_TRUE(seen.insert(bits).second);
  }
}

TEST(SystemEntropy, TwoProcessesForkedFromOneNeverDrawTheSameBits) {
  const std::shared_ptr<Entropy> entropy = system_entropy();
  const std::uint64_t before = entropy->next();  // so that bits lie in memory, to be forked with it
  std::array<int, 2> ends{};
  ASSERT_EQ(pipe(ends.data()), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const Bits bits = draw(*entropy);
    _exit(write(ends[1], bits.data(), sizeof bits) == sizeof bits ? 0 : 1);
  }
  Bits theirs{};
  EXPECT_EQ(read(ends[0], theirs.data(), sizeof theirs), static_cast<ssize_t>(sizeof theirs));
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
  close(ends[0]);
  close(ends[1]);
  const Bits ours = draw(*entropy);
  EXPECT_EQ(std::ranges::find_first_of(ours, theirs), ours.end());
  EXPECT_EQ(std::ranges::find(theirs, before), theirs.end());
}

}  // namespace
}  // namespace syncline
