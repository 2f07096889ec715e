"""`syncline.wsgi` as PEP 3333 has it, and behind a real server."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit
from wsgiref.validate import validator

import pytest
import syncline
from http_support import HOOKS, Client, by_wsgi, make_engine, served_wsgi

JSON = {"Authorization": "Bearer t-ada", "Content-Type": "application/json"}


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with make_engine() as engine:
        yield engine


def push_body(seq: int, client_id: str = "c1") -> bytes:
    mutation = {"name": "note/set", "args": {"id": str(seq), "text": "x"}, "scope": "list:1"}
    return json.dumps({"mutations": [{**mutation, "client_id": client_id, "client_seq": seq}]}).encode()


class Input(io.BytesIO):
    """A body that counts what was read of it."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        assert size >= 0, "reading to the end may wait for ever"
        chunk = super().read(size)
        self.taken += len(chunk)
        return chunk


def call(app: Any, body: bytes, path: str = "/_sync/push", **environ: Any) -> tuple[int, Any, Input]:
    source = Input(body)
    told: list[Any] = []
    content = b"".join(
        app(
            {
                "REQUEST_METHOD": "POST",
                "SCRIPT_NAME": "",
                "PATH_INFO": path,
                "CONTENT_TYPE": "application/json",
                "HTTP_AUTHORIZATION": "Bearer t-ada",
                "wsgi.input": source,
                **environ,
            },
            lambda status, headers: told.append(status),
        )
    )
    return int(told[0][:3]), json.loads(content), source


def test_no_more_than_the_declared_length_is_read(engine: syncline.Engine) -> None:
    body = push_body(1)
    status, answer, source = call(
        syncline.wsgi(engine, **HOOKS), body + b"the next request", CONTENT_LENGTH=str(len(body))
    )
    assert status == 200
    assert answer["results"][0]["ok"]
    assert source.taken == len(body)


def test_a_body_declared_too_large_is_not_read_at_all(engine: syncline.Engine) -> None:
    limit = engine.limits.max_body_bytes
    status, answer, source = call(syncline.wsgi(engine, **HOOKS), b"x" * 100, CONTENT_LENGTH=str(limit + 1))
    assert (status, answer["error"]["code"], answer["error"]["limit"]) == (413, "too_large", limit)
    assert source.taken == 0


def test_a_terminated_input_is_read_no_further_than_the_limit(engine: syncline.Engine) -> None:
    app = syncline.wsgi(engine, **HOOKS)
    more = {"HTTP_TRANSFER_ENCODING": "chunked", "wsgi.input_terminated": True}
    assert call(app, push_body(1), **more)[1]["results"][0]["ok"]
    limit = engine.limits.max_body_bytes
    status, answer, source = call(app, b" " * (limit + 1000), **more)
    assert (status, answer["error"]["code"]) == (413, "too_large")
    assert source.taken == limit + 1


@pytest.mark.parametrize("more", [{}, {"CONTENT_LENGTH": ""}, {"HTTP_TRANSFER_ENCODING": "chunked"}])
def test_an_input_without_length_or_end_is_not_touched(engine: syncline.Engine, more: dict[str, str]) -> None:
    status, answer, source = call(syncline.wsgi(engine, **HOOKS), b"would block", **more)
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert source.taken == 0


def test_a_body_that_ends_early_is_invalid_and_consumes_nothing(engine: syncline.Engine) -> None:
    app = syncline.wsgi(engine, **HOOKS)
    body = push_body(1)
    status, answer, _ = call(app, body, CONTENT_LENGTH=str(len(body) + 1))
    assert (status, answer["error"]["code"]) == (400, "invalid_request")
    assert call(app, body, CONTENT_LENGTH=str(len(body)))[1]["results"][0].get("duplicate", False) is False


@pytest.mark.parametrize(
    ("script_name", "path", "prefix"),
    [
        ("", "/_sync/health", ""),
        ("/api", "/_sync/health", ""),
        ("/_sync", "/health", ""),
        ("", "/api/_sync/health", "/api"),
    ],
)
def test_it_may_be_mounted_anywhere(
    engine: syncline.Engine, script_name: str, path: str, prefix: str
) -> None:
    app = syncline.wsgi(engine, **HOOKS, prefix=prefix)
    status, answer, _ = call(app, b"", path, SCRIPT_NAME=script_name, REQUEST_METHOD="GET")
    assert (status, answer["ok"]) == (200, True)


def test_a_path_that_is_no_utf8_is_not_found(engine: syncline.Engine) -> None:
    assert call(syncline.wsgi(engine, **HOOKS), b"", "/_sync/\xff")[0] == 404


def test_a_scope_beyond_ascii_arrives(engine: syncline.Engine) -> None:
    client = Client(by_wsgi(syncline.wsgi(engine, **HOOKS)))
    assert client.one("note/set", {"id": "1", "text": "ü"}, "žluťoučký")["ok"]
    answer = client.request("GET", "/_sync/cursor?scope=%C5%BElu%C5%A5ou%C4%8Dk%C3%BD")
    assert answer.body["cursor"] == engine.cursor("žluťoučký") > 0


def test_it_keeps_to_the_letter_of_wsgi_behind_a_real_server(engine: syncline.Engine) -> None:
    with served_wsgi(validator(syncline.wsgi(engine, **HOOKS))) as url:
        address = urlsplit(url)

        def ask(method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
            connection.close()
            return response.status, content

        assert ask("POST", "/_sync/push", push_body(1), JSON)[0] == 200
        assert ask("POST", "/_sync/push", b"{", JSON)[0] == 400
        assert ask("GET", "/_sync/cursor?scope=list:1", None, JSON)[0] == 200
        assert ask("HEAD", "/_sync/cursor?scope=list:1", None, JSON) == (200, b"")
        assert ask("GET", "/nothing", None, JSON)[0] == 404


def test_many_threads_push_at_once(engine: syncline.Engine) -> None:
    failed: list[object] = []
    with served_wsgi(syncline.wsgi(engine, **HOOKS)) as url:
        address = urlsplit(url)

        def work(client_id: str) -> None:
            for seq in range(1, 11):
                connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
                connection.request("POST", "/_sync/push", push_body(seq, client_id), JSON)
                answer = json.loads(connection.getresponse().read())
                connection.close()
                if not answer["results"][0]["ok"]:
                    failed.append(answer)

        threads = [threading.Thread(target=work, args=(f"c{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    assert engine.stats().mutations == 80


def test_a_request_inside_a_write_of_its_thread_is_refused_not_a_deadlock(engine: syncline.Engine) -> None:
    with engine.write("list:1"), pytest.raises(syncline.UsageError):
        engine.handle("POST", "/_sync/push", JSON, push_body(1), **HOOKS)
    assert engine.handle("POST", "/_sync/push", JSON, push_body(1), **HOOKS).status == 200
