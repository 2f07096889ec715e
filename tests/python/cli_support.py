"""Runs the `syncline` command as users run it: as a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLAIN = {**os.environ, "PYTHONUNBUFFERED": "1", "TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"}


def command(
    folder: Path, *arguments: str, stdin: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Without a terminal; what it said and its exit status."""
    return subprocess.run(
        [sys.executable, "-m", "syncline.cli", *arguments],
        cwd=folder,
        input=stdin if stdin is not None else "",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**PLAIN, **environment},
    )


def done(folder: Path, *arguments: str, **environment: str) -> str:
    """Standard output of one that must go well."""
    ran = command(folder, *arguments, **environment)
    assert ran.returncode == 0, (arguments, ran.stdout, ran.stderr)
    assert "Traceback" not in ran.stderr
    return ran.stdout


def lines(folder: Path, *arguments: str, **environment: str) -> list[dict[str, Any]]:
    """The objects that it wrote with --json."""
    return [json.loads(line) for line in done(folder, *arguments, "--json", **environment).splitlines()]


def refused(folder: Path, *arguments: str, status: int, **environment: str) -> str:
    """Standard error of one that must fail with that status, in a sentence."""
    ran = command(folder, *arguments, **environment)
    assert ran.returncode == status, (arguments, ran.returncode, ran.stdout, ran.stderr)
    assert "Traceback" not in ran.stderr
    assert ran.stderr.strip()
    return ran.stderr


@contextlib.contextmanager
def serving(
    folder: Path, *arguments: str, stop: signal.Signals = signal.SIGTERM, fails: str = ""
) -> Iterator[str]:
    """The URL of `syncline serve`. Afterwards it was told to stop, and must have ended with 0; a traceback is
    in its log only for a mutator that fails, named so."""
    process = subprocess.Popen(
        [sys.executable, "-m", "syncline.cli", "serve", *arguments, "--port", "0"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=PLAIN,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        line = process.stdout.readline()
        found = re.search(r"http://[^ ,]+", line)
        assert found, (line, process.stderr.read())
        yield found.group()
    finally:
        process.send_signal(stop)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert ("Traceback" in said) is bool(fails), said
    assert fails in said
