"""Which thread runs what, and that nothing waits with the GIL held or for ever."""

import asyncio
import contextvars
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import syncline

Hook = Callable[[syncline.Tx], object]


class Bench:
    """An engine with one mutator, which runs what the test puts in `hook`."""

    def __init__(self, path: Path) -> None:
        self.hook: Hook = lambda tx: tx.set("doc", tx.uuid(), {})
        mutators = syncline.Mutators()
        mutators.register("run", lambda tx, args: self.hook(tx))
        self.engine = syncline.Engine(path, mutators=mutators)

    def push(self, **options: Any) -> syncline.PushResult:
        return self.engine.push([{"name": "run", "scope": "s"}], **options)

    async def push_async(self, **options: Any) -> syncline.PushResult:
        return await self.engine.push_async([{"name": "run", "scope": "s"}], **options)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "app.db")
    with bench.engine:
        yield bench


def test_pushes_of_many_threads_all_arrive(bench: Bench) -> None:
    ran_on: list[bool] = []

    def hook(tx: syncline.Tx) -> None:
        ran_on.append(threading.current_thread().name.startswith("pusher"))
        tx.set("doc", tx.uuid(), {})

    bench.hook = hook
    threads = [
        threading.Thread(target=lambda: [bench.push() for _ in range(20)], name=f"pusher-{n}")
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(ran_on)
    assert len(bench.engine.pull("s")) == 160


def test_a_lock_that_a_mutator_and_its_callers_share_does_not_deadlock(bench: Bench) -> None:
    lock = threading.Lock()

    def hook(tx: syncline.Tx) -> None:
        with lock:
            tx.set("doc", tx.uuid(), {"at": time.monotonic()})

    bench.hook = hook
    threads = [threading.Thread(target=lambda: [bench.push() for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(100):
        with lock, bench.engine.read("s") as view:
            view.list("doc")
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("what", ["push", "write", "close"])
def test_reentry_is_refused_and_logged(bench: Bench, what: str, caplog: pytest.LogCaptureFixture) -> None:
    def again(tx: syncline.Tx) -> None:
        if what == "push":
            bench.push()
        elif what == "write":
            with bench.engine.write("s"):
                pass
        else:
            bench.engine.close()

    bench.hook = again
    (result,) = bench.push()
    assert result.error is not None
    assert result.error.code == "internal_error"
    assert "UsageError" in caplog.text
    bench.hook = lambda tx: None
    assert bench.push().ok


def test_reentry_from_the_engines_own_thread_is_refused(bench: Bench) -> None:
    def again(tx: syncline.Tx) -> None:
        with pytest.raises(syncline.UsageError):
            asyncio.run(bench.push_async())

    bench.hook = again
    assert asyncio.run(bench.push_async()).ok


def test_a_write_within_a_write_is_refused(bench: Bench) -> None:
    with bench.engine.write("s") as tx:
        with pytest.raises(syncline.UsageError):
            bench.push()
        with pytest.raises(syncline.UsageError), bench.engine.write("other"):
            pass
        tx.set("doc", "1", {})
    assert len(bench.engine.pull("s")) == 1


def test_a_push_withdraws_after_its_timeout(bench: Bench) -> None:
    begun, go = threading.Event(), threading.Event()

    def hold() -> None:
        with bench.engine.write("s"):
            begun.set()
            go.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    begun.wait()
    with pytest.raises(syncline.Timeout):
        bench.push(timeout=0.01)
    with pytest.raises(TimeoutError), bench.engine.write("s", timeout=0.01):
        pass
    with pytest.raises(syncline.Timeout):
        asyncio.run(bench.push_async(timeout=0.01))
    go.set()
    holder.join()
    assert bench.push().ok
    assert len(bench.engine.pull("s")) == 1


def test_the_main_thread_sees_signals_while_it_waits(bench: Bench) -> None:
    begun, end = threading.Event(), threading.Event()

    def hold() -> None:
        with bench.engine.write("s"):
            begun.set()
            while bench.engine.stats().waiting == 0:
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGINT)
            end.wait(30)

    # A suite that was started in the background ignores SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        holder = threading.Thread(target=hold)
        holder.start()
        begun.wait()
        with pytest.raises(KeyboardInterrupt):
            bench.push()
        end.set()
        holder.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert bench.push().ok


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupt_leaves_through_its_push_and_consumes_nothing(
    bench: Bench, kind: type[BaseException]
) -> None:
    def interrupted(tx: syncline.Tx) -> None:
        tx.set("doc", "1", {})
        raise kind

    bench.hook = interrupted
    with pytest.raises(kind):
        bench.engine.push([{"name": "run", "scope": "s", "client_id": "c", "client_seq": 1}])
    bench.hook = lambda tx: tx.set("doc", "2", {})
    (result,) = bench.engine.push([{"name": "run", "scope": "s", "client_id": "c", "client_seq": 1}])
    assert result.ok
    assert not result.duplicate
    assert [one.id for one in bench.engine.pull("s")] == ["2"]


def test_asynchronous_pushes_run_on_one_thread_in_their_callers_context(bench: Bench) -> None:
    who: contextvars.ContextVar[int] = contextvars.ContextVar("who")
    seen: set[int] = set()
    threads: set[str] = set()

    def hook(tx: syncline.Tx) -> None:
        seen.add(who.get())
        who.set(-1)
        threads.add(threading.current_thread().name)

    async def one(number: int) -> None:
        who.set(number)
        await bench.push_async()
        assert who.get() == number

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(50)))

    bench.hook = hook
    before = bench.engine.stats().commits
    asyncio.run(all_of_them())
    assert seen == set(range(50))
    assert threads == {"syncline-push"}
    assert bench.engine.stats().commits - before < 50


class Held:
    """The engine's own thread in a mutator until `go`: what is pushed meanwhile is its next batch."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._running, self._go = threading.Event(), threading.Event()
        self._then = bench.hook
        bench.hook = self._hold
        self._thread = threading.Thread(target=lambda: asyncio.run(bench.push_async()))
        self._thread.start()
        assert self._running.wait(30)

    def _hold(self, tx: syncline.Tx) -> None:
        self._bench.hook = self._then
        self._running.set()
        assert self._go.wait(30)

    def wait_for(self, count: int) -> None:
        while self._bench.engine._runner._pushes.qsize() < count:
            time.sleep(0.001)

    def go(self) -> None:
        self._go.set()
        self._thread.join()


who: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


async def push_as(bench: Bench, name: str) -> str:
    """Pushes in the name's context; returns the document that the answer speaks of, and checks where it came
    back."""
    loop, thread = asyncio.get_running_loop(), threading.get_ident()
    who.set(name)
    mutation = {"name": "run", "scope": name, "client_id": name, "client_seq": 1}
    (result,) = await bench.engine.push_async([mutation])
    assert asyncio.get_running_loop() is loop
    assert threading.get_ident() == thread
    assert result.cursor == bench.engine.cursor(name)
    (document,) = bench.engine.pull(name)
    return document.id


def test_results_of_one_batch_arrive_each_on_its_own_loop(bench: Bench) -> None:
    bench.hook = lambda tx: tx.set("doc", who.get(), {})
    held = Held(bench)
    names = [[f"{loop}-{number}" for number in range(10)] for loop in range(4)]
    answers: dict[int, list[str]] = {}

    def run(loop: int) -> None:
        async def main() -> list[str]:
            return await asyncio.gather(*(push_as(bench, name) for name in names[loop]))

        answers[loop] = asyncio.run(main())

    threads = [threading.Thread(target=run, args=(loop,)) for loop in range(4)]
    for thread in threads:
        thread.start()
    held.wait_for(40)
    before = bench.engine.stats().commits
    held.go()
    for thread in threads:
        thread.join()
    assert [answers[loop] for loop in range(4)] == names
    assert bench.engine.stats().commits - before == 2


def test_a_batch_wakes_its_loop_once(bench: Bench) -> None:
    woken = 0

    async def main() -> None:
        loop = asyncio.get_running_loop()
        wake = loop.call_soon_threadsafe

        def count(*args: Any, **options: Any) -> asyncio.Handle:
            nonlocal woken
            woken += 1
            return wake(*args, **options)

        held = Held(bench)
        loop.call_soon_threadsafe = count  # type: ignore[method-assign]
        pushes = [asyncio.ensure_future(bench.push_async()) for _ in range(50)]
        await asyncio.sleep(0)
        held.wait_for(50)
        held.go()
        await asyncio.gather(*pushes)

    asyncio.run(main())
    assert woken == 1


def test_a_loop_that_was_closed_does_not_lose_the_results_of_others(bench: Bench) -> None:
    bench.hook = lambda tx: tx.set("doc", who.get(), {})
    held = Held(bench)
    closed = asyncio.new_event_loop()
    forgotten = closed.create_task(push_as(bench, "forgotten"))
    closed.run_until_complete(asyncio.sleep(0))
    held.wait_for(1)
    closed.close()
    answers: list[str] = []
    other = threading.Thread(target=lambda: answers.append(asyncio.run(push_as(bench, "other"))))
    other.start()
    held.wait_for(2)
    held.go()
    other.join()
    assert answers == ["other"]
    assert not forgotten.done()
    # Nobody withdrew it: that its loop ended says nothing of what it pushed.
    assert [one.id for one in bench.engine.pull("forgotten")] == ["forgotten"]
    forgotten._log_destroy_pending = False  # type: ignore[attr-defined]


def test_a_push_whose_turn_has_come_is_not_withdrawn(bench: Bench) -> None:
    running, go = threading.Event(), threading.Event()

    def hook(tx: syncline.Tx) -> None:
        running.set()
        assert go.wait(30)
        tx.set("doc", tx.uuid(), {})

    async def main() -> None:
        bench.hook = hook
        cancelled = asyncio.ensure_future(bench.push_async())
        await asyncio.sleep(0)
        assert running.wait(30)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        go.set()
        await bench.push_async()

        running.clear()
        go.clear()
        late = asyncio.ensure_future(bench.push_async(timeout=0.01))
        await asyncio.sleep(0)
        # The loop stands still meanwhile: its timer comes after the turn.
        assert running.wait(30)
        await asyncio.sleep(0.05)
        assert not late.done()
        go.set()
        assert (await late).ok

    asyncio.run(main())
    assert len(bench.engine.pull("s")) == 3


def test_what_ends_one_push_reaches_its_caller_and_not_its_batch(bench: Bench) -> None:
    class Leaves(BaseException):
        pass

    def hook(tx: syncline.Tx) -> None:
        if who.get() == "leaves":
            raise Leaves
        tx.set("doc", who.get(), {})

    async def main() -> list[Any]:
        held = Held(bench)
        names = ("a", "leaves", "b")
        pushes = [asyncio.ensure_future(push_as(bench, name)) for name in names]
        await asyncio.sleep(0)
        held.wait_for(3)
        held.go()
        return await asyncio.gather(*pushes, return_exceptions=True)

    bench.hook = hook
    first, left, last = asyncio.run(main())
    assert (first, last) == ("a", "b")
    assert isinstance(left, Leaves)


def test_a_tx_that_one_push_of_a_batch_kept_is_dead_in_the_next(bench: Bench) -> None:
    kept: list[syncline.Tx] = []
    refused: list[BaseException] = []

    def hook(tx: syncline.Tx) -> None:
        for other in kept:
            assert tx is not other
            with pytest.raises(syncline.Error) as raised:
                other.set("doc", "stolen", {})
            refused.append(raised.value)
        kept.append(tx)
        tx.set("doc", who.get(), {})

    async def main() -> list[str]:
        held = Held(bench)
        pushes = [asyncio.ensure_future(push_as(bench, name)) for name in "abc"]
        await asyncio.sleep(0)
        held.wait_for(3)
        held.go()
        return await asyncio.gather(*pushes)

    bench.hook = hook
    assert asyncio.run(main()) == ["a", "b", "c"]
    assert len(refused) == 3


def test_a_push_withdrawn_within_its_batch_does_not_run(bench: Bench) -> None:
    running, go = threading.Event(), threading.Event()

    def hook(tx: syncline.Tx) -> None:
        if who.get() == "first":
            running.set()
            assert go.wait(30)
        tx.set("doc", who.get(), {})

    async def main() -> None:
        held = Held(bench)
        first = asyncio.ensure_future(push_as(bench, "first"))
        second = asyncio.ensure_future(push_as(bench, "second"))
        await asyncio.sleep(0)
        held.wait_for(2)
        held.go()
        assert running.wait(30)
        # Both are the runner's already, and the first one's mutator runs.
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        go.set()
        assert await first == "first"

    bench.hook = hook
    asyncio.run(main())
    assert len(bench.engine.pull("second")) == 0


def test_a_signal_withdraws_what_a_thread_waits_for_over_http(bench: Bench) -> None:
    def interrupt() -> None:
        held.wait_for(1)
        os.kill(os.getpid(), signal.SIGINT)

    body = b'{"mutations": [{"name": "run", "scope": "s", "client_id": "c", "client_seq": 1}]}'
    headers = {"content-type": "application/json"}
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        held = Held(bench)
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            bench.engine.handle(
                "POST",
                "/_sync/push",
                headers,
                body,
                authenticate=lambda request: "ada",
                authorize=lambda user, action, scope: True,
            )
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
        held.go()
    assert bench.push().ok
    assert len(bench.engine.pull("s")) == 1


def test_a_cancelled_push_is_withdrawn(bench: Bench) -> None:
    async def main() -> None:
        with bench.engine.write("other"):
            waiting = [asyncio.ensure_future(bench.push_async()) for _ in range(2)]
            await asyncio.sleep(0.05)
            late = asyncio.ensure_future(bench.push_async())
            await asyncio.sleep(0)
            late.cancel()
            with pytest.raises(asyncio.CancelledError):
                await late
        await asyncio.gather(*waiting)

    asyncio.run(main())
    assert len(bench.engine.pull("s")) == 2


def test_an_asynchronous_write_queues_and_is_used_on_the_loop(bench: Bench) -> None:
    async def add(number: int) -> None:
        async with bench.engine.write_async("a", "b") as (a, b):
            a.set("doc", str(number), {"n": number})
            await asyncio.sleep(0.001)
            b.set("doc", str(number), {"n": number})

    async def main() -> None:
        await asyncio.gather(*(add(number) for number in range(10)), *(bench.push_async() for _ in range(10)))
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with bench.engine.write_async("a") as tx:
                tx.set("doc", "never", {})
                raise ZeroDivisionError
        async with bench.engine.write_async("a"):
            with pytest.raises(syncline.UsageError):
                await bench.push_async()
            with pytest.raises(syncline.UsageError):
                async with bench.engine.write_async("b"):
                    pass
            with pytest.raises(syncline.UsageError):
                bench.push()

    asyncio.run(main())
    assert len(bench.engine.pull("a")) == len(bench.engine.pull("b")) == 10
    assert len(bench.engine.pull("s")) == 10


def test_an_asynchronous_write_can_be_cancelled_while_it_waits(bench: Bench) -> None:
    async def enter() -> None:
        async with bench.engine.write_async("s") as tx:
            tx.set("doc", "never", {})

    async def main() -> None:
        async with bench.engine.write_async("s") as tx:
            waiting = asyncio.ensure_future(enter())
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            tx.set("doc", "1", {})
        async with bench.engine.write_async("s") as tx:
            tx.set("doc", "2", {})

    asyncio.run(main())
    assert [one.id for one in bench.engine.pull("s")] == ["1", "2"]


def test_a_tx_belongs_to_its_thread(bench: Bench) -> None:
    caught: list[BaseException] = []

    def other(tx: syncline.Tx) -> None:
        try:
            tx.set("doc", "1", {})
        except syncline.Error as error:
            caught.append(error)

    def hook(tx: syncline.Tx) -> None:
        thread = threading.Thread(target=other, args=(tx,))
        thread.start()
        thread.join()

    bench.hook = hook
    assert bench.push().ok
    assert isinstance(caught[0], syncline.UsageError)


def test_an_engine_is_of_no_use_after_fork(bench: Bench) -> None:
    asyncio.run(bench.push_async())
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for use in (bench.push, lambda: bench.engine.pull("s"), lambda: asyncio.run(bench.push_async())):
                with pytest.raises(syncline.UsageError, match="fork"):
                    use()
            bench.engine.close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bench.push().ok


EXITS = {
    "forgotten": "asyncio.run(engine.push_async([m]))",
    "in a daemon thread": """
import threading, time
def forever():
    while True:
        engine.push([m])
for _ in range(4):
    threading.Thread(target=forever, daemon=True).start()
time.sleep(0.2)
""",
    "within an asynchronous write": """
async def main():
    write = engine.write_async("s")
    await write.__aenter__()
asyncio.run(main())
""",
    "with a subscription": "subscription = engine.subscribe('s'); engine.push([m])",
    "with a view": "view = engine.read('s'); view.list('doc')",
    "queued": """
loop = asyncio.new_event_loop()
tasks = [loop.create_task(engine.push_async([m])) for _ in range(10)]
loop.run_until_complete(asyncio.sleep(0))
import logging; logging.disable()
""",
}


@pytest.mark.parametrize("how", EXITS)
def test_the_interpreter_exits_when_the_engine_was_not_closed(how: str, tmp_path: Path) -> None:
    script = f"""
import asyncio, syncline
mutators = syncline.Mutators()
mutators.register("run", lambda tx, args: tx.set("doc", tx.uuid(), {{}}))
engine = syncline.Engine({str(tmp_path / "app.db")!r}, mutators=mutators)
m = {{"name": "run", "scope": "s"}}
{EXITS[how]}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr


def test_pokes_reach_threads_and_tasks(bench: Bench) -> None:
    with bench.engine.subscribe("s", "t") as subscription:
        assert subscription.get(timeout=0) is None
        first = bench.push()
        assert subscription.get(timeout=5) == ("s", first.cursor, bench.engine.epoch)
        with bench.engine.write("other") as tx:
            tx.set("doc", "1", {})
        bench.push()
        last = bench.push()
        assert subscription.get(timeout=5) == ("s", last.cursor, bench.engine.epoch)
        assert subscription.get(timeout=0) is None

    async def main() -> None:
        with bench.engine.subscribe("s") as pokes:
            waiting = asyncio.ensure_future(anext(pokes))
            await asyncio.sleep(0.01)
            pushed = await bench.push_async()
            assert (await waiting).cursor == pushed.cursor

    asyncio.run(main())


def test_closing_the_engine_ends_its_subscriptions(bench: Bench) -> None:
    subscription = bench.engine.subscribe("s")
    heard: list[syncline.Poke] = []
    listener = threading.Thread(target=lambda: heard.extend(subscription))
    listener.start()
    bench.push()
    while not heard:
        time.sleep(0.001)
    bench.engine.close()
    listener.join()
    with pytest.raises(syncline.Closed):
        subscription.get()


def test_closing_a_subscription_ends_all_who_wait_for_it(bench: Bench) -> None:
    subscription = bench.engine.subscribe("s")
    heard: list[syncline.Poke] = []
    listeners = [threading.Thread(target=lambda: heard.extend(subscription)) for _ in range(3)]

    async def main() -> None:
        async def listen() -> None:
            heard.extend([poke async for poke in subscription])

        tasks = [asyncio.ensure_future(listen()) for _ in range(3)]
        await asyncio.sleep(0.01)
        subscription.close()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)

    for listener in listeners:
        listener.start()
    asyncio.run(main())
    for listener in listeners:
        listener.join(30)
        assert not listener.is_alive()
    assert heard == []


