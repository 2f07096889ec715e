"""A year of flights, a real server, several clients, and everything that goes wrong in the life of a client.

    python examples/flights/demo.py [--rows N] [--clients N] [--database PATH]

Several client processes push the flights of 2013 out of New York over HTTP, each its share in order. One is
cut off for a while, one is killed before it reads an answer and started again, and the server itself is
killed and started again. At the end every client's copy, the server's snapshot and a count of the source
table must agree.
Ends with `converged`, or with a non-zero exit.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __package__ in (None, ""):
    sys.path.insert(0, str(ROOT))

import syncline  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn  # noqa: E402
from rich.progress import TimeElapsedColumn as Elapsed  # noqa: E402
from rich.table import Table  # noqa: E402
from rich.text import Text  # noqa: E402

from examples.flights import count, table  # noqa: E402
from examples.flights.replica import Copy, text  # noqa: E402

PATIENCE = 120.0  # seconds without a word from any client
SCOPES = tuple(f"airport:{airport}" for airport in table.AIRPORTS)


class Failed(Exception):
    """The demo did not come to the end it should come to."""


# --------------------------------------------------------------------------------------- the server


class Server:
    """`syncline serve` in a process of its own, on one port and one database over all its starts."""

    def __init__(self, database: Path, log: Path, environment: Mapping[str, str]) -> None:
        self._log = log
        self._environment = {**environment, "FLIGHTS_DATABASE": str(database)}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> str:
        """Returns its epoch when it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "syncline.cli", "serve", "examples.flights.app:app"),
                    *("--host", "127.0.0.1", "--port", str(self.port)),
                ],
                cwd=ROOT,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        with syncline.connect(self.url, token=f"demo.{self._environment['FLIGHTS_SECRET']}") as remote:
            while True:
                try:
                    return remote.epoch
                except syncline.Unavailable as error:
                    if self._process.poll() is not None:
                        raise Failed(f"the server ended by itself:\n{self._tail()}") from error
                    if time.monotonic() > deadline:
                        raise Failed(f"the server does not answer:\n{self._tail()}") from error
                    time.sleep(0.05)

    def _tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-30:])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired as error:
            self.kill()
            raise Failed(f"the server did not stop when asked:\n{self._tail()}") from error
        self._process = None


# -------------------------------------------------------------------------------------- the clients


