"""The log, a document's versions and any scope as it stood, through Python."""

import copy
import os
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import syncline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syncline import ABSENT, _core

mutators = syncline.Mutators()


@mutators("set")
def set_document(tx: syncline.Tx, args: Any) -> None:
    tx.set("doc", args["id"], args["doc"])


@mutators("delete")
def delete(tx: syncline.Tx, args: Any) -> None:
    tx.delete("doc", args["id"])


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[syncline.Engine]:
    with syncline.Engine(tmp_path / "app.db", mutators=mutators, durability="normal") as engine:
        yield engine


def put(engine: syncline.Engine, id: str, scope: str = "s", user: str | None = None, **doc: object) -> int:
    mutation = {"name": "set", "args": {"id": id, "doc": doc}, "scope": scope}
    return engine.push([mutation], user=user)[0].cursor


def remove(engine: syncline.Engine, id: str, scope: str = "s") -> int:
    return engine.push([{"name": "delete", "args": {"id": id}, "scope": scope}])[0].cursor


def purge(engine: syncline.Engine, through: int) -> None:
    """Compaction without the hour that it always keeps."""
    engine._native.compact(through, -3600 * 1_000_000)


# ---------------------------------------------------------------------------------------------------- the log


def test_a_line_tells_who_did_what_when_and_through_which_mutation(engine: syncline.Engine) -> None:
    before = datetime.now(timezone.utc)
    sent = datetime(2024, 2, 29, 12, tzinfo=timezone.utc)
    engine.push(
        [
            {
                "name": "set",
                "args": {"id": "1", "doc": {"a": 1}},
                "scope": "s",
                "client_id": "c",
                "client_seq": 1,
                "ts": sent,
            }
        ],
        user="ada",
    )
    with engine.write("s") as tx:
        tx.set("doc", "1", {"a": 2, "b": {"c": None}})
    created, changed = engine.log()
    assert (created.cursor, created.previous, created.version) == (1, 0, 1)
    assert (created.scope, created.entity, created.id, created.op) == ("s", "doc", "1", "create")
    assert (created.user, created.client_id, created.client_seq) == ("ada", "c", 1)
    assert (created.mutation, created.mutation_ts) == ("set", sent)
    assert before <= created.ts <= datetime.now(timezone.utc)
    assert created.changes is None
    assert created.hash != 0
    assert (changed.previous, changed.version, changed.op) == (1, 2, "update")
    assert (changed.user, changed.client_id, changed.client_seq, changed.mutation) == (None, None, None, None)
    assert changed.changes == {"a": (1, 2), "b": (ABSENT, {"c": None})}


def test_changes_name_fields_within_maps_and_tell_null_from_absent(engine: syncline.Engine) -> None:
    put(engine, "1", a={"b": {"c": 1, "d": None}}, x=None, **{"p.q": 1})
    put(engine, "1", a={"b": {"c": 2, "e": None}}, x=0, **{"p.q": 2})
    remove(engine, "1")
    _, changed, deleted = engine.log()
    assert changed.changes == {
        "a.b.c": (1, 2),
        "a.b.d": (None, ABSENT),
        "a.b.e": (ABSENT, None),
        "p\\.q": (1, 2),
        "x": (None, 0),
    }
    assert deleted.changes == {
        "a": ({"b": {"c": 2, "e": None}}, ABSENT),
        "p\\.q": (2, ABSENT),
        "x": (0, ABSENT),
    }
    assert not ABSENT
    assert repr(ABSENT) == "ABSENT"
    assert copy.deepcopy(ABSENT) is ABSENT


def test_the_log_is_filtered_bounded_and_turned_round(engine: syncline.Engine) -> None:
    for n in range(4):
        put(engine, "1", n=n)
        put(engine, "2", "t", n=n)

    def cursors(**asked: Any) -> list[int]:
        return [line.cursor for line in engine.log(**asked)]

    assert cursors(scope="t") == [2, 4, 6, 8]
    assert cursors(scope="s", entity="doc", id="1", newest_first=True, limit=2) == [7, 5]
    assert cursors(since=3, through=6) == [4, 5, 6]
    assert cursors(since=engine.head) == []
    assert cursors(scope="nowhere") == []
    assert cursors(limit=0) == []
    assert cursors(client_id="nobody") == []
    assert cursors(since=datetime.now(timezone.utc)) == []
    assert (
        len(
            cursors(since=datetime.now(timezone.utc) - timedelta(hours=1), through=datetime.now(timezone.utc))
        )
        == 8
    )


