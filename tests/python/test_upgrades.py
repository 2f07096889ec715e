"""What older code wrote is read as what today's code expects, and written back in the background."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import pytest
import syncline
from hypothesis import given, settings
from hypothesis import strategies as st


def split(document: dict[str, Any]) -> dict[str, Any]:
    first, _, last = document.pop("name").partition(" ")
    return document | {"first": first, "last": last}


def cents(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"price": document["price"] * 100}


def fill(path: Path) -> None:
    with syncline.Engine(path) as engine, engine.write("s", "t") as (s, t):
        s.set("user", "ada", {"name": "Ada Lovelace", "n": 1})
        s.set("user", "bob", {"name": "Bob Builder", "n": 2})
        s.set("todo", "x", {"name": "not a user"})
        t.set("user", "eve", {"name": "Eve", "n": 3})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.db"
    fill(path)
    return path


class Held:
    """An upgrade that the background thread waits in, so that a test sees what is not yet written back."""

    def __init__(self, function: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self._function = function
        self._go = threading.Event()
        self.calls = 0

    def __call__(self, document: dict[str, Any]) -> dict[str, Any]:
        if threading.current_thread().name == "syncline-upgrade":
            self._go.wait(60)
        self.calls += 1
        return self._function(document)

    def release(self) -> None:
        self._go.set()


def upgrading(
    function: Callable[[dict[str, Any]], dict[str, Any]], entity: str = "user"
) -> syncline.Mutators:
    mutators = syncline.Mutators()
    mutators.upgrade(entity, schema=2)(function)

    @mutators("rename")
    def rename(tx: syncline.Tx, args: Any) -> None:
        tx.update("user", args["id"], {"first": args["first"]})

    @mutators("drop")
    def drop(tx: syncline.Tx, args: Any) -> None:
        tx.delete("user", args["id"])

    return mutators


ADA = {"first": "Ada", "last": "Lovelace", "n": 1}
BOB = {"first": "Bob", "last": "Builder", "n": 2}


def test_the_background_writes_every_document_back_by_ordinary_commits(path: Path) -> None:
    with syncline.Engine(path, mutators=upgrading(split)) as engine:
        assert engine.upgrades.wait(60)
        (info,) = engine.upgrades
        assert (info.entity, info.schema, info.stored, info.pending) == ("user", 2, 2, False)
        lines = list(engine.log(since=4))
        assert [(line.scope, line.id, line.op, line.mutation, line.version) for line in lines] == [
            ("s", "ada", "update", "_upgrade", 2),
            ("s", "bob", "update", "_upgrade", 2),
            ("t", "eve", "update", "_upgrade", 2),
        ]
        assert [one.data for one in engine.history("s", "user", "ada")] == [
            ADA,
            {"name": "Ada Lovelace", "n": 1},
        ]
        assert not engine.verify().problems
    # Without the function: that is how they are stored.
    with syncline.Engine(path) as engine, engine.read("s") as view:
        assert view.list("user") == {"ada": ADA, "bob": BOB}
        assert view.list("todo") == {"x": {"name": "not a user"}}


def test_once_done_the_function_is_never_called_again(path: Path) -> None:
    held = Held(split)
    held.release()
    with syncline.Engine(path, mutators=upgrading(held)) as engine:
        assert engine.upgrades.wait(60)
        assert held.calls == 3
        head = engine.head
    with syncline.Engine(path, mutators=upgrading(held)) as engine:
        assert engine.upgrades.wait(60)
        engine.pull("s")
        assert engine.head == head
    assert held.calls == 3


def test_every_read_is_upgraded_before_the_background_comes(path: Path) -> None:
    held = Held(split)
    with syncline.Engine(path, mutators=upgrading(held)) as engine:
        try:
            assert engine.upgrades.pending
            with engine.read("s") as view:
                assert view.get("user", "ada") == ADA
                assert view.list("user") == {"ada": ADA, "bob": BOB}
                assert view.scan("user", prefix="b") == [("bob", BOB)]
                assert view.find("user", {"first": "Bob"}) == [("bob", BOB)]
                assert view.find("user", {"name": "Bob Builder"}) == []
                assert view.find("user", sort="-last")[0][0] == "ada"
            assert {one.id: one.data for one in engine.pull("s").changes} == {
                "ada": ADA,
                "bob": BOB,
                "x": {"name": "not a user"},
            }
            assert engine.snapshot("s").data["user"] == {"ada": ADA, "bob": BOB}
            assert b"Lovelace" in _core_pull(engine)
            assert b'"name":"Ada' not in _core_pull(engine)
            request = [{"name": "probe", "scope": "s"}]
            seen: dict[str, Any] = {}

            def probe(tx: syncline.Tx, args: Any) -> None:
                seen["get"] = tx.get("user", "ada")
                seen["list"] = tx.list("user")
                seen["scan"] = tx.scan("user", limit=1)
                seen["find"] = tx.find("user", {"last": "Builder"})
                seen["version"] = tx.version("user", "ada")

            engine._mutators.register("probe", probe)
            engine.push(request).raise_for_error()
            assert seen == {
                "get": ADA,
                "list": {"ada": ADA, "bob": BOB},
                "scan": [("ada", ADA)],
                "find": [("bob", BOB)],
                "version": 1,
            }
        finally:
            held.release()


def _core_pull(engine: syncline.Engine) -> bytes:
    core = syncline._core
    request = core.PullRequest.of("s", 0, None, None, None, None, None)
    return engine._native.pull_encoded(request, None, "json")


def test_a_mutator_writes_what_it_read_and_the_log_can_be_walked_back(path: Path) -> None:
    held = Held(split)
    with syncline.Engine(path, mutators=upgrading(held)) as engine:
        try:
            engine.push(
                [{"name": "rename", "args": {"id": "ada", "first": "A."}, "scope": "s"}]
            ).raise_for_error()
            engine.push([{"name": "drop", "args": {"id": "bob"}, "scope": "s"}]).raise_for_error()
        finally:
            held.release()
        assert engine.upgrades.wait(60)
        assert [one.data for one in engine.history("s", "user", "ada")] == [
            ADA | {"first": "A."},
            {"name": "Ada Lovelace", "n": 1},
        ]
        assert [one.data for one in engine.history("s", "user", "bob")] == [
            None,
            {"name": "Bob Builder", "n": 2},
        ]
        with engine.read("s") as view:
            assert view.list("user") == {"ada": ADA | {"first": "A."}}


def test_a_document_is_upgraded_once_even_if_the_result_looks_like_the_older_form(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with syncline.Engine(path) as engine, engine.write("s") as tx:
        for id, price in (("a", 5), ("b", 5), ("zero", 0)):
            tx.set("item", id, {"price": price})
    held = Held(cents)
    with syncline.Engine(path, mutators=upgrading(held, "item")) as engine:
        with engine.write("s") as tx:
            tx.set("item", "a", {"price": 5})  # five cents, the same bytes as before
        held.release()
        assert engine.upgrades.wait(60)
        with engine.read("s") as view:
            assert view.list("item") == {"a": {"price": 5}, "b": {"price": 500}, "zero": {"price": 0}}
    with syncline.Engine(path, mutators=upgrading(cents, "item")) as engine, engine.read("s") as view:
        assert view.list("item") == {"a": {"price": 5}, "b": {"price": 500}, "zero": {"price": 0}}


def test_schemas_follow_each_other_whatever_is_done_in_between(path: Path) -> None:
    held = Held(split)
    engine = syncline.Engine(path, mutators=upgrading(held))
    with engine.write("s") as tx:
        tx.set("user", "new", {"first": "N", "last": "E", "n": 4})  # of schema 2
    # The process ends before the background did anything.
    engine.backup(path.with_suffix(".copy"))
    held.release()
    engine.close()
    mutators = syncline.Mutators()
    mutators.upgrade("user", schema=2)(split)
    mutators.upgrade("user", schema=3)(lambda document: document | {"n": document["n"] * 10})
    with syncline.Engine(path.with_suffix(".copy"), mutators=mutators) as engine:
        assert engine.upgrades.wait(60)
        with engine.read("s") as view:
            assert view.list("user") == {
                "ada": ADA | {"n": 10},
                "bob": BOB | {"n": 20},
                "new": {"first": "N", "last": "E", "n": 40},
            }


def test_a_new_database_has_nothing_to_upgrade(tmp_path: Path) -> None:
    def never(document: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError

    with syncline.Engine(tmp_path / "a.db", mutators=upgrading(never)) as engine:
        assert not engine.upgrades.pending
        with engine.write("s") as tx:
            tx.set("user", "a", {"first": "A"})
    with syncline.Engine(tmp_path / "a.db", mutators=upgrading(never)) as engine, engine.read("s") as view:
        assert view.get("user", "a") == {"first": "A"}


def test_what_cannot_be_upgraded_is_told_as_it_is_but_no_mutator_works_on_it(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fussy(document: dict[str, Any]) -> dict[str, Any]:
        if document["n"] == 2:
            raise KeyError("two")
        return split(document)

    with (
        caplog.at_level(logging.ERROR, "syncline"),
        syncline.Engine(path, mutators=upgrading(fussy)) as engine,
    ):
        assert not engine.upgrades.wait(60)
        assert engine.upgrades.failed == 1
        assert {one.id: one.data for one in engine.pull("s", entities=["user"]).changes} == {
            "ada": ADA,
            "bob": {"name": "Bob Builder", "n": 2},
        }
        result = engine.push([{"name": "rename", "args": {"id": "bob", "first": "B"}, "scope": "s"}])[0]
        assert result.error is not None
        assert result.error.code == "internal_error"
        assert engine.dead_letters[1].error == "KeyError"
        engine.push([{"name": "drop", "args": {"id": "bob"}, "scope": "s"}]).raise_for_error()
    assert any("user/bob" in record.getMessage() for record in caplog.records)
    with syncline.Engine(path, mutators=upgrading(fussy)) as engine:
        assert engine.upgrades.wait(60)  # it is gone


@pytest.mark.parametrize("result", [None, [], "text", {"v": object()}])
def test_an_upgrade_that_makes_no_document_is_a_failure(path: Path, result: Any) -> None:
    with syncline.Engine(path, mutators=upgrading(lambda document: result)) as engine:
        assert not engine.upgrades.wait(60)
        assert engine.upgrades.failed == 3
        with engine.read("s") as view:
            assert view.get("user", "ada") == {"name": "Ada Lovelace", "n": 1}


def test_older_code_than_the_database_was_opened_with_is_refused(path: Path) -> None:
    mutators = syncline.Mutators()
    mutators.upgrade("user", schema=2)(split)
    mutators.upgrade("user", schema=3)(lambda document: document)
    with syncline.Engine(path, mutators=mutators) as engine:
        assert engine.upgrades.wait(60)
    with pytest.raises(syncline.UsageError, match="older code"):
        syncline.Engine(path, mutators=upgrading(split))
    syncline.Engine(path).close()  # who has no upgrades, reads what is stored


def test_functions_that_are_done_may_go_and_none_may_be_missing(path: Path) -> None:
    with syncline.Engine(path, mutators=upgrading(split)) as engine:
        assert engine.upgrades.wait(60)
    third = syncline.Mutators()
    third.upgrade("user", schema=3)(lambda document: document | {"third": True})
    with syncline.Engine(path, mutators=third) as engine:
        assert engine.upgrades.wait(60)
        with engine.read("s") as view:
            assert view.get("user", "ada") == ADA | {"third": True}
    fifth = syncline.Mutators()
    fifth.upgrade("user", schema=5)(lambda document: document)
    with pytest.raises(syncline.UsageError, match="no upgrade to 4"):
        syncline.Engine(path, mutators=fifth)


def test_a_reader_upgrades_what_it_reads_and_writes_nothing(path: Path) -> None:
    with syncline.Engine(path, mutators=upgrading(split), read_only=True) as engine, engine.read("s") as view:
        assert view.get("user", "ada") == ADA
        assert engine.upgrades.pending


def test_many_documents_are_upgraded_while_others_write(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with syncline.Engine(path) as engine:
        engine.load("s", "user", [(f"u{n}", {"name": f"A{n} B", "n": n}) for n in range(3000)])
    with syncline.Engine(path, mutators=upgrading(split)) as engine:
        for n in range(0, 3000, 100):
            engine.push(
                [{"name": "rename", "args": {"id": f"u{n}", "first": "X"}, "scope": "s"}]
            ).raise_for_error()
        assert engine.upgrades.wait(60)
        with engine.read("s") as view:
            assert all(document.keys() == {"first", "last", "n"} for document in view.list("user").values())
            assert len(view.find("user", {"first": "X"})) == 30


# ------------------------------------------------------------------------------------------------ arguments


def versioned() -> tuple[syncline.Mutators, list[Any]]:
    mutators = syncline.Mutators()
    seen: list[Any] = []

    class Create(TypedDict):
        title: str
        tags: list[str]

    @mutators.upgrade_args("todo/create", version=3)
    def third(args: Any) -> Any:
        return {"title": args["title"], "tags": [args["tag"]]}

    @mutators("todo/create")
    def create(tx: syncline.Tx, args: Create) -> None:
        seen.append(args)

    @mutators.upgrade_args("todo/create", version=2)
    def second(args: Any) -> Any:
        return {"title": args, "tag": "old"}

    return mutators, seen


def test_arguments_of_any_version_reach_the_mutator_as_todays() -> None:
    mutators, seen = versioned()
    with syncline.Engine(":memory:", mutators=mutators) as engine:
        for name, args in (
            ("todo/create", "milk"),
            ("todo/create@2", {"title": "milk", "tag": "old"}),
            ("todo/create@3", {"title": "milk", "tags": ["old"]}),
        ):
            engine.push([{"name": name, "args": args, "scope": "s"}]).raise_for_error()
        assert seen == [{"title": "milk", "tags": ["old"]}] * 3
        for name, code in (("todo/create@4", "unknown_mutation"), ("todo/create@3", "invalid_mutation")):
            error = engine.push([{"name": name, "args": {}, "scope": "s"}])[0].error
            assert error is not None
            assert error.code == code
    assert list(mutators) == ["todo/create"]


def test_arguments_that_cannot_be_upgraded_leave_a_dead_letter_as_they_were_sent() -> None:
    mutators, seen = versioned()
    with syncline.Engine(":memory:", mutators=mutators) as engine:
        engine.push([{"name": "todo/create@2", "args": {"title": "x"}, "scope": "s"}])
        (letter,) = engine.dead_letters
        assert (letter.name, letter.args, letter.error) == ("todo/create@2", {"title": "x"}, "KeyError")
    assert seen == []


def test_upgrades_are_included_with_their_mutators() -> None:
    mutators, seen = versioned()
    mutators.upgrade("todo", schema=2)(lambda document: document)
    whole = syncline.Mutators()
    whole.include(mutators, prefix="a/")
    with syncline.Engine(":memory:", mutators=whole) as engine:
        engine.push([{"name": "a/todo/create", "args": "milk", "scope": "s"}]).raise_for_error()
        assert [one.entity for one in engine.upgrades] == ["todo"]
    assert seen == [{"title": "milk", "tags": ["old"]}]
    with pytest.raises(syncline.UsageError, match="already"):
        whole.include(mutators, prefix="b/")


def test_an_upgrade_that_makes_no_sense_is_refused() -> None:
    mutators, _ = versioned()
    for wrong in (1, 0, True, "2", None):
        with pytest.raises(syncline.UsageError):
            mutators.upgrade("todo", schema=wrong)  # type: ignore[arg-type]
        with pytest.raises(syncline.UsageError):
            mutators.upgrade_args("todo/create", version=wrong)  # type: ignore[arg-type]
    with pytest.raises(syncline.UsageError, match="already"):
        mutators.upgrade_args("todo/create", version=2)
    with pytest.raises(syncline.UsageError, match="ends as a version"):
        mutators.register("todo/create@2", lambda tx, args: None)
    for name in ("", "_x", 5):
        with pytest.raises(syncline.UsageError):
            mutators.upgrade(name, schema=2)  # type: ignore[arg-type]
    mutators.upgrade_args("todo/create", version=5)(lambda args: args)
    with pytest.raises(syncline.UsageError, match="version 4"):
        syncline.Engine(":memory:", mutators=mutators)
    orphan = syncline.Mutators()
    orphan.upgrade_args("nobody", version=2)(lambda args: args)
    with pytest.raises(syncline.UsageError, match="no such mutator"):
        syncline.Engine(":memory:", mutators=orphan)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=8), st.integers(1, 4))
def test_after_any_number_of_schemas_a_document_has_been_through_each_once(
    tmp_path_factory: pytest.TempPathFactory, writes: list[tuple[str, int]], schemas: int
) -> None:
    """Each upgrade appends its number; what is written at schema n begins with n."""
    path = tmp_path_factory.mktemp("upgrades") / "a.db"
    expected: dict[str, list[int]] = {}

    def numbered(schema: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
        return lambda document: {"steps": [*document["steps"], schema]}

    for schema in range(1, schemas + 1):
        mutators = syncline.Mutators()
        for number in range(2, schema + 1):
            mutators.upgrade("k", schema=number)(numbered(number))
        with syncline.Engine(path, mutators=mutators) as engine:
            if schema > 1:
                expected = {id: [*steps, schema] for id, steps in expected.items()}
            for id, when in writes:
                if when == schema - 1:
                    with engine.write("s") as tx:
                        tx.set("k", id, {"steps": [schema]})
                    expected[id] = [schema]
            with engine.read("s") as view:
                assert {id: document["steps"] for id, document in view.list("k").items()} == expected
            if schema % 2:
                engine.upgrades.wait(60)
