"""From a commit to the last of many live clients, beside what one writes by hand and beside bare sockets.

    python benchmarks/live.py [--connections N] [--rounds N] [--loop uvloop|asyncio] [--quick]

Each peer is a server process with N clients, all of which are held by this process with one cheap reader:
sockets and epoll, which shakes hands itself and counts frames.

    bare        asyncio alone: a protocol that writes the frame's bytes to N raw sockets
    starlette   `for ws in sockets: await ws.send_text(json.dumps(...))` under uvicorn
    syncline    N subscribers of one scope of `syncline.asgi` under uvicorn as `syncline serve` runs it; the
                time is from before the commit, the others' from before the first send

The peers broadcast in turn, in changing order, and a ratio is the median over the rounds. The memory is what
the server process grew by when the clients came and subscribed, by their number.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import random
import resource
import select
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

PEERS = ("bare", "starlette", "syncline")
SCOPE = "list:1"
EPOCH = "0123456789abcdef"


def allow_many_files() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


# ----------------------------------------------------------------------------------------------- the servers


def poke(cursor: int) -> dict[str, object]:
    return {"type": "poke", "scope": SCOPE, "cursor": cursor, "epoch": EPOCH}


def text_frame(text: bytes) -> bytes:
    assert len(text) < 126
    return bytes((0x81, len(text))) + text


def obey(commands: dict[str, Callable[[], object]]) -> None:
    """A line in, a line out, on the process's standard streams."""
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), flush=True)


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def serve_bare(loop_of: str) -> None:
    sockets: set[asyncio.Transport] = set()
    cursors = iter(range(1, 1 << 30))

    class Sink(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            sockets.add(transport)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Sink, "127.0.0.1", 0, backlog=4096)

        def broadcast(frame: bytes) -> None:
            for one in sockets:
                one.write(frame)

        def go() -> int:
            begun = time.monotonic_ns()
            frame = text_frame(json.dumps(poke(next(cursors)), separators=(",", ":")).encode())
            loop.call_soon_threadsafe(broadcast, frame)
            return begun

        commands = {
            "port": lambda: server.sockets[0].getsockname()[1],
            "go": go,
            "memory": resident,
            "cpu": time.process_time_ns,
        }
        await loop.run_in_executor(None, obey, commands)
        os._exit(0)

    with_loop(loop_of, run())


def with_loop(loop_of: str, main: Any) -> None:
    if loop_of == "uvloop":
        import uvloop

        uvloop.run(main)
    else:
        asyncio.run(main)


def serve_asgi(app: Any, loop_of: str, ws: str, go: Callable[[], int]) -> None:
    import uvicorn

    config = uvicorn.Config(
        app,
        port=0,
        log_level="error",
        loop="uvloop" if loop_of == "uvloop" else "asyncio",
        ws=ws,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        backlog=4096,
        lifespan="on",
    )
    listener = config.bind_socket()
    listener.listen(4096)
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, args=([listener],), daemon=True).start()
    obey(
        {"port": lambda: listener.getsockname()[1], "go": go, "memory": resident, "cpu": time.process_time_ns}
    )
    os._exit(0)


def serve_starlette(loop_of: str, ws: str) -> None:
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    sockets: set[WebSocket] = set()
    loops: list[asyncio.AbstractEventLoop] = []
    cursors = iter(range(1, 1 << 30))

    async def live(socket: WebSocket) -> None:
        await socket.accept()
        sockets.add(socket)
        loops[:] = [asyncio.get_running_loop()]
        try:
            while True:
                json.loads(await socket.receive_text())
                await socket.send_text(json.dumps(poke(0)))
        except WebSocketDisconnect:
            pass
        finally:
            sockets.discard(socket)

    async def broadcast(told: dict[str, object]) -> None:
        for one in sockets:
            await one.send_text(json.dumps(told))

    def go() -> int:
        begun = time.monotonic_ns()
        asyncio.run_coroutine_threadsafe(broadcast(poke(next(cursors))), loops[0])
        return begun

    app = Starlette(routes=[WebSocketRoute("/_sync/live", live)])
    serve_asgi(app, loop_of, ws, go)


def serve_syncline(loop_of: str, ws: str) -> None:
    import syncline
    from syncline.http import allow_all, anyone
    from syncline.live import Settings

    engine = syncline.Engine(":memory:")
    counts = iter(range(1, 1 << 30))

    def go() -> int:
        begun = time.monotonic_ns()
        with engine.write(SCOPE) as tx:
            tx.set("todo", "1", {"count": next(counts)})
        return begun

    # The clients here are too cheap to answer a ping.
    settings = Settings(ping=3600, idle_timeout=7200)
    app = syncline.asgi(engine, authenticate=anyone, authorize=allow_all, live=settings)
    serve_asgi(app, loop_of, ws, go)


# ----------------------------------------------------------------------------------------------- the clients


