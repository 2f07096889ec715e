"""A copy of scopes, kept by pulling."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import syncline

P = ParamSpec("P")
T = TypeVar("T")

PATIENCE = 60.0  # seconds that a server may be away


def text(document: Mapping[str, Any]) -> str:
    """One text per value, so that copies can be compared and kept small."""
    return json.dumps(document, sort_keys=True, default=str)


def persistently(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the call returns once the server can be reached. Raises the last error after a minute."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return call(*args, **kwargs)
        except (syncline.Unavailable, syncline.RateLimited):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


@dataclass
class Scope:
    documents: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    cursor: int = 0
    epoch: str | None = None

    def digest(self) -> str:
        total = hashlib.sha256()
        for key in sorted(self.documents):
            total.update(repr((key, self.documents[key])).encode())
        return total.hexdigest()[:12]


class Copy:
    """The documents of scopes as one client has them. One thread."""

    def __init__(
        self, remote: syncline.Remote, scopes: tuple[str, ...], client_id: str | None = None
    ) -> None:
        self._remote = remote
        self._client_id = client_id
        self.scopes = {name: Scope() for name in scopes}
        self.pulled = 0  # changes, over all pulls
        self.last_seq = 0

    def pull(self) -> None:
        for name in self.scopes:
            self._pull(name)

    def _pull(self, name: str) -> None:
        """Brings one scope up to the server's state: pages are put together before any of them is applied."""
        while True:
            scope = self.scopes[name]
            staged: dict[tuple[str, str], tuple[int, str] | None] = {}
            page: str | None = None
            try:
                while True:
                    answer = persistently(
                        self._remote.pull,
                        name,
                        scope.cursor,
                        epoch=scope.epoch,
                        page=page,
                        client_id=self._client_id,
                    )
                    self.pulled += len(answer.changes)
                    for change in answer.changes:
                        gone = change.op == "delete"
                        staged[change.entity, change.id] = (
                            None if gone else (change.version, text(change.data))
                        )
                    if not answer.has_more:
                        break
                    page = answer.page
            except syncline.EpochMismatch:
                if page is None:
                    # The server does not know where this copy is: what it has replaces everything here.
                    self.scopes[name] = Scope()
                continue
            except syncline.CursorTooOld:
                self.scopes[name] = Scope()
                continue
            for key, value in staged.items():
                if value is None:
                    scope.documents.pop(key, None)
                else:
                    scope.documents[key] = value
            scope.cursor, scope.epoch = answer.cursor, answer.epoch
            self.last_seq = answer.last_seq or 0
            return
