"""The documents say what the code does: every Python example in them is run, and the site builds without a
warning.

A document is run as a reader would type it. A block with a title is a file of that name; a shell block titled
"in a terminal of its own" is a server that goes on beside the rest, on port 8000 (the test takes a free one),
one titled "run" is commands that must succeed; what a comment after a print says is what it prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import syncline

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r'python title="([\w./-]+\.py)"')
SERVER = 'sh title="in a terminal of its own"'
COMMANDS = 'sh title="run"'
PRINTED = re.compile(r"^[^#\n]*\bprint\(.*\)[^\n#]*  +# (.+)$", re.MULTILINE)
# What a page may show beside Python; `python no-run`, which needs a server, is the README's. `js` is run by
# test_docs_javascript.py.
SHOWN = {"", "sh", "html", "text", "json", "sql", "ini", "nginx", "toml", "python no-run", "js", "js no-run"}


class Document(NamedTuple):
    program: str
    files: dict[str, str]
    server: str | None


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def read(path: Path, port: int) -> Document:
    program, files, server = [], {}, None
    for kind, text in BLOCK.findall(path.read_text()):
        text = text.replace("8000", str(port))
        if kind == "python":
            program.append(text)
        elif named := FILE.fullmatch(kind):
            files[named[1]] = text
        elif kind == COMMANDS:
            command = ["bash", "-euc", text]
            program += [f"import subprocess; subprocess.run({command!r}, check=True)"]
        elif kind == SERVER:
            assert server is None, "one server a document"
            server = text
        else:
            assert kind in SHOWN, f"```{kind} is none of the blocks that this test knows"
    return Document("\n\n".join(program), files, server)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def environment() -> dict[str, str]:
    """That of a reader with the package's commands on the path."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@contextlib.contextmanager
def serving(command: str, folder: Path, port: int) -> Iterator[None]:
    said = folder / "server.log"
    with (
        said.open("w") as log,
        subprocess.Popen(
            shlex.split(command), cwd=folder, env=environment(), stdout=log, stderr=subprocess.STDOUT
        ) as server,
    ):
        try:
            until = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert server.poll() is None, said.read_text()
                assert time.monotonic() < until, f"{command} does not listen: {said.read_text()}"
                time.sleep(0.05)
            yield
        finally:
            server.terminate()


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_python_example_of_a_document_runs_and_prints_what_it_says(path: Path, tmp_path: Path) -> None:
    port = free_port()
    document = read(path, port)
    for name, text in document.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    with serving(document.server, tmp_path, port) if document.server else contextlib.nullcontext():
        run = subprocess.run(
            [sys.executable, "-c", document.program],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
    assert run.returncode == 0, run.stderr
    printed = iter(run.stdout.splitlines())
    for promised in PRINTED.findall(document.program):
        assert promised in printed, f"{promised!r} is not printed, or not in this order:\n{run.stdout}"


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_of_a_document_is_used_by_it(path: Path) -> None:
    document = read(path, 8000)
    for name in document.files.keys() - {"conftest.py"}:  # that one is pytest's
        others = [text for other, text in document.files.items() if other != name]
        used = "\n".join([document.program, document.server or "", *others])
        assert re.search(rf"\b{Path(name).stem}\b", used), f"{name} is written and never run"


def test_every_json_example_of_the_protocol_is_in_a_golden_vector() -> None:
    known = []
    for flow in (ROOT / "tests" / "vectors" / "flows").glob("*.json"):
        for step in json.loads(flow.read_text())["steps"]:
            known += [step.get(side, {}).get("json") for side in ("request", "answer")]
    for path in (ROOT / "docs" / "protocol").glob("*.md"):
        for kind, text in BLOCK.findall(path.read_text()):
            assert kind != "json" or json.loads(text) in known, f"{path.name} shows what no flow has:\n{text}"


def test_every_error_is_explained() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    missing = [name for name in syncline.errors.__all__ if name[0].isupper() and name not in page]
    assert missing == []


def test_every_test_that_the_architecture_names_exists() -> None:
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("*_test.cpp"))
    tests += "\n".join(path.read_text() for path in (ROOT / "tests" / "python").glob("test_*.py"))
    table = (
        (ROOT / "docs" / "architecture.md").read_text().partition("## Invariants")[2].partition("\n## ")[0]
    )
    named = re.findall(r"`(\w+)`", table.replace("`tests/python`", ""))
    assert len(named) > 20
    assert [name for name in named if not re.search(rf"\b{name}\b", tests)] == []


def test_every_source_that_the_architecture_names_exists() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:src|python|tests)/[\w/.]+)`", page)
    assert len(named) > 20
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "mkdocs",
            "build",
            "--strict",
            "--quiet",
            "--site-dir",
            str(tmp_path / "site"),
        ],
        cwd=ROOT,
        env={**environment(), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stderr
    assert (tmp_path / "site" / "index.html").exists()
