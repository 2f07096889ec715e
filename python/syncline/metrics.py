"""Prometheus metrics of an engine, through `prometheus-client` (the extra "metrics").

    app = syncline.asgi(engine, ..., metrics=lambda request: request.token == SECRET)    # at /_sync/metrics

or in a registry that the application serves itself:

    prometheus_client.REGISTRY.register(syncline.metrics.Collector(engine))

The numbers are the engine's own counters, read when they are asked for: nothing is counted twice, and nothing
that costs a scan of the database is told.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from . import _core, errors

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry

    from .engine import Engine

__all__ = ["Collector", "Requests", "render"]

_NEEDED = "metrics need prometheus-client, which is missing: pip install 'syncline[metrics]'"

# Seconds; a request belongs to the first bound that it does not exceed, or to the place after the last.
REQUEST_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

_Key: TypeAlias = tuple[str, str, int]


@dataclass
class _Timed:
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(REQUEST_BOUNDS) + 1))


class Requests:
    """The HTTP requests of an engine by (path, method, status). Any thread; 1 µs each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[_Key, _Timed] = {}

    def add(self, path: str, method: str, status: int, begun: float) -> None:
        """Counts a request of a known path that began at `begun` (by `time.perf_counter`)."""
        seconds = time.perf_counter() - begun
        with self._lock:
            timed = self._times.get((path, method, status))
            if timed is None:
                timed = self._times.setdefault((path, method, status), _Timed())
            timed.seconds += seconds
            timed.buckets[bisect_left(REQUEST_BOUNDS, seconds)] += 1

    def read(self) -> list[tuple[_Key, float, list[int]]]:
        """(path, method, status), seconds, counts by bucket; in order."""
        with self._lock:
            return [(key, timed.seconds, list(timed.buckets)) for key, timed in sorted(self._times.items())]


_COUNTERS = {
    "pushes": "Pushes that were taken in.",
    "mutations": "Mutations that consumed their number, refused ones too.",
    "duplicates": "Mutations that had been answered before.",
    "refused": "Mutations whose result is an error.",
    "commits": "Commits of the database; one serves many pushes.",
    "changes": "Changes of documents.",
    "pulls": "Pages of pulls.",
    "pulled_changes": "Changes in those pages.",
    "snapshots": "Snapshots.",
}
_GAUGES = {
    "waiting": ("waiting_pushes", "Pushes that wait for their turn now."),
    "head": ("head_cursor", "The highest cursor of the database."),
    "bytes": ("database_bytes", "Size of the database's file."),
    "wal_bytes": ("wal_bytes", "Size of its write-ahead log."),
    "free_disk_bytes": ("free_disk_bytes", "What is free where it lies."),
}
_LIVE_GAUGES = {
    "connections": "Clients of the live channel now.",
    "subscriptions": "Scopes that they are subscribed to, in all.",
}
_LIVE_COUNTERS = {
    "pokes": "Pokes that were sent to clients.",
    "coalesced": "Pokes that a newer one took the place of, as the client had not taken them yet.",
    "refused": "Subscriptions that were refused.",
    "revoked": "Subscriptions that ended because the permission did.",
}


