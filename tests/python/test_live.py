"""`/_sync/live`: every frame, refusal and limit, over real sockets and real servers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import syncline
import websockets
from http_support import HOOKS, by_asgi, by_handle, by_token, by_wsgi, make_engine, served_asgi
from http_support import Client as HttpClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syncline import http as sync_http
from syncline import live
from websockets.asyncio.client import ClientConnection
from websockets.sync.client import connect as sync_connect

Settings = live.Settings
PATIENCE = 30.0  # for what must come; nothing here is measured


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with make_engine() as engine:
        yield engine


@dataclasses.dataclass
class Client:
    """A client of the live channel, frame by frame."""

    socket: ClientConnection

    async def send(self, **frame: object) -> None:
        await self.socket.send(json.dumps(frame))

    async def hear(self) -> dict[str, Any]:
        frame = json.loads(await asyncio.wait_for(self.socket.recv(), PATIENCE))
        assert isinstance(frame, dict)
        return frame

    async def hear_a(self, kind: str) -> dict[str, Any]:
        """The next frame of that kind; others before it are passed over."""
        while (frame := await self.hear())["type"] != kind:
            pass
        return frame

    async def auth(self, token: str | None = "t-ada") -> Client:
        await self.send(type="auth", token=token)
        assert (await self.hear())["type"] == "welcome"
        return self

    async def subscribe(self, *scopes: str) -> list[dict[str, Any]]:
        """The answers, one for each."""
        await self.send(type="subscribe", scopes=list(scopes))
        return [await self.hear() for _ in scopes]

    async def closed(self) -> tuple[int, list[dict[str, Any]]]:
        """The code with which the server closes, and what it says before."""
        said = []
        try:
            while True:
                said.append(await self.hear())
        except websockets.ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006, said


def address(url: str, path: str = "/_sync/live") -> str:
    return url.replace("http", "ws", 1) + path


@contextlib.asynccontextmanager
async def connected(url: str, path: str = "/_sync/live", **options: Any) -> AsyncIterator[Client]:
    async with websockets.connect(address(url, path), proxy=None, **options) as socket:
        yield Client(socket)


@contextlib.contextmanager
def served(engine: syncline.Engine, settings: Settings | None = None, **options: Any) -> Iterator[str]:
    hooks = {**HOOKS, **options}
    with served_asgi(syncline.asgi(engine, **hooks, live=settings)) as url:
        yield url


def write(engine: syncline.Engine, scope: str = "list:1") -> int:
    """A commit; its cursor."""
    with engine.write(scope) as tx:
        tx.set("note", str(engine.head), {"n": engine.head})
    return engine.cursor(scope)


async def until(so: Callable[[], bool]) -> None:
    for _ in range(int(PATIENCE * 100)):
        if so():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to pass")


# ----------------------------------------------------------------------------------------------------- frames


async def test_a_subscriber_is_told_where_the_scope_is_and_then_of_each_commit(
    engine: syncline.Engine,
) -> None:
    before = write(engine)
    with served(engine) as url:
        async with connected(url) as client:
            await client.auth()
            (answer,) = await client.subscribe("list:1")
            assert answer == {"type": "poke", "scope": "list:1", "cursor": before, "epoch": engine.epoch}
            for _ in range(3):
                cursor = await asyncio.to_thread(write, engine)
                assert await client.hear() == {**answer, "cursor": cursor}
            write(engine, "list:2")
            await client.send(type="ping")
            assert await client.hear() == {"type": "pong"}


async def test_welcome_tells_what_a_client_has_to_keep_to(engine: syncline.Engine) -> None:
    with served(engine, Settings(ping=7, idle_timeout=20, scopes=3)) as url:
        async with connected(url) as client:
            await client.send(type="auth", token="t-ada")
            welcome = await client.hear()
            assert welcome == {"type": "welcome", "ping": 7, "idle_timeout": 20, "scopes": 3}


async def test_each_scope_is_answered_and_what_is_not_allowed_refused(engine: syncline.Engine) -> None:
    with served(engine) as url:
        async with connected(url) as client:
            await client.auth()
            answers = await client.subscribe("list:1", "secret:1", "_own", "", "é" * 200, "\ud800", "list:2")
            told = {answer["scope"]: (answer["type"], answer.get("code")) for answer in answers}
            assert told == {
                "list:1": ("poke", None),
                "secret:1": ("refused", "forbidden"),
                "_own": ("refused", "invalid_scope"),
                "": ("refused", "invalid_scope"),
                "é" * 200: ("refused", "invalid_scope"),
                "\ud800": ("refused", "invalid_scope"),
                "list:2": ("poke", None),
            }
    assert engine.stats().live.refused == 5


async def test_unsubscribed_is_the_last_that_is_heard_of_a_scope(engine: syncline.Engine) -> None:
    with served(engine) as url:
        async with connected(url) as client:
            await client.auth()
            await client.subscribe("list:1", "list:2")
            await client.send(type="unsubscribe", scopes=["list:1", "never"])
            assert [await client.hear() for _ in range(2)] == [
                {"type": "unsubscribed", "scope": "list:1"},
                {"type": "unsubscribed", "scope": "never"},
            ]
            write(engine, "list:1")
            cursor = write(engine, "list:2")
            assert (await client.hear())["cursor"] == cursor


async def test_subscribing_again_is_answered_again_and_pokes_once(engine: syncline.Engine) -> None:
    with served(engine) as url:
        async with connected(url) as client:
            await client.auth()
            for _ in range(3):
                ((answer),) = await client.subscribe("list:1")
                assert answer["cursor"] == 0
            cursor = write(engine)
            assert (await client.hear())["cursor"] == cursor
            await client.send(type="ping")
            assert (await client.hear())["type"] == "pong"
            assert engine.stats().live.subscriptions == 1


async def test_a_word_the_server_does_not_know_is_said_so_and_costs_nothing(engine: syncline.Engine) -> None:
    with served(engine) as url:
        async with connected(url) as client:
            await client.auth()
            await client.send(type="dance")
            said = await client.hear()
            assert (said["type"], said["code"]) == ("error", "invalid_request")
            assert (await client.subscribe("list:1"))[0]["type"] == "poke"


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        '{"type": 7}',
        b"\x00",
        b'{"type": "ping"}',
        '{"type": "subscribe"}',
        '{"type": "subscribe", "scopes": "list:1"}',
        '{"type": "subscribe", "scopes": [1]}',
        '{"type": "unsubscribe", "scopes": {"a": 1}}',
        '{"type": "auth", "token": 7}',
        '{"type": "auth", "token": ""}',
        '{"type": "auth", "token": "a\\r\\nb: c"}',
        "[" * 30_000,
    ],
)
async def test_what_is_no_frame_ends_the_connection(engine: syncline.Engine, frame: str | bytes) -> None:
    with served(engine) as url:
        async with connected(url) as client:
            await client.auth()
            await client.socket.send(frame)
            code, said = await client.closed()
            assert code == 4400
            assert [one["code"] for one in said] == ["invalid_request"]
        async with connected(url) as another:
            await another.auth()


GOLDEN = json.loads((Path(__file__).parents[1] / "vectors" / "live.json").read_text())


def made_alike(frame: dict[str, Any], engine: syncline.Engine) -> dict[str, Any]:
    if "message" in frame:
        frame["message"] = "a sentence for people"
    if frame.get("epoch") == engine.epoch:
        frame["epoch"] = "epoch-0000000001"
    return frame


@pytest.mark.parametrize(
    "conversation", GOLDEN["conversations"], ids=[one["say"] for one in GOLDEN["conversations"]]
)
async def test_the_server_says_what_the_golden_conversations_have(
    engine: syncline.Engine, conversation: dict[str, Any]
) -> None:
    revoked: set[str] = set()

    @sync_http.quick
    def may(user: str, action: sync_http.Action, scope: str) -> bool:
        return not scope.startswith("secret") and scope not in revoked

    steps = list(conversation["steps"])
    headers = steps.pop(0)["headers"] if "headers" in steps[0] else {}
    settings = Settings(**GOLDEN["settings"])
    app = syncline.asgi(engine, authenticate=by_token, authorize=may, live=settings)
    with served_asgi(app) as url:
        async with connected(url, additional_headers=headers) as client:
            for step in steps:
                ((what, value),) = step.items()
                if what == "client":
                    await client.send(**value)
                elif what == "server":
                    assert made_alike(await client.hear(), engine) == value
                elif what == "text":
                    await client.socket.send(value)
                elif what == "commit":
                    await asyncio.to_thread(write, engine, value)
                elif what == "revoke":
                    revoked.add(value)
                    app.live.recheck()
                elif what == "stop":
                    app.live.close()
                else:
                    assert what == "close"
                    assert await client.closed() == (value, [])


# ---------------------------------------------------------------------------------------------- who is asking


async def test_a_token_that_nobody_has_is_unauthenticated(engine: syncline.Engine) -> None:
    with served(engine) as url:
        for frame in (
            {"type": "auth", "token": "nobody"},
            {"type": "auth"},
            {"type": "subscribe", "scopes": []},
        ):
            async with connected(url) as client:
                await client.send(**frame)
                code, said = await client.closed()
                assert (code, said[0]["code"]) == (4401, "unauthenticated")


async def test_a_handshake_that_says_who_it_is_needs_no_token(engine: syncline.Engine) -> None:
    with served(engine) as url:
        async with connected(url, additional_headers={"Authorization": "Bearer t-ada"}) as client:
            await client.send(type="subscribe", scopes=["list:1"])
            assert (await client.hear())["type"] == "welcome"
            assert (await client.hear())["type"] == "poke"


def by_cookie(request: sync_http.Request) -> str | None:
    return by_token(request) or request.cookies.get("session")


COOKIE = {"Cookie": "session=ada"}


async def test_a_page_of_the_same_origin_is_known_by_its_cookie(engine: syncline.Engine) -> None:
    with served(engine, authenticate=by_cookie) as url:
        async with connected(url, origin=url, additional_headers=COOKIE) as client:
            await client.auth(None)
            assert (await client.subscribe("list:1"))[0]["type"] == "poke"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1", ""]
)
async def test_a_page_of_another_origin_is_turned_away(engine: syncline.Engine, origin: str) -> None:
    with served(engine, authenticate=by_cookie) as url:
        with pytest.raises(websockets.InvalidStatus) as turned_away:
            async with connected(url, additional_headers={**COOKIE, "Origin": origin}):
                pass
        assert turned_away.value.response.status_code == 403
        assert json.loads(turned_away.value.response.body)["error"]["code"] == "forbidden"


async def test_cors_lets_a_page_come_but_not_with_its_visitors_cookies(engine: syncline.Engine) -> None:
    page = "https://app.example"
    cors = sync_http.Cors(origins=[page])
    with served(engine, authenticate=by_cookie, cors=cors) as url:
        async with connected(url, origin=page, additional_headers=COOKIE) as client:
            await client.send(type="auth")
            assert (await client.closed())[0] == 4401
        async with connected(url, origin=page, additional_headers=COOKIE) as client:
            await client.auth("t-bob")
        with pytest.raises(websockets.InvalidStatus):
            async with connected(url, origin="https://other.example"):
                pass


async def test_cors_with_credentials_lets_the_cookies_in(engine: syncline.Engine) -> None:
    page = "https://app.example"
    cors = sync_http.Cors(origins=[page], credentials=True)
    with served(engine, authenticate=by_cookie, cors=cors) as url:
        async with connected(url, origin=page, additional_headers=COOKIE) as client:
            await client.auth(None)


async def test_the_token_comes_before_the_handshakes_own(engine: syncline.Engine) -> None:
    seen: list[tuple[str, str | None]] = []

    @sync_http.quick
    def who(request: sync_http.Request) -> str | None:
        seen.append((request.path, request.token))
        return by_token(request)

    with served(engine, authenticate=who) as url:
        async with connected(url, additional_headers={"Authorization": "Bearer t-old"}) as client:
            await client.auth("t-new")
    assert seen == [("/_sync/live", "t-new")]


async def test_a_connection_may_say_anew_who_it_is_but_not_become_another(engine: syncline.Engine) -> None:
    with served(engine) as url:
        async with connected(url) as client:
            await client.auth()
            await client.auth()
            await client.send(type="auth", token="t-bob")
            code, said = await client.closed()
            assert (code, said[-1]["code"]) == (4401, "unauthenticated")


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (ZeroDivisionError("a detail that must stay on the server"), 1011, "internal_error"),
        (syncline.Forbidden("not here"), 4403, "forbidden"),
        (syncline.RateLimited("slowly", details={"retry_after": 3}), 4429, "rate_limited"),
        (syncline.Unavailable("later"), 1013, "unavailable"),
    ],
)
async def test_what_authenticate_raises_is_said_and_closes(
    engine: syncline.Engine, raised: Exception, code: int, said: str
) -> None:
    def who(request: sync_http.Request) -> str:
        raise raised

    with served(engine, authenticate=who) as url:
        async with connected(url) as client:
            await client.send(type="auth", token="t-ada")
            closed, frames = await client.closed()
    assert (closed, [frame["code"] for frame in frames]) == (code, [said])
    assert frames[0].get("retry_after") == (3 if said == "rate_limited" else None)
    assert "detail" not in json.dumps(frames)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (ZeroDivisionError("a detail that must stay on the server"), "internal_error"),
        (syncline.Forbidden("not this one"), "forbidden"),
        (syncline.RateLimited("slowly"), "rate_limited"),
        (syncline.Unavailable("later"), "unavailable"),
    ],
)
@pytest.mark.parametrize("kind", ["thread", "quick", "async"])
async def test_what_authorize_raises_refuses_that_scope_alone(
    engine: syncline.Engine, raised: Exception, said: str, kind: str
) -> None:
    def may(user: str, action: str, scope: str) -> bool:
        assert action == "read"
        if scope == "odd":
            raise raised
        return True

    async def may_async(user: str, action: str, scope: str) -> bool:
        return may(user, action, scope)

    hook = {"thread": may, "quick": sync_http.quick(may), "async": may_async}[kind]
    with served(engine, authorize=hook) as url:
        async with connected(url) as client:
            await client.auth()
            answers = await client.subscribe("odd", "list:1")
    assert {answer["scope"]: answer.get("code") for answer in answers} == {"odd": said, "list:1": None}
    assert "detail" not in json.dumps(answers)


# ------------------------------------------------------------------------------------------ nothing is missed


async def test_a_commit_between_the_question_and_the_answer_is_in_the_answer(engine: syncline.Engine) -> None:
    def may(user: str, action: str, scope: str) -> bool:
        write(engine, scope)
        return True

    with served(engine, authorize=may) as url:
        async with connected(url) as client:
            await client.auth()
            (answer,) = await client.subscribe("list:1")
            assert answer["cursor"] == engine.cursor("list:1") > 0


async def test_whoever_subscribes_while_others_commit_ends_at_the_last_commit(
    engine: syncline.Engine,
) -> None:
    stop = threading.Event()

    def commit() -> None:
        while not stop.is_set():
            write(engine)

    async def follow(url: str) -> None:
        async with connected(url) as client:
            await client.auth()
            (answer,) = await client.subscribe("list:1")
            cursor = answer["cursor"]
            heard.append(None)
            while not stop.is_set() or cursor < engine.cursor("list:1"):
                now = (await client.hear_a("poke"))["cursor"]
                assert now >= cursor
                cursor = now

    heard: list[None] = []
    with served(engine) as url:
        writer = threading.Thread(target=commit)
        writer.start()
        try:
            followers = [asyncio.create_task(follow(url)) for _ in range(20)]
            await until(lambda: len(heard) == 20 or any(one.done() for one in followers))
        finally:
            stop.set()
            writer.join()
        write(engine)
        await asyncio.wait_for(asyncio.gather(*followers), PATIENCE)


async def test_pokes_that_come_late_take_nobody_back() -> None:
    broker = syncline.LocalBroker()
    with make_engine(broker=broker) as engine, served(engine) as url:
        async with connected(url) as client:
            await client.auth()
            await client.subscribe("list:1")
            for cursor in (5, 4, 5, 6):
                broker.publish([syncline.Poke("list:1", cursor, "one")])
            broker.publish([syncline.Poke("list:1", 3, "another epoch")])
            heard = [await client.hear()]
            while heard[-1]["epoch"] != "another epoch":
                heard.append(await client.hear())
            # Those that came together may be one, the newest.
            cursors = [poke["cursor"] for poke in heard]
            assert cursors[:-1] == sorted(set(cursors[:-1]))
            assert cursors[-1] == 3


async def test_a_broker_that_fails_closes_the_connection_and_not_the_server() -> None:
    class Fails(syncline.LocalBroker):
        def subscribe(self, scopes: Any, callback: Any, /) -> Any:
            if "odd" in scopes:
                raise ConnectionError("a detail that must stay on the server")
            return super().subscribe(scopes, callback)

    with make_engine(broker=Fails()) as engine, served(engine) as url:
        for _ in range(2):
            async with connected(url) as client:
                await client.auth()
                await client.send(type="subscribe", scopes=["odd"])
                code, said = await client.closed()
                assert (code, said[-1]["code"]) == (1011, "internal_error")
                assert "detail" not in json.dumps(said)
        async with connected(url) as client:
            await client.auth()
            await client.subscribe("list:1")
            write(engine)
            assert (await client.hear())["type"] == "poke"


@contextlib.contextmanager
def served_on_two_loops(app: Any) -> Iterator[list[str]]:
    with served_asgi(app, lifespan="off") as one, served_asgi(app, lifespan="off") as other:
        yield [one, other]


async def test_clients_of_several_loops_hear_of_every_commit(engine: syncline.Engine) -> None:
    app = syncline.asgi(engine, **HOOKS)
    with served_on_two_loops(app) as urls:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connected(url)) for url in urls * 3]
            for client in clients:
                await client.auth()
                await client.subscribe("list:1")
            for _ in range(5):
                cursor = await asyncio.to_thread(write, engine)
                assert [(await client.hear())["cursor"] for client in clients] == [cursor] * 6
            assert engine.stats().live.connections == app.live.connections == 6
        await until(lambda: engine.stats().live.connections == 0)
    now = engine.stats().live
    assert (now.connections, now.subscriptions, now.pokes, app.live.connections) == (0, 0, 36, 0)


async def test_a_loop_that_was_closed_under_its_clients_is_forgotten(engine: syncline.Engine) -> None:
    app = syncline.asgi(engine, **HOOKS)
    incoming = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": '{"type":"auth"}'}]
    incoming.append({"type": "websocket.receive", "text": '{"type":"subscribe","scopes":["list:1"]}'})
    sent: list[Any] = []

    def abandon() -> None:
        loop = asyncio.new_event_loop()

        async def receive() -> Any:
            if incoming:
                return incoming.pop(0)
            return await loop.create_future()

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "websocket", "path": "/_sync/live", "headers": [(b"authorization", b"Bearer t-ada")]}
        task = loop.create_task(app(scope, receive, send))
        while not any('"poke"' in message.get("text", "") for message in sent):
            loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
        kept.append(task)

    kept: list[Any] = []
    await asyncio.to_thread(abandon)
    assert engine.stats().live.subscriptions == 1
    write(engine)
    write(engine)
    assert engine.stats().live.connections == engine.stats().live.subscriptions == app.live.connections == 0


# ---------------------------------------------------------------------------------------------- a slow reader

LONG = [f"list:{number}:{'x' * 230}" for number in range(150)]


def as_middlewares_do(app: Any) -> Any:
    """So that `send` is not the server's own."""

    async def wrapped(scope: Any, receive: Any, send: Any) -> None:
        async def pass_on(message: Any) -> None:
            await send(message)

        await app(scope, receive, pass_on)

    return wrapped


