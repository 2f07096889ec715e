"""The golden vectors of tests/vectors: a server that answers them, what is made alike in its answers, and
`python tests/python/vectors.py`, which records the answers anew (read the difference before you keep it).

tests/vectors/README.md says what the files hold.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgpack
import syncline
from syncline import http as sync_http

FOLDER = Path(__file__).resolve().parents[1] / "vectors"
FORMATS = ("json", "msgpack")
CONTENT_TYPES = {"json": "application/json", "msgpack": "application/msgpack"}
# What stands in the files for every time of the server's clock, for its n-th epoch, and for an error's
# sentence.
TIME = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
SINCE = datetime(1970, 1, 1, tzinfo=timezone.utc)
EPOCH = "epoch-{:010d}"
MESSAGE = "a sentence for people"


@dataclass
class Note:
    id: str
    text: str


def make_mutators() -> syncline.Mutators:
    mutators = syncline.Mutators()

    @mutators("note/set")
    def set_note(tx: syncline.Tx, args: Note) -> None:
        tx.set("note", args.id, {"text": args.text})

    @mutators("note/update")
    def update(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.update("note", args["id"], args["fields"])

    @mutators("note/delete")
    def delete(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.delete("note", args["id"])

    @mutators("note/expect")
    def expect(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.expect("note", args["id"], args["version"])

    @mutators("value/set")
    def set_value(tx: syncline.Tx, args: dict[str, Any]) -> None:
        tx.set("value", args["id"], {"value": args["value"]})

    @mutators("derived/set")
    def derive(tx: syncline.Tx, args: dict[str, Any]) -> None:
        """All of it derives from the mutation's ts and seed: the id is drawn first."""
        tx.set("derived", tx.uuid(), {"now": tx.now, "random": tx.random.random(), "next": tx.uuid()})

    @mutators("fail/rejected")
    def reject(tx: syncline.Tx, args: object) -> None:
        raise syncline.Rejected("no more notes today")

    @mutators("fail/own_code")
    def reject_own(tx: syncline.Tx, args: object) -> None:
        raise syncline.Rejected("the shop is closed", code="shop_closed", details={"opens_in": 3600})

    @mutators("fail/crash")
    def crash(tx: syncline.Tx, args: object) -> None:
        tx.set("note", "half", {"text": "must not stay"})
        raise ZeroDivisionError("a detail that stays on the server")

    @mutators("fail/retry")
    def retry(tx: syncline.Tx, args: object) -> None:
        raise syncline.Retry

    return mutators


@sync_http.quick
def who(request: sync_http.Request) -> str | None:
    return request.token


@sync_http.quick
def may(user: str, action: sync_http.Action, scope: str) -> bool:
    return not scope.startswith("secret:") and (action == "read" or not scope.startswith("public:"))


