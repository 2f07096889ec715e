"""What survives a killed process, and which files are refused: through real processes and real files."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import syncline

SCOPE = "list:1"

WRITER = """
import sys, syncline
mutators = syncline.Mutators()

@mutators("add")
def add(tx, args):
    total = tx.get("doc", "total") or {"sum": 0}
    tx.set("doc", "total", {"sum": total["sum"] + args["by"]})
    tx.set("doc", str(args["by"]), {"by": args["by"]})

engine = syncline.Engine(sys.argv[1], mutators=mutators, durability=sys.argv[3])
print("open", flush=True)
seq = int(sys.argv[2])
while True:
    batch = [
        {"name": "add", "args": {"by": seq + n}, "client_id": "c1", "client_seq": seq + n, "scope": "list:1"}
        for n in range(3)
    ]
    engine.push(batch).raise_for_error()
    seq += len(batch)
    print(seq - 1, flush=True)
"""


def start(path: Path, seq: int = 1, durability: str = "full") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(seq), durability], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


def kill(process: subprocess.Popen[str]) -> list[str]:
    """Kills it without a warning; returns what it had still said."""
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate()
    return said.split()


def write(engine: syncline.Engine, name: str, value: Any = None) -> None:
    with engine.write(SCOPE) as tx:
        tx.set("doc", name, {"value": value})


def names(engine: syncline.Engine) -> set[str]:
    return {change.id for change in engine.pull(SCOPE).changes}


@pytest.mark.parametrize("durability", ["full", "normal"])
def test_what_was_acknowledged_before_kill_9_is_there_exactly_once(tmp_path: Path, durability: str) -> None:
    path = tmp_path / "app.db"
    seq = 1
    for _ in range(3):
        process = start(path, seq, durability)
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(5)]
        said += kill(process)
        acknowledged = max(int(one) for one in said)
        with syncline.Engine(path) as engine:
            page = engine.pull(SCOPE, client_id="c1")
            stored = {change.id: change.data for change in page.changes}
            total = stored.pop("total")["sum"]
            last = page.last_seq
            assert last is not None
            assert last >= acknowledged
            # Whole pushes, each once: the one in flight is there or is not.
            assert last % 3 == 0
            assert set(stored) == {str(n) for n in range(1, last + 1)}
            assert total == sum(range(1, last + 1))
        seq = last + 1


def test_a_second_writer_is_told_who_has_the_file_and_what_to_use(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    process = start(path)
    try:
        with pytest.raises(syncline.Locked) as refused:
            syncline.Engine(path)
        message = str(refused.value)
        assert f"pid {process.pid}" in message
        assert "syncline.connect" in message
        assert "read_only=True" in message
    finally:
        kill(process)
    # The lock goes with its process, however that ended.
    syncline.Engine(path).close()


def test_a_second_writer_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with syncline.Engine(path) as engine:
        with pytest.raises(syncline.Locked, match=f"pid {os.getpid()}"):
            syncline.Engine(path)
        write(engine, "still works")
        assert names(engine) == {"still works"}


def test_read_only_beside_a_live_writer_sees_what_it_commits(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    process = start(path)
    assert process.stdout is not None
    try:
        said = int(process.stdout.readline())
        with syncline.Engine(path, read_only=True) as reader:
            last = 0
            for _ in range(20):
                page = reader.pull(SCOPE, client_id="c1")
                assert page.last_seq is not None
                assert page.last_seq >= max(said, last)
                assert len(page.changes) == page.last_seq + 1
                last = page.last_seq
                said = int(process.stdout.readline())
            for attempt in (
                lambda: reader.push([{"name": "add", "args": {}, "scope": SCOPE}]),
                lambda: reader.write(SCOPE).__enter__(),
                lambda: reader.compact(),
            ):
                with pytest.raises(syncline.ReadOnly):
                    attempt()
    finally:
        kill(process)


def test_a_restored_backup_is_noticed_even_when_its_head_has_grown_past_the_client(tmp_path: Path) -> None:
    path, copy = tmp_path / "app.db", tmp_path / "copy.db"
    with syncline.Engine(path) as engine:
        write(engine, "old")
        engine.backup(copy)
        old = engine.pull(SCOPE)
        write(engine, "lost")
        seen = engine.pull(SCOPE)
    path.unlink()
    copy.rename(path)
    with syncline.Engine(path) as engine:
        assert names(engine) == {"old"}
        for n in range(5):
            with pytest.raises(syncline.EpochMismatch) as refused:
                engine.pull(SCOPE, seen.cursor, epoch=seen.epoch)
            assert refused.value.epoch == engine.epoch
            with pytest.raises(syncline.EpochMismatch):
                engine.push([], epoch=seen.epoch)
            write(engine, str(n))
        # What the backup has in common with the lost history is still good.
        assert len(engine.pull(SCOPE, old.cursor, epoch=old.epoch).changes) == 5


def test_a_backup_taken_while_others_write_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with syncline.Engine(path, durability="normal") as engine:
        write(engine, "first", "x" * 500_000)
        stop = threading.Event()

        def work() -> None:
            n = 0
            while not stop.is_set():
                with engine.write(SCOPE) as tx:
                    tx.set("pair", "a", {"n": n})
                    tx.set("pair", "b", {"n": n})
                n += 1

        worker = threading.Thread(target=work)
        worker.start()
        try:
            heads = []
            told: list[tuple[int, int]] = []
            for n in range(3):
                before = engine.head
                engine.backup(tmp_path / f"copy{n}.db", lambda done, total: told.append((done, total)))
                heads.append((before, engine.head))
        finally:
            stop.set()
            worker.join()
    assert told
    assert all(0 <= done <= total for done, total in told)
    for n, (before, after) in enumerate(heads):
        with syncline.Engine(tmp_path / f"copy{n}.db") as restored:
            assert before <= restored.head <= after
            pair = restored.snapshot(SCOPE).data.get("pair", {})
            assert pair.get("a") == pair.get("b")
            write(restored, "goes on")


def test_a_backup_never_overwrites_and_one_that_is_ended_leaves_nothing(tmp_path: Path) -> None:
    with syncline.Engine(tmp_path / "app.db") as engine:
        write(engine, "1")
        there = tmp_path / "there"
        there.write_text("precious")
        with pytest.raises(syncline.StorageError, match="exists already"):
            engine.backup(there)
        assert there.read_text() == "precious"

        def enough(done: int, total: int) -> None:
            raise ZeroDivisionError

        before = set(tmp_path.iterdir())
        with pytest.raises(ZeroDivisionError):
            engine.backup(tmp_path / "ended.db", enough)
        assert set(tmp_path.iterdir()) == before
        write(engine, "2")
        assert names(engine) == {"1", "2"}


# ------------------------------------------------------------------------------ files that are refused


@pytest.mark.parametrize("read_only", [False, True])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as other:
        other.execute("create table theirs (x)")
    other.close()
    text = tmp_path / "notes.txt"
    text.write_text("no database at all\n" * 100)
    for one in (path, text):
        before = one.read_bytes()
        with pytest.raises(syncline.ForeignFile, match=one.name):
            syncline.Engine(one, read_only=read_only)
        assert one.read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True])
def test_a_newer_schema_is_refused(tmp_path: Path, read_only: bool) -> None:
    path = tmp_path / "app.db"
    syncline.Engine(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute("pragma user_version = 9999")
    raw.close()
    with pytest.raises(syncline.NewerSchema, match="9999"):
        syncline.Engine(path, read_only=read_only)


def test_a_damaged_file_is_never_an_empty_success(tmp_path: Path) -> None:
    path, whole = tmp_path / "app.db", tmp_path / "whole.db"
    with syncline.Engine(whole) as engine, engine.write(SCOPE) as tx:
        for n in range(2000):
            tx.set("doc", str(n), {"text": "x" * 100})
    size = whole.stat().st_size

    def read() -> int:
        with syncline.Engine(path) as engine:
            return len(engine.pull(SCOPE).changes)

    shutil.copy(whole, path)
    assert read() == 2000
    for start_, length in ((100, size - 100), (4096, size - 4096)):
        shutil.copy(whole, path)
        with open(path, "r+b") as file:
            file.seek(start_)
            file.write(b"\xa5" * length)
        with pytest.raises((syncline.Corrupt, syncline.ForeignFile)):
            read()


def test_a_missing_folder_a_folder_and_a_missing_file_are_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(syncline.StorageError, match="does not exist"):
        syncline.Engine(tmp_path / "missing" / "app.db")
    with pytest.raises(syncline.StorageError, match="is a folder"):
        syncline.Engine(tmp_path)
    with pytest.raises(syncline.StorageError, match="does not exist"):
        syncline.Engine(tmp_path / "app.db", read_only=True)
    with pytest.raises(syncline.StorageError):
        syncline.Engine("")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(syncline.UsageError, match="durability"):
        syncline.Engine(tmp_path / "app.db", durability="some")
    with pytest.raises(syncline.UsageError):
        syncline.Engine(":memory:", read_only=True)
