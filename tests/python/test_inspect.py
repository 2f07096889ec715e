"""The inspector's questions: off unless there is a hook, told only to whom the hooks allow, and as the engine
says it. What the page makes of them is in test_inspect_page.py."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import syncline
from http_support import (
    HOOKS,
    Answer,
    Client,
    Exchange,
    by_asgi,
    by_handle,
    by_token,
    by_wsgi,
    make_engine,
    not_secret,
)
from syncline import http as sync_http
from syncline import inspector

INSPECTED: dict[str, Any] = {**HOOKS, "inspect": lambda user: user == "ada"}
Door = Callable[..., Exchange]


def asgi_door(engine: syncline.Engine, **hooks: Any) -> Exchange:
    return by_asgi(syncline.asgi(engine, **{**INSPECTED, **hooks}))


def wsgi_door(engine: syncline.Engine, **hooks: Any) -> Exchange:
    return by_wsgi(syncline.wsgi(engine, **{**INSPECTED, **hooks}))


def handle_door(engine: syncline.Engine, **hooks: Any) -> Exchange:
    return by_handle(engine, **{**INSPECTED, **hooks})


@pytest.fixture(params=[asgi_door, wsgi_door, handle_door], ids=["asgi", "wsgi", "handle"])
def door(request: pytest.FixtureRequest) -> Door:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with make_engine() as engine:
        yield engine


def asker(exchange: Exchange, token: str = "t-ada") -> Callable[..., Answer]:
    client = Client(exchange, token=token)
    return lambda name, **body: client.post(f"/_sync/inspect/{name}", body)


def write(engine: syncline.Engine, scope: str, id: str, **fields: Any) -> None:
    with engine.write(scope) as tx:
        tx.set("note", id, fields)


# ------------------------------------------------------------------------------------------------ who may see


def test_without_the_hook_there_is_nothing(engine: syncline.Engine, door: Door) -> None:
    closed = Client(door(engine, inspect=None))
    paths = [part.path for part in inspector.PARTS]
    assert {closed.request("GET", path).status for path in paths} == {404}
    assert {closed.post(inspector.path_of(name), {}).status for name in inspector.QUESTIONS} == {404}
    assert not [path for path in closed.request("GET", "/_sync/openapi.json").body["paths"] if "insp" in path]


def test_the_page_is_anybodys_and_its_data_only_whom_the_hook_allows(
    engine: syncline.Engine, door: Door
) -> None:
    exchange = door(engine)
    assert Client(exchange, token="").request("GET", "/_sync/inspect").status == 200
    for name in inspector.QUESTIONS:
        path = inspector.path_of(name)
        assert Client(exchange, token="").post(path, {}).status == 401
        refused = Client(exchange, token="t-eve").post(path, {})
        assert (refused.status, refused.error["code"]) == (403, "forbidden")


def test_a_scope_that_authorize_refuses_is_in_no_answer(engine: syncline.Engine, door: Door) -> None:
    client = Client(by_handle(engine, authorize=lambda user, action, scope: True))
    for scope in ("list:1", "secret:1"):
        client.one("note/set", {"id": "1", "text": "x"}, scope)
        client.one("note/crash", {}, scope)
        client.post("/_sync/pull", {"scope": scope, "cursor": 0, "client_id": "c1"})
    ask = asker(door(engine))
    for name in ("scopes", "log", "clients", "letters"):
        rows = ask(name).body["rows"]
        assert {row["scope"] for row in rows} == {"list:1"}, name
    assert "secret" not in json.dumps(
        [ask(name).body for name in ("pulse", "health", "scopes", "log", "clients")]
    )
    document = {"scope": "secret:1", "entity": "note", "id": "1"}
    asked = [
        ("scope", {"scope": "secret:1"}),
        ("documents", {"scope": "secret:1", "entity": "note"}),
        ("log", {"scope": "secret:1"}),
        ("document", document),
        ("state", {**document, "cursor": 1}),
        ("clients", {"scope": "secret:1"}),
        ("letter", {"id": 2}),
    ]
    for name, body in asked:
        assert ask(name, **body).status == 403, name
    assert {name for name, _ in asked} >= {
        name for name, one in inspector.QUESTIONS.items() if "scope" in one.takes.__dataclass_fields__
    }


def test_reserved_scopes_are_not_shown(engine: syncline.Engine, door: Door) -> None:
    ask = asker(door(engine))
    for name, body in (("scope", {}), ("log", {}), ("clients", {}), ("documents", {"entity": "note"})):
        refused = ask(name, scope="_positions", **body)
        assert (refused.status, refused.error["code"]) == (400, "invalid_scope")


def test_a_hook_may_be_a_coroutine_where_an_event_loop_runs(engine: syncline.Engine) -> None:
    async def operators(user: str) -> bool:
        return user == "ada"

    assert asker(asgi_door(engine, inspect=operators))("pulse").status == 200
    assert asker(asgi_door(engine, inspect=operators), "t-eve")("pulse").status == 403
    with pytest.raises(syncline.UsageError, match="inspect"):
        syncline.wsgi(engine, **{**HOOKS, "inspect": operators})


def test_a_hook_that_is_none_or_answers_nonsense(engine: syncline.Engine, door: Door) -> None:
    with pytest.raises(TypeError, match="inspect"):
        syncline.asgi(engine, **{**HOOKS, "inspect": True})
    with pytest.raises(TypeError, match="inspects"):
        syncline.asgi(engine, **{**HOOKS, "inspects": lambda user: True})
    assert asker(door(engine, inspect=lambda user: 1))("pulse").status == 500


# ------------------------------------------------------------------------------------------- what is answered


def test_the_pulse_is_the_engines_own_counters(engine: syncline.Engine, door: Door) -> None:
    client = Client(by_handle(engine))
    client.one("note/set", {"id": "1", "text": "x"})
    client.one("note/reject")
    client.one("note/crash", {})
    told = asker(door(engine))("pulse").body
    stats = engine.stats()
    assert told["counters"] == {name: getattr(stats, name) for name in told["counters"]}
    assert told["live"] == dataclasses.asdict(stats.live)
    assert (told["head"], told["epoch"], told["dead_letters"]) == (engine.head, engine.epoch, 1)
    assert (told["user"], told["may"]) == ("ada", [])


def test_which_commands_the_pulse_offers_says_the_admin_hook(engine: syncline.Engine, door: Door) -> None:
    exchange = door(engine, admin=lambda user, command: command == "dead-letters/retry")
    assert asker(exchange)("pulse").body["may"] == ["dead-letters/retry"]
    Client(by_handle(engine)).one("note/crash", {})
    client = Client(exchange)
    assert client.post("/_sync/admin/dead-letters/discard", {"id": 1}).status == 403
    assert client.post("/_sync/admin/dead-letters/retry", {"id": 1}).body["code"] == "internal_error"


def test_health_is_the_engines(engine: syncline.Engine, door: Door) -> None:
    client = Client(by_handle(engine))
    client.one("note/set", {"id": "1", "text": "x"})
    client.one("note/crash", {})
    ask = asker(door(engine))
    told = ask("health").body
    assert told["limits"] == engine.health()["limits"]
    assert told["storage"].keys() == engine.health()["storage"].keys()
    assert {one["name"]: (one["calls"], one["failures"]) for one in told["mutators"]} == {
        "note/set": (1, 0),
        "note/crash": (1, 1),
    }
    assert (told["dead_letters"], told["read_only"], told["holds"]) == (1, False, None)
    stats = engine.stats()
    assert ask("health", count=True).body["holds"] == {
        "documents": 1, "tombstones": 0, "log_lines": 1, "clients": 1,
        "results": stats.results, "scopes": stats.scopes, "unlogged": stats.unlogged,
    }  # fmt: skip


def test_scopes_have_their_heads_floors_and_documents(engine: syncline.Engine, door: Door) -> None:
    for n in range(5):
        write(engine, f"list:{n}", "1", n=n)
    write(engine, "list:3", "2", n=2)
    with engine.write("list:4") as tx:
        tx.delete("note", "1")
    ask = asker(door(engine))
    told = ask("scopes").body
    assert [(one["scope"], one["head"], one["floor"], one["log_floor"]) for one in told["rows"]] == [
        (one.name, one.head, one.floor, one.log_floor) for one in engine.scopes()
    ]
    assert [one["documents"] for one in told["rows"]] == [1, 1, 1, 2, 0]
    assert all(one["exact"] for one in told["rows"])
    assert (told["next"], told["known"]) == (None, 5)
    first = ask("scopes", limit=2).body
    assert [one["scope"] for one in first["rows"]] == ["list:0", "list:1"]
    second = ask("scopes", limit=2, after=first["next"]).body
    assert [one["scope"] for one in second["rows"]] == ["list:2", "list:3"]
    assert [one["scope"] for one in ask("scopes", contains=":3").body["rows"]] == ["list:3"]
    for known in engine.scopes():
        one = ask("scope", scope=known.name).body
        assert (one["head"], one["floor"], one["log_floor"]) == (known.head, known.floor, known.log_floor)
    assert ask("scope", scope="list:3").body["entities"] == [{"entity": "note", "documents": 2}]
    assert ask("scope", scope="list:9").status == 404


def test_a_count_says_when_it_stopped(engine: syncline.Engine, door: Door) -> None:
    with engine.write("list:1") as tx:
        for n in range(2_100):
            tx.set("note", f"{n}", {})
            tx.set("other", f"{n}", {})
    ask = asker(door(engine))
    (row,) = ask("scopes").body["rows"]
    assert (row["documents"], row["exact"]) == (2_000, False)
    told = ask("scope", scope="list:1").body
    assert told["exact"]
    assert {one["entity"]: one["documents"] for one in told["entities"]} == {"note": 2_100, "other": 2_100}


def test_documents_are_found_by_the_beginning_of_their_id(engine: syncline.Engine, door: Door) -> None:
    for id in ("a1", "a2", "b1"):
        write(engine, "list:1", id, text=id)
    ask = asker(door(engine))
    told = ask("documents", scope="list:1", entity="note", prefix="a").body
    assert [(one["id"], one["data"]["text"]) for one in told["documents"]] == [
        ("a1", '{"text":"a1"}'),
        ("a2", '{"text":"a2"}'),
    ]
    assert not told["more"]
    assert ask("documents", scope="list:1", entity="note", limit=2).body["more"]


def test_the_log_is_the_engines_both_ways_and_in_pages(engine: syncline.Engine, door: Door) -> None:
    client = Client(by_handle(engine))
    for n in range(7):
        client.one("note/set", {"id": f"{n % 2}", "text": f"{n}"}, f"list:{n % 3}")
    ask = asker(door(engine))
    lines = list(engine.log())
    told = ask("log").body
    assert [
        (row["cursor"], row["scope"], row["op"], row["version"], row["mutation"]) for row in told["rows"]
    ] == [(line.cursor, line.scope, line.op, line.version, line.mutation) for line in lines]
    assert (told["after"], told["through"], told["head"], told["begins"]) == (0, 7, 7, 0)
    first = told["rows"][0]
    assert (first["user"], first["client_id"], first["client_seq"], first["changes"]) == (
        "ada",
        "c1",
        1,
        None,
    )
    updated = next(row for row in told["rows"] if row["op"] == "update")
    (diff,) = updated["changes"]
    assert (diff["field"], diff["old"]["text"], diff["new"]["text"]) == ("text", '"0"', '"6"')

    cursors = [line.cursor for line in lines]
    seen: list[int] = []
    since = 0
    while since < 7:
        page = ask("log", since=since, limit=3).body
        seen += [row["cursor"] for row in page["rows"]]
        since = page["through"]
    assert seen == cursors
    seen, through = [], 7
    while through > 0:
        page = ask("log", through=through, newest_first=True, limit=3).body
        seen += [row["cursor"] for row in page["rows"]]
        through = page["after"]
    assert seen == cursors[::-1]

    of = {"scope": "list:1", "entity": "note", "id": "1", "client_id": "c1"}
    assert [row["cursor"] for row in ask("log", **of).body["rows"]] == [
        line.cursor for line in engine.log(scope="list:1", entity="note", id="1", client_id="c1")
    ]


def test_one_look_into_the_log_is_bounded_however_little_it_finds(
    engine: syncline.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "_LOG_WINDOW", 10)
    write(engine, "rare", "1", n=1)
    for n in range(30):
        write(engine, "busy", "1", n=n)
    ask = asker(handle_door(engine))
    page = ask("log", scope="rare", newest_first=True).body
    assert (page["rows"], page["after"], page["through"]) == ([], 21, 31)
    pages = 1
    while not page["rows"]:
        page = ask("log", scope="rare", newest_first=True, through=page["after"]).body
        pages += 1
    assert ([row["cursor"] for row in page["rows"]], pages) == ([1], 4)
    forward = ask("log", scope="busy", since=1).body
    assert ([row["cursor"] for row in forward["rows"]], forward["through"]) == (list(range(2, 12)), 11)


def test_the_log_begins_where_history_does(engine: syncline.Engine, door: Door) -> None:
    for n in range(6):
        write(engine, "list:1", "1", n=n)
    engine.compact(4)
    ask = asker(door(engine))
    told = ask("log").body
    assert (told["begins"], [row["cursor"] for row in told["rows"]]) == (4, [5, 6])
    assert [row["cursor"] for row in ask("log", since=2).body["rows"]] == [5, 6]
    history = ask("document", scope="list:1", entity="note", id="1").body
    assert (history["complete"], [row["version"] for row in history["versions"]]) == (False, [6, 5])
    gone = ask("state", scope="list:1", entity="note", id="1", cursor=2)
    assert (gone.status, gone.error["code"]) == (410, "history_gone")


def test_a_documents_states_and_versions_are_those_of_the_engine(engine: syncline.Engine, door: Door) -> None:
    client = Client(by_handle(engine))
    for text in ("a", "b", "c"):
        client.one("note/set", {"id": "1", "text": text})
    client.one("note/delete", {"id": "1"})
    client.one("note/set", {"id": "1", "text": "again"})
    ask = asker(door(engine))
    name = {"scope": "list:1", "entity": "note", "id": "1"}
    told = ask("document", **name).body
    versions = list(engine.history("list:1", "note", "1"))
    assert [(row["cursor"], row["version"], row["op"]) for row in told["versions"]] == [
        (one.cursor, one.version, one.op) for one in versions
    ]
    assert (told["state"], told["complete"], told["words"]) == (
        "live",
        True,
        str(engine.explain("list:1", "note", "1")),
    )
    for cursor in range(engine.head + 1):
        state = ask("state", **name, cursor=cursor).body
        with engine.at(cursor) as past:
            document = past.get("list:1", "note", "1")
            assert state["version"] == past.version("list:1", "note", "1")
        fields = state["fields"]
        shown = None if fields is None else {one["name"]: json.loads(one["value"]["text"]) for one in fields}
        assert shown == document
    assert ask("document", **name, limit=2).body["complete"] is None
    unknown = ask("document", **{**name, "id": "absent"}).body
    assert (unknown["state"], unknown["versions"]) == ("unknown", [])


def test_values_are_told_as_the_protocols_json_and_cut_at_a_stated_length(
    engine: syncline.Engine, door: Door
) -> None:
    at = datetime.datetime(2026, 1, 31, 12, tzinfo=datetime.timezone.utc)
    write(engine, "list:1", "1", large=2**64 - 1, real=1.0, bytes=b"\0\xff", at=at, long="é" * 5_000)
    ask = asker(door(engine))
    name = {"scope": "list:1", "entity": "note", "id": "1", "cursor": 1}
    fields = {one["name"]: one["value"] for one in ask("state", **name).body["fields"]}
    assert fields["large"]["text"] == '{"$numberLong":"18446744073709551615"}'
    assert fields["real"]["text"] == "1.0"
    assert fields["bytes"]["text"] == '{"$binary":"AP8="}'
    assert fields["at"]["text"] == '{"$date":"2026-01-31T12:00:00.000000Z"}'
    assert (len(fields["long"]["text"]), fields["long"]["size"]) == (2_000, 5_002)
    (whole,) = ask("state", **name, whole="long").body["fields"]
    assert whole["value"]["text"] == '"' + "é" * 5_000 + '"'
    (row,) = ask("documents", scope="list:1", entity="note").body["documents"]
    assert len(row["data"]["text"]) == 160 < row["data"]["size"]
    assert ask("state", **name, whole="absent").status == 404


def test_many_fields_are_cut_and_counted(engine: syncline.Engine, door: Door) -> None:
    write(engine, "list:1", "1", **{f"f{n}": 0 for n in range(300)})
    write(engine, "list:1", "1", **{f"f{n}": 1 for n in range(300)})
    ask = asker(door(engine))
    state = ask("state", scope="list:1", entity="note", id="1", cursor=2).body
    assert (len(state["fields"]), state["more_fields"]) == (200, 100)
    line = ask("log").body["rows"][-1]
    assert (len(line["changes"]), line["more_changes"]) == (20, 280)


def test_clients_have_their_positions_and_what_is_known_of_their_mutations(
    engine: syncline.Engine, door: Door
) -> None:
    exchange = by_handle(engine)
    behind, ahead = Client(exchange, client_id="behind"), Client(exchange, client_id="ahead", token="t-bob")
    behind.one("note/set", {"id": "1", "text": "x"})
    behind.post("/_sync/pull", {"scope": "list:1", "cursor": 0, "client_id": "behind"})
    ahead.one("note/set", {"id": "1", "text": "y"})
    ahead.push(ahead.mutation("note/set", {"id": "1", "text": "z"}), settled={"ahead": 1})
    ahead.post("/_sync/pull", {"scope": "list:1", "cursor": 0, "client_id": "ahead"})
    engine.pull("list:1", client_id="reader")
    ask = asker(door(engine))
    told = ask("clients").body
    assert [(row["client_id"], row["user"], row["cursor"], row["lag"]) for row in told["rows"]] == [
        ("behind", "ada", 1, 2),
        ("ahead", "bob", 3, 0),
        ("reader", None, 3, 0),
    ]
    assert [(row["last_seq"], row["settled"], row["pushed_at"] is None) for row in told["rows"]] == [
        (1, 0, False),
        (2, 1, False),
        (0, 0, True),
    ]
    assert told["known"] == 3
    assert ask("clients", order="last_seen", limit=1).body["rows"][0]["client_id"] == "reader"
    assert ask("clients", scope="list:2").body["rows"] == []
    assert {(one.client_id, one.lag) for one in engine.positions()} == {
        (row["client_id"], row["lag"]) for row in told["rows"]
    }


def test_dead_letters_have_arguments_and_traceback(engine: syncline.Engine, door: Door) -> None:
    client = Client(by_handle(engine))
    for n in range(3):
        client.one("note/crash", {"n": n, "large": 2**63})
    ask = asker(door(engine))
    page = ask("letters", limit=2).body
    assert ([row["id"] for row in page["rows"]], page["next"], page["kept"]) == ([1, 2], 2, 3)
    assert [row["id"] for row in ask("letters", after=2).body["rows"]] == [3]
    letter, told = engine.dead_letters[1], ask("letter", id=1).body
    assert told["args"]["text"] == '{"large":{"$numberLong":"9223372036854775808"},"n":0}'
    assert (told["error"], told["message"], told["traceback"]) == (
        letter.error,
        letter.message,
        letter.traceback,
    )
    assert (told["scope"], told["client_seq"], int(told["seed"], 16)) == ("list:1", 1, letter.seed)
    assert ask("letter", id=9).status == 404


# ---------------------------------------------------------------------------------------------------- borders


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("log", {"limit": 201}),
        ("log", {"limit": 0}),
        ("log", {"limit": "1"}),
        ("log", {"since": -1}),
        ("log", {"since": 99}),
        ("log", {"through": -1}),
        ("log", {"scope": ""}),
        ("log", {"unheard": 1}),
        ("scopes", {"limit": 201}),
        ("scopes", {"contains": 1}),
        ("scope", {}),
        ("scope", {"scope": "a\nb"}),
        ("documents", {"scope": "list:1"}),
        ("document", {"scope": "list:1", "entity": "note", "id": "1", "limit": 501}),
        ("document", {"scope": "list:1", "entity": "note", "id": ""}),
        ("state", {"scope": "list:1", "entity": "note", "id": "1"}),
        ("state", {"scope": "list:1", "entity": "note", "id": "1", "cursor": 99}),
        ("state", {"scope": "list:1", "entity": "note", "id": "1", "cursor": -1}),
        ("clients", {"order": "name"}),
        ("clients", {"limit": 0}),
        ("letters", {"after": -1}),
        ("letters", {"after": 1 << 60}),
        ("letter", {}),
    ],
)
def test_bad_input_is_refused(engine: syncline.Engine, name: str, body: dict[str, Any]) -> None:
    write(engine, "list:1", "1", n=1)
    refused = asker(handle_door(engine))(name, **body)
    assert refused.status == 400, refused
    assert refused.error["message"]


def test_questions_only_read(tmp_path: Path) -> None:
    with make_engine(tmp_path / "a.db") as engine:
        write(engine, "list:1", "1", n=1)
        Client(by_handle(engine)).one("note/crash", {})
    with make_engine(tmp_path / "a.db", read_only=True) as engine:
        ask = asker(handle_door(engine))
        name = {"scope": "list:1", "entity": "note", "id": "1"}
        bodies: dict[str, dict[str, Any]] = {
            "scope": {"scope": "list:1"},
            "documents": {"scope": "list:1", "entity": "note"},
            "document": name,
            "state": {**name, "cursor": 1},
            "letter": {"id": 1},
        }
        for question in inspector.QUESTIONS:
            assert ask(question, **bodies.get(question, {})).status == 200, question
        assert ask("health").body["read_only"]


def test_a_page_of_another_origin_cannot_ask(engine: syncline.Engine, door: Door) -> None:
    client = Client(door(engine))
    origin = {"Origin": "https://evil.example"}
    preflight = client.request(
        "OPTIONS", "/_sync/inspect/log", **origin, Access_Control_Request_Method="POST"
    )
    assert preflight.status == 403
    plain = client.request("POST", "/_sync/inspect/log", b"{}", **origin, Content_Type="text/plain")
    assert plain.status == 400
    unnamed = client.request("POST", "/_sync/inspect/log", b"{}", **origin, Content_Type="")
    assert unnamed.status == 400


# --------------------------------------------------------------------------------------------------- the page


def test_the_page_runs_nothing_but_its_own_files(engine: syncline.Engine, door: Door) -> None:
    client = Client(door(engine), token="")
    for part in inspector.PARTS:
        answer = client.request("GET", part.path)
        assert answer.status == 200
        assert answer.headers["Content-Type"] == f"{part.content_type}; charset=utf-8"
        policy = answer.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'" in policy
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert client.request("HEAD", part.path).body == b""
        assert client.request("GET", part.path, If_None_Match=answer.headers["ETag"]).status == 304
        assert client.request("POST", part.path).status == 405
        text = answer.body.decode()
        assert "http://" not in text.replace("http://www.w3.org/", "")
        assert "https://" not in text
        for sink in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=",
            "onclick=",
        ):
            assert sink not in text, (part.file, sink)


def test_every_file_of_the_page_is_served() -> None:
    folder = Path(inspector.__file__).parent / "web" / "inspect"
    assert {f"inspect/{path.name}" for path in folder.iterdir()} == {part.file for part in inspector.PARTS}


def test_the_hooks_have_one_list() -> None:
    hooks = set(sync_http.Hooks.__annotations__)
    made = sync_http.Handler.__init__.__annotations__.keys()
    assert hooks == set(made) - {"engine", "authenticate", "authorize", "synchronous", "return"}
    assert {by_token, not_secret} == set(HOOKS.values())
