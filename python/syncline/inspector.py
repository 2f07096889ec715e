"""The inspector at `/_sync/inspect`: a page for those who keep an engine running, and what it asks for.

The page is static (`web/inspect/`) and anybody's; what it shows comes by the questions below, which only
read. Each is a function `(engine, args)` whose dataclasses say what it takes and what it answers; they are
checked, and described in the OpenAPI document, out of the table `QUESTIONS` alone.

Who asks must please the `inspect` hook, and of scopes is told what `authorize` lets it read: a question that
names a scope is refused without that, rows of other scopes are left out of the answers.

Values are told as the JSON text that the protocol has for them, cut at a stated length: what a browser's
numbers cannot hold is shown as it is, and no answer grows with what is stored. Every list is bounded too, and
every look into the log.
"""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from . import _core
from ._validate import validator_for
from .admin import rfc3339
from .errors import InvalidMutation, InvalidRequest, NotFound
from .history import ABSENT

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["HEADERS", "MENDING", "PARTS", "QUESTIONS", "Part", "Pulse", "Question", "path_of"]

# What is asked about the admin hook's commands, so that the page shows only buttons that work.
MENDING = ("dead-letters/retry", "dead-letters/discard")

_MOST_ROWS = 200
# Characters of a value: in a list, in one document's fields, and of one field that was asked for whole.
_IN_LIST = 160
_IN_FIELD = 2_000
_WHOLE = 1 << 20
_MOST_FIELDS = 200
_MOST_CHANGES = 20
_MOST_VERSIONS = 500
# Cursors that one look into the log walks over at most, whatever it finds: so many take 0.07 s.
_LOG_WINDOW = 1_000_000
# Rows of a scope that are counted: in a list of scopes, and of one of them.
_COUNT_IN_LIST = 2_000
_COUNT = 200_000

_Function: TypeAlias = "Callable[[Engine, Any], object]"


@dataclasses.dataclass(frozen=True)
class Question:
    """One of them.

    Attributes:
        name: such as "log".
        summary: what it answers, in a sentence.
        takes, answers: the dataclasses of its arguments and of its answer. An argument `scope` that is given
            must be readable; of an answer's `rows` those are told whose `scope` is, and so must be a `scope`
            of the answer itself.
    """

    name: str
    summary: str
    function: _Function
    takes: type
    answers: type

    def arguments(self, given: Mapping[str, object]) -> Any:
        """Checks them. Raises `InvalidRequest`."""
        validate = validator_for(self.function, self.name)
        assert validate is not None
        try:
            return validate(dict(given))
        except InvalidMutation as error:
            raise InvalidRequest(error.message) from None


QUESTIONS: dict[str, Question] = {}


def path_of(question: str) -> str:
    """Where a server has it."""
    return f"/_sync/inspect/{question}"


def _question(name: str) -> Callable[[_Function], _Function]:
    def add(function: _Function) -> _Function:
        hints = typing.get_type_hints(function, {**globals(), "Engine": object})
        summary = (function.__doc__ or "").partition("\n")[0]
        QUESTIONS[name] = Question(name, summary, function, hints["args"], hints["return"])
        return function

    return add


def _limit(limit: int, most: int = _MOST_ROWS) -> int:
    if not 1 <= limit <= most:
        raise InvalidRequest(f"limit must be from 1 to {most}, not {limit}")
    return limit


@dataclasses.dataclass(frozen=True)
class Text:
    """Text that may be cut; `size` is its whole length in characters."""

    text: str
    size: int


def _cut(text: str, most: int) -> Text:
    return Text(text[:most], len(text))


def _json(value: object, most: int) -> Text:
    return _cut(_core.json_encode(value).decode(), most)


# ------------------------------------------------------------------------------------------------- the server


@dataclasses.dataclass(frozen=True)
class Nothing:
    """No arguments."""


