"""Thousands of random lives of a server and its replicas: each ends in convergence, with every mutation
applied once, or refused and told so. And the kit that makes them sees what is broken on purpose."""

from __future__ import annotations

import random
from typing import Any

import pytest
import syncline
from syncline.testing import FAULTS, Call, Life, SimReplica, World, live
from syncline.testing._life import Fault

SCHEDULES = 2000
CHUNKS = 20
KEYS = ("x", "y", "z")


class Weather:
    """Whether mutators that may say Retry do; on the server only."""

    retry = False


def make_mutators(weather: Weather | None = None) -> syncline.Mutators:
    """Each that goes through leaves `did/uid` behind, which counts how often its effect is there."""
    mutators = syncline.Mutators()

    def did(tx: syncline.Tx, args: dict[str, Any]) -> None:
        old = tx.get("did", args["uid"])
        tx.set("did", args["uid"], {"n": 1 if old is None else old["n"] + 1})

    @mutators("set")
    def set_(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set(
            "k", args["k"], {"v": args["v"], "pad": "." * args["pad"]}
        )  # a page holds one of the large ones
        did(tx, args)

    @mutators("add")
    def add(tx: syncline.Tx, args: dict[str, Any]) -> None:
        old = tx.get("k", args["k"])
        tx.set("k", args["k"], {"v": (0 if old is None else old["v"]) + 1})
        did(tx, args)

    @mutators("del")
    def delete(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.delete("k", args["k"])
        did(tx, args)

    @mutators("cas")
    def cas(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.expect("k", args["k"], args["version"])
        tx.set("k", args["k"], {"v": args["v"]})
        did(tx, args)

    @mutators("boom")
    def boom(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("k", args["k"], {"v": -1})
        did(tx, args)
        if weather is not None:  # here it goes through, there it does not
            raise syncline.Rejected("not here", code="boom")

    @mutators("crash")
    def crash(tx: syncline.Tx, args: dict[str, Any]) -> None:
        did(tx, args)
        if weather is not None:
            raise ZeroDivisionError

    @mutators("maybe")
    def maybe(tx: syncline.Tx, args: dict[str, Any]) -> None:
        if weather is not None and weather.retry:
            raise syncline.Retry
        add(tx, args)

    @mutators("mint")
    def mint(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("minted", str(tx.uuid()), {"by": args["uid"], "luck": tx.random.randrange(1000)})
        did(tx, args)

    if weather is None:

        @mutators("nope")
        def nope(tx: syncline.Tx, args: dict[str, Any]) -> None:
            did(tx, args)

    return mutators


NAMES = ("set",) * 3 + ("add",) * 5 + ("del",) * 2 + ("cas",) * 2 + ("boom", "crash", "maybe", "mint", "nope")


def mutation(chance: random.Random, replica: SimReplica) -> tuple[str, dict[str, Any]]:
    name = chance.choice(NAMES)
    args: dict[str, Any] = {"k": chance.choice(KEYS), "uid": f"{chance.getrandbits(48):x}"}
    if name in ("set", "cas"):
        args["v"] = chance.randrange(100)
    if name == "set":
        args["pad"] = chance.choice((0, 900))
    if name == "cas":
        args["version"] = chance.randrange(3)
    return name, args


def assert_once(world: World) -> None:
    """What each mutation left in the documents agrees with what its replica was told of it."""
    there = {}
    for scope in world.scopes:
        with world.server.read(scope) as view:
            there[scope] = {id: document["n"] for id, document in view.list("did").items()}
    wrong = []
    for call, outcome, lost in world.outcomes():
        times = there[call.scope].get(call.args["uid"], 0)
        if outcome == "ok":
            fits = times == 1 or (times == 0 and lost)
        elif outcome in ("gone", "unknown", "discarded"):
            fits = times <= 1
        else:
            fits = times == 0 and outcome != ""
        if not fits:
            wrong.append(
                f"{call.name} {call.args['uid']}: told {outcome!r}, applied {times} times, lost {lost}"
            )
    if wrong:
        raise AssertionError(world._report("outcomes", wrong))


def assert_no_double_effect(world: World) -> None:
    for replica in world.replicas:
        if replica.up:
            for scope in replica.scopes:
                for uid, document in replica.list("did", scope=scope).items():
                    assert document["n"] == 1, world._report(
                        "double effect", [f"{uid} in replica {replica.number}"]
                    )


def run_schedule(seed: int, *, faults: tuple[Fault, ...] = FAULTS) -> None:
    chance = random.Random(f"{seed} shape")
    weather = Weather()
    # A file that is set back and a server that is set back: one of them to a life.
    if chance.random() < 0.15:
        faults = (*(one for one in faults if one not in ("backup", "restore")), "copy", "set_back")
    with World(
        make_mutators(weather),
        client_mutators=make_mutators(),
        seed=seed,
        replicas=chance.choice((1, 2, 2, 3)),
        scopes=chance.choice((("A",), ("A", "B"))),
        limits=chance.choice((None, syncline.Limits(max_page_bytes=1024))),
    ) as world:
        steps = chance.choice((10, 25, 50))
        for _ in range(2):
            weather.retry = chance.random() < 0.3
            live(world, mutation, Life(steps=steps // 2, faults=faults))
            assert_no_double_effect(world)
        weather.retry = False
        for replica in world.replicas:
            for scope in world.scopes:
                world.permit(replica.user, scope)
        world.run_until_quiet()
        world.assert_converged()
        assert_once(world)


def test_a_seed_runs_the_same_life_again() -> None:
    """Message by message: but for what only the operating system decides, which no line has."""
    traces = []
    for _ in range(2):
        weather = Weather()
        with World(
            make_mutators(weather),
            client_mutators=make_mutators(),
            seed=11,
            replicas=3,
            scopes=("A", "B"),
        ) as world:
            live(world, mutation, Life(steps=60))
            world.run_until_quiet()
            traces.append(list(world.trace))
    assert traces[0] == traces[1]
    assert len(traces[0]) > 100


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_random_schedule_ends_in_convergence(chunk: int, request: pytest.FixtureRequest) -> None:
    given = request.config.getoption("--syncline-seed")
    each = SCHEDULES // CHUNKS
    seeds = range(chunk * each, (chunk + 1) * each) if given is None else [given] if chunk == 0 else []
    for seed in seeds:
        run_schedule(seed)


# --------------------------------------------------------------------------------------- the kit catches bugs


def small(**more: Any) -> dict[str, Any]:
    return {"replicas": 2, "scopes": ("A",), **more}


def test_it_catches_a_mutator_that_rolls_dice(sync_world: Any) -> None:
    mutators = syncline.Mutators()

    @mutators("roll")
    def roll(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("dice", "1", {"on": "table", "shows": [1, random.random()]})

    world = sync_world(mutators, **small(determinism=True))
    world.replicas[0].mutate("roll", {})
    world.run_until_quiet()
    with pytest.raises(syncline.testing.NotDeterministic, match=r"dice/1 shows\[1\]") as raised:
        world.assert_converged()
    first, second = raised.value.differences
    assert (first.against, second.against) == ("second run", "replica")
    assert first.call.name == "roll"


def test_it_catches_mutators_that_differ_between_the_sides() -> None:
    here, there = syncline.Mutators(), syncline.Mutators()

    @there("price")
    def price(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("item", "1", {"price": args["price"]})

    @here("price")
    def discount(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("item", "1", {"price": args["price"] - 1})

    with pytest.raises(syncline.testing.NotDeterministic, match="item/1 price is 10 on the server and 9"):
        syncline.testing.check_determinism(there, [("price", {"price": 10})], client_mutators=here)
    assert syncline.testing.check_determinism(there, [("price", {"price": 10})] * 3) == 3


def test_it_catches_a_refusal_on_one_side_only() -> None:
    here, there = syncline.Mutators(), syncline.Mutators()

    @there("buy")
    def buy(tx: syncline.Tx, args: Any) -> None:
        raise syncline.Rejected("sold", code="sold")

    @here("buy")
    def bought(tx: syncline.Tx, args: Any) -> None:
        tx.set("item", "1", {})

    with pytest.raises(syncline.testing.NotDeterministic) as raised:
        syncline.testing.check_determinism(there, [Call("buy")], client_mutators=here)
    (one,) = raised.value.differences
    assert (one.where, one.first, one.other) == ("outcome", "sold", "ok")


def test_chance_and_time_of_the_tx_are_the_same_everywhere() -> None:
    mutators = syncline.Mutators()

    @mutators("mint")
    def mint(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("m", str(tx.uuid()), {"at": tx.now, "luck": tx.random.random(), "by": tx.user, "was": args})

    calls = [Call("mint", {"n": n}, user=f"user{n % 2}") for n in range(10)]
    documents = {"scope": {"m": {"0": {"old": True}}}}
    assert syncline.testing.check_determinism(mutators, calls, documents=documents) == 10


class _LossyCore:
    """A core that loses each fifth answer to a push half: it believes that all is settled."""

    def __init__(self, core: Any, world: World) -> None:
        self._core, self._world, self._count = core, world, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def answer(self, request: int, status: int, body: bytes) -> Any:
        from syncline import _core

        told = _core.unpackb(body) if status == 200 else {}
        if told.get("changes"):
            told["changes"] = told["changes"][1:]  # a document goes missing on its way in
            body = _core.packb(told)
        return self._core.answer(request, status, body)


def test_it_catches_an_apply_that_loses_a_document(sync_world: Any) -> None:
    world = sync_world(make_mutators(), **small())
    for replica in world.replicas:
        replica.session.core = _LossyCore(replica.core, world)
    world.replicas[0].mutate("set", {"k": "x", "v": 1, "pad": 0, "uid": "1"})
    with pytest.raises(AssertionError, match=r"(?s)seed.*replica 1, A, .*nothing; the server has version 1"):
        world.run_until_quiet(limit=120)


def test_it_catches_a_mutation_that_is_sent_twice_under_two_names(sync_world: Any) -> None:
    world = sync_world(make_mutators(), **small())
    world.replicas[0].mutate("add", {"k": "x", "uid": "1"})
    world.run_until_quiet()
    (line,) = [one for one in world.server.log() if one.entity == "k"]
    again = {"name": "add", "args": {"k": "x", "uid": "1"}, "scope": "A", "ts": line.mutation_ts}
    world.server.push([{**again, "client_id": "other", "client_seq": 1}], user="user0").raise_for_error()
    world.run_until_quiet()
    with pytest.raises(AssertionError, match="applied 2 times"):
        world.assert_converged()


def test_a_failing_test_says_its_seed_and_the_seed_runs_it_again(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import syncline

        mutators = syncline.Mutators()

        @mutators("set")
        def set_(tx, args):
            tx.set("k", "1", {})

        def test_it(sync_world):
            world = sync_world(mutators, replicas=1)
            draw = world.random.random()
            print("drew", draw)
            assert False
        """
    )
    first = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    first.assert_outcomes(failed=1)
    said = next(line for line in first.outlines if "--syncline-seed=" in line)
    drew = next(line for line in first.outlines if line.startswith("drew"))
    again = pytester.runpytest_inprocess(said.split()[-1], "-p", "no:cacheprovider")
    assert drew in again.outlines


def test_what_was_applied_in_a_scope_that_closed_leaves_its_view(sync_world: Any) -> None:
    mutators = syncline.Mutators()
    mutators.register("put", lambda tx, args: tx.set("doc", args["id"], {"n": 1}))
    world = sync_world(mutators, replicas=1, scopes=["hall"])
    world.run_until_quiet()
    (replica,) = world.replicas
    world.permit(replica.user, "hall", read=False)
    world.run_until_quiet()
    replica.mutate("put", {"id": "1"})
    world.run_until_quiet()
    world.assert_converged()
