"""The engine's own threads: one that runs what event loops and HTTP push, and one for each asynchronous
write."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import os
import queue
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from .errors import Closed, RateLimited, Timeout, UsageError

if TYPE_CHECKING:
    from . import _core

# A group takes at most this many pushes at once: enough for one fsync to serve them, few enough that the
# first need not wait.
_BATCH = 256

_Future = concurrent.futures.Future


class _Job:
    """A push that waits. Its future can be cancelled until `admit` was said, when its turn has come."""

    __slots__ = ("_admitted", "context", "forbidden", "future", "request", "require_client", "user")

    def __init__(
        self, request: _core.PushRequest, user: str | None, forbidden: tuple[str, ...], require_client: bool
    ) -> None:
        self.request = request
        self.user = user
        self.forbidden = forbidden
        self.require_client = require_client
        self.context = contextvars.copy_context()
        self.future: _Future[_core.PushResult] = _Future()
        self._admitted: bool | None = None

    def admit(self) -> bool:
        if self._admitted is None:
            self._admitted = self.future.set_running_or_notify_cancel()
        return self._admitted

    def finish(self, result: _core.PushResult | BaseException) -> None:
        if not self.admit():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Runner:
    """One thread that takes the pushes that wait, all at once, into one commit. Started by the first of them.

    The thread is a daemon: it would otherwise keep the interpreter from its exit, where the engine's
    finalizer ends it.
    """

    def __init__(self, native: _core.Engine, table: Mapping[str, Any], max_waiting: int) -> None:
        self.native = native
        self._table = cast("dict[str, Any]", table)
        self._max_waiting = max_waiting
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._pid = os.getpid()
        self._writes: weakref.WeakSet[AsyncWrite] = weakref.WeakSet()
        # The task that holds an asynchronous write: a push of its own would wait for itself.
        self.holder: asyncio.Task[object] | None = None

    def submit(
        self, request: _core.PushRequest, user: str | None, forbidden: tuple[str, ...], require_client: bool
    ) -> _Future[_core.PushResult]:
        """Queues a push; cancelling its future withdraws it while it waits."""
        self._check_process()
        # Here, where only its own caller hears of it: later it would fail its whole batch.
        self.native.check_user(user)
        if threading.current_thread() is self._thread:
            raise UsageError("a mutator cannot push: write through its tx instead")
        if self._jobs.qsize() >= self._max_waiting:
            raise RateLimited(
                f"{self._max_waiting} pushes are waiting already; try again later",
                details={"limit": self._max_waiting},
            )
        job = _Job(request, user, forbidden, require_client)
        # Under the lock, so that nothing is queued behind the end.
        with self._lock:
            self._check_open()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="syncline-push", daemon=True)
                thread.start()
                self._thread = thread
            self._jobs.put(job)
        return job.future

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
            self._jobs.put(None)
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
        ended = False
        while not ended:
            batch = [self._jobs.get()]
            while len(batch) < _BATCH:
                try:
                    batch.append(self._jobs.get_nowait())
                except queue.Empty:
                    break
            ended = None in batch
            waiting = [one for one in batch if one is not None and not one.future.cancelled()]
            if waiting:
                self._run_batch(waiting)

    def _run_batch(self, waiting: list[_Job]) -> None:
        try:
            results = self.native.push_many(
                [
                    (one.request, one.user, one.forbidden, one.require_client, one.context, one.admit)
                    for one in waiting
                ],
                self._table,
            )
        except BaseException as error:
            for one in waiting:
                one.finish(error)
            return
        for one, result in zip(waiting, results, strict=True):
            one.finish(result)


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
