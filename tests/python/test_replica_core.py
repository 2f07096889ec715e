"""The replica's core as Python holds it: calls, threads and the GIL, values, errors. What the rules are is
tested in tests/cpp/replica_test.cpp and by the vectors."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import syncline
from syncline import _core

SCOPE = "list:1"
PACKED = {"Content-Type": "application/msgpack", "Accept": "application/msgpack"}

mutators = syncline.Mutators()


@mutators("set")
def set_(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.set("todo", args["id"], args["doc"])


@mutators("mint")
def mint(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.set("todo", tx.uuid(), {"now": tx.now, "random": tx.random.random(), "user": tx.user})


@mutators("refuse")
def refuse(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.set("todo", "never", {})
    raise syncline.Rejected("no room", code="list_full", details={"most": 3})


@mutators("fail")
def fail(tx: syncline.Tx, args: dict[str, Any]) -> None:
    raise ZeroDivisionError("mine")


@mutators("later")
def later(tx: syncline.Tx, args: dict[str, Any]) -> object:
    async def wait() -> None: ...

    return wait()


class Pair:
    """A server and a replica, and the network between them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "replica.db"
        self.engine = syncline.Engine(folder / "server.db", mutators=mutators)
        self.replica = self.open()
        self.replica.join(SCOPE)

    def open(self, **options: Any) -> _core.Replica:
        return _core.Replica(str(self.path), mutators._table, user="ada", durability="normal", **options)

    def send(self, request: _core.ReplicaRequest | None) -> _core.ReplicaAnswered:
        assert request is not None
        answer = self.engine.handle(
            "POST",
            request.path,
            PACKED,
            request.body,
            authenticate=lambda request: "ada",
            authorize=lambda user, what, scope: True,
        )
        return self.replica.answer(request.request, answer.status, answer.body)

    def sync(self) -> None:
        self.send(self.replica.next_pull(SCOPE))
        while request := self.replica.next_push():
            self.send(request)
        self.send(self.replica.next_pull(SCOPE))

    def todo(self, id: str, *, confirmed: bool = False) -> dict[str, Any] | None:
        with self.replica.view(SCOPE, confirmed) as view:
            return view.get("todo", id)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.replica.close()
    made.engine.close()


def test_a_mutation_goes_there_and_back(pair: Pair) -> None:
    place = pair.replica.mutate(SCOPE, "set", {"id": "a", "doc": {"title": "milk"}})
    assert place == 1
    assert pair.todo("a") == {"title": "milk"}
    assert pair.todo("a", confirmed=True) is None
    (pending,) = pair.replica.pending()
    assert pending.args == {"id": "a", "doc": {"title": "milk"}}
    assert (pending.name, pending.durable) == ("set", False)
    pair.sync()
    assert pair.todo("a", confirmed=True) == {"title": "milk"}
    with pair.engine.read(SCOPE) as view:
        assert view.get("todo", "a") == {"title": "milk"}
    status = pair.replica.status()
    assert (status.pending, status.identified, status.pulled) == (0, True, 1)
    (scope,) = pair.replica.scopes()
    assert (scope.loaded, scope.open, scope.cursor, scope.epoch) == (True, True, 1, pair.engine.epoch)


def test_events_have_both_documents(pair: Pair) -> None:
    pair.replica.mutate(SCOPE, "set", {"id": "a", "doc": {"n": 1}})
    assert pair.replica.take_events() == []
    assert pair.replica.unflushed
    assert pair.replica.flush()
    (event,) = pair.replica.take_events()
    assert (event.kind, event.scope, event.entity, event.id) == ("changed", SCOPE, "todo", "a")
    assert (event.before, event.after) == (None, {"n": 1})
    pair.replica.mutate(SCOPE, "set", {"id": "a", "doc": {"n": 2}})
    pair.replica.flush()
    (event,) = pair.replica.take_events()
    assert (event.before, event.after) == ({"n": 1}, {"n": 2})
    pair.sync()
    assert [event.kind for event in pair.replica.take_events(10)] == ["opened"]


def test_values_survive_the_queue_the_wire_and_the_file(pair: Pair) -> None:
    document = {
        "null": None,
        "bools": [True, False],
        "integers": [-(2**63), 2**64 - 1, 0],
        "floats": [1.5, float("inf"), -0.0],
        "text": "żółw \U0001f422",
        "bytes": b"\x00\xff",
        "when": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc),
        "deep": {"er": [{"x": {}}]},
    }
    pair.replica.mutate(SCOPE, "set", {"id": "a", "doc": document})
    assert pair.todo("a") == document
    pair.replica.flush()
    pair.replica.abandon()
    pair.replica = pair.open()
    assert pair.todo("a") == document
    pair.sync()
    assert pair.todo("a", confirmed=True) == document
    with pair.engine.read(SCOPE) as view:
        assert view.get("todo", "a") == document


