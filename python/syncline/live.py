"""The live channel: `/_sync/live`, a WebSocket over which clients hear at once that a scope moved.

`syncline.asgi` serves it; `app.live` is its `Live`. The words between client and server are in
docs/protocol/live.md, frame by frame, with the close codes.

A commit's pokes come from the broker on the committing thread. There each event loop that has a subscriber is
woken once; on the loop every subscriber gets the same frame, which was encoded once. A connection has no
queue: what waits for a slow reader is one frame for each of its scopes, the newest, and it costs the others
nothing.

Threads: a `_Hub` and its connections belong to one event loop; `Live` and `Counters` to everybody.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import random
import signal
import sys
import threading
import time
import types
import urllib.parse
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from dataclasses import dataclass, fields
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeAlias

from . import errors
from .broker import Poke
from .http import Cors, Handler, Headers, Request

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["PATH", "Counters", "Live", "LiveStats", "Settings"]

PATH = "/_sync/live"

_log = logging.getLogger("syncline.live")

_Message: TypeAlias = "MutableMapping[str, Any]"
_Receive: TypeAlias = "Callable[[], Awaitable[_Message]]"
_Send: TypeAlias = "Callable[[_Message], Awaitable[None]]"

# Why the server closed. Below 4000 as RFC 6455 has them, above with HTTP's numbers behind the 4.
_CLOSE_TOO_BIG = 1009
_CLOSE_INTERNAL = 1011
_CLOSE_RESTART = 1012
_CLOSE_TRY_LATER = 1013
_CLOSE_BAD_FRAME = 4400
_CLOSE_UNAUTHENTICATED = 4401
_CLOSE_FORBIDDEN = 4403
_CLOSE_NO_SUCH_SOCKET = 4404
_CLOSE_TIMEOUT = 4408
_CLOSE_LIMIT = 4429

_CLOSE_OF: dict[type[errors.Error], int] = {
    errors.InvalidRequest: _CLOSE_BAD_FRAME,
    errors.TooLarge: _CLOSE_TOO_BIG,
    errors.Unauthenticated: _CLOSE_UNAUTHENTICATED,
    errors.Forbidden: _CLOSE_FORBIDDEN,
    errors.RateLimited: _CLOSE_LIMIT,
    errors.Unavailable: _CLOSE_TRY_LATER,
}

# How many connections are written to before the loop has a turn for everything else: about 2 ms of work.
_AT_ONCE = 256

# Seconds that a closed connection has to take its last frames, before it is dropped.
_CLOSE_GRACE = 5.0

# Seconds for which a server that is told to stop is held back until the goodbyes are out: at most, and where
# threads of its own write them.
_FAREWELL = 2.0
_FAREWELL_OF_THREADS = 0.05

# Bytes that may wait in a connection's transport, where that can be said, before pokes of a scope become one.
_BUFFERED = 8 << 10

_MAX_TOKEN = 16 << 10


@dataclass(frozen=True)
class Settings:
    """The limits and times of the live channel: `syncline.asgi(engine, ..., live=Settings(connections=500))`.

    Args:
        connections: of this application in this process; one more is told `rate_limited` and closed.
        scopes: of one connection; subscribing to more is `refused`.
        frame_bytes: of a frame from a client.
        frames_per_second: from one client, on average; ten times as many may come at once.
        auth_timeout: seconds until a client must have said who it is.
        ping: seconds without a frame from a client after which it is sent a ping.
        idle_timeout: seconds without a frame from it, pongs included, after which it is closed.
        recheck: seconds between askings whether a client is still known and may still read its scopes, spread
            by a tenth at random; None: only when `Live.recheck` is called.
        retry_after: seconds that clients are told to stay away by a server that stops.

    Raises:
        ValueError: a number is not above 0, or `idle_timeout` not above `ping`.
    """

    connections: int = 10_000
    scopes: int = 256
    frame_bytes: int = 64 << 10
    frames_per_second: float = 20.0
    auth_timeout: float = 10.0
    ping: float = 25.0
    idle_timeout: float = 60.0
    recheck: float | None = 60.0
    retry_after: float = 1.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if value is None and one.name == "recheck":
                continue
            whole = isinstance(one.default, int)
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
                wanted = "a whole number" if whole else "a number"
                raise ValueError(f"{one.name} must be {wanted}, not {value!r}")
            if not value > 0:
                raise ValueError(f"{one.name} must be above 0; it is {value}")
        if self.idle_timeout <= self.ping:
            raise ValueError(
                f"idle_timeout ({self.idle_timeout} s) must be above ping ({self.ping} s): "
                "a client that is asked needs time to answer"
            )


@dataclass(frozen=True)
class LiveStats:
    """What the live channel of an engine has and did.

    Attributes:
        connections, subscriptions: that are open now.
        pokes: that were sent; of several for one scope that a slow client did not take yet, the newest alone.
        coalesced: those that a newer one took the place of.
        refused: subscriptions that were, for whatever reason.
        revoked: subscriptions that ended because the permission did.
    """

    connections: int = 0
    subscriptions: int = 0
    pokes: int = 0
    coalesced: int = 0
    refused: int = 0
    revoked: int = 0


class Counters:
    """The numbers behind `LiveStats`, of all applications of an engine. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = dict.fromkeys((one.name for one in fields(LiveStats)), 0)

    def add(self, **counts: int) -> None:
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    def read(self) -> LiveStats:
        with self._lock:
            return LiveStats(**self._counts)