@dataclasses.dataclass(frozen=True)
class Pulse:
    """`counters`, and those of the `live` channel (see `syncline.live.LiveStats`), count since the engine was
    opened, which was the beginning of `epoch`. The handler adds who asked, and which of `MENDING` the admin
    hook lets that user run."""

    now: str
    version: str
    epoch: str
    head: int
    waiting: int
    dead_letters: int
    counters: dict[str, int]
    live: dict[str, int]
    user: str = ""
    may: list[str] = dataclasses.field(default_factory=list)


_COUNTERS = (
    "pushes",
    "mutations",
    "duplicates",
    "refused",
    "commits",
    "changes",
    "pulls",
    "pulled_changes",
    "snapshots",
)


@_question("pulse")
def _pulse(engine: Engine, args: Nothing) -> Pulse:
    """The head and the counters: what changes each second, and costs nothing however much is stored."""
    told = engine._native.counters()
    return Pulse(
        now=rfc3339(datetime.now(timezone.utc)),
        version=_core.__version__,
        epoch=engine.epoch,
        head=told["head"],
        waiting=told["waiting"],
        dead_letters=_core.dead_letter_counts(engine._native)[0],
        counters={name: told[name] for name in _COUNTERS},
        live=dataclasses.asdict(engine._live.read()),
    )


@dataclasses.dataclass(frozen=True)
class MutatorRow:
    name: str
    calls: int
    failures: int
    seconds: float
    slowest: float


@dataclasses.dataclass(frozen=True)
class FeedRow:
    name: str
    lag: int


@dataclasses.dataclass(frozen=True)
class UpkeepRow:
    """See `syncline.Upkeep`; `forgotten` counts log lines, tombstones and the rest."""

    rounds: int
    failures: int
    last_error: str | None
    last_round_at: str | None
    last_round_took: float
    forgotten: dict[str, int]


@dataclasses.dataclass(frozen=True)
class HealthOf:
    """`count`: what the database holds, too, which costs a scan of its keys."""

    count: bool = False


@dataclasses.dataclass(frozen=True)
class Health:
    """See `syncline.Engine.health`; `holds` where it was asked for. Of mutators those that took longest."""

    database: str
    read_only: bool
    storage: dict[str, int]
    limits: dict[str, int]
    waiting: int
    mutators: list[MutatorRow]
    feeds: list[FeedRow]
    upkeep: UpkeepRow
    dead_letters: int
    dead_letters_dropped: int
    holds: dict[str, int] | None


@_question("health")
def _health(engine: Engine, args: HealthOf) -> Health:
    """Sizes, limits, mutators, feeds and upkeep."""
    told = engine.health()
    upkeep = engine.upkeep()
    mutators = [
        MutatorRow(name, calls, failures, seconds, slowest)
        for name, (calls, failures, seconds, slowest, _) in engine._native.mutator_times().items()
    ]
    letters, dropped, _ = _core.dead_letter_counts(engine._native)
    holds = None
    if args.count:
        counted = engine._native.stats()
        names = ("documents", "tombstones", "log_lines", "scopes", "clients", "results", "unlogged")
        holds = {name: counted[name] for name in names}
    return Health(
        database=f"{told['database']['kind']} {told['database']['version']}",
        read_only=engine._native.read_only,
        storage=told["storage"],
        limits=told["limits"],
        waiting=told["waiting"],
        mutators=sorted(mutators, key=lambda one: -one.seconds)[:_MOST_ROWS],
        feeds=[FeedRow(one.name, one.lag) for one in engine.feeds()[:_MOST_ROWS]],
        upkeep=UpkeepRow(
            upkeep.rounds,
            upkeep.failures,
            None if upkeep.last_error is None else upkeep.last_error[:_IN_FIELD],
            None if upkeep.last_round_at is None else rfc3339(upkeep.last_round_at),
            upkeep.last_round_took,
            dataclasses.asdict(upkeep.total),
        ),
        dead_letters=letters,
        dead_letters_dropped=dropped,
        holds=holds,
    )


