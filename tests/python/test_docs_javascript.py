"""The JavaScript in the documents runs in a real Chromium and prints what its comments say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import syncline
from browser_support import *  # noqa: F403  (fixtures)
from browser_support import PageServer, open_app
from playwright.sync_api import BrowserContext

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guides" / "javascript.md"
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PRINTED = re.compile(r"^[^\n]*\bconsole\.log\(.*\);  *// (.+)$", re.MULTILINE)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PageServer]:
    monkeypatch.chdir(tmp_path)
    (source,) = (text for kind, text in BLOCK.findall(PAGE.read_text()) if kind.startswith("python title"))
    module: dict[str, syncline.Engine] = {}
    exec(compile(source, "server.py", "exec"), module)
    with PageServer(lambda: open_app(module["engine"])) as started:
        yield started


def test_the_page_about_the_javascript_client_prints_what_it_says(
    server: PageServer, context: BrowserContext
) -> None:
    blocks = [text for kind, text in BLOCK.findall(PAGE.read_text()) if kind == "js"]
    # The last one is there to throw.
    program = (
        "\n".join(blocks[:-1])
        + f"""
    try {{ {blocks[-1]} }} catch (error) {{ console.log(error.code); }}
    console.log("the end");
    """
    )
    printed: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: printed.append(f"failed: {error}"))
    page.goto(server.url)
    with page.expect_console_message(lambda message: message.text == "the end", timeout=30_000):
        page.on("console", lambda message: printed.append(message.text))
        page.add_script_tag(type="module", content=program)
    promised = [*PRINTED.findall("\n".join(blocks)), "bread", "not_found", "the end"]
    seen = iter(printed)
    for line in promised:
        assert line in seen, f"{line!r} is not printed, or not in this order: {printed}"
