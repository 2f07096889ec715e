"""A replica over a real server and a proxy that loses, repeats and cuts: whatever happens has its outcome,
and no mutation is lost in silence."""

from __future__ import annotations

import asyncio
import gc
import io
import itertools
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import syncline
from replica_support import PATIENCE, Fate, Site, make_mutators, site, todo, until
from syncline import _driver


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "server").mkdir()
    with site(tmp_path / "server") as made:
        yield made


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits of the pace, divided by ten: they are tested without a clock elsewhere."""
    from syncline import _pace

    for name in ("_FIRST", "_CAP", "_LONG"):
        monkeypatch.setattr(_pace, name, getattr(_pace, name) / 10)
    monkeypatch.setattr(_pace.Backoff.__init__, "__defaults__", (_pace._FIRST, _pace._CAP))
    monkeypatch.setitem(_pace.Pace.__init__.__kwdefaults__, "first", _pace._FIRST)
    monkeypatch.setitem(_pace.Pace.__init__.__kwdefaults__, "cap", _pace._CAP)


class Open:
    """Opens replicas of one server, and closes them."""

    def __init__(self, server: Site, folder: Path) -> None:
        self.server, self.folder = server, folder
        self.made: list[syncline.Replica] = []

    def __call__(self, name: str = "phone", user: str = "ada", **options: Any) -> syncline.Replica:
        options = {
            "scope": "list:1",
            "mutators": make_mutators(server=False),
            "token": f"t-{user}",
            "user": user,
            "timeout": 5.0,
            "poll": 1.0,
            **options,
        }
        options.setdefault("url", self.server.url)
        replica = syncline.Replica(self.folder / f"{name}.db", options.pop("url"), **options)
        self.made.append(replica)
        return replica


@pytest.fixture
def opened(server: Site, tmp_path: Path) -> Iterator[Open]:
    made = Open(server, tmp_path)
    yield made
    for replica in made.made:
        replica.close()


def once(fate: Fate, path: str) -> Callable[[str, int], Fate]:
    """That fate for the first request of the path from now on."""
    used: list[bool] = []

    def decide(asked: str, count: int) -> Fate:
        if asked.endswith(path) and not used:
            used.append(True)
            return fate
        return "pass"

    return decide


# ------------------------------------------------------------------------------------------- the plain course


def test_a_mutation_is_visible_at_once_and_arrives(opened: Open, server: Site) -> None:
    replica = opened()
    pending = replica.mutate("todo/create", todo("1", "milk"))
    assert replica.get("todo", "1") == {"title": "milk", "done": False}
    assert (pending.name, pending.scope, pending.args) == ("todo/create", "list:1", todo("1", "milk"))
    pending.wait(PATIENCE)
    assert pending.durable
    assert server.documents() == {"1": {"title": "milk", "done": False}}
    assert replica.confirmed.get("todo", "1") == {"title": "milk", "done": False}
    assert replica.pending == []
    replica.wait_for("live", PATIENCE)


def test_reads_are_of_the_optimistic_view_and_of_the_confirmed(opened: Open) -> None:
    replica = opened(start=False)
    for number in range(3):
        replica.mutate("todo/create", todo(str(number), f"t{number}"))
    replica.mutate("todo/done", {"id": "1"})
    assert replica.exists("todo", "1")
    assert not replica.exists("todo", "7")
    assert replica.version("todo", "1") == 2
    assert list(replica.list("todo")) == ["0", "1", "2"]
    assert [id for id, _ in replica.scan("todo", prefix="1")] == ["1"]
    assert [id for id, _ in replica.find("todo", {"done": False}, sort=("title", -1), limit=5)] == ["2", "0"]
    with replica.read() as view:
        assert view.get("todo", "1") == {"title": "t1", "done": True}
    assert replica.confirmed.list("todo") == {}
    with replica.confirmed.read("list:1") as view:
        assert not view.exists("todo", "1")
    one = replica.get("todo", "1")
    assert one is not None
    one["title"] = "mine"
    assert replica.get("todo", "1") != one, "what is returned is the caller's"


def test_two_replicas_converge(opened: Open, server: Site) -> None:
    phone, laptop = opened("phone"), opened("laptop", user="bob")
    for number in range(20):
        phone.mutate("todo/create", todo(f"p{number}"))
        laptop.mutate("todo/create", todo(f"l{number}"))
        laptop.mutate("count", {"id": "c"})
        phone.mutate("count", {"id": "c"})
    phone.sync(PATIENCE)
    laptop.sync(PATIENCE)
    phone.sync(PATIENCE)
    assert phone.list("todo") == laptop.list("todo") == server.documents()
    assert phone.get("counter", "c") == laptop.get("counter", "c") == {"n": 40}


def test_offline_with_hundreds_of_edits_and_back(opened: Open, server: Site) -> None:
    replica = opened()
    replica.sync(PATIENCE)
    server.proxy.down = True
    replica.pause()
    assert (replica.state, replica.status.reason) == ("offline", "paused")
    for number in range(400):
        replica.mutate("todo/create", todo(f"{number:03}"))
    server.engine.push([{"name": "todo/create", "args": todo("theirs"), "scope": "list:1"}])
    assert len(replica.list("todo")) == len(replica.pending) == 400
    assert server.documents().keys() == {"theirs"}
    server.proxy.down = False
    replica.resume()
    replica.sync(PATIENCE)
    assert len(server.documents()) == 401
    assert replica.list("todo") == server.documents()


def test_a_replica_works_before_there_was_ever_a_server(opened: Open, server: Site) -> None:
    server.proxy.down = True
    replica = opened()
    replica.mutate("todo/create", todo("1"))
    replica.wait_for("offline", PATIENCE)
    assert replica.status.reason
    replica.close()
    again = opened()
    assert again.get("todo", "1") is not None
    server.proxy.down = False
    again.sync(PATIENCE)
    assert "1" in server.documents()


def test_several_scopes_are_joined_and_left(opened: Open, server: Site) -> None:
    replica = opened(scope=None, scopes=["list:1", "list:2"])
    with pytest.raises(syncline.UsageError, match="2 scopes are joined"):
        replica.mutate("todo/create", todo("1"))
    replica.mutate("todo/create", todo("1"), scope="list:1")
    replica.mutate("todo/create", todo("2"), scope="list:2")
    replica.sync(PATIENCE)
    assert list(replica.list("todo", scope="list:2")) == ["2"]
    replica.leave("list:2")
    assert replica.scopes == ["list:1"]
    with pytest.raises(syncline.InvalidScope):
        replica.list("todo", scope="list:2")
    replica.join("list:2")
    replica.sync(PATIENCE)
    assert list(replica.list("todo", scope="list:2")) == ["2"]
    with pytest.raises(syncline.InvalidScope):
        replica.join("_own")
    with pytest.raises(syncline.InvalidScope):
        replica.leave("list:3")


def test_leaving_with_unanswered_mutations_sends_them_all_the_same(opened: Open, server: Site) -> None:
    server.proxy.down = True
    replica = opened()
    replica.mutate("todo/create", todo("1"))
    replica.leave("list:1")
    assert len(replica.pending) == 1
    replica.close()
    server.proxy.down = False
    again = opened(scope=None)
    until(lambda: "1" in server.documents())
    until(lambda: not again.pending)


# --------------------------------------------------------------------------------------- the network's faults


@pytest.mark.parametrize("fate", ["refuse", "lose", "cut", "twice", "502"])
@pytest.mark.parametrize("path", ["push", "pull", "health"])
def test_what_is_lost_repeated_or_cut_is_done_once(opened: Open, server: Site, fate: Fate, path: str) -> None:
    server.proxy.fate = once(fate, path)
    replica = opened()
    for _ in range(5):
        replica.mutate("count", {"id": "c"})
    until(lambda: any(line.endswith(f"{path} {fate}") for line in server.proxy.seen))
    replica.sync(PATIENCE)
    assert server.documents(entity="counter") == {"c": {"n": 5}}
    assert replica.get("counter", "c") == {"n": 5}
    assert replica.refused == []


def test_answers_that_are_lost_often_are_asked_for_until_they_come(opened: Open, server: Site) -> None:
    fates: list[Fate] = ["lose", "pass", "cut", "502", "twice", "refuse", "pass"]
    server.proxy.fate = lambda path, count: fates[count % len(fates)]
    replica, other = opened(), opened("other")
    for number in range(30):
        (replica if number % 2 else other).mutate("count", {"id": "c"})
        time.sleep(0.005)
    replica.sync(PATIENCE)
    other.sync(PATIENCE)
    replica.sync(PATIENCE)
    assert server.documents(entity="counter") == {"c": {"n": 30}}
    assert replica.get("counter", "c") == other.get("counter", "c") == {"n": 30}


def test_a_server_that_restarts_is_found_again(opened: Open, server: Site) -> None:
    replica = opened()
    replica.mutate("count", {"id": "c"}).wait(PATIENCE)
    epoch = replica.status.epoch
    server.stop()
    replica.mutate("count", {"id": "c"})
    replica.wait_for("offline", PATIENCE)
    server.start()
    replica.sync(PATIENCE)
    assert replica.status.epoch == server.engine.epoch != epoch
    assert server.documents(entity="counter") == {"c": {"n": 2}}


def test_a_server_restored_from_a_backup_gets_what_is_pending_again(opened: Open, server: Site) -> None:
    replica = opened()
    replica.mutate("todo/create", todo("kept")).wait(PATIENCE)
    backup = server.backup()
    replica.mutate("todo/create", todo("taken back")).wait(PATIENCE)
    server.proxy.down = True
    server.restore(backup)
    replica.mutate("todo/create", todo("pending"))
    server.proxy.down = False
    replica.sync(PATIENCE)
    replica.mutate("todo/create", todo("later")).wait(PATIENCE)
    assert server.documents().keys() == {"kept", "pending", "later"}
    assert replica.list("todo") == server.documents()


def test_a_mutation_whose_answer_was_lost_survives_the_restore_of_a_backup(
    opened: Open, server: Site
) -> None:
    replica = opened()
    replica.sync(PATIENCE)
    backup = server.backup()
    server.proxy.fate = lambda path, count: "lose" if path.endswith("push") else "pass"
    replica.mutate("count", {"id": "c"})
    until(lambda: server.documents(entity="counter"))
    server.restore(backup)
    server.proxy.fate = lambda path, count: "pass"
    replica.sync(PATIENCE)
    assert server.documents(entity="counter") == {"c": {"n": 1}}


def test_a_cursor_that_is_too_old_starts_from_zero(opened: Open, server: Site) -> None:
    replica = opened()
    for name in ("stays", "goes"):
        replica.mutate("todo/create", todo(name))
    replica.sync(PATIENCE)
    replica.pause()
    replica.mutate("todo/create", todo("mine"))
    server.engine.push([{"name": "todo/delete", "args": {"id": "goes"}, "scope": "list:1"}])
    server.engine._native.compact(server.engine.head, 0)
    with pytest.raises(syncline.CursorTooOld):
        server.engine.pull("list:1", 1)
    replica.resume()
    replica.sync(PATIENCE)
    assert replica.list("todo").keys() == server.documents().keys() == {"stays", "mine"}


# -------------------------------------------------------------------------------------------- what is refused


def test_what_the_server_refuses_is_kept_with_its_code_and_its_effect_goes(
    opened: Open, server: Site
) -> None:
    replica = opened()
    pending = replica.mutate("refused there", {"id": "1"})
    assert replica.get("todo", "1") == {"title": "must not stay"}
    with pytest.raises(syncline.Rejected, match="not with us") as raised:
        pending.wait(PATIENCE)
    assert raised.value.code == "no_thanks"
    assert pending.error is not None
    assert pending.error.code == "no_thanks"
    with pytest.raises(syncline.Rejected):
        pending.wait(PATIENCE)
    (refused,) = replica.refused
    assert (refused.name, refused.args, refused.scope) == ("refused there", {"id": "1"}, "list:1")
    assert (refused.code, refused.message) == ("no_thanks", "not with us")
    assert refused.error.code == "no_thanks"
    assert refused.ts.tzinfo is not None
    assert refused.at >= refused.ts
    replica.sync(PATIENCE)
    assert replica.get("todo", "1") is None
    assert "1" not in server.documents()
    replica.mutate("todo/create", todo("2")).wait(PATIENCE)
    replica.close()
    again = opened()
    assert [one.code for one in again.refused] == ["no_thanks"]
    assert again.forget(again.refused[0])
    assert not again.forget(refused)
    assert again.refused == []


def test_no_refusal_is_taken_for_a_success_by_who_waits(opened: Open, server: Site) -> None:
    """The answer comes on one thread while another puts things on the disk and a third asks."""
    replica = opened()
    outcomes: list[str] = []

    def act(number: int) -> None:
        for turn in range(15):
            replica.mutate("todo/create", todo(f"{number}-{turn}"))
            try:
                replica.mutate("refused there", {"id": f"no-{number}-{turn}"}).wait(PATIENCE)
                outcomes.append("ok")
            except syncline.Rejected as error:
                outcomes.append(error.code)

    threads = [threading.Thread(target=act, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["no_thanks"] * 60
    replica.sync(PATIENCE)
    assert len(server.documents()) == 60


def test_what_is_refused_here_is_not_queued(opened: Open) -> None:
    replica = opened(start=False)
    with pytest.raises(syncline.Rejected, match="not even here"):
        replica.mutate("refused here")
    with pytest.raises(syncline.UnknownMutation):
        replica.mutate("no such thing")
    with pytest.raises(syncline.NotFound):
        replica.mutate("todo/done", {"id": "absent"})
    assert replica.pending == []


def test_a_mutation_may_be_discarded(opened: Open, server: Site) -> None:
    replica = opened(start=False)
    first, second = replica.mutate("todo/create", todo("1")), replica.mutate("todo/create", todo("2"))
    assert replica.discard(first)
    assert not replica.discard(first)
    assert list(replica.list("todo")) == ["2"]
    replica.resume()
    second.wait(PATIENCE)
    replica.sync(PATIENCE)
    assert server.documents().keys() == {"2"}
    assert replica.refused == []
    assert not replica.discard(second.place)
    with pytest.raises(syncline.Rejected) as raised:
        first.wait(PATIENCE)
    assert raised.value.code == "discarded"


def test_waiting_for_what_does_not_come_has_an_end(opened: Open) -> None:
    replica = opened(start=False)
    pending = replica.mutate("todo/create", todo("1"))
    with pytest.raises(syncline.Timeout, match="stays in the queue"):
        pending.wait(0.05)
    with pytest.raises(syncline.UsageError, match="paused"):
        replica.sync(1)
    waited: list[BaseException] = []

    def wait() -> None:
        try:
            pending.wait(PATIENCE)
        except syncline.Closed as closed:
            waited.append(closed)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: replica._driver._waiting)
    replica.close()
    thread.join()
    assert len(waited) == 1


# -------------------------------------------------------------------------------------------- whose it all is


def test_a_client_id_that_is_someone_elses_is_given_up_for_a_new_one(opened: Open, server: Site) -> None:
    stolen = {"client_id": "stolen", "client_seq": 1}
    server.engine.push([{"name": "count", "args": {"id": "t"}, "scope": "list:1", **stolen}], user="thief")
    replica = opened(client_id="stolen")
    replica.mutate("mint")
    minted = list(replica.list("minted"))
    replica.sync(PATIENCE)
    assert replica.status.client_id != "stolen"
    assert list(server.documents(entity="minted")) == minted, "the ids that were shown stay right"
    assert replica.refused == []


def test_a_token_that_expires_is_asked_for_again(opened: Open, server: Site) -> None:
    given: list[str] = []

    def token() -> str:
        given.append(f"t-ada.{len(given)}")
        return given[-1]

    replica = opened(token=token)
    replica.mutate("count", {"id": "c"}).wait(PATIENCE)
    assert given == ["t-ada.0"]
    server.expired.add("t-ada.0")
    replica.mutate("count", {"id": "c"}).wait(PATIENCE)
    assert given == ["t-ada.0", "t-ada.1"]
    assert server.documents(entity="counter") == {"c": {"n": 2}}


def test_a_token_function_may_be_asynchronous(opened: Open, server: Site) -> None:
    async def token() -> str:
        await asyncio.sleep(0)
        return "t-ada"

    opened(token=token).sync(PATIENCE)

    async def in_a_loop() -> None:
        loop = asyncio.get_running_loop()

        async def here() -> str:
            assert asyncio.get_running_loop() is loop, "it runs where the replica was made"
            return "t-ada"

        replica = await asyncio.to_thread(lambda: None) or opened("loop", token=here)
        await replica.sync_async(PATIENCE)

    asyncio.run(in_a_loop())


def test_no_valid_token_means_offline_with_the_reason_and_nothing_is_lost(opened: Open, server: Site) -> None:
    server.expired.add("t-ada")
    replica = opened(token="t-ada")
    pending = replica.mutate("count", {"id": "c"})
    replica.wait_for("offline", PATIENCE)
    assert "unauthenticated" in replica.status.reason
    with pytest.raises(syncline.Timeout, match="unauthenticated"):
        replica.sync(0.3)
    assert len(replica.pending) == 1
    replica.set_token("t-ada.new")
    pending.wait(PATIENCE)
    replica.wait_for("live", PATIENCE)


def test_a_token_function_that_fails_is_said_and_asked_again(opened: Open, server: Site) -> None:
    logged_in = threading.Event()

    def token() -> str | None:
        if not logged_in.is_set():
            raise RuntimeError("nobody is logged in")
        return "t-ada"

    replica = opened(token=token)
    pending = replica.mutate("count", {"id": "c"})
    replica.wait_for("offline", PATIENCE)
    assert "nobody is logged in" in replica.status.reason
    logged_in.set()
    pending.wait(PATIENCE)


def test_a_permission_that_is_taken_away_and_given_back(opened: Open, server: Site) -> None:
    replica = opened()
    replica.mutate("todo/create", todo("1")).wait(PATIENCE)
    gone: list[Any] = []
    with replica.subscribe() as changes:
        server.forbidden |= {("ada", "read", "list:1"), ("ada", "write", "list:1")}
        until(lambda: not replica.status.scopes[0].readable)
        batch = changes.get(PATIENCE)
        assert batch is not None
        gone += batch
    assert [(one.kind, one.id) for one in gone] == [("removed", "1")]
    assert replica.list("todo") == {}
    with pytest.raises(syncline.Forbidden):
        replica.mutate("todo/create", todo("2")).wait(PATIENCE)
    server.forbidden.clear()
    replica.sync(PATIENCE)
    until(lambda: replica.status.scopes[0].readable)
    replica.sync(PATIENCE)
    assert replica.list("todo").keys() == {"1"}
    replica.mutate("todo/create", todo("3")).wait(PATIENCE)


def test_a_phone_restored_from_an_old_backup_neither_repeats_nor_reuses_its_numbers(
    opened: Open, server: Site, tmp_path: Path
) -> None:
    replica = opened()
    replica.sync(PATIENCE)
    replica.pause()
    replica.mutate("count", {"id": "in the backup"})
    replica.close()
    shutil.copyfile(tmp_path / "phone.db", tmp_path / "backup.db")
    replica = opened()
    for _ in range(3):
        replica.mutate("count", {"id": "after it"})
    replica.sync(PATIENCE)
    replica.close()
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"phone.db{suffix}").unlink(missing_ok=True)
    shutil.copyfile(tmp_path / "backup.db", tmp_path / "phone.db")
    replica = opened()
    replica.mutate("count", {"id": "new"})
    replica.sync(PATIENCE)
    wanted = {"in the backup": {"n": 1}, "after it": {"n": 3}, "new": {"n": 1}}
    assert server.documents(entity="counter") == wanted
    assert replica.list("counter") == wanted


# ---------------------------------------------------------------------------------------------- subscriptions


def test_a_subscription_tells_old_and_new_once_for_each_visible_change(opened: Open, server: Site) -> None:
    replica = opened()
    replica.sync(PATIENCE)
    told: list[Any] = []
    with replica.subscribe(entity="todo") as changes:
        replica.mutate("todo/create", todo("1", "milk")).wait(PATIENCE)
        replica.mutate("count", {"id": "c"}).wait(PATIENCE)  # another entity
        replica.mutate("todo/done", {"id": "1"}).wait(PATIENCE)
        server.engine.push([{"name": "todo/delete", "args": {"id": "1"}, "scope": "list:1"}])
        replica.sync(PATIENCE)
        while (batch := changes.get(0.2)) is not None:
            told += batch
    milk = {"title": "milk", "done": False}
    assert [(one.kind, one.scope, one.entity, one.id, one.old, one.new) for one in told] == [
        ("added", "list:1", "todo", "1", None, milk),
        ("modified", "list:1", "todo", "1", milk, {**milk, "done": True}),
        ("removed", "list:1", "todo", "1", {**milk, "done": True}, None),
    ]


def test_what_is_told_is_on_the_disk(opened: Open, server: Site, tmp_path: Path) -> None:
    replica = opened(start=False)
    with replica.subscribe() as changes:
        pending = replica.mutate("todo/create", todo("1"))
        assert changes.get(PATIENCE) is not None
    assert pending.durable
    replica._core.abandon()
    again = opened("phone", start=False)
    assert again.get("todo", "1") is not None


def test_a_refusal_takes_its_effect_back_in_a_subscription(opened: Open) -> None:
    replica = opened()
    replica.sync(PATIENCE)
    with replica.subscribe() as changes:
        with pytest.raises(syncline.Rejected):
            replica.mutate("refused there", {"id": "1"}).wait(PATIENCE)
        kinds = []
        while (batch := changes.get(0.2)) is not None:
            kinds += [one.kind for one in batch]
    assert kinds in (["added", "removed"], [])


def test_a_callback_runs_on_a_thread_of_its_own_and_may_use_the_replica(opened: Open) -> None:
    replica = opened()
    seen: list[tuple[str, int]] = []

    def callback(changes: list[syncline.DocumentChange]) -> None:
        for change in changes:
            if change.id == "1":
                replica.mutate("todo/create", todo("2"))
            seen.append((change.id, threading.get_ident()))

    subscription = replica.subscribe(callback, entity="todo")
    replica.mutate("todo/create", todo("1"))
    until(lambda: {id for id, _ in seen} == {"1", "2"})
    assert {thread for _, thread in seen} != {threading.get_ident()}
    subscription.close()
    replica.mutate("todo/create", todo("3")).wait(PATIENCE)
    assert {id for id, _ in seen} == {"1", "2"}


def test_a_callback_that_fails_is_logged_and_keeps_nothing(
    opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    replica = opened()
    seen: list[str] = []

    def callback(changes: list[syncline.DocumentChange]) -> None:
        seen.append(changes[0].id)
        raise ZeroDivisionError

    replica.subscribe(callback)
    replica.mutate("todo/create", todo("1")).wait(PATIENCE)
    replica.mutate("todo/create", todo("2")).wait(PATIENCE)
    until(lambda: seen == ["1", "2"])
    assert "a callback of a replica failed" in caplog.text


def test_who_is_slow_gets_each_document_once(opened: Open) -> None:
    replica = opened(start=False)
    with replica.subscribe() as changes:
        for _ in range(200):
            replica.mutate("count", {"id": "c"})
            replica.flush()
        batches = []
        while (batch := changes.get(0.2)) is not None:
            batches.append(batch)
    assert len(batches) <= 70
    assert batches[0][0].old is None
    assert batches[-1][-1].new == {"n": 200}
    flat = [one for batch in batches for one in batch]
    for one, following in itertools.pairwise(flat):
        assert one.new == following.old


def test_states_are_told_in_order(opened: Open, server: Site) -> None:
    replica = opened(start=False)
    told: list[str] = []
    end = replica.on_state(told.append)
    replica.resume()
    replica.wait_for("live", PATIENCE)
    server.proxy.down = True
    server.proxy.break_sockets()
    replica.mutate("count", {"id": "c"})
    replica.wait_for("offline", PATIENCE)
    server.proxy.down = False
    replica.sync(PATIENCE)
    replica.wait_for("live", PATIENCE)
    replica.close()
    until(lambda: told and told[-1] == "stopped")
    kept = [one for one, before in zip(told, ["", *told], strict=False) if one != before]
    assert kept == told, "each is another one than before"
    assert told[0] == "connecting"
    for wanted in ("live", "offline", "live", "stopped"):
        assert wanted in told
        told = told[told.index(wanted) :]
    end()


# ---------------------------------------------------------------------------------------------------- asyncio


async def test_it_works_in_asyncio(server: Site, tmp_path: Path) -> None:
    async with syncline.Replica(
        tmp_path / "a.db", server.url, scope="list:1", mutators=make_mutators(server=False), token="t-ada"
    ) as replica:
        loop = threading.get_ident()
        called: list[tuple[str, int]] = []

        async def callback(changes: list[syncline.DocumentChange]) -> None:
            await asyncio.sleep(0)
            called.extend((one.id, threading.get_ident()) for one in changes)

        replica.subscribe(callback)
        with replica.subscribe() as changes:
            await replica.mutate("todo/create", todo("1"))
            with pytest.raises(syncline.Rejected):
                await replica.mutate("refused there", {"id": "2"})
            await replica.sync_async(PATIENCE)
            async for batch in changes:
                assert batch[0].id == "1"
                break
        await asyncio.to_thread(until, lambda: called)
        assert called[0] == ("1", loop)
        waiting = asyncio.ensure_future(_all(replica.subscribe()))
        await asyncio.sleep(0.01)
    assert await waiting == []
    assert replica.state == "stopped"


async def _all(subscription: Any) -> list[Any]:
    return [batch async for batch in subscription]


# ------------------------------------------------------------------------------------------ life, and its end


def test_a_process_that_dies_loses_at_most_what_was_not_durable(server: Site, tmp_path: Path) -> None:
    program = f"""
    import os, sys
    sys.path[:0] = {sys.path!r}
    import syncline
    from replica_support import make_mutators
    replica = syncline.Replica({str(tmp_path / "phone.db")!r}, "http://127.0.0.1:9", scope="list:1",
                               mutators=make_mutators(server=False), start=False)
    replica.mutate("todo/create", {{"id": "1", "title": "x"}})
    replica.flush()
    os.kill(os.getpid(), 9)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=60)
    assert run.returncode == -9
    with syncline.Replica(
        tmp_path / "phone.db", server.url, scope="list:1", mutators=make_mutators(server=False), token="t-ada"
    ) as replica:
        replica.sync(PATIENCE)
    assert server.documents().keys() == {"1"}