def test_a_reading_of_the_log_ends_at_the_head_of_when_it_began_and_says_where(
    engine: syncline.Engine,
) -> None:
    put(engine, "1", n=1)
    lines = engine.log()
    put(engine, "1", n=2)
    assert [line.cursor for line in lines] == [1]
    assert lines.through == 1
    assert [line.cursor for line in engine.log(since=lines.through)] == [2]


def test_lines_that_were_compacted_away_are_refused_but_from_the_beginning(engine: syncline.Engine) -> None:
    for n in range(6):
        put(engine, "1", n=n)
    purge(engine, 4)
    assert [line.cursor for line in engine.log()] == [5, 6]
    assert [line.cursor for line in engine.log(since=4)] == [5, 6]
    for asked in (3, datetime.now(timezone.utc) - timedelta(days=1)):
        with pytest.raises(syncline.HistoryGone) as gone:
            engine.log(since=asked)
        assert gone.value.floor == 4
        assert gone.value.code == "history_gone"
        assert isinstance(gone.value, syncline.CursorTooOld)


@pytest.mark.parametrize(
    "asked",
    [
        {"since": 1},
        {"since": -1},
        {"since": 1 << 70},
        {"since": "1"},
        {"since": True},
        {"since": None},
        {"since": datetime(2024, 1, 1)},
        {"since": datetime(9999, 1, 1, tzinfo=timezone.utc)},
        {"through": -1},
        {"through": 1.5},
        {"scope": ""},
        {"entity": 5},
        {"id": "\n"},
        {"client_id": "x" * 256},
        {"limit": -1},
        {"limit": True},
    ],
)
def test_a_request_that_is_none_is_refused(engine: syncline.Engine, asked: dict[str, Any]) -> None:
    with pytest.raises(syncline.InvalidRequest):
        engine.log(**asked)


