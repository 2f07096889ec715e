"""Push, pull, snapshot, write and read through Python."""

import pickle
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import syncline

mutators = syncline.Mutators()


@mutators("set")
def set_document(tx: syncline.Tx, args: Any) -> None:
    tx.set("doc", args["id"], args["doc"])


@mutators("reject")
def reject(tx: syncline.Tx, args: Any) -> None:
    tx.set("doc", "never", {})
    raise syncline.Rejected("no", code="sold_out", details={"left": 0})


@mutators("retry")
def retry(tx: syncline.Tx, args: Any) -> None:
    raise syncline.Retry


@mutators("crash")
def crash(tx: syncline.Tx, args: Any) -> None:
    raise ZeroDivisionError("the secret is 42")


@mutators("missing")
def missing(tx: syncline.Tx, args: Any) -> None:
    tx.update("doc", "nowhere", {"a": 1})


@mutators("expect")
def expect(tx: syncline.Tx, args: Any) -> None:
    tx.expect("doc", "1", args)


@mutators("awaitable")
def awaitable(tx: syncline.Tx, args: Any) -> Any:
    async def inner() -> None: ...

    return inner()


kept: list[syncline.Tx] = []


@mutators("keep")
def keep(tx: syncline.Tx, args: Any) -> None:
    kept.append(tx)


@mutators("use-kept")
def use_kept(tx: syncline.Tx, args: Any) -> None:
    kept[0].set("doc", "x", {})


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with syncline.Engine(tmp_path / "app.db", mutators=mutators) as engine:
        yield engine


def mutation(name: str, seq: int, args: object = None, **more: object) -> dict[str, object]:
    return {"name": name, "args": args, "client_id": "c", "client_seq": seq, "scope": "s", **more}


def put(seq: int, id: str = "1", **doc: object) -> dict[str, object]:
    return mutation("set", seq, {"id": id, "doc": doc})


def test_a_push_is_applied_once_and_its_repeat_gets_the_same_result(engine: syncline.Engine) -> None:
    (first,) = engine.push([put(1, a=1)], user="ada")
    (again,) = engine.push([put(1, a=1)], user="ada")
    assert first.ok
    assert not first.duplicate
    assert again.duplicate
    assert (again.cursor, again.changes) == (first.cursor, first.changes)
    assert len(engine.pull("s")) == 1


@pytest.mark.parametrize(
    ("name", "args", "code", "kind"),
    [
        ("reject", None, "sold_out", syncline.Rejected),
        ("crash", None, "internal_error", syncline.InternalError),
        ("missing", None, "not_found", syncline.NotFound),
        ("expect", 7, "conflict", syncline.Conflict),
        ("nobody", None, "unknown_mutation", syncline.UnknownMutation),
        ("awaitable", None, "internal_error", syncline.InternalError),
        ("set", {"id": "", "doc": {}}, "invalid_mutation", syncline.InvalidMutation),
        ("set", {"id": 5, "doc": {}}, "invalid_mutation", syncline.InvalidMutation),
        ("set", {"id": "1", "doc": 5}, "invalid_mutation", syncline.InvalidMutation),
        ("set", {"id": "1", "doc": {"a": "x" * (1 << 20)}}, "too_large", syncline.TooLarge),
    ],
)
def test_a_refusal_consumes_its_number_and_leaves_nothing(
    engine: syncline.Engine, name: str, args: object, code: str, kind: type[syncline.Error]
) -> None:
    (refused,) = engine.push([mutation(name, 1, args)], user="ada")
    assert not refused.ok
    assert refused.error is not None
    assert refused.error.code == code
    assert "secret" not in refused.error.message
    with pytest.raises(kind):
        refused.raise_for_error()
    assert engine.pull("s").changes == []
    assert engine.push([put(2)], user="ada").ok


def test_retry_consumes_nothing_and_stops_its_client(engine: syncline.Engine) -> None:
    results = engine.push([mutation("retry", 1), put(2)], user="ada")
    assert [one.error.code for one in results if one.error] == ["unavailable", "unavailable"]
    assert engine.push([put(1)], user="ada").ok


def test_a_gap_and_a_reused_number_are_refused(engine: syncline.Engine) -> None:
    (gap,) = engine.push([put(3)], user="ada")
    with pytest.raises(syncline.SequenceGap) as raised:
        gap.raise_for_error()
    assert raised.value.expected == 1
    engine.push([put(1, a=1)], user="ada")
    (reused,) = engine.push([put(1, a=2)], user="ada")
    with pytest.raises(syncline.SequenceReused):
        reused.raise_for_error()


