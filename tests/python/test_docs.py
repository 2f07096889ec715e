"""The documents say what the code does: every Python example in them is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_python_example_of_a_document_runs_in_order(document: Path, tmp_path: Path) -> None:
    """In one process a document, as a reader types them; a ```python no-run block needs a server."""
    program = "\n\n".join(EXAMPLE.findall(document.read_text()))
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr


def test_the_readme_shows_what_its_first_example_prints(tmp_path: Path) -> None:
    first = EXAMPLE.findall((ROOT / "README.md").read_text())[0]
    promised = re.search(r"# (create todo .*)$", first, re.MULTILINE)
    assert promised is not None
    run = subprocess.run(
        [sys.executable, "-c", first], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert run.stdout.strip() == promised.group(1)
