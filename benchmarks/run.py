"""The figures, as ratios of one run: Syncline beside a floor program and the same job hand-written in Python.

    python benchmarks/run.py [--quick] [--only push together single pull memory] [--folder PATH]

The peers take turns in slices, in changing order, and a ratio is the median over the slices: so what else the
machine does meets them all. README.md says how to read the table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import peers
import syncline
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Sizes:
    rounds: int
    durable: int  # mutations of a slice, each batch of 100 on the disk
    lasting: int  # and without waiting for the disk
    singles: int  # single pushes of a slice; a multiple of 64
    small: int  # documents of 200 B to pull
    large: int  # and of 2 kB
    scopes: int
    memory: int  # documents to pull page by page


FULL = Sizes(
    rounds=11,
    durable=5_000,
    lasting=20_000,
    singles=1_024,
    small=200_000,
    large=50_000,
    scopes=1_000,
    memory=1_000_000,
)
QUICK = Sizes(
    rounds=1, durable=800, lasting=300, singles=64, small=1_000, large=500, scopes=20, memory=20_000
)


@dataclass(frozen=True)
class Figure:
    what: str
    own: str
    beside: str
    ratio: float
    wanted: float | None  # at least this ratio
    unit: str = "×"


class Figures:
    def __init__(self, sizes: Sizes, folder: Path, console: Console) -> None:
        self._sizes = sizes
        self._folder = folder
        self._console = console
        self._floor: Path | None = None
        self.all: list[Figure] = []

    @contextlib.contextmanager
    def _peers(self, durability: str) -> Iterator[tuple[peers.Floor, peers.HandWritten, peers.Syncline]]:
        """The three, each on a new database."""
        if self._floor is None:
            self._floor = peers.build_floor(self._folder)
        with (
            contextlib.closing(peers.Floor(self._floor, self._database("floor"), durability)) as floor,
            contextlib.closing(peers.HandWritten(self._database("hand"), durability)) as hand,
            contextlib.closing(peers.Syncline(self._database("syncline"), durability)) as own,
        ):
            yield floor, hand, own

    def _say(self, what: str) -> None:
        self._console.print(f"[dim]{what} ...[/]")

    def _database(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(dir=self._folder)) / f"{name}.db"

    def _rounds(self, works: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
        """Seconds of each work in each round, after one round that does not count."""
        seconds: dict[str, list[float]] = {name: [] for name in works}
        for number in range(self._sizes.rounds + 1):
            for name in random.sample(list(works), len(works)):
                spent = works[name]()
                if number > 0:
                    seconds[name].append(spent)
        return seconds

    def _add(
        self,
        what: str,
        seconds: dict[str, list[float]],
        own: str,
        peer: str,
        wanted: float | None,
        units: float,
        beside: str | None = None,
    ) -> None:
        """`units` of work were done in each slice."""

        def rate(name: str) -> str:
            per_second = units / statistics.median(seconds[name])
            return f"{per_second:,.0f}/s"

        ratio = statistics.median(b / a for a, b in zip(seconds[own], seconds[peer], strict=True))
        self.all.append(Figure(what, rate(own), f"{beside or peer}: {rate(peer)}", ratio, wanted))

    # ----------------------------------------------------------------------------------------- push

    def push(self) -> None:
        for order in ("time", "random"):
            for durability in ("full", "normal"):
                self._push(order, durability)

    def _push(self, order: str, durability: str) -> None:
        title = f"push by 100, {'time-ordered' if order == 'time' else 'random'} ids"
        if durability == "normal":
            title += ", not waiting for the disk"
        self._say(title)
        count = self._sizes.durable if durability == "full" else self._sizes.lasting
        with self._peers(durability) as (floor, hand, own):
            seconds = self._rounds(
                {
                    "floor": lambda: floor.push(count, 100, 1, 200, order),
                    "hand-written": lambda: hand.push(count, 100, 1, 200, order),
                    "syncline": lambda: own.push(count, 100, 1, 200, order),
                }
            )
        floor_wanted = 0.75 if order == "time" else 0.85
        self._add(title, seconds, "syncline", "floor", floor_wanted, count)
        self._add(title, seconds, "syncline", "hand-written", 1.5, count)

    def together(self) -> None:
        title = "push by 100, 8 clients at once"
        self._say(title)
        count = self._sizes.durable // 800 * 800
        with self._peers("full") as (_, hand, own):
            seconds = self._rounds(
                {
                    "hand-written": lambda: hand.push_together(8, count, 100, "time"),
                    "syncline": lambda: own.push_together(8, count, 100, "time"),
                }
            )
        self._add(title, seconds, "syncline", "hand-written", 1.5, count)

    def single(self) -> None:
        self._say("single durable pushes")
        count = self._sizes.singles
        with contextlib.closing(peers.Syncline(self._database("syncline"), "full")) as own:
            seconds = self._rounds(
                {
                    "1 thread": lambda: own.push_singly(1, count),
                    "8 threads": lambda: own.push_singly(8, count),
                    "64 waiting": lambda: own.push_waiting(64, count),
                }
            )
        self._add("single durable pushes, 8 threads", seconds, "8 threads", "1 thread", 2, count)
        self._add("single durable pushes, 64 push_async", seconds, "64 waiting", "1 thread", 5, count)

    # ----------------------------------------------------------------------------------------- pull

    def pull(self) -> None:
        for scopes in (1, self._sizes.scopes):
            self._pull(scopes, 200, self._sizes.small)
            self._pull(scopes, 2000, self._sizes.large)

    def _pull(self, scopes: int, size: int, count: int) -> None:
        title = f"{'1 scope' if scopes == 1 else f'{scopes:,} scopes'}, {'200 B' if size == 200 else '2 kB'}"
        self._say(f"pull, {title}")

        def complete(answer: tuple[float, int]) -> float:
            seconds, documents = answer
            if documents != count:
                raise RuntimeError(f"a pull brought {documents:,} documents, and there are {count:,}")
            return seconds

        with self._peers("normal") as (floor, hand, own):
            for peer in (floor, hand, own):
                for done in range(0, count, 20_000):
                    peer.push(min(20_000, count - done), 1000, scopes, size, "time")
            seconds = self._rounds(
                {
                    "floor": lambda: complete(floor.scan(scopes)),
                    "hand-written": lambda: complete(hand.pull(scopes)),
                    "msgpack": lambda: complete(own.pull(scopes, "msgpack")),
                    "json": lambda: complete(own.pull(scopes, "json")),
                }
            )
        self._add(f"pull to msgpack, {title}", seconds, "msgpack", "floor", 0.8, count)
        self._add(f"pull to JSON, {title}", seconds, "json", "floor", 0.5, count)
        self._add(f"pull to JSON, {title}", seconds, "json", "hand-written", 2, count)

    # --------------------------------------------------------------------------------------- memory

    def memory(self) -> None:
        count = self._sizes.memory
        self._say(f"memory of pulling {count:,} documents")
        database = self._database("syncline")
        with contextlib.closing(peers.Syncline(database, "normal")) as own:
            for done in range(0, count, 20_000):
                own.push(min(20_000, count - done), 1000, 1, 200, "time")
        for way, name in (("pull", "engine.pull"), ("pages", "pages of JSON")):
            command = [sys.executable, __file__, "--memory-of", way, str(database)]
            answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            if answer["documents"] != count:
                raise RuntimeError(f"{answer['documents']:,} documents came, and there are {count:,}")
            above = (answer["peak"] - answer["idle"]) / 1e6
            self.all.append(
                Figure(
                    f"memory, {count:,} documents, {name}",
                    f"{above:,.1f} MB",
                    f"allowed: 64 MB above {answer['idle'] / 1e6:,.0f} MB",
                    64 / max(above, 0.1),
                    1,
                )
            )


def resident(field: str) -> int:
    """Bytes, from /proc: VmRSS now, VmHWM at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def memory_of(way: str, database: str) -> dict[str, int]:
    """Pulls everything in this process, which does nothing else."""
    scope = peers.scope_name(0, 1)
    documents = 0
    with contextlib.closing(peers.Syncline(Path(database), "normal")) as own:
        own.engine.pull(scope, limit=1)
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts anew
        idle = resident("VmRSS")
        if way == "pages":
            request: dict[str, object] = {"scope": scope, "cursor": 0}
            while True:
                body = own.page(request, "json")
                # Decoding would be the client's memory; no document of these holds such a field.
                documents += body.count(b'"entity":')
                found = re.search(rb'"page":"([^"]*)"', body)
                if found is None:
                    break
                request["page"] = found[1].decode()
        else:
            page: str | None = None
            while True:
                answer = own.engine.pull(scope, page=page)
                documents += len(answer.changes)
                if not answer.has_more:
                    break
                page = answer.page
    return {"idle": idle, "peak": resident("VmHWM"), "documents": documents}