# ----------------------------------------------------------------------------------------------------- frames


def _frame(**told: object) -> dict[str, object]:
    """The ASGI message of a frame."""
    return {"type": "websocket.send", "text": json.dumps(told, separators=(",", ":"))}


def _error(error: errors.Error) -> dict[str, object]:
    details = {name: value for name, value in error.details.items() if isinstance(value, (int, str))}
    return _frame(**{**details, "type": "error", "code": error.code, "message": str(error)})


class _News:
    """A poke on its way to many: encoded at most once, and then one object for all of them."""

    __slots__ = ("_frame", "_message", "poke")

    def __init__(self, poke: Poke) -> None:
        self.poke = poke
        self._message: dict[str, object] | None = None
        self._frame: bytes | None = None

    def covers(self, other: Poke) -> bool:
        """Whether `other` is no news to who knows this one. Two commits' pokes may come in either order."""
        return self.poke.epoch == other.epoch and self.poke.cursor >= other.cursor

    @property
    def message(self) -> dict[str, object]:
        made = self._message
        if made is None:
            # Two loops may both come here, and make the same twice.
            scope, cursor, epoch = self.poke
            made = self._message = _frame(type="poke", scope=scope, cursor=cursor, epoch=epoch)
        return made

    @property
    def frame(self) -> bytes:
        """The bytes of the WebSocket's frame: final, text, not masked and not compressed (RFC 6455, 5.2)."""
        made = self._frame
        if made is None:
            text = str(self.message["text"]).encode()
            size = len(text)  # below 2^16: a scope has at most 255 bytes
            length = bytes((size,)) if size < 126 else b"\x7e" + size.to_bytes(2, "big")
            made = self._frame = b"\x81" + length + text
        return made


_PING = _frame(type="ping")
_PONG = _frame(type="pong")


def _parse(message: _Message, limit: int) -> dict[str, Any]:
    text = message.get("text")
    if text is None:
        raise errors.InvalidRequest(
            'frames are text: JSON objects such as {"type": "ping"}; this one is binary'
        )
    if len(text) > limit or len(text.encode("utf-8", "surrogatepass")) > limit:
        raise errors.TooLarge(f"the frame is larger than {limit} bytes", details={"limit": limit})
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError):
        raise errors.InvalidRequest("the frame is not JSON") from None
    if not isinstance(frame, dict) or not isinstance(frame.get("type"), str):
        raise errors.InvalidRequest('a frame is a JSON object with a "type", as in {"type": "ping"}')
    return frame


def _scopes_of(frame: dict[str, Any]) -> list[str]:
    scopes = frame.get("scopes")
    if not isinstance(scopes, list) or not all(isinstance(one, str) for one in scopes):
        raise errors.InvalidRequest(f'{frame["type"]} needs "scopes", a list of names')
    return list(dict.fromkeys(scopes))


def _token_of(frame: dict[str, Any]) -> str | None:
    token = frame.get("token")
    if token is None:
        return None
    if not isinstance(token, str) or not 0 < len(token) <= _MAX_TOKEN or not token.isprintable():
        raise errors.InvalidRequest(f'auth needs "token", a string of 1 to {_MAX_TOKEN} printable characters')
    return token


# ----------------------------------------------------------------------------------------------- a connection


def _transport_of(send: object) -> asyncio.Transport | None:
    """The transport of an accepted connection, where uvicorn's `send` can be passed by: a poke's frame, which
    is the same for everybody, goes straight to it. `send` makes a frame of the text anew for each connection.

    With 1,000 clients that takes a third off the processor's time for a broadcast: of bare sockets' 1.3 times
    instead of 1.75, of a loop of Starlette's `send_text` 0.66 instead of 0.85 (benchmarks/live.py).

    It is taken only where `send` is uvicorn's own, so that a middleware sees what it wants to see; else, and
    whenever the transport is closing or holds more than it should, `send` is called as ASGI has it. uvicorn
    closes the transport with whatever ends a connection, but for the application's own close, after which
    nothing is written.
    """
    protocol = getattr(send, "__self__", None)
    if type(protocol).__module__ != "uvicorn.protocols.websockets.websockets_sansio_impl":
        return None
    transport: asyncio.Transport | None = getattr(protocol, "transport", None)
    if transport is None or transport.is_closing():
        return None
    transport.set_write_buffer_limits(high=_BUFFERED)
    return transport


