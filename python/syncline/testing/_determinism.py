"""Whether mutators do the same each time and on both sides, which convergence rests on.

Each call is run on a server, once more on a second one, and as the optimistic run of a replica of the first,
all with the same clock, seed and documents. What differs is named down to the field.
"""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import _core, errors
from ..engine import Engine
from ..mutators import Mutators
from ..retention import Retention

__all__ = ["Call", "Difference", "NotDeterministic", "check_determinism"]

_BEGAN = 1_767_225_600_000_000
_NOTHING = "nothing"
_MOST = 20


@dataclasses.dataclass(frozen=True)
class Call:
    """A mutation to check with: as `Replica.mutate` takes it."""

    name: str
    args: Any = None
    scope: str = "scope"
    user: str = "user"


@dataclasses.dataclass(frozen=True)
class Difference:
    """What one run did and another did not.

    Attributes:
        call: of which mutation.
        against: "second run" or "replica": what the first run on the server is compared with.
        where: "entity/id" and the field, as in "todo/1 title"; "outcome" when one was refused.
        first, other: the values; "nothing" where there is none.
    """

    call: Call
    against: str
    where: str
    first: Any
    other: Any

    def __str__(self) -> str:
        return (
            f"{self.call.name!r} with {self.call.args!r} in {self.call.scope!r}: {self.where} is "
            f"{self.first!r} on the server and {self.other!r} in the {self.against}"
        )


class NotDeterministic(AssertionError):
    """A mutator did not do the same twice. `differences` says what."""

    def __init__(self, differences: list[Difference]) -> None:
        shown = "\n  ".join(str(one) for one in differences[:_MOST])
        super().__init__(
            "a mutator did not do the same each time; it may use only tx and its arguments, tx.now for the "
            f"clock, tx.uuid() and tx.random for chance:\n  {shown}"
        )
        self.differences = differences


def check_determinism(
    mutators: Mutators,
    calls: Iterable[Call | tuple[str, Any]],
    *,
    client_mutators: Mutators | None = None,
    documents: Mapping[str, Mapping[str, Mapping[str, Mapping[str, Any]]]] | None = None,
    seed: int | str = 0,
) -> int:
    """Runs each call, in order and on top of those before, on a server, on a second server and on a replica,
    and compares what it did. Returns how many were run.

    Args:
        mutators: the server's.
        calls: `Call`s, or (name, args).
        client_mutators: the replica's, where they are others.
        documents: what is there at first: {scope: {entity: {id: document}}}.
        seed: of the mutations' seeds.

    Raises:
        NotDeterministic: with every difference of the first call that has one.
    """
    client = client_mutators if client_mutators is not None else mutators
    chance = random.Random(f"{seed} determinism")
    clock = _core.ManualClock(_BEGAN)
    count = 0
    with (
        tempfile.TemporaryDirectory(prefix="syncline-") as folder,
        _engine(mutators, clock) as first,
        _engine(mutators, clock) as second,
    ):
        for scope, entities in (documents or {}).items():
            for engine in (first, second):
                with engine.write(scope) as tx:
                    for entity, rows in entities.items():
                        for id, document in rows.items():
                            tx.set(entity, id, dict(document))
        replicas: dict[str, _Side] = {}
        try:
            for one in calls:
                call = one if isinstance(one, Call) else Call(*one)
                if call.user not in replicas:
                    replicas[call.user] = _Side(
                        Path(folder) / f"{len(replicas)}.db", client, clock, chance, call.user, len(replicas)
                    )
                clock.advance(1_000_000)
                differences = _run(call, first, second, replicas[call.user], clock, chance)
                if differences:
                    raise NotDeterministic(differences)
                count += 1
        finally:
            for side in replicas.values():
                side.core.close()
    return count


def _engine(mutators: Mutators, clock: _core.ManualClock) -> Engine:
    return Engine(
        ":memory:", mutators=mutators, slow_mutator=None, retention=Retention(interval=None), clock=clock
    )


