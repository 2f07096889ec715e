"""The inspector's page in a real Chromium, against a real server: what it shows is what the engine says."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import syncline
from browser_support import *  # noqa: F403  (fixtures)
from browser_support import PageServer, open_app
from http_support import by_token, make_mutators, not_secret, served_wsgi
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect
from syncline.http import allow_all, anyone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

expect.set_options(timeout=30_000)  # a full machine is slow

OPEN: dict[str, Any] = {"inspect": lambda user: True, "admin": lambda user, command: True}


class Served:
    """A server on one file over its restarts, with its engine as it is now."""

    def __init__(self, path: Path, make: Callable[[syncline.Engine], Any]) -> None:
        self.engine: syncline.Engine
        self._seq = 0

        def start() -> Any:
            self.engine = syncline.Engine(path, mutators=make_mutators())
            return make(self.engine)

        self.server = PageServer(start)

    @property
    def url(self) -> str:
        return f"{self.server.url}/_sync/inspect"

    def push(self, name: str, args: object, scope: str = "list:1", client: str = "c1") -> None:
        self._seq += 1
        mutation = {"name": name, "args": args, "scope": scope, "client_id": client, "client_seq": self._seq}
        self.engine.push([mutation], user="ada")

    def note(self, id: str, text: str, scope: str = "list:1") -> None:
        self.push("note/set", {"id": id, "text": text}, scope)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path / "app.db", lambda engine: open_app(engine, **OPEN))
    with made.server:
        yield made


@contextlib.contextmanager
def faultless(page: Page, allowed: str = "$^") -> Iterator[Page]:
    """Nothing may be said in its console, raised, or asked of a person, but what is `allowed`."""
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    yield page
    assert [one for one in said if not re.search(allowed, one)] == []


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    with faultless(context.new_page()) as page:
        yield page


def at(served: Served, view: str, **parameters: str | int) -> str:
    return f"{served.url}#/{view}?{urlencode(parameters)}"


def cells(page: Page, label: str | re.Pattern[str]) -> Locator:
    return page.get_by_role("table", name=label).locator("tbody tr")


def shown_document(page: Page) -> dict[str, Any] | None:
    """What the page shows a document to be; None: that there is none."""
    table = page.get_by_role("table", name="Fields")
    if table.count() == 0:
        return None
    names = table.locator("tbody td:nth-child(1)").all_inner_texts()
    values = table.locator("tbody td:nth-child(2)").all_inner_texts()
    return {name: json.loads(value) for name, value in zip(names, values, strict=True)}


# ------------------------------------------------------------------------------------------------------ views


def test_scopes_are_listed_with_their_heads_and_documents(served: Served, page: Page) -> None:
    for scope in ("list:2", "list:1"):
        served.note("1", "a", scope)
        served.note("2", "b", scope)
    served.push("note/delete", {"id": "1"}, "list:2")
    page.goto(at(served, "scopes"))
    rows = cells(page, "Scopes")
    expect(rows).to_have_count(2)
    told = [row.split("\t") for row in rows.all_inner_texts()]
    assert told == [["list:1", "2", "4", "0", "0"], ["list:2", "1", "5", "0", "0"]]
    page.get_by_role("searchbox", name="Name contains").fill(":2")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="list:2").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Scopes › list:2")
    expect(cells(page, "Documents of note")).to_have_text(re.compile('2.*"text":"b"'))


def test_the_log_grows_while_commits_happen(served: Served, page: Page) -> None:
    served.note("1", "before")
    page.goto(at(served, "log"))
    rows = cells(page, "Changes, newest first")
    expect(rows).to_have_count(1)
    for n in range(5):
        served.note("1", f"text {n}")
        expect(rows).to_have_count(n + 2)
        expect(rows.first).to_contain_text(f'"text {n}"')
        expect(rows.first).to_contain_text(f"{served.engine.head}")
    page.get_by_role("button", name="Following").click()
    served.note("2", "while nobody looks")
    page.get_by_role("button", name="Paused").click()
    expect(rows.first).to_contain_text("create")
    cursors = [int(one) for one in rows.locator("td:first-child").all_inner_texts()]
    assert cursors == [line.cursor for line in served.engine.log(newest_first=True)]


def test_the_log_keeps_its_window_and_goes_back_when_asked(served: Served, page: Page) -> None:
    with served.engine.write("list:1") as tx:
        for n in range(150):
            tx.set("note", f"{n}", {"n": n})
    page.goto(at(served, "log"))
    rows = cells(page, "Changes, newest first")
    expect(rows).to_have_count(100)
    for written in range(4):
        with served.engine.write("list:2") as tx:
            for n in range(150):
                tx.set("note", f"{n}", {"written": written})
        expect(rows.first).to_contain_text(f"{served.engine.head}")
    assert rows.count() <= 500
    # More at once than a page can show: it goes on at the end.
    for written in range(20):
        with served.engine.write("list:2") as tx:
            for n in range(150):
                tx.set("note", f"{n}", {"again": written})
    expect(rows.first).to_contain_text(f"{served.engine.head}")
    assert rows.count() <= 500
    page.goto(at(served, "log", scope="list:1"))
    expect(rows).to_have_count(100)
    page.get_by_role("button", name="Older").click()
    expect(rows).to_have_count(150)
    expect(page.get_by_text("That is the beginning of the log.")).to_be_visible()
    expect(page.get_by_role("button", name="Paused")).to_be_visible()


def test_the_slider_shows_each_state_that_the_engine_says(served: Served, page: Page) -> None:
    for n in range(4):
        served.note("1", f"text {n}")
        served.note("2", "beside it")
    served.push("note/touch", {"id": "1"})
    served.push("note/delete", {"id": "1"})
    served.note("3", "after it")
    page.goto(at(served, "document", scope="list:1", entity="note", id="1"))
    slider = page.get_by_role("slider", name="Cursor")
    exact = page.get_by_role("spinbutton", name="At cursor")
    expect(page.locator(".moment")).to_have_text("Now: there is no such document.")
    for cursor in reversed(range(served.engine.head)):
        exact.fill(str(cursor))
        page.keyboard.press("Enter")
        expect(page.locator(".moment")).to_contain_text(f"At cursor {cursor}:")
        expect(page.locator(f'.state[data-cursor="{cursor}"]')).to_have_count(1)
        with served.engine.at(cursor) as past:
            assert shown_document(page) == past.get("list:1", "note", "1"), cursor
        expect(slider).to_have_js_property("value", str(max(cursor, 0)))
    # The keys step from change to change.
    page.get_by_role("button", name="Now").click()
    slider.focus()
    for cursor in (10, 9, 7, 5, 3, 1, 0):
        page.keyboard.press("ArrowLeft")
        expect(slider).to_have_js_property("value", str(cursor))
        expect(page.locator(f'.state[data-cursor="{cursor}"]')).to_have_count(1)
        with served.engine.at(cursor) as past:
            assert shown_document(page) == past.get("list:1", "note", "1"), cursor
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    expect(slider).to_have_js_property("value", "2")
    assert "at=2" in page.url


def test_a_document_follows_its_commits_while_it_is_shown_as_of_now(served: Served, page: Page) -> None:
    served.note("1", "first")
    page.goto(at(served, "document", scope="list:1", entity="note", id="1"))
    value = page.get_by_role("table", name="Fields").locator(".value")
    expect(value).to_have_text('"first"')
    served.note("1", "second")
    expect(value).to_have_text('"second"')
    versions = cells(page, "Versions, newest first")
    expect(versions).to_have_count(2)
    page.get_by_role("link", name="Version 1, create, cursor 1").click()
    expect(value).to_have_text('"first"')
    served.note("1", "third")
    expect(versions).to_have_count(3)
    expect(value).to_have_text('"first"')
    # A link into the past leads there.
    page.reload()
    expect(value).to_have_text('"first"')
    page.get_by_role("button", name="After ›").click()
    expect(value).to_have_text('"second"')


def test_long_values_and_long_histories_are_told_whole_when_asked(served: Served, page: Page) -> None:
    for n in range(60):
        served.note("1", f"{n}:" + "é<b>" * 1_000)
    page.goto(at(served, "document", scope="list:1", entity="note", id="1"))
    value = page.get_by_role("table", name="Fields").locator(".value")
    expect(value).to_contain_text("more")
    page.get_by_role("button", name="Show whole").click()
    expect(value).to_have_text(json.dumps("59:" + "é<b>" * 1_000, ensure_ascii=False))
    versions = cells(page, "Versions, newest first")
    expect(versions).to_have_count(50)
    page.get_by_role("button", name="Older versions").click()
    expect(versions).to_have_count(60)


def test_what_is_not_there_is_said_once_and_what_comes_is_shown(
    served: Served, context: BrowserContext
) -> None:
    with faultless(context.new_page(), "404") as page:
        page.goto(at(served, "scope", scope="absent"))
        missing = page.get_by_text("nothing was ever written to a scope 'absent'")
        expect(missing).to_have_count(1)
        served.note("1", "x")
        expect(page.locator("#head-cursor")).to_have_text("1")
        served.note("1", "y")
        expect(page.locator("#head-cursor")).to_have_text("2")
        expect(missing).to_have_count(1)
        page.goto(at(served, "document", scope="list:1", entity="note", id="late"))
        expect(page.locator(".badge")).to_have_text("unknown")
        served.note("late", "here")
        expect(page.locator(".badge")).to_have_text("version 1")
        expect(page.get_by_role("table", name="Fields")).to_contain_text('"here"')


def test_clients_show_their_lag(served: Served, page: Page) -> None:
    served.note("1", "a")
    served.engine.pull("list:1", client_id="c1", user="ada")
    served.note("1", "b")
    served.note("1", "c")
    page.goto(at(served, "clients"))
    row = cells(page, "Clients")
    expect(row).to_have_count(1)
    told = [one.strip() for one in row.locator("td").all_inner_texts()]
    assert told[:5] == ["c1", "ada", "list:1", "1", "2"]
    served.engine.pull("list:1", client_id="c1", user="ada")
    expect(row.locator("td").nth(4)).to_have_text("0")
    page.get_by_role("link", name="Changes of c1 in list:1").click()
    expect(cells(page, "Changes, newest first")).to_have_count(3)


def test_a_dead_letter_is_looked_at_retried_and_discarded(served: Served, page: Page) -> None:
    mended = False

    @served.engine.mutators("note/broken")
    def broken(tx: syncline.Tx, args: dict[str, Any]) -> None:
        if not mended:
            raise ZeroDivisionError("not yet")
        tx.set("note", "mended", args)

    for n in range(3):
        served.push("note/broken", {"n": n})
    page.goto(at(served, "overview"))
    page.get_by_role("link", name="Dead letters 3").click()
    letters = cells(page, "Dead letters, oldest first")
    expect(letters).to_have_count(3)
    page.get_by_role("link", name="Letter 1: note/broken").click()
    expect(page.locator("pre").first).to_have_text('{"n":0}')
    expect(page.locator("pre").last).to_contain_text("ZeroDivisionError")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("It failed again: internal_error")).to_be_visible()
    assert served.engine.dead_letters[1].attempts == 2
    mended = True
    page.get_by_role("button", name="Retry").click()
    expect(letters).to_have_count(2)
    expect(page.get_by_role("status").first).to_contain_text("Letter 1 was retried")
    with served.engine.read("list:1") as view:
        assert view.get("note", "mended") == {"n": 0}
    page.get_by_role("link", name="Letter 2: note/broken").click()
    page.reload()
    page.get_by_role("button", name="Discard").click()
    assert len(served.engine.dead_letters) == 2  # it asks once more
    page.get_by_role("button", name="Discard for good").click()
    expect(letters).to_have_count(1)
    assert [letter.id for letter in served.engine.dead_letters] == [3]


def test_health_and_the_plots_show_the_engines_numbers(served: Served, page: Page) -> None:
    page.goto(at(served, "overview"))
    served.note("1", "a")
    served.push("note/reject", {})
    facts = page.locator(".fact")
    expect(facts.filter(has_text="Mutations")).to_have_text("Mutations2")
    expect(facts.filter(has_text="Refused")).to_have_text("Refused1")
    plot = page.get_by_role("img", name=re.compile("Mutations per second"))
    expect(plot.locator(".line")).to_have_attribute("d", re.compile("M.*L"))
    page.get_by_role("link", name="Health").click()
    expect(cells(page, "Mutators")).to_have_count(2)
    page.get_by_role("button", name="Count what is stored").click()
    expect(facts.filter(has_text="Log lines")).to_have_text("Log lines1")


# --------------------------------------------------------------------------------------------------- keyboard


def focused(page: Page) -> str:
    return page.evaluate(
        "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent.trim()"
    )  # type: ignore[no-any-return]


def test_everything_is_reached_by_the_keyboard_alone(served: Served, page: Page) -> None:
    for n in range(3):
        served.note(f"{n}", "x")
        served.note(f"{n}", "y")
    page.goto(served.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    page.keyboard.press("2")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log")
    rows = cells(page, "Changes, newest first")
    expect(rows).to_have_count(6)
    page.keyboard.press("j")
    assert focused(page) == "6: update note 2"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("j")
    assert focused(page) == "4: update note 1"
    page.keyboard.press("End")
    assert focused(page) == "1: create note 0"
    page.keyboard.press("k")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("list:1 › note › 1")
    assert "at=3" in page.url
    # A list is one stop of the Tab key.
    stops = []
    for _ in range(40):
        page.keyboard.press("Tab")
        stops.append(focused(page))
        if stops[-1].startswith("Version "):
            break
    assert sum(stop.startswith("Version ") for stop in stops) == 1
    assert "Cursor" in stops
    page.keyboard.press("Tab")
    assert not focused(page).startswith("Version ")
    # To a document by its name.
    page.keyboard.press("/")
    page.keyboard.type("list:1")
    page.keyboard.press("Tab")
    page.keyboard.type("note")
    page.keyboard.press("Tab")
    page.keyboard.type("2")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("list:1 › note › 2")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("f")
    expect(page.get_by_role("button", name="Paused")).to_be_visible()
    for key, title in zip(
        "123456", ["Overview", "Log", "Scopes", "Clients", "Dead letters", "Health"], strict=True
    ):
        page.keyboard.press(key)
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
        expect(page.locator("nav [aria-current=page]")).to_have_text(title)


def test_going_to_a_document_suggests_what_there_is(served: Served, page: Page) -> None:
    served.note("first", "x", "list:7")
    page.goto(served.url)
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    page.keyboard.press("/")
    page.keyboard.type("li")
    expect(page.locator("#go-scopes option")).to_have_attribute("value", "list:7")
    page.get_by_label("Scope", exact=True).last.fill("list:7")
    page.get_by_label("Entity", exact=True).focus()
    expect(page.locator("#go-entities option")).to_have_attribute("value", "note")
    page.get_by_label("Entity", exact=True).fill("note")
    page.get_by_label("Id", exact=True).fill("fi")
    expect(page.locator("#go-ids option")).to_have_attribute("value", "first")


VIEWS: list[tuple[str, dict[str, str | int]]] = [
    ("overview", {}),
    ("log", {}),
    ("scopes", {}),
    ("scope", {"scope": "list:1"}),
    ("document", {"scope": "list:1", "entity": "note", "id": "1"}),
    ("clients", {}),
    ("letters", {}),
    ("letter", {"id": 1}),
    ("health", {}),
]

# Of what may be operated or read: whether it has a name, and whether its text stands out from its ground by
# WCAG's contrast of 4.5.
NAMELESS = """() => [...document.querySelectorAll("a, button, input, table, nav, svg[role=img], dialog")]
    .filter((one) => !(one.getAttribute("aria-label") || one.getAttribute("aria-labelledby")
        || one.textContent.trim() || (one.id && document.querySelector(`label[for="${one.id}"]`))))
    .map((one) => one.outerHTML.slice(0, 120))"""
FAINT = """() => {
    const channels = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
    const light = ([r, g, b]) => {
        const linear = (one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4;
        const [x, y, z] = [r, g, b].map((one) => linear(one / 255));
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const ground = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const found = channels(getComputedStyle(one).backgroundColor);
            if (found.length === 3) return found;
        }
        return [255, 255, 255];
    };
    const faint = [];
    const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = words.nextNode(); node; node = words.nextNode()) {
        const element = node.parentElement;
        if (!node.data.trim() || !element.checkVisibility()) continue;
        if (element.closest("svg, script, option, noscript, .skip")) continue;
        const text = channels(getComputedStyle(element).color);
        const [high, low] = [light(text), light(ground(element))].sort((a, b) => b - a);
        const contrast = (high + 0.05) / (low + 0.05);
        if (contrast < 4.5) faint.push(`${node.data.trim().slice(0, 40)} (${contrast.toFixed(2)})`);
    }
    return faint;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 380])
