"""`syncline.asgi` as an application of the ASGI specification, and behind a real server."""

from __future__ import annotations

import asyncio
import contextvars
import http.client
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import syncline
from http_support import (
    HOOKS,
    Client,
    by_asgi,
    by_token,
    call_asgi,
    make_engine,
    make_mutators,
    not_secret,
    served_asgi,
)
from syncline import http as sync_http
from syncline.asgi import inner_path

JSON = {"Authorization": "Bearer t-ada", "Content-Type": "application/json"}


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with make_engine() as engine:
        yield engine


def push_body(seq: int, name: str = "note/set", client_id: str = "c1", scope: str = "list:1") -> bytes:
    mutation = {"name": name, "args": {"id": str(seq), "text": "x"}, "scope": scope}
    return json.dumps({"mutations": [{**mutation, "client_id": client_id, "client_seq": seq}]}).encode()


class Wire:
    """One request's messages, fed by hand."""

    def __init__(self, *incoming: dict[str, Any]) -> None:
        self.incoming = list(incoming)
        self.outgoing: list[dict[str, Any]] = []

    async def receive(self) -> dict[str, Any]:
        return self.incoming.pop(0)

    async def send(self, message: dict[str, Any]) -> None:
        self.outgoing.append(message)


def scope_of(path: str = "/_sync/push", **more: Any) -> dict[str, Any]:
    headers = [(name.lower().encode(), value.encode()) for name, value in JSON.items()]
    return {"type": "http", "http_version": "1.1", "method": "POST", "path": path, "headers": headers, **more}


def part(body: bytes, more_body: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more_body}


