"""Tables of the log and the documents say what the engine says, and what a notebook shows is safe and
short."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
import syncline
from syncline import explore

WHEN = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=timezone.utc)

mutators = syncline.Mutators()


@mutators("set")
def put(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.set(args["entity"], args["id"], args["data"])


@mutators("drop")
def drop(tx: syncline.Tx, args: dict[str, Any]) -> None:
    tx.delete(args["entity"], args["id"])


@mutators("fail")
def fail(tx: syncline.Tx, args: dict[str, Any]) -> None:
    raise syncline.Rejected(args["message"], code="no_way")


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with syncline.Engine(":memory:", mutators=mutators) as made:
        yield made


def filled(engine: syncline.Engine) -> None:
    """Ten documents by a client, two updates, a deletion; then one by backend code in another scope."""
    for number in range(10):
        push(engine, number + 1, "set", id=f"d{number}", data={"n": number, "when": WHEN})
    push(engine, 11, "set", id="d0", data={"n": 100, "when": WHEN})
    push(engine, 12, "set", id="d1", data={"n": None})
    push(engine, 13, "drop", id="d2")
    with engine.write("other", user="grace") as tx:
        tx.set("task", "x", {"n": 7})


def push(engine: syncline.Engine, seq: int, name: str, entity: str = "task", **args: Any) -> syncline.Result:
    mutation = {
        "name": name,
        "args": {"entity": entity, **args},
        "client_id": "c",
        "client_seq": seq,
        "scope": "s",
        "ts": WHEN,
    }
    return engine.push([mutation], user="ada")[0]


# ---------------------------------------------------------------------------------------------------- the log


def test_the_log_is_a_typed_table_with_dictionaries_for_what_repeats(engine: syncline.Engine) -> None:
    filled(engine)
    table = explore.log(engine).arrow()
    names = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    instant = pyarrow.timestamp("us", "UTC")
    assert {field.name: field.type for field in table.schema} == {
        "cursor": pyarrow.int64(),
        "scope": names,
        "entity": names,
        "id": pyarrow.string(),
        "op": names,
        "version": pyarrow.int64(),
        "previous": pyarrow.int64(),
        "ts": instant,
        "user": names,
        "client_id": names,
        "client_seq": pyarrow.int64(),
        "mutation": names,
        "mutation_ts": instant,
        "hash": pyarrow.uint64(),
    }
    table.validate(full=True)
    rows = table.to_pylist()
    assert [row["cursor"] for row in rows] == list(range(1, 15))
    assert [row["op"] for row in rows] == ["create"] * 10 + ["update"] * 2 + ["delete", "create"]
    assert {**rows[10], "ts": None, "hash": None} == {
        "cursor": 11,
        "scope": "s",
        "entity": "task",
        "id": "d0",
        "op": "update",
        "version": 2,
        "previous": 1,
        "ts": None,
        "user": "ada",
        "client_id": "c",
        "client_seq": 11,
        "mutation": "set",
        "mutation_ts": WHEN,
        "hash": None,
    }
    assert (rows[12]["hash"], rows[12]["version"]) == (0, 3 - 1)
    by_hand = rows[13]
    assert (by_hand["user"], by_hand["client_id"], by_hand["mutation"]) == ("grace", None, None)
    assert by_hand["client_seq"] == 0


def test_the_log_in_pandas_has_categories_and_times_in_utc(engine: syncline.Engine) -> None:
    filled(engine)
    frame = explore.log(engine, changed=True).pandas()
    assert len(frame) == 14
    assert isinstance(frame["op"].dtype, pandas.CategoricalDtype)
    assert isinstance(frame["changed"].dtype, pandas.CategoricalDtype)
    assert frame["cursor"].dtype == "int64"
    assert frame["ts"].dt.tz is not None
    assert frame["op"].value_counts().to_dict() == {"create": 11, "update": 2, "delete": 1}
    assert frame["changed"].dropna().tolist() == ["n", "n, when"]
    assert frame["mutation_ts"].iloc[0] == pandas.Timestamp(WHEN)


def test_a_table_is_the_same_in_batches_of_any_size(engine: syncline.Engine) -> None:
    filled(engine)
    whole = explore.log(engine).arrow().to_pylist()
    for rows in (1, 3, 8):
        batches = list(explore.log(engine, batch_rows=rows).batches())
        assert [len(one) for one in batches] == [min(rows, 14 - at) for at in range(0, 14, rows)]
        assert pyarrow.Table.from_batches(batches).to_pylist() == whole
        frame = explore.log(engine, batch_rows=rows).pandas()
        assert frame["user"].tolist() == [row["user"] for row in whole[:-1]] + ["grace"]


def test_an_empty_table_has_its_columns(engine: syncline.Engine) -> None:
    assert explore.log(engine).arrow().num_rows == 0
    assert list(explore.log(engine).pandas().columns)[:3] == ["cursor", "scope", "entity"]
    assert list(explore.documents(engine).pandas().columns)[:3] == ["_scope", "_entity", "_id"]


def test_the_log_takes_only_what_was_asked_for(engine: syncline.Engine) -> None:
    filled(engine)

    def cursors(**asked: Any) -> list[int]:
        found: list[int] = explore.log(engine, **asked).arrow()["cursor"].to_pylist()
        return found

    assert cursors(since=3, through=5) == [4, 5]
    assert cursors(scope="other") == [14]
    assert cursors(scope="s", entity="task", id="d0") == [1, 11]
    assert cursors(client_id="c", since=12) == [13]
    assert cursors(since=datetime.now(timezone.utc)) == []
    assert cursors(through=datetime.now(timezone.utc), newest_first=True, limit=2) == [14, 13]
    assert cursors(scope="nowhere") == []


def test_the_table_of_the_log_has_the_lines_of_the_log(engine: syncline.Engine) -> None:
    filled(engine)
    for asked in (
        {},
        {"scope": "s"},
        {"newest_first": True, "limit": 5},
        {"scope": "s", "entity": "task", "id": "d0"},
    ):
        rows = explore.log(engine, batch_rows=3, **asked).arrow().to_pylist()
        lines = list(engine.log(**asked))
        assert len(rows) == len(lines) > 0
        for row, line in zip(rows, lines, strict=True):
            wanted = {name: getattr(line, name) for name in row}
            assert row == {**wanted, "client_seq": line.client_seq or 0}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"since": -1}, syncline.InvalidRequest),
        ({"since": "1"}, syncline.InvalidRequest),
        ({"since": 10**9}, syncline.InvalidRequest),
        ({"limit": -1}, syncline.InvalidRequest),
        ({"scope": ""}, syncline.InvalidRequest),
        ({"scope": "a\nb"}, syncline.InvalidScope),
        ({"entity": "a\0b"}, syncline.InvalidRequest),
        ({"batch_rows": 0}, syncline.UsageError),
        ({"batch_rows": 1 << 30}, syncline.UsageError),
    ],
)
def test_what_cannot_be_asked_of_a_table_is_refused(
    engine: syncline.Engine, wrong: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        explore.log(engine, **wrong).arrow()


# -------------------------------------------------------------------------------------------------- history


def test_the_history_of_a_document_is_a_table_of_its_versions(engine: syncline.Engine) -> None:
    push(engine, 1, "set", id="d", data={"n": 1, "in": {"x": "a"}})
    push(engine, 2, "set", id="d", data={"n": 2.5})
    push(engine, 3, "drop", id="d")
    push(engine, 4, "set", id="d", data={"n": None, "late": True})
    for rows in (1, 2, 100):
        table = explore.history(engine, "s", "task", "d", batch_rows=rows).arrow()
        table.validate(full=True)
        assert table["_version"].to_pylist() == [4, 3, 2, 1]
        assert table["_op"].to_pylist() == ["create", "delete", "update", "create"]
        assert table["_cursor"].to_pylist() == [4, 3, 2, 1]
        assert set(table["_user"].to_pylist()) == {"ada"}
        assert table["n"].to_pylist() == [None, None, 2.5, 1.0]
        assert table["in.x"].to_pylist() == [None, None, None, "a"]
        assert table["late"].to_pylist() == [True, None, None, None]
    frame = explore.history(engine, "s", "task", "d").pandas()
    assert frame["late"].tolist() == [True, pandas.NA, pandas.NA, pandas.NA]


def test_the_history_of_nothing_is_refused(engine: syncline.Engine) -> None:
    with pytest.raises(syncline.NotFound):
        explore.history(engine, "s", "task", "d").arrow()
    with pytest.raises(syncline.InvalidScope):
        explore.history(engine, "", "task", "d").pandas()


def test_versions_that_come_while_a_history_is_read_do_not_disturb_it(engine: syncline.Engine) -> None:
    for number in range(5):
        push(engine, number + 1, "set", id="d", data={"n": number})
    reader = explore.history(engine, "s", "task", "d", batch_rows=2).batches()
    push(engine, 6, "set", id="d", data={"n": "text", "more": 1})
    assert reader.read_all()["n"].to_pylist() == [4, 3, 2, 1, 0]


# ------------------------------------------------------------------------------------------------ documents


def test_documents_become_typed_columns(engine: syncline.Engine) -> None:
    documents = {
        "1": {
            "n": 1,
            "f": 1.5,
            "s": "a",
            "b": b"\0",
            "t": WHEN,
            "y": True,
            "in": {"x": {"y": 1}},
            "l": [1, "x"],
            "m": 1,
        },
        "2": {"n": None, "f": 2, "in": {"x": {}}, "l": [], "m": "1", "a.b": 3, "_id": 4, "big": 2**64 - 1},
    }
    with engine.write("s") as tx:
        for id, document in documents.items():
            tx.set("thing", id, document)
    table = explore.documents(engine, "s", "thing").arrow()
    table.validate(full=True)
    types = {field.name: field.type for field in table.schema if not field.name.startswith("_")}
    assert types == {
        r"\_id": pyarrow.int64(),
        r"a\.b": pyarrow.int64(),
        "b": pyarrow.binary(),
        "big": pyarrow.uint64(),
        "f": pyarrow.float64(),
        "in.x.y": pyarrow.int64(),
        "l": pyarrow.string(),
        "m": pyarrow.string(),
        "n": pyarrow.int64(),
        "s": pyarrow.string(),
        "t": pyarrow.timestamp("us", "UTC"),
        "y": pyarrow.bool_(),
    }
    assert table.schema.field("l").metadata == {b"syncline:encoding": b"json"}
    first, second = table.to_pylist()
    assert (first["_scope"], first["_entity"], first["_id"], first["_version"]) == ("s", "thing", "1", 1)
    assert (first["l"], first["m"], second["m"], second["big"]) == ('[1,"x"]', "1", '"1"', 2**64 - 1)
    assert (first["b"], first["t"], first["y"], first["in.x.y"]) == (b"\0", WHEN, True, 1)
    assert (second["n"], second["in.x.y"], second["f"], second[r"a\.b"]) == (None, None, 2.0, 3)


def test_no_integer_becomes_a_float_in_pandas(engine: syncline.Engine) -> None:
    with engine.write("s") as tx:
        tx.set("thing", "1", {"n": 2**62 + 1, "y": True, "k": 5, "u": 2**64 - 1})
        tx.set("thing", "2", {"k": 6})
    frame = explore.documents(engine).pandas()
    assert frame["n"].tolist() == [2**62 + 1, pandas.NA]
    assert [str(frame[name].dtype) for name in ("k", "n", "u", "y")] == [
        "int64",
        "Int64",
        "UInt64",
        "boolean",
    ]
    assert list(frame.columns)[-4:] == ["k", "n", "u", "y"]


def test_documents_are_those_that_a_view_gives(engine: syncline.Engine) -> None:
    filled(engine)
    frame = explore.documents(engine, "s", "task", fields=["n"], filter={"n": {"$gte": 5}}).pandas()
    with engine.read("s") as view:
        wanted = {id: data["n"] for id, data in view.find("task", {"n": {"$gte": 5}})}
    assert dict(zip(frame["_id"], frame["n"], strict=True)) == wanted
    assert list(frame.columns)[7:] == ["n"]
    both = explore.documents(engine, ["s", "other"]).arrow()
    assert both.num_rows == explore.documents(engine).arrow().num_rows == 10


def test_too_many_columns_are_refused_with_advice(engine: syncline.Engine) -> None:
    with engine.write("s") as tx:
        tx.set("thing", "1", {f"f{n}": n for n in range(257)})
    with pytest.raises(syncline.TooLarge, match="fields="):
        explore.documents(engine).arrow()
    assert explore.documents(engine, fields=["f1"]).arrow().num_columns == 8
    with pytest.raises(syncline.UsageError, match=r"fields=\['f1'\]"):
        explore.documents(engine, fields="f1")
    with pytest.raises(syncline.InvalidScope):
        explore.documents(engine, [])
    with pytest.raises(syncline.InvalidRequest):
        explore.documents(engine, filter={"n": {"$regex": "x"}})


# -------------------------------------------------------------------------------------------------- protocol


def test_whoever_speaks_the_arrow_protocol_takes_a_table_as_it_is(engine: syncline.Engine) -> None:
    filled(engine)
    table = explore.log(engine)
    assert pyarrow.table(table).num_rows == 14
    assert pyarrow.schema(table) == pyarrow.table(table).schema
    assert pyarrow.schema(explore.documents(engine)).field("n").type == pyarrow.int64()


def test_an_unfinished_stream_ends_with_its_engine_and_does_not_hold_it_up(engine: syncline.Engine) -> None:
    filled(engine)
    table = explore.documents(engine, batch_rows=1)
    reader = table.batches()
    assert len(reader.read_next_batch()) == 1
    engine.close()
    with pytest.raises(OSError, match="closed"):
        reader.read_next_batch()
    with pytest.raises(syncline.Closed):
        table.arrow()


def test_a_stream_may_outlive_every_other_name_of_its_engine() -> None:
    engine = syncline.Engine(":memory:", mutators=mutators)
    filled(engine)
    reader = explore.log(engine, batch_rows=5).batches()
    del engine
    with pytest.raises(OSError, match="closed"):
        reader.read_all()


def test_tables_are_read_by_many_threads_while_others_write(engine: syncline.Engine) -> None:
    filled(engine)
    failed: list[BaseException] = []

    def read() -> None:
        try:
            for _ in range(20):
                assert explore.log(engine, batch_rows=4).arrow()["cursor"].to_pylist()[:14] == list(
                    range(1, 15)
                )
                assert explore.documents(engine, "other", batch_rows=3).pandas()["n"].tolist()[0] == 7
        except BaseException as error:
            failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for one in readers:
        one.start()
    for number in range(50):
        push(engine, 14 + number, "set", id=f"d{number}", data={"n": str(number)})
    for one in readers:
        one.join()
    assert failed == []


WAITING = """
import ctypes, sys, threading, time
import syncline
from syncline import explore

