"""What bad input gets: an error that says so, nothing left behind, and a client that goes on."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import syncline

SCOPE = "list:1"
SECRET = "a detail that must stay on the server"


def make_mutators() -> syncline.Mutators:
    mutators = syncline.Mutators()
    leaked: list[syncline.Tx] = []

    @dataclass
    class Note:
        id: str
        count: int

    @mutators("note")
    def note(tx: syncline.Tx, args: Note) -> None:
        tx.set("note", args.id, {"count": args.count})

    @mutators("any")
    def anything(tx: syncline.Tx, args: Any) -> None:
        tx.set("note", "any", {"value": args})

    @mutators("big")
    def big(tx: syncline.Tx, args: Any) -> None:
        tx.set("note", "small", {})
        tx.set("note", "big", {"text": "x" * (1 << 20)})

    @mutators("odd")
    def odd(tx: syncline.Tx, args: Any) -> None:
        tx.set("note", "small", {})
        tx.set("note", "odd", {"value": {1, 2}})

    @mutators("fail")
    def fail(tx: syncline.Tx, args: Any) -> None:
        tx.set("note", "half", {})
        raise ZeroDivisionError(SECRET)

    @mutators("sneaky")
    def sneaky(tx: syncline.Tx, args: Any) -> Any:
        tx.set("note", "half", {})

        async def later() -> None:
            tx.set("note", "later", {})

        return later()

    @mutators("keep")
    def keep(tx: syncline.Tx, args: Any) -> None:
        leaked.append(tx)
        raise syncline.Rejected("kept")

    @mutators("leaked")
    def use_leaked(tx: syncline.Tx, args: Any) -> None:
        leaked[-1].set("note", "leak", {})

    return mutators


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with syncline.Engine(":memory:", mutators=make_mutators()) as opened:
        yield opened


def mutation(name: Any = "note", args: Any = None, seq: Any = 1, **more: Any) -> dict[str, Any]:
    return {"name": name, "args": args, "client_id": "c1", "client_seq": seq, "scope": SCOPE, **more}


def assert_goes_on(engine: syncline.Engine, seq: int, user: str | None = None) -> None:
    """Nothing is in the scope, and the same client's next mutation, `seq`, goes through."""
    assert engine.pull(SCOPE).changes == []
    assert engine.stats().documents == 0
    engine.push([mutation(args={"id": "next", "count": 1}, seq=seq)], user=user).raise_for_error()
    assert [change.id for change in engine.pull(SCOPE).changes] == ["next"]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def loop() -> Any:
    value: list[Any] = []
    value.append({"self": value})
    return value


REFUSED_RESULTS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown mutator", mutation("nobody"), "unknown_mutation"),
    ("wrong type", mutation(args={"id": 1, "count": 1}), "invalid_mutation"),
    ("missing argument", mutation(args={"id": "1"}), "invalid_mutation"),
    ("unknown argument", mutation(args={"id": "1", "count": 1, "x": 1}), "invalid_mutation"),
    ("no arguments", mutation(), "invalid_mutation"),
    ("empty id", mutation(args={"id": "", "count": 1}), "invalid_mutation"),
    ("long id", mutation(args={"id": "x" * 256, "count": 1}), "invalid_mutation"),
    ("reserved scope", mutation("any", scope="_x"), "invalid_scope"),
    ("too large document", mutation("big"), "too_large"),
    ("value of a strange type", mutation("odd"), "invalid_mutation"),
    ("exception", mutation("fail"), "internal_error"),
    ("awaitable", mutation("sneaky"), "internal_error"),
]


@pytest.mark.parametrize(
    ("bad", "code"), [one[1:] for one in REFUSED_RESULTS], ids=[o[0] for o in REFUSED_RESULTS]
)
def test_a_refused_mutation_consumes_its_number_alone(
    engine: syncline.Engine, bad: dict[str, Any], code: str
) -> None:
    result = engine.push([bad])[0]
    assert result.error is not None
    assert result.error.code == code
    assert SECRET not in repr(result.error) + result.error.message
    assert_goes_on(engine, 2)


BAD_VALUES: list[tuple[str, Any]] = [
    ("non-string key", {1: 2}),
    ("dollar key", {"a": [{"$date": "x"}]}),
    ("too deep", nested(65)),
    ("contains itself", loop()),
    ("integer above 64 bits", 2**64),
    ("integer below 64 bits", -(2**63) - 1),
    ("naive datetime", datetime(2020, 1, 1)),
    ("surrogate", "\ud800"),
    ("surrogate key", {"\ud800": 1}),
    ("set", {1, 2}),
    ("object", object()),
]


@pytest.mark.parametrize("value", [one[1] for one in BAD_VALUES], ids=[one[0] for one in BAD_VALUES])
def test_what_is_no_value_is_refused_where_it_is_written(engine: syncline.Engine, value: Any) -> None:
    with pytest.raises(syncline.InvalidMutation, match="args"):
        engine.push([mutation("any", {"deep": [value]})])
    with pytest.raises(syncline.InvalidMutation, match="note/1"), engine.write(SCOPE) as tx:
        tx.set("note", "1", {"value": value})
    assert_goes_on(engine, 1)


