"""The after-commit feed: what was committed, in order, for search indexes, webhooks and audits.

    for commit in engine.feed("search-index"):
        for change in commit.changes:
            index.put(change.id, change.data)

A feed reads the changelog from a durable position that its name has. The position moves when the consumer
comes back for the next commit, so each is delivered **at least once**: what a loop was busy with when it
broke off, or when the process died, comes again. It is saved in batches, at the latest a second behind
(`save_every`), so after a crash a second's worth of commits may come again as well; `feed.done()` saves at
once. A consumer must therefore not mind a commit that it has seen, which `commit.cursor` tells.

A commit is one mutation, or one write of backend code, whole: its changes, and who made them. Waiting for
the next one is no polling: the commit itself wakes it. One consumer at a time has a name; another one is
refused. History that a feed has not read yet is held back from compaction, for a time; where it went all the
same, the feed raises `HistoryGone` instead of skipping what it would have told. Of a document that was erased
only its deletion is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from . import _core
from ._inbox import Waking
from .errors import Closed, Error, HistoryGone, InvalidRequest, ReadOnly, UsageError

if TYPE_CHECKING:
    from typing import TypeAlias

    from .engine import Engine

__all__ = ["Commit", "Feed", "FeedChange", "FeedInfo"]

_log = logging.getLogger("syncline.feed")

_SCOPE = "_feeds"
_ENTITY = "feed"
_CHUNK = 512  # lines read ahead
_SAVE_COMMITS = 1000  # saved at the latest after so many

Start: TypeAlias = "Literal['begin', 'now'] | int"


class FeedChange:
    """What a commit did to one document.

    Attributes:
        cursor, scope, entity, id, version: of the change.
        op: "create", "update" or "delete".
    """

    __slots__ = ("_body", "_line", "cursor", "entity", "id", "op", "scope", "version")
    __match_args__ = ("op", "entity", "id", "data")

    def __init__(self, line: _core.LogLine, body: bytes | None) -> None:
        self._line = line
        self._body = body
        self.cursor: int = line.cursor
        self.scope: str = line.scope
        self.entity: str = line.entity
        self.id: str = line.id
        self.op: Literal["create", "update", "delete"] = line.op
        self.version: int = line.version

    @property
    def data(self) -> dict[str, Any] | None:
        """The document as this change left it, decoded anew each time; None: deleted."""
        document: dict[str, Any] | None = None if self._body is None else _core.unpackb(self._body)
        return document

    @property
    def changes(self) -> Any:
        """Field path -> (old, new) of an update; as `LogLine.changes`."""
        return self._line.changes

    @property
    def hash(self) -> int:
        return self._line.hash

    def __repr__(self) -> str:
        return f"<FeedChange {self.op} {self.entity}/{self.id} in {self.scope!r} at {self.cursor}>"


@dataclasses.dataclass(slots=True)
class Commit:
    """One mutation, or one write of backend code, as it was committed.

    Attributes:
        cursor: of its last change: rises from commit to commit.
        scope: where it wrote; a write over several scopes has them all in `scopes`, in order of its changes.
        user: whose; None: nobody's.
        client_id, client_seq: the client's mutation; None: backend code.
        mutation: the mutator's name; None: a direct write.
        ts: when, by the server's clock, in UTC.
        changes: what it did, in order; each document once.
    """

    cursor: int
    scope: str
    user: str | None
    client_id: str | None
    client_seq: int | None
    mutation: str | None
    ts: datetime
    changes: list[FeedChange]

    @property
    def scopes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(change.scope for change in self.changes))


@dataclasses.dataclass(frozen=True)
class FeedInfo:
    """A feed as the database knows it.

    Attributes:
        name: its name.
        cursor: up to where its consumer is done.
        lag: how far the database's head is beyond that, in cursors: 0 when it has seen everything.
        active: a consumer of this process has it now.
    """

    name: str
    cursor: int
    lag: int
    active: bool


class Feed(Waking):
    """What `engine.feed` returns: to iterate over, by one thread or one task. Use it in a `with` block, or
    `close` it, where something else may want the name later.

    A loop begins where the last commit is that was done with: what an earlier loop broke off at comes again.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        scopes: Iterable[str] | None,
        start: Start,
        follow: bool,
        save_every: float,
    ) -> None:
        if not isinstance(name, str):
            raise UsageError(f"a feed's name must be a str, not {type(name).__name__}")
        if engine._native.read_only:
            raise ReadOnly("a feed keeps its position in the database, which was opened with read_only=True")
        super().__init__()
        self._engine = engine
        self._native = engine._native
        self._name = name
        self._scopes = _scopes(scopes)
        self._follow = follow
        self._save_every = save_every
        self._using = threading.Lock()
        self._poked = False
        self._position = 0  # done up to here
        self._saved = -1
        self._unsaved = 0  # commits
        self._unsaved_since = 0.0
        self._given: Commit | None = None  # the consumer is busy with it
        self._ahead: deque[Commit] = deque()
        self._read = 0  # read ahead up to here
        self._log: _core.Log | None = None
        self._next: _core.LogLine | None = None
        self._ended = True
        engine._feeds.claim(self, name)
        try:
            self._open(start)
        except BaseException:
            engine._feeds.release(self)
            raise
        self._ended = False

    def _open(self, start: Start) -> None:
        head = self._native.head()
        if isinstance(start, bool) or not (start in ("begin", "now") or isinstance(start, int)):
            raise UsageError(f'start must be "begin", "now" or a cursor, not {start!r}')
        stored = _positions(self._native).get(self._name)
        if stored is not None:
            self._saved = stored
            self._position = max(stored, self._engine._feeds.left.get(self._name, 0))
        else:
            self._position = 0 if start == "begin" else head if start == "now" else int(start)
            if not 0 <= self._position <= head:
                raise InvalidRequest(f"a feed cannot start at {start}: the database's head is {head}")
            self._save()
        self._read = self._position

    # ------------------------------------------------------------------------------------------- state

    @property
    def name(self) -> str:
        return self._name

    @property
    def cursor(self) -> int:
        """Up to where the consumer is done."""
        return self._position

    @property
    def lag(self) -> int:
        """How far the database's head is beyond that; 0: it has seen everything."""
        return max(0, self._native.head() - self._position)

    def done(self) -> None:
        """The commit that was given last is done with; and the position is saved now, before it returns.
        Raises `UsageError` within a mutator or a write of this thread."""
        self._engine._check_task()
        with self._alone():
            self._settle()
            self._save()

    def close(self) -> None:
        """Saves the position and ends the feed: who waits in it is woken, and the name is free. May be called
        twice, and on any thread. The commit that was given last comes again, unless `done()` was said."""
        with self._ready:
            self._closed = True
            self._wake()
        self._end()

    def _end(self) -> None:
        # Whoever is inside comes out soon, and ends it then.
        if not self._using.acquire(blocking=False):
            return
        try:
            if self._ended:
                return
            self._ended = True
            self._engine._feeds.release(self)
            with contextlib.suppress(Closed):  # the engine was faster: what is not saved comes again
                self._save()
        finally:
            self._using.release()

    def __del__(self) -> None:
        # Broken off, and forgotten. Any thread may be here, at any moment: nothing may be waited for.
        if not getattr(self, "_ended", True):
            self._engine._feeds.release(self)

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Feed {self._name!r} at {self._position}{' closed' if self._closed else ''}>"

    # --------------------------------------------------------------------------------------- iteration

    def get(self, timeout: float | None = None) -> Commit | None:
        """The next commit, and the one before is done with. Waits for it, at most `timeout` seconds; None:
        none came.

        Raises:
            HistoryGone: what it would have told next was compacted away.
            Closed: the feed, or its engine, was closed.
            UsageError: another thread is in it, or this one is within a mutator or a write.
        """
        until = None if timeout is None else time.monotonic() + timeout
        with self._alone():
            self._settle()
            while True:
                commit = self._take()
                if commit is not None:
                    return commit
                left = None if until is None else until - time.monotonic()
                if left is not None and left <= 0:
                    return None
                due = self._due()
                with self._ready:
                    if not self._poked and not self._closed:
                        self._ready.wait(_soonest(left, due))

    def __iter__(self) -> Iterator[Commit]:
        self._rewind()
        return self

    def __next__(self) -> Commit:
        try:
            commit = self.get(None if self._follow else 0)
        except Closed:
            raise StopIteration from None
        if commit is None:
            self._caught_up()
            raise StopIteration
        return commit

    def __aiter__(self) -> AsyncIterator[Commit]:
        self._rewind()
        return self

    async def __anext__(self) -> Commit:
        with self._alone():
            self._settle()
            while True:
                try:
                    if not self._ahead or self._closed or self._must_save():
                        await _beside(self._prepare)
                    commit = self._take()
                except Closed:
                    raise StopAsyncIteration from None
                if commit is not None:
                    return commit
                if not self._follow:
                    await _beside(self._save)
                    raise StopAsyncIteration
                due = self._due()
                with self._ready:
                    if self._poked or self._closed:
                        continue
                    sleeper = self._enlist()
                await self._sleep(sleeper, due)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._using.acquire(blocking=False):
            raise UsageError(
                f"another thread or task is in the feed {self._name!r}; one at a time follows it"
            )
        try:
            yield
        finally:
            self._using.release()
            if self._closed:
                self._end()

    def _rewind(self) -> None:
        """What was given and not done with comes again."""
        with self._alone():
            if self._given is not None:
                self._ahead.appendleft(self._given)
                self._given = None

    def _settle(self) -> None:
        """The consumer came back: what it was given is done with."""
        if self._given is not None:
            self._advance(self._given.cursor)
            self._given = None

    def _take(self) -> Commit | None:
        """The next commit, if there is one."""
        if not self._ahead or self._closed or self._must_save():
            self._prepare()
        if not self._ahead:
            return None
        self._given = self._ahead.popleft()
        return self._given

    def _must_save(self) -> bool:
        return self._unsaved >= _SAVE_COMMITS or self._due() == 0

    def _prepare(self) -> None:
        """Saves the position where that is due, and reads ahead where nothing is left."""
        if self._closed:
            raise Closed(f"the feed {self._name!r} is closed")
        if self._must_save():
            self._save()
        if self._ahead:
            return
        with self._ready:
            self._poked = False
        self._fill()
        if not self._ahead:
            # Nothing of what came since concerns it: it is done with that as well.
            self._advance(self._read)

    def _advance(self, cursor: int) -> None:
        if cursor <= self._position:
            return
        self._position = cursor
        if self._unsaved == 0:
            self._unsaved_since = time.monotonic()
        self._unsaved += 1

    def _due(self) -> float | None:
        """Seconds until the position is to be saved; None: it is."""
        if self._unsaved == 0:
            return None
        return max(0.0, self._unsaved_since + self._save_every - time.monotonic())

    def _caught_up(self) -> None:
        with self._alone():
            self._save()

    def _save(self) -> None:
        if self._saved == self._position:
            self._unsaved = 0
            return
        position = self._position
        _core.put_note(self._native, _SCOPE, _ENTITY, self._name, {"cursor": position})
        self._saved = position
        self._unsaved = 0

    def _fill(self) -> None:
        """Reads ahead: whole mutations, with the bodies that they left."""
        began = self._read
        tries = 0
        while True:
            try:
                lines = self._next_lines()
                bodies = _core.bodies(self._native, lines)
                error = None
            except HistoryGone as gone:
                error = gone
            except BaseException:
                self._again_from(began)
                raise
            # Whatever was purged before it could be read has raised this by now.
            floor = _core.log_floor(self._native, self._scopes)
            if began < floor:
                self._again_from(began)
                raise self._gone(began, floor)
            if error is None:
                break
            # A document was erased between its lines and its body: without them it is told as it is now.
            self._again_from(began)
            tries += 1
            if tries == 3:
                raise error
        commit: Commit | None = None
        mutation: tuple[str | None, int] | None = None
        for line, body in zip(lines, bodies, strict=True):
            change = FeedChange(line, body)
            if commit is None or line._origin != mutation:
                mutation = line._origin
                commit = Commit(
                    line.cursor,
                    line.scope,
                    line.user,
                    line.client_id,
                    line.client_seq,
                    line.mutation,
                    line.ts,
                    [],
                )
                self._ahead.append(commit)
            commit.changes.append(change)
            commit.cursor = line.cursor

    def _again_from(self, cursor: int) -> None:
        self._log = None
        self._read = cursor

    def _next_lines(self) -> list[_core.LogLine]:
        """A chunk of lines that ends where a mutation ends."""
        if self._log is None:
            self._log = _core.Log(
                self._native,
                since=self._read,
                through=None,
                scope=self._scopes[0] if len(self._scopes) == 1 else None,
                entity=None,
                id=None,
                client_id=None,
                newest_first=False,
                limit=None,
            )
            self._next = next(self._log, None)
        lines: list[_core.LogLine] = []
        wanted = frozenset(self._scopes)
        line = self._next
        while line is not None and (len(lines) < _CHUNK or line._origin == lines[-1]._origin):
            if not wanted or line.scope in wanted:
                lines.append(line)
            line = next(self._log, None)
        self._next = line
        if line is not None:
            self._read = line.cursor - 1
        else:
            self._read = self._log.through
            self._log = None
        return lines

    def _gone(self, position: int, floor: int) -> HistoryGone:
        return HistoryGone(
            f"the feed {self._name!r} stands at cursor {position}, and the history up to {floor} was "
            "compacted away: it would skip what happened there. Rebuild what it feeds from the documents; "
            f"then engine.forget_feed({self._name!r}), and engine.feed(..., start=) with their cursor",
            details={"floor": floor},
        )

    # ---------------------------------------------------------------------------------------- waking

    def _poke(self) -> None:
        with self._ready:
            self._poked = True
            self._wake()


