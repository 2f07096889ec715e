"""What threads and tasks wait for alike: the half that feeds and subscriptions have in common."""

from __future__ import annotations

import abc
import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from .errors import Closed

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

_Sleeper: TypeAlias = tuple[asyncio.AbstractEventLoop, asyncio.Event]


class Waking:
    """A condition, `_ready`, that tasks wait for as well as threads. It guards what is waited for, and is
    held where `_wake` and `_enlist` are called."""

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._sleepers: list[_Sleeper] = []
        self._closed = False

    def _wake(self) -> None:
        self._ready.notify_all()
        for loop, event in self._sleepers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)
        self._sleepers.clear()

    def _enlist(self) -> _Sleeper:
        """This task is woken by the next `_wake`: let it `_sleep` then, without holding `_ready`."""
        sleeper = (asyncio.get_running_loop(), asyncio.Event())
        self._sleepers.append(sleeper)
        return sleeper

    async def _sleep(self, sleeper: _Sleeper, timeout: float | None = None) -> None:
        try:
            await asyncio.wait_for(sleeper[1].wait(), timeout)
        except asyncio.TimeoutError:
            pass
        finally:
            with self._ready:
                if sleeper in self._sleepers:
                    self._sleepers.remove(sleeper)


class Inbox(Waking, abc.ABC, Generic[T]):
    """Items are put in on any thread, and taken by `get`, `for` or `async for`, each by one of who waits.

    The heir keeps them: it puts in and calls `_wake`, gives one out in `_take`, both while it holds `_ready`.
    """

    def get(self, timeout: float | None = None) -> T | None:
        """The next one. Waits for it, at most `timeout` seconds; None: none came.

        Raises:
            Closed: it was closed, or what it belongs to, and nothing is left.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._ready:
            while True:
                item = self._take()
                if item is not None:
                    return item
                if self._closed:
                    raise Closed("the subscription is closed")
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._ready.wait(left)

    def close(self) -> None:
        """Ends it: iterations stop, and `get` raises, when nothing is left. May be called twice, and on any
        thread."""
        with self._ready:
            self._closed = True
            self._wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            item = self.get()
        except Closed:
            raise StopIteration from None
        assert item is not None
        return item

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        while True:
            with self._ready:
                item = self._take()
                if item is not None:
                    return item
                if self._closed:
                    raise StopAsyncIteration
                sleeper = self._enlist()
            await self._sleep(sleeper)

    @abc.abstractmethod
    def _take(self) -> T | None:
        """The next item; None: there is none."""