def test_a_client_id_belongs_to_its_first_user(engine: syncline.Engine) -> None:
    engine.push([put(1)], user="ada")
    with pytest.raises(syncline.Forbidden):
        engine.push([put(2)], user="eve")
    assert engine.push([put(2)], user="ada").ok


def test_a_kept_tx_is_dead(engine: syncline.Engine) -> None:
    kept.clear()
    assert engine.push([mutation("keep", 1)], user="ada").ok
    with pytest.raises(syncline.Closed, match="finished"):
        kept[0].get("doc", "1")
    (used,) = engine.push([mutation("use-kept", 2)], user="ada")
    assert used.error is not None
    assert used.error.code == "internal_error"
    assert engine.push([put(3)], user="ada").ok


@pytest.mark.parametrize(
    ("mutations", "says"),
    [
        ({"name": "set"}, "push takes a list"),
        ([1], "mutations[0] must be a mapping"),
        ([{"scope": "s"}], "mutations[0].name is missing"),
        ([{"name": "set"}], "mutations[0].scope is missing"),
        ([{"name": "set", "scope": "s", "clientid": "c"}], "unknown field 'clientid'"),
        ([{"name": "set", "scope": "s", "client_id": "c", "client_seq": True}], "must be an int"),
        ([{"name": "set", "scope": "s", "client_id": "c"}], "client_seq"),
        ([{"name": "set", "scope": "s", "ts": datetime(2026, 1, 1)}], "without a time zone"),
    ],
)
def test_a_malformed_push_says_what_is_wrong(engine: syncline.Engine, mutations: Any, says: str) -> None:
    with pytest.raises(syncline.InvalidRequest) as raised:
        engine.push(mutations, user="ada")
    assert says in raised.value.message


def test_pull_tells_changes_since_a_cursor_with_deletions(engine: syncline.Engine) -> None:
    engine.push([put(1, "a", n=1), put(2, "b", n=1)], user="ada")
    first = engine.pull("s", client_id="c", user="ada")
    assert [(one.op, one.id, one.data) for one in first] == [
        ("create", "a", {"n": 1}),
        ("create", "b", {"n": 1}),
    ]
    assert first.last_seq == 2
    with engine.write("s") as tx:
        assert tx.delete("doc", "a")
        tx.update("doc", "b", {"m": 2})
    second = engine.pull("s", first.cursor)
    assert sorted((one.op, one.id) for one in second) == [("delete", "a"), ("update", "b")]
    assert [one.data for one in second if one.op == "delete"] == [None]


def test_pages_cover_everything_once(engine: syncline.Engine) -> None:
    with engine.write("s") as tx:
        for n in range(25):
            tx.set("doc", f"{n:02}", {"n": n})
    seen: list[str] = []
    page: str | None = None
    while True:
        answer = engine.pull("s", page=page, limit=10)
        seen += [one.id for one in answer]
        page = answer.page
        if not answer.has_more:
            break
    assert sorted(seen) == [f"{n:02}" for n in range(25)]


def test_a_cursor_of_another_history_is_refused(engine: syncline.Engine) -> None:
    with pytest.raises(syncline.EpochMismatch) as raised:
        engine.pull("s", 99)
    assert raised.value.epoch == engine.epoch
    with pytest.raises(syncline.EpochMismatch):
        engine.pull("s", 1, epoch="another")


def test_a_write_of_several_scopes_is_one_commit(engine: syncline.Engine) -> None:
    with engine.write("a", "b") as (a, b):
        a.set("doc", "1", {"in": "a"})
        b.set("doc", "1", {"in": "b"})
    assert engine.snapshot("a").data == {"doc": {"1": {"in": "a"}}}
    assert engine.snapshot("b").data == {"doc": {"1": {"in": "b"}}}
    with pytest.raises(ZeroDivisionError), engine.write("a", "b") as (a, b):  # noqa: PT012
        a.set("doc", "1", {})
        raise ZeroDivisionError
    assert engine.snapshot("a").data == {"doc": {"1": {"in": "a"}}}