def fsync_seconds(folder: Path) -> float:
    """What the disk takes to keep 4 kB."""
    spent = []
    with (folder / "fsync").open("wb", buffering=0) as file:
        for _ in range(50):
            file.write(b"x" * 4096)
            started = time.perf_counter()
            os.fsync(file.fileno())
            spent.append(time.perf_counter() - started)
    return statistics.median(spent)


def table(figures: list[Figure]) -> Table:
    result = Table(title="Syncline beside its peers; × above 1: faster")
    for column in ("figure", "Syncline", "beside", "ratio", "wanted", ""):
        result.add_column(
            column, justify="left" if column in ("figure", "beside") else "right", overflow="fold"
        )
    for figure in figures:
        met = figure.wanted is None or figure.ratio >= figure.wanted
        result.add_row(
            figure.what,
            figure.own,
            figure.beside,
            f"{figure.ratio:.2f} ×",
            "" if figure.wanted is None else f"≥ {figure.wanted:g} ×",
            "" if figure.wanted is None else "[green]met[/]" if met else "[yellow]missed[/]",
        )
    return result


PARTS = ("push", "together", "single", "pull", "memory")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a smoke run: everything once, on next to no data"
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts")
    parser.add_argument(
        "--folder", type=Path, help="where the databases are made (the system's temporary folder)"
    )
    parser.add_argument("--memory-of", nargs=2, metavar=("WAY", "DATABASE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(json.dumps(memory_of(*options.memory_of)))
        return 0
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="syncline-bench-", dir=options.folder) as folder:
        figures = Figures(QUICK if options.quick else FULL, Path(folder), console)
        try:
            for part in options.only:
                getattr(figures, part)()
        except peers.Unbuilt as error:
            console.print(f"[red]the floor program was not built:[/] {error}", markup=True)
            return 1
        disk = fsync_seconds(Path(folder))
    console.print(table(figures.all))
    console.print(
        f"Syncline {syncline.__version__}, Python {sys.version.split()[0]}, {os.cpu_count()} cores; "
        f"the disk keeps 4 kB in {disk * 1e3:.2f} ms; {time.monotonic() - started:,.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
