"""The engine: one database, its mutators, and everything that reads it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from . import _core, telemetry
from . import retention as _keeping
from . import verify as _verify
from ._runner import AsyncWrite, Push, Runner
from .broker import Broker, LocalBroker, Poke, Subscription
from .dead_letters import DeadLetters
from .errors import InvalidRequest, Timeout, UsageError
from .feed import Feed, FeedInfo, Feeds, feeds, forget
from .live import Counters, LiveStats
from .load import Loaded, load
from .metrics import Requests
from .mutators import Mutators
from .openapi import TOLD_LIMITS
from .retention import Compaction, Erased, Position, Retention, Upkeep
from .upgrades import Upgrades
from .verify import Report

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Self, Unpack

    from .history import Explanation, Moment
    from .http import Authenticate, Authorize, Hooks, Response
    from .live import Live
    from .load import Row

__all__ = ["Engine", "Mutation", "MutatorStats", "Scope", "Stats", "Write", "WriteAsync"]

_T = TypeVar("_T")
_Path: TypeAlias = "str | os.PathLike[str]"

_log = logging.getLogger("syncline.engine")
_UNSEEN: contextlib.nullcontext[None] = contextlib.nullcontext()


@dataclasses.dataclass(frozen=True)
class Mutation:
    """A named request. `push` takes mappings with the same fields too.

    Attributes:
        name: the mutator's; None: a void, which only consumes its number.
        args: any value the protocol has.
        scope: where it writes.
        client_id, client_seq: whose it is, and its number: 1, 2, 3, ...; None: backend code's own.
        ts: the client's clock, an aware datetime.
        seed: 64 bits, what `tx.uuid()` and `tx.random` derive from.
    """

    name: str | None
    args: Any = None
    scope: str | None = None
    client_id: str | None = None
    client_seq: int | None = None
    ts: datetime | None = None
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Scope:
    """A scope that was written to.

    Attributes:
        name: what a pull asks for.
        head: the cursor of the last commit that touched it.
        floor: a pull from below may miss a deletion, and is `CursorTooOld`; 0: none was forgotten.
        log_floor: below, log lines were forgotten.
    """

    name: str
    head: int
    floor: int
    log_floor: int


@dataclasses.dataclass(frozen=True)
class MutatorStats:
    """What one mutator did since the engine was opened.

    Attributes:
        calls: how often it ran.
        failures: how often it raised; refusals count too.
        seconds, slowest: how long it took, in all and at most, with the check of its arguments.
    """

    calls: int
    failures: int
    seconds: float
    slowest: float


@dataclasses.dataclass(frozen=True)
class Stats:
    """What an engine did since it was opened, and what its database holds. Sizes are bytes; `unlogged`
    counts the engine's own notes (positions, counters), which have no cursor; `mutators` are those that ran;
    `feeds` has the lag of each feed, in cursors; `live` is the live channel's."""

    pushes: int
    mutations: int
    duplicates: int
    refused: int
    commits: int
    changes: int
    pulls: int
    pulled_changes: int
    snapshots: int
    waiting: int
    head: int
    documents: int
    tombstones: int
    unlogged: int
    log_lines: int
    clients: int
    results: int
    scopes: int
    bytes: int
    wal_bytes: int
    free_disk_bytes: int
    mutators: Mapping[str, MutatorStats] = dataclasses.field(default_factory=dict)
    feeds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    dead_letters: int = 0
    dead_letters_dropped: int = 0
    live: LiveStats = dataclasses.field(default_factory=LiveStats)


