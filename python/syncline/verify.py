"""Is everything that is stored as it must be, and if not: what can be rebuilt.

`engine.verify()` looks, `syncline.repair(path)` mends. Both say in words what they found, and where.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import _core
from .errors import UsageError

if TYPE_CHECKING:
    from typing import TypeAlias

    _Path: TypeAlias = "str | os.PathLike[str]"

__all__ = ["Checked", "Problem", "Repair", "Report", "repair"]


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something that is not as it must be: `place` says where, `what` what is wrong there."""

    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.place}: {self.what}"


@dataclasses.dataclass(frozen=True)
class Checked:
    """How much was looked at. `documents` counts tombstones too; `versions` those whose hash was computed
    again; `results` what was stored for a push of a client."""

    documents: int
    versions: int
    log_lines: int
    unlogged: int
    clients: int
    results: int
    scopes: int


@dataclasses.dataclass(frozen=True)
class Report:
    """What `engine.verify` found; true when that is nothing.

    Attributes:
        problems: the first thousand.
        found: how many there are.
        checked: how much was looked at.
    """

    problems: tuple[Problem, ...]
    found: int
    checked: Checked

    @property
    def ok(self) -> bool:
        return self.found == 0

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        if self.ok:
            return f"all is well: {self.checked.documents} documents, {self.checked.versions} versions"
        more = [] if self.found == len(self.problems) else [f"... and {self.found - len(self.problems)} more"]
        return "\n".join([*map(str, self.problems), *more])


@dataclasses.dataclass(frozen=True)
class Repair:
    """What `syncline.repair` did.

    Attributes:
        rebuilt: what was rebuilt or given up, a sentence each; empty: nothing was wrong that it can mend.
        left: what is still wrong. Nothing was invented for it: restore a backup, or write those anew.
    """

    rebuilt: tuple[str, ...]
    left: tuple[Problem, ...]

    def __str__(self) -> str:
        lines = [*self.rebuilt, *(f"LEFT {one}" for one in self.left)]
        return "\n".join(lines) if lines else "there was nothing to repair"


def repair(path: _Path) -> Repair:
    """Rebuilds in the database at `path` what follows from the rest of it: indexes, keys, tombstones, heads,
    the versions and times of documents, last numbers of clients. History that does not fit together is given
    up, from the fault back. A body, a name or an owner is never made up.

    All of it is one transaction. Copy the file, with its "-wal", before.

    Raises:
        Locked: an engine has the file open for writing; close it first.
        Corrupt: SQLite itself cannot read it any more. `sqlite3 app.db .recover` may; or restore a backup.
        ForeignFile, NewerSchema, DiskFull, StorageError.
    """
    name = os.fspath(path)
    if not isinstance(name, str):
        raise UsageError("path must be a str or a pathlib.Path")
    rebuilt, left = _core.repair(name)
    return Repair(tuple(rebuilt), tuple(Problem(*one) for one in left))


def verify(native: _core.Engine, progress: Callable[[int, int], None] | None) -> Report:
    problems, found, checked = native.verify(progress)
    return Report(tuple(Problem(*one) for one in problems), found, Checked(**checked))
