"""Every exception Syncline raises, by the code it carries.

The first group travels: a server says `code` in its answer and `syncline.connect` raises the class again. The
second stays in the process that raised it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

__all__ = [
    "Closed",
    "Conflict",
    "Corrupt",
    "CursorTooOld",
    "DiskFull",
    "EpochMismatch",
    "Error",
    "Forbidden",
    "ForeignFile",
    "HistoryGone",
    "InternalError",
    "InvalidMutation",
    "InvalidRequest",
    "InvalidScope",
    "Locked",
    "NewerSchema",
    "NotFound",
    "RateLimited",
    "ReadOnly",
    "Rejected",
    "ResultExpired",
    "Retry",
    "SequenceGap",
    "SequenceReused",
    "StorageError",
    "Timeout",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "UnknownMutation",
    "UsageError",
    "from_code",
]


class Error(Exception):
    """The base of them all.

    Attributes:
        code: the protocol's name of it, such as "sequence_gap".
        message: one sentence for a person.
        details: for a program; such as `{"expected": 4}`.
    """

    code: str = "internal_error"
    # The details that come with it, by name: int or str. An application's own may have others.
    told: ClassVar[tuple[tuple[str, type], ...]] = ()

    def __init__(self, message: str = "", *, details: Mapping[str, int | str] | None = None) -> None:
        super().__init__(message)
        self.details: dict[str, int | str] = dict(details or {})

    @property
    def message(self) -> str:
        return str(self.args[0]) if self.args else ""

    def _number(self, name: str) -> int | None:
        value = self.details.get(name)
        return value if isinstance(value, int) else None


# ---------------------------------------------------------------------------------------------- they travel


class InvalidRequest(Error, ValueError):
    """What was asked cannot be read: a field is missing or has the wrong form. Nothing was consumed."""

    code = "invalid_request"


class InvalidMutation(Error, ValueError):
    """A mutation's arguments, or a value to be stored, are not what they must be; the message says where."""

    code = "invalid_mutation"


class InvalidScope(Error, ValueError):
    """The scope is no scope: 1-255 bytes of UTF-8, no control characters, no leading "_"."""

    code = "invalid_scope"


class Unauthenticated(Error):
    """Nobody was recognised. An `authenticate` hook may raise it."""

    code = "unauthenticated"


class Forbidden(Error):
    """The user may not do this there, or the client id is another user's."""

    code = "forbidden"


class NotFound(Error, LookupError):
    """There is no such document."""

    code = "not_found"


class UnknownMutation(Error, LookupError):
    """No mutator is registered for that name."""

    code = "unknown_mutation"


class InternalError(Error):
    """Something failed inside; the log knows what."""

    code = "internal_error"


class SequenceGap(Error):
    """The client's mutation is not its next one."""

    code = "sequence_gap"
    told = (("expected", int),)

    @property
    def expected(self) -> int | None:
        """The number that the server waits for."""
        return self._number("expected")


class SequenceReused(Error):
    """The client used this number before, for another mutation."""

    code = "sequence_reused"


class Conflict(Error):
    """A document is at another version than `tx.expect` said."""

    code = "conflict"
    told = (("version", int),)

    @property
    def version(self) -> int | None:
        """The version it is at; 0: absent."""
        return self._number("version")


class CursorTooOld(Error):
    """Deletions since that cursor are no longer known; pull from 0."""

    code = "cursor_too_old"
    told = (("floor", int),)


class HistoryGone(CursorTooOld):
    """The history that far back is no longer kept: it was compacted away, or erased."""

    code = "history_gone"

    @property
    def floor(self) -> int | None:
        """The earliest cursor from which all of it is kept."""
        return self._number("floor")


class EpochMismatch(Error):
    """The cursor, or the push, belongs to another history of the database."""

    code = "epoch_mismatch"
    told = (("epoch", str),)

    @property
    def epoch(self) -> str | None:
        """The current one."""
        value = self.details.get("epoch")
        return value if isinstance(value, str) else None


class ResultExpired(Error):
    """The mutation was answered before, and the answer is no longer kept."""

    code = "result_expired"


