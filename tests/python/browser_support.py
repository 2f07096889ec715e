"""What the tests in a real browser share: Chromium, and a real server on loopback whose pages it opens.

The browser is Debian's `chromium`, driven by Playwright's Python package, which downloads none of its own.
SYNCLINE_CHROMIUM names another one (on Ubuntu, whose chromium is a snap that cannot be driven like this:
`SYNCLINE_CHROMIUM=$(command -v google-chrome)`).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import syncline
import uvicorn
from playwright.sync_api import Browser, BrowserContext, Playwright, sync_playwright

__all__ = ["PageServer", "browser", "context", "launch", "new_context", "playwright"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

# Nothing of a browser's own asks the network for anything.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def executable() -> str:
    """The browser's path. Fails the test where there is none."""
    named = os.environ.get("SYNCLINE_CHROMIUM")
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        pytest.fail(
            f"SYNCLINE_CHROMIUM={named} is no program"
            if named
            else "there is no chromium; install it, or name a Chromium or Chrome with SYNCLINE_CHROMIUM=PATH"
        )
    return found


def launch(playwright: Playwright, **options: Any) -> Browser:
    """Starts a Chromium; `options` are Playwright's."""
    return playwright.chromium.launch(
        executable_path=executable(), headless=True, args=_ARGUMENTS, handle_sigint=False, **options
    )


# While Playwright's synchronous face is there, it keeps an event loop running in this thread, beside which no
# asynchronous test could run: so it lives for one module of synchronous tests, not for the session. A start
# takes half a second.
@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    started = launch(playwright)
    try:
        yield started
    finally:
        started.close()


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """Makes browser contexts, each with a storage of its own: as many as there are people in the test."""
    with contextlib.ExitStack() as opened:

        def make(**options: Any) -> BrowserContext:
            made = browser.new_context(**options)
            opened.callback(made.close)
            return made

        yield make


@pytest.fixture
def context(new_context: Callable[..., BrowserContext]) -> BrowserContext:
    """One browser context."""
    return new_context()


_BLANK = b"<!doctype html><meta charset=utf-8><title>test</title><link rel=icon href=data:,>"


class PageServer:
    """A real server on one loopback port over all its starts: an ASGI application under /_sync, and pages.

    `make` is called for each start, so that a database file can be opened anew; `pages` are (content type,
    body) by path, besides "/", which is an empty page of this origin.
    """

    def __init__(
        self, make: Callable[[], Any], *, pages: Mapping[str, tuple[str, bytes | Path]] | None = None
    ) -> None:
        self._make = make
        self.pages: dict[str, tuple[str, bytes | Path]] = {"/": ("text/html", _BLANK), **(pages or {})}
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> PageServer:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listens when it returns."""
        app = self._make()
        # Those that were cut off by `stop` try again at once: the port must be ours before they are heard.
        listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        config = uvicorn.Config(
            self._with_pages(app), log_level="error", timeout_graceful_shutdown=1, lifespan="on"
        )
        server = uvicorn.Server(config)

        def run() -> None:
            try:
                server.run([listener])
            finally:
                listener.close()

        self._server = server
        self._thread = threading.Thread(target=run, name="page-server")
        self._thread.start()

    def stop(self) -> None:
        """As SIGTERM does; nothing if it is not running."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join()
        self._server = self._thread = None

    def _with_pages(self, app: Any) -> Any:
        async def both(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] != "http" or scope["path"] not in self.pages:
                await app(scope, receive, send)
                return
            content_type, body = self.pages[scope["path"]]
            if isinstance(body, Path):
                body = body.read_bytes()
            headers = [(b"content-type", content_type.encode()), (b"cache-control", b"no-store")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        return both


def open_app(engine: syncline.Engine, **options: Any) -> Any:
    """The application of an engine that everybody may use, which it closes when the server stops."""
    from syncline.http import allow_all, anyone

    return syncline.asgi(engine, authenticate=anyone, authorize=allow_all, close_engine=True, **options)