@pytest.mark.parametrize("ws", ["websockets-sansio", "wsproto"])
@pytest.mark.parametrize("wrapped", [False, True])
async def test_a_slow_reader_holds_nobody_up_and_gets_the_newest_of_each_scope(
    engine: syncline.Engine, wrapped: bool, ws: Any
) -> None:
    app = syncline.asgi(engine, **HOOKS)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with served_asgi(as_middlewares_do(app) if wrapped else app, lifespan="off", ws=ws) as url:
        narrow.connect(("127.0.0.1", urlsplit(url).port))
        # Pokes are so alike that, compressed, thousands would fit the kernel's buffers.
        unread = connected(url, sock=narrow, max_queue=1, compression=None)
        async with connected(url) as quick, unread as slow:
            for client in (quick, slow):
                await client.auth()
            await slow.subscribe(*LONG, "list:1")
            await quick.subscribe("list:1")

            def commit() -> None:
                with engine.write("list:1", *LONG) as txs:
                    for tx in txs:
                        tx.set("note", "n", {"n": engine.head})

            for _ in range(1000):
                await asyncio.to_thread(commit)
                assert (await quick.hear_a("poke"))["cursor"] == engine.cursor("list:1")
                if engine.stats().live.coalesced > 500:
                    break
            assert engine.stats().live.coalesced > 500
            waiting = [len(one.waiting) for hub in app.live._all() for one in hub.connections]
            assert max(waiting) <= len(LONG) + 1

            newest = {scope: engine.cursor(scope) for scope in ("list:1", *LONG)}
            reached: dict[str, int] = {}
            while reached != newest:
                poke = await slow.hear_a("poke")
                assert poke["cursor"] > reached.get(poke["scope"], 0)
                reached[poke["scope"]] = poke["cursor"]
            write(engine)
            for client in (slow, quick):
                assert (await client.hear_a("poke"))["cursor"] == engine.cursor("list:1")


