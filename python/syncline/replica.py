"""`syncline.Replica`: a local database that works without the network, and converges when it is back.

    replica = syncline.Replica("phone.db", "https://sync.example.org", scope="list:1", mutators=mutators)
    replica.mutate("todo/create", {"id": "1", "title": "milk"})   # visible at once, durable within 50 ms
    replica.list("todo")                                          # confirmed documents, and this on top

The same mutators run here and on the server. Mutations wait in a queue on the disk until the server has
answered them; what it confirmed is pulled, and what it has not is run again on top. What an answer means is
decided in the core (`_core.Replica`), when something is sent in `_pace`, the threads are `_driver`'s.
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextlib
import dataclasses
import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from . import _core, errors
from ._driver import Driver, Token, check_token, forget, sockets_available, watch_for_forgotten
from ._inbox import Inbox
from .mutators import Mutators

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeAlias

    from typing_extensions import Self

    from ._pace import State

__all__ = [
    "DocumentChange",
    "Pending",
    "Refused",
    "Replica",
    "ReplicaReads",
    "ReplicaStatus",
    "ReplicaSubscription",
    "ScopeStatus",
]

_Document: TypeAlias = "dict[str, Any]"
_SortKey: TypeAlias = "str | tuple[str, Literal[1, -1]]"
_Sort: TypeAlias = "_SortKey | Sequence[_SortKey]"
_Path: TypeAlias = "str | os.PathLike[str]"

# Batches that a subscriber has not taken; beyond, they become one, with each document once.
_BATCHES = 64
_WATCHED = 0.2  # seconds between two pictures in a notebook


# ----------------------------------------------------------------------------------------------- what is told


class DocumentChange:
    """What became of one document of the optimistic view.

    Attributes:
        kind: "added", "modified" or "removed".
        scope, entity, id: which.
    """

    __match_args__ = ("kind", "entity", "id", "old", "new")
    __slots__ = ("_after", "_before", "entity", "id", "scope")

    def __init__(self, before: _core.ReplicaEvent, after: _core.ReplicaEvent) -> None:
        self._before, self._after = before, after
        # A change has all three.
        self.scope: str = after.scope or ""
        self.entity: str = after.entity or ""
        self.id: str = after.id or ""

    @property
    def kind(self) -> Literal["added", "modified", "removed"]:
        if self.new is None:
            return "removed"
        return "added" if self.old is None else "modified"

    @property
    def old(self) -> _Document | None:
        """The document before, decoded anew each time; None: there was none."""
        return self._before.before

    @property
    def new(self) -> _Document | None:
        """The document now, decoded anew each time; None: it was removed."""
        return self._after.after

    def __repr__(self) -> str:
        return f"<DocumentChange {self.kind} {self.entity}/{self.id} in {self.scope!r}>"


class ReplicaSubscription(Inbox["list[DocumentChange]"]):
    """What `replica.subscribe` returns. Without a callback: iterate over it, in a thread (`for`) or a task
    (`async for`); each item is a list of `DocumentChange`s that became visible together. Use it in a `with`
    block, or `close` it.

    Who is slow is not left behind by memory: batches that were not taken become one, in which a document that
    changed twice is one change, from its first old to its last new.
    """

    def __init__(
        self,
        driver: Driver,
        callback: Callable[[list[DocumentChange]], object] | None,
        scope: str | None,
        entity: str | None,
    ) -> None:
        super().__init__()
        self._driver = driver
        self._callback = callback
        self._loop = _running_loop() if callback is not None else None
        self._scope = scope
        self._entity = entity
        self._batches: deque[list[DocumentChange]] = deque()

    def close(self) -> None:
        """Ends it: iterations stop, the callback is called no more, `get` raises when nothing is left. May be
        called twice, and on any thread."""
        self._driver.unsubscribe(self)
        super().close()

    def _take(self) -> list[DocumentChange] | None:
        return self._batches.popleft() if self._batches else None

    def _receive(self, events: Iterable[_core.ReplicaEvent]) -> None:
        """On any thread; the driver keeps them in order."""
        changes = [
            DocumentChange(event, event)
            for event in events
            if (self._scope is None or event.scope == self._scope)
            and (self._entity is None or event.entity == self._entity)
        ]
        if not changes:
            return
        with self._ready:
            if self._closed:
                return
            self._batches.append(changes)
            if len(self._batches) > _BATCHES:
                merged = _merge(self._batches)
                self._batches.clear()
                if merged:
                    self._batches.append(merged)
            self._wake()
        if self._callback is not None:
            self._driver.deliver(self._call, self._loop)

    def _call(self) -> object:
        with self._ready:
            if self._closed or not self._batches:
                return None  # merged with what was called before
            changes = self._batches.popleft()
        assert self._callback is not None
        return self._callback(changes)


def _merge(batches: Iterable[list[DocumentChange]]) -> list[DocumentChange]:
    first: dict[tuple[str, str, str], DocumentChange] = {}
    last: dict[tuple[str, str, str], DocumentChange] = {}
    for batch in batches:
        for change in batch:
            key = (change.scope, change.entity, change.id)
            first.setdefault(key, change)
            last[key] = change
    merged = [DocumentChange(first[key]._before, last[key]._after) for key in last]
    return [one for one in merged if one.old != one.new]


# --------------------------------------------------------------------------------------- what is in the queue


class Pending:
    """A mutation that was made here. Keep it to learn what becomes of it, or do not.

    Attributes:
        place: 1, 2, 3, ... in the order of the calls; never used again in this file.
        name, args, scope: as they were given to `mutate`.
    """

    __slots__ = ("__weakref__", "_driver", "_error", "_native", "args", "name", "place", "scope")

    def __init__(
        self,
        driver: Driver,
        place: int,
        name: str,
        args: Any,
        scope: str,
        native: _core.ReplicaPending | None = None,
    ) -> None:
        self._driver = driver
        self._native = native
        self._error: tuple[str, str] | None = None
        self.place = place
        self.name = name
        self.args = args
        self.scope = scope

    @property
    def durable(self) -> bool:
        """Whether it is on the disk: a crash does not lose it any more."""
        if self._native is not None and self._native.durable:
            return True
        return self.place <= self._driver.durable_through

    @property
    def error(self) -> errors.Error | None:
        """Why the server refused it; None: it did not, so far."""
        return None if self._error is None else errors.from_code(*self._error, {})

    def wait(self, timeout: float | None = None) -> None:
        """Returns when the server has applied it and the confirmed documents have it.

        Raises:
            Rejected, InvalidMutation, Forbidden, ...: what the server refused it with; its effect is gone
                from the view, and it is in `replica.refused`.
            Timeout: it was not settled within `timeout` seconds; it stays queued.
            Closed: the replica was closed first; it stays queued.
        """
        self._raise()
        try:
            self._driver.future(self.place).result(timeout)
        except concurrent.futures.TimeoutError as late:
            if isinstance(late, errors.Error):
                raise
            raise errors.Timeout(
                f"{self.name!r} was not settled within {timeout} s; it stays in the queue"
            ) from None

    def __await__(self) -> Generator[Any, None, None]:
        """As `wait()`, without blocking the event loop."""
        self._raise()
        return self._wait().__await__()

    async def _wait(self) -> None:
        future = await asyncio.to_thread(self._driver.future, self.place)
        await asyncio.shield(asyncio.wrap_future(future))

    def _refuse(self, code: str, message: str) -> None:
        self._error = (code, message)

    def _raise(self) -> None:
        error = self.error
        if error is not None:
            raise error

    def __repr__(self) -> str:
        return f"<Pending {self.place} {self.name!r} in {self.scope!r}>"


@dataclasses.dataclass(frozen=True)
class Refused:
    """A mutation that the server refused, or that was given up. Its effect is not in the view.

    Attributes:
        place, name, args, scope: as of the `Pending` that it was.
        ts: when it was made, at: when it was refused; in UTC.
        code, message: the server's.
        client_id, client_seq: as whose it went, and its number.
    """

    place: int
    name: str
    args: Any
    scope: str
    ts: datetime
    at: datetime
    code: str
    message: str
    client_id: str
    client_seq: int

    @property
    def error(self) -> errors.Error:
        """It as the exception that the server meant."""
        return errors.from_code(self.code, self.message, {})


# ----------------------------------------------------------------------------------------------------- status


@dataclasses.dataclass(frozen=True)
class ScopeStatus:
    """A scope that is joined.

    Attributes:
        name: what it is called.
        cursor, epoch: up to where it is pulled, in which history; 0: not yet.
        readable: False: the server says `forbidden`; its documents are forgotten until it says otherwise.
        loaded: its documents are here.
    """

    name: str
    cursor: int
    epoch: str
    readable: bool
    loaded: bool


@dataclasses.dataclass(frozen=True)
class ReplicaStatus:
    """How a replica stands.

    Attributes:
        state: "offline", "connecting", "syncing", "live" or "stopped".
        reason: why it is offline; empty: it is not.
        pokes: "socket": the server says when there is something; "polls": it is asked now and then.
        pokes_reason: why there are only polls; empty: there is a socket.
        client_id: as whom it pushes; None: it has not yet.
        epoch: the server's, as it was heard last.
        pending: mutations in the queue; unsent of them have no answer; unflushed are not on the disk yet.
        refused: mutations in `replica.refused`.
        disk: what is wrong with the disk; empty: nothing.
        scopes: those that are joined.
        rebases, replayed, pulled: how often the pending mutations were run again on top of a pull, how many
            runs that were, how many changes came; since it was opened.
    """

    state: State
    reason: str
    pokes: Literal["socket", "polls"]
    pokes_reason: str
    client_id: str
    epoch: str
    pending: int
    unsent: int
    unflushed: int
    refused: int
    disk: str
    scopes: tuple[ScopeStatus, ...]
    rebases: int
    replayed: int
    pulled: int


# ---------------------------------------------------------------------------------------------------- reading


class ReplicaReads:
    """The reads of a replica: of the optimistic view, or of what is confirmed. Each is of this moment; `read`
    holds several together."""

    def __init__(self, driver: Driver, *, confirmed: bool) -> None:
        self._driver = driver
        self._confirmed = confirmed

    def _view(self, scope: str | None) -> _core.ReplicaView:
        self._driver.check()
        return self._driver.core.view(self._driver.only_scope() if scope is None else scope, self._confirmed)

    def get(self, entity: str, id: str, *, scope: str | None = None) -> _Document | None:
        """The document, a fresh dict; None: there is none. Raises as `read`."""
        with self._view(scope) as view:
            return view.get(entity, id)

    def exists(self, entity: str, id: str, *, scope: str | None = None) -> bool:
        """Whether there is such a document. Raises as `read`."""
        with self._view(scope) as view:
            return view.exists(entity, id)

    def version(self, entity: str, id: str, *, scope: str | None = None) -> int:
        """1 for the first; 0: absent. Raises as `read`."""
        with self._view(scope) as view:
            return view.version(entity, id)

    def list(self, entity: str, *, scope: str | None = None) -> dict[str, _Document]:
        """id -> document of all of an entity, in byte order of id. Raises as `read`."""
        with self._view(scope) as view:
            return view.list(entity)

    def scan(
        self, entity: str, *, prefix: str = "", limit: int | None = None, scope: str | None = None
    ) -> builtins.list[tuple[str, _Document]]:
        """(id, document) of those whose id begins with `prefix`, in byte order of id. Raises as `read`."""
        with self._view(scope) as view:
            return view.scan(entity, prefix=prefix, limit=limit)

    def find(
        self,
        entity: str,
        filter: Mapping[str, Any] | None = None,
        *,
        sort: _Sort | None = None,
        limit: int | None = None,
        scope: str | None = None,
    ) -> builtins.list[tuple[str, _Document]]:
        """(id, document) of those that match; everything as in `View.find`. Raises as `read`, and
        `InvalidRequest` for a filter that is none."""
        with self._view(scope) as view:
            return view.find(entity, filter, sort=sort, limit=limit)

    def read(self, scope: str | None = None) -> _core.ReplicaView:
        """`with replica.read() as view:` the scope as it is now, for the length of the block.

        Raises:
            InvalidScope: the scope is not joined.
            UsageError: several are joined and none was named; called within a mutator.
        """
        return self._view(scope)


# ---------------------------------------------------------------------------------------------------- replica


class Replica(ReplicaReads):
    """A local database of some scopes of a server, with a queue of what was done here and not answered there.

    Any thread may use it; one process has a file. It works from the moment it is made, with the network or
    without, and pushes and pulls by itself. Use it in a `with` or `async with` block, or `close` it.

    Args:
        path: of the file, which is made when there is none.
        url: where the server is, as in `syncline.connect`.
        scope: to join; `scopes`: to join several. What was joined in an earlier run stays joined.
        mutators: what the server has as well; see `syncline.Mutators`.
        token: sent as `Authorization: Bearer`; or a function that returns one, also asynchronous, which is
            called before the first request and again when the server answers 401.
        user: what `tx.user` is in mutators that run here.
        durability: "full": what is durable survives power loss; "normal": a crash of the process only.
        poll: seconds between two pulls that nobody asked for.
        start: False: it stays offline until `resume`.
        socket: whether to be poked through a WebSocket; needs `pip install "syncline[replica]"`, without
            which it polls, and its status says so.
        timeout: seconds for each step of a request.
        ssl_context: for https; by default the system's certificates.
        max_pending: mutations in the queue; beyond, `mutate` raises `RateLimited`.
        max_tries: a mutation that the server said `unavailable` to so often is given up.

    Raises:
        Locked: another process, or another `Replica`, has the file.
        ForeignFile, NewerSchema, Corrupt, DiskFull, StorageError: the file cannot be used.
        UsageError, ValueError: an argument is none of those.

    Every method raises `Closed` after `close`, and `UsageError` in a process that was forked from the one
    that opened it.
    """

    def __init__(
        self,
        path: _Path,
        url: str,
        *,
        mutators: Mutators,
        scope: str | None = None,
        scopes: Iterable[str] = (),
        token: Token | None = None,
        user: str | None = None,
        durability: str = "full",
        poll: float = 30.0,
        start: bool = True,
        socket: bool = True,
        timeout: float = 30.0,
        ssl_context: ssl.SSLContext | None = None,
        client_id: str | None = None,
        max_pending: int = 100_000,
        max_tries: int = 50,
    ) -> None:
        name = os.fspath(path)
        if not isinstance(name, str):
            raise errors.UsageError("path must be a str or a pathlib.Path")
        if not isinstance(mutators, Mutators):
            raise errors.UsageError(f"mutators must be a syncline.Mutators, not {type(mutators).__name__}")
        if isinstance(scopes, str):
            raise errors.UsageError("scopes takes a list of scopes; one is scope=")
        if not poll > 0:
            raise ValueError(f"poll must be a number of seconds above 0, not {poll!r}")
        if not callable(token):
            check_token(token)
        mutators._check_upgrades()
        self._mutators = mutators
        self._path = name
        self.url = url
        self._driver_made = False
        core = _core.Replica(
            name,
            mutators._table,
            user=user,
            client_id=client_id,
            durability=durability,
            max_pending=max_pending,
            max_tries=max_tries,
        )
        try:
            for one in ([] if scope is None else [scope]) + list(scopes):
                core.join(one)
            driver = Driver(
                core,
                url,
                token=token,
                poll=poll,
                timeout=timeout,
                ssl_context=ssl_context,
                socket=socket and sockets_available(),
            )
            driver.named_scope = scope
            if not socket:
                driver.socket_problem = "socket=False"
        except BaseException:
            core.close()
            raise
        super().__init__(driver, confirmed=False)
        self._core = core
        self._confirmed_reads = ReplicaReads(driver, confirmed=True)
        self._watches: list[Watch] = []
        self._driver_made = True
        watch_for_forgotten()
        if start:
            driver.start()

    # ------------------------------------------------------------------------------------------------- mutate

    def mutate(self, name: str, args: Any = None, *, scope: str | None = None) -> Pending:
        """Runs the mutator on the optimistic view, now and on this thread, and queues the mutation for the
        server. It is visible when this returns, on the disk within 50 ms (`flush` waits for that), and sent
        as soon as the server can be reached.

        Args:
            name: the mutator's.
            args: any value the protocol has.
            scope: where it writes; needed when several scopes are joined.

        Raises:
            Rejected, Conflict, ...: what the mutator raises; nothing is queued.
            UnknownMutation, InvalidMutation, InvalidScope.
            TooLarge: larger than the server takes; RateLimited: `max_pending` are queued.
            UsageError: called within a mutator; several scopes are joined and none was named.
        """
        driver = self._driver
        driver.check()
        if scope is None:
            scope = driver.only_scope()
        place = self._core.mutate(scope, name, args)
        pending = Pending(driver, place, name, args, scope)
        driver.register(pending)
        driver.wrote(scope, place)
        return pending

    def flush(self) -> bool:
        """Puts what was done on the disk, now. False: it was there already. Raises `StorageError`."""
        self._driver.check()
        return self._driver.flush()

    def discard(self, pending: Pending | int) -> bool:
        """Gives a mutation up that the server has not answered: its effect leaves the view, and who waits for
        it gets `Rejected` with the code "discarded". The server may have applied it all the same: then its
        effect comes back with a pull. False: it is settled already."""
        driver = self._driver
        driver.check()
        place = pending.place if isinstance(pending, Pending) else pending
        found = self._core.discard(place)
        if found:
            driver.refuse(place, "discarded", "the mutation was discarded")
            driver.flush()
        return found

    @property
    def pending(self) -> builtins.list[Pending]:
        """What the server has not settled, in order."""
        return self._first_pending(None)

    def _first_pending(self, most: int | None) -> builtins.list[Pending]:
        driver = self._driver
        driver.check()
        return [
            Pending(driver, one.place, one.name, one.args, one.scope, one)
            for one in self._core.pending()[:most]
        ]

    @property
    def refused(self) -> builtins.list[Refused]:
        """The mutations that the server refused, or that were given up, oldest first; kept until `forget`."""
        self._driver.check()
        return [
            Refused(
                one.place,
                one.name,
                one.args,
                one.scope,
                one.ts,
                one.at,
                one.code,
                one.message,
                one.client_id,
                one.seq,
            )
            for one in self._core.refused()
        ]

    def forget(self, refused: Refused | int) -> bool:
        """Takes it out of `refused`. False: it is not there."""
        self._driver.check()
        return self._core.forget_refused(refused.place if isinstance(refused, Refused) else refused)

    # -------------------------------------------------------------------------------------------------- reads

    @property
    def confirmed(self) -> ReplicaReads:
        """The same reads, of what the server confirmed, without what is pending."""
        return self._confirmed_reads

    def subscribe(
        self,
        callback: Callable[[builtins.list[DocumentChange]], object] | None = None,
        *,
        scope: str | None = None,
        entity: str | None = None,
    ) -> ReplicaSubscription:
        """The changes of the optimistic view from now on, each once, when it is on the disk: those of this
        replica's own mutations, and what pulls bring. A document that is as it was is none.

        With a callback it is called with a list of `DocumentChange`s: on the event loop that runs where
        `subscribe` is called, else on a thread of the replica's; it may be a coroutine function, and may call
        the replica. Without one, iterate over what is returned.

        Args:
            scope, entity: only theirs.
        """
        self._driver.check()
        if callback is not None and not callable(callback):
            raise errors.UsageError(f"callback must be a function, not {type(callback).__name__}")
        subscription = ReplicaSubscription(self._driver, callback, scope, entity)
        self._driver.subscribe(subscription, kept=callback is not None)
        return subscription

    # ------------------------------------------------------------------------------------------------- scopes

    @property
    def scopes(self) -> builtins.list[str]:
        """Those that are joined, in byte order of name."""
        self._driver.check()
        return [one.name for one in self._core.scopes()]

    def join(self, scope: str) -> None:
        """Gets and keeps the documents of `scope` from now on. Raises `InvalidScope`."""
        self._driver.check()
        self._driver.session.join(scope, time.monotonic())
        self._driver.changed()

    def leave(self, scope: str) -> None:
        """Forgets the documents of `scope`. Its mutations that the server has not answered stay queued, and
        are sent. Raises `InvalidScope` when it is not joined."""
        self._driver.check()
        self._driver.session.leave(scope, time.monotonic())
        if self._driver.named_scope == scope:
            self._driver.named_scope = None
        self._driver.changed()

    # -------------------------------------------------------------------------------------------------- state

    @property
    def state(self) -> State:
        """ "live": everything is sent, answered and pulled; "syncing": not yet; "connecting": the server was
        not reached yet; "offline": it was lost, or does not know the token, or `pause` was called, as
        `status.reason` says; "stopped": closed."""
        return self._driver.state

    def wait_for(self, state: State, timeout: float | None = None) -> None:
        """Returns when the state is that. Raises `Timeout`, `Closed`."""
        driver = self._driver
        if state == "stopped" and driver.ended:
            return
        driver.until(
            lambda: driver.state == state,
            timeout,
            lambda: f"the replica is {driver.state!r}, not {state!r}, after {timeout} s{self._because()}",
        )

    def on_state(self, callback: Callable[[State], object]) -> Callable[[], None]:
        """Calls it with each new state, as `subscribe` calls its callback. Returns what ends that."""
        self._driver.check()
        return self._driver.on_state(callback)

    @property
    def status(self) -> ReplicaStatus:
        """How it stands, in detail."""
        driver = self._driver
        driver.check()
        native = self._core.status()
        socket = driver.poked_by_socket
        return ReplicaStatus(
            state=driver.state,
            reason=driver.reason,
            pokes="socket" if socket else "polls",
            pokes_reason="" if socket else driver.socket_problem,
            client_id=native.client_id,
            epoch=native.epoch or "",
            pending=native.pending,
            unsent=native.unsent,
            unflushed=native.unflushed,
            refused=native.refused,
            disk=driver.disk_problem,
            scopes=tuple(
                ScopeStatus(one.name, one.cursor, one.epoch or "", one.open, one.loaded)
                for one in self._core.scopes()
            ),
            rebases=native.rebases,
            replayed=native.replayed,
            pulled=native.pulled,
        )

    def set_token(self, token: Token | None) -> None:
        """Another token, or function, from now on; what waited for one goes on at once."""
        self._driver.check()
        if not callable(token):
            check_token(token)
        self._driver.renew(token)

    # --------------------------------------------------------------------------------------------------- sync

    def sync(self, timeout: float | None = 30.0) -> None:
        """Returns when everything that was done before is sent and answered, and every scope is as the server
        had it after that. Waits are cut short: it tries now.

        Raises:
            Timeout: not within `timeout` seconds; the message says why. Nothing is lost.
            UsageError: it is paused; or called within a callback of a mutator.
            Closed.
        """
        driver = self._driver
        driver.check()
        if not driver.running:
            raise errors.UsageError("the replica is paused: call resume() first")
        driver.flush()
        last = driver.last_place
        serial = driver.hurry()

        def met() -> bool:
            if not driver.pulled_since(serial):
                return False
            if self._core.status().pending == 0:
                return True
            return all(one.place > last for one in self._core.pending()[:1])

        driver.until(
            met,
            timeout,
            lambda: (
                f"not everything was exchanged within {timeout} s: {self._core.status().pending} "
                f"mutations are pending{self._because()}"
            ),
        )

    async def sync_async(self, timeout: float | None = 30.0) -> None:
        """As `sync`, without blocking the event loop."""
        await asyncio.to_thread(self.sync, timeout)

    def _because(self) -> str:
        reason = self._driver.reason
        return f" ({reason})" if reason else ""

    # --------------------------------------------------------------------------------------------------- life

    def pause(self) -> None:
        """Goes offline, until `resume`. What is under way may end. Mutations go on, and are kept."""
        self._driver.check()
        self._driver.pause()

    def resume(self) -> None:
        """Goes online, at once."""
        self._driver.check()
        self._driver.start()

    def close(self) -> None:
        """Puts everything on the disk, ends the threads (waiting some seconds at most), closes the file. What
        is pending is sent when the file is opened again. May be called twice, and on any thread but in a
        mutator."""
        for watch in list(self._watches):
            watch.stop()
        self._driver.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    def __del__(self) -> None:
        if getattr(self, "_driver_made", False):
            forget(self._driver)

    # ---------------------------------------------------------------------------------------------- notebooks

    def watch(self) -> Watch:
        """In a notebook: shows the state and the queue, and keeps them up to date, until `stop` of what it
        returns or the replica's end.

        Raises:
            UsageError: there is no IPython.
        """
        self._driver.check()
        watch = Watch(self)
        self._watches.append(watch)
        return watch

    def __repr__(self) -> str:
        if self._driver.ended:
            return f"<Replica {self._path!r} closed>"
        return f"<Replica {self._path!r} of {self.url} {self.state}>"

    def _repr_html_(self) -> str:
        from . import _html

        return _html.replica(self)

    def __rich__(self) -> str:
        if self._driver.ended:
            return f"Replica {self._path} [dim]closed[/dim]"
        status = self.status
        color = {"live": "green", "syncing": "yellow", "connecting": "yellow"}.get(status.state, "red")
        said = f" [dim]({_plain(status.reason)})[/dim]" if status.reason else ""
        return (
            f"Replica [bold]{_plain(self._path)}[/bold] of {_plain(self.url)} "
            f"[{color}]{status.state}[/{color}]{said}: "
            f"{status.pending} pending, {status.refused} refused, {len(status.scopes)} scopes"
        )

    def __reduce__(self) -> str:
        raise errors.UsageError("a replica cannot be pickled; open its file where it is used")


class Watch:
    """What `replica.watch()` shows in a notebook."""

    def __init__(self, replica: Replica) -> None:
        try:
            from IPython.display import display
        except ImportError:
            raise errors.UsageError(
                "watch() shows a replica in a notebook, and there is no IPython"
            ) from None
        self._handle: Any = display(replica, display_id=True)  # type: ignore[no-untyped-call,unused-ignore]
        self._stopped = threading.Event()
        self._replica = replica
        self._thread = threading.Thread(target=self._run, name="syncline-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leaves the last picture. May be called twice."""
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
        if self in self._replica._watches:
            self._replica._watches.remove(self)

    def _run(self) -> None:
        shown = ""
        while not self._stopped.wait(_WATCHED):
            with contextlib.suppress(errors.Closed):
                picture = self._replica._repr_html_()
                if picture != shown and self._handle is not None:
                    shown = picture
                    self._handle.update(self._replica)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
