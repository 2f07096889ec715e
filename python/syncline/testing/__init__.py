"""A test kit for applications: a server and its replicas in one thread, whose network, clock and crashes a
seed decides; and a check that mutators do the same each time.

With pytest there is a fixture, which comes with the package:

    def test_two_phones_agree(sync_world):
        world = sync_world(mutators, replicas=2, scopes=["list:1"])
        world.network.loss = 0.2
        world.replicas[0].mutate("todo/create", {"id": "1", "title": "milk"})
        world.replicas[1].crash(down=5)
        world.run_until_quiet()
        world.assert_converged()

A failing test's report says its seed; `pytest --syncline-seed=THAT` runs the same life again.
"""

from __future__ import annotations

from ._determinism import Call, Difference, NotDeterministic, check_determinism
from ._life import FAULTS, Life, live
from ._world import Network, SimReplica, World

__all__ = [
    "FAULTS",
    "Call",
    "Difference",
    "Life",
    "Network",
    "NotDeterministic",
    "SimReplica",
    "World",
    "check_determinism",
    "live",
]
