"""Commands for those who keep an engine running: what `syncline` runs on a file, and a server at
`/_sync/admin/...` for whom its `admin` hook allows.

Each is a function `(engine, args)` whose dataclasses say what it takes and what it answers; they are checked,
and described in the OpenAPI document, out of this table alone.
"""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, TypeAlias

from ._validate import validator_for
from .errors import InvalidMutation, InvalidRequest, UsageError
from .retention import Compaction, Erased
from .verify import Checked, Problem

if TYPE_CHECKING:
    from .dead_letters import DeadLetter
    from .engine import Engine

__all__ = ["COMMANDS", "Command", "letter_fields", "path_of", "rfc3339"]

_Function: TypeAlias = "Callable[[Engine, Any], object]"


@dataclasses.dataclass(frozen=True)
class Command:
    """One of them.

    Attributes:
        name: such as "compact".
        summary: what it does, in a sentence.
        takes, answers: the dataclasses of its arguments and of its answer.
    """

    name: str
    summary: str
    function: _Function
    takes: type
    answers: type

    def run(self, engine: Engine, given: Mapping[str, object]) -> dict[str, Any]:
        """Checks the arguments and runs it.

        Raises:
            InvalidRequest: an argument is missing, unknown or none.
            Whatever the engine raises.
        """
        validate = validator_for(self.function, self.name)
        assert validate is not None
        try:
            arguments = validate(dict(given))
        except InvalidMutation as error:
            raise InvalidRequest(error.message) from None
        answer = self.function(engine, arguments)
        return dataclasses.asdict(typing.cast("Any", answer))


COMMANDS: dict[str, Command] = {}


def path_of(command: str) -> str:
    """Where a server has it."""
    return f"/_sync/admin/{command}"


def _command(name: str) -> Callable[[_Function], _Function]:
    def add(function: _Function) -> _Function:
        hints = typing.get_type_hints(function, {**globals(), "Engine": object})
        COMMANDS[name] = Command(
            name, (function.__doc__ or "").partition("\n")[0], function, hints["args"], hints["return"]
        )
        return function

    return add


@dataclasses.dataclass(frozen=True)
class Nothing:
    """No arguments."""


# ----------------------------------------------------------------------------------------------- statistics


@dataclasses.dataclass(frozen=True)
class Statistics:
    """See `syncline.Stats`."""

    stats: dict[str, object]
    health: dict[str, object]


@_command("stats")
def _stats(engine: Engine, args: Nothing) -> Statistics:
    """What the engine did since it was opened, and what its database holds."""
    return Statistics(dataclasses.asdict(engine.stats()), engine.health())


# ---------------------------------------------------------------------------------------------------- import


@dataclasses.dataclass(frozen=True)
class Row:
    """A document; `data` null: it goes."""

    scope: str
    entity: str
    id: str
    data: dict[str, Any] | None


@dataclasses.dataclass(frozen=True)
class Import:
    rows: list[Row]


@dataclasses.dataclass(frozen=True)
class Imported:
    """How many documents are as they were given now."""

    rows: int
    head: int


@_command("import")
def _import(engine: Engine, args: Import) -> Imported:
    """Puts documents in place, whatever was there, in one commit."""
    scopes = tuple(dict.fromkeys(row.scope for row in args.rows))
    if scopes:
        write: Any = engine.write(*scopes)  # one tx for one scope, a tuple of them for several
        with write as entered:
            txs = dict(zip(scopes, entered if len(scopes) > 1 else (entered,), strict=True))
            for row in args.rows:
                if row.data is None:
                    txs[row.scope].delete(row.entity, row.id)
                else:
                    txs[row.scope].set(row.entity, row.id, row.data)
    return Imported(len(args.rows), engine.head)


# --------------------------------------------------------------------------------------------------- keeping


@dataclasses.dataclass(frozen=True)
class Compact:
    """An age in seconds, or a cursor after which everything is kept; neither: the retention's own."""

    keep_seconds: float | None = None
    keep_after: int | None = None


@_command("compact")
def _compact(engine: Engine, args: Compact) -> Compaction:
    """Forgets history and tombstones that need not be kept."""
    if args.keep_seconds is not None and args.keep_after is not None:
        raise InvalidRequest("give keep_seconds or keep_after, not both")
    keep: Any = args.keep_after if args.keep_seconds is None else timedelta(seconds=args.keep_seconds)
    try:
        return engine.compact(keep)
    except UsageError as error:
        raise InvalidRequest(error.message) from None


