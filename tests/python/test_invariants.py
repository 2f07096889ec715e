"""The design's invariants, each through the public API, each by a test that fails when it is broken.

The eighth, that compaction is invisible, has its own test in the model of test_properties.py as well.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import syncline

SCOPE = "list:1"
Documents = dict[tuple[str, str], Any]


class Boom(Exception):
    pass


def make_mutators() -> syncline.Mutators:
    mutators = syncline.Mutators()

    @mutators("set")
    def put(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("doc", args["id"], {"value": args["value"]})

    @mutators("add")
    def add(tx: syncline.Tx, args: dict[str, Any]) -> None:
        before = tx.get("doc", args["id"]) or {"value": 0}
        tx.set("doc", args["id"], {"value": before["value"] + args["by"]})

    @mutators("delete")
    def delete(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.delete("doc", args["id"])

    @mutators("move")
    def move(tx: syncline.Tx, args: dict[str, Any]) -> None:
        for name, sign in ((args["from"], -1), (args["to"], 1)):
            tx.set(
                "account",
                name,
                {"value": (tx.get("account", name) or {"value": 0})["value"] + sign * args["by"]},
            )

    @mutators("raise")
    def fail(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("doc", "half", {"value": 1})
        tx.delete("doc", "kept")
        raise Boom("inside")

    @mutators("reject")
    def reject(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("doc", "half", {"value": 1})
        raise syncline.Rejected("not today", "closed_shop")

    @mutators("retry")
    def retry(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("doc", "half", {"value": 1})
        raise syncline.Retry

    @mutators("store")
    def store(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("doc", "value", args)

    return mutators


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[syncline.Engine]:
    with syncline.Engine(tmp_path / "app.db", mutators=make_mutators(), durability="normal") as opened:
        yield opened


def mutation(name: str, args: Any, seq: int, client: str = "c1", scope: str = SCOPE) -> dict[str, Any]:
    return {"name": name, "args": args, "client_id": client, "client_seq": seq, "scope": scope}


def documents(engine: syncline.Engine, scope: str = SCOPE) -> Documents:
    """What a pull from 0 brings."""
    return {(change.entity, change.id): change.data for change in engine.pull(scope).changes}


def apply(have: Documents, changes: list[syncline.Change]) -> None:
    for change in changes:
        if change.op == "delete":
            have.pop((change.entity, change.id), None)
        else:
            have[change.entity, change.id] = change.data


def purge(engine: syncline.Engine) -> None:
    """Purges every tombstone; the public `compact` spares those of the last hour."""
    engine._native.compact(engine.head, 0)


# ---------------------------------------------------------------------------------------------- 1. atomic


def test_atomic_what_a_failed_mutation_wrote_is_gone_and_the_others_of_its_push_stand(
    engine: syncline.Engine,
) -> None:
    engine.push([mutation("set", {"id": "kept", "value": 0}, 1)])
    results = engine.push(
        [
            mutation("set", {"id": "before", "value": 1}, 2),
            mutation("raise", {}, 3),
            mutation("set", {"id": "after", "value": 2}, 4),
        ]
    )
    assert [one.ok for one in results] == [True, False, True]
    assert results[1].changes == []
    assert documents(engine) == {
        ("doc", "kept"): {"value": 0},
        ("doc", "before"): {"value": 1},
        ("doc", "after"): {"value": 2},
    }
    # The number and the stored result went with the same commit as the documents.
    assert engine.pull(SCOPE, client_id="c1").last_seq == 4
    again = engine.push([mutation("raise", {}, 3)])[0]
    assert again.duplicate
    assert again.error == results[1].error


def test_atomic_a_write_that_raises_leaves_nothing_in_any_of_its_scopes(engine: syncline.Engine) -> None:
    head = engine.head
    with pytest.raises(Boom), engine.write("a", "b") as (first, second):  # noqa: PT012
        first.set("doc", "1", {"value": 1})
        second.set("doc", "1", {"value": 1})
        raise Boom
    assert engine.head == head
    assert documents(engine, "a") == documents(engine, "b") == {}
    with engine.write("a", "b") as (first, second):
        first.set("doc", "1", {"value": 1})
        second.set("doc", "1", {"value": 2})
    assert (documents(engine, "a"), documents(engine, "b")) == (
        {("doc", "1"): {"value": 1}},
        {("doc", "1"): {"value": 2}},
    )


def test_atomic_no_reader_sees_half_of_a_mutation(engine: syncline.Engine) -> None:
    engine.push([mutation("move", {"from": "a", "to": "b", "by": 1}, 1)])
    done = threading.Event()

    def pay(client: str) -> None:
        for seq in range(1, 101):
            engine.push([mutation("move", {"from": "a", "to": "b", "by": seq}, seq, client)])

    def watch() -> int:
        looks = 0
        while not done.is_set() or looks == 0:
            seen = engine.snapshot(SCOPE).data["account"]
            with engine.read(SCOPE) as view:
                listed = view.list("account")
            pulled = {change.id: change.data for change in engine.pull(SCOPE).changes}
            for one in (seen, listed, pulled):
                assert sum(row["value"] for row in one.values()) == 0
            looks += 1
        return looks

    with ThreadPoolExecutor() as pool:
        watcher = pool.submit(watch)
        try:
            for payer in [pool.submit(pay, f"payer{n}") for n in range(2)]:
                payer.result()
        finally:
            done.set()
        assert watcher.result() > 0


# -------------------------------------------------------------------------------------------- 2. gap-free


def test_gap_free_a_reader_never_misses_a_change_below_its_cursor(engine: syncline.Engine) -> None:
    done = threading.Event()

    def write(client: str) -> None:
        for seq in range(1, 81):
            scope = SCOPE if seq % 2 else "list:2"
            engine.push([mutation("set", {"id": f"{client}/{seq % 9}", "value": seq}, seq, client, scope)])

    def follow(scope: str) -> Documents:
        have: Documents = {}
        cursor, last = 0, False
        while True:
            last = done.is_set()
            page = engine.pull(scope, cursor)
            assert all(cursor < change.cursor <= page.cursor for change in page.changes)
            assert page.cursor >= cursor
            apply(have, page.changes)
            cursor = page.cursor
            if last:
                return have

    with ThreadPoolExecutor() as pool:
        followers = {scope: pool.submit(follow, scope) for scope in (SCOPE, "list:2")}
        try:
            for writer in [pool.submit(write, f"w{n}") for n in range(3)]:
                writer.result()
        finally:
            done.set()
        for scope, follower in followers.items():
            have = follower.result()
            assert have == documents(engine, scope)
            assert have


def test_gap_free_a_commit_that_was_open_during_a_pull_lies_above_its_cursor(engine: syncline.Engine) -> None:
    engine.push([mutation("set", {"id": "1", "value": 1}, 1)])
    with engine.write(SCOPE, "list:2") as (tx, other), ThreadPoolExecutor(1) as pool:
        tx.set("doc", "2", {"value": 2})
        other.set("doc", "2", {"value": 2})
        seen = pool.submit(engine.pull, SCOPE).result()
    for scope in (SCOPE, "list:2"):
        late = engine.pull(scope, seen.cursor)
        assert [change.id for change in late.changes] == ["2"]
        assert late.changes[0].cursor > seen.cursor


def test_gap_free_cursors_are_strictly_increasing_and_never_reused(tmp_path: Path) -> None:
    cursors: list[int] = []
    for _ in range(3):
        with syncline.Engine(tmp_path / "app.db", mutators=make_mutators()) as engine:
            with pytest.raises(Boom), engine.write(SCOPE) as tx:  # noqa: PT012
                tx.set("doc", "lost", {})
                raise Boom
            for scope in (SCOPE, "list:2"):
                with engine.write(scope) as tx:
                    tx.set("doc", "1", {"value": len(cursors)})
                cursors.append(engine.cursor(scope))
            engine.compact(keep=timedelta(0))
    assert cursors == sorted(set(cursors))


# ---------------------------------------------------------------------------------------- 3. exactly once


def test_exactly_once_a_repeat_gets_the_stored_result_and_does_nothing(engine: syncline.Engine) -> None:
    first = engine.push([mutation("add", {"id": "n", "by": 1}, 1)])[0]
    head = engine.head
    engine.push([mutation("add", {"id": "other", "by": 1}, 1, "c2")])
    for _ in range(3):
        again = engine.push([mutation("add", {"id": "n", "by": 1}, 1)])[0]
        assert again.duplicate
        assert not first.duplicate
        assert (again.ok, again.cursor, again.changes) == (first.ok, first.cursor, first.changes)
    assert first.cursor == head
    assert documents(engine)["doc", "n"] == {"value": 1}


def test_exactly_once_also_within_one_push_and_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    one = mutation("add", {"id": "n", "by": 1}, 1)
    with syncline.Engine(path, mutators=make_mutators()) as engine:
        assert [result.duplicate for result in engine.push([one, one])] == [False, True]
    with syncline.Engine(path, mutators=make_mutators()) as engine:
        assert engine.push([one])[0].duplicate
        engine.compact(keep=timedelta(0))
        purge(engine)
        assert engine.push([one])[0].duplicate
        assert engine.pull(SCOPE, client_id="c1").last_seq == 1
        assert documents(engine) == {("doc", "n"): {"value": 1}}


def test_exactly_once_when_many_threads_repeat_the_same_numbers(engine: syncline.Engine) -> None:
    pushes = [mutation("add", {"id": "n", "by": seq}, seq) for seq in range(1, 31)]

    def client() -> list[bool]:
        return [result.duplicate for one in pushes for result in engine.push([one])]

    with ThreadPoolExecutor(6) as pool:
        answers = [answer.result() for answer in [pool.submit(client) for _ in range(6)]]
    assert documents(engine) == {("doc", "n"): {"value": sum(range(1, 31))}}
    assert [sum(not seen for seen in each) for each in zip(*answers, strict=True)] == [1] * 30


def test_exactly_once_a_number_with_other_content_and_a_gap_are_refused(engine: syncline.Engine) -> None:
    engine.push([mutation("add", {"id": "n", "by": 1}, 1)])
    for other in (
        mutation("add", {"id": "n", "by": 2}, 1),
        mutation("set", {"id": "n", "by": 1}, 1),
        mutation("add", {"id": "n", "by": 1}, 1, scope="list:2"),
    ):
        error = engine.push([other])[0].error
        assert error is not None
        assert error.code == "sequence_reused"
    gap = engine.push([mutation("add", {"id": "n", "by": 1}, 3), mutation("add", {"id": "n", "by": 1}, 4)])
    assert [one.error.code for one in gap if one.error] == ["sequence_gap", "unavailable"]
    assert gap[0].error is not None
    assert gap[0].error.details == {"expected": 2}
    assert documents(engine) == {("doc", "n"): {"value": 1}}
    assert engine.pull(SCOPE, client_id="c1").last_seq == 1


def test_exactly_once_a_mutation_without_a_client_is_for_backend_code_alone(engine: syncline.Engine) -> None:
    body = json.dumps(
        {"mutations": [{"name": "set", "args": {"id": "1", "value": 1}, "scope": SCOPE}]}
    ).encode()
    answer = engine.handle(
        "POST",
        "/_sync/push",
        {"content-type": "application/json"},
        body,
        authenticate=lambda request: "ada",
        authorize=lambda user, action, scope: True,
    )
    assert answer.status == 400
    assert documents(engine) == {}
    assert engine.push([{"name": "set", "args": {"id": "1", "value": 1}, "scope": SCOPE}]).ok


# ------------------------------------------------------------------------------------------- 4. no poison


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (("raise", {}, SCOPE), "internal_error"),
        (("reject", {}, SCOPE), "closed_shop"),
        (("nobody", {}, SCOPE), "unknown_mutation"),
        (("set", {}, SCOPE), "internal_error"),
        (("set", {"id": "1", "value": 1}, "_system"), "invalid_scope"),
        (("set", {"id": "1", "value": 1}, "a\nb"), "invalid_scope"),
        (("set", {"id": "", "value": 1}, SCOPE), "invalid_mutation"),
    ],
)
def test_no_poison_what_is_refused_consumes_its_number_and_leaves_nothing_else(
    engine: syncline.Engine, bad: tuple[str, Any, str], code: str
) -> None:
    name, args, scope = bad
    results = engine.push(
        [mutation(name, args, 1, scope=scope), mutation("set", {"id": "next", "value": 1}, 2)]
    )
    assert results[0].error is not None
    assert results[0].error.code == code
    assert results[0].changes == []
    assert results[1].ok
    page = engine.pull(SCOPE, client_id="c1")
    assert page.last_seq == 2
    assert [change.id for change in page.changes] == ["next"]
    assert engine.stats().documents == 1
    again = engine.push([mutation(name, args, 1, scope=scope)])[0]
    assert again.duplicate
    assert again.error == results[0].error


def test_no_poison_a_retry_consumes_nothing_and_stops_its_own_client_only(engine: syncline.Engine) -> None:
    results = engine.push(
        [
            mutation("set", {"id": "1", "value": 1}, 1),
            mutation("retry", {}, 2),
            mutation("set", {"id": "2", "value": 1}, 3),
            mutation("set", {"id": "3", "value": 1}, 1, "c2"),
        ]
    )
    assert [one.error.code if one.error else None for one in results] == [
        None,
        "unavailable",
        "unavailable",
        None,
    ]
    assert sorted(key[1] for key in documents(engine)) == ["1", "3"]
    assert engine.pull(SCOPE, client_id="c1").last_seq == 1
    # The number is free: it may now name the mutation that it named before, or a void.
    assert engine.push([{"name": None, "client_id": "c1", "client_seq": 2}]).ok
    assert engine.push([mutation("set", {"id": "2", "value": 1}, 3)]).ok


def test_no_poison_a_push_that_is_refused_whole_consumes_nothing(engine: syncline.Engine) -> None:
    engine.push([mutation("set", {"id": "1", "value": 1}, 1)], user="ada")
    good = mutation("set", {"id": "2", "value": 1}, 2)
    with pytest.raises(syncline.Forbidden):
        engine.push([mutation("set", {"id": "9", "value": 1}, 1, "new"), good], user="bob")
    with pytest.raises(syncline.InvalidRequest):
        engine.push([good, {"nome": "set"}], user="ada")
    with pytest.raises(syncline.EpochMismatch):
        engine.push([good], user="ada", epoch="another")
    assert documents(engine) == {("doc", "1"): {"value": 1}}
    assert engine.pull(SCOPE, client_id="c1", user="ada").last_seq == 1
    assert engine.pull(SCOPE, client_id="new", user="ada").last_seq == 0
    assert not engine.push([good], user="ada")[0].duplicate


# -------------------------------------------------------------------------------------- 5. no silent loss


def test_no_silent_loss_a_pull_from_below_the_floor_says_so(engine: syncline.Engine) -> None:
    with engine.write(SCOPE) as tx:
        tx.set("doc", "gone", {})
        tx.set("doc", "stays", {})
    old = engine.pull(SCOPE).cursor
    with engine.write(SCOPE) as tx:
        tx.delete("doc", "gone")
    floor = engine.head
    assert [change.op for change in engine.pull(SCOPE, old).changes] == ["delete"]
    purge(engine)
    with pytest.raises(syncline.CursorTooOld):
        engine.pull(SCOPE, old)
    assert engine.pull(SCOPE, floor).changes == []
    assert documents(engine) == {("doc", "stays"): {}}
    # The floor is the scope's own.
    with engine.write("list:2") as tx:
        tx.set("doc", "1", {})
    assert [change.id for change in engine.pull("list:2", old).changes] == ["1"]


def test_no_silent_loss_a_page_whose_pull_began_below_the_floor_says_so(engine: syncline.Engine) -> None:
    with engine.write(SCOPE) as tx:
        for n in range(4):
            tx.set("doc", str(n), {})
    first = engine.pull(SCOPE, limit=2)
    with engine.write(SCOPE) as tx:
        tx.delete("doc", first.changes[0].id)
    purge(engine)
    with pytest.raises(syncline.CursorTooOld):
        engine.pull(SCOPE, page=first.page, limit=2)


def test_no_silent_loss_a_cursor_that_its_epoch_never_reached_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "app.db"
    with syncline.Engine(path) as engine:
        with engine.write(SCOPE) as tx:
            tx.set("doc", "1", {})
        cursor, epoch = engine.head, engine.epoch
        with pytest.raises(syncline.EpochMismatch):
            engine.pull(SCOPE, cursor + 1)
        with pytest.raises(syncline.EpochMismatch):
            engine.pull(SCOPE, cursor, epoch="of-another-database")
        assert len(engine.pull(SCOPE, 0, epoch="of-another-database").changes) == 1
    with syncline.Engine(path) as engine:
        with engine.write(SCOPE) as tx:
            tx.set("doc", "2", {})
        # The former tenure's cursor is good up to where that tenure came, not beyond.
        assert [change.id for change in engine.pull(SCOPE, cursor, epoch=epoch).changes] == ["2"]
        with pytest.raises(syncline.EpochMismatch) as refused:
            engine.pull(SCOPE, engine.head, epoch=epoch)
        assert refused.value.epoch == engine.epoch != epoch


# ------------------------------------------------------------------- 6. only a pull moves a pull cursor


def test_only_a_pull_moves_a_pull_cursor_so_a_push_skips_nobody_elses_change(engine: syncline.Engine) -> None:
    mine = engine.pull(SCOPE, client_id="c1").cursor
    engine.push([mutation("set", {"id": "theirs", "value": 1}, 1, "c2")])
    pushed = engine.push([mutation("set", {"id": "mine", "value": 1}, 1)])
    assert pushed.cursor > mine
    page = engine.pull(SCOPE, mine, client_id="c1")
    assert [change.id for change in page.changes] == ["theirs", "mine"]
    # Asking once takes nothing away: who lost the answer asks again.
    assert engine.pull(SCOPE, mine, client_id="c1").changes == page.changes


def test_only_a_pull_moves_a_pull_cursor_and_of_its_pages_only_the_last(engine: syncline.Engine) -> None:
    with engine.write(SCOPE) as tx:
        for n in range(5):
            tx.set("doc", str(n), {})
    for start in (0, 1):
        page = engine.pull(SCOPE, start, limit=2)
        while page.has_more:
            assert page.cursor == start
            page = engine.pull(SCOPE, start, page=page.page, limit=2)
        assert page.cursor == engine.head
        assert page.page is None


# ---------------------------------------------------------------------------------------- 7. whole commits


def test_whole_commits_pages_read_between_commits_add_up_to_one_state(engine: syncline.Engine) -> None:
    names = [f"a{n}" for n in range(6)]
    seq = 0

    def move(source: str, target: str) -> None:
        nonlocal seq
        seq += 1
        engine.push([mutation("move", {"from": source, "to": target, "by": seq}, seq)])

    for source, target in itertools.pairwise(names):
        move(source, target)
    have: Documents = {}
    cursor = 0
    for round_ in range(4):
        staged: list[syncline.Change] = []
        page = engine.pull(SCOPE, cursor, limit=1, client_id="c1")
        steps = 0
        while page.has_more:
            staged += page.changes
            if steps < 5:  # behind, before and at what was read already
                move(names[(steps + round_) % 6], names[(steps * 2 + 3) % 6])
            steps += 1
            page = engine.pull(SCOPE, cursor, page=page.page, limit=1, client_id="c1")
        apply(have, staged + page.changes)
        cursor = page.cursor
        # What the last page completes is the state at its cursor, and its last_seq is of that state too.
        assert sum(row["value"] for row in have.values()) == 0
        assert have == documents(engine)
        assert page.last_seq == seq
        move(names[round_], names[5 - round_])


def test_whole_commits_last_seq_and_documents_are_of_one_moment(engine: syncline.Engine) -> None:
    done = threading.Event()

    def write() -> None:
        try:
            for seq in range(1, 201):
                engine.push([mutation("set", {"id": "n", "value": seq}, seq)])
        finally:
            done.set()

    with ThreadPoolExecutor() as pool:
        writer = pool.submit(write)
        while not done.is_set():
            page = engine.pull(SCOPE, client_id="c1")
            shown = engine.snapshot(SCOPE, client_id="c1")
            assert [change.data["value"] for change in page.changes] == [page.last_seq][: page.last_seq]
            assert shown.data.get("doc", {}).get("n", {"value": 0})["value"] == shown.last_seq
        writer.result()


# ----------------------------------------------------------------------------- 8. compaction is invisible


def test_compaction_is_invisible_from_every_cursor_at_or_above_the_floor(engine: syncline.Engine) -> None:
    for n in range(32):
        with engine.write(SCOPE) as tx:
            if n % 4 == 3:
                tx.delete("doc", str((n + 2) % 5))  # some come back, the last one does not
            else:
                tx.set("doc", str(n % 5), {"n": n})
    history = [engine.pull(SCOPE, cursor).changes for cursor in range(engine.head + 1)]
    deleted = max(change.cursor for change in history[1] if change.op == "delete")
    engine.compact(keep=timedelta(0))
    assert [engine.pull(SCOPE, cursor).changes for cursor in range(engine.head + 1)] == history
    purge(engine)
    for cursor in (0, *range(deleted, engine.head + 1)):
        assert engine.pull(SCOPE, cursor).changes == history[cursor]


# ---------------------------------------------------------------------------------- 9. scopes are sealed


def test_scopes_are_sealed_nothing_of_one_reaches_a_reader_of_another(engine: syncline.Engine) -> None:
    scopes = ["a", "ab", "a/b", "a:1", "A", "a%", "ä", "a" * 255]
    for scope in scopes:
        with engine.write(scope) as tx:
            tx.set("doc", "1", {"of": scope})
            tx.set("doc", scope, {"of": scope})
    for scope in scopes:
        page = engine.pull(scope)
        assert len(page.changes) == len({"1", scope})
        assert {change.scope for change in page.changes} == {scope}
        with engine.read(scope) as view, engine.write(scope) as tx:
            found = [
                *engine.snapshot(scope).data["doc"].values(),
                *view.list("doc").values(),
                *tx.list("doc").values(),
            ]
            found += [row for _, row in view.find("doc", {}) + tx.find("doc", {})]
            found += [row for _, row in view.scan("doc") + tx.scan("doc")]
            found += [change.data for change in page.changes]
        assert {row["of"] for row in found} == {scope}
    # A deletion, a page token and a cursor are no way in either.
    with engine.write("a") as tx:
        tx.delete("doc", "1")
    page = engine.pull("a", limit=1) if len(engine.pull("a").changes) > 1 else engine.pull("ab", limit=1)
    for change in engine.pull("A", page=page.page).changes if page.page else []:
        assert change.scope == "A"
    assert {change.scope for change in engine.pull("A", 1).changes} <= {"A"}
    assert engine.pull("nobody").changes == []


def test_scopes_are_sealed_authorisation_is_asked_per_request_and_scope(engine: syncline.Engine) -> None:
    asked: list[tuple[str, str, str]] = []

    def authorize(user: str, action: str, scope: str) -> bool:
        asked.append((user, action, scope))
        return scope != "secret"

    def post(path: str, body: dict[str, Any]) -> tuple[int, Any]:
        answer = engine.handle(
            "POST",
            path,
            {"content-type": "application/json"},
            json.dumps(body).encode(),
            authenticate=lambda request: "ada",
            authorize=authorize,
        )
        return answer.status, json.loads(answer.body)

    with engine.write("secret") as tx:
        tx.set("doc", "1", {"value": "hidden"})
    args = {"id": "2", "value": 1}
    status, answer = post(
        "/_sync/push",
        {
            "mutations": [
                mutation("set", args, 1, scope="secret"),
                mutation("set", args, 2, scope="open"),
            ]
        },
    )
    assert status == 200
    assert [one["ok"] for one in answer["results"]] == [False, True]
    assert answer["results"][0]["error"]["code"] == "forbidden"
    for _ in range(2):
        assert post("/_sync/pull", {"scope": "secret", "cursor": 0})[0] == 403
        assert post("/_sync/snapshot", {"scope": "secret"})[0] == 403
        assert post("/_sync/pull", {"scope": "open", "cursor": 0})[0] == 200
    assert sorted(asked[:2]) == [("ada", "write", "open"), ("ada", "write", "secret")]
    assert asked[2:] == [("ada", "read", "secret"), ("ada", "read", "secret"), ("ada", "read", "open")] * 2
    assert documents(engine, "secret") == {("doc", "1"): {"value": "hidden"}}


def test_scopes_are_sealed_a_client_id_belongs_to_who_first_used_it(engine: syncline.Engine) -> None:
    assert engine.push([mutation("set", {"id": "1", "value": 1}, 1)], user="ada").ok
    for user in ("bob", None):
        with pytest.raises(syncline.Forbidden):
            engine.push([mutation("set", {"id": "1", "value": 1}, 1)], user=user)
        with pytest.raises(syncline.Forbidden):
            engine.push([], settled={"c1": 5}, user=user)
        with pytest.raises(syncline.Forbidden):
            engine.pull(SCOPE, client_id="c1", user=user)
        with pytest.raises(syncline.Forbidden):
            engine.snapshot(SCOPE, client_id="c1", user=user)
    assert engine.pull(SCOPE, client_id="c1", user="ada").last_seq == 1


# ----------------------------------------------------- 10. acknowledged is durable: in test_durability.py


def test_acknowledged_is_durable_a_second_process_sees_what_push_returned(tmp_path: Path) -> None:
    # Without a close: the reader finds what is in the file and its log, nothing of the writer's memory.
    path = tmp_path / "app.db"
    with syncline.Engine(path, mutators=make_mutators()) as engine:
        for seq in range(1, 11):
            assert engine.push([mutation("set", {"id": str(seq), "value": seq}, seq)]).ok
            with syncline.Engine(path, read_only=True) as reader:
                assert reader.pull(SCOPE, client_id="c1").last_seq == seq
                assert reader.snapshot(SCOPE).data["doc"][str(seq)] == {"value": seq}


# -------------------------------------------------------------------------------------- 11. values survive

VALUES: dict[str, Any] = {
    "null": None,
    "bools": [True, False],
    "integers": [0, -1, 2**53, 2**53 + 1, -(2**63), 2**64 - 1],
    "floats": [0.0, -0.0, 1.0, 1e308, 5e-324, math.inf, -math.inf],
    "strings": ["", "ä\0\n\u2028😀", "x" * 70_000],
    "bytes": [b"", bytes(range(256))],
    "instants": [
        datetime(1, 1, 1, tzinfo=timezone.utc),
        datetime(9999, 12, 31, 23, 59, 59, 999999, timezone.utc),
    ],
    "nested": {"b": [{}, [], {"": [[None]]}], "a": {"x": {"y": 1}}},
}


def exact(value: Any) -> Any:
    """A form in which 1, 1.0 and True, and the two zeros, are different, and a NaN is itself."""
    if isinstance(value, dict):
        return {key: exact(one) for key, one in value.items()}
    if isinstance(value, list):
        return [exact(one) for one in value]
    return (type(value).__name__, repr(value))


def test_values_survive_storage_delta_and_both_formats(tmp_path: Path) -> None:
    values = {**VALUES, "nan": math.nan}
    path = tmp_path / "app.db"
    with syncline.Engine(path, mutators=make_mutators()) as engine:
        assert engine.push([mutation("store", values, 1)]).ok
        assert engine.push([mutation("store", {**values, "more": 1}, 2)]).ok  # through a delta
        assert engine.push([mutation("store", values, 3)]).ok
    with syncline.Engine(path, read_only=True) as engine:
        with engine.read(SCOPE) as view:
            assert exact(view.get("doc", "value")) == exact(values)
        assert exact(engine.snapshot(SCOPE).data["doc"]["value"]) == exact(values)
        assert exact(engine.pull(SCOPE).changes[0].data) == exact(values)
        text = syncline._core.json_encode(values)
        assert exact(syncline._core.json_decode(text)) == exact(values)
        json.loads(text)
        assert exact(syncline._core.unpackb(syncline._core.packb(values))) == exact(values)


def test_values_survive_or_are_refused_when_they_are_written(engine: syncline.Engine) -> None:
    for bad in ({1, 2}, object(), 2**64, 1j, {1: 2}, {"$x": 1}, "\ud800", datetime(2020, 1, 1)):
        with pytest.raises(syncline.InvalidMutation), engine.write(SCOPE) as tx:
            tx.set("doc", "1", {"value": bad})
        with pytest.raises(syncline.InvalidMutation):
            engine.push([mutation("store", {"value": bad}, 1)])
    assert documents(engine) == {}


# ---------------------------------------------------------------------- 12. the caller's objects are theirs


def test_the_callers_objects_are_the_callers_no_argument_is_changed(engine: syncline.Engine) -> None:
    kept: list[Any] = []

    @engine.mutators("greedy")
    def greedy(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("doc", "greedy", args)
        args["list"].append("changed")
        args["more"] = True
        kept.append(args)

    args = {"list": [1, {"a": [2]}], "raw": bytearray(b"x")}
    request = mutation("greedy", args, 1)
    before = copy.deepcopy(request)
    assert engine.push([request]).ok
    assert request == before
    assert request["args"] is args
    assert kept[0] is not args
    assert documents(engine)["doc", "greedy"] == {"list": [1, {"a": [2]}], "raw": b"x"}


def test_the_callers_objects_are_the_callers_nothing_returned_is_shared_with_the_store(
    engine: syncline.Engine,
) -> None:
    given = {"list": [1]}
    with engine.write(SCOPE) as tx:
        tx.set("doc", "1", given)
        given["list"].append(2)
        for read in (lambda: tx.get("doc", "1"), lambda: tx.list("doc")["1"], lambda: tx.find("doc")[0][1]):
            assert read() == {"list": [1]}
            read()["list"].append(3)  # type: ignore[index]
        assert tx.get("doc", "1") == {"list": [1]}
    page, shown = engine.pull(SCOPE), engine.snapshot(SCOPE)
    with engine.read(SCOPE) as view:
        reads: list[Callable[[], Any]] = [
            lambda: page.changes[0].data,
            lambda: shown.data["doc"]["1"],
            lambda: view.get("doc", "1"),
            lambda: view.list("doc")["1"],
            lambda: view.find("doc")[0][1],
        ]
        for again in reads:
            again()["list"].append(4)
            assert again() == {"list": [1]}
    page.changes.clear()
    shown.data.clear()
    assert len(page.changes) == 1
    assert shown.data


# ------------------------------------------------------------------- 13. the GIL is never held while waiting


def test_the_gil_is_never_held_while_a_push_waits_for_its_turn(engine: syncline.Engine) -> None:
    # With the GIL held by one that waits, the block could not go on, and nothing would end it.
    with ThreadPoolExecutor(4) as pool:
        with engine.write(SCOPE) as tx:
            waiting = [
                pool.submit(engine.push, [mutation("set", {"id": str(n), "value": n}, 1, f"c{n}")])
                for n in range(4)
            ]
            while engine.stats().waiting < 4:
                time.sleep(0.001)
            tx.set("doc", "first", {})
            assert not any(one.done() for one in waiting)
        assert all(one.result().ok for one in waiting)
    assert len(documents(engine)) == 5


@pytest.mark.parametrize("call", ["push", "pull", "pull as JSON", "snapshot", "find", "backup", "write"])
def test_the_gil_is_released_while_scanning_diffing_encoding_and_at_the_disk(
    tmp_path: Path, call: str
) -> None:
    with syncline.Engine(tmp_path / "app.db", mutators=make_mutators()) as engine:
        with engine.write(SCOPE) as tx:
            for n in range(20_000):
                tx.set("doc", str(n), {"n": n, "text": "x" * 100})
        request = syncline._core.PullRequest.parse(
            json.dumps({"scope": SCOPE, "cursor": 0}).encode(), "json", engine.limits
        )

        def find() -> None:
            with engine.read(SCOPE) as view:
                view.find("doc", {"n": {"$gt": 19_990}}, sort="n")

        def write() -> None:
            with engine.write(SCOPE) as tx:
                tx.set("doc", "0", {"n": 1})

        calls: dict[str, Callable[[], object]] = {
            "push": lambda: engine.push(
                [{"name": "set", "args": {"id": str(n), "value": n}, "scope": SCOPE} for n in range(99)]
            ),
            "pull": lambda: engine.pull(SCOPE),
            "pull as JSON": lambda: engine._native.pull_encoded(request, None, "json"),
            "snapshot": lambda: engine.snapshot(SCOPE),
            "find": find,
            "backup": lambda: engine.backup(tmp_path / f"copy{next(numbers)}.db"),
            "write": write,
        }
        ticks, stop, numbers = 0, threading.Event(), itertools.count()

        def tick() -> None:
            nonlocal ticks
            while not stop.is_set():
                ticks += 1
                time.sleep(0)

        # No thread is made to give the GIL up: the other one runs only while the call has let it go. It may
        # have to wait for a processor too, so it has many chances.
        interval = sys.getswitchinterval()
        other = threading.Thread(target=tick)
        other.start()
        try:
            sys.setswitchinterval(60)
            before = ticks
            for _ in range(50):
                calls[call]()
                if ticks > before:
                    break
            during = ticks - before
        finally:
            sys.setswitchinterval(interval)
            stop.set()
            other.join()
        assert during > 0
