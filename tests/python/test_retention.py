"""What is kept and what is forgotten, as a user of the package sees it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import syncline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syncline import _core

HOUR = 3_600_000_000
DAY = 24 * HOUR


def make_mutators() -> syncline.Mutators:
    mutators = syncline.Mutators()

    @mutators("set")
    def set_(tx: syncline.Tx, args: Any) -> None:
        tx.set("doc", args["id"], {"value": args["value"]})

    @mutators("delete")
    def delete(tx: syncline.Tx, args: Any) -> None:
        tx.delete("doc", args["id"])

    return mutators


class Bench:
    """Engines on one file, with a clock that is turned by hand and without a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = _core.ManualClock(1_700_000_000_000_000)
        self.engine: syncline.Engine

    def open(self, **retention: Any) -> syncline.Engine:
        self.engine = syncline.Engine(
            self.path,
            mutators=make_mutators(),
            durability="normal",
            retention=syncline.Retention(**{"interval": None, **retention}),
            clock=self.clock,
        )
        return self.engine

    def set(self, id: str, value: object = 1, scope: str = "s") -> None:
        self.engine.push(
            [{"name": "set", "args": {"id": id, "value": value}, "scope": scope}]
        ).raise_for_error()

    def delete(self, id: str, scope: str = "s") -> None:
        self.engine.push([{"name": "delete", "args": {"id": id}, "scope": scope}]).raise_for_error()

    def bytes(self) -> bytes:
        return b"".join(
            one.read_bytes()
            for one in sorted(self.path.parent.glob(self.path.name + "*"))
            if one.suffix != ".db-shm"
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path / "app.db")
    yield made
    if hasattr(made, "engine"):
        made.engine.close()


# ---------------------------------------------------------------------------------------------- what is kept


def test_compact_without_keep_does_what_the_retention_says(bench: Bench) -> None:
    engine = bench.open(history=timedelta(days=2), tombstones=timedelta(days=3))
    bench.set("a")
    bench.delete("a")
    bench.set("b")
    assert engine.compact() == syncline.Compaction(0, 0, 0, 0, 0)
    bench.clock.advance(2 * DAY + 1)
    done = engine.compact()
    assert (done.log_lines, done.tombstones, done.total) == (3, 0, 3)
    bench.clock.advance(DAY)
    assert engine.compact().tombstones == 1
    assert engine.snapshot("s").data == {"doc": {"b": {"value": 1}}}


def test_compact_takes_an_age_or_a_cursor(bench: Bench) -> None:
    engine = bench.open()
    for value in range(4):
        bench.set("a", value)
    assert engine.compact(2).log_lines == 2
    assert engine.compact(keep=timedelta(seconds=1)).log_lines == 0
    bench.clock.advance(HOUR)
    assert engine.compact(keep=timedelta(minutes=5)).log_lines == 2


@pytest.mark.parametrize("keep", [timedelta(-1), -1, True, "30 days", 1.5])
def test_compact_refuses_what_is_neither_age_nor_cursor(bench: Bench, keep: Any) -> None:
    engine = bench.open()
    with pytest.raises(syncline.UsageError, match="keep must"):
        engine.compact(keep)


def test_compact_is_refused_within_a_write_of_its_thread(bench: Bench) -> None:
    engine = bench.open()
    bench.set("a")
    bench.clock.advance(40 * DAY)
    with engine.write("s"), pytest.raises(syncline.UsageError, match="inside a mutator or a write"):
        engine.compact()
    assert engine.compact().log_lines == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"history": timedelta(-1)},
        {"tombstones": 30},
        {"positions": "90 days"},
        {"max_positions": -1},
        {"max_dead_letters": 1.5},
        {"interval": timedelta(0)},
        {"hold_for_clients": True},
    ],
)
def test_retention_refuses_what_is_no_age_or_number(wrong: dict[str, Any]) -> None:
    with pytest.raises(syncline.UsageError, match=next(iter(wrong))):
        syncline.Retention(**wrong)


def test_an_engine_tells_its_retention_and_takes_no_other_object(tmp_path: Path) -> None:
    with syncline.Engine(":memory:") as engine:
        assert engine.retention == syncline.Retention()
    kept = syncline.Retention(history=None)
    with syncline.Engine(":memory:", retention=kept) as engine:
        assert engine.retention is kept
    with pytest.raises(syncline.UsageError, match=r"syncline\.Retention, not dict"):
        syncline.Engine(":memory:", retention={})  # type: ignore[arg-type]


