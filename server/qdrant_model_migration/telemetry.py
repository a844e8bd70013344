"""Who watches from outside? OpenTelemetry, where its own variables name a collector; without them nothing is loaded and nothing is sent.

The MCP SDK makes a span of each request, the worker one of each operation (`operation verify`, `operation swap`); the worker's progress is a set
of gauges. Spans and gauges bear names of tools, migrations and phases, never texts, payloads, queries or keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace

from qdrant_model_migration.errors import SettingsError

NAME = "qdrant-model-migration"
_ENDPOINT, _OF = "OTEL_EXPORTER_OTLP_ENDPOINT", ("OTEL_EXPORTER_OTLP_{}_ENDPOINT", "OTEL_{}_EXPORTER")


def configure_telemetry() -> None:
    """Have spans and metrics sent by OTLP over HTTP, where OTEL_EXPORTER_OTLP_ENDPOINT, or that of traces or metrics, names a collector.

    Headers, time-outs, sampling, intervals and attributes of the resource are read by OpenTelemetry's SDK from its own variables.

    Raises:
        SettingsError: a collector is named, and the extra `otel` is not installed; or another protocol than OTLP over HTTP is asked for.
    """
    wanted = [signal for signal in ("TRACES", "METRICS") if _is_wanted(signal)]
    if not wanted:
        return
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    if protocol != "http/protobuf":
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}: traces and metrics are sent by 'http/protobuf' alone, usually to port 4318."
        )
    try:
        from opentelemetry import metrics
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError(
            "A collector of OpenTelemetry is named (OTEL_EXPORTER_OTLP_…ENDPOINT), and its SDK is not installed: "
            "pip install 'qdrant-model-migration[otel]', or set OTEL_SDK_DISABLED=true."
        ) from None
    # What OTEL_SERVICE_NAME says is read by `create`, and gives way to what is stated here.
    resource = Resource.create({} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": NAME})
    if "TRACES" in wanted:
        provider = TracerProvider(resource=resource)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        trace.set_tracer_provider(provider)
    if "METRICS" in wanted:
        metrics.set_meter_provider(MeterProvider(resource=resource, metric_readers=[PeriodicExportingMetricReader(OTLPMetricExporter())]))


@contextmanager
def operation_span(kind: str, migration_id: str) -> Iterator[None]:
    """A span around an operation. Of a failure it names the kind: what the error says may quote data."""
    with trace.get_tracer(NAME).start_as_current_span(
        f"operation {kind}", attributes={"migration.id": migration_id}, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(trace.StatusCode.ERROR)
            raise


def _is_wanted(signal: str) -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    endpoint, exporter = (os.environ.get(name.format(signal), "") for name in _OF)
    return exporter.strip().lower() != "none" and bool(endpoint or os.environ.get(_ENDPOINT))
