"""The server: `syncline serve examples.flights.app:app`, from the root of the repository.

Environment: FLIGHTS_DATABASE, the path of the database; FLIGHTS_SECRET, which its clients show.
"""

from __future__ import annotations

import hmac
import os

import syncline
from syncline.http import Request, quick

from examples.flights.mutators import mutators
from examples.flights.table import AIRPORTS

SECRET = os.environ["FLIGHTS_SECRET"]
SCOPES = frozenset(f"airport:{airport}" for airport in AIRPORTS)


@quick
def who(request: Request) -> str | None:
    """`Authorization: Bearer <user>.<secret>`; None (401) for anything else."""
    user, _, secret = (request.token or "").rpartition(".")
    return user if user and hmac.compare_digest(secret.encode(), SECRET.encode()) else None


@quick
def may(user: str, action: str, scope: str) -> bool:
    return scope in SCOPES


engine = syncline.Engine(os.environ["FLIGHTS_DATABASE"], mutators=mutators)
app = syncline.asgi(engine, authenticate=who, authorize=may, close_engine=True)