def test_what_comes_out_is_the_callers_own(pair: Pair) -> None:
    args = {"id": "a", "doc": {"list": [1]}}
    pair.replica.mutate(SCOPE, "set", args)
    args["doc"]["list"].append(2)  # type: ignore[index]
    first = pair.todo("a")
    assert first == {"list": [1]}
    first["list"].append(3)
    assert pair.todo("a") == {"list": [1]}


def test_now_uuid_and_random_are_the_same_on_both_sides(pair: Pair) -> None:
    pair.replica.mutate(SCOPE, "mint", {})
    with pair.replica.view(SCOPE) as view:
        shown = view.list("todo")
    pair.sync()
    with pair.engine.read(SCOPE) as there:
        stored = there.list("todo")
    assert stored.keys() == shown.keys()
    ((one,), (other,)) = shown.values(), stored.values()
    assert one["random"] == other["random"]
    assert abs(one["now"] - other["now"]).total_seconds() < 5


def test_clock_and_entropy_may_be_the_callers(tmp_path: Path) -> None:
    numbers = iter(range(100, 200))
    made = [
        _core.Replica(
            str(tmp_path / f"{n}.db"),
            mutators._table,
            clock=lambda: 1_700_000_000_000_000,
            entropy=lambda: next(numbers),
            client_id="phone",
        )
        for n in range(2)
    ]
    for replica in made:
        replica.join(SCOPE)
        replica.mutate(SCOPE, "mint", {})
    for replica in made:
        (pending,) = replica.pending()
        assert pending.ts == datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
        assert replica.status().client_id == "phone"
        replica.close()


# ---------------------------------------------------------------------------------------------------- errors


def test_what_a_mutator_raises_reaches_the_caller_and_queues_nothing(pair: Pair) -> None:
    with pytest.raises(syncline.Rejected, match="no room") as refused:
        pair.replica.mutate(SCOPE, "refuse", {})
    assert (refused.value.code, refused.value.details) == ("list_full", {"most": 3})
    with pytest.raises(ZeroDivisionError, match="mine") as failed:
        pair.replica.mutate(SCOPE, "fail", {})
    assert any(entry.name == "fail" for entry in failed.traceback)
    with pytest.raises(syncline.UnknownMutation, match="nobody"):
        pair.replica.mutate(SCOPE, "nobody", {})
    with pytest.raises(syncline.UsageError, match="plain function"):
        pair.replica.mutate(SCOPE, "later", {})
    assert pair.replica.pending() == []
    assert pair.todo("never") is None


