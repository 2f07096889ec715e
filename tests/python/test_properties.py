"""Properties over random values and random schedules, through the public API."""

from __future__ import annotations

import shutil
import tempfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import syncline
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

SCOPES = ("a", "b")
CLIENTS = ("c1", "c2", "c3")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
keys = texts.filter(lambda text: not text.startswith("$"))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | texts
    | st.binary(max_size=20)
    | st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31), timezones=st.just(timezone.utc)).map(
        lambda instant: instant.replace(fold=0)  # an instant in UTC is never ambiguous
    )
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=15,
)
documents = st.dictionaries(keys, values, max_size=5)


def exact(value: Any) -> Any:
    """A form in which 1, 1.0 and True, and the two zeros, are different, and a NaN is itself."""
    if isinstance(value, dict):
        return {key: exact(one) for key, one in value.items()}
    if isinstance(value, list):
        return [exact(one) for one in value]
    return (type(value).__name__, repr(value))


def make_mutators() -> syncline.Mutators:
    mutators = syncline.Mutators()

    @mutators("set")
    def put(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("doc", args["id"], args["document"])

    @mutators("delete")
    def delete(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.delete("doc", args["id"])

    @mutators("refuse")
    def refuse(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("doc", args["id"], {"half": True})
        raise syncline.Rejected("no")

    return mutators


@settings(max_examples=50, deadline=None)
@given(first=documents, second=documents)
def test_documents_come_back_as_they_went_in(first: dict[str, Any], second: dict[str, Any]) -> None:
    with syncline.Engine(":memory:", mutators=make_mutators()) as engine:
        for document in (first, second):
            args = {"id": "1", "document": document}
            engine.push([{"name": "set", "args": args, "scope": "a"}]).raise_for_error()
            want = exact(document)
            assert exact(engine.pull("a").changes[0].data) == want
            assert exact(engine.snapshot("a").data["doc"]["1"]) == want
            with engine.read("a") as view:
                assert exact(view.get("doc", "1")) == want


class Schedules(RuleBasedStateMachine):
    """Clients that push, lose answers and repeat; readers that pull in pages; compaction and restarts."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.model: dict[str, dict[str, Any]] = {scope: {} for scope in SCOPES}
        self.sent: dict[str, list[dict[str, Any]]] = {client: [] for client in CLIENTS}
        self.answers: dict[tuple[str, int], Any] = {}
        self.have: dict[str, dict[str, Any]] = {scope: {} for scope in SCOPES}
        self.cursors: dict[str, tuple[int, str | None]] = dict.fromkeys(SCOPES, (0, None))
        self.engine: syncline.Engine

    @initialize()
    def open(self) -> None:
        self.engine = syncline.Engine(self.folder / "app.db", mutators=make_mutators(), durability="normal")

    @rule(
        client=st.sampled_from(CLIENTS),
        steps=st.lists(
            st.tuples(
                st.sampled_from(["set", "set", "delete", "refuse"]),
                st.sampled_from("xyz"),
                st.sampled_from(SCOPES),
                st.integers(0, 9),
            ),
            min_size=1,
            max_size=4,
        ),
        repeats=st.integers(0, 3),
    )
    def push(self, client: str, steps: list[tuple[str, str, str, int]], repeats: int) -> None:
        queue = self.sent[client]
        known = len(queue)
        for name, document, scope, value in steps:
            args = {"id": document, "document": {"value": value}}
            seq = len(queue) + 1
            queue.append({"name": name, "args": args, "scope": scope, "client_id": client, "client_seq": seq})
            if name == "set":
                self.model[scope][document] = {"value": value}
            elif name == "delete":
                self.model[scope].pop(document, None)
        # The answers of the last `repeats` were lost: they are sent again, before what is new.
        since = max(0, known - repeats)
        for one, result in zip(queue[since:], self.engine.push(queue[since:]), strict=True):
            key = (client, one["client_seq"])
            assert result.ok == (one["name"] != "refuse")
            assert result.duplicate == (one["client_seq"] <= known)
            said = (result.ok, result.cursor, result.changes, result.error)
            assert self.answers.setdefault(key, said) == said

    @rule(scope=st.sampled_from(SCOPES), limit=st.none() | st.integers(1, 3))
    def pull(self, scope: str, limit: int | None) -> None:
        cursor, epoch = self.cursors[scope]
        staged: list[syncline.Change] = []
        try:
            page = self.engine.pull(scope, cursor, epoch=epoch, limit=limit)
            while page.has_more:
                staged += page.changes
                page = self.engine.pull(scope, cursor, epoch=epoch, page=page.page, limit=limit)
        except syncline.CursorTooOld:
            self.cursors[scope], self.have[scope] = (0, None), {}
            return
        for change in staged + page.changes:
            if change.op == "delete":
                self.have[scope].pop(change.id, None)
            else:
                self.have[scope][change.id] = change.data
        self.cursors[scope] = (page.cursor, page.epoch)
        assert self.have[scope] == self.model[scope]

    @rule(young=st.booleans())
    def compact(self, young: bool) -> None:
        # The public call spares the tombstones of the last hour.
        if young:
            self.engine._native.compact(self.engine.head, 0)
        else:
            self.engine.compact(keep=0)

    @rule()
    def reopen(self) -> None:
        self.engine.close()
        self.open()

    @invariant()
    def snapshots_are_the_model(self) -> None:
        if not hasattr(self, "engine"):
            return
        for scope in SCOPES:
            assert self.engine.snapshot(scope).data.get("doc", {}) == self.model[scope]
        for client in CLIENTS:
            assert self.engine.pull("a", client_id=client).last_seq == len(self.sent[client])

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
        shutil.rmtree(self.folder)


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(
    max_examples=20, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
