"""`syncline demo` and its todo page, in a real Chromium: two windows, one of them offline."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser_support import *  # noqa: F403  (fixtures)
from cli_support import PLAIN
from playwright.sync_api import Browser, BrowserContext, Page, expect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    """Of a running `syncline demo`, which must end with 0 when it is told to."""
    process = subprocess.Popen(
        [sys.executable, "-m", "syncline.cli", "demo"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=PLAIN,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        found = re.search(r"http://[^ ]+/$", process.stdout.readline())
        assert found, process.stderr.read()
        yield found.group()
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert "Traceback" not in said


def window(context: BrowserContext, url: str, name: str = "") -> Page:
    """A window, which is a device of its own."""
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"in the page: {error}"))
    if name:
        # A device's name follows from its id: this one gives the name that the picture wants.
        page.add_init_script(f"sessionStorage.device ??= '0199{name * 4}-0000-7000-8000-00000000{name * 4}'")
    page.goto(url)
    expect(page.locator("#state")).to_have_text("live")
    return page


def titles(page: Page) -> list[str]:
    return page.evaluate(
        "[...document.querySelectorAll('#todos input[type=text]')].map(({ value }) => value)"
    )


def add(page: Page, title: str) -> None:
    page.get_by_label("What is to be done").fill(title)
    page.keyboard.press("Enter")


def test_two_windows_one_offline_converge(url: str, context: BrowserContext) -> None:
    left, right = window(context, url), window(context, url)
    add(left, "buy bread")
    expect(right.locator("#todos li")).to_have_count(4)
    expect(right.locator("#todos li.pending")).to_have_count(0)

    right.locator("#switch").click()
    expect(right.locator("#state")).to_have_text("offline")
    add(right, "written on the train")
    right.get_by_label("Done: buy bread").check()
    expect(right.locator("#todos li.pending")).to_have_count(2)
    expect(right.locator("#waiting")).to_have_text("2 edits wait")
    add(left, "written at home")
    expect(left.locator("#todos li")).to_have_count(5)
    assert "written on the train" not in titles(left)

    right.reload()
    expect(right.locator("#todos li")).to_have_count(6)
    for page in (left, right):
        expect(page.locator("#state")).to_have_text("live")
        expect(page.locator("#todos li")).to_have_count(6)
        expect(page.locator("#todos li.pending")).to_have_count(0)
        expect(page.get_by_label("Done: buy bread")).to_be_checked()
    assert titles(left) == titles(right)


def test_everything_is_done_by_keyboard(url: str, context: BrowserContext) -> None:
    page = window(context, url)
    expect(page.locator("#todos li")).to_have_count(3)
    page.keyboard.press("Tab")
    expect(page.locator("#switch")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#state")).to_have_text("offline")
    page.keyboard.press("Tab")
    page.keyboard.type("by hand")
    page.keyboard.press("Enter")
    expect(page.locator("#todos li")).to_have_count(4)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.locator("#todos li.done")).to_have_count(1)
    page.keyboard.press("Tab")
    page.keyboard.press("Control+A")
    page.keyboard.type("another title")
    page.keyboard.press("Enter")
    expect(page.locator("#todos li.done input[type=text]")).to_have_value("another title")
    page.locator("#todos li.done .remove").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#todos li")).to_have_count(3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_picture_in_the_readme_is_of_this_page(
    url: str, browser: Browser, tmp_path: Path, scheme: str
) -> None:
    """SYNCLINE_PICTURES=1 writes docs/assets/todo-SCHEME.png anew: two windows, one offline with edits."""
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": 460, "height": 470}, reduced_motion="reduce"
    )
    left, right = window(context, url, "a1b8"), window(context, url, "a1b3")
    add(left, "Buy bread")
    expect(right.locator("#todos li")).to_have_count(4)
    right.locator("#switch").click()
    expect(right.locator("#state")).to_have_text("offline")
    add(right, "Call Ada from the train")
    right.get_by_label("Done: Buy bread").check()
    expect(right.locator("#waiting")).to_have_text("2 edits wait")
    left.get_by_label("Done: Go offline in one of them").check()
    expect(left.locator("#waiting")).to_have_text("")
    pictures = [tmp_path / "left.png", tmp_path / "right.png"]
    for page, picture in zip((left, right), pictures, strict=True):
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        page.screenshot(path=picture)
    made = browser.new_page(viewport={"width": 960, "height": 512})
    ground, edge = ("#fff", "#d8d6cf") if scheme == "light" else ("#0d1117", "#30383e")
    frames = "".join(f'<img src="data:image/png;base64,{encoded(picture)}">' for picture in pictures)
    made.set_content(
        f"<style>body{{margin:0;padding:20px 10px;background:{ground}}}"
        "body{display:flex;justify-content:space-between}"
        f"img{{border:1px solid {edge};border-radius:10px}}</style>{frames}"
    )
    target = ROOT / "docs" / "assets" / f"todo-{scheme}.png"
    if os.environ.get("SYNCLINE_PICTURES"):
        made.screenshot(path=target)
    assert target.stat().st_size < 150_000
    context.close()
    made.close()


def encoded(picture: Path) -> str:
    import base64

    return base64.b64encode(picture.read_bytes()).decode()
