"""The commands that keep a database in order: compact, verify, repair, erase, positions."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from ..verify import repair as repair_file
from .common import (
    Json,
    MaybeDatabase,
    Target,
    Token,
    Url,
    Yes,
    clean,
    complain,
    confirm,
    emit,
    fail,
    note,
    out,
    parse_age,
    progress,
    read_or_ask,
    reading,
    show_facts,
    show_table,
    split,
)

__all__ = ["add_to"]


def compact(
    database: MaybeDatabase = None,
    url: Url = None,
    token: Token = None,
    keep: Annotated[
        str | None,
        typer.Option(
            metavar="MOMENT", help="What is younger than an age (30d), or after a cursor (1200), stays."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Forgets history and deletions that need not be kept."""
    arguments: dict[str, object] = {}
    if keep is not None:
        if keep.isascii() and keep.isdigit():
            arguments["keep_after"] = int(keep)
        else:
            arguments["keep_seconds"] = parse_age(keep, "--keep").total_seconds()
    with Target(database, url, token) as target:
        answer = target.run("compact", **arguments)
    if as_json:
        emit(answer)
    else:
        show_facts(answer)


def verify(
    database: MaybeDatabase = None, url: Url = None, token: Token = None, as_json: Json = False
) -> None:
    """Checks all that is stored and names what is wrong: exit status 1. The file may be served meanwhile."""
    if database is None or url is not None:
        with Target(database, url, token) as target:
            told = target.run("verify")
    else:
        with reading(database) as engine, progress("checked") as tell:
            report = engine.verify(tell)
        told = {
            "problems": [dataclasses.asdict(one) for one in report.problems],
            "found": report.found,
            "checked": dataclasses.asdict(report.checked),
        }
    if as_json:
        emit(told)
    else:
        for problem in told["problems"]:
            out.print(clean(f"{problem['place']}: {problem['what']}"), style="red", markup=False)
        if told["found"] > len(told["problems"]):
            out.print(f"... and {told['found'] - len(told['problems'])} more", style="red")
        show_facts({**told["checked"], "problems": told["found"]})
    if told["found"]:
        raise typer.Exit(1)


def repair(
    database: Annotated[Path, typer.Argument(metavar="DATABASE", help="Its file, which nobody serves.")],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Rebuilds what follows from the rest of the database. Copy the file, with its -wal, before."""
    if not database.exists():
        fail(f"there is no file {str(database)!r}", 1)
    confirm(f"Repair {database} in place? Without a copy of it there is no way back.", yes)
    done = repair_file(database)
    if as_json:
        emit({"rebuilt": list(done.rebuilt), "left": [dataclasses.asdict(one) for one in done.left]})
    else:
        for line in done.rebuilt:
            out.print(clean(line), markup=False)
        for problem in done.left:
            complain(f"left: {problem}")
        if not done.rebuilt and not done.left:
            note("there was nothing to repair")
    if done.left:
        raise typer.Exit(1)


def erase(
    words: Annotated[list[str], typer.Argument(metavar="[DATABASE] SCOPE [ENTITY ID]")],
    url: Url = None,
    token: Token = None,
    keep_bytes: Annotated[
        bool,
        typer.Option(
            "--keep-bytes",
            help="Do not write the file anew: the old bytes stay in it until they are overwritten.",
        ),
    ] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forgets a document with its history, or every document of a scope."""
    database, names = split(words, url, ("SCOPE", "ENTITY", "ID"), needed=1)
    if len(names) == 2:
        fail("Name a SCOPE alone, or with ENTITY and ID.")
    scope, entity, id = (*names, None, None)[:3]
    what = f"{entity}/{id} in {scope}" if id is not None else f"EVERY document of {scope}"
    with Target(database, url, token) as target:
        confirm(f"Erase {what} from {target.name}, with its history?", yes)
        answer = target.run("erase", scope=scope, entity=entity, id=id, rewrite=not keep_bytes)
    if as_json:
        emit(answer)
    else:
        show_facts(answer)
    if not answer["rewritten"] and not keep_bytes:
        complain("Something still reads an old state, so old bytes are left in the file: erase again later.")
        raise typer.Exit(1)


def positions(
    database: MaybeDatabase = None,
    url: Url = None,
    token: Token = None,
    scope: Annotated[str | None, typer.Option(metavar="SCOPE", help="Only of this scope.")] = None,
    as_json: Json = False,
) -> None:
    """Shows up to where each client has its scopes, and how far behind it is."""
    found = read_or_ask(database, url, token, "positions", scope=scope)["positions"]
    if as_json:
        for one in found:
            emit(one)
        return
    columns = ("scope", "client_id", "user", "cursor", "lag", "last_seen")
    show_table(
        columns, ([one[column] if one[column] is not None else "-" for column in columns] for one in found)
    )


def add_to(commands: typer.Typer) -> None:
    """Adds these commands."""
    for command in (compact, verify, repair, erase, positions):
        commands.command()(command)
