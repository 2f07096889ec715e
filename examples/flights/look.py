"""A look into the database that the demo leaves: python examples/flights/look.py PATH

It may be read while a server writes it.
"""

from __future__ import annotations

import sys

import syncline


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit((__doc__ or "").partition("\n")[0])
    with syncline.Engine(sys.argv[1], read_only=True) as engine, engine.read("airport:JFK") as view:
        print("Aircraft with the most miles from JFK:")
        for tail, aircraft in view.find("aircraft", {"miles": {"$gt": 0}}, sort="-miles", limit=5):
            print(f"  {tail}  {aircraft['arrivals']:>5,} arrivals  {aircraft['miles']:>9,} miles")
        print("Arrivals from JFK that were more than 15 hours late:")
        late = {"status": "arrived", "arrival_delay": {"$gt": 900}}
        for key, flight in view.find("flight", late, sort="-arrival_delay", limit=5):
            print(f"  {key}  to {flight['destination']}, {flight['arrival_delay']:,} minutes late")


if __name__ == "__main__":
    main()
