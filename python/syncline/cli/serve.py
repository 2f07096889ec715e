"""`syncline serve` and `syncline version`."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import inspect
import ipaddress
import os
import platform
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from .. import __version__, errors
from ..asgi import asgi
from ..engine import Engine
from ..http import Authenticate, Cors, Hooks, Request, allow_all, anyone, quick
from ..live import Settings
from .common import fail as _fail
from .common import note, out

__all__ = ["add_to", "listen", "read_tokens"]

_GRACE = 10  # seconds that running requests get when the server is told to stop
_KEEP_ALIVE = 65  # seconds; longer than the pauses of a client that polls once a minute
_OPEN_FILES = 65_536
_MAX_MESSAGE = 16 << 20  # bytes, of the WebSockets of an application of somebody's own; uvicorn's default


# ---------------------------------------------------------------------------------------------------- loading


def _load(reference: str, option: str) -> Any:  # what a user's module has under a name may be anything
    module_name, colon, path = reference.partition(":")
    if not colon or not module_name or not path or not all(part.isidentifier() for part in path.split(".")):
        _fail(f"{option} must be written module:name, as in app:engine; it is {reference!r}")
    if module_name.endswith(".py") or "/" in module_name:
        stem = Path(module_name).stem
        _fail(f"{option} names a file; from its folder, write {stem}:{path}")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        value = importlib.import_module(module_name)
    except ModuleNotFoundError as missing:
        if missing.name is not None and (module_name + ".").startswith(missing.name + "."):
            _fail(f"{option}: there is no module {module_name!r} here ({here}) or among the installed ones")
        raise
    except errors.Error as error:
        _fail(f"{option}: importing {module_name} failed: {error}", 1)
    for part in path.split("."):
        try:
            value = getattr(value, part)
        except AttributeError:
            _fail(f"{option}: {module_name} has no {path!r}")
    return value


def _load_hook(reference: str, option: str) -> Any:
    hook = _load(reference, option)
    if not callable(hook):
        _fail(f"{option} must name a function; {reference} is a {type(hook).__name__}")
    return hook


def read_tokens(path: Path) -> Authenticate:
    """An `authenticate` hook out of a file with a line `token user` for each token; blank lines and lines
    that begin with "#" are skipped.

    Raises:
        ValueError: a line is something else, a token comes twice, or there is none.
        OSError: the file cannot be read.
    """
    # Hashed, so that comparing takes the same time however much of a guess is right.
    users: dict[bytes, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        fields = line.split()
        if len(fields) != 2:
            raise ValueError(f"{path}, line {number}: must be a token and a user, with a space between")
        token, user = fields
        digest = hashlib.sha256(token.encode()).digest()
        if digest in users:
            raise ValueError(f"{path}, line {number}: this token was there before")
        users[digest] = user
    if not users:
        raise ValueError(f"{path}: there is no token in it; write a line with a token and a user")

    @quick
    def authenticate(request: Request) -> str | None:
        token = request.token
        return (
            None
            if token is None
            else users.get(hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest())
        )

    return authenticate


def _hooks(
    open_to_all: bool, token_file: Path | None, authenticate: str | None, authorize: str | None
) -> tuple[Any, Any]:
    ways = [open_to_all, token_file is not None, authenticate is not None]
    if sum(ways) != 1:
        _fail(
            "Say who may connect, in one way: --token-file FILE (lines `token user`), "
            "--authenticate module:function, or --open for everybody."
        )
    who: Any
    if open_to_all:
        who = anyone
    elif token_file is not None:
        try:
            who = read_tokens(token_file)
        except (OSError, ValueError) as error:
            _fail(f"--token-file: {error}")
    else:
        assert authenticate is not None
        who = _load_hook(authenticate, "--authenticate")
        if authorize is None:
            _fail(
                "Say what they may do too: --authorize module:function; "
                "syncline.http:allow_all lets every user read and write all."
            )
    may: Any = allow_all if authorize is None else _load_hook(authorize, "--authorize")
    return who, may


def _operators(names: list[str] | None, who: Any, inspector: bool) -> Hooks:
    """The hooks of --operator and --inspect; there are none without them."""
    if not names:
        if not inspector:
            return {}
        if who is not anyone:
            _fail("--inspect is for operators: say who they are with --operator USER.")
        return {"inspect": quick(lambda user: True)}
    operators = frozenset(names)

    async def metrics(request: Request) -> bool:
        user = who(request) if getattr(who, "_syncline_quick", False) else await _ask_beside(who, request)
        return user in operators

    @quick
    def admin(user: str, command: str) -> bool:
        return user in operators

    hooks: Hooks = {"metrics": metrics, "admin": admin}
    if inspector:
        hooks["inspect"] = quick(lambda user: user in operators)
    return hooks


async def _ask_beside(who: Any, request: Request) -> object:
    if inspect.iscoroutinefunction(who):
        return await who(request)
    return await asyncio.to_thread(who, request)


def _is_asgi(value: object) -> bool:
    call = value if inspect.isfunction(value) else getattr(value, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(call) and not inspect.isclass(value)


# ---------------------------------------------------------------------------------------------------- serving


def _allow_many_connections() -> None:
    """Each client of the live channel is an open file, and the usual limit of 1,024 is too low for many; a
    process may raise its own up to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def listen(
    app: Any, own: bool, host: str, port: int, access_log: bool, announce: Callable[[str], None]
) -> None:
    """Serves an ASGI application until this process is told to stop. `announce` is called with the URL once
    it answers; `own` says that its WebSockets are the live channel's. Raises OSError: nobody can listen
    there."""
    import uvicorn  # here, since the other commands begin sooner without it

    # uvicorn, with httptools and uvloop, which it takes where they are installed: on two busy cores with 4 to
    # 8 clients it served 1.45 times the single pushes that granian did, 1.3 times the empty pulls, 1.1 times
    # the pulls of 1,000 documents and 0.9 times the pushes of 100 mutations (medians of 3 runs); with h11 and
    # asyncio's own loop 0.75 times the single pushes. And it runs in this process, which has the engine,
    # where granian starts others.
    #
    # Of its three implementations of WebSockets websockets-sansio took the least processor time to tell 1,000
    # clients of a commit, 11 ms; wsproto took 15.7 and websockets 16.9. Pokes are too short to be compressed.
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        ws="websockets-sansio" if importlib.util.find_spec("websockets") else "auto",
        ws_per_message_deflate=not own,
        ws_max_size=Settings().frame_bytes if own else _MAX_MESSAGE,
        log_level="info" if access_log else "warning",
        access_log=access_log,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=_GRACE,
        server_header=False,
        proxy_headers=False,
    )
    _allow_many_connections()
    server = uvicorn.Server(config)

    # A note rather than an exception: one that is raised while a weak reference's callback runs is printed
    # and dropped, and the imports between `announce` and uvicorn's own handlers run many (19 of 200 servers
    # that were told to stop within 0.3 s of listening went on for ever). uvicorn heeds it as soon as it has
    # started; once it has stopped it repeats the signal, which changes nothing then, and the process ends
    # with 0.
    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Listening already, so that whoever reads the line below may connect at once.
    listener = socket.create_server((host, port), family=family, backlog=config.backlog)
    bound = listener.getsockname()
    shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
    announce(f"http://{shown}:{bound[1]}")
    try:
        server.run(sockets=[listener])
    finally:
        listener.close()


