"""The protocol's answers to HTTP requests, without a framework and without a server.

`handle` takes a method, a path, headers and a body and returns a `Response`; `syncline.asgi` and
`syncline.wsgi` wrap the same code for servers. Bodies go to the core as bytes and come back as bytes.

Every request is answered by one generator, `Handler._plan`, which yields what has to be done (ask a hook,
call the core, wait for a push); two small drivers do it, one for threads and one for an event loop. So both
answer alike.

What there is to ask for is the table `ROUTES` alone: it dispatches, and `syncline.openapi` describes it.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import contextvars
import dataclasses
import functools
import inspect
import json
import logging
import time
import urllib.parse
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, TypeVar

from . import _core, errors, openapi, telemetry
from . import admin as administration
from . import inspector as inspection
from ._runner import Push
from ._web import Asset, asset
from .metrics import render as render_metrics

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .engine import Engine

__all__ = [
    "ROUTES",
    "Action",
    "Admin",
    "Authenticate",
    "Authorize",
    "Cors",
    "Headers",
    "Hooks",
    "Inspect",
    "Metrics",
    "Request",
    "Response",
    "Route",
    "allow_all",
    "anyone",
    "handle",
    "handle_async",
    "quick",
]

Action: TypeAlias = Literal["read", "write"]
Authenticate: TypeAlias = "Callable[[Request], str | Awaitable[str | None] | None]"
Authorize: TypeAlias = "Callable[[str, Action, str], bool | Awaitable[bool]]"
Metrics: TypeAlias = "Callable[[Request], bool | Awaitable[bool]]"
Admin: TypeAlias = "Callable[[str, str], bool | Awaitable[bool]]"
Inspect: TypeAlias = "Callable[[str], bool | Awaitable[bool]]"

_log = logging.getLogger("syncline.http")
_F = TypeVar("_F", bound=Callable[..., object])

_JSON = "json"
_MSGPACK = "msgpack"
_CONTENT_TYPE = {_JSON: "application/json", _MSGPACK: "application/msgpack"}
_FORMAT = {
    "application/json": _JSON,
    "application/msgpack": _MSGPACK,
    "application/x-msgpack": _MSGPACK,
    "application/vnd.msgpack": _MSGPACK,
}

_RETRY_AFTER = 1  # seconds; said with 429 and 503 when the error does not say its own

# Bodies up to this size are parsed where the request is handled, on the event loop too: it takes less than a
# change of threads.
_PARSE_INLINE = 64 << 10


# ------------------------------------------------------------------------------------- requests and responses


class Headers(Mapping[str, str]):
    """Read-only HTTP headers: names compare without case, and a name may occur more than once.

    `headers[name]` joins the values of a repeated name with `", "`, as HTTP defines it; `get_all(name)` keeps
    them apart.
    """

    __slots__ = ("_pairs", "_values")

    def __init__(
        self, headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]] | None = None
    ) -> None:
        pairs = headers.items() if isinstance(headers, Mapping) else (headers or ())
        self._pairs: tuple[tuple[str, str], ...] = tuple((_text(name), _text(value)) for name, value in pairs)
        self._values: dict[str, list[str]] = {}
        for name, value in self._pairs:
            self._values.setdefault(name.lower(), []).append(value)

    def __getitem__(self, name: str) -> str:
        return ", ".join(self._values[name.lower()])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def get_all(self, name: str) -> list[str]:
        """The values of `name` in the order in which they came; empty when there is none."""
        return list(self._values.get(name.lower(), ()))

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every (name, value) as it came."""
        return self._pairs

    def __repr__(self) -> str:
        hidden = {"authorization", "cookie", "proxy-authorization"}
        shown = [(name, "..." if name.lower() in hidden else value) for name, value in self._pairs]
        return f"Headers({shown!r})"


@dataclass(frozen=True)
class Request:
    """What `authenticate` is asked about.

    `path` is decoded and without the prefix the application is mounted under; `environ` is the ASGI scope or
    the WSGI environ of the server (empty under `handle`), where a framework's middleware leaves its session
    or user.
    """

    method: str
    path: str
    headers: Headers = field(default_factory=Headers)
    body: bytes = field(default=b"", repr=False)
    query_string: str = ""
    environ: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)

    @functools.cached_property
    def query(self) -> Mapping[str, str]:
        """The query's parameters; of one that is repeated, the last.

        Raises:
            InvalidRequest: it is no UTF-8.
        """
        return dict(self.query_pairs)

    @functools.cached_property
    def query_pairs(self) -> tuple[tuple[str, str], ...]:
        """The query's parameters as (name, value), in order. Raises like `query`."""
        try:
            pairs = urllib.parse.parse_qsl(self.query_string, keep_blank_values=True, errors="strict")
        except ValueError as error:
            raise errors.InvalidRequest(f"the query is not percent-encoded UTF-8: {error}") from None
        return tuple(pairs)

    @functools.cached_property
    def cookies(self) -> Mapping[str, str]:
        """The cookies by name; empty when the header is malformed."""
        jar: SimpleCookie = SimpleCookie()
        try:
            jar.load(self.headers.get("cookie", ""))
        except CookieError:
            return {}
        return {name: morsel.value for name, morsel in jar.items()}

    @property
    def token(self) -> str | None:
        """The token of `Authorization: Bearer <token>`; None without one."""
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token.strip() or None if scheme.lower() == "bearer" else None

    @property
    def basic(self) -> tuple[str, str] | None:
        """(name, password) of `Authorization: Basic`; None without one or when it is malformed."""
        scheme, _, encoded = self.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            name, colon, password = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
        except ValueError:
            return None
        return (name, password) if colon else None


