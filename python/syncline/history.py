"""History: what the changelog says of the past.

`engine.log`, `engine.history`, `engine.at` and `engine.explain` are the ways in; this module has what they
give back beside the native objects.
"""

from __future__ import annotations

import dataclasses
import enum
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final, Literal

from . import _core

if TYPE_CHECKING:
    from typing import TypeAlias

    Moment: TypeAlias = "int | datetime"

__all__ = ["ABSENT", "Absent", "Explanation", "explain"]


class Absent(enum.Enum):
    """The type of `ABSENT`."""

    ABSENT = "absent"

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "ABSENT"

    __str__ = __repr__


ABSENT: Final = Absent.ABSENT
"""The side of a change on which the field is not there; None is the value null. It is false."""


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What is known of a document, and of a client that should have it; `str()` is the same in words.

    Attributes:
        scope, entity, id, client_id: what was asked.
        state: "live"; "deleted", its tombstone still stands; "unknown", there is neither.
        version, cursor, ts: of its latest change; 0, 0 and None where it is unknown.
        created: the cursor of the change that (last) created it.
        user, mutation, by_client, by_client_seq: who made the latest change, and by what; None: nobody, a
            direct write, backend code; all None too when `logged` is false.
        logged: the log line of the latest change is still kept.
        head: of the database.
        floor: of the scope: a pull from below is `CursorTooOld`.
        client_known: that client has pushed here once; then `client_user`, `client_last_seq` and
            `client_seen_at` (of its last push) say more.
        refused: (client_seq, code, message) of its last 20 mutations those that were refused, newest
            first.
        position: the cursor up to which the client is known to have this scope, as of `position_at`; None:
            that was not recorded.
        has: whether the client has the document as it is: "yes"; "older", an earlier version of it; "no", or
            not any more; "unknown", because its position is.
    """

    scope: str
    entity: str
    id: str
    client_id: str | None
    state: Literal["live", "deleted", "unknown"]
    version: int
    cursor: int
    created: int
    created_at: datetime | None
    ts: datetime | None
    logged: bool
    user: str | None
    mutation: str | None
    by_client: str | None
    by_client_seq: int | None
    head: int
    scope_known: bool
    floor: int
    log_floor: int
    client_known: bool
    client_user: str | None
    client_last_seq: int
    client_seen_at: datetime | None
    refused: tuple[tuple[int, str, str], ...]
    position: int | None
    position_at: datetime | None

    @property
    def has(self) -> Literal["yes", "older", "no", "unknown"]:
        if self.position is None or self.state == "unknown":
            return "unknown"
        if self.position >= self.cursor:
            return "yes" if self.state == "live" else "no"
        if self.state == "live" and self.position < self.created:
            return "no"
        return "older"

    def __str__(self) -> str:
        words = [self._document()]
        if self.client_id is not None:
            words.append(self._client())
            words += [
                f"Its mutation {seq} was refused: {code}, {message}." for seq, code, message in self.refused
            ]
            words.append(self._delivery())
        return "\n".join(words)

    def _document(self) -> str:
        name = f"{self.entity}/{self.id} in {self.scope}"
        if self.state == "unknown":
            if not self.scope_known:
                return f"There is no {name}: nothing was ever written to that scope."
            if self.floor:
                return (
                    f"There is no {name}: it was never written, or it was deleted at or before cursor "
                    f"{self.floor}, up to where deletions are forgotten."
                )
            return f"There is no {name}, and there never was."
        change = (
            "Deleted" if self.state == "deleted" else "Created" if self.cursor == self.created else "Changed"
        )
        said = "is deleted" if self.state == "deleted" else "exists"
        return (
            f"{name} {said}: version {self.version}. {change} at cursor {self.cursor}, {_time(self.ts)}, "
            f"{self._author()}."
        )

    def _author(self) -> str:
        if not self.logged:
            return "by whom is no longer kept"
        who = "by backend code" if self.by_client is None else f"by client {self.by_client}"
        if self.user is not None:
            who += f" of user {self.user}"
        if self.mutation is None:
            return who + ", in a direct write"
        number = "" if self.by_client_seq is None else f" (its mutation {self.by_client_seq})"
        return f"{who}, through {self.mutation}{number}"

    def _client(self) -> str:
        if not self.client_known:
            return f"Client {self.client_id} has never pushed here."
        whose = f"user {self.client_user}" if self.client_user is not None else "nobody"
        return (
            f"Client {self.client_id} belongs to {whose}; its last mutation was number "
            f"{self.client_last_seq}, its last push {_time(self.client_seen_at)}."
        )

    def _delivery(self) -> str:
        reserved = (
            " Entities that begin with _ are delivered only to who asks for them by name."
            if self.entity.startswith("_")
            else ""
        )
        return self._position() + reserved

    def _position(self) -> str:
        if self.position is None:
            return (
                "How far it has pulled this scope is not known: it has not said so, or that was not recorded."
            )
        at = f"It had this scope up to cursor {self.position} {_time(self.position_at)}"
        if 0 < self.position < self.floor:
            return (
                f"{at}, below the floor {self.floor}: its next pull is refused as too old, and it pulls anew "
                "from 0."
            )
        if self.state == "unknown":
            return at + "."
        if self.has == "yes":
            return f"{at}: it has this version."
        if self.position >= self.cursor:
            return f"{at}: it was told of the deletion."
        if self.has == "no":
            return f"{at}, before the document was created at {self.created}: its next pull brings it."
        if self.state == "deleted":
            return f"{at}, before the deletion: its next pull removes it, if it has it."
        return f"{at}: it has an older version, its next pull brings this one."


def _time(ts: datetime | None) -> str:
    if ts is None:
        return "at a time unknown"
    return "on " + ts.astimezone(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


def explain(
    native: _core.Engine, scope: str, entity: str, id: str, client_id: str | None = None
) -> Explanation:
    """What `Engine.explain` returns."""
    found = _core.find_out(native, scope, entity, id, client_id)
    return Explanation(scope=scope, entity=entity, id=id, client_id=client_id, **found)
