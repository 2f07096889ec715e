"""Pokes: "scope S reached cursor N", told to whoever subscribed.

A poke carries no data and may be lost without harm: who gets one pulls. `LocalBroker` tells this process;
another broker (over Redis, say) can stand in its place: `Engine(broker=...)`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ._inbox import Inbox

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


class Subscription(Inbox[Poke]):
    """The pokes of some scopes, for a thread (`for poke in it`, `it.get(timeout)`) or a task (`async for poke
    in it`).

    Pokes of one scope that were not yet taken are one: the latest. Use it in a `with` block, or `close` it.
    """

    def __init__(self, subscribe: Callable[[Callable[[Poke], None]], Callable[[], None]]) -> None:
        super().__init__()
        self._pending: dict[str, Poke] = {}
        self._unsubscribe = subscribe(self._receive)

    def close(self) -> None:
        """Ends it: iterations stop, `get` raises. May be called twice, and on any thread."""
        if self._closed:
            return
        super().close()
        self._unsubscribe()

    def _take(self) -> Poke | None:
        if not self._pending:
            return None
        return self._pending.pop(next(iter(self._pending)))

    def _receive(self, poke: Poke) -> None:
        with self._ready:
            self._pending[poke.scope] = poke
            self._wake()
