"""The commands that keep a database in order."""

from __future__ import annotations

from typing import Annotated

import typer

from .common import Json, MaybeDatabase, Target, Token, Url, emit, parse_age, show_facts

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


def add_to(commands: typer.Typer) -> None:
    """Adds these commands."""
    commands.command()(compact)
