"""When a replica does what: ask for a token, push, pull, poll, hold a socket, wait and try again.

A machine without network, threads and clock: told `now` (seconds of any steady clock) and what happened, it
says what to do next (`next`) and when to ask again (`wake`). `syncline.Replica` runs it on its threads,
`syncline.testing` on a virtual clock. What an answer means is the core's to decide; this decides only when.

One thread at a time. A `Do` that `next` gave is under way until it is told back, once: with `done`,
`nothing`, `wait`, `lost`, `unauthenticated`, `failed`; `token_given` or `token_failed` for "token";
`socket_opened` and `socket_closed` for "open_socket"; "close_socket", "subscribe" and "unsubscribe" are said
and forgotten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from typing import TypeAlias

__all__ = ["Backoff", "Do", "Pace", "State"]

State: TypeAlias = Literal["offline", "connecting", "syncing", "live", "stopped"]
What: TypeAlias = Literal[
    "token", "health", "push", "pull", "open_socket", "close_socket", "subscribe", "unsubscribe"
]

_FIRST = 0.5  # seconds: the first wait, doubled with each failure
_CAP = 30.0  # as long as a poll: who is back is noticed within half a minute
_LONG = 120.0  # after an answer that will not change by itself
_MOST = 3600.0  # what a server says with Retry-After counts up to this
_STARVED = 1.0  # a pull that waited so long goes before the next push


class Backoff:
    """How long to wait after each failure in a row: doubling from `first` to `cap`, each wait somewhere in
    its upper half, so that many clients that failed together do not come back together."""

    __slots__ = ("_cap", "_first", "_random", "tries")

    def __init__(self, random: Callable[[], float], first: float = _FIRST, cap: float = _CAP) -> None:
        self._random, self._first, self._cap = random, first, cap
        self.tries = 0

    def fail(self, retry_after: float = 0.0) -> float:
        """The seconds to wait; not less than the server asked for."""
        wait = min(self._cap, self._first * 2.0 ** min(self.tries, 30))
        self.tries += 1
        wait *= 0.5 + 0.5 * self._random()
        return max(wait, min(retry_after, _MOST) * (1.0 + 0.25 * self._random()))

    def reset(self) -> None:
        self.tries = 0


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Do:
    """Something to do now. `scope`: of a pull; `scopes`: of subscribe and unsubscribe; `token`: under which
    token, counted, it is done."""

    what: What
    scope: str = ""
    scopes: tuple[str, ...] = ()
    token: int = 0


class _Channel:
    """The requests of one kind: one at a time."""

    __slots__ = (
        "again",
        "backoff",
        "busy",
        "done",
        "due",
        "failed",
        "not_before",
        "quiet",
        "serial",
        "since",
        "wanted",
    )

    def __init__(self, backoff: Backoff) -> None:
        self.backoff = backoff
        self.wanted = False
        self.again = False  # wanted once more, after the one under way
        self.since = 0.0  # when that began
        self.busy: Do | None = None
        self.quiet = False  # a poll: nothing is known to be missing
        self.not_before = 0.0
        self.due = 0.0  # of the next poll
        self.failed = ""
        self.serial = 0  # of the first page of the pull under way; 0: none
        self.done = 0  # the serial of the last whole pull

    def want(self, now: float) -> None:
        if not self.wanted:
            self.wanted, self.since = True, now
        self.quiet = False

    def free(self, do: Do) -> bool:
        if self.busy is not do:
            return False
        self.busy = None
        return True


class Pace:
    """See the module.

    Args:
        random: numbers from 0 to 1.
        poll: seconds between the pulls that nobody asked for.
        socket: whether there is a way to be poked.
        ask_token: whether the token is to be asked for before the first request.
    """

    def __init__(
        self,
        *,
        random: Callable[[], float],
        poll: float = 30.0,
        socket: bool = True,
        ask_token: bool = False,
        first: float = _FIRST,
        cap: float = _CAP,
    ) -> None:
        self._random = random
        self._poll = poll
        self._first, self._cap = first, cap
        self._running = False
        self._stopped = False
        self._pulls: dict[str, _Channel] = {}
        self._push = self._channel()
        self._health = self._channel()
        self._known = False  # the server answered since it was last lost
        self._network = Backoff(random, first, cap)
        self._gate = 0.0  # nothing is sent before
        self._lost = ""
        # The token.
        self._auth: Literal["good", "ask", "lost"] = "ask" if ask_token else "good"
        self._asking: Do | None = None
        self._token = 0
        self._refreshed = False  # because of a 401, since the last request that was let in
        self._auth_backoff = Backoff(random, first, _LONG)
        self._auth_not_before = 0.0
        self._unauthenticated = ""
        # The socket.
        self._has_socket = socket
        self._socket: Literal["closed", "opening", "open"] = "closed"
        self._socket_backoff = Backoff(random, first, cap)
        self._socket_not_before = 0.0
        self._asked: set[str] = set()  # subscribed to
        self._refused: set[str] = set()
        self._serial = 0

    def _channel(self) -> _Channel:
        return _Channel(Backoff(self._random, self._first, self._cap))

    # ------------------------------------------------------------------------------ what the application does

    def start(self, now: float) -> None:
        """From now on, or again after `pause`."""
        if self._running or self._stopped:
            return
        self._running = True
        self._known = False
        self._lost = ""
        self.hurry(now)

    def pause(self) -> None:
        """Nothing is sent any more; what is under way may come to its end."""
        self._running = False

    def stop(self) -> None:
        self._running = False
        self._stopped = True

    def hurry(self, now: float) -> None:
        """Forgets what is waited for: somebody wants it now. Every scope is pulled."""
        self._gate = self._socket_not_before = self._auth_not_before = 0.0
        self._network.reset()
        self._socket_backoff.reset()
        for channel in (self._push, self._health, *self._pulls.values()):
            channel.not_before = 0.0
            channel.failed = ""
            channel.backoff.reset()
        for channel in self._pulls.values():
            self._want_pull(channel, now)
        self._push.want(now)

    def renew(self, now: float, *, ask: bool) -> None:
        """Another token is there, or is to be asked for."""
        self._auth, self._token = "ask" if ask else "good", self._token + 1
        self._asking = None
        self._refreshed = False
        self._auth_backoff.reset()
        self.hurry(now)

    def join(self, scope: str, now: float) -> None:
        if scope not in self._pulls:
            self._pulls[scope] = self._channel()
            self._pulls[scope].want(now)

    def leave(self, scope: str) -> None:
        self._pulls.pop(scope, None)
        self._refused.discard(scope)

    def wrote(self, now: float) -> None:
        """There may be something to push."""
        self._push.want(now)

    # ------------------------------------------------------------------------------------- what is to be done

    def next(self, now: float) -> Do | None:
        """What to do now; None: nothing, ask again at `wake`."""
        ready = [(order, number, do) for number, (at, order, do) in enumerate(self._plan(now)) if at <= now]
        if not ready:
            return None
        do = min(ready)[2]
        self._begin(do, now)
        return do

    def wake(self, now: float) -> float | None:
        """When there will be something to do if nothing happens; None: never."""
        return min((at for at, _, _ in self._plan(now)), default=None)

    def _plan(self, now: float) -> Iterator[tuple[float, int, Do]]:
        """(when, order among those that are ready, what)"""
        if not self._running:
            if self._socket != "closed":
                yield 0.0, 0, Do("close_socket")
            return
        if self._asking is not None:
            return
        if self._auth != "good":
            yield self._auth_not_before, 0, Do("token")
            return
        if not self._known:
            # One request finds out whether the server is there, whatever else waits for it.
            if self._health.busy is None:
                yield max(self._gate, self._health.not_before), 1, Do("health", token=self._token)
            return
        if self._has_socket and self._pulls:
            if self._socket == "closed":
                yield max(self._gate, self._socket_not_before), 2, Do("open_socket", token=self._token)
            elif self._socket == "open":
                missing = tuple(sorted(self._pulls.keys() - self._asked - self._refused))
                if missing:
                    yield 0.0, 2, Do("subscribe", scopes=missing)
                left = tuple(sorted(self._asked - self._pulls.keys()))
                if left:
                    yield 0.0, 2, Do("unsubscribe", scopes=left)
        elif self._socket != "closed":
            yield 0.0, 0, Do("close_socket")
        push = self._push
        if push.wanted and push.busy is None:
            yield max(self._gate, push.not_before), 4, Do("push", token=self._token)
        for scope, pull in self._pulls.items():
            if pull.busy is not None:
                continue
            at = max(self._gate, pull.not_before)
            if pull.wanted:
                starved = pull.done == 0 or now - pull.since > _STARVED
                yield at, 3 if starved else 5, Do("pull", scope, token=self._token)
            else:
                yield max(at, pull.due), 6, Do("pull", scope, token=self._token)

    def _begin(self, do: Do, now: float) -> None:
        if do.what == "token":
            self._asking = do
        elif do.what == "health":
            self._health.busy = do
        elif do.what == "push":
            self._push.busy = do
            self._push.wanted = False
        elif do.what == "pull":
            pull = self._pulls[do.scope]
            pull.busy = do
            pull.quiet = not pull.wanted
            pull.wanted = False
            if pull.serial == 0:
                self._serial += 1
                pull.serial = self._serial
        elif do.what == "open_socket":
            self._socket = "opening"
        elif do.what == "close_socket":
            self._socket = "closed"
            self._asked.clear()
            self._refused.clear()
        elif do.what == "subscribe":
            self._asked |= set(do.scopes)
        elif do.what == "unsubscribe":
            self._asked -= set(do.scopes)

    # ---------------------------------------------------------------------------------------- what came of it

    def done(
        self,
        do: Do,
        now: float,
        *,
        more: bool = False,
        unsent: bool = False,
        pull: Iterable[str] = (),
        readable: bool = True,
    ) -> None:
        """It was answered as it should be.

        Args:
            more: of a pull: it goes on (pages, or anew from the beginning).
            unsent: mutations wait to be pushed.
            pull: scopes to pull now.
            readable: of a pull: the scope may be read.
        """
        self._reached()
        if do.what == "health":
            self._health.free(do)
            self._health.backoff.reset()
            return
        if do.token == self._token:
            self._refreshed = False
            self._unauthenticated = ""
            self._auth_backoff.reset()
        if unsent:
            self._push.want(now)
        for scope in pull:
            if scope in self._pulls:
                self._want_pull(self._pulls[scope], now)
        channel = self._push if do.what == "push" else self._pulls.get(do.scope)
        if channel is None or not channel.free(do):
            return
        channel.backoff.reset()
        channel.failed = ""
        if do.what == "push":
            return
        if more:
            quiet = channel.quiet
            channel.want(now)
            channel.quiet = quiet
            return
        quiet = channel.quiet
        channel.done, channel.serial = channel.serial, 0
        channel.due = now + self._poll * (0.9 + 0.2 * self._random())
        if channel.again:
            channel.again = False
            channel.want(now)
        if readable and quiet:
            self._refused.discard(do.scope)  # asked for again with polls only: it may be refused again

    def nothing(self, do: Do) -> None:
        """There was nothing to send."""
        channel = self._of(do)
        if channel is not None and channel.free(do):
            channel.serial = 0

    def wait(self, do: Do, now: float, retry_after: float = 0.0, reason: str = "") -> None:
        """The server says: later."""
        if do.what == "health":
            self._failed_to_reach(now, retry_after, reason or "the server is not available")
        else:
            self._reached()
        self._again(do, now, retry_after)

    def lost(self, do: Do, now: float, reason: str = "") -> None:
        """No answer came."""
        self._failed_to_reach(now, 0.0, reason or "the server cannot be reached")
        self._again(do, now, 0.0)

    def failed(self, do: Do, now: float, reason: str) -> None:
        """The server refuses it, and will again."""
        self._reached()
        channel = self._of(do)
        if channel is not None and channel.free(do):
            channel.want(now)
            channel.failed = reason
            channel.not_before = now + _LONG * (0.5 + 0.5 * self._random())

    def ignored(self, do: Do, now: float) -> None:
        """The answer belonged to a request that counts no longer."""
        self._reached()
        channel = self._of(do)
        if channel is not None and channel.free(do):
            channel.want(now)

    def unauthenticated(self, do: Do, now: float, reason: str = "") -> None:
        """The server does not know the token."""
        self._reached()
        channel = self._of(do)
        if channel is not None and channel.free(do):
            channel.want(now)
        self._doubt(do.token, now, reason)

    def token_given(self, do: Do) -> None:
        if self._asking is not do:
            return
        self._asking = None
        self._auth, self._token = "good", self._token + 1

    def token_failed(self, do: Do, now: float, reason: str) -> None:
        if self._asking is not do:
            return
        self._asking = None
        self._auth, self._unauthenticated = "lost", reason
        self._auth_not_before = now + self._auth_backoff.fail()

    def socket_opened(self) -> None:
        if self._socket == "opening":
            self._socket = "open"
            self._asked.clear()
            self._refused.clear()

    def socket_closed(
        self,
        now: float,
        *,
        retry_after: float = 0.0,
        unauthenticated: bool = False,
        token: int = 0,
        reason: str = "",
    ) -> None:
        """It could not be opened, or has ended; `retry_after`: what the server's goodbye said."""
        self._socket = "closed"
        self._asked.clear()
        self._refused.clear()
        self._socket_not_before = now + self._socket_backoff.fail(retry_after)
        if unauthenticated:
            self._doubt(token, now, reason)

    def poked(self, scope: str, now: float, *, news: bool) -> None:
        """The server says where a scope is; `news`: elsewhere than here. (Whether a pull under way brings it,
        is to be asked when that is done.)"""
        self._socket_backoff.reset()
        pull = self._pulls.get(scope)
        if pull is not None and news and pull.busy is None:
            pull.want(now)

    def refused(self, scope: str, now: float) -> None:
        """The server pokes no more for it: a pull tells why, and polls tell when it may be read again."""
        self._asked.discard(scope)
        self._refused.add(scope)
        pull = self._pulls.get(scope)
        if pull is not None:
            self._want_pull(pull, now)

    # ------------------------------------------------------------------------------------------ how it stands

    @property
    def state(self) -> State:
        if self._stopped:
            return "stopped"
        if not self._running or self.reason:
            return "offline"
        if not self._known:
            return "connecting"
        channels = (self._push, *self._pulls.values())
        busy = any((one.wanted or one.busy is not None) and not one.quiet for one in channels)
        return "syncing" if busy else "live"

    @property
    def reason(self) -> str:
        """Why it is offline; empty: it is not."""
        if self._stopped:
            return "closed"
        if not self._running:
            return "paused"
        if self._unauthenticated:
            return self._unauthenticated
        if self._lost:
            return self._lost
        return next((one.failed for one in (self._push, *self._pulls.values()) if one.failed), "")

    @property
    def poked_by_socket(self) -> bool:
        return self._socket == "open"

    @property
    def running(self) -> bool:
        return self._running

    @property
    def serial(self) -> int:
        """Of the pull that began last: see `pulled_since`."""
        return self._serial

    def pulled_since(self, serial: int) -> bool:
        """Whether each scope had a whole pull that began after that one."""
        return all(pull.done > serial for pull in self._pulls.values())

    # ------------------------------------------------------------------------------------------------ details

    def _of(self, do: Do) -> _Channel | None:
        if do.what == "push":
            return self._push
        return self._health if do.what == "health" else self._pulls.get(do.scope)

    def _want_pull(self, pull: _Channel, now: float) -> None:
        if pull.busy is not None:
            pull.again = True  # what is under way may have been read before
            pull.quiet = False
        else:
            pull.want(now)

    def _reached(self) -> None:
        self._known = True
        self._lost = ""
        self._gate = 0.0
        self._network.reset()

    def _failed_to_reach(self, now: float, retry_after: float, reason: str) -> None:
        self._known = False
        self._lost = reason
        self._gate = max(self._gate, now + self._network.fail(retry_after))

    def _again(self, do: Do, now: float, retry_after: float) -> None:
        channel = self._of(do)
        if channel is None or not channel.free(do):
            return
        if do.what != "health":
            quiet = channel.quiet
            channel.want(now)
            channel.quiet = quiet
            channel.not_before = now + channel.backoff.fail(retry_after)

    def _doubt(self, token: int, now: float, reason: str) -> None:
        if token != self._token or self._auth != "good":
            return  # it was replaced meanwhile
        if self._refreshed:
            self._auth = "lost"
            self._unauthenticated = reason or "the server does not accept the token"
            self._auth_not_before = now + self._auth_backoff.fail()
        else:
            self._auth = "ask"
            self._refreshed = True
            self._auth_not_before = 0.0