@dataclass(frozen=True)
class Response:
    """An answer: `status`, `headers` and the whole `body`."""

    status: int
    headers: Headers
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Cors:
    """Which web pages of other origins may call the endpoints from a browser.

    Args:
        origins: their origins (`"https://app.example.org"`), or `"*"` for every page in the world.
        credentials: whether the browser may send its cookies along; not together with `"*"`.
        max_age: for how many seconds a browser may remember the answer to a preflight.
        headers: names of request headers to allow besides Accept, Authorization and Content-Type.

    Raises:
        ValueError: an origin is none, or `"*"` comes with `credentials`.
    """

    origins: Sequence[str] | Literal["*"]
    credentials: bool = False
    max_age: int = 600
    headers: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.origins, str):
            if self.origins != "*":
                raise ValueError(f"origins must be a list of origins or '*', not {self.origins!r}")
            if self.credentials:
                raise ValueError(
                    "origins='*' with credentials would let any page act as its visitor; list the origins"
                )
            return
        for origin in self.origins:
            parts = urllib.parse.urlsplit(origin)
            plain = f"{parts.scheme}://{parts.netloc}"
            if origin == "*" or not parts.scheme or not parts.netloc or origin != plain:
                raise ValueError(f"{origin!r} is not an origin; write it as 'https://app.example.org'")

    def allows(self, origin: str) -> bool:
        """Whether a page of `origin` may read the answers."""
        return self.origins == "*" or origin in self.origins

    def _answer_headers(self, origin: str | None) -> list[tuple[str, str]]:
        if self.origins == "*":
            return [("Access-Control-Allow-Origin", "*"), ("Access-Control-Expose-Headers", "Retry-After")]
        headers = [("Vary", "Origin")]
        if origin is not None and self.allows(origin):
            headers += [
                ("Access-Control-Allow-Origin", origin),
                ("Access-Control-Expose-Headers", "Retry-After"),
            ]
            if self.credentials:
                headers.append(("Access-Control-Allow-Credentials", "true"))
        return headers

    def _preflight_headers(self, methods: tuple[str, ...]) -> list[tuple[str, str]]:
        return [
            ("Access-Control-Allow-Methods", ", ".join(methods)),
            (
                "Access-Control-Allow-Headers",
                ", ".join(("Accept", "Authorization", "Content-Type", *self.headers)),
            ),
            ("Access-Control-Max-Age", str(self.max_age)),
        ]


class Hooks(TypedDict, total=False):
    """What `handle`, `asgi` and `wsgi` take by name besides `authenticate` and `authorize`. Left out, or
    None: nobody may, and there is no such path.

    Attributes:
        cors: which web pages of other origins may call; see `Cors`.
        metrics: called with the `Request`; returns whether its sender may read the metrics at
            `/_sync/metrics` (which need the extra "metrics") and the storage's part of the health answer.
        admin: called with (user, command); returns whether that user may run it at `/_sync/admin/...`.
        inspect: called with the user; returns whether it may open the inspector at `/_sync/inspect`. Which
            scopes it sees there says `authorize`, asked for "read".
    """

    cors: Cors | None
    metrics: Metrics | None
    admin: Admin | None
    inspect: Inspect | None


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


# ------------------------------------------------------------------------------------------------------ hooks


def quick(hook: _F) -> _F:
    """Says that a synchronous hook never waits (no database, no network), so that `syncline.asgi` may call it
    on the event loop.

    Other synchronous hooks are called on a thread; coroutine functions are awaited.
    """
    hook._syncline_quick = True  # type: ignore[attr-defined]
    return hook


@quick
def anyone(request: Request) -> str:
    """`authenticate=anyone`: everybody is the user "anonymous". For an open server, said explicitly."""
    return "anonymous"


@quick
def allow_all(user: str, action: Action, scope: str) -> bool:
    """`authorize=allow_all`: whoever was authenticated may read and write every scope."""
    return True


def _is_async(hook: object) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None))  # noqa: B004


# --------------------------------------------------------------------------------------------- the one answer


@dataclass(frozen=True)
class _Step:
    """Something a plan wants done. `begin` returns its value, or a future or an awaitable of it."""

    begin: Callable[[], object]
    quick: bool  # never waits: may be done on an event loop


_Plan: TypeAlias = Generator[_Step, object, object]  # of a request, it ends with a `Response`
_Body: TypeAlias = tuple[bytes, str]  # with its content type
Who: TypeAlias = Literal["anyone", "user", "metrics", "admin", "inspect"]
_Part: TypeAlias = Literal["metrics", "admin", "inspect"]


@dataclass(frozen=True)
class Route:
    """Something to ask for.

    Attributes:
        path: from `/_sync` on.
        methods: the first is the one to use.
        name: of the operation, or of the command that the admin hook is asked about.
        summary: what it does, in a sentence.
        who: may ask: "anyone", a "user", or whom that hook allows (without the hook there is no such path).
        answer, request: the schemas of the bodies in `syncline.openapi`; a request without one has no body.
        query: names of parameters in the query, all required.
        content_types: of the answer.
        refusals: what it may answer besides `ANSWERED_ANYWHERE`, which `every_refusal` has too.
        schemas: more of them than `syncline.openapi` knows.
        part: without whose hook there is no such path, though anyone may ask for it.
        headers: more of them, of the answer.
    """

    path: str
    methods: tuple[str, ...]
    name: str
    summary: str
    who: Who
    plan: Callable[[Handler, Request, str, str], Generator[_Step, object, _Body | Asset]] = field(repr=False)
    answer: str
    request: str | None = None
    query: tuple[str, ...] = ()
    content_types: tuple[str, ...] = ("application/json", "application/msgpack")
    refusals: tuple[type[errors.Error], ...] = ()
    schemas: Mapping[str, dict[str, object]] = field(default_factory=dict, repr=False)
    part: _Part | None = None
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def hook(self) -> _Part | None:
        """The optional hook that there must be."""
        return self.part if self.who in ("anyone", "user") else self.who  # type: ignore[return-value]

    @property
    def every_refusal(self) -> tuple[type[errors.Error], ...]:
        return tuple(dict.fromkeys((*ANSWERED_ANYWHERE, *self.refusals)))