# --------------------------------------------------------------------------------------- scopes and documents


@dataclasses.dataclass(frozen=True)
class ScopesOf:
    """Those whose name has `contains` in it, after that name."""

    contains: str = ""
    after: str = ""
    limit: int = 100


@dataclasses.dataclass(frozen=True)
class ScopeRow:
    """`documents` live ones; those at least, where it is not `exact`."""

    scope: str
    head: int
    floor: int
    log_floor: int
    documents: int
    exact: bool


@dataclasses.dataclass(frozen=True)
class Scopes:
    """`next`: after which name to go on; null: these were the last. `known`: how many scopes there are."""

    rows: list[ScopeRow]
    next: str | None
    known: int


@_question("scopes")
def _scopes(engine: Engine, args: ScopesOf) -> Scopes:
    """Scopes in order of name, with head, floors and how many documents they have."""
    limit = _limit(args.limit)
    every = engine.scopes()
    wanted = [one for one in every if args.contains in one.name and _after(one.name, args.after)]
    rows = []
    for one in wanted[:limit]:
        entities, exact = engine._native.contents(one.name, _COUNT_IN_LIST)
        rows.append(ScopeRow(one.name, one.head, one.floor, one.log_floor, sum(entities.values()), exact))
    return Scopes(rows, rows[-1].scope if len(wanted) > limit else None, len(every))


def _after(name: str, after: str) -> bool:
    return name.encode() > after.encode()  # the order of the store, not that of code points in UTF-16


@dataclasses.dataclass(frozen=True)
class ScopeOf:
    scope: str


@dataclasses.dataclass(frozen=True)
class EntityRow:
    entity: str
    documents: int


@dataclasses.dataclass(frozen=True)
class ScopeDetail:
    """`entities` of live documents; at least those, where it is not `exact`."""

    scope: str
    head: int
    floor: int
    log_floor: int
    entities: list[EntityRow]
    exact: bool


@_question("scope")
def _scope(engine: Engine, args: ScopeOf) -> ScopeDetail:
    """A scope with its entities, and how many documents each has."""
    entities, exact = engine._native.contents(args.scope, _COUNT)
    # Of any document of it, whether it is there or not: without a walk over all scopes.
    found = _core.find_out(engine._native, args.scope, "_", "_", None)
    if not found["scope_known"]:
        raise NotFound(f"nothing was ever written to a scope {args.scope!r}")
    rows = [EntityRow(*one) for one in itertools.islice(entities.items(), _MOST_ROWS)]
    exact = exact and len(entities) <= _MOST_ROWS
    head = engine.cursor(args.scope)
    return ScopeDetail(args.scope, head, found["floor"], found["log_floor"], rows, exact)


@dataclasses.dataclass(frozen=True)
class DocumentsOf:
    """Those of an entity whose id begins with `prefix`."""

    scope: str
    entity: str
    prefix: str = ""
    limit: int = 100


@dataclasses.dataclass(frozen=True)
class DocumentRow:
    id: str
    data: Text


@dataclasses.dataclass(frozen=True)
class Documents:
    """In byte order of id; `more`: a longer prefix finds them."""

    documents: list[DocumentRow]
    more: bool


@_question("documents")
def _documents(engine: Engine, args: DocumentsOf) -> Documents:
    """The live documents of an entity by id, each with the beginning of what it says."""
    limit = _limit(args.limit)
    with engine.read(args.scope) as view:
        found = view.scan(args.entity, prefix=args.prefix, limit=limit + 1)
    rows = [DocumentRow(id, _json(document, _IN_LIST)) for id, document in found[:limit]]
    return Documents(rows, len(found) > limit)


# ---------------------------------------------------------------------------------------- the log and history


@dataclasses.dataclass(frozen=True)
class Diff:
    """A field ("a.b": within a map) with its JSON before and after; null: it was not there."""

    field: str
    old: Text | None
    new: Text | None