def test_every_view_is_readable_named_and_fits(
    served: Served, new_context: Callable[..., BrowserContext], scheme: str, width: int
) -> None:
    for n in range(3):
        served.note("1", f"text {n}")
    served.push("note/crash", {"n": 1})
    served.engine.pull("list:1", client_id="c1", user="ada")
    context = new_context(
        color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 800}
    )
    with faultless(context.new_page()) as page:
        grounds = set()
        for view, parameters in VIEWS:
            page.goto(at(served, view, **parameters))
            expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")
            expect(page.locator("#head-cursor")).to_have_text(str(served.engine.head))
            assert page.evaluate(NAMELESS) == [], view
            assert page.evaluate(FAINT) == [], view
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert grounds == {"rgb(18, 22, 26)" if scheme == "dark" else "rgb(246, 247, 248)"}


# ---------------------------------------------------------------------------------------------------- hostile


HOSTILE = [
    "<script>document.title='owned'</script>",
    "<img src=x onerror=document.title='owned'>",
    "\"><svg onload=document.title='owned'>",
    "'); alert(1); //",
    "javascript:alert(1)",
    "</title></textarea></style><h1 id=owned>",
    "{{constructor.constructor('alert(1)')()}}",
    "&lt;b&gt;\u202egnp.exe\u2028 \ufdfd \U0001f9ea",
]


