"""What the tests of the replica share: a server that can be stopped, restored and restarted, and a proxy
before it that loses, repeats and cuts what passes."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import syncline
from http_support import served_asgi
from syncline import http as sync_http

Fate = Literal[
    "pass",  # as it should be
    "refuse",  # the connection breaks before the server sees the request
    "lose",  # the server does it, and its answer is lost
    "cut",  # half of the answer arrives
    "twice",  # the server gets the request twice, and answers to the second arrive
    "502",  # something between answers
]


PATIENCE = 30.0  # seconds within which what must happen does


def until(met: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def todo(id: str, title: str = "x") -> dict[str, str]:
    return {"id": id, "title": title}


def make_mutators(server: bool = True) -> syncline.Mutators:
    mutators = syncline.Mutators()

    @mutators("todo/create")
    def create(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("todo", args["id"], {"title": args["title"], "done": False})

    @mutators("todo/done")
    def done(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.update("todo", args["id"], {"done": True})

    @mutators("todo/delete")
    def delete(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.delete("todo", args["id"])

    @mutators("count")
    def count(tx: syncline.Tx, args: dict[str, Any]) -> None:
        old = tx.get("counter", args["id"])
        tx.set("counter", args["id"], {"n": 1 if old is None else old["n"] + 1})

    @mutators("mint")
    def mint(tx: syncline.Tx, args: Any) -> None:
        tx.set("minted", str(tx.uuid()), {"by": tx.user})

    @mutators("refused there")
    def refused_there(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("todo", args["id"], {"title": "must not stay"})
        if server:
            raise syncline.Rejected("not with us", code="no_thanks")

    @mutators("refused here")
    def refused_here(tx: syncline.Tx, args: Any) -> None:
        raise syncline.Rejected("not even here", code="never")

    return mutators


class FaultProxy:
    """A small HTTP proxy on an event loop of its own. `fate` decides for each request, by its path and how
    many of that path there were; WebSockets pass until `break_sockets`."""

    def __init__(self) -> None:
        self.target = 0
        self.down = False
        self.fate: Callable[[str, int], Fate] = lambda path, count: "pass"
        self.seen: list[str] = []
        self._counts: dict[str, int] = {}
        self._sockets: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def _do(self, what: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(20)

    def break_sockets(self) -> None:
        async def abort() -> None:
            for writer in list(self._sockets):
                writer.transport.abort()

        self._do(abort())

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for task in asyncio.all_tasks():
                if task is not asyncio.current_task():
                    task.cancel()
            await asyncio.sleep(0)

        self._do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._request(reader, writer):
                    pass
        finally:
            with contextlib.suppress(Exception):
                writer.transport.abort()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head, body = await _message(reader)
        if self.down:
            return False
        path = head.split(b" ", 2)[1].decode().partition("?")[0]
        if b"upgrade: websocket" in head.lower():
            await self._pipe(head, reader, writer)
            return False
        count = self._counts.get(path, 0)
        self._counts[path] = count + 1
        fate = self.fate(path, count)
        self.seen.append(f"{path} {fate}")
        if fate == "refuse":
            return False
        if fate == "502":
            writer.write(
                b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\nno!\n"
            )
            await writer.drain()
            return True
        for _ in range(2 if fate == "twice" else 1):
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            try:
                back.write(head + body)
                await back.drain()
                answer_head, answer = await _message(there)
            finally:
                back.transport.abort()
        if fate == "lose" or self.down:
            return False
        if fate == "cut":
            answer = answer[: len(answer) // 2]
        writer.write(answer_head + answer)
        await writer.drain()
        return fate != "cut"

    async def _pipe(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        self._sockets |= {writer, back}
        try:
            back.write(head)

            async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    sink.write(data)
                    await sink.drain()

            pipes = [asyncio.ensure_future(copy(reader, back)), asyncio.ensure_future(copy(there, writer))]
            await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
            for pipe in pipes:
                pipe.cancel()
        finally:
            self._sockets -= {writer, back}
            back.transport.abort()


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    length, chunked = 0, False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
        chunked = chunked or line.startswith(b"transfer-encoding: chunked")
    if not chunked:
        return head, await reader.readexactly(length)
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line, 16)
        body += line + await reader.readexactly(size + 2)
        if size == 0:
            return head, body


class Site:
    """A server, by way of the proxy: `site.url`. Users are tokens ("t-ada" is "ada"); `site.forbidden` holds
    (user, action, scope); `site.expired` holds tokens."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.path = folder / "server.db"
        self.options = options
        self.forbidden: set[tuple[str, str, str]] = set()
        self.expired: set[str] = set()
        self.proxy = FaultProxy()
        self.url = self.proxy.url
        self._stack = contextlib.ExitStack()
        self.engine: syncline.Engine
        self.start()

    def _authenticate(self, request: sync_http.Request) -> str | None:
        token = request.token
        if token is None or not token.startswith("t-") or token in self.expired:
            return None
        return token[2:].partition(".")[0]

    def start(self) -> None:
        self.engine = self._stack.enter_context(
            syncline.Engine(self.path, mutators=make_mutators(), **self.options)
        )
        app = syncline.asgi(
            self.engine,
            authenticate=self._authenticate,
            authorize=lambda user, action, scope: (user, action, scope) not in self.forbidden,
        )
        url = self._stack.enter_context(served_asgi(app))
        self.proxy.target = int(url.rpartition(":")[2])

    def stop(self) -> None:
        self.proxy.break_sockets()
        self._stack.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def backup(self) -> Path:
        path = self.folder / "backup.db"
        path.unlink(missing_ok=True)
        self.engine.backup(path)
        return path

    def restore(self, backup: Path) -> None:
        self.stop()
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        shutil.copyfile(backup, self.path)
        self.start()

    def close(self) -> None:
        self.stop()
        self.proxy.close()

    def documents(self, scope: str = "list:1", entity: str = "todo") -> dict[str, Any]:
        with self.engine.read(scope) as view:
            return dict(view.list(entity))


@contextlib.contextmanager
def site(folder: Path, **options: Any) -> Iterator[Site]:
    made = Site(folder, **options)
    try:
        yield made
    finally:
        made.close()
