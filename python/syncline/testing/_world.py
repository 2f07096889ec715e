"""A server and its replicas in one thread, on a virtual clock and a simulated network, all from one seed.

Everything that happens is an entry of one queue, ordered by virtual time; whatever is random is drawn from
generators that the seed makes. The engine and the replicas are real (files in a folder), their scheduling is
`_pace`'s, the server's answers are `Engine.handle`'s; simulated are the network, the WebSocket, the clocks
and the crashes. So the same seed and the same calls are the same life, message by message.
"""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import heapq
import itertools
import os
import random
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import _core, errors
from .._pace import Do, Pace, State
from .._runner import Push, Runner
from .._session import Session, Task
from ..broker import Poke
from ..engine import Engine
from ..mutators import Mutators
from ..retention import Retention
from ._determinism import Call, check_determinism

if TYPE_CHECKING:
    from types import TracebackType
    from typing import TypeAlias

    from typing_extensions import Self

__all__ = ["Network", "SimReplica", "World"]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_BEGAN = 1_767_225_600_000_000  # 2026-01-01 in microseconds
_FLUSH = 0.02  # seconds until what was written is on the disk
_TIMEOUT = 20.0  # until a request is given up
_MEMORY = "/dev/shm"
_TRACE = 400
_SHOWN = 60  # lines of the trace that a failure shows


_Applied: TypeAlias = "tuple[int, str, int]"  # a mutation's ts, as whose it went, and its number


@dataclasses.dataclass
class Network:
    """How bad it is. Each may be changed at any time.

    Attributes:
        latency: seconds from which and up to which a message takes; what overtakes what follows from it.
        loss: of messages, requests and answers alike: 0.1 is one in ten.
        duplication: of messages that arrive twice.
    """

    latency: tuple[float, float] = (0.005, 0.08)
    loss: float = 0.0
    duplication: float = 0.0


@dataclasses.dataclass
class _Made:
    """A mutation that a replica made, and what became of it."""

    replica: int
    place: int
    name: str
    ts: int  # microseconds; no two mutations of a world have the same
    call: Call
    outcome: str = ""  # "": pending; "ok"; "gone": its replica lost it before it was durable; else a code
    lost: bool = False  # applied in a history that a restore took back


class _InlineRunner(Runner):
    """Runs what is submitted at once, on the caller's thread."""

    def submit(
        self, request: _core.PushRequest, user: str | None, forbidden: tuple[str, ...], require_client: bool
    ) -> Push:
        self.native.check_user(user)
        push = Push(request, user, forbidden, require_client)
        self._run_batch([push])
        return push


class _Socket:
    """A simulated WebSocket: in order, and whole until it breaks."""

    def __init__(self, replica: SimReplica, user: str) -> None:
        self.replica, self.user = replica, user
        self.scopes: dict[str, None] = {}
        self.open = True
        self.last = 0.0  # when the last frame arrives: none overtakes another