def test_an_interpreter_that_ends_leaves_all_on_the_disk(server: Site, tmp_path: Path) -> None:
    program = f"""
    import sys
    sys.path[:0] = {sys.path!r}
    import syncline
    from replica_support import make_mutators
    replica = syncline.Replica({str(tmp_path / "phone.db")!r}, {server.url!r}, scope="list:1", token="t-ada",
                               mutators=make_mutators(server=False))
    replica.subscribe(lambda changes: None)
    for n in range(50):
        replica.mutate("todo/create", {{"id": str(n), "title": "x"}})
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stderr) == (0, "")
    with syncline.Replica(
        tmp_path / "phone.db", server.url, scope="list:1", mutators=make_mutators(server=False), token="t-ada"
    ) as replica:
        replica.sync(PATIENCE)
    assert len(server.documents()) == 50


def test_a_second_process_on_the_file_is_told_so(opened: Open, tmp_path: Path) -> None:
    opened()
    with pytest.raises(syncline.Locked):
        opened()
    program = f"""
    import sys
    sys.path[:0] = {sys.path!r}
    import syncline
    from replica_support import make_mutators
    try:
        syncline.Replica({str(tmp_path / "phone.db")!r}, "http://127.0.0.1:9", scope="list:1",
                         mutators=make_mutators(server=False))
    except syncline.Locked as locked:
        print(locked)
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert str(os.getpid()) in run.stdout or "process" in run.stdout


