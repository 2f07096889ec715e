"""Whole databases and scopes to and from files: backup, restore, export, import.

An export is a file of JSON lines, in the order of their cursors within each scope, in the protocol's JSON:

    {"scope": S, "entity": E, "id": I, "op": "create", "version": V, "ts": T, "cursor": C, "data": {}}
    {"scope": S, "entity": E, "id": I, "op": "delete", "version": V, "ts": T, "cursor": C}
    {"scope": S, "through": C, "epoch": X}

Each scope begins with {"scope": S, "through": 0, "epoch": X}. It is a pull that was written down: the last
line of a document counts, and the last "through" ends a scope, whose documents are then all there as of that
cursor. So an export that was interrupted goes on where it was, and a finished one takes in what changed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated

import typer

from .. import _core, errors
from ..engine import Engine
from .common import (
    Database,
    Json,
    MaybeDatabase,
    Target,
    Token,
    Url,
    compact_json,
    emit,
    fail,
    note,
    progress,
    reading,
)

__all__ = ["add_to"]

_BATCH_ROWS = 2000  # an import's commit: long enough for the disk, short enough for those who wait for it
_BATCH_BYTES = 2 << 20


# ----------------------------------------------------------------------------------------- backup and restore


def backup(
    database: Database,
    to: Annotated[Path, typer.Argument(metavar="FILE", help="Where it goes; there must be nothing yet.")],
    as_json: Json = False,
) -> None:
    """Copies the database as it is now, while it is served and written to."""
    with reading(database) as engine, progress("pages") as tell:
        engine.backup(to, tell)
    with reading(to) as copy:
        head, epoch = copy.head, copy.epoch
    if as_json:
        emit({"path": str(to), "bytes": to.stat().st_size, "head": head, "epoch": epoch})
    else:
        note(f"{to}: the database at cursor {head}, {to.stat().st_size:,} bytes")


def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `syncline backup` made.")],
    database: Annotated[Path, typer.Argument(metavar="DATABASE", help="Where it goes.")],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Put what is there aside, as DATABASE.before-restore."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Puts a backup in place, in a new epoch: clients notice, and send what the backup has not."""
    aside = database.with_name(database.name + ".before-restore")
    if database.exists():
        if not replace:
            fail(f"{database} exists; --replace puts it aside", 1)
        if aside.exists():
            fail(f"{aside} exists already: move it away, or remove it", 1)
        # Nobody may be writing it, and what its log of writes holds must be in the file that is put aside.
        Engine(database).close()
    partial = database.with_name(database.name + ".restoring")
    with contextlib.suppress(FileNotFoundError):
        partial.unlink()
    try:
        with reading(source) as engine, progress("pages") as tell:
            engine.backup(partial, tell)
        with Engine(partial) as restored:  # writes the new epoch before anybody can see the file without it
            head, epoch = restored.head, restored.epoch
        if database.exists():
            os.rename(database, aside)
        for left in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                database.with_name(database.name + left).unlink()
        os.rename(partial, database)
    finally:
        for left in ("", "-wal", "-shm", "-writer"):
            with contextlib.suppress(FileNotFoundError):
                partial.with_name(partial.name + left).unlink()
    if as_json:
        emit({"path": str(database), "head": head, "epoch": epoch, "aside": str(aside) if replace else None})
    else:
        note(f"{database}: at cursor {head}, in the new epoch {epoch}")


# ---------------------------------------------------------------------------------------------------- export


@dataclasses.dataclass(frozen=True)
class _Reached:
    """Where a scope of an export is; `ended`: all was there as of the cursor."""

    cursor: int
    epoch: str
    ended: bool


def _resume(file: IO[bytes]) -> dict[str, _Reached]:
    """Where each scope is; cuts off a last line that was not written whole."""
    at: dict[str, _Reached] = {}
    good = 0
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            break
        try:
            told = json.loads(line)
            scope = told["scope"]
            if "through" in told:
                at[scope] = _Reached(told["through"], told["epoch"], told["through"] > 0)
            else:
                at[scope] = dataclasses.replace(at[scope], cursor=told["cursor"], ended=False)
        except (ValueError, KeyError, TypeError):
            fail(f"line {number} of {file.name} is none of an export; give another FILE", 1)
        good += len(line)
    file.truncate(good)
    file.seek(good)
    return at


def _export_scope(
    engine: Engine, scope: str, at: _Reached | None, file: IO[bytes], tell: Callable[[int], None]
) -> None:
    def mark(cursor: int, epoch: str) -> None:
        line = compact_json({"scope": scope, "through": cursor, "epoch": epoch})
        file.write(line.encode() + b"\n")

    if at is None:
        at = _Reached(0, engine.epoch, False)
        mark(0, engine.epoch)
    page: str | None = None
    while True:
        pulled = engine.pull(scope, at.cursor, epoch=at.epoch if at.cursor else None, page=page)
        for change in pulled:
            line: dict[str, object] = {
                "scope": scope,
                "entity": change.entity,
                "id": change.id,
                "op": change.op,
                "version": change.version,
                "ts": change.ts.isoformat(timespec="microseconds").replace("+00:00", "Z"),
                "cursor": change.cursor,
            }
            if change.data is not None:
                line["data"] = change.data
            file.write(_core.json_encode(line) + b"\n")
        tell(len(pulled))
        if not pulled.has_more:
            break
        page = pulled.page
    if not at.ended or pulled.cursor != at.cursor:
        mark(pulled.cursor, pulled.epoch)
    file.flush()
    os.fsync(file.fileno())


