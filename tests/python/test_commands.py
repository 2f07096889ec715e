"""The commands that show and keep a database: as processes, on real files, beside a real server."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import syncline
from cli_support import PLAIN, command, done, lines, refused, serving
from syncline import admin

MODULE = """
import os

import syncline

mutators = syncline.Mutators()

@mutators("note/set")
def set_note(tx, args):
    tx.set("note", args["id"], {"text": args["text"]})

@mutators("note/fragile")
def fragile(tx, args):
    if not os.path.exists("mended"):
        raise KeyError("what was not there")
    tx.set("note", args["id"], {"text": "mended"})

engine = syncline.Engine("notes.db", mutators=mutators)
"""

EVERY = [
    "serve",
    "version",
    "log",
    "get",
    "find",
    "at",
    "history",
    "explain",
    "scopes",
    "stats",
    "compact",
    "verify",
    "repair",
    "erase",
    "positions",
    "dead-letters",
    "backup",
    "restore",
    "export",
    "import",
    "demo",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A database with some history, and the module that serves it."""
    (tmp_path / "notes.py").write_text(MODULE)
    (tmp_path / "tokens").write_text("t0ken ada\nother bob\n")
    with syncline.Engine(tmp_path / "notes.db") as engine:
        with engine.write("list:1", user="ada") as tx:
            tx.set("note", "1", {"text": "one", "n": 1})
            tx.set("note", "2", {"text": "two", "n": 2})
        with engine.write("list:1", user="bob") as tx:
            tx.update("note", "1", {"text": "uno"})
        with engine.write("list:2") as tx:
            tx.set("task", "a", {"done": False, "\x1b[35;7m": "red\x9b"})
            tx.set("task", "b", {"done": True})
        with engine.write("list:2") as tx:
            tx.delete("task", "b")
        with engine.write("list:1") as tx:
            tx.delete("note", "2")
    return tmp_path


def contents(path: Path) -> dict[str, Any]:
    with syncline.Engine(path, read_only=True) as engine:
        return {one.name: engine.snapshot(one.name).data for one in engine.scopes()}


NOW = {
    "list:1": {"note": {"1": {"text": "uno", "n": 1}}},
    "list:2": {"task": {"a": {"done": False, "\x1b[35;7m": "red\x9b"}}},
}


# ------------------------------------------------------------------------------------------------------ help


def test_help_names_every_command_with_a_sentence(folder: Path) -> None:
    text = done(folder, "--help")
    for name in EVERY:
        assert re.search(rf"^\W*{name} +[A-Z]\w+", text, re.MULTILINE), name
    assert "Exit status" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("name", EVERY)
def test_each_commands_help_says_what_its_options_are(folder: Path, name: str) -> None:
    text = done(folder, name, "--help")
    usage = next(line for line in text.splitlines() if "Usage:" in line)
    assert f"syncline {name}" in usage
    options = re.findall(r"^\s*(?:-\w, )?(--[a-z-]+)(.*)$", text, re.MULTILINE)
    assert "--help" in [option for option, _ in options]
    for option, rest in options:
        assert re.search(r"  \S", rest), f"{option} is not explained"


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["log"], ["get", "notes.db", "list:1"], ["log", "a", "--nope"]]
)
def test_a_wrong_call_exits_with_2(folder: Path, arguments: list[str]) -> None:
    assert "Usage" in refused(folder, *arguments, status=2)


# --------------------------------------------------------------------------------------------------- reading


def test_get_shows_a_document_or_says_that_there_is_none(folder: Path) -> None:
    assert json.loads(done(folder, "get", "notes.db", "list:1", "note", "1")) == {"text": "uno", "n": 1}
    assert lines(folder, "get", "notes.db", "list:1", "note", "1") == [{"text": "uno", "n": 1}]
    assert lines(folder, "get", "notes.db", "list:1", "note", "1", "--at", "2") == [{"text": "one", "n": 1}]
    assert "note/2" in refused(folder, "get", "notes.db", "list:1", "note", "2", status=1)
    assert "note/9" in refused(folder, "get", "notes.db", "list:9", "note", "9", status=1)