class Engine:
    """One database and its mutators. Any thread may use it; one process writes a file, others may read it.

    Args:
        path: of the file, which is made when there is none; ":memory:" is private and gone when the engine is
            closed.
        mutators: what pushes may run.
        durability: "full": what was acknowledged survives power loss; "normal": a crash of the process only,
            but faster.
        read_only: beside a writer, or on a file in a folder that cannot be written.
        limits: of requests and documents.
        broker: who is told of each commit; None: this process's own.
        retention: how long history, tombstones and the rest are kept; None: as `Retention()` says.
        clock: for tests, in place of the system's.
        slow_mutator: seconds; one that takes as long is logged as "syncline.mutators", since everybody who
            writes waits for it; None: none is.

    Raises:
        Locked: another process writes the file. Use `syncline.connect(url)`, or `read_only=True`.
        ForeignFile, NewerSchema, Corrupt, DiskFull, StorageError: the file cannot be used.
        UsageError: an argument is none of those.

    Every method raises `Closed` after `close`, and `UsageError` in a process that was forked from the one
    that opened it.
    """

    def __init__(
        self,
        path: _Path,
        *,
        mutators: Mutators | None = None,
        durability: str = "full",
        read_only: bool = False,
        limits: _core.Limits | None = None,
        broker: Broker | None = None,
        slow_mutator: float | None = 0.25,
        retention: Retention | None = None,
        clock: _core.ManualClock | None = None,
    ) -> None:
        if mutators is not None and not isinstance(mutators, Mutators):
            raise UsageError(f"mutators must be a syncline.Mutators, not {type(mutators).__name__}")
        if mutators is not None:
            mutators._check_upgrades()
        name = os.fspath(path)
        if not isinstance(name, str):
            raise UsageError("path must be a str or a pathlib.Path")
        self._mutators = mutators if mutators is not None else Mutators()
        self._limits = limits if limits is not None else _core.Limits()
        self._slow_mutator = _seconds(slow_mutator, "slow_mutator")
        if retention is not None and not isinstance(retention, Retention):
            raise UsageError(f"retention must be a syncline.Retention, not {type(retention).__name__}")
        self._retention = retention if retention is not None else Retention()
        self._native = _core.Engine(
            name,
            durability=durability,
            read_only=read_only,
            limits=self._limits,
            retention=self._retention._native(),
            clock=clock,
        )
        self._native.watch_mutators(slow_seconds=self._slow_mutator, runner=None)
        self._spans = False
        self._requests = Requests()
        self._epoch = self._native.epoch
        self._path = name
        self._feeds = Feeds()
        self._live = Counters()
        self._subscriptions: weakref.WeakSet[Subscription | Live] = weakref.WeakSet()
        self._listening = threading.Lock()
        self._listened = False
        self._broker: Broker = broker if broker is not None else LocalBroker()
        try:
            self._upgrades = Upgrades(self._native, self._mutators._upgrades)
        except BaseException:
            self._native.close()
            raise
        self._runner = Runner(self._native, self._mutators._table, self._limits.max_waiting)
        # Runs at close(), when the engine is forgotten, and at the interpreter's exit, whichever comes first.
        self._finalize = weakref.finalize(
            self, _shut_down, self._native, self._runner, self._upgrades, os.getpid()
        )
        if broker is not None:
            self._listen()
        _log.info(
            "opened %r%s, epoch %s",
            name,
            " for reading" if read_only else "",
            self._epoch,
            extra={"syncline_database": name, "syncline_epoch": self._epoch, "syncline_read_only": read_only},
        )

    # ------------------------------------------------------------------------------------------------- push

    def push(
        self,
        mutations: Iterable[Mapping[str, Any] | Mutation],
        *,
        user: str | None = None,
        epoch: str | None = None,
        settled: Mapping[str, int] | None = None,
        timeout: float | None = None,
    ) -> _core.PushResult:
        """Runs mutations, each exactly once, and returns a result for each when they are durable.

        The mutators run on this thread. What they refuse is in the results; what is raised means that nothing
        was consumed.

        Args:
            mutations: mappings such as {"name": "todo/create", "args": {...}, "scope": "list:1", "client_id":
                "c1", "client_seq": 1}, or `Mutation`s. Without a client id they are backend code's own, and
                not deduplicated.
            user: who asks; a client id belongs to the user that first used it.
            epoch: the client's; when it is not the current one the push is refused.
            settled: client id -> up to which number it has its answers on its disk.
            timeout: seconds to wait for its turn; then it is withdrawn.

        Raises:
            InvalidRequest, InvalidMutation: a mutation is malformed, or its args are no value.
            EpochMismatch, Forbidden (someone else's client id), TooLarge, RateLimited.
            Timeout: its turn did not come.
            UsageError: called from within a mutator or a write of this thread.
            StorageError: it could not be stored.
        """
        self._check_task()
        request = self._request(mutations, epoch, settled)
        with self._span("syncline.push", {"syncline.mutations": len(request)}) as span:
            result = self._native.push(request, user, self._mutators._table, _seconds(timeout))
            if result is None:
                raise Timeout(f"the push was withdrawn: its turn did not come within {timeout} s")
            telemetry.tell(span, result)
        return result

    async def push_async(
        self,
        mutations: Iterable[Mapping[str, Any] | Mutation],
        *,
        user: str | None = None,
        epoch: str | None = None,
        settled: Mapping[str, int] | None = None,
        timeout: float | None = None,
    ) -> _core.PushResult:
        """As `push`, without blocking the event loop. The mutators run on the engine's own thread, in a copy
        of the caller's context variables; many that wait go into one commit. Cancelling it withdraws it while
        it waits for its turn.
        """
        self._check_task()
        request = self._request(mutations, epoch, settled)
        seconds = _seconds(timeout)
        with self._span("syncline.push", {"syncline.mutations": len(request)}) as span:
            push = self._runner.submit(request, user, (), False)
            await push.arrived(seconds)
            if push.withdrawn:
                raise Timeout(f"the push was withdrawn: its turn did not come within {timeout} s")
            result = push.result()
            telemetry.tell(span, result)
        return result

    def _request(
        self,
        mutations: Iterable[Mapping[str, Any] | Mutation],
        epoch: str | None,
        settled: Mapping[str, int] | None,
    ) -> _core.PushRequest:
        # A list is what comes nearly always, and the core would not ask more of it.
        if not isinstance(mutations, list) and (
            isinstance(mutations, (Mapping, Mutation, str, bytes)) or not isinstance(mutations, Iterable)
        ):
            raise InvalidRequest(
                f"push takes a list of mutations, not {type(mutations).__name__}: write push([...])"
            )
        plain = [vars(one) if isinstance(one, Mutation) else one for one in mutations]
        if settled is not None and not isinstance(settled, Mapping):
            raise InvalidRequest("settled must be a mapping of client ids to numbers")
        return _core.PushRequest.of(plain, epoch, None if settled is None else dict(settled), self._limits)

    def _submit(
        self,
        request: _core.PushRequest,
        *,
        user: str | None,
        forbidden: Collection[str],
        require_client: bool,
    ) -> Push:
        return self._runner.submit(request, user, tuple(forbidden), require_client)

    # ------------------------------------------------------------------------------------------------- pull

    def pull(
        self,
        scope: str,
        cursor: int = 0,
        *,
        epoch: str | None = None,
        page: str | None = None,
        limit: int | None = None,
        client_id: str | None = None,
        entities: Iterable[str] | None = None,
        user: str | None = None,
    ) -> _core.Pull:
        """The documents of `scope` that changed after `cursor`, each once, deletions included; from 0 the
        live ones.

        Args:
            cursor: of the last finished pull; 0: everything.
            epoch: of that pull; None: the current one.
            page: of the page before, when it said `has_more`.
            limit: how many changes at most; None: as many as fit a page of `limits.max_page_bytes`.
            client_id: whose `last_seq` to tell.
            entities: only these; None: all that are not reserved.
            user: whose `client_id` it must be.

        Raises:
            CursorTooOld: deletions since then are no longer known. Pull from 0.
            EpochMismatch: this history never had that cursor. Pull from 0.
            InvalidScope, InvalidRequest, Forbidden.
        """
        if epoch is None and cursor != 0:
            epoch = self._epoch
        names = None if entities is None else entities if isinstance(entities, str) else list(entities)
        request = _core.PullRequest.of(scope, cursor, epoch, page, limit, client_id, names)
        with self._span("syncline.pull", {"syncline.scope": request.scope}):
            return self._native.pull(request, user)

    def snapshot(
        self, scope: str, *, client_id: str | None = None, user: str | None = None
    ) -> _core.Snapshot:
        """The live documents of `scope` and the cursor they are at.

        Raises:
            TooLarge: they have more than `limits.max_snapshot_bytes`; pull them instead.
            InvalidScope, Forbidden.
        """
        request = _core.SnapshotRequest.of(scope, client_id)
        with self._span("syncline.snapshot", {"syncline.scope": request.scope}):
            return self._native.snapshot(request, user)

    def read(self, scope: str) -> _core.View:
        """`with engine.read(scope) as view:` the scope as it is now, for the length of the block. Keep it
        short.

        Raises:
            InvalidScope.
        """
        return self._native.read(scope)

    # ---------------------------------------------------------------------------------------------- history

    def log(
        self,
        *,
        since: Moment = 0,
        through: Moment | None = None,
        scope: str | None = None,
        entity: str | None = None,
        id: str | None = None,
        client_id: str | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> _core.Log:
        """The lines of the changelog: what was done to which document, when, by whom, through which mutation.

        An iterator of `LogLine`, oldest first, that reads a chunk at a time: it may run for as long as it
        likes without holding anything up. It ends at the head as it is now; its `through` is where to go on
        from later.

        Args:
            since: lines after this cursor, or of this time and later (an aware datetime); 0: all that are
                kept.
            through: lines up to this cursor or time.
            scope, entity, id, client_id: only theirs. What begins with "_" comes only to who names it.
            limit: how many lines at most.

        Raises:
            HistoryGone: lines after `since` are gone; never for 0.
            InvalidRequest: an argument is none of those, or `since` lies in the future.
            InvalidScope.
        """
        return _core.Log(self._native, since, through, scope, entity, id, client_id, newest_first, limit)

    def history(self, scope: str, entity: str, id: str, *, limit: int | None = None) -> _core.History:
        """The versions of one document, newest first: who, when, through which mutation, the document as it
        was, and what changed in it.

        An iterator of `Version` that walks back as far as history is kept; afterwards its `complete` says
        whether that was the beginning. A deletion is a version too, without `data`.

        Args:
            limit: how many versions at most.

        Raises:
            NotFound: there is neither such a document nor its tombstone.
            HistoryGone: there is, but not one line of its history.
            Corrupt, while iterating: a body does not have the hash that its line says.
            InvalidRequest, InvalidScope.
        """
        return _core.History(self._native, scope, entity, id, limit)

    def at(self, cursor: Moment) -> _core.Past:
        """Every scope as it stood when `cursor` was the head, or at a time (an aware datetime).

        `engine.at(c).list("list:1", "todo")`. It holds nothing fast and costs what changed since, so it may
        be kept, and used in a `with` block or without.

        Raises:
            InvalidRequest: that lies in the future.

        Its methods raise:
            HistoryGone: what changed in that scope since is no longer all kept.
            Corrupt: a body does not have the hash that its line says.
            InvalidScope, Closed.
        """
        return _core.Past(self._native, cursor)

    def explain(self, scope: str, entity: str, id: str, client_id: str | None = None) -> Explanation:
        """Why a document is as it is, and why that client has it or has not: `print(engine.explain(...))`.

        Raises:
            InvalidRequest, InvalidScope.
        """
        from . import history

        return history.explain(self._native, scope, entity, id, client_id)

    # ------------------------------------------------------------------------------------------------ write

    @overload
    def write(
        self, scope: str, /, *, user: str | None = None, timeout: float | None = None
    ) -> Write[_core.Tx]: ...

    @overload
    def write(
        self, first: str, second: str, /, *more: str, user: str | None = None, timeout: float | None = None
    ) -> Write[tuple[_core.Tx, ...]]: ...

    def write(self, *scopes: str, user: str | None = None, timeout: float | None = None) -> Write[Any]:
        """`with engine.write(scope) as tx:` backend code's own commit, rolled back when the block raises.

        With several scopes there is a tx for each, and one commit. It belongs to the thread that opened it,
        and holds every other
        writer up: keep it short.

        Raises, on entering:
            InvalidScope, Timeout.
            UsageError: no scope, or within a mutator or another write of this thread.
        """
        self._check_task()
        return Write(self._native, scopes, user, _seconds(timeout))

    @overload
    def write_async(
        self, scope: str, /, *, user: str | None = None, timeout: float | None = None
    ) -> WriteAsync[_core.Tx]: ...

    @overload
    def write_async(
        self, first: str, second: str, /, *more: str, user: str | None = None, timeout: float | None = None
    ) -> WriteAsync[tuple[_core.Tx, ...]]: ...

    def write_async(
        self, *scopes: str, user: str | None = None, timeout: float | None = None
    ) -> WriteAsync[Any]:
        """`async with engine.write_async(scope) as tx:` as `write`; waits for its turn, and for the disk,
        beside the event loop.

        Every other writer waits while the block runs, so await nothing slow in it; a push or write in the
        block raises `UsageError`.
        """
        return WriteAsync(self._runner, scopes, user, _seconds(timeout))

    def load(
        self,
        scope: str,
        entity: str,
        rows: Iterable[Row],
        *,
        key: str = "id",
        batch: int = 5000,
        user: str | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> Loaded:
        """Puts the rows of an existing table in place as documents of `entity`, a commit for each `batch`,
        without mutators. Run again, rows that are there already change nothing; see `syncline.load`.

        Args:
            rows: dicts, or other mappings; or (id, dict) pairs.
            key: the field that is a row's id, a str or an int. It stays a field of the document.
            batch: rows a commit. Other writers wait while one is made.
            user: whom the changelog names.
            progress: called after each commit with the rows done, and how many there are where `len(rows)`
                tells.

        Raises:
            InvalidMutation: a row is no document, or has no id; the message says which. What was committed
            before
                it stays.
            InvalidScope, TooLarge (a document).
            UsageError: called from within a mutator or a write of this thread.
        """
        self._check_task()
        return load(self, scope, entity, rows, key=key, batch=batch, user=user, progress=progress)

    def _check_task(self) -> None:
        self._runner.check_task()

    def _traced(self) -> bool:
        """Whether somebody wants spans; then mutators have theirs from now on."""
        if not telemetry.active():
            return False
        if not self._spans:
            self._spans = True
            self._native.watch_mutators(slow_seconds=self._slow_mutator, runner=telemetry.run_mutator)
        return True

    def _span(
        self, name: str, attributes: telemetry.Attributes
    ) -> contextlib.AbstractContextManager[telemetry.Span | None]:
        return telemetry.span(name, attributes) if self._traced() else _UNSEEN

    # ------------------------------------------------------------------------------------------------ pokes

    def subscribe(self, *scopes: str) -> Subscription:
        """The pokes of `scopes` from now on: to iterate over, by a thread or by a task. Use it in a `with`
        block.

        Raises:
            UsageError: no scope.
        """
        if not scopes or not all(isinstance(one, str) for one in scopes):
            raise UsageError("subscribe takes the scopes to hear of: subscribe('list:1')")
        self._native.head()  # raises when closed, or after fork
        self._listen()
        subscription = Subscription(lambda callback: self._broker.subscribe(scopes, callback))
        self._subscriptions.add(subscription)
        return subscription

    def _listen(self) -> None:
        with self._listening:
            if self._listened:
                return
            broker, feeds = self._broker, self._feeds

            def listen(pokes: list[tuple[str, int, str]]) -> None:
                broker.publish([Poke(*one) for one in pokes])
                feeds.poke()

            self._native.set_poke_listener(listen)
            self._listened = True

    # ------------------------------------------------------------------------------------------------ feeds

    def feed(
        self,
        name: str,
        *,
        scopes: Iterable[str] | None = None,
        start: Literal["begin", "now"] | int = "begin",
        follow: bool = True,
        save_every: float = 1.0,
    ) -> Feed:
        """`for commit in engine.feed("search-index"):` what is committed, in order, each at least once, from
        where this name's consumer was done; see `syncline.feed`. `async for` as well.

        Args:
            name: the position's; one consumer at a time has it.
            scopes: only these; None: all that are not reserved.
            start: where a new name begins: "begin", "now", or a cursor.
            follow: wait for what comes; False: end when everything is told.
            save_every: seconds that the saved position may be behind.

        Raises:
            UsageError: the name has a consumer already; an argument is none of those.
            InvalidRequest: `start` lies in the future.
            ReadOnly.
        """
        self._check_task()
        self._listen()
        return Feed(
            self, name, scopes=scopes, start=start, follow=follow, save_every=_seconds(save_every) or 0.0
        )

    def feeds(self) -> list[FeedInfo]:
        """Every feed, by name, with its position and lag."""
        return feeds(self._native, self._feeds)

    def forget_feed(self, name: str) -> bool:
        """Forgets the position of a feed, so that it holds no history any more and can start anew. Whether
        there was one. Raises `UsageError` while it has a consumer."""
        self._check_task()
        return forget(self._native, self._feeds, name)

    # ------------------------------------------------------------------------------------------------- rest

    @property
    def mutators(self) -> Mutators:
        return self._mutators

    @property
    def limits(self) -> _core.Limits:
        return self._limits

    @property
    def epoch(self) -> str:
        """This tenure of the database: new each time it is opened for writing."""
        return self._epoch

    @property
    def head(self) -> int:
        """The highest cursor there is."""
        return self._native.head()

    def cursor(self, scope: str) -> int:
        """Of the last commit that touched `scope`; 0: none yet. Raises `InvalidScope`."""
        return self._native.cursor(scope)

    @property
    def dead_letters(self) -> DeadLetters:
        """The mutations whose mutators failed unexpectedly; see `syncline.dead_letters`."""
        return DeadLetters(self)

    def scopes(self) -> list[Scope]:
        """Those that clients can name and that were ever written to, in byte order of name."""
        return [Scope(*one) for one in self._native.scopes()]

    @property
    def upgrades(self) -> Upgrades:
        """How far documents of older schemas are upgraded; see `syncline.upgrades`."""
        return self._upgrades

    def stats(self) -> Stats:
        """Counts since the engine was opened, and of what the database holds. Costs a scan of its keys."""
        mutators = {
            name: MutatorStats(calls, failures, seconds, slowest)
            for name, (calls, failures, seconds, slowest, _) in self._native.mutator_times().items()
        }
        letters, dropped, _ = _core.dead_letter_counts(self._native)
        return Stats(
            **self._native.stats(),
            mutators=mutators,
            feeds={feed.name: feed.lag for feed in self.feeds()},
            dead_letters=letters,
            dead_letters_dropped=dropped,
            live=self._live.read(),
        )

    def health(self) -> dict[str, Any]:
        """What a monitor wants to know, in the words of the protocol's health answer: `waiting` pushes, and
        sizes in bytes in `storage`; the HTTP answer tells less to whom its hooks do not know."""
        info = self._native.info()
        return {
            "ok": True,
            "version": _core.__version__,
            "database": {"kind": info["kind"], "version": info["version"]},
            "storage": {
                "bytes": info["bytes"],
                "wal_bytes": info["wal_bytes"],
                "free_disk_bytes": info["free_disk_bytes"],
                "schema_version": info["schema_version"],
            },
            "head": info["head"],
            "epoch": self._epoch,
            "limits": {told: getattr(self._limits, field) for told, field in TOLD_LIMITS.items()},
            "waiting": info["waiting"],
        }

    def backup(self, path: _Path, progress: Callable[[int, int], None] | None = None) -> None:
        """Copies the database to `path`, which must not exist, while it is used.

        Args:
            progress: called with (done, total) pages; what it raises ends the copy.

        Raises:
            StorageError: the copy cannot be written.
        """
        self._native.backup(os.fspath(path), progress)

    # --------------------------------------------------------------------------------------------- keeping

    @property
    def retention(self) -> Retention:
        """How long what is kept."""
        return self._retention

    def compact(self, keep: timedelta | int | None = None) -> Compaction:
        """Forgets what need not be kept, in short steps between which others write. The background thread
        does the same by itself.

        Args:
            keep: of history and tombstones, in place of what the retention says: an age (tombstones of the
                last hour always stay); or a cursor: everything after it is kept. What the retention holds for
                clients and feeds stays held.

        Raises:
            UsageError: keep is negative, or within a mutator or a write of this thread.
            ReadOnly, StorageError.
        """
        return _keeping.compact(self._native, keep)

    def positions(self, scope: str | None = None) -> list[Position]:
        """Up to where each client has `scope`, or each of its scopes, in order of scope and client: of those
        that named their `client_id` when they pulled. For how far behind they are, not for answers: what was
        noted since the last round of the background thread is lost in a crash. Raises `InvalidScope`.
        """
        return _keeping.positions(self._native, scope)

    @overload
    def erase(self, scope: str, /, *, user: str | None = None, rewrite: bool = True) -> Erased: ...

    @overload
    def erase(
        self, scope: str, entity: str, id: str, /, *, user: str | None = None, rewrite: bool = True
    ) -> Erased: ...

    def erase(
        self,
        scope: str,
        entity: str | None = None,
        id: str | None = None,
        /,
        *,
        user: str | None = None,
        rewrite: bool = True,
    ) -> Erased:
        """Forgets a document with its history, or every document of a scope. Clients learn of it as of any
        deletion: by a pull.

        Its log lines go, but for a deletion that says nothing of what was there, and the dead letters that
        hold it. Afterwards the file is written anew, so that no byte of the old values is left in it; writers
        wait for that (about two seconds for 100 MB), and it takes as much disk again for a while. What it
        cannot reach: other documents, backups, the messages with which pushes were refused, and the ids,
        which tombstones and stored results still name.

        Args:
            user: who asks, for the log.
            rewrite: False: leave old bytes in the file until they are overwritten; say True once, at the last
                of many.

        Raises:
            InvalidScope, InvalidRequest (only one of entity and id, or no name).
            UsageError: within a mutator or a write of this thread.
            DiskFull: the file cannot be written anew; the document is erased all the same.
            ReadOnly, StorageError.
        """
        return _keeping.erase(self._native, scope, entity, id, user, rewrite)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> Report:
        """Looks at everything that is stored, and names what is not as it must be: SQLite's own check, hashes
        of every version against the log, its chains, keys, encodings, cursors, heads, floors, epochs, clients
        and results. It reads one snapshot beside whatever runs; of a large, busy database verify a backup.

        Args:
            progress: called with (done, total) rows now and then; what it raises ends it.
        """
        return _verify.verify(self._native, progress)

    def upkeep(self) -> Upkeep:
        """What the background thread did since the engine was opened, and whether it failed."""
        return _keeping.upkeep(self._native)

    def handle(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
        body: bytes = b"",
        *,
        authenticate: Authenticate,
        authorize: Authorize,
        **hooks: Unpack[Hooks],
    ) -> Response:
        """Answers one HTTP request of the protocol; see `syncline.http.handle`."""
        from . import http

        return http.handle(
            self, method, path, headers, body, authenticate=authenticate, authorize=authorize, **hooks
        )

    def close(self) -> None:
        """Waits for what runs, and closes the database. May be called twice.

        Raises:
            UsageError: within a mutator or a write of this thread.
        """
        self._runner.check_task()
        self._native.check_not_writing()
        for subscription in list(self._subscriptions):
            subscription.close()
        if self._finalize.alive and not self._native.read_only:
            self._feeds.close(self._native)
        if self._finalize.alive:
            self._finalize()
            _log.info("closed %r", self._path, extra={"syncline_database": self._path})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Engine {self._path!r}{'' if self._finalize.alive else ' closed'}>"

    def _repr_html_(self) -> str:
        from . import _html

        return _html.engine(self)

    def __reduce__(self) -> str:
        raise UsageError(
            "an engine cannot be pickled; open the database where it is used, or use syncline.connect(url)"
        )


def _shut_down(native: _core.Engine, runner: Runner, upgrades: Upgrades, pid: int) -> None:
    # In a forked child there is nothing to end: the threads, and the file, are the parent's.
    if os.getpid() != pid:
        return
    upgrades.stop()
    runner.stop()
    native.close()


def _seconds(timeout: float | None, name: str = "timeout") -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise UsageError(f"{name} must be a number of seconds, not {timeout!r}")
    return float(timeout)


def _entered(native: _core.Write, scopes: Sequence[str]) -> Any:
    txs = native.txs
    return txs[0] if len(scopes) == 1 else tuple(txs)


class Write(Generic[_T]):
    """What `engine.write` returns: a `with` block is the write. Used once."""

    def __init__(
        self, native: _core.Engine, scopes: tuple[str, ...], user: str | None, timeout: float | None
    ) -> None:
        self._engine = native
        self._scopes = scopes
        self._user = user
        self._timeout = timeout
        self._write: _core.Write | None = None
        self._used = False

    def __enter__(self) -> _T:
        if self._used:
            raise UsageError("this write was used already; call engine.write again")
        self._write = self._engine.write(self._scopes, self._user, self._timeout, None)
        if self._write is None:
            raise Timeout(f"the write was withdrawn: its turn did not come within {self._timeout} s")
        self._used = True
        entered: _T = _entered(self._write, self._scopes)
        return entered

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        write, self._write = self._write, None
        assert write is not None
        if kind is None:
            write.commit()
        else:
            write.rollback()


class WriteAsync(Generic[_T]):
    """What `engine.write_async` returns: an `async with` block is the write. Used once."""

    def __init__(
        self, runner: Runner, scopes: tuple[str, ...], user: str | None, timeout: float | None
    ) -> None:
        self._runner = runner
        self._scopes = scopes
        self._user = user
        self._timeout = timeout
        self._write: AsyncWrite | None = None

    async def __aenter__(self) -> _T:
        if self._write is not None:
            raise UsageError("this write was used already; call engine.write_async again")
        self._write = AsyncWrite(self._runner, self._scopes, self._user, self._timeout)
        entered: _T = _entered(await self._write.begin(), self._scopes)
        return entered

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._write is not None
        await self._write.end(commit=kind is None)