def _writable(transport: asyncio.Transport) -> bool:
    # Nothing else is looked at: with a thousand connections, each object more misses the processor's cache.
    return not transport.is_closing() and transport.get_write_buffer_size() <= _BUFFERED


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """The rest of a coroutine that was begun by hand and waits, to be awaited in a task."""
    step: Callable[[Any], Any]
    while True:
        try:
            value = yield waits_for
        except GeneratorExit:
            coroutine.close()
            raise
        except BaseException as error:
            step, value = coroutine.throw, error
        else:
            step = coroutine.send
        try:
            waits_for = step(value)
        except StopIteration:
            return


class _Connection:
    """One client. Its loop's thread alone touches it.

    `waiting` is what is to be sent, in order: at most one entry for each scope (its newest poke, or that it
    is revoked), and the answers to one frame of the client, whose next one is read only when they are out.
    """

    __slots__ = (
        "_tokens",
        "_tokens_at",
        "channels",
        "check_at",
        "ended_at",
        "handshake",
        "heard_at",
        "hub",
        "killed",
        "lost",
        "pinged",
        "queued",
        "request",
        "room",
        "send",
        "sender",
        "sending",
        "since",
        "task",
        "transport",
        "user",
        "waiting",
    )

    def __init__(self, hub: _Hub, send: _Send, handshake: Request) -> None:
        now = hub.loop.time()
        self.hub = hub
        self.send = send
        self.transport: asyncio.Transport | None = None
        self.handshake = handshake
        self.request = handshake  # what `authenticate` was asked about
        self.user: str | None = None
        self.channels: dict[str, _Channel] = {}
        self.waiting: dict[str | int, _News | _Message] = {}
        self.sending = False  # the server makes a frame wait, in the task `sender`
        self.sender: asyncio.Task[None] | None = None
        self.queued = False  # in hub.ready
        self.room: asyncio.Future[None] | None = None
        self.since = self.heard_at = now
        self.pinged = False
        self.check_at = float("inf")
        self.ended_at: float | None = None
        self.lost = False
        self.killed = False
        self.task = asyncio.current_task()
        self._tokens = hub.live.settings.frames_per_second * 10
        self._tokens_at = now

    # ---- out

    def put(self, key: str | int, told: _News | _Message) -> None:
        """What waits under the same key is replaced: the newest counts."""
        if self.ended_at is None:
            self.waiting[key] = told

    def pump(self) -> None:
        """Sends what waits, until there is nothing more or the server makes it wait."""
        if self.sending:
            return
        waiting, transport, sent = self.waiting, self.transport, 0
        while waiting:
            key = next(iter(waiting))
            told = waiting.pop(key)
            if told.__class__ is _News:
                sent += 1
                if transport is not None and _writable(transport):
                    transport.write(told.frame)
                    continue
                told = told.message
            sending: Any = self.send(told)  # type: ignore[arg-type]
            step = getattr(sending, "send", None)
            if step is None:  # some other awaitable than a coroutine: granian's
                self.go_on(_whole(sending))
                break
            try:
                # A server that has room finishes at once, and then a task would cost more than the sending.
                held = step(None)
            except StopIteration:
                continue
            except Exception as error:
                if isinstance(error, RuntimeError) and asyncio.current_task() is None:
                    # A middleware's, perhaps, that has a timeout, for which it needs a task of its own.
                    self.go_on(_whole(self.send(told)))  # type: ignore[arg-type]
                else:
                    self.lose(error)
                break
            self.go_on(_rest(sending, held))
            break
        self.hub.sent += sent
        if not self.sending:
            self.make_room()

    def go_on(self, sending: Awaitable[None]) -> None:
        self.sending = True
        self.sender = self.hub.loop.create_task(self._finish(sending))

    async def _finish(self, sending: Awaitable[None]) -> None:
        try:
            await sending
        except Exception as error:
            self.lose(error)
        finally:
            self.sending = False
            self.sender = None
        self.pump()

    def lose(self, error: Exception) -> None:
        """The server cannot send any more: the client is gone, and `receive` will say so."""
        if not isinstance(error, OSError):
            _log.debug("a frame could not be sent", exc_info=error)
        self.lost = True
        self.waiting.clear()

    def make_room(self) -> None:
        room, self.room = self.room, None
        if room is not None and not room.done():
            room.set_result(None)

    async def all_sent(self) -> None:
        """Waits until nothing waits, so that who does not read what it asked for is not read from."""
        self.pump()
        while (self.waiting or self.sending) and not self.lost:
            if self.room is None:
                self.room = self.hub.loop.create_future()
            await self.room

    def end(self, code: int, last: _Message, reason: str) -> None:
        """Says `last` and closes; what else waits is dropped. A client that does not take it is cut off."""
        if self.ended_at is not None:
            return
        self.hub.leave_all(self)
        self.waiting.clear()
        self.waiting[0] = last
        # A close frame holds 123 bytes of reason.
        self.waiting[1] = {"type": "websocket.close", "code": code, "reason": reason[:120]}
        self.ended_at = self.hub.loop.time()
        self.pump()

    def fail(self, error: errors.Error, code: int | None = None) -> None:
        self.end(code or _CLOSE_OF.get(type(error), _CLOSE_INTERNAL), _error(error), error.code)

    def kill(self) -> None:
        if self.task is not None and not self.killed:
            self.killed = True
            if self.transport is not None:
                self.transport.abort()  # what was not read would be kept until it is
            self.task.cancel()

    # ---- in

    def hear(self) -> bool:
        """Notes that a frame came; whether it may."""
        settings = self.hub.live.settings
        now = self.hub.loop.time()
        self.heard_at = now
        self.pinged = False
        rate = settings.frames_per_second
        self._tokens = min(rate * 10, self._tokens + (now - self._tokens_at) * rate)
        self._tokens_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


