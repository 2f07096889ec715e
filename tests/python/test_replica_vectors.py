"""The rules of a replica as schedules in tests/vectors/replica (README.md there says how they read), played
by the core. The JavaScript client plays the same ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import syncline
from syncline import _core

FOLDER = Path(__file__).parent.parent / "vectors" / "replica"
SCHEDULES = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.json"))]
SENTENCE = "a sentence for people"
TS = "2026-01-02T03:04:05.678901Z"

mutators = syncline.Mutators()


@mutators("set")
def set_(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.set("k", args["id"], {"value": args["value"]})


@mutators("add")
def add(tx: syncline.Tx, args: dict[str, Any]) -> None:
    document = tx.get("k", args["id"]) or {"n": 0}
    tx.set("k", args["id"], {"n": document["n"] + args["by"]})


@mutators("cas")
def cas(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.expect("k", args["id"], args["version"])
    tx.set("k", args["id"], {"value": args["value"]})


@mutators("delete")
def delete(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.delete("k", args["id"])


@mutators("refuse")
def refuse(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.set("k", args["id"], {"value": 0})
    raise syncline.Rejected(SENTENCE, code="no_room")


class Player:
    def __init__(self, path: Path, options: dict[str, Any]) -> None:
        self.path, self.options = path, options
        self.replica = self.open()
        self.names: dict[str, Any] = {}  # what "$name" stands for
        self.requests: dict[str, _core.ReplicaRequest] = {}

    def open(self) -> _core.Replica:
        return _core.Replica(str(self.path), mutators._table, durability="normal", **self.options)

    def play(self, step: dict[str, Any]) -> None:
        verb = next(iter(step))
        getattr(self, verb)(step)

    # -- what is done to it

    def join(self, step: dict[str, Any]) -> None:
        self.replica.join(step["join"])

    def leave(self, step: dict[str, Any]) -> None:
        self.replica.leave(step["leave"])

    def mutate(self, step: dict[str, Any]) -> None:
        def mutate() -> None:
            self.replica.mutate(step["scope"], step["mutate"], step["args"])

        if "raises" not in step:
            mutate()
            return
        with pytest.raises(syncline.Error) as raised:
            mutate()
        assert raised.value.code == step["raises"]

    def discard(self, step: dict[str, Any]) -> None:
        assert self.replica.discard(step["discard"]) is step["is"]

    def limits(self, step: dict[str, Any]) -> None:
        self.replica.learn_limits({"limits": step["limits"]})

    def flush(self, step: dict[str, Any]) -> None:
        self.replica.flush()

    def crash(self, step: dict[str, Any]) -> None:
        self.replica.abandon()
        self.replica = self.open()

    def reopen(self, step: dict[str, Any]) -> None:
        self.replica.close()
        self.replica = self.open()

    # -- requests and answers

    def push(self, step: dict[str, Any]) -> None:
        self.ask(step, self.replica.next_push, "/_sync/push", step["push"])

    def pull(self, step: dict[str, Any]) -> None:
        scope = step["pull"]
        self.ask(step, lambda: self.replica.next_pull(scope), "/_sync/pull", step.get("request", {}))

    def ask(
        self,
        step: dict[str, Any],
        next_request: Callable[[], _core.ReplicaRequest | None],
        path: str,
        wanted: Any,
    ) -> None:
        request = next_request()
        if wanted is None:
            assert request is None
            return
        assert request is not None
        assert request.path == path
        self.check(_core.unpackb(request.body), wanted, path)
        if "as" in step:
            self.requests[step["as"]] = request
        if "answer" in step:
            self.tell(request, step["answer"], step["next"])

    def answer(self, step: dict[str, Any]) -> None:
        self.tell(self.requests[step["answer"]], step, step["next"])

    def lost(self, step: dict[str, Any]) -> None:
        self.replica.lost(self.requests[step["lost"]].request)

    def tell(self, request: _core.ReplicaRequest, answer: dict[str, Any], following: str) -> None:
        body = answer["json"]
        if isinstance(body, dict) and "changes" in body:
            body = {**body, "changes": [self.change(one, request.scope) for one in body["changes"]]}
        packed = body.encode() if isinstance(body, str) else _core.packb(self.resolved(body))
        answered = self.replica.answer(request.request, answer["status"], packed)
        assert answered.next == following, answered.message

    def change(self, given: dict[str, Any], scope: str | None) -> dict[str, Any]:
        instant = _core.json_decode(json.dumps({"$date": TS}).encode())
        return {"scope": scope, **given, "ts": instant}

    def resolved(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {self.resolved(key): self.resolved(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.resolved(one) for one in value]
        return self.names.get(value, value) if isinstance(value, str) else value

    # -- what is expected of it

    def check(self, found: Any, wanted: Any, where: str) -> None:
        """`found` has what `wanted` names; lists are as long; "$name" stands for the same each time."""
        if isinstance(wanted, dict):
            assert isinstance(found, dict), where
            for key, one in wanted.items():
                key = self.names.get(key, key)
                assert key in found, f"{where}: {key} is missing in {found}"
                self.check(found[key], one, f"{where}.{key}")
        elif isinstance(wanted, list):
            assert isinstance(found, list), where
            assert len(found) == len(wanted), f"{where}: {found}"
            for n, one in enumerate(wanted):
                self.check(found[n], one, f"{where}[{n}]")
        elif isinstance(wanted, str) and wanted.startswith("$"):
            assert self.names.setdefault(wanted, found) == found, f"{where}: {wanted} was another"
        else:
            assert found == wanted, where

    def documents(self, scope: str, *, confirmed: bool) -> dict[str, Any]:
        with self.replica.view(scope, confirmed) as view:
            return view.list("k")

    def view(self, step: dict[str, Any]) -> None:
        for scope, documents in step["view"].items():
            assert self.documents(scope, confirmed=False) == documents

    def confirmed(self, step: dict[str, Any]) -> None:
        for scope, documents in step["confirmed"].items():
            assert self.documents(scope, confirmed=True) == documents

    def pending(self, step: dict[str, Any]) -> None:
        self.check(told(self.replica.pending(), PENDING), step["pending"], "pending")

    def refused(self, step: dict[str, Any]) -> None:
        self.check(told(self.replica.refused(), REFUSED), step["refused"], "refused")

    def events(self, step: dict[str, Any]) -> None:
        found = [
            {name: getattr(event, name) for name in wanted_of(event.kind)}
            for event in self.replica.take_events()
        ]
        assert sorted(found, key=order) == sorted(step["events"], key=order)

    def scopes(self, step: dict[str, Any]) -> None:
        found = {one.name: told([one], SCOPE)[0] for one in self.replica.scopes()}
        assert found.keys() == step["scopes"].keys()
        self.check(found, step["scopes"], "scopes")

    def status(self, step: dict[str, Any]) -> None:
        self.check(told([self.replica.status()], ("identified", "client_id"))[0], step["status"], "status")

    def news(self, step: dict[str, Any]) -> None:
        scope, cursor, epoch = step["news"]
        assert self.replica.news(scope, cursor, epoch) is step["is"]


PENDING = ("place", "seq", "scope", "name", "args", "voided", "confirmed")
REFUSED = ("place", "seq", "scope", "name", "args", "code")
SCOPE = ("cursor", "epoch", "open", "loaded", "staged_pages")


def told(found: list[Any], names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{name: getattr(one, name) for name in names} for one in found]


def wanted_of(kind: str) -> tuple[str, ...]:
    more = {
        "changed": ("scope", "entity", "id", "before", "after"),
        "refused": ("scope", "place", "code"),
        "renamed": (),
    }
    return ("kind", *more.get(kind, ("scope",)))


def order(event: dict[str, Any]) -> str:
    return json.dumps(event, sort_keys=True)


@pytest.mark.parametrize("path", SCHEDULES)
def test_the_replica_keeps_the_rule(path: Path, tmp_path: Path) -> None:
    schedule = json.loads(path.read_text())
    player = Player(tmp_path / "replica.db", schedule["replica"])
    for n, step in enumerate(schedule["steps"]):
        try:
            player.play(step)
        except AssertionError as error:
            raise AssertionError(f"step {n + 1}, {json.dumps(step)}: {error}") from error
    player.replica.close()


def test_each_rule_has_a_schedule() -> None:
    named = {path.stem.split("_")[1] for path in FOLDER.glob("rule_*.json")}
    assert named == {f"{rule:02}" for rule in range(1, 12)}  # the twelfth is kept by who names the server