@dataclasses.dataclass(frozen=True)
class LineRow:
    """A change; see `syncline.LogLine`. `changes` null: its line has none (a create, or what was erased);
    `more_changes`: so many fields are left out."""

    cursor: int
    scope: str
    entity: str
    id: str
    op: Literal["create", "update", "delete"]
    version: int
    ts: str
    user: str | None
    client_id: str | None
    client_seq: int | None
    mutation: str | None
    changes: list[Diff] | None
    more_changes: int


def _diffs(changes: Mapping[str, tuple[object, object]] | None, most: int) -> list[Diff] | None:
    if changes is None:
        return None
    return [
        Diff(field, *(None if side is ABSENT else _json(side, most) for side in sides))
        for field, sides in itertools.islice(changes.items(), _MOST_CHANGES)
    ]


def _line(line: _core.LogLine | _core.Version) -> LineRow:
    changes = line.changes
    return LineRow(
        cursor=line.cursor,
        scope=line.scope,
        entity=line.entity,
        id=line.id,
        op=line.op,
        version=line.version,
        ts=rfc3339(line.ts),
        user=line.user,
        client_id=line.client_id,
        client_seq=line.client_seq,
        mutation=line.mutation,
        changes=_diffs(changes, _IN_LIST),
        more_changes=max(0, len(changes or ()) - _MOST_CHANGES),
    )


@dataclasses.dataclass(frozen=True)
class LogOf:
    """Lines after `since` and up to `through`; null: up to the head."""

    scope: str | None = None
    entity: str | None = None
    id: str | None = None
    client_id: str | None = None
    since: int = 0
    through: int | None = None
    newest_first: bool = False
    limit: int = 100


@dataclasses.dataclass(frozen=True)
class Lines:
    """`after` and `through`: what was looked at, all lines of it are here. `begins`: the log begins after
    this cursor; what came before was forgotten."""

    rows: list[LineRow]
    after: int
    through: int
    begins: int
    head: int


@_question("log")
def _log(engine: Engine, args: LogOf) -> Lines:
    """Lines of the changelog: what was done to which document, when, by whom, by which mutation."""
    limit = _limit(args.limit)
    head = engine.head
    through = head if args.through is None else min(args.through, head)
    if args.since < 0 or through < 0:
        raise InvalidRequest("since and through are cursors, and not negative")
    if args.since > head:
        raise InvalidRequest(f"since is {args.since}, which lies in the future: the head is {head}")
    begins = _core.log_floor(engine._native, [] if args.scope is None else [args.scope])
    after = min(max(args.since, begins), through)
    if through - after > _LOG_WINDOW:
        if args.newest_first:
            after = through - _LOG_WINDOW
        else:
            through = after + _LOG_WINDOW
    lines = []
    if through > after:
        lines = list(
            engine.log(
                since=after if after > begins else 0,
                through=through,
                scope=args.scope,
                entity=args.entity,
                id=args.id,
                client_id=args.client_id,
                newest_first=args.newest_first,
                limit=limit + 1,
            )
        )
    if len(lines) > limit:
        del lines[limit]
        if args.newest_first:
            after = lines[-1].cursor - 1
        else:
            through = lines[-1].cursor
    return Lines([_line(one) for one in lines], after, through, begins, head)


@dataclasses.dataclass(frozen=True)
class DocumentOf:
    scope: str
    entity: str
    id: str
    limit: int = 50


@dataclasses.dataclass(frozen=True)
class DocumentHistory:
    """`versions`, newest first; `complete`: the oldest of them is the first; null: there are more. `begins`:
    of the scope's log, at or before this cursor lines were forgotten."""

    scope: str
    entity: str
    id: str
    state: Literal["live", "deleted", "unknown"]
    version: int
    cursor: int
    created: int
    head: int
    begins: int
    versions: list[LineRow]
    complete: bool | None
    words: str


