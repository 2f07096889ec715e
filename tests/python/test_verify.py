"""Damage done to real files with sqlite3: `verify` names it, `repair` rebuilds what follows from the rest."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import syncline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syncline import _core


def make_mutators() -> syncline.Mutators:
    mutators = syncline.Mutators()

    @mutators("set")
    def set_(tx: syncline.Tx, args: Any) -> None:
        tx.set("doc", args["id"], {"value": args["value"], "list": [1, {"a": None}]})

    @mutators("delete")
    def delete(tx: syncline.Tx, args: Any) -> None:
        tx.delete("doc", args["id"])

    @mutators("reject")
    def reject(tx: syncline.Tx, args: Any) -> None:
        raise syncline.Rejected("no")

    return mutators


def open_engine(path: Path, **more: Any) -> syncline.Engine:
    return syncline.Engine(
        path,
        mutators=make_mutators(),
        durability="normal",
        retention=syncline.Retention(interval=None),
        **more,
    )


def fill(path: Path) -> None:
    with open_engine(path) as engine:
        seq = 0
        for value in range(4):
            for n in range(8):
                seq += 1
                name, args = (
                    ("delete", {"id": str(n)})
                    if n == 7 and value == 3
                    else ("set", {"id": str(n), "value": value})
                )
                engine.push(
                    [
                        {
                            "name": name,
                            "args": args,
                            "scope": "s" if n % 2 else "t",
                            "client_id": f"c{n % 2}",
                            "client_seq": (seq + 1) // 2,
                        }
                    ],
                    user="ada",
                )
        engine.push([{"name": "delete", "args": {"id": "6"}, "scope": "t"}])
        engine.push([{"name": "set", "args": {"id": "6", "value": "again"}, "scope": "t"}])
        engine.push([{"name": "reject", "args": {}, "scope": "t", "client_id": "c9", "client_seq": 1}])
        engine.pull("s", client_id="phone")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("verify") / "app.db"
    fill(path)
    return path


@pytest.fixture
def path(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(filled, tmp_path / "app.db"))


def damage(path: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema = ON")
        for one in statements:
            database.execute(one)
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def problems(path: Path) -> list[str]:
    with open_engine(path, read_only=True) as engine:
        report = engine.verify()
        assert bool(report) == (report.found == 0) == report.ok
        return [str(one) for one in report.problems]


def documents(path: Path) -> dict[str, Any]:
    with open_engine(path, read_only=True) as engine:
        return {scope: engine.snapshot(scope).data for scope in ("s", "t")}


def place(id: str) -> str:
    return f"(SELECT scope << 40 | cursor FROM keys WHERE id = '{id}')"


def line(id: str) -> str:
    return f"(SELECT cursor FROM keys WHERE id = '{id}')"


def previous(id: str) -> str:
    return f"(SELECT previous FROM changelog WHERE cursor = {line(id)})"


# ----------------------------------------------------------------------------------------------- what is well


def test_a_database_that_was_used_and_compacted_and_erased_from_is_well(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    fill(path)
    clock = _core.ManualClock(4_000_000_000_000_000)
    with open_engine(path, clock=clock) as engine:
        seen: list[tuple[int, int]] = []
        report = engine.verify(lambda done, total: seen.append((done, total)))
        assert report.ok, str(report)
        assert seen[-1][0] == seen[-1][1] == 8 + 34
        assert "all is well" in str(report)
        checked = report.checked
        assert (checked.documents, checked.versions, checked.log_lines) == (8, 34, 34)
        assert (checked.unlogged, checked.clients, checked.results) == (1, 3, 33)
        engine.erase("s", "doc", "1")
        assert engine.verify().ok
        engine.compact(10)
        assert engine.verify().ok
        engine.compact(timedelta(0))
        assert engine.verify().ok
        engine.erase("t")
        assert engine.verify().ok
    assert problems(path) == []
    assert syncline.repair(path) == syncline.Repair((), ())


def test_what_progress_raises_ends_a_verify(path: Path) -> None:
    class Enough(Exception): ...

    def stop(done: int, total: int) -> None:
        raise Enough

    with open_engine(path) as engine, pytest.raises(Enough):
        engine.verify(stop)


# ------------------------------------------------------------------------------------- what can be rebuilt


REBUILT = {
    "a key is gone": (["DELETE FROM keys WHERE id = '3'"], r"document \(s, doc, 3\): it has no key"),
    "all keys are gone": (["DELETE FROM keys"], r"it has no key: nobody finds it by its id"),
    "a key names another cursor": (["UPDATE keys SET cursor = 3 WHERE id = '3'"], r"its key names cursor 3"),
    "a key of nothing": (
        ["INSERT INTO keys SELECT scope, entity, 'ghost', 1 FROM keys LIMIT 1"],
        r"key \(\w, doc, ghost\): there is no such document at cursor 1",
    ),
    "the head is behind": (["UPDATE meta SET head = 5"], r"above the database's head 5"),
    "the head is gone": (["DELETE FROM meta"], r"meta: it has 0 rows"),
    "the table of keys is gone": (["DROP TABLE keys"], r"the schema: the table keys is missing"),
    "the index of tombstones is gone": (
        ["DROP INDEX tombstones"],
        r"the schema: the index tombstones is missing",
    ),
    "a scope's head is behind": (
        ["UPDATE scopes SET head = 1 WHERE name = 's'"],
        r"scope 's': its head 1 is below",
    ),
    "a version is wrong": (
        [f"UPDATE documents SET version = 77 WHERE place = {place('3')}"],
        r"says version 4, not 77",
    ),
    "a time is wrong": (
        [f"UPDATE documents SET updated_at = 1 WHERE place = {place('3')}"],
        r"its time is not that",
    ),
    "a creation is wrong": (
        [f"UPDATE documents SET created = 1 WHERE place = {place('6')}"],
        r"created at cursor 1, and its log at 34",
    ),
    "a tombstone is gone": (
        [f"DELETE FROM documents WHERE place = {place('7')}", "DELETE FROM keys WHERE id = '7'"],
        r"no document, and no later line, leads to it",
    ),
    "a tombstone's row is gone": (
        [f"DELETE FROM documents WHERE place = {place('7')}"],
        r"there is no such document",
    ),
    "a deleted body came back": (
        [
            f"UPDATE documents SET body = (SELECT delta FROM changelog WHERE cursor = {line('7')})"
            f" WHERE place = {place('7')}"
        ],
        r"it deletes what is there",
    ),
    "a tombstone is an empty body": ([f"UPDATE documents SET body = x'' WHERE place = {place('7')}"], r""),
    "a client's last number is behind": (
        ["UPDATE clients SET last_seq = 1 WHERE client_id = 'c1'"],
        r"results 2 \.\.\. 2 of client 'c1': the client's last number is 1",
    ),
    "a link leads elsewhere": (
        [f"UPDATE changelog SET previous = {line('1')} WHERE cursor = {line('3')}"],
        r"of another document",
    ),
    "a link leads upwards": (
        [f"UPDATE changelog SET previous = 99 WHERE cursor = {previous('3')}"],
        r"which is not before it",
    ),
    "a chain ends too early": (
        [f"UPDATE changelog SET previous = 0 WHERE cursor = {line('3')}"],
        r"and follows no line",
    ),
    "results of nobody": (
        ["INSERT INTO results VALUES (99, 1, 1, x'90')"],
        r"client number 99: the client has no row",
    ),
}


@pytest.mark.parametrize("what", REBUILT)
def test_what_follows_from_the_rest_is_named_and_rebuilt(path: Path, filled: Path, what: str) -> None:
    statements, named = REBUILT[what]
    before = documents(filled)
    damage(path, *statements)
    found = problems(path)
    assert found
    assert any(re.search(named, one) for one in found), found
    done = syncline.repair(path)
    assert done.rebuilt, str(done)
    assert done.left == (), str(done)
    assert problems(path) == []
    assert documents(path) == before
    assert syncline.repair(path).rebuilt == (), "once is enough"
    with open_engine(path) as engine:
        assert engine.push([{"name": "set", "args": {"id": "3", "value": 9}, "scope": "s"}]).ok
        assert engine.verify().ok
        assert [one.op for one in engine.pull("s").changes].count("delete") == 0


GIVEN_UP = {
    "a line is gone": (
        [f"DELETE FROM changelog WHERE cursor = {previous('3')}"],
        r"it is missing, and lies above",
    ),
    "a delta is damaged": (
        [f"UPDATE changelog SET delta = x'80' WHERE cursor = {line('3')}"],
        r"hash is not that of version 3",
    ),
    "a delta is no delta": (
        [f"UPDATE changelog SET delta = x'c1' WHERE cursor = {line('3')}"],
        r"its delta does not fit",
    ),
    "a hash is another": (
        [f"UPDATE changelog SET hash = 1 WHERE cursor = {previous('3')}"],
        r"hash is not that of version 3",
    ),
    "a floor is above the head": (["UPDATE scopes SET floor = 1000 WHERE name = 's'"], r"its floor is 1000"),
    "a log floor is negative": (
        ["UPDATE scopes SET log_floor = -1 WHERE name = 's'"],
        r"its log_floor is -1",
    ),
}


@pytest.mark.parametrize("what", GIVEN_UP)
def test_what_cannot_be_known_any_more_is_given_up_and_documents_stay(
    path: Path, filled: Path, what: str
) -> None:
    statements, named = GIVEN_UP[what]
    before = documents(filled)
    damage(path, *statements)
    found = problems(path)
    assert any(re.search(named, one) for one in found), found
    done = syncline.repair(path)
    assert done.rebuilt
    assert done.left == (), str(done)
    assert problems(path) == []
    assert documents(path) == before
    with open_engine(path) as engine, pytest.raises(syncline.HistoryGone):
        engine.at(1).get("s", "doc", "3")


# ------------------------------------------------------------------------------------ what cannot be rebuilt


LEFT = {
    "a body is another": (
        [f"UPDATE documents SET body = x'80' WHERE place = {place('3')}"],
        r"log line \d+ of document \(s, doc, 3\): its hash is not that of version 4",
    ),
    "a body is no map": (
        [f"UPDATE documents SET body = x'01' WHERE place = {place('3')}"],
        r"its body is no map",
    ),
    "a body is not canonical": (
        [f"UPDATE documents SET body = x'81a16bcc01' WHERE place = {place('3')}"],
        r"its body is not in canonical form",
    ),
    "a body is cut off": (
        [f"UPDATE documents SET body = x'81a1' WHERE place = {place('3')}"],
        r"its body cannot be read",
    ),
    "a document is gone": (
        [f"DELETE FROM documents WHERE place = {place('3')}"],
        r"there is no such document",
    ),
    "a name is gone": (["DELETE FROM names WHERE name = 'doc'"], r"its entity has no name"),
    "a scope is gone": (["DELETE FROM scopes WHERE name = 's'"], r"its scope has no row"),
    "a client is gone": (["DELETE FROM clients WHERE client_id = 'c1'"], r"its client number \d+ has no row"),
    "results are damaged": (["UPDATE results SET results = x'c1'"], r"results 1 \.\.\. 1 of client 'c0'"),
    "an unlogged document is damaged": (
        ["UPDATE unlogged SET body = x'c1'"],
        r"unlogged document \(_positions, position",
    ),
    "an epoch begins above the head": (["UPDATE epochs SET first = 1000"], r"above the database's head"),
    "a strange table": (["CREATE TABLE strange (a)"], r"the schema: the table strange is none of ours"),
    "an op is none": (
        [f"UPDATE changelog SET op = 9 WHERE cursor = {line('3')}"],
        r"none of create, update, delete",
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_what_cannot_be_rebuilt_is_named_and_nothing_is_invented(path: Path, what: str) -> None:
    statements, named = LEFT[what]
    damage(path, *statements)
    found = problems(path)
    assert any(re.search(named, one) for one in found), found
    bodies = stored_bodies(path)
    done = syncline.repair(path)
    if what not in ("an epoch begins above the head", "results are damaged", "a client is gone"):
        assert done.left, str(done)
    assert stored_bodies(path) <= bodies, "no body is made up"
    assert {str(one) for one in done.left} == set(problems(path))


def stored_bodies(path: Path) -> set[tuple[int, bytes]]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return set(database.execute("SELECT place, body FROM documents WHERE body IS NOT NULL"))


def test_a_damaged_page_is_named_and_not_fatal(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as database:
        (root,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'changelog'").fetchone()
        (size,) = database.execute("PRAGMA page_size").fetchone()
    with open(path, "r+b") as file:
        file.seek((root - 1) * size)
        file.write(b"\xff" * 200)
    found = problems(path)
    assert any(one.startswith("the file: ") for one in found), found
    assert any("cannot be read to its end" in one for one in found), found


# --------------------------------------------------------------------------------------------- its border


def test_repair_refuses_what_is_open_and_what_is_no_database(path: Path, tmp_path: Path) -> None:
    with open_engine(path), pytest.raises(syncline.Locked):
        syncline.repair(path)
    with pytest.raises(syncline.StorageError, match="is no file"):
        syncline.repair(tmp_path / "nothing.db")
    other = tmp_path / "other.db"
    with contextlib.closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE a (b)")
    with pytest.raises(syncline.ForeignFile):
        syncline.repair(other)
    text = tmp_path / "text.db"
    text.write_text("hello, this is a text and no database" * 100)
    with pytest.raises(syncline.ForeignFile):
        syncline.repair(text)
    (tmp_path / "empty.db").touch()
    with pytest.raises(syncline.ForeignFile, match="nothing to repair"):
        syncline.repair(tmp_path / "empty.db")
    with pytest.raises(syncline.UsageError):
        syncline.repair(b"app.db")  # type: ignore[arg-type]


def test_a_database_without_its_documents_is_refused_and_left_as_it_is(path: Path) -> None:
    damage(path, "DROP TABLE documents")
    with pytest.raises(syncline.Corrupt, match="no table documents"):
        syncline.repair(path)
    assert any("the table documents is missing" in one for one in problems(path))


# ----------------------------------------------------------------------------------------- random damage


COLUMNS = {
    "keys": ["scope", "entity", "id", "cursor"],
    "documents": ["entity", "id", "version", "created_at", "updated_at", "created", "body"],
    "changelog": [
        "scope",
        "entity",
        "id",
        "op",
        "version",
        "previous",
        "ts",
        "client",
        "mutation",
        "delta",
        "hash",
    ],
    "scopes": ["head", "floor", "log_floor", "log_swept"],
    "clients": ["last_seq", "settled"],
    "results": ["last_seq", "first_seq", "results"],
    "meta": ["head"],
    "epochs": ["first"],
}


@st.composite
def damages(draw: st.DrawFn) -> str:
    table = draw(st.sampled_from(sorted(COLUMNS)))
    row = f"(SELECT count(*) FROM {table}) * {draw(st.integers(0, 99))} / 100"
    nth = (
        "rowid"
        if table not in ("keys", "results")
        else {"keys": "id", "results": "client || '.' || last_seq"}[table]
    )
    where = f"{nth} = (SELECT {nth} FROM {table} LIMIT 1 OFFSET {row})"
    if table not in ("meta", "epochs") and draw(st.booleans()):
        return f"DELETE FROM {table} WHERE {where}"
    value = draw(st.sampled_from(["0", "1", "-1", "7", "99999", "x'80'", "x'c1'", "'other'"]))
    return f"UPDATE OR IGNORE {table} SET {draw(st.sampled_from(COLUMNS[table]))} = {value} WHERE {where}"


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(done=st.lists(damages(), min_size=1, max_size=3))
def test_after_any_damage_repair_ends_and_says_what_is_left(
    filled: Path, tmp_path_factory: pytest.TempPathFactory, done: list[str]
) -> None:
    path = Path(shutil.copy(filled, tmp_path_factory.mktemp("damage") / "app.db"))
    damage(path, *done)
    before = stored_bodies(path)
    try:
        first = syncline.repair(path)
    except syncline.Corrupt:
        return
    assert stored_bodies(path) <= before, "no body is made up"
    assert {str(one) for one in first.left} == set(problems(path)), "it says all that is left"
    again = syncline.repair(path)
    assert again.rebuilt == (), f"once is enough, after {first}"
    assert again.left == first.left
