"""How fast the log and the documents become tables: python benchmarks/tables.py [--lines N] [--runs N]
[--folder PATH]

A database is filled with lines such as an application makes them (clients, users, four mutators, updates and
deletions), then read as `syncline.explore` reads it. Beside it: the same columns fetched from the file with
`sqlite3` and put into pandas, which is what one writes without it.
"""

from __future__ import annotations

import argparse
import itertools
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas
import syncline
from rich.console import Console
from rich.table import Table
from syncline import explore

WANTED = 1_000_000  # lines/s from the log to pandas
CLIENTS = 200
SCOPES = 10
BATCH = 500

mutators = syncline.Mutators()


@mutators("task/create")
def create(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.set(
        "task",
        args["id"],
        {
            "title": f"task {args['id']}",
            "done": False,
            "rank": args["rank"],
            "estimate": args["rank"] / 8,
            "due": tx.now,
        },
    )


@mutators("task/rename")
def rename(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.update("task", args["id"], {"title": f"renamed {args['id']}"})


@mutators("task/finish")
def finish(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.update("task", args["id"], {"done": True, "rank": 0})


@mutators("task/drop")
def drop(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.delete("task", args["id"])


def mutations() -> Iterator[tuple[str, dict[str, Any]]]:
    """Of each ten tasks all are renamed, half finished, one dropped."""
    for number in itertools.count():
        task = {"id": f"{number:08x}", "rank": number % 100}
        yield "task/create", task
        yield "task/rename", task
        if number % 2 == 0:
            yield "task/finish", task
        if number % 10 == 0:
            yield "task/drop", task


def fill(engine: syncline.Engine, lines: int) -> None:
    made = mutations()
    numbers = [0] * CLIENTS
    for batch in range(-(-lines // BATCH)):
        client = batch % CLIENTS
        push = []
        for name, args in itertools.islice(made, min(BATCH, lines - batch * BATCH)):
            numbers[client] += 1
            push.append(
                {
                    "name": name,
                    "args": args,
                    "client_id": f"client-{client:04}",
                    "client_seq": numbers[client],
                    "scope": f"list:{int(args['id'], 16) % SCOPES}",
                }
            )
        results = engine.push(push, user=f"user-{client % 50}")
        results.raise_for_error()


def by_hand(path: Path) -> pandas.DataFrame:
    """Fetched row by row. The join and the look-ups are those that a line needs to say as much."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        frame = pandas.read_sql_query(
            "SELECT l.cursor, s.name AS scope, e.name AS entity, l.id, l.op, l.version, l.previous, l.ts,"
            " c.owner AS user, c.client_id, l.client_seq, m.name AS mutation, l.mutation_ts, l.hash"
            " FROM changelog l JOIN scopes s ON s.no = l.scope JOIN names e ON e.no = l.entity"
            " LEFT JOIN names m ON m.no = l.mutation LEFT JOIN clients c ON c.no = l.client"
            " ORDER BY l.cursor",
            connection,
        )
    for column in ("ts", "mutation_ts"):
        frame[column] = pandas.to_datetime(frame[column], unit="us", utc=True)
    return frame


def measure(rows: int, runs: int, read: Callable[[], Any]) -> tuple[float, float]:
    """Rows/s and nanoseconds of processor time a row: the medians."""
    rates, costs = [], []
    for _ in range(runs):
        started, worked = time.perf_counter(), time.process_time()
        read()
        rates.append(rows / (time.perf_counter() - started))
        costs.append((time.process_time() - worked) / rows * 1e9)
    return statistics.median(rates), statistics.median(costs)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to put the database (default: a temporary one)")
    options = parser.parse_args(argv)
    lines: int = options.lines
    console = Console(width=100 if not sys.stdout.isatty() else None)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "tables.db"
        with syncline.Engine(path, mutators=mutators, durability="normal") as engine:
            with console.status(f"{lines:,} lines are made"):
                fill(engine, lines)
            documents = engine.stats().documents
            table = Table("", "rows", "rows/s", "wanted", "CPU ns/row", title="Tables")

            def row(what: str, rows: int, read: Callable[[], Any], wanted: str = "") -> None:
                rate, cost = measure(rows, options.runs, read)
                table.add_row(what, f"{rows:,}", f"{rate:,.0f}", wanted, f"{cost:,.0f}")

            row("log, batch by batch", lines, lambda: sum(len(b) for b in explore.log(engine).batches()))
            row("log to Arrow", lines, lambda: explore.log(engine).arrow())
            row("log to pandas", lines, lambda: explore.log(engine).pandas(), f"{WANTED:,}")
            row(
                "log with changed fields to pandas", lines, lambda: explore.log(engine, changed=True).pandas()
            )
            row("log by hand to pandas (sqlite3)", lines, lambda: by_hand(path))
            row("documents to Arrow", documents, lambda: explore.documents(engine).arrow())
            row("documents to pandas", documents, lambda: explore.documents(engine).pandas())
            console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