@dataclasses.dataclass(frozen=True)
class Found:
    """See `syncline.Report`."""

    problems: list[Problem]
    found: int
    checked: Checked


@_command("verify")
def _verify(engine: Engine, args: Nothing) -> Found:
    """Checks every stored invariant, and names what is wrong."""
    report = engine.verify()
    return Found(list(report.problems), report.found, report.checked)


@dataclasses.dataclass(frozen=True)
class Erase:
    """A document, or without `entity` and `id` a whole scope."""

    scope: str
    entity: str | None = None
    id: str | None = None
    rewrite: bool = True


@_command("erase")
def _erase(engine: Engine, args: Erase) -> Erased:
    """Forgets a document with its history, or every document of a scope."""
    if args.entity is None and args.id is None:
        return engine.erase(args.scope, rewrite=args.rewrite)
    if args.entity is None or args.id is None:
        raise InvalidRequest("entity and id come together, or neither")
    return engine.erase(args.scope, args.entity, args.id, rewrite=args.rewrite)


@dataclasses.dataclass(frozen=True)
class PositionsOf:
    scope: str | None = None


@dataclasses.dataclass(frozen=True)
class Positions:
    """See `syncline.Position`; `last_seen` in RFC 3339."""

    positions: list[dict[str, object]]


@_command("positions")
def _positions(engine: Engine, args: PositionsOf) -> Positions:
    """Up to where each client has its scopes, and how far behind it is."""
    return Positions(
        [
            {**dataclasses.asdict(one), "last_seen": rfc3339(one.last_seen)}
            for one in engine.positions(args.scope)
        ]
    )


# ----------------------------------------------------------------------------------------------- dead letters


@dataclasses.dataclass(frozen=True)
class LettersAfter:
    """Those after an id, at most `limit`."""

    after: int = 0
    limit: int = 100


@dataclasses.dataclass(frozen=True)
class Letters:
    """See `syncline.DeadLetter`; `dropped` went unread."""

    letters: list[dict[str, Any]]
    dropped: int


def letter_fields(letter: DeadLetter) -> dict[str, Any]:
    """A dead letter as the commands tell it."""
    told = dataclasses.asdict(letter)
    return {**told, **{name: rfc3339(told[name]) for name in ("ts", "at", "tried_at")}}


@_command("dead-letters")
def _dead_letters(engine: Engine, args: LettersAfter) -> Letters:
    """Mutations whose mutator failed of its own code, oldest first."""
    later = (letter for letter in engine.dead_letters if letter.id > args.after)
    return Letters(
        [letter_fields(one) for one in itertools.islice(later, max(0, args.limit))],
        engine.dead_letters.dropped,
    )


@dataclasses.dataclass(frozen=True)
class LetterId:
    id: int


@dataclasses.dataclass(frozen=True)
class Letter:
    letter: dict[str, Any]


@_command("dead-letters/show")
def _show_letter(engine: Engine, args: LetterId) -> Letter:
    """A dead letter with its arguments and traceback."""
    return Letter(letter_fields(engine.dead_letters[args.id]))


@dataclasses.dataclass(frozen=True)
class Retried:
    """`code` and `message` of its refusal, where it is not `ok`."""

    ok: bool
    cursor: int
    code: str | None
    message: str | None


@_command("dead-letters/retry")
def _retry_letter(engine: Engine, args: LetterId) -> Retried:
    """Runs the mutation of a dead letter again, as backend code."""
    result = engine.dead_letters.retry(args.id)
    error = result.error
    return Retried(
        result.ok,
        result.cursor,
        None if error is None else error.code,
        None if error is None else error.message,
    )


@dataclasses.dataclass(frozen=True)
class Discarded:
    discarded: bool


@_command("dead-letters/discard")
def _discard_letter(engine: Engine, args: LetterId) -> Discarded:
    """Forgets a dead letter."""
    return Discarded(engine.dead_letters.discard(args.id))


def rfc3339(ts: datetime) -> str:
    """A time in UTC, as the protocol writes it."""
    return ts.astimezone(timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