class Collector:
    """A collector of `prometheus_client` for one engine; see the module.

    Raises:
        UsageError: prometheus-client is not installed.
    """

    def __init__(self, engine: Engine) -> None:
        try:
            from prometheus_client import metrics_core
        except ModuleNotFoundError:
            raise errors.UsageError(_NEEDED) from None
        self._core: Any = metrics_core
        self._engine = engine

    def describe(self) -> Iterator[Metric]:
        """The metrics without their values, which a registry asks for when this is registered."""
        yield from self._metrics(read=False)

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now. Raises `Closed` after the engine was closed."""
        yield from self._metrics(read=True)

    def _metrics(self, *, read: bool) -> Iterator[Metric]:
        engine = self._engine
        counters = engine._native.counters() if read else {}
        info = self._core.InfoMetricFamily("syncline", "Versions.")
        if read:
            native = engine._native.info()
            info.add_metric(
                [],
                {
                    "version": _core.__version__,
                    "database": native["kind"],
                    "database_version": native["version"],
                    "epoch": engine.epoch,
                },
            )
        yield info
        for name, help in _COUNTERS.items():
            counter = self._core.CounterMetricFamily(f"syncline_{name}", help)
            if read:
                counter.add_metric([], counters[name])
            yield counter
        for name, (told, help) in _GAUGES.items():
            gauge = self._core.GaugeMetricFamily(f"syncline_{told}", help)
            if read:
                gauge.add_metric([], counters[name])
            yield gauge
        letters, dropped, _ = _core.dead_letter_counts(engine._native) if read else (0, 0, 0)
        kept = self._core.GaugeMetricFamily(
            "syncline_dead_letters", "Dead letters that wait to be looked at."
        )
        gone = self._core.CounterMetricFamily(
            "syncline_dead_letters_dropped", "Those that went unread, in the database's life."
        )
        if read:
            kept.add_metric([], letters)
            gone.add_metric([], dropped)
        yield kept
        yield gone
        lag = self._core.GaugeMetricFamily(
            "syncline_feed_lag", "How many cursors the consumer of a feed is behind.", labels=["feed"]
        )
        for feed in engine.feeds() if read else ():
            lag.add_metric([feed.name], feed.lag)
        yield lag
        yield from self._upkeep(read)
        yield from self._mutators(engine._native.mutator_times() if read else {})
        requests = self._core.HistogramMetricFamily(
            "syncline_http_request_seconds",
            "Time to answer HTTP requests.",
            labels=["path", "method", "status"],
        )
        if read:
            for (path, method, status), seconds, buckets in engine._requests.read():
                requests.add_metric(
                    [path, method, str(status)], _cumulative(REQUEST_BOUNDS, buckets), seconds
                )
        yield requests
        yield from self._live(read)

    def _live(self, read: bool) -> Iterator[Metric]:
        told = self._engine._live.read()
        for name, help in _LIVE_GAUGES.items():
            gauge = self._core.GaugeMetricFamily(f"syncline_live_{name}", help)
            if read:
                gauge.add_metric([], getattr(told, name))
            yield gauge
        for name, help in _LIVE_COUNTERS.items():
            counter = self._core.CounterMetricFamily(f"syncline_live_{name}", help)
            if read:
                counter.add_metric([], getattr(told, name))
            yield counter

    def _upkeep(self, read: bool) -> Iterator[Metric]:
        rounds = self._core.CounterMetricFamily("syncline_upkeep_rounds", "Rounds of the retention's thread.")
        failures = self._core.CounterMetricFamily("syncline_upkeep_failures", "Those of them that failed.")
        forgotten = self._core.CounterMetricFamily(
            "syncline_forgotten", "What was forgotten, by kind: log_lines, tombstones, ...", labels=["kind"]
        )
        if read:
            upkeep = self._engine.upkeep()
            rounds.add_metric([], upkeep.rounds)
            failures.add_metric([], upkeep.failures)
            for kind, count in vars(upkeep.total).items():
                forgotten.add_metric([kind], count)
        yield rounds
        yield failures
        yield forgotten

    def _mutators(self, times: dict[str, tuple[int, int, float, float, list[int]]]) -> Iterator[Metric]:
        runs = self._core.HistogramMetricFamily(
            "syncline_mutator_seconds", "Time in mutators, by name.", labels=["mutation"]
        )
        raised = self._core.CounterMetricFamily(
            "syncline_mutator_failures", "Runs that raised, refusals too.", labels=["mutation"]
        )
        for name, (_, failures, seconds, _, buckets) in times.items():
            runs.add_metric([name], _cumulative(_core.Engine.mutator_bounds, buckets), seconds)
            raised.add_metric([name], failures)
        yield runs
        yield raised


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    told: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip((*map(repr, bounds), "+Inf"), counts, strict=True):
        total += count
        told.append((bound, total))
    return told


def registry(engine: Engine) -> CollectorRegistry:
    """A registry with the engine's metrics alone: no other library's, and nothing of this process."""
    try:
        from prometheus_client.registry import CollectorRegistry
    except ModuleNotFoundError:
        raise errors.UsageError(_NEEDED) from None
    made = CollectorRegistry()
    made.register(Collector(engine))
    return made


def render(engine: Engine, accept: str = "") -> tuple[bytes, str]:
    """The metrics as Prometheus reads them, and their content type: the text format, or OpenMetrics where
    `accept` asks for it.

    Raises:
        UsageError: prometheus-client is not installed.
        Closed: the engine was closed.
    """
    collected = registry(engine)
    from prometheus_client.exposition import choose_encoder

    encode, content_type = choose_encoder(accept)
    return encode(collected), content_type
