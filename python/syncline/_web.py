"""The files for browsers that come with the package, in `web/`."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field
from importlib import resources

__all__ = ["Asset", "asset"]

_CONTENT_TYPE = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml; charset=utf-8",
}


@dataclass(frozen=True)
class Asset:
    """A file as it is served; `etag` names its content."""

    body: bytes = field(repr=False)
    content_type: str
    etag: str

    def is_known_to(self, if_none_match: str) -> bool:
        """Whether a client that sent this `If-None-Match` has it."""
        told = {one.strip().removeprefix("W/") for one in if_none_match.split(",")}
        return "*" in told or self.etag in told


@functools.cache
def asset(name: str) -> Asset:
    """The file of that name. Raises FileNotFoundError: there is none."""
    body = (resources.files("syncline") / "web" / name).read_bytes()
    suffix = name[name.rindex(".") :]
    return Asset(body, _CONTENT_TYPE[suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
