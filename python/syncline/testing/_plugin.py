"""The pytest plugin: the fixture `sync_world`, the option `--syncline-seed`, and the seed in the report."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ..mutators import Mutators
    from ._world import World

__all__: list[str] = []

_SEEDS = pytest.StashKey[list[int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("syncline")
    group.addoption(
        "--syncline-seed",
        type=int,
        default=None,
        metavar="SEED",
        help="the seed of each sync_world, as a failing test's report says it; without: a new one each time",
    )


@pytest.fixture
def syncline_seed(request: pytest.FixtureRequest) -> int:
    """The seed of this test: `--syncline-seed`, else a new one; it is in the report when the test fails."""
    given = request.config.getoption("--syncline-seed")
    seed = int(given) if given is not None else random.SystemRandom().getrandbits(32)
    request.node.stash.setdefault(_SEEDS, []).append(seed)
    return seed


@pytest.fixture
def sync_world(request: pytest.FixtureRequest, syncline_seed: int) -> Iterator[Callable[..., World]]:
    """Makes worlds: `sync_world(mutators, replicas=2, ...)`, with what `syncline.testing.World` takes. They
    are closed after the test."""
    from ._world import World

    made: list[World] = []

    def make(mutators: Mutators, *, seed: int | None = None, **options: Any) -> World:
        if seed is not None:
            request.node.stash.setdefault(_SEEDS, []).append(seed)
        # Several worlds of a test live differently, and each as before when the seed is the same.
        chosen = seed if seed is not None else syncline_seed if not made else f"{syncline_seed}-{len(made)}"
        world = World(mutators, seed=chosen, **options)
        made.append(world)
        return world

    yield make
    for world in made:
        world.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    seeds = item.stash.get(_SEEDS, [])
    if report.failed and seeds:
        report.sections.append(("syncline", f"to run this again: pytest --syncline-seed={seeds[0]}"))
    return report
