"""What an operator sees: statistics, metrics, logs, spans, health."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import prometheus_client
import pytest
import syncline
from http_support import HOOKS, SECRET, Client, by_asgi, by_handle, make_engine, make_mutators
from prometheus_client.parser import text_string_to_metric_families
from syncline import http as sync_http
from syncline import metrics

HERE = Path(__file__).parent


@pytest.fixture
def engine() -> Iterator[syncline.Engine]:
    with make_engine() as engine:
        yield engine


# ------------------------------------------------------------------------------------------------- statistics


def test_statistics_name_each_mutator_with_its_runs_failures_and_time(engine: syncline.Engine) -> None:
    client = Client(by_handle(engine))
    client.one("note/set", {"id": "1", "text": "x"})
    client.one("note/set", {"id": "2", "text": "x"})
    client.one("note/set", {"id": 3})
    client.one("note/reject")
    client.one("note/unheard")
    stats = engine.stats()
    assert {name: (one.calls, one.failures) for name, one in stats.mutators.items()} == {
        "note/set": (3, 1),
        "note/reject": (1, 1),
    }
    assert 0 < stats.mutators["note/set"].slowest <= stats.mutators["note/set"].seconds
    assert (stats.mutations, stats.refused, stats.documents) == (5, 3, 2)


# ---------------------------------------------------------------------------------------------------- metrics


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


def read_metrics(engine: syncline.Engine) -> str:
    response = by_handle(engine, metrics=lambda request: True)("GET", "/_sync/metrics", {}, b"")
    assert response.status == 200
    return response.body.decode()


def test_metrics_are_the_engines_own_counters(engine: syncline.Engine) -> None:
    client = Client(by_handle(engine))
    client.one("note/set", {"id": "1", "text": "x"})
    client.one("note/reject")
    client.post("/_sync/pull", {"scope": "list:1", "cursor": 0})
    client.post("/_sync/snapshot", {"scope": "list:1"})
    for _ in range(2):  # reading counts nothing twice
        text = read_metrics(engine)
        stats = engine.stats()
        for name in (
            "pushes",
            "mutations",
            "duplicates",
            "refused",
            "commits",
            "changes",
            "pulls",
            "snapshots",
        ):
            assert value(text, f"syncline_{name}_total") == getattr(stats, name), name
        assert value(text, "syncline_pushes_total") == 2
        assert value(text, "syncline_refused_total") == 1
        assert value(text, "syncline_changes_total") == 1
        assert value(text, "syncline_pulled_changes_total") == 1
        assert value(text, "syncline_head_cursor") == engine.head
        assert value(text, "syncline_waiting_pushes") == 0
        assert value(text, "syncline_free_disk_bytes") > 0
        assert value(text, "syncline_mutator_seconds_count", mutation="note/set") == 1
        assert value(text, "syncline_mutator_failures_total", mutation="note/reject") == 1
        pushed = {"path": "/_sync/push", "method": "POST", "status": "200"}
        assert value(text, "syncline_http_request_seconds_count", **pushed) == 2
        assert value(text, "syncline_http_request_seconds_bucket", le="+Inf", **pushed) == 2


def test_metrics_count_dead_letters(engine: syncline.Engine) -> None:
    assert value(read_metrics(engine), "syncline_dead_letters") == 0
    Client(by_handle(engine)).one("note/crash", {})
    text = read_metrics(engine)
    assert value(text, "syncline_dead_letters") == 1
    assert value(text, "syncline_dead_letters_dropped_total") == 0


def test_metrics_count_what_was_forgotten(engine: syncline.Engine) -> None:
    text = read_metrics(engine)
    assert value(text, "syncline_forgotten_total", kind="tombstones") == 0
    assert value(text, "syncline_upkeep_failures_total") == 0
    assert value(text, "syncline_upkeep_rounds_total") >= 0


def test_histograms_are_cumulative_and_agree_with_their_count(engine: syncline.Engine) -> None:
    Client(by_handle(engine)).goes_on()
    buckets: dict[frozenset[tuple[str, str]], list[float]] = {}
    found = samples(read_metrics(engine))
    for (name, labels), count in found.items():
        if name.endswith("_bucket"):
            rest = frozenset(one for one in labels if one[0] != "le")
            buckets.setdefault(rest | {("name", name[: -len("_bucket")])}, []).append(count)
    assert buckets
    for labels, counts in buckets.items():
        assert counts == sorted(counts)
        name = dict(labels)["name"]
        assert found[f"{name}_count", labels - {("name", name)}] == counts[-1]


def test_strangers_make_no_new_labels(engine: syncline.Engine) -> None:
    exchange = by_handle(engine)
    for method, path in (("BREW", "/_sync/push"), ("GET", "/secret/path"), ("POST", "/_sync/health")):
        exchange(method, path, {}, b"")
    text = read_metrics(engine)
    assert "BREW" not in text
    assert "secret" not in text
    assert value(text, "syncline_http_request_seconds_count", path="other", method="other", status="404") == 1


def test_nobody_reads_the_metrics_unless_a_hook_says_so(engine: syncline.Engine) -> None:
    assert by_handle(engine)("GET", "/_sync/metrics", {}, b"").status == 404

    def scraper(request: sync_http.Request) -> bool:
        return request.token == "scraper"

    async def scraper_async(request: sync_http.Request) -> bool:
        await asyncio.sleep(0)
        return scraper(request)

    for exchange in (
        by_handle(engine, metrics=scraper),
        by_asgi(syncline.asgi(engine, **HOOKS, metrics=scraper_async)),
    ):
        for token, status in (("t-ada", 403), ("", 403), ("scraper", 200)):
            sent = {"Authorization": f"Bearer {token}"} if token else {}
            assert exchange("GET", "/_sync/metrics", sent, b"").status == status
    crashes = by_handle(engine, metrics=lambda request: None)
    assert crashes("GET", "/_sync/metrics", {}, b"").status == 500


def test_metrics_come_as_openmetrics_to_who_asks(engine: syncline.Engine) -> None:
    exchange = by_handle(engine, metrics=lambda request: True)
    answer = exchange("GET", "/_sync/metrics", {"Accept": "application/openmetrics-text"}, b"")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
    assert answer.body.endswith(b"# EOF\n")
    assert exchange("GET", "/_sync/metrics", {}, b"").headers["Content-Type"].startswith("text/plain")


def test_the_collector_serves_in_a_registry_of_the_applications_own(engine: syncline.Engine) -> None:
    registry = prometheus_client.CollectorRegistry(auto_describe=True)
    registry.register(metrics.Collector(engine))
    engine.push([{"name": "note/set", "args": {"id": "1", "text": "x"}, "scope": "s"}])
    assert registry.get_sample_value("syncline_pushes_total") == 1
    with make_engine() as other:  # each engine has numbers of its own
        assert value(read_metrics(other), "syncline_pushes_total") == 0
        with pytest.raises(ValueError, match="Duplicated"):
            registry.register(metrics.Collector(other))


def test_metrics_without_prometheus_client_say_what_to_install() -> None:
    said = run_python(
        """
        import sys
        sys.modules["prometheus_client"] = None
        import syncline
        engine = syncline.Engine(":memory:")
        try:
            syncline.metrics.Collector(engine)
        except syncline.UsageError as error:
            print(error)
        answer = engine.handle("GET", "/_sync/metrics", authenticate=lambda request: None,
                               authorize=lambda user, action, scope: False, metrics=lambda request: True)
        print(answer.status)
        """
    )
    assert "syncline[metrics]" in said
    assert said.endswith("500")


# ------------------------------------------------------------------------------------------------------- logs


def test_a_slow_mutator_is_named_with_its_time_and_never_its_arguments(
    caplog: pytest.LogCaptureFixture,
) -> None:
    mutators = make_mutators()

    @mutators("note/slow")
    def slow(tx: syncline.Tx, args: dict[str, Any]) -> None:
        time.sleep(0.02)
        if args.get("fail"):
            raise syncline.Rejected("too late")

    with (
        caplog.at_level(logging.DEBUG, logger="syncline"),
        syncline.Engine(":memory:", mutators=mutators, slow_mutator=0.02) as engine,
    ):
        client = Client(by_handle(engine))
        assert client.one("note/slow", {"private": SECRET})["ok"]
        assert client.one("note/slow", {"fail": True})["error"]["code"] == "rejected"
        engine.push([{"name": "note/slow", "args": {}, "scope": "backend"}])
        client.one("note/set", {"id": "1", "text": "fast"})
    told = [one for one in caplog.records if one.name == "syncline.mutators"]
    assert [(one.levelname, vars(one)["syncline_mutation"], vars(one)["syncline_scope"]) for one in told] == [
        ("WARNING", "note/slow", "list:1"),
        ("WARNING", "note/slow", "list:1"),
        ("WARNING", "note/slow", "backend"),
    ]
    first, last = vars(told[0]), vars(told[2])
    assert first["syncline_seconds"] >= 0.02
    assert (first["syncline_client_id"], first["syncline_client_seq"], first["syncline_user"]) == (
        "c1",
        1,
        "ada",
    )
    assert (last["syncline_client_id"], last["syncline_client_seq"], last["syncline_user"]) == (
        None,
        None,
        None,
    )
    assert "'note/slow' took 0.0" in told[0].getMessage()
    assert SECRET not in caplog.text
    assert all(SECRET not in str(vars(one)) for one in caplog.records)


def test_no_mutator_is_slow_where_it_is_said_so(caplog: pytest.LogCaptureFixture) -> None:
    with syncline.Engine(":memory:", mutators=make_mutators(), slow_mutator=None) as engine:
        Client(by_handle(engine)).goes_on()
    with syncline.Engine(":memory:", mutators=make_mutators(), slow_mutator=0) as engine:
        Client(by_handle(engine)).goes_on()
    assert len([one for one in caplog.records if one.name == "syncline.mutators"]) == 1
    for wrong in (-1, "1", float("nan")):
        with pytest.raises(syncline.UsageError, match="slow_mutator"):
            syncline.Engine(":memory:", slow_mutator=wrong)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_log_that_fails_costs_the_push_nothing() -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the log's disk is full")

    handler = Broken()
    logger = logging.getLogger("syncline.mutators")
    logger.addHandler(handler)
    try:
        with syncline.Engine(":memory:", mutators=make_mutators(), slow_mutator=0) as engine:
            Client(by_handle(engine)).goes_on()
    finally:
        logger.removeHandler(handler)


def test_a_failed_mutator_is_logged_with_its_name_and_traceback(
    engine: syncline.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    Client(by_handle(engine)).one("note/crash", {"private": "an argument"})
    (told,) = [one for one in caplog.records if one.name == "syncline.mutators"]
    assert (vars(told)["syncline_mutation"], vars(told)["syncline_error"]) == (
        "note/crash",
        "ZeroDivisionError",
    )
    assert told.exc_info is not None
    assert "an argument" not in caplog.text


def test_opening_and_closing_are_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="syncline"), syncline.Engine(tmp_path / "a.db") as engine:
        engine.close()
    told = [one for one in caplog.records if one.name == "syncline.engine"]
    assert [one.getMessage().split()[0] for one in told] == ["opened", "closed"]
    assert vars(told[0])["syncline_epoch"] == engine.epoch


# ------------------------------------------------------------------------------------------------------ spans


def run_python(program: str) -> str:
    """What `program` prints: a process of its own, since a tracer provider is set once in each."""
    indent = re.match(r"\n( *)", program)
    assert indent is not None
    lines = [line.removeprefix(indent.group(1)) for line in program.splitlines()]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


TRACED = """
        import asyncio, json
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        import syncline
        from http_support import *
        engine = make_engine()
        before = engine.push([{"name": "note/set", "args": {"id": "0", "text": "x"}, "scope": "s"}])
        memory = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(memory))
        trace.set_tracer_provider(provider)

        def tell():
            told = []
            for span in sorted(memory.get_finished_spans(), key=lambda one: one.start_time):
                told.append({
                    "name": span.name,
                    "id": span.context.span_id,
                    "trace": format(span.context.trace_id, "032x"),
                    "parent": span.parent.span_id if span.parent else None,
                    "kind": span.kind.name,
                    "status": span.status.status_code.name,
                    "attributes": dict(span.attributes),
                    "events": [event.name for event in span.events],
                })
            print(json.dumps(told))
