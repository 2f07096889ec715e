"""The JavaScript client in a real Chromium, against a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import syncline
from browser_support import *  # noqa: F403  (fixtures)
from browser_support import PageServer, open_app
from playwright.sync_api import BrowserContext

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def mutators() -> syncline.Mutators:
    known = syncline.Mutators()

    @known("todo/create")
    def create(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("todo", args["id"], {"title": args["title"], "done": False})

    return known


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    with PageServer(lambda: open_app(syncline.Engine(tmp_path / "app.db", mutators=mutators()))) as started:
        yield started


def test_a_browser_reaches_the_server(server: PageServer, context: BrowserContext) -> None:
    page = context.new_page()
    page.goto(server.url)
    health = page.evaluate("async () => (await fetch('/_sync/health')).json()")
    assert health["ok"] is True