class Client:
    """One client, over the processes that it is in its life."""

    def __init__(self, name: str, folder: Path, url: str, batch: int, environment: Mapping[str, str]) -> None:
        self.name = name
        self.share = folder / f"{name}.csv"
        self.mutations = 0
        self.acknowledged = 0
        self.duplicates = 0
        self.pulled = 0
        self.through = False
        self.report: dict[str, Any] | None = None
        self._folder = folder
        self._url = url
        self._batch = batch
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None

    def start(
        self, said: queue.Queue[tuple[Client, dict[str, Any]]], cut_at: int = 0, die_at: int = 0
    ) -> None:
        with (self._folder / f"{self.name}.log").open("a") as log:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "examples.flights.client"),
                    *("--url", self._url, "--client-id", self.name, "--share", str(self.share)),
                    *("--position", str(self._folder / f"{self.name}.position"), "--batch", str(self._batch)),
                    *("--cut-at", str(cut_at), "--die-at", str(die_at)),
                ],
                cwd=ROOT,
                env=dict(self._environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._process = process

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                said.put((self, json.loads(line)))
            said.put((self, {"event": "ended", "status": process.wait()}))

        threading.Thread(target=read, daemon=True).start()

    def tell(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()

    def errors(self) -> str:
        log = self._folder / f"{self.name}.log"
        return "\n".join(log.read_text(errors="replace").splitlines()[-30:])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


# ----------------------------------------------------------------------------------------- the year


class Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(
            f"{task.finished_speed or task.speed or 0:>7,.0f} mutations/s", style="progress.data.speed"
        )


class Year:
    """Drives clients and server through the year, with its accidents, and keeps what happened."""

    def __init__(self, server: Server, clients: list[Client], console: Console) -> None:
        self.server = server
        self.clients = clients
        self.total = 0
        self.repeated = 0  # mutations of the push that the killed client never saw answered
        self.accidents: Counter[str] = Counter()
        self._console = console
        self._said: queue.Queue[tuple[Client, dict[str, Any]]] = queue.Queue()
        self._cut: Client | None = None
        self._cut_when = 0  # what the others had, when it was cut off
        self._dead: Client | None = None
        self._epoch = ""

    @property
    def acknowledged(self) -> int:
        return sum(client.acknowledged for client in self.clients)

    def run(self, mutations: list[int]) -> None:
        """`mutations`: how many each client has."""
        self.total = sum(mutations)
        self._epoch = self.server.start()
        cut, dies = self.clients[0], self.clients[1]
        for client, own in zip(self.clients, mutations, strict=True):
            client.mutations = own
            client.start(
                self._said,
                cut_at=own // 5 if client is cut else 0,
                die_at=own * 3 // 5 if client is dies else 0,
            )
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), Elapsed())
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task("pushing", total=self.total)
            while not all(client.through for client in self.clients):
                self._hear(progress)
                progress.update(bar, completed=self.acknowledged)
                self._let_back(progress)
                if 2 * self.acknowledged >= self.total and not self.accidents["server killed"]:
                    self._kill_server(progress)
            progress.update(bar, description="pulling")
            for client in self.clients:
                client.tell("finish")
            while not all(client.report for client in self.clients):
                self._hear(progress)

    def _hear(self, progress: Progress) -> None:
        try:
            client, word = self._said.get(timeout=PATIENCE)
        except queue.Empty:
            raise Failed(f"no client said anything for {PATIENCE:.0f} s") from None
        event = word["event"]
        if event == "pushed":
            client.acknowledged = word["acknowledged"]
            client.duplicates += word["duplicates"]
            if client is self._dead and word["duplicates"]:
                self._dead = None
                self.accidents["client killed"] += 1
                progress.console.print(
                    f"{client.name}: repeated its push; {word['duplicates']:,} duplicates, none applied"
                )
        elif event == "pulled":
            client.pulled = word["pulled"]
        elif event == "cut":
            self._cut = client
            self._cut_when = self.acknowledged
            progress.console.print(f"{client.name}: cut off after {word['acknowledged']:,} mutations")
        elif event == "dying":
            self._dead = client
            self.repeated = word["mutations"]
        elif event == "through":
            client.through = True
        elif event == "done":
            client.report = word
        elif event == "refused":
            raise Failed(f"{client.name}: {word['name']} (number {word['seq']}) was refused: {word['error']}")
        elif event == "ended":
            self._ended(client, word["status"], progress)

    def _ended(self, client: Client, status: int, progress: Progress) -> None:
        if client is self._dead and status == -signal.SIGKILL:
            progress.console.print(f"{client.name}: killed between sending and receiving; starting it again")
            client.start(self._said)
        elif client.report is None:
            raise Failed(f"{client.name} ended with status {status}:\n{client.errors()}")

    def _let_back(self, progress: Progress) -> None:
        """Who is cut off comes back when the others have done an eighth of the year, or all they have."""
        cut = self._cut
        if cut is None:
            return
        missed = self.acknowledged - self._cut_when
        if 8 * missed >= self.total or all(client.through for client in self.clients if client is not cut):
            self._cut = None
            self.accidents["client cut off"] += 1
            progress.console.print(f"{cut.name}: back, {missed:,} mutations of the others later")
            cut.tell("back")

    def _kill_server(self, progress: Progress) -> None:
        self.server.kill()
        progress.console.print(
            f"server: killed with {self.acknowledged:,} mutations acknowledged; starting it again"
        )
        epoch = self.server.start()
        if epoch == self._epoch:
            raise Failed("the server came back with the epoch it had before")
        self.accidents["server killed"] += 1


# ----------------------------------------------------------------------------------- the comparison


