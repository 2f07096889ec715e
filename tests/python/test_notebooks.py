"""The notebooks run from the top to the bottom, and are committed without what running them made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

if not NOTEBOOKS:
    pytest.skip("the notebooks are not part of this distribution", allow_module_level=True)


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Matplotlib's folder with its list of fonts, which it would announce on stderr where making it takes
    long."""
    folder = tmp_path_factory.mktemp("matplotlib")
    command = [sys.executable, "-c", "import matplotlib.font_manager"]
    subprocess.run(command, env={**os.environ, "MPLCONFIGDIR": str(folder)}, capture_output=True, check=True)
    return folder


@pytest.fixture(autouse=True)
def _a_home_of_its_own(tmp_path: Path, fonts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jupyter, IPython and matplotlib leave files behind; the kernel is this interpreter, whatever is
    installed."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(
        json.dumps(
            {
                "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
                "display_name": "Python 3",
                "language": "python",
            }
        )
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("MPLCONFIGDIR", str(fonts))


def run(name: str, folder: Path) -> list[Any]:
    """Executes a notebook in `folder`; returns the outputs of all its cells."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    client = NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(folder)}})
    client.execute()
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def kinds(outputs: list[Any]) -> list[str]:
    """The richest form of each output; nothing may have been said on the error stream."""
    said = [output for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    assert said == []
    shown = [output.data for output in outputs if output.output_type in ("display_data", "execute_result")]
    return [next(k for k in ("image/png", "text/html", "text/plain") if k in data) for data in shown]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_quickstart_comes_to_two_clients_that_agree(tmp_path: Path) -> None:
    shown = kinds(run("quickstart", tmp_path))
    assert shown.count("image/png") == 1
    assert shown.count("text/html") >= 8


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_flights_are_explored_on_a_database_of_the_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = tmp_path / "flights.db"
    done = subprocess.run(
        [sys.executable, "examples/flights/demo.py", "--rows", "2000", "--database", str(database)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    monkeypatch.setenv("FLIGHTS_DATABASE", str(database))
    shown = kinds(run("flights", tmp_path))
    assert shown.count("image/png") == 5
    assert shown.count("text/html") >= 4
