"""The core of a replica and its pace, put together: what is sent next, and what an answer or a frame means.

Without network, threads and clock, so that `syncline.Replica` and the test kit's virtual world run the same
lines. `lock` guards the pace and what is here; the core has its own, and is never called while it is held,
for it runs mutators.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

from . import _core
from ._pace import Do, Pace
from .errors import Closed, Error, StorageError

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = ["Session", "Task"]


_Poke: TypeAlias = "tuple[int, str]"  # a cursor and its epoch


class Task(NamedTuple):
    """Something to do, with the request to send where there is one."""

    do: Do
    request: _core.ReplicaRequest | None


class Session:
    """See the module. Any thread may call it."""

    def __init__(self, core: _core.Replica, pace: Pace, lock: AbstractContextManager[object]) -> None:
        self.core = core
        self.pace = pace
        self._lock = lock
        # Scopes that are to be pulled when all is pushed; those written to while a push was under way.
        self._touched = {one.scope for one in core.pending()}
        self._rewritten: set[str] = set()
        # What the last poke of a scope said: ever, when its pull began, and when its last whole pull had.
        self._pokes: dict[str, _Poke] = {}
        self._asked_for: dict[str, _Poke | None] = {}
        self._pulled_for: dict[str, _Poke | None] = {}
        self._epoch = core.status().epoch or ""
        self._client_id = core.status().client_id

    # ---------------------------------------------------------------------------------------- the application

    def join(self, scope: str, now: float) -> None:
        self.core.join(scope)
        with self._lock:
            self.pace.join(scope, now)

    def leave(self, scope: str, now: float) -> None:
        self.core.leave(scope)
        with self._lock:
            self.pace.leave(scope)
            self.pace.wrote(now)  # what waited for that scope's pull goes without it
            for known in (self._pokes, self._asked_for, self._pulled_for):
                known.pop(scope, None)

    def touch(self, scope: str) -> None:
        """It was written to."""
        if scope not in self._touched or scope not in self._rewritten:
            with self._lock:
                self._touched.add(scope)
                self._rewritten.add(scope)

    def wrote(self, now: float) -> None:
        """What was written is on the disk, and may go."""
        with self._lock:
            self.pace.wrote(now)

    # --------------------------------------------------------------------------------------------- the driver

    def next(self, now: float) -> Task | None:
        """What to do now; None: nothing until `pace.wake`."""
        while True:
            with self._lock:
                do = self.pace.next(now)
            if do is None:
                return None
            if do.what not in ("push", "pull"):
                return Task(do, None)
            with self._lock:
                if do.what == "push":
                    self._rewritten = set()
                else:
                    self._asked_for[do.scope] = self._pokes.get(do.scope)
            try:
                request = self.core.next_push() if do.what == "push" else self.core.next_pull(do.scope)
            except Closed:
                raise
            except Error as error:
                # The disk: nothing may leave before it is there.
                with self._lock:
                    self.pace.failed(do, now, f"{error.code}: {error.message}")
                continue
            if request is not None:
                return Task(do, request)
            with self._lock:
                self.pace.nothing(do)

    def lost(self, task: Task, now: float, reason: str = "") -> None:
        """No answer came, or none will be waited for."""
        if task.request is not None:
            self.core.lost(task.request.request)
        with self._lock:
            self.pace.lost(task.do, now, reason)

    def answered(self, task: Task, status: int, body: bytes, now: float, retry_after: float = 0.0) -> None:
        """`body`: application/msgpack, empty if it was something else; `retry_after`: the header's."""
        if task.request is None:
            self._health(task.do, status, body, now, retry_after)
            return
        do = task.do
        try:
            said = self.core.answer(task.request.request, status, body)
        except Closed:
            raise
        except Error as error:
            self.core.lost(task.request.request)
            with self._lock:
                self.pace.failed(do, now, f"{error.code}: {error.message}")
            return
        if do.what == "push":
            # What it settled and refused is told, and `settled` may leave, when it is on the disk.
            with contextlib.suppress(StorageError):
                self.core.flush()
        if said.next == "done":
            self._done(do, status, now)
            return
        if do.what == "pull" and said.next == "failed" and said.code == "forbidden":
            self._done(do, status, now)  # the scope is closed; polls find out when it is open again
            return
        reason = f"{said.code}: {said.message}" if said.message else said.code or ""
        with self._lock:
            if said.next == "wait":
                self.pace.wait(do, now, max(float(said.retry_after), retry_after), reason)
            elif said.next == "unauthenticated":
                self.pace.unauthenticated(do, now, reason)
            elif said.next == "failed":
                self.pace.failed(do, now, reason)
            else:
                self.pace.ignored(do, now)

    def _done(self, do: Do, status: int, now: float) -> None:
        stands = self.core.status()
        scopes = {one.name: one for one in self.core.scopes()}
        renamed, self._client_id = stands.client_id != self._client_id, stands.client_id
        epoch = stands.epoch or ""
        turned, self._epoch = bool(self._epoch) and epoch != self._epoch, epoch
        # Under another id nothing that was under way counts; in another history a cursor may be none.
        pull = set(scopes) if renamed else set(scopes) - {do.scope} if turned else set()
        more, readable, scope = False, True, scopes.get(do.scope)
        if do.what == "pull" and scope is not None:
            readable = scope.open
            more = readable and (
                status != 200 or scope.staged_pages > 0 or not scope.loaded or scope.epoch != stands.epoch
            )
        with self._lock:
            unsent = stands.unsent > 0
            if do.what == "push":
                pull |= self._touched
                if not unsent:
                    self._touched = self._rewritten
                    self._rewritten = set()
            elif not more:
                self._pulled_for[do.scope] = self._asked_for.get(do.scope)
                if readable and self._pokes.get(do.scope) != self._pulled_for[do.scope]:
                    pull.add(do.scope)  # a poke came while it was under way
            self.pace.done(do, now, more=more, unsent=unsent, pull=sorted(pull), readable=readable)

    def _health(self, do: Do, status: int, body: bytes, now: float, retry_after: float) -> None:
        if status == 429 or status >= 500:
            with self._lock:
                self.pace.wait(do, now, retry_after, f"the server answers {status}")
            return
        if status == 200:
            try:
                told = _core.unpackb(body)
                if isinstance(told, dict) and isinstance(told.get("limits"), dict):
                    self.core.learn_limits(told)
            except Closed:
                raise
            except Error:
                pass  # no server of ours: the requests will say so
        with self._lock:
            self.pace.done(do, now)

    def frame(self, frame: Mapping[str, Any], now: float) -> None:
        """A frame of the socket, but goodbye."""
        kind, scope = frame.get("type"), frame.get("scope")
        if not isinstance(scope, str):
            return
        if kind == "poke":
            cursor, epoch = frame.get("cursor"), frame.get("epoch")
            if not isinstance(cursor, int) or not isinstance(epoch, str):
                return
            news = self.core.news(scope, cursor, epoch)
            with self._lock:
                self._pokes[scope] = (cursor, epoch)
                # The scope's last commit may lie before the head that a pull said: once is enough.
                news = news and self._pulled_for.get(scope) != (cursor, epoch)
                self.pace.poked(scope, now, news=news)
        elif kind in ("refused", "revoked"):
            with self._lock:
                self.pace.refused(scope, now)
