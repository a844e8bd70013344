"""Who watches from outside? OpenTelemetry, where its own variables name a collector; without them nothing is loaded and nothing is sent.

The MCP SDK makes a span of each request, the worker one of each operation (`operation verify`, `operation swap`); the worker's progress is a set
of gauges. What we add to them are names of tools, kinds of operations and errors, and ids of migrations.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace

NAME = "qdrant-model-migration"
LOG = logging.getLogger(__name__)
_PROTOCOL = "http/protobuf"


def configure_telemetry() -> None:
    """Have spans and metrics sent by OTLP over HTTP, where OTEL_EXPORTER_OTLP_ENDPOINT, or that of traces or metrics, names a collector.

    Headers, time-outs, sampling, intervals and attributes of the resource are read by OpenTelemetry's SDK from its own variables. What cannot be
    sent is a warning in the log, and no more: a host's own variables may have come here, and no migration is to depend on them.
    """
    wanted = [signal for signal in ("TRACES", "METRICS") if _is_wanted(signal)]
    if not wanted:
        return
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
        LOG.warning(
            "Nothing is sent to the collector that OTEL_EXPORTER_OTLP_…ENDPOINT names: OpenTelemetry's SDK is not installed. "
            "pip install 'qdrant-model-migration[otel]', or set OTEL_SDK_DISABLED=true."
        )
        return
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
    """Whether a collector is named for it, which takes what can be sent."""
    if _said("OTEL_SDK_DISABLED") == "true" or _said(f"OTEL_{signal}_EXPORTER") == "none":
        return False
    if not (_said(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or _said("OTEL_EXPORTER_OTLP_ENDPOINT")):
        return False
    protocol = _said(f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL") or _said("OTEL_EXPORTER_OTLP_PROTOCOL") or _PROTOCOL
    if protocol != _PROTOCOL:
        LOG.warning(
            "No %s are sent: OTEL_EXPORTER_OTLP_PROTOCOL is %r, and only %r can be, usually to port 4318.",
            signal.lower(),
            protocol,
            _PROTOCOL,
        )
    return protocol == _PROTOCOL


def _said(variable: str) -> str:
    return os.environ.get(variable, "").strip().lower()
