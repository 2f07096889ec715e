"""What is shipped: a complete sdist that builds alone, and a wheel that runs without a compiler."""

import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

USE_IT = """
import syncline

mutators = syncline.Mutators()

@mutators("todo/create")
def create(tx, args):
    tx.set("todo", args["id"], {"title": args["title"]})

engine = syncline.Engine("app.db", mutators=mutators)
args = {"id": "1", "title": "ship"}
engine.push(
    [{"name": "todo/create", "args": args, "client_id": "c", "client_seq": 1, "scope": "s"}], user="ada"
)
with engine.read("s") as view:
    print(view.get("todo", "1"))
engine.close()
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Standard output of `command`; all that it said is in the failure when it exits with other than 0."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was built from it, each in an environment made for it."""
    folder = tmp_path_factory.mktemp("dist")
    # Unpacked in a folder of its own each time; relative paths let a compiler cache know the sources again.
    unpacked = tmp_path_factory.mktemp("unpacked")
    run(
        *(sys.executable, "-m", "build", "--outdir", folder, ROOT),
        cwd=folder,
        TMPDIR=str(unpacked),
        CCACHE_BASEDIR=str(unpacked),
        CCACHE_NOHASHDIR="1",
    )
    return folder


@pytest.fixture(scope="module")
def sdist(built: Path) -> Path:
    (path,) = built.glob("syncline-*.tar.gz")
    return path


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (path,) = built.glob("syncline-*.whl")
    return path


def sources(*folders: str) -> set[str]:
    files = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {
        path.relative_to(ROOT).as_posix()
        for path in files
        if "__pycache__" not in path.parts and path.suffix != ".so"
    }


def test_sdist_has_every_source_and_nothing_else(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    top = {"CHANGELOG.md", "CMakeLists.txt", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml"}
    tests = ("tests/browser", "tests/cpp", "tests/python", "tests/vectors")
    folders = ("cmake", "docs", "python/syncline", "src", *tests)
    assert files == {"mkdocs.yml"} | top | sources(*folders)


def test_wheel_has_the_package_its_types_and_its_licence(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = set(archive.namelist())
        (metadata_name,) = (name for name in files if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(metadata_name).decode())
    package = {name for name in files if name.startswith("syncline/")}
    (core,) = (name for name in package if name.endswith(".so"))
    assert Path(core).name.startswith("_core.")
    assert package - {core} == {name.removeprefix("python/") for name in sources("python/syncline")}
    assert "syncline/py.typed" in package
    assert {name.partition("/")[0] for name in files} == {"syncline", metadata_name.partition("/")[0]}
    assert any(name.endswith("/licenses/LICENSE") for name in files)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.10"
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert required == []


def test_wheel_installs_alone_and_runs_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-index", wheel, cwd=tmp_path)
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    said = run(python, "-I", "-c", USE_IT, cwd=tmp_path, PATH=str(nothing))
    assert said.strip() == "{'title': 'ship'}"
    version = run(environment / "bin" / "syncline", "--version", cwd=tmp_path, PATH=str(nothing)).strip()
    assert wheel.name.startswith(f"syncline-{version}-")