def export(
    database: Database,
    to: Annotated[Path, typer.Argument(metavar="FILE", help="JSON lines; an export that is there goes on.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="SCOPE", help="Only this scope; may be repeated. Default: all."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Writes the documents to a file, beside the server. Run again, it takes in what changed since."""
    with reading(database) as engine, open(to, "a+b") as file, progress("documents") as tell:
        file.seek(0)
        begun = _resume(file)
        names = list(scope) if scope else [one.name for one in engine.scopes()]
        total = engine.stats().documents
        done = 0

        def more(count: int) -> None:
            nonlocal done
            done += count
            tell(done, max(total, done))

        for name in names:
            try:
                _export_scope(engine, name, begun.get(name), file, more)
            except (errors.CursorTooOld, errors.EpochMismatch) as error:
                fail(f"{to} cannot be gone on with: {error}. Give another FILE.", 1)
    if as_json:
        emit({"path": str(to), "scopes": len(names), "changes": done})
    else:
        note(f"{to}: {done:,} documents of {len(names):,} scopes")


# ---------------------------------------------------------------------------------------------------- import


class _Place:
    """How far an import came, beside its file: written after each commit, so that a repeat begins there."""

    def __init__(self, source: Path, target: str) -> None:
        self._path = source.with_name(source.name + ".imported")
        self._target = target
        self.offset = 0
        self.lines = 0

    def read(self, restart: bool) -> None:
        """Raises for one that is another target's."""
        if restart or not self._path.exists():
            return
        try:
            told = json.loads(self._path.read_text())
            target, self.offset, self.lines = told["target"], int(told["offset"]), int(told["lines"])
        except (ValueError, KeyError, TypeError):
            fail(f"{self._path} is damaged; --restart begins anew", 1)
        if target != self._target:
            fail(f"{self._path} is of an import into {target}; --restart begins anew", 1)

    def write(self, offset: int, lines: int) -> None:
        self.offset, self.lines = offset, lines
        partial = self._path.with_name(self._path.name + "-new")
        partial.write_text(json.dumps({"target": self._target, "offset": offset, "lines": lines}))
        os.replace(partial, self._path)

    def done(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


def _row(line: bytes, number: int, source: Path, scope: str | None) -> dict[str, object] | None:
    """A document of a line; None: it is about a scope only."""
    try:
        told = _core.json_decode(line)
    except errors.Error as error:
        fail(f"{source}, line {number}: {error}", 1)
    if not isinstance(told, dict):
        fail(f"{source}, line {number}: must be a map with scope, entity, id and data", 1)
    if "through" in told:
        return None
    row = {
        "scope": scope if scope is not None else told.get("scope"),
        "entity": told.get("entity"),
        "id": told.get("id"),
    }
    for name, value in row.items():
        if not isinstance(value, str):
            fail(f"{source}, line {number}: {name} must be a string", 1)
    data = None if told.get("op") == "delete" else told.get("data")
    if (data is None and told.get("op") != "delete") or not isinstance(data, (dict, type(None))):
        fail(f"{source}, line {number}: data must be a map", 1)
    return {**row, "data": data}


def import_(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON lines, as `syncline export` writes them.")
    ],
    database: MaybeDatabase = None,
    url: Url = None,
    token: Token = None,
    scope: Annotated[
        str | None, typer.Option(metavar="SCOPE", help="Put all into this scope, whatever the lines say.")
    ] = None,
    create: Annotated[bool, typer.Option("--create", help="Make the database, where there is none.")] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="From the first line, not from where it was.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Puts the documents of a file in place, whatever was there. Run again, it goes on where it was."""
    if create and database is not None and not database.exists():
        Engine(database).close()
    if not source.is_file():
        fail(f"there is no file {str(source)!r}", 1)
    size = source.stat().st_size
    target = Target(database, url, token)
    place = _Place(source, target.name)
    with open(source, "rb") as file, target, progress("bytes") as tell:
        place.read(restart)
        if place.offset > size:
            fail(f"{source} is shorter than what was imported of it; --restart begins anew", 1)
        file.seek(place.offset)
        imported, batch, bytes, offset, number = (
            0,
            list[dict[str, object]](),
            0,
            place.offset,
            place.lines,
        )

        def commit() -> None:
            nonlocal batch, bytes, imported
            if batch:
                target.run("import", rows=batch)
                imported += len(batch)
                place.write(offset, number)
            batch, bytes = [], 0
            tell(offset, size)

        for line in file:
            number += 1
            row = _row(line, number, source, scope) if line.strip() else None
            # A document larger than a batch goes alone.
            if row is not None and batch and (len(batch) >= _BATCH_ROWS or bytes + len(line) > _BATCH_BYTES):
                number -= 1
                commit()
                number += 1
            offset += len(line)
            if row is not None:
                batch.append(row)
                bytes += len(line)
        commit()
        place.done()
    if as_json:
        emit({"rows": imported, "lines": number})
    else:
        note(f"{source}: {imported:,} documents")


def add_to(commands: typer.Typer) -> None:
    """Adds these commands."""
    commands.command()(backup)
    commands.command()(restore)
    commands.command()(export)
    commands.command(name="import")(import_)