async def _whole(sending: Awaitable[None]) -> None:
    """Of a server whose `send` returns some other awaitable than a coroutine."""
    await sending


class _Channel:
    """The subscribers of one scope on one loop, the newest that all were told, and what the last one that
    subscribed was answered, for it may be the next one's answer too."""

    __slots__ = ("answer", "members", "news")

    def __init__(self) -> None:
        self.members: dict[_Connection, None] = {}
        self.news: _News | None = None
        self.answer: _News | None = None


# ---------------------------------------------------------------------------------------------- an event loop


class _Hub:
    """The connections of one event loop. Its thread alone touches it, but for `receive` and `call`."""

    def __init__(self, live: Live, loop: asyncio.AbstractEventLoop) -> None:
        self.live = live
        self.loop = loop
        self.connections: dict[_Connection, None] = {}
        self.channels: dict[str, _Channel] = {}
        self.rechecks = 0  # how often somebody asked for one
        self.sent = 0
        self._coalesced = 0
        self._ready: collections.deque[_Connection] = collections.deque()
        self._lock = threading.Lock()
        self._news: dict[str, _News] = {}
        self._woken = False
        self._check: asyncio.Task[None] | None = None
        settings = live.settings
        times = [settings.auth_timeout, settings.ping, settings.idle_timeout - settings.ping]
        times += [] if settings.recheck is None else [settings.recheck]
        self._tick = min(5.0, max(0.02, min(times) / 4))
        self._sweeping = loop.call_later(self._tick, self._sweep)

    def call(self, function: Callable[[], None]) -> bool:
        """Calls `function` on the loop, soon; whether there still is one. Any thread."""
        try:
            self.loop.call_soon_threadsafe(function)
        except RuntimeError:
            return False
        return True

    # ---- pokes

    def receive(self, news: _News) -> None:
        """A commit's poke. On the committing thread: it must not wait."""
        with self._lock:
            before = self._news.get(news.poke.scope)
            if before is None or not before.covers(news.poke):
                self._news[news.poke.scope] = news
            if self._woken:
                return
            self._woken = True
        if not self.call(self._tell):
            self.live.forget(self)

    def _tell(self) -> None:
        with self._lock:
            arrived, self._news = self._news, {}
            self._woken = False
        idle = not self._ready
        ready, coalesced = self._ready, 0
        for scope, news in arrived.items():
            channel = self.channels.get(scope)
            if channel is None or (channel.news is not None and channel.news.covers(news.poke)):
                continue
            channel.news = news
            for connection in channel.members:
                if scope in connection.waiting:
                    coalesced += 1
                connection.waiting[scope] = news
                if not connection.queued:
                    connection.queued = True
                    ready.append(connection)
        self._coalesced += coalesced
        if idle:
            self._write()

    def _write(self) -> None:
        """Writes to those that are ready, some at a time, each in its turn."""
        ready = self._ready
        for _ in range(min(_AT_ONCE, len(ready))):
            connection = ready.popleft()
            connection.queued = False
            connection.pump()
        if ready:
            self.loop.call_soon(self._write)
        self.count()

    def count(self) -> None:
        if self.sent or self._coalesced:
            self.live.counters.add(pokes=self.sent, coalesced=self._coalesced)
            self.sent = self._coalesced = 0

    # ---- subscriptions

    def join(self, connection: _Connection, scope: str) -> _Channel:
        channel = self.channels.get(scope)
        if channel is None:
            self.live.listen(scope, self)
            channel = self.channels[scope] = _Channel()
        if connection not in channel.members:
            channel.members[connection] = None
            connection.channels[scope] = channel
            self.live.counters.add(subscriptions=1)
        return channel

    def leave(self, connection: _Connection, scope: str) -> bool:
        channel = connection.channels.pop(scope, None)
        if channel is None:
            return False
        del channel.members[connection]
        if not channel.members:
            del self.channels[scope]
            self.live.unlisten(scope, self)
        self.live.counters.add(subscriptions=-1)
        return True

    def leave_all(self, connection: _Connection) -> None:
        for scope in list(connection.channels):
            self.leave(connection, scope)

    def remove(self, connection: _Connection) -> None:
        self.leave_all(connection)
        connection.waiting.clear()
        connection.lost = True
        connection.make_room()
        if connection.sender is not None:
            connection.sender.cancel()
        del self.connections[connection]
        self.count()

    def stop(self) -> None:
        self._sweeping.cancel()

    # ---- time

    def _sweep(self) -> None:
        """Looks at every connection, some times in each of the settings' times. 0.3 µs each."""
        self._sweeping = self.loop.call_later(self._tick, self._sweep)
        settings, now = self.live.settings, self.loop.time()
        due = False
        for connection in list(self.connections):
            quiet = now - connection.heard_at
            if connection.ended_at is not None:
                if now - connection.ended_at > _CLOSE_GRACE:
                    connection.kill()
            elif connection.user is None:
                if now - connection.since > settings.auth_timeout:
                    message = f"no auth frame came within {settings.auth_timeout:g} s of connecting"
                    connection.fail(errors.Unauthenticated(message), _CLOSE_TIMEOUT)
            elif quiet > settings.idle_timeout:
                message = f"no frame came for {settings.idle_timeout:g} s; a ping wants a pong"
                connection.fail(errors.Unavailable(message), _CLOSE_TIMEOUT)
            else:
                if quiet > settings.ping and not connection.pinged:
                    connection.pinged = True
                    connection.put(_PING_KEY, _PING)
                    connection.pump()
                due = due or connection.check_at <= now
        if due:
            self._check_those_due()

    def recheck(self, user: str | None) -> None:
        self.rechecks += 1
        for connection in self.connections:
            if user is None or connection.user == user:
                connection.check_at = 0.0
        self._check_those_due()

    def next_check(self) -> float:
        every = self.live.settings.recheck
        return float("inf") if every is None else self.loop.time() + every * random.uniform(0.9, 1.1)

    def recheck_one(self, connection: _Connection) -> None:
        connection.check_at = 0.0
        self._check_those_due()

    def _check_those_due(self) -> None:
        # One that runs takes those that became due meanwhile too.
        if self._check is None or self._check.done():
            self._check = self.loop.create_task(self._recheck())

    async def _recheck(self) -> None:
        while True:
            now = self.loop.time()
            due = [one for one in self.connections if one.check_at <= now and one.user is not None]
            if not due:
                return
            for connection in due:
                connection.check_at = self.next_check()
            # What a hook says of a user and a scope is asked once for all of the user's connections.
            asked: dict[tuple[str, str], bool] = {}
            for connection in due:
                await self.live.check(connection, asked)

    def goodbye(self) -> None:
        for connection in list(self.connections):
            self.live.say_goodbye(connection)


