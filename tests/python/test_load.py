"""A bulk load puts rows in place as documents: whole commits, logged as usual, and harmless to repeat."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import syncline
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with syncline.Engine(":memory:") as engine:
        yield engine


def documents(engine: syncline.Engine, scope: str = "s", entity: str = "k") -> dict[str, Any]:
    with engine.read(scope) as view:
        return view.list(entity)


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"d{n:05}", "n": n, "when": datetime(2024, 1, 1, tzinfo=timezone.utc)} for n in range(count)
    ]


def test_rows_become_documents_in_whole_chunks(engine: syncline.Engine) -> None:
    told: list[tuple[int, int | None]] = []
    loaded = engine.load(
        "s", "k", rows(25), batch=10, progress=lambda done, total: told.append((done, total))
    )
    assert loaded == syncline.Loaded(25, 25, 0, 0, 25)
    assert told == [(10, 25), (20, 25), (25, 25)]
    assert documents(engine) == {row["id"]: row for row in rows(25)}
    assert engine.stats().commits == 3


def test_changes_are_logged_pulled_and_told_as_usual(engine: syncline.Engine) -> None:
    engine.load("s", "k", rows(3), user="importer")
    engine.load("s", "k", [{"id": "d00001", "n": 7}])
    assert [(line.op, line.id, line.user, line.mutation) for line in engine.log()] == [
        ("create", "d00000", "importer", None),
        ("create", "d00001", "importer", None),
        ("create", "d00002", "importer", None),
        ("update", "d00001", None, None),
    ]
    assert not engine.verify().problems
    assert [(one.id, one.op, one.version) for one in engine.pull("s").changes] == [
        ("d00000", "create", 1),
        ("d00002", "create", 1),
        ("d00001", "create", 2),
    ]
    assert [version.data for version in engine.history("s", "k", "d00001")] == [
        {"id": "d00001", "n": 7},
        rows(3)[1],
    ]
    with engine.feed("f", follow=False) as feed:
        assert [len(commit.changes) for commit in feed] == [3, 1]
    with engine.subscribe("s") as pokes:
        cursor = engine.load("s", "k", [{"id": "new"}]).cursor
        assert pokes.get(timeout=30) == ("s", cursor, engine.epoch)


def test_the_same_rows_again_change_nothing(engine: syncline.Engine) -> None:
    engine.load("s", "k", rows(100), batch=7)
    head = engine.head
    assert engine.load("s", "k", rows(100), batch=30) == syncline.Loaded(100, 0, 0, 100, 0)
    assert engine.head == head
    assert engine.stats().commits == 15


def test_a_load_that_broke_off_goes_on_when_it_is_run_again(tmp_path: Path) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from rows(25)
        raise OSError("the table is gone")

    with syncline.Engine(tmp_path / "a.db") as engine, pytest.raises(OSError, match="gone"):
        engine.load("s", "k", broken(), batch=10)
    with syncline.Engine(tmp_path / "a.db") as engine:
        assert len(documents(engine)) == 20
        assert engine.load("s", "k", rows(50)) == syncline.Loaded(50, 30, 0, 20, 50)


def test_a_deleted_document_comes_back_and_goes_on_counting(engine: syncline.Engine) -> None:
    engine.load("s", "k", rows(1))
    with engine.write("s") as tx:
        tx.delete("k", "d00000")
    assert engine.load("s", "k", rows(1)).created == 1
    with engine.read("s") as view:
        assert view.version("k", "d00000") == 3
    assert [one.op for one in engine.pull("s").changes] == ["create"]


def test_of_two_rows_with_one_id_the_later_is_an_update(engine: syncline.Engine) -> None:
    loaded = engine.load(
        "s", "k", [{"id": "a", "n": 1}, {"id": "b"}, {"id": "a", "n": 2}, {"id": "a", "n": 2}]
    )
    assert loaded == syncline.Loaded(4, 2, 1, 1, 3)
    assert documents(engine)["a"] == {"id": "a", "n": 2}
    assert len(list(engine.history("s", "k", "a"))) == 2


def test_ids_may_be_numbers_other_fields_or_beside_the_document(engine: syncline.Engine) -> None:
    engine.load("s", "n", [{"id": 7, "x": 1}, {"id": -1}])
    assert documents(engine, entity="n") == {"7": {"id": 7, "x": 1}, "-1": {"id": -1}}
    engine.load("s", "f", [{"code": "x", "id": 3}], key="code")
    assert documents(engine, entity="f") == {"x": {"code": "x", "id": 3}}
    engine.load("s", "p", iter([("a", {"x": 1}), (5, {})]))
    assert documents(engine, entity="p") == {"5": {}, "a": {"x": 1}}


def test_rows_of_a_database_driver_are_taken(engine: syncline.Engine) -> None:
    table = sqlite3.connect(":memory:")
    table.row_factory = sqlite3.Row
    table.execute("CREATE TABLE t (id INTEGER, name TEXT)")
    table.executemany("INSERT INTO t VALUES (?, ?)", [(1, "one"), (2, None)])
    assert engine.load("s", "k", table.execute("SELECT * FROM t")).created == 2
    assert documents(engine) == {"1": {"id": 1, "name": "one"}, "2": {"id": 2, "name": None}}
    table.close()


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"n": 1}, "no field 'id'"),
        ({"id": None}, "str or an int, not NoneType"),
        ({"id": True}, "str or an int, not bool"),
        ({"id": 1.5}, "str or an int, not float"),
        ({"id": ""}, "id"),
        ({"id": "_x"}, "_"),
        ({"id": "a\nb"}, "control"),
        ({"id": "x", "v": object()}, "v"),
        ({"id": "x", "$v": 1}, r"\$v"),
        ("text", "must be a dict"),
        (5, "must be a dict"),
        (("a", 5), "must be a dict"),
        ((None, {}), "str or an int"),
    ],
)
def test_a_row_that_is_no_document_is_refused_by_its_number(
    engine: syncline.Engine, row: Any, says: str
) -> None:
    with pytest.raises(syncline.InvalidMutation, match=r"rows\[12\].*" + says):
        engine.load("s", "k", [*rows(12), row], batch=10)
    assert len(documents(engine)) == 10  # what was committed before it stays


def test_a_document_that_is_too_large_is_refused(engine: syncline.Engine) -> None:
    with pytest.raises(syncline.TooLarge, match=r"rows\[0\]"):
        engine.load("s", "k", [{"id": "a", "v": "x" * (2 << 20)}])


@pytest.mark.parametrize("given", [{"id": "a"}, "rows", b"rows", 5, None])
def test_what_is_no_table_is_refused(engine: syncline.Engine, given: Any) -> None:
    with pytest.raises(syncline.InvalidRequest):
        engine.load("s", "k", given)


def test_scope_entity_batch_and_place_are_checked(engine: syncline.Engine) -> None:
    with pytest.raises(syncline.InvalidScope):
        engine.load("_s", "k", rows(1))
    with pytest.raises(syncline.InvalidMutation):
        engine.load("s", "_k", rows(1))
    for batch in (0, True, 1.5):
        with pytest.raises(syncline.UsageError, match="batch"):
            engine.load("s", "k", rows(1), batch=batch)  # type: ignore[arg-type]
    with engine.write("s"), pytest.raises(syncline.UsageError):
        engine.load("s", "k", rows(1))
    assert engine.load("s", "k", []) == syncline.Loaded(0, 0, 0, 0, 0)
    assert documents(engine) == {}


ROW = st.tuples(st.sampled_from("abcdef"), st.integers(0, 2))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(ROW, max_size=12), max_size=4), st.integers(1, 5))
def test_it_is_as_if_each_row_had_been_set(loads: list[list[tuple[str, int]]], batch: int) -> None:
    with syncline.Engine(":memory:") as loading, syncline.Engine(":memory:") as setting:
        for load in loads:
            table = [{"id": id, "v": value} for id, value in load]
            loaded = loading.load("s", "k", table, batch=batch)
            assert loaded.rows == loaded.created + loaded.updated + loaded.unchanged == len(table)
            for row in table:
                with setting.write("s") as tx:
                    tx.set("k", row["id"], row)
        assert documents(loading) == documents(setting)
        # Setting what is there takes a cursor and leaves no line.
        plain = [
            [(line.id, line.op, line.version, line.hash, line.changes) for line in engine.log()]
            for engine in (loading, setting)
        ]
        assert plain[0] == plain[1]
