"""Upgrades: documents and queued mutations that older code has written.

**Documents.** `@mutators.upgrade("todo", schema=2)` registers the function that makes a document of schema 2
of one of schema 1. A document's schema is told by its cursor: opening the database with a new schema notes
the cursor from which that schema holds, and whatever was written before is older. So nothing is stored in
the documents, and entities without upgrades cost nothing. From then on every read (`tx`, views, pulls,
snapshots) gives the upgraded document, and a thread of the engine writes it back, some at a time, by
ordinary commits of the mutation "_upgrade"; when all are done, that is noted, and the function is not called
any more. It must depend on the document alone.

Where the function raises, a mutator that reads the document fails; everybody else is given the document as
it was stored, and the log says so. The upgrade stays open then, and is tried again when the database is
opened next.

History, tables and feeds tell what was written, as it was written.

**Mutations.** `@mutators.upgrade_args("todo/create", version=2)` registers the function that makes the
arguments of version 2 of those of version 1. A client says the version in the name: "todo/create" is version
1, "todo/create@2" version 2. The mutator itself, and its validation, see the arguments of the highest
version alone; what an old client has queued is upgraded first, and so is a dead letter.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from . import _core
from .errors import Closed, UsageError

if TYPE_CHECKING:
    from typing import TypeAlias

    # What a document is, no type of today's checkers says without spoiling document["field"].
    Upgrade: TypeAlias = "Callable[[dict[str, Any]], dict[str, Any]]"
    UpgradeArgs: TypeAlias = "Callable[[Any], Any]"

__all__ = ["UpgradeInfo", "Upgrades"]

_log = logging.getLogger("syncline.upgrades")

_SCOPE = "_upgrades"
_ENTITY = "entity"
_STEP = 200  # documents a commit: some milliseconds, for which others wait
_NEVER = 1 << 40
_MOST_TOLD = 1000


@dataclasses.dataclass(frozen=True)
class UpgradeInfo:
    """How far an entity is.

    Attributes:
        entity: its name.
        schema: what its documents are read as.
        stored: what all of them are stored as, at least.
    """

    entity: str
    schema: int
    stored: int

    @property
    def pending(self) -> bool:
        """Documents may still be stored as an older schema."""
        return self.stored < self.schema


class Upgrades:
    """`engine.upgrades`: how far the documents of each entity are, and the thread that writes them back."""

    def __init__(self, native: _core.Engine, registered: Mapping[str, Mapping[int, Upgrade]]) -> None:
        self._native = native
        self._stop = threading.Event()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._failed = 0
        self._entities = _plan(native, registered)
        table = {
            name: [(begins, schema, registered[name][schema]) for schema, begins in entity.steps]
            for name, entity in self._entities.items()
            if entity.steps
        }
        if not table:
            self._over.set()
            return
        _core.set_upgrades(native, table)
        if native.read_only:
            self._over.set()
            return
        self._thread = threading.Thread(target=self._run, name="syncline-upgrade", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[UpgradeInfo]:
        """Every entity that has upgrades, by name."""
        for name, entity in sorted(self._entities.items()):
            yield UpgradeInfo(name, entity.schema, entity.stored)

    @property
    def pending(self) -> bool:
        return any(one.pending for one in self)

    @property
    def failed(self) -> int:
        """Documents that their functions could not upgrade, when the thread was there."""
        return self._failed

    def wait(self, timeout: float | None = None) -> bool:
        """Waits, at most `timeout` seconds, until the thread has been everywhere. Whether nothing is
        pending."""
        self._over.wait(timeout)
        return not self.pending

    def stop(self) -> None:
        """Ends the thread after the commit it is in; the next opening goes on from there."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        try:
            if self._write_back():
                self._finish()
        except Closed:
            pass
        except Exception:
            _log.exception("the upgrade broke off; it goes on when the database is opened again")
        finally:
            self._over.set()

    def _write_back(self) -> bool:
        """Whether it came through."""
        upgraded = 0
        for scope, *_ in self._native.scopes():
            after, more = 0, True
            while more:
                if self._stop.is_set():
                    return False
                after, more, done, _, failed = _core.upgrade_step(self._native, scope, after, _STEP)
                upgraded += done
                self._failed += failed
        if self._failed:
            _log.error(
                "%d documents could not be upgraded, and are told as they were stored; mend the function, "
                "and open the database again",
                self._failed,
            )
            return False
        _log.info("%d documents upgraded", upgraded)
        return True

    def _finish(self) -> None:
        for name, entity in self._entities.items():
            if entity.steps:
                _core.put_note(self._native, _SCOPE, _ENTITY, name, {"schema": entity.schema, "steps": []})
                entity.stored, entity.steps = entity.schema, []
        _core.set_upgrades(self._native, {})


@dataclasses.dataclass
class _Entity:
    schema: int  # read as
    stored: int  # at least
    steps: list[tuple[int, int]]  # (schema, the cursor from which it holds)


def _plan(native: _core.Engine, registered: Mapping[str, Mapping[int, Upgrade]]) -> dict[str, _Entity]:
    """What is to be done, noted before anything can be written as a new schema."""
    if not registered:
        return {}
    notes = dict(_core.notes(native, _SCOPE, _ENTITY))
    head = native.head()
    plan = {}
    for name, functions in registered.items():
        highest = max(functions)
        note = notes.get(name)
        if note is None:
            # What nobody noted is as old as the oldest function takes it. In a new database nothing is old.
            entity = _Entity(highest, highest if head == 0 else min(functions) - 1, [])
        else:
            entity = _Entity(highest, note["schema"], [(one["schema"], one["from"]) for one in note["steps"]])
        known = entity.steps[-1][0] if entity.steps else entity.stored
        if known > highest:
            raise UsageError(
                f"documents of {name!r} are of schema {known}, and the upgrades registered go up to "
                f"{highest}: this is older code than the one that opened the database last"
            )
        missing = [schema for schema in range(entity.stored + 1, highest + 1) if schema not in functions]
        if missing:
            raise UsageError(
                f"documents of {name!r} may be of schema {entity.stored}, and no upgrade to {missing[0]} is "
                "registered"
            )
        begins = _NEVER if native.read_only else head + 1
        entity.steps += [(schema, begins) for schema in range(known + 1, highest + 1)]
        if not native.read_only and (note is None or known < highest):
            steps = [{"schema": schema, "from": begins} for schema, begins in entity.steps]
            _core.put_note(native, _SCOPE, _ENTITY, name, {"schema": entity.stored, "steps": steps})
        plan[name] = entity
    return plan


_told: set[tuple[str, str]] = set()


def _log_failure(entity: str, id: str, error: BaseException) -> None:
    """Called by the core for each read of a document that cannot be upgraded; told once."""
    if (entity, id) in _told or len(_told) >= _MOST_TOLD:
        return
    _told.add((entity, id))
    _log.error(
        "the document %s/%s could not be upgraded",
        entity,
        id,
        exc_info=(type(error), error, error.__traceback__),
        extra={"syncline_entity": entity, "syncline_id": id},
    )