@_question("document")
def _document(engine: Engine, args: DocumentOf) -> DocumentHistory:
    """A document's versions, with what changed in each."""
    limit = _limit(args.limit, _MOST_VERSIONS)
    told = engine.explain(args.scope, args.entity, args.id)
    versions: list[LineRow] = []
    complete: bool | None = False
    if told.state != "unknown" and told.logged:
        history = engine.history(args.scope, args.entity, args.id, limit=limit)
        versions = [_line(one) for one in history]
        complete = history.complete
        if complete is False and len(versions) == limit and versions[-1].version > 1:
            complete = None
    return DocumentHistory(
        scope=args.scope,
        entity=args.entity,
        id=args.id,
        state=told.state,
        version=told.version,
        cursor=told.cursor,
        created=told.created,
        head=told.head,
        begins=told.log_floor,
        versions=versions,
        complete=complete,
        words=str(told),
    )


@dataclasses.dataclass(frozen=True)
class StateOf:
    """`whole`: a field to tell up to its end, however long, and no other."""

    scope: str
    entity: str
    id: str
    cursor: int
    whole: str | None = None


@dataclasses.dataclass(frozen=True)
class Field:
    name: str
    value: Text


@dataclasses.dataclass(frozen=True)
class State:
    """`fields` null: there was no such document; `more_fields`: so many are left out."""

    cursor: int
    version: int
    fields: list[Field] | None
    more_fields: int


@_question("state")
def _state(engine: Engine, args: StateOf) -> State:
    """A document as it stood when that cursor was the head."""
    with engine.at(args.cursor) as past:
        document = past.get(args.scope, args.entity, args.id)
        version = past.version(args.scope, args.entity, args.id)
    if document is None:
        return State(args.cursor, 0, None, 0)
    if args.whole is not None:
        if args.whole not in document:
            raise NotFound(f"the document had no field {args.whole!r}")
        return State(
            args.cursor, version, [Field(args.whole, _json(document[args.whole], _WHOLE))], len(document) - 1
        )
    told = itertools.islice(document.items(), _MOST_FIELDS)
    fields = [Field(name, _json(value, _IN_FIELD)) for name, value in told]
    return State(args.cursor, version, fields, len(document) - len(fields))


# ---------------------------------------------------------------------------------------------------- clients


@dataclasses.dataclass(frozen=True)
class ClientsOf:
    scope: str | None = None
    order: Literal["lag", "last_seen"] = "lag"
    limit: int = 100


@dataclasses.dataclass(frozen=True)
class ClientRow:
    """A client's position in a scope; see `syncline.Position`. `last_seq`: of its last mutation that was
    answered (0: it never pushed), at `pushed_at`; `settled`: up to which number it has its answers on its
    disk (0: it never said so). What it has not sent yet only it knows."""

    client_id: str
    user: str | None
    scope: str
    cursor: int
    lag: int
    last_seen: str
    last_seq: int
    settled: int
    pushed_at: str | None


@dataclasses.dataclass(frozen=True)
class Clients:
    """`known`: how many positions there are."""

    rows: list[ClientRow]
    known: int


@_question("clients")
def _clients(engine: Engine, args: ClientsOf) -> Clients:
    """Up to where each client has its scopes: those that are furthest behind, or were seen last, first."""
    limit = _limit(args.limit)
    positions = engine.positions(args.scope)
    if args.order == "lag":
        positions.sort(key=lambda one: (-one.lag, one.scope, one.client_id))
    else:
        positions.sort(key=lambda one: (-one.last_seen.timestamp(), one.scope, one.client_id))
    rows = []
    for one in positions[:limit]:
        _, last_seq, settled, pushed = engine._native.client(one.client_id) or ("", 0, 0, 0)
        pushed_at = rfc3339(datetime.fromtimestamp(pushed / 1e6, timezone.utc)) if pushed else None
        rows.append(
            ClientRow(
                one.client_id,
                one.user,
                one.scope,
                one.cursor,
                one.lag,
                rfc3339(one.last_seen),
                last_seq,
                settled,
                pushed_at,
            )
        )
    return Clients(rows, len(positions))


