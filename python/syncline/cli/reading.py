"""The commands that read a database's file, beside its server too."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from ..history import ABSENT
from .common import (
    MOMENT_HELP,
    Database,
    Json,
    MaybeDatabase,
    Target,
    Token,
    Url,
    clean,
    compact_json,
    emit,
    fail,
    moment_text,
    out,
    parse_filter,
    parse_moment,
    reading,
    show_document,
    show_facts,
    show_table,
)

if TYPE_CHECKING:
    from .._core import LogLine, Version
    from ..engine import Engine

__all__ = ["add_to"]

_FOLLOW_SECONDS = 0.25  # between two looks; a look at nothing new takes some 50 us
_FOLLOW_BEFORE = 10  # lines shown before, where no --since and no --limit says

_STYLES = {"create": "green", "update": "yellow", "delete": "red"}

Scope = Annotated[str, typer.Argument(metavar="SCOPE")]
Entity = Annotated[str, typer.Argument(metavar="ENTITY")]
Id = Annotated[str, typer.Argument(metavar="ID")]
Limit = Annotated[int | None, typer.Option("--limit", "-n", min=1, metavar="N", help="How many at most.")]
At = Annotated[str | None, typer.Option("--at", metavar="MOMENT", help=f"As it was then: {MOMENT_HELP}.")]
Sort = Annotated[
    list[str] | None,
    typer.Option(metavar="FIELD", help='"-FIELD" descends; may be repeated. Default: by id.'),
]


def _moment(text: str | None, option: str) -> int | datetime | None:
    return None if text is None else parse_moment(text, option)


def _changes(found: LogLine | Version) -> dict[str, object] | None:
    """field -> {"old": ..., "new": ...}, each where there was one."""
    if found.changes is None:
        return None
    return {
        field: {name: value for name, value in (("old", old), ("new", new)) if value is not ABSENT}
        for field, (old, new) in found.changes.items()
    }


def _as_json(found: LogLine | Version) -> dict[str, object]:
    names = (
        *("cursor", "scope", "entity", "id", "op", "version", "previous", "ts", "user", "client_id"),
        *("client_seq", "mutation", "mutation_ts"),
    )
    return {
        **{name: getattr(found, name) for name in names},
        "hash": f"{found.hash:016x}",
        "changes": _changes(found),
    }


def _author(found: LogLine | Version) -> str:
    who = found.user or "-"
    if found.client_id is not None:
        who += f" {found.client_id}#{found.client_seq}"
    return f"{who} {found.mutation or 'direct write'}"


def _field_changes(found: LogLine | Version) -> list[Text]:
    lines: list[Text] = []
    for field, (old, new) in (found.changes or {}).items():
        line = Text("    ")
        line.append(clean(field) + ": ", style="dim")
        if old is not ABSENT:
            line.append(clean(compact_json(old)), style="red")
        line.append(" → ", style="dim")
        if new is not ABSENT:
            line.append(clean(compact_json(new)), style="green")
        lines.append(line)
    return lines


def _print_line(found: LogLine, *, as_json: bool, changes: bool, flush: bool) -> None:
    if as_json:
        emit(_as_json(found), flush=flush)
        return
    line = Text()
    line.append(f"{found.cursor:>9} ", style="bold")
    line.append(moment_text(found.ts) + " ", style="dim")
    line.append(f"{found.op:<6} ", style=_STYLES[found.op])
    line.append(f"{clean(found.scope)} {clean(found.entity)}/{clean(found.id)} v{found.version} ")
    line.append(clean(_author(found)), style="dim")
    out.print(line)
    if changes:
        for change in _field_changes(found):
            out.print(change)
    if flush:
        sys.stdout.flush()


def log(
    database: Database,
    since: Annotated[str | None, typer.Option(metavar="MOMENT", help=f"Lines after: {MOMENT_HELP}.")] = None,
    through: Annotated[str | None, typer.Option(metavar="MOMENT", help="Lines up to, as --since.")] = None,
    scope: Annotated[str | None, typer.Option(metavar="SCOPE", help="Only of this scope.")] = None,
    entity: Annotated[str | None, typer.Option(metavar="ENTITY", help="Only of this entity.")] = None,
    id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Only of documents with this id.")
    ] = None,
    client: Annotated[str | None, typer.Option(metavar="CLIENT", help="Only of this client.")] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, metavar="N", help="The newest N.")
    ] = None,
    newest_first: Annotated[bool, typer.Option("--newest-first", "-r", help="In reverse.")] = False,
    changes: Annotated[bool, typer.Option("--changes", "-c", help="With old and new of each field.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is committed.")] = False,
    as_json: Json = False,
) -> None:
    """Shows the changelog: what was done to which document, when, by whom, through which mutation."""
    if follow and (newest_first or through is not None):
        fail("--follow goes with neither --newest-first nor --through")
    only: dict[str, Any] = {"scope": scope, "entity": entity, "id": id, "client_id": client}
    begin = _moment(since, "--since")
    if follow and begin is None and limit is None:
        limit = _FOLLOW_BEFORE
    with reading(database) as engine:
        lines = engine.log(
            since=0 if begin is None else begin,
            through=_moment(through, "--through"),
            newest_first=newest_first or limit is not None,
            limit=limit,
            **only,
        )
        shown = lines if newest_first or limit is None else reversed(list(lines))
        for line in shown:
            _print_line(line, as_json=as_json, changes=changes, flush=follow)
        while follow:
            time.sleep(_FOLLOW_SECONDS)
            lines = engine.log(since=lines.through, **only)
            for line in lines:
                _print_line(line, as_json=as_json, changes=changes, flush=True)


def _found(
    engine: Engine, scope: str, entity: str, id: str, at: int | datetime | None
) -> dict[str, Any] | None:
    if at is not None:
        return engine.at(at).get(scope, entity, id)
    with engine.read(scope) as view:
        return view.get(entity, id)


def _show_one(found: dict[str, Any] | None, scope: str, entity: str, id: str, as_json: bool) -> None:
    if found is None:
        fail(f"there is no {entity}/{id} in {scope}", 1)
    if as_json:
        emit(found)
    else:
        show_document(found)


def get(
    database: Database, scope: Scope, entity: Entity, id: Id, at: At = None, as_json: Json = False
) -> None:
    """Shows a document."""
    with reading(database) as engine:
        _show_one(_found(engine, scope, entity, id, _moment(at, "--at")), scope, entity, id, as_json)


def _show_pairs(pairs: list[tuple[str, dict[str, Any]]], as_json: bool) -> None:
    if as_json:
        for id, document in pairs:
            emit({"id": id, "data": document})
    else:
        show_table(("id", "document"), ((id, compact_json(document)) for id, document in pairs))


def _filter(text: str | None) -> Mapping[str, Any] | None:
    if text is None:
        return None
    value = parse_filter(text, "FILTER")
    if not isinstance(value, dict):
        fail('FILTER must be a map, such as {"done": false} or {"year": {"$gte": 2013}}')
    return value


def find(
    database: Database,
    scope: Scope,
    entity: Entity,
    filter: Annotated[
        str | None,
        typer.Argument(metavar="[FILTER]", help='JSON: {"done": false}, {"year": {"$gte": 2013}}.'),
    ] = None,
    sort: Sort = None,
    limit: Limit = None,
    at: At = None,
    as_json: Json = False,
) -> None:
    """Shows the documents of an entity that match."""
    wanted, moment = _filter(filter), _moment(at, "--at")
    with reading(database) as engine:
        if moment is not None:
            pairs = engine.at(moment).find(scope, entity, wanted, sort=sort, limit=limit)
        else:
            with engine.read(scope) as view:
                pairs = view.find(entity, wanted, sort=sort, limit=limit)
    _show_pairs(pairs, as_json)


def at(
    database: Database,
    moment: Annotated[str, typer.Argument(metavar="MOMENT", help=MOMENT_HELP)],
    scope: Scope,
    entity: Entity,
    id: Annotated[str | None, typer.Argument(metavar="[ID]")] = None,
    as_json: Json = False,
) -> None:
    """Shows a document, or all of an entity, as it was at a moment."""
    with reading(database) as engine:
        past = engine.at(parse_moment(moment, "MOMENT"))
        if id is not None:
            _show_one(past.get(scope, entity, id), scope, entity, id, as_json)
        else:
            _show_pairs(list(past.list(scope, entity).items()), as_json)


def history(
    database: Database, scope: Scope, entity: Entity, id: Id, limit: Limit = None, as_json: Json = False
) -> None:
    """Shows the versions of a document, newest first, with what changed in each."""
    with reading(database) as engine:
        versions = engine.history(scope, entity, id, limit=limit)
        for version in versions:
            if as_json:
                emit({**_as_json(version), "data": version.data})
                continue
            line = Text()
            line.append(f"version {version.version} ", style="bold")
            line.append(version.op, style=_STYLES[version.op])
            line.append(
                f" at cursor {version.cursor}, {moment_text(version.ts)}, {clean(_author(version))}",
                style="dim",
            )
            out.print(line)
            for change in _field_changes(version):
                out.print(change)
        if versions.complete is False and not as_json:
            out.print("what came before is no longer kept", style="dim")


def explain(
    database: Database,
    scope: Scope,
    entity: Entity,
    id: Id,
    client: Annotated[str | None, typer.Option(metavar="CLIENT", help="Whether this client has it.")] = None,
    as_json: Json = False,
) -> None:
    """Says why a document is as it is, and why a client has it or has not."""
    with reading(database) as engine:
        told = engine.explain(scope, entity, id, client)
    if as_json:
        emit({**dataclasses.asdict(told), "has": told.has})
    else:
        out.print(clean(str(told)), markup=False)


_LIVE = (
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


def stats(
    database: MaybeDatabase = None, url: Url = None, token: Token = None, as_json: Json = False
) -> None:
    """Shows what the database holds; of a server (--url) what it did since it began, too."""
    if url is not None:
        with Target(database, url, token) as target:
            answer = target.run("stats")
        told, health = answer["stats"], answer["health"]
    elif database is None:
        fail("Name the database: its file, or its server with --url.")
    else:
        with reading(database) as engine:
            told, health = dataclasses.asdict(engine.stats()), engine.health()
        # Of this process, which did nothing.
        told = {name: value for name, value in told.items() if name not in (*_LIVE, "waiting", "mutators")}
    if as_json:
        emit({**told, "epoch": health["epoch"], "version": health["version"]})
        return
    mutators = told.pop("mutators", {})
    show_facts({**told, "epoch": health["epoch"], "database": " ".join(health["database"].values())})
    if mutators:
        show_table(
            ("mutator", "calls", "failures", "ms each", "ms at most"),
            [
                (
                    name,
                    one["calls"],
                    one["failures"],
                    f"{1e3 * one['seconds'] / max(one['calls'], 1):.3f}",
                    f"{1e3 * one['slowest']:.3f}",
                )
                for name, one in sorted(mutators.items(), key=lambda item: -item[1]["seconds"])
            ],
        )


def scopes(database: Database, as_json: Json = False) -> None:
    """Lists the scopes, with the cursor of the last commit in each."""
    with reading(database) as engine:
        found = engine.scopes()
    if as_json:
        for scope in found:
            emit(dataclasses.asdict(scope))
    else:
        show_table(
            ("scope", "head", "floor", "log floor"),
            ((one.name, one.head, one.floor, one.log_floor) for one in found),
        )


def add_to(commands: typer.Typer) -> None:
    """Adds these commands."""
    for command in (log, get, find, at, history, explain, scopes, stats):
        commands.command()(command)
