"""Never run: mypy reads it, and `assert_type` fails when the API's types change."""

from dataclasses import dataclass
from typing import Any, Literal

import pandas
import syncline
from syncline import explore, testing
from typing_extensions import assert_type


@dataclass
class Create:
    id: str


mutators = syncline.Mutators()


@mutators("todo/create")
def create(tx: syncline.Tx, args: Create) -> None:
    assert_type(tx.get("todo", args.id), dict[str, Any] | None)
    assert_type(tx.list("todo"), dict[str, dict[str, Any]])
    assert_type(tx.find("todo", {"done": False}, sort="-id", limit=3), list[tuple[str, dict[str, Any]]])
    tx.set("todo", args.id, {"title": "x"})
    tx.set("todo", 5, {})  # type: ignore[arg-type]


@mutators("wrong")  # type: ignore[type-var]
def wrong(tx: syncline.Tx) -> None: ...


def use(engine: syncline.Engine) -> None:
    result = engine.push([{"name": "todo/create", "args": {}}])
    assert_type(result, syncline.PushResult)
    assert_type(result[0], syncline.Result)
    assert_type(result[:1], list[syncline.Result])
    assert_type(result[0].error, syncline.ResultError | None)
    assert_type(engine.pull("s").changes, list[syncline.Change])
    assert_type(engine.snapshot("s").data, dict[str, dict[str, dict[str, Any]]])
    with engine.write("a") as tx:
        assert_type(tx, syncline.Tx)
    with engine.write("a", "b") as txs:
        assert_type(txs, tuple[syncline.Tx, ...])
    with engine.read("a") as view:
        assert_type(view, syncline.View)
    for line in engine.log(since=0, scope="a"):
        assert_type(line, syncline.LogLine)
        assert_type(line.user, str | None)
    for version in engine.history("a", "todo", "1", limit=3):
        assert_type(version, syncline.Version)
        assert_type(version.data, dict[str, Any] | None)
    with engine.at(3) as past:
        assert_type(past.find("a", "todo", {"done": False}, sort="-id"), list[tuple[str, dict[str, Any]]])
    assert_type(engine.explain("a", "todo", "1").has, Literal["yes", "older", "no", "unknown"])
    assert_type(explore.log(engine, since=3, newest_first=True), explore.Table)
    assert_type(explore.history(engine, "a", "todo", "1").pandas(), pandas.DataFrame)
    assert_type(explore.documents(engine, ["a", "b"], "todo", filter={"done": False}), explore.Table)
    for poke in engine.subscribe("a"):
        assert_type(poke, syncline.Poke)


async def use_async(engine: syncline.Engine) -> None:
    assert_type(await engine.push_async([]), syncline.PushResult)
    async with engine.write_async("a") as tx:
        assert_type(tx, syncline.Tx)


@mutators.upgrade("todo", schema=2)
def upgrade_todo(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"done": False}


@mutators.upgrade_args("todo/create", version=2)
def upgrade_create(args: Any) -> Any:
    return {"id": args}


def use_feeds(engine: syncline.Engine) -> None:
    for commit in engine.feed("index", scopes=["s"], start="now"):
        assert_type(commit, syncline.Commit)
        for change in commit.changes:
            assert_type(change.data, dict[str, Any] | None)
    assert_type(engine.feeds(), list[syncline.FeedInfo])
    assert_type(engine.load("s", "k", [{"id": 1}]), syncline.Loaded)
    assert_type(engine.load("s", "k", iter([("a", {})])), syncline.Loaded)
    for letter in engine.dead_letters:
        assert_type(letter, syncline.DeadLetter)
        assert_type(engine.dead_letters.retry(letter.id), syncline.Result)
    for info in engine.upgrades:
        assert_type(info, syncline.UpgradeInfo)


async def use_feeds_async(engine: syncline.Engine) -> None:
    async for commit in engine.feed("index", start=5, follow=False):
        assert_type(commit.scopes, tuple[str, ...])


def use_replica(replica: syncline.Replica) -> None:
    assert_type(replica.mutate("todo/create", {"id": "1"}), syncline.Pending)
    assert_type(replica.get("todo", "1"), dict[str, Any] | None)
    assert_type(replica.list("todo"), dict[str, dict[str, Any]])
    assert_type(replica.confirmed.find("todo", {"done": False}, sort="-id"), list[tuple[str, dict[str, Any]]])
    assert_type(replica.pending, list[syncline.Pending])
    assert_type(replica.refused[0].error, syncline.Error)
    assert_type(replica.scopes, list[str])
    assert_type(replica.state, Literal["offline", "connecting", "syncing", "live", "stopped"])
    assert_type(replica.status, syncline.ReplicaStatus)
    replica.wait_for("life")  # type: ignore[arg-type]
    for changes in replica.subscribe(entity="todo"):
        assert_type(changes, list[syncline.DocumentChange])
        assert_type(changes[0].kind, Literal["added", "modified", "removed"])
        assert_type(changes[0].old, dict[str, Any] | None)


async def use_replica_async(replica: syncline.Replica) -> None:
    async with replica as same:
        assert_type(same, syncline.Replica)
        await same.mutate("todo/create")
        await same.sync_async(timeout=5)
        async for changes in same.subscribe():
            assert_type(changes, list[syncline.DocumentChange])


def use_kit() -> None:
    with testing.World(mutators, seed=1, replicas=2) as world:
        assert_type(world.replicas, list[testing.SimReplica])
        assert_type(world.server, syncline.Engine)
        assert_type(world.replicas[0].mutate("todo/create", {"id": "1"}), int)
    assert_type(testing.check_determinism(mutators, [("todo/create", {}), testing.Call("x")]), int)
