"""What keeps a database bounded: how long history, tombstones, positions and dead letters are kept.

`Engine(retention=Retention(...))` says it, a thread of the core keeps to it in short steps, `engine.compact`
does so at once, and `engine.erase` forgets a document, or a scope, wholly.
"""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta, timezone

from . import _core
from .errors import UsageError

__all__ = ["Compaction", "Erased", "Position", "Retention", "Upkeep"]

_MICROSECOND = timedelta(microseconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclasses.dataclass(frozen=True)
class Retention:
    """How long what is kept. An age of None means for ever. With the defaults a database that is left alone
    stops growing.

    Attributes:
        history: age of log lines: how far back `engine.log`, `engine.history` and `engine.at` reach.
        tombstones: age of what is left of a deleted document, an hour at least; it stays as long as its
            document's last log line. A client that comes back later is `CursorTooOld` and pulls from 0.
        positions: since a client was last seen; then its positions are forgotten.
        dead_letters: age of the letters.
        max_positions, max_dead_letters: beyond these the oldest go.
        hold_for_clients: tombstones that a client with a position has not pulled yet are kept up to this age,
            though `tombstones` is less; None: they are not held for anyone.
        hold_for_feeds: log lines that a feed has not read yet are kept up to this age, though `history` is
            less; None: they are not held.
        interval: between two rounds of the background thread; None: there is no thread, call
            `engine.compact()`.

    Raises:
        UsageError: one of them is negative, or of another type.
    """

    history: timedelta | None = timedelta(days=30)
    tombstones: timedelta | None = timedelta(days=30)
    positions: timedelta | None = timedelta(days=90)
    dead_letters: timedelta | None = timedelta(days=30)
    max_positions: int = 100_000
    max_dead_letters: int = 1000
    hold_for_clients: timedelta | None = None
    hold_for_feeds: timedelta | None = timedelta(days=90)
    interval: timedelta | None = timedelta(minutes=1)

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.startswith("max_"):
                if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                    raise UsageError(f"{field.name} must be a number of at least 0, not {value!r}")
            elif value is not None and (not isinstance(value, timedelta) or value < timedelta(0)):
                raise UsageError(
                    f"{field.name} must be a timedelta that is not negative, or None, not {value!r}"
                )
        if self.interval is not None and self.interval < timedelta(milliseconds=1):
            raise UsageError("interval must be at least a millisecond; None: no thread")

    def _native(self) -> _core.Retention:
        def age(value: timedelta | None) -> int | None:
            return None if value is None else value // _MICROSECOND

        return _core.Retention(
            history=age(self.history),
            tombstones=age(self.tombstones),
            positions=age(self.positions),
            dead_letters=age(self.dead_letters),
            max_positions=self.max_positions,
            max_dead_letters=self.max_dead_letters,
            hold_for_clients=age(self.hold_for_clients),
            hold_for_feeds=age(self.hold_for_feeds),
            interval=age(self.interval) or 0,
        )


@dataclasses.dataclass(frozen=True)
class Compaction:
    """How much was forgotten. `results` counts what clients' pushes had stored, one per client and push."""

    log_lines: int
    tombstones: int
    results: int
    positions: int
    dead_letters: int

    @property
    def total(self) -> int:
        return self.log_lines + self.tombstones + self.results + self.positions + self.dead_letters


@dataclasses.dataclass(frozen=True)
class Position:
    """Up to where a client has a scope, as its last pull that named a `client_id` said.

    Attributes:
        client_id, user, scope: whose, and of what; user None: nobody was named.
        cursor: that its last finished pull was told; 0: it has not finished one.
        last_seen: when it pulled last, in UTC.
        lag: by how much the scope's latest commit is ahead of it, in cursors; 0: it has everything.
    """

    client_id: str
    user: str | None
    scope: str
    cursor: int
    last_seen: datetime
    lag: int


@dataclasses.dataclass(frozen=True)
class Erased:
    """What `engine.erase` did.

    Attributes:
        documents: live ones, that became tombstones.
        tombstones: of documents deleted before, that lost their history.
        dead_letters: that held them.
        rewritten: no byte of the old values is left in the database's files. False though it was asked for:
            something still reads an old state; ask again when it has ended.
    """

    documents: int
    tombstones: int
    dead_letters: int
    rewritten: bool


@dataclasses.dataclass(frozen=True)
class Upkeep:
    """What the background thread did since the engine was opened.

    Attributes:
        rounds, failures: how many, and how many of them failed.
        last_error: of the last round; None: it went well.
        last_round_at: when it ended, in UTC; None: there was none yet.
        last_round_took: seconds.
        total: what it, and `engine.compact`, forgot.
    """

    rounds: int
    failures: int
    last_error: str | None
    last_round_at: datetime | None
    last_round_took: float
    total: Compaction


def _instant(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def compact(native: _core.Engine, keep: timedelta | int | None) -> Compaction:
    age: int | None = None
    after: int | None = None
    if isinstance(keep, timedelta):
        age = keep // _MICROSECOND
    elif isinstance(keep, int) and not isinstance(keep, bool):
        after = keep
    elif keep is not None:
        raise UsageError(f"keep must be a timedelta or a cursor, not {type(keep).__name__}")
    if (age is not None and age < 0) or (after is not None and after < 0):
        raise UsageError("keep must not be negative")
    return Compaction(**native.keep(age, after))


def positions(native: _core.Engine, scope: str | None) -> list[Position]:
    return [
        Position(client_id, user, of, cursor, _instant(last_seen), lag)
        for client_id, user, of, cursor, last_seen, lag in native.positions(scope)
    ]


def erase(
    native: _core.Engine, scope: str, entity: str | None, id: str | None, user: str | None, rewrite: bool
) -> Erased:
    done = native.erase(scope, entity, id, user, rewrite)
    return Erased(done["documents"], done["tombstones"], done["dead_letters"], bool(done["rewritten"]))


def upkeep(native: _core.Engine) -> Upkeep:
    told = native.keeping()
    return Upkeep(
        rounds=told["rounds"],
        failures=told["failures"],
        last_error=told["last_error"] or None,
        last_round_at=_instant(told["last_round_at"]) if told["last_round_at"] else None,
        last_round_took=told["last_round_took"] / 1e6,
        total=Compaction(**told["total"]),
    )
