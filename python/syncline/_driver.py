"""What drives a replica in a program: its threads, its connections, and who waits for what.

Threads, all daemons:
  syncline-replica    does what the pace says, one request at a time (HTTP, kept alive)
  syncline-flush      puts what was written on the disk, a moment after the first write
  syncline-socket     one for each WebSocket: reads frames
  syncline-deliver    calls the application's callbacks; started with the first of them
None of them holds a lock while it calls the application (a callback, the token's function, a mutator). They
hold the driver, and it does not hold the `Replica`, so that one that is forgotten is closed.
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import contextlib
import inspect
import json
import logging
import os
import queue
import random
import socket as sockets
import ssl
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from . import _core, errors
from ._pace import Pace, State
from ._session import Session, Task
from .remote import Remote

if TYPE_CHECKING:
    import http.client
    from typing import TypeAlias

    from .replica import Pending, ReplicaSubscription

__all__ = ["Driver", "Token", "check_token", "forget", "sockets_available", "watch_for_forgotten"]

Token: TypeAlias = "str | Callable[[], str | Awaitable[str | None] | None]"

_log = logging.getLogger("syncline.replica")

# Mutations of this long a moment are one flush (and one push): well within the 50 ms that are promised, with
# room for a disk that takes 30 ms.
_FLUSH_AFTER = 0.01
_FLUSH_AGAIN = 1.0  # after a failed one
_JOIN = 5.0  # seconds that close() waits for a thread, which may hang in a name server or a callback
_TOKEN_WAIT = 60.0  # for a token's coroutine on the application's loop
_MOST_LATE = 600.0  # a clock that is asked at the latest so often


def sockets_available() -> bool:
    """Whether the package `websockets` is there."""
    try:
        import websockets.sync.client  # noqa: F401
    except ImportError:
        return False
    return True


class _Http(Remote):
    """`Remote`'s connections, for bodies that the core wrote; `abort` breaks a request that is under way."""

    def __init__(self, url: str, *, timeout: float, ssl_context: ssl.SSLContext | None) -> None:
        super().__init__(url, timeout=timeout, ssl_context=ssl_context)
        self._under_way: http.client.HTTPConnection | None = None

    def send(
        self, method: str, path: str, body: bytes | None, token: str | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Raises Unavailable when no answer came."""
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/msgpack"
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        return self._exchange(method, self._root + path, body, headers, None)

    def _request(
        self, connection: http.client.HTTPConnection, *args: Any
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        self._under_way = connection
        try:
            return super()._request(connection, *args)
        finally:
            self._under_way = None

    def abort(self) -> None:
        self.close()
        connection = self._under_way
        sock = None if connection is None else connection.sock
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(sockets.SHUT_RDWR)

    def socket_url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        port = "" if self._port is None else f":{self._port}"
        return f"{'wss' if self._secure else 'ws'}://{host}{port}{self._root}/_sync/live"


class _Socket:
    """One WebSocket with its thread, from opening to its end, which it tells the driver."""

    def __init__(self, driver: Driver, token: str | None, counted: int) -> None:
        self._driver = driver
        self._token = token
        self.counted = counted  # which token that is
        self._connection: Any = None  # websockets.sync.client.ClientConnection
        self._ended = False
        self.thread = threading.Thread(target=self._run, name="syncline-socket", daemon=True)
        self.thread.start()

    def send(self, frame: dict[str, object]) -> None:
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(Exception):  # its end is told by the thread
                connection.send(json.dumps(frame))

    def close(self) -> None:
        self._ended = True
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.close()

    def _run(self) -> None:
        import websockets.exceptions
        import websockets.sync.client

        driver, retry_after, unauthenticated, reason = self._driver, 0.0, False, ""
        try:
            with websockets.sync.client.connect(
                driver.http.socket_url(),
                ssl=driver.http._ssl,
                user_agent_header="syncline",
                compression=None,
                open_timeout=driver.timeout,
                close_timeout=1,
                max_size=1 << 20,
            ) as connection:
                self._connection = connection
                try:
                    if self._ended:
                        return
                    self.send({"type": "auth", "token": self._token})
                    driver.socket_opened(self)
                    for message in connection:
                        frame = _frame(message)
                        if frame.get("type") == "goodbye":
                            said = frame.get("retry_after")
                            retry_after = float(said) if isinstance(said, (int, float)) else 0.0
                        else:
                            driver.frame(self, frame)
                finally:
                    connection.close()
                    closed = connection.protocol.close_code
                    unauthenticated = closed in _UNAUTHENTICATED
                    reason = connection.protocol.close_reason or ""
        except websockets.exceptions.InvalidStatus as error:
            unauthenticated = error.response.status_code == 401
            reason = f"the server answers the WebSocket with {error.response.status_code}"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        finally:
            driver.socket_closed(self, retry_after, unauthenticated, reason)


_UNAUTHENTICATED = frozenset({4401})  # close codes that mean: another token


def _frame(message: str | bytes) -> dict[str, Any]:
    try:
        frame = json.loads(message)
    except ValueError:
        return {}
    return frame if isinstance(frame, dict) else {}


class Driver:
    """See the module."""

    def __init__(
        self,
        core: _core.Replica,
        url: str,
        *,
        token: Token | None,
        poll: float,
        timeout: float,
        ssl_context: ssl.SSLContext | None,
        socket: bool,
    ) -> None:
        self.core = core
        self.timeout = timeout
        self.http = _Http(url, timeout=timeout, ssl_context=ssl_context)
        self.pid = os.getpid()
        self.named_scope: str | None = None
        self.loop = _running_loop()
        self._token_source = token
        self._token: str | None = token if isinstance(token, str) else None
        self._lock = threading.Lock()
        self._turn = threading.Condition(self._lock)  # of the network thread
        self._changed = threading.Condition(threading.Lock())  # of who waits for what the network brings
        self._rounds = 0
        self._nudged = False
        self.has_socket = socket
        self.pace = Pace(random=random.random, poll=poll, socket=socket, ask_token=callable(token))
        self.session = Session(core, self.pace, self._lock)
        core.tell_changes(False)  # until somebody subscribes
        now = time.monotonic()
        for scope in core.scopes():
            self.pace.join(scope.name, now)
        self._socket: _Socket | None = None
        self.socket_problem = "" if socket else "the package websockets is not installed"
        self._ended = False
        self._network: threading.Thread | None = None
        self._flusher: threading.Thread | None = None
        # What was written and is not on the disk.
        self._dirty = threading.Event()
        self._flush_now = threading.Event()
        self._hurried = False
        self.disk_problem = ""
        self.last_place = max((one.place for one in core.pending()), default=0)
        self.durable_through = self.last_place
        # Who is told.
        self._telling = threading.Lock()
        self.subscriptions: weakref.WeakSet[ReplicaSubscription] = weakref.WeakSet()
        self._kept: set[ReplicaSubscription] = set()  # with callbacks: nobody else holds them
        self._made: weakref.WeakValueDictionary[int, Pending] = weakref.WeakValueDictionary()
        self._waiting: dict[int, concurrent.futures.Future[None]] = {}
        self._state: State = "offline"
        self._on_state: list[tuple[Callable[[State], object], asyncio.AbstractEventLoop | None]] = []
        self._deliveries: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._deliverer: threading.Thread | None = None
        self._starting = threading.Lock()
        self._note_state()
        _open.add(self)

    # --------------------------------------------------------------------------------------------------- life

    def start(self) -> None:
        with self._turn:
            self.check()
            if self._network is None:
                self._network = threading.Thread(
                    target=self._run_network, name="syncline-replica", daemon=True
                )
                self._network.start()
            self.pace.start(time.monotonic())
            self._nudge()
        self._note_state()

    def pause(self) -> None:
        with self._turn:
            self.pace.pause()
            self._nudge()
        self._note_state()

    def stop(self) -> None:
        """Ends the threads and closes the file. Waits `_JOIN` seconds at most for each thread. Once."""
        if os.getpid() != self.pid:
            return
        with self._turn:
            if self._ended:
                return
            self._ended = True
            self.pace.stop()
            self._turn.notify_all()
            socket, self._socket = self._socket, None
            flusher, network = self._flusher, self._network
        self._dirty.set()
        self._flush_now.set()
        self.http.abort()
        if socket is not None:
            socket.close()
        for thread in (network, flusher, None if socket is None else socket.thread):
            if thread is not None and thread is not threading.current_thread():
                thread.join(_JOIN)
        try:
            if self.core.flush():
                self.durable_through = self.last_place
            self._tell()
        except errors.Error:
            _log.exception("what was written last could not be put on the disk")
        finally:
            self.core.close()
            self._note_state()
            for subscription in list(self.subscriptions):
                subscription.close()
            for future in list(self._waiting.values()):
                if not future.done():
                    future.set_exception(
                        errors.Closed("the replica was closed first; the mutation stays in its file")
                    )
            self._waiting.clear()
            deliverer = self._deliverer
            self._deliveries.put(None)
            if deliverer is not None and deliverer is not threading.current_thread():
                deliverer.join(_JOIN)

    @property
    def ended(self) -> bool:
        return self._ended

    def check(self) -> None:
        """Raises UsageError after fork, Closed after close."""
        if os.getpid() != self.pid:
            raise errors.UsageError(
                "this replica was opened before fork(); open one in each process, on a file of its own"
            )
        if self._ended:
            raise errors.Closed("the replica is closed")

    def _nudge(self) -> None:
        """Under `_lock`: the network thread looks again."""
        self._nudged = True
        self._turn.notify_all()

    def only_scope(self) -> str:
        """That which is meant where none is named."""
        if self.named_scope is not None:
            return self.named_scope
        joined = self.core.scopes()
        if len(joined) == 1:
            return joined[0].name
        raise errors.UsageError(
            f"{len(joined)} scopes are joined: say which one with scope="
            if joined
            else "no scope is joined: replica.join('list:1') first"
        )

    def subscribe(self, subscription: ReplicaSubscription, *, kept: bool) -> None:
        with self._telling:
            self.subscriptions.add(subscription)
            self.core.tell_changes(True)
            if kept:
                self._kept.add(subscription)

    def unsubscribe(self, subscription: ReplicaSubscription) -> None:
        with self._telling:
            self.subscriptions.discard(subscription)
            self._kept.discard(subscription)
            if not self.subscriptions:
                with contextlib.suppress(errors.Closed):
                    self.core.tell_changes(False)

    # ------------------------------------------------------------------------------------------------ network

    def _run_network(self) -> None:
        try:
            while not self._ended:
                task = self.session.next(time.monotonic())
                self._note_state()
                if task is not None:
                    self._perform(task)
                    self._after()
                    continue
                with self._turn:
                    if self._ended:
                        return
                    if self._nudged:
                        self._nudged = False
                        continue
                    now = time.monotonic()
                    at = self.pace.wake(now)
                    if at is None or at > now:
                        self._turn.wait(_MOST_LATE if at is None else min(at - now, _MOST_LATE))
        except errors.Closed:
            pass
        except BaseException:
            _log.exception("the replica's thread failed; nothing is synchronised any more")
            self.disk_problem = "the replica's thread failed; see the log"
            raise
        finally:
            self._note_state()

    def _perform(self, task: Task) -> None:
        what = task.do.what
        if what == "token":
            self._ask_token(task)
        elif what == "open_socket":
            with self._turn:
                if not self._ended:
                    self._socket = _Socket(self, self._token, task.do.token)
        elif what == "close_socket":
            socket, self._socket = self._socket, None
            if socket is not None:
                socket.close()
        elif what in ("subscribe", "unsubscribe"):
            socket = self._socket
            if socket is not None:
                socket.send({"type": what, "scopes": list(task.do.scopes)})
        else:
            self._send(task)

    def _send(self, task: Task) -> None:
        request = task.request
        try:
            if request is None:
                status, headers, content = self.http.send("GET", "/_sync/health", None, self._token)
            else:
                status, headers, content = self.http.send("POST", request.path, request.body, self._token)
        except (errors.Unavailable, errors.Closed) as error:
            self.session.lost(task, time.monotonic(), error.message)
            return
        kind = (headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        body = content if kind in ("application/msgpack", "application/x-msgpack") else b""
        said = headers.get("Retry-After") or ""
        self.session.answered(task, status, body, time.monotonic(), float(said) if said.isdigit() else 0.0)

    def _ask_token(self, task: Task) -> None:
        try:
            token = self._token_source
            if callable(token):
                token = self._resolve(token())
            if callable(self._token_source) and token is None:
                raise errors.Unauthenticated("there is no token: its function returned None")
            check_token(token)
        except Exception as error:
            _log.warning("no token: %s", error)
            said = getattr(error, "message", "") or f"{type(error).__name__}: {error}"
            with self._turn:
                self.pace.token_failed(task.do, time.monotonic(), f"no token: {said}")
            return
        with self._turn:
            self._token = token
            self.pace.token_given(task.do)

    def _resolve(self, token: str | Awaitable[str | None] | None) -> str | None:
        if not inspect.isawaitable(token):
            return token

        async def wait() -> str | None:
            return await token

        if self.loop is not None and self.loop.is_running():
            future = asyncio.run_coroutine_threadsafe(wait(), self.loop)
            try:
                return future.result(_TOKEN_WAIT)
            except concurrent.futures.TimeoutError:
                future.cancel()
                raise errors.Unavailable(f"its function did not return within {_TOKEN_WAIT:.0f} s") from None
        return asyncio.run(wait())

    def renew(self, token: Token | None) -> None:
        with self._turn:
            self._token_source = token
            if not callable(token):
                self._token = token
            self.pace.renew(time.monotonic(), ask=callable(token))
            self._nudge()

    # --------------------------------------------------------------------------------- of the socket's thread

    def socket_opened(self, socket: _Socket) -> None:
        with self._turn:
            if socket is self._socket:
                self.socket_problem = ""
                self.pace.socket_opened()
                self._nudge()

    def frame(self, socket: _Socket, frame: dict[str, Any]) -> None:
        if socket is not self._socket:
            return
        try:
            self.session.frame(frame, time.monotonic())
        except errors.Error:
            return  # closed meanwhile
        with self._turn:
            self._nudge()

    def socket_closed(self, socket: _Socket, retry_after: float, unauthenticated: bool, reason: str) -> None:
        with self._turn:
            if socket is not self._socket:
                return
            self._socket = None
            self.socket_problem = reason or "the server closed the WebSocket"
            self.pace.socket_closed(
                time.monotonic(),
                retry_after=retry_after,
                unauthenticated=unauthenticated,
                token=socket.counted,
                reason=reason,
            )
            self._nudge()

    # --------------------------------------------------------------------------------------------------- disk

    def wrote(self, scope: str, place: int) -> None:
        """`place` is visible. It will be on the disk soon."""
        self.session.touch(scope)
        self.last_place = place
        if not self._dirty.is_set():
            self._dirty.set()
            if self._flusher is None:
                self._start_flusher()

    def _start_flusher(self) -> None:
        with self._lock:
            if self._flusher is None and not self._ended:
                thread = threading.Thread(target=self._run_flush, name="syncline-flush", daemon=True)
                if _start(thread):  # else `stop` puts on the disk what it would have
                    self._flusher = thread

    def _run_flush(self) -> None:
        while True:
            self._dirty.wait()
            if self._ended:
                return
            self._flush_now.wait(_FLUSH_AFTER)
            self._flush_now.clear()
            self._dirty.clear()
            try:
                self.flush()
            except errors.Closed:
                return
            except errors.Error as error:
                self.disk_problem = f"{error.code}: {error.message}"
                _log.error("mutations cannot be put on the disk: %s", error)
                self._flush_now.wait(_FLUSH_AGAIN)
                self._dirty.set()
            if self._ended:  # asked after the events were cleared, which the end sets
                return

    def flush(self) -> bool:
        through = self.last_place
        flushed = self.core.flush()
        self.disk_problem = ""
        self.durable_through = max(self.durable_through, through)
        with self._turn:
            self.pace.wrote(time.monotonic())
            self._nudge()
        self._tell()
        return flushed

    # -------------------------------------------------------------------------------------------- who is told

    def _after(self) -> None:
        """Something came from the network."""
        if self._ended:
            return
        self._tell()
        self._note_state()
        with self._changed:
            self._rounds += 1
            self._changed.notify_all()

    def changed(self) -> None:
        """Something was done here: to be told, and perhaps to be sent."""
        with self._turn:
            self._nudge()
        self._tell()
        self._note_state()

    def _tell(self) -> None:
        """Takes what became visible and durable, to who subscribed, in order."""
        with self._telling:
            left = self._still_queued()
            events = self.core.take_events()
            if events:
                for event in events:
                    if event.kind == "refused":
                        self.refuse(event.place, event.code or "rejected", event.message or "")
                changes = [event for event in events if event.kind == "changed"]
                if changes:
                    for subscription in list(self.subscriptions):
                        subscription._receive(changes)
            if left is not None:
                self._settle(left)

    def _still_queued(self) -> set[int] | None:
        """The places in the queue, with every refusal of those that left it ready to be taken; None: nobody
        waits, or the disk does not let them be."""
        if not self._waiting:
            return None
        left = {one.place for one in self.core.pending()}
        try:
            self.core.flush()  # a refusal is told when it is there
        except errors.StorageError:
            return None
        return left

    def refuse(self, place: int, code: str, message: str) -> None:
        """Who has the mutation, or waits for it, learns that it was refused."""
        pending = self._made.get(place)
        if pending is not None:
            pending._refuse(code, message)
        future = self._waiting.pop(place, None)
        if future is not None and not future.done():
            future.set_exception(errors.from_code(code, message, {}))

    def _settle(self, left: set[int]) -> None:
        """Wakes who waits for a mutation that left the queue."""
        for place in [one for one in list(self._waiting) if one not in left]:
            future = self._waiting.pop(place, None)
            if future is not None and not future.done():
                future.set_result(None)

    def register(self, pending: Pending) -> None:
        self._made[pending.place] = pending

    def future(self, place: int) -> concurrent.futures.Future[None]:
        """Of the outcome of the mutation at `place`: None, or the refusal."""
        self.check()
        # Together: a refusal that is told in between would be told to nobody.
        with self._telling:
            for refused in self.core.refused():
                if refused.place == place:
                    future: concurrent.futures.Future[None] = concurrent.futures.Future()
                    future.set_exception(errors.from_code(refused.code, refused.message, {}))
                    return future
            future = self._waiting.setdefault(place, concurrent.futures.Future())
        self._tell()
        return future

    def until(self, met: Callable[[], bool], timeout: float | None, what: Callable[[], str]) -> None:
        """Waits until `met`, which is asked after each answer and each change of state. Raises Timeout,
        Closed."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._changed:
                rounds = self._rounds
            self.check()
            if met():
                return
            with self._changed:
                while rounds == self._rounds:
                    left = None if end is None else end - time.monotonic()
                    if left is not None and left <= 0:
                        raise errors.Timeout(what())
                    self._changed.wait(left)

    def hurry(self) -> int:
        """Everything is pulled and pushed now; returns what `pulled_since` takes."""
        with self._turn:
            serial = self.pace.serial
            self.pace.hurry(time.monotonic())
            self._nudge()
        return serial

    # -------------------------------------------------------------------------------------------------- state

    @property
    def state(self) -> State:
        with self._lock:
            return self.pace.state

    @property
    def reason(self) -> str:
        with self._lock:
            return self.pace.reason

    @property
    def running(self) -> bool:
        with self._lock:
            return self.pace.running

    @property
    def poked_by_socket(self) -> bool:
        with self._lock:
            return self.pace.poked_by_socket

    def pulled_since(self, serial: int) -> bool:
        with self._lock:
            return self.pace.pulled_since(serial)

    def _note_state(self) -> None:
        with self._changed:
            with self._lock:
                state = self.pace.state
            if state == self._state:
                return
            self._state = state
            self._rounds += 1
            self._changed.notify_all()
            for callback, loop in self._on_state:
                self.deliver(lambda callback=callback: callback(state), loop)  # type: ignore[misc]

    def on_state(self, callback: Callable[[State], object]) -> Callable[[], None]:
        entry = (callback, _running_loop())
        with self._changed:
            self._on_state.append(entry)

        def end() -> None:
            with self._changed:
                if entry in self._on_state:
                    self._on_state.remove(entry)

        return end

    # ----------------------------------------------------------------------------------------------- delivery

    def deliver(self, call: Callable[[], object], loop: asyncio.AbstractEventLoop | None) -> None:
        """Calls it soon, in order: on `loop`, or on the delivery thread."""
        if loop is not None:
            if not loop.is_closed():
                with contextlib.suppress(RuntimeError):  # closed just now
                    loop.call_soon_threadsafe(_call_on_loop, call)
            return
        self._deliveries.put(call)
        if self._deliverer is None:
            with self._starting:
                if self._deliverer is None:
                    thread = threading.Thread(
                        target=self._run_deliveries, name="syncline-deliver", daemon=True
                    )
                    if _start(thread):  # else nobody is left to hear of it
                        self._deliverer = thread

    def _run_deliveries(self) -> None:
        while True:
            call = self._deliveries.get()
            if call is None:
                return
            _call(call)


def _start(thread: threading.Thread) -> bool:
    """False: the interpreter is ending, and since Python 3.12 begins no more threads."""
    try:
        thread.start()
    except RuntimeError:
        if threading.main_thread().is_alive():
            raise
        return False
    return True


def _call(call: Callable[[], object]) -> None:
    try:
        result = call()
        if inspect.iscoroutine(result):
            asyncio.run(result)
    except Exception:
        _log.exception("a callback of a replica failed")


_tasks: set[asyncio.Task[object]] = set()


def _call_on_loop(call: Callable[[], object]) -> None:
    try:
        result = call()
        if inspect.iscoroutine(result):
            task = asyncio.ensure_future(result)
            _tasks.add(task)  # a loop holds its tasks weakly
            task.add_done_callback(_ended)
    except Exception:
        _log.exception("a callback of a replica failed")


def _ended(task: asyncio.Task[object]) -> None:
    _tasks.discard(task)
    if not task.cancelled() and task.exception() is not None:
        _log.error("a callback of a replica failed", exc_info=task.exception())


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def check_token(token: object) -> None:
    """Raises ValueError."""
    if token is not None and not (
        isinstance(token, str) and token and token.isascii() and token.isprintable() and " " not in token
    ):
        raise ValueError("token must be printable ASCII without spaces")


# ------------------------------------------------------------------------------------ replicas without owners

# A replica that is forgotten is closed by a thread of its own: its finalizer may run at any moment of any
# thread, inside any lock, and this queue is what may be used there.
_forgotten: queue.SimpleQueue[Driver] = queue.SimpleQueue()
_open: weakref.WeakSet[Driver] = weakref.WeakSet()
_closer: list[threading.Thread] = []


def forget(driver: Driver) -> None:
    if not driver.ended:
        _forgotten.put(driver)


def _close_forgotten() -> None:
    while True:
        driver = _forgotten.get()
        try:
            driver.stop()
        except Exception:
            _log.exception("a forgotten replica could not be closed")
        del driver


def watch_for_forgotten() -> None:
    if not _closer or not _closer[0].is_alive():
        _closer[:] = [threading.Thread(target=_close_forgotten, name="syncline-close", daemon=True)]
        _closer[0].start()


@atexit.register
def _close_all() -> None:
    for driver in list(_open):
        with contextlib.suppress(Exception):
            driver.stop()
