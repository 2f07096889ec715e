"""The protocol over HTTP: each refusal as PROTOCOL.md names it, in both formats, through each door, and what
comes after it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgpack
import pytest
import syncline
from http_support import (
    HOOKS,
    SECRET,
    Client,
    Exchange,
    by_asgi,
    by_handle,
    by_token,
    by_wsgi,
    make_engine,
    make_mutators,
    not_secret,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syncline import _core
from syncline import http as sync_http


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with make_engine() as engine:
        yield engine


@pytest.fixture(params=["handle", "asgi", "wsgi"])
def exchange(request: pytest.FixtureRequest, engine: syncline.Engine) -> Exchange:
    if request.param == "handle":
        return by_handle(engine)
    if request.param == "asgi":
        return by_asgi(syncline.asgi(engine, **HOOKS))
    return by_wsgi(syncline.wsgi(engine, **HOOKS))


@pytest.fixture(params=["json", "msgpack"])
def client(request: pytest.FixtureRequest, exchange: Exchange) -> Client:
    return Client(exchange, request.param)


def nothing_was_stored(engine: syncline.Engine, scope: str = "list:1") -> None:
    assert engine.snapshot(scope).data == {}


# ---------------------------------------------------------------------------------------------------- success


def test_a_pushed_mutation_comes_back_in_pull_snapshot_and_cursor(
    client: Client, engine: syncline.Engine
) -> None:
    result = client.one("note/set", {"id": "1", "text": "héllo"})
    assert result["ok"]
    assert [(change["entity"], change["id"], change["op"]) for change in result["changes"]] == [
        ("note", "1", "create")
    ]
    assert "data" not in result["changes"][0]

    pulled = client.post("/_sync/pull", {"scope": "list:1", "cursor": 0, "client_id": "c1"})
    assert pulled.status == 200
    (change,) = pulled.body["changes"]
    assert (change["entity"], change["id"], change["op"], change["version"]) == ("note", "1", "create", 1)
    assert change["data"] == {"text": "héllo"}
    assert pulled.body["has_more"] is False
    assert pulled.body["last_seq"] == 1

    snapshot = client.post("/_sync/snapshot", {"scope": "list:1", "client_id": "c1"})
    assert snapshot.body["data"] == {"note": {"1": {"text": "héllo"}}}
    assert snapshot.body["last_seq"] == 1
    assert snapshot.body["epoch"] == engine.epoch == pulled.body["epoch"]

    cursor = client.request("GET", "/_sync/cursor?scope=list%3A1")
    assert cursor.body == {"cursor": result["cursor"], "epoch": engine.epoch}


def test_a_repeated_push_returns_the_stored_result(client: Client) -> None:
    mutation = client.mutation("note/set", {"id": "1", "text": "x"})
    first = client.push(mutation).body["results"][0]
    again = client.push(mutation).body["results"][0]
    assert again.pop("duplicate") is True
    assert again == {**first}


def test_pages_follow_each_other_by_their_token(client: Client) -> None:
    client.push(*(client.mutation("note/set", {"id": str(n), "text": "x"}) for n in range(5)))
    seen: list[str] = []
    body: dict[str, Any] = {"scope": "list:1", "cursor": 0, "limit": 2}
    while True:
        page = client.post("/_sync/pull", body).body
        seen += [change["id"] for change in page["changes"]]
        if not page["has_more"]:
            break
        body["page"] = page["page"]
    assert seen == ["0", "1", "2", "3", "4"]


def test_health_tells_users_all_and_strangers_that_it_lives(client: Client, engine: syncline.Engine) -> None:
    known = client.request("GET", "/_sync/health")
    assert known.status == 200
    assert known.body["ok"] is True
    assert known.body["epoch"] == engine.epoch
    assert known.body["limits"]["body_bytes"] == 8 << 20
    client.token = "wrong"
    stranger = client.request("GET", "/_sync/health")
    assert stranger.status == 200
    assert stranger.body == {"ok": True, "version": known.body["version"]}


@pytest.mark.parametrize(
    ("content_type", "accept", "answered"),
    [
        ("application/json", "", "application/json"),
        ("application/msgpack", "", "application/msgpack"),
        ("application/x-msgpack", "", "application/msgpack"),
        ("application/json; charset=utf-8", "*/*", "application/json"),
        ("application/msgpack", "*/*", "application/msgpack"),
        ("application/json", "application/msgpack", "application/msgpack"),
        ("application/msgpack", "text/html, application/json;q=0.9, */*;q=0.1", "application/json"),
        ("application/msgpack", "application/json, application/msgpack", "application/msgpack"),
        ("application/json", "text/html", "application/json"),
        ("", "", "application/json"),
    ],
)
def test_content_type_says_the_bodys_format_and_accept_the_answers(
    engine: syncline.Engine, content_type: str, accept: str, answered: str
) -> None:
    client = Client(by_handle(engine))
    body: dict[str, Any] = {"scope": "list:1", "cursor": 0}
    content = msgpack.packb(body) if "msgpack" in content_type else json.dumps(body).encode()
    for status, more in ((200, content), (400, b"{")):
        answer = client.request("POST", "/_sync/pull", more, Content_Type=content_type, Accept=accept)
        assert answer.status == status
        assert answer.headers["Content-Type"] == answered
        assert isinstance(answer.body, dict)


# -------------------------------------------------------------- refusals of a whole request: nothing consumed


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/_sync/push", {}, "mutations"),
        ("/_sync/push", [], "map"),
        ("/_sync/push", {"mutations": {}}, "mutations"),
        ("/_sync/push", {"mutations": [{"args": None, "scope": "s"}]}, "name"),
        (
            "/_sync/push",
            {"mutations": [{"name": 1, "scope": "s", "client_id": "c1", "client_seq": 1}]},
            "name",
        ),
        ("/_sync/push", {"mutations": [{"name": "note/set", "scope": "s"}]}, "client_id"),
        ("/_sync/push", {"mutations": [{"name": "note/set", "scope": "s", "client_id": "c1"}]}, "client_seq"),
        (
            "/_sync/push",
            {"mutations": [{"name": "n", "scope": "s", "client_id": "c1", "client_seq": 1.5}]},
            "client_seq",
        ),
        ("/_sync/pull", {}, "scope"),
        ("/_sync/pull", {"scope": 1, "cursor": 0}, "scope"),
        ("/_sync/pull", {"scope": "s", "cursor": "0"}, "cursor"),
        ("/_sync/pull", {"scope": "s", "cursor": -1}, "cursor"),
        ("/_sync/pull", {"scope": "s", "cursor": 1}, "epoch"),
        ("/_sync/pull", {"scope": "s", "cursor": 0, "limit": 0}, "limit"),
        ("/_sync/pull", {"scope": "s", "cursor": 0, "page": "nonsense"}, "page"),
        ("/_sync/pull", {"scope": "s", "cursor": 0, "entities": "note"}, "entities"),
        ("/_sync/snapshot", {}, "scope"),
    ],
)
def test_a_request_with_a_wrong_or_missing_field_is_invalid(
    client: Client, path: str, body: object, said: str
) -> None:
    answer = client.post(path, body)
    assert answer.status == 400
    assert answer.error["code"] == "invalid_request"
    assert said in answer.error["message"]
    client.goes_on()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"mutations": [}',
        b"null",
        b'{"a": 1} x',
        b'{"a": "\xff"}',
        b'{"mutations": [{"name": "\\ud800"}]}',
        b"[" * 5000,
    ],
)
def test_malformed_json_is_invalid(exchange: Exchange, content: bytes) -> None:
    client = Client(exchange, "json")
    answer = client.request("POST", "/_sync/push", content)
    assert answer.status == 400
    assert answer.error["code"] == "invalid_request"
    client.goes_on()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        b"\x81\xa9mutations\xdd\xff\xff\xff\xff",
        b"\x81\xa1\xff\xc0",
        b"\x81\x01\x02",
        b"\x80\x80",
        b"\x82\xa1a\xc0\xa1a\xc0",
        b"\x91" * 5000,
        b"\x81\xa1a\xd4\x05\x00",
    ],
)
def test_malformed_msgpack_is_invalid(exchange: Exchange, content: bytes) -> None:
    client = Client(exchange, "msgpack")
    answer = client.request("POST", "/_sync/push", content)
    assert answer.status == 400
    assert answer.error["code"] == "invalid_request"
    client.goes_on()


def test_a_body_beyond_the_limit_is_too_large(client: Client, engine: syncline.Engine) -> None:
    limit = engine.limits.max_body_bytes
    answer = client.request("POST", "/_sync/push", b" " * (limit + 1))
    assert answer.status == 413
    assert answer.error["code"] == "too_large"
    assert answer.error["limit"] == limit
    client.goes_on()


def test_more_mutations_than_a_push_may_have_are_too_large(client: Client, engine: syncline.Engine) -> None:
    most = engine.limits.max_mutations
    answer = client.push(*[{"name": None, "client_id": "c1", "client_seq": n + 1} for n in range(most + 1)])
    assert answer.status == 413
    assert answer.error["code"] == "too_large"
    assert answer.error["limit"] == most
    client.goes_on()


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_stranger_is_unauthenticated_and_consumes_nothing(
    client: Client, engine: syncline.Engine, token: str
) -> None:
    client.token = token
    for method, path in (
        ("POST", "/_sync/push"),
        ("POST", "/_sync/pull"),
        ("POST", "/_sync/snapshot"),
        ("GET", "/_sync/cursor?scope=list:1"),
    ):
        answer = client.request(method, path, b"not even looked at" if method == "POST" else b"")
        assert answer.status == 401
        assert answer.error["code"] == "unauthenticated"
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    mutation = client.mutation("note/set", {"id": "1", "text": "x"})
    assert client.push(mutation).status == 401
    nothing_was_stored(engine)
    client.token = "t-ada"
    assert client.push(mutation).body["results"][0]["ok"]


def test_someone_elses_client_id_is_forbidden_and_nothing_is_consumed(
    client: Client, engine: syncline.Engine
) -> None:
    client.goes_on()
    eve = Client(client.exchange, client.format, token="t-eve", seq=1)
    answer = eve.push(eve.mutation("note/set", {"id": "evil", "text": "x"}))
    assert answer.status == 403
    assert answer.error["code"] == "forbidden"
    assert eve.post("/_sync/pull", {"scope": "list:1", "cursor": 0, "client_id": "c1"}).status == 403
    assert eve.post("/_sync/snapshot", {"scope": "list:1", "client_id": "c1"}).status == 403
    assert "evil" not in engine.snapshot("list:1").data["note"]
    client.goes_on()


def test_reading_a_scope_that_authorize_refuses_is_forbidden(client: Client) -> None:
    for answer in (
        client.post("/_sync/pull", {"scope": "secret:1", "cursor": 0}),
        client.post("/_sync/snapshot", {"scope": "secret:1"}),
        client.request("GET", "/_sync/cursor?scope=secret:1"),
    ):
        assert answer.status == 403
        assert answer.error["code"] == "forbidden"
    client.goes_on()


@pytest.mark.parametrize("scope", ["_outbox", "", "x" * 256, "a\nb"])
def test_reading_what_is_no_scope_is_invalid_scope(client: Client, scope: str) -> None:
    from urllib.parse import quote

    for answer in (
        client.post("/_sync/pull", {"scope": scope, "cursor": 0}),
        client.post("/_sync/snapshot", {"scope": scope}),
        client.request("GET", f"/_sync/cursor?scope={quote(scope)}"),
    ):
        assert answer.status == 400
        assert answer.error["code"] == "invalid_scope"
    client.goes_on()


def test_a_push_of_another_epoch_is_refused_with_the_current_one(
    client: Client, engine: syncline.Engine
) -> None:
    mutation = client.mutation("note/set", {"id": "1", "text": "x"})
    answer = client.push(mutation, epoch="another")
    assert answer.status == 410
    assert answer.error["code"] == "epoch_mismatch"
    assert answer.error["epoch"] == engine.epoch
    nothing_was_stored(engine)
    assert client.push(mutation, epoch=answer.error["epoch"]).body["results"][0]["ok"]


def test_a_cursor_that_its_epoch_never_reached_is_an_epoch_mismatch(
    client: Client, engine: syncline.Engine
) -> None:
    client.goes_on()
    future = client.post("/_sync/pull", {"scope": "list:1", "cursor": 1 << 40, "epoch": engine.epoch})
    foreign = client.post("/_sync/pull", {"scope": "list:1", "cursor": 1, "epoch": "another database's"})
    for answer in (future, foreign):
        assert answer.status == 410
        assert answer.error["code"] == "epoch_mismatch"
    client.goes_on()


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_a_cursor_below_a_purged_deletion_is_too_old(tmp_path: Path, format: str) -> None:
    path = tmp_path / "old.db"
    with make_engine(path) as engine:
        client = Client(by_handle(engine), format)
        client.goes_on()
        old = client.post("/_sync/pull", {"scope": "list:1", "cursor": 0}).body
        client.one("note/set", {"id": "gone", "text": "x"})
        client.one("note/delete", {"id": "gone"})
        client.goes_on()
    # A deletion may be forgotten after an hour, so this one was made two hours ago.
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("UPDATE changelog SET ts = ts - 7200000000")
        database.execute(
            "UPDATE documents SET created_at = created_at - 7200000000, updated_at = updated_at - 7200000000"
        )
        database.commit()
    with make_engine(path) as engine:
        assert engine.compact(timedelta(0)).tombstones == 1
        client.exchange = by_handle(engine)
        for_old = client.post(
            "/_sync/pull", {"scope": "list:1", "cursor": old["cursor"], "epoch": old["epoch"]}
        )
        assert for_old.status == 410
        assert for_old.error["code"] == "cursor_too_old"
        client.goes_on()
        again = client.post("/_sync/pull", {"scope": "list:1", "cursor": 0})
        assert again.status == 200
        assert "gone" not in [change["id"] for change in again.body["changes"]]


@pytest.mark.parametrize("door", ["handle", "asgi"])
def test_a_push_beyond_those_that_may_wait_is_rate_limited(door: str) -> None:
    mutators = make_mutators()
    running, go_on = threading.Event(), threading.Event()

    @mutators("note/wait")
    def wait(tx: syncline.Tx, args: object) -> None:
        running.set()
        assert go_on.wait(30)

    with syncline.Engine(":memory:", mutators=mutators, limits=syncline.Limits(max_waiting=1)) as engine:

        def client(name: str) -> Client:
            return Client(hooked(engine, door).exchange, client_id=name)

        with concurrent.futures.ThreadPoolExecutor() as threads:
            first, second = client("first"), client("second")
            answers = [threads.submit(first.one, "note/wait")]
            assert running.wait(30)
            # The runner's thread is in the mutator: one more may wait, the next may not.
            submitted = engine._submit(
                _core.PushRequest.parse(b'{"mutations": []}', "json", engine.limits),
                user="ada",
                forbidden=(),
                require_client=True,
            )
            mutation = second.mutation("note/set", {"id": "1", "text": "x"})
            refused = second.push(mutation)
            go_on.set()
            assert answers[0].result()["ok"]
            submitted.wait()
            assert submitted.result().results == []
        assert refused.status == 429
        assert refused.error["code"] == "rate_limited"
        assert int(refused.headers["Retry-After"]) > 0
        assert second.push(mutation).body["results"][0]["ok"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_a_wrong_method_is_refused_with_those_allowed(client: Client, method: str) -> None:
    answer = client.request(method, "/_sync/push")
    assert answer.status == 405
    assert answer.headers["Allow"] == "POST, OPTIONS"
    assert answer.error["code"] == "invalid_request"
    assert client.request("POST", "/_sync/health").headers["Allow"] == "GET, HEAD, OPTIONS"


@pytest.mark.parametrize("path", ["/", "/_sync", "/_sync/", "/_sync/pushes", "/push", "/_sync/push/"])
def test_another_path_is_not_found(client: Client, path: str) -> None:
    answer = client.request("POST", path, b"{}")
    assert answer.status == 404
    assert answer.error["code"] == "not_found"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "json"]
)
def test_a_body_of_another_type_is_invalid_and_says_which_are_right(
    client: Client, content_type: str
) -> None:
    answer = client.request("POST", "/_sync/push", b"{}", Content_Type=content_type)
    assert answer.status == 400
    assert answer.error["code"] == "invalid_request"
    assert "application/json" in answer.error["message"]
    client.goes_on()


def test_a_web_page_must_name_its_content_type(client: Client) -> None:
    # Without, a page of any origin could make its visitor's browser push with the visitor's cookies.
    answer = client.request(
        "POST", "/_sync/push", b'{"mutations": []}', Content_Type="", Origin="https://evil.example"
    )
    assert answer.status == 400
    assert answer.error["code"] == "invalid_request"


@pytest.mark.parametrize("query", ["", "?scope=a&scope=b", "?Scope=a", "?scope=%ff"])
def test_cursor_wants_exactly_one_scope(client: Client, query: str) -> None:
    answer = client.request("GET", "/_sync/cursor" + query)
    assert answer.status == 400
    assert answer.error["code"] == "invalid_request"


def test_an_unknown_cursor_scope_is_at_zero(client: Client) -> None:
    assert client.request("GET", "/_sync/cursor?scope=never").body["cursor"] == 0


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "a", "٣"])
def test_a_content_length_that_is_no_number_is_invalid(engine: syncline.Engine, length: str) -> None:
    client = Client(by_handle(engine))
    answer = client.request("POST", "/_sync/push", b"{}", Content_Length=length)
    assert answer.status == 400
    assert answer.error["code"] == "invalid_request"


def test_a_closed_engine_is_unavailable_with_a_time_to_come_back(
    client: Client, engine: syncline.Engine
) -> None:
    client.goes_on()
    engine.close()
    for answer in (
        client.push(client.mutation("note/set", {"id": "1", "text": "x"})),
        client.post("/_sync/pull", {"scope": "list:1", "cursor": 0}),
    ):
        assert answer.status == 503
        assert answer.error["code"] == "unavailable"
        assert int(answer.headers["Retry-After"]) > 0


# -------------------------------------------------------------------- refusals of one mutation: in its result


@pytest.mark.parametrize(
    ("name", "args", "scope", "code"),
    [
        ("note/set", {"id": 1, "text": "x"}, "list:1", "invalid_mutation"),
        ("note/set", {"id": "1"}, "list:1", "invalid_mutation"),
        ("note/set", None, "list:1", "invalid_mutation"),
        ("note/set", {"id": "1", "text": "x"}, "_outbox", "invalid_scope"),
        ("note/set", {"id": "1", "text": "x"}, "a\nb", "invalid_scope"),
        ("note/set", {"id": "1", "text": "x"}, "secret:1", "forbidden"),
        ("note/set", {"id": "1", "text": "x"}, "public:1", "forbidden"),
        ("note/unheard", {}, "list:1", "unknown_mutation"),
        ("note/touch", {"id": "absent"}, "list:1", "not_found"),
        ("note/expect", {"id": "absent", "version": 3}, "list:1", "conflict"),
        ("note/crash", {}, "list:1", "internal_error"),
        ("note/reject", {}, "list:1", "rejected"),
        ("note/reject_own", {}, "list:1", "closed_shop"),
    ],
)
def test_a_refused_mutation_consumes_its_number_and_leaves_nothing(
    client: Client, engine: syncline.Engine, name: str, args: object, scope: str, code: str
) -> None:
    mutation = client.mutation(name, args, scope)
    answer = client.push(mutation)
    assert answer.status == 200
    (result,) = answer.body["results"]
    assert result["ok"] is False
    assert result["error"]["code"] == code
    assert result["error"]["message"]
    assert result["changes"] == []
    assert SECRET not in json.dumps(answer.body)
    assert "ZeroDivision" not in json.dumps(answer.body)
    nothing_was_stored(engine)
    client.goes_on()
    again = client.push(mutation).body["results"][0]
    assert again["duplicate"] is True
    assert again["error"] == result["error"]


def test_a_gap_names_the_number_expected_and_consumes_nothing(
    client: Client, engine: syncline.Engine
) -> None:
    client.seq = 4
    answer = client.push(
        client.mutation("note/set", {"id": "1", "text": "x"}), client.mutation("note/set", {})
    )
    gap, after = answer.body["results"]
    assert gap["error"]["code"] == "sequence_gap"
    assert gap["error"]["expected"] == 1
    assert after["error"]["code"] == "unavailable"
    nothing_was_stored(engine)
    client.seq = 0
    client.goes_on()


def test_a_number_used_for_something_else_is_refused(client: Client, engine: syncline.Engine) -> None:
    client.goes_on()
    client.seq = 0
    result = client.one("note/set", {"id": "other", "text": "x"})
    assert result["error"]["code"] == "sequence_reused"
    assert "other" not in engine.snapshot("list:1").data["note"]
    client.goes_on()


def test_a_result_below_settled_may_have_expired(client: Client) -> None:
    first = client.mutation("note/set", {"id": "1", "text": "x"})
    client.push(first)
    client.push(client.mutation("note/set", {"id": "2", "text": "x"}), settled={"c1": 1})
    client.push(client.mutation("note/set", {"id": "3", "text": "x"}), settled={"c1": 2})
    assert client.push(first).body["results"][0]["error"]["code"] == "result_expired"
    client.goes_on()


def test_retry_consumes_nothing(client: Client, engine: syncline.Engine) -> None:
    answer = client.push(
        client.mutation("note/retry", {}), client.mutation("note/set", {"id": "1", "text": "x"})
    )
    assert [result["error"]["code"] for result in answer.body["results"]] == ["unavailable", "unavailable"]
    nothing_was_stored(engine)
    client.seq = 0
    client.goes_on()


def test_a_void_consumes_its_number_in_no_scope(client: Client) -> None:
    assert client.push({"name": None, "client_id": "c1", "client_seq": 1}).body["results"][0]["ok"]
    client.seq = 1
    client.goes_on()


def test_one_push_answers_each_of_its_mutations(client: Client) -> None:
    answer = client.push(
        client.mutation("note/set", {"id": "1", "text": "x"}, "list:1"),
        client.mutation("note/set", {"id": "1", "text": "x"}, "secret:1"),
        client.mutation("note/set", {"id": "1", "text": "x"}, "list:2"),
    )
    assert answer.status == 200
    assert [result["ok"] for result in answer.body["results"]] == [True, False, True]


def test_a_repeat_gets_its_stored_result_though_the_right_to_write_was_lost(engine: syncline.Engine) -> None:
    allowed = True
    client = Client(by_handle(engine, authorize=lambda user, action, scope: allowed))
    mutation = client.mutation("note/set", {"id": "1", "text": "x"})
    first = client.push(mutation).body["results"][0]
    allowed = False
    again = client.push(mutation).body["results"][0]
    assert again == {**first, "duplicate": True}
    assert client.one("note/set", {"id": "2", "text": "x"})["error"]["code"] == "forbidden"


def test_an_exit_in_a_mutator_does_not_end_the_server(client: Client) -> None:
    answer = client.push(client.mutation("note/exit", {}))
    assert SECRET not in str(answer.body)
    if answer.status == 200 and answer.body["results"][0]["error"]["code"] == "internal_error":
        client.goes_on()  # it counted as a refusal
    else:
        assert answer.status in (200, 500)
        client.seq -= 1
        client.goes_on()


# ------------------------------------------------------------------------------------------------------ hooks


def hooked(engine: syncline.Engine, door: str, **hooks: Any) -> Client:
    if door == "handle":
        return Client(by_handle(engine, **hooks))
    return Client(by_asgi(syncline.asgi(engine, **{**HOOKS, **hooks})))


@pytest.mark.parametrize("door", ["handle", "asgi"])
def test_an_exception_in_a_hook_is_a_500_without_detail_and_consumes_nothing(
    engine: syncline.Engine, door: str, caplog: pytest.LogCaptureFixture
) -> None:
    def crash(*_: object) -> Any:
        raise ZeroDivisionError(SECRET)

    for hooks in ({"authenticate": crash}, {"authorize": crash}):
        client = hooked(engine, door, **hooks)
        mutation = client.mutation("note/set", {"id": "1", "text": "x"})
        with caplog.at_level(logging.ERROR, logger="syncline.http"):
            answer = client.push(mutation)
        assert answer.status == 500
        assert answer.error == {"code": "internal_error", "message": "internal error"}
        assert SECRET in caplog.text
        nothing_was_stored(engine)
    hooked(engine, door).goes_on()


@pytest.mark.parametrize("door", ["handle", "asgi"])
@pytest.mark.parametrize(
    "hooks",
    [
        {"authenticate": lambda request: 7},
        {"authenticate": lambda request: True},
        {"authorize": lambda user, action, scope: None},
        {"authorize": lambda user, action, scope: "yes"},
    ],
)
def test_a_hook_that_returns_nonsense_is_a_500_not_a_permission(
    engine: syncline.Engine, door: str, hooks: dict[str, Any]
) -> None:
    client = hooked(engine, door, **hooks)
    assert client.push(client.mutation("note/set", {"id": "1", "text": "x"})).status == 500
    nothing_was_stored(engine)


@pytest.mark.parametrize("door", ["handle", "asgi"])
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (syncline.Unauthenticated("who are you"), 401),
        (syncline.Forbidden("not you"), 403),
        (syncline.RateLimited("slower"), 429),
        (syncline.Unavailable("the directory is down"), 503),
        (syncline.NotFound("a row"), 500),
    ],
)
def test_a_hook_may_refuse_in_its_own_words(
    engine: syncline.Engine, door: str, error: syncline.Error, status: int
) -> None:
    def refuse(request: sync_http.Request) -> str:
        raise error

    client = hooked(engine, door, authenticate=refuse)
    answer = client.push(client.mutation("note/set", {"id": "1", "text": "x"}))
    assert answer.status == status
    if status != 500:
        assert answer.error["code"] == error.code
        assert answer.error["message"] == str(error)
    if status in (429, 503):
        assert int(answer.headers["Retry-After"]) > 0
    nothing_was_stored(engine)


def test_authorize_is_asked_once_for_each_request_and_scope_and_never_for_reserved_ones(
    engine: syncline.Engine,
) -> None:
    asked: list[tuple[str, str, str]] = []

    def authorize(user: str, action: str, scope: str) -> bool:
        asked.append((user, action, scope))
        return True

    client = Client(by_handle(engine, authorize=authorize))
    client.push(
        *(
            client.mutation("note/set", {"id": "1", "text": "x"}, scope)
            for scope in ("a", "b", "a", "_outbox")
        ),
    )
    assert sorted(asked) == [("ada", "write", "a"), ("ada", "write", "b")]
    asked.clear()
    client.post("/_sync/pull", {"scope": "a", "cursor": 0})
    client.post("/_sync/snapshot", {"scope": "a"})
    client.request("GET", "/_sync/cursor?scope=a")
    client.post("/_sync/pull", {"scope": "_outbox", "cursor": 0})
    assert asked == [("ada", "read", "a")] * 3


def test_hooks_may_be_coroutine_functions_on_an_event_loop(engine: syncline.Engine) -> None:
    async def authenticate(request: sync_http.Request) -> str | None:
        await asyncio.sleep(0)
        return by_token(request)

    async def authorize(user: str, action: sync_http.Action, scope: str) -> bool:
        await asyncio.sleep(0)
        return not_secret(user, action, scope)

    client = hooked(engine, "asgi", authenticate=authenticate, authorize=authorize)
    client.goes_on()
    assert client.one("note/set", {"id": "1", "text": "x"}, "secret:1")["error"]["code"] == "forbidden"
    client.token = "wrong"
    assert client.post("/_sync/pull", {"scope": "list:1", "cursor": 0}).status == 401

    async def twin() -> sync_http.Response:
        return await sync_http.handle_async(
            engine,
            "GET",
            "/_sync/cursor?scope=list:1",
            {},
            b"",
            authenticate=authenticate,
            authorize=authorize,
        )

    assert asyncio.run(twin()).status == 401


def test_without_an_event_loop_coroutine_hooks_are_refused(engine: syncline.Engine) -> None:
    async def authenticate(request: sync_http.Request) -> str | None:
        return "ada"

    with pytest.raises(syncline.UsageError, match="coroutine"):
        syncline.wsgi(engine, authenticate=authenticate, authorize=not_secret)
    with pytest.raises(syncline.UsageError, match="coroutine"):
        by_handle(engine, authenticate=authenticate)("GET", "/_sync/health", {}, b"")
    # One that hides behind a plain function is not taken for a permission.
    client = Client(by_handle(engine, authenticate=lambda request: authenticate(request)))
    assert client.push(client.mutation("note/set", {"id": "1", "text": "x"})).status == 500


@pytest.mark.parametrize("wrap", [syncline.asgi, syncline.wsgi])
def test_hooks_have_no_default(engine: syncline.Engine, wrap: Any) -> None:
    with pytest.raises(TypeError, match="authorize"):
        wrap(engine, authenticate=by_token)
    with pytest.raises(TypeError, match="authenticate"):
        wrap(engine, authenticate=None, authorize=not_secret)


def test_an_open_server_is_said_explicitly(engine: syncline.Engine) -> None:
    client = Client(by_handle(engine, authenticate=sync_http.anyone, authorize=sync_http.allow_all), token="")
    client.goes_on()


def test_the_request_shows_hooks_what_they_need() -> None:
    headers = {
        "authorization": "Basic YWRhOmxvdmU6bGFjZQ==",
        "COOKIE": "sid=abc; theme=dark",
        "X-Many": "1",
        "Host": "h",
    }
    request = sync_http.Request(
        "GET", "/", sync_http.Headers([*headers.items(), ("x-many", "2")]), query_string="a=1&b=%C3%A9"
    )
    assert request.basic == ("ada", "love:lace")
    assert request.token is None
    assert request.cookies == {"sid": "abc", "theme": "dark"}
    assert request.query == {"a": "1", "b": "é"}
    assert request.headers["X-MANY"] == "1, 2"
    assert request.headers.get_all("x-many") == ["1", "2"]
    assert "love" not in repr(request)
    assert "abc" not in repr(request)
    with pytest.raises(TypeError):
        request.headers["a"] = "b"  # type: ignore[index]


# ---------------------------------------------------------------------------------------- HEAD, OPTIONS, CORS


def test_head_answers_as_get_without_the_body(client: Client) -> None:
    got, head = (
        client.request("GET", "/_sync/cursor?scope=a"),
        client.request("HEAD", "/_sync/cursor?scope=a"),
    )
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == got.headers["Content-Length"]


def test_options_tells_the_methods_without_asking_who(client: Client) -> None:
    client.token = ""
    answer = client.request("OPTIONS", "/_sync/push")
    assert (answer.status, answer.headers["Allow"], answer.body) == (204, "POST, OPTIONS", b"")


def test_answers_are_never_cached(client: Client) -> None:
    assert client.request("GET", "/_sync/cursor?scope=a").headers["Cache-Control"] == "no-store"


PREFLIGHT = {"Origin": "https://app.example", "Access_Control_Request_Method": "POST"}


def test_cors_lets_the_named_origins_in(engine: syncline.Engine) -> None:
    cors = sync_http.Cors(origins=["https://app.example"], credentials=True, max_age=5)
    client = Client(by_handle(engine, cors=cors))
    asked = client.request("OPTIONS", "/_sync/push", **PREFLIGHT)
    assert asked.status == 204
    assert asked.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert asked.headers["Access-Control-Allow-Credentials"] == "true"
    assert asked.headers["Access-Control-Allow-Methods"] == "POST, OPTIONS"
    assert "Content-Type" in asked.headers["Access-Control-Allow-Headers"]
    assert asked.headers["Access-Control-Max-Age"] == "5"
    assert asked.headers["Vary"] == "Origin"
    # Refusals too, or a page could not tell why.
    client.token = "wrong"
    refused = client.request("POST", "/_sync/pull", b"{}", Origin="https://app.example")
    assert (refused.status, refused.headers["Access-Control-Allow-Origin"]) == (401, "https://app.example")


def test_cors_keeps_other_origins_out(engine: syncline.Engine) -> None:
    for cors in (None, sync_http.Cors(origins=["https://app.example"])):
        client = Client(by_handle(engine, cors=cors))
        asked = client.request("OPTIONS", "/_sync/push", **{**PREFLIGHT, "Origin": "https://evil.example"})
        assert asked.status == 403
        answer = client.request("GET", "/_sync/health", Origin="https://evil.example")
        for told in (asked, answer):
            assert "Access-Control-Allow-Origin" not in told.headers


def test_cors_for_everybody_comes_without_credentials(engine: syncline.Engine) -> None:
    client = Client(by_handle(engine, cors=sync_http.Cors(origins="*")))
    asked = client.request("OPTIONS", "/_sync/push", **PREFLIGHT)
    assert asked.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in asked.headers
    with pytest.raises(ValueError, match="credentials"):
        sync_http.Cors(origins="*", credentials=True)


@pytest.mark.parametrize(
    "origins", ["https://a.example", ["app.example"], ["https://a.example/"], ["*"], ["null"]]
)
def test_cors_refuses_what_is_no_origin(origins: Any) -> None:
    with pytest.raises(ValueError, match="origin"):
        sync_http.Cors(origins=origins)


# ------------------------------------------------------------------------------------------- any bytes at all


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    path=st.sampled_from(["push", "pull", "snapshot"]),
    content_type=st.sampled_from(["application/json", "application/msgpack"]),
    body=st.binary(max_size=200),
)
def test_no_body_makes_a_500(engine: syncline.Engine, path: str, content_type: str, body: bytes) -> None:
    answer = Client(by_handle(engine)).request("POST", f"/_sync/{path}", body, Content_Type=content_type)
    assert answer.status in (200, 400, 403, 410, 413)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)
fields = st.sampled_from(
    [
        "mutations",
        "epoch",
        "settled",
        "scope",
        "cursor",
        "page",
        "limit",
        "client_id",
        "entities",
        "name",
        "args",
        "client_seq",
        "ts",
        "seed",
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    path=st.sampled_from(["push", "pull", "snapshot"]),
    body=st.dictionaries(
        fields, anything | st.lists(st.dictionaries(fields, anything), max_size=3), max_size=6
    ),
)
def test_no_value_in_a_field_makes_a_500(engine: syncline.Engine, path: str, body: dict[str, Any]) -> None:
    answer = Client(by_handle(engine)).request(
        "POST", f"/_sync/{path}", msgpack.packb(body), Content_Type="application/msgpack"
    )
    assert answer.status in (200, 400, 403, 410, 413)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    method=st.sampled_from(["GET", "POST", "OPTIONS", "HEAD", "BREW"]),
    path=st.text(max_size=30) | st.text(max_size=20).map("/_sync/cursor?".__add__),
    headers=st.dictionaries(
        st.sampled_from(["Accept", "Content-Type", "Authorization", "Cookie", "Origin", "Content-Length"]),
        st.text(max_size=20),
    ),
)
def test_no_request_line_or_header_makes_a_500(
    engine: syncline.Engine, method: str, path: str, headers: dict[str, str]
) -> None:
    response = engine.handle(method, path, headers, b"{}", **HOOKS)
    assert response.status < 500
