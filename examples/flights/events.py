"""A client's share of the flights as its mutations, in the order in which things happen.

The n-th mutation of a share is always the same one, so a client's queue needs no file of its own: the share
and the number up to which the server has answered say what is still to be sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from examples.flights.table import Flight

SCHEDULE, DEPART, ARRIVE = range(3)


def minutes(clock: int) -> int:
    return clock // 100 * 60 + clock % 100


def happenings(flight: Flight) -> list[tuple[datetime, int]]:
    """When each thing happened to a flight. A cancelled one is only scheduled."""
    result = [(flight.scheduled - timedelta(days=1), SCHEDULE)]
    if flight.departure is None or flight.departure_delay is None:
        return result
    departed = flight.scheduled + timedelta(minutes=flight.departure_delay)
    result.append((departed, DEPART))
    if flight.arrival is not None:
        # Two clocks in two time zones: near enough for an order in which an arrival follows its departure.
        flown = (minutes(flight.arrival) - minutes(flight.departure)) % (24 * 60)
        result.append((departed + timedelta(minutes=flown), ARRIVE))
    return result


class Queue(Sequence[dict[str, Any]]):
    """Mutation `client_seq` is item client_seq - 1, made when it is asked for."""

    def __init__(self, client_id: str, flights: Iterable[Flight]) -> None:
        self.client_id = client_id
        self._events = sorted((when, kind, flight) for flight in flights for when, kind in happenings(flight))

    def __len__(self) -> int:
        return len(self._events)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        when, kind, flight = self._events[index]
        name: str
        args: dict[str, Any]
        if kind == SCHEDULE:
            name = "flight/schedule"
            args = {
                "id": flight.id,
                "carrier": flight.carrier,
                "number": flight.number,
                "tail": flight.tail,
                "destination": flight.destination,
                "miles": flight.miles,
                "scheduled": flight.scheduled,
                "scheduled_arrival": flight.scheduled_arrival,
            }
        elif kind == DEPART:
            name = "flight/depart"
            args = {"id": flight.id, "departure": flight.departure, "delay": flight.departure_delay}
        else:
            name = "flight/arrive"
            args = {"id": flight.id, "arrival": flight.arrival, "delay": flight.arrival_delay}
        seq = index + 1 if index >= 0 else len(self) + index + 1
        return {
            "name": name,
            "args": args,
            "client_id": self.client_id,
            "client_seq": seq,
            "scope": flight.scope,
            "ts": when,
        }