class Server:
    """A real engine behind the real handler, and what a flow may do to it between requests."""

    def __init__(self, folder: Path, limits: dict[str, int]) -> None:
        self._folder = folder
        self._limits = syncline.Limits(**limits)
        self._path = folder / "server.db"
        self._clock = syncline._core.ManualClock((TIME - SINCE) // timedelta(microseconds=1))
        self.epochs: list[str] = []
        self._open()

    def _open(self) -> None:
        self.engine = syncline.Engine(
            self._path, mutators=make_mutators(), limits=self._limits, clock=self._clock
        )
        self.epochs.append(self.engine.epoch)

    def close(self) -> None:
        self.engine.close()

    def do(self, what: str) -> None:
        """Raises KeyError for what no server does."""
        {
            "reopen": self._reopen,
            "back up": lambda: self.engine.backup(self._folder / "backup.db"),
            "restore the backup": self._restore,
            "forget deletions": self._forget,
        }[what]()

    def _reopen(self) -> None:
        self.engine.close()
        self._open()

    def _restore(self) -> None:
        self.engine.close()
        for old in self._folder.glob("server.db*"):
            old.unlink()
        shutil.copy(self._folder / "backup.db", self._path)
        self._open()

    def _forget(self) -> None:
        """A deletion is kept for an hour at least."""
        self._clock.advance(2 * 3600 * 1_000_000)
        self.engine.compact(timedelta(0))

    def answer(self, request: dict[str, Any], format: str) -> sync_http.Response:
        headers = dict(request.get("headers", {}))
        body = b""
        if request["method"] == "POST":
            headers.setdefault("Content-Type", CONTENT_TYPES[format])
            body = request_body(request, format)
        else:
            headers["Accept"] = CONTENT_TYPES[format]
        return self.engine.handle(
            request["method"],
            request["path"],
            headers,
            self._with_real_epochs(body),
            authenticate=who,
            authorize=may,
        )

    def _with_real_epochs(self, body: bytes) -> bytes:
        for number, epoch in enumerate(self.epochs, 1):
            assert len(epoch) == len(EPOCH.format(number))  # so that no length in msgpack changes
            body = body.replace(EPOCH.format(number).encode(), epoch.encode())
        return body

    def normalised(self, answer: sync_http.Response, format: str) -> bytes:
        """The body with the server's epochs and times and the errors' sentences replaced, byte for byte
        otherwise."""
        body = answer.body
        for number, epoch in enumerate(self.epochs, 1):
            body = body.replace(epoch.encode(), EPOCH.format(number).encode())
        decoded = json.loads(body) if format == "json" else msgpack.unpackb(body, timestamp=3)
        for change in decoded.get("changes", ()):
            body = body.replace(time_bytes(change["ts"], format), time_bytes(TIME, format))
        for error in [decoded.get("error"), *(one.get("error") for one in decoded.get("results", ()))]:
            if error is not None:
                body = body.replace(message_bytes(error["message"], format), message_bytes(MESSAGE, format))
        return body


def time_bytes(instant: datetime | str, format: str) -> bytes:
    """`ts` as it stands in a change, with its key."""
    if format == "msgpack":
        return b"\xa2ts" + msgpack.packb(instant, datetime=True)
    text = instant if isinstance(instant, str) else instant.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return f'"ts":"{text}"'.encode()


def message_bytes(message: str, format: str) -> bytes:
    """`message` as it stands in an error, with its key."""
    if format == "msgpack":
        return b"\xa7message" + msgpack.packb(message)
    return f'"message":{json.dumps(message, ensure_ascii=False)}'.encode()


def request_body(request: dict[str, Any], format: str) -> bytes:
    if "hex" in request:  # what is no JSON and no msgpack, or only one of them
        return bytes.fromhex(request["hex"])
    if format == "json":
        return json.dumps(request["json"], ensure_ascii=False, separators=(",", ":")).encode()
    return bytes.fromhex(request["msgpack"])


def flows() -> list[Path]:
    return sorted((FOLDER / "flows").glob("*.json"))


@contextlib.contextmanager
def serving(flow: dict[str, Any], folder: Path) -> Iterator[Server]:
    folder.mkdir()
    server = Server(folder, flow.get("limits", {}))
    try:
        yield server
    finally:
        server.close()


# -------------------------------------------------------------------------------------------------- recording


def record(path: Path) -> None:
    flow = json.loads(path.read_text())
    for step in flow["steps"]:
        request = step.get("request", {})
        if "json" in request:
            packed = syncline._core.canonical(json.dumps(request["json"]).encode(), "json")
            request["msgpack"] = packed.hex()
    for format in FORMATS:
        with tempfile.TemporaryDirectory() as folder, serving(flow, Path(folder) / "server") as server:
            for step in flow["steps"]:
                if "server" in step:
                    server.do(step["server"])
                    continue
                if format not in step.get("formats", FORMATS):
                    continue
                answer = server.answer(step["request"], format)
                told = step.setdefault("answer", {})
                told["status"] = answer.status
                for name in ("Retry-After", "WWW-Authenticate", "Allow"):
                    if name in answer.headers:
                        told.setdefault("headers", {})[name] = answer.headers[name]
                body = server.normalised(answer, format)
                told[format] = json.loads(body) if format == "json" else body.hex()
    path.write_text(json.dumps(flow, ensure_ascii=False, indent=1) + "\n")


def record_values(path: Path) -> None:
    vectors = json.loads(path.read_text())
    for one in vectors["values"]:
        one["msgpack"] = syncline._core.packb(syncline._core.json_decode(one["json"].encode())).hex()
    path.write_text(json.dumps(vectors, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    record_values(FOLDER / "values.json")
    for each in [Path(name) for name in sys.argv[1:]] or flows():
        record(each)