def test_hostile_contents_stay_text(served: Served, page: Page) -> None:
    for evil in HOSTILE:
        with served.engine.write(evil, user=evil) as tx:
            tx.set(evil, evil, {evil: evil})
            tx.update(evil, evil, {"nested": {evil: [evil, {evil: evil}]}})
        served.engine.pull(evil, client_id=evil, user=evil)
        served.engine.mutators(evil)(lambda tx, args: 1 / 0)
        served.engine.push(
            [{"name": evil, "args": {"a": evil}, "scope": evil, "client_id": evil, "client_seq": 1}],
            user=evil,
        )
    page.goto(served.url)
    for evil in HOSTILE:
        name = {"scope": evil, "entity": evil, "id": evil}
        for view, parameters in (("scope", {"scope": evil}), ("document", name), ("log", name)):
            page.goto(at(served, view, **parameters))
            expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")
            assert evil.split("\u202e")[0] in page.locator("main").inner_text()
        page.goto(at(served, "document", **name))
        fields = page.get_by_role("table", name="Fields").locator(".field")
        expect(fields).to_have_count(2)
        assert set(fields.all_text_contents()) == {evil, "nested"}
    for view, parameters in [
        *VIEWS[:3],
        ("clients", {}),
        ("letters", {}),
        ("health", {}),
        ("letter", {"id": 1}),
    ]:
        page.goto(at(served, view, **parameters))
        expect(page.locator("main")).not_to_have_attribute("aria-busy", "true")
    page.goto(f"{served.url}#/<img src=x onerror=alert(1)>")
    expect(page.locator("main")).to_contain_text("There is no")
    assert "owned" not in page.title()
    assert page.locator("main img, main script, #owned").count() == 0