def test_an_engines_database_is_no_replica(opened: Open, tmp_path: Path) -> None:
    syncline.Engine(tmp_path / "phone.db", mutators=make_mutators()).close()
    with pytest.raises(syncline.ForeignFile):
        opened()


def test_after_fork_it_says_what_to_do(opened: Open) -> None:
    replica = opened()
    replica.sync(PATIENCE)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            replica.mutate("count", {"id": "c"})
        except syncline.UsageError as error:
            code = 0 if "fork" in str(error) else 2
        replica.close()
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    replica.mutate("count", {"id": "c"}).wait(PATIENCE)


def test_a_replica_that_is_forgotten_is_closed(opened: Open, tmp_path: Path) -> None:
    replica = opened()
    replica.mutate("todo/create", todo("1"))
    driver = replica._driver
    opened.made.clear()
    del replica
    gc.collect()
    until(lambda: driver.ended)
    until(lambda: _reopened(opened))


def _reopened(opened: Open) -> bool:
    try:
        return opened(start=False).exists("todo", "1")
    except syncline.Locked:
        return False


def test_close_ends_everything_and_may_be_said_twice(opened: Open, server: Site) -> None:
    hanging = threading.Event()
    replica = opened()
    replica.subscribe(lambda changes: hanging.wait(0.1))
    iterating = replica.subscribe()
    replica.mutate("todo/create", todo("1")).wait(PATIENCE)
    before = {one for one in threading.enumerate() if one.name.startswith("syncline-")}
    assert before
    replica.close()
    replica.close()
    assert list(iterating) is not None
    until(lambda: not [one for one in threading.enumerate() if one.name in _MINE])
    assert replica.state == "stopped"
    replica.wait_for("stopped")
    for call in (
        lambda: replica.mutate("count", {"id": "c"}),
        lambda: replica.get("todo", "1"),
        lambda: replica.subscribe(),
        lambda: replica.flush(),
        lambda: replica.pause(),
        lambda: replica.sync(),
    ):
        with pytest.raises(syncline.Closed):
            call()
    assert "closed" in repr(replica)
    assert "closed" in replica._repr_html_()


