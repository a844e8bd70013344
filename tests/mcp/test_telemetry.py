"""Can a migration be watched from outside? A collector that takes OTLP, and the lines of a log, from the real server and its real worker."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from qdrant_model_migration.redaction import JsonFormatter
from tests.collector import collecting
from tests.mcp.hosts import hosted
from tests.qdrant.cutovers import backend_of
from tests.qdrant.seeds import NEW, opened, seed, text
from tests.servers import QdrantServer

POINTS = 300
PREFIX = "qdrant_model_migration"


@pytest.mark.slow
async def test_a_collector_sees_the_requests_the_operations_and_the_progress_and_no_text_and_no_key(
    server_1_17: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(server_1_17, name)
    async with opened(backend, monkeypatch) as context:
        await seed(context, f"{name}-docs", points=POINTS)
    with collecting() as collector:
        environment = {
            **backend.environment,
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
            "QDRANT_MIGRATION_LOG_FORMAT": "json",
            "OPENAI_API_KEY": "sk-not-to-be-seen-anywhere",
        }
        async with hosted(environment) as host:
            made = await host.call(
                "create_target", collection=f"{name}-docs", strategy="new_collection", model=NEW, text_field="text", writes="frozen"
            )
            migration_id = made["migration_id"]
            await host.call("start_backfill", migration_id=migration_id)
            await host.backfilled(migration_id)
            await host.whole("verify_target", migration_id=migration_id)
            status = await host.call("migration_status", migration_id=migration_id)
            await host.refused("inspect_collection", collection="there-is-none")
            with anyio.fail_after(20):
                while (f"{PREFIX}.points.written", float(POINTS)) not in {(n, v) for n, _, v in collector.gauges()}:  # noqa: ASYNC110 - another process's doing
                    await anyio.sleep(0.1)
        with anyio.fail_after(30):
            while "operation verify" not in {span for _, span, _ in collector.spans()}:  # noqa: ASYNC110 - another process's doing
                await anyio.sleep(0.1)
    spans = collector.spans()
    assert {service for service, _, _ in spans} == {"qdrant-model-migration"}
    assert {"tools/call create_target", "tools/call start_backfill", "tools/call verify_target"} <= {span for _, span, _ in spans}
    assert [of["migration.id"] for _, span, of in spans if span == "operation verify"] == [migration_id]
    assert [of["error.type"] for _, span, of in spans if span == "tools/call inspect_collection"] == ["tool_error"]
    gauges = [(gauge, value) for gauge, of, value in collector.gauges() if of["migration.id"] == migration_id]
    assert {gauge for gauge, _ in gauges} >= {f"{PREFIX}.points.{n}" for n in ("total", "read", "skipped", "failed")}
    assert {tuple(of) for _, of, _ in collector.gauges()} == {("migration.id",)}
    sent = b"".join(collector.bodies)
    assert b"sk-not-to-be-seen" not in sent
    assert not [n for n in range(POINTS) if text(n).encode() in sent]
    log = await anyio.Path(status["worker"]["log"]).read_text()
    lines = [json.loads(line) for line in log.splitlines()]
    assert lines
    assert {"time", "level", "logger", "process", "message"} <= lines[0].keys()


def test_without_a_collector_the_sdk_of_opentelemetry_is_not_loaded(home: Path) -> None:
    code = (
        "import sys; from qdrant_model_migration.telemetry import configure_telemetry; configure_telemetry(); "
        "print([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, ["No traces are sent", "No metrics are sent"]),
        ({"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"}, ["No metrics are sent"]),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, []),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, []),
    ],
)
def test_what_cannot_be_sent_is_a_warning_and_the_server_starts(
    home: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: list[str]
) -> None:
    """A host's own variables come here as well."""
    for variable, value in {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", **variables}.items():
        monkeypatch.setenv(variable, value)
    command = [sys.executable, "-m", "qdrant_model_migration", "serve"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line.partition("telemetry ")[2][: len(t)] for t, line in zip(told, done.stderr.splitlines(), strict=False)] == told, done.stderr
    assert done.stderr.count("are sent:") == len(told)


def test_a_key_with_a_line_break_is_hidden_in_json_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    key = 'BEGIN "KEY"\nabcdefghij\nEND'
    monkeypatch.setenv("SOME_PRIVATE_KEY", key)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Bearer abcdefghijkl")
    record = logging.LogRecord("n", logging.INFO, "f", 1, "says %s and Authorization: Bearer abcdefghijkl", (key,), None)
    assert json.loads(JsonFormatter().format(record))["message"] == "says *** and ***"


def test_another_format_of_the_log_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QDRANT_MIGRATION_LOG_FORMAT", "xml")
    command = [sys.executable, "-m", "qdrant_model_migration", "serve"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "QDRANT_MIGRATION_LOG_FORMAT" in done.stderr