def masked(text: bytes) -> bytes:
    return bytes((0x81, 0x80 | len(text))) + b"\0\0\0\0" + text  # a mask of zeros changes nothing


class Peer:
    """A server process and its N clients."""

    def __init__(self, name: str, loop_of: str, ws: str, count: int) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, "--serve", name, "--loop", loop_of, "--ws", ws],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.poll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        port = self.ask("port")
        before = self.ask("memory")
        for _ in range(count):
            one = self.connect(port)
            self.sockets[one.fileno()] = one
            self.poll.register(one.fileno(), select.EPOLLIN)
        if name == "bare":
            time.sleep(1)  # all have been accepted
        self.each = (self.ask("memory") - before) / count

    def ask(self, command: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return int(json.loads(self.process.stdout.readline()))

    def connect(self, port: int) -> socket.socket:
        one = socket.create_connection(("127.0.0.1", port))
        if self.name != "bare":
            key = base64.b64encode(random.randbytes(16)).decode()
            one.sendall(
                f"GET /_sync/live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
                f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}"
                "\r\n\r\n".encode()
            )
            got = b""
            while not got.endswith(b"\r\n\r\n"):
                data = one.recv(4096)
                assert data, got
                got += data
            one.sendall(masked(b'{"type":"subscribe","scopes":["' + SCOPE.encode() + b'"]}'))
            got = b""
            while b'"poke"' not in got.replace(b" ", b"") or not got.endswith(b"}"):
                data = one.recv(4096)
                assert data, got
                got += data
        one.setblocking(False)
        return one

    def broadcast(self) -> float:
        """Seconds until the last client has its frame."""
        begun = self.ask("go")
        sockets, left, poll = self.sockets, len(self.sockets), self.poll.poll
        while left:
            for number, _ in poll(30):
                data = sockets[number].recv(4096)
                # A frame for each of them; what came together would be seen by its length.
                assert len(data) == 2 + data[1], data
                left -= 1
        return (time.monotonic_ns() - begun) / 1e9

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for one in self.sockets.values():
            one.close()


@contextlib.contextmanager
def peers(names: list[str], loop_of: str, ws: str, count: int) -> Iterator[list[Peer]]:
    made: list[Peer] = []
    try:
        for name in names:
            made.append(Peer(name, loop_of, ws, count))
        yield made
    finally:
        for one in made:
            one.close()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--connections", type=int, default=1000)
    options.add_argument("--rounds", type=int, default=100)
    options.add_argument("--loop", default="uvloop", choices=["uvloop", "asyncio"])
    options.add_argument("--ws", default="websockets-sansio", help="uvicorn's implementation of WebSockets")
    options.add_argument("--quick", action="store_true", help="a smoke run; its figures mean nothing")
    options.add_argument("--serve", choices=PEERS, help=argparse.SUPPRESS)
    given = options.parse_args()
    files = allow_many_files()
    if given.serve == "bare":
        serve_bare(given.loop)
        return
    if given.serve is not None:
        {"starlette": serve_starlette, "syncline": serve_syncline}[given.serve](given.loop, given.ws)
        return
    if given.quick:
        given.connections, given.rounds = 20, 5
    if files < 3 * given.connections + 100:
        raise SystemExit(f"at most {files} files may be open here (ulimit -n); ask for fewer --connections")
    took: dict[str, list[float]] = {name: [] for name in PEERS}
    worked: dict[str, list[float]] = {name: [] for name in PEERS}
    with peers(list(PEERS), given.loop, given.ws, given.connections) as made:
        for turn in range(given.rounds + 3):
            for peer in random.sample(made, len(made)):
                before = peer.ask("cpu")
                seconds = peer.broadcast()
                time.sleep(0.005)
                if turn >= 3:
                    took[peer.name].append(seconds)
                    worked[peer.name].append((peer.ask("cpu") - before) / 1e9)
        memory = {peer.name: peer.each for peer in made}

    table = Table(title=f"{given.connections} clients, {given.loop}, {given.ws}, {given.rounds} rounds")
    for column in (
        "",
        "until the last",
        "syncline / it",
        "wanted",
        "processor",
        "syncline / it",
        "memory each",
    ):
        table.add_column(column, justify="left" if not column else "right")
    wanted = {"bare": "≤ 1.5", "starlette": "≤ 0.7", "syncline": ""}
    for name in PEERS:
        cells = []
        for figures in (took, worked):
            ratios = [ours / theirs for ours, theirs in zip(figures["syncline"], figures[name], strict=True)]
            ratio = f"{statistics.median(ratios):.2f}" if name != "syncline" else ""
            cells += [f"{statistics.median(figures[name]) * 1000:.2f} ms", ratio]
        cells.insert(2, wanted[name])
        table.add_row(name, *cells, f"{memory[name] / 1024:.1f} KiB")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
