"""https and wss, with certificates of an authority of the test's own."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import syncline
import trustme
from http_support import served_asgi
from replica_support import PATIENCE, make_mutators, todo, until
from syncline import http as sync_http

Serve = Callable[[str], contextlib.AbstractContextManager[str]]


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[syncline.Engine]:
    with syncline.Engine(tmp_path / "server.db", mutators=make_mutators()) as engine:
        yield engine


@pytest.fixture
def serve(engine: syncline.Engine, authority: trustme.CA, tmp_path: Path) -> Serve:
    """The URL of a server whose certificate is for that name."""

    @contextlib.contextmanager
    def serve(name: str) -> Iterator[str]:
        certificate = authority.issue_cert(name)
        chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
        for pem in certificate.cert_chain_pems:
            pem.write_to_path(chain, append=True)
        certificate.private_key_pem.write_to_path(key)
        app = syncline.asgi(engine, authenticate=sync_http.anyone, authorize=sync_http.allow_all)
        with served_asgi(app, ssl_certfile=chain, ssl_keyfile=key) as url:
            yield url

    return serve


def test_a_client_speaks_https_with_a_server_it_trusts(serve: Serve, trusting: ssl.SSLContext) -> None:
    with serve("127.0.0.1") as url, syncline.connect(url, client_id="c", ssl_context=trusting) as client:
        pushed = client.push([{"name": "todo/create", "args": todo("1"), "scope": "list:1", "client_seq": 1}])
        assert pushed[0].ok
        assert client.pull("list:1").changes[0].id == "1"


@pytest.mark.parametrize(("name", "trusted"), [("127.0.0.1", False), ("example.org", True)])
def test_a_client_refuses_a_server_whose_certificate_is_not_good(
    serve: Serve, trusting: ssl.SSLContext, engine: syncline.Engine, name: str, trusted: bool
) -> None:
    with (
        serve(name) as url,
        syncline.connect(url, client_id="c", ssl_context=trusting if trusted else None) as client,
        pytest.raises(syncline.Unavailable, match=r"(?i)certificate"),
    ):
        client.push([{"name": "todo/create", "args": todo("1"), "scope": "list:1", "client_seq": 1}])
    assert engine.head == 0


def test_a_replica_is_told_over_wss(
    serve: Serve, trusting: ssl.SSLContext, engine: syncline.Engine, tmp_path: Path
) -> None:
    with (
        serve("127.0.0.1") as url,
        syncline.Replica(
            tmp_path / "a.db",
            url,
            scope="list:1",
            mutators=make_mutators(server=False),
            poll=3600,  # so that nothing else brings the news
            ssl_context=trusting,
        ) as replica,
    ):
        replica.mutate("todo/create", todo("1")).wait(PATIENCE)
        until(lambda: replica.status.pokes == "socket")
        with engine.write("list:1") as tx:
            tx.set("todo", "2", {"title": "from the server", "done": False})
        until(lambda: replica.get("todo", "2") is not None)


def test_a_replica_keeps_what_is_queued_for_a_server_whose_certificate_is_not_good(
    serve: Serve, trusting: ssl.SSLContext, engine: syncline.Engine, tmp_path: Path
) -> None:
    def replica(url: str, context: ssl.SSLContext | None) -> syncline.Replica:
        return syncline.Replica(
            tmp_path / "a.db",
            url,
            scope="list:1",
            mutators=make_mutators(server=False),
            ssl_context=context,
        )

    with serve("127.0.0.1") as url:
        with replica(url, None) as wary:
            wary.mutate("todo/create", todo("1"))
            until(lambda: wary.state == "offline")
            assert "certificate" in (wary.status.reason or "").lower()
            assert len(wary.pending) == 1
        assert engine.head == 0
        with replica(url, trusting) as again:
            again.sync(PATIENCE)
            assert again.pending == []
        assert engine.snapshot("list:1").data["todo"].keys() == {"1"}