_MINE = {"syncline-replica", "syncline-flush", "syncline-socket", "syncline-deliver"}


def test_close_does_not_wait_for_an_answer_that_does_not_come(opened: Open, server: Site) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        replica = opened(url=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=3600.0)
        connection, _ = silent.accept()
        connection.recv(10)
        replica.close()
        connection.close()
    assert not [one for one in threading.enumerate() if one.name == "syncline-replica"]


def test_a_mutator_may_not_use_its_own_replica(tmp_path: Path) -> None:
    mutators = syncline.Mutators()
    used: list[syncline.Replica] = []

    @mutators("inside")
    def inside(tx: syncline.Tx, args: Any) -> None:
        used[0].mutate("inside")

    with syncline.Replica(
        tmp_path / "a.db", "http://127.0.0.1:9", scope="s", mutators=mutators, start=False
    ) as replica:
        used.append(replica)
        with pytest.raises(syncline.UsageError, match="mutator"):
            replica.mutate("inside")


def test_arguments_that_are_none_are_refused(tmp_path: Path) -> None:
    def make(**options: Any) -> None:
        syncline.Replica(
            **{
                "path": tmp_path / "a.db",
                "url": "http://127.0.0.1:9",
                "mutators": syncline.Mutators(),
                "start": False,
                **options,
            }
        ).close()

    make()
    for wrong in (
        {"mutators": {}},
        {"scopes": "list:1"},
        {"poll": 0},
        {"url": "ftp://x"},
        {"token": "two words"},
        {"timeout": 0},
        {"scope": "_own"},
        {"durability": "perhaps"},
        {"path": 7},
    ):
        with pytest.raises((syncline.Error, ValueError, TypeError)):
            make(**wrong)
    make()