async def test_a_middleware_that_needs_a_task_has_one(engine: syncline.Engine) -> None:
    app = syncline.asgi(engine, **HOOKS)

    async def with_timeout(scope: Any, receive: Any, send: Any) -> None:
        async def pass_on(message: Any) -> None:
            if asyncio.current_task() is None:
                raise RuntimeError("a timeout should be used inside a task")
            await asyncio.wait_for(send(message), PATIENCE)

        await app(scope, receive, pass_on)

    with served_asgi(with_timeout, lifespan="off") as url:
        async with connected(url) as client:
            await client.auth()
            await client.subscribe("list:1", "list:2")
            for _ in range(3):
                cursor = await asyncio.to_thread(write, engine)
                assert (await client.hear())["cursor"] == cursor


async def test_who_asks_without_reading_is_not_read_from(engine: syncline.Engine) -> None:
    """Its answers would have to be kept. It is closed in the end, as one that says nothing."""
    app = syncline.asgi(engine, **HOOKS, live=Settings(frames_per_second=1e6, ping=0.5, idle_timeout=2))
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with served_asgi(app, lifespan="off") as url:
        narrow.connect(("127.0.0.1", urlsplit(url).port))
        async with connected(url, sock=narrow, max_queue=1, ping_interval=None) as client:
            await client.auth()

            async def flood() -> None:
                while True:
                    await client.send(type="subscribe", scopes=LONG)

            flooding = asyncio.create_task(flood())
            # It comes to a stand when all buffers are full, and the server gives it up.
            await until(lambda: app.live.connections == 0)
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)
    assert engine.stats().live.connections == 0