def documents(copy: Copy, entity: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(origin, id, document) of one entity in all scopes."""
    for name, scope in copy.scopes.items():
        for (kind, key), (_, body) in scope.documents.items():
            if kind == entity:
                yield name.removeprefix("airport:"), key, json.loads(body)


def tally(copy: Copy) -> dict[tuple[str, str], count.Tally]:
    result: dict[tuple[str, str], count.Tally] = {}
    for origin, _, flight in documents(copy, "flight"):
        entry = result.setdefault((flight["carrier"], origin), count.Tally())
        entry.flights += 1
        entry.departures += flight["status"] in ("departed", "arrived")
        if flight["status"] == "arrived":
            entry.arrivals += 1
            entry.miles += flight["miles"]
    return result


def aircraft(copy: Copy) -> dict[tuple[str, str], count.Aircraft]:
    return {
        (origin, tail): count.Aircraft(
            document["arrivals"], document["miles"], document["latest"][:16].replace(" ", "T")
        )
        for origin, tail, document in documents(copy, "aircraft")
    }


def snapshot_agrees(remote: syncline.Remote, copy: Copy) -> str:
    """The server's snapshot of each scope against a pull from 0: 'yes', or what differs."""
    for name, scope in copy.scopes.items():
        try:
            snapshot = remote.snapshot(name)
        except syncline.TooLarge:
            return f"{name} is too large for one"
        live = {
            (entity, key): text(body)
            for entity, group in snapshot.data.items()
            for key, body in group.items()
        }
        if live != {key: body for key, (_, body) in scope.documents.items()}:
            return f"differs in {name}"
    return "yes"


def compare(expected: count.Count, year: Year, remote: syncline.Remote) -> tuple[Table, list[str]]:
    """The table of the end, and what is wrong."""
    wrong: list[str] = []

    def check(good: bool, what: str) -> str:
        if not good:
            wrong.append(what)
        return "[green]yes[/]" if good else "[red]no[/]"

    server = Copy(remote, SCOPES)
    server.pull()
    synced = tally(server)
    result = Table(title="flights out of New York, 2013: planned/arrived, as synced")
    result.add_column("carrier")
    for airport in table.AIRPORTS:
        result.add_column(airport, justify="right")
    result.add_column("source", justify="center")

    def cell(entry: count.Tally | None) -> str:
        return "" if entry is None else f"{entry.flights:,}/{entry.arrivals:,}"

    for carrier in sorted({carrier for carrier, _ in expected.carriers | synced}):
        keys = [(carrier, airport) for airport in table.AIRPORTS]
        good = all(synced.get(key) == expected.carriers.get(key) for key in keys)
        result.add_row(
            carrier, *(cell(synced.get(key)) for key in keys), check(good, f"the counts of {carrier}")
        )
    result.add_section()

    planes = aircraft(server)
    for title, value in (
        ("aircraft", lambda _: 1),
        ("their arrivals", lambda a: a.arrivals),
        ("their miles", lambda a: a.miles),
    ):
        sums: Counter[str] = Counter()
        wanted: Counter[str] = Counter()
        for totals, source in ((sums, planes), (wanted, expected.aircraft)):
            for (origin, _), plane in source.items():
                totals[origin] += value(plane)
        result.add_row(
            title,
            *(f"{sums[airport]:,}" for airport in table.AIRPORTS),
            check(sums == wanted, f"the sum of {title}"),
        )
    good = planes == expected.aircraft
    result.add_row(
        "each aircraft", *[""] * len(table.AIRPORTS), check(good, "the aircraft documents, one by one")
    )
    result.add_section()

    digests = {name: scope.digest() for name, scope in server.scopes.items()}
    result.add_row("server's pull", *digests.values(), "")
    for client in year.clients:
        report = client.report or {}
        own = report.get("digests", {})
        good = own == digests and report.get("last_seq") == client.mutations == client.acknowledged
        result.add_row(
            f"{client.name}'s copy",
            *(own.get(name, "") for name in SCOPES),
            check(good, f"{client.name}'s copy"),
        )
    agrees = snapshot_agrees(remote, server)
    result.add_row(
        "server's snapshot",
        *["the same" if agrees == "yes" else agrees] * len(SCOPES),
        check(agrees == "yes", f"snapshot: {agrees}"),
    )

    for accident in ("client cut off", "client killed", "server killed"):
        if year.accidents[accident] != 1:
            wrong.append(f"'{accident}' was to happen once and happened {year.accidents[accident]} times")
    return result, wrong


# --------------------------------------------------------------------------------------------- main


@contextmanager
def processes(server: Server, clients: list[Client]) -> Iterator[None]:
    """Whatever happens, nothing is left running."""
    try:
        yield
    finally:
        for client in clients:
            client.kill()
        server.kill()


def share_out(lines: list[dict[str, str]], clients: list[Client]) -> list[int]:
    """A flight is one client's, an aircraft's flights are everybody's. Returns mutations per client."""
    for number, client in enumerate(clients):
        table.write_share(lines[number :: len(clients)], client.share)
    return [count.count(lines[number :: len(clients)]).mutations for number in range(len(clients))]


def demo(console: Console, rows: int | None, clients: int, database: Path, folder: Path) -> bool:
    started = time.monotonic()
    folder.mkdir()
    lines = list(table.source_lines(rows))
    environment = {**os.environ, "FLIGHTS_SECRET": secrets.token_hex(16)}
    server = Server(database, folder / "server.log", environment)
    expected = count.count(lines)
    batch = max(1, min(1000, expected.mutations // (clients * 20)))
    crew = [
        Client(f"client-{number}", folder, server.url, batch, environment) for number in range(1, clients + 1)
    ]
    console.print(
        f"{len(lines):,} flights, {expected.mutations:,} mutations; "
        f"{clients} clients push {batch:,} at a time"
    )
    with processes(server, crew):
        year = Year(server, crew, console)
        pushing = time.monotonic()
        year.run(share_out(lines, crew))
        pushed = time.monotonic() - pushing
        with syncline.connect(server.url, token=f"demo.{environment['FLIGHTS_SECRET']}") as remote:
            result, wrong = compare(expected, year, remote)
        server.stop()
    console.print(result)
    pulled = sum(client.report["pulled"] for client in crew if client.report)
    console.print(
        f"{year.acknowledged:,} mutations and {pulled:,} pulled changes in {pushed:,.0f} s; "
        f"{sum(client.duplicates for client in crew):,} mutations came twice and were applied once; "
        f"{time.monotonic() - started:,.0f} s in all."
    )
    for mistake in wrong:
        console.print(f"[red]wrong:[/] {mistake}")
    return not wrong


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--rows", type=int, metavar="N", help=f"only the first N of the {table.ROWS:,} flights"
    )
    parser.add_argument(
        "--clients", type=int, default=4, metavar="N", help="processes that push (at least 2; 4)"
    )
    parser.add_argument(
        "--database", type=Path, metavar="PATH", help="where to leave the database; must not exist"
    )
    options = parser.parse_args(argv)
    if options.rows is not None and options.rows < 100:
        parser.error("--rows must be at least 100, so that there is something to interrupt")
    if not 2 <= options.clients <= 64:
        parser.error("--clients must be 2 to 64: one is cut off, another one is killed")
    if options.database is not None and options.database.exists():
        parser.error(f"--database {options.database} exists; name a file that does not, or remove it")
    if options.database is not None and not options.database.absolute().parent.is_dir():
        parser.error(
            f"--database {options.database}: there is no folder {options.database.absolute().parent}"
        )

    folder = Path(tempfile.mkdtemp(prefix="syncline-flights-"))
    database: Path = (options.database or folder / "flights.db").absolute()
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    try:
        good = demo(console, options.rows, options.clients, database, folder / "clients")
    except Failed as failure:
        console.print(f"failed: {failure}\nThe logs are in {folder}.", style="red", markup=False)
        return 1
    if good:
        shutil.rmtree(folder / "clients")
        if database.parent != folder:
            folder.rmdir()
    look = shlex.join([sys.executable, str(Path(__file__).with_name("look.py")), str(database)])
    console.print(f"The database stays, {database.stat().st_size / 1e6:,.0f} MB: {database}", markup=False)
    console.print(f"A look into it: {look}", markup=False)
    console.print("[green]converged[/]" if good else "[red]not converged[/]")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
