"""Bulk load, as ratios of one run: `engine.load` beside the floor's pushes by batches of the same size.

    python benchmarks/load.py [--quick] [--folder PATH]

Both take turns in slices, and a ratio is the median over the slices; making the rows is not timed, converting
them is. The last lines say what the same rows cost when they are loaded again and change nothing, and what a
feed reads that starts at the beginning. README.md says what the floor is.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import peers
import syncline
from rich.console import Console
from rich.table import Table

WANTED = 0.8
BATCH = 5000


class Loading:
    def __init__(self, path: Path, synchronous: str) -> None:
        self.engine = syncline.Engine(path, durability=synchronous)
        self._next = 0

    def rows(self, count: int, order: str) -> list[tuple[str, dict[str, Any]]]:
        numbers = range(self._next, self._next + count)
        self._next += count
        return [(peers.document_id(n, order), peers.document(n, 200)) for n in numbers]

    def load(self, rows: list[tuple[str, dict[str, Any]]]) -> float:
        started = time.perf_counter()
        self.engine.load("scope:1", "doc", rows, batch=BATCH)
        return time.perf_counter() - started

    def close(self) -> None:
        self.engine.close()


def measure(floor_program: Path, folder: Path, count: int, rounds: int, table: Table) -> None:
    for order in ("time", "random"):
        for durability in ("full", "normal"):
            place = Path(tempfile.mkdtemp(dir=folder))
            with (
                contextlib.closing(peers.Floor(floor_program, place / "floor.db", durability)) as floor,
                contextlib.closing(Loading(place / "own.db", durability)) as own,
            ):
                spent: list[tuple[float, float]] = []
                for number in range(rounds + 1):
                    rows = own.rows(count, order)
                    seconds = {}
                    for peer in random.sample(["floor", "own"], 2):
                        seconds[peer] = (
                            floor.push(count, BATCH, 1, 200, order) if peer == "floor" else own.load(rows)
                        )
                    if number > 0:
                        spent.append((seconds["floor"], seconds["own"]))
                ratio = statistics.median(one / other for one, other in spent)
                rates = [count / statistics.median(column) for column in zip(*spent, strict=True)]
                title = f"load, {'time-ordered' if order == 'time' else 'random'} ids"
                if durability == "normal":
                    title += ", not waiting for the disk"
                table.add_row(
                    title,
                    f"{rates[1]:,.0f}/s",
                    f"floor: {rates[0]:,.0f}/s",
                    f"{ratio:.2f} ×",
                    f"≥ {WANTED} ×",
                    "[green]met[/]" if ratio >= WANTED else "[yellow]missed[/]",
                )
                if order == "time" and durability == "normal":
                    again(own, rows, count, table)


def again(own: Loading, rows: list[tuple[str, dict[str, Any]]], count: int, table: Table) -> None:
    table.add_row("the same rows again", f"{count / own.load(rows):,.0f}/s", "", "", "", "")
    started = time.perf_counter()
    changes = 0
    with own.engine.feed("bench", follow=False) as feed:
        for commit in feed:
            changes += len(commit.changes)
    table.add_row(
        "a feed from the beginning, bodies decoded on demand",
        f"{changes / (time.perf_counter() - started):,.0f}/s",
        "",
        "",
        "",
        "",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run: its figures mean nothing")
    parser.add_argument("--folder", type=Path, help="where the databases are made (the temporary folder)")
    options = parser.parse_args()
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    table = Table(title="Bulk load beside the floor; × above 1: faster")
    for column in ("figure", "Syncline", "beside", "ratio", "wanted", ""):
        table.add_column(column, justify="left" if column in ("figure", "beside") else "right")
    with tempfile.TemporaryDirectory(prefix="syncline-bench-", dir=options.folder) as folder:
        try:
            program = peers.build_floor(Path(folder))
        except peers.Unbuilt as error:
            console.print(f"[red]the floor program was not built:[/] {error}")
            return 1
        count, rounds = (1000, 1) if options.quick else (20_000, 7)
        measure(program, Path(folder), count, rounds, table)
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
