"""The JavaScript client's logic in Node, and the vectors that hold it to the engine, which are held here.

`python tests/python/test_client_vectors.py` records draws.json and queries.json anew, from the real engine.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import syncline
from syncline import _core

ROOT = Path(__file__).resolve().parents[2]
VECTORS = ROOT / "tests" / "vectors"
TS = "2026-01-02T03:04:05.678901Z"


def draw(seed: int) -> dict[str, Any]:
    """What a mutator draws, in an order that tests/browser/values.test.mjs has too."""
    drawn: dict[str, Any] = {}
    mutators = syncline.Mutators()

    @mutators("draw")
    def run(tx: syncline.Tx, args: object) -> None:
        some = tx.random
        drawn.update(random=some.random(), uuid=tx.uuid(), randrange=some.randrange(10))
        drawn.update(wide=some.randrange(5, 2**40), randint=some.randint(1, 6), choice=some.choice("abc"))
        drawn.update(uniform=some.uniform(-1, 1), bits=some.getrandbits(60))
        shuffled = list(range(8))
        some.shuffle(shuffled)
        drawn.update(shuffled=shuffled, now=tx.now)

    mutation = {"name": "draw", "args": None, "client_id": "c", "client_seq": 1, "scope": "s"}
    with syncline.Engine(":memory:", mutators=mutators) as engine:
        (result,) = engine.push([{**mutation, "ts": TS, "seed": seed}], user="ada")
        result.raise_for_error()
    return drawn


def value_of(parsed: Any) -> Any:
    """The value that JSON of the protocol means, in which operators may stand."""
    if isinstance(parsed, list):
        return [value_of(one) for one in parsed]
    if isinstance(parsed, dict):
        if len(parsed) == 1 and next(iter(parsed)) in ("$date", "$binary", "$numberLong", "$numberDouble"):
            return _core.json_decode(json.dumps(parsed).encode())
        return {key: value_of(one) for key, one in parsed.items()}
    return parsed


def answers(documents: dict[str, Any], queries: list[dict[str, Any]]) -> list[list[str]]:
    with syncline.Engine(":memory:", mutators=syncline.Mutators()) as engine:
        with engine.write("s") as tx:
            for id, document in documents.items():
                tx.set("any", id, value_of(document))
        with engine.read("s") as view:
            return [
                [
                    id
                    for id, _ in view.find(
                        "any", value_of(one["filter"]), sort=sort_of(one.get("sort")), limit=one.get("limit")
                    )
                ]
                for one in queries
            ]


def sort_of(sort: Any) -> Any:
    """Pairs are tuples in Python."""
    if isinstance(sort, list):
        return [tuple(one) if isinstance(one, list) else one for one in sort]
    return sort


def record() -> None:
    path = VECTORS / "draws.json"
    about = "What tx.random, tx.uuid() and tx.now give a mutator with this seed and ts, drawn in this order."
    seeds = [0, 1, 42, 2**53 + 1, 2**64 - 1]
    cases = [{"seed": seed, "ts": TS, "drawn": draw(seed)} for seed in seeds]
    encoded = json.loads(_core.json_encode({"about": about, "cases": cases}))
    path.write_text(json.dumps(encoded, indent=1) + "\n", encoding="utf-8")
    path = VECTORS / "queries.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    for one, ids in zip(told["queries"], answers(told["documents"], told["queries"]), strict=True):
        one["ids"] = ids
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def test_the_engine_draws_what_the_vectors_say() -> None:
    told = _core.json_decode((VECTORS / "draws.json").read_bytes())
    assert isinstance(told, dict)
    for case in told["cases"]:
        assert isinstance(case["drawn"]["now"], datetime)
        assert draw(case["seed"]) == case["drawn"]


def test_the_engine_finds_what_the_vectors_say() -> None:
    told = json.loads((VECTORS / "queries.json").read_text(encoding="utf-8"))
    assert answers(told["documents"], told["queries"]) == [one["ids"] for one in told["queries"]]
    for one in told["refused"]:
        with pytest.raises(syncline.InvalidRequest):
            answers(told["documents"], [one])


@pytest.mark.slow
def test_the_logic_of_the_javascript_client_in_node() -> None:
    node = shutil.which("node")
    assert node, "there is no node; install Debian's or Ubuntu's nodejs, 18 or newer"
    files = sorted((ROOT / "tests" / "browser").glob("*.test.mjs"))
    assert files
    done = subprocess.run(
        [node, "--test", *map(str, files)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_npm_package_is_the_client_with_its_types(tmp_path: Path) -> None:
    folder = ROOT / "python" / "syncline" / "web"
    package = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    assert package["version"] == syncline.__version__
    assert package["files"] == ["client.js", "client.d.ts"]
    named = {package["main"], package["types"], *package["exports"]["."].values()}
    assert {name.removeprefix("./") for name in named} == set(package["files"])
    assert all((folder / name).is_file() for name in package["files"])
    assert "dependencies" not in package
    npm = shutil.which("npm")
    if npm is not None:  # Debian's nodejs comes without it
        done = subprocess.run(
            [npm, "pack", "--json", "--offline", "--pack-destination", str(tmp_path), str(folder)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        (packed,) = json.loads(done.stdout)
        assert {one["path"] for one in packed["files"]} == {"package.json", *package["files"]}


@pytest.mark.slow
def test_the_types_name_what_the_module_has() -> None:
    folder = ROOT / "python" / "syncline" / "web"
    types = (folder / "client.d.ts").read_text(encoding="utf-8")
    script = """
    import * as client from CLIENT;
    const replica = await client.Replica.open({url: "http://127.0.0.1:9", scope: "s", mutators: {},
      indexedDB: null, start: false});
    const members = Object.getOwnPropertyNames(client.Replica.prototype);
    const own = Object.keys(replica);
    await replica.close();
    console.log(JSON.stringify({members: [...members, ...own], exports: Object.keys(client)}));
    """.replace("CLIENT", json.dumps((folder / "client.js").as_uri()))
    node = shutil.which("node")
    assert node
    done = subprocess.run(
        [node, "--input-type=module", "-e", script], capture_output=True, text=True, check=True, timeout=30
    )
    told = json.loads(done.stdout)
    _, _, described = types.partition("export class Replica")
    for member in told["members"]:
        if member != "constructor":
            assert re.search(rf"^  (readonly )?{member}\b", described, re.M), member
    for name in re.findall(r"^export (?:class|function) (\w+)", types, re.M):
        assert name in told["exports"], name


if __name__ == "__main__":
    record()
    sys.exit()
