// Forked children: what happens to a file when another process has it, or dies with it.
//
// Owner    the test that calls. Threads  one, and no other at the time of the call but those that the body leaves alone.
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <exception>
#include <stdexcept>

#include "store/store.h"

namespace syncline::testing {

// Runs `body` in a child. Its return value is the exit status; 99 when it threw, 128 and the signal's number when one ended it.
template <class Body>
int in_child(Body body) {
  const pid_t child = fork();
  if (child == 0) {
    int status = 99;
    try {
      status = body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
    }
    _exit(status);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Runs `body` in a child, which calls what it is given with the cursor of each commit that was acknowledged, and never returns. Kills it
// after twenty of them, wherever it is then; the last that it told of.
template <class Body>
Cursor killed_while_committing(Body body) {
  const auto whole = static_cast<ssize_t>(sizeof(Cursor));
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) throw std::runtime_error("no pipe");
  const pid_t child = fork();
  if (child == 0) {
    close(ends[0]);
    try {
      body([&](Cursor acknowledged) {
        if (write(ends[1], &acknowledged, sizeof acknowledged) != whole) _exit(1);
      });
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
    }
    _exit(99);
  }
  close(ends[1]);
  Cursor acknowledged = 0;
  int told = 0;
  for (Cursor next = 0; read(ends[0], &next, sizeof next) == whole; acknowledged = next) {
    if (++told == 20) kill(child, SIGKILL);  // what it had told by then is still in the pipe
  }
  close(ends[0]);
  waitpid(child, nullptr, 0);
  if (told < 20) throw std::runtime_error("the child ended before it was killed");
  return acknowledged;
}

}  // namespace syncline::testing
