"""`syncline.wsgi`: the endpoints as a WSGI application, on its own or mounted in Flask or Django."""

from __future__ import annotations

import dataclasses
import http
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

from . import errors
from .asgi import check_prefix, inner_path
from .http import Authenticate, Authorize, Handler, Headers, Hooks, Request, Response

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .engine import Engine

__all__ = ["WsgiApp", "wsgi"]


class _StartResponse(Protocol):
    def __call__(self, status: str, headers: list[tuple[str, str]], /) -> object: ...


class _Input(Protocol):
    def read(self, size: int, /) -> bytes: ...


class WsgiApp:
    """What `wsgi` returns. Any thread may call it."""

    def __init__(self, handler: Handler, prefix: str) -> None:
        self._handler = handler
        self._prefix = prefix

    # The environ is what PEP 3333 makes it: a dict of anything.
    def __call__(self, environ: dict[str, Any], start_response: _StartResponse) -> Iterable[bytes]:
        request = self._request(environ)
        response = self._handler.admit(request) or self._answer(request, environ)
        try:
            reason = http.HTTPStatus(response.status).phrase
        except ValueError:
            reason = "Unknown"
        start_response(f"{response.status} {reason}", list(response.headers.pairs()))
        return [response.body]

    def _request(self, environ: dict[str, Any]) -> Request:
        headers = [
            (key[5:].replace("_", "-"), value) for key, value in environ.items() if key.startswith("HTTP_")
        ]
        for key, name in (("CONTENT_TYPE", "Content-Type"), ("CONTENT_LENGTH", "Content-Length")):
            if environ.get(key):
                headers.append((name, environ[key]))
        path = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace")
        root = environ.get("SCRIPT_NAME", "").encode("latin-1").decode("utf-8", "replace")
        return Request(
            method=environ["REQUEST_METHOD"].upper(),
            path=inner_path(path, root, self._prefix),
            headers=Headers(headers),
            query_string=environ.get("QUERY_STRING", ""),
            environ=environ,
        )

    def _answer(self, request: Request, environ: dict[str, Any]) -> Response:
        if request.method == "POST":
            try:
                body = self._body(request, environ)
            except errors.Error as error:
                return self._handler.refuse(request, error)
            if body is None:
                return self._handler.too_large(request)
            request = dataclasses.replace(request, body=body)
        return self._handler.answer(request)

    def _body(self, request: Request, environ: dict[str, Any]) -> bytes | None:
        """The whole body; None when it is longer than allowed.

        A declared length was checked already. Without one, the input may be read to its end only where the
        server says that it has an end: elsewhere that would wait for the client's next request.
        """
        source = environ["wsgi.input"]
        declared = request.headers.get("content-length")
        if declared is not None:
            body = _read(source, int(declared))
            if len(body) < int(declared):
                raise errors.InvalidRequest(f"the body ended after {len(body)} of {declared} bytes")
            return body
        if not environ.get("wsgi.input_terminated"):
            if "transfer-encoding" in request.headers:
                raise errors.InvalidRequest("this server takes no chunked body; send a Content-Length")
            return b""
        limit = self._handler.max_body_bytes
        body = _read(source, limit + 1)
        return None if len(body) > limit else body


def _read(source: _Input, size: int) -> bytes:
    chunks: list[bytes] = []
    while size > 0:
        try:
            chunk = source.read(min(size, 1 << 20))
        except OSError as error:
            raise errors.InvalidRequest(f"the body could not be read: {error}") from error
        if not chunk:
            break
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def wsgi(
    engine: Engine,
    *,
    authenticate: Authenticate,
    authorize: Authorize,
    prefix: str = "",
    **hooks: Unpack[Hooks],
) -> WsgiApp:
    """A WSGI application that serves `engine` at `/_sync/...`.

    Args:
        engine: whose data is served. It is one process's: use a server with threads, not one with several
            processes.
        authenticate: called with the `syncline.http.Request`; returns the user's name, or None (or raises
            `Unauthenticated`) for a 401. `syncline.http.anyone` serves everybody.
        authorize: called with (user, "read" or "write", scope) for each scope of a request; returns whether
            it is allowed. `syncline.http.allow_all` allows everything.
        prefix: what comes before `/_sync` in the path when nothing strips it, as in "/api".
        hooks: `cors`, `metrics`, `admin`, `inspect`: see `syncline.http.Hooks`.

    Raises:
        TypeError: a hook is no function, or there is none of that name.
        UsageError: a hook is a coroutine function, which only `syncline.asgi` can await.
        ValueError: `prefix` does not begin with "/".
    """
    handler = Handler(engine, authenticate=authenticate, authorize=authorize, synchronous=True, **hooks)
    return WsgiApp(handler, check_prefix(prefix))
