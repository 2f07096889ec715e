"""The commands about dead letters: list, show, retry, discard."""

from __future__ import annotations

from typing import Annotated

import typer

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
    read_or_ask,
    show_document,
    show_facts,
    show_table,
    split,
)

__all__ = ["add_to"]


def _letter_id(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        fail(f"ID must be the number of a dead letter; it is {text!r}")
    return int(text)


def list_letters(
    database: MaybeDatabase = None,
    url: Url = None,
    token: Token = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, metavar="N", help="How many at most.")] = 100,
    as_json: Json = False,
) -> None:
    """Lists them, oldest first."""
    answer = read_or_ask(database, url, token, "dead-letters", limit=limit)
    if as_json:
        for letter in answer["letters"]:
            emit(letter)
        return
    show_table(
        ("id", "mutation", "scope", "user", "at", "attempts", "error"),
        (
            (
                *(one["id"], one["name"], one["scope"], one["user"] or "-", one["at"], one["attempts"]),
                f"{one['error']}: {one['message']}",
            )
            for one in answer["letters"]
        ),
    )
    if answer["dropped"]:
        note(f"{answer['dropped']:,} were dropped unread, because they were too many, too large or too old")


def show_letter(
    words: Annotated[list[str], typer.Argument(metavar="[DATABASE] ID")],
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Shows one with its arguments and traceback."""
    database, (id,) = split(words, url, ("ID",), needed=1)
    letter = read_or_ask(database, url, token, "dead-letters/show", id=_letter_id(id))["letter"]
    if as_json:
        emit(letter)
        return
    show_facts(
        {
            name: value
            for name, value in letter.items()
            if name not in ("args", "traceback") and value is not None
        }
    )
    out.print("args", style="dim")
    show_document(letter["args"])
    out.print(clean(letter["traceback"]), markup=False)


def retry_letter(
    id: Annotated[str, typer.Argument(metavar="ID")],
    url: Url = None,
    token: Token = None,
    as_json: Json = False,
) -> None:
    """Runs its mutation again, in the server, which has the mutators. Exit status 1: it was refused again."""
    if url is None:
        fail("A retry runs the mutator, so it goes through the server that has it: name it with --url.")
    with Target(None, url, token) as target:
        answer = target.run("dead-letters/retry", id=_letter_id(id))
    if as_json:
        emit(answer)
    elif answer["ok"]:
        note(f"dead letter {id} was run, at cursor {answer['cursor']}")
    else:
        complain(f"dead letter {id}: {answer['code']}: {answer['message']}")
    if not answer["ok"]:
        raise typer.Exit(1)


def discard_letter(
    words: Annotated[list[str], typer.Argument(metavar="[DATABASE] ID")],
    url: Url = None,
    token: Token = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forgets one."""
    database, (id,) = split(words, url, ("ID",), needed=1)
    number = _letter_id(id)
    with Target(database, url, token) as target:
        confirm(f"Discard dead letter {number}?", yes)
        answer = target.run("dead-letters/discard", id=number)
    if as_json:
        emit(answer)
    if not answer["discarded"]:
        fail(f"there is no dead letter {number}", 1)


def add_to(commands: typer.Typer) -> None:
    """Adds these commands."""
    letters = typer.Typer(no_args_is_help=True, help="Mutations whose mutator failed of its own code.")
    letters.command("list")(list_letters)
    letters.command("show")(show_letter)
    letters.command("retry")(retry_letter)
    letters.command("discard")(discard_letter)
    commands.add_typer(letters, name="dead-letters")
