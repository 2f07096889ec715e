"""What goes in comes out; what cannot be stored is refused with the place where it was found."""

import enum
import math
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any

import msgpack
import pytest
import syncline
from hypothesis import given, settings
from hypothesis import strategies as st
from syncline import _core

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.datetimes(
        datetime(2, 1, 1),
        datetime(9998, 1, 1),
        timezones=st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone),
    )
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(
    lambda key: not key.startswith("$")
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)
documents = st.dictionaries(keys, values, max_size=8)


@pytest.fixture(scope="module")
def engine() -> Iterator[syncline.Engine]:
    with syncline.Engine(":memory:") as engine:
        yield engine


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float):
        return type(b) is float and a == b and math.copysign(1, a) == math.copysign(1, b)
    return type(a) is type(b) and bool(a == b)


@given(document=documents)
@settings(deadline=None)
def test_values_survive_the_store(engine: syncline.Engine, document: dict[str, Any]) -> None:
    with engine.write("values") as tx:
        tx.set("doc", "1", document)
        assert same(tx.get("doc", "1"), document)
    with engine.read("values") as view:
        assert same(view.get("doc", "1"), document)
    assert same(engine.snapshot("values").data["doc"]["1"], document)


@given(value=values)
@settings(deadline=None)
def test_values_survive_both_formats_of_the_wire(value: Any) -> None:
    assert same(_core.json_decode(_core.json_encode(value)), value)
    assert same(_core.unpackb(_core.packb(value)), value)


@given(value=values)
@settings(deadline=None)
def test_packed_values_are_readable_by_any_msgpack(value: Any) -> None:
    assert same(msgpack.unpackb(_core.packb(value), timestamp=3, strict_map_key=True), value)


@given(document=documents)
def test_equal_documents_are_equal_bytes(document: dict[str, Any]) -> None:
    assert _core.packb(document) == _core.packb(dict(reversed(document.items())))


class Unusual(dict[str, Any]):
    """A dict that the encoder of usual values leaves to the careful one."""


@given(document=documents)
def test_both_encoders_write_the_same_bytes(document: dict[str, Any]) -> None:
    packed = _core.packb(document)
    assert packed == _core.packb(Unusual(document))
    # Again, with keys that are known by now.
    assert packed == _core.packb(document)


def test_dicts_whose_keys_come_in_another_order_are_told_apart() -> None:
    for _ in range(3):
        first = {"name": 1, "age": 2, "": 3}
        second = {"age": 2, "": 3, "name": 1}
        assert _core.packb(first) == _core.packb(second) == msgpack.packb({"": 3, "age": 2, "name": 1})


def test_what_lies_in_a_dict_does_not_take_the_place_of_its_remembered_keys() -> None:
    # More kinds of dicts than are remembered, written while the outer one is.
    inner = [{sys.intern(f"key {n}"): n, "b": 1} for n in range(5000)]
    document = {"a": inner, "m": 2, "z": {"y": inner[:3]}, "b": 3}
    for _ in range(3):
        _core.packb({"a": 0, "m": 0, "z": 0, "b": 0})
        assert _core.packb(document) == _core.packb(Unusual(document))
        _core.packb({"a": 0, "m": 0, "z": 0, "b": 0})
        assert same(_core.unpackb(_core.packb(document)), document)


def test_what_grows_without_end_is_refused_before_it_fills_the_memory() -> None:
    value: Any = "x" * 1000
    for _ in range(60):
        value = [value] * 15
    with pytest.raises(syncline.TooLarge):
        _core.packb(value)


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf, -0.0])
def test_special_floats_survive(special: float) -> None:
    for back in (_core.json_decode(_core.json_encode(special)), _core.unpackb(_core.packb(special))):
        assert repr(back) == repr(special)


class Size(enum.IntEnum):
    SMALL = 1


class Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("given_value", "stored"),
    [
        (Size.SMALL, 1),
        (Colour.RED, "red"),
        (OrderedDict(b=1, a=2), {"a": 2, "b": 1}),
        (defaultdict(int, a=1), {"a": 1}),
        ((1, 2), [1, 2]),
        (bytearray(b"x"), b"x"),
        (memoryview(b"xyz")[1:], b"yz"),
        (True, True),
    ],
)
def test_subclasses_and_relatives_count_as_their_base(given_value: object, stored: object) -> None:
    back = _core.unpackb(_core.packb(given_value))
    assert back == stored
    assert type(back) is type(stored)


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def self_containing() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            {"items": [0, 1, {"when": datetime(2026, 1, 1)}]},
            "args.items[2].when: a datetime without a time zone",
        ),
        ({"a": {1: 2}}, "args.a: a key must be a str, not int"),
        ({"a": {"$set": 2}}, "args.a: the key"),
        ({"a": 2**64}, "args.a: an int must lie in"),
        ({"a": -(2**63) - 1}, "args.a: an int must lie in"),
        ({"a": "\ud800"}, "args.a: a str with a lone surrogate"),
        ({"\ud800": 1}, "lone surrogate"),
        ({"a": {1, 2}}, "sorted(value)"),
        ({"a": Decimal(1)}, "args.a: no value of type decimal.Decimal"),
        ({"a": date(2026, 1, 1)}, "isoformat"),
        ({"a": object()}, "args.a: no value of type object"),
        (nested(65), "nested more than 64 deep"),
        (self_containing(), "contains itself"),
    ],
)
def test_what_is_no_value_is_refused_with_its_place(
    engine: syncline.Engine, value: object, says: str
) -> None:
    with pytest.raises(syncline.InvalidMutation) as refused:
        engine.push([{"name": "x", "args": value, "scope": "s"}])
    assert says in refused.value.message


def test_nesting_up_to_the_limit_is_taken() -> None:
    assert _core.unpackb(_core.packb(nested(64))) == nested(64)


def test_a_dict_that_changes_while_it_is_read_is_refused() -> None:
    class Zone(tzinfo):
        def utcoffset(self, moment: datetime | None) -> timedelta:
            for extra in range(1000):
                document[str(extra)] = extra
            return timedelta(0)

    document: dict[str, Any] = {"a": datetime(2026, 1, 1, tzinfo=Zone()), "b": 1}
    with pytest.raises(syncline.Error, match="changed while it was read"):
        _core.packb(document)


def test_documents_are_the_callers_own(engine: syncline.Engine) -> None:
    mine = {"list": [1]}
    with engine.write("own") as tx:
        tx.set("doc", "1", mine)
        mine["list"].append(2)
        got = tx.get("doc", "1")
        assert got == {"list": [1]}
        got["list"].append(3)
        assert tx.get("doc", "1") == {"list": [1]}
    change = engine.pull("own").changes[0]
    assert change.data is not None
    change.data["list"].append(4)
    assert change.data == {"list": [1]}
