"""A feed tells every commit, in order, at least once, whatever happens to its consumer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import syncline
from hypothesis import given, settings
from hypothesis import strategies as st


def mutators() -> syncline.Mutators:
    made = syncline.Mutators()

    @made("set")
    def set_(tx: syncline.Tx, args: dict[str, Any]) -> None:
        for id, value in args.items():
            if value is None:
                tx.delete("k", id)
            else:
                tx.set("k", id, {"v": value})

    @made("refuse")
    def refuse(tx: syncline.Tx, args: Any) -> None:
        raise syncline.Rejected("no")

    return made


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with syncline.Engine(":memory:", mutators=mutators()) as engine:
        yield engine


def put(engine: syncline.Engine, value: int, scope: str = "s", id: str = "a") -> None:
    engine.push([{"name": "set", "args": {id: value}, "scope": scope}])


def told(feed: syncline.Feed) -> list[Any]:
    return [(change.id, (change.data or {}).get("v")) for commit in feed for change in commit.changes]


def now(engine: syncline.Engine, name: str = "f", **options: Any) -> list[Any]:
    """What the feed tells of what is there."""
    with engine.feed(name, follow=False, **options) as feed:
        return told(feed)


def test_a_commit_is_a_mutation_with_its_changes_and_who_made_them(engine: syncline.Engine) -> None:
    engine.push(
        [
            {"name": "set", "args": {"a": 1, "b": 1}, "scope": "s", "client_id": "c", "client_seq": 1},
            {"name": "refuse", "args": None, "scope": "s", "client_id": "c", "client_seq": 2},
            {"name": "set", "args": {"a": 2, "b": None}, "scope": "s", "client_id": "c", "client_seq": 3},
        ],
        user="ada",
    )
    with engine.write("s", user="bob") as tx:
        tx.set("k", "c", {"v": 3})
    with engine.feed("f", follow=False) as feed:
        first, second, third = feed
    assert (first.scope, first.user, first.client_id, first.client_seq, first.mutation) == (
        "s",
        "ada",
        "c",
        1,
        "set",
    )
    assert [(one.op, one.entity, one.id, one.data) for one in first.changes] == [
        ("create", "k", "a", {"v": 1}),
        ("create", "k", "b", {"v": 1}),
    ]
    assert [(one.op, one.id, one.data, one.version) for one in second.changes] == [
        ("update", "a", {"v": 2}, 2),
        ("delete", "b", None, 2),
    ]
    assert second.changes[0].changes == {"v": (1, 2)}
    assert (third.user, third.client_id, third.client_seq, third.mutation) == ("bob", None, None, None)
    assert first.cursor < second.cursor < third.cursor == engine.head
    assert first.ts.tzinfo is not None


def test_mutations_of_backend_code_in_one_group_are_commits_of_their_own(engine: syncline.Engine) -> None:
    engine.push([{"name": "set", "args": {str(n): n}, "scope": "s"} for n in range(5)])
    with engine.feed("f", follow=False) as feed:
        assert [[change.id for change in commit.changes] for commit in feed] == [
            ["0"],
            ["1"],
            ["2"],
            ["3"],
            ["4"],
        ]


def test_a_write_over_several_scopes_is_one_commit(engine: syncline.Engine) -> None:
    with engine.write("s1", "s2") as (one, two):
        one.set("k", "a", {"v": 1})
        two.set("k", "b", {"v": 2})
        one.set("k", "c", {"v": 3})
    with engine.feed("f", follow=False) as feed:
        (commit,) = feed
    assert commit.scopes == ("s1", "s2")
    with engine.feed("g", scopes=["s1"], follow=False) as feed:
        (commit,) = feed
    assert [(one.scope, one.id) for one in commit.changes] == [("s1", "a"), ("s1", "c")]


def test_each_change_has_the_document_as_it_left_it_however_far_behind_the_feed_is(
    engine: syncline.Engine,
) -> None:
    for value in range(1500):
        put(engine, value)
    assert now(engine) == [("a", value) for value in range(1500)]


def test_the_position_lasts_and_moves_when_the_consumer_comes_back(tmp_path: Path) -> None:
    with syncline.Engine(tmp_path / "a.db", mutators=mutators()) as engine:
        for value in range(5):
            put(engine, value)
        for commit in engine.feed("f"):
            if commit.changes[0].data == {"v": 2}:
                break  # busy with it
        assert engine.feeds()[0].lag == 3
    with syncline.Engine(tmp_path / "a.db", mutators=mutators()) as engine:
        assert now(engine) == [("a", 2), ("a", 3), ("a", 4)]
        assert now(engine) == []
        put(engine, 5)
        assert now(engine) == [("a", 5)]


def test_a_loop_that_failed_is_told_the_same_commit_again(engine: syncline.Engine) -> None:
    for value in range(3):
        put(engine, value)
    with engine.feed("f", follow=False) as feed:
        seen = []

        def consume() -> None:
            for commit in feed:
                seen.append(commit.changes[0].data)
                if len(seen) == 2:
                    raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            consume()
        assert seen == [{"v": 0}, {"v": 1}]
        assert told(feed) == [("a", 1), ("a", 2)]


def test_done_saves_at_once(tmp_path: Path) -> None:
    with syncline.Engine(tmp_path / "a.db", mutators=mutators()) as engine:
        for value in range(3):
            put(engine, value)
        feed = engine.feed("f", save_every=1000)
        next(feed)
        next(feed)
        assert stored(engine) == {"f": 0}
        feed.done()
        assert stored(engine) == {"f": 2}
        feed.done()
        feed.close()
        assert now(engine) == [("a", 2)]


def stored(engine: syncline.Engine) -> dict[str, int]:
    return {name: note["cursor"] for name, note in syncline._core.notes(engine._native, "_feeds", "feed")}


def test_a_consumer_that_dies_is_told_again_what_was_not_saved(tmp_path: Path) -> None:
    """As after kill -9: the file is as it was when the consumer was in the middle."""
    with syncline.Engine(tmp_path / "a.db", mutators=mutators()) as engine:
        for value in range(4):
            put(engine, value)
        with engine.feed("f", save_every=1000) as feed:
            next(feed)
            next(feed)
            feed.done()
            next(feed)
            next(feed)
            engine.backup(tmp_path / "b.db")
    with syncline.Engine(tmp_path / "b.db", mutators=mutators()) as engine:
        assert now(engine) == [("a", 2), ("a", 3)]


def test_a_commit_wakes_who_waits(engine: syncline.Engine) -> None:
    seen: list[Any] = []
    waiting = threading.Event()

    def consume() -> None:
        with engine.feed("f") as feed:
            waiting.set()
            for commit in feed:
                seen.append(commit.changes[0].data)
                if len(seen) == 3:
                    break

    thread = threading.Thread(target=consume)
    thread.start()
    waiting.wait(30)
    for value in range(3):
        put(engine, value)
    thread.join(30)
    assert seen == [{"v": 0}, {"v": 1}, {"v": 2}]


def test_get_waits_no_longer_than_it_is_told(engine: syncline.Engine) -> None:
    with engine.feed("f") as feed:
        assert feed.get(timeout=0) is None
        assert feed.get(timeout=0.01) is None
        put(engine, 1)
        commit = feed.get(timeout=30)
        assert commit is not None
        assert commit.changes[0].data == {"v": 1}


@pytest.mark.parametrize("of", ["feed", "engine"])
def test_closing_it_ends_who_waits(of: str) -> None:
    engine = syncline.Engine(":memory:", mutators=mutators())
    feed = engine.feed("f")
    ended = threading.Event()
    began = threading.Event()

    def consume() -> None:
        began.set()
        for _ in feed:
            pass
        ended.set()

    thread = threading.Thread(target=consume)
    thread.start()
    began.wait(30)
    (feed if of == "feed" else engine).close()
    assert ended.wait(30)
    thread.join()
    with pytest.raises(syncline.Closed):
        feed.get(timeout=0)
    engine.close()


def test_a_name_has_one_consumer(engine: syncline.Engine) -> None:
    feed = engine.feed("f")
    with pytest.raises(syncline.UsageError, match="consumer already"):
        engine.feed("f")
    engine.feed("g").close()
    with pytest.raises(syncline.UsageError, match="has a consumer"):
        engine.forget_feed("f")
    feed.close()
    feed.close()
    engine.feed("f").close()


def test_a_feed_that_was_broken_off_and_forgotten_frees_its_name(engine: syncline.Engine) -> None:
    put(engine, 1)
    put(engine, 2)
    for commit in engine.feed("f"):
        if commit.changes[0].data == {"v": 2}:
            break
    for commit in engine.feed("f"):
        assert commit.changes[0].data == {"v": 2}
        break


def test_two_threads_cannot_be_in_one_feed(engine: syncline.Engine) -> None:
    feed = engine.feed("f")
    inside = threading.Thread(target=lambda: list(feed))
    inside.start()
    while not feed._using.locked():
        pass
    with pytest.raises(syncline.UsageError, match="one at a time"):
        feed.get(timeout=0)
    feed.close()
    inside.join(30)


def test_it_starts_where_it_is_told_to_but_only_a_new_one(engine: syncline.Engine) -> None:
    for value in range(4):
        put(engine, value)
    assert now(engine, "new", start="now") == []
    assert now(engine, "third", start=2) == [("a", 2), ("a", 3)]
    put(engine, 4)
    assert now(engine, "new", start="begin") == [("a", 4)]
    assert now(engine, "third", start="begin") == [("a", 4)]
    with pytest.raises(syncline.InvalidRequest, match="head is 5"):
        engine.feed("f", start=6)
    for start in ("middle", True, None, 1.5):
        with pytest.raises(syncline.UsageError, match="start"):
            engine.feed("f", start=start)  # type: ignore[arg-type]
    assert [one.name for one in engine.feeds()] == ["new", "third"]


def test_where_it_started_is_kept_before_anything_is_told(tmp_path: Path) -> None:
    with syncline.Engine(tmp_path / "a.db", mutators=mutators()) as engine:
        put(engine, 1)
        with engine.feed("f", start="now"):
            put(engine, 2)
            engine.backup(tmp_path / "b.db")
    with syncline.Engine(tmp_path / "b.db", mutators=mutators()) as engine:
        assert now(engine) == [("a", 2)]


def test_only_the_scopes_that_were_asked_for(engine: syncline.Engine) -> None:
    for value, scope in enumerate(["s1", "s2", "s3", "s1", "s2"]):
        put(engine, value, scope)
    assert now(engine, "one", scopes=["s1"]) == [("a", 0), ("a", 3)]
    assert now(engine, "two", scopes=["s3", "s1"]) == [("a", 0), ("a", 2), ("a", 3)]
    assert now(engine, "none", scopes=["nobody"]) == []
    # What does not concern it does not hold it back.
    assert {one.name: one.lag for one in engine.feeds()} == {"none": 0, "one": 0, "two": 0}
    for scopes in ([], "s1", [1], ["_feeds"]):
        with pytest.raises(syncline.UsageError):
            engine.feed("f", scopes=scopes)  # type: ignore[arg-type]


def test_feeds_tells_position_lag_and_who_is_active(engine: syncline.Engine) -> None:
    assert engine.feeds() == []
    put(engine, 1)
    put(engine, 2)
    with engine.feed("f") as feed:
        next(feed)
        next(feed)
        assert engine.feeds() == [syncline.FeedInfo("f", 1, 1, True)]
        assert (feed.name, feed.cursor, feed.lag) == ("f", 1, 1)
    assert engine.feeds() == [syncline.FeedInfo("f", 1, 1, False)]
    assert engine.stats().feeds == {"f": 1}
    assert engine.forget_feed("f")
    assert not engine.forget_feed("f")
    assert engine.feeds() == []


def test_history_that_went_is_refused_and_never_skipped(engine: syncline.Engine) -> None:
    for value in range(6):
        put(engine, value)
    with engine.feed("late") as feed:
        next(feed)
    with engine.feed("early", follow=False) as feed:
        assert len(list(feed)) == 6
    purge(engine, 4)
    for name in ("late", "new"):
        with engine.feed(name) as feed, pytest.raises(syncline.HistoryGone, match=f"'{name}'") as caught:
            next(feed)
        assert caught.value.floor == 4
    assert now(engine, "early") == []
    assert now(engine, "from4", start=4) == [("a", 4), ("a", 5)]
    engine.forget_feed("late")
    assert now(engine, "late", start="now") == []


def purge(engine: syncline.Engine, through: int) -> None:
    engine._native.compact(through, 0)


def test_compaction_keeps_what_a_feed_has_not_read(engine: syncline.Engine) -> None:
    for value in range(6):
        put(engine, value)
    with engine.feed("slow") as feed:
        next(feed)
        next(feed)
    engine.compact(keep=6)
    assert [line.cursor for line in engine.log()] == [2, 3, 4, 5, 6]
    assert now(engine, "slow") == [("a", value) for value in range(1, 6)]
    engine.compact(keep=6)
    assert list(engine.log()) == []
    assert now(engine, "slow") == []


def test_of_an_erased_document_only_the_deletion_is_told(engine: syncline.Engine) -> None:
    put(engine, 1, id="secret")
    put(engine, 2, id="open")
    assert len(now(engine, "early")) == 2
    engine.erase("s", "k", "secret")
    assert now(engine, "early") == [("secret", None)]
    assert now(engine, "late") == [("open", 2), ("secret", None)]


def test_what_is_erased_while_a_feed_reads_ahead_is_not_told(engine: syncline.Engine) -> None:
    put(engine, 1, id="secret")
    put(engine, 2, id="open")
    feed = engine.feed("f", follow=False)
    lines = feed._next_lines()
    engine.erase("s", "k", "secret")
    # As if it had been erased between the lines and their bodies.
    handed = [lines]
    read = feed._next_lines
    feed._next_lines = lambda: handed.pop() if handed else read()  # type: ignore[method-assign]
    feed._read = 0
    with feed:
        assert told(feed) == [("open", 2), ("secret", None)]


def test_what_is_purged_while_a_feed_reads_is_refused_too(engine: syncline.Engine) -> None:
    for value in range(2000):
        put(engine, value)
    with engine.feed("f", follow=False) as feed:
        for _ in range(10):
            next(feed)
        purge(engine, 1900)

        def consume() -> None:
            for _ in feed:
                pass

        with pytest.raises(syncline.HistoryGone):
            consume()


def test_a_consumer_may_push_what_it_is_then_told(engine: syncline.Engine) -> None:
    put(engine, 1)
    seen = []
    with engine.feed("f", follow=False) as feed:
        for commit in feed:
            value = (commit.changes[0].data or {})["v"]
            seen.append(value)
            if value < 5:
                put(engine, value + 1)
    assert seen == [1, 2, 3, 4, 5]


def test_a_feed_needs_a_database_that_can_keep_its_position(tmp_path: Path) -> None:
    syncline.Engine(tmp_path / "a.db").close()
    with syncline.Engine(tmp_path / "a.db", read_only=True) as engine, pytest.raises(syncline.ReadOnly):
        engine.feed("f")


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 256, 5, None])
def test_a_name_that_is_none_is_refused(engine: syncline.Engine, name: Any) -> None:
    with pytest.raises(syncline.UsageError):
        engine.feed(name)
    assert engine.feeds() == []


def test_a_mutator_cannot_follow_a_feed(engine: syncline.Engine) -> None:
    put(engine, 1)
    with engine.write("s"), pytest.raises(syncline.UsageError):
        engine.feed("f")
    engine.feed("f").close()


def test_async_for_is_told_the_same_and_is_woken(engine: syncline.Engine) -> None:
    async def main() -> list[Any]:
        put(engine, 0)
        seen = []
        async with asyncio.timeout(60) if hasattr(asyncio, "timeout") else _Nothing():
            with engine.feed("f", save_every=3600) as feed:  # so that nothing else than a commit wakes it
                async for commit in feed:
                    value = (commit.changes[0].data or {})["v"]
                    seen.append(value)
                    if value == 3:
                        break
                    asyncio.get_running_loop().call_later(
                        0.01, lambda: asyncio.ensure_future(_push_async(engine, seen[-1] + 1))
                    )
        return seen

    assert asyncio.run(main()) == [0, 1, 2, 3]
    assert now(engine) == [("a", 3)]


class _Nothing:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc: object) -> None: ...


async def _push_async(engine: syncline.Engine, value: int) -> None:
    await engine.push_async([{"name": "set", "args": {"a": value}, "scope": "s"}])


def test_a_cancelled_task_loses_nothing_and_a_closed_feed_ends_it(engine: syncline.Engine) -> None:
    async def main() -> None:
        feed = engine.feed("f")
        for attempt in range(5):
            waiting = asyncio.ensure_future(anext_(feed))
            await asyncio.sleep(0 if attempt % 2 else 0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        put(engine, 1)
        assert (await anext_(feed)).changes[0].data == {"v": 1}
        last = asyncio.ensure_future(anext_(feed))
        await asyncio.sleep(0.01)
        feed.close()
        with pytest.raises(StopAsyncIteration):
            await last

    async def anext_(feed: syncline.Feed) -> syncline.Commit:
        return await feed.__anext__()

    asyncio.run(main())
    assert now(engine) == []


def test_async_without_following_ends(engine: syncline.Engine) -> None:
    for value in range(3):
        put(engine, value)

    async def main() -> list[Any]:
        return [commit.changes[0].data async for commit in engine.feed("f", follow=False)]

    assert asyncio.run(main()) == [{"v": 0}, {"v": 1}, {"v": 2}]
    assert now(engine) == []


STEP = st.one_of(
    st.tuples(st.just("push"), st.integers(1, 3), st.booleans()),
    st.tuples(st.just("write"), st.integers(1, 3), st.booleans()),
    st.tuples(st.just("take"), st.integers(1, 4), st.booleans()),
    st.tuples(st.just("break"), st.just(0), st.booleans()),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(STEP, max_size=25))
def test_every_commit_is_told_in_order_until_it_was_done_with(steps: list[tuple[str, int, bool]]) -> None:
    with syncline.Engine(":memory:", mutators=mutators()) as engine:
        expected: list[tuple[str, ...]] = []
        done = 0  # of the expected
        value = 0
        feed = engine.feed("f", save_every=0)
        try:
            for step, count, flag in steps:
                value += 1
                ids = tuple(f"d{n}" for n in range(count))
                if step == "push":
                    times = 2 if flag else 1
                    args = [dict.fromkeys(ids, value + n / 8) for n in range(times)]
                    engine.push([{"name": "set", "args": one, "scope": "s"} for one in args])
                    expected += [ids] * times
                elif step == "write":
                    with engine.write("s", "t") as txs:
                        for id in ids:
                            txs[flag].set("k", id, {"v": value})
                    expected.append(ids)
                elif step == "take":
                    iterator = iter(feed)
                    for n in range(count):
                        commit = feed.get(timeout=0)
                        if commit is None:
                            assert done + n == len(expected)
                            done = len(expected)
                            break
                        assert tuple(one.id for one in commit.changes) == expected[done + n]
                    else:
                        done += count - 1  # the last one was not done with
                        if flag:
                            feed.done()
                            done += 1
                    assert iterator is feed
                else:
                    feed.close()
                    feed = engine.feed("f")
        finally:
            feed.close()
