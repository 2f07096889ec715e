"""The engine's own threads: one that runs what event loops and HTTP push, all that waits in one commit, and
one for each asynchronous write."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import os
import queue
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from .errors import Closed, RateLimited, Timeout, UsageError

if TYPE_CHECKING:
    from . import _core

# A group takes at most this many pushes at once: enough for one fsync to serve them, few enough that the
# first need not wait.
_BATCH = 256

_Future = concurrent.futures.Future


class Push:
    """A push that waits for its turn, and then what came of it. One waits for it: `arrived` on an event loop,
    or `wait` on a thread.

    A future of `concurrent.futures`, chained to one of the loop's, has a condition variable, and wakes the
    loop by a write to its pipe. With 64 pushes awaited, one of them cost the loop's thread 35 us so, and 14
    since what ends together wakes its loop once.
    """

    __slots__ = (
        "_blocked",
        "_waiter",
        "context",
        "done",
        "forbidden",
        "outcome",
        "request",
        "require_client",
        "turn",
        "user",
        "withdrawn",
    )

    def __init__(
        self, request: _core.PushRequest, user: str | None, forbidden: tuple[str, ...], require_client: bool
    ) -> None:
        self.request = request
        self.user = user
        self.forbidden = forbidden
        self.require_client = require_client
        self.context = contextvars.copy_context()
        self.withdrawn = False
        self.done = False
        # Once it is done. Not in a future: a SystemExit in one would stop the event loop, whoever waits.
        self.outcome: _core.PushResult | BaseException | None = None
        # Who acquires it first decides: the one who withdraws the push, or the core when its turn has come.
        self.turn = threading.Lock()
        self._waiter: asyncio.Future[None] | None = None
        self._blocked: threading.Lock | None = None  # a thread's, which waits to acquire it

    def withdraw(self) -> bool:
        """Whether it waited still, and now never runs."""
        if not self.turn.acquire(blocking=False):
            return False
        self.withdrawn = True
        return True

    def wait(self) -> None:
        """Blocks this thread until it is done; a signal's exception ends that."""
        blocked = threading.Lock()
        blocked.acquire()
        self._blocked = blocked
        # `deliver` looks for the waiter after it said that the push is done, and this the other way round: so
        # one of them sees the other.
        if not self.done:
            blocked.acquire()

    async def arrived(self, timeout: float | None = None) -> None:
        """Waits until it is done; or withdrawn: when `timeout` is over, or the task is cancelled, before its
        turn."""
        if self.done:
            return
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        if self.done:  # as in `wait`
            return
        timer = None if timeout is None else loop.call_later(timeout, self._expire, waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            self.withdraw()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _expire(self, waiter: asyncio.Future[None]) -> None:
        # Once its turn has come it cannot be withdrawn any more, and ends soon.
        if self.withdraw():
            _wake((waiter,))

    def result(self) -> _core.PushResult:
        """Of one that is done: what came of it, or raises it."""
        outcome = self.outcome
        if isinstance(outcome, BaseException):
            raise outcome
        assert outcome is not None
        return outcome


def deliver(pushes: Sequence[Push], outcomes: Sequence[_core.PushResult | BaseException]) -> None:
    """Says what came of pushes: each event loop is woken once for all that are waited for on it."""
    loops: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for push, outcome in zip(pushes, outcomes, strict=True):
        push.outcome = outcome
        push.done = True
        if push._waiter is not None:
            loops.setdefault(push._waiter.get_loop(), []).append(push._waiter)
        if push._blocked is not None:
            push._blocked.release()
    for loop, waiters in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(_wake, waiters)


def _wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)


