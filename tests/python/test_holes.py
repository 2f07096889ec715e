"""The short schedules on which a sync protocol without one of our rules goes wrong, message by message,
against the real engine and the real replica.

Each names the rule that it would break without, as the protocol's page does. A step is a tuple:

    mut SCOPE NAME KEY VALUE    the application makes a mutation         flush, crash     of the replica
    push, pull SCOPE            the replica sends what is next           timeout WHAT     gives a request up
    dl, dup, drop, cut WHAT     the oldest message of that kind arrives, arrives and stays under way, is lost,
                                arrives torn: "push?" and "pull?" are requests, "push!" and "pull!" answers
    commit                      the server does the pushes that arrived
    write SCOPE KEY VALUE       the server's own; None deletes           perm SCOPE ON    may its user?
    backup, restore, compact    of the server                            steal            takes its client id

After a schedule the network is good; what is under way arrives late, and then all must settle.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import syncline
from syncline import _core

Step = tuple[Any, ...]


def mut(scope: str, name: str, key: str, value: int = 0) -> list[Step]:
    return [("mut", scope, name, key, value)]


def pull(scope: str = "A") -> list[Step]:
    return [("pull", scope), ("dl", "pull?"), ("dl", "pull!")]


PUSHED: list[Step] = [("push",), ("dl", "push?"), ("commit",)]  # the answer is still under way
PUSH: list[Step] = [*PUSHED, ("dl", "push!")]
LOST: list[Step] = [*PUSHED, ("drop", "push!"), ("timeout", "push")]  # it is applied, the answer is lost
BACKUP: list[Step] = [("backup",)]
RESTORE: list[Step] = [("restore",)]


def write(scope: str, key: str, value: int | None) -> list[Step]:
    return [("write", scope, key, value)]


HOLES: dict[str, list[Step]] = {
    "a pull of S confirms only mutations of S": pull() + mut("B", "set", "x", 1) + PUSHED + pull(),
    "what is confirmed stays queued until its result came": pull() + mut("A", "boom", "x", 1) + LOST + pull(),
    "a result is forgotten only when it is settled": pull() + mut("A", "set", "x", 1) + LOST + [("compact",)],
    "settled lifts last_seq over a gap": pull()
    + BACKUP
    + mut("A", "set", "x", 1)
    + PUSH
    + pull()
    + mut("A", "set", "y", 2)
    + RESTORE,
    "the queue shrinks only from its front": pull()
    + BACKUP
    + mut("A", "set", "x", 1)
    + mut("B", "boom", "x", 2)
    + mut("B", "set", "y", 3)
    + PUSH
    + RESTORE,
    "a refused one goes as a void, never as itself": pull()
    + BACKUP
    + write("A", "x", 9)
    + mut("A", "set", "y", 1)
    + mut("A", "cas", "x", 2)
    + PUSH
    + [("flush",)]
    + RESTORE,
    "a refusal for want of permission consumes its number": pull()
    + [("perm", "A", False)]
    + mut("A", "set", "x", 1)
    + PUSH
    + mut("B", "set", "x", 2),
    "a refusal is final though the request comes twice": pull()
    + mut("B", "set", "y", 1)
    + mut("A", "set", "x", 1)
    + [
        ("perm", "A", False),
        ("push",),
        ("dup", "push?"),
        ("commit",),
        ("dl", "push!"),
        ("flush",),
        ("perm", "A", True),
    ],
    "deduplication comes before authorisation": pull()
    + mut("A", "set", "x", 1)
    + LOST
    + [("perm", "A", False)]
    + PUSH,
    "a client's row is never forgotten": pull()
    + mut("A", "set", "x", 1)
    + LOST
    + [("compact",)]
    + [("compact",)],
    "a mutation leaves only after it is on the disk": pull()
    + [("flush",)]
    + mut("A", "set", "x", 1)
    + PUSHED
    + [("crash",)]
    + mut("A", "set", "y", 2),
    "numbers never restart under a client id": pull()
    + mut("A", "set", "x", 1)
    + PUSH
    + pull()
    + [("flush",), ("crash",)]
    + mut("A", "set", "y", 2),
    "each opening begins an epoch, and a cursor is good within its own": write("A", "x", 1)
    + BACKUP
    + write("A", "y", 2)
    + pull()
    + pull()
    + RESTORE
    + write("A", "z", 3),
    "pages of two epochs do not belong together": write("A", "x", 1)
    + write("A", "y", 2)
    + BACKUP
    + write("A", "x", 3)
    + pull()
    + RESTORE,
    "after another epoch the client id and the numbers stay": pull()
    + mut("A", "set", "x", 1)
    + LOST
    + BACKUP
    + RESTORE
    + pull(),
    "in a new epoch the results of what is queued are forgotten": pull()
    + BACKUP
    + mut("A", "set", "x", 1)
    + PUSH
    + RESTORE,
    "a new epoch abandons the outstanding push": write("A", "y", 9)
    + pull()
    + BACKUP
    + mut("A", "set", "x", 1)
    + PUSHED
    + RESTORE
    + pull()
    + [("dl", "push!")],
    "a push of another epoch is refused whole": pull()
    + BACKUP
    + write("A", "x", 9)
    + mut("A", "cas", "x", 2)
    + [("push",), ("dup", "push?"), ("commit",), ("dl", "push!"), ("flush",)]
    + RESTORE
    + [("dl", "push?")],
    "what comes from zero replaces the documents": write("A", "x", 1)
    + pull()
    + write("A", "x", None)
    + [("compact",)],
    "a first sync in pages is checked against the floor at its start": write("A", "x", 1)
    + write("A", "y", 2)
    + write("A", "z", 3)
    + pull()
    + write("A", "z", None)
    + [("compact",)],
    "an answer without its end is none": write("A", "x", 1)
    + write("A", "y", 2)
    + [("pull", "A"), ("dl", "pull?"), ("cut", "pull!")],
    "the last page's cursor is the database's head": write("A", "x", 1) + write("B", "x", 2) + [("compact",)],
    "chance comes from the mutation, not from its number": pull()
    + mut("A", "set", "x", 1)
    + [("steal",), ("push",)]
    + mut("A", "mint", "m", 5),
    "a new client id abandons every outstanding request": pull()
    + mut("A", "set", "x", 1)
    + [("steal",)]
    + PUSHED
    + [("pull", "A"), ("dl", "pull?"), ("dl", "push!")]
    + PUSH
    + [("dl", "pull!")],
}

# A page holds one document of this size, so that a pull of two has two pages.
_PAD = "." * 1100
_BEGAN = 1_767_225_600_000_000


def make_mutators(server: bool) -> syncline.Mutators:
    """Each counts itself in the document it writes: {"did": {uid: how often}}."""
    mutators = syncline.Mutators()

    def put(tx: syncline.Tx, key: str, args: dict[str, Any]) -> None:
        old = tx.get("k", key) or {}
        did = dict(old.get("did", {}))
        did[args["uid"]] = did.get(args["uid"], 0) + 1
        tx.set("k", key, {"v": args["value"], "did": did, "pad": _PAD})

    @mutators("set")
    def set_(tx: syncline.Tx, args: dict[str, Any]) -> None:
        put(tx, args["key"], args)

    @mutators("cas")
    def cas(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.expect("k", args["key"], args["version"])
        put(tx, args["key"], args)

    @mutators("boom")
    def boom(tx: syncline.Tx, args: dict[str, Any]) -> None:
        put(tx, args["key"], args)
        if server:
            raise syncline.Rejected("not here", code="boom")

    @mutators("mint")
    def mint(tx: syncline.Tx, args: dict[str, Any]) -> None:
        put(tx, f"minted-{tx.uuid()}", args)

    return mutators


class Manual:
    """One server, one replica, and what is under way between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = _core.ManualClock(_BEGAN)
        self.forbidden: set[str] = set()
        self.net: list[tuple[str, int, Any]] = []  # what, request, the body or (status, body)
        self.queue: list[tuple[int, bytes]] = []
        self.out: dict[str, int] = {}
        self.uids = 0
        self.made: dict[str, tuple[int, str]] = {}  # uid -> place, scope
        self.refused: dict[int, str] = {}
        self.vanished: set[str] = set()  # never durable, or of a history that was taken back
        self.bits = 0
        self.open_server()
        self.open_replica()
        for scope in ("A", "B"):
            self.core.join(scope)
        self.core.flush()

    def open_server(self) -> None:
        self.server = syncline.Engine(
            self.folder / "server.db",
            mutators=make_mutators(True),
            durability="normal",
            limits=syncline.Limits(max_page_bytes=1024),
            retention=syncline.Retention(interval=None),
            clock=self.clock,
        )

    def open_replica(self) -> None:
        def entropy() -> int:
            self.bits += 0x9E3779B97F4A7C15
            return self.bits & (2**64 - 1)

        self.core = _core.Replica(
            str(self.folder / "replica.db"),
            make_mutators(False)._table,
            user="u0",
            client_id="c0",
            durability="normal",
            clock=lambda: self.clock.microseconds,
            entropy=entropy,
        )
        self.out.clear()

    def close(self) -> None:
        self.core.close()
        self.server.close()

    # -- the server

    def ask(self, path: str, body: bytes) -> tuple[int, bytes]:
        answer = self.server.handle(
            "POST",
            path,
            {"Content-Type": "application/msgpack", "Accept": "application/msgpack"},
            body,
            authenticate=lambda request: "u0",
            authorize=lambda user, action, scope: scope not in self.forbidden,
        )
        return answer.status, answer.body

    def there(self, scope: str) -> dict[str, Any]:
        with self.server.read(scope) as view:
            return dict(view.list("k"))

    def do_commit(self) -> None:
        group, self.queue = self.queue, []
        for request, body in group:
            self.net.append(("push!", request, self.ask("/_sync/push", body)))

    def do_write(self, scope: str, key: str, value: int | None) -> None:
        with self.server.write(scope) as tx:
            if value is None:
                tx.delete("k", key)
            else:
                tx.set("k", key, {**(tx.get("k", key) or {}), "v": value, "pad": _PAD})

    def do_perm(self, scope: str, on: bool) -> None:
        (self.forbidden.discard if on else self.forbidden.add)(scope)

    def do_backup(self) -> None:
        self.server.backup(self.folder / "backup.db")

    def do_restore(self) -> None:
        before = self.done_there()
        self.server.close()
        for suffix in ("-wal", "-shm"):
            (self.folder / f"server.db{suffix}").unlink(missing_ok=True)
        shutil.copyfile(self.folder / "backup.db", self.folder / "server.db")
        self.queue.clear()
        self.open_server()
        self.vanished |= before.keys() - self.done_there().keys()

    def do_compact(self) -> None:
        self.server._native.compact(self.server.head, 0)

    def do_steal(self) -> None:
        mutation = {"name": "set", "args": {"key": "t", "value": 0, "uid": "thief"}, "scope": "A"}
        self.server.push([{**mutation, "client_id": "c0", "client_seq": 1}], user="thief").raise_for_error()

    def done_there(self) -> dict[str, int]:
        return self.counted({scope: self.there(scope) for scope in ("A", "B")})

    @staticmethod
    def counted(scopes: dict[str, dict[str, Any]]) -> dict[str, int]:
        done: dict[str, int] = {}
        for documents in scopes.values():
            for document in documents.values():
                for uid, times in document.get("did", {}).items():
                    done[uid] = done.get(uid, 0) + times
        return done

    # -- the replica

    def here(self, scope: str, confirmed: bool = False) -> dict[str, Any]:
        return dict(self.core.view(scope, confirmed).list("k"))

    def do_mut(self, scope: str, name: str, key: str, value: int) -> None:
        self.uids += 1
        self.clock.advance(1)
        args = {"key": key, "value": value, "uid": f"m{self.uids}"}
        if name == "cas":
            args["version"] = self.core.view(scope, False).version("k", key)
        self.made[args["uid"]] = (self.core.mutate(scope, name, args), scope)

    def do_flush(self) -> None:
        self.core.flush()

    def do_crash(self) -> None:
        self.core.abandon()
        self.open_replica()
        left = {one.place for one in self.core.pending()}
        self.vanished |= {
            uid for uid, (place, _) in self.made.items() if place not in left and place not in self.refused
        } - self.done_there().keys()

    def send(self, what: str, request: Any) -> bool:
        if request is None:
            return False
        self.out[what] = request.request
        kind = "push?" if request.path.endswith("push") else "pull?"
        self.net.append((kind, request.request, request.body))
        return True

    def do_push(self) -> bool:
        return self.send("push", self.core.next_push())

    def do_pull(self, scope: str) -> bool:
        return self.send(scope, self.core.next_pull(scope))

    def do_timeout(self, what: str) -> None:
        request = self.out.pop(what, None)
        if request is not None:
            self.core.lost(request)

    # -- the network

    def find(self, what: str) -> tuple[str, int, Any] | None:
        return next((one for one in self.net if one[0] == what), None)

    def do_drop(self, what: str) -> None:
        found = self.find(what)
        if found is not None:
            self.net.remove(found)

    def do_dl(self, what: str, *, keep: bool = False, torn: bool = False) -> None:
        found = self.find(what)
        if found is None:
            return
        if not keep:
            self.net.remove(found)
        _, request, body = found
        if what == "push?":
            self.queue.append((request, body))
        elif what == "pull?":
            self.net.append(("pull!", request, self.ask("/_sync/pull", body)))
        else:
            status, answer = body
            self.core.answer(request, status, answer[: len(answer) // 2] if torn else answer)
            for key, outstanding in list(self.out.items()):
                if outstanding == request:
                    del self.out[key]

    def do_dup(self, what: str) -> None:
        self.do_dl(what, keep=True)

    def do_cut(self, what: str) -> None:
        self.do_dl(what, torn=True)

    # -- the checks

    def do(self, step: Step) -> None:
        getattr(self, f"do_{step[0]}")(*step[1:])
        self.check(step)

    def check(self, step: Step) -> None:
        """Nothing is done twice in what is seen, and nothing leaves the view before its effect is there for
        good, or its refusal is told."""
        for event in self.core.take_events():
            if event.kind == "refused":
                self.refused[event.place] = event.code
        # Confirmed: the effect, or its refusal, is in the documents.
        telling = {one.place for one in self.core.pending() if one.voided or one.confirmed}
        for scope in ("A", "B"):
            done = self.counted({scope: self.here(scope)})
            assert all(times == 1 for times in done.values()), (step, "double effect", done)
            (state,) = [one for one in self.core.scopes() if one.name == scope]
            for uid, (place, of) in self.made.items():
                if of == scope and state.open and place not in self.refused and place not in telling:
                    assert uid in done or uid in self.vanished, (step, "it flickers", uid, done)

    def settled(self) -> bool:
        self.core.flush()
        if self.core.pending():
            return False
        return all(
            one.open and one.loaded and self.here(one.name) == self.there(one.name)
            for one in self.core.scopes()
        )

    def quiet(self) -> None:
        self.forbidden.clear()
        for _ in range(400):  # whatever is still under way arrives late
            if self.net:
                self.do(("dl", self.net[0][0]))
            elif self.queue:
                self.do(("commit",))
            else:
                break
        for request in list(self.out.values()):
            self.core.lost(request)
        self.out.clear()
        for turn in range(40):
            self.do(("compact",))
            for step in (("push",), ("pull", "A"), ("pull", "B")):
                self.do(step)
                while self.net or self.queue:
                    self.do(("dl", self.net[0][0]) if self.net else ("commit",))
            if turn > 1 and self.settled():
                break
        else:
            raise AssertionError(f"no progress: {self.core.pending()} {self.core.scopes()}")
        self.check(("quiet",))
        done = self.done_there()
        for uid, (place, _) in self.made.items():
            code = self.refused.get(place)
            if code is not None:
                assert uid not in done, f"{uid} was told {code} and is applied"
            elif uid not in self.vanished:
                assert done.get(uid) == 1, f"{uid} is neither refused nor applied once: {done}"
            else:
                assert done.get(uid, 0) <= 1
        for scope in ("A", "B"):  # its position is one that the server knows
            self.do(("pull", scope))
            self.do(("dl", "pull?"))
            (answer,) = self.net
            assert answer[2][0] == 200
            self.do(("dl", "pull!"))


@pytest.mark.parametrize("rule", HOLES)
def test_no_hole_is_open(rule: str, tmp_path: Path) -> None:
    manual = Manual(tmp_path)
    try:
        for step in HOLES[rule]:
            manual.do(step)
        manual.quiet()
    finally:
        manual.close()
