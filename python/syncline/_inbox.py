"""What waits to be taken by a thread or a task: the half that subscriptions have in common."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from .errors import Closed

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class Inbox(Generic[T]):
    """Items are put in on any thread, and taken by `get`, `for` or `async for`, each by one of who waits.

    The heir keeps them: it puts in and calls `_wake`, gives one out in `_take`, both while it holds `_ready`.
    """

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._sleepers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._closed = False

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
        wake = asyncio.Event()
        sleeper = (asyncio.get_running_loop(), wake)
        while True:
            with self._ready:
                item = self._take()
                if item is not None:
                    return item
                if self._closed:
                    raise StopAsyncIteration
                wake.clear()
                self._sleepers.append(sleeper)
            try:
                await wake.wait()
            finally:
                with self._ready:
                    if sleeper in self._sleepers:
                        self._sleepers.remove(sleeper)

    def _take(self) -> T | None:
        raise NotImplementedError

    def _wake(self) -> None:
        self._ready.notify_all()
        for loop, event in self._sleepers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)
        self._sleepers.clear()