def test_who_gives_up_waiting_leaves_nothing_behind(bench: Bench) -> None:
    def events() -> int:
        gc.collect()
        return sum(isinstance(one, asyncio.Event) for one in gc.get_objects())

    async def main() -> None:
        with bench.engine.subscribe("s") as subscription:
            before = events()
            for _ in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(subscription), 0.001)
            assert events() == before

    asyncio.run(main())


def test_another_broker_hears_of_every_commit(tmp_path: Path) -> None:
    class Recorder(syncline.LocalBroker):
        def __init__(self) -> None:
            super().__init__()
            self.heard: list[str] = []

        def publish(self, pokes: Any, /) -> None:
            self.heard += [one.scope for one in pokes]
            super().publish(pokes)

    recorder = Recorder()
    with syncline.Engine(tmp_path / "app.db", broker=recorder) as engine, engine.write("a", "b") as (a, b):
        a.set("doc", "1", {})
        b.set("doc", "1", {})
    assert sorted(recorder.heard) == ["a", "b"]


async def test_a_bad_user_is_refused_alone_and_not_its_batch() -> None:
    with syncline.Engine(":memory:", mutators=syncline.Mutators()) as engine:
        with pytest.raises(syncline.UsageError):
            await engine.push_async([], user="_reserved")
        assert (await engine.push_async([], user="ada")).results == []
