"""The `syncline` command, run as users run it: as a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import syncline
from cli_support import command, serving

MODULE = """
import syncline

mutators = syncline.Mutators()

@mutators("note/set")
def set_note(tx, args):
    tx.set("note", args["id"], {"text": args["text"]})

engine = syncline.Engine("notes.db", mutators=mutators)

def who(request):
    return request.headers.get("x-user")

async def may(user, action, scope):
    return scope == user

app = syncline.asgi(engine, authenticate=who, authorize=may, close_engine=True)
text = "no engine"
"""

NOTE = {"name": "note/set", "args": {"id": "1", "text": "x"}, "scope": "list:1"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes.py").write_text(MODULE)
    (tmp_path / "tokens").write_text("# token user\n\nt0ken ada\nother bob\n")
    return tmp_path


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_serve_with_tokens_until_it_is_told_to_stop(folder: Path, stop: signal.Signals) -> None:
    with serving(folder, "notes:engine", "--token-file", "tokens", stop=stop) as url:
        with syncline.connect(url, token="t0ken", client_id="c1") as ada:
            assert ada.push([{**NOTE, "client_seq": 1}])[0].ok
            assert ada.pull("list:1").last_seq == 1
        with syncline.connect(url, token="other", client_id="c1") as bob, pytest.raises(syncline.Forbidden):
            bob.pull("list:1")
        for token in ("t0ke", "t0ken2", None):
            with syncline.connect(url, token=token) as stranger, pytest.raises(syncline.Unauthenticated):
                stranger.pull("list:1")
    # The engine was closed: what it took is there, and another may have the file.
    with syncline.Engine(folder / "notes.db") as engine:
        assert engine.snapshot("list:1").data == {"note": {"1": {"text": "x"}}}
    assert not (folder / "notes.db-wal").exists()


# Its importing runs the callback of a weak reference, in which the signal is dealt with: whatever the handler
# raised there would be lost.
TOLD_WHILE_IMPORTING = """
import signal
import sys
import weakref

class Told:
    def __init__(self, number):
        self.number = number

    def find_spec(self, name, path=None, target=None):
        if name.startswith("uvicorn.loops."):  # which uvicorn imports once the server listens
            sys.meta_path.remove(self)
            thing = type("Thing", (), {})()
            told = weakref.ref(thing, lambda _: signal.raise_signal(self.number))
            del thing
            assert told() is None

from notes import engine
"""


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_is_told_to_stop_before_it_has_started_stops(
    folder: Path, stop: signal.Signals
) -> None:
    (folder / "told.py").write_text(f"{TOLD_WHILE_IMPORTING}\nsys.meta_path.insert(0, Told({int(stop)}))\n")
    ran = command(folder, "serve", "told:engine", "--open", "--port", "0")
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout
    with syncline.Engine(folder / "notes.db") as engine:  # the other one has let go of it
        assert engine.stats().scopes == 0


def test_serve_with_hooks(folder: Path) -> None:
    import http.client
    from urllib.parse import urlsplit

    with serving(folder, "notes:engine", "--authenticate", "notes:who", "--authorize", "notes:may") as url:
        connection = http.client.HTTPConnection(urlsplit(url).hostname or "", urlsplit(url).port, timeout=30)
        for user, scope, status in (("ada", "ada", 200), ("ada", "bob", 403), ("", "ada", 401)):
            connection.request("GET", f"/_sync/cursor?scope={scope}", headers={"X-User": user})
            response = connection.getresponse()
            response.read()
            assert response.status == status
        connection.close()


def test_serve_open_to_all_when_it_is_said(folder: Path) -> None:
    with serving(folder, "notes:engine", "--open") as url, syncline.connect(url) as anyone:
        assert anyone.push([NOTE])[0].ok


def test_serve_the_inspector_for_operators_or_for_everybody(folder: Path) -> None:
    import urllib.error
    import urllib.request

    def pulse(url: str, token: str = "") -> str:
        headers = {
            "Content-Type": "application/json",
            **({"Authorization": f"Bearer {token}"} if token else {}),
        }
        request = urllib.request.Request(f"{url}/inspect/pulse", b"{}", headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return str(json.load(answer)["user"])
        except urllib.error.HTTPError as refused:
            return str(refused.code)

    with serving(folder, "notes:engine", "--open") as url:
        assert pulse(url) == "404"
    with serving(folder, "notes:engine", "--open", "--inspect") as url:
        assert pulse(url) == "anonymous"
    operators = ("--token-file", "tokens", "--operator", "ada")
    with serving(folder, "notes:engine", *operators) as url:
        assert pulse(url, "t0ken") == "404"
    with serving(folder, "notes:engine", *operators, "--inspect") as url:
        assert [pulse(url, "t0ken"), pulse(url, "other"), pulse(url)] == ["ada", "403", "401"]


def test_serve_an_application_as_it_is(folder: Path) -> None:
    with serving(folder, "notes:app") as url, syncline.connect(url) as stranger:
        assert stranger.health()["ok"]
        with pytest.raises(syncline.Unauthenticated):
            stranger.pull("list:1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["notes:engine"], "--open"),
        (["notes:engine", "--open", "--token-file", "tokens"], "one way"),
        (["notes:engine", "--authenticate", "notes:who"], "--authorize"),
        (["notes:engine", "--authenticate", "notes:text", "--authorize", "notes:may"], "function"),
        (["notes:engine", "--token-file", "absent"], "absent"),
        (["notes:engine", "--open", "--cors", "app.example"], "origin"),
        (["notes:app", "--open"], "own hooks"),
        (["notes:app", "--operator", "ada"], "own hooks"),
        (["notes:app", "--inspect"], "own hooks"),
        (["notes:engine", "--token-file", "tokens", "--inspect"], "--operator"),
        (["notes:text", "--open"], "syncline.Engine"),
        (["notes:absent", "--open"], "absent"),
        (["absent:engine", "--open"], "absent"),
        (["notes", "--open"], "module:name"),
        (["notes.py:engine", "--open"], "notes:engine"),
    ],
)
def test_a_wrong_call_says_what_would_be_right(folder: Path, arguments: list[str], said: str) -> None:
    done = command(folder, "serve", "--port", "0", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", ["", "# nothing\n", "lonely\n", "a b c\n", "same ada\nsame bob\n"])
def test_a_token_file_is_checked(folder: Path, content: str) -> None:
    (folder / "tokens").write_text(content)
    done = command(folder, "serve", "notes:engine", "--token-file", "tokens", "--port", "0")
    assert done.returncode == 2
    assert "tokens" in done.stderr


def test_a_database_in_use_is_said_in_a_sentence(folder: Path) -> None:
    with syncline.Engine(folder / "notes.db"):
        done = command(folder, "serve", "notes:engine", "--open", "--port", "0")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "notes" in done.stderr


def test_a_port_in_use_is_said_in_a_sentence(folder: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = command(folder, "serve", "notes:engine", "--open", "--port", port)
    assert done.returncode == 1
    assert port in done.stderr
    assert "Traceback" not in done.stderr


def test_version(folder: Path) -> None:
    done = command(folder, "version")
    assert done.returncode == 0
    assert syncline.__version__ in done.stdout


def test_without_its_extra_the_command_says_what_to_install(folder: Path) -> None:
    hidden = (
        "import sys; sys.modules['typer'] = None; sys.argv = ['syncline', {}]\n"
        "from syncline.cli import main; main()"
    )
    for argument, status in (("'serve'", 1), ("'version'", 0)):
        done = subprocess.run(
            [sys.executable, "-c", hidden.format(argument)],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status
        assert ("syncline[server]" in done.stderr) is (status == 1)
