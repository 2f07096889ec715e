"""The OpenAPI document says what is answered: real answers of every route, and every error, against it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest
import syncline
from http_support import HOOKS, Client, by_asgi, by_handle, by_wsgi, decode, make_engine, make_mutators
from syncline import _core, errors, openapi
from syncline import http as sync_http

OPTIONAL: dict[str, Any] = {
    "metrics": lambda request: True,
    "admin": lambda user, command: True,
    "inspect": lambda user: True,
}
NONE: dict[str, Any] = dict.fromkeys(OPTIONAL)
ALL: dict[str, Any] = {**HOOKS, **OPTIONAL}


class Described:
    """An engine whose every answer is held against its own description."""

    def __init__(self, engine: syncline.Engine, **hooks: Any) -> None:
        self.engine = engine
        self.exchange = by_handle(engine, **{**ALL, **hooks})
        self.document = json.loads(self.exchange("GET", "/_sync/openapi.json", {}, b"").body)
        self.seen: set[tuple[str, int, str]] = set()

    def client(self, **options: Any) -> Client:
        return Client(self._checked, **options)

    def _checked(self, method: str, path: str, headers: dict[str, str], body: bytes) -> sync_http.Response:
        response = self.exchange(method, path, headers, body)
        self.check(method, path.partition("?")[0], response)
        return response

    def check(self, method: str, path: str, response: sync_http.Response) -> None:
        operation = next(iter(self.document["paths"][path].values()))
        described = operation["responses"][str(response.status)]
        for name, header in described.get("headers", {}).items():
            value: object = response.headers[name]
            self.validate(
                int(str(value)) if header["schema"]["type"] == "integer" else value, header["schema"]
            )
        kind = response.headers["Content-Type"].partition(";")[0]
        content = described["content"][kind]
        if kind in ("application/json", "application/msgpack"):
            body = decode(response.body, "json" if kind.endswith("json") else "msgpack")
            if kind.endswith("msgpack"):
                body = json.loads(_core.json_encode(_core.unpackb(response.body)), object_hook=_plain_dates)
            self.validate(body, content["schema"])
            code = body["error"]["code"] if response.status != 200 else ""
            self.seen.add((path, response.status, code))
        else:
            self.validate(response.body.decode(), content["schema"])
            self.seen.add((path, response.status, ""))

    def validate(self, value: object, schema: dict[str, Any]) -> None:
        whole = {**schema, "components": self.document["components"]}
        jsonschema.validate(value, whole, cls=jsonschema.Draft202012Validator)


def _plain_dates(found: dict[str, Any]) -> Any:
    return found["$date"] if set(found) == {"$date"} else found


@pytest.fixture
def described() -> Iterator[Described]:
    with make_engine() as engine:
        yield Described(engine)


def test_the_document_is_valid_openapi(described: Described) -> None:
    assert described.document["openapi"].startswith("3.1")
    openapi_spec_validator.validate(described.document)
    openapi_spec_validator.validate(Described(described.engine, **NONE).document)


def test_the_document_is_the_same_through_every_door_and_for_strangers(described: Described) -> None:
    for exchange in (
        by_asgi(syncline.asgi(described.engine, **ALL)),
        by_wsgi(syncline.wsgi(described.engine, **ALL)),
    ):
        answer = exchange("GET", "/_sync/openapi.json", {}, b"")
        assert answer.headers["Content-Type"] == "application/json"
        assert json.loads(answer.body) == described.document


def test_what_no_hook_allows_is_neither_served_nor_described(described: Described) -> None:
    closed = Described(described.engine, **NONE)
    assert "/_sync/metrics" not in closed.document["paths"]
    assert not [path for path in closed.document["paths"] if path.startswith("/_sync/admin/")]
    assert closed.exchange("GET", "/_sync/metrics", {}, b"").status == 404
    assert described.document["paths"].keys() == {route.path for route in sync_http.ROUTES}


def test_each_reference_leads_somewhere_and_each_schema_is_used(described: Described) -> None:
    text = json.dumps(described.document)
    schemas = described.document["components"]["schemas"]
    for name in schemas:
        assert f'"#/components/schemas/{name}"' in text, name
        jsonschema.Draft202012Validator.check_schema(schemas[name])


@pytest.mark.parametrize("format", ["json", "msgpack"])
def test_every_route_answers_as_described(described: Described, format: str) -> None:
    client = described.client(format=format)
    client.one("note/set", {"id": "1", "text": "héllo"}, ts="2026-01-31T12:00:00Z", seed=7)
    client.one("note/delete", {"id": "1"})
    again = client.mutation("note/set", {"id": "2", "text": "x"})
    client.push(again, settled={"c1": 1})
    client.push(again)
    for name in ("note/crash", "note/reject", "note/reject_own", "note/retry", "note/unheard", "note/touch"):
        client.push({**client.mutation(name, {"id": "absent"}), "client_seq": client.seq - 1})
        client.push(client.mutation(name, {"id": "absent"}))
    client.push({"name": None, "client_id": "void", "client_seq": 1})
    client.push()
    for n in range(3):
        Client(client.exchange, format, client_id="c2", seq=n).one("note/set", {"id": f"n{n}", "text": "x"})
    first = client.post("/_sync/pull", {"scope": "list:1", "cursor": 0, "limit": 2, "client_id": "c1"}).body
    client.post("/_sync/pull", {"scope": "list:1", "cursor": 0, "page": first["page"]})
    client.post(
        "/_sync/pull", {"scope": "list:1", "cursor": 1, "epoch": first["epoch"], "entities": ["note"]}
    )
    client.post("/_sync/pull", {"scope": "empty", "cursor": 0})
    client.post("/_sync/snapshot", {"scope": "list:1", "client_id": "c1"})
    client.post("/_sync/snapshot", {"scope": "empty"})
    client.request("GET", "/_sync/cursor?scope=list:1")
    client.request("GET", "/_sync/health")
    client.request("GET", "/_sync/metrics")
    client.request("GET", "/_sync/metrics", Accept="application/openmetrics-text")
    client.request("GET", "/_sync/openapi.json", Accept="application/json")
    client.request("GET", "/_sync/client.js")
    client.token = ""
    client.request("GET", "/_sync/health")
    apart = ("/_sync/admin/", "/_sync/inspect")
    served = {path for path in described.document["paths"] if not path.startswith(apart)}
    assert {path for path, status, _ in described.seen if status == 200} == served


def test_every_error_of_a_request_is_answered_as_described(described: Described) -> None:
    engine = described.engine
    client = described.client()
    client.goes_on()
    everywhere = [
        ("POST", "/_sync/push", {"mutations": []}),
        ("POST", "/_sync/pull", {"scope": "list:1", "cursor": 0}),
        ("POST", "/_sync/snapshot", {"scope": "list:1"}),
        ("GET", "/_sync/cursor?scope=list:1", None),
    ]
    for method, path, body in everywhere:
        content = json.dumps(body).encode() if body is not None else b""
        wrong = "PUT" if method == "POST" else "POST"
        assert client.request(wrong, path).status == 405
        client.token = ""
        assert client.request(method, path, content).status == 401
        client.token = "t-ada"
        if method == "POST":
            assert client.request(method, path, b"{").status == 400
            assert client.request(method, path, b" " * (engine.limits.max_body_bytes + 1)).status == 413
        else:
            assert client.request(method, "/_sync/cursor").status == 400
    for scope, status in (("_own", 400), ("a\nb", 400), ("secret:1", 403)):
        assert client.post("/_sync/pull", {"scope": scope, "cursor": 0}).status == status
        assert client.post("/_sync/snapshot", {"scope": scope}).status == status
    stranger = described.client(token="t-eve")
    assert stranger.push(stranger.mutation("note/set", {})).status == 403
    assert client.push(epoch="another").status == 410
    assert client.post("/_sync/pull", {"scope": "list:1", "cursor": 1, "epoch": "another"}).status == 410
    assert {code for _, _, code in described.seen} >= {
        "invalid_request",
        "invalid_scope",
        "unauthenticated",
        "forbidden",
        "epoch_mismatch",
        "too_large",
    }


def test_every_command_of_an_admin_answers_as_described(described: Described) -> None:
    client = described.client()
    client.one("note/crash", {})
    client.post("/_sync/pull", {"scope": "list:1", "cursor": 0, "client_id": "c1"})
    row = {"scope": "s", "entity": "n", "id": "1", "data": {"x": 1}}
    asked: list[tuple[str, dict[str, Any], int]] = [
        ("import", {"rows": [row, {**row, "scope": "t"}, {**row, "id": "2", "data": None}]}, 200),
        ("import", {"rows": [{**row, "data": 1}]}, 400),
        ("import", {"rows": [{**row, "scope": "_s"}]}, 400),
        ("stats", {}, 200),
        ("compact", {"keep_seconds": 7200.0}, 200),
        ("compact", {"keep_after": 1}, 200),
        ("compact", {"keep_seconds": -1.0}, 400),
        ("compact", {"keep_seconds": 1.0, "keep_after": 1}, 400),
        ("verify", {}, 200),
        ("erase", {"scope": "s", "entity": "n", "id": "1"}, 200),
        ("erase", {"scope": "t"}, 200),
        ("erase", {"scope": "t", "entity": "n"}, 400),
        ("positions", {}, 200),
        ("positions", {"scope": "list:1"}, 200),
        ("dead-letters", {}, 200),
        ("dead-letters/show", {"id": 1}, 200),
        ("dead-letters/retry", {"id": 1}, 200),
        ("dead-letters/discard", {"id": 1}, 200),
        ("dead-letters/show", {"id": 1}, 404),
        ("dead-letters/discard", {"id": "1"}, 400),
    ]
    for name, body, status in asked:
        path = f"/_sync/admin/{name}"
        content = described.document["paths"][path]["post"]["requestBody"]["content"]
        if status == 200:
            described.validate(body, content["application/json"]["schema"])
        answer = client.post(path, body)
        assert answer.status == status, (name, body, answer.body)
    assert {path for path, status, _ in described.seen if status == 200} >= {
        path for path in described.document["paths"] if path.startswith("/_sync/admin/")
    }


def test_every_answer_of_the_inspector_is_as_described(described: Described) -> None:
    client = described.client()
    for n in range(3):
        client.one("note/set", {"id": "1", "text": n * "x"})
    client.one("note/delete", {"id": "1"})
    client.one("note/crash", {"big": 2**63})
    client.post("/_sync/pull", {"scope": "list:1", "cursor": 0, "client_id": "c1"})
    document = {"scope": "list:1", "entity": "note", "id": "1"}
    asked: list[tuple[str, dict[str, Any], int]] = [
        ("pulse", {}, 200),
        ("health", {"count": True}, 200),
        ("health", {}, 200),
        ("scopes", {"contains": "l", "limit": 1}, 200),
        ("scope", {"scope": "list:1"}, 200),
        ("scope", {"scope": "absent"}, 404),
        ("scope", {"scope": "secret:1"}, 403),
        ("documents", {"scope": "list:1", "entity": "note"}, 200),
        ("log", {"newest_first": True}, 200),
        ("log", {"limit": 0}, 400),
        ("document", document, 200),
        ("document", {**document, "id": "absent"}, 200),
        ("state", {**document, "cursor": 2}, 200),
        ("state", {**document, "cursor": 2, "whole": "text"}, 200),
        ("state", {**document, "cursor": 4}, 200),
        ("clients", {"order": "last_seen"}, 200),
        ("letters", {}, 200),
        ("letter", {"id": 1}, 200),
        ("letter", {"id": 2}, 404),
    ]
    for name, body, status in asked:
        path = f"/_sync/inspect/{name}"
        content = described.document["paths"][path]["post"]["requestBody"]["content"]
        if status == 200:
            described.validate(body, content["application/json"]["schema"])
        for client.format in ("json", "msgpack"):
            answer = client.post(path, body)
            assert answer.status == status, (name, body, answer.body)
    for path, operations in described.document["paths"].items():
        if path.startswith("/_sync/inspect") and "get" in operations:
            assert client.request("GET", path).status == 200
    assert {path for path, status, _ in described.seen if status == 200} >= {
        path for path in described.document["paths"] if path.startswith("/_sync/inspect")
    }


def refuse(error: BaseException) -> Any:
    def hook(*_: object) -> Any:
        raise error

    return hook


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.RateLimited("slower", details={"retry_after": 3}), 429),
        (errors.Unavailable("not now"), 503),
        (errors.Forbidden("no"), 403),
        (errors.Unauthenticated("who"), 401),
        (ZeroDivisionError(), 500),
    ],
)
def test_what_hooks_refuse_is_answered_as_described(error: BaseException, status: int) -> None:
    with make_engine() as engine:
        for hooks in ({"authenticate": refuse(error)}, {"metrics": refuse(error)}):
            client = Described(engine, **hooks).client()
            path = "/_sync/metrics" if "metrics" in hooks else "/_sync/cursor?scope=s"
            assert client.request("GET", path).status == status


def test_a_refused_metrics_reader_is_forbidden_as_described() -> None:
    with make_engine() as engine:
        answer = Described(engine, metrics=lambda request: False).client().request("GET", "/_sync/metrics")
    assert (answer.status, answer.error["code"]) == (403, "forbidden")


def test_a_closed_engine_is_unavailable_as_described() -> None:
    with make_engine() as engine:
        described = Described(engine)
    client = described.client()
    for path in ("/_sync/cursor?scope=s", "/_sync/metrics", "/_sync/health"):
        assert client.request("GET", path).status == 503
    assert client.push().status == 503


def test_too_many_waiting_is_rate_limited_as_described() -> None:
    mutators = make_mutators()
    running, go_on = threading.Event(), threading.Event()

    @mutators("note/wait")
    def wait(tx: syncline.Tx, args: object) -> None:
        running.set()
        assert go_on.wait(30)

    with syncline.Engine(":memory:", mutators=mutators, limits=syncline.Limits(max_waiting=1)) as engine:
        described = Described(engine)
        client = described.client(client_id="first")
        thread = threading.Thread(target=client.one, args=("note/wait",))
        thread.start()
        assert running.wait(30)
        waiting = engine._submit(
            _core.PushRequest.parse(b'{"mutations": []}', "json", engine.limits),
            user="ada",
            forbidden=(),
            require_client=True,
        )
        second = described.client(client_id="second")
        refused = second.push(second.mutation("note/set", {"id": "1", "text": "x"}))
        go_on.set()
        thread.join()
        waiting.wait()
        assert waiting.result().results == []
    assert (refused.status, refused.error["limit"]) == (429, 1)


def test_limits_of_the_document_are_those_of_the_engine() -> None:
    limits = syncline.Limits(max_mutations=7, max_nesting=5)
    with make_engine(limits=limits) as engine:
        described = Described(engine)
        schemas = described.document["components"]["schemas"]
        assert schemas["Push"]["properties"]["mutations"]["maxItems"] == 7
        described.client().request("GET", "/_sync/health")  # whose limits the schema has as constants
        health = engine.health()["limits"]
        assert health == {
            told: one["const"]
            for told, one in schemas["Health"]["properties"]["limits"]["properties"].items()
        }
        assert health.keys() == openapi.TOLD_LIMITS.keys()


def test_every_code_that_travels_has_its_class_and_status() -> None:
    assert len(errors.WIRE_CODES) == len(errors.TRAVELLING)
    for kind in errors.TRAVELLING:
        assert 400 <= _core.http_status(kind.code) < 600
        assert type(errors.from_code(kind.code, "")) is kind


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/_sync/push", {}),
        ("/_sync/push", {"mutations": {}}),
        ("/_sync/push", {"mutations": [{"scope": "s", "client_id": "c", "client_seq": 1}]}),
        ("/_sync/push", {"mutations": [{"name": "n", "client_id": "c", "client_seq": 1}]}),
        ("/_sync/push", {"mutations": [{"name": "n", "scope": "s", "client_seq": 1}]}),
        ("/_sync/push", {"mutations": [{"name": "n", "scope": "s", "client_id": "c", "client_seq": 0}]}),
        ("/_sync/push", {"mutations": [], "epoch": 1}),
        ("/_sync/push", {"mutations": [], "settled": {"c": -1}}),
        ("/_sync/pull", {"cursor": 0}),
        ("/_sync/pull", {"scope": "s"}),
        ("/_sync/pull", {"scope": "s", "cursor": -1}),
        ("/_sync/pull", {"scope": "s", "cursor": 1}),
        ("/_sync/pull", {"scope": "s", "cursor": 0, "limit": 0}),
        ("/_sync/pull", {"scope": "s", "cursor": 0, "entities": "note"}),
        ("/_sync/pull", {"scope": "_s", "cursor": 0}),
        ("/_sync/pull", {"scope": "a\nb", "cursor": 0}),
        ("/_sync/snapshot", {}),
        ("/_sync/snapshot", {"scope": ""}),
    ],
)
def test_a_request_that_the_schema_refuses_is_refused(described: Described, path: str, body: Any) -> None:
    schema = described.document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    with pytest.raises(jsonschema.ValidationError):
        described.validate(body, schema)
    assert described.client().post(path, body).status == 400


def test_requests_of_a_client_are_what_the_schema_takes(described: Described) -> None:
    paths = described.document["paths"]

    def exchange(method: str, path: str, headers: dict[str, str], body: bytes) -> sync_http.Response:
        if method == "POST":
            content = paths[path]["post"]["requestBody"]["content"][headers["Content-Type"]]
            described.validate(json.loads(body), content["schema"])
        return described.exchange(method, path, headers, body)

    client = Client(exchange)
    client.push(
        client.mutation(
            "note/set", {"id": "1", "text": "x"}, ts="2026-01-31T12:00:00.5+01:00", seed=2**64 - 1
        ),
        {"name": None, "client_id": "void", "client_seq": 1},
        settled={"c1": 0},
        epoch=described.engine.epoch,
    )
    client.post(
        "/_sync/pull", {"scope": "list:1", "cursor": 0, "limit": 1, "client_id": "c1", "entities": ["note"]}
    )
    client.post("/_sync/snapshot", {"scope": "list:1", "client_id": "c1"})
