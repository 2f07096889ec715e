"""What the commands share: how they speak, what their arguments mean, how they reach a database."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeAlias

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .. import _core, admin, errors
from ..engine import Engine
from ..remote import Remote, connect

out = Console(highlight=False, soft_wrap=True)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

# ---------------------------------------------------------------------------------------------------- options

Database: TypeAlias = Annotated[Path, typer.Argument(metavar="DATABASE", help="Its file.")]
MaybeDatabase: TypeAlias = Annotated[
    Path | None, typer.Argument(metavar="[DATABASE]", help="Its file, while nobody serves it.")
]
Url: TypeAlias = Annotated[
    str | None,
    typer.Option("--url", metavar="URL", help="The server that has the database; instead of its file."),
]
Token: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--token", metavar="TOKEN", envvar="SYNCLINE_TOKEN", help="Sent to --url as a bearer token."
    ),
]
Json: TypeAlias = Annotated[
    bool,
    typer.Option("--json", help="JSON for programs: an object a line, values as the protocol writes them."),
]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def fail(message: str, status: int = 2) -> NoReturn:
    """Says what is wrong and ends the command; by default as one that was called wrongly."""
    complain(message)
    raise typer.Exit(status)


def complain(message: str) -> None:
    _err.print(clean(message), style="red", markup=False)


def note(message: str) -> None:
    """For people, beside what the command was asked for."""
    _err.print(clean(message), markup=False)


# ----------------------------------------------------------------------------------------------------- output


def clean(text: str) -> str:
    """The text with control characters written out: what a database holds must not steer the terminal."""
    return "".join(
        one if one in "\n\t" or not (ord(one) < 0x20 or 0x7F <= ord(one) < 0xA0) else f"\\x{ord(one):02x}"
        for one in text
    )


def compact_json(value: object) -> str:
    """A value on one line, as the protocol writes it in JSON."""
    return _core.json_encode(value).decode()


def emit(value: Mapping[str, object], *, flush: bool = False) -> None:
    """A line of --json."""
    sys.stdout.write(compact_json(dict(value)) + "\n")
    if flush:
        sys.stdout.flush()


def show_document(document: object) -> None:
    """A document over several lines."""
    text = json.dumps(json.loads(_core.json_encode(document)), indent=2, ensure_ascii=False)
    if out.is_terminal:
        from rich.syntax import Syntax

        out.print(Syntax(clean(text), "json", background_color="default", word_wrap=True))
    else:
        out.print(clean(text), markup=False)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table; where no terminal shows it, a line of names and one for each row, with tabs between."""
    if not out.is_terminal:
        for cells in (columns, *rows):
            told = (clean(str(one)).replace("\t", " ").replace("\n", " ") for one in cells)
            sys.stdout.write("\t".join(told) + "\n")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(
            *(Text(clean(str(one)), justify="right" if isinstance(one, int) else "left") for one in row)
        )
    out.print(table)


