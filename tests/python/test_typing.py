"""The types that users see are those that tests/typing says."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_types_of_the_api_are_what_they_were() -> None:
    folder = ROOT / "tests" / "typing"
    if not folder.exists():
        pytest.skip("the sdist has no typing tests")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--config-file",
            ROOT / "pyproject.toml",
            *sorted(folder.glob("*.py")),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