# ----------------------------------------------------------------------------------------------------- limits


async def test_one_connection_more_than_allowed_is_told_so(engine: syncline.Engine) -> None:
    with served(engine, Settings(connections=2)) as url:
        async with connected(url) as one, connected(url):
            async with connected(url) as third:
                code, said = await third.closed()
                assert code == 4429
                assert (said[0]["code"], said[0]["limit"]) == ("rate_limited", 2)
                assert said[0]["retry_after"] > 0
            await one.auth()
        await until(lambda: engine.stats().live.connections == 0)
        async with connected(url) as again:
            await again.auth()


async def test_one_scope_more_than_allowed_is_refused(engine: syncline.Engine) -> None:
    with served(engine, Settings(scopes=2)) as url:
        async with connected(url) as client:
            await client.auth()
            answers = await client.subscribe("a", "b", "c")
            assert [answer["type"] for answer in answers].count("refused") == 1
            (refused,) = (answer for answer in answers if answer["type"] == "refused")
            assert (refused["scope"], refused["code"], refused["limit"]) == ("c", "too_large", 2)
            await client.send(type="unsubscribe", scopes=["a"])
            await client.hear()
            assert (await client.subscribe("c"))[0]["type"] == "poke"


async def test_a_frame_that_is_too_large_closes(engine: syncline.Engine) -> None:
    with served(engine, Settings(frame_bytes=100)) as url:
        for text in ("x" * 101, "é" * 51):
            async with connected(url) as client:
                await client.auth()
                await client.socket.send(text)
                code, said = await client.closed()
                assert (code, said[0]["code"], said[0]["limit"]) == (1009, "too_large", 100)


