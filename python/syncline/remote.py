"""`syncline.connect`: push, pull and snapshot over HTTP, for other processes than the one that has the
engine."""

from __future__ import annotations

import dataclasses
import http.client
import os
import ssl
import threading
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal, overload

from . import _core, errors, telemetry

if TYPE_CHECKING:
    from types import TracebackType

    from .engine import Mutation

__all__ = [
    "Change",
    "ChangeNote",
    "Pull",
    "PushResult",
    "Remote",
    "Result",
    "ResultError",
    "Snapshot",
    "connect",
]

_CONTENT_TYPE = {"json": "application/json", "msgpack": "application/msgpack"}

# What a kept connection says when the server closed it meanwhile, before it saw the request.
_STALE = (http.client.RemoteDisconnected, ConnectionResetError, ConnectionAbortedError, BrokenPipeError)

_KEPT_CONNECTIONS = 16


# ---------------------------------------------------------------------------------------------------- answers


@dataclasses.dataclass(frozen=True)
class ResultError:
    """Why a mutation was refused."""

    code: str
    message: str
    details: dict[str, object]


@dataclasses.dataclass(frozen=True)
class ChangeNote:
    """What a mutation did to one document, without the document."""

    cursor: int
    entity: str
    id: str
    op: str
    version: int


@dataclasses.dataclass(frozen=True)
class Result:
    """What became of one mutation."""

    ok: bool
    cursor: int
    error: ResultError | None
    changes: list[ChangeNote]
    duplicate: bool

    def raise_for_error(self) -> None:
        """Raises the error of a refused mutation."""
        if self.error is not None:
            raise _error(self.error.code, self.error.message, self.error.details)


@dataclasses.dataclass(frozen=True)
class PushResult(Sequence[Result]):
    """A result for each mutation of a push, in order."""

    results: list[Result]
    cursor: int
    epoch: str

    @property
    def ok(self) -> bool:
        """Whether every mutation went through."""
        return all(result.ok for result in self.results)

    def raise_for_error(self) -> None:
        """Raises the error of the first mutation that was refused."""
        for result in self.results:
            result.raise_for_error()

    def __len__(self) -> int:
        return len(self.results)

    @overload
    def __getitem__(self, index: int) -> Result: ...
    @overload
    def __getitem__(self, index: slice) -> list[Result]: ...
    def __getitem__(self, index: int | slice) -> Result | list[Result]:
        return self.results[index]

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)


@dataclasses.dataclass(frozen=True)
class Change:
    """What became of one document. `data` is None when it was deleted."""

    cursor: int
    scope: str
    entity: str
    id: str
    op: str
    data: dict[str, object] | None
    version: int
    ts: datetime


