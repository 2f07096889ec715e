"""Pokes: "scope S reached cursor N", told to whoever subscribed.

A poke carries no data and may be lost without harm: who gets one pulls. `LocalBroker` tells this process;
another broker (over Redis, say) can stand in its place: `Engine(broker=...)`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from .errors import Closed

__all__ = ["Broker", "LocalBroker", "Poke", "Subscription"]

_log = logging.getLogger("syncline.broker")


class Poke(NamedTuple):
    """`scope` reached `cursor` in `epoch`: pull when either differs from what you have."""

    scope: str
    cursor: int
    epoch: str


class Broker(Protocol):
    """What `Engine(broker=)` takes. Both methods may be called on any thread, and must not wait."""

    def publish(self, pokes: Sequence[Poke], /) -> None:
        """Tells every subscriber of each poke's scope."""

    def subscribe(self, scopes: Sequence[str], callback: Callable[[Poke], None], /) -> Callable[[], None]:
        """Calls `callback` for each poke of `scopes`, on any thread; returns what ends it."""


class LocalBroker:
    """Tells the subscribers of this process, at once, on the publisher's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[str, tuple[Callable[[Poke], None], ...]] = {}

    def publish(self, pokes: Sequence[Poke], /) -> None:
        for poke in pokes:
            for callback in self._callbacks.get(poke.scope, ()):
                try:
                    callback(poke)
                except Exception:
                    _log.exception("a subscriber of %r failed", poke.scope)

    def subscribe(self, scopes: Sequence[str], callback: Callable[[Poke], None], /) -> Callable[[], None]:
        names = tuple(dict.fromkeys(scopes))
        with self._lock:
            for name in names:
                self._callbacks[name] = (*self._callbacks.get(name, ()), callback)

        def unsubscribe() -> None:
            with self._lock:
                for name in names:
                    left = tuple(one for one in self._callbacks.get(name, ()) if one is not callback)
                    if left:
                        self._callbacks[name] = left
                    else:
                        self._callbacks.pop(name, None)

        return unsubscribe


class Subscription:
    """The pokes of some scopes, for a thread (`for poke in it`, `it.get(timeout)`) or a task (`async for poke
    in it`).

    Pokes of one scope that were not yet taken are one: the latest. Use it in a `with` block, or `close` it.
    """

    def __init__(self, subscribe: Callable[[Callable[[Poke], None]], Callable[[], None]]) -> None:
        self._ready = threading.Condition()
        self._pending: dict[str, Poke] = {}
        self._sleepers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._closed = False
        self._unsubscribe = subscribe(self._receive)

    def get(self, timeout: float | None = None) -> Poke | None:
        """The next poke. Waits for it, at most `timeout` seconds; None: none came.

        Raises:
            Closed: the subscription, or its engine, was closed.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._ready:
            while True:
                poke = self._take()
                if poke is not None:
                    return poke
                if self._closed:
                    raise Closed("the subscription is closed")
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._ready.wait(left)

    def close(self) -> None:
        """Ends it: iterations stop, `get` raises. May be called twice, and on any thread."""
        with self._ready:
            if self._closed:
                return
            self._closed = True
            self._wake()
        self._unsubscribe()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Poke]:
        return self

    def __next__(self) -> Poke:
        try:
            poke = self.get()
        except Closed:
            raise StopIteration from None
        assert poke is not None
        return poke

    def __aiter__(self) -> AsyncIterator[Poke]:
        return self

    async def __anext__(self) -> Poke:
        wake = asyncio.Event()
        sleeper = (asyncio.get_running_loop(), wake)
        while True:
            with self._ready:
                poke = self._take()
                if poke is not None:
                    return poke
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

    def _take(self) -> Poke | None:
        if not self._pending:
            return None
        scope = next(iter(self._pending))
        return self._pending.pop(scope)

    def _receive(self, poke: Poke) -> None:
        with self._ready:
            self._pending[poke.scope] = poke
            self._wake()

    def _wake(self) -> None:
        self._ready.notify_all()
        for loop, event in self._sleepers:
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)
        self._sleepers.clear()