class _HookFailed(Exception):
    """Carries what a hook raised past the handlers of the core's own errors."""


class Handler:
    """The endpoints of one engine with its hooks. Any thread may call it.

    Args:
        engine: whose data is served.
        authenticate: who sent a request: a user, or None (answered with 401).
        authorize: whether that user may "read" or "write" a scope.
        cors: for browsers on pages of other origins; None: no such page may read the answers.
        metrics: whether the sender of a request may read the metrics; None: nobody.
        admin: whether that user may run a command such as "compact"; None: nobody.
        inspect: whether that user may open the inspector; None: nobody.

    Raises:
        TypeError: a hook is no callable, or `cors` no `Cors`.
        UsageError: `synchronous` is wanted and a hook is a coroutine function.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        authenticate: Authenticate,
        authorize: Authorize,
        cors: Cors | None = None,
        metrics: Metrics | None = None,
        admin: Admin | None = None,
        inspect: Inspect | None = None,
        synchronous: bool = False,
    ) -> None:
        optional = {"metrics": metrics, "admin": admin, "inspect": inspect}
        given = {name: hook for name, hook in optional.items() if hook is not None}
        for name, hook in {"authenticate": authenticate, "authorize": authorize, **given}.items():
            if not callable(hook):
                raise TypeError(f"{name} must be a function, not {type(hook).__name__}")
            if synchronous and _is_async(hook):
                raise errors.UsageError(
                    f"{name} is a coroutine function, which only syncline.asgi can await; write it with def"
                )
        if cors is not None and not isinstance(cors, Cors):
            raise TypeError(f"cors must be a syncline.http.Cors or None, not {type(cors).__name__}")
        self._engine = engine
        self._authenticate = authenticate
        self._authorize = authorize
        self._cors = cors
        self._authenticate_quick = _is_async(authenticate) or getattr(authenticate, "_syncline_quick", False)
        self._authorize_quick = _is_async(authorize) or getattr(authorize, "_syncline_quick", False)
        self._metrics = metrics
        self._admin = admin
        self._inspect = inspect
        self.routes = {route.path: route for route in ROUTES if route.hook is None or route.hook in given}

    @property
    def max_body_bytes(self) -> int:
        return self._engine.limits.max_body_bytes

    def admit(self, request: Request) -> Response | None:
        """The answer that needs no body: to a wrong path or method, a preflight, a body that is declared too
        large or in no format of ours. None: read the body, at most `max_body_bytes` of it, and `answer`."""
        begun = time.perf_counter()
        response = self._admit(request)
        if response is not None:
            self._count(request, response, begun)
        return response

    def _admit(self, request: Request) -> Response | None:
        try:
            route = self.routes.get(request.path)
            if route is None and request.path == "/_sync/live":
                raise errors.NotFound("/_sync/live is a WebSocket, where it is served; poll /_sync/cursor")
            if route is None:
                raise errors.NotFound(
                    f"there is no {request.path!r}; the endpoints are {', '.join(self.routes)}"
                )
            allowed = route.methods
            if request.method == "OPTIONS":
                return self._options(request, allowed)
            if request.method not in allowed:
                error = errors.InvalidRequest(f"{request.path} wants {allowed[0]}, not {request.method}")
                return self._refusal(
                    request, error, status=405, headers=[("Allow", ", ".join((*allowed, "OPTIONS")))]
                )
            if request.method == "POST":
                _body_format(request)
                declared = request.headers.get("content-length")
                if declared is not None:
                    if not (declared.isascii() and declared.isdigit()):
                        raise errors.InvalidRequest(
                            f"Content-Length must be a number of bytes, not {declared[:40]!r}"
                        )
                    if int(declared[:20]) > self.max_body_bytes:
                        raise self._body_too_large()
        except errors.Error as error:
            return self._refusal(request, error)
        return None

    def too_large(self, request: Request) -> Response:
        """The answer to a body that turned out to be longer than `max_body_bytes`."""
        return self.refuse(request, self._body_too_large())

    def refuse(self, request: Request, error: errors.Error) -> Response:
        """The answer that says `error`."""
        response = self._refusal(request, error)
        self._count(request, response, time.perf_counter())
        return response

    def answer(self, request: Request) -> Response:
        """Answers an admitted request on this thread. Raises `UsageError` where this thread holds a write, as
        a push would wait for it; no other `Exception`."""
        begun = time.perf_counter()
        plan = self._plan(request)
        outcome = _advance(plan, None, None, may_wait=True)
        while not isinstance(outcome, Response):
            value: object = None
            failure: BaseException | None = None
            if isinstance(outcome, Push):
                try:
                    # A thread that holds a write would wait for a push that waits for it.
                    self._engine._native.check_not_writing()
                    outcome.wait()
                except BaseException:
                    outcome.withdraw()
                    plan.close()
                    raise
                value, failure = _settled(outcome)
            else:
                if inspect.iscoroutine(outcome):
                    outcome.close()
                failure = _HookFailed(
                    errors.UsageError(
                        "a hook returned an awaitable, which only syncline.asgi can await; write it with def"
                    )
                )
            outcome = _advance(plan, value, failure, may_wait=True)
        self._count(request, outcome, begun)
        return outcome

    async def answer_async(
        self, request: Request, executor: concurrent.futures.Executor | None = None
    ) -> Response:
        """Answers an admitted request without holding up the event loop: what waits or takes long runs on
        `executor` (None: the loop's own)."""
        begun = time.perf_counter()
        response = await _drive(self._plan(request), executor)
        assert isinstance(response, Response)
        self._count(request, response, begun)
        return response

    async def user_of(self, request: Request, executor: concurrent.futures.Executor | None = None) -> str:
        """Who sent it, as `authenticate` says; for what is no request with an answer of its own.

        Raises:
            Unauthenticated: nobody that is known.
            Forbidden, RateLimited, Unavailable: what the hook said.
            InternalError: it failed; that is logged.
        """
        user = await self._asked(self._user(request), executor)
        assert isinstance(user, str)
        return user

    async def check_may_read(
        self, user: str, scope: str, executor: concurrent.futures.Executor | None = None
    ) -> None:
        """Asks `authorize`. Raises as `user_of`, `Forbidden` where it says no, and `InvalidScope`."""
        if not _is_name(scope):
            raise errors.InvalidScope(
                f"{scope[:100]!r} names no scope: that has 1 to 255 bytes of UTF-8, no control character and "
                "no leading '_'"
            )
        await self._asked(self._may_read(user, scope), executor)

    async def _asked(
        self, plan: Generator[_Step, object, object], executor: concurrent.futures.Executor | None
    ) -> object:
        try:
            return await _drive(plan, executor)
        except _HookFailed as failed:
            cause = failed.args[0]
            if isinstance(cause, _TOLD_BY_HOOKS):
                raise cause from None
        except errors.Error:
            raise
        except Exception as error:
            cause = error
        _log.error("a hook failed for %s", "/_sync/live", exc_info=cause)
        raise errors.InternalError("internal error") from None

    def _count(self, request: Request, response: Response, begun: float) -> None:
        # Only what is known is a label: a stranger must not be able to make new ones.
        route = self.routes.get(request.path)
        known = route is not None and request.method in (*route.methods, "OPTIONS")
        self._engine._requests.add(
            "other" if route is None else route.path,
            request.method if known else "other",
            response.status,
            begun,
        )

    # ----------------------------------------------------------------------------------------------- the plan

    def _plan(self, request: Request) -> _Plan:
        try:
            try:
                answer = yield from self._route(request)
            except _HookFailed as failed:
                cause = failed.args[0]
                if isinstance(cause, _TOLD_BY_HOOKS):
                    raise cause from None
                raise _Unexpected(cause) from cause
            except errors.Error:
                raise
            except BaseException as error:
                # A mutator's SystemExit must not end the server that happened to wait for it.
                if isinstance(error, GeneratorExit):
                    raise
                raise _Unexpected(error) from error
        except _Unexpected as unexpected:
            cause = unexpected.args[0]
            _log.error("%s %s failed", request.method, request.path, exc_info=cause)
            return self._refusal(request, errors.InternalError("internal error"))
        except errors.Error as error:
            return self._refusal(request, error)
        if isinstance(answer, Asset):
            return self._hand_out(request, answer)
        return self._response(request, 200, *answer, self.routes[request.path].headers)

    def _route(self, request: Request) -> Generator[_Step, object, _Body | Asset]:
        route = self.routes[request.path]
        user = ""
        if route.who in ("user", "admin", "inspect"):
            user = yield from self._user(request)
        if route.who == "admin" and not (yield from self._may_run(user, route.name)):
            raise errors.Forbidden(f"this user may not run {route.name!r}")
        if route.who == "inspect" and not (yield from self._may_inspect(user)):
            raise errors.Forbidden("this user may not open the inspector")
        if route.who == "metrics" and not (yield from self._may_observe(request)):
            raise errors.Forbidden("who sent this may not read the metrics")
        return (yield from route.plan(self, request, user, _answer_format(request)))

    def _push(self, request: Request, user: str, format: str) -> Generator[_Step, object, _Body]:
        push = yield from self._parse(request, _core.PushRequest.parse)
        forbidden: set[str] = set()
        for scope in push.scopes:
            # A void may name no scope, and a reserved one is refused by the core as what it is.
            if scope and not _reserved(scope) and not (yield from self._may(user, "write", scope)):
                forbidden.add(scope)

        def submit() -> object:
            return self._engine._submit(push, user=user, forbidden=forbidden, require_client=True)

        with self._span("syncline.push", {"syncline.mutations": len(push)}, request) as span:
            result = yield _Step(submit if span is None else lambda: _within(span, submit), quick=True)
            assert isinstance(result, _core.PushResult)
            telemetry.tell(span, result)
        return result.encode(format), _CONTENT_TYPE[format]

    def _pull(self, request: Request, user: str, format: str) -> Generator[_Step, object, _Body]:
        pull = yield from self._parse(request, _core.PullRequest.parse)
        yield from self._may_read(user, pull.scope)
        with self._span("syncline.pull", {"syncline.scope": pull.scope}, request):
            body = yield _Step(lambda: self._engine._native.pull_encoded(pull, user, format), quick=False)
        assert isinstance(body, bytes)
        return body, _CONTENT_TYPE[format]

    def _snapshot(self, request: Request, user: str, format: str) -> Generator[_Step, object, _Body]:
        snapshot = yield from self._parse(request, _core.SnapshotRequest.parse)
        yield from self._may_read(user, snapshot.scope)
        with self._span("syncline.snapshot", {"syncline.scope": snapshot.scope}, request):
            body = yield _Step(
                lambda: self._engine._native.snapshot_encoded(snapshot, user, format), quick=False
            )
        assert isinstance(body, bytes)
        return body, _CONTENT_TYPE[format]

    def _cursor(self, request: Request, user: str, format: str) -> Generator[_Step, object, _Body]:
        scopes = [value for name, value in request.query_pairs if name == "scope"]
        if len(scopes) != 1:
            raise errors.InvalidRequest(
                f"the query must name one scope, as in /_sync/cursor?scope=list:1; it names {len(scopes)}"
            )
        yield from self._may_read(user, scopes[0])
        cursor = yield _Step(lambda: self._engine.cursor(scopes[0]), quick=False)
        return _encode({"cursor": cursor, "epoch": self._engine.epoch}, format)

    def _health(self, request: Request, user: str, format: str) -> Generator[_Step, object, _Body]:
        known = yield from _unless_unknown(self._user(request))
        observer = self._metrics is not None and (yield from _unless_unknown(self._may_observe(request)))
        health = yield _Step(self._engine.health, quick=False)
        assert isinstance(health, dict)
        # A load balancer's probe has no token. Clients need the limits; what the machine is like concerns
        # those who run it.
        if not known and not observer:
            health = {key: health[key] for key in ("ok", "version")}
        elif not observer:
            del health["storage"]
        return _encode(health, format)

    def _read_metrics(self, request: Request, user: str, format: str) -> Generator[_Step, object, _Body]:
        told = yield _Step(
            lambda: render_metrics(self._engine, request.headers.get("accept", "")), quick=False
        )
        return told  # type: ignore[return-value]

    def _describe(self, request: Request, user: str, format: str) -> Generator[_Step, object, _Body]:
        told = yield _Step(
            lambda: json.dumps(openapi.document(self.routes.values(), self._engine.limits)).encode(),
            quick=False,
        )
        assert isinstance(told, bytes)
        return told, _CONTENT_TYPE[_JSON]

    def _client(self, request: Request, user: str, format: str) -> Generator[_Step, object, Asset]:
        told = yield _Step(lambda: asset("client.js"), quick=True)
        assert isinstance(told, Asset)
        return told

    @contextlib.contextmanager
    def _span(
        self, name: str, attributes: telemetry.Attributes, request: Request
    ) -> Iterator[telemetry.Span | None]:
        """A span over steps that may run on several threads, so never a current one; None: nobody listens."""
        if not self._engine._traced():
            yield None
            return
        span = telemetry.begin(name, attributes, request.headers)
        try:
            yield span
        except BaseException as error:
            telemetry.fail(span, error)
            raise
        finally:
            span.end()

    def _parse(
        self, request: Request, parse: Callable[[bytes, str, _core.Limits], _Parsed]
    ) -> Generator[_Step, object, _Parsed]:
        if len(request.body) > self.max_body_bytes:
            raise self._body_too_large()
        format = _body_format(request)
        parsed = yield _Step(
            lambda: parse(request.body, format, self._engine.limits), quick=len(request.body) <= _PARSE_INLINE
        )
        return parsed  # type: ignore[return-value]

    # ---------------------------------------------------------------------------------------------- the hooks

    def _user(self, request: Request) -> Generator[_Step, object, str]:
        user = yield from _ask(lambda: self._authenticate(request), quick=self._authenticate_quick)
        if user is None or user == "":
            raise errors.Unauthenticated(
                "who is asking could not be established; send what the server's authentication wants"
            )
        if not isinstance(user, str):
            raise TypeError(
                f"authenticate must return a user's name as str, or None; it returned {type(user).__name__}"
            )
        if not _is_name(user):
            raise errors.Unauthenticated(
                "a user's name must have 1 to 255 bytes of UTF-8, no control character and no leading '_'"
            )
        return user

    def _may(self, user: str, action: Action, scope: str) -> Generator[_Step, object, bool]:
        try:
            allowed = yield from _ask(
                lambda: self._authorize(user, action, scope), quick=self._authorize_quick
            )
        except _HookFailed as failed:
            if isinstance(failed.args[0], errors.Forbidden):
                return False
            raise
        if not isinstance(allowed, bool):
            raise TypeError(f"authorize must return True or False; it returned {type(allowed).__name__}")
        return allowed

    def _may_observe(self, request: Request) -> Generator[_Step, object, bool]:
        hook = self._metrics
        assert hook is not None
        return (yield from self._allowed(lambda: hook(request), hook, "metrics"))

    def _may_run(self, user: str, command: str) -> Generator[_Step, object, bool]:
        hook = self._admin
        assert hook is not None
        return (yield from self._allowed(lambda: hook(user, command), hook, "admin"))

    def _may_inspect(self, user: str) -> Generator[_Step, object, bool]:
        hook = self._inspect
        assert hook is not None
        return (yield from self._allowed(lambda: hook(user), hook, "inspect"))

    def _allowed(self, ask: Callable[[], object], hook: object, name: str) -> Generator[_Step, object, bool]:
        quick = _is_async(hook) or getattr(hook, "_syncline_quick", False)
        try:
            allowed = yield from _ask(ask, quick=quick)
        except _HookFailed as failed:
            if isinstance(failed.args[0], errors.Forbidden):
                return False
            raise
        if not isinstance(allowed, bool):
            raise TypeError(f"{name} must return True or False; it returned {type(allowed).__name__}")
        return allowed

    def _may_read(self, user: str, scope: str) -> Generator[_Step, object, None]:
        if _reserved(scope):
            raise errors.InvalidScope(
                f"the scope {scope!r} is reserved: names that begin with '_' are the engine's own"
            )
        if not (yield from self._may(user, "read", scope)):
            raise errors.Forbidden(f"the scope {scope!r} may not be read by this user")

    def _leave_out(self, user: str, told: dict[str, Any]) -> Generator[_Step, object, None]:
        """Keeps of the inspector's rows those of scopes that the user may read. Raises `Forbidden` where the
        whole answer is of another one."""
        if "scope" in told:
            yield from self._may_read(user, told["scope"])
        readable: dict[str, bool] = {}
        kept = []
        for row in told.get("rows", ()):
            scope = row["scope"]
            if scope not in readable:
                readable[scope] = not _reserved(scope) and (yield from self._may(user, "read", scope))
            if readable[scope]:
                kept.append(row)
        if "rows" in told:
            told["rows"] = kept

    # -------------------------------------------------------------------------------------------- the answers

    def _body_too_large(self) -> errors.TooLarge:
        limit = self.max_body_bytes
        return errors.TooLarge(f"the body is larger than {limit} bytes", details={"limit": limit})

    def _options(self, request: Request, allowed: tuple[str, ...]) -> Response:
        methods = (*allowed, "OPTIONS")
        headers = [("Allow", ", ".join(methods))]
        origin = request.headers.get("origin")
        if origin is not None and "access-control-request-method" in request.headers:
            if self._cors is None or not self._cors.allows(origin):
                raise errors.Forbidden(f"pages of {origin!r} may not call this server")
            headers += self._cors._preflight_headers(methods)
        return self._response(request, 204, b"", None, headers)

    def _refusal(
        self,
        request: Request,
        error: errors.Error,
        *,
        status: int | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> Response:
        code, message = error.code, str(error)
        details = {key: value for key, value in error.details.items() if isinstance(value, (int, str))}
        if code not in errors.WIRE_CODES:
            _log.error("%s %s failed", request.method, request.path, exc_info=error)
            details = {}
            if _core.http_status(code) == 503:
                code, message = "unavailable", "the server cannot do this now; try again later"
            else:
                code, message = "internal_error", "internal error"
        status = status or _core.http_status(code)
        headers = list(headers)
        if status in (429, 503):
            retry_after = details.get("retry_after", _RETRY_AFTER)
            headers.append(("Retry-After", str(retry_after)))
        elif status == 401:
            headers.append(("WWW-Authenticate", 'Bearer realm="syncline"'))
        format = _answer_format(request)
        body = _core.encode_error(code, message, details, format)
        return self._response(request, status, body, _CONTENT_TYPE[format], headers)

    def _hand_out(self, request: Request, file: Asset) -> Response:
        # Whoever has it asks each time whether it is still the one: server and client are of one version.
        more = [("ETag", file.etag), *self.routes[request.path].headers]
        if file.is_known_to(request.headers.get("if-none-match", "")):
            return self._response(request, 304, b"", None, more, cache="no-cache")
        return self._response(request, 200, file.body, file.content_type, more, cache="no-cache")

    def _response(
        self,
        request: Request,
        status: int,
        body: bytes,
        content_type: str | None,
        more: Sequence[tuple[str, str]] = (),
        *,
        cache: str = "no-store",
    ) -> Response:
        headers: list[tuple[str, str]] = []
        if content_type is not None:
            headers += [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        headers += [("Cache-Control", cache), ("X-Content-Type-Options", "nosniff"), *more]
        if self._cors is not None:
            headers += self._cors._answer_headers(request.headers.get("origin"))
        return Response(status, Headers(headers), b"" if request.method == "HEAD" else body)


_Parsed = TypeVar("_Parsed")

# What a hook may say in its own words; anything else it raises is a fault of the application.
_TOLD_BY_HOOKS = (errors.Unauthenticated, errors.Forbidden, errors.RateLimited, errors.Unavailable)


class _Unexpected(Exception):
    """Carries an exception that the client must not see."""


def _ask(hook: Callable[[], object], *, quick: bool) -> Generator[_Step, object, object]:
    try:
        return (yield _Step(hook, quick=quick))
    except _HookFailed:
        raise
    except Exception as error:
        raise _HookFailed(error) from error


def _is_name(name: str) -> bool:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return False
    control = any(character < " " or "\x7f" <= character <= "\x9f" for character in name)
    return 1 <= size <= 255 and not control and not _reserved(name)


def _reserved(scope: str) -> bool:
    return scope.startswith("_")


def _encode(value: Mapping[str, object], format: str) -> _Body:
    body = _core.packb(value) if format == _MSGPACK else _core.json_encode(value)
    return body, _CONTENT_TYPE[format]


def _within(span: telemetry.Span, begin: Callable[[], object]) -> object:
    with telemetry.current(span):
        return begin()


def _unless_unknown(asking: Generator[_Step, object, object]) -> Generator[_Step, object, bool]:
    """Whether the hook knows who is asking, where not knowing is no error."""
    try:
        return bool((yield from asking))
    except errors.Unauthenticated:
        return False
    except _HookFailed as failed:
        if not isinstance(failed.args[0], errors.Unauthenticated):
            raise
        return False


def _body_format(request: Request) -> str:
    content_type = request.headers.get("content-type")
    if content_type is None:
        if "origin" in request.headers:
            # A browser sends such a request with its cookies and without asking first, from any page.
            raise errors.InvalidRequest(
                "a web page must name its Content-Type: application/json or application/msgpack"
            )
        return _JSON
    format = _FORMAT.get(content_type.partition(";")[0].strip().lower())
    if format is None:
        raise errors.InvalidRequest(
            f"Content-Type must be application/json or application/msgpack, not {content_type[:100]!r}"
        )
    return format


def _answer_format(request: Request) -> str:
    """What `Accept` prefers; the request's own format where it does not say, or asks for something else
    altogether."""
    content_type = request.headers.get("content-type", "")
    own = _FORMAT.get(content_type.partition(";")[0].strip().lower(), _JSON)
    best, best_quality = own, 0.0
    for item in request.headers.get("accept", "").split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        format = own if name in ("*/*", "application/*") else _FORMAT.get(name)
        if format is None:
            continue
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if quality > best_quality or (quality == best_quality and quality > 0 and format == own):
            best, best_quality = format, quality
    return best


# ------------------------------------------------------------------------------------------------- the routes

_READING = (errors.InvalidScope, errors.Forbidden)

# What any route may answer: a wrong method or query, a page that may not call, a hook that refuses or fails,
# a database that is closed.
ANSWERED_ANYWHERE: tuple[type[errors.Error], ...] = (
    errors.InvalidRequest,
    errors.Unauthenticated,
    errors.Forbidden,
    errors.InternalError,
    errors.RateLimited,
    errors.Unavailable,
)


def _fields(body: bytes, format: str, limits: _core.Limits) -> dict[str, object]:
    try:
        value = {} if not body else _core.unpackb(body) if format == _MSGPACK else _core.json_decode(body)
    except errors.Error as error:
        raise errors.InvalidRequest(str(error)) from None
    if not isinstance(value, dict):
        raise errors.InvalidRequest("the body must be a map of fields")
    return value


def _administer(command: administration.Command) -> Route:
    def plan(handler: Handler, request: Request, user: str, format: str) -> Generator[_Step, object, _Body]:
        given = yield from handler._parse(request, _fields)
        _log.info(
            "%r runs %s", user, command.name, extra={"syncline_user": user, "syncline_command": command.name}
        )
        answer = yield _Step(lambda: command.run(handler._engine, given), quick=False)
        assert isinstance(answer, dict)
        return _encode(answer, format)

    takes = f"admin.{command.name.replace('/', '.')}"
    answers = f"{takes}.answer"
    return Route(
        path=administration.path_of(command.name),
        methods=("POST",),
        name=command.name,
        summary=command.summary,
        who="admin",
        plan=plan,
        request=takes,
        answer=answers,
        refusals=(*_READING, errors.NotFound, errors.TooLarge, errors.InvalidMutation),
        schemas={takes: openapi.schema_of(command.takes), answers: openapi.schema_of(command.answers)},
    )


def _inspect(question: inspection.Question) -> Route:
    def plan(handler: Handler, request: Request, user: str, format: str) -> Generator[_Step, object, _Body]:
        given = yield from handler._parse(request, _fields)
        arguments = question.arguments(given)
        named = getattr(arguments, "scope", None)
        if named is not None:
            yield from handler._may_read(user, named)
        answer = yield _Step(lambda: question.function(handler._engine, arguments), quick=False)
        told = dataclasses.asdict(answer)  # type: ignore[call-overload]
        if named is None:
            yield from handler._leave_out(user, told)
        if question.answers is inspection.Pulse:
            told["user"] = user
            for command in inspection.MENDING if handler._admin is not None else ():
                if (yield from handler._may_run(user, command)):
                    told["may"].append(command)
        return _encode(told, format)

    takes = f"inspect.{question.name}"
    answers = f"{takes}.answer"
    return Route(
        path=inspection.path_of(question.name),
        methods=("POST",),
        name=f"inspect/{question.name}",
        summary=question.summary,
        who="inspect",
        plan=plan,
        request=takes,
        answer=answers,
        refusals=(*_READING, errors.NotFound, errors.HistoryGone, errors.TooLarge),
        schemas={takes: openapi.schema_of(question.takes), answers: openapi.schema_of(question.answers)},
    )


def _inspector(part: inspection.Part) -> Route:
    def plan(handler: Handler, request: Request, user: str, format: str) -> Generator[_Step, object, Asset]:
        file = yield _Step(lambda: asset(part.file), quick=False)
        assert isinstance(file, Asset)
        return file

    return Route(
        path=part.path,
        methods=("GET", "HEAD"),
        name=part.path.removeprefix("/_sync/"),
        summary=part.summary,
        who="anyone",
        part="inspect",
        plan=plan,
        answer="Asset",
        content_types=(part.content_type,),
        headers=inspection.HEADERS,
    )


ROUTES: tuple[Route, ...] = (
    Route(
        path="/_sync/push",
        methods=("POST",),
        name="push",
        summary="Runs mutations, each exactly once, and answers with a result for each.",
        who="user",
        plan=Handler._push,
        request="Push",
        answer="PushResult",
        refusals=(errors.EpochMismatch, errors.TooLarge, errors.InvalidMutation),
    ),
    Route(
        path="/_sync/pull",
        methods=("POST",),
        name="pull",
        summary="The documents of a scope that changed after a cursor, deletions included, a page at a time.",
        who="user",
        plan=Handler._pull,
        request="Pull",
        answer="PullPage",
        refusals=(*_READING, errors.CursorTooOld, errors.EpochMismatch, errors.TooLarge),
    ),
    Route(
        path="/_sync/snapshot",
        methods=("POST",),
        name="snapshot",
        summary="The live documents of a scope and the cursor they are at.",
        who="user",
        plan=Handler._snapshot,
        request="SnapshotOf",
        answer="Snapshot",
        refusals=(*_READING, errors.TooLarge),
    ),
    Route(
        path="/_sync/cursor",
        methods=("GET", "HEAD"),
        name="cursor",
        summary="The cursor of the last commit that touched a scope.",
        who="user",
        plan=Handler._cursor,
        query=("scope",),
        answer="Cursor",
        refusals=_READING,
    ),
    Route(
        path="/_sync/health",
        methods=("GET", "HEAD"),
        name="health",
        summary="That the server lives; to a known user its limits and more.",
        who="anyone",
        plan=Handler._health,
        answer="Health",
    ),
    Route(
        path="/_sync/openapi.json",
        methods=("GET", "HEAD"),
        name="openapi",
        summary="This description.",
        who="anyone",
        plan=Handler._describe,
        answer="OpenApi",
        content_types=("application/json",),
    ),
    Route(
        path="/_sync/client.js",
        methods=("GET", "HEAD"),
        name="client",
        summary="The client for browsers, an ES module.",
        who="anyone",
        plan=Handler._client,
        answer="Asset",
        content_types=("text/javascript",),
    ),
    Route(
        path="/_sync/metrics",
        methods=("GET", "HEAD"),
        name="metrics",
        summary="Counters and gauges as Prometheus reads them.",
        who="metrics",
        plan=Handler._read_metrics,
        answer="Metrics",
        content_types=("text/plain", "application/openmetrics-text"),
    ),
    *map(_administer, administration.COMMANDS.values()),
    *map(_inspector, inspection.PARTS),
    *map(_inspect, inspection.QUESTIONS.values()),
)


# ------------------------------------------------------------------------------------------------ the drivers


def _advance(plan: _Plan, value: object, failure: BaseException | None, *, may_wait: bool) -> object:
    """Gives the plan what it waits for and does its steps, up to its `Response`, to a future or an awaitable
    that has to be waited for, or, unless `may_wait`, to a step that is not quick (returned undone)."""
    while True:
        try:
            step = plan.send(value) if failure is None else plan.throw(failure)
        except StopIteration as stop:
            return stop.value
        value, failure = None, None
        if not may_wait and not step.quick:
            return step
        try:
            value = step.begin()
        except Exception as error:
            failure = error
        if isinstance(value, Push) or inspect.isawaitable(value):
            return value


def _perform(plan: _Plan, step: _Step) -> object:
    """Does a step that waits, and those after it, on a thread that may wait."""
    try:
        value = step.begin()
    except Exception as error:
        return _advance(plan, None, error, may_wait=True)
    if isinstance(value, Push) or inspect.isawaitable(value):
        return value
    return _advance(plan, value, None, may_wait=True)


def _settled(push: Push) -> tuple[object, BaseException | None]:
    outcome = push.outcome
    return (None, outcome) if isinstance(outcome, BaseException) else (outcome, None)


async def _drive(plan: _Plan, executor: concurrent.futures.Executor | None) -> object:
    """Does a plan on an event loop: what waits or takes long runs on `executor`. Its value."""
    loop = asyncio.get_running_loop()
    outcome = _advance(plan, None, None, may_wait=False)
    while True:
        value: object = None
        failure: BaseException | None = None
        if isinstance(outcome, _Step):
            context = contextvars.copy_context()
            outcome = await loop.run_in_executor(executor, context.run, _perform, plan, outcome)
            continue
        try:
            if isinstance(outcome, Push):
                await outcome.arrived()
                value, failure = _settled(outcome)
            elif inspect.isawaitable(outcome):
                value = await outcome
            else:
                return outcome
        except asyncio.CancelledError:
            plan.close()
            raise
        except Exception as error:
            failure = error
        outcome = _advance(plan, value, failure, may_wait=False)


# -------------------------------------------------------------------------------------------------- functions


def _request(
    method: str,
    path: str,
    headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]] | None,
    body: bytes | bytearray | memoryview,
) -> Request:
    bare, _, query = path.partition("?")
    return Request(
        method=method.upper(),
        path=urllib.parse.unquote(bare),
        headers=headers if isinstance(headers, Headers) else Headers(headers),
        body=bytes(body),
        query_string=query,
    )


def handle(
    engine: Engine,
    method: str,
    path: str,
    headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]] | None,
    body: bytes | bytearray | memoryview,
    *,
    authenticate: Authenticate,
    authorize: Authorize,
    **hooks: Unpack[Hooks],
) -> Response:
    """Answers one HTTP request, for a framework or a server that `syncline.asgi` and `syncline.wsgi` do not
    fit.

    Args:
        engine: whose data is served.
        method: "GET", "POST", ...
        path: the request's path from `/_sync` on, percent-encoded, with its query.
        headers: a mapping or (name, value) pairs.
        body: the request's body; at most `engine.limits.max_body_bytes` are taken.
        authenticate: called with the `Request`; returns the user's name, or None (or raises
            `Unauthenticated`) for a 401.
        authorize: called with (user, "read" or "write", scope) for each scope; returns whether it is allowed.
        hooks: `cors`, `metrics`, `admin`, `inspect`: see `Hooks`.

    Returns:
        The answer. What went wrong is in it too, an exception in a hook as a 500 without detail (it is logged
        as "syncline.http").

    Raises:
        TypeError: a hook is no function.
        UsageError: a hook is a coroutine function; see `handle_async`.
    """
    handler = Handler(engine, authenticate=authenticate, authorize=authorize, synchronous=True, **hooks)
    request = _request(method, path, headers, body)
    return handler.admit(request) or handler.answer(request)


async def handle_async(
    engine: Engine,
    method: str,
    path: str,
    headers: Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]] | None,
    body: bytes | bytearray | memoryview,
    *,
    authenticate: Authenticate,
    authorize: Authorize,
    **hooks: Unpack[Hooks],
) -> Response:
    """`handle` for an event loop: hooks may be coroutine functions, and what waits runs on the loop's
    executor.

    Raises:
        TypeError: a hook is no function.
    """
    handler = Handler(engine, authenticate=authenticate, authorize=authorize, **hooks)
    request = _request(method, path, headers, body)
    return handler.admit(request) or await handler.answer_async(request)
