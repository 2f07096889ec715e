"""`syncline.asgi`: the endpoints as an ASGI 3 application, on its own or mounted in FastAPI, Starlette or
Django."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

from . import errors
from . import live as _live
from .http import Authenticate, Authorize, Cors, Handler, Headers, Hooks, Request

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .engine import Engine

__all__ = ["AsgiApp", "asgi"]

# The types of the ASGI specification, as servers and frameworks write them.
Scope: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[MutableMapping[str, Any]]]"
Send: TypeAlias = "Callable[[MutableMapping[str, Any]], Awaitable[None]]"

# Pulls, snapshots and hooks that may wait run on these. Pulls release the GIL while they scan and encode, so
# a few threads keep every core busy; more would only hold more pages in memory.
_THREADS = 8


class _Disconnected(Exception):
    """The client went away before its body was complete."""


class AsgiApp:
    """What `asgi` returns. One per engine is enough; it may serve several event loops.

    Attributes:
        live: the live channel, a `syncline.live.Live`.
    """

    def __init__(
        self,
        engine: Engine,
        handler: Handler,
        prefix: str,
        close_engine: bool,
        cors: Cors | None,
        live: _live.Settings,
    ) -> None:
        self._engine = engine
        self._handler = handler
        self._prefix = prefix
        self._close_engine = close_engine
        self._executor = concurrent.futures.ThreadPoolExecutor(_THREADS, thread_name_prefix="syncline-http")
        self._cors = cors
        self.live = _live.Live(engine, handler, live, self._executor)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            raise ValueError(f"syncline.asgi serves http, not {scope['type']!r}")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = self._request(scope)
        response = self._handler.admit(request)
        unread = response is not None and request.method == "POST"
        if response is None:
            try:
                body = await self._body(receive) if request.method == "POST" else b""
            except _Disconnected:
                return
            if body is None:
                unread = True
                response = self._handler.too_large(request)
            else:
                request = dataclasses.replace(request, body=body)
                response = await self._handler.answer_async(request, self._executor)
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in response.headers.pairs()
        ]
        if unread and str(scope.get("http_version", "")).startswith("1"):
            headers.append(
                (b"connection", b"close")
            )  # what is left of the body must not be taken for the next request
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": response.body})

    def _request(self, scope: Scope) -> Request:
        return Request(
            method=scope["method"].upper(),
            path=inner_path(scope["path"], scope.get("root_path", ""), self._prefix),
            headers=Headers(scope["headers"]),
            query_string=scope.get("query_string", b"").decode("latin-1"),
            environ=scope,
        )

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None as soon as it is longer than allowed."""
        limit = self._handler.max_body_bytes
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                return None
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.live.goodbye()
                await asyncio.get_running_loop().run_in_executor(None, self._shut_down)
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _shut_down(self) -> None:
        self._executor.shutdown(wait=True)
        if self._close_engine:
            self._engine.close()

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        path = inner_path(scope["path"], scope.get("root_path", ""), self._prefix)
        request = Request(
            method="GET",
            path=path,
            headers=Headers(scope.get("headers", ())),
            query_string=scope.get("query_string", b"").decode("latin-1"),
            environ=scope,
        )
        try:
            if path != _live.PATH:
                raise errors.NotFound(f"there is no WebSocket at {path!r}; there is one at {_live.PATH}")
            handshake = _live.check_origin(request, self._cors)
        except errors.Error as error:
            await self._turn_away(scope, send, request, error)
        else:
            await self.live.serve(handshake, receive, send)

    async def _turn_away(self, scope: Scope, send: Send, request: Request, error: errors.Error) -> None:
        refusal = self._handler.refuse(request, error)
        if "websocket.http.response" not in (scope.get("extensions") or {}):
            code = 4000 + refusal.status
            await send({"type": "websocket.close", "code": code, "reason": error.code})
            return
        headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in refusal.headers.pairs()
        ]
        await send({"type": "websocket.http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": refusal.body})


def inner_path(path: str, root: str, prefix: str) -> str:
    """The path from `/_sync` on, of an application mounted at `root`, which servers have in `path` (as ASGI
    says) or not."""
    root = root.rstrip("/")
    # Behind a proxy that took off its own part, only the end of `root` is in `path`.
    for start in (place for place, character in enumerate(root) if character == "/"):
        if path.startswith(root[start:] + "/"):
            path = path[len(root) - start :]
            break
    if root.endswith("/_sync") and not path.startswith("/_sync/"):
        path = "/_sync" + path
    if prefix and path.startswith(prefix + "/"):
        path = path[len(prefix) :]
    return path


def check_prefix(prefix: str) -> str:
    if prefix and not prefix.startswith("/"):
        raise ValueError(f"prefix must begin with '/', as in '/api'; it is {prefix!r}")
    return prefix.rstrip("/")


def asgi(
    engine: Engine,
    *,
    authenticate: Authenticate,
    authorize: Authorize,
    prefix: str = "",
    close_engine: bool = False,
    live: _live.Settings | None = None,
    **hooks: Unpack[Hooks],
) -> AsgiApp:
    """An ASGI 3 application that serves `engine` at `/_sync/...`, with the live channel at `/_sync/live`.

    The event loop is never held up: pushes wait on the engine's queue, many to a commit; pulls, snapshots and
    synchronous hooks run on threads. An exception in a hook is answered with 500 without detail and logged as
    "syncline.http".

    Args:
        engine: whose data is served.
        authenticate: called with the `syncline.http.Request`; returns the user's name, or None (or raises
            `Unauthenticated`) for a 401. May be a coroutine function. `syncline.http.anyone` serves
            everybody.
        authorize: called with (user, "read" or "write", scope) for each scope of a request; returns whether
            it is allowed. May be a coroutine function. `syncline.http.allow_all` allows everything.
        prefix: what comes before `/_sync` in the path when nothing strips it, as in "/api".
        close_engine: close the engine when the server shuts down (through ASGI's lifespan).
        live: limits and times of the live channel; None: as `syncline.live.Settings()` says.
        hooks: `cors`, `metrics`, `admin`, `inspect`: see `syncline.http.Hooks`.

    Raises:
        TypeError: a hook is no function, or there is none of that name; or `live` is no `Settings`.
        ValueError: `prefix` does not begin with "/".
    """
    handler = Handler(engine, authenticate=authenticate, authorize=authorize, **hooks)
    if live is not None and not isinstance(live, _live.Settings):
        raise TypeError(f"live must be a syncline.live.Settings or None, not {type(live).__name__}")
    cors = hooks.get("cors")
    return AsgiApp(engine, handler, check_prefix(prefix), close_engine, cors, live or _live.Settings())