@dataclasses.dataclass(frozen=True)
class Pull:
    """A page of changes. `cursor` is one to keep only when `has_more` is False; else pull on with `page`."""

    changes: list[Change]
    scope: str
    cursor: int
    epoch: str
    has_more: bool
    page: str | None
    last_seq: int | None

    def __len__(self) -> int:
        return len(self.changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(self.changes)


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The live documents of a scope, as {entity: {id: document}}, and the cursor they are at."""

    data: dict[str, dict[str, dict[str, object]]]
    cursor: int
    epoch: str
    last_seq: int | None


# ----------------------------------------------------------------------------------------------------- remote


class Remote:
    """A server's engine, with the methods of `syncline.Engine` that HTTP has. Any thread may use it;
    `connect` makes it.

    All methods raise what the server answers (`Unauthenticated`, `Forbidden`, `InvalidRequest`,
    `CursorTooOld`, ...), and `Unavailable` when it cannot be reached or does not answer in time.

    A mutation without `client_id` is sent as one of this object's own client, and numbered: so backend code
    need not keep numbers. Give your own `client_id` and `client_seq` where a push must be repeatable by
    another process.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        client_id: str | None = None,
        timeout: float = 30,
        format: Literal["msgpack", "json"] = "msgpack",
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._secure, self._host, self._port, self._root = _parse_url(url)
        self.url = url
        if format not in _CONTENT_TYPE:
            raise ValueError(f"format must be 'msgpack' or 'json', not {format!r}")
        if not timeout > 0:
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        if token is not None and not (token and token.isascii() and token.isprintable() and " " not in token):
            raise ValueError("token must be printable ASCII without spaces")
        self._format = format
        self._timeout = timeout
        self._client_id = client_id
        self._ssl = (ssl_context or ssl.create_default_context()) if self._secure else None
        self._headers = {"Accept": _CONTENT_TYPE[format], "User-Agent": "syncline"}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._lock = threading.Lock()
        self._idle: list[http.client.HTTPConnection] = []
        self._pid = os.getpid()
        self._closed = False
        # The own client of mutations that come without one: one push at a time, numbered from 1.
        self._own_lock = threading.Lock()
        self._own_id = ""
        self._own_next = 1

    # -------------------------------------------------------------------------------------------------- calls

    def push(
        self,
        mutations: Iterable[Mapping[str, object] | Mutation],
        *,
        epoch: str | None = None,
        settled: Mapping[str, int] | None = None,
        timeout: float | None = None,
    ) -> PushResult:
        """Sends mutations; returns a result for each, in order. See `Engine.push`.

        A push whose connection breaks is sent once more: numbered mutations are applied once, however often
        they come.

        Args:
            mutations: `Mutation`s, or mappings with `name`, `args`, `scope`, and `client_id`, `client_seq`,
                `ts`, `seed` where there are.
            epoch: refuse the whole push when the server's is another one.
            settled: {client_id: up to which number its results are no longer wanted}.
            timeout: seconds, instead of `connect`'s.
        """
        if isinstance(mutations, (Mapping, str, bytes)) or not isinstance(mutations, Iterable):
            raise errors.InvalidRequest(
                f"push takes a list of mutations, not {type(mutations).__name__}: write push([...])"
            )
        sent = [dict(one if isinstance(one, Mapping) else vars(one)) for one in mutations]
        own = [mutation for mutation in sent if mutation.get("client_id", self._client_id) is None]
        for mutation in sent:
            if mutation.get("client_id") is None and self._client_id is not None:
                mutation["client_id"] = self._client_id
        body: dict[str, object] = {"mutations": sent}
        if epoch is not None:
            body["epoch"] = epoch
        if settled is not None:
            body["settled"] = dict(settled)
        if not own:
            return self._push(body, timeout)
        with self._own_lock:
            if not self._own_id:
                self._own_id, self._own_next = f"remote-{uuid.uuid4()}", 1
            for number, mutation in enumerate(own, self._own_next):
                mutation["client_id"], mutation["client_seq"] = self._own_id, number
            try:
                result = self._push(body, timeout)
            except (errors.Unavailable, errors.InternalError):
                self._own_id = ""  # whether the numbers were taken is not known: they are never used again
                raise
            for mutation, answer in zip(sent, result.results, strict=True):
                consumed = answer.error is None or answer.error.code not in ("unavailable", "sequence_gap")
                if mutation["client_id"] == self._own_id and consumed:
                    self._own_next += 1
            return result

    def _push(self, body: dict[str, object], timeout: float | None) -> PushResult:
        answer = self._call("POST", "/_sync/push", body, timeout)
        return PushResult(
            [_result(item) for item in answer["results"]],  # type: ignore[attr-defined]
            answer["cursor"],  # type: ignore[arg-type]
            answer["epoch"],  # type: ignore[arg-type]
        )

    def pull(
        self,
        scope: str,
        cursor: int = 0,
        *,
        epoch: str | None = None,
        page: str | None = None,
        limit: int | None = None,
        client_id: str | None = None,
        entities: Iterable[str] | None = None,
        timeout: float | None = None,
    ) -> Pull:
        """The documents of `scope` that changed after `cursor`, a page at a time. See `Engine.pull`.

        Args:
            scope: whose documents.
            cursor: the cursor of the last complete pull; 0 for all.
            epoch: the epoch that came with `cursor`; required above 0.
            page: `page` of the pull before, when it had more.
            limit: changes a page, at most.
            client_id: whose `last_seq` to tell; by default the `client_id` given to `connect`.
            entities: only these.
            timeout: seconds, instead of `connect`'s.
        """
        body: dict[str, object] = {"scope": scope, "cursor": cursor}
        optional = {"epoch": epoch, "page": page, "limit": limit, "client_id": client_id or self._client_id}
        body.update({key: value for key, value in optional.items() if value is not None})
        if entities is not None:
            body["entities"] = list(entities)
        answer = self._call("POST", "/_sync/pull", body, timeout)
        return Pull(
            changes=[_change(item) for item in answer["changes"]],  # type: ignore[attr-defined]
            scope=scope,
            cursor=answer["cursor"],  # type: ignore[arg-type]
            epoch=answer["epoch"],  # type: ignore[arg-type]
            has_more=answer["has_more"],  # type: ignore[arg-type]
            page=answer.get("page"),  # type: ignore[arg-type]
            last_seq=answer.get("last_seq"),  # type: ignore[arg-type]
        )

    def snapshot(self, scope: str, *, client_id: str | None = None, timeout: float | None = None) -> Snapshot:
        """The live documents of `scope`. See `Engine.snapshot`. `TooLarge` above the server's limit."""
        body: dict[str, object] = {"scope": scope}
        if client_id or self._client_id:
            body["client_id"] = client_id or self._client_id
        answer = self._call("POST", "/_sync/snapshot", body, timeout)
        return Snapshot(
            data=answer["data"],  # type: ignore[arg-type]
            cursor=answer["cursor"],  # type: ignore[arg-type]
            epoch=answer["epoch"],  # type: ignore[arg-type]
            last_seq=answer.get("last_seq"),  # type: ignore[arg-type]
        )

    def cursor(self, scope: str, *, timeout: float | None = None) -> int:
        """The cursor of the scope's last commit; 0 before there is one."""
        query = urllib.parse.urlencode({"scope": scope})
        return self._call("GET", f"/_sync/cursor?{query}", None, timeout)["cursor"]  # type: ignore[return-value]

    def health(self, *, timeout: float | None = None) -> dict[str, object]:
        """What the server says about itself: `ok`, `version`, and to a known user `head`, `epoch`, `limits`
        and more."""
        return self._call("GET", "/_sync/health", None, timeout)

    @property
    def epoch(self) -> str:
        """The server's epoch, asked for each time."""
        epoch = self.health().get("epoch")
        if not isinstance(epoch, str):
            raise errors.Unauthenticated(
                "the server tells its epoch to known users only; connect with a token"
            )
        return epoch

    def close(self) -> None:
        """Closes the connections. May be called twice."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> Remote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"syncline.connect({self.url!r})"

    # --------------------------------------------------------------------------------------------------- HTTP

    def _call(
        self, method: str, path: str, body: dict[str, object] | None, timeout: float | None
    ) -> dict[str, object]:
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
        headers = dict(self._headers)
        telemetry.inject(headers)
        data: bytes | None = None
        if body is not None:
            data = _core.packb(body) if self._format == "msgpack" else _core.json_encode(body)
            headers["Content-Type"] = _CONTENT_TYPE[self._format]
        status, answer_headers, content = self._exchange(method, self._root + path, data, headers, timeout)
        return self._decode(status, answer_headers, content)

    def _exchange(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], timeout: float | None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        timeout = self._timeout if timeout is None else timeout
        connection = self._take()
        try:
            if connection is not None:
                try:
                    return self._request(connection, method, path, data, headers, timeout)
                except _STALE:
                    connection.close()  # a repeat is harmless: reads are, and numbered mutations apply once
            connection = self._connection()
            return self._request(connection, method, path, data, headers, timeout)
        except (OSError, http.client.HTTPException) as error:
            said = (
                "did not answer in time"
                if isinstance(error, TimeoutError)
                else f"cannot be reached: {error or type(error).__name__}"
            )
            raise errors.Unavailable(f"{self.url} {said}") from error

    def _request(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        data: bytes | None,
        headers: dict[str, str],
        timeout: float,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        try:
            connection.timeout = timeout
            if connection.sock is not None:
                connection.sock.settimeout(timeout)
            unsent: OSError | None = None
            try:
                connection.request(method, path, body=data, headers=headers)
            except (BrokenPipeError, ConnectionResetError) as error:
                # A server may refuse a body before it is all sent; its reason can be there already.
                unsent = error
            try:
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException):
                if unsent is not None:
                    raise unsent from None
                raise
        except BaseException:
            connection.close()
            raise
        if unsent is not None or response.will_close:
            connection.close()
        else:
            self._give_back(connection)
        return response.status, response.headers, content

    def _take(self) -> http.client.HTTPConnection | None:
        with self._lock:
            if self._closed:
                raise errors.Closed("this connection was closed")
            if self._pid != os.getpid():
                self._idle, self._pid = (
                    [],
                    os.getpid(),
                )  # a forked child must not speak on its parent's sockets
            return self._idle.pop() if self._idle else None

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _KEPT_CONNECTIONS:
                self._idle.append(connection)
                return
        connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self._ssl is not None:
            return http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout, context=self._ssl
            )
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)

    def _decode(self, status: int, headers: http.client.HTTPMessage, content: bytes) -> dict[str, object]:
        kind = (headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        answer: object = None
        try:
            if kind == "application/json":
                answer = _core.json_decode(content)
            elif kind in ("application/msgpack", "application/x-msgpack"):
                answer = _core.unpackb(content)
        except errors.Error:
            answer = None
        if status == 200 and isinstance(answer, dict):
            return answer
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            said = dict(answer["error"])
            code, message = str(said.pop("code", "internal_error")), str(said.pop("message", ""))
            retry_after = headers.get("Retry-After", "")
            if retry_after.isdigit():
                said.setdefault("retry_after", int(retry_after))
            raise _error(code, message, said)
        where = headers.get("Location")
        if where and 300 <= status < 400:
            raise errors.InvalidRequest(f"{self.url} has moved to {where}; connect to that")
        message = (
            f"{self.url} answered {status} with {kind or 'no type'}: "
            "it is not a Syncline server, or something before it failed"
        )
        if status == 429:
            raise errors.RateLimited(message)
        if status in (502, 503, 504):
            raise errors.Unavailable(message)
        if status == 401:
            raise errors.Unauthenticated(message)
        if status == 403:
            raise errors.Forbidden(message)
        if status == 413:
            raise errors.TooLarge(message)
        raise errors.NotFound(message) if status in (200, 404) else errors.InvalidRequest(message)


def _parse_url(url: str) -> tuple[bool, str, int | None, str]:
    def wrong(why: str) -> ValueError:
        return ValueError(
            f"{url!r} {why}; write it as 'https://sync.example.org' or 'http://127.0.0.1:8000/api'"
        )

    try:
        parts = urllib.parse.urlsplit(url)
        port = parts.port
    except (ValueError, AttributeError, TypeError) as error:
        raise wrong(f"is no URL ({error})") from None
    if parts.scheme not in ("http", "https"):
        raise wrong("is no http or https URL")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a URL with a user or password in it ends up in logs; give token= instead")
    if not parts.hostname:
        raise wrong("is a URL that names no host")
    if parts.query or parts.fragment:
        raise wrong("is a URL with a query or fragment")
    if any(character <= " " or character == "\x7f" for character in url):
        raise wrong("is no URL: it contains a space or control character")
    root = urllib.parse.quote(parts.path.rstrip("/").removesuffix("/_sync"), safe="/%:@!$&'()*+,;=~-._")
    return parts.scheme == "https", parts.hostname, port, root


def _error(code: str, message: str, details: Mapping[str, object]) -> errors.Error:
    return errors.from_code(
        code, message, {name: value for name, value in details.items() if isinstance(value, (int, str))}
    )


def _result(item: Mapping[str, object]) -> Result:
    error = item.get("error")
    failure: ResultError | None = None
    if isinstance(error, dict):
        said = dict(error)
        failure = ResultError(str(said.pop("code")), str(said.pop("message", "")), said)
    notes = item.get("changes") or ()
    return Result(
        ok=bool(item["ok"]),
        cursor=item["cursor"],  # type: ignore[arg-type]
        error=failure,
        changes=[
            ChangeNote(note["cursor"], note["entity"], note["id"], note["op"], note["version"])
            for note in notes  # type: ignore[attr-defined]
        ],
        duplicate=bool(item.get("duplicate", False)),
    )


def _change(item: Mapping[str, object]) -> Change:
    ts = item["ts"]
    if isinstance(ts, str):
        ts = datetime.fromisoformat(ts.replace("Z", "+00:00"))
    return Change(
        cursor=item["cursor"],  # type: ignore[arg-type]
        scope=item["scope"],  # type: ignore[arg-type]
        entity=item["entity"],  # type: ignore[arg-type]
        id=item["id"],  # type: ignore[arg-type]
        op=item["op"],  # type: ignore[arg-type]
        data=item.get("data"),  # type: ignore[arg-type]
        version=item["version"],  # type: ignore[arg-type]
        ts=ts,  # type: ignore[arg-type]
    )


def connect(
    url: str,
    *,
    token: str | None = None,
    client_id: str | None = None,
    timeout: float = 30,
    format: Literal["msgpack", "json"] = "msgpack",
    ssl_context: ssl.SSLContext | None = None,
) -> Remote:
    """A server's engine over HTTP. Nothing is sent until the first call.

    Args:
        url: where the server is, up to `/_sync`, as in "https://sync.example.org" or
            "http://127.0.0.1:8000/api".
        token: sent as `Authorization: Bearer`.
        client_id: the client whose mutations these are; those without `client_id` get it, and pulls tell its
            `last_seq`.
        timeout: seconds for each step of a call (connecting, sending, receiving).
        format: how bodies travel.
        ssl_context: for https; by default the system's certificates.

    Raises:
        ValueError: the URL, the token, the timeout or the format is none.
    """
    return Remote(
        url, token=token, client_id=client_id, timeout=timeout, format=format, ssl_context=ssl_context
    )
