"""What the tests of the HTTP doors share: an engine with mutators, a client that keeps its numbers, servers
on loopback ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socketserver
import threading
import wsgiref.simple_server
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import syncline
import uvicorn
from syncline import http as sync_http

SECRET = "a detail that must stay on the server"


def make_mutators() -> syncline.Mutators:
    mutators = syncline.Mutators()

    @dataclass
    class Note:
        id: str
        text: str

    @mutators("note/set")
    def set_note(tx: syncline.Tx, args: Note) -> None:
        tx.set("note", args.id, {"text": args.text})

    @mutators("note/delete")
    def delete_note(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.delete("note", args["id"])

    @mutators("note/touch")
    def touch(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.update("note", args["id"], {"touched": True})

    @mutators("note/expect")
    def expect(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.expect("note", args["id"], args["version"])

    @mutators("note/crash")
    def crash(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("note", "half", {"text": "must not stay"})
        raise ZeroDivisionError(SECRET)

    @mutators("note/exit")
    def leave(tx: syncline.Tx, args: dict[str, Any]) -> None:
        raise SystemExit(SECRET)

    @mutators("note/reject")
    def reject(tx: syncline.Tx, args: dict[str, Any]) -> None:
        raise syncline.Rejected("no more notes today")

    @mutators("note/reject_own")
    def reject_own(tx: syncline.Tx, args: dict[str, Any]) -> None:
        raise syncline.Rejected("the shop is closed", code="closed_shop")

    @mutators("note/retry")
    def retry(tx: syncline.Tx, args: dict[str, Any]) -> None:
        raise syncline.Retry

    return mutators


def make_engine(path: str | Path = ":memory:", **options: Any) -> syncline.Engine:
    return syncline.Engine(path, mutators=make_mutators(), **options)


def by_token(request: sync_http.Request) -> str | None:
    """Token "t-ada" is user "ada"; other tokens are nobody."""
    token = request.token
    return token[2:] if token is not None and token.startswith("t-") else None


def not_secret(user: str, action: sync_http.Action, scope: str) -> bool:
    """Scopes that begin with "secret" are nobody's, "public" ones are read-only."""
    if scope.startswith("secret"):
        return False
    return action == "read" or not scope.startswith("public")


HOOKS: dict[str, Any] = {"authenticate": by_token, "authorize": not_secret}
CONTENT_TYPES = {"json": "application/json", "msgpack": "application/msgpack"}


def encode(body: object, format: str) -> bytes:
    return json.dumps(body).encode() if format == "json" else msgpack.packb(body)


def decode(body: bytes, format: str) -> Any:
    return json.loads(body) if format == "json" else msgpack.unpackb(body, timestamp=3)


@dataclass
class Answer:
    status: int
    headers: sync_http.Headers
    body: Any

    @property
    def error(self) -> dict[str, Any]:
        return self.body["error"]  # type: ignore[no-any-return]


Exchange = Callable[[str, str, dict[str, str], bytes], sync_http.Response]


