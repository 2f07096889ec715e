"""One client of the demo: pushes its share of the flights in order and keeps a copy of all three airports.

It talks with whoever started it in lines of JSON on its standard output, and listens on its standard input:
`back` ends the time in which it is cut off, `finish` asks for its last pull and its digest.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import syncline

from examples.flights.events import Queue
from examples.flights.replica import PATIENCE, Copy, persistently
from examples.flights.table import AIRPORTS, read_share

PULLS = 10  # while it pushes its share


class Position:
    """The number up to which the server has answered, on disk before it counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.acknowledged = int(path.read_text()) if path.exists() else 0

    def advance(self, seq: int) -> None:
        beside = self._path.with_suffix(".new")
        with beside.open("w") as file:
            file.write(str(seq))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)
        self.acknowledged = seq


def say(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def listen() -> dict[str, threading.Event]:
    heard = {"back": threading.Event(), "finish": threading.Event()}

    def run() -> None:
        for line in sys.stdin:
            heard[line.strip()].set()
        os._exit(3)  # whoever started this is gone

    threading.Thread(target=run, daemon=True).start()
    return heard


def instant(value: object) -> dict[str, str]:
    """The protocol's JSON for an aware datetime."""
    if not isinstance(value, datetime):
        raise TypeError(f"no JSON for {value!r}")
    return {"$date": value.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")}


def mutation_as_json(mutation: dict[str, Any]) -> dict[str, Any]:
    return {**mutation, "ts": instant(mutation["ts"])["$date"]}


def send_and_die(url: str, token: str, mutations: list[dict[str, Any]]) -> None:
    """Sends a push and is killed before it has read one byte of the answer.

    It waits until the answer is in the socket: the server has committed, and this client cannot know.
    """
    body = json.dumps({"mutations": [mutation_as_json(m) for m in mutations]}, default=instant)
    address = urlsplit(url)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=PATIENCE)
        try:
            connection.request(
                "POST",
                "/_sync/push",
                body,
                {"Content-Type": "application/json", "Authorization": f"Bearer {token}"},
            )
            select.select([connection.sock], [], [], PATIENCE)
            if connection.sock.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 200":
                say("dying", mutations=len(mutations))
                os.kill(os.getpid(), signal.SIGKILL)
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise TimeoutError("the server did not take the push that was to stay unanswered")


def push(
    remote: syncline.Remote,
    client_id: str,
    position: Position,
    mutations: list[dict[str, Any]],
    epoch: str | None,
) -> tuple[int, str]:
    """Pushes until it is answered. Returns how many of the results were repeats, and the server's epoch."""
    while True:
        try:
            answer = persistently(
                remote.push, mutations, epoch=epoch, settled={client_id: position.acknowledged}
            )
        except syncline.EpochMismatch as mismatch:
            say("epoch", epoch=mismatch.epoch)
            epoch = mismatch.epoch
            continue
        if any(not r.ok and r.error.code == "unavailable" for r in answer.results):
            time.sleep(0.1)
            continue
        for mutation, result in zip(mutations, answer.results, strict=True):
            if not result.ok:
                say("refused", seq=mutation["client_seq"], name=mutation["name"], error=str(result.error))
                sys.exit(1)
        position.advance(mutations[-1]["client_seq"])
        return sum(r.duplicate for r in answer.results), answer.epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--client-id", required=True)
    parser.add_argument("--share", type=Path, required=True, help="its flights: a csv file")
    parser.add_argument("--position", type=Path, required=True, help="the file of its acknowledged number")
    parser.add_argument("--batch", type=int, required=True, help="mutations a push")
    parser.add_argument(
        "--cut-at", type=int, default=0, help="falls silent after this number until told `back`"
    )
    parser.add_argument("--die-at", type=int, default=0, help="is killed in the push after this number")
    options = parser.parse_args()
    client_id: str = options.client_id

    heard = listen()
    token = f"{client_id}.{os.environ['FLIGHTS_SECRET']}"
    queue = Queue(client_id, read_share(options.share))
    position = Position(options.position)
    say("ready", acknowledged=position.acknowledged, mutations=len(queue))

    with syncline.connect(options.url, token=token) as remote:
        copy = Copy(remote, tuple(f"airport:{airport}" for airport in AIRPORTS), client_id)
        epoch: str | None = None
        cut_at: int = options.cut_at
        pull_after = pull_every = max(1, len(queue) // PULLS)
        while position.acknowledged < len(queue):
            sent = position.acknowledged
            if cut_at and sent >= cut_at:
                cut_at = 0
                say("cut", acknowledged=sent)
                heard["back"].wait()
                say("back", acknowledged=sent)
            batch = queue[sent : sent + options.batch]
            if options.die_at and sent >= options.die_at:
                send_and_die(options.url, token, batch)
            duplicates, epoch = push(remote, client_id, position, batch, epoch)
            say("pushed", acknowledged=position.acknowledged, duplicates=duplicates)
            if position.acknowledged >= pull_after:
                pull_after += pull_every
                copy.pull()
                say("pulled", pulled=copy.pulled)
        say("through")
        heard["finish"].wait()
        copy.pull()
        say(
            "done",
            digests={name: scope.digest() for name, scope in copy.scopes.items()},
            documents=sum(len(scope.documents) for scope in copy.scopes.values()),
            pulled=copy.pulled,
            last_seq=copy.last_seq,
            mutations=len(queue),
        )


if __name__ == "__main__":
    main()