def test_a_notebook_and_a_terminal_show_it(opened: Open) -> None:
    replica = opened(start=False)
    replica.mutate("todo/create", todo("1", "<b>milk</b>"))
    picture = replica._repr_html_()
    assert "&lt;b&gt;milk" in picture
    assert "<b>milk" not in picture
    assert "paused" in picture
    assert "1 pending" in replica.__rich__()
    assert "offline" in repr(replica)
    import rich.console

    rich.console.Console(file=io.StringIO()).print(replica)


def test_watch_shows_what_changes(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    import IPython.display

    shown: list[str] = []

    class Handle:
        def update(self, what: Any) -> None:
            shown.append(what._repr_html_())

    monkeypatch.setattr(IPython.display, "display", lambda what, display_id: Handle())
    replica = opened(start=False)
    with replica.watch():
        replica.mutate("todo/create", todo("1", "milk"))
        until(lambda: shown and "milk" in shown[-1])
    replica.watch()
    replica.close()


# ------------------------------------------------------------------------------------------------- the socket


def poked(opened: Open, **options: Any) -> syncline.Replica:
    """One that hears of commits by its socket alone."""
    replica = opened(poll=3600.0, **options)
    until(lambda: replica.status.pokes == "socket")
    replica.sync(PATIENCE)
    return replica


def test_a_commit_is_heard_of_through_the_socket(opened: Open, server: Site) -> None:
    replica = poked(opened)
    assert replica.status.pokes_reason == ""
    server.engine.push([{"name": "todo/create", "args": todo("1"), "scope": "list:1"}])
    until(lambda: replica.exists("todo", "1"))
    replica.join("list:2")
    until(lambda: all(one.loaded for one in replica.status.scopes))
    server.engine.push([{"name": "todo/create", "args": todo("2"), "scope": "list:2"}])
    until(lambda: replica.exists("todo", "2", scope="list:2"))


def test_a_socket_that_breaks_comes_back_and_misses_nothing(opened: Open, server: Site) -> None:
    replica = poked(opened)
    server.proxy.down = True
    server.proxy.break_sockets()
    until(lambda: replica.status.pokes == "polls")
    assert replica.status.pokes_reason
    server.engine.push([{"name": "todo/create", "args": todo("1"), "scope": "list:1"}])
    server.proxy.down = False
    until(lambda: replica.exists("todo", "1"))
    until(lambda: replica.status.pokes == "socket")


def test_a_server_that_says_goodbye_is_found_again(opened: Open, server: Site) -> None:
    replica = poked(opened)
    server.restart()
    server.engine.push([{"name": "todo/create", "args": todo("1"), "scope": "list:1"}])
    until(lambda: replica.exists("todo", "1"))


def test_a_token_that_expires_is_renewed_for_the_socket_too(opened: Open, server: Site) -> None:
    given: list[str] = []

    def token() -> str:
        given.append(f"t-ada.{len(given)}")
        return given[-1]

    replica = poked(opened, token=token)
    server.expired.add("t-ada.0")
    server.proxy.break_sockets()
    server.engine.push([{"name": "todo/create", "args": todo("1"), "scope": "list:1"}])
    until(lambda: replica.exists("todo", "1"))
    assert given == ["t-ada.0", "t-ada.1"]


def test_without_the_package_websockets_it_polls_and_says_so(
    opened: Open, server: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("syncline.replica.sockets_available", lambda: False)
    replica = opened(poll=0.1)
    replica.sync(PATIENCE)
    assert replica.status.pokes == "polls"
    assert "websockets" in replica.status.pokes_reason
    server.engine.push([{"name": "todo/create", "args": todo("1"), "scope": "list:1"}])
    until(lambda: replica.exists("todo", "1"))
    assert _driver.sockets_available()