class Runner:
    """One thread that takes the pushes that wait, all at once, into one commit. Started by the first of them.

    The thread is a daemon: it would otherwise keep the interpreter from its exit, where the engine's
    finalizer ends it.
    """

    def __init__(self, native: _core.Engine, table: Mapping[str, Any], max_waiting: int) -> None:
        self.native = native
        self._table = cast("dict[str, Any]", table)
        self._max_waiting = max_waiting
        self._pushes: queue.SimpleQueue[Push | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ident: int | None = None
        self._stopped = False
        self._pid = os.getpid()
        self._writes: weakref.WeakSet[AsyncWrite] = weakref.WeakSet()
        # The task that holds an asynchronous write: a push of its own would wait for itself.
        self.holder: asyncio.Task[object] | None = None

    def submit(
        self, request: _core.PushRequest, user: str | None, forbidden: tuple[str, ...], require_client: bool
    ) -> Push:
        """Queues a push."""
        self._check_process()
        # Here, where only its own caller hears of it: later it would fail its whole batch.
        self.native.check_user(user)
        if threading.get_ident() == self._ident:
            raise UsageError("a mutator cannot push: write through its tx instead")
        if self._pushes.qsize() >= self._max_waiting:
            raise RateLimited(
                f"{self._max_waiting} pushes are waiting already; try again later",
                details={"limit": self._max_waiting},
            )
        push = Push(request, user, forbidden, require_client)
        # Under the lock, so that nothing is queued behind the end.
        with self._lock:
            self._check_open()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="syncline-push", daemon=True)
                thread.start()
                self._thread = thread
                self._ident = thread.ident
            self._pushes.put(push)
        return push

    def check_task(self) -> None:
        """Raises UsageError in the task that holds an asynchronous write."""
        if self.holder is not None and self.holder is _current_task():
            raise UsageError(
                "this task is inside a write_async: write through its tx instead of pushing or writing again"
            )

    def stop(self) -> None:
        """Ends the thread when what was queued is done; open asynchronous writes are rolled back."""
        with self._lock:
            self._stopped = True
            thread = self._thread
            self._pushes.put(None)
            writes = list(self._writes)
        for write in writes:
            write.abandon()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def add(self, write: AsyncWrite) -> None:
        self._check_process()
        with self._lock:
            self._check_open()
            self._writes.add(write)

    def _check_process(self) -> None:
        if os.getpid() != self._pid:
            raise UsageError("this engine was opened before fork(); open one in each process")

    def _check_open(self) -> None:
        if self._stopped:
            raise Closed("the engine is closed")

    def _run(self) -> None:
        pushes = self._pushes
        ended = False
        while not ended:
            # Nobody else takes from it.
            batch = [pushes.get()]
            batch += [pushes.get() for _ in range(min(pushes.qsize(), _BATCH - 1))]
            ended = None in batch
            waiting = [one for one in batch if one is not None and not one.withdrawn]
            if waiting:
                self._run_batch(waiting)

    def _run_batch(self, waiting: list[Push]) -> None:
        outcomes: Sequence[_core.PushResult | BaseException]
        try:
            outcomes = self.native.push_many(
                [
                    (one.request, one.user, one.forbidden, one.require_client, one.context, one.turn.acquire)
                    for one in waiting
                ],
                self._table,
            )
        except BaseException as error:
            outcomes = [error] * len(waiting)
        deliver(waiting, outcomes)


class AsyncWrite:
    """One asynchronous write: a thread of its own waits for its turn, lends the tx to the event loop, and
    commits."""

    def __init__(
        self, runner: Runner, scopes: Sequence[str], user: str | None, timeout: float | None
    ) -> None:
        self._runner = runner
        self._scopes = tuple(scopes)
        self._user = user
        self._timeout = timeout
        self._cancelled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._orders: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._begun: _Future[_core.Write | None] = _Future()
        self._ended: _Future[None] = _Future()

    async def begin(self) -> _core.Write:
        self._runner.check_task()
        self._loop = asyncio.get_running_loop()
        self._runner.add(self)
        threading.Thread(target=self._run, name="syncline-write", daemon=True).start()
        try:
            write = await asyncio.shield(asyncio.wrap_future(self._begun))
        except BaseException:
            self._cancelled = True
            self._orders.put(False)
            raise
        if write is None:
            raise Timeout(f"the write was withdrawn: its turn did not come within {self._timeout} s")
        write.adopt()
        self._runner.holder = _current_task()
        return write

    async def end(self, *, commit: bool) -> None:
        self._runner.holder = None
        self._orders.put(commit)
        ended = asyncio.wrap_future(self._ended)
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            # The commit is on its way to the disk: whether it was done is what the caller must learn first.
            await asyncio.wait((ended,))
            raise

    def abandon(self) -> None:
        """Rolls back a write whose event loop has ended, so that nobody else will; another one is waited
        for."""
        if self._loop is not None and self._loop.is_running():
            return
        self._cancelled = True
        self._orders.put(False)

    def _run(self) -> None:
        try:
            write = self._runner.native.write(
                self._scopes, self._user, self._timeout, lambda: self._cancelled
            )
        except BaseException as error:
            self._begun.set_exception(error)
            return
        self._begun.set_result(write)
        if write is None:
            return
        commit = self._orders.get()
        try:
            write.adopt()
            if commit:
                write.commit()
            else:
                write.rollback()
        except BaseException as error:
            self._ended.set_exception(error)
        else:
            self._ended.set_result(None)


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