def show_facts(facts: Mapping[str, object]) -> None:
    """Names with their values, a line each."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        line = Text()
        line.append(name.replace("_", " ").ljust(width) + "  ", style="dim")
        line.append(
            clean(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
        )
        out.print(line)


def moment_text(ts: datetime) -> str:
    """A time as the commands write it: UTC, with microseconds."""
    return ts.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S.%fZ")


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the standard error: `tell(done, total)`. Nothing where that is no terminal."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=_err,
        transient=True,
        disable=not _err.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell


# ------------------------------------------------------------------------------------------------- arguments

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")

MOMENT_HELP = "a cursor (1200), an age (15m, 2h, 30d), or a time (2026-01-31T12:00)"


def parse_age(text: str, option: str) -> timedelta:
    found = _AGE.fullmatch(text)
    if found is None:
        fail(f"{option} must be an age such as 90s, 15m, 2h, 30d or 8w; it is {text!r}")
    return timedelta(**{_UNITS[found.group(2)]: float(found.group(1))})


def parse_moment(text: str, option: str) -> int | datetime:
    """A cursor, or a time: one given as such (of this place, where it names no other), or as an age."""
    if text.isascii() and text.isdigit():
        return int(text)
    if _AGE.fullmatch(text):
        return datetime.now(timezone.utc) - parse_age(text, option)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        fail(f"{option} must be {MOMENT_HELP}; it is {text!r}")
    return moment.astimezone() if moment.tzinfo is None else moment


_SPECIAL = {"$date", "$binary", "$numberLong", "$numberDouble"}


def parse_filter(text: str, option: str) -> Any:  # any value of JSON
    """JSON in which a `$` key may be an operator of `find`, or a value as the protocol writes it."""
    try:
        return json.loads(text, object_hook=_special)
    except (ValueError, errors.Error) as error:
        fail(f"{option} must be JSON: {error}")


def _special(found: dict[str, Any]) -> object:
    if len(found) == 1 and found.keys() <= _SPECIAL:
        return _core.json_decode(json.dumps(found).encode())
    return found


# -------------------------------------------------------------------------------------------------- databases


@contextlib.contextmanager
def reading(database: Path) -> Iterator[Engine]:
    """The database, opened for reading: beside its server too."""
    with Engine(database, read_only=True) as engine:
        yield engine


@contextlib.contextmanager
def _server(url: str, token: str | None) -> Iterator[Remote]:
    try:
        # A command over the whole database takes its time.
        remote = connect(url, token=token, timeout=3600)
    except ValueError as error:
        fail(f"--url: {error}")
    with remote:
        yield remote


class Target:
    """Where a writing command goes: a server, or a file that nobody serves. Used as a context."""

    def __init__(self, database: Path | None, url: str | None, token: str | None) -> None:
        if (database is None) == (url is None):
            fail(
                "Name the database: its file, while nobody serves it, or its server with --url; one of them."
            )
        self._database = database
        self._url = url
        self._token = token
        self._remote: Remote | None = None
        self._engine: Engine | None = None
        self._stack = contextlib.ExitStack()

    @property
    def name(self) -> str:
        return str(self._database) if self._url is None else self._url

    def __enter__(self) -> Target:
        if self._url is not None:
            self._remote = self._stack.enter_context(_server(self._url, self._token))
            return self
        assert self._database is not None
        if not self._database.exists():
            fail(f"there is no file {str(self._database)!r}", 1)
        try:
            self._engine = self._stack.enter_context(Engine(self._database))
        except errors.Locked as locked:
            fail(
                f"{locked.message}\nThis command writes, so it goes through that process: give its address "
                "with --url http://HOST:PORT and a token with --token.",
                1,
            )
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def run(self, command: str, **arguments: object) -> dict[str, Any]:
        """Runs a command of `syncline.admin` there; returns its answer."""
        given = {name: value for name, value in arguments.items() if value is not None}
        if self._engine is not None:
            return admin.COMMANDS[command].run(self._engine, given)
        assert self._remote is not None
        try:
            return self._remote._call("POST", admin.path_of(command), given, None)
        except errors.NotFound as error:
            if admin.path_of(command) not in error.message:
                raise
            fail(
                f"{self._url} runs no commands: serve it with `syncline serve --operator USER`, or give "
                "syncline.asgi(admin=...)",
                1,
            )


def read_or_ask(
    database: Path | None, url: str | None, token: str | None, command: str, **arguments: object
) -> dict[str, Any]:
    """The answer of a command that only reads, so a file may be served meanwhile."""
    if database is None or url is not None:
        with Target(database, url, token) as target:
            return target.run(command, **arguments)
    given = {name: value for name, value in arguments.items() if value is not None}
    with reading(database) as engine:
        return admin.COMMANDS[command].run(engine, given)


def split(
    words: Sequence[str] | None, url: str | None, names: Sequence[str], needed: int
) -> tuple[Path | None, list[str]]:
    """The database, unless --url stands for it, and values of `names`; the first `needed` must be there."""
    left = list(words or ())
    expected = ("" if url is not None else "DATABASE ") + " ".join(names)
    database: Path | None = None
    if url is None:
        if not left:
            fail(f"Name the database, as its file or with --url; wanted: {expected}")
        database = Path(left.pop(0))
    if not needed <= len(left) <= len(names):
        fail(f"Wanted: {expected}; given: {' '.join(words or ()) or 'nothing'}")
    return database, left


def confirm(question: str, yes: bool) -> None:
    """Asks; without a terminal to ask on, refuses."""
    if yes:
        return
    if not sys.stdin.isatty():
        fail(f"{question} Say --yes, where nobody can be asked.")
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)