class TooLarge(Error):
    """More than a limit allows."""

    code = "too_large"
    told = (("limit", int),)

    @property
    def limit(self) -> int | None:
        """What is allowed at most."""
        return self._number("limit")


class Rejected(Error):
    """What a mutator raises to refuse a mutation. Its client sees this code and this message.

    Args:
        message: one sentence for the client.
        code: the application's own, such as "already_sold".
        details: further fields of the client's error.

    Raises:
        ValueError: `code` is empty, or one by which clients would take the mutation for not consumed.
    """

    code = "rejected"

    def __init__(
        self, message: str = "", code: str = "rejected", *, details: Mapping[str, int | str] | None = None
    ) -> None:
        if code in _NOT_CONSUMED or not code or len(code) > 255 or not code.isprintable():
            raise ValueError(f"a Rejected cannot have the code {code!r}: choose one of your own")
        super().__init__(message, details=details)
        self.code = code


class RateLimited(Error):
    """Too many are waiting; try again later."""

    code = "rate_limited"
    told = (
        ("limit", int),
        ("retry_after", int),
    )


class Unavailable(Error):
    """Not now; nothing was consumed, try again later."""

    code = "unavailable"
    told = (("retry_after", int),)


class Retry(Exception):
    """What a mutator raises when the mutation should be tried again later: nothing of it is consumed."""


# ---------------------------------------------------------------------------------------- they stay at home


class Timeout(Error, TimeoutError):
    """A push or a write was withdrawn, because its turn did not come in time. Nothing was consumed."""

    code = "unavailable"


class Closed(Error):
    """The engine, the tx, the view or the subscription is no longer open."""

    code = "closed"


class UsageError(Error, RuntimeError):
    """The API was used in a way it forbids; the message says what would be right."""

    code = "usage"


class StorageError(Error, OSError):
    """The storage failed."""

    code = "storage"

    def __str__(self) -> str:
        return self.message


class Locked(StorageError):
    """Another process has the database open for writing."""

    code = "locked"


class ForeignFile(StorageError):
    """The file is no Syncline database."""

    code = "foreign_file"


class NewerSchema(StorageError):
    """The file was written by a newer Syncline."""

    code = "newer_schema"


class Corrupt(StorageError):
    """The file is damaged."""

    code = "corrupt"


class DiskFull(StorageError):
    """The disk, or the quota, is full."""

    code = "disk_full"


class ReadOnly(StorageError):
    """A write on a database that was opened for reading."""

    code = "read_only"


_NOT_CONSUMED = frozenset(
    {
        "sequence_gap",
        "unavailable",
        "rate_limited",
        "unauthenticated",
        "invalid_request",
        "result_expired",
        "epoch_mismatch",
    }
)

# Those that a server says to a client, in the order of the protocol's table. `_core.http_status` knows the
# status of each code.
TRAVELLING: tuple[type[Error], ...] = (
    InvalidRequest,
    InvalidMutation,
    InvalidScope,
    Unauthenticated,
    Forbidden,
    NotFound,
    UnknownMutation,
    InternalError,
    SequenceGap,
    SequenceReused,
    Conflict,
    CursorTooOld,
    HistoryGone,
    EpochMismatch,
    ResultExpired,
    TooLarge,
    Rejected,
    RateLimited,
    Unavailable,
)
WIRE_CODES = frozenset(kind.code for kind in TRAVELLING)

_AT_HOME: tuple[type[Error], ...] = (
    Closed,
    UsageError,
    StorageError,
    Locked,
    ForeignFile,
    NewerSchema,
    Corrupt,
    DiskFull,
    ReadOnly,
)
_CLASSES: dict[str, type[Error]] = {kind.code: kind for kind in (*TRAVELLING, *_AT_HOME)}


def from_code(code: str, message: str, details: Mapping[str, int | str] | None = None) -> Error:
    """The exception of a code; one that is not the protocol's own is a `Rejected`'s."""
    kind = _CLASSES.get(code)
    return (
        Rejected(message, code or "rejected", details=details)
        if kind is None
        else kind(message, details=details)
    )