class SimReplica:
    """A replica of a `World`: the core of `syncline.Replica` and its scheduling, driven by the world."""

    def __init__(self, world: World, number: int, user: str, scopes: Sequence[str]) -> None:
        self._world = world
        self.number = number
        self.user = user
        self.path = world.folder / f"replica-{number}.db"
        self._random = random.Random(f"{world.seed} replica {number}")
        self._token = 0
        self._life = 0
        self._sent = 0
        self._wake = 0
        self._socket: _Socket | None = None
        self._flushing = False
        self._up = False
        self.connected = True  # False: partitioned
        self.paused = False
        self._copy: Path | None = None
        self._core: _core.Replica
        self.open()
        for scope in scopes:
            self.join(scope)

    # ---------------------------------------------------------------------------------------- the application

    def mutate(self, name: str, args: Any = None, *, scope: str | None = None) -> int:
        """As `Replica.mutate`; returns the place. Raises what the mutator raises here."""
        scope = self._scope(scope)
        self._world._tick()
        self._world._note(f"replica {self.number}: mutate {name} {args!r} in {scope}")
        ts = self._world._clock.microseconds
        place = self.core.mutate(scope, name, args)
        call = Call(name, _copied(args), scope, self.user)
        self._world._record(_Made(self.number, place, name, ts, call))
        self.session.touch(scope)
        if not self._flushing:
            self._flushing = True
            self._later(_FLUSH, self._flush)
        return place

    def get(self, entity: str, id: str, *, scope: str | None = None, confirmed: bool = False) -> Any:
        return self.core.view(self._scope(scope), confirmed).get(entity, id)

    def list(self, entity: str, *, scope: str | None = None, confirmed: bool = False) -> dict[str, Any]:
        return dict(self.core.view(self._scope(scope), confirmed).list(entity))

    def join(self, scope: str) -> None:
        self._world._note(f"replica {self.number}: join {scope}")
        self.session.join(scope, self._world.now)
        self._drive_soon()

    def leave(self, scope: str) -> None:
        self._world._note(f"replica {self.number}: leave {scope}")
        self.session.leave(scope, self._world.now)
        self._drive_soon()

    def discard(self, place: int) -> bool:
        self._world._note(f"replica {self.number}: discard {place}")
        found = self.core.discard(place)
        made = self._world._made.get((self.number, place))
        if found and made is not None:
            made.outcome = "discarded"
        self._flush()
        return found

    def flush(self) -> None:
        self._flush()

    @property
    def scopes(self) -> builtins.list[str]:
        return [one.name for one in self.core.scopes()]

    @property
    def pending(self) -> builtins.list[_core.ReplicaPending]:
        return self.core.pending()

    @property
    def refused(self) -> builtins.list[_core.ReplicaRefused]:
        return self.core.refused()

    @property
    def state(self) -> State:
        return self.pace.state if self._up else "stopped"

    @property
    def reason(self) -> str:
        return self.pace.reason

    @property
    def up(self) -> bool:
        """Whether it runs: it was not crashed, or was opened again."""
        return self._up

    @property
    def core(self) -> _core.Replica:
        if not self._up:
            raise errors.Closed(f"replica {self.number} is down: open() it first")
        return self._core

    def pause(self) -> None:
        self._world._note(f"replica {self.number}: pause")
        self.paused = True
        self.pace.pause()
        self._drive()

    def resume(self) -> None:
        self._world._note(f"replica {self.number}: resume")
        self.paused = False
        self.pace.start(self._world.now)
        self._drive()

    # ------------------------------------------------------------------------------------------------- faults

    def crash(self, *, down: float | None = None) -> None:
        """The process dies: what was not on the disk is gone. `down`: seconds until it runs again; None: when
        `open` is called."""
        if not self._up:
            return
        self._world._note(f"replica {self.number}: crash")
        self._core.abandon()
        self._gone()
        if down is not None:
            self._world._at(down, lambda: self.open())

    def close(self) -> None:
        """The process ends as it should."""
        if self._up:
            self._world._note(f"replica {self.number}: close")
            self._core.flush()
            self._take()
            self._core.close()
            self._gone()

    def _gone(self) -> None:
        self._up = False
        self._life += 1
        self._flushing = False
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.open = False

    def open(self) -> None:
        """Starts it again after `crash` or `close`."""
        if self._up:
            return
        world = self._world
        world._note(f"replica {self.number}: open")
        self._core = _core.Replica(
            str(self.path),
            world._client_table,
            user=self.user,
            client_id=f"c{self.number}",
            durability="normal",
            max_tries=world.max_tries,
            clock=world._clock,
            entropy=lambda: self._random.getrandbits(64),
            limits=world._limits,
        )
        self._up = True
        self._life += 1
        self.pace = Pace(random=self._random.random, poll=world.poll, socket=True, ask_token=True)
        self.session = Session(self._core, self.pace, contextlib.nullcontext())
        for scope in self._core.scopes():
            self.pace.join(scope.name, world.now)
        world._reopened(self)
        if not self.paused:
            self.pace.start(world.now)
        self._drive_soon()

    def partition(self) -> None:
        """Nothing comes through, in either direction, until `heal`."""
        if self.connected:
            self._world._note(f"replica {self.number}: partition")
            self.connected = False
            self._break_socket()

    def heal(self) -> None:
        if not self.connected:
            self._world._note(f"replica {self.number}: heal")
            self.connected = True

    def keep_copy(self) -> None:
        """Copies its file, as a phone's backup does."""
        was_up = self._up
        self.open()  # what a crash left behind is put in order
        self.close()
        copy = self.path.with_suffix(".copy")
        shutil.copyfile(self.path, copy)
        self._copy = copy
        self._world._note(f"replica {self.number}: keep a copy")
        if was_up:
            self.open()

    def restore_copy(self) -> bool:
        """Sets its file back to the copy. False: there is none."""
        if self._copy is None:
            return False
        self.close()
        for suffix in ("-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)
        shutil.copyfile(self._copy, self.path)
        self._world._note(f"replica {self.number}: its file is set back")
        self._world._set_back(self)
        self.open()
        return True

    def expire_token(self) -> None:
        """The server does not know its token any more; it gets another one when it asks."""
        self._world._note(f"replica {self.number}: its token expires")
        self._token += 1
        self._break_socket()

    def _break_socket(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.open = False
            self.pace.socket_closed(self._world.now, reason="broken")
            self._drive_soon()

    # ------------------------------------------------------------------------------------------------ driving

    def _scope(self, scope: str | None) -> str:
        if scope is not None:
            return scope
        joined = self.scopes
        if len(joined) != 1:
            raise errors.UsageError(f"{len(joined)} scopes are joined: say which one with scope=")
        return joined[0]

    def _later(self, delay: float, call: Callable[[], None]) -> None:
        """In this life of it only."""
        life = self._life

        def run() -> None:
            if self._life == life and self._up:
                call()

        self._world._at(delay, run)

    def _drive_soon(self) -> None:
        self._later(0.0, self._drive)

    def _flush(self) -> None:
        self._flushing = False
        self._core.flush()
        self._take()
        self.session.wrote(self._world.now)
        self._drive()

    def _take(self) -> None:
        for event in self._core.take_events():
            self._world._told(self, event)

    def _drive(self) -> None:
        if not self._up:
            return
        world = self._world
        while (task := self.session.next(world.now)) is not None:
            self._perform(task)
            if not self._up:
                return
        self._take()
        at = self.pace.wake(world.now)
        if at is not None:
            self._wake += 1
            mine = self._wake
            # A stale one is no harm, but costs: only the last counts.
            self._later(max(0.0, at - world.now), lambda: self._drive() if mine == self._wake else None)

    def _perform(self, task: Task) -> None:
        do, world = task.do, self._world
        if do.what == "token":
            self._later(world._latency(), lambda: self._have_token(do))
        elif do.what == "open_socket":
            self._later(world._latency(), lambda: self._open_socket(do))
        elif do.what == "close_socket":
            socket, self._socket = self._socket, None
            if socket is not None:
                socket.open = False
        elif do.what in ("subscribe", "unsubscribe"):
            socket = self._socket
            if socket is not None:
                world._to_server(socket, do)
        else:
            self._send(task)

    def _have_token(self, do: Do) -> None:
        self._bearer = f"{self.user}.{self.number}.{self._token}"
        self.pace.token_given(do)
        self._drive()

    def _open_socket(self, do: Do) -> None:
        world = self._world
        if not self.connected or not world.up:
            self.pace.socket_closed(world.now, reason="unreachable")
        elif world._user(self._bearer) is None:
            self.pace.socket_closed(world.now, unauthenticated=True, token=do.token, reason="4401")
        else:
            self._socket = _Socket(self, self.user)
            world._sockets.append(self._socket)
            self.pace.socket_opened()
        self._drive()

    def _frame(self, socket: _Socket, frame: Mapping[str, Any]) -> None:
        if socket is self._socket and socket.open:
            self.session.frame(frame, self._world.now)
            self._drive()

    def _send(self, task: Task) -> None:
        world = self._world
        self._sent += 1
        what = f"{_of(task)} ({self._sent})"  # counted here: what the core counts is the process's
        over: list[bool] = []

        def answered(status: int, body: bytes, retry_after: float) -> None:
            world._note(f"replica {self.number}: {what} answered {status}{' again' if over else ''}")
            over.append(True)
            self.session.answered(task, status, body, world.now, retry_after)
            self._drive()

        def given_up() -> None:
            if not over:
                over.append(True)
                world._note(f"replica {self.number}: {what} is given up")
                self.session.lost(task, world.now, "no answer")
                self._drive()

        def refused() -> None:
            if not over:
                over.append(True)
                self.session.lost(task, world.now, "the server is down")
                self._drive()

        life = self._life

        def alive(call: Callable[..., None]) -> Callable[..., None]:
            return lambda *args: call(*args) if self._life == life and self._up else None

        world._request(self, task, what, self._bearer, alive(answered), alive(refused))
        self._later(_TIMEOUT, given_up)


def _of(task: Task) -> str:
    request = task.request
    if request is None:
        return "health"
    return f"{task.do.what}{f' of {request.scope}' if request.scope else ''}"


class World:
    """One engine, its replicas and what lies between them. Use it in a `with` block, or `close` it.

    Args:
        mutators: the server's, and the replicas' where `client_mutators` are not given.
        seed: of everything that is random; any str or int.
        folder: for the files; None: one in memory where the system has that, removed with the world.
        replicas: how many.
        scopes: that each joins.
        users: of each replica; by default "user0", "user1", ...
        network: how bad it is at first.
        poll: virtual seconds between two pulls that nobody asked for.
        limits: of the server.
        determinism: whether `assert_converged` also runs every mutation that was made once more, twice here
            and once there; see `check_determinism`.
        durability: of the server's file.

    Attributes:
        server: the `Engine`; another object after `restart_server` and `restore`.
        replicas: the `SimReplica`s.
        network: the `Network`.
        now: virtual seconds since the beginning.
        random: for the test's own choices, from the same seed.
        trace: what happened, as lines.
    """

    def __init__(
        self,
        mutators: Mutators,
        *,
        seed: int | str,
        folder: str | Path | None = None,
        replicas: int = 2,
        scopes: Sequence[str] = ("scope",),
        users: Sequence[str] | None = None,
        client_mutators: Mutators | None = None,
        network: Network | None = None,
        poll: float = 30.0,
        limits: _core.Limits | None = None,
        determinism: bool = False,
        max_tries: int = 50,
        durability: str = "normal",
    ) -> None:
        self.seed = seed
        # A disk that syncs takes ten times as long as all the rest.
        memory = _MEMORY if folder is None and os.access(_MEMORY, os.W_OK) else None
        self._temporary = (
            tempfile.TemporaryDirectory(prefix="syncline-", dir=memory) if folder is None else None
        )
        self.folder = Path(self._temporary.name if self._temporary is not None else str(folder))
        self.mutators = mutators
        self.client_mutators = client_mutators if client_mutators is not None else mutators
        self._client_table = self.client_mutators._table
        self.scopes = tuple(scopes)
        self.network = network if network is not None else Network()
        self.random = random.Random(f"{seed} test")
        self._random = random.Random(f"{seed} network")
        self.poll = poll
        self.max_tries = max_tries
        self._limits = limits if limits is not None else _core.Limits()
        self._durability = durability
        self._determinism = determinism
        self.now = 0.0
        self._clock = _core.ManualClock(_BEGAN)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._sockets: list[_Socket] = []
        self._denied: set[tuple[str, str, str]] = set()
        self._made: dict[tuple[int, int], _Made] = {}
        self._all: list[_Made] = []
        self._entities: dict[str, None] = {}
        self._backups: list[Path] = []
        self._archive: dict[_Applied, int] = {}
        self.trace: deque[str] = deque(maxlen=_TRACE)
        self.up = False
        self.server: Engine
        self._closed = False
        self._open_server()
        names = [f"user{n}" for n in range(replicas)] if users is None else list(users)
        if len(names) != replicas:
            raise errors.UsageError(f"{replicas} replicas need {replicas} users, not {len(names)}")
        self.replicas = [SimReplica(self, n, name, self.scopes) for n, name in enumerate(names)]

    # --------------------------------------------------------------------------------------------------- time

    def run(self, seconds: float) -> None:
        """Lets that much virtual time pass, with all that happens in it."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            at, _, call = heapq.heappop(self._queue)
            self._advance(at)
            call()
        self._advance(end)

    def run_until_quiet(self, limit: float = 900.0) -> None:
        """Makes the network good, starts what is down, and runs until nothing is pending and every replica
        has what the server has. What a user may not read stays so.

        Raises:
            AssertionError: that is not so after `limit` virtual seconds; the message has the seed, what
                differs, and what happened last.
        """
        self.calm()
        end = self.now + limit
        self.run(1.0)
        while not self._quiet():
            if self.now >= end:
                raise AssertionError(
                    self._report(f"not quiet after {limit:.0f} virtual seconds", self._restless())
                )
            self.run(5.0)

    def calm(self) -> None:
        """A good network, everybody up and connected."""
        self._note("calm")
        self.network.loss = self.network.duplication = 0.0
        self.network.latency = (0.005, 0.02)
        if not self.up:
            self._open_server()
        for replica in self.replicas:
            replica.heal()
            replica.open()
            if replica.paused:
                replica.resume()

    def _tick(self) -> None:
        """No two mutations are made at the same microsecond."""
        self.now += 1e-6
        self._clock.advance(1)

    def _advance(self, at: float) -> None:
        if at > self.now:
            micros = _BEGAN + round(at * 1e6)
            self._clock.advance(max(0, micros - self._clock.microseconds))
            self.now = at

    def _at(self, delay: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay, next(self._order), call))

    # ------------------------------------------------------------------------------------------------- server

    @property
    def _path(self) -> Path:
        return self.folder / "server.db"

    def _open_server(self) -> None:
        self.server = Engine(
            self._path,
            mutators=self.mutators,
            durability=self._durability,
            limits=self._limits,
            broker=self,
            slow_mutator=None,
            retention=Retention(interval=None),
            clock=self._clock,
        )
        server = self.server
        server._runner = _InlineRunner(server._native, self.mutators._table, self._limits.max_waiting)
        self.up = True
        self._note(f"server: open, head {server.head}")

    def crash_server(self, *, down: float | None = None) -> None:
        """It stops between two requests. `down`: seconds until it runs again; None: when `start_server` is
        called."""
        if not self.up:
            return
        self._note("server: crash")
        self.up = False
        self.server.close()
        sockets, self._sockets = self._sockets, []
        for socket in sockets:
            if socket.open:
                socket.replica._break_socket()
        if down is not None:
            self._at(down, self.start_server)

    def start_server(self) -> None:
        if not self.up:
            self._open_server()

    def restart_server(self) -> None:
        """Stops it and starts it again: a new epoch."""
        self.crash_server()
        self.start_server()

    @property
    def backups(self) -> int:
        """How many there are."""
        return len(self._backups)

    def backup(self) -> int:
        """Keeps the server's database as it is now; returns the number that `restore` takes."""
        path = self.folder / f"backup-{len(self._backups)}.db"
        path.unlink(missing_ok=True)
        self.server.backup(path)
        self._backups.append(path)
        self._note(f"server: backup {len(self._backups) - 1}")
        return len(self._backups) - 1

    def restore(self, number: int = -1) -> None:
        """Sets the server's database back to a backup; later ones are forgotten, for nobody restores
        forwards."""
        if not self._backups:
            raise errors.UsageError("there is no backup: call backup() first")
        number = range(len(self._backups))[number]
        self.start_server()  # to see what it has
        was = self._applied()
        self.crash_server()
        for suffix in ("-wal", "-shm"):
            Path(f"{self._path}{suffix}").unlink(missing_ok=True)
        shutil.copyfile(self._backups[number], self._path)
        del self._backups[number + 1 :]
        self._note(f"server: restored from backup {number}")
        self.start_server()
        head = self.server.head
        self._archive = {one: cursor for one, cursor in self._archive.items() if cursor <= head}
        taken_back = was.keys() - self._applied().keys()
        for made in self._all:
            made.lost = made.lost or made.ts in taken_back

    def compact(self) -> None:
        """Forgets history and every tombstone, whatever its age."""
        self._note("server: compact")
        self._archive = self._lines()
        self.server._native.compact(self.server.head, 0)

    def permit(self, user: str, scope: str, *, read: bool = True, write: bool = True) -> None:
        """What that user may from now on; at first everybody may everything."""
        self._note(f"server: {user} may {'read ' if read else ''}{'write ' if write else ''}{scope}")
        for action, allowed in (("read", read), ("write", write)):
            (self._denied.discard if allowed else self._denied.add)((user, action, scope))
        if not read:
            for socket in self._sockets:
                if socket.open and socket.user == user and scope in socket.scopes:
                    del socket.scopes[scope]
                    self._to_replica(socket, {"type": "revoked", "scope": scope})

    def may(self, user: str, action: str, scope: str) -> bool:
        return (user, action, scope) not in self._denied

    def _user(self, token: str | None) -> str | None:
        if token is None:
            return None
        user, number, count = token.rsplit(".", 2)
        return user if self.replicas[int(number)]._token == int(count) else None

    # ------------------------------------------------------------------------------------------------ network

    def _latency(self) -> float:
        return self._random.uniform(*self.network.latency)

    def _copies(self) -> int:
        if self._random.random() < self.network.loss:
            return 0
        return 2 if self._random.random() < self.network.duplication else 1

    def _request(
        self,
        replica: SimReplica,
        task: Task,
        what: str,
        token: str,
        answered: Callable[..., None],
        refused: Callable[..., None],
    ) -> None:
        request = task.request
        body = b"" if request is None else request.body
        method, path = ("GET", "/_sync/health") if request is None else ("POST", request.path)
        self._note(f"replica {replica.number}: {what}")

        def arrive() -> None:
            if not replica.connected:
                return
            if not self.up:
                self._at(self._latency(), refused)
                return
            answer = self.server.handle(
                method,
                path,
                {
                    "Authorization": f"Bearer {token}",
                    "Content-Type": "application/msgpack",
                    "Accept": "application/msgpack",
                },
                body,
                authenticate=lambda asked: self._user(asked.token),
                authorize=self.may,
            )
            said = answer.headers.get("retry-after", "")
            for _ in range(self._copies()):
                self._at(
                    self._latency(),
                    lambda: (
                        answered(answer.status, answer.body, float(said) if said.isdigit() else 0.0)
                        if replica.connected
                        else None
                    ),
                )

        for _ in range(self._copies()):
            self._at(self._latency(), arrive)

    def _to_server(self, socket: _Socket, do: Do) -> None:
        def arrive() -> None:
            if not socket.open or not self.up:
                return
            for scope in do.scopes:
                if do.what == "unsubscribe":
                    socket.scopes.pop(scope, None)
                elif not self.may(socket.user, "read", scope):
                    self._to_replica(socket, {"type": "refused", "scope": scope, "code": "forbidden"})
                else:
                    socket.scopes[scope] = None
                    self._poke(socket, Poke(scope, self.server.cursor(scope), self.server.epoch))

        self._at(self._latency(), arrive)

    def _to_replica(self, socket: _Socket, frame: Mapping[str, Any]) -> None:
        # As TCP: in order; what is lost breaks the connection.
        socket.last = max(socket.last, self.now + self._latency())
        if self._random.random() < self.network.loss * 0.3:
            self._at(socket.last - self.now, lambda: socket.replica._break_socket() if socket.open else None)
            return
        self._at(socket.last - self.now, lambda: socket.replica._frame(socket, frame))

    def _poke(self, socket: _Socket, poke: Poke) -> None:
        frame = {"type": "poke", "scope": poke.scope, "cursor": poke.cursor, "epoch": poke.epoch}
        self._to_replica(socket, frame)

    # The engine's broker is the world.
    def publish(self, pokes: Sequence[Poke], /) -> None:
        self._sockets = [one for one in self._sockets if one.open]
        for poke in pokes:
            for socket in self._sockets:
                if poke.scope in socket.scopes:
                    self._poke(socket, poke)

    def subscribe(self, scopes: Sequence[str], callback: Callable[[Poke], None], /) -> Callable[[], None]:
        raise errors.UsageError("in a world only its replicas subscribe")

    # -------------------------------------------------------------------------------------- what became of it

    def _record(self, made: _Made) -> None:
        self._made[made.replica, made.place] = made
        self._all.append(made)

    def _told(self, replica: SimReplica, event: _core.ReplicaEvent) -> None:
        if event.kind == "changed":
            self._entities[event.entity or ""] = None
        elif event.kind == "refused":
            self._note(f"replica {replica.number}: {event.place} refused, {event.code}")
            made = self._made.get((replica.number, event.place))
            if made is not None:
                made.outcome = event.code or "rejected"
        else:
            self._note(f"replica {replica.number}: {event.kind} {event.scope or ''}".rstrip())

    def _reopened(self, replica: SimReplica) -> None:
        """What was never on its disk is gone with its process."""
        left = {one.place for one in replica._core.pending()}
        refused = {one.place: one.code for one in replica._core.refused()}
        for (number, place), made in list(self._made.items()):
            if number != replica.number or made.outcome:
                continue
            if place in refused:
                made.outcome = refused[place]
            elif place not in left:
                # Either it was settled, or it was lost before it could be sent: the server's history tells.
                made.outcome = "gone"

    def _set_back(self, replica: SimReplica) -> None:
        """Whether what it made since the copy was sent, nobody can know there."""
        for (number, place), made in list(self._made.items()):
            if number == replica.number and not made.outcome:
                made.outcome = "unknown"
                del self._made[number, place]

    def _lines(self) -> dict[_Applied, int]:
        """Every mutation of the server's history, with its cursor; with those whose lines are compacted."""
        lines = dict(self._archive)
        for line in self.server.log():
            if line.client_id is not None:
                at = _microseconds(line.mutation_ts)
                lines.setdefault((at, line.client_id, line.client_seq or 0), line.cursor)
        return lines

    def _applied(self) -> dict[int, set[tuple[str, int]]]:
        """The mutations that are in the server's history, by their ts: each with the numbers it has there."""
        applied: dict[int, set[tuple[str, int]]] = {}
        for at, client, seq in self._lines() if self.up else self._archive:
            applied.setdefault(at, set()).add((client, seq))
        return applied

    def _applied_ever(self) -> set[int]:
        return set(self._applied()) | {made.ts for made in self._all if made.lost}

    # ------------------------------------------------------------------------------------------------- checks

    def _documents(self, scope: str) -> dict[tuple[str, str], tuple[int, Any]]:
        documents = {}
        with self.server.read(scope) as view:
            for entity, rows in self.server.snapshot(scope).data.items():
                self._entities[entity] = None
                for id, data in rows.items():
                    documents[entity, id] = (view.version(entity, id), data)
        return documents

    def _here(self, replica: SimReplica, scope: str) -> dict[tuple[str, str], tuple[int, Any]]:
        view = replica.core.view(scope, False)
        return {
            (entity, id): (view.version(entity, id), data)
            for entity in self._entities
            for id, data in view.list(entity).items()
        }

    def differences(self) -> list[str]:
        """What replicas have otherwise than the server, as sentences; a scope that a user may not read must
        be empty there."""
        found: list[str] = []
        there = {scope: self._documents(scope) for scope in self.scopes}
        for replica in self.replicas:
            for scope in replica.scopes:
                if scope not in there:
                    there[scope] = self._documents(scope)
                readable = self.may(replica.user, "read", scope)
                wanted = there[scope] if readable else {}
                here = self._here(replica, scope)
                for key in sorted(wanted.keys() | here.keys()):
                    if wanted.get(key) != here.get(key):
                        found.append(
                            f"replica {replica.number}, {scope}, {'/'.join(key)}: {_said(here.get(key))}; "
                            f"the server has {_said(wanted.get(key))}"
                        )
        return found

    def _quiet(self) -> bool:
        if not self.up or not all(one.up for one in self.replicas):
            return False
        for replica in self.replicas:
            status = replica.core.status()
            if status.pending or status.unflushed or replica.pace.state not in ("live", "syncing"):
                return False
            for scope in replica.core.scopes():
                readable = self.may(replica.user, "read", scope.name)
                if scope.open != readable or (readable and not scope.loaded):
                    return False
        return not self.differences()

    def _restless(self) -> list[str]:
        found = []
        for replica in self.replicas:
            if not replica.up:
                found.append(f"replica {replica.number} is down")
                continue
            status = replica.core.status()
            if status.pending:
                first = replica.core.pending()[0]
                found.append(
                    f"replica {replica.number} has {status.pending} pending: {first.place} {first.name!r}"
                )
            if replica.state not in ("live", "syncing"):
                found.append(f"replica {replica.number} is {replica.state}: {replica.reason}")
            for scope in replica.core.scopes():
                if scope.open and not scope.loaded:
                    found.append(f"replica {replica.number} has not loaded {scope.name}")
                if scope.open != self.may(replica.user, "read", scope.name):
                    found.append(
                        f"replica {replica.number} has {scope.name} {'open' if scope.open else 'closed'}"
                    )
        return found + self.differences()

    def assert_converged(self) -> None:
        """Every replica has what the server has, and every mutation has the one outcome that its replica was
        told; see `assert_exactly_once`.

        Raises:
            AssertionError: with the seed, what is not so, and what happened last.
        """
        wrong = self._restless()
        if wrong:
            raise AssertionError(self._report("not converged", wrong))
        self.assert_exactly_once()
        if self._determinism:
            check_determinism(
                self.mutators, [made.call for made in self._all], client_mutators=self.client_mutators
            )

    def assert_exactly_once(self) -> None:
        """No mutation is in the server's history under two numbers, none that its replica was told to be
        refused is in it, and none that was settled is missing, unless a restore took it back.

        Raises:
            AssertionError: as `assert_converged`.
        """
        wrong = []
        applied = self._applied()
        for made in self._all:
            who = f"the mutation {made.place} of replica {made.replica} ({made.name!r})"
            numbers = applied.get(made.ts, set())
            if len(numbers) > 1:
                wrong.append(f"{who} was applied {len(numbers)} times, as {sorted(map(str, numbers))}")
            if made.outcome not in ("", "ok", "gone", "unknown", "discarded") and numbers:
                wrong.append(f"{who} was told {made.outcome} and is applied")
        if wrong:
            raise AssertionError(self._report("not exactly once", wrong))

    def outcomes(self) -> list[tuple[Call, str, bool]]:
        """Of each mutation that was made: the call; what its replica knows of it: "ok", a code, "gone" (lost
        with its process before it was on the disk), "unknown" (its replica's file was set back), "" (still
        pending); and whether a restore of the server took it back."""
        told = []
        applied = self._applied_ever()
        left = {
            (one.number, pending.place) for one in self.replicas if one.up for pending in one.core.pending()
        }
        for made in self._all:
            outcome = made.outcome
            if not outcome and (made.replica, made.place) not in left:
                outcome = "ok"
            if outcome == "gone" and made.ts in applied:
                outcome = "ok"
            told.append((made.call, outcome, made.lost))
        return told

    def _report(self, what: str, wrong: Sequence[str]) -> str:
        lines = [f"{what} (seed {self.seed!r}):", *(f"  {one}" for one in wrong[:20])]
        if len(wrong) > 20:
            lines.append(f"  ... and {len(wrong) - 20} more")
        lines.append("what happened last:")
        lines += [f"  {one}" for one in list(self.trace)[-_SHOWN:]]
        return "\n".join(lines)

    def _note(self, line: str) -> None:
        self.trace.append(f"{self.now:10.4f}  {line}")

    # ---------------------------------------------------------------------------------------------------- end

    def close(self) -> None:
        """Closes the server and the replicas. May be called twice."""
        if self._closed:
            return
        self._closed = True
        for replica in self.replicas:
            if replica.up:
                replica._core.close()
                replica._gone()
        if self.up:
            self.up = False
            self.server.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<World seed {self.seed!r} at {self.now:.3f} s, {len(self.replicas)} replicas>"


def _said(document: tuple[int, Any] | None) -> str:
    return "nothing" if document is None else f"version {document[0]}, {document[1]!r}"


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _copied(value: Any) -> Any:
    """The caller's objects stay the caller's."""
    return _core.unpackb(_core.packb(value))
