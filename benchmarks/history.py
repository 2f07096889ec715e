"""What the past costs: versions of one document, and a scope as it stood at an earlier cursor.

    python benchmarks/history.py [--quick]

Unlike run.py it has no peers. The second table shows that `engine.at(cursor)` costs what changed since and
what is listed: neither what else exists nor what happened before changes it. What was measured stands beside
the code, in src/engine/history.h.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import syncline
from rich.console import Console
from rich.table import Table

_PADDING = "x" * 150  # documents of 200 B
_BATCH = 1000


def document(n: int) -> dict[str, object]:
    return {"number": n, "title": f"document {n}", "padding": _PADDING}


def median(rounds: int, work: Callable[[], object]) -> float:
    """Seconds of processor time: nothing here waits, and the clock on a wall tells what others do as well."""
    took = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        took.append(time.process_time() - begun)
    return statistics.median(took)


mutators = syncline.Mutators()


@mutators("put")
def put(tx: syncline.Tx, args: dict[str, int]) -> None:
    tx.set("doc", f"{args['id']:07}", document(args["n"]))


def write(engine: syncline.Engine, scope: str, changes: list[tuple[int, int]]) -> None:
    """Each (id, n) as a commit line of its own."""
    for at in range(0, len(changes), _BATCH):
        engine.push(
            [
                {"name": "put", "args": {"id": id, "n": n}, "scope": scope}
                for id, n in changes[at : at + _BATCH]
            ]
        )


def versions(engine: syncline.Engine, count: int, rounds: int) -> Table:
    write(engine, "hot", [(0, n) for n in range(count)])

    def walk(use: Callable[[syncline.Version], object]) -> float:
        def all_of_them() -> None:
            for version in engine.history("hot", "doc", "0000000"):
                use(version)

        return count / median(rounds, all_of_them)

    table = Table(title=f"history of a document with {count:,} versions", title_justify="left")
    table.add_column("what")
    table.add_column("versions/s", justify="right")
    table.add_row("walked: who, when, hashes checked", f"{walk(lambda version: version.user):,.0f}")
    table.add_row("each document decoded", f"{walk(lambda version: version.data):,.0f}")
    table.add_row("each change decoded", f"{walk(lambda version: version.changes):,.0f}")
    return table


def lines(engine: syncline.Engine, rounds: int) -> Table:
    count = engine.head

    def walk() -> None:
        for _ in engine.log():
            pass

    table = Table(title="the log", title_justify="left")
    table.add_column("what")
    table.add_column("lines/s", justify="right")
    table.add_row(f"{count:,} lines", f"{count / median(rounds, walk):,.0f}")
    return table


def past(engine: syncline.Engine, existing: list[int], changed: list[int], rounds: int) -> Table:
    table = Table(title="a scope as it stood, ms", title_justify="left")
    for column in (
        "documents",
        "changed since",
        "list now",
        "list then",
        "first 10 now",
        "first 10 then",
        "get then",
    ):
        table.add_column(column, justify="right")
    for count in existing:
        scope = f"scope:{count}"
        write(engine, scope, [(n, n) for n in range(count)])
        for since in changed:
            then = engine.head
            # Spread over all of them, so that they lie nowhere together.
            write(engine, scope, [(n * count // max(since, 1), n + 1 + since) for n in range(since)])
            before = engine.at(then)

            def now(limit: int | None, scope: str = scope) -> None:
                with engine.read(scope) as view:
                    view.scan("doc", limit=limit)

            def back(limit: int | None, scope: str = scope, before: syncline.Past = before) -> None:
                before.scan(scope, "doc", limit=limit)

            figures = (
                median(rounds, lambda: now(None)),
                median(rounds, lambda: back(None)),
                median(rounds, lambda: now(10)),
                median(rounds, lambda: back(10)),
                median(rounds, lambda scope=scope, before=before: before.get(scope, "doc", "0000000")),
            )
            table.add_row(f"{count:,}", f"{since:,}", *(f"{one * 1e3:,.3f}" for one in figures))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean nothing")
    quick = parser.parse_args().quick
    console = Console(width=110)
    with (
        tempfile.TemporaryDirectory() as folder,
        syncline.Engine(Path(folder) / "history.db", mutators=mutators, durability="normal") as engine,
    ):
        rounds = 1 if quick else 7
        console.print(versions(engine, 100 if quick else 10_000, rounds))
        console.print(
            past(
                engine,
                [50, 200] if quick else [1_000, 10_000, 100_000],
                [0, 10] if quick else [0, 100, 1_000],
                rounds,
            )
        )
        console.print(lines(engine, rounds))


if __name__ == "__main__":
    main()
