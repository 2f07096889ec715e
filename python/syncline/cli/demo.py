"""`syncline demo`: a todo page that works offline, on a server of its own."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any, TypedDict

import typer

from .. import errors
from .._web import asset
from ..asgi import asgi
from ..engine import Engine
from ..http import allow_all, anyone, quick
from ..mutators import Mutators
from .common import fail as _fail
from .common import out
from .serve import listen

__all__ = ["add_to", "demo_app", "demo_mutators"]

_SCOPE = "list:demo"
_FIRST = ("Open this page in a second window", "Go offline in one of them", "Edit in both")


class _Todo(TypedDict):
    id: str
    title: str
    by: str


class _Done(TypedDict):
    id: str
    done: bool
    by: str


def _titled(title: str) -> str:
    if not title.strip():
        raise errors.Rejected("a todo needs a title", code="no_title")
    return title.strip()


def demo_mutators() -> Mutators:
    """The page's own, as web/demo/todo.html has them in JavaScript."""
    mutators = Mutators()

    @mutators("todo/create")
    def create(tx: Any, args: _Todo) -> None:
        made = {"title": _titled(args["title"]), "done": False, "by": args["by"], "made": tx.now}
        tx.set("todo", args["id"], made)

    @mutators("todo/rename")
    def rename(tx: Any, args: _Todo) -> None:
        tx.update("todo", args["id"], {"title": _titled(args["title"]), "by": args["by"]})

    @mutators("todo/done")
    def done(tx: Any, args: _Done) -> None:
        tx.update("todo", args["id"], {"done": args["done"], "by": args["by"]})

    @mutators("todo/delete")
    def delete(tx: Any, args: dict[str, Any]) -> None:
        tx.delete("todo", args["id"])

    return mutators


def demo_app(engine: Engine) -> Any:
    """An ASGI application: the page at "/", the endpoints, and the inspector for everybody."""
    inner = asgi(
        engine,
        authenticate=anyone,
        authorize=allow_all,
        inspect=quick(lambda user: True),
        close_engine=True,
    )
    page = asset("demo/todo.html")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/" or scope["method"] not in ("GET", "HEAD"):
            await inner(scope, receive, send)
            return
        headers = [
            (b"content-type", page.content_type.encode()),
            (b"content-length", str(len(page.body)).encode()),
            (b"cache-control", b"no-cache"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        body = page.body if scope["method"] == "GET" else b""
        await send({"type": "http.response.body", "body": body})

    return app


def demo(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 0,
    database: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the todos there; else they end with the server.")
    ] = None,
) -> None:
    """Serves a todo page on this machine: open it in two windows, switch one offline, and go on editing."""
    with tempfile.TemporaryDirectory(prefix="syncline-demo-") as folder:
        engine = Engine(database or Path(folder) / "todos.db", mutators=demo_mutators())
        try:
            with engine.write(_SCOPE) as tx:
                if not tx.list("todo"):
                    for number, title in enumerate(_FIRST, 1):
                        made = {"title": title, "done": False, "by": "Syncline", "made": tx.now}
                        tx.set("todo", f"00-{number}", made)  # sorts before every UUIDv7

            def announce(url: str) -> None:
                out.print(f"A todo page, for two windows side by side: {url}/", markup=False)
                out.print(f"What happens in its database:              {url}/_sync/inspect", markup=False)
                out.print("Ctrl+C stops it", markup=False)
                sys.stdout.flush()

            try:
                listen(demo_app(engine), True, "127.0.0.1", port, False, announce)
            except OSError as error:
                _fail(f"127.0.0.1:{port} cannot be listened on: {error.strerror or error}", 1)
        finally:
            engine.close()


def add_to(commands: typer.Typer) -> None:
    """Adds the command."""
    commands.command()(demo)