def test_find_list_and_scan_agree_in_a_write_and_in_a_view(engine: syncline.Engine) -> None:
    with engine.write("s") as tx:
        for n in range(10):
            tx.set("doc", f"d{n}", {"n": n, "odd": bool(n % 2)})
        found = tx.find("doc", {"n": {"$gte": 3}, "odd": True}, sort="-n", limit=2)
        assert found == [("d9", {"n": 9, "odd": True}), ("d7", {"n": 7, "odd": True})]
        listed, scanned = tx.list("doc"), tx.scan("doc", prefix="d", limit=3)
    with engine.read("s") as view:
        assert view.find("doc", {"n": {"$gte": 3}, "odd": True}, sort=[("n", -1)], limit=2) == found
        assert view.list("doc") == listed
        assert view.scan("doc", prefix="d", limit=3) == scanned == list(listed.items())[:3]
        with pytest.raises(syncline.InvalidRequest, match=r"\$near"):
            view.find("doc", {"n": {"$near": 1}})


def test_what_a_tx_draws_derives_from_the_mutation(engine: syncline.Engine, tmp_path: Path) -> None:
    drawn: list[tuple[object, ...]] = []
    own = syncline.Mutators()

    @own("draw")
    def draw(tx: syncline.Tx, args: Any) -> None:
        drawn.append(
            (
                tx.uuid(),
                tx.random.random(),
                tx.random.randint(0, 10**9),
                tx.now,
                tx.user,
                tx.client_id,
                tx.scope,
            )
        )

    past = datetime(2026, 1, 1, tzinfo=timezone.utc)
    for name in ("one", "two"):
        with syncline.Engine(tmp_path / name, mutators=own) as other:
            assert other.push([mutation("draw", 1, ts=past, seed=2**64 - 1)], user="ada").ok
    assert drawn[0] == drawn[1]
    assert drawn[0][3:] == (past, "ada", "c", "s")
    with syncline.Engine(":memory:", mutators=own) as other:
        other.push([mutation("draw", 1, ts=datetime.now(timezone.utc) + timedelta(days=1))], user="ada")
    assert drawn[2][3] < datetime.now(timezone.utc) + timedelta(minutes=1)  # type: ignore[operator]


def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    engine = syncline.Engine(tmp_path / "app.db", mutators=mutators)
    view = engine.read("s")
    engine.close()
    engine.close()
    for use in (
        lambda: engine.push([put(1)]),
        lambda: engine.pull("s"),
        lambda: engine.read("s"),
        lambda: engine.write("s").__enter__(),
        lambda: engine.subscribe("s"),
        lambda: view.get("doc", "1"),
    ):
        with pytest.raises(syncline.Closed):
            use()


def test_a_second_writer_is_told_what_to_do(engine: syncline.Engine, tmp_path: Path) -> None:
    with pytest.raises(syncline.Locked):
        syncline.Engine(tmp_path / "app.db")
    with syncline.Engine(tmp_path / "app.db", read_only=True) as reader:
        engine.push([put(1, a=1)], user="ada")
        assert reader.snapshot("s").data == {"doc": {"1": {"a": 1}}}
        with pytest.raises(syncline.ReadOnly):
            reader.push([put(2)], user="ada")


def test_a_backup_is_a_database_of_its_own(engine: syncline.Engine, tmp_path: Path) -> None:
    engine.push([put(1, a=1)], user="ada")
    told: list[tuple[int, int]] = []
    engine.backup(tmp_path / "copy.db", lambda done, total: told.append((done, total)))
    assert told
    with syncline.Engine(tmp_path / "copy.db") as copy:
        assert copy.snapshot("s").data == {"doc": {"1": {"a": 1}}}


def test_options_are_checked(tmp_path: Path) -> None:
    with pytest.raises(syncline.UsageError, match="durability"):
        syncline.Engine(tmp_path / "x.db", durability="much")
    with pytest.raises(syncline.UsageError, match="max_nesting"):
        syncline.Limits(max_nesting=1000)
    with pytest.raises(TypeError):
        syncline.Limits(max_size=3)  # type: ignore[call-arg]
    assert syncline.Limits(max_mutations=2) == syncline.Limits(max_mutations=2) != syncline.Limits()
    with pytest.raises(syncline.UsageError), syncline.Engine(":memory:") as engine:
        pickle.dumps(engine)


def test_a_rejected_cannot_pretend_that_nothing_was_consumed() -> None:
    with pytest.raises(ValueError, match="unavailable"):
        syncline.Rejected("no", code="unavailable")


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(syncline.Rejected("no", code="sold_out", details={"left": 0})))
    assert (error.code, error.message, error.details) == ("sold_out", "no", {"left": 0})