class Feeds:
    """The feeds that have a consumer in this process, by name; told of each commit."""

    def __init__(self) -> None:
        # A feed may be forgotten, and so released, at any moment of the thread that holds it.
        self._lock = threading.RLock()
        self._active: dict[str, weakref.ref[Feed]] = {}
        # Where a feed was when it ended, which it had perhaps no chance to save.
        self.left: dict[str, int] = {}

    def claim(self, feed: Feed, name: str) -> None:
        with self._lock:
            if name in self._active:
                raise UsageError(
                    f"the feed {name!r} has a consumer already, and each of two would get half of the "
                    "commits. Close that one, or give this one another name"
                )
            self._active[name] = weakref.ref(feed)

    def release(self, feed: Feed) -> None:
        with self._lock:
            held = self._active.get(feed.name)
            # By the time a feed is forgotten its reference is dead already.
            if held is not None and held() in (feed, None):
                del self._active[feed.name]
                self.left[feed.name] = feed.cursor

    def close(self, native: _core.Engine) -> None:
        """Ends the feeds and saves what they left behind, before the database is closed. A disk that fails
        keeps nobody from closing: what is not saved is told again."""
        for feed in self.all():
            with contextlib.suppress(Error):
                feed.close()
        try:
            stored = _positions(native) if self.left else {}
            for name, cursor in self.left.items():
                if stored.get(name, cursor) < cursor:
                    _core.put_note(native, _SCOPE, _ENTITY, name, {"cursor": cursor})
        except Error:
            _log.exception("the positions of feeds could not be saved")

    def all(self) -> list[Feed]:
        with self._lock:
            held = [one() for one in self._active.values()]
        return [one for one in held if one is not None]

    def poke(self) -> None:
        for feed in self.all():
            feed._poke()