class _Side:
    """A replica of the first server, without a network between them."""

    def __init__(
        self,
        path: Path,
        mutators: Mutators,
        clock: _core.ManualClock,
        chance: random.Random,
        user: str,
        number: int,
    ) -> None:
        self.user = user
        self.core = _core.Replica(
            str(path),
            mutators._table,
            user=user,
            client_id=f"check-{number}",
            durability="normal",
            clock=clock,
            entropy=lambda: chance.getrandbits(64),
        )

    def pull(self, engine: Engine, scope: str) -> None:
        self.core.join(scope)
        for _ in range(1000):
            request = self.core.next_pull(scope)
            assert request is not None
            asked = _core.PullRequest.parse(request.body, "msgpack", engine.limits)
            self.core.answer(request.request, 200, engine._native.pull_encoded(asked, self.user, "msgpack"))
            (state,) = [one for one in self.core.scopes() if one.name == scope]
            if state.loaded and not state.pulling and not state.staged_pages:
                return
        raise AssertionError("the replica does not come to the end of a pull")


def _run(
    call: Call, first: Engine, second: Engine, side: _Side, clock: _core.ManualClock, chance: random.Random
) -> list[Difference]:
    core = side.core
    side.pull(first, call.scope)
    core.flush()
    core.take_events()
    outcome = "ok"
    try:
        core.mutate(call.scope, call.name, call.args)
    except errors.Error as error:
        outcome = error.code
    except Exception:
        outcome = "internal_error"
    core.flush()
    touched = {
        (event.entity or "", event.id or "") for event in core.take_events() if event.kind == "changed"
    }
    here = {key: core.view(call.scope, False).get(*key) for key in touched}
    request = core.next_push() if outcome == "ok" else None
    if request is None:
        mutation: dict[str, Any] = {
            "name": call.name,
            "args": call.args,
            "scope": call.scope,
            "ts": _moment(clock.microseconds),
            "seed": chance.getrandbits(64),
        }
    else:
        (mutation,) = _core.unpackb(request.body)["mutations"]
    results = [engine.push([mutation], user=call.user) for engine in (first, second)]
    if request is not None:
        core.answer(request.request, 200, results[0].encode("msgpack"))
    outcomes = [_outcome(result) for result in results]
    differences = [
        Difference(call, against, "outcome", outcomes[0], other)
        for against, other in (("second run", outcomes[1]), ("replica", outcome))
        if other != outcomes[0]
    ]
    if differences:
        return differences
    for result in results:
        touched |= {(note.entity, note.id) for note in result[0].changes}
    view = core.view(call.scope, False)
    for key in touched - here.keys():
        here[key] = view.get(*key)
    with first.read(call.scope) as one, second.read(call.scope) as two:
        for entity, id in sorted(touched):
            there = one.get(entity, id)
            for against, other in (("second run", two.get(entity, id)), ("replica", here[entity, id])):
                differences += [
                    Difference(call, against, f"{entity}/{id}{path}", a, b)
                    for path, a, b in _diff("", there, other)
                ]
    return differences


def _outcome(result: _core.PushResult) -> str:
    error = result[0].error
    return "ok" if error is None else error.code


def _diff(path: str, one: Any, two: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(two, dict):
        found = []
        for key in sorted(one.keys() | two.keys()):
            inner = f"{path}.{key}" if path else f" {key}"
            found += _diff(inner, one.get(key, _NOTHING), two.get(key, _NOTHING))
        return found
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        return [
            entry
            for number, (a, b) in enumerate(zip(one, two, strict=True))
            for entry in _diff(f"{path}[{number}]", a, b)
        ]
    if type(one) is type(two) and (one == two or (one != one and two != two)):
        return []
    return [
        (path, _NOTHING if one is None and not path else one, _NOTHING if two is None and not path else two)
    ]


def _moment(microseconds: int) -> Any:
    import datetime

    return datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc) + datetime.timedelta(
        microseconds=microseconds
    )
