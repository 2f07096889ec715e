"""What a replica costs: mutations a second, a rebase, a first sync from a server process over loopback.

    python benchmarks/replica.py [--quick] [--folder PATH] [--without-replicache]

Where `node` and `npm` are, the npm package `replicache` is installed into a temporary folder and makes the
same mutations; README.md says how the two are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import syncline
from rich.console import Console
from rich.table import Table
from syncline import _core

SERVER = """
import sys
sys.path.insert(0, {here!r})
import replica, syncline, uvicorn
engine = syncline.Engine({path!r}, mutators=replica.make_mutators())
app = syncline.asgi(engine, authenticate=syncline.http.anyone, authorize=syncline.http.allow_all)
uvicorn.run(app, port={port}, log_level="error", access_log=False)
"""

REPLICACHE = """
import {Replicache} from 'replicache';
import * as module from 'replicache';
const count = Number(process.argv[2]), rounds = Number(process.argv[3]);
const licenseKey = module.TEST_LICENSE_KEY ?? 'none';
const seconds = [];
for (let round = 0; round <= rounds; ++round) {
  const rep = new Replicache({
    name: `bench-${round}`, licenseKey, kvStore: 'mem', pushDelay: 1e9, pullInterval: null, logLevel: 'error',
    mutators: {create: async (tx, args) => { await tx.set(`todo/${args.id}`, args.value); }},
  });
  await rep.query(tx => tx.has('x'));
  const began = performance.now();
  for (let n = 0; n < count; ++n) {
    await rep.mutate.create({id: String(n).padStart(8, '0'),
                             value: {title: `number ${n}`, done: false, tags: ['a', 'b'], rank: n}});
  }
  if (round > 0) seconds.push((performance.now() - began) / 1000);
  await rep.close();
}
console.log(JSON.stringify(seconds));
process.exit(0);
"""


def make_mutators() -> syncline.Mutators:
    mutators = syncline.Mutators()

    @mutators("create")
    def create(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("todo", args["id"], args["value"])

    @mutators("touch")
    def touch(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.update("todo", args["id"], {"done": True})

    return mutators


def document(number: int) -> dict[str, Any]:
    return {"title": f"number {number}", "done": False, "tags": ["a", "b"], "rank": number}


def arguments(number: int) -> dict[str, Any]:
    return {"id": f"{number:08}", "value": document(number)}


def mutate(folder: Path, durability: str, count: int) -> float:
    """Seconds for `count` mutations with what they need to be durable, on a replica that is offline."""
    path = Path(tempfile.mkdtemp(dir=folder)) / "replica.db"
    made = [arguments(number) for number in range(count)]
    with syncline.Replica(
        path, "http://127.0.0.1:9", scope="s", mutators=make_mutators(), start=False, durability=durability
    ) as replica:
        began = time.perf_counter()
        for one in made:
            replica.mutate("create", one)
        replica.flush()
        return time.perf_counter() - began


def rebase(folder: Path, pending: int, changes: int) -> float:
    """Seconds in which a pull of `changes` is applied below `pending` mutations, durable, with its events."""
    place = Path(tempfile.mkdtemp(dir=folder))
    with syncline.Engine(place / "server.db", mutators=make_mutators()) as engine:
        engine.load("s", "todo", [(f"{n:08}", document(n)) for n in range(10_000)])
        core = _core.Replica(str(place / "replica.db"), make_mutators()._table)
        core.join("s")

        def answer() -> bytes:
            request = core.next_pull("s")
            assert request is not None
            asked = _core.PullRequest.parse(request.body, "msgpack", engine.limits)
            numbers.append(request.request)
            return engine._native.pull_encoded(asked, None, "msgpack")

        numbers: list[int] = []
        body = answer()
        core.answer(numbers[-1], 200, body)
        for number in range(pending):
            core.mutate("s", "touch", {"id": f"{number:08}"})
        core.flush()
        core.take_events()
        engine.load("s", "todo", [(f"{n:08}", {**document(n), "rank": -n}) for n in range(50, 50 + changes)])
        body = answer()
        began = time.perf_counter()
        core.answer(numbers[-1], 200, body)
        events = core.take_events()
        seconds = time.perf_counter() - began
        assert len(events) == changes, len(events)
        assert core.status().replayed >= pending
        core.close()
        return seconds


@contextlib.contextmanager
def served(path: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = SERVER.format(here=str(Path(__file__).parent), path=str(path), port=port)
    with subprocess.Popen([sys.executable, "-c", program]) as server:
        try:
            until = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                if time.monotonic() > until or server.poll() is not None:
                    raise SystemExit("the server does not start")
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def first_sync(url: str, folder: Path, count: int) -> float:
    """Seconds from the making of a replica until it has every document, durable."""
    path = Path(tempfile.mkdtemp(dir=folder)) / "replica.db"
    began = time.perf_counter()
    with syncline.Replica(path, url, scope="s", mutators=make_mutators(), socket=False) as replica:
        replica.wait_for("live", 300)
        seconds = time.perf_counter() - began
        assert len(replica.list("todo")) == count
        return seconds


def replicache(folder: Path, count: int, rounds: int) -> list[float] | str:
    """Seconds of each round; or why there are none."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "there is no node and npm"
    place = Path(tempfile.mkdtemp(dir=folder))
    (place / "package.json").write_text('{"type": "module", "private": true}')
    (place / "bench.js").write_text(REPLICACHE)
    install = subprocess.run(
        [npm, "install", "--silent", "--no-audit", "--no-fund", "replicache"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    if install.returncode != 0:
        return "npm could not install replicache"
    run = subprocess.run(
        [node, "bench.js", str(count), str(rounds)], cwd=place, capture_output=True, text=True, check=False
    )
    if run.returncode != 0:
        return (run.stderr.strip().splitlines() or ["it failed"])[-1]
    seconds: list[float] = json.loads(run.stdout.strip().splitlines()[-1])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="next to no data: its figures mean nothing")
    parser.add_argument("--folder", type=Path, help="where the databases go; by default the temporary one")
    parser.add_argument("--without-replicache", action="store_true")
    options = parser.parse_args()
    count, documents, rounds = (200, 2000, 2) if options.quick else (20_000, 100_000, 5)
    table = Table("figure", "Syncline", "beside", "ratio", "wanted")
    with tempfile.TemporaryDirectory(dir=options.folder, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        seconds = {
            durability: statistics.median([mutate(folder, durability, count) for _ in range(rounds + 1)][1:])
            for durability in ("full", "normal")
        }
        other = "left out" if options.without_replicache else replicache(folder, count // 10, rounds)
        rate = count / seconds["full"]
        if isinstance(other, str):
            table.add_row("mutations, durable", f"{rate:,.0f}/s", f"replicache: {other}", "", "≥ 20,000/s")
        else:
            theirs = (count // 10) / statistics.median(other)
            table.add_row(
                "mutations, durable",
                f"{rate:,.0f}/s",
                f"replicache, in memory: {theirs:,.0f}/s",
                f"{rate / theirs:.1f} ×",
                "≥ 20,000/s, ≥ 3 ×",
            )
        table.add_row(
            "mutations, not waiting for the disk", f"{count / seconds['normal']:,.0f}/s", "", "", ""
        )
        spent = statistics.median(rebase(folder, 100, min(1000, documents // 4)) for _ in range(rounds))
        table.add_row("rebase of 100 over a pull of 1,000", f"{spent * 1000:.1f} ms", "", "", "< 20 ms")
        path = folder / "server.db"
        with syncline.Engine(path, durability="normal") as engine:
            engine.load("s", "todo", [(f"{n:08}", document(n)) for n in range(documents)])
        with served(path) as url:
            took = statistics.median([first_sync(url, folder, documents) for _ in range(rounds + 1)][1:])
        table.add_row(
            f"first sync of {documents:,} documents",
            f"{documents / took:,.0f}/s",
            f"{took:.2f} s",
            "",
            "≥ 100,000/s",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