@dataclass
class Client:
    """A client with its numbers, on any way to send a request."""

    exchange: Exchange
    format: str = "json"
    client_id: str = "c1"
    token: str = "t-ada"
    seq: int = 0
    more: dict[str, str] = field(default_factory=dict)

    def request(self, method: str, path: str, content: bytes = b"", **headers: str) -> Answer:
        sent = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": CONTENT_TYPES[self.format],
            **self.more,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        response = self.exchange(
            method, path, {name: value for name, value in sent.items() if value}, content
        )
        kind = response.headers.get("content-type", "")
        format = next((name for name, value in CONTENT_TYPES.items() if value == kind), None)
        body = decode(response.body, format) if format and response.body else response.body
        return Answer(response.status, response.headers, body)

    def post(self, path: str, body: object) -> Answer:
        return self.request("POST", path, encode(body, self.format))

    def mutation(
        self, name: str | None, args: object = None, scope: str = "list:1", **more: object
    ) -> dict[str, Any]:
        """The next mutation in sequence, which counts as sent."""
        self.seq += 1
        told = {
            "name": name,
            "args": args,
            "scope": scope,
            "client_id": self.client_id,
            "client_seq": self.seq,
        }
        return {**told, **more}

    def push(self, *mutations: dict[str, Any], **more: object) -> Answer:
        return self.post("/_sync/push", {"mutations": list(mutations), **more})

    def one(
        self, name: str | None, args: object = None, scope: str = "list:1", **more: object
    ) -> dict[str, Any]:
        """Pushes one mutation; its result."""
        answer = self.push(self.mutation(name, args, scope, **more))
        assert answer.status == 200, answer
        (result,) = answer.body["results"]
        return result  # type: ignore[no-any-return]

    def goes_on(self) -> None:
        """The next mutation goes through: nothing before it poisoned the sequence."""
        result = self.one("note/set", {"id": f"after-{self.seq}", "text": "x"})
        assert result["ok"], result


# ------------------------------------------------------------------------------------------------------ doors


def by_handle(engine: syncline.Engine, **hooks: Any) -> Exchange:
    def exchange(method: str, path: str, headers: dict[str, str], body: bytes) -> sync_http.Response:
        return engine.handle(method, path, headers, body, **{**HOOKS, **hooks})

    return exchange


def by_asgi(app: Any, chunk: int = 1000, **scope_more: Any) -> Exchange:
    """Calls an ASGI application, the body in chunks, on an event loop of its own for each request."""

    def exchange(method: str, path: str, headers: dict[str, str], body: bytes) -> sync_http.Response:
        return asyncio.run(call_asgi(app, method, path, headers, body, chunk, **scope_more))

    return exchange


async def call_asgi(
    app: Any,
    method: str,
    path: str,
    headers: dict[str, str],
    body: bytes,
    chunk: int = 1000,
    **scope_more: Any,
) -> sync_http.Response:
    bare, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": bare,
        "raw_path": bare.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "scheme": "http",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        **scope_more,
    }
    chunks = [body[start : start + chunk] for start in range(0, len(body), chunk)] or [b""]
    incoming = [
        {"type": "http.request", "body": part, "more_body": number < len(chunks)}
        for number, part in enumerate(chunks, 1)
    ]
    outgoing: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return incoming.pop(0) if incoming else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        outgoing.append(message)

    await app(scope, receive, send)
    start, *rest = outgoing
    return sync_http.Response(
        start["status"], sync_http.Headers(start["headers"]), b"".join(part.get("body", b"") for part in rest)
    )


def by_wsgi(app: Any) -> Exchange:
    import io

    def exchange(method: str, path: str, headers: dict[str, str], body: bytes) -> sync_http.Response:
        bare, _, query = path.partition("?")
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": bare,
            "QUERY_STRING": query,
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": io.BytesIO(body),
        }
        for name, value in headers.items():
            key = name.upper().replace("-", "_")
            environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
        told: list[Any] = []
        content = b"".join(app(environ, lambda status, headers: told.extend((status, headers))))
        return sync_http.Response(int(told[0][:3]), sync_http.Headers(told[1]), content)

    return exchange


@contextlib.contextmanager
def served_asgi(app: Any, **options: Any) -> Iterator[str]:
    """A real uvicorn on a free loopback port; yields its URL."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", **options)
    server = uvicorn.Server(config)
    listener = config.bind_socket()
    listener.listen(128)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"{'https' if config.is_ssl else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class _ThreadingWsgiServer(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True


class _QuietHandler(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextlib.contextmanager
def served_wsgi(app: Any) -> Iterator[str]:
    """A real wsgiref server on a free loopback port; yields its URL."""
    server = wsgiref.simple_server.make_server("127.0.0.1", 0, app, _ThreadingWsgiServer, _QuietHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
