"""Random lives of a world: each bad in its own way."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from typing import TypeAlias

    from ._world import SimReplica, World

__all__ = ["FAULTS", "Fault", "Life", "live"]

Fault: TypeAlias = Literal[
    "crash",
    "close",
    "partition",
    "pause",
    "server_crash",
    "server_restart",
    "backup",
    "restore",
    "compact",
    "permission",
    "leave",
    "token",
    "discard",
    "copy",
    "set_back",
]

FAULTS: tuple[Fault, ...] = (
    "crash",
    "close",
    "partition",
    "pause",
    "server_crash",
    "server_restart",
    "backup",
    "restore",
    "compact",
    "permission",
    "leave",
    "token",
    "discard",
)


@dataclasses.dataclass(frozen=True)
class Life:
    """How a random life is.

    Attributes:
        steps: how much happens.
        busy: of those steps, how many in a hundred are mutations.
        faults: what may go wrong besides the network; each life takes about half of them. "copy" and
            "set_back" (a replica's file is set back) are not among the usual ones.
        pause: virtual seconds between two steps, at most.
    """

    steps: int = 40
    busy: int = 60
    faults: Sequence[Fault] = FAULTS
    pause: float = 2.0


def live(
    world: World,
    mutation: Callable[[random.Random, SimReplica], tuple[str, Any]],
    life: Life | None = None,
) -> None:
    """A random life of the world, from its seed: mutations, and things that go wrong. Afterwards say
    `world.run_until_quiet()`.

    Args:
        mutation: a mutation's name and arguments; what it raises here, where it is refused at once, is as if
            it had not been made.
        life: how it is.
    """
    life = life if life is not None else Life()
    chance = world.random
    world.network.loss = chance.choice((0.0, 0.1, 0.3))
    world.network.duplication = chance.choice((0.0, 0.1, 0.3))
    world.network.latency = chance.choice(((0.001, 0.01), (0.01, 0.2), (0.01, 3.0)))
    faults = [one for one in life.faults if chance.random() < 0.5]
    for _ in range(life.steps):
        if chance.randrange(100) < life.busy or not faults:
            _mutate(world, chance.choice(world.replicas), mutation)
        else:
            _go_wrong(world, chance, chance.choice(faults))
        world.run(chance.choice((0.0, 0.01, 0.1, 1.0)) * life.pause * chance.random())


def _mutate(
    world: World,
    replica: SimReplica,
    mutation: Callable[[random.Random, SimReplica], tuple[str, Any]],
) -> None:
    if not replica.up or not replica.scopes:
        return
    name, args = mutation(world.random, replica)
    with contextlib.suppress(Exception):  # refused here, or its own fault: nothing is queued
        replica.mutate(name, args, scope=world.random.choice(replica.scopes))


def _go_wrong(world: World, chance: random.Random, fault: Fault) -> None:
    replica = chance.choice(world.replicas)
    scope = chance.choice(world.scopes)
    if fault == "crash":
        replica.crash(down=chance.random() * 5)
    elif fault == "close":
        replica.close()
        world._at(chance.random() * 5, replica.open)
    elif fault == "partition":
        replica.heal() if not replica.connected else replica.partition()
    elif fault == "pause":
        if replica.up:
            replica.resume() if replica.paused else replica.pause()
    elif fault == "server_crash":
        world.crash_server(down=chance.random() * 5)
    elif fault == "server_restart" and world.up:
        world.restart_server()
    elif fault == "backup" and world.up:
        world.backup()
    elif fault == "restore" and world.backups:
        world.restore(chance.randrange(world.backups))
    elif fault == "compact" and world.up:
        world.compact()
    elif fault == "permission":
        world.permit(replica.user, scope, read=chance.random() < 0.6, write=chance.random() < 0.6)
    elif fault == "leave" and replica.up:
        replica.leave(scope) if scope in replica.scopes else replica.join(scope)
    elif fault == "token":
        replica.expire_token()
    elif fault == "discard" and replica.up:
        pending = replica.pending
        if pending:
            replica.discard(chance.choice(pending).place)
    elif fault == "copy" and replica.up:
        replica.keep_copy()
    elif fault == "set_back" and replica.up:
        replica.restore_copy()
