"""`syncline.connect`: the engine's methods over HTTP, from many threads, over connections that break."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
import syncline
from http_support import HOOKS, make_engine, served_asgi, served_wsgi
from syncline import http as sync_http


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with make_engine() as engine:
        yield engine


@pytest.fixture
def url(engine: syncline.Engine) -> Iterator[str]:
    with served_asgi(syncline.asgi(engine, **HOOKS)) as url:
        yield url


@pytest.fixture(params=["msgpack", "json"])
def remote(request: pytest.FixtureRequest, url: str) -> Iterator[Any]:
    with syncline.connect(url, token="t-ada", format=request.param) as remote:
        yield remote


def note(
    id: str, text: object = "x", name: str = "note/set", scope: str = "list:1", **more: object
) -> dict[str, Any]:
    return {"name": name, "args": {"id": id, "text": text}, "scope": scope, **more}


def test_it_answers_what_the_engine_answers(remote: Any, engine: syncline.Engine) -> None:
    pushed = remote.push([note("1", "é"), note("2"), note("1", name="note/delete")])
    assert [result.ok for result in pushed] == [True, True, True]
    assert len(pushed) == 3
    assert (pushed[0].changes[0].entity, pushed[0].changes[0].id, pushed[0].changes[0].op) == (
        "note",
        "1",
        "create",
    )
    assert pushed.epoch == engine.epoch == remote.epoch
    assert pushed.cursor == engine.head

    here, there = engine.pull("list:1", 0), remote.pull("list:1", 0)
    for attribute in ("cursor", "epoch", "has_more"):
        assert getattr(there, attribute) == getattr(here, attribute)
    for mine, theirs in zip(here.changes, there.changes, strict=True):
        for attribute in ("cursor", "scope", "entity", "id", "op", "data", "version", "ts"):
            assert getattr(theirs, attribute) == getattr(mine, attribute)
    assert there.changes[0].ts.tzinfo is not None
    assert abs((datetime.now(timezone.utc) - there.changes[0].ts).total_seconds()) < 3600

    assert remote.snapshot("list:1").data == {"note": {"2": {"text": "x"}}}
    assert remote.snapshot("list:1").cursor == engine.snapshot("list:1").cursor
    assert remote.cursor("list:1") == engine.cursor("list:1")
    assert remote.health()["head"] == engine.head
    assert remote.health()["limits"] == engine.health()["limits"]


@pytest.mark.parametrize(
    "name", ["Change", "ChangeNote", "Pull", "PushResult", "Result", "ResultError", "Snapshot"]
)
def test_its_answers_have_what_the_engines_have(name: str) -> None:
    from syncline import remote as module

    mine = {attribute for attribute in dir(getattr(syncline, name)) if not attribute.startswith("_")} - {
        "encode"
    }
    theirs = getattr(module, name)
    assert mine <= {*dir(theirs), *theirs.__dataclass_fields__}


def test_values_survive_the_journey() -> None:
    values: dict[str, Any] = {
        "null": None,
        "bytes": b"\x00\xff",
        "at": datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=timezone.utc),
        "big": 2**64 - 1,
        "small": -(2**63),
        "float": 0.1,
        "infinite": float("inf"),
        "list": [1, [2.5, {"ü": ""}]],
    }
    mutators = syncline.Mutators()

    @mutators("keep")
    def keep(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("any", "1", args)

    with (
        syncline.Engine(":memory:", mutators=mutators) as engine,
        served_asgi(syncline.asgi(engine, **HOOKS)) as url,
    ):
        for format in ("msgpack", "json"):
            with syncline.connect(url, token="t-ada", format=format) as remote:  # type: ignore[arg-type]
                remote.push([{"name": "keep", "args": values, "scope": "s"}])[0].raise_for_error()
                assert remote.pull("s").changes[0].data == values
                assert remote.snapshot("s").data["any"]["1"] == values


def test_pages_are_pulled_to_the_end(remote: Any) -> None:
    remote.push([note(str(n)) for n in range(7)])
    page = remote.pull("list:1", limit=3)
    ids = [change.id for change in page.changes]
    while page.has_more:
        page = remote.pull("list:1", page=page.page, limit=3)
        ids += [change.id for change in page.changes]
    assert ids == [str(n) for n in range(7)]
    assert remote.pull("list:1", page.cursor, epoch=page.epoch).changes == []


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda remote: remote.pull("secret:1"), syncline.Forbidden),
        (lambda remote: remote.pull("_outbox"), syncline.InvalidScope),
        (lambda remote: remote.cursor("_outbox"), syncline.InvalidScope),
        (lambda remote: remote.pull("list:1", 1), syncline.InvalidRequest),
        (lambda remote: remote.pull("list:1", 1, epoch="another"), syncline.EpochMismatch),
        (lambda remote: remote.push([note("1")], epoch="another"), syncline.EpochMismatch),
        (lambda remote: remote.push([note("1", "x" * (9 << 20))]), syncline.TooLarge),
        (lambda remote: remote.push([note("1", client_id="c1")]), syncline.InvalidRequest),
    ],
)
def test_a_refusal_is_raised_as_the_engine_raises_it(
    remote: Any, call: Callable[[Any], object], error: Any
) -> None:
    with pytest.raises(error):
        call(remote)
    assert remote.push([note("after")])[0].ok


def test_details_of_a_refusal_come_along(remote: Any, engine: syncline.Engine) -> None:
    with pytest.raises(syncline.EpochMismatch) as mismatch:
        remote.push([note("1")], epoch="another")
    assert mismatch.value.epoch == engine.epoch
    gap = remote.push([note("1", client_id="c1", client_seq=5)])[0]
    with pytest.raises(syncline.SequenceGap) as raised:
        gap.raise_for_error()
    assert raised.value.expected == 1
    rejected = remote.push([note("1", name="note/reject_own")])[0]
    with pytest.raises(syncline.Rejected, match="shop") as own:
        rejected.raise_for_error()
    assert own.value.code == "closed_shop"


def test_a_wrong_token_is_unauthenticated(url: str) -> None:
    for token in ("wrong", None):
        with syncline.connect(url, token=token) as remote, pytest.raises(syncline.Unauthenticated):
            remote.push([note("1")])


def test_mutations_without_a_client_are_numbered(remote: Any) -> None:
    for _ in range(3):
        assert all(result.ok for result in remote.push([note("1"), note("2")]))
    # What was refused, took its number; what was not run, did not.
    assert remote.push([note("1", name="note/reject"), note("2")])[1].ok
    retried = remote.push([note("1"), note("2", name="note/retry"), note("3")])
    assert [result.ok for result in retried] == [True, False, False]
    with pytest.raises(syncline.EpochMismatch):
        remote.push([note("1")], epoch="another")
    assert remote.push([note("3")])[0].ok


def test_mutations_of_a_named_client_keep_their_numbers(url: str) -> None:
    with syncline.connect(url, token="t-ada", client_id="phone") as remote:
        first = remote.push([note("1", client_seq=1)])[0]
        again = remote.push([note("1", client_seq=1)])[0]
        assert (first.duplicate, again.duplicate) == (False, True)
        assert again.changes == first.changes
        assert remote.pull("list:1").last_seq == 1
        assert remote.snapshot("list:1").last_seq == 1


def test_the_callers_mutations_are_left_as_they_were(remote: Any) -> None:
    mutation = note("1")
    before = {**mutation, "args": dict(mutation["args"])}
    remote.push([mutation])
    assert mutation == before


def test_many_threads_share_one_remote(remote: Any, engine: syncline.Engine) -> None:
    failed: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for n in range(10):
                own = remote.push(
                    [note(f"{name}-{n}", client_id=name, client_seq=n + 1), note(f"{name}-{n}-own")]
                )
                assert all(result.ok for result in own)
                assert remote.pull("list:1", limit=5).changes
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(engine.snapshot("list:1").data["note"]) == 6 * 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_takes_its_own_connection(engine: syncline.Engine) -> None:
    with served_wsgi(syncline.wsgi(engine, **HOOKS)) as url, syncline.connect(url, token="t-ada") as remote:
        remote.cursor("list:1")
        child = os.fork()
        if child == 0:
            os._exit(0 if remote.cursor("list:1") == 0 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert remote.cursor("list:1") == 0


def test_use_after_close_is_refused(remote: Any) -> None:
    remote.close()
    remote.close()
    with pytest.raises(syncline.Closed):
        remote.cursor("list:1")


# ----------------------------------------------------------------------------------------- broken connections


@contextlib.contextmanager
def relay(url: str, cut: Callable[[int], str]) -> Iterator[str]:
    """A relay in front of a server. `cut(n)` says what happens to the n-th request: "" passes, "before"
    closes the connection without passing it on, "after" passes it on and closes before the answer."""
    host, port = url.removeprefix("http://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))
    count = 0
    threads: list[threading.Thread] = []

    def read_message(source: socket.socket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            more = source.recv(65536)
            if not more:
                return b""
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length:")
            ),
            0,
        )
        while len(body) < length:
            body += source.recv(65536)
        return head + b"\r\n\r\n" + body

    def serve(client: socket.socket) -> None:
        nonlocal count
        with client, socket.create_connection((host, int(port))) as server:
            while message := read_message(client):
                count += 1
                fate = cut(count)
                if fate == "before":
                    return
                server.sendall(message)
                answer = read_message(server)
                if fate == "after":
                    return
                client.sendall(answer)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=serve, args=(client,), daemon=True)
            thread.start()
            threads.append(thread)

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("fate", ["before", "after"])
def test_a_kept_connection_that_broke_is_replaced_and_nothing_is_applied_twice(
    url: str, engine: syncline.Engine, fate: str
) -> None:
    with (
        relay(url, lambda n: fate if n == 2 else "") as broken,
        syncline.connect(broken, token="t-ada") as remote,
    ):
        assert remote.push([note("1")])[0].ok
        second = remote.push([note("2")])[0]
        assert second.ok
        assert second.duplicate is (fate == "after")
        assert remote.push([note("3")])[0].ok
    assert engine.stats().changes == 3


def test_a_connection_that_stays_broken_is_unavailable_and_its_numbers_are_not_used_again(
    url: str, engine: syncline.Engine
) -> None:
    with (
        relay(url, lambda n: "after" if n in (2, 3) else "") as broken,
        syncline.connect(broken, token="t-ada") as remote,
    ):
        assert remote.push([note("1")])[0].ok
        with pytest.raises(syncline.Unavailable):
            remote.push([note("2")])
        other = remote.push([note("3")])[0]
        assert other.ok
        assert not other.duplicate
    assert sorted(engine.snapshot("list:1").data["note"]) == ["1", "2", "3"]


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with (
        syncline.connect(f"http://127.0.0.1:{port}") as remote,
        pytest.raises(syncline.Unavailable, match="cannot be reached"),
    ):
        remote.health()


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        syncline.connect(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=0.05) as remote,
        pytest.raises(syncline.Unavailable, match="in time"),
    ):
        remote.health()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("200 OK", syncline.NotFound),
        ("302 Found", syncline.InvalidRequest),
        ("401 Unauthorized", syncline.Unauthenticated),
        ("404 Not Found", syncline.NotFound),
        ("413 Too Large", syncline.TooLarge),
        ("429 Too Many Requests", syncline.RateLimited),
        ("502 Bad Gateway", syncline.Unavailable),
    ],
)
def test_an_answer_that_is_not_syncs_is_an_error_that_says_so(
    status: str, error: type[syncline.Error]
) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(status, [("Content-Type", "text/html"), ("Location", "http://elsewhere.example/")])
        return [b"<html>"]

    with (
        served_wsgi(app) as url,
        syncline.connect(url) as remote,
        pytest.raises(error, match=r"127\.0\.0\.1"),
    ):
        remote.cursor("list:1")


def test_a_retry_after_comes_along(engine: syncline.Engine) -> None:
    def busy(request: sync_http.Request) -> str:
        raise syncline.RateLimited("slower", details={"retry_after": 7})

    with (
        served_asgi(syncline.asgi(engine, authenticate=busy, authorize=sync_http.allow_all)) as url,
        syncline.connect(url) as remote,
        pytest.raises(syncline.RateLimited) as limited,
    ):
        remote.cursor("list:1")
    assert limited.value.details["retry_after"] == 7


# ------------------------------------------------------------------------------------------------- the border


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://a.example",
        "http://",
        "http://user:secret@a.example",
        "http://a.example?x=1",
        "http://a.example#x",
        "http://a.example:port",
        "http://a.example/a b",
        "http://a.example/\r\nX: y",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        syncline.connect(url)


@pytest.mark.parametrize(
    "options",
    [{"timeout": 0}, {"timeout": -1}, {"format": "xml"}, {"token": "a\r\nb"}, {"token": ""}, {"token": "é"}],
)
def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        syncline.connect("http://127.0.0.1:1", **options)


def test_the_epoch_is_for_known_users(url: str) -> None:
    with syncline.connect(url) as stranger, pytest.raises(syncline.Unauthenticated, match="token"):
        _ = stranger.epoch


def test_the_token_is_in_no_repr() -> None:
    with syncline.connect("https://a.example/api/_sync/", token="hidden") as remote:
        assert "hidden" not in repr(remote)
        assert "hidden" not in repr(vars(remote).keys())


def test_a_url_may_end_in_sync(engine: syncline.Engine, url: str) -> None:
    with syncline.connect(url + "/_sync/") as remote:
        assert remote.health()["ok"]