async def test_too_many_frames_a_second_close(engine: syncline.Engine) -> None:
    with served(engine, Settings(frames_per_second=0.001)) as url:
        async with connected(url) as client:
            await client.send(type="ping")
            code, said = await client.closed()
            assert code == 4429
            assert (said[0]["code"], said[0]["retry_after"]) == ("rate_limited", 1)
    with served(engine, Settings(frames_per_second=1)) as url:
        async with connected(url) as client:
            for _ in range(30):
                await client.send(type="ping")
            code, said = await client.closed()
            assert code == 4429
            assert 10 <= [frame["type"] for frame in said].count("pong") < 30


async def test_who_does_not_say_who_it_is_is_closed_pings_or_not(engine: syncline.Engine) -> None:
    with served(engine, Settings(auth_timeout=1.0)) as url:
        async with connected(url) as known, connected(url) as silent, connected(url) as lively:
            await known.auth()

            async def ping() -> None:
                while True:
                    await lively.send(type="ping")
                    await asyncio.sleep(0.05)

            pinging = asyncio.create_task(ping())
            for client in (silent, lively):
                code, said = await client.closed()
                assert (code, said[-1]["code"]) == (4408, "unauthenticated")
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)
            assert (await known.subscribe("list:1"))[0]["type"] == "poke"


