"""The endpoints mounted in FastAPI, Starlette, Django and Flask, beside the framework's own pages, behind
real servers."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
import syncline
from http_support import HOOKS, make_engine, served_asgi, served_wsgi
from websockets.sync.client import connect

Serve = Callable[[Any], AbstractContextManager[str]]


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with make_engine() as engine:
        yield engine


def check(url: str, pages: dict[str, str]) -> None:
    """What every mounting must do: the framework's pages stay, and a client pushes, is refused, goes on and
    pulls."""
    import urllib.request

    for page, content in pages.items():
        with urllib.request.urlopen(page, timeout=30) as response:
            assert response.read().decode() == content
    for format in ("msgpack", "json"):
        with syncline.connect(url, token="t-ada", client_id=f"of-{format}", format=format) as remote:  # type: ignore[arg-type]

            def mutation(seq: int, name: str, format: str = format) -> dict[str, Any]:
                args = {"id": f"{format}-{seq}", "text": "é"}
                return {"name": name, "args": args, "scope": "list:1", "client_seq": seq}

            assert remote.push([mutation(1, "note/set")])[0].ok
            refused = remote.push([mutation(2, "note/crash")])[0]
            assert refused.error is not None
            assert refused.error.code == "internal_error"
            assert remote.push([mutation(3, "note/set")])[0].ok
            pulled = remote.pull("list:1")
            assert {change.id for change in pulled.changes} >= {f"{format}-1", f"{format}-3"}
            assert pulled.last_seq == 3
            assert remote.snapshot("list:1").data["note"][f"{format}-1"] == {"text": "é"}
            assert remote.cursor("list:1") == pulled.cursor
            with pytest.raises(syncline.Forbidden):
                remote.pull("secret:1")
        with (
            syncline.connect(url, token="wrong", format=format) as stranger,
            pytest.raises(syncline.Unauthenticated),
        ):  # type: ignore[arg-type]
            stranger.pull("list:1")


def check_live(url: str, engine: syncline.Engine) -> None:
    """A client of the live channel is known by its token, subscribes, and hears of a commit."""

    def frame(**told: object) -> str:
        return json.dumps(told)

    with connect(f"{url.replace('http', 'ws', 1)}/_sync/live", proxy=None) as socket:
        socket.send(frame(type="auth", token="t-ada"))
        socket.send(frame(type="subscribe", scopes=["list:1", "secret:1"]))
        kinds = {json.loads(socket.recv(30))["type"] for _ in range(3)}
        assert kinds == {"welcome", "poke", "refused"}
        with engine.write("list:1") as tx:
            tx.set("note", "live", {"text": "now"})
        assert json.loads(socket.recv(30))["cursor"] == engine.cursor("list:1")


@pytest.mark.parametrize("mount", ["/sync", "/_sync", "/deep/down", ""])
def test_fastapi(engine: syncline.Engine, mount: str) -> None:
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()

    @app.get("/page")
    def page() -> str:
        return "mine"

    app.mount(mount, syncline.asgi(engine, **HOOKS))
    with served_asgi(app) as url:
        check(url + mount, {f"{url}/page": '"mine"'})
        check_live(url + mount, engine)


@pytest.mark.parametrize("server_adds_it", [True, False])
def test_fastapi_below_a_proxys_root_path(engine: syncline.Engine, server_adds_it: bool) -> None:
    fastapi = pytest.importorskip("fastapi")
    app = fastapi.FastAPI()
    app.mount("/api", syncline.asgi(engine, **HOOKS))

    async def as_older_servers_do(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/behind"}, receive, send)

    served = served_asgi(app, root_path="/behind") if server_adds_it else served_asgi(as_older_servers_do)
    with served as url:
        check(url + "/api", {})
        check_live(url + "/api", engine)


def test_starlette_with_its_own_middleware_and_lifespan(engine: syncline.Engine) -> None:
    applications = pytest.importorskip("starlette.applications")
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    async def page(request: object) -> PlainTextResponse:
        return PlainTextResponse("mine")

    app = applications.Starlette(
        routes=[Route("/page", page), Mount("/api", syncline.asgi(engine, **HOOKS))],
        middleware=[Middleware(GZipMiddleware)],
    )
    with served_asgi(app) as url:
        check(url + "/api", {f"{url}/page": "mine"})
        check_live(url + "/api", engine)


def test_flask(engine: syncline.Engine) -> None:
    flask = pytest.importorskip("flask")
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    app = flask.Flask("page_of_a_test")
    app.add_url_rule("/page", view_func=lambda: "mine", endpoint="page")
    door = syncline.wsgi(engine, **HOOKS)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/api": door, "/_sync": door})
    with served_wsgi(app) as url:
        check(url + "/api", {f"{url}/page": "mine"})
    with served_wsgi(app) as url, syncline.connect(url, token="t-ada") as remote:
        assert remote.health()["ok"] is True


def test_flask_with_a_view_of_its_own(engine: syncline.Engine) -> None:
    flask = pytest.importorskip("flask")
    app = flask.Flask("view_of_a_test")

    @app.route("/_sync/<path:rest>", methods=["GET", "POST", "OPTIONS"])
    def sync(rest: str) -> Any:
        request = flask.request
        answer = engine.handle(
            request.method, request.full_path, request.headers, request.get_data(), **HOOKS
        )
        return answer.body, answer.status, list(answer.headers.pairs())

    with served_wsgi(app) as url:
        check(url, {})


# ----------------------------------------------------------------------------------------------------- Django


@pytest.fixture(scope="module")
def django_urls() -> types.ModuleType:
    django = pytest.importorskip("django")
    from django.conf import settings

    urls = types.ModuleType("urls_of_a_test")
    urls.urlpatterns = []  # type: ignore[attr-defined]
    sys.modules["urls_of_a_test"] = urls
    if not settings.configured:
        settings.configure(
            ALLOWED_HOSTS=["127.0.0.1"],
            ROOT_URLCONF="urls_of_a_test",
            SECRET_KEY="of a test",
            MIDDLEWARE=[
                "django.middleware.common.CommonMiddleware",
                "django.middleware.csrf.CsrfViewMiddleware",
            ],
        )
        django.setup()
    return urls


def use_urls(module: types.ModuleType, *patterns: Any) -> None:
    from django.urls import clear_url_caches

    module.urlpatterns = list(patterns)  # type: ignore[attr-defined]
    clear_url_caches()


def django_page(request: object) -> Any:
    from django.http import HttpResponse

    return HttpResponse("mine")


def test_django_asgi(engine: syncline.Engine, django_urls: types.ModuleType) -> None:
    from django.core.asgi import get_asgi_application
    from django.urls import path

    use_urls(django_urls, path("page", django_page))
    pages, door = get_asgi_application(), syncline.asgi(engine, **HOOKS)

    async def application(scope: Any, receive: Any, send: Any) -> None:
        ours = scope["type"] == "http" and not scope["path"].startswith("/_sync/")
        await (pages if ours else door)(scope, receive, send)

    with served_asgi(application) as url:
        check(url, {f"{url}/page": "mine"})
        check_live(url, engine)


def test_django_wsgi(engine: syncline.Engine, django_urls: types.ModuleType) -> None:
    from django.core.wsgi import get_wsgi_application
    from django.urls import path

    use_urls(django_urls, path("page", django_page))
    pages, door = get_wsgi_application(), syncline.wsgi(engine, **HOOKS)

    def application(environ: Any, start_response: Any) -> Any:
        return (door if environ["PATH_INFO"].startswith("/_sync/") else pages)(environ, start_response)

    with served_wsgi(application) as url:
        check(url, {f"{url}/page": "mine"})


@pytest.mark.parametrize("serve", [served_asgi, served_wsgi])
def test_django_with_a_view_of_its_own(
    engine: syncline.Engine, django_urls: types.ModuleType, serve: Serve
) -> None:
    from django.core.asgi import get_asgi_application
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpResponse
    from django.urls import path
    from django.views.decorators.csrf import csrf_exempt

    def sync(request: Any, rest: str) -> HttpResponse:
        answer = engine.handle(
            request.method, request.get_full_path(), request.headers, request.body, **HOOKS
        )
        return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))

    use_urls(django_urls, path("_sync/<path:rest>", csrf_exempt(sync)), path("page", django_page))
    with serve(get_asgi_application() if serve is served_asgi else get_wsgi_application()) as url:
        check(url, {f"{url}/page": "mine"})
