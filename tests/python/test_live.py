"""`/_sync/live`: every frame, refusal and limit, over real sockets and real servers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
import syncline
import websockets
from http_support import HOOKS, by_token, make_engine, served_asgi
from syncline import http as sync_http
from syncline import live
from websockets.asyncio.client import ClientConnection

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


def origin_of(url: str) -> str:
    return url


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