def test_threads_that_share_a_log_get_each_line_once(engine: syncline.Engine) -> None:
    engine.push([{"name": "set", "args": {"id": str(n), "doc": {"n": n}}, "scope": "s"} for n in range(1000)])
    lines = engine.log()
    seen: list[int] = []
    threads = [threading.Thread(target=lambda: seen.extend([one.cursor for one in lines])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == list(range(1, 1001))


# --------------------------------------------------------------------------------------------------- versions


def test_versions_come_newest_first_with_their_documents_and_changes(engine: syncline.Engine) -> None:
    put(engine, "1", user="ada", a=1)
    put(engine, "1", user="bob", a=2)
    remove(engine, "1")
    put(engine, "1", b=1)
    found = engine.history("s", "doc", "1")
    assert found.complete is None
    again, deleted, changed, created = found
    assert found.complete is True
    assert [one.version for one in (again, deleted, changed, created)] == [4, 3, 2, 1]
    assert [one.op for one in (again, deleted, changed, created)] == ["create", "delete", "update", "create"]
    assert [one.data for one in (again, deleted, changed, created)] == [{"b": 1}, None, {"a": 2}, {"a": 1}]
    assert again.changes == {"b": (ABSENT, 1)}
    assert deleted.changes == {"a": (2, ABSENT)}
    assert changed.changes == {"a": (1, 2)}
    assert created.changes == {"a": (ABSENT, 1)}
    assert (changed.user, created.user, created.mutation) == ("bob", "ada", "set")
    assert changed.data is not changed.data
    match changed:
        case syncline.Version("update", 2, {"a": 2}):
            pass
        case _:
            raise AssertionError


def test_a_limited_history_reads_no_further(engine: syncline.Engine) -> None:
    for n in range(50):
        put(engine, "1", n=n)
    found = engine.history("s", "doc", "1", limit=20)
    assert [one.version for one in found] == list(range(50, 30, -1))
    assert found.complete is None
    everything = engine.history("s", "doc", "1", limit=50)
    assert len(list(everything)) == 50
    assert everything.complete is True


def test_a_history_says_where_it_was_compacted_away(engine: syncline.Engine) -> None:
    for n in range(6):
        put(engine, "1", n=n)
    purge(engine, 4)
    found = engine.history("s", "doc", "1")
    assert [one.data for one in found] == [{"n": 5}, {"n": 4}]
    assert found.complete is False
    purge(engine, 6)
    with pytest.raises(syncline.HistoryGone, match="doc/1 in s"):
        engine.history("s", "doc", "1")


def test_a_document_that_never_was_is_not_found(engine: syncline.Engine) -> None:
    put(engine, "1", a=1)
    for scope, entity, id in (("s", "doc", "2"), ("s", "other", "1"), ("nowhere", "doc", "1")):
        with pytest.raises(syncline.NotFound):
            engine.history(scope, entity, id)
    with pytest.raises(syncline.InvalidScope):
        engine.history("", "doc", "1")
    with pytest.raises(syncline.InvalidRequest):
        engine.history("s", "doc", 1)  # type: ignore[arg-type]


def test_what_was_read_before_damage_comes_first(tmp_path: Path) -> None:
    import sqlite3

    path = tmp_path / "app.db"
    with syncline.Engine(path, mutators=mutators, durability="normal") as engine:
        for n in range(6):
            put(engine, "1", n=n)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE changelog SET hash = 1 WHERE cursor = 3")
    db.close()
    with syncline.Engine(path, durability="normal") as engine:
        found = engine.history("s", "doc", "1")
        assert [next(found).version for _ in range(3)] == [6, 5, 4]
        with pytest.raises(syncline.Corrupt, match="log line 3 of doc/1 in s"):
            next(found)
        with pytest.raises(syncline.Corrupt, match="hash"):
            engine.at(2).list("s", "doc")


# ------------------------------------------------------------------------------------------------------- past


def test_the_past_has_the_ways_of_a_view(engine: syncline.Engine) -> None:
    for n in range(9):
        put(engine, f"x{n}", n=n, even=n % 2 == 0)
    then = engine.head
    with engine.read("s") as view:
        asked: list[tuple[Any, ...]] = [
            (None, None, None),
            ({"even": True}, "-n", 3),
            ({"n": {"$gte": 4}}, None, 2),
        ]
        found = [view.find("doc", filter, sort=sort, limit=limit) for filter, sort, limit in asked]
        listed, scanned = view.list("doc"), view.scan("doc", prefix="x1")
    for n in range(0, 9, 2):
        remove(engine, f"x{n}")
        put(engine, f"y{n}", n=n, even=True)
    with engine.at(then) as past:
        assert [
            past.find("s", "doc", filter, sort=sort, limit=limit) for filter, sort, limit in asked
        ] == found
        assert past.list("s", "doc") == listed
        assert past.scan("s", "doc", prefix="x1") == scanned
        assert past.get("s", "doc", "x0") == {"n": 0, "even": True}
        assert past.exists("s", "doc", "x0")
        assert (past.version("s", "doc", "x0"), past.version("s", "doc", "y0")) == (1, 0)
        assert past.get("nowhere", "doc", "x0") is None
        assert past.cursor == then
        with pytest.raises(syncline.InvalidRequest):
            past.find("s", "doc", {"n": {"$regex": "x"}})
        with pytest.raises(syncline.InvalidScope):
            past.list("", "doc")
    with pytest.raises(syncline.Closed):
        past.get("s", "doc", "x0")


def test_the_past_may_be_asked_by_time(engine: syncline.Engine) -> None:
    put(engine, "1", n=1)
    (line,) = engine.log()
    put(engine, "1", n=2)
    assert engine.at(line.ts).get("s", "doc", "1") in ({"n": 1}, {"n": 2})
    assert engine.at(line.ts - timedelta(microseconds=1)).list("s", "doc") == {}
    assert engine.at(datetime.now(timezone.utc)).get("s", "doc", "1") == {"n": 2}


@pytest.mark.parametrize(
    "asked", [2, -1, True, None, "1", datetime(2024, 1, 1), datetime(9999, 1, 1, tzinfo=timezone.utc)]
)
def test_a_past_that_is_none_is_refused(engine: syncline.Engine, asked: Any) -> None:
    put(engine, "1", n=1)
    with pytest.raises(syncline.InvalidRequest):
        engine.at(asked)


def test_a_past_that_is_compacted_away_is_refused_even_when_it_was_asked_for_before(
    engine: syncline.Engine,
) -> None:
    for n in range(4):
        put(engine, "1", n=n)
    put(engine, "1", "t", n=0)
    past = engine.at(2)
    assert past.get("s", "doc", "1") == {"n": 1}
    purge(engine, 3)
    for ask in (
        lambda: past.get("s", "doc", "1"),
        lambda: past.list("s", "doc"),
        lambda: past.find("s", "doc"),
    ):
        with pytest.raises(syncline.HistoryGone) as gone:
            ask()
        assert gone.value.floor == 3
    assert past.list("t", "doc") == {}
    assert engine.at(3).get("s", "doc", "1") == {"n": 2}


# --------------------------------------------------------------------------------------------- what is common


def test_a_closed_engine_has_no_history(tmp_path: Path) -> None:
    engine = syncline.Engine(tmp_path / "app.db", mutators=mutators)
    put(engine, "1", n=1)
    lines, versions, past = engine.log(), engine.history("s", "doc", "1"), engine.at(1)
    engine.close()
    for ask in (
        lambda: next(lines),
        lambda: next(versions),
        lambda: past.list("s", "doc"),
        engine.log,
        lambda: engine.at(1),
        lambda: engine.explain("s", "doc", "1"),
    ):
        with pytest.raises(syncline.Closed):
            ask()


def test_a_forked_child_is_told_to_open_its_own(engine: syncline.Engine) -> None:
    put(engine, "1", n=1)
    past = engine.at(1)
    child = os.fork()
    if child == 0:
        refused = 0
        for ask in (engine.log, lambda: engine.history("s", "doc", "1"), lambda: past.list("s", "doc")):
            try:
                ask()
            except syncline.UsageError:
                refused += 1
        os._exit(0 if refused == 3 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_reading_engine_has_the_same_history_beside_the_writer(
    engine: syncline.Engine, tmp_path: Path
) -> None:
    put(engine, "1", n=1)
    put(engine, "1", n=2)
    with syncline.Engine(tmp_path / "app.db", read_only=True) as reader:
        assert list(reader.log()) == list(engine.log())
        assert list(reader.history("s", "doc", "1")) == list(engine.history("s", "doc", "1"))
        assert reader.at(1).list("s", "doc") == {"1": {"n": 1}}
        assert str(reader.explain("s", "doc", "1")) == str(engine.explain("s", "doc", "1"))


def test_what_is_read_outlives_its_iterator_and_its_engine(tmp_path: Path) -> None:
    with syncline.Engine(tmp_path / "app.db", mutators=mutators) as engine:
        put(engine, "1", user="ada", n=1)
        line, version = next(engine.log()), next(engine.history("s", "doc", "1"))
    assert (line.user, version.data, hash(line), repr(version)) == (
        "ada",
        {"n": 1},
        1,
        "<Version 1 create doc/1 version=1>",
    )


# ---------------------------------------------------------------------------------------------------- explain


def test_an_explanation_says_in_words_and_fields_what_is_known(engine: syncline.Engine) -> None:
    assert "nothing was ever written to that scope" in str(engine.explain("s", "doc", "1"))
    engine.push(
        [
            {
                "name": "set",
                "args": {"id": "1", "doc": {}},
                "scope": "s",
                "client_id": "c",
                "client_seq": 1,
            }
        ],
        user="ada",
    )
    found = engine.explain("s", "doc", "1", "c")
    assert (found.state, found.version, found.cursor, found.created) == ("live", 1, 1, 1)
    assert (found.user, found.mutation, found.by_client, found.by_client_seq) == ("ada", "set", "c", 1)
    assert (found.client_known, found.client_user, found.client_last_seq) == (True, "ada", 1)
    assert "Created at cursor 1" in str(found)
    assert "by client c of user ada, through set (its mutation 1)" in str(found)
    engine.push(
        [
            {"name": "nobody", "args": None, "scope": "s", "client_id": "c", "client_seq": 2},
            {"name": "set", "args": {"id": "2", "doc": {}}, "scope": "s", "client_id": "c", "client_seq": 3},
        ],
        user="ada",
    )
    found = engine.explain("s", "doc", "1", "c")
    assert [(seq, code) for seq, code, _ in found.refused] == [(2, "unknown_mutation")]
    assert "Its mutation 2 was refused: unknown_mutation" in str(found)
    deleted = remove(engine, "1")
    found = engine.explain("s", "doc", "1", "d")
    assert (found.state, found.client_known) == ("deleted", False)
    assert f"Deleted at cursor {deleted}" in str(found)
    assert "Client d has never pushed here" in str(found)
    purge(engine, deleted)
    found = engine.explain("s", "doc", "1")
    assert (found.state, found.floor) == ("unknown", deleted)
    assert "up to where deletions are forgotten" in str(found)
    with pytest.raises(syncline.InvalidScope):
        engine.explain("", "doc", "1")


def test_an_explanation_knows_how_far_the_client_has_pulled(engine: syncline.Engine) -> None:
    put(engine, "1", n=1)
    put(engine, "2", n=1)
    found = engine.explain("s", "doc", "1", "c")
    assert (found.position, found.has) == (None, "unknown")
    assert "How far it has pulled this scope is not known" in str(found)
    pulled = engine.pull("s", client_id="c").cursor
    found = engine.explain("s", "doc", "1", "c")
    assert (found.position, found.has) == (pulled, "yes")
    assert "it has this version" in str(found)
    put(engine, "1", n=2)
    put(engine, "3", n=1)
    remove(engine, "2")
    assert engine.explain("s", "doc", "1", "c").has == "older"
    assert "it has an older version" in str(engine.explain("s", "doc", "1", "c"))
    assert engine.explain("s", "doc", "3", "c").has == "no"
    assert "before the document was created" in str(engine.explain("s", "doc", "3", "c"))
    assert engine.explain("s", "doc", "2", "c").has == "older"
    assert "before the deletion" in str(engine.explain("s", "doc", "2", "c"))
    engine.pull("s", pulled, client_id="c")
    assert engine.explain("s", "doc", "2", "c").has == "no"
    assert "it was told of the deletion" in str(engine.explain("s", "doc", "2", "c"))
    purge(engine, engine.head)
    assert engine.explain("s", "doc", "2", "c").has == "unknown"


def test_what_was_erased_is_neither_in_the_past_nor_invented(engine: syncline.Engine) -> None:
    put(engine, "1", secret="x")
    put(engine, "1", secret="y")
    put(engine, "2", n=1)
    with engine.write("s") as tx:
        tx.set("other", "1", {"n": 1})
    then = engine.at(engine.head)
    engine.erase("s", "doc", "1")
    versions = engine.history("s", "doc", "1")
    assert [(one.op, one.data, one.changes) for one in versions] == [("delete", None, None)]
    assert versions.complete is False
    for ask in (
        lambda: then.get("s", "doc", "1"),
        lambda: then.list("s", "doc"),
        lambda: then.find("s", "doc"),
    ):
        with pytest.raises(syncline.HistoryGone, match="erased"):
            ask()
    assert then.get("s", "doc", "2") == {"n": 1}
    assert then.list("s", "other") == {"1": {"n": 1}}
    assert engine.at(engine.head).list("s", "doc") == {"2": {"n": 1}}
    assert [line.id for line in engine.log(entity="doc")] == ["2", "1"]


# ------------------------------------------------------------------------------------------------- properties

values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=5,
)
documents = st.dictionaries(st.sampled_from(["a", "b", "c.d"]), values, max_size=3)
ids = st.sampled_from(["1", "2", "3"])
steps = st.lists(
    st.tuples(st.just("set"), ids, documents)
    | st.tuples(st.just("delete"), ids, st.none())
    | st.tuples(st.just("compact"), st.integers(0, 30), st.none()),
    max_size=25,
)


def packed(value: object) -> bytes:
    """Python says that 1 == True == 1.0; the store does not."""
    return _core.packb(value)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_the_past_and_the_versions_equal_recorded_copies_and_are_refused_below_the_floor(
    plan: list[tuple[str, Any, Any]],
) -> None:
    with syncline.Engine(":memory:", mutators=mutators) as engine:
        copies: list[dict[str, Any]] = [{}]
        told: dict[str, list[tuple[int, Any]]] = {}
        floor = 0
        for kind, what, document in plan:
            if kind == "compact":
                purge(engine, what)
                floor = engine.explain("s", "doc", "1").floor
                floor = max(floor, engine.explain("s", "doc", "1").log_floor)
                continue
            now = copy.deepcopy(copies[-1])
            before = packed(now.get(what))
            with engine.write("s") as tx:
                if kind == "set":
                    tx.set("doc", what, document)
                    now[what] = document
                else:
                    tx.delete("doc", what)
                    now.pop(what, None)
            if engine.head == len(copies):
                copies.append(now)
            if packed(document) != before:
                told.setdefault(what, []).append((engine.head, document))
        assert engine.head == len(copies) - 1
        for cursor, then in enumerate(copies):
            past = engine.at(cursor)
            if cursor < floor:
                with pytest.raises(syncline.HistoryGone):
                    past.list("s", "doc")
                continue
            assert packed(past.list("s", "doc")) == packed(then)
            assert packed([past.get("s", "doc", id) for id in "123"]) == packed(
                [then.get(id) for id in "123"]
            )
        for id, versions in told.items():
            try:
                found = engine.history("s", "doc", id)
            except (syncline.NotFound, syncline.HistoryGone):
                assert versions[-1][0] <= floor
                continue
            kept = [(one.cursor, packed(one.data)) for one in found]
            assert kept == [(cursor, packed(data)) for cursor, data in versions[::-1][: len(kept)]]
            if not found.complete:
                assert versions[-len(kept) - 1][0] <= floor
        written = sorted(cursor for versions in told.values() for cursor, _ in versions)
        assert [line.cursor for line in engine.log(since=floor)] == [one for one in written if one > floor]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(["set", "set", "delete", "erase", "compact"]), ids, documents), max_size=20
    )
)
def test_with_erasures_the_past_is_right_or_refused_and_whole_from_the_last_one_on(
    plan: list[tuple[str, str, Any]],
) -> None:
    with syncline.Engine(":memory:", mutators=mutators) as engine:
        copies: list[dict[str, Any]] = [{}]
        whole_from = 0
        for kind, id, document in plan:
            now = copy.deepcopy(copies[-1])
            if kind == "compact":
                purge(engine, len(copies) // 2)
                whole_from = max(whole_from, len(copies) // 2)
            elif kind == "erase":
                engine.erase("s", "doc", id, rewrite=False)
                now.pop(id, None)
                whole_from = engine.head
            else:
                with engine.write("s") as tx:
                    if kind == "set":
                        tx.set("doc", id, document)
                        now[id] = document
                    else:
                        tx.delete("doc", id)
                        now.pop(id, None)
            copies += [now] * (engine.head + 1 - len(copies))
        for cursor, then in enumerate(copies):
            try:
                listed = engine.at(cursor).list("s", "doc")
            except syncline.HistoryGone:
                assert cursor < whole_from
                continue
            assert packed(listed) == packed(then)
        for id in "123":
            try:
                found = engine.history("s", "doc", id)
            except (syncline.NotFound, syncline.HistoryGone):
                continue
            for version in found:
                assert packed(version.data) == packed(copies[version.cursor].get(id))