_PING_KEY = 2
_FIRST_ANSWER = 16  # keys below are for frames of which one at most waits


# ------------------------------------------------------------------------------------------------ the channel


class Live:
    """The live channel of one `syncline.asgi` application: `app.live`. Any thread may use it."""

    def __init__(
        self,
        engine: Engine,
        handler: Handler,
        settings: Settings,
        executor: concurrent.futures.Executor,
    ) -> None:
        self.settings = settings
        self.counters = engine._live
        self._engine = engine
        self._handler = handler
        self._executor = executor
        self._lock = threading.Lock()
        self._hubs: dict[asyncio.AbstractEventLoop, _Hub] = {}
        self._listeners: dict[str, tuple[_Hub, ...]] = {}
        self._unsubscribe: dict[str, Callable[[], None]] = {}
        self._answers = itertools.count(_FIRST_ANSWER)
        self._open = 0
        self._closed = False
        engine._subscriptions.add(self)

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._open

    def recheck(self, user: str | None = None) -> None:
        """Asks now, not only every `Settings.recheck` seconds, whether clients are still known and may still
        read what they subscribed to. Returns at once; call it when a permission was taken away.

        Args:
            user: whose connections; None: everybody's.
        """
        for hub in self._all():
            hub.call(functools.partial(hub.recheck, user))

    def close(self) -> None:
        """Says goodbye to every client, and to those that still come. Returns at once; `engine.close` and
        the server's shutdown call it."""
        self._closed = True
        for hub in self._all():
            hub.call(hub.goodbye)

    async def goodbye(self) -> None:
        """`close`, and waits until every loop has said it, at most two seconds."""
        self._closed = True
        said = []
        for hub in self._all():
            done: concurrent.futures.Future[None] = concurrent.futures.Future()

            def say(hub: _Hub = hub, done: concurrent.futures.Future[None] = done) -> None:
                hub.goodbye()
                done.set_result(None)

            if hub.call(say):
                said.append(asyncio.wrap_future(done))
        if said:
            await asyncio.wait(said, timeout=_FAREWELL)

    def goodbye_to_threads(self) -> None:
        """`close` from within a signal handler of granian's, whose `send` begins when it is called, on
        threads. The handler may have come between any two steps of a hub of this thread, and takes part in
        none."""
        self._closed = True
        last = (
            _frame(type="goodbye", retry_after=self.settings.retry_after),
            {"type": "websocket.close", "code": _CLOSE_RESTART, "reason": "goodbye"},
        )
        begun: list[object] = []  # what is forgotten may be cancelled
        for hub in self._all():
            for connection in list(hub.connections):
                if connection.ended_at is None:
                    connection.ended_at = hub.loop.time()
                    for message in last:
                        sending = connection.send(message)
                        begun.append(sending)
                        if isinstance(sending, Coroutine):  # a middleware's, around it
                            with contextlib.suppress(StopIteration, Exception):
                                sending.send(None)
        if begun:
            time.sleep(_FAREWELL_OF_THREADS)

    def _all(self) -> list[_Hub]:
        with self._lock:
            return list(self._hubs.values())

    # ---- the broker

    def listen(self, scope: str, hub: _Hub) -> None:
        """The hub has its first subscriber of `scope`."""
        with self._lock:
            before = self._listeners.get(scope, ())
            if not before:
                self._unsubscribe[scope] = self._engine._broker.subscribe([scope], self._receive)
            self._listeners[scope] = (*before, hub)

    def unlisten(self, scope: str, hub: _Hub) -> None:
        with self._lock:
            left = tuple(one for one in self._listeners.get(scope, ()) if one is not hub)
            if left:
                self._listeners[scope] = left
            elif scope in self._listeners:
                del self._listeners[scope]
                self._unsubscribe.pop(scope)()

    def _receive(self, poke: Poke) -> None:
        news = _News(poke)
        for hub in self._listeners.get(poke.scope, ()):
            hub.receive(news)

    def forget(self, hub: _Hub) -> None:
        """Its loop was closed under it: nobody can be told there."""
        with self._lock:
            if self._hubs.get(hub.loop) is not hub:
                return
            del self._hubs[hub.loop]
            self._open -= len(hub.connections)
        lost = sum(len(connection.channels) for connection in hub.connections)
        self.counters.add(connections=-len(hub.connections), subscriptions=-lost)
        for scope in list(hub.channels):
            self.unlisten(scope, hub)
        hub.connections.clear()

    # ---- connections

    def _enter(self) -> _Hub | None:
        """The hub of this loop for one more connection; None: there are too many."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._open >= self.settings.connections:
                return None
            self._open += 1
            hub = self._hubs.get(loop)
            if hub is None:
                hub = self._hubs[loop] = _Hub(self, loop)
        self.counters.add(connections=1)
        return hub

    def _leave(self, hub: _Hub, connection: _Connection) -> None:
        if connection not in hub.connections:  # forgotten, with its loop
            return
        hub.remove(connection)
        with self._lock:
            self._open -= 1
            if not hub.connections:
                hub.stop()
                del self._hubs[hub.loop]
        self.counters.add(connections=-1)

    async def serve(self, handshake: Request, receive: _Receive, send: _Send) -> None:
        """One connection, from its handshake, whose origin was checked, to its end."""
        self._engine._listen()
        hub = self._enter()
        if hub is None:
            limit = self.settings.connections
            error = errors.RateLimited(
                f"this server has {limit} live connections already; poll, and try again later",
                details={"limit": limit, "retry_after": round(self.settings.ping)},
            )
            await send({"type": "websocket.accept"})
            await send(_error(error))
            await send({"type": "websocket.close", "code": _CLOSE_LIMIT, "reason": error.code})
            return
        connection = _Connection(hub, send, handshake)
        hub.connections[connection] = None
        try:
            await send({"type": "websocket.accept"})
            connection.transport = _transport_of(send)
            _precede_the_server(self)
            if self._closed:
                self.say_goodbye(connection)
            await self._read(connection, receive)
        except asyncio.CancelledError:
            if not connection.killed:
                raise
        finally:
            self._leave(hub, connection)

    def say_goodbye(self, connection: _Connection) -> None:
        message = _frame(type="goodbye", retry_after=self.settings.retry_after)
        connection.end(_CLOSE_RESTART, message, "goodbye")

    async def _read(self, connection: _Connection, receive: _Receive) -> None:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                return
            if connection.ended_at is not None:
                continue
            hub = connection.hub
            rechecks = hub.rechecks
            try:
                if not connection.hear():
                    rate = self.settings.frames_per_second
                    raise errors.RateLimited(
                        f"more than {rate:g} frames a second came", details={"retry_after": 1}
                    )
                await self._take(connection, _parse(message, self.settings.frame_bytes))
            except Exception as error:
                self._fail(connection, error)
            if rechecks != hub.rechecks:
                # What a hook has just allowed may have been taken away before it was noted here.
                hub.recheck_one(connection)
            # Its next frame is read when it took the answers to this one.
            await connection.all_sent()
            hub.count()

    def _fail(self, connection: _Connection, error: Exception) -> None:
        if self._closed:  # that the engine is closed is no news to it
            self.say_goodbye(connection)
            return
        if not isinstance(error, errors.Error) or error.code not in errors.WIRE_CODES:
            _log.error("a live connection failed", exc_info=error)
            error = errors.InternalError("internal error")
        connection.fail(error)

    async def _take(self, connection: _Connection, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "auth":
            await self._authenticate(connection, _token_of(frame))
        elif kind == "ping":
            connection.put(next(self._answers), _PONG)
        elif kind in ("subscribe", "unsubscribe"):
            scopes = _scopes_of(frame)
            if connection.user is None:
                await self._authenticate(connection, None)
            if kind == "subscribe":
                await self._subscribe(connection, scopes)
            else:
                for scope in scopes:
                    connection.hub.leave(connection, scope)
                    connection.put(scope, _frame(type="unsubscribed", scope=scope))
        elif kind != "pong":
            # A newer client's word, perhaps: it can go on without.
            error = errors.InvalidRequest(
                f"{kind[:40]!r} is no type of frame; there are auth, subscribe, unsubscribe, ping and pong"
            )
            connection.put(next(self._answers), _error(error))

    async def _authenticate(self, connection: _Connection, token: str | None) -> None:
        request = connection.handshake
        if token is not None:
            headers = [pair for pair in request.headers.pairs() if pair[0].lower() != "authorization"]
            request = dataclasses.replace(
                request, headers=Headers([*headers, ("authorization", f"Bearer {token}")])
            )
        user = await self._handler.user_of(request, self._executor)
        if connection.ended_at is not None:
            return
        if connection.user not in (None, user):
            raise errors.Unauthenticated("this connection is another user's; open one of your own")
        connection.user, connection.request = user, request
        connection.check_at = connection.hub.next_check()
        settings = self.settings
        welcome = _frame(
            type="welcome", ping=settings.ping, idle_timeout=settings.idle_timeout, scopes=settings.scopes
        )
        connection.put(next(self._answers), welcome)

    async def _subscribe(self, connection: _Connection, scopes: list[str]) -> None:
        granted: list[str] = []
        hub, user = connection.hub, connection.user
        if user is None:
            return
        for scope in scopes:
            try:
                limit = self.settings.scopes
                if len(connection.channels) >= limit and scope not in connection.channels:
                    raise errors.TooLarge(f"a connection may have {limit} scopes", details={"limit": limit})
                await self._handler.check_may_read(user, scope, self._executor)
            except errors.Unauthenticated:
                raise
            except errors.Error as error:
                hub.leave(connection, scope)
                self.counters.add(refused=1)
                details = {
                    name: value for name, value in error.details.items() if isinstance(value, (int, str))
                }
                refused = {**details, "type": "refused", "scope": scope, "code": error.code}
                connection.put(next(self._answers), _frame(**refused, message=str(error)))
                continue
            if connection.ended_at is not None or connection.lost:
                return
            hub.join(connection, scope)
            granted.append(scope)
        if not granted:
            return
        # Subscribed first and read then, so no commit falls in between.
        cursors = await hub.loop.run_in_executor(self._executor, self._cursors, granted)
        for scope, cursor in cursors.items():
            channel = connection.channels.get(scope)
            if channel is None:  # revoked meanwhile, or ended
                continue
            poke = Poke(scope, cursor, self._engine.epoch)
            news = channel.news
            if news is None or not news.covers(poke):
                news = channel.answer
                if news is None or not news.covers(poke):
                    news = channel.answer = _News(poke)
            connection.put(scope, news)

    def _cursors(self, scopes: list[str]) -> dict[str, int]:
        return {scope: self._engine.cursor(scope) for scope in scopes}

    async def check(self, connection: _Connection, asked: dict[tuple[str, str], bool]) -> None:
        """Ends what is no longer allowed. Where a hook fails, everything stays as it is: a poke tells no more
        than that something changed, and the pull that follows is asked about by itself."""
        user, request = connection.user, connection.request
        if user is None:
            return
        cannot_say = (errors.InternalError, errors.RateLimited, errors.Unavailable)
        try:
            still = await self._handler.user_of(request, self._executor) == user
        except cannot_say:
            return
        except errors.Error:
            still = False
        if connection.ended_at is not None or connection.request is not request:
            return  # or it said anew who it is
        if not still:
            connection.fail(errors.Unauthenticated("who this is can no longer be established"))
            return
        for scope in list(connection.channels):
            allowed = asked.get((user, scope))
            if allowed is None:
                try:
                    await self._handler.check_may_read(user, scope, self._executor)
                    allowed = True
                except cannot_say:
                    allowed = True
                except errors.Error:
                    allowed = False
                asked[user, scope] = allowed
            if not allowed and connection.hub.leave(connection, scope):
                self.counters.add(revoked=1)
                connection.put(scope, _frame(type="revoked", scope=scope))
        connection.pump()


# ---------------------------------------------------------------------------------------------- the handshake


def check_origin(request: Request, cors: Cors | None) -> Request:
    """The handshake as `authenticate` may see it: one that a page of another origin made comes without that
    page's visitor's cookies, unless `cors` lets it have them.

    A browser lets every page open a WebSocket anywhere, cookies included, and asks nobody; so it is the
    server that has to look at where it comes from.

    Raises:
        Forbidden: it comes from a page of another origin, which `cors` does not allow.
    """
    origin = request.headers.get("origin")
    if origin is None or _same_host(origin, request.headers.get("host", "")):
        return request
    if cors is None or not cors.allows(origin):
        raise errors.Forbidden(f"pages of {origin[:100]!r} may not call this server")
    if cors.credentials:
        return request
    kept = [pair for pair in request.headers.pairs() if pair[0].lower() not in ("cookie", "authorization")]
    return dataclasses.replace(request, headers=Headers(kept))


def _same_host(origin: str, host: str) -> bool:
    """The scheme counts for the port alone: a proxy may have taken the TLS off."""
    try:
        parts = urllib.parse.urlsplit(origin)
        port = {"http": 80, "https": 443}.get(parts.scheme)
        called = urllib.parse.urlsplit(f"{parts.scheme}://{host}")
        return bool(parts.hostname) and (parts.hostname, parts.port or port) == (
            called.hostname,
            called.port or port,
        )
    except ValueError:
        return False


# ------------------------------------------------------------------------------------------- the server's end

# Servers that are told to stop close, or drop, every WebSocket before they tell the application (with ASGI's
# lifespan, and not at all where this one is mounted in another). So that clients hear the goodbye, the
# server's signal handlers are preceded by one of ours:
# - uvicorn's, a Python function, is called when the goodbyes are out;
# - a loop's own (`loop.add_signal_handler`, as Hypercorn and granian use it) is run by the loop, whatever
#   ours does; so the goodbyes are put before it, or sent at once, as granian then drops every connection.
# Other handlers are left alone.
_lives: weakref.WeakSet[Live] = weakref.WeakSet()
_OF_LOOPS = ("asyncio.unix_events", "uvloop.loop")


class _Farewell:
    """A signal handler that says goodbye first, and then does what the server's own does."""

    def __init__(self, server: Callable[[int, FrameType | None], object]) -> None:
        self._server = server
        self._tasks: list[asyncio.Task[None]] = []

    def __call__(self, number: int, frame: FrameType | None) -> None:
        loops = [hub.loop for live in _lives for hub in live._all()]
        if self._tasks or not loops:  # the second time it is urgent
            self._server(number, frame)
        elif getattr(self._server, "__module__", None) in _OF_LOOPS:
            for live in list(_lives):
                if "granian" in sys.modules:
                    live.goodbye_to_threads()
                else:
                    live.close()
            self._server(number, frame)
        else:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                loop = loops[0]
            loop.call_soon_threadsafe(self._begin, loop, number)

    def _begin(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        self._tasks.append(loop.create_task(self._say(number)))

    async def _say(self, number: int) -> None:
        try:
            await asyncio.gather(*(live.goodbye() for live in list(_lives)))
        finally:
            self._server(number, None)


def _precede_the_server(live: Live) -> None:
    _lives.add(live)
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        handler = signal.getsignal(number)
        if not callable(handler) or isinstance(handler, _Farewell):
            continue
        # A method of uvicorn's Server, or of one that was made from it; or what stands for a loop's own.
        of_uvicorn = hasattr(getattr(handler, "__self__", None), "should_exit")
        if of_uvicorn or getattr(handler, "__module__", None) in _OF_LOOPS:
            signal.signal(number, _Farewell(handler))
