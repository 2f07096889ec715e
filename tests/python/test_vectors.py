"""The golden vectors, both ways: the real handler answers as the files say, and `syncline.connect` asks and
understands as they say. What reads the files here is Python's own `json` and `msgpack`, not the core."""

from __future__ import annotations

import base64
import http.server
import json
import math
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgpack
import pytest
import syncline
import vectors

VALUES = json.loads((vectors.FOLDER / "values.json").read_text())
FLOWS = [pytest.param(path, id=path.stem) for path in vectors.flows()]


def plain(value: Any) -> Any:
    """A parsed JSON value of the dialect as the value it means, after docs/protocol alone."""
    if isinstance(value, list):
        return [plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((form, content),) = value.items()
        if form == "$binary":
            return base64.b64decode(content)
        if form == "$date":
            return datetime.fromisoformat(content.replace("Z", "+00:00"))
        if form == "$numberLong":
            return int(content)
        if form == "$numberDouble":
            return float(content)
    return {key: plain(one) for key, one in value.items()}


def told(answer: dict[str, Any]) -> Any:
    """A JSON answer's body as its msgpack form has it: there the `ts` of a change is an instant."""
    body = plain(answer["json"])
    for change in body.get("changes", ()):
        change["ts"] = datetime.fromisoformat(change["ts"].replace("Z", "+00:00"))
    return body


def unpacked(packed: str) -> Any:
    return msgpack.unpackb(bytes.fromhex(packed), timestamp=3)


def same(one: Any, other: Any) -> bool:
    """Equal, and of equal types all the way down; a NaN equals itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return bool(one == other)


def steps(path: Path, format: str | None = None) -> Iterator[dict[str, Any]]:
    for step in json.loads(path.read_text())["steps"]:
        if "request" in step and format in (None, *step.get("formats", vectors.FORMATS)):
            yield step


# ----------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("vector", VALUES["values"], ids=lambda one: one["say"])
def test_a_value_is_the_same_in_both_formats_and_goes_both_ways(vector: dict[str, str]) -> None:
    text, packed = vector["json"].encode(), bytes.fromhex(vector["msgpack"])
    assert syncline._core.canonical(text, "json") == packed
    assert syncline._core.canonical(packed, "msgpack") == packed
    assert syncline._core.json_encode(syncline._core.unpackb(packed)) == text
    assert same(plain(json.loads(text)), msgpack.unpackb(packed, timestamp=3))


@pytest.mark.parametrize("vector", VALUES["also_read"], ids=lambda one: one["say"])
def test_another_spelling_is_read_as_the_canonical_one(vector: dict[str, str]) -> None:
    wanted = syncline._core.canonical(vector["same_as"].encode(), "json")
    if "json" in vector:
        assert syncline._core.canonical(vector["json"].encode(), "json") == wanted
    else:
        assert syncline._core.canonical(bytes.fromhex(vector["msgpack"]), "msgpack") == wanted


@pytest.mark.parametrize("vector", VALUES["refused"], ids=lambda one: one["say"])
def test_what_is_no_value_is_refused(vector: dict[str, str]) -> None:
    format = "json" if "json" in vector else "msgpack"
    body = vector["json"].encode() if format == "json" else bytes.fromhex(vector["msgpack"])
    with pytest.raises(syncline.InvalidRequest):
        syncline._core.canonical(body, format)


# ------------------------------------------------------------------------------------------------ the handler


@pytest.mark.parametrize("format", vectors.FORMATS)
@pytest.mark.parametrize("path", FLOWS)
def test_the_handler_answers_as_recorded(path: Path, format: str, tmp_path: Path) -> None:
    flow = json.loads(path.read_text())
    with vectors.serving(flow, tmp_path / "server") as server:
        for step in flow["steps"]:
            if "server" in step:
                server.do(step["server"])
            elif format in step.get("formats", vectors.FORMATS):
                answer, wanted = server.answer(step["request"], format), step["answer"]
                assert answer.status == wanted["status"], step["say"]
                assert answer.headers["Content-Type"] == vectors.CONTENT_TYPES[format], step["say"]
                for name, value in wanted.get("headers", {}).items():
                    assert answer.headers[name] == value, step["say"]
                body = server.normalised(answer, format)
                if format == "json":
                    assert json.loads(body) == wanted["json"], step["say"]
                else:
                    assert body.hex() == wanted["msgpack"], step["say"]


@pytest.mark.parametrize("path", FLOWS)
def test_both_formats_ask_and_answer_the_same(path: Path) -> None:
    for step in steps(path):
        request, answer = step["request"], step["answer"]
        if "json" in request:
            assert same(plain(request["json"]), unpacked(request["msgpack"])), step["say"]
        if "json" in answer and "msgpack" in answer:
            assert same(told(answer), unpacked(answer["msgpack"])), step["say"]


def test_the_flows_show_every_code_that_travels() -> None:
    """But `rate_limited`, which needs a full queue and is answered as `unavailable` is, and that of history,
    which no client asks for."""
    seen: set[str] = set()
    for path in vectors.flows():
        for step in steps(path):
            body = step["answer"].get("json", {})
            for error in [body.get("error"), *(one.get("error") for one in body.get("results", ()))]:
                if error is not None:
                    seen.add(error["code"])
    assert seen >= {kind.code for kind in syncline.errors.TRAVELLING} - {"rate_limited", "history_gone"}


# ------------------------------------------------------------------------------------------------- the client

PARAMETERS = {
    "/_sync/push": {"mutations", "epoch", "settled"},
    "/_sync/pull": {"scope", "cursor", "epoch", "page", "limit", "client_id", "entities"},
    "/_sync/snapshot": {"scope", "client_id"},
}
REQUIRED = {
    "/_sync/push": {"mutations"},
    "/_sync/pull": {"scope", "cursor"},
    "/_sync/snapshot": {"scope"},
}


def can_be_asked(request: dict[str, Any]) -> bool:
    """Whether `syncline.connect` has words for it: it never sends a malformed request."""
    body = request.get("json")
    allowed = PARAMETERS.get(request["path"], set())
    if not isinstance(body, dict) or not allowed >= body.keys() >= REQUIRED.get(request["path"], {"?"}):
        return False
    mutations = body.get("mutations", [])
    return isinstance(mutations, list) and all("client_id" in one for one in mutations)


class Player(http.server.BaseHTTPRequestHandler):
    """Answers with one recorded step, and keeps what was asked."""

    protocol_version = "HTTP/1.1"
    step: dict[str, Any]
    format: str
    asked: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = type(self)
        kind.asked = plain(json.loads(body)) if self.format == "json" else unpacked(body.hex())
        recorded = self.step["answer"][self.format]
        content = json.dumps(recorded).encode() if self.format == "json" else bytes.fromhex(recorded)
        self.send_response(self.step["answer"]["status"])
        self.send_header("Content-Type", vectors.CONTENT_TYPES[self.format])
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def player() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Player) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def understood(answer: Any) -> Any:
    """What `connect` returns, in the words of the protocol."""
    if isinstance(answer, syncline.remote.PushResult):
        results = []
        for one in answer.results:
            result: dict[str, Any] = {"ok": one.ok, "cursor": one.cursor}
            if one.error is not None:
                error = one.error
                result["error"] = {"code": error.code, "message": error.message, **error.details}
            result["changes"] = [vars(change) for change in one.changes]
            if one.duplicate:
                result["duplicate"] = True
            results.append(result)
        return {"results": results, "cursor": answer.cursor, "epoch": answer.epoch}
    said = {key: value for key, value in vars(answer).items() if value is not None}
    if isinstance(answer, syncline.remote.Pull):
        del said["scope"]
        said["changes"] = [
            {key: value for key, value in vars(change).items() if value is not None}
            for change in answer.changes
        ]
    return said


@pytest.mark.parametrize("format", vectors.FORMATS)
@pytest.mark.parametrize("path", FLOWS)
def test_connect_asks_and_understands_as_recorded(path: Path, format: Any, player: str) -> None:
    played = 0
    for step in steps(path, format):
        request = step["request"]
        if not can_be_asked(request):
            continue
        played += 1
        wanted = told(step["answer"])
        Player.step, Player.format = step, format
        with syncline.connect(player, token="of-a-test", format=format) as remote:
            method = {
                "/_sync/push": remote.push,
                "/_sync/pull": remote.pull,
                "/_sync/snapshot": remote.snapshot,
            }
            try:
                got = understood(method[request["path"]](**plain(request["json"])))
            except syncline.Error as error:
                got = {"error": {"code": error.code, "message": error.message, **error.details}}
        assert same(Player.asked, plain(request["json"])), step["say"]
        assert same(got, wanted), step["say"]
    assert played > 0


# ----------------------------------------------------------------------------------------------- what derives


def split_mix(seed: int) -> Iterator[int]:
    """64 bits at a time, after docs/protocol."""
    state = seed
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        bits = state
        bits = (bits ^ bits >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        bits = (bits ^ bits >> 27) * 0x94D049BB133111EB % 2**64
        yield bits ^ bits >> 31


def uuid7(microseconds: int, bits: int) -> str:
    milliseconds, rest = divmod(max(microseconds, 0), 1000)
    high = milliseconds << 16 | 0x7000 | rest * 4096 // 1000
    low = 1 << 63 | bits & 2**62 - 1
    text = f"{high:016x}{low:016x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def test_what_a_mutator_draws_derives_from_ts_and_seed_as_the_protocol_says() -> None:
    push, pull = steps(vectors.FOLDER / "flows" / "derived.json")
    drawn = {change["id"]: change["data"] for change in told(pull["answer"])["changes"]}
    mutations = plain(push["request"]["json"])["mutations"]
    assert len(drawn) == len(mutations)
    for mutation in mutations:
        now = datetime.fromisoformat(mutation["ts"].replace("Z", "+00:00"))
        since = now - datetime(1970, 1, 1, tzinfo=timezone.utc)
        microseconds = (since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds
        bits = split_mix(mutation["seed"])
        data = drawn[uuid7(microseconds, next(bits))]
        assert data["now"] == now
        assert data["random"] == (next(bits) >> 11) * 2.0**-53
        assert data["next"] == uuid7(microseconds, next(bits))