def test_find_filters_sorts_and_limits(folder: Path) -> None:
    with syncline.Engine(folder / "notes.db") as engine, engine.write("list:3") as tx:
        for n in range(5):
            tx.set("n", str(n), {"n": n})
    found = lines(
        folder, "find", "notes.db", "list:3", "n", '{"n": {"$gte": 1}}', "--sort", "-n", "--limit", "2"
    )
    assert found == [{"id": "4", "data": {"n": 4}}, {"id": "3", "data": {"n": 3}}]
    assert done(folder, "find", "notes.db", "list:3", "n", '{"n": 2}') == 'id\tdocument\n2\t{"n":2}\n'
    then = lines(folder, "find", "notes.db", "list:1", "note", '{"text": "one"}', "--at", "2")
    assert [one["id"] for one in then] == ["1"]
    dated = '{"at": {"$lt": {"$date": "2026-01-31T12:00:00Z"}}}'
    assert lines(folder, "find", "notes.db", "list:3", "n", dated) == []
    assert "JSON" in refused(folder, "find", "notes.db", "list:3", "n", "{", status=2)
    assert "map" in refused(folder, "find", "notes.db", "list:3", "n", "[]", status=2)
    assert "$near" in refused(folder, "find", "notes.db", "list:3", "n", '{"n": {"$near": 1}}', status=2)


def test_log_tells_who_did_what_when(folder: Path) -> None:
    told = lines(folder, "log", "notes.db")
    assert [
        (one["op"], one["entity"], one["id"], one["user"]) for one in told if one["scope"] == "list:1"
    ] == [
        ("create", "note", "1", "ada"),
        ("create", "note", "2", "ada"),
        ("update", "note", "1", "bob"),
        ("delete", "note", "2", None),
    ]
    update = next(one for one in told if one["op"] == "update")
    assert update["changes"] == {"text": {"old": "one", "new": "uno"}}
    text = done(folder, "log", "notes.db", "--scope", "list:1", "--changes")
    assert len([line for line in text.splitlines() if "note/" in line]) == 4
    assert '"one" → "uno"' in text


def test_log_selects(folder: Path) -> None:
    cursors = [one["cursor"] for one in lines(folder, "log", "notes.db")]
    assert [one["cursor"] for one in lines(folder, "log", "notes.db", "-n", "2")] == cursors[-2:]
    assert [one["cursor"] for one in lines(folder, "log", "notes.db", "-n", "2", "-r")] == cursors[:-3:-1]
    since = lines(folder, "log", "notes.db", "--since", str(cursors[1]), "--through", str(cursors[2]))
    assert [one["cursor"] for one in since] == [cursors[2]]
    assert [one["cursor"] for one in lines(folder, "log", "notes.db", "--since", "1h")] == cursors
    assert lines(folder, "log", "notes.db", "--through", "2001-01-01T00:00") == []
    only = lines(folder, "log", "notes.db", "--scope", "list:1", "--entity", "note", "--id", "1")
    assert [one["version"] for one in only] == [1, 2]
    assert lines(folder, "log", "notes.db", "--client", "nobody") == []
    assert "15m" in refused(folder, "log", "notes.db", "--since", "yesterday", status=2)
    assert "--follow" in refused(folder, "log", "notes.db", "-f", "-r", status=2)


def test_history_tells_the_versions_newest_first(folder: Path) -> None:
    told = lines(folder, "history", "notes.db", "list:1", "note", "2")
    assert [(one["op"], one["data"]) for one in told] == [
        ("delete", None),
        ("create", {"text": "two", "n": 2}),
    ]
    assert len(lines(folder, "history", "notes.db", "list:1", "note", "1", "--limit", "1")) == 1
    text = done(folder, "history", "notes.db", "list:1", "note", "1")
    assert text.index("version 2") < text.index("version 1")
    assert "bob" in text
    refused(folder, "history", "notes.db", "list:1", "note", "never", status=1)


def test_at_shows_the_past(folder: Path) -> None:
    assert lines(folder, "at", "notes.db", "2", "list:1", "note") == [
        {"id": "1", "data": {"text": "one", "n": 1}},
        {"id": "2", "data": {"text": "two", "n": 2}},
    ]
    assert lines(folder, "at", "notes.db", "2", "list:1", "note", "1") == [{"text": "one", "n": 1}]
    refused(folder, "at", "notes.db", "1", "list:1", "note", "2", status=1)
    refused(folder, "at", "notes.db", "99999", "list:1", "note", status=2)