def test_wrong_calls_say_what_is_wrong(pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(syncline.InvalidScope, match="not joined"):
        pair.replica.mutate("other", "set", {})
    with pytest.raises(syncline.InvalidMutation, match=r"args\.x"):
        pair.replica.mutate(SCOPE, "set", {"x": object()})
    with pytest.raises(syncline.InvalidScope, match="reserved"):
        pair.replica.join("_mine")
    with pytest.raises(syncline.UsageError, match="durability"):
        _core.Replica(str(tmp_path / "x.db"), {}, durability="maybe")
    with pytest.raises(syncline.UsageError, match="max_tries"):
        _core.Replica(str(tmp_path / "x.db"), {}, max_tries=0)


def test_one_process_has_the_file(pair: Pair) -> None:
    with pytest.raises(syncline.Locked):
        pair.open()


def test_an_engine_does_not_open_it_nor_a_replica_an_engines(pair: Pair, tmp_path: Path) -> None:
    pair.replica.flush()
    pair.replica.close()
    with pytest.raises(syncline.ForeignFile, match="replica"):
        syncline.Engine(pair.path, mutators=mutators)
    pair.engine.close()
    with pytest.raises(syncline.ForeignFile, match="engine"):
        _core.Replica(str(tmp_path / "server.db"), {})


def test_a_closed_replica_says_so_and_ends_its_views(pair: Pair) -> None:
    view = pair.replica.view(SCOPE)
    pair.replica.close()
    pair.replica.close()
    with pytest.raises(syncline.Closed):
        view.get("todo", "a")
    with pytest.raises(syncline.Closed):
        pair.replica.flush()


def test_the_servers_limits_hold_when_a_mutation_is_made(pair: Pair) -> None:
    pair.replica.learn_limits({"limits": {"body_bytes": 2000, "mutations": 2, "document_bytes": 300}})
    with pytest.raises(syncline.TooLarge):
        pair.replica.mutate(SCOPE, "set", {"id": "a", "doc": {"x": "y" * 2000}})
    with pytest.raises(syncline.TooLarge):
        pair.replica.mutate(SCOPE, "set", {"id": "a", "doc": {"x": "y" * 400}})
    assert pair.replica.pending() == []


# --------------------------------------------------------------------------------------- threads and the GIL


def test_a_mutator_that_calls_its_own_replica_gets_an_error(tmp_path: Path) -> None:
    table = syncline.Mutators()
    held: list[_core.Replica] = []

    @table("nested")
    def nested(tx: syncline.Tx, args: object) -> None:
        held[0].mutate(SCOPE, "nested", None)

    held.append(_core.Replica(str(tmp_path / "x.db"), table._table))
    held[0].join(SCOPE)
    with pytest.raises(syncline.UsageError, match="own replica"):
        held[0].mutate(SCOPE, "nested", None)
    held[0].close()


def test_an_interrupt_leaves_through_the_call_it_hit(tmp_path: Path) -> None:
    table = syncline.Mutators()
    raising: list[BaseException] = []

    @table("set")
    def write(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("todo", args["id"], {})
        if raising:
            raise raising.pop()

    replica = _core.Replica(str(tmp_path / "x.db"), table._table)
    replica.join(SCOPE)
    raising.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        replica.mutate(SCOPE, "set", {"id": "a"})
    assert replica.pending() == []
    place = replica.mutate(SCOPE, "set", {"id": "a"})
    replica.mutate(SCOPE, "set", {"id": "b"})
    raising.append(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        replica.discard(place)  # replays the other
    with replica.view(SCOPE) as view:
        assert list(view.list("todo")) == ["b"]
    replica.close()


def test_a_tx_is_dead_outside_its_call(tmp_path: Path) -> None:
    table = syncline.Mutators()
    kept: list[syncline.Tx] = []

    @table("keep")
    def keep(tx: syncline.Tx, args: object) -> None:
        kept.append(tx)

    replica = _core.Replica(str(tmp_path / "x.db"), table._table)
    replica.join(SCOPE)
    replica.mutate(SCOPE, "keep")
    with pytest.raises(syncline.Closed):
        kept[0].get("todo", "a")
    replica.close()


def test_threads_mutate_read_flush_and_sync_at_once(pair: Pair) -> None:
    each, workers = 150, 4
    failures: list[BaseException] = []
    done = threading.Event()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failures.append(error)

        return run

    def writer(n: int) -> Callable[[], None]:
        def work() -> None:
            for i in range(each):
                pair.replica.mutate(SCOPE, "set", {"id": f"{n}-{i}", "doc": {"n": i}})

        return work

    def reader() -> None:
        while not done.is_set():
            with pair.replica.view(SCOPE) as view:
                documents = view.list("todo")
                assert len(view.scan("todo")) == len(documents)

    def driver() -> None:
        while not done.is_set():
            for request in (pair.replica.next_pull(SCOPE), pair.replica.next_push()):
                if request:
                    pair.send(request)
            pair.replica.flush()
            pair.replica.take_events()

    writers = [threading.Thread(target=guarded(writer(n))) for n in range(workers)]
    others = [threading.Thread(target=guarded(work)) for work in (reader, driver)]
    for thread in writers + others:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in others:
        thread.join()
    assert failures == []
    pair.sync()
    with pair.engine.read(SCOPE) as view:
        assert len(view.list("todo")) == each * workers
    with pair.replica.view(SCOPE, confirmed=True) as confirmed:
        assert len(confirmed.list("todo")) == each * workers
    assert pair.replica.pending() == []


def test_python_runs_while_the_core_waits_for_a_mutator(tmp_path: Path) -> None:
    table = syncline.Mutators()
    inside, leave = threading.Event(), threading.Event()

    @table("wait")
    def wait(tx: syncline.Tx, args: object) -> None:
        inside.set()
        assert leave.wait(30)

    replica = _core.Replica(str(tmp_path / "x.db"), table._table)
    replica.join(SCOPE)
    first = threading.Thread(target=replica.mutate, args=(SCOPE, "wait"))
    first.start()
    assert inside.wait(30)
    second = threading.Thread(target=replica.flush)  # waits for the lock, without the GIL
    second.start()
    time.sleep(0.01)
    leave.set()
    first.join(30)
    second.join(30)
    assert not first.is_alive()
    assert not second.is_alive()
    replica.close()


def test_nothing_of_python_is_kept_after_its_end(tmp_path: Path) -> None:
    class Marker: ...

    marker = Marker()
    gone = weakref.ref(marker)

    def clock(kept: Marker = marker) -> int:
        return 1

    replica = _core.Replica(str(tmp_path / "x.db"), mutators._table, clock=clock)
    replica.join(SCOPE)
    replica.mutate(SCOPE, "mint", {})
    replica.close()
    del replica, clock, marker
    gc.collect()
    assert gone() is None