# ----------------------------------------------------------------------------------------------- dead letters


@dataclasses.dataclass(frozen=True)
class LettersOf:
    after: int = 0
    limit: int = 50


@dataclasses.dataclass(frozen=True)
class LetterRow:
    id: int
    scope: str
    name: str
    user: str | None
    error: str
    message: str
    at: str
    tried_at: str
    attempts: int


@dataclasses.dataclass(frozen=True)
class Letters:
    """Oldest first. `next`: after which id to go on; null: these were the last. `dropped` went unread."""

    rows: list[LetterRow]
    next: int | None
    kept: int
    dropped: int


@_question("letters")
def _letters(engine: Engine, args: LettersOf) -> Letters:
    """Mutations whose mutator failed of its own code."""
    limit = _limit(args.limit)
    if not 0 <= args.after < 1 << 53:
        raise InvalidRequest("after is the id of a letter, from 0 on")
    later = _core.dead_letters(engine._native, args.after, limit + 1)
    rows = []
    for fields in later[:limit]:
        letter = _letter_of(fields)
        rows.append(
            LetterRow(
                letter.id,
                letter.scope,
                letter.name,
                letter.user,
                letter.error,
                letter.message[:_IN_LIST],
                rfc3339(letter.at),
                rfc3339(letter.tried_at),
                letter.attempts,
            )
        )
    kept, dropped, _ = _core.dead_letter_counts(engine._native)
    return Letters(rows, rows[-1].id if len(later) > limit else None, kept, dropped)


def _letter_of(fields: Iterable[Any]) -> Any:
    from .dead_letters import DeadLetter

    return DeadLetter(*fields)


@dataclasses.dataclass(frozen=True)
class LetterOf:
    id: int


@dataclasses.dataclass(frozen=True)
class Letter:
    """See `syncline.DeadLetter`."""

    id: int
    scope: str
    name: str
    args: Text
    user: str | None
    client_id: str | None
    client_seq: int | None
    ts: str
    seed: str
    error: str
    message: str
    traceback: str
    at: str
    tried_at: str
    attempts: int


@_question("letter")
def _letter(engine: Engine, args: LetterOf) -> Letter:
    """A dead letter with its arguments and traceback."""
    letter = engine.dead_letters[args.id]
    told = dataclasses.asdict(letter)
    return Letter(
        **{
            **told,
            "args": _json(letter.args, _WHOLE),
            "seed": f"{letter.seed:016x}",
            "ts": rfc3339(letter.ts),
            "at": rfc3339(letter.at),
            "tried_at": rfc3339(letter.tried_at),
        }
    )


# --------------------------------------------------------------------------------------------------- the page


@dataclasses.dataclass(frozen=True)
class Part:
    """A file of the page, in `web/`, and where a server has it."""

    path: str
    file: str
    content_type: str
    summary: str


# Nothing from elsewhere, no inline code, and no string ever taken for HTML (Trusted Types: an assignment to
# innerHTML throws in browsers that know them).
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: tuple[tuple[str, str], ...] = (
    ("Content-Security-Policy", _POLICY),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
)

_TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def _part(file: str) -> Part:
    return Part(
        path_of(file), f"inspect/{file}", _TYPES[file.rpartition(".")[2]], "A part of the inspector's page."
    )


PARTS: tuple[Part, ...] = (
    Part("/_sync/inspect", "inspect/index.html", "text/html", "The inspector's page, without data."),
    *map(
        _part,
        (
            "api.js",
            "app.js",
            "clients.js",
            "document.js",
            "dom.js",
            "icon.svg",
            "letters.js",
            "log.js",
            "overview.js",
            "plots.js",
            "scopes.js",
            "style.css",
        ),
    ),
)