async def test_a_quiet_client_is_pinged_and_a_dead_one_closed(engine: syncline.Engine) -> None:
    with served(engine, Settings(ping=0.2, idle_timeout=3.0)) as url:
        async with connected(url) as alive, connected(url) as dead:
            await alive.auth()
            await dead.auth()

            async def answer() -> None:
                while True:
                    assert await alive.hear_a("ping") == {"type": "ping"}
                    await alive.send(type="pong")

            answering = asyncio.create_task(answer())
            code, said = await dead.closed()
            assert (code, [frame["type"] for frame in said]) == (4408, ["ping", "error"])
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
            assert (await alive.subscribe("list:1"))[0]["type"] in ("poke", "ping")


@pytest.mark.parametrize(
    "wrong",
    [
        {"connections": 0},
        {"scopes": 1.5},
        {"frame_bytes": True},
        {"frames_per_second": -1},
        {"ping": "1"},
        {"ping": 60, "idle_timeout": 60},
        {"recheck": 0},
        {"auth_timeout": None},
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Settings(**wrong)
    with pytest.raises(TypeError, match="live"):
        syncline.asgi(None, **HOOKS, live=wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- taken away


class Permissions:
    """Hooks whose mind can be changed."""

    def __init__(self) -> None:
        self.known = {"ada", "bob"}
        self.readable = {"list:1", "list:2"}
        self.fails = False
        self.asked: list[tuple[str, str]] = []

    def who(self, request: sync_http.Request) -> str | None:
        user = by_token(request)
        return user if user in self.known else None

    def may(self, user: str, action: str, scope: str) -> bool:
        if self.fails:
            raise ConnectionError("the database of permissions is away")
        self.asked.append((user, scope))
        return scope in self.readable

    @property
    def hooks(self) -> dict[str, Any]:
        return {"authenticate": self.who, "authorize": self.may}


@pytest.mark.parametrize("by", ["time", "call", "call for the user"])
async def test_a_permission_that_is_taken_away_ends_the_subscription(
    engine: syncline.Engine, by: str
) -> None:
    permissions = Permissions()
    settings = Settings(recheck=0.1) if by == "time" else Settings(recheck=None)
    app = syncline.asgi(engine, **permissions.hooks, live=settings)
    with served_asgi(app) as url:
        async with connected(url) as client:
            await client.auth()
            await client.subscribe("list:1", "list:2")
            permissions.readable.discard("list:1")
            if by != "time":
                app.live.recheck("bob")
                app.live.recheck("ada" if by == "call for the user" else None)
            assert await client.hear() == {"type": "revoked", "scope": "list:1"}
            write(engine, "list:1")
            cursor = write(engine, "list:2")
            assert (await client.hear())["cursor"] == cursor
            (again,) = await client.subscribe("list:1")
            assert (again["type"], again["code"]) == ("refused", "forbidden")
            assert engine.stats().live.revoked == 1
            assert engine.stats().live.subscriptions == 1


async def test_a_permission_taken_away_while_it_is_asked_about_is_noticed(engine: syncline.Engine) -> None:
    asked: list[str] = []

    def may(user: str, action: str, scope: str) -> bool:
        asked.append(scope)
        if len(asked) > 1:
            return False
        # It was read, and now, before the answer is known, it is taken away.
        app.live.recheck(user)
        (hub,) = app.live._all()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), hub.loop).result(PATIENCE)
        return True

    app = syncline.asgi(engine, authenticate=by_token, authorize=may, live=Settings(recheck=None))
    with served_asgi(app) as url:
        async with connected(url) as client:
            await client.auth()
            await client.send(type="subscribe", scopes=["list:1"])
            assert await client.hear_a("revoked") == {"type": "revoked", "scope": "list:1"}


async def test_who_is_no_longer_known_is_closed(engine: syncline.Engine) -> None:
    permissions = Permissions()
    app = syncline.asgi(engine, **permissions.hooks, live=Settings(recheck=None))
    with served_asgi(app) as url:
        async with connected(url) as ada, connected(url) as bob:
            await ada.auth()
            await bob.auth("t-bob")
            permissions.known.discard("ada")
            app.live.recheck()
            code, said = await ada.closed()
            assert (code, said[0]["code"]) == (4401, "unauthenticated")
            assert (await bob.subscribe("list:1"))[0]["type"] == "poke"


async def test_a_hook_that_fails_while_rechecking_takes_nothing_away(engine: syncline.Engine) -> None:
    permissions = Permissions()
    app = syncline.asgi(engine, **permissions.hooks, live=Settings(recheck=None))
    with served_asgi(app) as url:
        async with connected(url) as client:
            await client.auth()
            await client.subscribe("list:1", "list:2")
            permissions.fails = True
            app.live.recheck()
            await client.send(type="ping")
            assert (await client.hear())["type"] == "pong"
            permissions.fails = False
            permissions.readable.discard("list:2")
            app.live.recheck()
            assert await client.hear() == {"type": "revoked", "scope": "list:2"}
            cursor = write(engine, "list:1")
            assert (await client.hear())["cursor"] == cursor


async def test_rechecking_asks_once_for_a_user_with_many_connections(engine: syncline.Engine) -> None:
    permissions = Permissions()
    app = syncline.asgi(engine, **permissions.hooks, live=Settings(recheck=None))
    with served_asgi(app) as url:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(5):
                client = await stack.enter_async_context(connected(url))
                await client.auth()
                await client.subscribe("list:1")
            permissions.asked.clear()
            permissions.readable.clear()
            app.live.recheck()
            assert (await client.hear())["type"] == "revoked"
            assert permissions.asked == [("ada", "list:1")]


# ---------------------------------------------------------------------------------------------------- the end


async def test_closing_the_engine_says_goodbye(engine: syncline.Engine) -> None:
    with served(engine, Settings(retry_after=7)) as url:
        async with connected(url) as client, connected(url) as stranger:
            await client.auth()
            await client.subscribe("list:1")
            await asyncio.to_thread(engine.close)
            for one in (client, stranger):
                assert await one.closed() == (1012, [{"type": "goodbye", "retry_after": 7}])
        async with connected(url) as late:
            assert await late.closed() == (1012, [{"type": "goodbye", "retry_after": 7}])


async def test_the_lifespans_end_says_goodbye(engine: syncline.Engine) -> None:
    app = syncline.asgi(engine, **HOOKS)
    with served_asgi(app, lifespan="off") as url:
        async with connected(url) as client:
            await client.auth()
            told = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
            answers: list[Any] = []

            async def receive() -> Any:
                return told.pop(0)

            async def send(message: Any) -> None:
                answers.append(message["type"])

            await app({"type": "lifespan"}, receive, send)
            assert answers == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
            assert await client.closed() == (1012, [{"type": "goodbye", "retry_after": 1.0}])


APPLICATION = """
import fastapi, syncline
from syncline.http import allow_all, anyone

engine = syncline.Engine(":memory:")
own = syncline.asgi(engine, authenticate=anyone, authorize=allow_all)
mounted = fastapi.FastAPI()
mounted.mount("/api", own)
"""


@contextlib.contextmanager
def running(
    folder: Path, *command: str, files: int | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    (folder / "live_app.py").write_text(APPLICATION)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    shell = ["bash", "-c", f'ulimit -Sn {files}; exec "$@"', "bash"] if files else []
    process = subprocess.Popen(
        [*shell, sys.executable, "-m", *command, "--port", str(port)],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(int(PATIENCE * 20)):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None
            time.sleep(0.05)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.terminate()  # and not killed, as a server of several processes would leave them behind
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("command", "path", "stop"),
    [
        (("syncline.cli", "serve", "live_app:engine", "--open"), "/_sync/live", signal.SIGTERM),
        (("syncline.cli", "serve", "live_app:engine", "--open"), "/_sync/live", signal.SIGINT),
        (("uvicorn", "live_app:own", "--workers", "2"), "/_sync/live", signal.SIGTERM),
        (
            ("uvicorn", "live_app:mounted", "--loop", "asyncio", "--ws", "wsproto"),
            "/api/_sync/live",
            signal.SIGTERM,
        ),
        (("granian", "--interface", "asgi", "live_app:own"), "/_sync/live", signal.SIGTERM),
        (
            ("granian", "--interface", "asgi", "--loop", "asyncio", "live_app:mounted"),
            "/api/_sync/live",
            signal.SIGTERM,
        ),
    ],
    ids=["serve", "serve, Ctrl+C", "uvicorn's workers", "mounted", "granian", "mounted in granian"],
)
async def test_a_server_that_is_stopped_says_goodbye_first(
    tmp_path: Path, command: tuple[str, ...], path: str, stop: signal.Signals
) -> None:
    with running(tmp_path, *command) as (process, url):
        async with connected(url, path) as client, connected(url, path) as other:
            for one in (client, other):
                await one.send(type="subscribe", scopes=["list:1"])
                await one.hear_a("poke")
            process.send_signal(stop)
            for one in (client, other):
                assert await one.closed() == (1012, [{"type": "goodbye", "retry_after": 1.0}])
        await asyncio.to_thread(process.wait, PATIENCE)


async def test_serve_takes_more_clients_than_the_usual_limit_of_open_files(tmp_path: Path) -> None:
    command = ("syncline.cli", "serve", "live_app:engine", "--open")
    with running(tmp_path, *command, files=64) as (_, url):
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connected(url)) for _ in range(100)]
            for client in clients:
                await client.auth()


