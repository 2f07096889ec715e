"""Registering mutators, and checking their arguments by annotation."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal, Optional, TypedDict

import pytest
import syncline
from typing_extensions import NotRequired


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Point:
    x: float
    y: float = 0.0


@dataclass
class Order:
    id: str
    count: int
    points: list[Point]
    when: datetime | None = None
    colour: Colour = Colour.RED
    kind: Literal["a", "b"] = "a"
    names: dict[str, int] = field(default_factory=dict)
    either: int | str = 0
    parent: Optional[Order] = None  # noqa: UP045

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count must not be negative")


class Line(TypedDict):
    id: str
    note: NotRequired[str]
    tags: list[str]


def run(mutator: Callable[[syncline.Tx, Any], object], args: object) -> syncline.Result:
    mutators = syncline.Mutators()
    mutators.register("run", mutator)
    with syncline.Engine(":memory:", mutators=mutators) as engine:
        return engine.push([{"name": "run", "args": args, "scope": "s"}])[0]


def test_a_dataclass_is_constructed_with_what_is_nested_in_it() -> None:
    got: list[Order] = []

    def mutator(tx: syncline.Tx, args: Order) -> None:
        got.append(args)

    when = datetime(2026, 1, 1, tzinfo=timezone.utc)
    args = {
        "id": "1",
        "count": 2.0,
        "points": [{"x": 1}, {"x": 2.5, "y": 3.0}],
        "when": when,
        "colour": "blue",
        "kind": "b",
        "names": {"n": 1},
        "either": "text",
        "parent": {"id": "0", "count": 0, "points": []},
    }
    assert run(mutator, args).ok
    parent = Order("0", 0, [])
    assert got == [
        Order("1", 2, [Point(1.0), Point(2.5, 3.0)], when, Colour.BLUE, "b", {"n": 1}, "text", parent)
    ]


GOOD: dict[str, Any] = {"id": "1", "count": 1, "points": []}


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (None, "args: must be a map of fields, not null"),
        ({"id": "1", "points": []}, "args.count: is missing"),
        ({**GOOD, "extra": 1}, "args.extra: there is no such field"),
        ({**GOOD, "id": 1}, "args.id: must be a string, not int"),
        ({**GOOD, "count": True}, "args.count: must be an integer, not bool"),
        ({**GOOD, "count": 1.5}, "args.count: must be an integer, not float"),
        ({**GOOD, "count": -1}, "args: count must not be negative"),
        ({**GOOD, "points": [{"x": 1}, {"x": "1"}]}, "args.points[1].x: must be a number, not str"),
        ({**GOOD, "points": {}}, "args.points: must be a list, not dict"),
        ({**GOOD, "when": "2026"}, "args.when: must be an instant, not str"),
        ({**GOOD, "colour": "green"}, "args.colour: must be one of 'red', 'blue', not 'green'"),
        ({**GOOD, "kind": "c"}, "args.kind: must be one of 'a', 'b', not 'c'"),
        ({**GOOD, "names": {"n": "1"}}, "args.names.n: must be an integer, not str"),
        ({**GOOD, "either": None}, "args.either: must be int or str, not null"),
        ({**GOOD, "parent": {**GOOD, "parent": {}}}, "args.parent.parent.id: is missing"),
    ],
)
def test_wrong_arguments_are_refused_with_their_place(args: object, says: str) -> None:
    def mutator(tx: syncline.Tx, args: Order) -> None:
        raise AssertionError("it ran")

    result = run(mutator, args)
    assert result.error is not None
    assert result.error.code == "invalid_mutation"
    assert says in result.error.message


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({"id": "1", "tags": ["a"]}, None),
        ({"id": "1", "tags": [], "note": "n"}, None),
        ({"id": "1"}, "args.tags: is missing"),
        ({"id": "1", "tags": [1]}, "args.tags[0]: must be a string"),
        ({"id": "1", "tags": [], "note": None}, "args.note: must be a string, not null"),
    ],
)
def test_a_typed_dict_is_checked_and_stays_a_dict(args: object, says: str | None) -> None:
    def mutator(tx: syncline.Tx, args: Line) -> None:
        assert type(args) is dict

    result = run(mutator, args)
    assert result.ok == (says is None)
    if says is not None:
        assert result.error is not None
        assert says in result.error.message


def test_types_of_the_registering_function_are_found() -> None:
    class Local(TypedDict):
        n: int

    def mutator(tx: syncline.Tx, args: Local) -> None: ...

    assert run(mutator, {"n": 1}).ok
    assert not run(mutator, {"n": "1"}).ok


async def asynchronous(tx: syncline.Tx, args: Any) -> None: ...


def generator(tx: syncline.Tx, args: Any) -> Any:
    yield


def one_parameter(tx: syncline.Tx) -> None: ...


def needs_keyword(tx: syncline.Tx, args: Any, *, more: int) -> None: ...


def unknown_annotation(tx: syncline.Tx, args: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def impossible_annotation(tx: syncline.Tx, args: dict[int, str]) -> None: ...


def uncheckable_annotation(tx: syncline.Tx, args: set[str]) -> None: ...


class AsynchronousCall:
    async def __call__(self, tx: syncline.Tx, args: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (asynchronous, "is async"),
        (AsynchronousCall(), "is async"),
        (generator, "generator"),
        (one_parameter, "def name(tx, args)"),
        (needs_keyword, "def name(tx, args)"),
        (unknown_annotation, "Nowhere"),
        (impossible_annotation, "keys are str"),
        (uncheckable_annotation, "cannot be checked"),
        (5, "must be a function"),
    ],
)
def test_a_wrong_function_is_reported_when_it_is_registered(function: Any, says: str) -> None:
    mutators = syncline.Mutators()
    with pytest.raises(syncline.UsageError) as refused:
        mutators.register("m", function)
    assert says in refused.value.message
    assert len(mutators) == 0


@pytest.mark.parametrize("name", ["", "_own", "a\nb", "x" * 256, "\ud800", 5])
def test_a_wrong_name_is_reported(name: Any) -> None:
    with pytest.raises(syncline.UsageError):
        syncline.Mutators().register(name, lambda tx, args: None)


def test_the_decorator_needs_its_name() -> None:
    with pytest.raises(syncline.UsageError, match="needs a name"):
        syncline.Mutators()(one_parameter)  # type: ignore[arg-type]


def test_mutators_are_included_with_a_prefix_all_or_none() -> None:
    inner, outer = syncline.Mutators(), syncline.Mutators()
    inner.register("a", lambda tx, args: None)
    inner.register("b", lambda tx, args: None)
    outer.include(inner, prefix="inner/")
    assert list(outer) == ["inner/a", "inner/b"]
    again = syncline.Mutators()
    again.register("b", lambda tx, args: None)
    with pytest.raises(syncline.UsageError):
        again.include(inner)
    assert list(again) == ["b"]
    with pytest.raises(syncline.UsageError):
        again.register("b", lambda tx, args: None)


def test_methods_and_callables_may_be_mutators() -> None:
    class Shop:
        def sell(self, tx: syncline.Tx, args: Line) -> None: ...
        def __call__(self, tx: syncline.Tx, args: Line) -> None: ...

    for mutator in (Shop().sell, Shop()):
        assert run(mutator, {"id": "1", "tags": []}).ok
        assert not run(mutator, {}).ok