async def test_a_body_without_length_is_read_no_further_than_the_limit(engine: syncline.Engine) -> None:
    limit = engine.limits.max_body_bytes
    half = b" " * (limit // 2)
    wire = Wire(part(half), part(half), part(b"  "), part(b"never read"))
    await syncline.asgi(engine, **HOOKS)(scope_of(), wire.receive, wire.send)
    assert [message["body"] for message in wire.incoming] == [b"never read"]
    assert wire.outgoing[0]["status"] == 413
    assert (b"connection", b"close") in wire.outgoing[0]["headers"]


async def test_a_body_declared_too_large_is_not_read_at_all(engine: syncline.Engine) -> None:
    scope = scope_of()
    scope["headers"].append((b"content-length", str(engine.limits.max_body_bytes + 1).encode()))
    wire = Wire(part(b"never read"))
    await syncline.asgi(engine, **HOOKS)(scope, wire.receive, wire.send)
    assert len(wire.incoming) == 1
    assert wire.outgoing[0]["status"] == 413
    assert json.loads(wire.outgoing[1]["body"])["error"]["limit"] == engine.limits.max_body_bytes


async def test_a_client_that_goes_away_in_its_body_gets_nothing_and_consumes_nothing(
    engine: syncline.Engine,
) -> None:
    body = push_body(1)
    wire = Wire(part(body), {"type": "http.disconnect"})
    await syncline.asgi(engine, **HOOKS)(scope_of(), wire.receive, wire.send)
    assert wire.outgoing == []
    assert engine.cursor("list:1") == 0


async def test_lifespan_is_answered_and_leaves_the_engine_open_unless_asked(engine: syncline.Engine) -> None:
    for close_engine in (False, True):
        wire = Wire({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
        app = syncline.asgi(engine, **HOOKS, close_engine=close_engine)
        await app({"type": "lifespan"}, wire.receive, wire.send)
        assert [message["type"] for message in wire.outgoing] == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]
        if not close_engine:
            assert engine.health()["ok"]
    with pytest.raises(syncline.Closed):
        engine.snapshot("list:1")


async def test_a_websocket_elsewhere_is_turned_away(engine: syncline.Engine) -> None:
    app = syncline.asgi(engine, **HOOKS)
    scope: dict[str, Any] = {"type": "websocket", "path": "/_sync/push", "headers": []}
    wire = Wire({"type": "websocket.connect"})
    await app(scope, wire.receive, wire.send)
    assert [(message["type"], message["code"]) for message in wire.outgoing] == [("websocket.close", 4404)]

    wire = Wire({"type": "websocket.connect"})
    await app({**scope, "extensions": {"websocket.http.response": {}}}, wire.receive, wire.send)
    assert wire.outgoing[0]["status"] == 404
    assert json.loads(wire.outgoing[1]["body"])["error"]["code"] == "not_found"


async def test_an_unknown_kind_of_connection_is_an_error(engine: syncline.Engine) -> None:
    wire = Wire()
    with pytest.raises(ValueError, match="telepathy"):
        await syncline.asgi(engine, **HOOKS)({"type": "telepathy"}, wire.receive, wire.send)


@pytest.mark.parametrize(
    ("path", "root", "prefix", "inner"),
    [
        ("/_sync/push", "", "", "/_sync/push"),
        ("/api/_sync/push", "/api", "", "/_sync/push"),
        ("/_sync/push", "/api", "", "/_sync/push"),
        ("/api/_sync/push", "", "/api", "/_sync/push"),
        ("/v1/api/_sync/push", "/v1", "/api", "/_sync/push"),
        ("/_sync/push", "/_sync", "", "/_sync/push"),
        ("/push", "/_sync", "", "/_sync/push"),
        ("/apis/_sync/push", "/api", "", "/apis/_sync/push"),
        ("/behind/api/_sync/push", "/behind/api", "", "/_sync/push"),
        ("/api/_sync/push", "/behind/api", "", "/_sync/push"),
    ],
)
def test_the_mount_point_is_taken_off_the_path(path: str, root: str, prefix: str, inner: str) -> None:
    assert inner_path(path, root, prefix) == inner


def test_a_prefix_is_served_and_checked(engine: syncline.Engine) -> None:
    client = Client(by_asgi(syncline.asgi(engine, **HOOKS, prefix="/api/")))
    assert client.request("GET", "/api/_sync/health").status == 200
    with pytest.raises(ValueError, match="prefix"):
        syncline.asgi(engine, **HOOKS, prefix="api")


async def test_the_loop_goes_on_while_a_push_and_a_hook_wait() -> None:
    mutators = make_mutators()
    in_mutator, go_on = threading.Event(), threading.Event()

    @mutators("note/wait")
    def wait(tx: syncline.Tx, args: Any) -> None:
        in_mutator.set()
        assert go_on.wait(30)

    def slow_authorize(user: str, action: sync_http.Action, scope: str) -> bool:
        return scope != "slow" or go_on.wait(30)

    with syncline.Engine(":memory:", mutators=mutators) as engine:
        app = syncline.asgi(engine, authenticate=by_token, authorize=slow_authorize)
        waiting = asyncio.create_task(call_asgi(app, "POST", "/_sync/push", JSON, push_body(1, "note/wait")))
        hooked = asyncio.create_task(call_asgi(app, "GET", "/_sync/cursor?scope=slow", JSON, b""))
        await asyncio.get_running_loop().run_in_executor(None, in_mutator.wait, 30)
        # Readers are served beside the mutator that runs.
        pulled = await call_asgi(app, "POST", "/_sync/pull", JSON, b'{"scope": "list:1", "cursor": 0}')
        assert pulled.status == 200
        assert not waiting.done()
        assert not hooked.done()
        go_on.set()
        assert (await waiting).status == 200
        assert (await hooked).status == 200


async def test_pushes_that_wait_together_are_committed_together(engine: syncline.Engine) -> None:
    app = syncline.asgi(engine, authenticate=sync_http.anyone, authorize=sync_http.allow_all)
    before = engine.stats().commits
    answers = await asyncio.gather(
        *(call_asgi(app, "POST", "/_sync/push", JSON, push_body(1, client_id=f"c{n}")) for n in range(100))
    )
    assert all(json.loads(answer.body)["results"][0]["ok"] for answer in answers)
    assert engine.stats().commits - before < 100


async def test_hooks_run_on_threads_but_for_quick_and_async_ones(engine: syncline.Engine) -> None:
    ran_on: list[int] = []

    def authenticate(request: sync_http.Request) -> str:
        ran_on.append(threading.get_ident())
        return "ada"

    async def authenticate_async(request: sync_http.Request) -> str:
        return authenticate(request)

    for hook in (authenticate, authenticate_async, sync_http.quick(lambda request: authenticate(request))):
        app = syncline.asgi(engine, authenticate=hook, authorize=not_secret)
        answer = await call_asgi(app, "GET", "/_sync/cursor?scope=a", JSON, b"")
        assert answer.status == 200
    here = threading.get_ident()
    assert [ident == here for ident in ran_on] == [False, True, True]


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_mutator_sees_the_context_its_hooks_left(kind: str) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="none")
    mutators = syncline.Mutators()
    seen: list[str] = []

    @mutators("note/tenant")
    def note(tx: syncline.Tx, args: Any) -> None:
        seen.append(tenant.get())

    async def authenticate_async(request: sync_http.Request) -> str:
        tenant.set("acme")
        return "ada"

    def authenticate(request: sync_http.Request) -> str:
        tenant.set("acme")
        return "ada"

    with syncline.Engine(":memory:", mutators=mutators) as engine:
        hook: Any = authenticate_async if kind == "async" else authenticate
        app = syncline.asgi(engine, authenticate=hook, authorize=not_secret)
        answer = await call_asgi(app, "POST", "/_sync/push", JSON, push_body(1, "note/tenant"))
    assert answer.status == 200
    assert seen == ["acme"]
    assert tenant.get() == ("acme" if kind == "async" else "none")


async def test_a_cancelled_request_leaves_the_engine_in_order(engine: syncline.Engine) -> None:
    app = syncline.asgi(engine, **HOOKS)
    tasks = [
        asyncio.create_task(call_asgi(app, "POST", "/_sync/push", JSON, push_body(1, client_id=f"c{n}")))
        for n in range(20)
    ]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, sync_http.Response) and answer.status == 200 for answer in done[1::2])
    # Whether a cancelled one was applied is open; repeating it is always right.
    for n in range(20):
        answer = await call_asgi(app, "POST", "/_sync/push", JSON, push_body(1, client_id=f"c{n}"))
        assert json.loads(answer.body)["results"][0]["ok"]