def test_explain_says_why_in_words(folder: Path) -> None:
    assert "deleted" in done(folder, "explain", "notes.db", "list:1", "note", "2")
    (told,) = lines(folder, "explain", "notes.db", "list:1", "note", "2", "--client", "c9")
    assert (told["state"], told["client_known"]) == ("deleted", False)


def test_stats_and_scopes_tell_what_the_database_holds(folder: Path) -> None:
    (told,) = lines(folder, "stats", "notes.db")
    assert (told["documents"], told["tombstones"], told["scopes"]) == (2, 2, 2)
    assert "pushes" not in told  # of a process that only looks
    assert "tombstones" in done(folder, "stats", "notes.db")
    assert [one["name"] for one in lines(folder, "scopes", "notes.db")] == ["list:1", "list:2"]
    assert done(folder, "scopes", "notes.db").splitlines()[0].split("\t")[0] == "scope"


def test_what_a_database_holds_does_not_steer_the_terminal(folder: Path) -> None:
    for arguments in (
        ["get", "notes.db", "list:2", "task", "a"],
        ["find", "notes.db", "list:2", "task"],
        ["history", "notes.db", "list:2", "task", "a"],
        ["log", "notes.db", "--changes"],
    ):
        for text in (done(folder, *arguments), on_terminal(folder, *arguments)):
            assert "\x1b[35;7m" not in text
            assert "\x9b" not in text
            assert "[35;7m" in text or arguments[0] == "log"


def on_terminal(folder: Path, *arguments: str) -> str:
    """What it writes to a terminal."""
    ours, its = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "syncline.cli", *arguments],
            cwd=folder,
            stdin=its,
            stdout=its,
            stderr=its,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
        )
        os.close(its)
        told = b""
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:
                break
            if not chunk:
                break
            told += chunk
        assert process.wait(30) == 0, told
    finally:
        os.close(ours)
    return told.decode()


def test_output_has_colours_on_a_terminal_and_is_plain_elsewhere(folder: Path) -> None:
    assert "\x1b[" in on_terminal(folder, "log", "notes.db")
    assert "\x1b" not in done(folder, "log", "notes.db")
    assert "─" in on_terminal(folder, "scopes", "notes.db")
    assert "─" not in done(folder, "scopes", "notes.db")


def test_reading_commands_run_beside_the_server_and_see_its_commits(folder: Path) -> None:
    with serving(folder, "notes:engine", "--token-file", "tokens") as url:
        with syncline.connect(url, token="t0ken") as ada:
            ada.push([{"name": "note/set", "args": {"id": "9", "text": "nine"}, "scope": "list:1"}])
        assert lines(folder, "get", "notes.db", "list:1", "note", "9") == [{"text": "nine"}]
        assert lines(folder, "log", "notes.db", "-n", "1")[0]["mutation"] == "note/set"