def feeds(native: _core.Engine, active: Feeds) -> list[FeedInfo]:
    """Every feed that the database knows, by name."""
    head = native.head()
    cursors = {name: max(cursor, active.left.get(name, 0)) for name, cursor in _positions(native).items()}
    live = {one.name: one for one in active.all()}
    cursors.update({name: one.cursor for name, one in live.items()})
    return [
        FeedInfo(name, cursor, max(0, head - cursor), name in live)
        for name, cursor in sorted(cursors.items())
    ]


def forget(native: _core.Engine, active: Feeds, name: str) -> bool:
    """Whether there was one."""
    if any(one.name == name for one in active.all()):
        raise UsageError(f"the feed {name!r} has a consumer; close it first")
    if name not in _positions(native):
        return False
    _core.put_note(native, _SCOPE, _ENTITY, name, None)
    active.left.pop(name, None)
    return True


def _positions(native: _core.Engine) -> dict[str, int]:
    return {name: note["cursor"] for name, note in _core.notes(native, _SCOPE, _ENTITY)}


def _scopes(scopes: Iterable[str] | None) -> tuple[str, ...]:
    if scopes is None:
        return ()
    names = tuple(dict.fromkeys(scopes)) if not isinstance(scopes, str) else ()
    if not names or not all(isinstance(one, str) for one in names):
        raise UsageError("scopes takes a list of scopes: scopes=['list:1']; None means all")
    for one in names:
        if one.startswith("_"):
            raise UsageError(f"the scope {one!r} is reserved, and no feed tells of it")
    return names


async def _beside(work: Callable[[], None]) -> None:
    """Runs what waits for the disk, or for the write's turn, beside the event loop."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        # It works on the feed, which is nobody else's until it has ended.
        await asyncio.wait((running,))
        raise


def _soonest(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)