def serve(
    target: Annotated[
        str, typer.Argument(metavar="MODULE:ENGINE", help="The engine, or an ASGI application.")
    ],
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    authenticate: Annotated[
        str | None,
        typer.Option(metavar="MODULE:FUNCTION", help="Called with the request; returns the user or None."),
    ] = None,
    authorize: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE:FUNCTION", help='Called with user, "read" or "write", and scope; returns a bool.'
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who may connect: a line `token user` for each token.")
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open", help="Everybody may read and write everything.")
    ] = False,
    cors: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN", help="Web pages of this origin may call it; may be repeated; * for all."
        ),
    ] = None,
    operator: Annotated[
        list[str] | None,
        typer.Option(
            metavar="USER",
            help="May read /_sync/metrics and run commands such as compact through --url; may be repeated.",
        ),
    ] = None,
    inspector: Annotated[
        bool,
        typer.Option(
            "--inspect", help="The inspector at /_sync/inspect, for operators; with --open for everybody."
        ),
    ] = False,
    access_log: Annotated[bool, typer.Option("--access-log", help="Log each request.")] = False,
) -> None:
    """Serves MODULE:ENGINE at http://HOST:PORT/_sync until it is interrupted, and closes it then.

    An ASGI application is served as it is, with its own hooks.
    """
    served = _load(target, "MODULE:ENGINE")
    engine: Engine | None = None
    if isinstance(served, Engine):
        engine = served
        who, may = _hooks(open_to_all, token_file, authenticate, authorize)
        try:
            origins = "*" if cors == ["*"] else cors
            allowed = None if not origins else Cors(origins=origins)
        except ValueError as error:
            _fail(f"--cors: {error}")
        hooks = _operators(operator, who, inspector)
        hooks["cors"] = allowed
        app: Any = asgi(engine, authenticate=who, authorize=may, close_engine=True, **hooks)
    elif _is_asgi(served):
        if open_to_all or token_file or authenticate or authorize or cors or operator or inspector:
            _fail(f"{target} is an application, which has its own hooks; these options are for an engine.")
        app = served
    else:
        _fail(f"{target} is a {type(served).__name__}; it must be a syncline.Engine or an ASGI application")

    def announce(url: str) -> None:
        out.print(f"{target} is served at {url}/_sync, Ctrl+C stops it", markup=False)
        if inspector:
            out.print(f"The inspector is at {url}/_sync/inspect", markup=False)
        if open_to_all and not _is_loopback(host):
            note("Everybody who can reach this address may read and write everything.")
        sys.stdout.flush()

    try:
        listen(app, engine is not None, host, port, access_log, announce)
    except OSError as error:
        _fail(f"{host}:{port} cannot be listened on: {error.strerror or error}", 1)
    finally:
        if engine is not None:
            engine.close()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def version() -> None:
    """Tells the versions of Syncline and Python."""
    out.print(f"syncline {__version__}, Python {platform.python_version()}", markup=False)


def add_to(commands: typer.Typer) -> None:
    """Adds these commands."""
    commands.command()(serve)
    commands.command()(version)