class Stream(ctypes.Structure):  # of the Arrow C stream interface; PYFUNCTYPE calls with the GIL held
    _fields_ = [
        ("get_schema", ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)),
        ("get_next", ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)),
    ]

get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]

with syncline.Engine(":memory:") as engine:
    with engine.write("s") as tx:
        tx.set("task", "1", {})
    capsule = explore.log(engine).__arrow_c_stream__()
    at = get_pointer(capsule, b"arrow_array_stream")
    array = (ctypes.c_int64 * 10)()
    views = [engine.read("s") for _ in range(16)]  # every connection that there is
    answers = []
    reads = [
        lambda: answers.append(Stream.from_address(at).get_next(at, ctypes.addressof(array))),
        lambda: answers.append(explore.documents(engine).arrow().num_rows - 1),
    ]
    threads = [threading.Thread(target=read) for read in reads]
    for thread in threads:
        thread.start()
    for _ in range(30):
        time.sleep(0.01)  # never ends when a reader waits with the GIL
    assert answers == []
    for view in views:
        view.close()
    for thread in threads:
        thread.join()
    assert answers == [0, 0]
    assert array[0] == 1  # the rows of the batch
    print("done")
"""


def test_who_waits_for_a_table_lets_other_threads_go_on() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WAITING], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.strip() == "done", done.stderr


@pytest.mark.parametrize("module", ["pandas", "pyarrow"])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(module: str) -> None:
    program = (
        f"import sys; sys.modules[{module!r}] = None\n"
        "import syncline; from syncline import explore\n"
        "explore.log(syncline.Engine(':memory:')).pandas()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"needs {module}, which is missing: pip install 'syncline[explore]'" in done.stderr


def test_the_package_does_not_import_what_only_exploring_needs() -> None:
    program = "import sys, syncline, syncline.explore; print({'pandas', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_benchmark_runs(tmp_path: Path) -> None:
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "tables.py"
    if not script.exists():
        pytest.skip("the benchmarks are not part of this distribution")
    command = [sys.executable, str(script), "--lines", "2000", "--runs", "1", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "log to pandas" in done.stdout


# -------------------------------------------------------------------------------------------------- notebooks

EVIL = "<script>alert('1')</script>\"'&\u202e\x7f$\\href{javascript:alert(1)}{x}$"
TAGS = {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "code", "br"}


class Checker(HTMLParser):
    """Every tag is one of ours, with no attribute but class and style, and closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.said = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS, tag
        assert {name for name, _ in attrs} <= {"class", "style"}
        if not self.open:
            assert "mathjax_ignore" in (dict(attrs)["class"] or "")
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def shown(thing: Any) -> str:
    checker = Checker()
    source = thing._repr_html_()
    assert len(source) < 40_000
    checker.feed(source)
    checker.close()
    assert checker.open == []
    assert "\u202e" not in source
    assert "\x7f" not in source
    return checker.said