async def test_granian_serves_it_too(tmp_path: Path) -> None:
    with running(tmp_path, "granian", "--interface", "asgi", "live_app:own") as (_, url):
        async with connected(url) as client:
            await client.send(type="subscribe", scopes=["list:1"])
            assert (await client.hear())["type"] == "welcome"
            assert (await client.hear())["type"] == "poke"
            await client.send(type="dance")
            assert (await client.hear())["type"] == "error"
            await client.socket.send("no frame")
            assert (await client.closed())[0] == 4400


# -------------------------------------------------------------------------------------------- other addresses


def test_wsgi_and_a_plain_get_say_that_it_is_a_websocket(engine: syncline.Engine) -> None:
    for door in (
        by_wsgi(syncline.wsgi(engine, **HOOKS)),
        by_asgi(syncline.asgi(engine, **HOOKS)),
        by_handle(engine),
    ):
        answer = HttpClient(door).request("GET", "/_sync/live")
        assert (answer.status, answer.error["code"]) == (404, "not_found")
        assert "poll" in answer.error["message"]


async def test_it_is_served_under_a_prefix_and_nowhere_else(engine: syncline.Engine) -> None:
    with served_asgi(syncline.asgi(engine, **HOOKS, prefix="/api")) as url:
        async with connected(url, "/api/_sync/live") as client:
            await client.auth()
        with pytest.raises(websockets.InvalidStatus) as turned_away:
            async with connected(url, "/api/_sync/push"):
                pass
        assert turned_away.value.response.status_code == 404


