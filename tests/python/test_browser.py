"""The JavaScript client in a real Chromium, against a real server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import syncline
import syncline.http
from browser_support import *  # noqa: F403  (fixtures)
from browser_support import PageServer, open_app
from playwright.sync_api import BrowserContext, Page, Route
from playwright.sync_api import Error as PlaywrightError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SCOPE = "list:1"

# What each page of these tests begins with: the mutators, as the server has them, and a replica.
PRELUDE = """
<!doctype html><meta charset=utf-8><title>test</title><link rel=icon href=data:,>
<script type=module>
import * as client from "/_sync/client.js";
Object.assign(globalThis, client);
globalThis.mutators = {
  "todo/create": (tx, { id, title }) =>
    tx.set("todo", id, { title, done: false, made: tx.now, mark: tx.uuid() }),
  "todo/done": (tx, { id, done }) => tx.update("todo", id, { done }),
  "todo/delete": (tx, { id }) => void tx.delete("todo", id),
  "todo/refuse": (tx, { id }) => tx.set("todo", id, { title: "here alone", done: false }),
  "value/set": (tx, { id, value }) => tx.set("value", id, { value }),
  "count/add": (tx, { id }) => tx.set("count", id, { n: (tx.get("count", id)?.n ?? 0) + 1 }),
};
globalThis.events = [];
globalThis.start = async (options = {}) => {
  globalThis.replica = await Replica.open({
    name: "test", scope: "list:1", mutators, poll: 1, backoff: { first: 20, cap: 200 }, ...options });
  replica.onEvent((event) => events.push(event));
  return replica;
};
globalThis.titles = () => Object.fromEntries(replica.scan("todo").map(([id, todo]) => [id, todo.title]));
globalThis.ready = true;
</script>
"""


def mutators() -> syncline.Mutators:
    known = syncline.Mutators()

    @known("todo/create")
    def create(tx: syncline.Tx, args: dict[str, Any]) -> None:
        made = {"title": args["title"], "done": False, "made": tx.now, "mark": tx.uuid()}
        tx.set("todo", args["id"], made)

    @known("todo/done")
    def done(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.update("todo", args["id"], {"done": args["done"]})

    @known("todo/delete")
    def delete(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.delete("todo", args["id"])

    @known("todo/refuse")
    def refuse(tx: syncline.Tx, args: dict[str, Any]) -> None:
        raise syncline.Rejected("not today", code="closed_today")

    @known("value/set")
    def set_value(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("value", args["id"], {"value": args["value"]})

    @known("count/add")
    def add(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("count", args["id"], {"n": (tx.get("count", args["id"]) or {"n": 0})["n"] + 1})

    return known


@pytest.fixture
def make_engine(tmp_path: Path) -> Callable[[], syncline.Engine]:
    return lambda: syncline.Engine(tmp_path / "app.db", mutators=mutators())


@pytest.fixture
def server(make_engine: Callable[[], syncline.Engine]) -> Iterator[PageServer]:
    pages: dict[str, tuple[str, bytes | Path]] = {"/": ("text/html", PRELUDE.encode())}
    with PageServer(lambda: open_app(make_engine()), pages=pages) as started:
        yield started


def opened(context: BrowserContext, server: PageServer, **options: object) -> Page:
    """A page with a replica."""
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"in the page: {error}"))
    page.goto(server.url)
    page.wait_for_function("globalThis.ready")
    page.evaluate("async (options) => void await start(options)", options)
    return page


def documents(server: PageServer, entity: str = "todo") -> dict[str, Any]:
    with syncline.connect(server.url) as remote:
        return dict(remote.snapshot(SCOPE).data.get(entity, {}))


def push(server: PageServer, name: str, args: object, client_id: str = "backend", seq: int = 1) -> None:
    mutation = {"name": name, "args": args, "client_id": client_id, "client_seq": seq, "scope": SCOPE}
    with syncline.connect(server.url) as remote:
        (result,) = remote.push([mutation])
        result.raise_for_error()


def test_what_is_made_here_is_what_the_server_makes_of_it(
    server: PageServer, context: BrowserContext
) -> None:
    page = opened(context, server)
    shown = page.evaluate(
        """async () => {
          replica.mutate("todo/create", { id: "a", title: "milk" });
          const { made, mark, ...rest } = replica.get("todo", "a");
          await replica.sync();
          const confirmed = replica.confirmed.get("todo", "a");
          const same = confirmed.mark === mark && String(confirmed.made) === String(made);
          return { rest, mark, made: String(made), same, pending: replica.pending.length };
        }"""
    )
    (todo,) = documents(server).values()
    assert shown["rest"] == {"title": "milk", "done": False}
    assert shown["same"]
    assert shown["mark"] == todo["mark"]
    assert shown["made"] == todo["made"].isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert shown["pending"] == 0


def test_three_hundred_edits_offline_survive_a_reload_and_arrive_once(
    server: PageServer, context: BrowserContext
) -> None:
    page = opened(context, server)
    page.evaluate("replica.sync()")
    context.set_offline(True)
    page.evaluate(
        """async () => {
          for (let n = 0; n < 300; n++) replica.mutate("count/add", { id: `c${n % 3}` });
          await replica.flush();
        }"""
    )
    assert page.evaluate("replica.pending.length") == 300
    assert page.evaluate("replica.get('count', 'c0').n") == 100
    page.wait_for_function("replica.state === 'offline'")
    assert documents(server, "count") == {}
    server.stop()
    context.set_offline(False)
    page.evaluate("replica.close()")
    page.evaluate("start()")
    assert page.evaluate("replica.pending.length") == 300
    assert page.evaluate("replica.get('count', 'c2').n") == 100
    server.start()
    page.evaluate("replica.sync()")
    assert page.evaluate("replica.pending.length") == 0
    assert documents(server, "count") == {f"c{n}": {"n": 100} for n in range(3)}
    assert page.evaluate("replica.confirmed.get('count', 'c1').n") == 100


def test_a_refusal_takes_its_effect_back_and_is_kept_with_the_code(
    server: PageServer, context: BrowserContext
) -> None:
    page = opened(context, server)
    told = page.evaluate(
        """async () => {
          const pending = replica.mutate("todo/refuse", { id: "no" });
          const before = replica.exists("todo", "no");
          const answered = await pending.answered;
          await replica.sync();
          return { before, answered, after: replica.exists("todo", "no"),
                   refused: replica.refused.map(({ code, name, args }) => ({ code, name, args })) };
        }"""
    )
    assert told["before"] is True
    assert told["after"] is False
    assert told["answered"] == {"ok": False, "code": "closed_today", "message": "not today"}
    assert told["refused"] == [{"code": "closed_today", "name": "todo/refuse", "args": {"id": "no"}}]
    page.reload()
    page.wait_for_function("globalThis.ready")
    page.evaluate("start()")
    assert page.evaluate("replica.refused.length") == 1
    page.evaluate("replica.forget(replica.refused[0])")
    assert page.evaluate("replica.refused.length") == 0


def test_two_tabs_share_one_queue_and_see_each_other_at_once(
    server: PageServer, context: BrowserContext
) -> None:
    first = opened(context, server)
    second = opened(context, server)
    assert first.evaluate("replica.status.leading") is True
    assert second.evaluate("replica.status.leading") is False
    first.evaluate("replica.pause()")
    second.wait_for_function("replica.state === 'offline'")
    second.evaluate("replica.mutate('todo/create', { id: 'b', title: 'from the second' }); replica.flush()")
    first.evaluate("replica.mutate('todo/create', { id: 'a', title: 'from the first' }); replica.flush()")
    both = {"a": "from the first", "b": "from the second"}
    for page in (first, second):
        page.wait_for_function("Object.keys(titles()).length === 2")
        assert page.evaluate("titles()") == both
        page.wait_for_function("replica.pending.length === 2")
    assert documents(server) == {}
    second.evaluate("replica.resume()")
    second.evaluate("replica.sync()")
    assert {id: todo["title"] for id, todo in documents(server).items()} == both
    for page in (first, second):
        page.wait_for_function("replica.pending.length === 0")
        assert page.evaluate("titles()") == both
    assert first.evaluate("replica.clientId") == second.evaluate("replica.clientId")


def test_a_tab_that_is_killed_hands_over(server: PageServer, context: BrowserContext) -> None:
    first = opened(context, server)
    second = opened(context, server)
    first.evaluate("replica.sync()")
    server.stop()
    first.evaluate("replica.mutate('todo/create', { id: 'a', title: 'of the dead' }); replica.flush()")
    second.evaluate("replica.mutate('todo/create', { id: 'b', title: 'of the living' }); replica.flush()")
    with pytest.raises(PlaywrightError):
        context.new_cdp_session(first).send("Page.crash", timeout=500)  # nobody is left to answer it
    second.wait_for_function("replica.status.leading")
    assert second.evaluate("titles()") == {"a": "of the dead", "b": "of the living"}
    server.start()
    second.evaluate("replica.sync()")
    assert set(documents(server)) == {"a", "b"}
    assert second.evaluate("replica.pending.length") == 0


def test_cleared_storage_begins_anew_and_says_so(server: PageServer, context: BrowserContext) -> None:
    first = opened(context, server)
    second = opened(context, server)
    first.evaluate("replica.mutate('todo/create', { id: 'a', title: 'safe' }); replica.sync()")
    old = first.evaluate("replica.clientId")
    first.evaluate("replica.pause()")
    first.evaluate("replica.mutate('todo/create', { id: 'b', title: 'only here' }); replica.flush()")
    session = context.new_cdp_session(first)
    session.send("Storage.clearDataForOrigin", {"origin": server.url, "storageTypes": "all"})
    for page in (first, second):
        page.wait_for_function("events.some(({ kind }) => kind === 'renamed')")
        page.wait_for_function("(old) => replica.clientId !== old", arg=old)
        page.wait_for_function("replica.refused.length === 1")
        assert page.evaluate("replica.refused[0].code") == "storage_cleared"
        assert page.evaluate("replica.refused[0].args") == {"id": "b", "title": "only here"}
        assert page.evaluate("titles()") == {}
    second.evaluate("replica.resume()")
    second.evaluate("replica.mutate('todo/create', { id: 'c', title: 'new life' }); replica.sync()")
    for page in (first, second):
        page.wait_for_function("Object.keys(titles()).length === 2")
        assert page.evaluate("titles()") == {"a": "safe", "c": "new life"}
    assert set(documents(server)) == {"a", "c"}


def test_a_restarted_server_is_found_again(server: PageServer, context: BrowserContext) -> None:
    page = opened(context, server)
    page.evaluate("replica.mutate('todo/create', { id: 'a', title: 'before' }); replica.sync()")
    epoch = page.evaluate("replica.status.epoch")
    server.stop()
    page.evaluate("replica.mutate('todo/create', { id: 'b', title: 'between' }); replica.flush()")
    page.wait_for_function("replica.state === 'offline'")
    server.start()
    page.wait_for_function("replica.pending.length === 0 && replica.state === 'live'")
    assert page.evaluate("replica.status.epoch") != epoch
    assert set(documents(server)) == {"a", "b"}


def test_a_poke_brings_what_others_did_without_a_poll(
    server: PageServer, new_context: Callable[..., BrowserContext]
) -> None:
    page = opened(new_context(), server, poll=3600)
    page.wait_for_function("replica.status.live")
    push(server, "todo/create", {"id": "a", "title": "from elsewhere"})
    page.wait_for_function("replica.exists('todo', 'a')")
    # A server that goes away says goodbye; its clients come back, and hear what they missed.
    server.stop()
    page.wait_for_function("!replica.status.live")
    server.start()
    push(server, "todo/create", {"id": "b", "title": "while it was away"}, seq=2)
    page.wait_for_function("replica.exists('todo', 'b')")
    page.wait_for_function("replica.status.live")
    push(server, "todo/create", {"id": "c", "title": "once more"}, seq=3)
    page.wait_for_function("replica.exists('todo', 'c')")


def test_a_fresh_token_is_asked_for_when_one_is_refused(
    make_engine: Callable[[], syncline.Engine], context: BrowserContext
) -> None:
    good = {"first"}

    def who(request: syncline.http.Request) -> str | None:
        return "ada" if request.token in good else None

    def make() -> Any:
        engine = make_engine()
        return syncline.asgi(
            engine, authenticate=who, authorize=lambda user, action, scope: True, close_engine=True
        )

    with PageServer(make, pages={"/": ("text/html", PRELUDE.encode())}) as server:
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_function("globalThis.ready")
        page.evaluate(
            """async () => {
              globalThis.asked = [];
              const token = ({ refresh }) => (asked.push(refresh), asked.includes(true) ? "second" : "first");
              await start({ token });
              await replica.sync();
            }"""
        )
        assert page.evaluate("asked.includes(true)") is False
        good.clear()
        good.add("second")
        page.evaluate("replica.mutate('todo/create', { id: 'a', title: 'still me' }); replica.sync()")
        assert page.evaluate("asked.filter((refresh) => refresh).length") >= 1
        assert page.evaluate("replica.pending.length") == 0
        good.clear()
        page.evaluate("replica.mutate('todo/create', { id: 'b', title: 'nobody knows me' }); replica.flush()")
        page.wait_for_function("replica.status.error?.code === 'unauthenticated'")
        page.wait_for_function("replica.state === 'offline'")  # between its tries
        good.add("second")
        page.evaluate("replica.sync()")
        assert page.evaluate("replica.pending.length") == 0


def test_lost_answers_and_repeated_requests_count_once(server: PageServer, context: BrowserContext) -> None:
    page = opened(context, server)
    page.evaluate("replica.sync()")
    pushes = 0

    def unreliable(route: Route) -> None:
        nonlocal pushes
        pushes += 1
        if pushes % 3 == 1:
            route.abort()  # it never arrived
            return
        answer = route.fetch()
        if pushes % 3 == 2:
            route.abort()  # it was done, and nobody heard
        else:
            route.fulfill(response=answer)

    page.route("**/_sync/push", unreliable)
    page.evaluate(
        """async () => {
          for (let n = 0; n < 40; n++) {
            replica.mutate("count/add", { id: "c" });
            if (n % 5 === 0) await new Promise((resolve) => setTimeout(resolve, 10));
          }
          await replica.flush();
        }"""
    )
    page.wait_for_function("replica.pending.length === 0")
    page.unroute("**/_sync/push")
    assert pushes > 2
    assert documents(server, "count") == {"c": {"n": 40}}
    assert page.evaluate("replica.get('count', 'c').n") == 40


def test_a_deleted_database_is_cleared_storage_too(server: PageServer, context: BrowserContext) -> None:
    page = opened(context, server)
    page.evaluate("replica.mutate('todo/create', { id: 'a', title: 'safe' }); replica.sync()")
    old = page.evaluate("replica.clientId")
    page.evaluate("void indexedDB.deleteDatabase('syncline:test')")
    page.wait_for_function("(old) => replica.clientId !== old && replica.exists('todo', 'a')", arg=old)
    page.evaluate("replica.mutate('todo/create', { id: 'b', title: 'after' }); replica.sync()")
    assert set(documents(server)) == {"a", "b"}
    assert page.evaluate("replica.status.error") is None


def test_permission_that_is_taken_away_and_given_back(
    make_engine: Callable[[], syncline.Engine], context: BrowserContext
) -> None:
    allowed = {"read", "write"}

    def make() -> Any:
        return syncline.asgi(
            make_engine(),
            authenticate=lambda request: "ada",
            authorize=lambda user, action, scope: action in allowed,
            close_engine=True,
        )

    with PageServer(make, pages={"/": ("text/html", PRELUDE.encode())}) as server:
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_function("globalThis.ready")
        page.evaluate("start()")
        page.evaluate("replica.mutate('todo/create', { id: 'a', title: 'mine' }); replica.sync()")
        allowed.clear()
        page.wait_for_function("events.some(({ kind }) => kind === 'closed')")
        assert page.evaluate("titles()") == {}
        assert page.evaluate("replica.scopes[0].open") is False
        page.evaluate("replica.mutate('todo/create', { id: 'b', title: 'not allowed' }); replica.flush()")
        page.wait_for_function("replica.refused.length === 1")
        assert page.evaluate("replica.refused[0].code") == "forbidden"
        allowed.update(("read", "write"))
        page.wait_for_function("replica.scopes[0].open && replica.exists('todo', 'a')")
        assert page.evaluate("titles()") == {"a": "mine"}


def test_a_client_id_that_is_somebody_elses_is_left_to_them(
    make_engine: Callable[[], syncline.Engine], context: BrowserContext
) -> None:
    def make() -> Any:
        return syncline.asgi(
            make_engine(),
            authenticate=lambda request: request.token,
            authorize=lambda user, action, scope: True,
            close_engine=True,
        )

    with PageServer(make, pages={"/": ("text/html", PRELUDE.encode())}) as server:
        mutation = {"name": "todo/create", "args": {"id": "a", "title": "theirs"}, "scope": SCOPE}
        with syncline.connect(server.url, token="eve") as eve:
            assert eve.push([{**mutation, "client_id": "taken", "client_seq": 1}])[0].ok
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_function("globalThis.ready")
        page.evaluate("start({ token: 'ada', clientId: 'taken' })")
        page.evaluate("replica.mutate('todo/create', { id: 'b', title: 'mine' }); replica.sync()")
        assert page.evaluate("replica.clientId") != "taken"
        assert page.evaluate("events.filter(({ kind }) => kind === 'renamed').length") == 1
        assert page.evaluate("titles()") == {"a": "theirs", "b": "mine"}


def test_every_value_goes_to_the_server_as_what_it_is(server: PageServer, context: BrowserContext) -> None:
    told = json.loads((Path(__file__).parents[1] / "vectors" / "values.json").read_text(encoding="utf-8"))
    values = [one["json"] for one in told["values"]]
    page = opened(context, server)
    page.evaluate(
        """async (values) => {
          // Whole floats have to be said, and the reader has them as numbers.
          const exact = (wire) =>
            Array.isArray(wire) ? wire.map(exact)
            : wire === null || typeof wire !== "object" ? wire
            : "$numberDouble" in wire ? double(Number(wire.$numberDouble))
            : Object.keys(wire).some((key) => key.startsWith("$")) ? fromWire(wire)
            : Object.fromEntries(Object.entries(wire).map(([key, one]) => [key, exact(one)]));
          values.forEach((json, at) => {
            const id = `v${String(at).padStart(3, "0")}`;
            replica.mutate("value/set", { id, value: exact(parseJson(json)) });
          });
          await replica.sync();
        }""",
        values,
    )
    assert page.evaluate("replica.refused") == []
    stored = [document["value"] for _, document in sorted(documents(server, "value").items())]
    assert [syncline._core.json_encode(value).decode() for value in stored] == values


def test_browsers_and_a_python_replica_converge_on_one_list(
    server: PageServer, new_context: Callable[..., BrowserContext], tmp_path: Path
) -> None:
    pages = [opened(new_context(), server) for _ in range(2)]
    with syncline.Replica(tmp_path / "phone.db", server.url, scope=SCOPE, mutators=mutators()) as phone:
        phone.pause()
        for page in pages:
            page.evaluate("replica.pause()")
        for number, page in enumerate(pages):
            page.evaluate(
                """async (who) => {
                  for (let n = 0; n < 20; n++) {
                    replica.mutate("todo/create", { id: `${who}-${n}`, title: `${who} ${n}` });
                    replica.mutate("count/add", { id: "shared" });
                  }
                  replica.mutate("todo/done", { id: `${who}-3`, done: true });
                  replica.mutate("todo/delete", { id: `${who}-4` });
                  await replica.flush();
                }""",
                f"b{number}",
            )
        for n in range(20):
            phone.mutate("todo/create", {"id": f"phone-{n}", "title": f"phone {n}"})
            phone.mutate("count/add", {"id": "shared"})
        phone.mutate("todo/done", {"id": "phone-3", "done": True})
        minted = phone.get("todo", "phone-0")["mark"]  # type: ignore[index]
        phone.resume()
        for page in pages:
            page.evaluate("replica.resume()")
        phone.sync()
        for page in pages:
            page.evaluate("replica.sync()")
        phone.sync()
        truth = documents(server)
        assert len(truth) == 58
        assert documents(server, "count") == {"shared": {"n": 60}}
        assert phone.list("todo") == truth
        assert phone.get("count", "shared") == {"n": 60}
        assert truth["phone-0"]["mark"] == minted
        for page in pages:
            page.wait_for_function("replica.get('count', 'shared').n === 60")
            page.wait_for_function("replica.pending.length === 0")
            page.wait_for_function("replica.list('todo').size === 58")
            shown = page.evaluate(
                "replica.scan('todo').map(([id, { title, done, mark, made }]) =>"
                " [id, { title, done, mark, made: String(made) }])"
            )
            assert shown == [
                [
                    id,
                    {
                        **{key: todo[key] for key in ("title", "done", "mark")},
                        "made": todo["made"].isoformat(timespec="microseconds").replace("+00:00", "Z"),
                    },
                ]
                for id, todo in sorted(truth.items())
            ]


def test_ten_thousand_documents_come_at_first(server: PageServer, context: BrowserContext) -> None:
    with syncline.connect(server.url) as remote:
        for start in range(0, 10_000, 1000):
            mutations = [
                {
                    "name": "todo/create",
                    "args": {"id": f"t{start + n:05}", "title": f"number {start + n}"},
                    "client_id": "loader",
                    "client_seq": start + n + 1,
                    "scope": SCOPE,
                }
                for n in range(1000)
            ]
            assert all(result.ok for result in remote.push(mutations))
    page = opened(context, server)
    page.evaluate("replica.sync()")
    assert page.evaluate("replica.list('todo').size") == 10_000
    assert page.evaluate("replica.find('todo', { title: 'number 4711' }).length") == 1
    page.evaluate("replica.close()")
    page.evaluate("start({ start: false })")
    assert page.evaluate("replica.list('todo').size") == 10_000  # from its own disk


def test_a_subscription_shows_each_change_once_it_is_durable(
    server: PageServer, context: BrowserContext
) -> None:
    page = opened(context, server)
    told = page.evaluate(
        """async () => {
          const told = [];
          const query = { entity: "todo", filter: { done: false }, sort: "-title", limit: 2 };
          const end = replica.subscribe(query, (rows, changes) =>
            told.push([rows.map(([id]) => id), changes.map(({ kind, id }) => `${kind} ${id}`)]));
          for (const id of ["a", "b", "c"]) replica.mutate("todo/create", { id, title: id });
          await replica.sync();
          replica.mutate("todo/done", { id: "c", done: true });
          await replica.sync();
          end();
          replica.mutate("todo/delete", { id: "a" });
          await replica.sync();
          return told;
        }"""
    )
    assert told == [
        [[], []],
        [["c", "b"], ["added a", "added b", "added c"]],
        [["b", "a"], ["modified c"]],
    ]