def test_log_follows_what_the_server_commits(folder: Path) -> None:
    with serving(folder, "notes:engine", "--token-file", "tokens") as url:
        following = subprocess.Popen(
            [sys.executable, "-m", "syncline.cli", "log", "notes.db", "--follow", "-n", "1", "--json"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=PLAIN,
            # A suite that was started in the background ignores SIGINT, and its children would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        assert following.stdout is not None
        try:
            assert json.loads(following.stdout.readline())["op"] == "delete"
            with syncline.connect(url, token="t0ken") as ada:
                for n in range(3):
                    args = {"id": f"new {n}", "text": "x"}
                    ada.push([{"name": "note/set", "args": args, "scope": "list:1"}])
                    assert json.loads(following.stdout.readline())["id"] == f"new {n}"
        finally:
            following.send_signal(signal.SIGINT)
            _, said = following.communicate(timeout=30)
        assert following.returncode == 130
        assert "Traceback" not in said


def test_a_reader_that_has_seen_enough_ends_a_command_quietly(folder: Path) -> None:
    with syncline.Engine(folder / "notes.db") as engine, engine.write("list:3") as tx:
        for n in range(5000):
            tx.set("n", str(n), {"text": "x" * 100})
    piped = subprocess.run(
        f"{sys.executable} -m syncline.cli log notes.db --json | head -n 1",
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=PLAIN,
    )
    assert len(piped.stdout.splitlines()) == 1
    assert piped.stderr == ""


@pytest.mark.parametrize("name", ["log", "stats", "scopes"])
def test_a_file_that_is_none_is_said_in_a_sentence(folder: Path, name: str) -> None:
    assert "absent.db" in refused(folder, name, "absent.db", status=1)
    assert not (folder / "absent.db").exists()
    (folder / "text.db").write_text("no database at all, though it is long enough for one" * 100)
    assert "text.db" in refused(folder, name, "text.db", status=1)


# --------------------------------------------------------------------------------------------------- writing


def test_a_writing_command_is_refused_beside_a_server_with_the_way_to_it(folder: Path) -> None:
    with serving(folder, "notes:engine", "--token-file", "tokens"):
        said = refused(folder, "compact", "notes.db", status=1)
    assert "--url" in said
    assert "pid" in said


def test_a_writing_command_wants_a_file_or_a_server(folder: Path) -> None:
    assert "--url" in refused(folder, "compact", status=2)
    assert "--url" in refused(folder, "compact", "notes.db", "--url", "http://127.0.0.1:1", status=2)
    assert "URL" in refused(folder, "compact", "--url", "nonsense", status=2)
    assert "reached" in refused(folder, "compact", "--url", "http://127.0.0.1:1", status=1)
    assert "absent.db" in refused(folder, "compact", "absent.db", status=1)
    assert not (folder / "absent.db").exists()


def test_operators_and_only_they_run_commands_through_the_server(folder: Path) -> None:
    hooks = ("notes:engine", "--token-file", "tokens")
    with serving(folder, *hooks, "--operator", "ada") as url:
        (told,) = lines(folder, "stats", "--url", url, "--token", "t0ken")
        assert told["documents"] == 2
        (by_environment,) = lines(folder, "stats", "--url", url, SYNCLINE_TOKEN="t0ken")
        assert by_environment["documents"] == 2
        assert "pushes" in done(folder, "stats", "--url", url, "--token", "t0ken")
        assert "compact" in refused(folder, "compact", "--url", url, "--token", "other", status=1)
        refused(folder, "compact", "--url", url, "--token", "wrong", status=1)
        done(folder, "compact", "--url", url, "--token", "t0ken", "--keep", "2h")
    with serving(folder, *hooks) as url:
        assert "--operator" in refused(folder, "stats", "--url", url, "--token", "t0ken", status=1)


def test_operators_read_the_metrics(folder: Path) -> None:
    import urllib.error
    import urllib.request

    with serving(folder, "notes:engine", "--token-file", "tokens", "--operator", "ada") as url:

        def read(token: str) -> str:
            request = urllib.request.Request(f"{url}/metrics", headers={"Authorization": f"Bearer {token}"})
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.read().decode()  # type: ignore[no-any-return]

        assert "syncline_pushes_total 0.0" in read("t0ken")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            read("other")


def age(folder: Path, hours: int) -> None:
    """Makes all that is in the database older."""
    with closing(sqlite3.connect(folder / "notes.db")) as database:
        micros = hours * 3600 * 1_000_000
        database.execute("UPDATE changelog SET ts = ts - ?", (micros,))
        database.execute(
            "UPDATE documents SET created_at = created_at - ?, updated_at = updated_at - ?", (micros, micros)
        )
        database.commit()


def test_compact_forgets_what_need_not_be_kept(folder: Path) -> None:
    age(folder, 48)
    done(folder, "compact", "notes.db", "--keep", "3d")
    assert lines(folder, "stats", "notes.db")[0]["tombstones"] == 2
    done(folder, "compact", "notes.db", "--keep", "1d")
    assert lines(folder, "stats", "notes.db")[0]["tombstones"] == 0
    assert contents(folder / "notes.db") == NOW
    assert "30d" in refused(folder, "compact", "notes.db", "--keep", "a while", status=2)


@pytest.mark.parametrize("served", [False, True])
def test_verify_names_what_is_wrong_and_repair_mends_it(folder: Path, served: bool) -> None:
    with contextlib.ExitStack() as stack:
        where: tuple[str, ...] = ("notes.db",)
        if served:
            hooks = ("notes:engine", "--token-file", "tokens", "--operator", "ada")
            where = ("--url", stack.enter_context(serving(folder, *hooks)), "--token", "t0ken")
        (told,) = lines(folder, "verify", *where)
        assert (told["found"], told["problems"]) == (0, [])
        assert told["checked"]["log_lines"] > 0
        assert "log lines" in done(folder, "verify", "notes.db")  # beside its server, too
    with closing(sqlite3.connect(folder / "notes.db")) as database:
        database.execute("UPDATE documents SET version = version + 7")
        database.commit()
    ran = command(folder, "verify", "notes.db", "--json")
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["found"] > 0
    assert "version" in command(folder, "verify", "notes.db").stdout
    assert "--yes" in refused(folder, "repair", "notes.db", status=2)
    assert done(folder, "repair", "notes.db", "--yes")
    assert "nothing" in command(folder, "repair", "notes.db", "--yes").stderr
    assert lines(folder, "verify", "notes.db")[0]["found"] == 0
    assert contents(folder / "notes.db") == NOW


def test_repair_does_not_touch_a_database_that_is_served(folder: Path) -> None:
    with serving(folder, "notes:engine", "--token-file", "tokens"):
        assert "notes.db" in refused(folder, "repair", "notes.db", "--yes", status=1)
    assert "absent.db" in refused(folder, "repair", "absent.db", "--yes", status=1)


@pytest.mark.parametrize("served", [False, True])
def test_erase_forgets_a_document_or_a_scope_after_asking(folder: Path, served: bool) -> None:
    with contextlib.ExitStack() as stack:
        where: tuple[str, ...] = ("notes.db",)
        options: tuple[str, ...] = ()
        if served:
            hooks = ("notes:engine", "--token-file", "tokens", "--operator", "ada")
            options = ("--url", stack.enter_context(serving(folder, *hooks)), "--token", "t0ken")
            where = ()
        assert "--yes" in refused(folder, "erase", *where, "list:1", "note", "1", *options, status=2)
        assert contents(folder / "notes.db") == NOW
        (told,) = lines(folder, "erase", *where, "list:1", "note", "1", *options, "--yes")
        assert told["documents"] == 1
        assert "ENTITY" in refused(folder, "erase", *where, "list:1", "note", *options, "--yes", status=2)
        assert "Wanted" in refused(folder, "erase", *where, *options, "--yes", status=2) or served
        done(folder, "erase", *where, "list:2", *options, "--yes")
    assert {scope: data for scope, data in contents(folder / "notes.db").items() if data} == {}
    assert b"uno" not in (folder / "notes.db").read_bytes()


def test_positions_tell_how_far_behind_clients_are(folder: Path) -> None:
    hooks = ("notes:engine", "--token-file", "tokens", "--operator", "ada")
    with serving(folder, *hooks) as url:
        with syncline.connect(url, token="t0ken", client_id="phone") as ada:
            at = ada.pull("list:1").cursor
            ada.push(
                [{"name": "note/set", "args": {"id": "9", "text": "x"}, "scope": "list:1", "client_seq": 1}]
            )
        (told,) = lines(folder, "positions", "--url", url, "--token", "t0ken")
        assert (told["client_id"], told["user"], told["scope"], told["cursor"]) == (
            "phone",
            "ada",
            "list:1",
            at,
        )
        assert told["lag"] > 0
        assert "phone" in done(folder, "positions", "--url", url, "--token", "t0ken", "--scope", "list:1")
    assert [one["client_id"] for one in lines(folder, "positions", "notes.db")] == ["phone"]
    assert lines(folder, "positions", "notes.db", "--scope", "list:2") == []


# ----------------------------------------------------------------------------------------------- dead letters


def test_dead_letters_are_listed_shown_retried_and_discarded(folder: Path) -> None:
    mutation = {"name": "note/fragile", "args": {"id": "f", "at": b"\x01"}, "scope": "list:1"}
    as_ada = ("--token", "t0ken")
    hooks = ("notes:engine", "--token-file", "tokens", "--operator", "ada")
    with serving(folder, *hooks, fails="note/fragile") as url:
        with syncline.connect(url, token="other") as bob:
            assert not bob.push([mutation, mutation]).ok
        first, second = lines(folder, "dead-letters", "list", "notes.db")
        assert (first["name"], first["user"], first["error"]) == ("note/fragile", "bob", "KeyError")
        assert lines(folder, "dead-letters", "list", "--url", url, *as_ada) == [first, second]
        assert lines(folder, "dead-letters", "list", "notes.db", "-n", "1") == [first]
        text = done(folder, "dead-letters", "list", "notes.db")
        assert "what was not there" in text.splitlines()[1]
        id = str(first["id"])
        text = done(folder, "dead-letters", "show", "notes.db", id)
        assert "Traceback" in text
        assert "KeyError" in text
        assert '"$binary"' in text
        assert "pid" in refused(folder, "dead-letters", "discard", "notes.db", id, "--yes", status=1)
        refused(folder, "dead-letters", "retry", id, "--url", url, *as_ada, status=1)
        (folder / "mended").touch()
        done(folder, "dead-letters", "retry", id, "--url", url, *as_ada)
        refused(folder, "dead-letters", "show", "--url", url, *as_ada, id, status=1)
        assert lines(folder, "get", "notes.db", "list:1", "note", "f") == [{"text": "mended"}]
        assert "--url" in refused(folder, "dead-letters", "retry", id, status=2)
    id = str(second["id"])
    assert "--yes" in refused(folder, "dead-letters", "discard", "notes.db", id, status=2)
    done(folder, "dead-letters", "discard", "notes.db", id, "--yes")
    refused(folder, "dead-letters", "discard", "notes.db", id, "--yes", status=1)
    assert "number" in refused(folder, "dead-letters", "show", "notes.db", "x", status=2)
    assert "Wanted" in refused(folder, "dead-letters", "show", "notes.db", status=2)
    assert lines(folder, "dead-letters", "list", "notes.db") == []


# ----------------------------------------------------------------------------------------- backup and restore


def test_backup_copies_a_database_that_is_served(folder: Path) -> None:
    with serving(folder, "notes:engine", "--token-file", "tokens"):
        (told,) = lines(folder, "backup", "notes.db", "copy.db")
        assert told["head"] > 0
    assert contents(folder / "copy.db") == NOW
    assert "exists" in refused(folder, "backup", "notes.db", "copy.db", status=1)


def test_restore_begins_a_new_epoch_so_that_clients_notice(folder: Path) -> None:
    done(folder, "backup", "notes.db", "copy.db")
    with syncline.Engine(folder / "notes.db") as engine, engine.write("list:1") as tx:
        tx.set("note", "late", {})
        lost = engine.head + 1
        epoch = engine.epoch
    refused(folder, "restore", "copy.db", "notes.db", status=1)
    (told,) = lines(folder, "restore", "copy.db", "notes.db", "--replace")
    assert told["epoch"] not in (epoch, None)
    assert contents(folder / "notes.db") == NOW
    assert "late" in contents(folder / "notes.db.before-restore")["list:1"]["note"]
    with syncline.Engine(folder / "notes.db") as engine, pytest.raises(syncline.EpochMismatch):
        engine.pull("list:1", lost, epoch=epoch)
    assert {one.name for one in folder.iterdir() if one.suffix != ".py"} >= {"notes.db", "copy.db"}
    assert not list(folder.glob("*.restoring*"))
    (fresh,) = lines(folder, "restore", "copy.db", "fresh.db")
    assert contents(folder / "fresh.db") == NOW
    assert fresh["epoch"] != told["epoch"]
    assert "before-restore" in refused(folder, "restore", "copy.db", "notes.db", "--replace", status=1)


def test_restore_does_not_touch_a_database_that_is_served(folder: Path) -> None:
    done(folder, "backup", "notes.db", "copy.db")
    with serving(folder, "notes:engine", "--token-file", "tokens"):
        refused(folder, "restore", "copy.db", "notes.db", "--replace", status=1)
    assert contents(folder / "notes.db") == NOW
    assert "text.db" in refused(folder, "restore", "text.db", "new.db", status=1)
    assert not (folder / "new.db").exists()


# ------------------------------------------------------------------------------------------ export and import


def test_what_is_exported_is_imported_as_it_was(folder: Path) -> None:
    values = {
        "bytes": b"\x00\xff",
        "big": 2**63,
        "small": -(2**63),
        "float": 1.0,
        "nan": float("inf"),
        "é": None,
    }
    with syncline.Engine(folder / "notes.db") as engine, engine.write("values") as tx:
        tx.set("v", "1", values)
    (told,) = lines(folder, "export", "notes.db", "out.jsonl")
    assert told["changes"] == 3
    (told,) = lines(folder, "import", "out.jsonl", "new.db", "--create")
    assert told["rows"] == 3
    assert contents(folder / "new.db") == {**NOW, "values": {"v": {"1": values}}}
    assert not (folder / "out.jsonl.imported").exists()


def test_an_export_goes_on_with_what_changed_since(folder: Path) -> None:
    done(folder, "export", "notes.db", "out.jsonl", "--scope", "list:1")
    size = (folder / "out.jsonl").stat().st_size
    assert lines(folder, "export", "notes.db", "out.jsonl", "--scope", "list:1")[0]["changes"] == 0
    with syncline.Engine(folder / "notes.db") as engine, engine.write("list:1") as tx:
        tx.delete("note", "1")
        tx.set("note", "3", {"n": 3})
    assert lines(folder, "export", "notes.db", "out.jsonl")[0]["changes"] == 3  # list:2 too
    assert (folder / "out.jsonl").stat().st_size > size
    done(folder, "import", "out.jsonl", "new.db", "--create")
    assert contents(folder / "new.db") == contents(folder / "notes.db")


def folded(path: Path) -> dict[tuple[str, str, str], Any]:
    """What an export says: the last line of a document counts."""
    told: dict[tuple[str, str, str], Any] = {}
    for line in map(json.loads, path.read_text().splitlines()):
        if "entity" in line:
            told[line["scope"], line["entity"], line["id"]] = line.get("data")
    return {key: data for key, data in told.items() if data is not None}


def test_an_export_that_was_interrupted_anywhere_goes_on(folder: Path) -> None:
    with syncline.Engine(folder / "notes.db") as engine, engine.write("list:1") as tx:
        for n in range(20):
            tx.set("note", f"n{n}", {"n": n})
    done(folder, "export", "notes.db", "whole.jsonl")
    whole = (folder / "whole.jsonl").read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 1):
        (folder / "cut.jsonl").write_bytes(whole[:cut])
        done(folder, "export", "notes.db", "cut.jsonl")
        assert folded(folder / "cut.jsonl") == folded(folder / "whole.jsonl")
        assert (folder / "cut.jsonl").read_bytes().startswith(whole[: whole.rfind(b"\n", 0, cut) + 1])
    (folder / "cut.jsonl").write_text("something else\n")
    assert "cut.jsonl" in refused(folder, "export", "notes.db", "cut.jsonl", status=1)
    assert (folder / "cut.jsonl").read_text() == "something else\n"


def test_an_export_of_another_history_does_not_go_on(folder: Path) -> None:
    done(folder, "backup", "notes.db", "copy.db")
    with syncline.Engine(folder / "notes.db") as engine, engine.write("list:1") as tx:
        tx.set("note", "late", {})
    done(folder, "export", "notes.db", "out.jsonl", "--scope", "list:1")
    done(folder, "restore", "copy.db", "other.db")
    assert "another FILE" in refused(folder, "export", "other.db", "out.jsonl", status=1)


def test_an_import_that_was_killed_goes_on_where_it_was(folder: Path) -> None:
    rows = 30_000
    with open(folder / "in.jsonl", "w") as file:
        for n in range(rows):
            file.write(json.dumps({"scope": "s", "entity": "n", "id": f"{n:06}", "data": {"n": n}}) + "\n")
    arguments = [sys.executable, "-m", "syncline.cli", "import", "in.jsonl", "new.db", "--create"]
    process = subprocess.Popen(arguments, cwd=folder, env=PLAIN)
    until = time.monotonic() + 60
    while not (folder / "in.jsonl.imported").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert (folder / "in.jsonl.imported").exists()
    came = json.loads((folder / "in.jsonl.imported").read_text())["lines"]
    assert 0 < came < rows
    assert "--restart" in refused(folder, "import", "in.jsonl", "other.db", "--create", status=1)
    (told,) = lines(folder, "import", "in.jsonl", "new.db")
    assert told == {"rows": rows - came, "lines": rows}
    with syncline.Engine(folder / "new.db", read_only=True) as engine:
        assert engine.stats().documents == rows
        assert engine.snapshot("s").data["n"]["029999"] == {"n": 29999}


def test_import_goes_through_the_server_that_has_the_database(folder: Path) -> None:
    (folder / "in.jsonl").write_text(
        '{"entity": "n", "id": "1", "data": {"at": {"$date": "2026-01-31T12:00:00Z"}}}\n'
    )
    with serving(folder, "notes:engine", "--token-file", "tokens", "--operator", "ada") as url:
        done(folder, "import", "in.jsonl", "--url", url, "--token", "t0ken", "--scope", "list:9")
        assert "entity" not in done(folder, "get", "notes.db", "list:9", "n", "1")
    assert contents(folder / "notes.db")["list:9"]["n"]["1"]["at"].year == 2026


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ("[]", "map"),
        ('{"entity": "n", "id": "1", "data": {}}', "scope"),
        ('{"scope": "s", "entity": "n", "id": 1, "data": {}}', "id"),
        ('{"scope": "s", "entity": "n", "id": "1"}', "data"),
        ('{"scope": "s", "entity": "n", "id": "1", "data": []}', "data"),
        ('{"scope": "_s", "entity": "n", "id": "1", "data": {}}', "_s"),
    ],
)
def test_a_line_that_is_no_document_is_named(folder: Path, line: str, said: str) -> None:
    good = '{"scope": "s", "entity": "n", "id": "1", "data": {}}\n'
    (folder / "in.jsonl").write_text(good + line + "\n")
    ran = command(folder, "import", "in.jsonl", "new.db", "--create")
    assert ran.returncode in (1, 2)
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr


