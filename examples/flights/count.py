"""What the databases must come to, counted from the source table alone.

Nothing here knows of clients, mutations or documents: it shares with the rest of the example only the lines
of the source, so that a mistake in a mutator cannot hide in the count.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class Tally:
    flights: int = 0
    departures: int = 0
    arrivals: int = 0
    miles: int = 0  # of the flights that arrived


@dataclass
class Aircraft:
    arrivals: int = 0
    miles: int = 0
    latest: str = ""  # planned departure, "2013-01-31T23:59" in UTC, of the arrival that was scheduled last


@dataclass
class Count:
    carriers: dict[tuple[str, str], Tally] = field(default_factory=dict)  # (carrier, origin)
    aircraft: dict[tuple[str, str], Aircraft] = field(default_factory=dict)  # (origin, tail number)

    @property
    def mutations(self) -> int:
        return sum(t.flights + t.departures + t.arrivals for t in self.carriers.values())


def count(lines: Iterable[dict[str, str]]) -> Count:
    result = Count()
    for line in lines:
        tally = result.carriers.setdefault((line["carrier"], line["origin"]), Tally())
        tally.flights += 1
        if line["dep_time"] not in ("", "NA"):
            tally.departures += 1
        if line["arr_time"] in ("", "NA"):
            continue
        miles = int(float(line["distance"]))
        tally.arrivals += 1
        tally.miles += miles
        if line["tailnum"] in ("", "NA"):
            continue
        aircraft = result.aircraft.setdefault((line["origin"], line["tailnum"]), Aircraft())
        aircraft.arrivals += 1
        aircraft.miles += miles
        # time_hour is "2013-01-31T23:00:00Z", the hour of the planned departure.
        aircraft.latest = max(aircraft.latest, f"{line['time_hour'][:13]}:{line['minute'].zfill(2)}")
    return result
