from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import Context
from datetime import datetime
from random import Random
from types import TracebackType
from typing import Any, ClassVar, Literal, TypeAlias, final, overload

from typing_extensions import Buffer, Self

__version__: str

_Format: TypeAlias = Literal["json", "msgpack"]
_Op: TypeAlias = Literal["create", "update", "delete"]
# What a value is, no type of today's checkers says without spoiling document["field"] for its users.
_Document: TypeAlias = dict[str, Any]
# `list` is a method's name below.
_Pairs: TypeAlias = list[tuple[str, _Document]]
_SortKey: TypeAlias = str | tuple[str, Literal[1, -1]]
_Sort: TypeAlias = _SortKey | Sequence[_SortKey]
_Table: TypeAlias = Mapping[str, tuple[Callable[..., object], Callable[[Any], Any] | None]]
_Job: TypeAlias = tuple[PushRequest, str | None, Collection[str], bool, Context, Callable[[bool], bool]]

# ----------------------------------------------------------------------------------------------------- values

def packb(value: object) -> bytes: ...
def unpackb(packed: Buffer) -> Any: ...
def json_encode(value: object) -> bytes: ...
def json_decode(text: Buffer) -> Any: ...
def canonical(body: Buffer, from_format: str) -> bytes: ...
def http_status(code: str) -> int: ...
def repair(path: str) -> tuple[list[str], list[tuple[str, str]]]: ...
def encode_error(code: str, message: str, details: dict[str, int | str], format: str) -> bytes: ...

# --------------------------------------------------------------------------------------------------- requests

@final
class Limits:
    """What the engine takes at most; more is answered with `too_large` or `rate_limited`. Sizes are bytes."""

    def __init__(
        self,
        *,
        max_body_bytes: int = 8 << 20,
        max_mutations: int = 1000,
        max_page_bytes: int = 4 << 20,
        max_document_bytes: int = 1 << 20,
        max_nesting: int = 64,
        max_snapshot_bytes: int = 64 << 20,
        keep_results: int = 1000,
        max_waiting: int = 10_000,
    ) -> None:
        """Raises `UsageError` for a limit that is out of range."""

    @property
    def max_body_bytes(self) -> int:
        """Of a request."""
    @property
    def max_mutations(self) -> int:
        """Of a push."""
    @property
    def max_page_bytes(self) -> int:
        """Of a page of a pull."""
    @property
    def max_document_bytes(self) -> int:
        """Of a document, encoded as msgpack."""
    @property
    def max_nesting(self) -> int:
        """Maps and lists within each other."""
    @property
    def max_snapshot_bytes(self) -> int:
        """Of the documents of a snapshot."""
    @property
    def keep_results(self) -> int:
        """Results kept of a client that never says which it has settled."""
    @property
    def max_waiting(self) -> int:
        """Pushes that wait for their turn."""

@final
class PushRequest:
    @staticmethod
    def parse(body: Buffer, format: str, limits: Limits) -> PushRequest: ...
    @staticmethod
    def of(
        mutations: Sequence[Mapping[str, Any]],
        epoch: str | None,
        settled: dict[str, int] | None,
        limits: Limits,
    ) -> PushRequest: ...
    @property
    def scopes(self) -> list[str]: ...
    @property
    def clients(self) -> list[str]: ...
    def __len__(self) -> int: ...

@final
class PullRequest:
    @staticmethod
    def parse(body: Buffer, format: str, limits: Limits) -> PullRequest: ...
    @staticmethod
    def of(
        scope: str,
        cursor: int,
        epoch: str | None,
        page: str | None,
        limit: int | None,
        client_id: str | None,
        entities: Sequence[str] | None,
    ) -> PullRequest: ...
    @property
    def scope(self) -> str: ...
    @property
    def cursor(self) -> int: ...
    @property
    def epoch(self) -> str | None: ...
    @property
    def page(self) -> str | None: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def client_id(self) -> str | None: ...
    @property
    def entities(self) -> list[str] | None: ...

@final
class SnapshotRequest:
    @staticmethod
    def parse(body: Buffer, format: str, limits: Limits) -> SnapshotRequest: ...
    @staticmethod
    def of(scope: str, client_id: str | None) -> SnapshotRequest: ...
    @property
    def scope(self) -> str: ...
    @property
    def client_id(self) -> str | None: ...

# ---------------------------------------------------------------------------------------------------- answers

