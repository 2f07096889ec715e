"""Bulk load: an existing table as documents.

    engine.load("shop", "customer", ({"id": row.id, "name": row.name} for row in table))

Rows are committed in chunks, each whole and durable, without mutators; they are logged as any change, and
pulled as any document. A load that broke off is run again from the start: a row that is there already
changes nothing. What is in the database and not among the rows stays.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any

from . import _core
from .errors import InvalidRequest, UsageError

if TYPE_CHECKING:
    from typing import TypeAlias

    from .engine import Engine

    Row: TypeAlias = Mapping[str, Any] | tuple[str | int, Mapping[str, Any]]

__all__ = ["Loaded"]


@dataclasses.dataclass(frozen=True)
class Loaded:
    """What a load did.

    Attributes:
        rows: how many were read; each was created, updated or unchanged.
        cursor: of its last change; 0: nothing changed.
    """

    rows: int
    created: int
    updated: int
    unchanged: int
    cursor: int


def load(
    engine: Engine,
    scope: str,
    entity: str,
    rows: Iterable[Row],
    *,
    key: str,
    batch: int,
    user: str | None,
    progress: Callable[[int, int | None], None] | None,
) -> Loaded:
    if isinstance(rows, (Mapping, str, bytes)) or not isinstance(rows, Iterable):
        raise InvalidRequest(f"load takes an iterable of rows, not {type(rows).__name__}")
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise UsageError(f"batch must be a number of rows, 1 or more, not {batch!r}")
    if not isinstance(key, str):
        raise UsageError(f"key must be the name of a field, not {type(key).__name__}")
    total = len(rows) if isinstance(rows, Sized) else None
    left = iter(rows)
    done = created = updated = unchanged = cursor = 0
    chunk = list(itertools.islice(left, batch))
    while chunk:
        # It stops before an id that the chunk had already: the later row of two is an update of its own.
        taken, *counts, last = _core.load(engine._native, scope, entity, chunk, key, user, done)
        done += taken
        created, updated, unchanged = created + counts[0], updated + counts[1], unchanged + counts[2]
        cursor = last or cursor
        if progress is not None:
            progress(done, total)
        chunk = chunk[taken:]
        chunk += itertools.islice(left, batch - len(chunk))
    return Loaded(done, created, updated, unchanged, cursor)