# --------------------------------------------------------------------------------------- behind a real server


@pytest.fixture
def url(engine: syncline.Engine) -> Iterator[str]:
    with served_asgi(syncline.asgi(engine, **HOOKS)) as url:
        yield url


def connection_to(url: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(urlsplit(url).hostname or "", urlsplit(url).port, timeout=30)


def test_a_kept_connection_goes_on_after_every_refusal(url: str, engine: syncline.Engine) -> None:
    connection = connection_to(url)
    refused = (
        ("/_sync/push", JSON, b"{", 400),
        ("/_sync/push", {**JSON, "Authorization": ""}, push_body(1), 401),
        ("/_sync/pull", JSON, b'{"scope": "secret:1", "cursor": 0}', 403),
        ("/_sync/nothing", JSON, b"{}", 404),
    )
    for seq, (path, headers, body, status) in enumerate(refused, 1):
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        connection.request("POST", "/_sync/push", push_body(seq), JSON)
        response = connection.getresponse()
        assert json.loads(response.read())["results"][0]["ok"]
    connection.close()


def test_a_chunked_body_is_taken_and_counted(url: str, engine: syncline.Engine) -> None:
    connection = connection_to(url)
    body = push_body(1)
    connection.request("POST", "/_sync/push", iter([body[:10], body[10:]]), JSON, encode_chunked=True)
    response = connection.getresponse()
    assert json.loads(response.read())["results"][0]["ok"]

    def endless() -> Iterator[bytes]:
        while True:
            yield b" " * (1 << 20)

    with pytest.raises((BrokenPipeError, ConnectionResetError)):
        connection.request("POST", "/_sync/push", endless(), JSON, encode_chunked=True)
    connection.close()

    connection = connection_to(url)
    connection.request("POST", "/_sync/push", push_body(2), JSON)
    assert json.loads(connection.getresponse().read())["results"][0]["ok"]
    connection.close()


def test_a_client_that_is_cut_off_in_its_body_consumes_nothing(url: str, engine: syncline.Engine) -> None:
    connection = connection_to(url)
    body = push_body(1)
    connection.putrequest("POST", "/_sync/push")
    for name, value in {**JSON, "Content-Length": str(len(body))}.items():
        connection.putheader(name, value)
    connection.endheaders(body[:-5])
    connection.close()

    again = connection_to(url)
    again.request("POST", "/_sync/push", body, JSON)
    (result,) = json.loads(again.getresponse().read())["results"]
    assert result["ok"]
    assert "duplicate" not in result or not result["duplicate"]
    again.close()