@final
class ChangeNote:
    """What a mutation did to one document, without the document."""

    __match_args__ = ("op", "entity", "id")
    @property
    def cursor(self) -> int: ...
    @property
    def entity(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def op(self) -> _Op: ...
    @property
    def version(self) -> int: ...
    def __hash__(self) -> int: ...
    def _repr_html_(self) -> str: ...

@final
class ResultError:
    """Why a mutation was refused."""

    __match_args__ = ("code", "message")
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...
    @property
    def details(self) -> dict[str, int | str]: ...
    def __hash__(self) -> int: ...

@final
class Result:
    """What became of one mutation."""

    __match_args__ = ("ok", "error")
    @property
    def ok(self) -> bool: ...
    @property
    def cursor(self) -> int:
        """Of its last change, or the one it took; 0: its number was not consumed."""
    @property
    def error(self) -> ResultError | None: ...
    @property
    def changes(self) -> list[ChangeNote]: ...
    @property
    def duplicate(self) -> bool:
        """It was applied before; this is the result of then."""
    def raise_for_error(self) -> None:
        """Raises the error as the exception of its code; `Rejected` for an application's own code."""
    def __hash__(self) -> int: ...
    def _repr_html_(self) -> str: ...

@final
class PushResult:
    """The results of a push, in the order of its mutations."""

    @property
    def results(self) -> list[Result]: ...
    @property
    def cursor(self) -> int:
        """The database's head after the commit: for people. Only a pull moves a pull's cursor."""
    @property
    def epoch(self) -> str: ...
    @property
    def ok(self) -> bool:
        """Whether every result is."""
    def raise_for_error(self) -> None:
        """Raises the first error."""
    def encode(self, format: str) -> bytes: ...
    def __len__(self) -> int: ...
    @overload
    def __getitem__(self, index: int, /) -> Result: ...
    @overload
    def __getitem__(self, index: slice, /) -> list[Result]: ...
    def __iter__(self) -> Iterator[Result]: ...
    def _repr_html_(self) -> str: ...

@final
class Change:
    """One document of a pull: as it is now, or that it is gone."""

    __match_args__ = ("op", "entity", "id", "data")
    @property
    def cursor(self) -> int: ...
    @property
    def scope(self) -> str: ...
    @property
    def entity(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def op(self) -> _Op:
        """Relative to the cursor that was asked from."""
    @property
    def data(self) -> _Document | None:
        """The document, decoded anew each time; None: it was deleted."""
    @property
    def version(self) -> int: ...
    @property
    def ts(self) -> datetime:
        """When it was changed, by the server's clock, in UTC."""
    def __hash__(self) -> int: ...
    def _repr_html_(self) -> str: ...

@final
class Pull:
    """A page of the changes of a scope."""

    @property
    def changes(self) -> list[Change]: ...
    @property
    def scope(self) -> str: ...
    @property
    def cursor(self) -> int:
        """Where to pull from next, once `has_more` is false."""
    @property
    def epoch(self) -> str: ...
    @property
    def has_more(self) -> bool: ...
    @property
    def page(self) -> str | None:
        """What to ask the next page with; None: this was the last."""
    @property
    def last_seq(self) -> int | None:
        """The client's, when a client id was given."""
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Change]: ...
    def _repr_html_(self) -> str: ...

@final
class Snapshot:
    """The live documents of a scope at one cursor."""

    @property
    def data(self) -> dict[str, dict[str, _Document]]:
        """entity -> id -> document, decoded anew each time."""
    @property
    def cursor(self) -> int: ...
    @property
    def epoch(self) -> str: ...
    @property
    def last_seq(self) -> int | None: ...
    def _repr_html_(self) -> str: ...

# ---------------------------------------------------------------------------------------------------- history

class _Entry:
    @property
    def cursor(self) -> int: ...
    @property
    def scope(self) -> str: ...
    @property
    def entity(self) -> str: ...
    @property
    def id(self) -> str: ...
    @property
    def op(self) -> _Op: ...
    @property
    def version(self) -> int:
        """1 for the first; it goes on over a deletion while the tombstone stands."""
    @property
    def previous(self) -> int:
        """The cursor of this document's line before; 0: this is its first."""
    @property
    def ts(self) -> datetime:
        """When it was committed, by the server's clock, in UTC."""
    @property
    def user(self) -> str | None:
        """Who asked for it; None: nobody was named."""
    @property
    def client_id(self) -> str | None:
        """None: backend code."""
    @property
    def client_seq(self) -> int | None:
        """The client's number of the mutation; None: backend code."""
    @property
    def mutation(self) -> str | None:
        """The mutator's name; None: a direct write."""
    @property
    def mutation_ts(self) -> datetime:
        """The client's clock, in UTC."""
    @property
    def hash(self) -> int:
        """64 bits of the document it left; 0 for a deletion."""
    def __hash__(self) -> int: ...
    def _repr_html_(self) -> str: ...

@final
class LogLine(_Entry):
    """What one mutation did to one document: a line of the changelog."""

    __match_args__ = ("op", "entity", "id")
    @property
    def _origin(self) -> tuple[str | None, int]: ...
    @property
    def changes(self) -> dict[str, tuple[Any, Any]] | None:
        """field -> (old, new), "a.b" for a field within a map; `syncline.ABSENT` where it was not there. None
        for a create, whose line keeps no body (`engine.history` knows it), and where the body was erased."""

@final
class Version(_Entry):
    """One version of one document."""

    __match_args__ = ("op", "version", "data")
    @property
    def data(self) -> _Document | None:
        """The document as this version left it, decoded anew each time; None: this version is a deletion."""
    @property
    def changes(self) -> dict[str, tuple[Any, Any]] | None:
        """field -> (old, new), "a.b" for a field within a map; `syncline.ABSENT` where it was not there.
        None: it was erased."""

@final
class Log:
    """The lines of the changelog, read ahead in chunks. Threads that share one get each line once."""

    def __init__(
        self,
        engine: Engine,
        since: int | datetime,
        through: int | datetime | None,
        scope: str | None,
        entity: str | None,
        id: str | None,
        client_id: str | None,
        newest_first: bool,
        limit: int | None,
    ) -> None: ...
    @property
    def through(self) -> int:
        """Up to where it reads: `since` for who wants what comes later."""
    def __iter__(self) -> Self: ...
    def __next__(self) -> LogLine: ...

@final
class History:
    """The versions of one document, newest first, read ahead in chunks."""

    def __init__(self, engine: Engine, scope: str, entity: str, id: str, limit: int | None) -> None: ...
    @property
    def complete(self) -> bool | None:
        """Once it has come to the end: whether that is the document's first version; False: what came before
        was compacted away or erased. None: it has not come to the end."""
    def __iter__(self) -> Self: ...
    def __next__(self) -> Version: ...

@final
class Past:
    """Every scope as it was when `cursor` was the head. Any thread may use it."""

    def __init__(self, engine: Engine, moment: int | datetime) -> None: ...
    def get(self, scope: str, entity: str, id: str) -> _Document | None:
        """The document as it was, a fresh dict; None: there was none."""
    def exists(self, scope: str, entity: str, id: str) -> bool: ...
    def version(self, scope: str, entity: str, id: str) -> int:
        """1 for the first; 0: absent."""
    def list(self, scope: str, entity: str) -> dict[str, _Document]:
        """id -> document of all of an entity, in byte order of id."""
    def scan(self, scope: str, entity: str, *, prefix: str = "", limit: int | None = None) -> _Pairs:
        """(id, document) of those whose id begins with `prefix`, in byte order of id."""
    def find(
        self,
        scope: str,
        entity: str,
        filter: Mapping[str, Any] | None = None,
        *,
        sort: _Sort | None = None,
        limit: int | None = None,
    ) -> _Pairs:
        """(id, document) of those that matched; everything as in `View.find`."""
    @property
    def cursor(self) -> int: ...
    def _repr_html_(self) -> str: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

def bodies(engine: Engine, lines: list[LogLine]) -> list[bytes | None]: ...
def log_floor(engine: Engine, scopes: Sequence[str]) -> int: ...
def find_out(engine: Engine, scope: str, entity: str, id: str, client_id: str | None) -> dict[str, Any]: ...

# ----------------------------------------------------------------------------------------------- transactions

class _Reader:
    def get(self, entity: str, id: str) -> _Document | None:
        """The document, a fresh dict each time; None: there is none."""
    def exists(self, entity: str, id: str) -> bool: ...
    def version(self, entity: str, id: str) -> int:
        """1 for the first; 0: absent."""
    def list(self, entity: str) -> dict[str, _Document]:
        """id -> document of all of an entity, in byte order of id."""
    def scan(self, entity: str, *, prefix: str = "", limit: int | None = None) -> _Pairs:
        """(id, document) of those whose id begins with `prefix`, in byte order of id."""
    def find(
        self,
        entity: str,
        filter: Mapping[str, Any] | None = None,
        *,
        sort: _Sort | None = None,
        limit: int | None = None,
    ) -> _Pairs:
        """(id, document) of those that match, after MongoDB's rules.

        Args:
            filter: {"field": value} or {"field": {"$gte": 1}} with $eq $ne $gt $gte $lt $lte $in $nin; "a.b"
                reaches into maps.
            sort: "field", "-field" (descending), ("field", -1), or a list of these; None: by id.
            limit: how many at most.

        Raises:
            InvalidRequest: the filter has another operator, or a wrong operand.
        """
    @property
    def scope(self) -> str: ...

@final
class Tx(_Reader):
    """What a mutator, or a write, reads and writes through: one scope. It reads its own writes, and is dead
    after its call.

    Raises, from every method:
        InvalidMutation: a name or a document is not what it must be.
        Closed: it was kept beyond its call.
        UsageError: on another thread than it was given to.
    """

    def set(self, entity: str, id: str, document: Mapping[str, object]) -> None:
        """Puts a document (a dict) in place, whatever was there. Raises `TooLarge`."""
    def update(self, entity: str, id: str, fields: Mapping[str, object]) -> None:
        """Replaces the given top-level fields. Raises `NotFound` where there is no document."""
    def delete(self, entity: str, id: str) -> bool:
        """Whether there was one to delete."""
    def expect(self, entity: str, id: str, version: int) -> None:
        """Raises `Conflict` unless the document is at `version`; 0: absent."""
    def uuid(self) -> str:
        """A UUIDv7 that derives from the mutation: run again, it is the same one."""
    def _random(self) -> float: ...
    def _random_bits(self) -> int: ...
    @property
    def random(self) -> Random:
        """Derives from the mutation's seed: run again, it draws the same numbers."""
    @property
    def now(self) -> datetime:
        """The mutation's `ts`, never later than the server's clock."""
    @property
    def user(self) -> str | None: ...
    @property
    def client_id(self) -> str | None:
        """None: backend code."""

@final
class View(_Reader):
    """A scope as it was at one moment. Any thread may use it, one at a time. Close it soon: it holds that
    moment fast.

    Raises, from every method:
        InvalidRequest: a name is none.
        Closed: its block has ended, or the engine was closed.
    """

    @property
    def cursor(self) -> int:
        """The database's head at that moment."""
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def _repr_html_(self) -> str: ...

@final
class Write:
    @property
    def txs(self) -> list[Tx]: ...
    def adopt(self) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...

# --------------------------------------------------------------------------------------------- dead letters

# In the order of DeadLetter's fields.
_Letter: TypeAlias = tuple[
    int,
    str,
    Any,
    str,
    str | None,
    str | None,
    int | None,
    datetime,
    int,
    str,
    str,
    str,
    datetime,
    datetime,
    int,
]

def dead_letters(engine: Engine, after: int, limit: int) -> list[_Letter]: ...
def dead_letter_counts(engine: Engine) -> tuple[int, int, int]: ...
def retry_dead_letter(engine: Engine, id: int, table: _Table, timeout: float | None) -> PushResult | None: ...
def discard_dead_letter(engine: Engine, id: int) -> bool: ...

# ---------------------------------------------------------------------------------- notes, loads and upgrades

def notes(engine: Engine, scope: str, entity: str) -> _Pairs: ...
def put_note(engine: Engine, scope: str, entity: str, id: str, document: _Document | None) -> None: ...
def load(
    engine: Engine, scope: str, entity: str, rows: list[Any], key: str, user: str | None, number: int
) -> tuple[int, int, int, int, int]: ...
def set_upgrades(
    engine: Engine,
    table: Mapping[str, Sequence[tuple[int, int, Callable[[_Document], _Document]]]],
) -> None: ...
def upgrade_step(engine: Engine, scope: str, after: int, at_most: int) -> tuple[int, bool, int, int, int]: ...

# --------------------------------------------------------------------------------------------------- engine

@final
class Retention:
    """How long what is kept, in microseconds; None: for ever."""

    def __init__(
        self,
        *,
        history: int | None,
        tombstones: int | None,
        positions: int | None,
        dead_letters: int | None,
        max_positions: int,
        max_dead_letters: int,
        hold_for_clients: int | None,
        hold_for_feeds: int | None,
        interval: int,
    ) -> None: ...

@final
class ManualClock:
    """A clock for tests: it stands still until it is told to go on."""

    def __init__(self, microseconds: int) -> None: ...
    @property
    def microseconds(self) -> int: ...
    def advance(self, microseconds: int) -> None: ...

@final
class Engine:
    def __init__(
        self,
        path: str,
        *,
        durability: str,
        read_only: bool,
        limits: Limits,
        retention: Retention | None = None,
        clock: ManualClock | None = None,
    ) -> None: ...
    def push(
        self, request: PushRequest, user: str | None, table: _Table, timeout: float | None
    ) -> PushResult | None: ...
    def push_many(self, jobs: list[_Job], table: _Table) -> list[PushResult | BaseException]: ...
    def pull(self, request: PullRequest, user: str | None) -> Pull: ...
    def pull_encoded(self, request: PullRequest, user: str | None, format: str) -> bytes: ...
    def snapshot(self, request: SnapshotRequest, user: str | None) -> Snapshot: ...
    def snapshot_encoded(self, request: SnapshotRequest, user: str | None, format: str) -> bytes: ...
    def read(self, scope: str) -> View: ...
    def write(
        self,
        scopes: Sequence[str],
        user: str | None,
        timeout: float | None,
        cancelled: Callable[[], bool] | None,
    ) -> Write | None: ...
    def cursor(self, scope: str) -> int: ...
    def head(self) -> int: ...
    @property
    def epoch(self) -> str: ...
    @property
    def limits(self) -> Limits: ...
    @property
    def read_only(self) -> bool: ...
    def scopes(self) -> list[tuple[str, int, int, int]]: ...
    def stats(self) -> dict[str, int]: ...
    def counters(self) -> dict[str, int]: ...
    def mutator_times(self) -> dict[str, tuple[int, int, float, float, list[int]]]: ...
    def watch_mutators(self, *, slow_seconds: float | None, runner: Callable[..., object] | None) -> None: ...
    mutator_bounds: ClassVar[tuple[float, ...]]
    def info(self) -> dict[str, Any]: ...
    def backup(self, path: str, progress: Callable[[int, int], None] | None) -> None: ...
    def compact(self, through: int, min_age: int) -> tuple[int, int]: ...
    def keep(self, age: int | None, after: int | None) -> dict[str, int]: ...
    def keeping(self) -> dict[str, Any]: ...
    def verify(
        self, progress: Callable[[int, int], None] | None
    ) -> tuple[list[tuple[str, str]], int, dict[str, int]]: ...
    def positions(self, scope: str | None) -> list[tuple[str, str | None, str, int, int, int]]: ...
    def contents(self, scope: str, most: int) -> tuple[dict[str, int], bool]:
        """Live documents by entity, and whether those are all: at most `most` rows are looked at."""
    def client(self, client_id: str) -> tuple[str, int, int, int] | None:
        """(owner, last_seq, settled, microseconds of its last push); None: it never pushed."""
    def erase(
        self, scope: str, entity: str | None, id: str | None, user: str | None, rewrite: bool
    ) -> dict[str, int]: ...
    def set_poke_listener(self, listener: Callable[[list[tuple[str, int, str]]], None] | None) -> None: ...
    @staticmethod
    def check_user(user: str | None) -> None: ...
    def check_not_writing(self) -> None: ...
    def close(self) -> None: ...

# --------------------------------------------------------------------------------------------------- tables

@final
class Table:
    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...
    def __arrow_c_schema__(self) -> object: ...
    def raise_fault(self) -> None: ...

def log_table(
    engine: Engine,
    *,
    since: int | datetime,
    through: int | datetime | None,
    scope: str | None,
    entity: str | None,
    id: str | None,
    client_id: str | None,
    newest_first: bool,
    limit: int | None,
    changed: bool,
    batch_rows: int,
) -> Table: ...
def history_table(engine: Engine, scope: str, entity: str, id: str, *, batch_rows: int) -> Table: ...
def document_table(
    engine: Engine,
    *,
    scopes: Sequence[str] | None,
    entity: str | None,
    fields: Sequence[str] | None,
    filter: dict[str, Any] | None,
    batch_rows: int,
) -> Table: ...

# ---------------------------------------------------------------------------------------------------- replica

@final
class ReplicaRequest:
    @property
    def request(self) -> int: ...
    @property
    def path(self) -> str: ...
    @property
    def scope(self) -> str | None: ...
    @property
    def body(self) -> bytes: ...
    @property
    def mutations(self) -> int: ...

@final
class ReplicaAnswered:
    @property
    def next(self) -> Literal["done", "ignored", "wait", "unauthenticated", "failed"]: ...
    @property
    def code(self) -> str | None: ...
    @property
    def message(self) -> str | None: ...
    @property
    def retry_after(self) -> int: ...

@final
class ReplicaEvent:
    @property
    def kind(self) -> Literal["changed", "refused", "opened", "closed", "restored", "renamed"]: ...
    @property
    def scope(self) -> str | None: ...
    @property
    def entity(self) -> str | None: ...
    @property
    def id(self) -> str | None: ...
    @property
    def before(self) -> _Document | None: ...
    @property
    def after(self) -> _Document | None: ...
    @property
    def place(self) -> int: ...
    @property
    def code(self) -> str | None: ...
    @property
    def message(self) -> str | None: ...

@final
class ReplicaPending:
    @property
    def place(self) -> int: ...
    @property
    def seq(self) -> int: ...
    @property
    def scope(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def args(self) -> Any: ...
    @property
    def ts(self) -> datetime: ...
    @property
    def tries(self) -> int: ...
    @property
    def durable(self) -> bool: ...
    @property
    def sent(self) -> bool: ...
    @property
    def voided(self) -> bool: ...
    @property
    def confirmed(self) -> bool: ...

@final
class ReplicaRefused:
    @property
    def place(self) -> int: ...
    @property
    def client_id(self) -> str: ...
    @property
    def seq(self) -> int: ...
    @property
    def scope(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def args(self) -> Any: ...
    @property
    def ts(self) -> datetime: ...
    @property
    def at(self) -> datetime: ...
    @property
    def code(self) -> str: ...
    @property
    def message(self) -> str: ...

@final
class ReplicaScope:
    @property
    def name(self) -> str: ...
    @property
    def cursor(self) -> int: ...
    @property
    def epoch(self) -> str | None: ...
    @property
    def open(self) -> bool: ...
    @property
    def loaded(self) -> bool: ...
    @property
    def pulling(self) -> bool: ...
    @property
    def staged_pages(self) -> int: ...

@final
class ReplicaStatus:
    @property
    def client_id(self) -> str: ...
    @property
    def epoch(self) -> str | None: ...
    @property
    def pending(self) -> int: ...
    @property
    def unsent(self) -> int: ...
    @property
    def unflushed(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def documents_touched(self) -> int: ...
    @property
    def rebases(self) -> int: ...
    @property
    def replayed(self) -> int: ...
    @property
    def pulled(self) -> int: ...
    @property
    def identified(self) -> bool: ...

@final
class ReplicaView(_Reader):
    """A replica's scope as it was at one moment. Any thread may use it, one at a time. Close it soon: it
    holds that moment fast.

    Raises, from every method:
        InvalidRequest: a name is none.
        Closed: its block has ended, or the replica was closed.
    """

    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

@final
class Replica:
    def __init__(
        self,
        path: str,
        mutators: _Table,
        *,
        user: str | None = None,
        client_id: str | None = None,
        durability: str = "full",
        max_tries: int = ...,
        max_batch: int = ...,
        max_batch_bytes: int = ...,
        max_pending: int = ...,
        max_refused: int = ...,
        clock: ManualClock | Callable[[], int] | None = None,
        entropy: Callable[[], int] | None = None,
        limits: Limits | None = None,
    ) -> None: ...
    def join(self, scope: str) -> None: ...
    def leave(self, scope: str) -> None: ...
    def scopes(self) -> list[ReplicaScope]: ...
    def mutate(self, scope: str, name: str, args: object = None) -> int: ...
    def flush(self) -> bool: ...
    @property
    def unflushed(self) -> bool: ...
    def discard(self, place: int) -> bool: ...
    def pending(self) -> list[ReplicaPending]: ...
    def refused(self) -> list[ReplicaRefused]: ...
    def forget_refused(self, place: int) -> bool: ...
    def view(self, scope: str, confirmed: bool = False) -> ReplicaView: ...
    def take_events(self, most: int | None = None) -> list[ReplicaEvent]: ...
    def tell_changes(self, wanted: bool) -> None: ...
    def next_push(self) -> ReplicaRequest | None: ...
    def next_pull(self, scope: str) -> ReplicaRequest | None: ...
    def answer(self, request: int, status: int, body: Buffer) -> ReplicaAnswered: ...
    def lost(self, request: int) -> None: ...
    def news(self, scope: str, cursor: int, epoch: str) -> bool: ...
    def learn_limits(self, health: dict[str, Any]) -> None: ...
    def status(self) -> ReplicaStatus: ...
    def close(self) -> None: ...
    def abandon(self) -> None: ...