def test_with_the_default_retention_a_database_stays_bounded_and_stops_growing_when_left_alone(
    bench: Bench,
) -> None:
    engine = bench.open()
    rows: list[int] = []
    for day in range(100):
        for n in range(5):
            bench.set(f"{day}-{n}")
            bench.delete(f"{day}-{n}")
        engine.pull("s", client_id=f"client-{day}")
        bench.clock.advance(DAY)
        engine.compact()
        stats = engine.stats()
        rows.append(stats.documents + stats.tombstones + stats.log_lines + stats.unlogged + stats.results)
    assert max(rows[95:]) <= rows[92]
    bench.clock.advance(100 * DAY)
    engine.compact()
    stats = engine.stats()
    assert (stats.documents, stats.tombstones, stats.log_lines, stats.unlogged) == (0, 0, 0, 0)
    size = os.path.getsize(bench.path)
    for _ in range(50):
        bench.clock.advance(DAY)
        assert engine.compact().total == 0
    assert os.path.getsize(bench.path) == size


def test_the_background_thread_keeps_to_the_retention_and_tells_of_it(bench: Bench) -> None:
    engine = bench.open(history=timedelta(days=1), interval=timedelta(milliseconds=1))
    assert engine.upkeep().last_error is None
    bench.set("a")
    engine.pull("s", client_id="c1")
    bench.clock.advance(2 * DAY)
    while engine.upkeep().total.log_lines == 0:
        threading.Event().wait(0.001)
    while engine.upkeep().last_round_at is None:
        threading.Event().wait(0.001)
    assert engine.stats().log_lines == 0
    assert engine.upkeep().failures == 0


def test_a_read_only_engine_keeps_nothing_back_and_forgets_nothing(bench: Bench) -> None:
    bench.open()
    bench.set("a")
    with syncline.Engine(bench.path, read_only=True) as reader:
        reader.pull("s", client_id="c1")
        assert reader.positions() == []
        assert reader.upkeep().rounds == 0
        with pytest.raises(syncline.ReadOnly):
            reader.compact()
        with pytest.raises(syncline.ReadOnly):
            reader.erase("s")


def test_a_child_of_fork_may_drop_the_engine_whose_thread_it_does_not_have(bench: Bench) -> None:
    engine = bench.open(interval=timedelta(milliseconds=1))
    bench.set("a")
    child = os.fork()
    if child == 0:
        try:
            engine.compact()
        except syncline.UsageError:
            engine.close()
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    bench.set("b")


# ------------------------------------------------------------------------------------------------- positions


def test_positions_say_who_is_how_far_behind(bench: Bench) -> None:
    engine = bench.open()
    bench.set("a")
    engine.pull("s", client_id="phone", user="ada")
    bench.set("b")
    bench.set("c", scope="t")
    engine.pull("t", client_id="phone", user="ada")
    engine.pull("s")
    told = {(one.client_id, one.scope): one for one in engine.positions()}
    assert set(told) == {("phone", "s"), ("phone", "t")}
    phone = told["phone", "s"]
    assert (phone.user, phone.cursor, phone.lag) == ("ada", 1, 1)
    assert phone.last_seen.timestamp() == bench.clock.microseconds / 1e6
    assert engine.positions("t") == [told["phone", "t"]]
    assert told["phone", "t"].lag == 0
    assert engine.positions("nobody") == []
    with pytest.raises(syncline.InvalidScope):
        engine.positions("_feeds")
    engine.close()
    assert bench.open().positions() == list(told.values())


def test_pulls_write_nothing(bench: Bench) -> None:
    engine = bench.open()
    bench.set("a")
    commits = engine.stats().commits
    for n in range(20):
        engine.pull("s", client_id=f"c{n}")
    assert engine.stats().commits == commits


def test_a_known_client_holds_the_floor_only_if_asked(bench: Bench) -> None:
    for hold in (None, timedelta(days=60)):
        engine = bench.open(hold_for_clients=hold)
        bench.set("a")
        have = engine.pull("s", client_id="phone").cursor
        bench.delete("a")
        bench.clock.advance(31 * DAY)
        engine.compact()
        if hold is None:
            with pytest.raises(syncline.CursorTooOld):
                engine.pull("s", have, client_id="phone")
        else:
            assert [one.op for one in engine.pull("s", have, client_id="phone").changes] == ["delete"]
        engine.close()


# --------------------------------------------------------------------------------------------------- erasing


def test_erase_leaves_no_byte_of_a_document_and_clients_learn_of_it(bench: Bench) -> None:
    engine = bench.open()
    for value in range(3):
        bench.set("ada", f"secret-{value}")
    bench.set("bob", "public")
    have = engine.pull("s").cursor
    assert b"secret-" in bench.bytes()
    done = engine.erase("s", "doc", "ada", user="officer")
    assert done == syncline.Erased(documents=1, tombstones=0, dead_letters=0, rewritten=True)
    assert b"secret-" not in bench.bytes()
    assert b"public" in bench.bytes()
    assert [(one.op, one.id) for one in engine.pull("s", have).changes] == [("delete", "ada")]
    assert engine.snapshot("s").data == {"doc": {"bob": {"value": "public"}}}
    assert engine.stats().log_lines == 2