def test_the_policy_stops_what_a_fault_of_the_page_would_let_through(
    served: Served, context: BrowserContext
) -> None:
    with faultless(context.new_page(), "Trusted|Content Security Policy|violates") as page:
        page.goto(served.url)
        expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
        for attempt in (
            "document.body.innerHTML = '<b>x</b>'",
            "document.body.setAttribute('onclick', 'x()')",
            "document.body.append(Object.assign(document.createElement('script'), {textContent: 'x()'}))",
            "setTimeout('x()')",
        ):
            thrown = page.evaluate(
                f"() => {{ try {{ {attempt}; return 'done'; }} catch (error) {{ return error.name; }} }}"
            )
            assert thrown in ("TypeError", "EvalError"), attempt
        assert (
            page.evaluate("fetch('https://example.invalid').then(() => 'sent', () => 'stopped')") == "stopped"
        )


# ------------------------------------------------------------------------------------------ servers and users


def test_a_restart_is_said_and_survived(served: Served, context: BrowserContext) -> None:
    with faultless(context.new_page(), "ERR_CONNECTION|Failed to load resource") as page:
        served.note("1", "before")
        page.goto(at(served, "log"))
        rows = cells(page, "Changes, newest first")
        expect(rows).to_have_count(1)
        status = page.get_by_role("status").first
        served.server.stop()
        expect(status).to_contain_text("The server does not answer")
        served.server.start()
        expect(status).to_contain_text("The server was started again")
        expect(status).to_contain_text(served.engine.epoch)
        served.note("1", "after")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text('"after"')
        page.get_by_role("button", name="Dismiss").click()
        expect(status).to_be_empty()