BAD_PUSHES: list[tuple[str, Callable[[], Any], type[Exception]]] = [
    ("too many mutations", lambda: [mutation("any", seq=n) for n in range(1, 1002)], syncline.TooLarge),
    ("no list", lambda: mutation(), syncline.InvalidRequest),
    ("no mapping", lambda: [1], syncline.InvalidRequest),
    ("no name", lambda: [{"scope": SCOPE}], syncline.InvalidRequest),
    ("no scope", lambda: [{"name": "any"}], syncline.InvalidRequest),
    ("unknown field", lambda: [mutation(nome=1)], syncline.InvalidRequest),
    ("number 0", lambda: [mutation(seq=0)], syncline.InvalidRequest),
    ("number True", lambda: [mutation(seq=True)], syncline.InvalidRequest),
    ("number as text", lambda: [mutation(seq="1")], syncline.InvalidRequest),
    ("client with a control character", lambda: [mutation(client_id="a\0")], syncline.InvalidRequest),
    ("naive ts", lambda: [mutation(ts=datetime(2020, 1, 1))], syncline.InvalidRequest),
    ("large args", lambda: [mutation("any", "x" * (8 << 20))], syncline.Error),
]


@pytest.mark.parametrize(
    ("push", "error"), [one[1:] for one in BAD_PUSHES], ids=[one[0] for one in BAD_PUSHES]
)
def test_a_push_refused_whole_consumes_nothing(
    engine: syncline.Engine, push: Callable[[], Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        engine.push(push())
    assert_goes_on(engine, 1)


def test_a_gap_says_what_is_expected(engine: syncline.Engine) -> None:
    error = engine.push([mutation("any", seq=3)])[0].error
    assert error is not None
    assert (error.code, error.details) == ("sequence_gap", {"expected": 1})
    assert_goes_on(engine, 1)


def test_a_reused_number_and_someone_elses_client_id(engine: syncline.Engine) -> None:
    engine.push([mutation("fail")], user="ada")
    error = engine.push([mutation("any")], user="ada")[0].error
    assert error is not None
    assert error.code == "sequence_reused"
    with pytest.raises(syncline.Forbidden):
        engine.push([mutation("any", seq=2)], user="bob")
    assert_goes_on(engine, 2, user="ada")


def test_a_cursor_from_the_future_or_of_another_database(engine: syncline.Engine) -> None:
    engine.push([mutation("fail")])
    for cursor, epoch in ((engine.head + 1, None), (2**40, None), (1, "another")):
        with pytest.raises(syncline.EpochMismatch):
            engine.pull(SCOPE, cursor, epoch=epoch)
    with pytest.raises(syncline.InvalidRequest):
        engine.pull(SCOPE, -1)
    with pytest.raises(syncline.InvalidRequest):
        engine.pull(SCOPE, page="nonsense")
    assert_goes_on(engine, 2)


def test_an_async_mutator_is_refused_when_it_is_registered(engine: syncline.Engine) -> None:
    async def late(tx: syncline.Tx, args: Any) -> None: ...

    with pytest.raises(syncline.UsageError, match="async"):
        engine.mutators.register("late", late)
    assert_goes_on(engine, 1)


def test_a_push_from_within_a_mutator_raises_there(engine: syncline.Engine) -> None:
    raised: list[Exception] = []

    @engine.mutators("again")
    def again(tx: syncline.Tx, args: Any) -> None:
        tx.set("note", "half", {})
        try:
            engine.push([mutation("any", seq=2)])
        except syncline.UsageError as error:
            raised.append(error)
            raise

    result = engine.push([mutation("again")])[0]
    assert len(raised) == 1
    assert result.error is not None
    assert result.error.code == "internal_error"
    assert_goes_on(engine, 2)


def test_a_leaked_tx_is_dead(engine: syncline.Engine) -> None:
    results = engine.push([mutation("keep"), mutation("leaked", seq=2)])
    assert [one.error.code for one in results if one.error] == ["rejected", "internal_error"]
    with engine.write(SCOPE) as tx:
        pass
    with pytest.raises(syncline.Closed):
        tx.set("note", "leak", {})
    assert_goes_on(engine, 3)


def test_after_close_everything_says_closed(tmp_path: Path) -> None:
    engine = syncline.Engine(tmp_path / "app.db", mutators=make_mutators())
    engine.close()
    engine.close()
    calls: list[Callable[[], object]] = [
        lambda: engine.push([mutation("any")]),
        lambda: asyncio.run(engine.push_async([mutation("any")])),
        lambda: engine.pull(SCOPE),
        lambda: engine.snapshot(SCOPE),
        lambda: engine.read(SCOPE),
        lambda: engine.write(SCOPE).__enter__(),
        lambda: engine.subscribe(SCOPE),
        lambda: engine.stats(),
    ]
    for call in calls:
        with pytest.raises(syncline.Closed):
            call()
    with syncline.Engine(tmp_path / "app.db", mutators=make_mutators()) as again:
        assert_goes_on(again, 1)


def test_after_fork_the_child_is_refused_and_the_parent_goes_on(engine: syncline.Engine) -> None:
    assert threading.active_count() >= 1
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for call in (lambda: engine.push([mutation("any")]), lambda: engine.pull(SCOPE)):
                try:
                    call()
                except syncline.UsageError as error:
                    status = 0 if "fork" in str(error) else 2
                else:
                    status = 3
                    break
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert_goes_on(engine, 1)
