"""What may happen to a flight. Each arrival is also booked to its aircraft.

Flights of one aircraft are reported by several clients, in no particular order among them; so an aircraft's
document is built from sums and a maximum, which come to the same in every order.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

import syncline

mutators = syncline.Mutators()


class Schedule(TypedDict):
    id: str
    carrier: str
    number: int
    tail: str | None
    destination: str
    miles: int
    scheduled: datetime
    scheduled_arrival: int


class Depart(TypedDict):
    id: str
    departure: int
    delay: int


class Arrive(TypedDict):
    id: str
    arrival: int
    delay: int | None


@mutators("flight/schedule")
def schedule(tx: syncline.Tx, args: Schedule) -> None:
    if tx.exists("flight", args["id"]):
        raise syncline.Rejected(f"flight {args['id']} is already scheduled", code="already_scheduled")
    tx.set("flight", args["id"], {**args, "status": "scheduled"})


@mutators("flight/depart")
def depart(tx: syncline.Tx, args: Depart) -> None:
    tx.update(
        "flight",
        args["id"],
        {"status": "departed", "departure": args["departure"], "departure_delay": args["delay"]},
    )


@mutators("flight/arrive")
def arrive(tx: syncline.Tx, args: Arrive) -> None:
    flight = tx.get("flight", args["id"])
    if flight is None or flight["status"] != "departed":
        raise syncline.Rejected(f"flight {args['id']} is not in the air", code="not_departed")
    tx.update(
        "flight",
        args["id"],
        {"status": "arrived", "arrival": args["arrival"], "arrival_delay": args["delay"]},
    )
    if flight["tail"] is None:
        return
    aircraft = tx.get("aircraft", flight["tail"])
    if aircraft is None:
        aircraft = {"arrivals": 0, "miles": 0, "latest": flight["scheduled"]}
    tx.set(
        "aircraft",
        flight["tail"],
        {
            "arrivals": aircraft["arrivals"] + 1,
            "miles": aircraft["miles"] + flight["miles"],
            "latest": max(aircraft["latest"], flight["scheduled"]),
        },
    )
