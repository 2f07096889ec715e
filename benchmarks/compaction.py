"""What a compaction costs the pushes beside it: durable single pushes, without it and while it forgets a
million log lines.

    python benchmarks/compaction.py [--lines 1000000] [--folder PATH]

The aim: while it runs, the 99th percentile of a push is at most twice what it is without. Both kinds of push
are measured in the same database, the ones without it before and after, so that the disk's mood meets both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from datetime import timedelta
from pathlib import Path

import syncline
from rich.console import Console
from rich.table import Table
from syncline import _core

DAY = 86_400_000_000


def make_engine(path: Path, clock: _core.ManualClock, durability: str) -> syncline.Engine:
    mutators = syncline.Mutators()

    @mutators("set")
    def set_(tx: syncline.Tx, args: dict[str, str]) -> None:
        tx.set("doc", args["id"], {"text": args["text"], "done": False})

    return syncline.Engine(
        path,
        mutators=mutators,
        durability=durability,
        retention=syncline.Retention(interval=None),
        clock=clock,
    )


def fill(path: Path, clock: _core.ManualClock, lines: int) -> None:
    with make_engine(path, clock, "normal") as engine:
        for first in range(0, lines, 10_000):
            with engine.write(f"list:{first // 10_000 % 100}") as tx:
                for n in range(first, min(first + 10_000, lines)):
                    tx.set("doc", f"{n:08}", {"text": "x" * 100, "n": n})


class Pusher:
    def __init__(self, engine: syncline.Engine) -> None:
        self._engine = engine
        self._number = 0

    def push(self) -> float:
        self._number += 1
        args = {"id": str(self._number % 1000), "text": "y" * 100 + str(self._number)}
        started = time.perf_counter()
        self._engine.push([{"name": "set", "args": args, "scope": "live"}]).raise_for_error()
        return time.perf_counter() - started


def percentiles(seconds: list[float]) -> tuple[float, float, float]:
    cuts = statistics.quantiles(seconds, n=1000)
    return cuts[499] * 1e3, cuts[989] * 1e3, max(seconds) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = Path(folder) / "app.db"
        clock = _core.ManualClock(1_700_000_000_000_000)
        fill(path, clock, given.lines)
        clock.advance(31 * DAY)
        with make_engine(path, clock, "full") as engine:
            pusher = Pusher(engine)
            for _ in range(500):
                pusher.push()
            without = [pusher.push() for _ in range(5000)]
            done: list[syncline.Compaction] = []
            thread = threading.Thread(target=lambda: done.append(engine.compact(timedelta(days=30))))
            started = time.perf_counter()
            thread.start()
            beside: list[float] = []
            while thread.is_alive():
                beside.append(pusher.push())
            took = time.perf_counter() - started
            without += [pusher.push() for _ in range(5000)]
            wal = engine.stats().wal_bytes
    table = Table("pushes", "how many", "p50 ms", "p99 ms", "longest ms")
    for name, seconds in (("without compaction", without), ("while it runs", beside)):
        table.add_row(name, f"{len(seconds):,}", *(f"{one:.2f}" for one in percentiles(seconds)))
    console.print(table)
    ratio = percentiles(beside)[1] / percentiles(without)[1]
    console.print(f"{done[0].log_lines:,} lines in {took:.1f} s beside {len(beside) / took:,.0f} pushes/s")
    console.print(f"p99 is {ratio:.2f} times that without (aim: at most 2); WAL {wal / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
