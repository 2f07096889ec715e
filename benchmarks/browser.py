"""What the JavaScript client costs, in Node and in Chromium, beside npm's replicache.

    python benchmarks/browser.py [--quick] [--no-replicache]

Needs Node and Chromium (SYNCLINE_CHROMIUM names another). replicache and esbuild are fetched from the npm
registry into a temporary folder for this run; without npm, or with --no-replicache, its rows stay empty.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import syncline
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "python"))

from browser_support import PageServer, launch, open_app  # noqa: E402
from playwright.sync_api import Page, sync_playwright  # noqa: E402

HERE = Path(__file__).parent
CLIENT = ROOT / "python" / "syncline" / "web" / "client.js"
PAGE = b"<!doctype html><title>bench</title><link rel=icon href=data:,>"


def fetch_replicache(folder: Path) -> Path | None:
    """One module of it, with all it needs."""
    npm = shutil.which("npm")
    if npm is None:
        return None
    (folder / "entry.js").write_text(
        'export { Replicache, TEST_LICENSE_KEY } from "replicache";\n', encoding="utf-8"
    )
    quiet: dict[str, Any] = {"cwd": folder, "check": True, "capture_output": True}
    subprocess.run([npm, "install", "--no-audit", "--no-fund", "replicache@15", "esbuild"], **quiet)
    bundle = ["entry.js", "--bundle", "--format=esm", "--outfile=replicache.js", "--log-level=error"]
    subprocess.run([str(folder / "node_modules" / ".bin" / "esbuild"), *bundle], **quiet)
    return folder / "replicache.js"


def in_node(module: Path, function: str, options: dict[str, Any]) -> dict[str, float]:
    program = f"""
    import * as bench from {json.dumps((HERE / "browser.mjs").as_uri())};
    import * as client from {json.dumps(module.as_uri())};
    console.log(JSON.stringify(await bench.{function}(client, {json.dumps(options)})));
    process.exit(0);
    """
    node = shutil.which("node") or "node"
    done = subprocess.run([node, "--input-type=module", "-e", program], check=True, capture_output=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def in_page(page: Page, module: str, function: str, options: dict[str, Any]) -> dict[str, float]:
    told = page.evaluate(
        """async ([module, name, options]) =>
          (await import("/browser.mjs"))[name](await import(module), options)""",
        [module, function, options],
    )
    return dict(told)


def medians(runs: int, measure: Any) -> dict[str, float]:
    measure()  # for the compilers on the way
    told = [measure() for _ in range(runs)]
    return {name: statistics.median(one[name] for one in told) for name in told[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run; its figures mean nothing")
    parser.add_argument("--no-replicache", action="store_true", help="fetch nothing")
    options = parser.parse_args()
    runs = 1 if options.quick else 5
    count = 500 if options.quick else 10_000
    documents = 1000 if options.quick else 10_000
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="syncline-bench-") as name, sync_playwright() as playwright:
        folder = Path(name)
        replicache = None if options.no_replicache else fetch_replicache(folder)
        engine = syncline.Engine(folder / "bench.db", mutators=syncline.Mutators())
        with engine.write("s") as tx:
            for n in range(documents):
                tx.set(
                    "doc", f"doc-{n:06}", {"title": f"document number {n}", "text": "x" * 140, "done": False}
                )
        script = "text/javascript"
        pages: dict[str, tuple[str, bytes | Path]] = {
            "/": ("text/html", PAGE),
            "/browser.mjs": (script, HERE / "browser.mjs"),
        }
        if replicache is not None:
            pages["/replicache.js"] = (script, replicache)
        table = Table("", "Syncline", "replicache", "ratio")

        def row(what: str, ours: float, theirs: float | None) -> None:
            beside = ("", "") if theirs is None else (f"{theirs:,.0f}", f"{ours / theirs:.1f}")
            table.add_row(what, f"{ours:,.0f}", *beside)

        asked: dict[str, Any] = {"count": count, "memory": True}
        ours = medians(runs, lambda: in_node(CLIENT, "mutateSyncline", asked))
        theirs = replicache and medians(runs, lambda: in_node(replicache, "mutateReplicache", asked))
        row("mutations/s until visible, Node, in memory", ours["visible"], theirs and theirs["visible"])
        replay = in_node(CLIENT, "rebase", {})
        with PageServer(lambda: open_app(engine), pages=pages) as server:
            browser = launch(playwright)
            page = browser.new_page()
            page.goto(server.url)
            for memory in (True, False):
                asked = {"count": count, "memory": memory}
                kept = "in memory" if memory else "IndexedDB"
                ours = medians(runs, lambda a=asked: in_page(page, "/_sync/client.js", "mutateSyncline", a))
                theirs = replicache and medians(
                    runs, lambda a=asked: in_page(page, "/replicache.js", "mutateReplicache", a)
                )
                row(
                    f"mutations/s until visible, Chromium, {kept}",
                    ours["visible"],
                    theirs and theirs["visible"],
                )
                if not memory:
                    row("mutations/s until durable, Chromium, IndexedDB", ours["durable"], None)
            asked = {"documents": documents, "scope": "s"}
            first = medians(runs, lambda: in_page(page, "/_sync/client.js", "firstSync", asked))
            browser.close()
        console.print(table)
        console.print(
            f"first sync of {documents:,} documents of 200 B in Chromium: shown after {first['shown']:,.0f} "
            f"ms, done after {first['synced']:,.0f}; opened again from the disk in {first['reopened']:,.0f}"
        )
        console.print(
            f"100 pending over a pull of 1,000 changes, Node: {replay['median']:.1f} ms, "
            f"at worst {replay['worst']:.1f}"
        )


if __name__ == "__main__":
    main()
