"""The three that are measured: the floor program, the same job hand-written in Python, and Syncline.

Each makes the same documents from a running number, in the same scopes and with the same ids. `push` returns
seconds; making the input is not part of them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import msgpack
import orjson
import syncline
from syncline import _core

HERE = Path(__file__).parent
PAGE_BYTES = 4 << 20
TEXT = "the quick brown fox jumps over the lazy dog and "


class Unbuilt(Exception):
    """The floor program cannot be built here."""


# ------------------------------------------------------------------------------------ the documents


def mixed(x: int) -> int:
    mask = (1 << 64) - 1
    x = (x + 0x9E3779B97F4A7C15) & mask
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    return x ^ (x >> 31)


def document_id(number: int, order: str) -> str:
    if order == "random":
        value = mixed(number)
        return f"{value >> 32:08x}-{value & 0xFFFF:04x}-4000-8000-{value & 0xFFFFFFFFFFFF:012x}"
    return f"{number:08x}-0000-7000-8000-{number:012x}"


def document(number: int, size: int) -> dict[str, Any]:
    length = max(1, size - 70)
    return {
        "title": f"Document {number}",
        "owner": f"user-{number % 97}",
        "rank": number % 1000,
        "price": number % 10000 + 0.5,
        "done": False,
        "text": (TEXT * (length // len(TEXT) + 1))[:length],
    }


def scope_name(number: int, scopes: int) -> str:
    return f"scope:{number % scopes + 1}"


class Mutations:
    """The next mutations of one client, numbered through all its pushes."""

    def __init__(self, client_id: str = "client") -> None:
        self._client_id = client_id
        self._next = 0

    def take(self, count: int, scopes: int, size: int, order: str, offset: int = 0) -> list[dict[str, Any]]:
        first = self._next
        self._next += count
        return [
            {
                "name": "doc/create",
                "args": {"id": document_id(offset + number, order), "doc": document(number, size)},
                "client_id": self._client_id,
                "client_seq": number + 1,
                "scope": scope_name(number, scopes),
            }
            for number in range(first, first + count)
        ]


def batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]


class Crew:
    """Clients that push at the same time; new ones each time they are asked for."""

    def __init__(self) -> None:
        self._hired = 0

    def take(self, clients: int, each: int, order: str) -> list[list[dict[str, Any]]]:
        result = []
        for _ in range(clients):
            self._hired += 1
            result.append(Mutations(f"crew-{self._hired}").take(each, 1, 200, order, self._hired << 32))
        return result


def together(
    push: Callable[[list[dict[str, Any]]], object],
    crew: Crew,
    clients: int,
    count: int,
    batch: int,
    order: str,
) -> float:
    """Seconds for `count` mutations by so many clients, each on a thread, in batches."""
    work = [list(batches(own, batch)) for own in crew.take(clients, count // clients, order)]

    def run(own: list[list[dict[str, Any]]]) -> None:
        for mutations in own:
            push(mutations)

    if clients == 1:
        started = time.perf_counter()
        run(work[0])
        return time.perf_counter() - started
    threads = [threading.Thread(target=run, args=(own,)) for own in work]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - started


class Peer(Protocol):
    def push(self, count: int, batch: int, scopes: int, size: int, order: str) -> float: ...
    def close(self) -> None: ...


# ---------------------------------------------------------------------------------------- the floor


def build_floor(folder: Path) -> Path:
    """Compiles floor.cpp into `folder`. Raises Unbuilt saying what is missing."""
    named = os.environ.get("CXX")
    compiler = (
        shutil.which(named)
        if named
        else next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    )
    if compiler is None:
        raise Unbuilt(
            "no C++ compiler found; install g++ or clang++, or name one in the environment variable CXX"
        )
    program = folder / "floor"
    command = [compiler, "-O2", "-std=c++20", str(HERE / "floor.cpp"), "-lsqlite3", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unbuilt(
            f"{' '.join(command)} failed; it needs C++20 and libsqlite3-dev:\n{done.stderr.strip()}"
        )
    return program


class Floor:
    """floor.cpp in a process of its own, which times itself."""

    def __init__(self, program: Path, path: Path, synchronous: str = "full") -> None:
        self._process = subprocess.Popen(
            [str(program), str(path), synchronous], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, command: str) -> list[str]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the floor program ended at {command!r}")
        return answer.split()

    def push(self, count: int, batch: int, scopes: int, size: int, order: str) -> float:
        return float(self._ask(f"push {count} {batch} {scopes} {size} {order}")[0])

    def scan(self, scopes: int) -> tuple[float, int]:
        """(seconds, rows)"""
        seconds, rows, _ = self._ask(f"scan {scopes}")
        return float(seconds), int(rows)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# ------------------------------------------------------------------------------------- hand-written


class HandWritten:
    """What one writes in an afternoon: sqlite3 and orjson, documents, changelog, client_seq, and the result
    of each mutation, so that a repeat gets the answer that was lost.

    One transaction a push, one at a time. It stores JSON, and its pull joins what is stored.
    """

    def __init__(self, path: Path, synchronous: str = "full") -> None:
        self._db = sqlite3.connect(path, isolation_level=None, cached_statements=256, check_same_thread=False)
        self._lock = threading.Lock()
        self._mutators: dict[str, Callable[[str, dict[str, Any]], None]] = {"doc/create": self._create}
        self._mutations = Mutations()
        self._crew = Crew()
        self._cursor = 0
        self._mutation: dict[str, Any] = {}
        self._db.executescript(
            f"""
            PRAGMA journal_mode = WAL; PRAGMA synchronous = {synchronous}; PRAGMA cache_size = -65536;
            PRAGMA wal_autocheckpoint = 4000;
            CREATE TABLE documents (
              scope TEXT NOT NULL, entity TEXT NOT NULL, id TEXT NOT NULL, cursor INTEGER NOT NULL,
              version INTEGER NOT NULL, created INTEGER NOT NULL, updated_at REAL NOT NULL, body TEXT,
              PRIMARY KEY (scope, entity, id)
            );
            CREATE UNIQUE INDEX documents_by_cursor ON documents (scope, cursor);
            CREATE TABLE changelog (
              cursor INTEGER PRIMARY KEY, scope TEXT NOT NULL, entity TEXT NOT NULL, id TEXT NOT NULL,
              op TEXT NOT NULL, version INTEGER NOT NULL, ts REAL NOT NULL,
              client_id TEXT, client_seq INTEGER, mutation TEXT, old TEXT
            );
            CREATE TABLE clients (client_id TEXT PRIMARY KEY, last_seq INTEGER NOT NULL);
            CREATE TABLE results (
              client_id TEXT NOT NULL, client_seq INTEGER NOT NULL, result TEXT NOT NULL,
              PRIMARY KEY (client_id, client_seq)
            );
            """
        )

    def _create(self, scope: str, args: dict[str, Any]) -> None:
        self._set(scope, "doc", args["id"], args["doc"])

    def _set(self, scope: str, entity: str, key: str, body: dict[str, Any]) -> None:
        found = self._db.execute(
            "SELECT version, body FROM documents WHERE scope = ? AND entity = ? AND id = ?",
            (scope, entity, key),
        ).fetchone()
        version, old = found if found else (0, None)
        self._cursor += 1
        now = time.time()
        self._db.execute(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (scope, entity, id) DO UPDATE SET cursor = excluded.cursor,"
            " version = excluded.version, updated_at = excluded.updated_at, body = excluded.body",
            (scope, entity, key, self._cursor, version + 1, self._cursor, now, orjson.dumps(body).decode()),
        )
        mutation = self._mutation
        self._db.execute(
            "INSERT INTO changelog VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(self._cursor, scope, entity, key, "update" if found else "create", version + 1, now),
                *(mutation["client_id"], mutation["client_seq"], mutation["name"], old),
            ),
        )

    def _push(self, mutations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        with self._lock:
            return self._push_alone(mutations)

    def _push_alone(self, mutations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        results: list[dict[str, Any]] = []
        fresh: list[tuple[str, int, str]] = []
        last: dict[str, int] = {}
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._cursor = self._db.execute("SELECT coalesce(max(cursor), 0) FROM changelog").fetchone()[0]
            for mutation in mutations:
                client, seq = mutation["client_id"], mutation["client_seq"]
                if client not in last:
                    row = self._db.execute(
                        "SELECT last_seq FROM clients WHERE client_id = ?", (client,)
                    ).fetchone()
                    last[client] = row[0] if row else 0
                if seq <= last[client]:
                    stored = self._db.execute(
                        "SELECT result FROM results WHERE client_id = ? AND client_seq = ?", (client, seq)
                    ).fetchone()
                    results.append({**orjson.loads(stored[0]), "duplicate": True})
                    continue
                if seq > last[client] + 1:
                    results.append({"ok": False, "error": "sequence_gap"})
                    continue
                self._mutation = mutation
                self._mutators[mutation["name"]](mutation["scope"], mutation["args"])
                last[client] = seq
                result = {"ok": True, "cursor": self._cursor}
                results.append(result)
                fresh.append((client, seq, orjson.dumps(result).decode()))
            self._db.executemany("INSERT INTO results VALUES (?, ?, ?)", fresh)
            self._db.executemany(
                "INSERT INTO clients VALUES (?, ?)"
                " ON CONFLICT (client_id) DO UPDATE SET last_seq = excluded.last_seq",
                last.items(),
            )
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        return results

    def push(self, count: int, batch: int, scopes: int, size: int, order: str) -> float:
        work = list(batches(self._mutations.take(count, scopes, size, order), batch))
        started = time.perf_counter()
        for mutations in work:
            self._push(mutations)
        return time.perf_counter() - started

    def push_together(self, clients: int, count: int, batch: int, order: str) -> float:
        return together(self._push, self._crew, clients, count, batch, order)

    def pull(self, scopes: int) -> tuple[float, int]:
        """Every scope as JSON, in pages of 4 MiB; (seconds, documents)."""
        total = 0
        started = time.perf_counter()
        for number in range(scopes):
            rows = self._db.execute(
                "SELECT cursor, entity, id, version, created, updated_at, body FROM documents"
                " WHERE scope = ? AND cursor > 0 ORDER BY cursor",
                (scope_name(number, scopes),),
            )
            scope = scope_name(number, scopes)
            page: list[str] = []
            size = 0
            for cursor, entity, key, version, created, updated_at, body in rows:
                op = "create" if created > 0 else "update"
                page.append(
                    f'{{"cursor":{cursor},"scope":"{scope}","entity":"{entity}","id":"{key}","op":"{op}",'
                    f'"data":{body},"version":{version},"ts":{updated_at}}}'
                )
                size += len(body)
                total += 1
                if size >= PAGE_BYTES:
                    ('{"changes":[' + ",".join(page) + "]}").encode()
                    page.clear()
                    size = 0
            ('{"changes":[' + ",".join(page) + "]}").encode()
        return time.perf_counter() - started, total

    def close(self) -> None:
        self._db.close()


# ----------------------------------------------------------------------------------------- Syncline


class Syncline:
    def __init__(self, path: Path, synchronous: str = "full") -> None:
        mutators = syncline.Mutators()

        @mutators("doc/create")
        def create(tx: syncline.Tx, args: dict[str, Any]) -> None:
            tx.set("doc", args["id"], args["doc"])

        self.engine = syncline.Engine(str(path), mutators=mutators, durability=synchronous)
        self._limits = _core.Limits()
        self._mutations = Mutations()
        self._crew = Crew()

    def push(self, count: int, batch: int, scopes: int, size: int, order: str) -> float:
        work = list(batches(self._mutations.take(count, scopes, size, order), batch))
        started = time.perf_counter()
        for mutations in work:
            self.engine.push(mutations, user="user")
        return time.perf_counter() - started

    def push_together(self, clients: int, count: int, batch: int, order: str) -> float:
        return together(
            lambda mutations: self.engine.push(mutations, user="user"),
            self._crew,
            clients,
            count,
            batch,
            order,
        )

    def push_singly(self, threads: int, count: int) -> float:
        """`count` pushes of one mutation each, by so many threads."""
        return self.push_together(threads, count, 1, "time")

    def push_waiting(self, waiting: int, count: int) -> float:
        """`count` pushes of one mutation each, so many of them awaited at a time."""
        work = self._crew.take(waiting, count // waiting, "time")

        async def run(mutations: list[dict[str, Any]]) -> None:
            for mutation in mutations:
                await self.engine.push_async([mutation], user="user")

        async def everything() -> float:
            started = time.perf_counter()
            await asyncio.gather(*(run(mutations) for mutations in work))
            return time.perf_counter() - started

        return asyncio.run(everything())

    def page(self, request: dict[str, Any], form: str) -> bytes:
        """The answer to one request of a pull, from bytes to bytes: what each of the HTTP doors calls."""
        parsed = _core.PullRequest.parse(orjson.dumps(request), "json", self._limits)
        return self.engine._native.pull_encoded(parsed, "user", form)

    def pull(self, scopes: int, form: str) -> tuple[float, int]:
        """Every scope from 0: (seconds, documents). Reading the answers is not timed."""
        decode: Callable[[bytes], dict[str, Any]] = msgpack.unpackb if form == "msgpack" else orjson.loads
        seconds, total = 0.0, 0
        for number in range(scopes):
            request: dict[str, Any] = {"scope": scope_name(number, scopes), "cursor": 0}
            while True:
                started = time.perf_counter()
                body = self.page(request, form)
                seconds += time.perf_counter() - started
                answer = decode(body)
                total += len(answer["changes"])
                if not answer["has_more"]:
                    break
                request["page"] = answer["page"]
        return seconds, total

    def close(self) -> None:
        self.engine.close()
