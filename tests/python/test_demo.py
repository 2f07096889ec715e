"""The examples and the benchmarks run, and the count that the demo is judged by is right."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import syncline

ROOT = Path(__file__).resolve().parents[2]

if not (ROOT / "examples" / "flights").is_dir():
    pytest.skip("the examples are not part of this distribution", allow_module_level=True)

if TYPE_CHECKING:
    from examples.flights import count, events, table


@pytest.fixture(scope="module", autouse=True)
def _examples_can_be_imported() -> Iterator[None]:
    global count, events, table
    sys.path.insert(0, str(ROOT))
    from examples.flights import count, events, table

    yield
    sys.path.remove(str(ROOT))


def line(**changed: str) -> dict[str, str]:
    """A flight that left 2 minutes late and came 11 minutes late."""
    usual = {
        "year": "2013",
        "month": "1",
        "day": "1",
        "dep_time": "517",
        "sched_dep_time": "515",
        "dep_delay": "2",
        "arr_time": "830",
        "sched_arr_time": "819",
        "arr_delay": "11",
        "carrier": "UA",
        "flight": "1545",
        "tailnum": "N14228",
        "origin": "EWR",
        "dest": "IAH",
        "air_time": "227",
        "distance": "1400",
        "hour": "5",
        "minute": "15",
        "time_hour": "2013-01-01T10:00:00Z",
    }
    return {**usual, **changed}


CANCELLED = {"dep_time": "NA", "dep_delay": "NA", "arr_time": "NA", "arr_delay": "NA", "air_time": "NA"}
DIVERTED = {"arr_time": "NA", "arr_delay": "NA", "air_time": "NA"}


def test_a_flight_that_arrived_counts_for_its_carrier_and_its_aircraft() -> None:
    result = count.count([line()])
    assert result.carriers == {("UA", "EWR"): count.Tally(flights=1, departures=1, arrivals=1, miles=1400)}
    assert result.aircraft == {
        ("EWR", "N14228"): count.Aircraft(arrivals=1, miles=1400, latest="2013-01-01T10:15")
    }
    assert result.mutations == 3


def test_a_cancelled_flight_is_only_planned() -> None:
    result = count.count([line(**CANCELLED)])
    assert result.carriers == {("UA", "EWR"): count.Tally(flights=1)}
    assert result.aircraft == {}
    assert result.mutations == 1


def test_a_flight_that_came_down_elsewhere_departed_and_did_not_arrive() -> None:
    result = count.count([line(**DIVERTED)])
    assert result.carriers == {("UA", "EWR"): count.Tally(flights=1, departures=1)}
    assert result.aircraft == {}
    assert result.mutations == 2


def test_an_arrival_without_a_tail_number_belongs_to_no_aircraft() -> None:
    result = count.count([line(tailnum="NA")])
    assert result.carriers["UA", "EWR"].arrivals == 1
    assert result.aircraft == {}


def test_an_aircraft_is_counted_per_origin_and_remembers_what_was_scheduled_last() -> None:
    late = line(time_hour="2013-01-09T23:00:00Z", minute="5")
    early = line(time_hour="2013-01-02T04:00:00Z", minute="59")
    for lines in ([late, early], [early, late]):
        result = count.count([*lines, line(origin="JFK", distance="100")])
        assert result.aircraft == {
            ("EWR", "N14228"): count.Aircraft(arrivals=2, miles=2800, latest="2013-01-09T23:05"),
            ("JFK", "N14228"): count.Aircraft(arrivals=1, miles=100, latest="2013-01-01T10:15"),
        }


def test_the_whole_table_is_there_and_has_the_counts_it_is_known_for() -> None:
    result = count.count(table.source_lines())
    tallies = result.carriers.values()
    assert sum(tally.flights for tally in tallies) == table.ROWS
    assert sum(tally.departures for tally in tallies) == 328_521
    assert sum(tally.arrivals for tally in tallies) == 328_063
    assert result.mutations == 993_360


def test_a_flight_is_planned_then_departs_then_arrives() -> None:
    for lines in ([line()], [line(dep_delay="-43")], [line(dep_time="2350", arr_time="20")]):
        queue = events.Queue("c", [table.flight(one) for one in lines])
        assert [mutation["name"] for mutation in queue] == [
            "flight/schedule",
            "flight/depart",
            "flight/arrive",
        ]
        assert [mutation["client_seq"] for mutation in queue] == [1, 2, 3]
    assert [m["name"] for m in events.Queue("c", [table.flight(line(**CANCELLED))])] == ["flight/schedule"]
    assert len(events.Queue("c", [table.flight(line(**DIVERTED))])) == 2


def test_a_share_that_is_read_again_is_the_same_queue(tmp_path: Path) -> None:
    lines = list(table.source_lines(300))
    table.write_share(lines, tmp_path / "share.csv")
    flights = table.read_share(tmp_path / "share.csv")
    assert flights == [table.flight(one) for one in lines]
    assert len({(flight.scope, flight.id) for flight in flights}) == 300
    first, second = events.Queue("c", flights), events.Queue("c", flights)
    assert first[:] == second[:]
    assert len(first) == count.count(lines).mutations


def test_the_mutators_make_the_aircraft_documents_in_any_order() -> None:
    from examples.flights.mutators import mutators

    lines = [line(flight=str(n), time_hour=f"2013-01-{10 + n}T10:00:00Z", day=str(10 + n)) for n in range(3)]
    lines.append(line(flight="9", tailnum="NA"))
    seen = []
    for order in (lines, lines[::-1]):
        with syncline.Engine(":memory:", mutators=mutators) as engine:
            for number, one in enumerate(order):
                for result in engine.push(events.Queue(f"c{number}", [table.flight(one)])[:], user="u"):
                    result.raise_for_error()
            data = engine.snapshot("airport:EWR").data
        assert len(data["flight"]) == 4
        seen.append(data["aircraft"])
    latest = datetime(2013, 1, 12, 10, 15, tzinfo=timezone.utc)
    assert seen == [{"N14228": {"arrivals": 3, "miles": 4200, "latest": latest}}] * 2


@pytest.mark.slow
def test_the_demo_converges_through_all_its_accidents(tmp_path: Path) -> None:
    database = tmp_path / "flights.db"
    done = subprocess.run(
        [sys.executable, "examples/flights/demo.py", "--rows", "3000", "--database", str(database)],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("converged")
    for accident in (
        "cut off after",
        "back,",
        "killed between sending and receiving",
        "duplicates",
        "server: killed",
    ):
        assert accident in done.stdout
    with syncline.Engine(str(database), read_only=True) as engine:
        flights = sum(len(engine.snapshot(f"airport:{a}").data["flight"]) for a in table.AIRPORTS)
    assert flights == 3000


def test_the_demo_refuses_a_database_that_exists(tmp_path: Path) -> None:
    (tmp_path / "mine.db").write_text("precious")
    done = subprocess.run(
        [
            sys.executable,
            "examples/flights/demo.py",
            "--rows",
            "3000",
            "--database",
            str(tmp_path / "mine.db"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "exists" in done.stderr
    assert (tmp_path / "mine.db").read_text() == "precious"


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler")
def test_the_benchmarks_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/run.py", "--quick", "--folder", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for figure in ("push by 100", "single durable pushes", "pull to msgpack", "pull to JSON", "memory"):
        assert figure in done.stdout
    assert list(tmp_path.iterdir()) == []