"""


def spans(program: str) -> list[dict[str, Any]]:
    return json.loads(run_python(TRACED + program + "\n        tell()"))  # type: ignore[no-any-return]


def test_push_mutator_pull_and_snapshot_are_spans() -> None:
    told = spans(
        """
        args = {"id": "1", "text": "a private text"}
        engine.push([{"name": "note/set", "args": args, "scope": "s"},
                     {"name": "note/crash", "args": args, "scope": "s"}])
        asyncio.run(engine.push_async([{"name": "note/set", "args": args, "scope": "s"}]))
        engine.pull("s")
        engine.snapshot("s")
        try:
            engine.pull("s", 1 << 30)
        except syncline.EpochMismatch:
            pass
        """
    )
    assert [one["name"] for one in told] == [
        "syncline.push",
        "syncline.mutator note/set",
        "syncline.mutator note/crash",
        "syncline.push",
        "syncline.mutator note/set",
        "syncline.pull",
        "syncline.snapshot",
        "syncline.pull",
    ]
    push, first, crash, queued, second, pull, _, failed = told
    assert first["parent"] == crash["parent"] == push["id"]
    assert second["parent"] == queued["id"]  # though it ran on the engine's own thread
    assert push["attributes"]["syncline.mutations"] == 2
    assert push["attributes"]["syncline.refused"] == 1
    assert first["attributes"] == {"syncline.mutation": "note/set", "syncline.scope": "s"}
    assert (crash["status"], crash["attributes"]["error.type"]) == ("ERROR", "ZeroDivisionError")
    assert (pull["status"], pull["attributes"]) == ("UNSET", {"syncline.scope": "s"})
    assert (failed["status"], failed["attributes"]["error.type"]) == ("ERROR", "epoch_mismatch")
    assert "private" not in json.dumps(told)
    assert SECRET not in json.dumps(told)


def test_spans_of_requests_continue_the_trace_of_their_headers() -> None:
    told = spans(
        """
        remote = "0af7651916cd43dd8448eb211c80319c"
        for exchange in (by_handle(engine), by_asgi(syncline.asgi(engine, **HOOKS))):
            client = Client(exchange, client_id=str(id(exchange)))
            client.more = {"traceparent": f"00-{remote}-b7ad6b7169203331-01"}
            client.one("note/set", {"id": "1", "text": "x"})
            client.post("/_sync/pull", {"scope": "list:1", "cursor": 0})
            client.post("/_sync/snapshot", {"scope": "secret:1"})
            client.post("/_sync/snapshot", {"scope": "list:1"})
        """
    )
    assert {one["trace"] for one in told} == {"0af7651916cd43dd8448eb211c80319c"}
    names = ["syncline.push", "syncline.mutator note/set", "syncline.pull", "syncline.snapshot"]
    assert [one["name"] for one in told] == names * 2
    for one in told:
        assert one["kind"] == ("INTERNAL" if "mutator" in one["name"] else "SERVER")
    assert told[1]["parent"] == told[0]["id"]
    assert told[5]["parent"] == told[4]["id"]
    assert told[0]["parent"] == 0xB7AD6B7169203331


def test_a_span_that_the_servers_instrumentation_made_is_the_parent() -> None:
    told = spans(
        """
        client = Client(by_handle(engine), more={"traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01"})
        with trace.get_tracer("server").start_as_current_span("request"):
            client.post("/_sync/pull", {"scope": "list:1", "cursor": 0})
        """
    )
    request, pull = told
    assert (pull["parent"], pull["trace"], pull["kind"]) == (request["id"], request["trace"], "INTERNAL")


def test_a_remote_call_and_its_server_are_one_trace() -> None:
    told = spans(
        """
        with served_asgi(syncline.asgi(engine, **HOOKS)) as url:
            remote = syncline.connect(url, token="t-ada")
            with trace.get_tracer("app").start_as_current_span("work"):
                remote.pull("list:1")
        """
    )
    assert [one["name"] for one in told] == ["work", "syncline.pull"]
    assert told[1]["parent"] == told[0]["id"]


@pytest.mark.parametrize("installed", [True, False])
def test_without_a_provider_or_the_package_all_goes_as_before(installed: bool) -> None:
    hide = "pass" if installed else 'sys.modules["opentelemetry"] = None'
    said = run_python(
        f"""
        import sys
        {hide}
        from http_support import *
        engine = make_engine()
        client = Client(by_handle(engine))
        client.goes_on()
        client.post("/_sync/pull", {{"scope": "list:1", "cursor": 0}})
        engine.snapshot("list:1")
        print(syncline.telemetry.active(), engine._spans)
        """
    )
    assert said == "False False"


# ----------------------------------------------------------------------------------------------------- health


def test_health_tells_each_what_the_hooks_allow(tmp_path: Path) -> None:
    with make_engine(tmp_path / "health.db") as engine:
        Client(by_handle(engine)).goes_on()

        def health(token: str) -> dict[str, Any]:
            exchange = by_handle(engine, metrics=lambda request: request.token == "monitor")
            return Client(exchange, token=token).request("GET", "/_sync/health").body  # type: ignore[no-any-return]

        full = engine.health()
        assert full["database"]["kind"] == "sqlite"
        assert re.match(r"3\.\d+", full["database"]["version"])
        assert full["waiting"] == 0
        storage = full["storage"]
        assert storage["bytes"] > 0
        assert storage["wal_bytes"] > 0
        assert storage["free_disk_bytes"] > 0
        assert storage["schema_version"] >= 1
        assert health("") == {"ok": True, "version": syncline.__version__}
        assert health("t-ada").keys() == full.keys() - {"storage"}
        assert health("monitor").keys() == full.keys()
        assert "storage" not in Client(by_handle(engine)).request("GET", "/_sync/health").body