# ---------------------------------------------------------------------------------------------------- figures


async def test_metrics_tell_of_the_live_channel(engine: syncline.Engine) -> None:
    with served(engine) as url:
        async with connected(url) as client:
            await client.auth()
            await client.subscribe("list:1", "secret:1")
            write(engine)
            await client.hear()
            told = syncline.metrics.render(engine)[0].decode().splitlines()
    for line in (
        "syncline_live_connections 1.0",
        "syncline_live_subscriptions 1.0",
        "syncline_live_pokes_total 2.0",
        "syncline_live_coalesced_total 0.0",
        "syncline_live_refused_total 1.0",
        "syncline_live_revoked_total 0.0",
    ):
        assert line in told


# --------------------------------------------------------------------------------------------------- anything

CODES = {1009, 4400, 4401, 4429}

names = st.sampled_from(["list:1", "list:2", "secret:1", "_own", "", "\ud800", "é"]) | st.text(max_size=5)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
plausible = st.fixed_dictionaries(
    {
        "type": st.sampled_from(["auth", "subscribe", "unsubscribe", "ping", "pong", "poke", "goodbye"])
        | values
    },
    optional={
        "scopes": st.lists(names, max_size=5) | values,
        "token": st.just("t-ada") | values,
        "more": values,
    },
)
frames = (
    plausible.map(json.dumps)
    | plausible.map(json.dumps)
    | values.map(json.dumps)
    | st.text(max_size=20).filter(lambda text: text.isprintable())
    | st.binary(max_size=20)
)


@pytest.fixture(scope="module")
def open_to_anything() -> Iterator[tuple[str, list[logging.LogRecord]]]:
    noted: list[logging.LogRecord] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            noted.append(record)

    handler = Note(logging.ERROR)
    loggers = [logging.getLogger(name) for name in ("syncline", "uvicorn.error", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    with make_engine() as engine, served(engine) as url:
        yield url, noted
    for logger in loggers:
        logger.removeHandler(handler)


@given(st.lists(frames, max_size=12))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_comes_is_answered_or_closes_with_a_code_that_is_documented(
    open_to_anything: tuple[str, list[logging.LogRecord]], sent: list[str | bytes]
) -> None:
    url, noted = open_to_anything
    ended = None
    with sync_connect(address(url), proxy=None) as socket:
        try:
            for frame in (*sent, '{"type": "auth", "token": "t-ada"}'):
                socket.send(frame)
            socket.send('{"type": "unsubscribe", "scopes": ["the last"]}')
            while True:
                answer = json.loads(socket.recv(PATIENCE))
                assert answer["type"] in {
                    "welcome",
                    "poke",
                    "refused",
                    "unsubscribed",
                    "ping",
                    "pong",
                    "error",
                }
                if answer == {"type": "unsubscribed", "scope": "the last"}:
                    break
        except websockets.ConnectionClosed as closed:
            ended = closed.rcvd
    assert ended is None or ended.code in CODES
    assert [record.getMessage() for record in noted] == []