def test_a_restored_backup_is_noticed(served: Served, context: BrowserContext, tmp_path: Path) -> None:
    with faultless(context.new_page(), "ERR_CONNECTION|Failed to load resource") as page:
        served.note("1", "kept")
        served.engine.backup(tmp_path / "backup.db")
        for n in range(5):
            served.note("1", f"lost {n}")
        page.goto(at(served, "log"))
        rows = cells(page, "Changes, newest first")
        expect(rows).to_have_count(6)
        served.server.stop()
        for name in ("app.db", "app.db-wal", "app.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / "backup.db").rename(tmp_path / "app.db")
        served.server.start()
        status = page.get_by_role("status").first
        expect(status).to_contain_text("a backup was restored")
        expect(rows).to_have_count(1)


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Served]:
    made = Served(
        tmp_path / "app.db",
        lambda engine: syncline.asgi(
            engine,
            authenticate=by_token,
            authorize=not_secret,
            inspect=lambda user: user == "ada",
            close_engine=True,
        ),
    )
    with made.server:
        yield made


def test_a_token_is_asked_for_and_kept_in_this_tab_only(guarded: Served, context: BrowserContext) -> None:
    guarded.note("1", "x")
    guarded.note("1", "x", "secret:1")
    with faultless(context.new_page(), "401|403") as page:
        page.goto(at(guarded, "scopes"))
        dialog = page.get_by_role("dialog", name="Who are you?")
        expect(dialog).to_be_visible()
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(dialog).to_be_visible()
        page.get_by_label("Bearer token").fill("t-eve")
        page.keyboard.press("Enter")
        status = page.get_by_role("status").first
        expect(status).to_contain_text("This is not for you")
        page.get_by_role("button", name="Use another token").click()
        page.get_by_label("Bearer token").fill("t-ada")
        page.keyboard.press("Enter")
        expect(cells(page, "Scopes")).to_have_count(1)
        expect(cells(page, "Scopes")).to_contain_text("list:1")
        expect(status).to_be_empty()
        page.reload()
        expect(cells(page, "Scopes")).to_have_count(1)
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        assert "t-ada" in page.evaluate("JSON.stringify({...sessionStorage})")
        expect(page.locator("footer")).to_contain_text("ada")
        # Without the admin hook nothing is offered that would be refused.
        guarded.push("note/crash", {})
        page.goto(at(guarded, "letter", id=1))
        expect(page.get_by_text("for whom the admin hook allows it")).to_be_visible()
        expect(page.get_by_role("button", name="Retry")).to_have_count(0)
        other = context.new_page()
        other.goto(at(guarded, "scopes"))
        expect(other.get_by_role("dialog", name="Who are you?")).to_be_visible()


def test_it_works_behind_wsgi(tmp_path: Path, page: Page) -> None:
    with syncline.Engine(tmp_path / "app.db", mutators=make_mutators()) as engine:
        hooks = {"authenticate": anyone, "authorize": allow_all, "inspect": lambda user: True}
        with served_wsgi(syncline.wsgi(engine, **hooks)) as url:
            page.goto(f"{url}/_sync/inspect#/log")
            expect(page.get_by_role("heading", level=1)).to_have_text("Log")
            with engine.write("list:1", user="ada") as tx:
                tx.set("note", "1", {"text": "x"})
            expect(cells(page, "Changes, newest first")).to_contain_text("ada")
            page.goto("about:blank")


def test_it_is_where_the_application_is_mounted(tmp_path: Path, browser: Browser) -> None:
    made = Served(tmp_path / "app.db", lambda engine: open_app(engine, prefix="/api/v1", **OPEN))
    with made.server, contextlib.closing(browser.new_context()) as context:
        made.note("1", "x")
        with faultless(context.new_page()) as page:
            page.goto(f"{made.server.url}/api/v1/_sync/inspect#/scopes")
            expect(cells(page, "Scopes")).to_have_count(1)
