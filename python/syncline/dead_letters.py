"""Dead letters: mutations whose mutator failed of its own code, kept for whoever mends it.

A mutator that raises something unexpected tells its client `internal_error` and nothing more. What it was
given, and where it failed, is kept as a dead letter, in the commit that consumes the mutation's number; so no
failure is lost, not even by a crash. Once the code is mended, a letter is retried: the same arguments, user,
time and seed, as backend code. Letters are bounded in number, age and size; the oldest go first, and are
counted.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any

from . import _core
from .errors import NotFound, Timeout, UsageError

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["DeadLetter", "DeadLetters"]

_PAGE = 100
# The end of a traceback says where it failed; the beginning of an endless recursion says nothing.
_MOST_TRACEBACK = 32 * 1024
_MOST_MESSAGE = 1024


@dataclasses.dataclass(frozen=True)
class DeadLetter:
    """A mutation that failed unexpectedly. Of several attempts the fields of the error are the last one's.

    Attributes:
        id: rises, and is never used again.
        name, args, scope, user: the mutation's, as it was asked for.
        client_id, client_seq: whose it was; None: backend code's own.
        ts, seed: what `tx.now`, and `tx.uuid()` and `tx.random`, derive from.
        error: the exception's class, or the code of a retry's refusal; `message` what it said.
        traceback: where it was raised, with the chain of its causes; "" for a refusal.
        at: when it failed first; tried_at: when last; `attempts` how often. In UTC.
    """

    id: int
    name: str
    args: Any
    scope: str
    user: str | None
    client_id: str | None
    client_seq: int | None
    ts: datetime
    seed: int
    error: str
    message: str
    traceback: str
    at: datetime
    tried_at: datetime
    attempts: int

    def __str__(self) -> str:
        by = "" if self.user is None else f" by {self.user}"
        tried = "" if self.attempts == 1 else f", {self.attempts} attempts"
        what = f"{self.error}: {self.message}" if self.message else self.error
        told = f"dead letter {self.id}: {self.name!r} in {self.scope!r}{by}"
        return f"{told} at {self.at:%F %T} UTC{tried}: {what}"


class DeadLetters:
    """`engine.dead_letters`: iterate over it, oldest first, or take one by its id. Any thread may use it.

    for letter in engine.dead_letters:
        print(letter, letter.args, letter.traceback)
    engine.dead_letters.retry(letter.id).raise_for_error()
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._native = engine._native

    def __iter__(self) -> Iterator[DeadLetter]:
        """Oldest first. What is discarded meanwhile may still come, what is added may not."""
        after = 0
        while page := _core.dead_letters(self._native, after, _PAGE):
            for fields in page:
                letter = DeadLetter(*fields)
                after = letter.id
                yield letter

    def __len__(self) -> int:
        return _core.dead_letter_counts(self._native)[0]

    def __bool__(self) -> bool:
        return len(self) > 0

    def __getitem__(self, id: int) -> DeadLetter:
        """Raises `NotFound`."""
        letter = self.get(id)
        if letter is None:
            raise NotFound(f"there is no dead letter {id}")
        return letter

    def get(self, id: int) -> DeadLetter | None:
        """The letter, or None: it was retried, discarded or dropped, or never was."""
        page = _core.dead_letters(self._native, _number(id) - 1, 1)
        letter = DeadLetter(*page[0]) if page else None
        return letter if letter is not None and letter.id == id else None

    @property
    def dropped(self) -> int:
        """How many went unread, in the database's life, because they were too many, too large or too old."""
        return _core.dead_letter_counts(self._native)[1]

    def retry(self, id: int, *, timeout: float | None = None) -> _core.Result:
        """Runs the mutation again as backend code, with its arguments, user, time and seed.

        Success removes the letter in the same commit. A refusal is in the result, and in the letter, whose
        `attempts` rises; where the mutator raises `Retry` the letter stays as it was. The client was answered
        long ago and hears nothing of it, but pulls what it changed.

        Args:
            timeout: seconds to wait for its turn.

        Raises:
            NotFound: there is no such letter.
            Timeout: its turn did not come.
            UsageError: called from within a mutator or a write of this thread.
        """
        from .engine import _seconds

        self._engine._check_task()
        result = _core.retry_dead_letter(
            self._native, _number(id), self._engine._mutators._table, _seconds(timeout)
        )
        if result is None:
            raise Timeout(f"the retry was withdrawn: its turn did not come within {timeout} s")
        return result[0]

    def discard(self, id: int) -> bool:
        """Forgets a letter. Whether there was one."""
        self._engine._check_task()
        return _core.discard_dead_letter(self._native, _number(id))

    def __repr__(self) -> str:
        return f"<DeadLetters of {self._engine!r}>"


def _number(id: object) -> int:
    if isinstance(id, bool) or not isinstance(id, int):
        raise UsageError(f"a dead letter's id is an int, not {type(id).__name__}")
    # What no letter can have is the id of none.
    return id if 0 < id < 1 << 53 else (1 << 53)


def _plain(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _describe(error: BaseException) -> tuple[str, str, str]:
    """Called by the core: the class, the message and the traceback of what a mutator raised."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except Exception:
        message = "(its message could not be made)"
    try:
        told = "".join(traceback.format_exception(kind, error, error.__traceback__))
    except Exception:
        told = "(its traceback could not be made)"
    if len(told) > _MOST_TRACEBACK:
        told = "... cut ...\n" + told[-_MOST_TRACEBACK:]
    return _plain(name), _plain(message[:_MOST_MESSAGE]), _plain(told)