# --------------------------------------------------------------------------------------------- over the wire


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with syncline.Engine(":memory:") as engine:
        yield engine


@pytest.mark.parametrize("name", list(admin.COMMANDS))
def test_no_command_runs_unless_the_hook_allows_it(engine: syncline.Engine, name: str) -> None:
    path = admin.path_of(name)
    hooks: dict[str, Any] = {
        "authenticate": lambda request: request.token,
        "authorize": lambda user, action, scope: True,
    }
    asked: list[tuple[str, str]] = []

    def ada_only(user: str, command: str) -> bool:
        asked.append((user, command))
        return user == "ada"

    def post(token: str, **more: Any) -> int:
        sent = {"Authorization": f"Bearer {token}"} if token else {}
        return engine.handle("POST", path, sent, b"{}", **hooks, **more).status

    assert post("ada") == 404
    assert post("", admin=ada_only) == 401
    assert asked == []
    assert post("eve", admin=ada_only) == 403
    assert post("ada", admin=ada_only) in (200, 400, 404)
    assert post("ada", admin=lambda user, command: None) == 500
    assert asked == [("eve", name), ("ada", name)]
    assert engine.handle("GET", path, {}, b"", **hooks, admin=ada_only).status == 405


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"unknown": 1}', b'{"keep_seconds": "x"}', b'{"keep_after": 1.5}']
)
def test_wrong_arguments_of_a_command_are_refused(engine: syncline.Engine, body: bytes) -> None:
    answer = engine.handle(
        "POST",
        "/_sync/admin/compact",
        {},
        body,
        authenticate=lambda request: "ada",
        authorize=lambda user, action, scope: True,
        admin=lambda user, command: True,
    )
    assert answer.status == 400, answer.body
    assert json.loads(answer.body)["error"]["code"] == "invalid_request"