def test_what_a_client_wrote_is_shown_as_text(engine: syncline.Engine) -> None:
    evil = EVIL.replace("\x7f", "")  # names have no control characters
    result = push(engine, 1, "set", entity=evil, id=evil, data={EVIL.replace("$", ""): EVIL})
    assert result.ok
    pulled = engine.pull("s")
    for thing in (result, result.changes[0], pulled, pulled.changes[0]):
        assert "<script>alert('1')</script>" in shown(thing)
    assert "\\u{202e}" in shown(pulled.changes[0])
    refused = push(engine, 2, "fail", message=EVIL)
    assert refused.error is not None
    assert "<script>" in shown(refused)
    assert "no_way" in shown(refused)
    scope = evil[:20]
    with engine.write(scope) as tx:
        tx.set("k", "1", {"a": [EVIL]})
    with engine.read(scope) as view:
        assert "<script>" in shown(view)
    assert "finished" in shown(view)
    assert "<script>" in shown(engine.snapshot("s"))
    for line in (*engine.log(), *engine.history("s", evil, evil)):
        assert "<script>" in shown(line)
    assert "<script>" in shown(engine)


def test_what_is_large_is_shown_short(engine: syncline.Engine) -> None:
    wide = {f"field{n:03}": "x" * 1_000 for n in range(50)}
    mutations = [
        {"name": "set", "args": {"entity": "e", "id": f"{n}" * 80, "data": wide}, "scope": "s"}
        for n in range(30)
    ]
    pushed = engine.push(mutations)
    assert "… and 20 more" in shown(pushed)
    assert "Push of 30: all ok" in shown(pushed)
    pulled = engine.pull("s")
    assert "… and 20 more" in shown(pulled)
    assert "… and 38 more fields" in shown(pulled.changes[0])


def test_an_engine_shows_where_it_is_and_whether_it_is_open(tmp_path: Path) -> None:
    engine = syncline.Engine(tmp_path / "<b>.db", mutators=mutators)
    said = shown(engine)
    assert "<b>.db" in said
    assert "writing" in said
    assert "fail" in said
    with engine.write("s", user="ada") as tx:
        tx.set("task", "a", {"n": 1, "m": 1})
    with engine.write("s") as tx:
        tx.update("task", "a", {"n": [2]})
    assert "ada" in shown(engine)
    first, second = engine.log()
    assert "a direct write" in shown(first)
    assert "before" not in shown(first)
    assert "n1[2]" in shown(second)
    assert "cursor 1" in shown(engine.at(1))
    engine.close()
    assert "closed" in shown(engine)