def test_erase_of_a_scope_leaves_the_others(bench: Bench) -> None:
    engine = bench.open()
    for n in range(300):
        bench.set(str(n), f"secret-{n}", "gone")
        bench.set(str(n), "kept", "stays")
    for n in range(0, 300, 3):
        bench.delete(str(n), "gone")
    with engine.subscribe("gone") as pokes:
        done = engine.erase("gone")
        assert pokes.get(timeout=10) is not None
    assert (done.documents, done.tombstones, done.rewritten) == (200, 100, True)
    assert b"secret-" not in bench.bytes()
    assert engine.snapshot("gone").data == {}
    assert len(engine.snapshot("stays").data["doc"]) == 300


def test_erase_while_others_write_and_read(bench: Bench) -> None:
    engine = bench.open()
    for n in range(1000):
        bench.set(str(n), f"secret-{n}", "gone")
    stop = threading.Event()
    failures: list[BaseException] = []

    def busy(action: Callable[[int], object]) -> None:
        n = 0
        try:
            while not stop.is_set():
                action(n)
                n += 1
        except BaseException as error:
            failures.append(error)

    threads = [
        threading.Thread(target=busy, args=(lambda n: bench.set(str(n % 50), n, "stays"),)),
        threading.Thread(
            target=busy, args=(lambda n: bench.set(str(n % 50), f"secret-{n}", "gone") if n < 50 else None,)
        ),
        threading.Thread(target=busy, args=(lambda n: engine.pull("stays"),)),
    ]
    for thread in threads:
        thread.start()
    engine.erase("gone", rewrite=False)
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    engine.erase("gone")
    assert b"secret-" not in bench.bytes()


def test_erase_wants_a_whole_key_or_none(bench: Bench) -> None:
    engine = bench.open()
    bench.set("a")
    with pytest.raises(syncline.InvalidRequest, match="an entity and an id"):
        engine.erase("s", "doc", None)  # type: ignore[call-overload]
    for entity, id in (("", ""), ("doc", "")):
        with pytest.raises(syncline.InvalidRequest, match="names no document"):
            engine.erase("s", entity, id)
    for scope in ("", "_feeds", "\n"):
        with pytest.raises(syncline.InvalidScope):
            engine.erase(scope)
    assert engine.snapshot("s").data == {"doc": {"a": {"value": 1}}}


# ------------------------------------------------------------------------------------------------ invariant 8


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(["set", "delete", "compact", "keep", "pull"]),
            st.integers(0, 4),
            st.integers(0, 3 * HOUR // 2),
        ),
        max_size=40,
    ),
    history=st.integers(0, 5),
    tombstones=st.integers(0, 5),
    held=st.none() | st.integers(0, 20),
)
def test_compaction_is_invisible_from_every_cursor_that_is_answered(
    steps: list[tuple[str, int, int]], history: int, tombstones: int, held: int | None
) -> None:
    clock = _core.ManualClock(1_700_000_000_000_000)
    kept = syncline.Retention(
        history=timedelta(hours=history),
        tombstones=timedelta(hours=tombstones),
        hold_for_clients=None if held is None else timedelta(hours=held),
        interval=None,
    )
    for_ever = syncline.Retention(history=None, tombstones=None, interval=None)
    with (
        syncline.Engine(":memory:", mutators=make_mutators(), retention=kept, clock=clock) as engine,
        syncline.Engine(":memory:", mutators=make_mutators(), retention=for_ever, clock=clock) as model,
    ):
        for what, n, passed in steps:
            if what in ("set", "delete"):
                for one in (engine, model):
                    one.push([{"name": what, "args": {"id": str(n), "value": passed}, "scope": "s"}])
            elif what == "pull":
                engine.pull("s", client_id=f"c{n}")
            else:
                engine.compact(None if what == "compact" else n)
            clock.advance(passed)
        answered = False
        for cursor in range(model.head + 1):
            wanted = model.pull("s", cursor)
            try:
                got = engine.pull("s", cursor)
            except syncline.CursorTooOld:
                assert cursor > 0
                assert not answered
                continue
            answered = answered or cursor > 0
            assert got.cursor == wanted.cursor
            assert [(one.cursor, one.op, one.id, one.data) for one in got.changes] == [
                (one.cursor, one.op, one.id, one.data) for one in wanted.changes
            ]
