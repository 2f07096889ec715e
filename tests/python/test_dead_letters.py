"""What a mutator's code failed of is kept whole, beside the data and out of clients' sight."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import syncline
from hypothesis import given, settings
from hypothesis import strategies as st
from syncline.dead_letters import _describe

SCOPE = "list:1"
WHEN = datetime(2024, 5, 1, 12, 30, tzinfo=timezone.utc)


class Shop:
    """Mutators whose code is broken until it is mended."""

    def __init__(self) -> None:
        self.mended = False
        self.mutators = syncline.Mutators()
        self.mutators.register("order/place", self.place)
        self.mutators.register("order/refuse", self.refuse)
        self.mutators.register("order/later", self.later)

    def place(self, tx: syncline.Tx, args: Any) -> None:
        tx.set("order", args["id"], {"half": True})
        if not self.mended:
            raise KeyError("the secret shelf")
        tx.set(
            "order",
            args["id"],
            {
                "by": tx.user,
                "at": tx.now,
                "uuid": tx.uuid(),
                "luck": tx.random.random(),
                "client": tx.client_id,
            },
        )

    def refuse(self, tx: syncline.Tx, args: Any) -> None:
        if self.mended:
            raise syncline.Rejected("no", code="sold_out")
        raise RuntimeError("first")

    def later(self, tx: syncline.Tx, args: Any) -> None:
        if self.mended:
            raise syncline.Retry("not yet")
        raise RuntimeError("first")


@pytest.fixture
def shop() -> Shop:
    return Shop()


@pytest.fixture
def engine(shop: Shop) -> Iterator[syncline.Engine]:
    with syncline.Engine(":memory:", mutators=shop.mutators) as engine:
        yield engine


def mutation(seq: int, name: str = "order/place", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "args": {"id": f"o{seq}", "n": seq},
        "client_id": "c1",
        "client_seq": seq,
        "scope": SCOPE,
        "ts": WHEN,
        "seed": 7,
    } | more


def test_an_unexpected_exception_leaves_a_letter_with_all_it_takes_to_run_it_again(
    engine: syncline.Engine,
) -> None:
    result = engine.push([mutation(1)], user="ada")[0]
    assert result.error is not None
    assert result.error.code == "internal_error"
    (letter,) = engine.dead_letters
    assert (letter.name, letter.args, letter.scope, letter.user) == (
        "order/place",
        {"id": "o1", "n": 1},
        SCOPE,
        "ada",
    )
    assert (letter.client_id, letter.client_seq, letter.ts, letter.seed) == ("c1", 1, WHEN, 7)
    assert (letter.error, letter.message, letter.attempts) == ("KeyError", "'the secret shelf'", 1)
    assert "in place" in letter.traceback
    assert letter.traceback.rstrip().endswith("KeyError: 'the secret shelf'")
    assert letter.at == letter.tried_at
    assert datetime.now(timezone.utc) - letter.at < timedelta(minutes=5)
    assert len(engine.dead_letters) == 1
    assert engine.dead_letters[letter.id] == letter
    assert "order/place" in str(letter)


def test_an_expected_refusal_leaves_none(engine: syncline.Engine, shop: Shop) -> None:
    shop.mended = True
    engine.push([mutation(1, "order/refuse"), mutation(2, "nobody/knows"), mutation(3, scope="_no")])
    engine.push([mutation(4, "order/later")])
    assert not engine.dead_letters
    assert list(engine.dead_letters) == []


def test_a_repeat_of_the_same_mutation_leaves_no_second_letter(engine: syncline.Engine) -> None:
    engine.push([mutation(1)])
    assert engine.push([mutation(1)])[0].duplicate
    assert len(engine.dead_letters) == 1


def test_a_letter_is_in_the_commit_that_consumed_the_number(tmp_path: Path, shop: Shop) -> None:
    with syncline.Engine(tmp_path / "a.db", mutators=shop.mutators) as engine:
        engine.push([mutation(1), mutation(2)])
        assert engine.stats().commits == 1
    with syncline.Engine(tmp_path / "a.db", read_only=True) as engine:
        assert [one.client_seq for one in engine.dead_letters] == [1, 2]
        assert engine.pull(SCOPE, client_id="c1").last_seq == 2


def test_a_retry_runs_with_the_arguments_user_time_and_seed_of_then(
    engine: syncline.Engine, shop: Shop
) -> None:
    engine.push([mutation(1)], user="ada")
    (letter,) = engine.dead_letters
    shop.mended = True
    result = engine.dead_letters.retry(letter.id)
    assert result.ok
    assert [one.id for one in result.changes] == ["o1"]
    assert not engine.dead_letters
    with engine.read(SCOPE) as view:
        retried = view.get("order", "o1")
    engine.push([mutation(2, args={"id": "o1"})], user="ada")
    with engine.read(SCOPE) as view:
        pushed = view.get("order", "o1")
    assert retried is not None
    assert pushed is not None
    assert retried.pop("client") is None  # backend code
    assert pushed.pop("client") == "c1"
    assert retried == pushed
    assert retried["at"] == WHEN


def test_a_retry_that_fails_keeps_the_letter_with_what_happened_last(
    engine: syncline.Engine, shop: Shop
) -> None:
    engine.push([mutation(1), mutation(2, "order/refuse")])
    first, second = engine.dead_letters
    result = engine.dead_letters.retry(first.id)
    assert result.error is not None
    assert result.error.code == "internal_error"
    again = engine.dead_letters[first.id]
    assert (again.attempts, again.error, again.at) == (2, "KeyError", first.at)
    assert again.tried_at >= first.tried_at
    shop.mended = True
    assert engine.dead_letters.retry(second.id).error == engine.push([mutation(3, "order/refuse")])[0].error
    refused = engine.dead_letters[second.id]
    assert (refused.attempts, refused.error, refused.message, refused.traceback) == (2, "sold_out", "no", "")
    assert engine.pull(SCOPE).changes == []


def test_a_retry_that_is_told_to_try_again_later_leaves_the_letter_as_it_was(
    engine: syncline.Engine, shop: Shop
) -> None:
    engine.push([mutation(1, "order/later")])
    (letter,) = engine.dead_letters
    shop.mended = True
    error = engine.dead_letters.retry(letter.id).error
    assert error is not None
    assert error.code == "unavailable"
    assert list(engine.dead_letters) == [letter]


def test_all_can_be_retried_while_iterating(engine: syncline.Engine, shop: Shop) -> None:
    engine.push([mutation(seq) for seq in range(1, 251)])
    shop.mended = True
    assert all(engine.dead_letters.retry(one.id).ok for one in engine.dead_letters)
    assert not engine.dead_letters
    assert len(engine.pull(SCOPE).changes) == 250


def test_a_discarded_letter_is_gone_and_its_number_is_never_used_again(engine: syncline.Engine) -> None:
    engine.push([mutation(1)])
    (letter,) = engine.dead_letters
    assert engine.dead_letters.discard(letter.id)
    assert not engine.dead_letters.discard(letter.id)
    assert engine.dead_letters.get(letter.id) is None
    with pytest.raises(syncline.NotFound):
        engine.dead_letters[letter.id]
    with pytest.raises(syncline.NotFound):
        engine.dead_letters.retry(letter.id)
    engine.push([mutation(2)])
    (after,) = engine.dead_letters
    assert after.id > letter.id
    assert engine.dead_letters.dropped == 0


def test_backend_code_leaves_letters_too(engine: syncline.Engine) -> None:
    engine.push([{"name": "order/place", "args": {"id": "x"}, "scope": SCOPE}])
    (letter,) = engine.dead_letters
    assert (letter.client_id, letter.client_seq, letter.user) == (None, None, None)


def test_the_oldest_go_and_are_counted_when_there_are_too_many(engine: syncline.Engine) -> None:
    for begin in range(1, 1201, 100):
        engine.push([mutation(seq) for seq in range(begin, begin + 100)])
    assert len(engine.dead_letters) == 1000
    assert engine.dead_letters.dropped == 200
    assert [one.client_seq for one in engine.dead_letters] == list(range(201, 1201))


def test_no_client_sees_a_letter(engine: syncline.Engine) -> None:
    pushed = engine.push([mutation(1)], user="ada")
    assert b"shelf" not in pushed.encode("json")
    assert engine.pull(SCOPE).changes == []
    assert engine.snapshot(SCOPE).data == {}
    for scope in ("_dead_letters", "_dead_letters\0letter"):
        with pytest.raises(syncline.InvalidScope):
            engine.pull(scope)
        with pytest.raises(syncline.InvalidScope):
            engine.snapshot(scope)

    def answer(path: str, body: dict[str, Any]) -> bytes:
        response = engine.handle(
            "POST",
            path,
            {"Content-Type": "application/json"},
            json.dumps(body).encode(),
            authenticate=lambda request: "ada",
            authorize=lambda user, action, scope: True,
        )
        return response.body

    told = answer("/_sync/push", {"mutations": [mutation(2, ts=WHEN.isoformat())]})
    assert b"internal_error" in told
    assert len(engine.dead_letters) == 2
    told += answer("/_sync/pull", {"scope": SCOPE, "cursor": 0})
    told += answer("/_sync/pull", {"scope": SCOPE, "cursor": 0, "entities": ["letter", "_dead_letters"]})
    told += answer("/_sync/snapshot", {"scope": "_dead_letters"})
    for secret in (b"shelf", b"KeyError", b"Traceback", b"test_dead_letters"):
        assert secret not in told


def test_it_cannot_be_retried_from_within_a_write(engine: syncline.Engine) -> None:
    engine.push([mutation(1)])
    (letter,) = engine.dead_letters
    with engine.write(SCOPE), pytest.raises(syncline.UsageError):
        engine.dead_letters.retry(letter.id)
    assert list(engine.dead_letters) == [letter]


@pytest.mark.parametrize("id", ["1", 1.0, None, True])
def test_an_id_that_is_no_number_is_refused(engine: syncline.Engine, id: Any) -> None:
    with pytest.raises(syncline.UsageError, match="int"):
        engine.dead_letters.get(id)


@pytest.mark.parametrize("id", [0, -1, 99, 1 << 80])
def test_a_number_that_no_letter_has_finds_none(engine: syncline.Engine, id: int) -> None:
    engine.push([mutation(1)])
    assert engine.dead_letters.get(id) is None


def test_an_exception_that_cannot_be_told_still_leaves_a_letter(engine: syncline.Engine) -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    def mute(tx: syncline.Tx, args: Any) -> None:
        raise Mute

    def odd(tx: syncline.Tx, args: Any) -> None:
        raise ValueError("half a pair: \ud800")

    def endless(tx: syncline.Tx, args: Any) -> None:
        raise ValueError("x" * 100_000)

    for name, function in (("a", mute), ("b", odd), ("c", endless)):
        engine.mutators.register(name, function)  # type: ignore[attr-defined]
    engine.push([mutation(1, "a"), mutation(2, "b"), mutation(3, "c")])
    first, second, third = engine.dead_letters
    assert first.error.endswith("Mute")
    assert second.message == r"half a pair: \ud800"
    assert len(third.message) == 1024
    assert len(third.traceback) < 40_000


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=3000))
def test_whatever_an_exception_says_can_be_stored(text: str) -> None:
    for told in _describe(RuntimeError(text)):
        told.encode()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["push", "retry", "discard"]), st.booleans(), st.integers(0, 6)),
        max_size=30,
    )
)
def test_letters_are_as_a_list_would_be(steps: list[tuple[str, bool, int]]) -> None:
    shop = Shop()
    with syncline.Engine(":memory:", mutators=shop.mutators) as engine:
        model: dict[int, tuple[int, int]] = {}  # id -> (client_seq, attempts)
        seq = 0
        for step, mended, which in steps:
            shop.mended = mended
            if step == "push":
                seq += 1
                engine.push([mutation(seq)])
                if not mended:
                    model[max((one.id for one in engine.dead_letters), default=0)] = (seq, 1)
            elif which < len(model):
                id = list(model)[which]
                if step == "discard":
                    engine.dead_letters.discard(id)
                    del model[id]
                elif engine.dead_letters.retry(id).ok:
                    assert mended
                    del model[id]
                else:
                    model[id] = (model[id][0], model[id][1] + 1)
            assert {one.id: (one.client_seq, one.attempts) for one in engine.dead_letters} == model
            assert len(engine.dead_letters) == len(model)
        assert engine.dead_letters.dropped == 0
